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

# Points (x, y) in a square from -100 to 100, x to the right and y down.
Outline = Sequence[tuple[float, float]] | np.ndarray
Drawing = list[tuple[tuple[int, int], np.ndarray]]  # inks, each with what it fills, -1 to 1


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
            drawings.setdefault(kind, []).append((ink, np.array(item) / 100))
        elif item in _INKS:
            ink = _INKS[item]
        else:
            kind = item
    return drawings


_WING = _smooth([(4, -10), (30, -95), (100, -95), (95, -20), (45, 0), (5, 10)])
_HIND_WING = _smooth([(4, 0), (50, 0), (95, 25), (75, 95), (30, 75), (4, 20)])
_FISH = [*_arc(-20, 50, 95, 95, 213, 327), *_arc(-20, -50, 95, 95, 33, 147)]
_APPLE = _mirrored((0, -35), (50, -75), (105, -30), (80, 70), (30, 110), (0, 85))
_TOOTH = [(-20, -65), (-13, -100), (13, -100), (20, -65)]
_HEART = _mirrored((0, -45), (35, -100), (105, -75), (95, 10), (10, 100), (0, 100))
_LEAF = [(-95, 75), (-75, -20), (-10, -80), (100, -100), (75, 10), (10, 70)]
_HANGING_EAR = _smooth([(30, -85), (80, -85), (105, 10), (85, 60), (55, 20)])

