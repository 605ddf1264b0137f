"""Omniglot: characters of many alphabets, each drawn once by 20 people.

B. Lake, R. Salakhutdinov and J. Tenenbaum, "Human-level concept learning through probabilistic
program induction", Science 350 (2015), https://github.com/brendenlake/omniglot, MIT licence. The
background set is there to learn from: 964 characters of 30 alphabets. Two small ones, of five
alphabets each, are parts of it, and have the Greek and the Latin alphabet in common.

The evaluation has 20 runs with characters of ten alphabets that are not in the background set.
In each, 20 characters are shown once, as drawn by one person; which of them are 20 more drawings,
by another? That is one-shot classification among 20 classes: guessing is right once in 20.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from datasets import pictures, sample
from datasets.download import RemoteFile, download
from datasets.files import wrong
from datasets.photographs import Files

DRAWINGS = 20  # of each character, one by each person
VALIDATION_SHARE = 8  # one in so many alphabets is held back for validation
RUNS = 20  # of the evaluation
WAYS = 20  # characters shown in a run, and as many drawings to be named
SIDE = 105  # pixels of height and width

_URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
# Bytes, SHA-256, and the place in the repository.
_PUBLISHED = """
9464212 ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640 images_background.zip
1319022 f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4 images_background_small1.zip
1580917 3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f images_background_small2.zip
352787 437c1eeab0af8484112e1b4cc0f3d541ec727f7c47b9b202da738af9dfd6c325 one-shot-classification/all_runs.zip
"""  # noqa: E501
_FULL, _SMALL1, _SMALL2, _RUNS = (
    RemoteFile(f"omniglot/{Path(place).name}", (_URL + place,), int(size), sha256)
    for size, sha256, place in map(str.split, _PUBLISHED.strip().splitlines())
)
_DRAWING = re.compile(r"(?:^|/)([^/]+)/(character\d+)/\d+_\d+\.png$")  # alphabet, character
_LABELS = re.compile(r"(?:^|/)run\d+/class_labels\.txt$")


class Run(NamedTuple):
    """A test: which of the training images shows what a test image shows?"""

    training: np.ndarray  # np.uint8 (C, size, size): a drawing of each of C characters, often 20
    test: np.ndarray  # np.uint8 (C, size, size): drawings of the same characters by another person
    answers: np.ndarray  # np.int32 (C,): for each test image the index of the training image


@dataclass(frozen=True, eq=False)
class Characters:
    """Drawings of characters to learn from, and the runs of the evaluation."""

    name: str  # what the data is called wherever it shows
    images: np.ndarray  # np.uint8 (C, 20, size, size): 255 for ink, 0 for paper
    alphabets: tuple[str, ...]
    alphabet: np.ndarray  # np.int32 (C,): the index of each character's alphabet
    names: tuple[str, ...]  # of the characters, such as "Greek/character01"
    runs: tuple[Run, ...]

    @property
    def held_back(self) -> np.ndarray:
        """Tell which characters are for validation, bool (C,): whole alphabets."""
        return (len(self.alphabets) - 1 - self.alphabet) % VALIDATION_SHARE == 0

    @property
    def validation_runs(self) -> tuple[Run, ...]:
        """Each person's drawings of an alphabet that is held back, asked against another's."""
        alphabets = np.unique(self.alphabet[self.held_back])
        each = [self.images[self.alphabet == alphabet] for alphabet in alphabets]
        pairs = [(some[:, i - 1], some[:, i]) for some in each for i in range(DRAWINGS)]
        return tuple(Run(*pair, np.arange(len(pair[0]), dtype=np.int32)) for pair in pairs)

    def summary(self) -> str:
        """Describe the data in one line."""
        return (
            f"{self.name}: {len(self.images):,} characters of {len(self.alphabets)} alphabets, "
            f"{DRAWINGS} drawings of each; {self.held_back.sum()} characters held back for "
            f"validation; {len(self.runs)} test runs of {WAYS} others"
        )


def load(
    data: str = "full",
    data_dir: Path = Path("datasets/downloads"),
    small: bool = False,
    size: int = SIDE,
) -> Characters:
    """Load Omniglot, or with "sample" drawn strokes, which need no network.

    With "full", the background set is taken from data_dir/omniglot: the folder images_background if
    it lies there, or else images_background.zip. If neither does, the two small sets are taken,
    images_background_small1 and 2, if both are there; if not, the archive is downloaded (9 MB).
    With `small` the small sets are used, and downloaded where need be (3 MB). all_runs is the runs.
    All drawings are resized to `size` pixels of height and width.

    Raises:
        DataError: a file is damaged or wrong, or cannot be fetched or read; a character has more
            or fewer than 20 drawings; an image has another size; the runs are not those 20, or the
            answers of one do not name each of its images once.
    """
    if data == "sample":
        folder, name = sample.make_omniglot(data_dir), sample.OMNIGLOT_NAME
        sets, runs = [folder / "images_background.zip"], folder / "all_runs.zip"
    else:
        smaller = [_SMALL1, _SMALL2]
        there = all(_is_there(remote, data_dir) for remote in smaller)
        small = small or (there and not _is_there(_FULL, data_dir))
        sets = [_place(remote, data_dir) for remote in (smaller if small else [_FULL])]
        name, runs = "Omniglot's small sets" if small else "Omniglot", _place(_RUNS, data_dir)
    characters: dict[str, tuple[Files, list[str]]] = {}
    for path in sets:  # a character that both of the small sets have is taken once
        characters |= _characters(Files(path))
    characters = dict(sorted(characters.items()))
    images = np.empty((len(characters), DRAWINGS, size, size), np.uint8)
    for i, (files, drawings) in enumerate(tqdm(characters.values(), "characters", delay=2)):
        images[i] = [_image(files, drawing, size) for drawing in drawings]
    of_each = [character.split("/")[0] for character in characters]
    alphabets, alphabet = np.unique(of_each, return_inverse=True)
    if len(alphabets) < 2:
        raise wrong(sets[0], f"it has only the alphabet {alphabets[0]}, and it takes two")
    about = tuple(map(str, alphabets)), alphabet.astype(np.int32), tuple(characters)
    return Characters(name, images, *about, _read_runs(Files(runs), size))


def _folder(remote: RemoteFile, data_dir: Path) -> Path:
    return (data_dir / remote.path).with_suffix("")


def _is_there(remote: RemoteFile, data_dir: Path) -> bool:
    return _folder(remote, data_dir).is_dir() or (data_dir / remote.path).exists()


def _place(remote: RemoteFile, data_dir: Path) -> Path:
    folder = _folder(remote, data_dir)
    return folder if folder.is_dir() else download(remote, data_dir)


def _characters(files: Files) -> dict[str, tuple[Files, list[str]]]:
    """Return the files of each character's drawings, by names such as "Greek/character01"."""
    characters: dict[str, tuple[Files, list[str]]] = {}
    for name in files.names:
        if found := _DRAWING.search(name):
            characters.setdefault(f"{found[1]}/{found[2]}", (files, []))[1].append(name)
    for name, (_, drawings) in characters.items():
        if len(drawings) != DRAWINGS:
            raise wrong(files.path, f"{name} has {len(drawings)} drawings, expected {DRAWINGS}")
    if not characters:
        raise wrong(files.path, "it has no drawings such as Greek/character01/0394_01.png")
    return characters


