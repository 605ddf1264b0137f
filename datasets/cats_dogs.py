"""Cats and dogs: 25,000 photographs of any size, to be told apart.

They come from animal shelters (J. Elson et al., "Asirra: A CAPTCHA that Exploits
Interest-Aligned Manual Image Categorization", ACM CCS 2007), and are published in three layouts:

* Kaggle, https://www.kaggle.com/c/dogs-vs-cats: train.zip with train/cat.0.jpg; needs a login;
* Microsoft, https://www.microsoft.com/en-us/download/details.aspx?id=54765: PetImages/Cat/0.jpg;
* a subset of 3,000 for courses: cats_and_dogs_filtered/train/cats/cat.0.jpg.

The photographs stay in the archive. Microsoft's has hundreds of files that are no proper image, so
each file is decoded once; those that fail are listed in a report beside the archive and left out.
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
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from datasets import sample
from datasets.download import RemoteFile, download
from datasets.files import unreadable, wrong

CLASS_NAMES = ("cat", "dog")
TEST_SHARE = 5  # every fifth number is for the test
VALIDATION_SHARE = 10  # every tenth of the others is held back for validation
MAX_BYTES = 50_000_000  # of a file in the archive; the largest published one has about 100,000
MAX_PIXELS = 50_000_000  # of a photograph; the largest published one has 786,000

_FOLDER = "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/"
_MICROSOFT = RemoteFile(
    path="cats_dogs/kagglecatsanddogs_5340.zip",
    urls=(f"{_FOLDER}kagglecatsanddogs_5340.zip",),
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
    """A photograph in the archive."""

    name: str
    label: int  # index into CLASS_NAMES


@dataclass(frozen=True, eq=False)
class Photographs:
    """The photographs of an archive in three fixed parts; several threads may read them at once."""

    name: str  # what the data is called wherever it shows
    archive: zipfile.ZipFile
    train: tuple[Photograph, ...]  # to train on, cats and dogs in turn
    validation: tuple[Photograph, ...]  # to make choices by
    test: tuple[Photograph, ...]  # to use once, at the end
    left_out: dict[str, str]  # why a file is not among them, by its name
    report: Path  # the file that lists what is left out

    def summary(self, train: int) -> str:
        """Describe the data in one line, of which so many photographs are used to train on."""
        counts = f"{train:,} training, {len(self.validation):,} validation, {len(self.test):,} test"
        return f"{self.name}: {counts}; {len(self.left_out):,} files left out ({self.report})"

    def read(self, photograph: Photograph) -> bytes:
        """Return the JPEG file as it is in the archive; DataError if that is no longer there."""
        try:
            return self.archive.read(photograph.name)
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise unreadable(Path(str(self.archive.filename)), error) from error

    def checksum(self, photograph: Photograph) -> int:
        """Return the CRC-32 of the JPEG file, as it is written in the archive."""
        return self.archive.getinfo(photograph.name).CRC


def decode(jpeg: bytes) -> np.ndarray:
    """Turn a photograph, as `Photographs.read` returns it, into np.uint8 (H, W, 3), RGB."""
    with Image.open(io.BytesIO(jpeg)) as image:
        return np.asarray(image)


def load(
    data: str = "full",
    data_dir: Path = Path("datasets/downloads"),
    small: bool = False,
    validation_share: int = VALIDATION_SHARE,
) -> Photographs:
    """Find the photographs of cats and dogs, or with "sample" drawn faces, which need no network.

    With "full" they are in data_dir/cats_dogs: in train.zip, if the user has put it there, with any
    number of photographs; else in Microsoft's archive (825 MB), or the subset if `small` (69 MB).

    The number in a photograph's name alone decides which part it belongs to: with last digit 4
    or 9 it is for the test, and one in `validation_share` of the others for validation. So a
    photograph never changes sides, whatever is left out. All parts are ordered by this number.

    Raises:
        DataError: the archive is damaged or wrong, or cannot be fetched or read.
    """
    path = data_dir / "cats_dogs" / "train.zip"
    if data == "sample":
        path = sample.make_cats_dogs(data_dir) / "train.zip"
    elif not os.path.exists(path):
        path = download(_SMALL if small else _MICROSOFT, data_dir)
    report = path.with_name(f"{path.name}.report.json")
    try:
        archive = zipfile.ZipFile(path)
        left_out = _left_out(path, archive, report)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise wrong(path, f"it is no whole zip archive ({error})") from error
    except OSError as error:
        raise unreadable(path, error) from error

    found = filter(None, map(_PHOTOGRAPH.search, set(archive.namelist()) - left_out.keys()))
    numbered = [(int(m[2]), CLASS_NAMES.index(m[1].lower()), m.string) for m in found]
    parts: dict[str, list[Photograph]] = {"train": [], "validation": [], "test": []}
    for number, label, name in sorted(numbered):
        parts[_part(number, validation_share)].append(Photograph(name, label))
    if not all(parts.values()):
        raise wrong(path, "it has too few photographs such as train/cat.0.jpg")
    train, validation, test = map(tuple, parts.values())
    full = f"{len(numbered):,} photographs of cats and dogs"
    name = sample.CATS_DOGS_NAME if data == "sample" else full
    return Photographs(name, archive, train, validation, test, left_out, report)


def _part(number: int, validation_share: int) -> str:
    if number % TEST_SHARE == TEST_SHARE - 1:
        return "test"
    before = number - number // TEST_SHARE  # how many before this one are not for the test
    return "validation" if before % validation_share == validation_share - 1 else "train"


def _left_out(path: Path, archive: zipfile.ZipFile, report: Path) -> dict[str, str]:
    """Return why files are left out, by name; from the report, if it is about this archive."""
    state = path.stat()
    about = {"archive": path.name, "bytes": state.st_size, "modified_ns": state.st_mtime_ns}
    about["checked_by"] = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        before = json.loads(report.read_text())
        if all(before[key] == value for key, value in about.items()):
            return dict(before["left_out"])

    names = sorted({name for name in archive.namelist() if not name.endswith("/")})
    # Decoding releases Python's lock, so that threads are enough to use all cores.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        problems = pool.map(lambda name: _problem(archive, name), names)
        bar = tqdm(problems, f"checking {path.name}", len(names), leave=False, delay=2)
        left_out = {name: problem for name, problem in zip(names, bar, strict=True) if problem}
    content = about | {"left_out_count": len(left_out), "left_out": left_out}
    with contextlib.suppress(OSError):  # a read-only folder: then check every time
        report.write_text(json.dumps(content, indent=2) + "\n")
    return left_out


def _problem(archive: zipfile.ZipFile, name: str) -> str:
    """Say why a file in the archive is no proper photograph: nothing, if it is one."""
    if not _PHOTOGRAPH.search(name):
        return "its name is not that of a cat or a dog"
    if archive.getinfo(name).file_size > MAX_BYTES:
        return f"it has more than {MAX_BYTES:,} bytes"
    try:
        content = archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        return f"it is damaged in the archive ({error})"
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
        return "it is no image" if content else "it is empty"
    except Exception as error:  # a dozen kinds, as in pictures.py
        return f"it cannot be decoded ({error})"
    return ""
