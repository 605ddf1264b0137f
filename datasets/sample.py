"""Sample data: small data sets made on the spot, for working without the network.

They are written in the very file formats of the real data sets, so that the same parsers read them,
and are called sample data wherever they show:

* in place of MNIST: the handwritten digits that come with scikit-learn, brought to MNIST's size and
  position;
* in place of CIFAR-10: drawings of ten kinds of objects on varied backgrounds;
* in place of the photographs of cats and dogs: drawn faces of both, in JPEG files of varied size.

The drawings are described below in a few lines for each kind, and drawn by `drawn_objects` in any
size.
"""

import contextlib
import gzip
import hashlib
import io
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import filelock
import numpy as np
from PIL import Image

from datasets.download import DataError

MNIST_NAME = "sample data: scikit-learn's handwritten digits"
CIFAR10_NAME = "sample data: drawn objects"
CATS_DOGS_NAME = "sample data: drawn cats and dogs"

# --- Shapes ---------------------------------------------------------------------------------------
#
# A kind of object is a sequence of filled outlines, each with the ink it is filled with. Outlines
# are lists of points (x, y) in a square from -1 to 1, x to the right and y down.

# An ink is what it puts on the two layers of a canvas.
BODY = (255, 0)  # the object's first colour
DETAIL = (0, 255)  # its second colour
HOLE = (0, 0)  # the background shows again

Ink = tuple[int, int]
Outline = Sequence[tuple[float, float]]


def _oval(x: float, y: float, radius_x: float, radius_y: float = 0.0) -> Outline:
    """Ellipse around (x, y); a circle without `radius_y`."""
    return _arc(x, y, radius_x, radius_y or radius_x, 0, 360)


def _arc(x: float, y: float, radius_x: float, radius_y: float, start: int, stop: int) -> Outline:
    """Part of an ellipse, clockwise between two angles in degrees; 0 is on the right, 90 below."""
    angles = np.radians(np.linspace(start, stop, 24))
    return list(zip(x + radius_x * np.cos(angles), y + radius_y * np.sin(angles), strict=True))


def _box(left: float, top: float, right: float, bottom: float) -> Outline:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _mirrored(*right: tuple[float, float]) -> Outline:
    """Symmetric outline, of which the right half is given, from top to bottom."""
    return [*right, *((-x, y) for x, y in reversed(right))]


def _line(width: float, points: Outline) -> Outline:
    """Outline of a line through `points`."""
    path = np.array(points, float)
    along = np.gradient(path, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], 1) / np.linalg.norm(along, axis=1)[:, None]
    return [*map(tuple, path + across * width / 2), *map(tuple, (path - across * width / 2)[::-1])]


def _smooth(outline: Outline) -> Outline:
    """Rounds an outline to a quadratic B-spline, by cutting corners (Chaikin, 1974)."""
    points = np.array(outline, float)
    for _ in range(3):
        following = np.roll(points, -1, axis=0)
        corners = [0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following]
        points = np.stack(corners, 1).reshape(-1, 2)
    return list(map(tuple, points))


def _around(count: int, outline: Outline) -> list[Outline]:
    """The outline `count` times, turned around the origin."""
    angles = np.arange(count) * 2 * np.pi / count
    x, y = np.array(outline).T
    return [
        list(zip(x * np.cos(a) - y * np.sin(a), x * np.sin(a) + y * np.cos(a), strict=True))
        for a in angles
    ]


def _rays(count: int, outer: float, inner: float) -> Outline:
    """Star with `count` points, the first one on top."""
    angles = np.arange(2 * count) * np.pi / count
    radii = np.where(np.arange(2 * count) % 2 == 0, outer, inner)
    return list(zip(radii * np.sin(angles), -radii * np.cos(angles), strict=True))


def _flipped(outline: Outline) -> Outline:
    return [(-x, y) for x, y in outline]


