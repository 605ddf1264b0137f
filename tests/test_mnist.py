"""Checks datasets/mnist.py: that idx files are read byte for byte as an independent parser reads
them, that a damaged file is named in one line, and which of several files is used.
"""

import gzip
import struct
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from datasets import mnist, sample  # noqa: E402
from datasets.download import DataError  # noqa: E402

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def parse(path):
    """An independent parser: the numbers in an idx file, as nested tuples of Python's integers."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    zeros, kind, dimensions = struct.unpack(">HBB", content[:4])
    assert (zeros, kind) == (0, 8)
    sizes = struct.unpack(f">{dimensions}I", content[4 : 4 + 4 * dimensions])
    numbers = struct.unpack(f"{len(content) - 4 - 4 * dimensions}B", content[4 + 4 * dimensions :])
    return sizes, numbers


def assert_is(dataset, folder, ending, validation):
    for image_file, label_file, parts in (
        (IMAGES, LABELS, ("train", "validation")),
        (TEST_IMAGES, TEST_LABELS, ("test",)),
    ):
        (count, height, width), pixels = parse(folder / (image_file + ending))
        (label_count,), labels = parse(folder / (label_file + ending))
        assert label_count == count
        images = np.concatenate([getattr(dataset, f"{part}_images") for part in parts])
        assert images.shape == (count, height, width, 1)
        assert images.tobytes() == bytes(pixels)
        assert [label for part in parts for label in getattr(dataset, f"{part}_labels")] == list(
            labels
        )
    assert len(dataset.validation_images) == len(dataset.validation_labels) == validation


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The files of the sample data, as bytes; each test gets its own copy of them."""
    folder = sample.make_mnist(tmp_path_factory.mktemp("made"))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(made, tmp_path):
    folder = tmp_path / "sample" / "mnist"
    folder.mkdir(parents=True)
    for name, content in made.items():
        (folder / name).write_bytes(content)
    return folder


def test_sample_data_is_read_like_an_independent_parser_does(tmp_path, folder):
    dataset = mnist.load("sample", tmp_path)
    assert_is(dataset, folder, ".gz", validation=256)
    assert dataset.name == "sample data: scikit-learn's handwritten digits"
    assert dataset.class_names == tuple("0123456789")
    for part, count in (("train", 1287), ("validation", 256), ("test", 254)):
        images, labels = getattr(dataset, f"{part}_images"), getattr(dataset, f"{part}_labels")
        assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
        assert (images.shape, labels.shape) == ((count, 28, 28, 1), (count,))


