"""Cats and dogs: 25,000 photographs of any size, to be told apart.

They come from animal shelters (J. Elson et al., "Asirra: A CAPTCHA that Exploits
Interest-Aligned Manual Image Categorization", ACM CCS 2007), and are published in three layouts:

* Kaggle, https://www.kaggle.com/c/dogs-vs-cats: train.zip with train/cat.0.jpg; needs a login;
* Microsoft, https://www.microsoft.com/en-us/download/details.aspx?id=54765: PetImages/Cat/0.jpg;
* a subset of 3,000 for courses: cats_and_dogs_filtered/train/cats/cat.0.jpg.

The photographs stay in the archive: one file of 25,000 parts is handled faster than 25,000 files.
Microsoft's has hundreds of files that are no proper image. Whatever the archive, each of its files
is decoded once; those that fail are listed in a report beside the archive and left out.
"""

import concurrent.futures
import contextlib
import hashlib
import io
import json
import os
import re
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from datasets import sample
from datasets.download import DataError, RemoteFile, download

CLASS_NAMES = ("cat", "dog")
TEST_SHARE = 5  # every fifth number is for the test
VALIDATION_SHARE = 10  # every tenth of the others is held back for validation
MAX_BYTES = 50_000_000  # of a file in the archive; the largest published one has about 100,000
MAX_PIXELS = 50_000_000  # of a photograph; the largest published one has 786,000

_MICROSOFT = RemoteFile(
    path="cats_dogs/kagglecatsanddogs_5340.zip",
    urls=(
        "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/"
        "kagglecatsanddogs_5340.zip",
    ),
    size=824_887_076,
    sha256="b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9",
)
_SMALL = RemoteFile(
    path="cats_dogs/cats_and_dogs_filtered.zip",
    urls=("https://storage.googleapis.com/mledu-datasets/cats_and_dogs_filtered.zip",),
    size=68_606_236,  # no checksum is published
)
# The end of a photograph's name, in all three layouts: "/cat.0.jpg" or "/Cat/0.jpg".
_PHOTOGRAPH = re.compile(r"(?:^|/)(cat|dog)[./](\d{1,9})\.jpg$", re.IGNORECASE | re.ASCII)

# Pillow warns of damaged metadata, which some of the photographs have. Their pixels are right.
warnings.filterwarnings("ignore", module=r"PIL\.")


class Photograph(NamedTuple):
    """The name of a file in the archive, and its label, an index into `CLASS_NAMES`."""

    name: str
    label: int


@dataclass(frozen=True, eq=False)
class Photographs:
    """The photographs of an archive in three fixed parts; several threads may read them at once.

    Attributes:
        name: what the data is called wherever it shows.
        archive: the open archive.
        train: photographs to train on, cats and dogs in turn.
        validation: those to make choices by.
        test: those to use once, at the end.
        left_out: why a file is not among them, by its name.
        report: the file that lists what is left out.
    """

    name: str
    archive: zipfile.ZipFile
    train: tuple[Photograph, ...]
    validation: tuple[Photograph, ...]
    test: tuple[Photograph, ...]
    left_out: dict[str, str]
    report: Path

    def read(self, photograph: Photograph) -> bytes:
        """Returns the JPEG file as it is in the archive.

        Raises:
            DataError: the archive can no longer be read.
        """
        try:
            return self.archive.read(photograph.name)
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise _unreadable(Path(self.archive.filename), error) from error

    def checksum(self, photograph: Photograph) -> int:
        """Returns the CRC-32 of the JPEG file, as it is written in the archive."""
        return self.archive.getinfo(photograph.name).CRC


def decode(jpeg: bytes) -> np.ndarray:
    """Turns a photograph, as `Photographs.read` returns it, into np.uint8 (H, W, 3), RGB."""
    with Image.open(io.BytesIO(jpeg)) as image:
        return np.asarray(image)


