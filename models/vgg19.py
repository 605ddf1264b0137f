"""VGG19: VGG16 with a fourth convolution in each of the last three blocks, written with tf.nn.

Source: K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", 2014, table 1, configuration E, https://arxiv.org/abs/1409.1556. Variables are named
as in the checkpoint vgg_19.ckpt of TF-slim. Images are prepared by `vgg16.preprocess`, weights for
a network that has not been trained come from `vgg16.random_weights`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from models import vgg16

CONVOLUTIONS = (2, 2, 4, 4, 4)  # layers in each of the five blocks


@dataclass(frozen=True)
class Config(vgg16.Config):
    """The sizes of a VGG19: those of a VGG16, with the same defaults."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of all 38 weights, first layer first."""
        shapes = {}
        for name, shape in super().shapes().items():
            name = name.replace("vgg_16", "vgg_19")
            shapes[name] = shape
            if name.endswith("_3/biases"):  # of a third convolution: the fourth is like it
                for kind in ("weights", "biases"):
                    third = name.replace("biases", kind)
                    shapes[third.replace("_3/", "_4/")] = shapes[third]
        return shapes


class VGG19(tf.Module):
    """Sixteen convolutions in five blocks, then three dense layers.

    Args:
        weights: a float32 array for every name in `config.shapes()`.
        config: the sizes.
    """

    def __init__(self, weights: Mapping[str, np.ndarray], config: Config):
        super().__init__(name="vgg_19")
        self.weights = {
            name: tf.Variable(weights[name], shape=shape, name=name)
            for name, shape in config.shapes().items()
        }

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Compute logits (N, classes) from preprocessed images, float32 (N, H, W, 3)."""
        x = images  # (N, 224, 224, 3) at the paper's size
        for block, count in enumerate(CONVOLUTIONS, 1):
            for layer in range(1, count + 1):
                kernel, bias = self.layer(f"conv{block}/conv{block}_{layer}")
                x = tf.nn.conv2d(x, kernel, strides=1, padding="SAME")
                x = tf.nn.relu(tf.nn.bias_add(x, bias))
            x = tf.nn.max_pool2d(x, ksize=2, strides=2, padding="VALID")
            # (N, 112, 112, 64), (N, 56, 56, 128), ... (N, 7, 7, 512)
        x = tf.reshape(x, [-1, np.prod(x.shape[1:])])  # (N, 25088)
        for name in ("fc6", "fc7"):
            x = tf.nn.relu(self.dense(name, x))  # (N, 4096)
            if training:
                x = tf.nn.dropout(x, vgg16.DROPOUT)
        return self.dense("fc8", x)  # (N, 1000)

    def dense(self, name: str, x: tf.Tensor) -> tf.Tensor:
        """Multiply by a dense layer's matrix, which is kept as the kernel of a convolution."""
        kernel, bias = self.layer(name)
        return tf.nn.bias_add(tf.matmul(x, tf.reshape(kernel, [-1, kernel.shape[-1]])), bias)

    def layer(self, name: str) -> tuple[tf.Variable, tf.Variable]:
        """Return the kernel and the bias of a layer."""
        return self.weights[f"vgg_19/{name}/weights"], self.weights[f"vgg_19/{name}/biases"]
