"""Drawings of objects of 32 kinds, in any size: what sample data shows in place of photographs."""

import itertools
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

# What is put on the two layers of a canvas: the object's first colour; its second colour; the
# background shows again.
BODY, DETAIL, HOLE = "body", "detail", "hole"
_INKS = {BODY: (255, 0), DETAIL: (0, 255), HOLE: (0, 0)}

# Points (x, y) in a square from -1 to 1, x to the right and y down.
Outline = Sequence[tuple[float, float]] | np.ndarray
Drawing = list[tuple[tuple[int, int], Outline]]  # inks, each with what it fills


def _oval(x: float, y: float, radius_x: float, radius_y: float = 0.0) -> Outline:
    return _arc(x, y, radius_x, radius_y or radius_x, 0, 360)  # a circle without radius_y


def _pair(x: float, *others: float) -> list[Outline]:
    return [_oval(-x, *others), _oval(x, *others)]


def _arc(x: float, y: float, radius_x: float, radius_y: float, start: int, stop: int) -> Outline:
    """Return part of an ellipse, clockwise from one angle to another: 0 is right, 90 below."""
    angles = np.radians(np.linspace(start, stop, 24))
    return np.stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)], axis=1)


def _box(left: float, top: float, right: float, bottom: float) -> Outline:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _mirrored(*right: tuple[float, float]) -> Outline:
    """Return a symmetric outline, of which the right half is given, from top to bottom."""
    return [*right, *((-x, y) for x, y in reversed(right))]


def _both(right: Outline) -> list[Outline]:
    return [right, [(-x, y) for x, y in right]]


def _line(width: float, points: Outline) -> Outline:
    """Return the outline of a line through `points`."""
    path = np.array(points, float)
    along = np.gradient(path, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], 1) / np.linalg.norm(along, axis=1)[:, None]
    return np.concatenate([path + across * width / 2, (path - across * width / 2)[::-1]])


def _smooth(outline: Outline) -> Outline:
    """Round an outline to a quadratic B-spline, by cutting corners (Chaikin, 1974)."""
    points = np.array(outline, float)
    for _ in range(3):
        following = np.roll(points, -1, axis=0)
        corners = [0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following]
        points = np.stack(corners, 1).reshape(-1, 2)
    return points


def _around(count: int, outline: Outline) -> list[Outline]:
    """Return the outline `count` times, turned around the origin."""
    x, y = np.array(outline).T
    angles = np.arange(count) * 2 * np.pi / count
    turns = zip(np.cos(angles), np.sin(angles), strict=True)
    return [np.stack([x * c - y * s, x * s + y * c], 1) for c, s in turns]


def _rays(count: int, outer: float, inner: float) -> Outline:
    """Return a star with `count` points, the first one on top."""
    angles = np.arange(2 * count) * np.pi / count
    radii = np.where(np.arange(2 * count) % 2 == 0, outer, inner)
    return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], axis=1)


def _by_kind(*rows: tuple[Any, ...]) -> dict[str, Drawing]:
    """Collect drawings: kinds, each with inks, each of these with the outlines that it fills."""
    drawings: dict[str, Drawing] = {}
    kind, ink = "", _INKS[BODY]
    for item in itertools.chain(*rows):
        if not isinstance(item, str):
            drawings.setdefault(kind, []).append((ink, item))
        elif item in _INKS:
            ink = _INKS[item]
        else:
            kind = item
    return drawings


_WING = _smooth([(0.04, -0.1), (0.3, -0.95), (1, -0.95), (0.95, -0.2), (0.45, 0), (0.05, 0.1)])
_HIND_WING = _smooth([(0.04, 0), (0.5, 0), (0.95, 0.25), (0.75, 0.95), (0.3, 0.75), (0.04, 0.2)])
_FISH = [*_arc(-0.2, 0.5, 0.95, 0.95, 213, 327), *_arc(-0.2, -0.5, 0.95, 0.95, 33, 147)]
_APPLE = _mirrored((0, -0.35), (0.5, -0.75), (1.05, -0.3), (0.8, 0.7), (0.3, 1.1), (0, 0.85))
_TOOTH = [(-0.2, -0.65), (-0.13, -1), (0.13, -1), (0.2, -0.65)]
_HEART = _mirrored((0, -0.45), (0.35, -1), (1.05, -0.75), (0.95, 0.1), (0.1, 1), (0, 1))
_LEAF = [(-0.95, 0.75), (-0.75, -0.2), (-0.1, -0.8), (1, -1), (0.75, 0.1), (0.1, 0.7)]

