"""Photographs with boxes around what they show, in the layout of Pascal VOC.

M. Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge", IJCV 88 (2010),
http://host.robots.ox.ac.uk/pascal/VOC/. Many tools for drawing boxes write this layout:

    JPEGImages/NAME.jpg        a photograph, also in other formats
    Annotations/NAME.xml       the boxes in it, each with its class; there may be none
    ImageSets/Main/train.txt   NAMEs, one a line; so val.txt and test.txt. Without these, one
                               photograph in five is for the test, one in ten others to validate

Where a box begins and ends is kept as it is written. In VOC itself the first pixel is number 1, and
the last one belongs to the box; many tools count from 0. The files do not say which.
"""

import collections
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree import ElementTree

import cv2
import numpy as np
from tqdm import tqdm

from datasets import photographs, pictures
from datasets.files import DataError, unreadable
from datasets.photographs import Files

PARTS = "train", "val", "test"
EDGES = "xmin", "ymin", "xmax", "ymax"


class BoxedPhotograph(NamedTuple):
    """A photograph and the boxes in it; there may be none."""

    name: str
    picture: str  # its file in the folder or the archive
    width: int  # in pixels
    height: int
    boxes: np.ndarray  # np.float32 (N, 4): x1, y1, x2, y2 in pixels, 0 <= x1 < x2 <= width
    labels: np.ndarray  # np.int32 (N,): indices into class_names