DRAWINGS = _by_kind(
    # The ten kinds that stand in for CIFAR-10's classes.
    ("butterfly", BODY, *_both(_WING), *_both(_HIND_WING), DETAIL, *_pair(62, -55, 17)),
    (DETAIL, *_pair(62, 40, 17), _oval(0, 5, 10, 60)),
    (DETAIL, *_both(_line(7, [(0, -40), (11, -70), (22, -95)]))),
    ("cup", BODY, _line(20, _arc(42, 10, 42, 38, -90, 90))),
    (BODY, [(-80, -60), (55, -60), (42, 80), (-67, 80)], DETAIL, _oval(-12.5, -60, 68, 16)),
    (DETAIL, [(-74, 15), (49, 15), (47, 40), (-71, 40)]),
    ("fish", DETAIL, [(-40, -25), (-5, -75), (40, -60), (30, -20)]),
    (DETAIL, [(-15, 30), (20, 75), (35, 20)], BODY, [(40, 0), (100, -55), (82, 0), (100, 55)]),
    (BODY, _FISH, DETAIL, _oval(-62, -8, 10), _line(9, _arc(-55, 2, 30, 42, -50, 50))),
    ("house", BODY, _box(35, -85, 58, -20), _box(-70, -15, 70, 90)),
    (DETAIL, [(0, -95), (98, -10), (-98, -10)], _box(-50, 25, -10, 90), HOLE, _box(15, 20, 50, 55)),
    ("key", BODY, _oval(-55, 0, 44), HOLE, _oval(-60, 0, 20), BODY, _box(-20, -11, 98, 11)),
    (BODY, _box(78, 0, 98, 45), _box(42, 0, 60, 36)),
    ("rocket", DETAIL, *_both([(26, 15), (68, 70), (68, 95), (24, 70)])),
    (DETAIL, _smooth(_mirrored((26, 65), (16, 90), (0, 115)))),
    (BODY, _mirrored((0, -100), (20, -75), (32, -40), (35, 10), (26, 75))),
    (DETAIL, _oval(0, -30, 17)),
    ("snowman", BODY, _oval(0, 52, 50, 46), _oval(0, -12, 36), _oval(0, -58, 26)),
    (DETAIL, _box(-38, -82, 38, -72), _box(-22, -100, 22, -75)),
    (DETAIL, *_both(_line(8, [(30, -15), (95, -50)])), *(_oval(0, y, 8) for y in (-10, 30, 60))),
    ("star", BODY, _rays(5, 100, 42), DETAIL, _rays(5, 45, 19)),
    ("tree", DETAIL, _box(-14, 50, 14, 100), BODY, _mirrored((0, -100), (42, -40))),
    (BODY, _mirrored((0, -75), (60, 10)), _mirrored((0, -40), (80, 65))),
    ("umbrella", DETAIL, _line(10, [(0, -95), (0, 70)]), _line(10, _arc(18, 68, 18, 25, 0, 180))),
    (BODY, _arc(0, 5, 98, 85, 180, 360), HOLE, *_pair(73.5, 7, 24.5, 15), *_pair(24, 7, 19, 15)),
    (DETAIL, *_both(_line(6, [(0, -80), (39.2, -50), (49, 0)]))),
    # Twenty others, for training a network that is then transferred to those ten.
    ("anchor", BODY, _oval(0, -75, 25), HOLE, _oval(0, -75, 12), BODY, _box(-10, -55, 10, 90)),
    (BODY, _box(-45, -40, 45, -22), _line(20, _arc(0, 20, 75, 65, 5, 175))),
    (BODY, *_both([(45, 30), (80, -10), (100, 40)])),
    ("apple", DETAIL, _line(14, [(0, -20), (2, -60), (12, -100)])),
    (DETAIL, _smooth([(8, -60), (30, -105), (95, -105), (60, -60)]), BODY, _smooth(_APPLE)),
    (DETAIL, _oval(-45, 0, 13, 22)),
    ("arrow", DETAIL, _box(-95, -20, 30, 20), BODY, _box(-60, -20, 30, 20)),
    (BODY, [(10, -65), (98, 0), (10, 65)]),
    ("bell", DETAIL, _oval(0, 75, 20), BODY, _oval(0, -82, 15)),
    (BODY, _mirrored((20, -80), (45, -50), (52, 10), (85, 65)), DETAIL, _box(-64, 28, 64, 42)),
    ("bottle", DETAIL, _box(-17, -100, 17, -80)),
    (BODY, _mirrored((13, -82), (13, -40), (40, -10), (40, 95)), DETAIL, _box(-40, 15, 40, 60)),
    ("chair", BODY, _box(-60, -95, -40, 95), _box(40, 10, 60, 95), _box(-60, 5, 65, 25)),
    (DETAIL, _line(14, [(-50, -80), (10, -80)]), _line(14, [(-50, -45), (10, -45)])),
    (BODY, _box(5, -95, 20, 10)),
    ("clock", BODY, _oval(0, 0, 92), DETAIL, _oval(0, 0, 74), BODY, _line(14, [(0, 8), (0, -60)])),
    (BODY, _line(14, [(-6, -3), (42, 25)])),
    ("crown", BODY, _mirrored((0, -80), (45, 0), (90, -60), (75, 70)), *_pair(90, -62, 12)),
    (BODY, _oval(0, -82, 12), DETAIL, _box(-77, 42, 77, 60), *_pair(45, 18, 10), _oval(0, 18, 10)),
    ("envelope", BODY, _box(-95, -62, 95, 62), DETAIL, _line(12, [(-92, -58), (0, 12), (92, -58)])),
    (DETAIL, *_both(_line(8, [(92, 58), (30, -5)]))),
    ("flower", BODY, *_around(6, _oval(0, -60, 30, 38)), DETAIL, _oval(0, 0, 32)),
    ("gear", BODY, _oval(0, 0, 72), *_around(8, _TOOTH), DETAIL, _oval(0, 0, 50)),
    (HOLE, _oval(0, 0, 28)),
    ("glasses", BODY, *_pair(52, 0, 44, 40), HOLE, *_pair(52, 0, 29, 26)),
    (BODY, _line(13, _arc(0, 2, 20, 18, 180, 360))),
    (DETAIL, *_both(_line(12, [(92, -10), (98, -55)]))),
    ("hammer", DETAIL, _box(-10, -50, 12, 100), BODY, _box(30, -95, 70, -35)),
    (BODY, [(40, -82), (40, -45), (-25, -45), (-85, -25), (-40, -82)]),
    ("heart", BODY, _smooth(_HEART), DETAIL, _oval(-45, -35, 15, 20)),
    ("ladder", BODY, *_both(_line(16, [(50, -100), (50, 100)])), DETAIL, _box(-45, -79, 45, -65)),
    (DETAIL, _box(-45, -31, 45, -17), _box(-45, 17, 45, 31), _box(-45, 65, 45, 79)),
    ("leaf", BODY, _smooth(_LEAF), DETAIL, _line(9, [(-95, 95), (-20, 10), (60, -65)])),
    (DETAIL, _line(7, [(-25, 15), (-30, -40)]), _line(7, [(-20, 15), (35, 20)])),
    (DETAIL, _line(7, [(15, -25), (10, -65)])),
    ("lightning", BODY, [(-10, -100), (50, -100), (10, -10), (-50, 10)]),
    (BODY, [(-20, -30), (60, -30), (-35, 100), (-5, 0)]),
    ("moon", BODY, [*_arc(0, 0, 95, 95, 60, 300), *_arc(50, 0, 82, 82, 270, 90)]),
    (DETAIL, _oval(-60, 25, 13), _oval(-50, -30, 9)),
    ("mushroom", DETAIL, _smooth(_mirrored((22, -10), (20, 40), (38, 105)))),
    (BODY, _arc(0, 10, 95, 100, 180, 360), DETAIL, _oval(-50, -25, 14), _oval(5, -55, 14)),
    (DETAIL, _oval(50, -20, 14)),
    ("sailboat", BODY, [(-95, 50), (95, 50), (60, 95), (-65, 95)], _box(-10, -95, 0, 55)),
    (DETAIL, [(6, -90), (85, 35), (6, 35)], [(-16, -60), (-16, 35), (-75, 35)]),
    # The faces that stand in for photographs of cats and dogs.
    ("cat", BODY, *_both([(15, -50), (75, -100), (79, 10)]), _oval(0, 15, 80, 70)),
    (DETAIL, *_pair(36, 0, 19, 15), BODY, *_pair(36, 0, 5, 15)),
    (DETAIL, [(-12, 30), (12, 30), (0, 44)]),
    (DETAIL, *(_line(6, _arc(x, 44, 14, 14, 0, 180)) for x in (-14, 14))),
    (DETAIL, *_both(_line(5, [(35, 38), (100, 25)])), *_both(_line(5, [(35, 42), (100, 50)]))),
    ("dog", BODY, _smooth(_mirrored((45, -90), (70, 0), (45, 90))), DETAIL, *_both(_HANGING_EAR)),
    (DETAIL, *_pair(25, -25, 10), _oval(0, 30, 20, 14), _line(6, [(0, 40), (0, 60)])),
    (DETAIL, _line(6, _arc(0, 45, 30, 20, 10, 170))),
    (DETAIL, _smooth(_mirrored((16, 60), (20, 100), (0, 110)))),
)
KINDS = tuple(DRAWINGS)
CIFAR10_KINDS, OTHER_KINDS, FACE_KINDS = KINDS[:10], KINDS[10:30], KINDS[30:]

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
    for i, label in enumerate(labels):
        canvas[:] = 0
        for ink, outline in drawings[label]:
            points = np.rint(outline @ matrix[i].T + offset[i]).astype(np.int32)
            cv2.fillPoly(canvas, [points], ink, shift=FRACTION_BITS)
        cv2.resize(canvas, (size, size), coverage[i], interpolation=cv2.INTER_AREA)
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
