"""Checks datasets/mnist.py, digits.py and pictures.py: idx files, damage, pictures of one's own."""

import gzip
import shutil
import struct
import tracemalloc
import warnings

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter
from programs import ROOT, one_line_of

from datasets import mnist, pictures, sample
from datasets.download import DataError

FILES = [f"{a}-{b}-ubyte" for a in ("train", "t10k") for b in ("images-idx3", "labels-idx1")]
IMAGES, LABELS, TEST_IMAGES, TEST_LABELS = FILES


def parse(path):
    """Return the sizes and the numbers in an idx file, by an independent parser."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    zeros, kind, dimensions = struct.unpack(">HBB", content[:4])
    assert (zeros, kind) == (0, 8)
    start = 4 + 4 * dimensions
    return struct.unpack(f">{dimensions}I", content[4:start]), list(content[start:])


def assert_is(dataset, folder, ending, counts):
    images = [getattr(dataset, f"{part}_images") for part in ("train", "validation", "test")]
    labels = [getattr(dataset, f"{part}_labels") for part in ("train", "validation", "test")]
    assert [part.shape for part in images] == [(count, 28, 28, 1) for count in counts]
    assert [part.shape for part in labels] == [(count,) for count in counts]
    assert {part.dtype for part in images} == {np.dtype(np.uint8)}
    assert {part.dtype for part in labels} == {np.dtype(np.int32)}
    for first, chosen in ((0, slice(0, 2)), (2, slice(2, 3))):
        sizes, pixels = parse(folder / (FILES[first] + ending))
        assert sizes == (sum(counts[chosen]), 28, 28)
        assert np.concatenate(images[chosen]).tobytes() == bytes(pixels)
        _, numbers = parse(folder / (FILES[first + 1] + ending))
        assert np.concatenate(labels[chosen]).tolist() == numbers


def load_error(data, data_dir):
    return one_line_of(DataError, mnist.load, data, data_dir)


@pytest.fixture
def folder(sample_dir, tmp_path):
    made = sample.make_mnist(sample_dir)
    return shutil.copytree(made, tmp_path / made.relative_to(sample_dir))


def test_sample_data_is_read_like_an_independent_parser_does(tmp_path, folder):
    dataset = mnist.load("sample", tmp_path)
    assert_is(dataset, folder, ".gz", [1287, 256, 254])
    assert dataset.name == "sample data: scikit-learn's handwritten digits"
    assert dataset.class_names == tuple("0123456789")


def packed(change):
    """A damage that is done to what is inside the gzip file."""
    return lambda content: gzip.compress(change(gzip.decompress(content)))


@pytest.mark.parametrize("name", [IMAGES, TEST_LABELS])
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: b"", "it begins with"),
        (lambda content: b"<html>404</html>", "no whole gzip file"),
        (lambda content: content[: len(content) // 2], "no whole gzip file"),
        (lambda content: content[:-8] + b"\0\0\0\0" + content[-4:], "no whole gzip file"),
        (lambda content: content + b"rubbish", "no whole gzip file"),
        (lambda content: content[:40] + b"\xff" * 40 + content[80:], "is wrong"),
        (packed(lambda idx: b"\0\0\x08\x02" + idx[4:]), "it begins with 00000802"),
        (packed(lambda idx: b"\0\0\x0d" + idx[3:]), "it begins with 00000d0"),
        (packed(lambda idx: idx[:6]), "it begins with 0000080"),
        (packed(lambda idx: idx[:4] + struct.pack(">I", 9) + idx[8:]), "00000009"),
        (packed(lambda idx: idx[:4] + b"\xff" * 4 + idx[8:]), "ffffffff"),
        (packed(lambda idx: idx[:-3]), "bytes for shape"),
        (packed(lambda idx: idx + b"\0"), "found more"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, folder, name, damage, reason):
    path = folder / f"{name}.gz"
    content = damage(path.read_bytes())
    path.write_bytes(content)
    error = load_error("sample", tmp_path)
    assert str(path) in error and reason in error
    assert path.read_bytes() == content


def test_labels_that_are_no_digits_and_files_that_unpack_to_gigabytes(tmp_path, folder):
    path = folder / f"{LABELS}.gz"
    idx = bytearray(gzip.decompress(path.read_bytes()))
    idx[8 + 17] = 10
    path.write_bytes(gzip.compress(idx))
    assert f"{path} is wrong: image 17 has label 10" in load_error("sample", tmp_path)
    path.write_bytes(path.read_bytes() + gzip.compress(bytes(1 << 24), 1) * 200)  # 3 GB in 15 MB
    tracemalloc.start()
    assert "found more" in load_error("sample", tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_unpacked_files_go_before_archives(tmp_path):
    folder = tmp_path / "mnist"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for images, labels, count in ((IMAGES, LABELS, 60_000), (TEST_IMAGES, TEST_LABELS, 10_000)):
        header = struct.pack(">4I", 2051, count, 28, 28)
        (folder / images).write_bytes(header + rng.bytes(count * 784))
        digits = rng.integers(0, 10, count, np.uint8)
        (folder / labels).write_bytes(struct.pack(">2I", 2049, count) + digits.tobytes())
    (folder / f"{IMAGES}.gz").write_bytes(b"not looked at")
    dataset = mnist.load("full", tmp_path)
    assert_is(dataset, folder, "", [55_000, 5_000, 10_000])
    assert dataset.name == "MNIST"

    (folder / LABELS).rename(folder / LABELS.replace("-idx", ".idx"))  # as some copies have it
    assert np.array_equal(mnist.load("full", tmp_path).train_labels, dataset.train_labels)
    (folder / IMAGES).rename(folder / f"{IMAGES.replace('-idx', '.idx')}.gz")
    assert ".idx3-ubyte.gz is wrong: it is not the published" in load_error("full", tmp_path)
    (folder / f"{IMAGES.replace('-idx', '.idx')}.gz").unlink()
    error = load_error("full", tmp_path)
    assert f"{IMAGES}.gz is wrong: it is not the published file" in error
    assert (folder / f"{IMAGES}.gz").read_bytes() == b"not looked at"


def test_what_is_missing_is_downloaded_from_a_mirror_that_answers(tmp_path, monkeypatch):
    def download(remote, data_dir):
        raise DataError(f"{remote.path} {remote.urls}")

    monkeypatch.setattr(mnist, "download", download)
    error = load_error("full", tmp_path)
    assert error.startswith("mnist/train-images-idx3-ubyte.gz ")
    assert error.count("/train-images-idx3-ubyte.gz'") == 2 and "lecun" not in error  # closed


def seven(size=280, width=24, paper=255, ink=0, box=(80, 60, 180, 220), mode="L"):
    """Draw a seven without a bar, its corners in `box`."""
    left, top, right, bottom = box
    picture = Image.new(mode, (size, size) if isinstance(size, int) else size, paper)
    corners = [(left, top), (right, top), ((left + right) // 2, bottom)]
    ImageDraw.Draw(picture).line(corners, fill=ink, width=width, joint="curve")
    return picture


def likeness(image, expected):
    """Return the correlation of two images, in the best of nine places: they may be a pixel off."""
    moved = (np.roll(image, (y, x), axis=(0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1))
    return max(np.corrcoef(place.ravel(), expected.ravel())[0, 1] for place in moved)


def lit(share):
    """Draw a seven of which each pixel, (H, W), has this share of the light."""
    return Image.fromarray(np.uint8(np.asarray(seven()) * share))


def noisy(picture, deviation=6):
    noise = np.random.default_rng(0).normal(0, deviation, (picture.height, picture.width))
    return Image.fromarray(np.uint8(np.clip(np.asarray(picture) + noise, 0, 255)))


def transparent(ink):
    """A drawing on nothing, in an ink that is everywhere; the alpha channel has the shape."""
    mask = seven(paper=0, ink=255)
    picture = Image.new("RGBA", mask.size, (*ink, 0))
    picture.putalpha(mask)
    return picture


def with_specks():
    picture = seven()
    for x, y in ((20, 20), (250, 30), (40, 240), (255, 255)):
        picture.paste(0, (x, y, x + 6, y + 6))
    return picture


GREY = np.asarray(seven(), np.float64) / 255
LIGHT = np.linspace(1.0, 0.45, 280)
EDGE = np.where(np.arange(280) < 130, 1.0, 0.5)
TROUBLES = {
    "light on dark": lambda: seven(paper=0, ink=255),
    "grey on grey": lambda: seven(paper=140, ink=90),
    "small and in a corner": lambda: seven(900, 6, box=(15, 20, 40, 60)),
    "small and light in a corner": lambda: seven(900, 7, 30, 200, box=(855, 830, 885, 878)),
    "wide": lambda: seven((1500, 300), 24, box=(1200, 60, 1300, 220)),
    "very large": lambda: seven(4000, 350, box=(1200, 900, 2700, 3300)),
    "cropped to the ink": lambda: seven().crop((68, 48, 192, 232)),
    "small as MNIST's": lambda: seven().resize((40, 40), Image.Resampling.BOX),
    "colours": lambda: seven(mode="RGB", paper=(250, 240, 200), ink=(20, 40, 150)),
    "palette": lambda: seven(mode="RGB", paper=(255, 255, 255), ink=(200, 0, 0)).convert("P"),
    "one bit": lambda: seven().convert("1"),
    "16 bits": lambda: Image.fromarray(np.uint16(GREY * 65_535)),
    "12 bits in 16": lambda: Image.fromarray(np.uint16(3_000 + GREY * 1_000)),  # from a scanner
    "float": lambda: Image.fromarray(np.float32(GREY - 7)),
    "CMYK": lambda: seven().convert("CMYK"),
    "black on nothing": lambda: transparent((0, 0, 0)),
    "white on nothing": lambda: transparent((255, 255, 255)),
    "palette with transparency": lambda: transparent((0, 0, 0)).quantize(16),
    "light from one side": lambda: lit(LIGHT[:, None] * LIGHT),
    "half in the shade": lambda: lit(EDGE[:, None] * np.ones(280)),
    "noise": lambda: noisy(seven(paper=200, ink=120)),
    "out of focus": lambda: seven().filter(ImageFilter.GaussianBlur(4)),
    "specks": with_specks,
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_every_picture_of_a_digit_gives_the_same_image(trouble, tmp_path):
    seven().save(tmp_path / "plain.png")
    expected = mnist.read_picture(tmp_path / "plain.png")
    picture = TROUBLES[trouble]()
    path = tmp_path / ("picture.tiff" if picture.mode in ("F", "CMYK") else "picture.png")
    picture.save(path)
    image = mnist.read_picture(path)
    assert (image.shape, image.dtype) == ((28, 28, 1), np.uint8)
    assert likeness(image, expected) > 0.95
    assert 0.8 < image.sum() / expected.sum() < 1.25


def test_a_picture_is_placed_as_mnist_s_images_are(tmp_path, folder):
    seven().save(tmp_path / "seven.png")
    image = mnist.read_picture(tmp_path / "seven.png")[..., 0]
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    assert np.ptp(rows) + 1 == 20  # it is higher than wide, and stays so
    assert np.ptp(columns) + 1 == pytest.approx(20 * 124 / 184, abs=1.5)
    for axis in (0, 1):
        assert abs(np.average(np.arange(28), weights=image.sum(axis=1 - axis)) - 14) < 0.6
    assert image.max() == 255
    for image in mnist.load("sample", tmp_path).test_images[:50]:  # they come back as they were
        Image.fromarray(image[..., 0]).save(tmp_path / "image.png")
        assert likeness(mnist.read_picture(tmp_path / "image.png"), image) > 0.95


def test_thin_lines_stay_and_long_tails_stay_inside(tmp_path):
    seven(2000, 5, box=(600, 400, 1300, 1500)).save(tmp_path / "thin.png")
    image = mnist.read_picture(tmp_path / "thin.png")[..., 0]
    rows = np.flatnonzero((image > 128).any(axis=1))
    assert len(rows) == np.ptp(rows) + 1 >= 18  # from top to bottom without a gap
    picture = seven(width=4, box=(30, 200, 250, 201))
    picture.paste(0, (230, 170, 270, 230))
    picture.save(tmp_path / "blot.png")
    _, columns, _ = np.nonzero(mnist.read_picture(tmp_path / "blot.png"))
    assert np.ptp(columns) + 1 >= 19


PHOTOGRAPH = np.asarray(  # smooth, so that a JPEG file hardly changes it
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)).resize((30, 20))
)
SIDEWAYS = Image.Exif()
SIDEWAYS[0x0112] = 6  # to be shown turned by 90 degrees clockwise
ALPHA = np.dstack([PHOTOGRAPH, np.repeat([[255], [0]], 10, axis=0) * np.ones(30, int)])
ONE_CHANNEL = np.asarray(Image.fromarray(PHOTOGRAPH).convert("L"))
ON_WHITE = np.where(ALPHA[..., 3:] == 0, 255, PHOTOGRAPH)
DITHERED = np.asarray(Image.fromarray(ONE_CHANNEL).convert("1").convert("L"))[..., None]
HALF = np.tile(PHOTOGRAPH[:1, :1], (1200, 1600, 1))


@pytest.mark.parametrize(
    ("pixels", "form", "options", "expected", "tolerance"),
    [
        *((PHOTOGRAPH, form, {}, PHOTOGRAPH, 0) for form in ("PNG", "BMP", "TIFF")),
        (PHOTOGRAPH, "WEBP", {"lossless": True}, PHOTOGRAPH, 0),
        (PHOTOGRAPH, "GIF", {}, PHOTOGRAPH, 10),  # 256 colours
        (PHOTOGRAPH, "GIF", {"save_all": True, "append": 1}, PHOTOGRAPH, 10),  # animated
        (PHOTOGRAPH, "JPEG", {"quality": 95}, PHOTOGRAPH, 5),
        (PHOTOGRAPH, "JPEG", {"quality": 95, "exif": SIDEWAYS}, np.rot90(PHOTOGRAPH, -1), 5),
        (ONE_CHANNEL, "PNG", {}, ONE_CHANNEL[..., None], 0),
        (np.uint16(ONE_CHANNEL) * 257, "PNG", {}, ONE_CHANNEL[..., None], 0),
        (np.float32(ONE_CHANNEL / 255), "TIFF", {}, ONE_CHANNEL[..., None], 0.01),
        (np.uint8(ALPHA), "PNG", {}, ON_WHITE, 0),
        (np.uint8(ALPHA), "WEBP", {"lossless": True}, ON_WHITE, 1),
        (Image.fromarray(ONE_CHANNEL).convert("1"), "PNG", {}, DITHERED, 0),
        (Image.fromarray(ONE_CHANNEL).convert("LA"), "PNG", {}, ONE_CHANNEL[..., None], 0),
        (Image.fromarray(PHOTOGRAPH).convert("CMYK"), "JPEG", {"quality": 95}, PHOTOGRAPH, 8),
        (Image.fromarray(np.uint8(ALPHA)).quantize(), "PNG", {}, ON_WHITE, 12),  # palette, alpha
        (np.int32(ONE_CHANNEL) * 257, "TIFF", {}, ONE_CHANNEL[..., None], 0),
        (PHOTOGRAPH, "AVIF", {"quality": 95}, PHOTOGRAPH, 8),
        (np.tile(PHOTOGRAPH[:1, :1], (2400, 3200, 1)), "JPEG", {}, HALF, 5),  # shrunk on the way
    ],
)
def test_a_picture_in_any_format(tmp_path, pixels, form, options, expected, tolerance):
    more = [Image.new("RGB", (30, 20))] if options.pop("append", 0) else []
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(tmp_path / "a", form, append_images=more, **options)
    found = pictures.read_picture(tmp_path / "a")
    assert found.dtype == np.uint8
    assert found.shape == (*expected.shape[:2], 3)
    assert np.abs(found.astype(int) - expected).mean() <= tolerance


def cut(path, form):
    seven().save(path, form)
    path.write_bytes(path.read_bytes()[:400])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "cannot be read"),
        (lambda path: path.write_text("# seven\n\n7\n"), "is no picture"),
        (lambda path: path.write_bytes(b""), "it is empty"),
        (lambda path: path.write_bytes(bytes(4) + b"ftypheic" + bytes(40)), "export it as JPEG"),
        (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50)), "picture"),
        (lambda path: cut(path, "PNG"), "cannot be read"),
        (lambda path: cut(path, "JPEG"), "cannot be read"),
        (lambda path: Image.new("1", (20_000, 20_000)).save(path, "PNG"), "pixels"),
        (lambda path: Image.new("1", (12_500, 12_500)).save(path, "PNG"), "150,000,000 pixels"),
        (lambda path: Image.new("L", (50, 50), 255).save(path, "PNG"), "no digit"),
        (lambda path: Image.new("RGBA", (50, 50)).save(path, "PNG"), "no digit"),
        (lambda path: Image.new("I;16", (50, 50), 9).save(path, "PNG"), "no digit"),
        (lambda path: Image.new("L", (1, 1)).save(path, "PNG"), "no digit"),
        (lambda path: noisy(Image.new("L", (90, 90), 128), 2).save(path, "PNG"), "no digit"),
        (lambda path: Image.new("F", (9, 9), np.nan).save(path, "TIFF"), "not finite"),
    ],
)
def test_what_is_no_picture_of_a_digit_is_one_line(make, reason, tmp_path):
    path = tmp_path / "picture"
    make(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        error = one_line_of(DataError, mnist.read_picture, path)
    assert str(path) in error and reason in error


DOWNLOADS = ROOT / "datasets" / "downloads"


@pytest.mark.real
@pytest.mark.skipif(
    not all((DOWNLOADS / "mnist" / f"{name}.gz").is_file() for name in FILES),
    reason="lay MNIST's four .gz files in datasets/downloads/mnist",
)
def test_the_real_files():
    dataset = mnist.load("full", DOWNLOADS)
    assert_is(dataset, DOWNLOADS / "mnist", ".gz", [55_000, 5_000, 10_000])
    assert dataset.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert dataset.test_labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
