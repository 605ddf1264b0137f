"""Checks datasets/cats_dogs.py: all three published layouts, the split, broken files, archives."""

import concurrent.futures
import io
import json
import os
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from programs import ROOT, one_line_of

from datasets import cats_dogs, drawings, photographs, pictures
from datasets.download import DataError

DOWNLOADS = ROOT / "datasets" / "downloads"
LAYOUTS = {  # by archive
    "train.zip": "train/{kind}.{number}.jpg",
    "kagglecatsanddogs_5340.zip": "PetImages/{Kind}/{number}.jpg",
    "cats_and_dogs_filtered.zip": "cats_and_dogs_filtered/train/{kind}s/{kind}.{number}.jpg",
}
KAGGLE, _, SMALL = LAYOUTS


def encoded(picture, form="JPEG", **options):
    content = io.BytesIO()
    picture.save(content, form, **options)
    return content.getvalue()


def photograph(seed=0, size=(30, 20)):
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)


JPEG = encoded(photograph())


def numbered(count, archive=KAGGLE):
    """Names of the first `count` cats and as many dogs, in the order of the alphabet."""
    layout, numbers = LAYOUTS[archive], range(count)
    kinds = ("cat", "dog")
    return sorted(layout.format(kind=k, Kind=k.title(), number=n) for k in kinds for n in numbers)


def write(data_dir, names, archive=KAGGLE, compression=zipfile.ZIP_DEFLATED, **contents):
    """Write an archive: a photograph for each name, and other contents by their names."""
    path = data_dir / "cats_dogs" / archive
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in (dict.fromkeys(names, JPEG) | contents).items():
            file.writestr(name, content)
    return path


def load_error(data_dir, small=False):
    return one_line_of(DataError, cats_dogs.load, "full", data_dir, small)


def sides(data):
    """The part and the label of each photograph, by (kind, number)."""
    result = {}
    for part in ("train", "validation", "test"):
        for name, label in getattr(data, part):
            kind = "dog" if "dog." in name or "/Dog/" in name else "cat"
            result[kind, int("".join(filter(str.isdigit, name)))] = part, label
    return result


@pytest.fixture(scope="module")
def faces(sample_dir):
    return cats_dogs.load("sample", sample_dir)


def test_sample_data_and_what_is_broken_in_it(faces):
    assert faces.name == "sample data: drawn cats and dogs"
    assert drawings.FACE_KINDS == cats_dogs.CLASS_NAMES
    assert {p.name for p in faces.train} <= set(numbered(500))
    assert len(faces.train) + len(faces.validation) + len(faces.test) == 1000 - 3
    expected = {
        "train/Thumbs.db": "its name",
        "train/cat.20.jpg": "it is empty",
        "train/cat.21.jpg": "truncated",
        "train/cat.22.jpg": "it is no picture",
    }
    assert faces.left_out.keys() == expected.keys()
    assert all(reason in faces.left_out[name] for name, reason in expected.items())
    report = json.loads(faces.report.read_text())
    assert report["left_out_count"] == 4
    assert report["left_out"] == faces.left_out


