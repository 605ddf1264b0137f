"""Nuclei under the microscope, each with a mask of its own: the 2018 Data Science Bowl.

Image set BBBC038v1 of the Broad Bioimage Benchmark Collection (V. Ljosa et al., "Annotated
high-throughput microscopy image sets for validation", Nature Methods 9, 2012),
https://bbbc.broadinstitute.org/BBBC038, CC0. J. C. Caicedo et al., "Nucleus segmentation across
imaging experiments: the 2018 Data Science Bowl", Nature Methods 16 (2019).

    ID/images/ID.png     an image, from 256 x 256 to 1388 x 1040 pixels
    ID/masks/*.png       a mask of the same size for each nucleus: not 0 where it is

Of these 29,000 masks, each image's are put into one array. That takes ten seconds or more, so the
arrays are kept beside the archive (2 MB), and read anew when a file or this code has changed.
"""

import concurrent.futures
import hashlib
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from datasets import photographs, sample
from datasets.download import RemoteFile, download
from datasets.files import DataError, fill, unreadable, wrong
from datasets.photographs import Files

# What is wrong with a file is said by us, in one line that names it.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

KINDS = ("fluorescence", "bright stain", "purple tissue")

_ARCHIVE = RemoteFile(
    path="nuclei/stage1_train.zip",  # neither its size nor a checksum is published
    urls=("https://data.broadinstitute.org/bbbc/BBBC038/stage1_train.zip",),
)
_FILE = re.compile(r"(?:^|/)([^/]+)/(images|masks)/[^/.][^/]*\.(?i:png)$")


class Nuclei(NamedTuple):
    """An image, and which nucleus each of its pixels belongs to."""

    name: str
    image: np.ndarray  # np.uint8 (H, W, 3), RGB
    instances: np.ndarray  # np.uint16 (H, W): 0 for the background, 1 to n for the nuclei


@dataclass(frozen=True, eq=False)
class NucleiImages:
    """Images of nuclei in three fixed parts."""

    name: str  # what the data is called wherever it shows
    train: tuple[Nuclei, ...]  # to train on
    validation: tuple[Nuclei, ...]  # to make choices by
    test: tuple[Nuclei, ...]  # to use once, at the end
    left_out: dict[str, str]  # why a file, or a part of a mask, is not among them, by its name
    report: Path  # the file that lists what is left out

    def summary(self, train: int) -> str:
        """Describe the data in one line, of which so many images are used to train on."""
        parts = {"training": self.train[:train], "validation": self.validation, "test": self.test}
        counts = ", ".join(f"{len(part):,} {name}" for name, part in parts.items())
        nuclei = sum(int(each.instances.max()) for part in parts.values() for each in part)
        left_out = f"{len(self.left_out):,} files left out ({self.report})"
        return f"{self.name}: {counts}; {nuclei:,} nuclei in all; {left_out}"


def kind(image: np.ndarray) -> str:
    """Tell how an image, np.uint8 (H, W, 3), was made, by its mean colour.

    Fluorescent nuclei shine on dark ground; others are stained, and darker than theirs, which is
    grey ("bright stain") or has a colour as the nuclei have ("purple tissue").
    """
    colour = image.mean(axis=(0, 1))
    if colour.mean() < 100:
        return "fluorescence"
    return "bright stain" if np.ptp(colour) < 5 else "purple tissue"


