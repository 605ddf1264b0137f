"""Checks datasets/omniglot.py: full and small sets, the runs, what is missing or broken."""

import re
import shutil
import zipfile

import cv2
import numpy as np
import pytest
from programs import ROOT, one_line_of, png

from datasets import omniglot, sample, specimens
from datasets.files import DataError

DOWNLOADS = ROOT / "datasets" / "downloads"
BACKGROUND, RUNS = "images_background", "all_runs"


@pytest.fixture(scope="module")
def characters(sample_dir):
    return omniglot.load("sample", sample_dir)


@pytest.fixture(scope="module")
def files():
    """An alphabet of the sample data and a character of another, as "full" would find them."""
    background, runs = specimens.drawn_characters()
    places = "/Alphabet_1/", "/Alphabet_2/character01/"
    kept = {name: f for name, f in background.items() if any(place in name for place in places)}
    return {f"omniglot/{name}": file for name, file in kept.items()} | {
        f"omniglot/{RUNS}/{name}": file for name, file in runs.items()
    }


def lay(data_dir, files):
    for name, content in files.items():
        (data_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (data_dir / name).write_bytes(content)


def naive(archive, alphabet, character):
    """Read the drawings of a character with OpenCV: 1 for ink, in the order of the persons."""
    with zipfile.ZipFile(archive) as file:
        names = [n for n in file.namelist() if f"/{alphabet}/{character}/" in n and "." in n]
        names.sort(key=lambda name: int(name[:-4].rpartition("_")[2]))
        contents = [np.frombuffer(file.read(name), np.uint8) for name in names]
    return np.stack([cv2.imdecode(content, cv2.IMREAD_GRAYSCALE) < 128 for content in contents])


def naive_answers(archive, run):
    """The numbers in a run's class_labels.txt, which count from 1, in the order of the items."""
    with zipfile.ZipFile(archive) as file:
        words = file.read(f"run{run:02d}/class_labels.txt").decode().split()
    pairs = sorted(
        (test[-6:-4], training[-6:-4])
        for test, training in zip(words[::2], words[1::2], strict=True)
    )
    return [int(training) - 1 for _, training in pairs]


def check(found, archives, runs):
    """What holds for sample data and for the real files; archives: of the first, the last."""
    assert found.images.shape == (len(found.names), 20, 105, 105)
    assert (found.images.dtype, found.alphabet.dtype) == (np.uint8, np.int32)
    assert set(np.unique(found.images)) == {0, 255}
    assert 0.01 < (found.images > 0).mean() < 0.2  # ink on paper, not paper on ink
    of_each = [found.alphabets[index] for index in found.alphabet]
    assert of_each == [name.split("/")[0] for name in found.names]
    for i, archive in zip((0, -1), archives, strict=True):
        assert np.array_equal(found.images[i] > 0, naive(archive, *found.names[i].split("/")))
    assert len(found.runs) == 20
    for number, run in enumerate(found.runs, 1):
        assert run.training.shape == run.test.shape == (20, 105, 105)
        assert run.answers.tolist() == naive_answers(runs, number)
        assert sorted(run.answers) == list(range(20))
    drawings = {image.tobytes() for images in found.images for image in images}
    assert len(drawings) == 20 * len(found.names)  # none twice
    shown = {image.tobytes() for run in found.runs for part in run[:2] for image in part}
    assert not drawings & shown


def test_sample_data(characters, sample_dir):
    folder = sample.make_omniglot(sample_dir)
    check(characters, [folder / f"{BACKGROUND}.zip"] * 2, folder / f"{RUNS}.zip")
    assert characters.name == "sample data: drawn characters"
    assert "60 characters of 5 alphabets" in characters.summary()


def test_the_likeness_of_pixels_tells_some_of_the_drawn_characters(characters):
    def blurred(images):
        small = [cv2.resize(image, (15, 15), interpolation=cv2.INTER_AREA) for image in images]
        rows = [image.ravel() / 255 for image in small]
        return np.stack([row / np.linalg.norm(row) for row in rows])

    likeness = [blurred(run.test) @ blurred(run.training).T for run in characters.runs]
    right = [a.argmax(1) == r.answers for a, r in zip(likeness, characters.runs, strict=True)]
    assert 0.2 < np.mean(right) < 0.7


def test_folders_and_small_sets(tmp_path, files, monkeypatch):
    lay(tmp_path, files)
    folder = tmp_path / "omniglot"
    full = omniglot.load("full", tmp_path)
    assert full.name == "Omniglot" and len(full.images) == 13 and len(full.runs) == 20
    # Two small sets: characters 1 to 8, and 5 to 12, of which 5 to 8 are the same; another in both.
    for name, numbers in (("small1", range(1, 9)), ("small2", range(5, 13))):
        places = [f"Alphabet_1/character{number:02d}" for number in numbers]
        for place in (*places, "Alphabet_2/character01"):
            shutil.copytree(folder / BACKGROUND / place, folder / f"{BACKGROUND}_{name}" / place)
    small = omniglot.load("full", tmp_path, small=True)
    assert small.name == "Omniglot's small sets"
    assert small.names == full.names and np.array_equal(small.images, full.images)
    assert omniglot.load("full", tmp_path).name == "Omniglot"  # the full set goes first
    shutil.rmtree(folder / BACKGROUND)
    assert omniglot.load("full", tmp_path).name == "Omniglot's small sets"
    shutil.rmtree(folder / f"{BACKGROUND}_small1")
    monkeypatch.setattr(omniglot, "download", lambda remote, _: pytest.fail(remote.path))
    with pytest.raises(pytest.fail.Exception, match=rf"omniglot/{BACKGROUND}\.zip"):
        omniglot.load("full", tmp_path)
    with pytest.raises(pytest.fail.Exception, match=rf"omniglot/{BACKGROUND}_small1\.zip"):
        omniglot.load("full", tmp_path, small=True)


DRAWING = f"omniglot/{BACKGROUND}/Alphabet_1/character03/0003_07.png"
LABELS = f"omniglot/{RUNS}/run02/class_labels.txt"
ITEM = f"omniglot/{RUNS}/run02/test/item05.png"


def swapped(labels):
    return labels.replace(b"run02/test/item03", b"run02/test/item99")


def without_a_line(labels):
    return b"\n".join(line for line in labels.split(b"\n") if b"item07" not in line)


def with_a_line_twice(labels):
    return labels + labels.partition(b"\n")[0]


def with_one_answer_for_two(labels):
    return re.sub(rb"class0[12]", b"class01", labels)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (DRAWING, None, "Alphabet_1/character03 has 19 drawings, expected 20"),
        (DRAWING, lambda _: b"", "character03/0003_07.png cannot be read: it is empty"),
        (DRAWING, lambda _: b"no picture", "0003_07.png cannot be read: it is no picture"),
        (DRAWING, lambda file: file[:-40], "0003_07.png cannot be read"),
        (DRAWING, lambda _: png(np.zeros((105, 28), np.uint8)), "28 x 105 pixels, expected 105"),
        (ITEM, None, "run02/test has 19 images, expected 20"),
        (ITEM, lambda _: png(np.zeros((10, 10), np.uint8)), "item05.png has 10 x 10 pixels"),
        (LABELS, None, "run02/class_labels.txt is missing"),
        (LABELS, lambda _: b"", "names run02/test/item01.png 0 times, expected once"),
        (LABELS, lambda _: bytes(range(256)), "names no test and training image"),
        (LABELS, swapped, "names no test and training image: 'run02/test/item99.png run02/"),
        (LABELS, without_a_line, "names run02/test/item07.png 0 times, expected once"),
        (LABELS, with_a_line_twice, "names run02/test/item01.png 2 times, expected once"),
        (LABELS, with_one_answer_for_two, "names run02/training/class01.png 2 times"),
        (LABELS.replace("02", "21"), lambda _: b"", "run21/class_labels.txt belongs to no"),
    ],
)
def test_what_is_broken_is_named(tmp_path, files, name, change, words):
    lay(tmp_path, files)
    if change:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(change(files.get(name)))
    else:
        (tmp_path / name).unlink()
    error = one_line_of(DataError, omniglot.load, "full", tmp_path)
    assert words in error and "is wrong" in error and "move it away" in error


