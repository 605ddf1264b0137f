"""Images seen anew: turned, stretched, mirrored and moved, by one operation for a whole batch.

Example 04 writes the two functions for digits out and explains them; example 05 takes them from
here, as example 10 does with those for photographs.
"""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import tensorflow as tf


def turn_resize_move(
    images: tf.Tensor, seed: tf.Tensor, angle: float, zoom: float, shift: float
) -> tf.Tensor:
    """Turn, resize and move each image at random; what comes in at the border is zero.

    Args:
        images: (N, H, H, C), uint8 or float.
        seed: two integers, (2,); the same seed gives the same changes.
        angle: radians by which an image is turned at most, to either side.
        zoom: logarithm of the factor by which it is made larger or smaller at most.
        shift: pixels by which it is moved at most, in each direction.

    Returns:
        Images of the same shape and type.
    """
    count, size = tf.shape(images)[0], images.shape[1]
    amounts = tf.random.stateless_uniform([4, count], seed, -1, 1)
    angles, zooms, dx, dy = tf.unstack(amounts * [[angle], [zoom], [shift], [shift]])
    a, b = tf.exp(zooms) * tf.cos(angles), tf.exp(zooms) * tf.sin(angles)
    zero, centre = tf.zeros_like(a), (size - 1) / 2
    c = centre - a * centre + b * centre + dx
    d = centre - b * centre - a * centre + dy
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([a, -b, c, b, a, d, zero, zero], axis=1),
        output_shape=[size, size],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )


def nine_views(images: np.ndarray) -> np.ndarray:
    """Return images (N, H, H, C) as (9, N, H, H, C): moved by a pixel, or, view 4, not at all."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    size = images.shape[1]
    return np.stack([padded[:, y : y + size, x : x + size] for y, x in np.ndindex(3, 3)])


def warp(images: tf.Tensor, size: int, amounts: tf.Tensor) -> tf.Tensor:
    """Look at images through a frame that is resized, stretched, turned, moved and mirrored.

    Args:
        images: uint8 (N, side, side, 3).
        size: height and width of the results.
        amounts: float32 (6, N), all 0 for the whole image as it is: logarithm of the frame's size,
            of its stretch; angle in radians; place to the right and down, as shares of the side;
            mirrored if above 0.

    Returns:
        What is in the frame, uint8 (N, size, size, 3). Beyond the border comes the reflection.
    """
    zoom, stretch, angle, right, down, mirror = tf.unstack(amounts)
    side = images.shape[1]
    width, height = (tf.exp(zoom + s) * (side / size) for s in (stretch, -stretch))
    width *= tf.where(mirror > 0, -1.0, 1.0)
    # Pixel (x, y) of the result is pixel (a x + b y + c, d x + e y + f) of the image.
    a, b = width * tf.cos(angle), -height * tf.sin(angle)
    d, e = width * tf.sin(angle), height * tf.cos(angle)
    middle, zero = (size - 1) / 2, tf.zeros_like(a)
    c = (side - 1) / 2 + side * right - (a + b) * middle
    f = (side - 1) / 2 + side * down - (d + e) * middle
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([a, b, c, d, e, f, zero, zero], axis=1),
        output_shape=[size, size],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )


def whole(images: np.ndarray, size: int, view: Sequence[float] = (0, 0, 0, 0, 0, 0)) -> np.ndarray:
    """Return uint8 images (N, side, side, 3) as (N, size, size, 3), all in the same view."""
    amounts = np.repeat(np.array(view, np.float32)[:, None], len(images), axis=1)
    return warp(images, size, amounts).numpy()


def ten_views(images: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yield uint8 images (N, size, size, 3): the whole of each image, and its mirror image.

    Then four frames a little smaller, towards the corners, and their mirror images.
    """
    corners = [(-0.08, x, y) for x in (-0.04, 0.04) for y in (-0.04, 0.04)]
    for zoom, x, y in ((0, 0, 0), *corners):
        for mirror in (0, 1):
            yield whole(images, size, (zoom, 0, 0, x, y, mirror))


def random_square(
    image: np.ndarray, classes: np.ndarray, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Cut a square out of an image and its mask, resized, turned, mirrored and recoloured.

    Args:
        image: float32 (H, W, 3), mean about 0, variance about 1.
        classes: uint8 (H, W), the class of each pixel.
        size: height and width of the results; what lacks is filled by reflection.
        rng: the source of chance.

    Returns:
        float32 (size, size, 3), and uint8 (size, size).
    """
    side = round(size * np.exp(rng.uniform(-0.3, 0.3)))
    missing = [(0, max(0, side - length)) for length in classes.shape]
    image = np.pad(image, (*missing, (0, 0)), mode="symmetric")
    classes = np.pad(classes, missing, mode="symmetric")
    top, left = (rng.integers(length - side + 1) for length in classes.shape)
    part = slice(top, top + side), slice(left, left + side)
    turns, mirror = int(rng.integers(4)), slice(None, None, rng.choice([-1, 1]))
    image = np.rot90(cv2.resize(image[part], (size, size)), turns)[:, mirror]
    nearest = cv2.INTER_NEAREST
    classes = np.rot90(cv2.resize(classes[part], (size, size), interpolation=nearest), turns)
    lightness = rng.uniform(-0.3, 0.3) + rng.uniform(-0.1, 0.1, 3)
    image = image * np.exp(rng.uniform(-0.3, 0.3)) + lightness
    return image.astype(np.float32), classes[:, mirror]
