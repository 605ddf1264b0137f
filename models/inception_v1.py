"""GoogLeNet, also called Inception v1, which won ImageNet's competition of 2014, with tf.nn.

Source: C. Szegedy et al., "Going Deeper with Convolutions", 2014, section 5, table 1 and figure 3,
https://arxiv.org/abs/1409.4842. The paper does not say how the weights were drawn before training;
`vgg16.random_weights` does it for any network of ReLUs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

IMAGE_SIZE = 224  # pixels
DROPOUT = 0.4  # share of the averaged outputs that training sets to zero
AUXILIARY_DROPOUT = 0.7  # the same inside the auxiliary classifiers
AUXILIARY_WEIGHT = 0.3  # of each of their losses
AUXILIARY = ("4a", "4d")  # the modules that they look at

# Table 1: the outputs of the six convolutions in each module. A module's number says how large its
# images are: 3, 28 x 28 pixels; 4, 14 x 14; 5, 7 x 7.
MODULES = {
    #     1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


def outputs(module: str) -> int:
    """Return how many channels come out of a module: what its four branches end with."""
    one, _, three, _, five, projection = MODULES[module]
    return one + three + five + projection


@dataclass(frozen=True)
class Config:
    """What can be chosen: how many classes there are."""

    classes: int = 1000

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of all 128 weights, first layer first."""
        layers: dict[str, tuple[int, ...]] = {
            "conv1": (7, 7, 3, 64),
            "conv2_reduce": (1, 1, 64, 64),
            "conv2": (3, 3, 64, 192),
        }
        inputs = 192
        for module, (one, reduce3, three, reduce5, five, projection) in MODULES.items():
            layers[f"{module}/1x1"] = (1, 1, inputs, one)
            layers[f"{module}/3x3_reduce"] = (1, 1, inputs, reduce3)
            layers[f"{module}/3x3"] = (3, 3, reduce3, three)
            layers[f"{module}/5x5_reduce"] = (1, 1, inputs, reduce5)
            layers[f"{module}/5x5"] = (5, 5, reduce5, five)
            layers[f"{module}/projection"] = (1, 1, inputs, projection)
            inputs = outputs(module)
        layers["linear"] = (inputs, self.classes)
        for module in AUXILIARY:
            layers[f"auxiliary_{module}/reduce"] = (1, 1, outputs(module), 128)
            layers[f"auxiliary_{module}/dense"] = (4 * 4 * 128, 1024)
            layers[f"auxiliary_{module}/linear"] = (1024, self.classes)
        shapes: dict[str, tuple[int, ...]] = {}
        for name, shape in layers.items():
            shapes[f"inception_v1/{name}/weights"] = shape
            shapes[f"inception_v1/{name}/biases"] = shape[-1:]
        return shapes