_WING = _smooth([(0.04, -0.1), (0.3, -0.95), (1, -0.95), (0.95, -0.2), (0.45, 0), (0.05, 0.1)])
_HIND_WING = _smooth([(0.04, 0), (0.5, 0), (0.95, 0.25), (0.75, 0.95), (0.3, 0.75), (0.04, 0.2)])
_FISH = [*_arc(-0.2, 0.5, 0.95, 0.95, 213, 327), *_arc(-0.2, -0.5, 0.95, 0.95, 33, 147)]
_FIN = [(0.26, 0.15), (0.68, 0.7), (0.68, 0.95), (0.24, 0.7)]
_APPLE = _mirrored((0, -0.35), (0.5, -0.75), (1.05, -0.3), (0.8, 0.7), (0.3, 1.1), (0, 0.85))
_TOOTH = [(-0.2, -0.65), (-0.13, -1), (0.13, -1), (0.2, -0.65)]
_HEART = _mirrored((0, -0.45), (0.35, -1), (1.05, -0.75), (0.95, 0.1), (0.1, 1), (0, 1))
_LEAF = [(-0.95, 0.75), (-0.75, -0.2), (-0.1, -0.8), (1, -1), (0.75, 0.1), (0.1, 0.7)]

# The ten kinds that stand in for CIFAR-10's classes.
_CIFAR10_DRAWINGS = {
    "butterfly": [
        *((BODY, wing) for wing in (_WING, _HIND_WING, _flipped(_WING), _flipped(_HIND_WING))),
        *((DETAIL, _oval(x, y, 0.17)) for x in (-0.62, 0.62) for y in (-0.55, 0.4)),
        (DETAIL, _oval(0, 0.05, 0.1, 0.6)),
        *((DETAIL, _line(0.07, [(0, -0.4), (x / 2, -0.7), (x, -0.95)])) for x in (-0.22, 0.22)),
    ],
    "cup": [
        (BODY, _line(0.2, _arc(0.42, 0.1, 0.42, 0.38, -90, 90))),
        (BODY, [(-0.8, -0.6), (0.55, -0.6), (0.42, 0.8), (-0.67, 0.8)]),
        (DETAIL, _oval(-0.125, -0.6, 0.68, 0.16)),
        (DETAIL, [(-0.74, 0.15), (0.49, 0.15), (0.47, 0.4), (-0.71, 0.4)]),
    ],
    "fish": [
        (DETAIL, [(-0.4, -0.25), (-0.05, -0.75), (0.4, -0.6), (0.3, -0.2)]),
        (DETAIL, [(-0.15, 0.3), (0.2, 0.75), (0.35, 0.2)]),
        (BODY, _FISH),
        (BODY, [(0.4, 0.0), (1.0, -0.55), (0.82, 0.0), (1.0, 0.55)]),
        (DETAIL, _oval(-0.62, -0.08, 0.1)),
        (DETAIL, _line(0.09, _arc(-0.55, 0.02, 0.3, 0.42, -50, 50))),
    ],
    "house": [
        (BODY, _box(0.35, -0.85, 0.58, -0.2)),
        (BODY, _box(-0.7, -0.15, 0.7, 0.9)),
        (DETAIL, [(0, -0.95), (0.98, -0.1), (-0.98, -0.1)]),
        (DETAIL, _box(-0.5, 0.25, -0.1, 0.9)),
        (HOLE, _box(0.15, 0.2, 0.5, 0.55)),
    ],
    "key": [
        (BODY, _oval(-0.55, 0, 0.44)),
        (HOLE, _oval(-0.6, 0, 0.2)),
        (BODY, _box(-0.2, -0.11, 0.98, 0.11)),
        (BODY, _box(0.78, 0.0, 0.98, 0.45)),
        (BODY, _box(0.42, 0.0, 0.6, 0.36)),
    ],
    "rocket": [
        (DETAIL, _FIN),
        (DETAIL, _flipped(_FIN)),
        (DETAIL, _smooth(_mirrored((0.26, 0.65), (0.16, 0.9), (0.0, 1.15)))),
        (BODY, _mirrored((0.0, -1.0), (0.2, -0.75), (0.32, -0.4), (0.35, 0.1), (0.26, 0.75))),
        (DETAIL, _oval(0, -0.3, 0.17)),
    ],
    "snowman": [
        (BODY, _oval(0, 0.52, 0.5, 0.46)),
        (BODY, _oval(0, -0.12, 0.36)),
        (BODY, _oval(0, -0.58, 0.26)),
        (DETAIL, _box(-0.38, -0.82, 0.38, -0.72)),
        (DETAIL, _box(-0.22, -1.0, 0.22, -0.75)),
        *((DETAIL, _line(0.08, [(s * 0.3, -0.15), (s * 0.95, -0.5)])) for s in (-1, 1)),
        *((DETAIL, _oval(0, y, 0.08)) for y in (-0.1, 0.3, 0.6)),
    ],
    "star": [(BODY, _rays(5, 1.0, 0.42)), (DETAIL, _rays(5, 0.45, 0.19))],
    "tree": [
        (DETAIL, _box(-0.14, 0.5, 0.14, 1.0)),
        (BODY, _mirrored((0, -1.0), (0.42, -0.4))),
        (BODY, _mirrored((0, -0.75), (0.6, 0.1))),
        (BODY, _mirrored((0, -0.4), (0.8, 0.65))),
    ],
    "umbrella": [
        (DETAIL, _line(0.1, [(0, -0.95), (0, 0.7)])),
        (DETAIL, _line(0.1, _arc(0.18, 0.68, 0.18, 0.25, 0, 180))),
        (BODY, _arc(0, 0.05, 0.98, 0.85, 180, 360)),
        *((HOLE, _oval(x, 0.07, 0.245, 0.15)) for x in (-0.735, 0.735)),
        *((HOLE, _oval(x, 0.07, 0.19, 0.15)) for x in (-0.24, 0.24)),
        *((DETAIL, _line(0.06, [(0, -0.8), (x * 0.8, -0.5), (x, 0)])) for x in (-0.49, 0.49)),
    ],
}

