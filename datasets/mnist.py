"""MNIST: 70,000 handwritten digits of 28 x 28 pixels in shades of grey.

Y. LeCun, C. Cortes and C. J. C. Burges, "The MNIST database of handwritten digits",
http://yann.lecun.com/exdb/mnist/ (closed since 2024), where the idx file format is described too: a
magic number that names type and number of dimensions, the dimensions, and the bytes.
"""

import math
import os
from pathlib import Path

import numpy as np

from datasets import pictures, sample
from datasets.dataset import Dataset
from datasets.digits import as_digit
from datasets.download import DataError, RemoteFile, download, verify
from datasets.files import read_bytes, wrong

CLASS_NAMES = tuple("0123456789")

_MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)
# Training images and labels, test images and labels: name, bytes, SHA-256.
_PUBLISHED = """
train-images-idx3-ubyte 9912422 440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609
train-labels-idx1-ubyte 28881 3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c
t10k-images-idx3-ubyte 1648877 8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6
t10k-labels-idx1-ubyte 4542 f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6
"""
_FILES = [
    RemoteFile(f"mnist/{name}.gz", tuple(f"{url}{name}.gz" for url in _MIRRORS), int(size), sha256)
    for name, size, sha256 in map(str.split, _PUBLISHED.strip().splitlines())
]


def load(data: str = "full", data_dir: Path = Path("datasets/downloads")) -> Dataset:
    """Load MNIST, or with "sample" scikit-learn's small digits, which need no network.

    With "full", each of the four files is taken from data_dir/mnist: unpacked (NAME-ubyte) if it
    lies there so, else NAME-ubyte.gz, which is verified, and downloaded if it is missing; with a
    dot in place of the second dash, as some copies have it, too. A file that is in place but wrong
    is an error; it is never passed over in silence.

    Returns:
        uint8 images (N, 28, 28, 1), 0 for paper and 255 for ink, and int32 labels 0 to 9. The last
        5,000 images of the training file are for validation: 55,000 / 5,000 / 10,000 images, with
        "sample" 1,287 / 256 / 254.

    Raises:
        DataError: a file is damaged or wrong, or cannot be fetched, read or written.
    """
    if data == "sample":
        name, folder = sample.MNIST_NAME, sample.make_mnist(data_dir)
        paths = [folder / Path(remote.path).name for remote in _FILES]
        train, validation, test = sample.MNIST_TRAIN, sample.MNIST_VALIDATION, sample.MNIST_TEST
    else:
        name, paths = "MNIST", [_place(remote, data_dir) for remote in _FILES]
        train, validation, test = 55_000, 5_000, 10_000
    training = _read_pair(paths[0], paths[1], train + validation)
    testing = _read_pair(paths[2], paths[3], test)
    return Dataset.split(name, training, testing, validation, CLASS_NAMES)


def _place(remote: RemoteFile, data_dir: Path) -> Path:
    packed = data_dir / remote.path
    dotted = packed.with_name(packed.name.replace("-idx", ".idx"))
    for path in (packed.with_suffix(""), dotted.with_suffix("")):
        if os.path.isfile(path):
            return path
    if os.path.isfile(dotted):
        verify(dotted, remote)
        return dotted
    return download(remote, data_dir)


def _read_pair(images: Path, labels: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Read a file of images, uint8 (count, 28, 28, 1), and one of labels, int32 (count,)."""
    pixels, classes = _read_idx(images, (count, 28, 28)), _read_idx(labels, (count,))
    if classes.max() > 9:
        image = classes.argmax()
        raise wrong(labels, f"image {image} has label {classes[image]}, not 0 to 9")
    return pixels[..., None], classes.astype(np.int32)


def _read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read a file of bytes in idx format, packed or not, of this shape."""
    header = sample.idx_header(shape)
    content = read_bytes(path, len(header) + math.prod(shape), f"shape {shape}", header)
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape).copy()


def read_picture(path: Path) -> np.ndarray:
    """Read a picture of one digit and bring it to the form of MNIST's images.

    See `datasets.pictures.read_picture` and `datasets.digits.as_digit`.

    Returns:
        np.uint8 (28, 28, 1), 0 for paper and 255 for ink.

    Raises:
        DataError: the file cannot be read as a picture, or shows nothing.
    """
    try:
        return as_digit(pictures.read_picture(path))
    except ValueError as error:
        raise DataError(f"there is no digit in {path.absolute()}: {error}") from error