# The ten kinds that stand in for CIFAR-10's classes. An ink fills what follows it.
_CIFAR10_DRAWINGS = _by_kind(
    ("butterfly", BODY, *_both(_WING), *_both(_HIND_WING), DETAIL, *_pair(0.62, -0.55, 0.17)),
    (DETAIL, *_pair(0.62, 0.4, 0.17), _oval(0, 0.05, 0.1, 0.6)),
    (DETAIL, *_both(_line(0.07, [(0, -0.4), (0.11, -0.7), (0.22, -0.95)]))),
    ("cup", BODY, _line(0.2, _arc(0.42, 0.1, 0.42, 0.38, -90, 90))),
    (BODY, [(-0.8, -0.6), (0.55, -0.6), (0.42, 0.8), (-0.67, 0.8)]),
    (DETAIL, _oval(-0.125, -0.6, 0.68, 0.16)),
    (DETAIL, [(-0.74, 0.15), (0.49, 0.15), (0.47, 0.4), (-0.71, 0.4)]),
    ("fish", DETAIL, [(-0.4, -0.25), (-0.05, -0.75), (0.4, -0.6), (0.3, -0.2)]),
    (DETAIL, [(-0.15, 0.3), (0.2, 0.75), (0.35, 0.2)], BODY, _FISH),
    (BODY, [(0.4, 0), (1, -0.55), (0.82, 0), (1, 0.55)], DETAIL, _oval(-0.62, -0.08, 0.1)),
    (DETAIL, _line(0.09, _arc(-0.55, 0.02, 0.3, 0.42, -50, 50))),
    ("house", BODY, _box(0.35, -0.85, 0.58, -0.2), _box(-0.7, -0.15, 0.7, 0.9)),
    (DETAIL, [(0, -0.95), (0.98, -0.1), (-0.98, -0.1)], _box(-0.5, 0.25, -0.1, 0.9)),
    (HOLE, _box(0.15, 0.2, 0.5, 0.55)),
    ("key", BODY, _oval(-0.55, 0, 0.44), HOLE, _oval(-0.6, 0, 0.2)),
    (BODY, _box(-0.2, -0.11, 0.98, 0.11), _box(0.78, 0, 0.98, 0.45), _box(0.42, 0, 0.6, 0.36)),
    ("rocket", DETAIL, *_both([(0.26, 0.15), (0.68, 0.7), (0.68, 0.95), (0.24, 0.7)])),
    (DETAIL, _smooth(_mirrored((0.26, 0.65), (0.16, 0.9), (0, 1.15)))),
    (BODY, _mirrored((0, -1), (0.2, -0.75), (0.32, -0.4), (0.35, 0.1), (0.26, 0.75))),
    (DETAIL, _oval(0, -0.3, 0.17)),
    ("snowman", BODY, _oval(0, 0.52, 0.5, 0.46), _oval(0, -0.12, 0.36), _oval(0, -0.58, 0.26)),
    (DETAIL, _box(-0.38, -0.82, 0.38, -0.72), *_both(_line(0.08, [(0.3, -0.15), (0.95, -0.5)]))),
    (DETAIL, _box(-0.22, -1, 0.22, -0.75), *(_oval(0, y, 0.08) for y in (-0.1, 0.3, 0.6))),
    ("star", BODY, _rays(5, 1, 0.42), DETAIL, _rays(5, 0.45, 0.19)),
    ("tree", DETAIL, _box(-0.14, 0.5, 0.14, 1), BODY, _mirrored((0, -1), (0.42, -0.4))),
    (BODY, _mirrored((0, -0.75), (0.6, 0.1)), _mirrored((0, -0.4), (0.8, 0.65))),
    ("umbrella", DETAIL, _line(0.1, _arc(0.18, 0.68, 0.18, 0.25, 0, 180))),
    (DETAIL, _line(0.1, [(0, -0.95), (0, 0.7)]), BODY, _arc(0, 0.05, 0.98, 0.85, 180, 360)),
    (HOLE, *_pair(0.735, 0.07, 0.245, 0.15), *_pair(0.24, 0.07, 0.19, 0.15)),
    (DETAIL, *_both(_line(0.06, [(0, -0.8), (0.392, -0.5), (0.49, 0)]))),
)