# Other kinds, for training a network that is then transferred to those ten.
_OTHER_DRAWINGS = {
    "anchor": [
        (BODY, _oval(0, -0.75, 0.25)),
        (HOLE, _oval(0, -0.75, 0.12)),
        (BODY, _box(-0.1, -0.55, 0.1, 0.9)),
        (BODY, _box(-0.45, -0.4, 0.45, -0.22)),
        (BODY, _line(0.2, _arc(0, 0.2, 0.75, 0.65, 5, 175))),
        (BODY, [(0.45, 0.3), (0.8, -0.1), (1.0, 0.4)]),
        (BODY, [(-0.45, 0.3), (-0.8, -0.1), (-1.0, 0.4)]),
    ],
    "apple": [
        (DETAIL, _line(0.14, [(0.0, -0.2), (0.02, -0.6), (0.12, -1.0)])),
        (DETAIL, _smooth([(0.08, -0.6), (0.3, -1.05), (0.95, -1.05), (0.6, -0.6)])),
        (BODY, _smooth(_APPLE)),
        (DETAIL, _oval(-0.45, 0.0, 0.13, 0.22)),
    ],
    "arrow": [
        (DETAIL, _box(-0.95, -0.2, 0.3, 0.2)),
        (BODY, _box(-0.6, -0.2, 0.3, 0.2)),
        (BODY, [(0.1, -0.65), (0.98, 0), (0.1, 0.65)]),
    ],
    "bell": [
        (DETAIL, _oval(0, 0.75, 0.2)),
        (BODY, _oval(0, -0.82, 0.15)),
        (BODY, _mirrored((0.2, -0.8), (0.45, -0.5), (0.52, 0.1), (0.85, 0.65))),
        (DETAIL, _box(-0.64, 0.28, 0.64, 0.42)),
    ],
    "bottle": [
        (DETAIL, _box(-0.17, -1.0, 0.17, -0.8)),
        (BODY, _mirrored((0.13, -0.82), (0.13, -0.4), (0.4, -0.1), (0.4, 0.95))),
        (DETAIL, _box(-0.4, 0.15, 0.4, 0.6)),
    ],
    "chair": [
        (BODY, _box(-0.6, -0.95, -0.4, 0.95)),
        (BODY, _box(0.4, 0.1, 0.6, 0.95)),
        (BODY, _box(-0.6, 0.05, 0.65, 0.25)),
        (DETAIL, _line(0.14, [(-0.5, -0.8), (0.1, -0.8)])),
        (DETAIL, _line(0.14, [(-0.5, -0.45), (0.1, -0.45)])),
        (BODY, _box(0.05, -0.95, 0.2, 0.1)),
    ],
    "clock": [
        (BODY, _oval(0, 0, 0.92)),
        (DETAIL, _oval(0, 0, 0.74)),
        (BODY, _line(0.14, [(0, 0.08), (0, -0.6)])),
        (BODY, _line(0.14, [(-0.06, -0.03), (0.42, 0.25)])),
    ],
    "crown": [
        (BODY, _mirrored((0, -0.8), (0.45, 0), (0.9, -0.6), (0.75, 0.7))),
        *((BODY, _oval(x, y, 0.12)) for x, y in ((-0.9, -0.62), (0, -0.82), (0.9, -0.62))),
        (DETAIL, _box(-0.77, 0.42, 0.77, 0.6)),
        *((DETAIL, _oval(x, 0.18, 0.1)) for x in (-0.45, 0, 0.45)),
    ],
    "envelope": [
        (BODY, _box(-0.95, -0.62, 0.95, 0.62)),
        (DETAIL, _line(0.12, [(-0.92, -0.58), (0, 0.12), (0.92, -0.58)])),
        (DETAIL, _line(0.08, [(-0.92, 0.58), (-0.3, -0.05)])),
        (DETAIL, _line(0.08, [(0.92, 0.58), (0.3, -0.05)])),
    ],
    "flower": [
        *((BODY, petal) for petal in _around(6, _oval(0, -0.6, 0.3, 0.38))),
        (DETAIL, _oval(0, 0, 0.32)),
    ],
    "gear": [
        (BODY, _oval(0, 0, 0.72)),
        *((BODY, tooth) for tooth in _around(8, _TOOTH)),
        (DETAIL, _oval(0, 0, 0.5)),
        (HOLE, _oval(0, 0, 0.28)),
    ],
    "glasses": [
        *((BODY, _oval(x, 0, 0.44, 0.4)) for x in (-0.52, 0.52)),
        *((HOLE, _oval(x, 0, 0.29, 0.26)) for x in (-0.52, 0.52)),
        (BODY, _line(0.13, _arc(0, 0.02, 0.2, 0.18, 180, 360))),
        *((DETAIL, _line(0.12, [(s * 0.92, -0.1), (s * 0.98, -0.55)])) for s in (-1, 1)),
    ],
    "hammer": [
        (DETAIL, _box(-0.1, -0.5, 0.12, 1.0)),
        (BODY, _box(0.3, -0.95, 0.7, -0.35)),
        (BODY, [(0.4, -0.82), (0.4, -0.45), (-0.25, -0.45), (-0.85, -0.25), (-0.4, -0.82)]),
    ],
    "heart": [
        (BODY, _smooth(_HEART)),
        (DETAIL, _oval(-0.45, -0.35, 0.15, 0.2)),
    ],
    "ladder": [
        (BODY, _line(0.16, [(-0.5, -1.0), (-0.5, 1.0)])),
        (BODY, _line(0.16, [(0.5, -1.0), (0.5, 1.0)])),
        *((DETAIL, _box(-0.45, y - 0.07, 0.45, y + 0.07)) for y in (-0.72, -0.24, 0.24, 0.72)),
    ],
    "leaf": [
        (BODY, _smooth(_LEAF)),
        (DETAIL, _line(0.09, [(-0.95, 0.95), (-0.2, 0.1), (0.6, -0.65)])),
        (DETAIL, _line(0.07, [(-0.25, 0.15), (-0.3, -0.4)])),
        (DETAIL, _line(0.07, [(-0.2, 0.15), (0.35, 0.2)])),
        (DETAIL, _line(0.07, [(0.15, -0.25), (0.1, -0.65)])),
    ],
    "lightning": [
        (BODY, [(-0.1, -1), (0.5, -1), (0.1, -0.1), (-0.5, 0.1)]),
        (BODY, [(-0.2, -0.3), (0.6, -0.3), (-0.35, 1), (-0.05, 0.0)]),
    ],
    "moon": [
        (BODY, [*_arc(0, 0, 0.95, 0.95, 60, 300), *_arc(0.5, 0, 0.82, 0.82, 270, 90)]),
        (DETAIL, _oval(-0.6, 0.25, 0.13)),
        (DETAIL, _oval(-0.5, -0.3, 0.09)),
    ],
    "mushroom": [
        (DETAIL, _smooth(_mirrored((0.22, -0.1), (0.2, 0.4), (0.38, 1.05)))),
        (BODY, _arc(0, 0.1, 0.95, 1.0, 180, 360)),
        *((DETAIL, _oval(x, y, 0.14)) for x, y in ((-0.5, -0.25), (0.05, -0.55), (0.5, -0.2))),
    ],
    "sailboat": [
        (BODY, [(-0.95, 0.5), (0.95, 0.5), (0.6, 0.95), (-0.65, 0.95)]),
        (BODY, _box(-0.1, -0.95, 0.0, 0.55)),
        (DETAIL, [(0.06, -0.9), (0.85, 0.35), (0.06, 0.35)]),
        (DETAIL, [(-0.16, -0.6), (-0.16, 0.35), (-0.75, 0.35)]),
    ],
}

