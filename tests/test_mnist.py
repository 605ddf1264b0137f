"""Checks datasets/mnist.py: that idx files are read byte for byte as an independent parser reads
them, that a damaged file is named in one line, which of several files is used, and that one's own
picture comes out in MNIST's form, whatever it was drawn with.
"""

import gzip
import struct
import sys
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from datasets import mnist, sample  # noqa: E402
from datasets.download import DataError  # noqa: E402

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def parse(path):
    """An independent parser: the numbers in an idx file, as nested tuples of Python's integers."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    zeros, kind, dimensions = struct.unpack(">HBB", content[:4])
    assert (zeros, kind) == (0, 8)
    sizes = struct.unpack(f">{dimensions}I", content[4 : 4 + 4 * dimensions])
    numbers = struct.unpack(f"{len(content) - 4 - 4 * dimensions}B", content[4 + 4 * dimensions :])
    return sizes, numbers


def assert_is(dataset, folder, ending, validation):
    for image_file, label_file, parts in (
        (IMAGES, LABELS, ("train", "validation")),
        (TEST_IMAGES, TEST_LABELS, ("test",)),
    ):
        (count, height, width), pixels = parse(folder / (image_file + ending))
        (label_count,), labels = parse(folder / (label_file + ending))
        assert label_count == count
        images = np.concatenate([getattr(dataset, f"{part}_images") for part in parts])
        assert images.shape == (count, height, width, 1)
        assert images.tobytes() == bytes(pixels)
        assert [label for part in parts for label in getattr(dataset, f"{part}_labels")] == list(
            labels
        )
    assert len(dataset.validation_images) == len(dataset.validation_labels) == validation


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The files of the sample data, as bytes; each test gets its own copy of them."""
    folder = sample.make_mnist(tmp_path_factory.mktemp("made"))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(made, tmp_path):
    folder = tmp_path / "sample" / "mnist"
    folder.mkdir(parents=True)
    for name, content in made.items():
        (folder / name).write_bytes(content)
    return folder


def test_sample_data_is_read_like_an_independent_parser_does(tmp_path, folder):
    dataset = mnist.load("sample", tmp_path)
    assert_is(dataset, folder, ".gz", validation=256)
    assert dataset.name == "sample data: scikit-learn's handwritten digits"
    assert dataset.class_names == tuple("0123456789")
    for part, count in (("train", 1287), ("validation", 256), ("test", 254)):
        images, labels = getattr(dataset, f"{part}_images"), getattr(dataset, f"{part}_labels")
        assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
        assert (images.shape, labels.shape) == ((count, 28, 28, 1), (count,))


