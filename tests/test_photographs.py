"""Checks datasets/photographs.py and pictures of one's own, in folders and archives."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from programs import arguments, error_of, one_line_of, run, without_pictures

from datasets import photographs, pictures, voc
from datasets.files import DataError
from examples import example10_cats_dogs_tfrecord as example10
from examples import example11_vgg16_cats_dogs as example11

COLOURS = {"Äpfel": (200, 30, 30), "birnen": (60, 190, 60), "c [1] *": (40, 40, 200)}
FORMS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"]


def picture(colour, number, form):
    """A noisy picture of mostly one colour, as a file of any format."""
    rng, content = np.random.default_rng(number), io.BytesIO()
    image = Image.fromarray(np.uint8(np.clip(colour + rng.normal(0, 20, (40, 50, 3)), 0, 255)))
    image.save(content, form)
    return content.getvalue()


def lay(folder, count=20, classes=COLOURS):
    """Lay `count` photographs of each class, at any depth, under names of any kind."""
    for name in classes:
        for i in range(count):
            form = FORMS[i % len(FORMS)]
            sub = folder / name / ["", "2024", "2024/summer"][i % 3]
            sub.mkdir(parents=True, exist_ok=True)
            ending = ["", ".jpg", ".JPEG", f".{form.lower()}"][i % 4]
            (sub / f"IMG {i}{ending}").write_bytes(picture(COLOURS[name], i, form))
    return folder


def load(folder, tmp_path):
    return photographs.load(folder, tmp_path / "report.json")


def pack(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))
    return path


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return lay(tmp_path_factory.mktemp("own"))


def test_folder_and_archive_give_the_same_parts(own, tmp_path):
    found = load(own, tmp_path)
    assert found.class_names == tuple(sorted(COLOURS))
    assert not found.left_out
    assert found.name == f"60 photographs of {', '.join(sorted(COLOURS))}"
    parts = found.train, found.validation, found.test
    assert [len(part) for part in parts] == [45, 3, 12]
    for part, each in zip(parts, (15, 1, 4), strict=True):
        assert np.bincount([p.label for p in part]).tolist() == [each] * 3  # stratified
        for photograph in part:
            mean = pictures.decode(found.read(photograph)).mean(axis=(0, 1))
            colour = COLOURS[found.class_names[photograph.label]]
            assert np.abs(mean - colour).max() < 15
    assert len({p.name for part in parts for p in part}) == 60  # none in two parts
    packed = load(pack(own, tmp_path / "own.zip"), tmp_path)  # all in one more folder
    top = f"{own.name}/"
    assert [p.name.removeprefix(top) for p in packed.test] == sorted(
        (p.name.removeprefix(top) for p in packed.test), key=lambda n: photographs._mixed(top + n)
    )
    assert packed.class_names == found.class_names
    assert len(packed.train) == 45


def test_what_is_added_to_one_class_does_not_move_another(own, tmp_path):
    before = load(own, tmp_path)
    more = lay(tmp_path / "more")
    for i in range(9):
        (more / "birnen" / f"new{i}").write_bytes(picture(COLOURS["birnen"], 100 + i, "PNG"))
    after = load(more, tmp_path)
    birnen = sorted(COLOURS).index("birnen")
    same = [p for p in after.test if p.label != birnen]
    assert same == [p for p in before.test if p.label != birnen]
    assert len(after.test) == len(before.test) + 1


def test_what_cannot_be_read_is_left_out_and_listed(own, tmp_path):
    folder = lay(tmp_path / "mixed", classes=["Äpfel", "birnen"])
    (folder / "birnen" / "._IMG 1.jpg").write_bytes(b"macOS")
    (folder / "__MACOSX").mkdir()
    bad = {
        "birnen/cut.jpg": (picture((9, 9, 9), 0, "JPEG")[:-200], "truncated"),
        "birnen/Thumbs.db": (b"what Windows leaves", "it is no picture"),
        "Äpfel/a.heic": (bytes(4) + b"ftypheic" + bytes(40), "export it as JPEG"),
        "alone.jpg": (picture((9, 9, 9), 0, "JPEG"), "it lies in no sub-folder"),
        os.fsdecode(b"birnen/caf\xe9.jpg"): (b"", "it is empty"),
    }
    for name, (content, _) in bad.items():
        (folder / name).write_bytes(content)
    found = load(folder, tmp_path)
    assert found.left_out.keys() == bad.keys()
    for name, (_, reason) in bad.items():
        assert reason in found.left_out[name]
    assert "5 files left out" in found.summary(1)
    assert '"left_out_count": 5' in (tmp_path / "report.json").read_text()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, ["cannot read", "No such file"]),
        (lambda folder: folder.mkdir(), ["two sub-folders", "there is none", "(0 files found"]),
        (lambda folder: lay(folder, classes=["birnen"]), ["there is only 'birnen'", "20 files"]),
        (lambda folder: lay(folder, 4), ["5 photographs at least", "'birnen' has 4"]),
        (lambda folder: (lay(folder) / "empty").mkdir(), ["'empty' has 0", "60 files found"]),
    ],
)
def test_what_is_missing_is_named(tmp_path, make, words):
    make(tmp_path / "photos")
    error = one_line_of(DataError, load, tmp_path / "photos", tmp_path)
    assert all(word in error for word in [str(tmp_path / "photos"), *words]), error


@pytest.mark.parametrize("call", [photographs.load, photographs.load_pictures, voc.load])
def test_an_archive_of_one_s_own_cannot_be_had_anew(call, tmp_path):
    path = tmp_path / "own.zip"
    path.write_bytes(b"no zip")
    error = one_line_of(DataError, call, path, tmp_path / "report.json")
    assert f"{path}: it is no whole zip archive" in error and "move it away" not in error


def test_no_more_is_read_than_a_file_may_have(tmp_path, monkeypatch):
    monkeypatch.setattr(photographs, "MAX_BYTES", 1000)
    for name, size in (("right", 1000), ("large", 1001)):
        (tmp_path / "own" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "own" / name).write_bytes(bytes(size))
    for path in (tmp_path / "own", pack(tmp_path / "own", tmp_path / "own.zip")):
        files = photographs.Files(path)
        large, right = files.names
        assert files.read(right) == bytes(1000)
        with monkeypatch.context() as patch:  # it is not even unpacked
            patch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("read"))
            patch.setattr(Path, "read_bytes", lambda *_: pytest.fail("read"))
            assert "more than 1,000 bytes" in one_line_of(DataError, files.read, large)


def test_names_in_an_archive_that_are_no_text(own, tmp_path):
    path = pack(own, tmp_path / "own.zip")
    whole, name = path.read_bytes(), "Äpfel/IMG".encode()
    path.write_bytes(whole.replace(name, b"\xff" + name[1:], 1))  # before one of the files
    (fault,) = load(path, tmp_path).left_out.values()
    assert "cannot read" in fault
    place = whole.rindex(name)  # in the archive's directory
    path.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
    assert "it is no whole zip archive" in one_line_of(DataError, load, path, tmp_path)


def test_a_class_of_files_that_cannot_be_read(tmp_path):
    folder = lay(tmp_path / "photos", classes=["Äpfel", "birnen"])
    (folder / "films").mkdir()
    for i in range(30):
        (folder / "films" / f"{i}.mov").write_bytes(bytes(4) + b"ftypqt  ")
    error = one_line_of(DataError, load, folder, tmp_path)
    assert "'films' has 0" in error and "70 files found, 30 left out, most of them since" in error
    assert "export it as JPEG" in error and str(tmp_path / "report.json") in error


def test_pictures_of_a_folder_have_names_of_their_own(own):
    found = dict(pictures.read_pictures(own, 32))
    assert len(found) == 60
    assert "birnen/2024/IMG 1.jpg" in found  # there are three IMG 1
    assert all(image.shape == (32, 32, 3) for image in found.values())


def test_examples_10_and_11_tell_classes_of_one_s_own(own, sample_dir, tmp_path, capsys):
    argv = [*arguments(sample_dir, tmp_path), "--photos", own]
    made = without_pictures(example10.main, *argv, "--epochs", 2)
    assert made["data"] == "60 photographs of birnen, c [1] *, Äpfel"
    metrics, output = run(example11.main, *argv)
    assert metrics["test_accuracy"] > 0.9, output
    _, output = run(example11.main, "--models-dir", tmp_path, "--image", own)
    header, *rows = (tmp_path / example11.NAME / "predictions.csv").read_text().splitlines()
    assert header == "id,birnen,c [1] *,Äpfel"
    assert len(rows) == 60
    right = [
        row.partition("/")[0] == header.split(",")[1:][np.argmax(row.split(",")[1:])]
        for row in rows
    ]
    assert np.mean(right) > 0.8  # chance is 0.33
    assert "birnen" in output
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "two sub-folders" in error_of(example11.main, capsys, *argv, "--photos", empty)
