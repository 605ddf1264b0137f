"""Checks datasets/cats_dogs.py: that all three published layouts are read alike, that names alone
decide the split, that every kind of broken file is found, reported and left out, and which archive
is used.
"""

import concurrent.futures
import io
import json
import os
import sys
import warnings
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from datasets import cats_dogs, sample  # noqa: E402
from datasets.download import DataError  # noqa: E402

DOWNLOADS = ROOT / "datasets" / "downloads"
LAYOUTS = {
    "kaggle": "train/{kind}.{number}.jpg",
    "microsoft": "PetImages/{Kind}/{number}.jpg",
    "small": "cats_and_dogs_filtered/{folder}/{kind}s/{kind}.{number}.jpg",
}
ARCHIVES = {
    "kaggle": "train.zip",
    "microsoft": "kagglecatsanddogs_5340.zip",
    "small": "cats_and_dogs_filtered.zip",
}


@pytest.fixture(autouse=True)
def no_download(monkeypatch):
    """Nothing is downloaded, but what lies where it would come to lie is taken for genuine."""

    def download(remote, data_dir):
        path = data_dir / remote.path
        assert path.exists(), f"would download {path.name}"
        return path

    monkeypatch.setattr(cats_dogs, "download", download)


def encoded(picture, form="JPEG", **options):
    content = io.BytesIO()
    picture.save(content, form, **options)
    return content.getvalue()


def photograph(seed=0, size=(30, 20)):
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)


JPEG = encoded(photograph())


def numbered(count, layout="kaggle"):
    """Names of the first `count` cats and as many dogs, in the order of the alphabet."""
    names = [
        LAYOUTS[layout].format(
            kind=kind,
            Kind=kind.title(),
            number=number,
            folder="train" if number < 2 * count // 3 else "validation",
        )
        for kind in ("cat", "dog")
        for number in range(count)
    ]
    return sorted(names)


def write(data_dir, members, archive="train.zip", compression=zipfile.ZIP_DEFLATED):
    """Write an archive: the members' contents by their names, or names alone."""
    path = data_dir / "cats_dogs" / archive
    path.parent.mkdir(parents=True, exist_ok=True)
    contents = members if isinstance(members, dict) else dict.fromkeys(members, JPEG)
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in contents.items():
            file.writestr(name, content)
    return path


