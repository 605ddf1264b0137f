"""LeNet-5, which read handwritten digits on cheques, written with tf.nn as it was in 1998.

Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-Based Learning Applied to Document
Recognition", Proceedings of the IEEE 86(11), 1998, section II.B, table I, appendix A,
https://doi.org/10.1109/5.726791.

What is called LeNet today mostly has max pooling, ReLUs and softmax. The original has none of them.
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

CLASSES = 10
# Table I: which of S2's six outputs each of C3's sixteen kernels sees.
C3_INPUTS = [
    *([i, (i + 1) % 6, (i + 2) % 6] for i in range(6)),
    *([i, (i + 1) % 6, (i + 2) % 6, (i + 3) % 6] for i in range(6)),
    *([i, i + 1, (i + 3) % 6, (i + 4) % 6] for i in range(3)),
    [0, 1, 2, 3, 4, 5],
]
# What F6 should answer to each digit. The paper takes small drawings of the digits, 7 x 12 pixels,
# and names random codes as the other way; these are random.
CODES = np.random.default_rng(0).choice(np.array([-1, 1], np.float32), (CLASSES, 84))


def shapes() -> dict[str, tuple[int, ...]]:
    """Return the name and shape of all weights, first layer first."""
    layers = {"c1": (5, 5, 1, 6), "s2": (6,)}
    for i, inputs in enumerate(C3_INPUTS):
        layers[f"c3_{i}"] = (5, 5, len(inputs), 1)
    layers |= {"s4": (16,), "c5": (5, 5, 16, 120), "f6": (120, 84)}
    shapes = {}
    for name, shape in layers.items():
        shapes[f"lenet_5/{name}/weights"] = shape
        shapes[f"lenet_5/{name}/biases"] = shape[-1:]
    return shapes


def random_weights(seed: int) -> dict[str, np.ndarray]:
    """Draw the weights that training began with: uniform, up to 2.4 / inputs (appendix A).

    Returns:
        float32 arrays for the names in `shapes()`; biases are zero.
    """
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in shapes().items():
        inputs = np.prod(shape[:-1]) if len(shape) > 1 else 4  # a subsampling adds four values
        limit = 2.4 / inputs if name.endswith("weights") else 0
        weights[name] = rng.uniform(-limit, limit, shape).astype(np.float32)
    return weights


class LeNet5(tf.Module):
    """Convolutions C1, C3, C5, subsamplings S2, S4, a dense layer F6, and distances to ten codes.

    Args:
        weights: a float32 array for every name in `shapes()`.
    """

    def __init__(self, weights: Mapping[str, np.ndarray]):
        super().__init__(name="lenet_5")
        self.weights = {
            name: tf.Variable(weights[name], shape=shape, name=name)
            for name, shape in shapes().items()
        }

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Compute scores (N, 10), the larger the likelier, from float32 images (N, 32, 32, 1).

        White is -0.1 and black 1.175, so that the mean is about 0 and the variance about 1. A score
        is minus the squared distance between F6's outputs and the digit's code.
        """
        x = squash(self.convolution("c1", images))  # (N, 28, 28, 6)
        x = squash(self.subsample("s2", x))  # (N, 14, 14, 6)
        seen = [tf.gather(x, inputs, axis=-1) for inputs in C3_INPUTS]
        maps = [self.convolution(f"c3_{i}", part) for i, part in enumerate(seen)]
        x = squash(tf.concat(maps, axis=-1))  # (N, 10, 10, 16)
        x = squash(self.subsample("s4", x))  # (N, 5, 5, 16)
        x = squash(self.convolution("c5", x))  # (N, 1, 1, 120)
        matrix, bias = self.layer("f6")
        x = squash(tf.nn.bias_add(tf.matmul(tf.reshape(x, [-1, 120]), matrix), bias))  # (N, 84)
        return -tf.reduce_sum(tf.math.squared_difference(x[:, None], CODES), axis=-1)

    def convolution(self, name: str, x: tf.Tensor) -> tf.Tensor:
        """Convolve with 5x5 kernels; without padding, height and width lose four pixels."""
        kernel, bias = self.layer(name)
        return tf.nn.bias_add(tf.nn.conv2d(x, kernel, strides=1, padding="VALID"), bias)

    def subsample(self, name: str, x: tf.Tensor) -> tf.Tensor:
        """Add 2x2 values, multiply by the channel's own coefficient, add its own bias."""
        coefficient, bias = self.layer(name)
        sums = 4 * tf.nn.avg_pool2d(x, ksize=2, strides=2, padding="VALID")
        return tf.nn.bias_add(sums * coefficient, bias)

    def layer(self, name: str) -> tuple[tf.Variable, tf.Variable]:
        """Return the weights and the biases of a layer."""
        return self.weights[f"lenet_5/{name}/weights"], self.weights[f"lenet_5/{name}/biases"]


def squash(x: tf.Tensor) -> tf.Tensor:
    """Apply the paper's sigmoid: it maps -1 and 1 to themselves, and ends at -1.7159 and 1.7159."""
    return 1.7159 * tf.tanh(2 / 3 * x)
