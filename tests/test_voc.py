"""Checks datasets/voc.py and bccd.py: boxes and pixels agree, and what is faulty is named."""

import json
import re
import shutil
import zipfile

import cv2
import numpy as np
import pytest
from PIL import Image
from programs import ROOT, one_line_of, png

from datasets import bccd, photographs, sample, voc
from datasets.files import DataError

DOWNLOADS = ROOT / "datasets" / "downloads"
BCCD = DOWNLOADS / "bccd" / "BCCD_Dataset-1.0"
WIDTH, HEIGHT = 40, 30
CAT = ("cat", 5, 6, 20, 25)


def box(name, *edges):
    tags = zip(("xmin", "ymin", "xmax", "ymax"), edges, strict=True)
    inner = "".join(f"<{tag}>{edge}</{tag}>" for tag, edge in tags)
    return f"<object><name>{name}</name><bndbox>{inner}</bndbox></object>"


def xml(*boxes, width=WIDTH, height=HEIGHT):
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{size}{''.join(box(*each) for each in boxes)}</annotation>"


def picture(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def lay(folder, count=20, sets=None):
    """Lay photographs "0" to "19" with a cat each, and lists of those in each set."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for i in range(count):
        (folder / "JPEGImages" / f"{i}.png").write_bytes(png(picture(i)))
        (folder / "Annotations" / f"{i}.xml").write_text(xml(CAT))
    for name, listed in (sets or {}).items():
        (folder / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(listed))
    return folder


def load(folder, class_names=()):
    return voc.load(folder, folder.parent / "report.json", class_names)


def parts(found):
    return found.train, found.validation, found.test


def by_name(found):
    return {photograph.name: photograph for part in parts(found) for photograph in part}


def naive(text):
    """Read an annotation by regular expressions: class names and boxes."""
    pattern = r"<name>(\w+)</name>.*?" + r"\s*".join(
        rf"<{edge}>(\d+)</{edge}>" for edge in ("xmin", "ymin", "xmax", "ymax")
    )
    found = re.findall(pattern, text, re.DOTALL)
    return [name for name, *_ in found], [list(map(int, edges)) for _, *edges in found]


def check_against_naive(found, read):
    for name, photograph in by_name(found).items():
        names, boxes = naive(read(f"Annotations/{name}.xml"))
        labels = [found.class_names[label] for label in photograph.labels]
        good = [i for i, (x1, y1, x2, y2) in enumerate(boxes) if x1 < x2 and y1 < y2]
        assert labels == [names[i] for i in good]
        assert photograph.boxes.tolist() == [boxes[i] for i in good]
        assert (photograph.boxes.dtype, photograph.labels.dtype) == (np.float32, np.int32)
        assert photograph.boxes.min() >= 0
        assert (photograph.boxes.max(axis=0)[2:] <= (photograph.width, photograph.height)).all()


@pytest.fixture(scope="module")
def blood(sample_dir):
    return bccd.load("sample", sample_dir)


def test_sample_data(blood, sample_dir):
    assert blood.name == "sample data: drawn blood cells"
    assert blood.class_names == bccd.CLASS_NAMES
    assert [len(part) for part in parts(blood)] == [80, 16, 24]
    for part in parts(blood):
        assert (np.bincount(np.concatenate([p.labels for p in part])) > 5).all()
    with zipfile.ZipFile(sample.make_bccd(sample_dir) / "BCCD_Dataset-1.0.zip") as file:
        check_against_naive(blood, lambda name: file.read(f"BCCD_Dataset-1.0/BCCD/{name}").decode())
    assert set(blood.left_out.values()) == {"it has no area"} and len(blood.left_out) == 12
    assert "12 files or boxes left out" in blood.summary(80)
    # In the boxes of white cells it is darker than beside them: boxes lie where the cells are.
    for photograph in blood.test:
        image = blood.read(photograph).astype(float)
        assert image.shape == (photograph.height, photograph.width, 3)
        for x1, y1, x2, y2 in photograph.boxes[photograph.labels == 1].astype(int).tolist():
            middle = image[(y1 + y2) // 2 - 3 :, (x1 + x2) // 2 - 3 :][:6, :6].mean()
            assert middle < np.median(image) - 50


def test_folder_and_archive_without_lists_are_split_by_names(tmp_path):
    folder = lay(tmp_path / "own")
    found = load(folder)
    assert [len(part) for part in parts(found)] == [15, 1, 4]
    assert found.class_names == ("cat",)
    assert found.name == "20 photographs with boxes of cat"
    again = load(folder.parent)  # the same, deeper
    shutil.make_archive(tmp_path / "packed", "zip", folder)
    packed = load(tmp_path / "packed.zip")
    for other in (again, packed):
        assert [[p.name for p in part] for part in parts(other)] == [
            [p.name for p in part] for part in parts(found)
        ]
    photograph = packed.test[0]
    assert np.array_equal(packed.read(photograph), picture(int(photograph.name)))


def test_lists_decide(tmp_path):
    sets = {"train": ["3", "1", "", "5"], "val": ["2"], "test": ["4"], "trainval": ["3", "2"]}
    found = load(lay(tmp_path / "own", sets=sets))
    assert [[p.name for p in part] for part in parts(found)] == [["3", "1", "5"], ["2"], ["4"]]


ODD = {  # what a box is, what becomes of it, and what the report says
    "outside": (("cat", 40, 0, 60, 10), None, "it is outside the picture"),
    "before": (("cat", -9, 3, 0, 10), None, "it is outside the picture"),
    "sticks out": (("cat", -5, 3, 50, 10), [0, 3, 40, 10], "only what is inside"),
    "half a pixel": (("cat", 0.5, 3, 39.5, 10), [0.5, 3, 39.5, 10], ""),
    "all of it": (("cat", 1, 1, 40, 30), [1, 1, 40, 30], ""),
    "a point": (("cat", 5, 5, 5, 5), None, "it has no area"),
    "the wrong way": (("cat", 20, 5, 10, 8), None, "it has no area"),
    "words": (("cat", "left", 5, 10, 8), None, "its xmin is 'left'"),
    "nothing": (("cat", 5, "", 10, 8), None, "its ymin is ''"),
    "nan": (("cat", 5, 5, "nan", 8), None, "its xmax is 'nan'"),
    "infinite": (("cat", 5, 5, 10, "1e999"), None, "its ymax is '1e999'"),
    "unknown": (("dog", 5, 5, 10, 8), None, "it is of no known class"),
    "nameless": (("", 5, 5, 10, 8), None, "it is of no known class"),
}


@pytest.mark.parametrize(("odd", "kept", "reason"), ODD.values(), ids=ODD)
def test_a_faulty_box_is_left_out_and_the_others_are_not(tmp_path, odd, kept, reason):
    folder = lay(tmp_path / "own")
    (folder / "Annotations" / "7.xml").write_text(xml(CAT, odd, CAT))
    found = load(folder, ("cat",))
    expected = [list(CAT[1:])] * 2
    expected[1:1] = [kept] if kept else []
    assert by_name(found)["7"].boxes.tolist() == expected
    assert by_name(found)["7"].labels.tolist() == [0] * len(expected)
    reasons = {f"Annotations/7.xml, box 2 ({odd[0]})": reason} if reason else {}
    assert found.left_out.keys() == reasons.keys()
    assert all(reason in found.left_out[name] for name, reason in reasons.items())
    assert json.loads(found.report.read_text())["left_out"] == found.left_out


BOMB = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12))
ANNOTATIONS = {
    "cut": (xml(CAT)[:-5], "it is no whole XML"),
    "empty": ("", "it is no whole XML"),
    "bomb": (
        f'<!DOCTYPE a [<!ENTITY a0 "cat">{BOMB}]><annotation>&a11;</annotation>',
        "it is no whole XML",
    ),
    "encoding": ('<?xml version="1.0" encoding="none"?><annotation/>', "it is no whole XML"),
    "page": ("<html>404 Not Found</html>", "it begins with <html>, not <annotation>"),
    "turned": (xml(CAT, width=HEIGHT, height=WIDTH), "a width of 30, the picture's is 40"),
    "size in words": (xml(CAT, width="wide"), "a width of wide, the picture's is 40"),
}


@pytest.mark.parametrize(("text", "reason"), ANNOTATIONS.values(), ids=ANNOTATIONS)
def test_an_annotation_that_cannot_be_used(tmp_path, text, reason):
    folder = lay(tmp_path / "own")
    (folder / "Annotations" / "7.xml").write_text(text)
    found = load(folder)
    assert found.left_out.keys() == {"Annotations/7.xml"}
    assert reason in found.left_out["Annotations/7.xml"]
    assert "7" not in by_name(found) and len(by_name(found)) == 19


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("<annotation/>", []),
        (xml(), []),
        (xml(CAT, width=0, height=0), [list(CAT[1:])]),
        (f"<annotation>{box(*CAT)}</annotation>", [list(CAT[1:])]),
        ("<annotation><object><name>cat</name></object></annotation>", []),
    ],
)
def test_an_annotation_without_boxes_or_size_is_one(tmp_path, text, boxes):
    folder = lay(tmp_path / "own")
    (folder / "Annotations" / "7.xml").write_text(text)
    photograph = by_name(load(folder))["7"]
    assert photograph.boxes.tolist() == boxes
    assert (photograph.boxes.shape, photograph.labels.shape) == ((len(boxes), 4), (len(boxes),))


def test_files_that_are_missing_broken_or_there_twice(tmp_path):
    names = [str(i) for i in range(20)]
    sets = {"train": [*names[:10], "9"], "val": [*names[10:15], "8"], "test": [*names[15:], "none"]}
    folder = lay(tmp_path / "own", sets=sets)
    jpeg = cv2.imencode(".jpg", picture())[1].tobytes()
    (folder / "JPEGImages" / "0.png").write_bytes(b"")
    (folder / "JPEGImages" / "1.png").write_bytes(png(picture())[:-100])
    (folder / "JPEGImages" / "2.png").unlink()
    (folder / "JPEGImages" / "3.jpg").write_bytes(jpeg)
    (folder / "JPEGImages" / "._5.jpg").write_bytes(b"macOS")
    (folder / "Annotations" / "4.xml").unlink()
    found = load(folder)
    expected = {
        "Annotations/0.xml": "JPEGImages/0.png: it is empty",
        "JPEGImages/1.png": "truncated",
        "Annotations/2.xml": "there are 0 files JPEGImages/2.*",
        "Annotations/3.xml": "there are 2 files JPEGImages/3.*",
        "Annotations/4.xml": "it is missing",
        "Annotations/8.xml": "ImageSets names it 2 times",
        "Annotations/9.xml": "ImageSets names it 2 times",
        "Annotations/none.xml": "it is missing",
    }
    assert found.left_out.keys() == expected.keys()
    assert all(reason in found.left_out[name] for name, reason in expected.items())
    assert json.loads(found.report.read_text())["left_out_count"] == 8
    assert [p.name for p in found.train] == ["5", "6", "7"]


def test_pixels_are_those_of_the_file_neither_turned_nor_shrunk(tmp_path):
    folder = lay(tmp_path / "own")
    (folder / "JPEGImages" / "7.png").unlink()
    large = np.zeros((3000, 4000, 3), np.uint8)
    large[600:900, 2000:3000] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(large).save(folder / "JPEGImages" / "7.jpg", exif=exif)
    (folder / "Annotations" / "7.xml").write_text(
        xml(("cat", 2000, 600, 3000, 900), width=4000, height=3000)
    )
    found = load(folder)
    photograph = by_name(found)["7"]
    image = found.read(photograph)
    assert image.shape == (photograph.height, photograph.width, 3) == (3000, 4000, 3)
    x1, y1, x2, y2 = photograph.boxes[0].astype(int)
    assert image[y1:y2, x1:x2].min() > 200 and image[: y1 - 8].max() < 50


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: shutil.rmtree(folder), "cannot read"),
        (lambda folder: shutil.rmtree(folder / "Annotations"), "found none"),
        (lambda folder: lay(folder / "second"), "found ./Annotations and second/Annotations"),
        (
            lambda folder: (folder / "ImageSets" / "Main" / "train.txt").write_text("1"),
            "lacks ImageSets/Main/val.txt: write it",
        ),
        (
            lambda folder: [
                (folder / "JPEGImages" / f"{i}.png").write_bytes(b"") for i in range(20)
            ],
            "there is no box in any training photograph: it takes 5 photographs at least",
        ),
        (
            lambda folder: [file.unlink() for i in range(4, 20) for file in folder.rglob(f"{i}.*")],
            "any test photograph: it takes 5 photographs at least, better 20 (0 in this part, 0",
        ),
        (
            lambda folder: [
                (folder / "ImageSets" / "Main" / f"{name}.txt").write_text(text)
                for name, text in (("train", "1\n2"), ("val", "3"), ("test", "99\n"))
            ],
            "there is no box in any test photograph (0 in this part, 1 files or boxes left out",
        ),
    ],
)
def test_a_folder_of_which_nothing_can_be_used(tmp_path, spoil, words):
    folder = lay(tmp_path / "own")
    spoil(folder)
    error = one_line_of(DataError, load, folder)
    assert words in error and str(folder) in error


def test_there_are_boxes_in_the_parts_as_they_are_used(tmp_path):
    sets = {"train": ["1"], "val": ["2", "3", "4"], "test": ["5"]}
    folder = lay(tmp_path / "own", sets=sets)

    def names(count):
        found = bccd.load("full", tmp_path, folder, count)
        return [[p.name for p in part] for part in parts(found)]

    (folder / "Annotations" / "1.xml").write_text(xml())  # 3 and 4, with boxes, come to train
    assert names(1) == [["1", "3", "4"], ["2"], ["5"]]
    for i in range(1, 4):
        (folder / "Annotations" / f"{i}.xml").write_text(xml() if i > 1 else xml(CAT))
    assert names(3) == [["1"], ["2", "3", "4"], ["5"]]
    assert "any validation photograph (2 in" in one_line_of(DataError, names, 2)


def test_nothing_is_decoded_again_and_a_photograph_may_vanish(tmp_path, monkeypatch):
    folder = lay(tmp_path / "own")
    found = load(folder)
    with monkeypatch.context() as patch:
        patch.setattr(photographs, "_fault", lambda *_: pytest.fail("decoded again"))
        assert load(folder).left_out == {}
    file = folder / found.test[0].picture
    file.write_bytes(b"")
    assert "it is empty" in one_line_of(DataError, found.read, found.test[0])
    file.unlink()
    assert "cannot read" in one_line_of(DataError, found.read, found.test[0])


def test_bccd_takes_a_folder_or_a_part_of_it_or_one_s_own(tmp_path):
    sets = {"train": ["1", "2"], "val": ["3"], "test": ["4"]}
    folder = lay(tmp_path / "bccd" / "BCCD", sets=sets)
    for i in range(5):
        (folder / "Annotations" / f"{i}.xml").write_text(xml(("WBC", *CAT[1:]), CAT))
    found = bccd.load("full", tmp_path)
    assert found.name == "4 photographs of blood cells"
    assert len(found.left_out) == 4  # cats are not blood cells
    shutil.move(folder, tmp_path / "bccd" / "BCCD_Dataset-1.0" / "BCCD")
    assert len(by_name(bccd.load("full", tmp_path))) == 4
    own = bccd.load("full", tmp_path, photos=lay(tmp_path / "own"))
    assert own.class_names == ("cat",)
    assert own.report == tmp_path / "photos" / "own.report.json"
    (tmp_path / "other" / "bccd").mkdir(parents=True)
    (tmp_path / "other" / "bccd" / "BCCD_Dataset-1.0.zip").write_bytes(b"PK")
    error = one_line_of(DataError, bccd.load, "full", tmp_path / "other")
    assert "it is not the published file" in error


@pytest.mark.real
@pytest.mark.skipif(
    not BCCD.is_dir(), reason="lay the extracted BCCD_Dataset-1.0 in datasets/downloads/bccd"
)
def test_the_real_blood_cells():
    found = bccd.load("full", DOWNLOADS)
    assert [len(part) for part in parts(found)] == [205, 87, 72]
    assert set(found.left_out.values()) == {"it has no area"} and len(found.left_out) == 2
    labels = np.concatenate([p.labels for p in by_name(found).values()])
    assert np.bincount(labels).tolist() == [4155 - 2, 372, 361]  # docs/data.md says so
    assert max(np.sum(p.labels == 0) for p in by_name(found).values()) == 27  # bccd.py, this
    check_against_naive(found, lambda name: (BCCD / "BCCD" / name).read_text())