# Other kinds, for training a network that is then transferred to those ten.
_OTHER_DRAWINGS = _by_kind(
    ("anchor", BODY, _oval(0, -0.75, 0.25), HOLE, _oval(0, -0.75, 0.12)),
    (BODY, _box(-0.1, -0.55, 0.1, 0.9), _line(0.2, _arc(0, 0.2, 0.75, 0.65, 5, 175))),
    (BODY, _box(-0.45, -0.4, 0.45, -0.22), *_both([(0.45, 0.3), (0.8, -0.1), (1, 0.4)])),
    ("apple", DETAIL, _line(0.14, [(0, -0.2), (0.02, -0.6), (0.12, -1)])),
    (DETAIL, _smooth([(0.08, -0.6), (0.3, -1.05), (0.95, -1.05), (0.6, -0.6)])),
    (BODY, _smooth(_APPLE), DETAIL, _oval(-0.45, 0, 0.13, 0.22)),
    ("arrow", DETAIL, _box(-0.95, -0.2, 0.3, 0.2), BODY, _box(-0.6, -0.2, 0.3, 0.2)),
    (BODY, [(0.1, -0.65), (0.98, 0), (0.1, 0.65)]),
    ("bell", DETAIL, _oval(0, 0.75, 0.2), BODY, _oval(0, -0.82, 0.15)),
    (BODY, _mirrored((0.2, -0.8), (0.45, -0.5), (0.52, 0.1), (0.85, 0.65))),
    (DETAIL, _box(-0.64, 0.28, 0.64, 0.42)),
    ("bottle", DETAIL, _box(-0.17, -1, 0.17, -0.8)),
    (BODY, _mirrored((0.13, -0.82), (0.13, -0.4), (0.4, -0.1), (0.4, 0.95))),
    (DETAIL, _box(-0.4, 0.15, 0.4, 0.6)),
    ("chair", BODY, _box(-0.6, -0.95, -0.4, 0.95), _box(0.4, 0.1, 0.6, 0.95)),
    (BODY, _box(-0.6, 0.05, 0.65, 0.25), DETAIL, _line(0.14, [(-0.5, -0.8), (0.1, -0.8)])),
    (DETAIL, _line(0.14, [(-0.5, -0.45), (0.1, -0.45)]), BODY, _box(0.05, -0.95, 0.2, 0.1)),
    ("clock", BODY, _oval(0, 0, 0.92), DETAIL, _oval(0, 0, 0.74)),
    (BODY, _line(0.14, [(0, 0.08), (0, -0.6)]), _line(0.14, [(-0.06, -0.03), (0.42, 0.25)])),
    ("crown", BODY, _mirrored((0, -0.8), (0.45, 0), (0.9, -0.6), (0.75, 0.7))),
    (BODY, *_pair(0.9, -0.62, 0.12), _oval(0, -0.82, 0.12), DETAIL, _box(-0.77, 0.42, 0.77, 0.6)),
    (DETAIL, *_pair(0.45, 0.18, 0.1), _oval(0, 0.18, 0.1)),
    ("envelope", BODY, _box(-0.95, -0.62, 0.95, 0.62)),
    (DETAIL, _line(0.12, [(-0.92, -0.58), (0, 0.12), (0.92, -0.58)])),
    (DETAIL, *_both(_line(0.08, [(0.92, 0.58), (0.3, -0.05)]))),
    ("flower", BODY, *_around(6, _oval(0, -0.6, 0.3, 0.38)), DETAIL, _oval(0, 0, 0.32)),
    ("gear", BODY, _oval(0, 0, 0.72), *_around(8, _TOOTH), DETAIL, _oval(0, 0, 0.5)),
    (HOLE, _oval(0, 0, 0.28)),
    ("glasses", BODY, *_pair(0.52, 0, 0.44, 0.4), HOLE, *_pair(0.52, 0, 0.29, 0.26)),
    (BODY, _line(0.13, _arc(0, 0.02, 0.2, 0.18, 180, 360))),
    (DETAIL, *_both(_line(0.12, [(0.92, -0.1), (0.98, -0.55)]))),
    ("hammer", DETAIL, _box(-0.1, -0.5, 0.12, 1), BODY, _box(0.3, -0.95, 0.7, -0.35)),
    (BODY, [(0.4, -0.82), (0.4, -0.45), (-0.25, -0.45), (-0.85, -0.25), (-0.4, -0.82)]),
    ("heart", BODY, _smooth(_HEART), DETAIL, _oval(-0.45, -0.35, 0.15, 0.2)),
    ("ladder", BODY, *_both(_line(0.16, [(0.5, -1), (0.5, 1)]))),
    (DETAIL, _box(-0.45, -0.79, 0.45, -0.65), _box(-0.45, -0.31, 0.45, -0.17)),
    (DETAIL, _box(-0.45, 0.17, 0.45, 0.31), _box(-0.45, 0.65, 0.45, 0.79)),
    ("leaf", BODY, _smooth(_LEAF), DETAIL, _line(0.09, [(-0.95, 0.95), (-0.2, 0.1), (0.6, -0.65)])),
    (DETAIL, _line(0.07, [(-0.25, 0.15), (-0.3, -0.4)]), _line(0.07, [(-0.2, 0.15), (0.35, 0.2)])),
    (DETAIL, _line(0.07, [(0.15, -0.25), (0.1, -0.65)])),
    ("lightning", BODY, [(-0.1, -1), (0.5, -1), (0.1, -0.1), (-0.5, 0.1)]),
    (BODY, [(-0.2, -0.3), (0.6, -0.3), (-0.35, 1), (-0.05, 0)]),
    ("moon", BODY, [*_arc(0, 0, 0.95, 0.95, 60, 300), *_arc(0.5, 0, 0.82, 0.82, 270, 90)]),
    (DETAIL, _oval(-0.6, 0.25, 0.13), _oval(-0.5, -0.3, 0.09)),
    ("mushroom", DETAIL, _smooth(_mirrored((0.22, -0.1), (0.2, 0.4), (0.38, 1.05)))),
    (BODY, _arc(0, 0.1, 0.95, 1, 180, 360), DETAIL, _oval(-0.5, -0.25, 0.14)),
    (DETAIL, _oval(0.05, -0.55, 0.14), _oval(0.5, -0.2, 0.14)),
    ("sailboat", BODY, [(-0.95, 0.5), (0.95, 0.5), (0.6, 0.95), (-0.65, 0.95)]),
    (BODY, _box(-0.1, -0.95, 0, 0.55), DETAIL, [(0.06, -0.9), (0.85, 0.35), (0.06, 0.35)]),
    (DETAIL, [(-0.16, -0.6), (-0.16, 0.35), (-0.75, 0.35)]),
)

