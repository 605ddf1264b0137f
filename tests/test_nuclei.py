"""Checks datasets/nuclei.py: masks put together, kept and read anew, what is faulty, the kinds."""

import collections
import json
import shutil
import zipfile

import cv2
import numpy as np
import pytest
from programs import ROOT, one_line_of, png

from datasets import nuclei, sample
from datasets.files import DataError

DOWNLOADS = ROOT / "datasets" / "downloads"
SHAPE = 20, 30


def disc(x, y, radius=4):
    return cv2.circle(np.zeros(SHAPE, np.uint8), (x, y), radius, 255, -1)


MASKS = {"a": disc(6, 6), "b": disc(22, 9), "c": disc(14, 14, 2)}
IMAGE = np.full((*SHAPE, 3), (200, 100, 50), np.uint8)


def lay(data_dir, count=20):
    """Lay images "0" to "19", each with the masks a, b and c."""
    folder = data_dir / "nuclei" / "stage1_train"
    for name in map(str, range(count)):
        for part in ("images", "masks"):
            (folder / name / part).mkdir(parents=True)
        (folder / name / "images" / f"{name}.png").write_bytes(png(IMAGE))
        for mask, pixels in MASKS.items():
            (folder / name / "masks" / f"{mask}.png").write_bytes(png(pixels))
    return folder


def load(data_dir):
    return nuclei.load("full", data_dir)


def by_name(found):
    return {each.name: each for part in parts(found) for each in part}


def parts(found):
    return found.train, found.validation, found.test


def check_against_naive(found, archive, names):
    """Hold the instances against each mask as OpenCV reads it by itself."""
    with zipfile.ZipFile(archive) as file:
        for name in names:
            _, image, instances = by_name(found)[name]
            assert (image.dtype, instances.dtype) == (np.uint8, np.uint16)
            assert image.shape == (*instances.shape, 3)
            members = [n for n in file.namelist() if f"{name}/" in n and n.endswith(".png")]
            read = {n: np.frombuffer(file.read(n), np.uint8) for n in members}
            read = {n: cv2.imdecode(content, cv2.IMREAD_COLOR) for n, content in read.items()}
            assert np.array_equal(image, read.pop(f"{name}/images/{name}.png")[..., ::-1])
            assert len(read) == instances.max()
            numbers = []
            for mask in read.values():
                numbers += np.unique(instances[mask[..., 0] > 0]).tolist()
                assert (mask[..., 0] > 0).sum() == (instances == numbers[-1]).sum()
            assert sorted(numbers) == list(range(1, len(read) + 1))
            assert (instances > 0).sum() == sum((mask[..., 0] > 0).sum() for mask in read.values())


def test_sample_data(sample_dir):
    found = nuclei.load("sample", sample_dir)
    assert found.name == "sample data: drawn nuclei" and not found.left_out
    assert [len(part) for part in parts(found)] == [44, 4, 12]
    archive = sample.make_nuclei(sample_dir) / "stage1_train.zip"
    check_against_naive(found, archive, [each.name for each in found.test])
    kinds = collections.Counter(nuclei.kind(each.image) for each in by_name(found).values())
    assert kinds == {"fluorescence": 40, "bright stain": 10, "purple tissue": 10}
    for each in found.test:  # light on dark ground, or dark on light
        inside = each.instances > 0
        lighter = each.image[inside].mean() > each.image[~inside].mean()
        assert lighter == (nuclei.kind(each.image) == "fluorescence")
    count = sum(each.instances.max() for each in by_name(found).values())
    assert f"44 training, 4 validation, 12 test; {count} nuclei in all" in found.summary(44)


def test_folder_and_archive_are_the_same(tmp_path):
    folder = lay(tmp_path)
    found = load(tmp_path)
    assert [len(part) for part in parts(found)] == [15, 1, 4]
    for _, image, instances in by_name(found).values():
        assert np.array_equal(image, IMAGE)
        for number, mask in enumerate("cab", 1):  # the smallest first
            assert np.array_equal(instances == number, MASKS[mask] > 0)
    shutil.make_archive(str(folder), "zip", folder)
    shutil.rmtree(folder)
    packed = load(tmp_path)
    assert [e.name for part in parts(packed) for e in part] == list(by_name(found))
    assert packed.name == "20 microscope images of nuclei"