def load(data: str = "full", data_dir: Path = Path("datasets/downloads")) -> NucleiImages:
    """Load the images of nuclei, or with "sample" drawn ones, which need no network.

    With "full" they are in data_dir/nuclei: in the folder stage1_train, if it lies there, else in
    stage1_train.zip, which is downloaded. The names' checksums split them: one in five is for the
    test, one in ten of the others for validation.

    An image is left out, since a nucleus would be taken for background, if one of its masks cannot
    be read or is of another size, or if all are empty. Else an empty mask is left out by itself.
    Where masks overlap, the smaller nucleus has the pixels. All of this is listed in a report.

    Raises:
        DataError: the archive is damaged, or cannot be fetched or read, or holds too few images.
    """
    path = data_dir / "nuclei" / "stage1_train"
    if data == "sample":
        path = sample.make_nuclei(data_dir) / "stage1_train.zip"
    elif not path.is_dir():
        path = download(_ARCHIVE, data_dir)
    files = Files(path)
    state = repr([(name, files.state(name)) for name in files.names])
    edition = hashlib.sha256(state.encode() + Path(__file__).read_bytes()).hexdigest()[:8]
    folder = path.with_name(f"{path.name}.read") / edition
    kept, report = folder / "instances.npz", folder / "report.json"
    fill(folder, [kept.name, report.name], lambda empty: _read_masks(files, empty))
    try:
        left_out = json.loads(report.read_text())["left_out"]
        with np.load(kept) as arrays:
            names = arrays["names"].tolist()
            instances = {name: arrays[f"arr_{i}"] for i, name in enumerate(names)}
    except (OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise wrong(folder, error) from error
    if len(names) < photographs.LEAST:
        counts = f"it has {len(names)} that can be used, {len(left_out):,} files left out"
        need = f"{photographs.LEAST} images ID/images/ID.png with masks ID/masks/*.png"
        raise wrong(path, f"it takes {need}, {counts} ({report})")
    found = _layout(files)
    images = _in_threads(lambda name: _decoded(files, found[name].images[0]), names, "images")
    train, validation, test = (
        tuple(Nuclei(name, images[name], instances[name]) for name in part)
        for part in photographs.split(names)
    )
    title = f"{len(names):,} microscope images of nuclei"
    title = sample.NUCLEI_NAME if data == "sample" else title
    return NucleiImages(title, train, validation, test, left_out, report)


class _Place(NamedTuple):
    """The files of an image."""

    images: list[str]  # there should be one
    masks: list[str]


def _layout(files: Files) -> dict[str, _Place]:
    """Find the files of each image, by its name."""
    found: dict[str, _Place] = {}
    for file in files.names:
        if place := _FILE.search(file):
            of_name = found.setdefault(place[1], _Place([], []))
            (of_name.images if place[2] == "images" else of_name.masks).append(file)
    return found


def _in_threads(call: Callable[[str], Any], names: Sequence[str], title: str) -> dict[str, Any]:
    """Return what a call returns for each name. OpenCV lets threads decode at the same time."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        results = tqdm(pool.map(call, names), title, len(names), leave=False, delay=2)
        return dict(zip(names, results, strict=True))


def _read_masks(files: Files, folder: Path) -> None:
    """Write instances.npz, with the instances of each image, and report.json."""
    found = _layout(files)
    read = _in_threads(lambda name: _instances(files, found[name]), list(found), "masks")
    left_out = {file: fault for _, faults in read.values() for file, fault in faults.items()}
    arrays = {name: instances for name, (instances, _) in read.items() if instances is not None}
    np.savez_compressed(folder / "instances.npz", *arrays.values(), names=np.array(list(arrays)))
    content = {"left_out_count": len(left_out), "left_out": left_out}
    (folder / "report.json").write_text(json.dumps(content, indent=2) + "\n")


def _instances(files: Files, place: _Place) -> tuple[np.ndarray | None, dict[str, str]]:
    """Put an image's masks into one array, np.uint16 (H, W); say what is left out, by file."""
    file, nuclei, faults = (place.images + place.masks)[0], {}, {}
    try:
        if len(place.images) != 1 or not place.masks:
            counts = f"{len(place.images)} images and {len(place.masks)} masks"
            raise ValueError(f"its folder has {counts}")
        shape = _decoded(files, file).shape[:2]
        for mask in place.masks:
            # As many bits as it has, lest a 3 of 65,535 become 0; colours, but no alpha.
            drawn = _decoded(files, mask, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)
            drawn = np.atleast_3d(drawn).max(axis=2)
            if drawn.shape != shape:
                sizes = " and ".join(
                    f"{width} x {height}" for height, width in (shape, drawn.shape)
                )
                raise ValueError(f"it and {mask} have {sizes} pixels")
            x, y, width, height = cv2.boundingRect((drawn > 0).view(np.uint8))
            part = slice(y, y + height), slice(x, x + width)
            nuclei[mask] = part, drawn[part] > 0
        if not any(drawn.size for _, drawn in nuclei.values()):
            raise ValueError("its masks are all empty")
    except (ValueError, DataError) as error:
        return None, {file: str(error)}
    instances, number = np.zeros(shape, np.uint16), 0
    for mask, (part, drawn) in sorted(nuclei.items(), key=lambda item: item[1][1].sum()):
        free = drawn & (instances[part] == 0)
        taken = drawn.sum() - free.sum()
        if taken or not drawn.any():
            faults[mask] = f"{taken} pixels are a smaller nucleus'" if taken else "it is empty"
        if free.any():
            number += 1
            instances[part][free] = number
    return instances, faults


def _decoded(files: Files, name: str, flags: int = cv2.IMREAD_COLOR_RGB) -> np.ndarray:
    content = np.frombuffer(files.read(name), np.uint8)
    try:
        image = cv2.imdecode(content, flags)
    except cv2.error:  # it is empty, or huge
        image = None
    if image is None:
        raise unreadable(files.path / name, ValueError("it is no whole picture"))
    return image
