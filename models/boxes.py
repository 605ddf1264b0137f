"""Boxes: areas, overlaps, and photographs that are changed together with their boxes.

A box is x1, y1, x2, y2 in pixels: its left, upper, right and lower edge.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import tensorflow as tf

COLOURS = (200, 0, 0), (0, 0, 200), (0, 120, 0), (160, 0, 160), (0, 120, 140)  # of classes


def area(boxes: Any) -> Any:
    """Return the areas of boxes (..., 4), an array or a tensor; 0 where they are inside out."""
    sides = boxes[..., 2:] - boxes[..., :2]
    sides = np.maximum(sides, 0) if isinstance(boxes, np.ndarray) else tf.nn.relu(sides)
    return sides[..., 0] * sides[..., 1]


def overlap(a: Any, b: Any) -> tuple[Any, Any]:
    """Return intersection over union (IoU) and generalised IoU of boxes (..., 4).

    IoU is 0 for all boxes that do not touch. The generalised one, from -1 to 1, is IoU less the
    share of the smallest box around both that neither fills, so that it grows when they come
    closer (H. Rezatofighi et al. 2019, https://arxiv.org/abs/1902.09630). Shapes are broadcast;
    boxes are arrays or tensors.
    """
    of = np if isinstance(a, np.ndarray) else tf
    low, high = of.maximum(a[..., :2], b[..., :2]), of.minimum(a[..., 2:], b[..., 2:])
    both = area(of.concat([low, high], axis=-1))
    either = area(a) + area(b) - both
    low, high = of.minimum(a[..., :2], b[..., :2]), of.maximum(a[..., 2:], b[..., 2:])
    around = area(of.concat([low, high], axis=-1))
    return both / either, both / either - (around - either) / around


def change(
    image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mirror, resize, stretch, move and recolour a photograph at random; and its boxes.

    What comes in at the border is the photograph's own reflection. A box of which less than 0.4
    stay in the image is left out.

    Args:
        image: uint8 (H, W, 3).
        boxes: float32 (N, 4).
        labels: int32 (N,).
        rng: the source of chance.

    Returns:
        The same, but float32 (H, W, 3).
    """
    size = np.array(image.shape[1::-1], np.float32)
    scale = np.exp(rng.uniform(-0.25, 0.25) + rng.uniform(-0.08, 0.08, 2))
    move = rng.uniform(0, 1, 2) * (size - size * scale)
    for axis in np.flatnonzero(rng.random(2) < 0.5):
        scale[axis], move[axis] = -scale[axis], size[axis] - move[axis]
    affine = np.column_stack([np.diag(scale), move + (scale - 1) / 2])  # of pixels' centres
    colour = np.exp(rng.uniform(-0.15, 0.15) + rng.uniform(-0.08, 0.08, 3))
    image = cv2.warpAffine(image, affine, image.shape[1::-1], borderMode=cv2.BORDER_REFLECT_101)
    corners = boxes.reshape(-1, 2, 2) * scale + move
    whole = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    inside = np.clip(whole, 0, np.tile(size, 2)).astype(np.float32)
    kept = area(inside) > 0.4 * area(whole)
    return (image * colour).astype(np.float32), inside[kept], labels[kept]


def draw(
    image: np.ndarray,
    boxes: np.ndarray | Sequence,
    colour: tuple[int, int, int],
    texts: Sequence[str] = (),
) -> np.ndarray:
    """Draw boxes (N, 4), with texts, on an image, uint8 (H, W, 3), and return it."""
    image = image.copy()
    for i, box in enumerate(np.rint(boxes).astype(int).tolist()):
        cv2.rectangle(image, box[:2], box[2:], colour, 2)
        text = texts[i] if i < len(texts) else ""
        place = box[0] + 4, max(box[1] + 16, 16)
        cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)
    return image


def draw_found(
    image: np.ndarray,
    found: Sequence[tuple[np.ndarray, np.ndarray]],
    least: float,
    truth: np.ndarray | Sequence = (),
) -> np.ndarray:
    """Draw true boxes in white, and what was found, with scores, in a colour for each class.

    Args:
        image: uint8 (H, W, 3).
        found: for each class boxes (N, 4) and their scores (N,).
        least: boxes with lower scores are not drawn.
        truth: true boxes (M, 4).
    """
    image = draw(image, truth, (255, 255, 255))
    for number, (boxes, scores) in enumerate(found):
        sure = scores > least
        texts = [f"{score:.2f}" for score in scores[sure]]
        image = draw(image, boxes[sure], COLOURS[number % len(COLOURS)], texts)
    return image
