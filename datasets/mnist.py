"""MNIST: 70,000 handwritten digits of 28 x 28 pixels in shades of grey.

Y. LeCun, C. Cortes and C. J. C. Burges, "The MNIST database of handwritten digits",
http://yann.lecun.com/exdb/mnist/, where the idx file format is described too: a magic number that
names type and number of dimensions, the dimensions, and the bytes. The pages have been closed since
2024; the mirrors below are not.
"""

import gzip
import struct
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from datasets import sample
from datasets.dataset import Dataset
from datasets.download import DataError, RemoteFile, download

CLASS_NAMES = tuple("0123456789")
CHUNK = 1 << 16  # bytes unpacked at a time
PICTURE_SIDE = 500  # pixels; larger pictures are shrunk. cv2.medianBlur spans half of it: <= 255
DARKEST_PAPER = 100  # of 255: what is darker counts as this, or noise would be taken for ink
MIN_CONTRAST = 0.08  # of the paper's lightness; what stands out less is noise
MIN_STROKE = 0.1  # of the digit's size: how wide a stroke is at least

_MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)


def _remote(name: str, size: int, sha256: str) -> RemoteFile:
    return RemoteFile(f"mnist/{name}", tuple(url + name for url in _MIRRORS), size, sha256)


# Training images and labels, test images and labels.
_FILES = (
    _remote(
        "train-images-idx3-ubyte.gz",
        9_912_422,
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
    _remote(
        "train-labels-idx1-ubyte.gz",
        28_881,
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    ),
    _remote(
        "t10k-images-idx3-ubyte.gz",
        1_648_877,
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
    _remote(
        "t10k-labels-idx1-ubyte.gz",
        4_542,
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
)


def load(data: str = "full", data_dir: Path = Path("datasets/downloads")) -> Dataset:
    """Loads MNIST, or scikit-learn's small handwritten digits in its place.

    With "full", each of the four files is taken from data_dir/mnist: unpacked (NAME-ubyte) if it
    lies there so, else NAME-ubyte.gz, which is verified, and downloaded if it is missing. A file
    that is in place but wrong is an error; it is never passed over in silence.

    Args:
        data: "full", or "sample" for the digits of `datasets.sample`, which need no network.
        data_dir: the data folder.

    Returns:
        uint8 images (N, 28, 28, 1), 0 for paper and 255 for ink, and int32 labels 0 to 9. The last
        5,000 images of the training file are for validation: 55,000 / 5,000 / 10,000 images, with
        "sample" 1,287 / 256 / 254.

    Raises:
        DataError: a file is damaged or wrong, or cannot be fetched, read or written.
        ValueError: `data` is neither "full" nor "sample".
    """
    if data == "sample":
        name, folder = sample.MNIST_NAME, sample.make_mnist(data_dir)
        paths = [folder / Path(remote.path).name for remote in _FILES]
        train, validation, test = sample.MNIST_TRAIN, sample.MNIST_VALIDATION, sample.MNIST_TEST
    elif data == "full":
        name, paths = "MNIST", [_place(remote, data_dir) for remote in _FILES]
        train, validation, test = 55_000, 5_000, 10_000
    else:
        raise ValueError(f'data must be "full" or "sample", not {data!r}')
    images, labels = _read_pair(paths[0], paths[1], train + validation)
    test_images, test_labels = _read_pair(paths[2], paths[3], test)
    return Dataset(
        name=name,
        train_images=images[:train],
        train_labels=labels[:train],
        validation_images=images[train:],
        validation_labels=labels[train:],
        test_images=test_images,
        test_labels=test_labels,
        class_names=CLASS_NAMES,
    )


def _place(remote: RemoteFile, data_dir: Path) -> Path:
    """Returns the unpacked file if the user has put it there, else the verified archive."""
    unpacked = (data_dir / remote.path).with_suffix("")
    try:
        return unpacked if unpacked.is_file() else download(remote, data_dir)
    except OSError as error:
        raise DataError(f"cannot look at {unpacked.absolute()}: {error.strerror}") from error


def _read_pair(images: Path, labels: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads a file of images, uint8 (count, 28, 28, 1), and one of labels, int32 (count,)."""
    pixels, classes = _read_idx(images, (count, 28, 28)), _read_idx(labels, (count,))
    wrong = np.flatnonzero(classes > 9)
    if len(wrong):
        raise _wrong(labels, f"image {wrong[0]} has label {classes[wrong[0]]}, not 0 to 9")
    return pixels[..., None], classes.astype(np.int32)


def _read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Reads a file of bytes in idx format, packed if its name ends in .gz.

    The file must have this shape. No more is unpacked than that, whatever it would unpack to.
    """
    array = np.empty(shape, np.uint8)
    # Two zeros, the type (8: uint8) and the number of dimensions; then each of these in 32 bits.
    magic = bytes([0, 0, 8, len(shape)])
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(4 + 4 * len(shape))
            if header[:4] != magic:
                raise _wrong(path, f"it begins with {header[:4].hex()}, expected {magic.hex()}")
            if len(header) < 4 + 4 * len(shape):
                raise _wrong(path, "it ends in the middle of its header")
            found = struct.unpack_from(f">{len(shape)}I", header, 4)
            if found != shape:
                raise _wrong(path, f"it announces shape {found}, expected {shape}")
            content = memoryview(array).cast("B")
            while len(content):
                chunk = file.read(min(CHUNK, len(content)))
                if not chunk:
                    raise _wrong(path, f"it is truncated, {len(content)} bytes are missing")
                content[: len(chunk)] = chunk
                content = content[len(chunk) :]
            if file.read(1):  # at the end of a packed file this also checks gzip's own checksum
                raise _wrong(path, "more bytes follow after the last image or label")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _wrong(path, f"it is no whole gzip file ({error})") from error
    except OSError as error:
        raise DataError(f"cannot read {path.absolute()}: {error.strerror}") from error
    return array


def _wrong(path: Path, problem: str) -> DataError:
    return DataError(f"{path.absolute()} is wrong: {problem}; move it away to get it anew")


# --- One's own picture ----------------------------------------------------------------------------


def read_picture(path: Path) -> np.ndarray:
    """Reads a picture of one digit and brings it to the form of MNIST's images.

    Whatever Pillow opens will do: any size, in colour or not, dark on light or light on dark, the
    digit anywhere in it. What is transparent becomes white paper. Shadows and faint noise are
    removed. Then the digit is placed as those of MNIST are: fitted into 20 x 20 pixels with its
    centre of mass in the middle of 28 x 28.

    Args:
        path: an image file.

    Returns:
        np.uint8 (28, 28, 1), 0 for paper and 255 for ink.

    Raises:
        DataError: there is no such file, it is no image or a damaged or a huge one, or it shows
            nothing.
    """
    ink = _ink(_read_grey(path))
    if ink is None:
        raise DataError(
            f"there is no digit in {path.absolute()}: it is all one colour, or nearly so"
        )
    return sample.like_mnist(ink)[..., None]


def _read_grey(path: Path) -> np.ndarray:
    """Reads a picture as np.float32 (H, W), 0 for black and 255 for white, not too large."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning)  # of metadata that is damaged
            with Image.open(path) as image:
                image.draft("L", (PICTURE_SIDE, PICTURE_SIDE))  # large JPEGs are read faster
                image = ImageOps.exif_transpose(image)  # cameras note how they were held
                if image.mode == "F" or image.mode.startswith("I"):  # one number for a pixel
                    grey = np.asarray(image, np.float64)
                    if not np.isfinite(grey).all():
                        raise ValueError("it holds numbers that are not finite")
                    grey = (grey - grey.min()) / (np.ptp(grey) or 1) * 255
                elif image.has_transparency_data:
                    grey = _on_white(image.convert("RGBA"))
                else:
                    grey = np.asarray(image.convert("L"))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"{path.absolute()} has too many pixels: make it smaller first") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path.absolute()} is no picture of a known format") from error
    except Exception as error:  # a damaged file raises errors of a dozen kinds in Pillow's parsers
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"{path.absolute()} cannot be read as a picture: {reason}") from error
    scale = PICTURE_SIDE / max(grey.shape)
    if scale < 1:
        height, width = np.maximum(np.rint(scale * np.array(grey.shape)), 1).astype(int)
        grey = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
    return grey.astype(np.float32)


def _on_white(image: Image.Image) -> np.ndarray:
    """Puts a picture in mode RGBA on white paper: np.uint8 (H, W)."""
    paper = Image.new("RGBA", image.size, "white")
    grey = Image.alpha_composite(paper, image).convert("L")
    alpha = image.getchannel("A")
    if np.ptp(grey) == 0:  # white ink on a transparent ground
        grey = alpha
    return np.asarray(grey)


def _ink(grey: np.ndarray) -> np.ndarray | None:
    """Finds the strokes in a picture (H, W), 0 to 255: np.float32 (H, W), 255 for ink, else 0.

    Returns None where there are none.
    """
    side = max(grey.shape)
    # Strokes differ from what is around them more than paper does, even paper with a shadow on it.
    around = cv2.medianBlur(np.rint(grey).astype(np.uint8), side // 2 | 1)
    if np.sum((grey - around) ** 3) > 0:  # light on dark
        grey = 255 - grey
    # A closing fills what is narrower than a third of the picture with the light beside it, so it
    # shows the paper, shadows included, as if there were no strokes on it. Ink is what is missing
    # of that light; in a shadow it takes away the same share.
    kernel = np.ones((side // 3 | 1, side // 3 | 1), np.uint8)
    paper = cv2.morphologyEx(grey, cv2.MORPH_CLOSE, kernel)
    ink = (paper - grey) / np.maximum(paper, DARKEST_PAPER)
    ink -= np.percentile(ink, 25)  # the noise of the paper
    if ink.max() < MIN_CONTRAST:
        return None
    ink = np.clip(ink / np.percentile(ink[ink > ink.max() / 3], 90), 0, 1)
    # What hangs together is one part. A digit's parts are of comparable size, other parts are
    # specks; and what touches the border is more likely a shadow or the table than a digit.
    count, parts = cv2.connectedComponents((ink > 1 / 3).astype(np.uint8))
    mass = np.bincount(parts.ravel(), ink.ravel() ** 2, count)
    mass[np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))] /= 10
    mass[0] = 0  # the paper
    digit = (mass[parts] > 0.1 * mass.max()).astype(np.uint8)
    ink[cv2.dilate(digit, np.ones((3, 3), np.uint8)) == 0] = 0  # the digit has soft edges
    # In 20 x 20 pixels nothing would be left of a thin line in a large picture: it is made thicker.
    size = max(np.ptp(np.flatnonzero(digit.any(axis=axis))) for axis in (0, 1))
    distance = cv2.distanceTransform(digit, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    width = 4 * distance[digit > 0].mean() - 2  # on average a pixel is a quarter of it inside
    missing = round(size * MIN_STROKE - width)
    if missing > 0:
        ink = cv2.dilate(ink, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (missing + 1,) * 2))
    return 255 * ink