_HANGING_EAR = _smooth([(0.3, -0.85), (0.8, -0.85), (1.05, 0.1), (0.85, 0.6), (0.55, 0.2)])

# The faces that stand in for photographs of cats and dogs.
_FACE_DRAWINGS = _by_kind(
    ("cat", BODY, *_both([(0.15, -0.5), (0.75, -1), (0.79, 0.1)]), _oval(0, 0.15, 0.8, 0.7)),
    (DETAIL, *_pair(0.36, 0, 0.19, 0.15), BODY, *_pair(0.36, 0, 0.05, 0.15)),
    (DETAIL, [(-0.12, 0.3), (0.12, 0.3), (0, 0.44)], *_both(_line(0.05, [(0.35, 0.42), (1, 0.5)]))),
    (DETAIL, *(_line(0.06, _arc(x, 0.44, 0.14, 0.14, 0, 180)) for x in (-0.14, 0.14))),
    (DETAIL, *_both(_line(0.05, [(0.35, 0.38), (1, 0.25)]))),
    ("dog", BODY, _smooth(_mirrored((0.45, -0.9), (0.7, 0), (0.45, 0.9)))),
    (DETAIL, *_both(_HANGING_EAR), *_pair(0.25, -0.25, 0.1), _oval(0, 0.3, 0.2, 0.14)),
    (DETAIL, _line(0.06, [(0, 0.4), (0, 0.6)]), _line(0.06, _arc(0, 0.45, 0.3, 0.2, 10, 170))),
    (DETAIL, _smooth(_mirrored((0.16, 0.6), (0.2, 1), (0, 1.1)))),
)

