"""A convolution with what usually goes with it; examples 05 and 06 write it out and explain it."""

import itertools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from models.normalisation import BatchNormalisation


class Convolution(tf.Module):
    """A convolution of 3 x 3, max pooling if wanted, batch normalisation and ReLU.

    The kernel is float32, and begins with He's normal numbers (K. He et al. 2015, section 2.2,
    https://arxiv.org/abs/1502.01852). Pooling comes before what is next: a quarter is left to do.
    """

    def __init__(self, inputs: int, outputs: int, rng: np.random.Generator, pool: bool = False):
        """Make the variables.

        Args:
            inputs: channels that come in.
            outputs: channels that come out.
            rng: for the kernel.
            pool: whether height and width are halved.
        """
        super().__init__()
        kernel = rng.normal(0, np.sqrt(2 / (9 * inputs)), (3, 3, inputs, outputs))
        self.kernel = tf.Variable(kernel, dtype=tf.float32)
        self.norm, self.pool = BatchNormalisation(outputs), pool

    def __call__(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        """Map x, (N, H, W, inputs) of any float type, to (N, H or H/2, W or W/2, outputs)."""
        x = tf.nn.conv2d(x, tf.cast(self.kernel, x.dtype), strides=1, padding="SAME")
        if self.pool:
            x = tf.nn.max_pool2d(x, ksize=2, strides=2, padding="VALID")
        return tf.nn.relu(self.norm(x, training))


class Convolutions(tf.Module):
    """Convolutions that follow one another."""

    def __init__(self, rng: np.random.Generator, *channels: int, pool: tuple[int, ...] = ()):
        """Make the variables.

        Args:
            rng: for the kernels.
            channels: those that come in, then those that come out of each convolution.
            pool: the numbers, from 0, of those that halve height and width.
        """
        super().__init__()
        pairs = enumerate(itertools.pairwise(channels))
        self.layers = [Convolution(*pair, rng, number in pool) for number, pair in pairs]

    def __call__(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        """Map x, (N, H, W, channels), through all of them."""
        for layer in self.layers:
            x = layer(x, training)
        return x


def enlarge(x: tf.Tensor) -> tf.Tensor:
    """Make four equal pixels of each: (N, H, W, C) to (N, 2 H, 2 W, C)."""
    return tf.repeat(tf.repeat(x, 2, axis=1), 2, axis=2)


def in_strips(
    network: Callable[[np.ndarray], tf.Tensor], image: np.ndarray, rows: int = 0, around: int = 96
) -> np.ndarray:
    """Answer for each pixel of an image that is too large to be answered at once.

    U-Net's overlap-tile strategy (O. Ronneberger et al. 2015, section 2): each strip is shown with
    the rows around it on which its answers depend, and those of these rows are dropped.

    Args:
        network: maps (1, h, W, C), h a multiple of 16, to (1, h, W, K).
        image: (H, W, C), H a multiple of 16.
        rows: of a strip, a multiple of 16; 0 for as many as have two million pixels.
        around: rows around it, a multiple of 16.

    Returns:
        (H, W, K).
    """
    height, width, _ = image.shape
    rows, parts = rows or 16 * max(1, 2**17 // width), []
    for top in range(0, height, rows):
        first = max(0, top - around)
        strip = np.ascontiguousarray(image[first : top + rows + around])
        parts.append(network(strip[None]).numpy()[0, top - first :][:rows])
    return np.concatenate(parts)


class TwoScales(tf.Module):
    """What a detector sees of images, on a grid an eighth as fine: from near, and from further.

    What is seen at half the grid's resolution is laid beside what is seen at the grid's, in the
    simplest form of a feature pyramid (T.-Y. Lin et al. 2017, https://arxiv.org/abs/1612.03144).
    """

    channels = 96

    def __init__(self, base: Callable[[tf.Tensor], tf.Tensor] | None, dtype: tf.DType, seed: int):
        """Make the variables.

        Args:
            base: makes (N, H/8, W/8, C) of images, and stays as it is; None: convolutions do.
            dtype: of the arithmetic.
            seed: of the kernels.
        """
        super().__init__()
        rng, near = np.random.default_rng(seed), 96
        self.base, self.dtype = base, dtype
        if base:
            near = base(tf.zeros([1, 16, 16, 3])).shape[-1]
        else:
            self.near = Convolutions(rng, 48, 32, 32, 96, 96, pool=(2,))
        self.far = Convolutions(rng, near, 128, 128, 128, pool=(0,))
        self.both = Convolutions(rng, near + 128, self.channels, self.channels)

    def __call__(self, images: tf.Tensor, training: bool) -> tf.Tensor:
        """Map images (N, H, W, 3), 0 to 255, sides multiples of 16, to (N, H/8, W/8, 96)."""
        if self.base:
            near = tf.cast(self.base(images), self.dtype)
        else:  # squares of 4 x 4 pixels become 48 channels
            x = tf.nn.space_to_depth(tf.cast(images / 64 - 2, self.dtype), 4)
            near = self.near(x, training)
        far = self.far(near, training)
        return self.both(tf.concat([near, enlarge(far)], axis=-1), training)
