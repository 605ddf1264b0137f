"""AlexNet, which won ImageNet's competition of 2012, written with tf.nn.

Source: A. Krizhevsky, I. Sutskever, G. Hinton, "ImageNet Classification with Deep Convolutional
Neural Networks", NIPS 2012, section 3 and figure 2,
https://papers.nips.cc/paper/4824-imagenet-classification-with-deep-convolutional-neural-networks.

The paper's images have 224 x 224 pixels. Kernels of 11 pixels that move by 4 would fit into these
(224 - 11) / 4 + 1 = 54.25 times; figure 2 has 55, which takes 227 pixels. Of the three pixels more,
at the edge, the text does not speak. Here the images have 227 pixels, as in most later versions
(Caffe's, for one). The weights and all other sizes are the paper's.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

IMAGE_SIZE = 227  # pixels
DROPOUT = 0.5  # share of fc6's and fc7's outputs that training sets to zero; section 4.2


@dataclass(frozen=True)
class Config:
    """What can be chosen: how many classes there are."""

    classes: int = 1000

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of all 16 weights, first layer first."""
        layers = {
            "conv1": (11, 11, 3, 96),
            "conv2": (5, 5, 48, 256),  # a kernel sees 48 of conv1's 96 outputs: its own tower's
            "conv3": (3, 3, 256, 384),  # the one convolution that sees both towers
            "conv4": (3, 3, 192, 384),
            "conv5": (3, 3, 192, 256),
            "fc6": (6 * 6 * 256, 4096),
            "fc7": (4096, 4096),
            "fc8": (4096, self.classes),
        }
        shapes = {}
        for name, shape in layers.items():
            shapes[f"alexnet/{name}/weights"] = shape
            shapes[f"alexnet/{name}/biases"] = shape[-1:]
        return shapes


def random_weights(config: Config, seed: int) -> dict[str, np.ndarray]:
    """Draw the weights that the paper's training began with (section 5).

    Kernels are normal with standard deviation 0.01. Some layers' biases are 1, so that the ReLUs
    behind them have a positive input, and thus a gradient, from the first step on.

    Returns:
        float32 arrays for the names in `config.shapes()`.
    """
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in config.shapes().items():
        if name.endswith("weights"):
            weights[name] = rng.standard_normal(shape, np.float32) * np.float32(0.01)
        else:
            ones = name.split("/")[1] in ("conv2", "conv4", "conv5", "fc6", "fc7")
            weights[name] = np.full(shape, ones, np.float32)
    return weights


class AlexNet(tf.Module):
    """Five convolutions, then three dense layers.

    The network was spread over two GPUs of 3 GB each. Each had half of every layer's kernels, a
    tower, and conv2, conv4 and conv5 see only what is on their own GPU (section 3.2). Today this is
    called a grouped convolution; `tf.nn.conv2d` does it unasked where a kernel has fewer channels
    than its inputs.

    Args:
        weights: a float32 array for every name in `config.shapes()`.
        config: the sizes.
    """

    def __init__(self, weights: Mapping[str, np.ndarray], config: Config):
        super().__init__(name="alexnet")
        self.weights = {
            name: tf.Variable(weights[name], shape=shape, name=name)
            for name, shape in config.shapes().items()
        }

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Compute logits (N, classes) from float32 images (N, 227, 227, 3), mean taken away."""
        x = self.convolution("conv1", images, stride=4, padding="VALID")  # (N, 55, 55, 96)
        x = pool(normalise(x))  # (N, 27, 27, 96)
        x = self.convolution("conv2", x, towers=2)  # (N, 27, 27, 256)
        x = pool(normalise(x))  # (N, 13, 13, 256)
        x = self.convolution("conv3", x)  # (N, 13, 13, 384)
        x = self.convolution("conv4", x, towers=2)  # (N, 13, 13, 384)
        x = self.convolution("conv5", x, towers=2)  # (N, 13, 13, 256)
        x = tf.reshape(pool(x), [-1, 6 * 6 * 256])  # (N, 9216)
        for name in ("fc6", "fc7"):
            x = tf.nn.relu(self.dense(name, x))  # (N, 4096)
            if training:
                x = tf.nn.dropout(x, DROPOUT)
        return self.dense("fc8", x)  # (N, 1000)

    def convolution(
        self, name: str, x: tf.Tensor, towers: int = 1, stride: int = 1, padding: str = "SAME"
    ) -> tf.Tensor:
        """Convolve each tower's inputs with its own kernels, and apply a ReLU."""
        kernel, bias = self.layer(name)
        inputs, kernels = tf.split(x, towers, axis=-1), tf.split(kernel, towers, axis=-1)
        outputs = [
            tf.nn.conv2d(tower, own, strides=stride, padding=padding)
            for tower, own in zip(inputs, kernels, strict=True)
        ]
        return tf.nn.relu(tf.nn.bias_add(tf.concat(outputs, axis=-1), bias))

    def dense(self, name: str, x: tf.Tensor) -> tf.Tensor:
        """Multiply by a dense layer's matrix and add its biases."""
        matrix, bias = self.layer(name)
        return tf.nn.bias_add(tf.matmul(x, matrix), bias)

    def layer(self, name: str) -> tuple[tf.Variable, tf.Variable]:
        """Return the kernel and the bias of a layer."""
        return self.weights[f"alexnet/{name}/weights"], self.weights[f"alexnet/{name}/biases"]


def normalise(x: tf.Tensor) -> tf.Tensor:
    """Divide each value by (2 + 0.0001 s)^0.75 (local response normalisation, section 3.3).

    s is the sum of the squares of five neighbouring channels, two on each side, at the same place.
    Caffe and PyTorch divide the 0.0001 by five first; the paper and TensorFlow do not.
    """
    return tf.nn.local_response_normalization(x, depth_radius=2, bias=2.0, alpha=1e-4, beta=0.75)


def pool(x: tf.Tensor) -> tf.Tensor:
    """Keep the largest of every 3x3 values, moving by 2: the windows overlap (section 3.4)."""
    return tf.nn.max_pool2d(x, ksize=3, strides=2, padding="VALID")