def load_error(data_dir, **options):
    with pytest.raises(DataError) as error:
        cats_dogs.load("full", data_dir, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def sides(photographs):
    """The part and the label of each photograph, by (kind, number)."""
    result = {}
    for part in ("train", "validation", "test"):
        for name, label in getattr(photographs, part):
            kind = "dog" if "dog." in name or "/Dog/" in name else "cat"
            number = int("".join(filter(str.isdigit, name)))
            result[kind, number] = part, label
    return result


# --- Sample data ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def faces(sample_dir):
    return cats_dogs.load("sample", sample_dir)


def test_sample_data_is_called_so_and_has_kaggle_s_layout(faces):
    assert faces.name == "sample data: drawn cats and dogs"
    assert {p.name for p in faces.train} <= set(numbered(500))
    assert len(faces.train) + len(faces.validation) + len(faces.test) == 1000 - 7
    assert len(faces.test) == 200


def test_what_is_broken_in_the_sample_data_is_found(faces):
    expected = {
        "train/Thumbs.db": "its name",
        "train/cat.20.jpg": "it is empty",
        "train/cat.21.jpg": "truncated",
        "train/cat.22.jpg": "it is no image",
        "train/cat.23.jpg": "its colours are L",
        "train/dog.20.jpg": "it is BMP",
        "train/dog.21.jpg": "it is GIF",
        "train/dog.22.jpg": "its colours are CMYK",
    }
    assert faces.left_out.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in faces.left_out[name]
    report = json.loads(faces.report.read_text())
    assert report["archive"] == "train.zip"
    assert report["left_out_count"] == 8
    assert report["left_out"] == faces.left_out


def test_photographs_are_decoded_as_opencv_decodes_them(faces):
    shapes = set()
    for chosen in faces.test[:40]:
        jpeg = faces.read(chosen)
        image = cats_dogs.decode(jpeg)
        assert image.dtype == np.uint8
        expected = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
        assert image.shape == expected.shape
        assert np.abs(image.astype(int) - expected).max() <= 2
        shapes.add(image.shape)
    assert len(shapes) > 30


def test_labels_are_those_of_the_drawings(faces):
    """The mean of all cats and that of all dogs are nearer to their own kind."""

    def small(part):
        images = [cv2.resize(cats_dogs.decode(faces.read(p)), (24, 24)) for p in part]
        edges = [np.abs(cv2.Laplacian(image, cv2.CV_32F)).sum(axis=-1) for image in images]
        return np.stack(edges), np.array([p.label for p in part])

    edges, labels = small(faces.train[:300])
    test_edges, test_labels = small(faces.test[:100])
    means = np.stack([edges[labels == label].mean(axis=0) for label in (0, 1)])
    distances = ((test_edges[:, None] - means) ** 2).sum(axis=(2, 3))
    assert np.mean(distances.argmin(axis=1) == test_labels) > 0.7


# --- Pictures of the user's own -------------------------------------------------------------------


def test_a_picture_in_any_format(tmp_path):
    picture = photograph()
    for form in ("PNG", "BMP", "TIFF", "GIF", "WEBP"):
        (tmp_path / "a").write_bytes(
            encoded(picture, form, **{"lossless": True} if form == "WEBP" else {})
        )
        found = cats_dogs.read_picture(tmp_path / "a")
        assert found.dtype == np.uint8
        difference = np.abs(found.astype(int) - np.asarray(picture))
        assert difference.mean() < (10 if form == "GIF" else 0.01)  # GIF has 256 colours
    (tmp_path / "a").write_bytes(encoded(picture.convert("L"), "PNG"))
    found = cats_dogs.read_picture(tmp_path / "a")
    np.testing.assert_array_equal(
        found, np.repeat(np.asarray(picture.convert("L"))[..., None], 3, 2)
    )


def test_a_picture_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side: turn it by 90 degrees clockwise
    (tmp_path / "a.jpg").write_bytes(encoded(photograph(), quality=95, exif=exif))
    found = cats_dogs.read_picture(tmp_path / "a.jpg")
    assert found.shape == (30, 20, 3)
    upright = np.rot90(np.asarray(photograph()), -1)
    assert np.abs(found.astype(int) - upright).mean() < 5


def test_what_is_transparent_becomes_white(tmp_path):
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = 10, 20, 30, 255
    (tmp_path / "a.png").write_bytes(encoded(Image.fromarray(pixels), "PNG"))
    found = cats_dogs.read_picture(tmp_path / "a.png")
    assert found[0, 0].tolist() == [10, 20, 30]
    assert np.all(found[1] == 255)


@pytest.mark.parametrize("content", [None, b"", b"no picture", encoded(photograph(), "PNG")[:-30]])
def test_a_picture_that_cannot_be_read(tmp_path, content):
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png") as error:
        cats_dogs.read_picture(tmp_path / "a.png")
    assert "\n" not in str(error.value)


def test_a_monstrous_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(cats_dogs, "MAX_PIXELS", 599)
    (tmp_path / "a.png").write_bytes(encoded(photograph(), "PNG"))
    with pytest.raises(DataError, match="more than 599 pixels"):
        cats_dogs.read_picture(tmp_path / "a.png")


# --- Reading with several threads -----------------------------------------------------------------


def test_several_threads_may_read_at_once(faces):
    chosen = faces.train[:200]
    one_by_one = [faces.read(p) for p in chosen]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(faces.read, chosen)) == one_by_one


# --- Layouts and sources --------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_parts_and_labels(tmp_path, layout):
    extra = {"readme[1].txt": b"terms", "PetImages/Dog/Thumbs.db": b"thumbs", "a/": b""}
    members = dict.fromkeys(numbered(60, layout), JPEG) | extra
    write(tmp_path, members, ARCHIVES[layout])
    photographs = cats_dogs.load("full", tmp_path, small=layout == "small")
    found = sides(photographs)
    assert len(found) == 120
    for (kind, number), (part, label) in found.items():
        assert label == ("cat", "dog").index(kind)
        assert (part == "test") == (number % 10 in (4, 9))
    assert photographs.name == "120 photographs of cats and dogs"
    assert sorted(photographs.left_out) == ["PetImages/Dog/Thumbs.db", "readme[1].txt"]
    assert photographs.report.name == f"{ARCHIVES[layout]}.report.json"


def test_the_user_s_own_archive_goes_first(tmp_path):
    write(tmp_path, numbered(20, "microsoft"), ARCHIVES["microsoft"])
    write(tmp_path, numbered(20, "small"), ARCHIVES["small"])
    for small, layout in ((False, "microsoft"), (True, "small")):
        photographs = cats_dogs.load("full", tmp_path, small)
        assert Path(photographs.archive.filename).name == ARCHIVES[layout]
    write(tmp_path, numbered(20))
    for small in (False, True):
        photographs = cats_dogs.load("full", tmp_path, small)
        assert Path(photographs.archive.filename).name == "train.zip"


@pytest.mark.parametrize("small", [False, True])
def test_an_archive_that_is_not_the_published_one_is_refused(tmp_path, monkeypatch, small):
    from datasets import download

    monkeypatch.setattr(cats_dogs, "download", download.download)
    path = write(tmp_path, numbered(20), ARCHIVES["small" if small else "microsoft"])
    error = load_error(tmp_path, small=small)
    assert str(path) in error
    assert "not the published file" in error