@dataclass(frozen=True, eq=False)
class BoxedPhotographs:
    """Photographs with boxes, in three fixed parts."""

    name: str  # what the data is called wherever it shows
    class_names: tuple[str, ...]
    files: Files
    train: tuple[BoxedPhotograph, ...]  # to train on
    validation: tuple[BoxedPhotograph, ...]  # to make choices by
    test: tuple[BoxedPhotograph, ...]  # to use once, at the end
    left_out: dict[str, str]  # why a file, a box, or a part of a box is not among them
    report: Path  # the file that lists what is left out

    def summary(self, train: int) -> str:
        """Describe the data in one line, of which so many photographs are used to train on."""
        parts = {"training": self.train[:train], "validation": self.validation, "test": self.test}
        counts = ", ".join(f"{len(part):,} {name}" for name, part in parts.items())
        boxes = sum(len(photograph.boxes) for part in parts.values() for photograph in part)
        left_out = f"{len(self.left_out):,} files or boxes left out ({self.report})"
        return f"{self.name}: {counts}; {boxes:,} boxes in all; {left_out}"

    def read_all(
        self, part: Sequence[BoxedPhotograph], width: int, height: int
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Read photographs, resized: np.uint8 (height, width, 3), boxes to scale, labels."""
        results = []
        for each in tqdm(part, "reading", leave=False, delay=2):
            scale = np.array([width / each.width, height / each.height] * 2, np.float32)
            image = cv2.resize(self.read(each), (width, height), interpolation=cv2.INTER_AREA)
            results.append((image, each.boxes * scale, each.labels))
        return results

    def read(self, photograph: BoxedPhotograph) -> np.ndarray:
        """Read a photograph as its pixels lie in the file, since these are what boxes refer to.

        So a large one is not shrunk, and a camera's note of how it was held is not followed.

        Returns:
            np.uint8 (height, width, 3), RGB.

        Raises:
            DataError: the file is no longer there, or no longer whole.
        """
        content = self.files.read(photograph.picture)
        try:
            return pictures.decode(content, enough=pictures.MAX_PIXELS, upright=False)
        except ValueError as error:
            raise unreadable(self.files.path / photograph.picture, error) from error


def load(
    path: Path, report: Path, class_names: Sequence[str] = (), validation_count: int = sys.maxsize
) -> BoxedPhotographs:
    """Find photographs with boxes in a folder or a zip archive, however deep in it they lie.

    What is faulty is left out and listed in `report`: a single box, or a photograph whose picture
    or annotation cannot be used. Of a box that sticks out of the picture, what is inside is kept.
    VOC's marks (difficult, truncated) are not looked at.

    Args:
        path: the folder or the archive.
        report: the file to write, JSON.
        class_names: the classes there are; without it, all that occur, in alphabetical order.
        validation_count: of those for validation, all but the first so many are for training.

    Raises:
        DataError: it cannot be read, or there is no box in one of its three parts.
    """
    files = Files(path, own=True)
    top = _top(files)
    sets = _sets(files, top)
    found, left_out = _read(files, top, [name for part in sets for name in part], class_names)
    used = [photograph.picture for photograph, _ in found.values()]
    left_out = photographs.check(files, used, lambda _: "", report, left_out)
    usable = {name: f for name, f in found.items() if f[0].picture not in left_out}
    occurring = {label for _, labels in usable.values() for label in labels}
    classes = tuple(class_names) or tuple(sorted(occurring))
    train, validation, test = (
        tuple(_labelled(*usable[name], classes) for name in part if name in usable)
        for part in sets or photographs.split(usable)
    )
    train, validation = train + validation[validation_count:], validation[:validation_count]
    for part, some in {"training": train, "validation": validation, "test": test}.items():
        if not any(len(photograph.boxes) for photograph in some):
            none = f"there is no box in any {part} photograph"
            need = "" if sets else f": it takes {photographs.LEAST} photographs at least, better 20"
            counts = f"{len(some)} in this part, {len(left_out):,} files or boxes left out"
            raise DataError(f"{path.absolute()}: {none}{need} ({counts}, listed in {report})")
    shown = ", ".join(classes[:5]) + (" and more" if len(classes) > 5 else "")
    name = f"{len(usable):,} photographs with boxes of {shown}"
    return BoxedPhotographs(name, classes, files, train, validation, test, left_out, report)


def _top(files: Files) -> PurePosixPath:
    """Find the folder that the others lie in."""
    paths = (PurePosixPath(name) for name in files.names if not photographs.hidden(name))
    tops = {p.parents[1] for p in paths if p.parent.name == "Annotations" and p.suffix == ".xml"}
    if len(tops) != 1:
        found = " and ".join(f"{top}/Annotations" for top in sorted(tops)[:3]) or "none"
        need = "it takes a folder Annotations of files NAME.xml, and JPEGImages beside it"
        raise DataError(f"{files.path.absolute()}: {need}; found {found}")
    return tops.pop()


def _sets(files: Files, top: PurePosixPath) -> list[list[str]]:
    """Read the names of the photographs in each part, if there are such lists."""
    lists = [str(top / "ImageSets" / "Main" / f"{part}.txt") for part in PARTS]
    missing = [name for name in lists if name not in files.names]
    if len(missing) == len(lists):
        return []
    if missing:
        mend = "write it, or move ImageSets away to have the photographs split"
        raise DataError(f"{files.path.absolute()} lacks {missing[0]}: {mend}")
    contents = [files.read(name).decode("utf-8-sig", "replace").splitlines() for name in lists]
    return [[line.strip() for line in lines if line.strip()] for lines in contents]


def _read(
    files: Files, top: PurePosixPath, names: list[str], class_names: Sequence[str]
) -> tuple[dict[str, tuple[BoxedPhotograph, list[str]]], dict[str, str]]:
    """Read the annotations of the photographs that are named, or of all.

    Returns:
        Photographs by name, their labels still missing, with the names of their boxes' classes; why
        files and boxes are left out, by name.
    """
    images: dict[str, list[str]] = collections.defaultdict(list)
    annotations = set()
    for file in map(PurePosixPath, files.names):
        if file.parent == top / "JPEGImages" and not photographs.hidden(file.name):
            images[file.stem].append(str(file))
        elif file.parent == top / "Annotations" and file.suffix == ".xml":
            annotations.add(file.stem)
    names = names or sorted({*images, *annotations})
    left_out: dict[str, str] = {}
    found: dict[str, tuple[BoxedPhotograph, list[str]]] = {}
    for name, count in tqdm(collections.Counter(names).items(), "boxes", leave=False, delay=2):
        annotation = str(top / "Annotations" / f"{name}.xml")
        try:
            if count > 1:
                raise ValueError(f"ImageSets names it {count} times")
            if name not in annotations:
                raise ValueError("it is missing")
            if len(images[name]) != 1:
                raise ValueError(f"there are {len(images[name])} files JPEGImages/{name}.*")
            (picture,) = images[name]
            width, height = _size(files, picture)
            labels, boxes, faults = _boxes(files.read(annotation), width, height, class_names)
        except (ValueError, DataError) as error:
            left_out[annotation] = str(error)
            continue
        left_out |= {f"{annotation}, {box}": fault for box, fault in faults.items()}
        array = np.array(boxes, np.float32).reshape(-1, 4)
        none = np.zeros(0, np.int32)
        found[name] = BoxedPhotograph(name, picture, width, height, array, none), labels
    return found, left_out


def _size(files: Files, picture: str) -> tuple[int, int]:
    try:
        return pictures.size(files.read(picture))
    except ValueError as error:
        raise ValueError(f"{picture}: {error}") from error


def _boxes(
    xml: bytes, width: int, height: int, class_names: Sequence[str]
) -> tuple[list[str], list[list[float]], dict[str, str]]:
    """Read an annotation: labels, boxes x1, y1, x2, y2, and what is wrong with others.

    Raises:
        ValueError: it is no annotation, or that of a picture of another size.
    """
    try:
        root = ElementTree.fromstring(xml)
    except (ElementTree.ParseError, LookupError) as error:  # the latter: an unknown encoding
        raise ValueError(f"it is no whole XML ({error})") from error
    if root.tag != "annotation":
        raise ValueError(f"it begins with <{root.tag[:30]}>, not <annotation>")
    for length, tag in ((width, "width"), (height, "height")):
        noted = (root.findtext(f"size/{tag}") or "").strip()
        if noted not in ("", "0", str(length)):
            raise ValueError(f"it is for a {tag} of {noted[:30]}, the picture's is {length}")
    labels, boxes, faults = [], [], {}
    for number, item in enumerate(root.findall("object"), 1):
        label = (item.findtext("name") or "").strip()
        try:
            if not label or (class_names and label not in class_names):
                raise ValueError("it is of no known class")
            edges = [_number(item, edge) for edge in EDGES]
            box = np.clip(edges, 0, [width, height] * 2).tolist()
            if edges[0] >= edges[2] or edges[1] >= edges[3]:
                raise ValueError("it has no area")
            if box[0] >= box[2] or box[1] >= box[3]:
                raise ValueError("it is outside the picture")
        except ValueError as error:
            faults[f"box {number} ({label})"] = str(error)
            continue
        if box != edges:
            faults[f"box {number} ({label})"] = "only what is inside the picture is kept"
        labels.append(label)
        boxes.append(box)
    return labels, boxes, faults


def _number(item: ElementTree.Element, edge: str) -> float:
    text = item.findtext(f"bndbox/{edge}")
    if text is None:
        raise ValueError(f"it has no bndbox with {edge}")
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"its {edge} is {text[:30]!r}")
    return number


def _labelled(
    photograph: BoxedPhotograph, labels: list[str], class_names: tuple[str, ...]
) -> BoxedPhotograph:
    numbers = np.array([class_names.index(label) for label in labels], np.int32)
    return photograph._replace(labels=numbers)