def read_picture(path: Path) -> np.ndarray:
    """Reads a picture of the user's own, of any size and in any format that Pillow opens.

    It is turned upright if the camera has noted how it was held. What is transparent becomes white.

    Returns:
        np.uint8 (H, W, 3), RGB.

    Raises:
        DataError: there is no such file, or it is no image, a damaged or a huge one.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"it has more than {MAX_PIXELS:,} pixels")
            image = ImageOps.exif_transpose(image)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow raises a dozen kinds for a file that is damaged
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read {path.absolute()} as a picture: {reason}") from error


def load(
    data: str = "full",
    data_dir: Path = Path("datasets/downloads"),
    small: bool = False,
    validation_share: int = VALIDATION_SHARE,
) -> Photographs:
    """Finds the photographs of cats and dogs, or drawn faces in their place.

    With "full", the first of these is used, below data_dir/cats_dogs:

    1. train.zip, if the user has put it there, with any number of photographs;
    2. kagglecatsanddogs_5340.zip, verified, and downloaded (825 MB) if it is missing; with `small`,
       cats_and_dogs_filtered.zip (69 MB) in its place.

    The number in a photograph's name alone decides which part it belongs to: with last digit 4
    or 9 it is for the test. So a photograph never changes sides, whatever is left out, and a
    subset is split as the whole is. All three parts are ordered by this number.

    Args:
        data: "full", or "sample" for the drawn faces of `datasets.sample`, which need no network.
        data_dir: the data folder.
        small: download 3,000 photographs in place of 25,000.
        validation_share: one in how many of the photographs that are not for the test is held back.

    Returns:
        The photographs: a fifth of them for the test, of the others one in `validation_share` for
        validation.

    Raises:
        DataError: the archive is damaged or wrong, or cannot be fetched or read.
        ValueError: `data` is neither "full" nor "sample".
    """
    path = _find(data, data_dir, small)
    report = path.with_name(path.name + ".report.json")
    try:
        archive = zipfile.ZipFile(path)
        left_out = _left_out(archive, report)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise _wrong(path, f"it is no whole zip archive ({error})") from error
    except OSError as error:
        raise _unreadable(path, error) from error

    parts = {"train": [], "validation": [], "test": []}
    for name in _files(archive) - left_out.keys():
        kind, digits = _PHOTOGRAPH.search(name).groups()
        number, label = int(digits), CLASS_NAMES.index(kind.lower())
        parts[_part(number, validation_share)].append((number, label, name))
    ordered = {
        part: tuple(Photograph(name, label) for _, label, name in sorted(rows))
        for part, rows in parts.items()
    }
    if not all(ordered.values()):
        raise _wrong(path, "it has too few photographs such as train/cat.0.jpg")
    count = sum(map(len, ordered.values()))
    name = sample.CATS_DOGS_NAME if data == "sample" else f"{count:,} photographs of cats and dogs"
    return Photographs(name, archive, **ordered, left_out=left_out, report=report)


def _find(data: str, data_dir: Path, small: bool) -> Path:
    """Returns the archive to read."""
    if data == "sample":
        return sample.make_cats_dogs(data_dir) / "train.zip"
    if data != "full":
        raise ValueError(f'data must be "full" or "sample", not {data!r}')
    own = data_dir / "cats_dogs" / "train.zip"
    try:
        return own if own.exists() else download(_SMALL if small else _MICROSOFT, data_dir)
    except OSError as error:
        raise _unreadable(own, error) from error


def _part(number: int, validation_share: int) -> str:
    group, place = divmod(number, TEST_SHARE)
    if place == TEST_SHARE - 1:
        return "test"
    # How many before this one are not for the test.
    before = group * (TEST_SHARE - 1) + place
    return "validation" if before % validation_share == validation_share - 1 else "train"


def _wrong(path: Path, problem: str) -> DataError:
    return DataError(f"{path.absolute()} is wrong: {problem}; move it away to get it anew")


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"cannot read {path.absolute()}: {getattr(error, 'strerror', None) or error}")


# --- What is no photograph ------------------------------------------------------------------------


def _files(archive: zipfile.ZipFile) -> set[str]:
    return {entry.filename for entry in archive.infolist() if not entry.is_dir()}


def _left_out(archive: zipfile.ZipFile, report: Path) -> dict[str, str]:
    """Returns the files that are no photograph with the reason for each, and writes the report.

    The report also says which archive it is about. As long as it is this one, nothing is decoded.
    """
    state = os.stat(archive.filename)
    about = {
        "archive": Path(archive.filename).name,
        "bytes": state.st_size,
        "modified_ns": state.st_mtime_ns,
        "checked_by": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
    }
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        before = json.loads(report.read_text())
        if all(before[key] == value for key, value in about.items()):
            return dict(before["left_out"])

    names = sorted(_files(archive))
    # Decoding releases Python's lock, so that threads are enough to use all cores.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        problems = pool.map(lambda name: _problem(archive, name), names)
        bar = tqdm(problems, f"checking {about['archive']}", len(names), leave=False, delay=2)
        left_out = {name: problem for name, problem in zip(names, bar, strict=True) if problem}
    content = about | {"left_out_count": len(left_out), "left_out": left_out}
    part = report.with_name(f"{report.name}.{os.getpid()}.part")
    with contextlib.suppress(OSError):  # a read-only folder: then check every time
        part.write_text(json.dumps(content, indent=2) + "\n")
        os.replace(part, report)
    return left_out


def _problem(archive: zipfile.ZipFile, name: str) -> str:
    """Says why a file in the archive is no proper photograph: nothing, if it is one."""
    if not _PHOTOGRAPH.search(name):
        return "its name is not that of a cat or a dog"
    if archive.getinfo(name).file_size > MAX_BYTES:
        return f"it has more than {MAX_BYTES:,} bytes"
    try:
        content = archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        return f"it is damaged in the archive ({error})"
    if not content:
        return "it is empty"
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.format not in ("JPEG", "MPO"):  # MPO: a JPEG file with a second image behind
                return f"it is {image.format}, not JPEG"
            if image.mode != "RGB":
                return f"its colours are {image.mode}, not RGB"
            if image.width * image.height > MAX_PIXELS:
                return f"it has more than {MAX_PIXELS:,} pixels"
            image.draft("RGB", (1, 1))  # at an eighth of its size: all bytes are read, but in a
            image.load()  # third of the time
    except UnidentifiedImageError:
        return "it is no image"
    except Exception as error:  # Pillow raises a dozen kinds for a file that is damaged
        return f"it cannot be decoded ({error})"
    return ""