_EAR = [(0.15, -0.5), (0.75, -1.0), (0.79, 0.1)]
_HANGING_EAR = _smooth([(0.3, -0.85), (0.8, -0.85), (1.05, 0.1), (0.85, 0.6), (0.55, 0.2)])
_TONGUE = _smooth(_mirrored((0.16, 0.6), (0.2, 1.0), (0.0, 1.1)))

# The faces that stand in for photographs of cats and dogs.
_FACE_DRAWINGS = {
    "cat": [
        (BODY, _EAR),
        (BODY, _flipped(_EAR)),
        (BODY, _oval(0, 0.15, 0.8, 0.7)),
        *((DETAIL, _oval(x, 0.0, 0.19, 0.15)) for x in (-0.36, 0.36)),
        *((BODY, _oval(x, 0.0, 0.05, 0.15)) for x in (-0.36, 0.36)),
        (DETAIL, [(-0.12, 0.3), (0.12, 0.3), (0, 0.44)]),
        *((DETAIL, _line(0.06, _arc(x, 0.44, 0.14, 0.14, 0, 180))) for x in (-0.14, 0.14)),
        *((DETAIL, _line(0.05, [(s * 0.35, 0.38), (s, 0.25)])) for s in (-1, 1)),
        *((DETAIL, _line(0.05, [(s * 0.35, 0.42), (s, 0.5)])) for s in (-1, 1)),
    ],
    "dog": [
        (BODY, _smooth(_mirrored((0.45, -0.9), (0.7, 0.0), (0.45, 0.9)))),
        (DETAIL, _HANGING_EAR),
        (DETAIL, _flipped(_HANGING_EAR)),
        *((DETAIL, _oval(x, -0.25, 0.1)) for x in (-0.25, 0.25)),
        (DETAIL, _oval(0, 0.3, 0.2, 0.14)),
        (DETAIL, _line(0.06, [(0, 0.4), (0, 0.6)])),
        (DETAIL, _line(0.06, _arc(0, 0.45, 0.3, 0.2, 10, 170))),
        (DETAIL, _TONGUE),
    ],
}