def test_a_run_that_is_missing_or_lies_elsewhere_is_named(tmp_path, files):
    lay(tmp_path, files)
    folder = tmp_path / "omniglot" / RUNS
    shutil.move(folder / "run07", tmp_path / "run07")
    error = one_line_of(DataError, omniglot.load, "full", tmp_path)
    assert f"{folder} is wrong: run07/class_labels.txt is missing" in error
    shutil.move(tmp_path / "run07", folder / "more" / "run07")
    assert "run07/class_labels.txt" in one_line_of(DataError, omniglot.load, "full", tmp_path)


@pytest.mark.parametrize("place", [BACKGROUND, RUNS])
def test_archives_must_be_the_published_ones_and_folders_not_empty(tmp_path, files, place):
    lay(tmp_path, files)
    folder = tmp_path / "omniglot" / place
    shutil.rmtree(folder)
    folder.mkdir()
    assert "it has no " in one_line_of(DataError, omniglot.load, "full", tmp_path)
    folder.rmdir()
    (folder.parent / f"{place}.zip").write_bytes(b"PK")
    assert "is not the published file" in one_line_of(DataError, omniglot.load, "full", tmp_path)


@pytest.mark.real
@pytest.mark.skipif(
    not all((DOWNLOADS / r.path).is_file() for r in (omniglot._SMALL1, omniglot._SMALL2)),
    reason="lay all_runs.zip, images_background_small1.zip and 2 in datasets/downloads/omniglot",
)
def test_the_real_small_sets():
    found = omniglot.load("full", DOWNLOADS, small=True)
    folder = DOWNLOADS / "omniglot"
    assert (len(found.images), len(found.alphabets)) == (242, 8)  # docs/data.md says so, and this:
    assert {name.split("/")[0] for name in np.array(found.names)[found.held_back]} == {"Tagalog"}
    assert found.held_back.sum() == 17
    archives = [folder / f"{BACKGROUND}_small{i}.zip" for i in (1, 2)]
    check(found, archives, folder / f"{RUNS}.zip")