def test_masks_are_read_once_and_anew_when_a_file_has_changed(tmp_path, monkeypatch):
    folder = lay(tmp_path)
    first = load(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(nuclei, "_instances", lambda *_: pytest.fail("read again"))
        again = load(tmp_path)
    for name, each in by_name(first).items():
        assert np.array_equal(by_name(again)[name].instances, each.instances)
    (folder / "7" / "masks" / "c.png").unlink()
    changed = load(tmp_path)
    assert by_name(changed)["7"].instances.max() == 2
    assert changed.report.parent != first.report.parent
    changed.report.with_name("instances.npz").write_bytes(b"PK damaged")
    error = one_line_of(DataError, load, tmp_path)
    assert str(changed.report.parent) in error and "move it away" in error
    changed.report.write_bytes(b"[]")
    assert "is wrong" in one_line_of(DataError, load, tmp_path)


SMALL, EMPTY = png(np.zeros((5, 5), np.uint8)), np.zeros(SHAPE, np.uint8)
SPOILT = {  # a file, what it becomes, how many nuclei its image then has, or none, and why
    "no image": ("7/images/7.png", None, None, "its folder has 0 images and 3 masks"),
    "two images": ("7/images/8.png", png(IMAGE), None, "its folder has 2 images and 3 masks"),
    "empty image": ("7/images/7.png", b"", None, "it is no whole picture"),
    "cut image": ("7/images/7.png", png(IMAGE)[:-30], None, "it is no whole picture"),
    "no picture": ("7/images/7.png", b"<html>", None, "it is no whole picture"),
    "other image": ("7/images/7.png", SMALL, None, "5 x 5 and 30 x 20 pixels"),
    "other mask": ("7/masks/b.png", SMALL, None, "30 x 20 and 5 x 5 pixels"),
    "cut mask": ("7/masks/b.png", png(MASKS["b"])[:-30], None, "it is no whole picture"),
    "blank mask": ("7/masks/b.png", png(EMPTY), 2, "it is empty"),
    "overlap": ("7/masks/d.png", png(disc(14, 13, 3)), 4, "smaller nucleus'"),
    "twice": ("7/masks/d.png", png(MASKS["c"]), 3, "13 pixels are a smaller nucleus'"),
    "left behind": ("7/masks/._a.png", b"macOS", 3, ""),
    "upper case": ("7/masks/d.PNG", png(disc(24, 16, 2)), 4, ""),
    "16 bits": ("7/masks/b.png", png(np.uint16(MASKS["b"] // 85)), 3, ""),  # up to 3 of 65,535
    "colour": ("7/masks/b.png", png(np.dstack([MASKS["b"]] * 3)), 3, ""),
    "dark blue": ("7/masks/b.png", png(np.dstack([EMPTY, EMPTY, MASKS["b"] // 255])), 3, ""),
    "alpha": ("7/masks/b.png", png(np.dstack([MASKS["b"]] * 3 + [~EMPTY])), 3, ""),
    "grey and alpha": ("7/masks/b.png", png(np.dstack([MASKS["b"], ~EMPTY])), 3, ""),
}


@pytest.mark.parametrize(("name", "content", "left", "reason"), SPOILT.values(), ids=SPOILT)
def test_what_is_faulty_is_left_out_and_named(tmp_path, capfd, name, content, left, reason):
    folder = lay(tmp_path)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    found = load(tmp_path)
    assert "grfmt_png" not in capfd.readouterr().err  # OpenCV's own lines
    assert len(by_name(found)) == (20 if left else 19)
    if left:
        instances = by_name(found)["7"].instances
        assert np.unique(instances).tolist() == list(range(left + 1))
        assert (instances[MASKS["c"] > 0] == 1).all()  # the smallest nucleus has all its pixels
    assert len(found.left_out) == bool(reason)
    for file, fault in found.left_out.items():
        assert file.startswith("7/") and reason in fault
    content = json.loads(found.report.read_text())
    assert content == {"left_out_count": len(found.left_out), "left_out": found.left_out}


def test_an_image_without_a_nucleus_is_left_out(tmp_path):
    folder = lay(tmp_path)
    shutil.rmtree(folder / "7" / "masks")
    for mask in MASKS:
        (folder / "8" / "masks" / f"{mask}.png").write_bytes(png(EMPTY))
    assert load(tmp_path).left_out == {
        "7/images/7.png": "its folder has 1 images and 0 masks",
        "8/images/8.png": "its masks are all empty",
    }


def test_too_few_images_and_an_archive_that_is_none(tmp_path):
    folder = lay(tmp_path, count=4)
    assert "it has 4 that can be used, 0 files left" in one_line_of(DataError, load, tmp_path)
    shutil.rmtree(folder)
    folder.with_name("stage1_train.zip").write_bytes(b"<html>")
    assert "it is no whole zip archive" in one_line_of(DataError, load, tmp_path)


@pytest.mark.real
@pytest.mark.skipif(
    not (DOWNLOADS / "nuclei" / "stage1_train.zip").is_file(),
    reason="lay BBBC038's stage1_train.zip in datasets/downloads/nuclei",
)
def test_the_real_nuclei():
    found = load(DOWNLOADS)
    names = list(by_name(found))
    assert len(names) > 600
    check_against_naive(found, DOWNLOADS / "nuclei" / "stage1_train.zip", names[::100])
    if len(names) == 664:  # docs/data.md says so
        kinds = collections.Counter(nuclei.kind(each.image) for each in by_name(found).values())
        assert kinds == {"fluorescence": 541, "bright stain": 16, "purple tissue": 107}
        assert [len(part) for part in parts(found)] == [479, 53, 132]
    for each in by_name(found).values():  # neither near the one limit nor near the other
        colour = each.image.mean(axis=(0, 1))
        assert colour.mean() < 60 or colour.mean() > 130
        assert np.ptp(colour) < 1 or np.ptp(colour) > 6
