"""Sample data: small data sets made on the spot, for working without the network.

They are in the file formats of the real data sets, and called sample data wherever they show. Each
is made once, in a folder named after the code that makes it; DataError: it cannot be written.
"""

import gzip
import hashlib
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.digits import like_mnist
from datasets.drawings import CIFAR10_KINDS, FACE_KINDS, drawn_objects
from datasets.files import fill
from datasets.specimens import drawn_blood, drawn_characters, drawn_nuclei

MNIST_NAME = "sample data: scikit-learn's handwritten digits"
CIFAR10_NAME = "sample data: drawn objects"
CATS_DOGS_NAME = "sample data: drawn cats and dogs"
BCCD_NAME = "sample data: drawn blood cells"
NUCLEI_NAME = "sample data: drawn nuclei"
OMNIGLOT_NAME = "sample data: drawn characters"

CIFAR10_RECORDS = 1000  # images in each of the six files that stand in for CIFAR-10's
CATS_DOGS_COUNT = 500  # drawn faces of either kind
FACE_SIZE = 96  # pixels; they are then stretched to half to twice this width and height

# The forms that the writers of the digits filled in hold about 130 digits each, and follow each
# other in the original order. These splits lie where one writer ends and the next begins, so that
# nobody's hand is in two parts.
MNIST_TRAIN, MNIST_VALIDATION, MNIST_TEST = 1287, 256, 254

_MNIST = [f"{a}-{b}-ubyte.gz" for a in ("train", "t10k") for b in ("images-idx3", "labels-idx1")]
_CIFAR10 = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin", "batches.meta.txt"]
_OMNIGLOT = ["images_background.zip", "all_runs.zip"]


def make_mnist(data_dir: Path) -> Path:
    """Return a folder with MNIST's four files, made of scikit-learn's digits where it is missing.

    1,797 digits, 8 x 8 pixels each (E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten
    Digits", https://archive.ics.uci.edu/dataset/80), are brought to 28 x 28 as MNIST was made. The
    training files have 1,287 images for training and then 256 for validation, the test files 254.
    """
    return _make(data_dir, "mnist", _MNIST, _mnist_contents)


def make_cifar10(data_dir: Path) -> Path:
    """Return a folder with the files of CIFAR-10's binary version, drawn where it is missing.

    There are 1,000 images in each; batches.meta.txt names the kinds `drawings.CIFAR10_KINDS`.
    """
    return _make(data_dir, "cifar10", _CIFAR10, _cifar10_contents)


def make_cats_dogs(data_dir: Path) -> Path:
    """Return a folder with a train.zip like Kaggle's, drawn where it is missing.

    It has 500 cats and as many dogs of varied size; some are broken, as in the published archives.
    """
    return _make(data_dir, "cats_dogs", ["train.zip"], _cats_dogs_contents)


def make_bccd(data_dir: Path) -> Path:
    """Return a folder with an archive like BCCD's, of 120 drawings, made where it is missing.

    A few of the boxes are wrong.
    """
    return _make(data_dir, "bccd", ["BCCD_Dataset-1.0.zip"], lambda: [_zipped(drawn_blood())])


def make_nuclei(data_dir: Path) -> Path:
    """Return a folder with a stage1_train.zip of 60 drawn images, made where it is missing."""
    return _make(data_dir, "nuclei", ["stage1_train.zip"], lambda: [_zipped(drawn_nuclei())])


def make_omniglot(data_dir: Path) -> Path:
    """Return a folder with images_background.zip and all_runs.zip, drawn where they are missing.

    There are five alphabets of 12 characters to learn from, and five others in the runs.
    """
    return _make(data_dir, "omniglot", _OMNIGLOT, _omniglot_contents)


def _make(data_dir: Path, name: str, files: list[str], contents: Callable[[], list[bytes]]) -> Path:
    names = "sample.py", "drawings.py", "drawings.svg", "digits.py", "specimens.py"
    content = b"".join(Path(__file__).with_name(each).read_bytes() for each in names)
    edition = hashlib.sha256(content).hexdigest()[:8]

    def write(empty: Path) -> None:
        for file, content in zip(files, contents(), strict=True):
            (empty / file).write_bytes(content)

    return fill(data_dir / "sample" / name / edition, files, write)


def _mnist_contents() -> list[bytes]:
    from sklearn.datasets import load_digits  # takes a second, and is needed only once

    digits = load_digits()
    images = np.stack([like_mnist(image * (255 / 16), contrast=1.5) for image in digits.images])
    labels = digits.target.astype(np.uint8)
    training = MNIST_TRAIN + MNIST_VALIDATION
    arrays = images[:training], labels[:training], images[training:], labels[training:]
    files = [idx_header(array.shape) + array.tobytes() for array in arrays]
    return [gzip.compress(file, mtime=0) for file in files]


def idx_header(shape: tuple[int, ...]) -> bytes:
    """Return an idx file's beginning: 0, 0, type (8: uint8) and number of dimensions; these."""
    return struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape)


def _cifar10_contents() -> list[bytes]:
    contents = []
    for seed in range(6):
        images, labels = drawn_objects(CIFAR10_KINDS, CIFAR10_RECORDS, 32, seed)
        planes = images.transpose(0, 3, 1, 2).reshape(CIFAR10_RECORDS, -1)
        contents.append(np.column_stack([labels.astype(np.uint8), planes]).tobytes())
    return [*contents, "".join(f"{kind}\n" for kind in CIFAR10_KINDS).encode()]


def _cats_dogs_contents() -> list[bytes]:
    members = {}
    for seed, kind in enumerate(FACE_KINDS):
        faces, _ = drawn_objects([kind], CATS_DOGS_COUNT, FACE_SIZE, seed)
        sizes = np.random.default_rng(seed).integers(FACE_SIZE // 2, 2 * FACE_SIZE, (len(faces), 2))
        for number, (face, size) in enumerate(zip(faces, sizes.tolist(), strict=True)):
            picture = Image.fromarray(face).resize(size, Image.Resampling.BICUBIC)
            members[f"train/{kind}.{number}.jpg"] = _encoded(picture)
    members |= {
        "train/cat.20.jpg": b"",
        "train/cat.21.jpg": _encoded(picture)[: len(_encoded(picture)) // 2],
        "train/cat.22.jpg": b"<html>404 Not Found</html>",
        "train/cat.23.jpg": _encoded(picture.convert("L")),
        "train/dog.20.jpg": _encoded(picture, "BMP"),
        "train/dog.21.jpg": _encoded(picture, "GIF"),
        "train/dog.22.jpg": _encoded(picture.convert("CMYK")),
        "train/Thumbs.db": b"what Windows leaves behind",
    }
    return [_zipped(members)]


def _omniglot_contents() -> list[bytes]:
    return [_zipped(members) for members in drawn_characters()]


def _zipped(members: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, member in members.items():
            archive.writestr(zipfile.ZipInfo(name), member)  # such a ZipInfo has a fixed date
    return content.getvalue()


def _encoded(picture: Image.Image, form: str = "JPEG") -> bytes:
    content = io.BytesIO()
    picture.save(content, form)
    return content.getvalue()