def _image(files: Files, name: str, size: int) -> np.ndarray:
    """Read a drawing, np.uint8 (size, size): 255 for ink, which is black in the file."""
    try:
        image = 255 - pictures.decode(files.read(name))[..., 0]
    except ValueError as error:
        raise wrong(files.path, f"{name} cannot be read: {error}") from error
    if image.shape != (SIDE, SIDE):
        height, width = image.shape
        raise wrong(files.path, f"{name} has {width} x {height} pixels, expected {SIDE} x {SIDE}")
    return pictures.squared(image, size)


def _read_runs(files: Files, size: int) -> tuple[Run, ...]:
    found = [name for name in files.names if _LABELS.search(name)]
    if not found:
        raise wrong(files.path, "it has no runs such as run01/class_labels.txt")
    above = min(found, key=len).rpartition("run")[0]
    runs = [f"{above}run{number:02d}/class_labels.txt" for number in range(1, RUNS + 1)]
    if odd := sorted({*runs} ^ {*found}):
        problem = "is missing" if odd[0] in runs else f"belongs to none of the {RUNS} runs"
        raise wrong(files.path, f"{odd[0]} {problem}")
    return tuple(_run(files, name, size) for name in runs)


def _run(files: Files, labels: str, size: int) -> Run:
    """Read the run of a class_labels.txt, whose lines are a test image and its training image."""
    folder = labels.removesuffix("class_labels.txt")
    names = {
        part: [n for n in files.names if n.startswith(f"{folder}{part}/") and n.endswith(".png")]
        for part in ("training", "test")
    }
    for part, found in names.items():
        if len(found) != WAYS:
            raise wrong(files.path, f"{folder}{part} has {len(found)} images, expected {WAYS}")
    above, pairs = folder[: folder.rindex("run")], []
    for line in files.read(labels).decode("utf-8", "replace").split("\n"):
        test, _, training = (above + word for word in line.strip().partition(" "))
        if test in names["test"] and training in names["training"]:
            pairs.append((test, training))
        elif line.strip():
            raise wrong(files.path, f"{labels} names no test and training image: {line[:99]!r}")
    named = [name for pair in pairs for name in pair]
    for name in names["test"] + names["training"]:
        if (count := named.count(name)) != 1:
            raise wrong(files.path, f"{labels} names {name} {count} times, expected once")
    answers = [names["training"].index(training) for _, training in sorted(pairs)]
    return Run(
        np.stack([_image(files, name, size) for name in names["training"]]),
        np.stack([_image(files, name, size) for name in names["test"]]),
        np.array(answers, np.int32),
    )
