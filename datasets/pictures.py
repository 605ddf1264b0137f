"""A picture from a file in any format that Pillow opens: one's own, or one of a data set."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from datasets.files import DataError

MAX_PIXELS = 150_000_000  # what a picture may have; it needs some gigabytes of memory then
ENOUGH = 1000  # pixels of height and width: a larger JPEG file is shrunk while it is decoded

# Pillow warns of damaged metadata, which some photographs have. Their pixels are right.
warnings.filterwarnings("ignore", module=r"PIL\.")
Image.MAX_IMAGE_PIXELS = None  # ours is MAX_PIXELS


def read_picture(path: Path, enough: int = ENOUGH) -> np.ndarray:
    """Read a picture from a file; see `decode`.

    Returns:
        np.uint8 (H, W, 3), RGB.

    Raises:
        DataError: there is no such file, or it is no picture, a damaged or a huge one.
    """
    try:
        return decode(path.expanduser().read_bytes(), enough)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path.absolute()} cannot be read as a picture: {reason}") from error


def decode(content: bytes, enough: int = ENOUGH, upright: bool = True) -> np.ndarray:
    """Turn a file's content into a picture, in colour; of an animation the first image.

    It comes out upright, or, unless `upright`, as its pixels lie in the file.

    What is transparent becomes white, as if it lay on paper; or black, where nothing could be seen
    on white. Pixels of 16 bits, or of floats, are brought to 8 bits. Height and width of a JPEG
    file that are above twice `enough` pixels come out at a half, a quarter or an eighth.

    Returns:
        np.uint8 (H, W, 3), RGB.

    Raises:
        ValueError: it is no picture, a damaged or a huge one; the text says which, in one line.
    """
    with _open(content) as opened:
        opened.draft(None, (enough, enough))  # phones take 50 million pixels
        # Cameras note how they were held.
        image = ImageOps.exif_transpose(opened) if upright else opened
        if image.mode == "F" or image.mode.startswith("I"):  # one number for a pixel
            image = Image.fromarray(_eight_bits(np.asarray(image, np.float64), image.mode))
        elif image.has_transparency_data:
            image = image.convert("RGBA")
            white, black = (Image.new("RGBA", image.size, name) for name in ("white", "black"))
            on_white = Image.alpha_composite(white, image)
            seen = on_white.convert("L").getextrema() != (255, 255)
            image = on_white if seen else Image.alpha_composite(black, image)
        return np.asarray(image.convert("RGB"))


def size(content: bytes) -> tuple[int, int]:
    """Return width and height of what lies in a file, without decoding it; errors as `decode`'s."""
    with _open(content) as opened:
        return opened.size


@contextlib.contextmanager
def _open(content: bytes) -> Iterator[Image.Image]:
    """Open a picture; whatever fails with it becomes a ValueError of one line."""
    try:
        with Image.open(io.BytesIO(content)) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise ValueError(f"it has more than {MAX_PIXELS:,} pixels: make it smaller first")
            yield opened
    except UnidentifiedImageError as error:
        if content[4:8] == b"ftyp":
            raise ValueError("it is HEIC or a film, not a picture: export it as JPEG") from error
        raise ValueError("it is no picture" if content else "it is empty") from error
    except Exception as error:  # Pillow's parsers raise a dozen kinds for a file that is damaged
        raise ValueError(" ".join(str(error or type(error)).split())[:200]) from error


def _eight_bits(values: np.ndarray, mode: str) -> np.ndarray:
    """Turn grey values of any range (H, W) into np.uint8.

    No file says which values are black and white. It is 0 and 1 for floats, 0 and 65,535 for whole
    numbers, where the values fill that range; else their lowest and their highest.
    """
    if not np.isfinite(values).all():
        raise ValueError("it holds numbers that are not finite")
    low, high, white = values.min(), values.max(), 1 if mode == "F" else 65_535
    if low >= 0 and white / 2 < high <= white:
        low, high = 0, white
    return np.rint((values - low) / ((high - low) or 1) * 255).astype(np.uint8)


def squared(image: np.ndarray, size: int) -> np.ndarray:
    """Resize a picture, np.uint8 (H, W, 3), to (size, size, 3), squeezed: no ear is cut off."""
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)


def read_pictures(path: Path, size: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the user's own pictures, np.uint8 (size, size, 3), those of a folder or a single one.

    Before each comes the name of its file without the ending; with it, and with its sub-folders,
    where another picture would have the same name. In a folder, "2" comes before "10"; what cannot
    be read is named and left out.

    Raises:
        DataError: there is no such path, or no picture that can be read.
    """
    path = path.expanduser()
    if not path.is_dir():
        yield path.stem, squared(read_picture(path), size)
        return
    files = [p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")]
    files.sort(key=lambda file: (len(file.stem), file.stem, file))
    stems, count = [file.stem for file in files], 0
    for file in tqdm(files, "pictures", leave=False, delay=2):
        try:
            picture = squared(read_picture(file), size)
        except DataError as error:
            tqdm.write(f"left out: {error}")
            continue
        count += 1
        alone = stems.count(file.stem) == 1
        name = file.stem if alone else file.relative_to(path).as_posix()
        yield name.encode("utf-8", "backslashreplace").decode(), picture
    if not count:
        raise DataError(f"there is no picture that can be read in {path}")