def test_beside_the_images_little_is_in_memory(tmp_path, folder):
    tracemalloc.start()
    dataset = mnist.load("sample", tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    images = dataset.train_images.base.nbytes + dataset.test_images.base.nbytes
    assert peak < images + 700_000


def test_data_is_full_or_sample(tmp_path):
    with pytest.raises(ValueError, match="smaple"):
        mnist.load("smaple", tmp_path)


# --- Faults ---------------------------------------------------------------------------------------


def packed(change):
    """A damage that is done to what is inside the gzip file."""
    return lambda content: gzip.compress(change(gzip.decompress(content)))


@pytest.mark.parametrize("name", [IMAGES, LABELS, TEST_IMAGES, TEST_LABELS])
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: b"", "it begins with , expected 0000080"),
        (lambda content: b"<html>404</html>", "no whole gzip file"),
        (lambda content: content[:5], "no whole gzip file"),
        (lambda content: content[: len(content) // 2], "no whole gzip file"),
        (lambda content: content[:-8], "no whole gzip file"),
        (lambda content: content[:-8] + b"\0\0\0\0" + content[-4:], "no whole gzip file"),
        (lambda content: content + b"rubbish", "no whole gzip file"),
        (lambda content: content[:40] + b"\xff" * 40 + content[80:], "is wrong"),
        (packed(lambda idx: b"\0\0\x08\x02" + idx[4:]), "it begins with 00000802"),
        (packed(lambda idx: b"\0\0\x0d" + idx[3:]), "it begins with 00000d0"),
        (packed(lambda idx: idx[:6]), "in the middle of its header"),
        (packed(lambda idx: idx[:4] + struct.pack(">I", 9) + idx[8:]), "announces shape (9,"),
        (packed(lambda idx: idx[:4] + b"\xff" * 4 + idx[8:]), "announces shape (4294967295,"),
        (packed(lambda idx: idx[:-3]), "it is truncated, 3 bytes are missing"),
        (packed(lambda idx: idx + b"\0"), "more bytes follow"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, folder, name, damage, reason):
    path = folder / f"{name}.gz"
    content = damage(path.read_bytes())
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        mnist.load("sample", tmp_path)
    assert str(path) in str(error.value)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", [LABELS, TEST_LABELS])
def test_a_label_that_is_no_digit_is_named(tmp_path, folder, name):
    path = folder / f"{name}.gz"
    idx = bytearray(gzip.decompress(path.read_bytes()))
    idx[8 + 17] = 10
    path.write_bytes(gzip.compress(idx))
    with pytest.raises(DataError, match="image 17 has label 10") as error:
        mnist.load("sample", tmp_path)
    assert str(path) in str(error.value)


def test_numbers_of_images_and_labels_that_differ_are_an_error(tmp_path, folder):
    path = folder / f"{LABELS}.gz"
    idx = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(idx[:4] + struct.pack(">I", 1542) + idx[8:-1]))
    with pytest.raises(DataError, match=r"announces shape \(1542,\), expected \(1543,\)") as error:
        mnist.load("sample", tmp_path)
    assert str(path) in str(error.value)


def test_a_file_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path, folder):
    path = folder / f"{LABELS}.gz"
    idx = gzip.decompress(path.read_bytes())
    zeros = gzip.compress(bytes(1 << 24), compresslevel=1)
    path.write_bytes(gzip.compress(idx) + zeros * 200)  # 3 GB in 15 MB
    tracemalloc.start()
    with pytest.raises(DataError, match="more bytes follow"):
        mnist.load("sample", tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


# --- The published files --------------------------------------------------------------------------


def write_unpacked(data_dir):
    """Files of the published sizes, with other contents."""
    folder = data_dir / "mnist"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for images, labels, count in ((IMAGES, LABELS, 60_000), (TEST_IMAGES, TEST_LABELS, 10_000)):
        header = struct.pack(">4I", 2051, count, 28, 28)
        (folder / images).write_bytes(header + rng.bytes(count * 784))
        digits = rng.integers(0, 10, count, np.uint8)
        (folder / labels).write_bytes(struct.pack(">2I", 2049, count) + digits.tobytes())
    return folder


def no_download(remote, data_dir):
    raise AssertionError(f"must not download {remote.path}")


def test_unpacked_files_go_before_archives(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "download", no_download)
    folder = write_unpacked(tmp_path)
    (folder / f"{IMAGES}.gz").write_bytes(b"not looked at")
    dataset = mnist.load("full", tmp_path)
    assert_is(dataset, folder, "", validation=5_000)
    assert dataset.train_images.shape == (55_000, 28, 28, 1)
    assert dataset.name == "MNIST"

    (folder / TEST_LABELS).write_bytes(b"wrong")
    with pytest.raises(DataError) as error:
        mnist.load("full", tmp_path)
    assert str(folder / TEST_LABELS) in str(error.value)
    assert (folder / TEST_LABELS).read_bytes() == b"wrong"


def test_an_archive_that_is_not_the_published_one_is_an_error(tmp_path):
    path = tmp_path / "mnist" / f"{IMAGES}.gz"
    path.parent.mkdir()
    path.write_bytes(b"half of it")
    with pytest.raises(DataError) as error:
        mnist.load("full", tmp_path)
    assert str(path) in str(error.value)
    assert path.read_bytes() == b"half of it"


def test_what_is_missing_is_downloaded_from_a_mirror_that_answers(tmp_path, monkeypatch):
    asked = []

    def download(remote, data_dir):
        asked.append(remote)
        raise DataError("no network")

    monkeypatch.setattr(mnist, "download", download)
    with pytest.raises(DataError, match="no network"):
        mnist.load("full", tmp_path)
    assert asked[0].path == "mnist/train-images-idx3-ubyte.gz"
    assert [url.rsplit("/", 1)[1] for url in asked[0].urls] == ["train-images-idx3-ubyte.gz"] * 2
    assert not any("lecun" in url for url in asked[0].urls)  # closed since 2024


DOWNLOADS = ROOT / "datasets" / "downloads"
PRESENT = all(
    (DOWNLOADS / "mnist" / f"{name}.gz").is_file()
    for name in (IMAGES, LABELS, TEST_IMAGES, TEST_LABELS)
)


@pytest.mark.real
@pytest.mark.skipif(not PRESENT, reason="lay MNIST's four .gz files in datasets/downloads/mnist")
def test_the_real_files():
    dataset = mnist.load("full", DOWNLOADS)
    assert_is(dataset, DOWNLOADS / "mnist", ".gz", validation=5_000)
    assert dataset.train_images.shape == (55_000, 28, 28, 1)
    assert dataset.test_images.shape == (10_000, 28, 28, 1)
    assert dataset.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert dataset.test_labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