def test_data_is_full_or_sample(tmp_path):
    with pytest.raises(ValueError, match="ful"):
        cats_dogs.load("ful", tmp_path)


# --- The split ------------------------------------------------------------------------------------


def test_two_thousand_photographs_are_1600_and_400(tmp_path):
    write(tmp_path, numbered(1000))
    photographs = cats_dogs.load("full", tmp_path)
    parts = photographs.train, photographs.validation, photographs.test
    assert [len(part) for part in parts] == [1440, 160, 400]
    for part in parts:
        labels = [p.label for p in part]
        assert labels == [0, 1] * (len(part) // 2)  # in turn
    fewer = cats_dogs.load("full", tmp_path, validation_share=20)
    assert [len(p) for p in (fewer.train, fewer.validation, fewer.test)] == [1520, 80, 400]
    assert fewer.test == photographs.test
    assert set(fewer.validation) <= set(photographs.validation)


def test_a_photograph_never_changes_sides(tmp_path):
    write(tmp_path / "all", numbered(100))
    every = sides(cats_dogs.load("full", tmp_path / "all"))
    kept = [name for name in numbered(100) if "7" not in name] + ["train/dog.12499.jpg"]
    members = dict.fromkeys(reversed(kept), JPEG) | {"train/cat.3.jpg": b"", "train/dog.4.jpg": b""}
    write(tmp_path / "some", members)
    some = sides(cats_dogs.load("full", tmp_path / "some"))
    assert some.pop(("dog", 12499)) == ("test", 1)
    assert len(some) == len(kept) - 1 - 2
    assert all(every[photograph] == side for photograph, side in some.items())


# --- What is no photograph ------------------------------------------------------------------------


def checked(tmp_path, content, name="train/cat.5.jpg"):
    """Load an archive with one doubtful file; return why it is left out."""
    write(tmp_path, dict.fromkeys(numbered(20), JPEG) | {name: content})
    left_out = cats_dogs.load("full", tmp_path).left_out
    assert left_out.keys() <= {name}
    return left_out.get(name, "")


GREY, CMYK = photograph().convert("L"), photograph().convert("CMYK")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"<html>404 Not Found</html>", "it is no image"),
        (bytes(3000), "it is no image"),
        (b"\xff\xd8\xff", "it"),
        (JPEG[: len(JPEG) // 2], "it cannot be decoded"),
        (JPEG[:-2], "truncated"),
        (encoded(photograph(), "BMP"), "it is BMP, not JPEG"),
        (encoded(photograph(), "GIF"), "it is GIF, not JPEG"),
        (encoded(photograph(), "PNG"), "it is PNG, not JPEG"),
        (encoded(GREY), "its colours are L, not RGB"),
        (encoded(CMYK), "its colours are CMYK, not RGB"),
    ],
)
def test_what_is_no_photograph_is_left_out(tmp_path, content, reason):
    assert reason in checked(tmp_path, content)


@pytest.mark.parametrize(
    "content",
    [
        JPEG,
        JPEG + b"more bytes than there should be",
        encoded(photograph(), progressive=True),
        encoded(photograph(size=(1, 1))),
        encoded(photograph(), exif=b"Exif\0\0II*\0\x08\0\0\0\xff\x00damaged"),
        encoded(photograph(), "MPO", save_all=True, append_images=[photograph(1)]),
    ],
    ids=["whole", "longer", "progressive", "one pixel", "damaged Exif", "two in one"],
)
def test_a_photograph_is_one(tmp_path, content, capfd):
    with warnings.catch_warnings():
        warnings.filterwarnings("default")
        warnings.filterwarnings("ignore", module=r"PIL\.")  # as the module asks when it is imported
        assert checked(tmp_path, content) == ""
        assert cats_dogs.decode(content).shape[-1] == 3
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "name", ["train/Thumbs.db", "train/cat.jpg", "train/._cat.1.jpg", "train/bird.1.jpg", "1.jpg"]
)
def test_a_name_that_does_not_say_what_it_is(tmp_path, name):
    assert "its name" in checked(tmp_path, JPEG, name)


@pytest.mark.parametrize(("limit", "reason"), [("MAX_BYTES", "bytes"), ("MAX_PIXELS", "pixels")])
def test_monstrous_files_are_left_out(tmp_path, monkeypatch, limit, reason):
    large = encoded(photograph(size=(200, 100)))
    monkeypatch.setattr(cats_dogs, limit, {"bytes": len(JPEG), "pixels": 600}[reason])
    assert reason in checked(tmp_path, large)