CIFAR10_KINDS = tuple(_CIFAR10_DRAWINGS)
OTHER_KINDS = tuple(_OTHER_DRAWINGS)
FACE_KINDS = tuple(_FACE_DRAWINGS)
_DRAWINGS = _CIFAR10_DRAWINGS | _OTHER_DRAWINGS | _FACE_DRAWINGS

# --- Drawing --------------------------------------------------------------------------------------

SUPERSAMPLING = 4  # shapes are drawn so many times larger and then scaled down, for smooth edges
FRACTION_BITS = 4  # OpenCV takes coordinates as whole sixteenths of a pixel
BATCH = 250  # images coloured at once: some tens of megabytes at 64 x 64


def drawn_objects(
    kinds: Sequence[str], count: int, size: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws objects of the given kinds, each as often as the others (or once more or less).

    Size, place, slant, colours, background and noise are random and do not depend on the kind. An
    object is lighter than its background as often as darker, so that no single pixel tells much.

    Args:
        kinds: names out of `CIFAR10_KINDS`, `OTHER_KINDS` and `FACE_KINDS`.
        count: number of images.
        size: height and width in pixels.
        seed: the same seed gives the same images.

    Returns:
        images: (count, size, size, 3) np.uint8, RGB.
        labels: (count,) np.int32, indices into `kinds`, in random order.
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % len(kinds)).astype(np.int32)
    coverage = _draw([_DRAWINGS[kind] for kind in kinds], labels, size, rng)
    images = np.empty((count, size, size, 3), np.uint8)
    for start in range(0, count, BATCH):
        part = slice(start, start + BATCH)
        images[part] = _colour(coverage[part], rng)
    return images, labels