def test_beside_the_images_little_is_in_memory(tmp_path, folder):
    tracemalloc.start()
    dataset = mnist.load("sample", tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    images = dataset.train_images.base.nbytes + dataset.test_images.base.nbytes
    assert peak < images + 700_000


def test_data_is_full_or_sample(tmp_path):
    with pytest.raises(ValueError, match="smaple"):
        mnist.load("smaple", tmp_path)


# --- Faults ---------------------------------------------------------------------------------------


def packed(change):
    """A damage that is done to what is inside the gzip file."""
    return lambda content: gzip.compress(change(gzip.decompress(content)))


@pytest.mark.parametrize("name", [IMAGES, LABELS, TEST_IMAGES, TEST_LABELS])
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: b"", "it begins with , expected 0000080"),
        (lambda content: b"<html>404</html>", "no whole gzip file"),
        (lambda content: content[:5], "no whole gzip file"),
        (lambda content: content[: len(content) // 2], "no whole gzip file"),
        (lambda content: content[:-8], "no whole gzip file"),
        (lambda content: content[:-8] + b"\0\0\0\0" + content[-4:], "no whole gzip file"),
        (lambda content: content + b"rubbish", "no whole gzip file"),
        (lambda content: content[:40] + b"\xff" * 40 + content[80:], "is wrong"),
        (packed(lambda idx: b"\0\0\x08\x02" + idx[4:]), "it begins with 00000802"),
        (packed(lambda idx: b"\0\0\x0d" + idx[3:]), "it begins with 00000d0"),
        (packed(lambda idx: idx[:6]), "in the middle of its header"),
        (packed(lambda idx: idx[:4] + struct.pack(">I", 9) + idx[8:]), "announces shape (9,"),
        (packed(lambda idx: idx[:4] + b"\xff" * 4 + idx[8:]), "announces shape (4294967295,"),
        (packed(lambda idx: idx[:-3]), "it is truncated, 3 bytes are missing"),
        (packed(lambda idx: idx + b"\0"), "more bytes follow"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, folder, name, damage, reason):
    path = folder / f"{name}.gz"
    content = damage(path.read_bytes())
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        mnist.load("sample", tmp_path)
    assert str(path) in str(error.value)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", [LABELS, TEST_LABELS])
def test_a_label_that_is_no_digit_is_named(tmp_path, folder, name):
    path = folder / f"{name}.gz"
    idx = bytearray(gzip.decompress(path.read_bytes()))
    idx[8 + 17] = 10
    path.write_bytes(gzip.compress(idx))
    with pytest.raises(DataError, match="image 17 has label 10") as error:
        mnist.load("sample", tmp_path)
    assert str(path) in str(error.value)


def test_numbers_of_images_and_labels_that_differ_are_an_error(tmp_path, folder):
    path = folder / f"{LABELS}.gz"
    idx = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(idx[:4] + struct.pack(">I", 1542) + idx[8:-1]))
    with pytest.raises(DataError, match=r"announces shape \(1542,\), expected \(1543,\)") as error:
        mnist.load("sample", tmp_path)
    assert str(path) in str(error.value)


def test_a_file_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path, folder):
    path = folder / f"{LABELS}.gz"
    idx = gzip.decompress(path.read_bytes())
    zeros = gzip.compress(bytes(1 << 24), compresslevel=1)
    path.write_bytes(gzip.compress(idx) + zeros * 200)  # 3 GB in 15 MB
    tracemalloc.start()
    with pytest.raises(DataError, match="more bytes follow"):
        mnist.load("sample", tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


# --- The published files --------------------------------------------------------------------------


def write_unpacked(data_dir):
    """Files of the published sizes, with other contents."""
    folder = data_dir / "mnist"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for images, labels, count in ((IMAGES, LABELS, 60_000), (TEST_IMAGES, TEST_LABELS, 10_000)):
        header = struct.pack(">4I", 2051, count, 28, 28)
        (folder / images).write_bytes(header + rng.bytes(count * 784))
        digits = rng.integers(0, 10, count, np.uint8)
        (folder / labels).write_bytes(struct.pack(">2I", 2049, count) + digits.tobytes())
    return folder


def no_download(remote, data_dir):
    raise AssertionError(f"must not download {remote.path}")


def test_unpacked_files_go_before_archives(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "download", no_download)
    folder = write_unpacked(tmp_path)
    (folder / f"{IMAGES}.gz").write_bytes(b"not looked at")
    dataset = mnist.load("full", tmp_path)
    assert_is(dataset, folder, "", validation=5_000)
    assert dataset.train_images.shape == (55_000, 28, 28, 1)
    assert dataset.name == "MNIST"

    (folder / TEST_LABELS).write_bytes(b"wrong")
    with pytest.raises(DataError) as error:
        mnist.load("full", tmp_path)
    assert str(folder / TEST_LABELS) in str(error.value)
    assert (folder / TEST_LABELS).read_bytes() == b"wrong"


def test_an_archive_that_is_not_the_published_one_is_an_error(tmp_path):
    path = tmp_path / "mnist" / f"{IMAGES}.gz"
    path.parent.mkdir()
    path.write_bytes(b"half of it")
    with pytest.raises(DataError) as error:
        mnist.load("full", tmp_path)
    assert str(path) in str(error.value)
    assert path.read_bytes() == b"half of it"


def test_what_is_missing_is_downloaded_from_a_mirror_that_answers(tmp_path, monkeypatch):
    asked = []

    def download(remote, data_dir):
        asked.append(remote)
        raise DataError("no network")

    monkeypatch.setattr(mnist, "download", download)
    with pytest.raises(DataError, match="no network"):
        mnist.load("full", tmp_path)
    assert asked[0].path == "mnist/train-images-idx3-ubyte.gz"
    assert [url.rsplit("/", 1)[1] for url in asked[0].urls] == ["train-images-idx3-ubyte.gz"] * 2
    assert not any("lecun" in url for url in asked[0].urls)  # closed since 2024


# --- One's own picture ----------------------------------------------------------------------------


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


def brightness(picture, share):
    """Multiply a picture's rows and columns, (H, W), by a share of the light."""
    return Image.fromarray(np.uint8(np.asarray(picture) * share))


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


def sixteen_bits():
    """Values from 3,000 to 4,000 of 65,535, as a scanner of 12 bits gives them."""
    grey = np.asarray(seven(), np.uint16)
    return Image.fromarray(np.uint16(3_000 + grey / 255 * 1_000))


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
    "16 bits": sixteen_bits,
    "float": lambda: Image.fromarray(np.asarray(seven(), np.float32) / 255 - 7),
    "CMYK": lambda: seven().convert("CMYK"),
    "black on nothing": lambda: transparent((0, 0, 0)),
    "white on nothing": lambda: transparent((255, 255, 255)),
    "palette with transparency": lambda: transparent((0, 0, 0)).quantize(16),
    "light from one side": lambda: brightness(seven(), LIGHT[:, None] * LIGHT),
    "half in the shade": lambda: brightness(seven(), EDGE[:, None] * np.ones(280)),
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


def test_a_picture_is_placed_as_mnist_s_images_are(tmp_path):
    seven().save(tmp_path / "seven.png")
    image = mnist.read_picture(tmp_path / "seven.png")[..., 0]
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    assert np.ptp(rows) + 1 == 20  # it is higher than wide, and stays so
    assert np.ptp(columns) + 1 == pytest.approx(20 * 124 / 184, abs=1.5)
    for axis in (0, 1):
        assert abs(np.average(np.arange(28), weights=image.sum(axis=1 - axis)) - 14) < 0.6
    assert image.max() == 255
    assert 0 in image[rows[0] : rows[-1], columns[0] : columns[-1]]


def test_the_images_themselves_come_back_nearly_as_they_were(folder, tmp_path):
    images = mnist.load("sample", tmp_path).test_images[:50]
    for image in images:
        Image.fromarray(image[..., 0]).save(tmp_path / "image.png")
        found = mnist.read_picture(tmp_path / "image.png")
        assert likeness(found, image) > 0.95


def test_a_line_that_is_thin_for_a_large_picture_stays(tmp_path):
    seven(2000, 5, box=(600, 400, 1300, 1500)).save(tmp_path / "thin.png")
    image = mnist.read_picture(tmp_path / "thin.png")[..., 0]
    rows = np.flatnonzero((image > 128).any(axis=1))
    assert len(rows) == np.ptp(rows) + 1 >= 18  # from top to bottom without a gap


def test_a_camera_that_was_held_sideways(tmp_path):
    seven().save(tmp_path / "upright.jpg")
    turned = seven().transpose(Image.Transpose.ROTATE_90)  # to be shown turned to the right
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    upright = mnist.read_picture(tmp_path / "upright.jpg")
    assert likeness(mnist.read_picture(tmp_path / "turned.jpg"), upright) > 0.98


def test_a_blot_with_a_long_tail_stays_inside(tmp_path):
    picture = seven(width=4, box=(30, 200, 250, 201))
    picture.paste(0, (230, 170, 270, 230))
    picture.save(tmp_path / "blot.png")
    _, columns, _ = np.nonzero(mnist.read_picture(tmp_path / "blot.png"))
    assert np.ptp(columns) + 1 >= 19


def save_huge(path):
    """A picture of 400 million pixels that takes little room in its file."""
    Image.new("1", (20_000, 20_000)).save(path, "PNG")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "cannot be read"),
        (lambda path: path.write_text("# seven\n\n7\n"), "is no picture"),
        (lambda path: path.write_bytes(b""), "is no picture"),
        (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50)), "picture"),
        (lambda path: seven().save(path, "PNG") or cut(path), "cannot be read"),
        (lambda path: seven().save(path, "JPEG") or cut(path), "cannot be read"),
        (save_huge, "too many pixels"),
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
        with pytest.raises(DataError, match=reason) as error:
            mnist.read_picture(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def cut(path):
    path.write_bytes(path.read_bytes()[:400])


# --- The real images ------------------------------------------------------------------------------

DOWNLOADS = ROOT / "datasets" / "downloads"
PRESENT = all(
    (DOWNLOADS / "mnist" / f"{name}.gz").is_file()
    for name in (IMAGES, LABELS, TEST_IMAGES, TEST_LABELS)
)


@pytest.mark.real
@pytest.mark.skipif(not PRESENT, reason="lay MNIST's four .gz files in datasets/downloads/mnist")
def test_the_real_files():
    dataset = mnist.load("full", DOWNLOADS)
    assert_is(dataset, DOWNLOADS / "mnist", ".gz", validation=5_000)
    assert dataset.train_images.shape == (55_000, 28, 28, 1)
    assert dataset.test_images.shape == (10_000, 28, 28, 1)
    assert dataset.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert dataset.test_labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