class InceptionV1(tf.Module):
    """Three convolutions, nine inception modules, an average over the image, one dense layer.

    Args:
        weights: a float32 array for every name in `config.shapes()`.
        config: the sizes.
    """

    def __init__(self, weights: Mapping[str, np.ndarray], config: Config):
        super().__init__(name="inception_v1")
        self.weights = {
            name: tf.Variable(weights[name], shape=shape, name=name)
            for name, shape in config.shapes().items()
        }

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Compute logits (N, classes) from float32 images (N, 224, 224, 3), mean taken away."""
        return self.dense("linear", average(self.modules(images)["5b"]))

    def training_logits(self, images: tf.Tensor) -> list[tf.Tensor]:
        """Compute the logits of the classifier, with dropout, and of the two auxiliary ones.

        These look at the middle of the network, meant to give the gradient a short way to its lower
        half. After the training they are thrown away.
        """
        x = self.modules(images)
        averages = tf.nn.dropout(average(x["5b"]), DROPOUT)
        others = [self.auxiliary(module, x[module]) for module in AUXILIARY]
        return [self.dense("linear", averages), *others]

    def modules(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Compute what comes out of each of the nine modules."""
        x = self.convolution("conv1", images, stride=2)  # (N, 112, 112, 64)
        x = normalise(halve(x))  # (N, 56, 56, 64)
        x = self.convolution("conv2_reduce", x)  # (N, 56, 56, 64)
        x = self.convolution("conv2", x)  # (N, 56, 56, 192)
        x = halve(normalise(x))  # (N, 28, 28, 192)
        made = {}
        for module in MODULES:
            if module in ("4a", "5a"):
                x = halve(x)  # (N, 14, 14, 480), (N, 7, 7, 832)
            x = made[module] = self.inception(module, x)
        return made

    def inception(self, module: str, x: tf.Tensor) -> tf.Tensor:
        """Look at the same inputs in four ways, and put the outputs beside each other (figure 2b).

        The 1x1 convolutions before the large kernels leave them fewer channels to multiply.
        """
        one = self.convolution(f"{module}/1x1", x)
        three = self.convolution(f"{module}/3x3", self.convolution(f"{module}/3x3_reduce", x))
        five = self.convolution(f"{module}/5x5", self.convolution(f"{module}/5x5_reduce", x))
        pooled = tf.nn.max_pool2d(x, ksize=3, strides=1, padding="SAME")
        projection = self.convolution(f"{module}/projection", pooled)
        return tf.concat([one, three, five, projection], axis=-1)

    def auxiliary(self, module: str, x: tf.Tensor) -> tf.Tensor:
        """Compute an auxiliary classifier's logits from a module's outputs (N, 14, 14, C)."""
        x = tf.nn.avg_pool2d(x, ksize=5, strides=3, padding="VALID")  # (N, 4, 4, C)
        x = self.convolution(f"auxiliary_{module}/reduce", x)  # (N, 4, 4, 128)
        x = tf.reshape(x, [-1, 4 * 4 * 128])
        x = tf.nn.relu(self.dense(f"auxiliary_{module}/dense", x))  # (N, 1024)
        return self.dense(f"auxiliary_{module}/linear", tf.nn.dropout(x, AUXILIARY_DROPOUT))

    def convolution(self, name: str, x: tf.Tensor, stride: int = 1) -> tf.Tensor:
        """Convolve, and apply a ReLU: every convolution of this network has one."""
        kernel, bias = self.layer(name)
        x = tf.nn.conv2d(x, kernel, strides=stride, padding="SAME")
        return tf.nn.relu(tf.nn.bias_add(x, bias))

    def dense(self, name: str, x: tf.Tensor) -> tf.Tensor:
        """Multiply by a dense layer's matrix and add its biases."""
        matrix, bias = self.layer(name)
        return tf.nn.bias_add(tf.matmul(x, matrix), bias)

    def layer(self, name: str) -> tuple[tf.Variable, tf.Variable]:
        """Return the kernel and the bias of a layer."""
        name = f"inception_v1/{name}"
        return self.weights[f"{name}/weights"], self.weights[f"{name}/biases"]


def training_loss(logits: list[tf.Tensor], labels: tf.Tensor) -> tf.Tensor:
    """Return the loss of `training_logits` for integer labels (N,), averaged over the images."""
    main, *others = (
        tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, one))
        for one in logits
    )
    return main + AUXILIARY_WEIGHT * tf.add_n(others)


def average(x: tf.Tensor) -> tf.Tensor:
    """Average each channel over the whole image: (N, 7, 7, 1024) to (N, 1024)."""
    return tf.reduce_mean(x, axis=[1, 2])


def halve(x: tf.Tensor) -> tf.Tensor:
    """Keep the largest of every 3x3 values, moving by 2: height and width become half."""
    return tf.nn.max_pool2d(x, ksize=3, strides=2, padding="SAME")


def normalise(x: tf.Tensor) -> tf.Tensor:
    """Normalise over neighbouring channels; figure 3 has it, the constants are AlexNet's."""
    return tf.nn.local_response_normalization(x, depth_radius=2, bias=2.0, alpha=1e-4, beta=0.75)