def _draw(
    drawings: Sequence[Sequence[tuple[Ink, Outline]]],
    labels: np.ndarray,
    size: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draws the objects without colours.

    Returns:
        (N, size, size, 2) np.uint8, how much of each pixel the body and the details cover, of 255.
    """
    count = len(labels)
    radius = size / 2 * rng.uniform(0.6, 0.95, count)
    centre = size / 2 + rng.uniform(-1, 1, (count, 2)) * (size / 2 - radius)[:, None]
    # How a point is moved: stretched, mirrored half of the time, slanted, turned, enlarged.
    matrix = np.zeros((count, 2, 2))
    matrix[:, 0, 0] = rng.choice([-1, 1], count) * rng.uniform(0.8, 1.0, count)
    matrix[:, 0, 1] = rng.uniform(-0.2, 0.2, count)
    matrix[:, 1, 1] = 1
    angle = np.radians(rng.uniform(-20, 20, count))
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], 1)
    matrix = turn.reshape(count, 2, 2) @ matrix * radius[:, None, None]
    # From pixels to OpenCV's fractions of pixels on the large canvas, where 0 is a pixel's centre.
    unit = SUPERSAMPLING * 2**FRACTION_BITS
    matrix, offset = matrix * unit, centre * unit - 2**FRACTION_BITS / 2

    canvas = np.empty((size * SUPERSAMPLING, size * SUPERSAMPLING, 2), np.uint8)
    coverage = np.empty((count, size, size, 2), np.uint8)
    for label, drawing in enumerate(drawings):
        chosen = np.flatnonzero(labels == label)
        outlines = []  # the ink of each, and its points for all chosen images (n, points, 2)
        for ink, outline in drawing:
            points = np.array(outline) @ matrix[chosen].transpose(0, 2, 1) + offset[chosen, None]
            outlines.append((ink, np.rint(points).astype(np.int32)))
        for i, image in enumerate(chosen):
            canvas[:] = 0
            for ink, points in outlines:
                cv2.fillPoly(canvas, [points[i]], ink, shift=FRACTION_BITS)
            cv2.resize(canvas, (size, size), coverage[image], interpolation=cv2.INTER_AREA)
    return coverage


def _colour(coverage: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gives objects colours and backgrounds: np.uint8 (N, size, size, 2) to (N, size, size, 3)."""
    count, size = coverage.shape[:2]
    lightness = rng.uniform(40, 215, count)
    body_lightness = _apart(lightness, 60, rng)
    detail_lightness = _apart(body_lightness, 60, rng)
    body, detail = _tint(body_lightness, rng), _tint(detail_lightness, rng)
    ground, pattern = _tint(lightness, rng), _tint(lightness + rng.uniform(-45, 45, count), rng)

    image = ground + _patterns(count, size, rng) * (pattern - ground)
    shade = rng.uniform(-25, 25, (count, 1, 1, 1)).astype(np.float32) * _ramps(count, size, rng)
    body_share, detail_share = np.split(coverage.astype(np.float32) / 255, 2, axis=-1)
    image += body_share * (body + shade - image) + detail_share * (detail - image)
    noise = rng.integers(0, 256, image.shape, np.uint8).astype(np.float32) - 128
    image += noise * rng.uniform(0.02, 0.15, (count, 1, 1, 1)).astype(np.float32)
    return np.clip(image, 0, 255).astype(np.uint8)


def _apart(lightness: np.ndarray, gap: float, rng: np.random.Generator) -> np.ndarray:
    """Chooses lightnesses, between 20 and 235, that differ by at least `gap`, up or down."""
    step = rng.uniform(gap, 1.7 * gap, len(lightness))
    up = rng.random(len(lightness)) < 0.5
    up |= lightness - step < 20
    up &= lightness + step < 235
    return np.where(up, lightness + step, lightness - step)


def _tint(lightness: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Makes colours of the given lightness: (N,) to (N, 1, 1, 3) np.float32."""
    tint = rng.uniform(-70, 70, (len(lightness), 3))
    tint -= tint.mean(axis=1, keepdims=True)
    return (lightness[:, None] + tint).astype(np.float32)[:, None, None]


def _ramps(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Ramps in random directions: (N, size, size, 1) np.float32 within -1 to 1."""
    across = np.linspace(-0.7, 0.7, size, dtype=np.float32)
    angle = rng.uniform(0, 2 * np.pi, (count, 1, 1, 1)).astype(np.float32)
    return np.cos(angle) * across[:, None] + np.sin(angle) * across[:, None, None]


def _patterns(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Ramps, stripes, blobs and coarse noise: (N, size, size, 1) np.float32 from 0 to 1."""
    patterns = (1 + _ramps(count, size, rng)) / 2
    style = rng.integers(0, 4, count)
    stripes = np.flatnonzero(style == 1)
    frequency = rng.uniform(10, 40, (len(stripes), 1, 1, 1)).astype(np.float32)
    patterns[stripes] = 0.5 + np.clip(2 * np.sin(frequency * patterns[stripes]), -1, 1) / 2
    for cells, chosen in ((4, style == 2), (10, style == 3)):
        for i in np.flatnonzero(chosen):
            grid = rng.random((cells, cells), np.float32)
            cv2.resize(grid, (size, size), patterns[i, :, :, 0], interpolation=cv2.INTER_LINEAR)
    return patterns


# --- Files ----------------------------------------------------------------------------------------

# Images in each of the six files that stand in for CIFAR-10's.
CIFAR10_RECORDS = 1000

CATS_DOGS_COUNT = 500  # drawn faces of either kind
FACE_SIZE = 96  # pixels; they are then stretched to half to twice this width and height

# The forms that the writers of the digits filled in hold about 130 digits each, and follow each
# other in the original order. These splits lie where one writer ends and the next begins, so that
# nobody's hand is in two parts.
MNIST_TRAIN = 1287
MNIST_VALIDATION = 256
MNIST_TEST = 254


def make_mnist(data_dir: Path) -> Path:
    """Makes the sample data for MNIST, unless it is there already.

    1,797 digits, 8 x 8 pixels each, as bundled with scikit-learn (E. Alpaydin and C. Kaynak,
    "Optical Recognition of Handwritten Digits", https://archive.ics.uci.edu/dataset/80), are
    brought to 28 x 28 as MNIST was made: the digit fitted into 20 x 20 pixels, its centre of mass
    in the middle. The training files have 1,287 images for training and 256 for validation after
    them, the test files 254.

    Args:
        data_dir: the data folder.

    Returns:
        The folder data_dir/sample/mnist with MNIST's four files.

    Raises:
        DataError: the files cannot be written.
    """
    files = [
        f"{part}-{kind}-ubyte.gz"
        for part in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    ]
    return _make(data_dir / "sample" / "mnist", files, _mnist_files)


def _mnist_files() -> dict[str, bytes]:
    from sklearn.datasets import load_digits  # takes a second, and is needed only once

    digits = load_digits()
    images = np.stack([like_mnist(image * (255 / 16), contrast=1.5) for image in digits.images])
    labels = digits.target.astype(np.uint8)
    files = {}
    training = MNIST_TRAIN + MNIST_VALIDATION
    for part, chosen in (("train", slice(0, training)), ("t10k", slice(training, None))):
        for kind, array in (("images-idx3", images[chosen]), ("labels-idx1", labels[chosen])):
            # idx: two zeros, type (8: uint8), number of dimensions; each dimension in 32 bits
            header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            files[f"{part}-{kind}-ubyte.gz"] = gzip.compress(header + array.tobytes(), mtime=0)
    return files


def like_mnist(ink: np.ndarray, contrast: float = 1.0) -> np.ndarray:
    """Brings a digit to MNIST's form: in a box of 20 x 20 pixels, centred by its mass in 28 x 28.

    Args:
        ink: float (H, W), 0 for paper and 255 for ink; some of it is above 0.
        contrast: a factor, by which some of the blur can be undone that enlarging brings.

    Returns:
        (28, 28) np.uint8.
    """
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = 20 / max(ink.shape)
    height, width = np.maximum(np.rint(scale * np.array(ink.shape)), 1).astype(int)
    # Averages over areas when it shrinks, for smooth edges; cubic curves when it grows.
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    ink = cv2.resize(ink, (width, height), interpolation=interpolation)
    ink = np.clip(128 + contrast * (ink - 128), 0, 255)
    top = round(14 - np.average(np.arange(height), weights=ink.sum(axis=1)))
    left = round(14 - np.average(np.arange(width), weights=ink.sum(axis=0)))
    # A blot with a long tail has its mass in a corner of its box: it must not leave the image.
    top, left = np.clip(top, 0, 28 - height), np.clip(left, 0, 28 - width)
    image = np.zeros((28, 28), np.uint8)
    image[top : top + height, left : left + width] = np.rint(ink)
    return image


def make_cifar10(data_dir: Path) -> Path:
    """Makes the sample data for CIFAR-10, unless it is there already.

    Args:
        data_dir: the data folder.

    Returns:
        The folder data_dir/sample/cifar10/cifar-10-batches-bin with the files of CIFAR-10's binary
        version: 1,000 images in each, and the names of `CIFAR10_KINDS` in batches.meta.txt.

    Raises:
        DataError: the files cannot be written.
    """
    files = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin", "batches.meta.txt"]
    return _make(data_dir / "sample" / "cifar10" / "cifar-10-batches-bin", files, _cifar10_files)


def _cifar10_files() -> dict[str, bytes]:
    files = {"batches.meta.txt": "".join(f"{kind}\n" for kind in CIFAR10_KINDS).encode()}
    for i in range(6):
        images, labels = drawn_objects(CIFAR10_KINDS, CIFAR10_RECORDS, 32, seed=i)
        planes = images.transpose(0, 3, 1, 2).reshape(CIFAR10_RECORDS, -1)
        records = np.concatenate([labels[:, None].astype(np.uint8), planes], axis=1)
        files[f"data_batch_{i + 1}.bin" if i < 5 else "test_batch.bin"] = records.tobytes()
    return files


def make_cats_dogs(data_dir: Path) -> Path:
    """Makes the sample data for cats and dogs, unless it is there already.

    Args:
        data_dir: the data folder.

    Returns:
        The folder data_dir/sample/cats_dogs with train.zip in Kaggle's layout: train/cat.0.jpg to
        train/cat.499.jpg, and as many dogs; some of them broken, as in the published archives.

    Raises:
        DataError: the files cannot be written.
    """
    return _make(data_dir / "sample" / "cats_dogs", ["train.zip"], _cats_dogs_files)


def _cats_dogs_files() -> dict[str, bytes]:
    members = {}
    for seed, kind in enumerate(FACE_KINDS):
        faces, _ = drawn_objects([kind], CATS_DOGS_COUNT, FACE_SIZE, seed)
        sizes = np.random.default_rng(seed).integers(FACE_SIZE // 2, 2 * FACE_SIZE, (len(faces), 2))
        for number, (face, size) in enumerate(zip(faces, sizes.tolist(), strict=True)):
            picture = Image.fromarray(face).resize(size, Image.Resampling.BICUBIC)
            members[f"train/{kind}.{number}.jpg"] = _encoded(picture, "JPEG")
    members |= _broken(picture)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, member in members.items():
            archive.writestr(zipfile.ZipInfo(name), member)  # such a ZipInfo has a fixed date
    return {"train.zip": content.getvalue()}


def _encoded(picture: Image.Image, form: str) -> bytes:
    content = io.BytesIO()
    picture.save(content, form)
    return content.getvalue()


def _broken(picture: Image.Image) -> dict[str, bytes]:
    """Makes files that are no proper image, each for another reason, by their names."""
    jpeg = _encoded(picture, "JPEG")
    return {
        "train/cat.20.jpg": b"",
        "train/cat.21.jpg": jpeg[: len(jpeg) // 2],
        "train/cat.22.jpg": b"<html>404 Not Found</html>",
        "train/cat.23.jpg": _encoded(picture.convert("L"), "JPEG"),
        "train/dog.20.jpg": _encoded(picture, "BMP"),
        "train/dog.21.jpg": _encoded(picture, "GIF"),
        "train/dog.22.jpg": _encoded(picture.convert("CMYK"), "JPEG"),
        "train/Thumbs.db": b"what Windows leaves behind",
    }


def _make(folder: Path, files: Sequence[str], make: Callable[[], dict[str, bytes]]) -> Path:
    """Writes the files that `make` returns to a folder, unless they are there already."""
    # The mark is written last and names the source that made the files: a folder that a killed run
    # has left without it, or that another edition of this module has made, is made anew.
    mark = folder / "made_by.txt"
    source = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()

    def is_there() -> bool:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return mark.read_text() == source and all((folder / file).is_file() for file in files)
        return False

    try:
        if not is_there():
            folder.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(folder.with_name(folder.name + ".lock")):
                if not is_there():  # else another process has just made them
                    mark.unlink(missing_ok=True)
                    for name, content in make().items():
                        (folder / name).write_bytes(content)
                    mark.write_text(source)
    except OSError as error:
        raise DataError(
            f"cannot write sample data to {folder.absolute()}: {error.strerror}"
        ) from error
    return folder
