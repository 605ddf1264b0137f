"""Cats and dogs: 25,000 photographs of any size, to be told apart.

They come from animal shelters (J. Elson et al., "Asirra: A CAPTCHA that Exploits
Interest-Aligned Manual Image Categorization", ACM CCS 2007), and are published in three layouts:

* Kaggle, https://www.kaggle.com/c/dogs-vs-cats: train.zip with train/cat.0.jpg; needs a login;
* Microsoft, https://www.microsoft.com/en-us/download/details.aspx?id=54765: PetImages/Cat/0.jpg;
* a subset of 3,000 for courses: cats_and_dogs_filtered/train/cats/cat.0.jpg.

The photographs stay in the archive. Microsoft's has hundreds of files that are no proper image:
they are listed in a report beside the archive and left out.
"""

import os
import re
from pathlib import Path

from datasets import photographs, sample
from datasets.download import RemoteFile, download
from datasets.files import wrong
from datasets.photographs import TEST_SHARE, VALIDATION_SHARE, Files, Photograph, Photographs

CLASS_NAMES = ("cat", "dog")

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
_PHOTOGRAPH = re.compile(r"(?:^|/)(cat|dog)[./](\d{1,9})\.\w+$", re.IGNORECASE | re.ASCII)


def load(
    data: str = "full",
    data_dir: Path = Path("datasets/downloads"),
    small: bool = False,
    photos: Path | None = None,
    validation_share: int = VALIDATION_SHARE,
) -> Photographs:
    """Find the photographs of cats and dogs, or with "sample" drawn faces, which need no network.

    With `photos`, a folder or an archive, one's own of any classes: see `photographs.load`.

    With "full" they are in data_dir/cats_dogs: in train.zip or the folder train, if the user has
    put one there, with any number of photographs under such names, or else in a sub-folder for each
    class (see `photographs.load`); else in Microsoft's archive (825 MB), or the subset if `small`
    (69 MB).

    The number in a photograph's name alone decides which part it belongs to: with last digit 4
    or 9 it is for the test, and one in `validation_share` of the others for validation. So a
    photograph never changes sides, whatever is left out. All parts are ordered by this number.

    Raises:
        DataError: the archive is damaged or wrong, or cannot be fetched or read.
    """
    if photos:
        report = data_dir / "photos" / f"{photos.resolve().name}.report.json"
        return photographs.load(photos, report, validation_share)
    folder = data_dir / "cats_dogs"
    path = folder / "train.zip"
    if data == "sample":
        path = sample.make_cats_dogs(data_dir) / "train.zip"
    elif not os.path.exists(path) and (folder / "train").is_dir():
        path = folder / "train"
    elif not os.path.exists(path):
        path = download(_SMALL if small else _MICROSOFT, data_dir)
    report, files = path.with_name(f"{path.name}.report.json"), Files(path)
    if files.names and not any(map(_PHOTOGRAPH.search, files.names)):
        return photographs.load(path, report, validation_share)

    def problem(name: str) -> str:
        return "" if _PHOTOGRAPH.search(name) else "its name is not that of a cat or a dog"

    left_out = photographs.check(files, files.names, problem, report)
    numbered = []
    for name in set(files.names) - left_out.keys():
        if found := _PHOTOGRAPH.search(name):
            numbered.append((int(found[2]), CLASS_NAMES.index(found[1].lower()), name))
    parts: dict[str, list[Photograph]] = {"train": [], "validation": [], "test": []}
    for number, label, name in sorted(numbered):
        parts[_part(number, validation_share)].append(Photograph(name, label))
    if not all(parts.values()):
        raise wrong(path, "it has too few photographs such as train/cat.0.jpg")
    train, validation, test = map(tuple, parts.values())
    name = f"{len(numbered):,} photographs of cats and dogs"
    name = sample.CATS_DOGS_NAME if data == "sample" else name
    return Photographs(name, CLASS_NAMES, files, train, validation, test, left_out, report)


def _part(number: int, validation_share: int) -> str:
    if number % TEST_SHARE == TEST_SHARE - 1:
        return "test"
    before = number - number // TEST_SHARE  # how many before this one are not for the test
    return "validation" if before % validation_share == validation_share - 1 else "train"