CIFAR10_KINDS, OTHER_KINDS = tuple(_CIFAR10_DRAWINGS), tuple(_OTHER_DRAWINGS)
FACE_KINDS = tuple(_FACE_DRAWINGS)
DRAWINGS = _CIFAR10_DRAWINGS | _OTHER_DRAWINGS | _FACE_DRAWINGS

SUPERSAMPLING = 4  # shapes are drawn so many times larger and then scaled down, for smooth edges
FRACTION_BITS = 4  # OpenCV takes coordinates as whole sixteenths of a pixel
BATCH = 250  # images coloured at once: some tens of megabytes at 64 x 64


def drawn_objects(
    kinds: Sequence[str], count: int, size: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw objects of the given kinds, each as often as the others (or once more or less).

    Size, place, slant, colours, background and noise are random, do not depend on the kind, and are
    the same for the same seed. An object is lighter than its background as often as darker, so that
    no single pixel tells much.

    Returns:
        Images, np.uint8 (count, size, size, 3), RGB; labels, np.int32 (count,), indices into
        `kinds`, in random order.
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % len(kinds)).astype(np.int32)
    coverage = draw_shapes([DRAWINGS[kind] for kind in kinds], labels, size, rng)
    batches = [coverage[start : start + BATCH] for start in range(0, count, BATCH)]
    return np.concatenate([_colour(batch, rng) for batch in batches]), labels


def draw_shapes(
    drawings: Sequence[Drawing], labels: np.ndarray, size: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw objects, of which labels (N,) say which drawings they are, each at a random place.

    Returns:
        np.uint8 (N, size, size, 2): how much of each pixel body and details cover, of 255.
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
        for image in np.flatnonzero(labels == label):
            canvas[:] = 0
            for ink, outline in drawing:
                points = np.array(outline) @ matrix[image].T + offset[image]
                points = np.rint(points).astype(np.int32)
                cv2.fillPoly(canvas, [points], ink, shift=FRACTION_BITS)
            cv2.resize(canvas, (size, size), coverage[image], interpolation=cv2.INTER_AREA)
    return coverage


def _colour(coverage: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Give objects colours and backgrounds: np.uint8 (N, size, size, 2) to (N, size, size, 3)."""
    count, size = len(coverage), coverage.shape[1]
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
    """Choose lightnesses, between 20 and 235, that differ by at least `gap`, up or down."""
    step = rng.uniform(gap, 1.7 * gap, len(lightness))
    up = (rng.random(len(lightness)) < 0.5) | (lightness - step < 20)
    up &= lightness + step < 235
    return np.where(up, lightness + step, lightness - step)


def _tint(lightness: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Make colours of the given lightness: (N,) to (N, 1, 1, 3) np.float32."""
    tint = rng.uniform(-70, 70, (len(lightness), 3))
    tint -= tint.mean(axis=1, keepdims=True)
    return (lightness[:, None] + tint).astype(np.float32)[:, None, None]


def _ramps(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Make ramps in random directions: (N, size, size, 1) np.float32 within -1 to 1."""
    across = np.linspace(-0.7, 0.7, size, dtype=np.float32)
    angle = rng.uniform(0, 2 * np.pi, (count, 1, 1, 1)).astype(np.float32)
    return np.cos(angle) * across[:, None] + np.sin(angle) * across[:, None, None]


def _patterns(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Make ramps, stripes, blobs and coarse noise: (N, size, size, 1) np.float32 from 0 to 1."""
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