def test_a_file_with_a_wrong_checksum_is_left_out(tmp_path):
    path = write(tmp_path, numbered(20), compression=zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.index(b"train/cat.7.jpg") + 100] ^= 1
    path.write_bytes(content)
    left_out = cats_dogs.load("full", tmp_path).left_out
    assert left_out.keys() == {"train/cat.7.jpg"}
    assert "damaged in the archive" in left_out["train/cat.7.jpg"]


@pytest.mark.parametrize(("place", "value"), [(8, 1), (10, 97)], ids=["encrypted", "compression"])
def test_a_file_that_zipfile_cannot_read_is_left_out(tmp_path, place, value):
    path = write(tmp_path, numbered(20))
    content = bytearray(path.read_bytes())
    # Flags and compression in the archive's directory; before the files they are two bytes earlier.
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(b"train/cat.7.jpg"))
    local = content.rindex(b"PK\x03\x04", 0, content.index(b"train/cat.7.jpg"))
    content[entry + place] = content[local + place - 2] = value
    path.write_bytes(content)
    assert cats_dogs.load("full", tmp_path).left_out.keys() == {"train/cat.7.jpg"}


# --- The report -----------------------------------------------------------------------------------


def test_nothing_is_decoded_again(tmp_path, monkeypatch):
    write(tmp_path, dict.fromkeys(numbered(20), JPEG) | {"train/cat.5.jpg": b""})
    first = cats_dogs.load("full", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(cats_dogs, "_problem", lambda *_: pytest.fail("decoded again"))
        again = cats_dogs.load("full", tmp_path)
    assert (again.left_out, again.train) == (first.left_out, first.train)

    write(tmp_path, dict.fromkeys(numbered(20), JPEG) | {"train/cat.6.jpg": b""})
    assert cats_dogs.load("full", tmp_path).left_out.keys() == {"train/cat.6.jpg"}


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"left_out": 3}', b"\xff"])
def test_a_damaged_report_is_made_anew(tmp_path, content):
    write(tmp_path, dict.fromkeys(numbered(20), JPEG) | {"train/cat.5.jpg": b""})
    report = cats_dogs.load("full", tmp_path).report
    whole = report.read_text()
    report.write_bytes(content)
    assert cats_dogs.load("full", tmp_path).left_out.keys() == {"train/cat.5.jpg"}
    assert report.read_text() == whole
    assert os.listdir(report.parent) == ["train.zip", report.name]


def test_a_folder_that_cannot_be_written_is_no_obstacle(tmp_path, monkeypatch):
    write(tmp_path, dict.fromkeys(numbered(20), JPEG) | {"train/cat.5.jpg": b""})

    def write_text(path, text):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", write_text)
    photographs = cats_dogs.load("full", tmp_path)
    assert photographs.left_out.keys() == {"train/cat.5.jpg"}
    assert not photographs.report.exists()


# --- Archives that cannot be used -----------------------------------------------------------------


def test_an_archive_that_is_none(tmp_path):
    path = write(tmp_path, numbered(20))
    whole = path.read_bytes()
    for content in (b"", b"no zip", whole[:-50], whole[: len(whole) // 2]):
        path.write_bytes(content)
        error = load_error(tmp_path)
        assert str(path) in error
        assert "no whole zip archive" in error


@pytest.mark.parametrize("names", [[], ["test1/1.jpg"], ["train.zip", "test1.zip"], numbered(2)])
def test_an_archive_without_photographs(tmp_path, names):
    path = write(tmp_path, names)
    error = load_error(tmp_path)
    assert str(path) in error
    assert "too few photographs such as train/cat.0.jpg" in error


def test_a_folder_in_the_archive_s_place(tmp_path):
    path = tmp_path / "cats_dogs" / "train.zip"
    path.mkdir(parents=True)
    assert str(path) in load_error(tmp_path)


def test_an_archive_that_is_damaged_later(tmp_path):
    path = write(tmp_path, numbered(20))
    photographs = cats_dogs.load("full", tmp_path)
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DataError, match=r"cannot read .*train\.zip"):
        photographs.read(photographs.train[0])


# --- Real data ------------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.skipif(
    not (DOWNLOADS / "cats_dogs" / "train.zip").is_file(),
    reason="lay Kaggle's train.zip, or a part of it, in datasets/downloads/cats_dogs",
)
def test_the_real_photographs():
    photographs = cats_dogs.load("full", DOWNLOADS)
    parts = photographs.train, photographs.validation, photographs.test
    count = sum(map(len, parts))
    assert photographs.name == f"{count:,} photographs of cats and dogs"
    assert len(photographs.test) == pytest.approx(count / 5, abs=2)
    image = cats_dogs.decode(photographs.read(photographs.train[0]))
    assert min(image.shape[:2]) > 30


def test_sample_and_real_layout_are_the_same():
    assert sample.FACE_KINDS == cats_dogs.CLASS_NAMES
