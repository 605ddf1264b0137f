"""How images of digits are changed at random for training, and looked at from several places.

Example 04 writes both out and explains them; example 05 takes them from here.
"""

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