def test_photographs_are_decoded_as_opencv_does_also_by_several_threads(faces):
    chosen = faces.train[:200]
    one_by_one = [faces.read(p) for p in chosen]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(faces.read, chosen)) == one_by_one
    images = [pictures.decode(jpeg) for jpeg in one_by_one[:40]]
    assert len({image.shape for image in images}) > 30
    for jpeg, image in zip(one_by_one, images, strict=False):
        expected = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
        assert (image.shape, image.dtype) == (expected.shape, np.uint8)
        assert np.abs(image.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("archive", LAYOUTS)
def test_every_layout_gives_the_same_parts_and_labels(tmp_path, monkeypatch, archive):
    extra = {"readme[1].txt": b"terms", "PetImages/Dog/Thumbs.db": b"thumbs", "a/": b""}
    write(tmp_path, numbered(60, archive), archive, **extra)
    if archive != KAGGLE:
        error = load_error(tmp_path, archive == SMALL)
        assert f"{archive} is wrong: it is not the published file" in error
    # From here on, what lies where a download would come to lie is taken for genuine.
    monkeypatch.setattr(cats_dogs, "download", lambda remote, data_dir: data_dir / remote.path)
    found = cats_dogs.load("full", tmp_path, small=archive == SMALL)
    assert len(sides(found)) == 120
    for (kind, number), (part, label) in sides(found).items():
        assert label == ("cat", "dog").index(kind)
        assert (part == "test") == (number % 10 in (4, 9))
    assert found.name == "120 photographs of cats and dogs"
    assert sorted(found.left_out) == ["PetImages/Dog/Thumbs.db", "readme[1].txt"]
    assert found.report.name == f"{archive}.report.json"
    write(tmp_path, numbered(20))
    assert len(sides(cats_dogs.load("full", tmp_path, archive == SMALL))) == 40  # train.zip first


def test_two_thousand_photographs_are_1600_and_400(tmp_path):
    write(tmp_path, numbered(1000))
    found = cats_dogs.load("full", tmp_path)
    parts = found.train, found.validation, found.test
    assert [len(part) for part in parts] == [1440, 160, 400]
    for part in parts:
        assert [p.label for p in part] == [0, 1] * (len(part) // 2)  # in turn
    fewer = cats_dogs.load("full", tmp_path, validation_share=20)
    assert [len(p) for p in (fewer.train, fewer.validation, fewer.test)] == [1520, 80, 400]
    assert fewer.test == found.test
    assert set(fewer.validation) <= set(found.validation)


def test_a_photograph_never_changes_sides(tmp_path):
    write(tmp_path / "all", numbered(100))
    every = sides(cats_dogs.load("full", tmp_path / "all"))
    kept = [name for name in numbered(100) if "7" not in name] + ["train/dog.12499.jpg"]
    write(tmp_path / "some", kept[::-1], **{"train/cat.3.jpg": b"", "train/dog.4.jpg": b""})
    some = sides(cats_dogs.load("full", tmp_path / "some"))
    assert some.pop(("dog", 12499)) == ("test", 1)
    assert len(some) == len(kept) - 1 - 2
    assert all(every[photograph] == side for photograph, side in some.items())


LARGE, NAME = encoded(photograph(size=(200, 100))), "train/cat.5.jpg"


@pytest.mark.parametrize(
    ("content", "reason", "name"),
    [
        (b"", "it is empty", NAME),
        (b"<html>404 Not Found</html>", "it is no picture", NAME),
        (bytes(3000), "it is no picture", NAME),
        (b"\xff\xd8\xff", "it", NAME),
        (JPEG[: len(JPEG) // 2], "runcated", NAME),
        (JPEG[:-2], "truncated", NAME),
        (LARGE, "pixels", NAME),
        (JPEG + bytes(5000), "bytes", NAME),
        *((JPEG, "its name", name) for name in ("train/Thumbs.db", "train/cat.jpg", "1.jpg")),
        *((JPEG, "its name", name) for name in ("train/._cat.1.jpg", "train/bird.1.jpg")),
    ],
)
def test_what_is_no_photograph_is_left_out(tmp_path, monkeypatch, content, reason, name):
    monkeypatch.setattr(photographs, "MAX_BYTES", 5000)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 600)
    write(tmp_path, numbered(20), **{name: content})
    left_out = cats_dogs.load("full", tmp_path).left_out
    assert left_out.keys() == {name} and reason in left_out[name]


@pytest.mark.parametrize(
    "content",
    [
        JPEG,
        JPEG + b"more bytes than there should be",
        encoded(photograph(), progressive=True),
        encoded(photograph(size=(1, 1))),
        encoded(photograph(), exif=b"Exif\0\0II*\0\x08\0\0\0\xff\x00damaged"),
        encoded(photograph(), "MPO", save_all=True, append_images=[photograph(1)]),
        *(encoded(photograph(), form) for form in ("BMP", "GIF", "PNG", "WEBP", "TIFF")),
        *(encoded(photograph().convert(mode)) for mode in ("L", "CMYK")),
    ],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_photograph_is_one(tmp_path, content):
    write(tmp_path, numbered(20), **{NAME: content})
    assert not cats_dogs.load("full", tmp_path).left_out
    assert pictures.decode(content).shape[-1] == 3


# Bytes of the file, however it is packed; and, in the archive's directory, its flags and its
# compression, which stand two bytes earlier before the file itself.
@pytest.mark.parametrize(
    ("place", "value", "compression"),
    [
        (None, 0, zipfile.ZIP_STORED),
        (None, 0, zipfile.ZIP_DEFLATED),
        (None, 0, zipfile.ZIP_BZIP2),
        (None, 0, zipfile.ZIP_LZMA),
        (8, 1, zipfile.ZIP_STORED),
        (10, 97, zipfile.ZIP_STORED),
    ],
)
def test_a_file_that_zipfile_cannot_read_is_left_out(tmp_path, place, value, compression):
    path = write(tmp_path, numbered(20), compression=compression)
    content = bytearray(path.read_bytes())
    if place is None:
        damaged = content.index(b"train/cat.7.jpg") + 50
        content[damaged : damaged + 50] = bytes(50)
    else:
        entry = content.rindex(b"PK\x01\x02", 0, content.rindex(b"train/cat.7.jpg"))
        local = content.rindex(b"PK\x03\x04", 0, content.index(b"train/cat.7.jpg"))
        content[entry + place] = content[local + place - 2] = value
    path.write_bytes(content)
    left_out = cats_dogs.load("full", tmp_path).left_out
    assert left_out.keys() == {"train/cat.7.jpg"}
    assert "cannot read " in left_out["train/cat.7.jpg"]


def read_only(*_):
    raise PermissionError(13, "Permission denied")


def test_nothing_is_decoded_again_while_the_archive_is_the_same(tmp_path, monkeypatch):
    write(tmp_path, numbered(20), **{NAME: b""})
    first = cats_dogs.load("full", tmp_path)
    whole = first.report.read_text()
    with monkeypatch.context() as patch:
        patch.setattr(photographs, "_fault", lambda *_: pytest.fail("decoded again"))
        again = cats_dogs.load("full", tmp_path)
    assert (again.left_out, again.train) == (first.left_out, first.train)
    for damaged in (b"", b"[]", b"{}", b'{"left_out": 3}', b"\xff"):
        first.report.write_bytes(damaged)
        assert cats_dogs.load("full", tmp_path).left_out == first.left_out
        assert first.report.read_text() == whole
    assert sorted(os.listdir(first.report.parent)) == ["train.zip", first.report.name]
    write(tmp_path, numbered(20), **{"train/cat.6.jpg": b""})
    monkeypatch.setattr(Path, "write_text", read_only)
    assert cats_dogs.load("full", tmp_path).left_out.keys() == {"train/cat.6.jpg"}


def test_archives_that_cannot_be_used_or_are_damaged_later(tmp_path):
    for names in ([], numbered(2)):
        path = write(tmp_path, names)
        assert f"{path} is wrong: it has too few photographs" in load_error(tmp_path)
    for names in (["test1/1.jpg"], ["train.zip", "test1.zip"]):
        write(tmp_path, names)
        assert f"{path}: it takes two sub-folders" in load_error(tmp_path)
    write(tmp_path, numbered(20))
    found = cats_dogs.load("full", tmp_path)
    whole = path.read_bytes()
    for content in (b"", b"no zip", whole[:-50], whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert f"{path} is wrong: it is no whole zip archive" in load_error(tmp_path)
    path.write_bytes(bytes(len(whole)))
    with pytest.raises(DataError, match=r"cannot read .*train\.zip"):
        found.read(found.train[0])
    path.unlink()
    path.mkdir()
    assert str(path) in load_error(tmp_path)


@pytest.mark.real
@pytest.mark.skipif(
    not (DOWNLOADS / "cats_dogs" / "train.zip").is_file(),
    reason="lay Kaggle's train.zip, or a part of it, in datasets/downloads/cats_dogs",
)
def test_the_real_photographs():
    found = cats_dogs.load("full", DOWNLOADS)
    assert len(found.test) == pytest.approx(len(sides(found)) / 5, abs=2)
    assert min(pictures.decode(found.read(found.train[0])).shape[:2]) > 30
