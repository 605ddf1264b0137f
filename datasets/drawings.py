"""Drawings of objects of 32 kinds, in any size: what sample data shows in place of photographs."""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np

# What is put on the two layers of a canvas: the object's first colour; its second colour; the
# background shows again.
INKS = {"body": (255, 0), "detail": (0, 255), "hole": (0, 0)}
Drawing = list[tuple[tuple[int, int], np.ndarray]]  # inks, each with what it fills, -1 to 1


def read_drawings(path: Path) -> dict[str, Drawing]:
    """Read drawings from an SVG file: groups of polygons, which lie one on the other.

    A group's id is the kind of object, a polygon's class its ink; x and y are from -100 to 100.
    """
    drawings: dict[str, Drawing] = {}
    for group in ElementTree.parse(path).findall("{*}g"):
        drawings[group.attrib["id"]] = drawing = []
        for polygon in group:
            numbers = polygon.attrib["points"].replace(",", " ").split()
            outline = np.array(numbers, float).reshape(-1, 2) / 100
            drawing.append((INKS[polygon.attrib["class"]], outline))
    return drawings


DRAWINGS = read_drawings(Path(__file__).with_suffix(".svg"))
KINDS = tuple(DRAWINGS)
CIFAR10_KINDS = KINDS[:10]  # stand in for CIFAR-10's classes
OTHER_KINDS = KINDS[10:30]  # to train a network that is then transferred to those ten
FACE_KINDS = KINDS[30:]  # stand in for photographs of cats and dogs

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
