"""VGG16: the network, written with tf.nn. Its weights are read by models/vgg16_files.py.

It is had whole, or as its five blocks of convolutions alone: a ninth of the weights, which take
images of any size.

Source: K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", 2014, configuration D, https://arxiv.org/abs/1409.1556. Variables are named as in the
checkpoint vgg_16.ckpt of TF-slim, https://github.com/tensorflow/models/tree/master/research/slim.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from models import WeightsError

MEAN_RGB = (123.68, 116.78, 103.94)  # of the ImageNet training images, on a scale from 0 to 255
CONVOLUTIONS = (2, 2, 3, 3, 3)  # layers in each of the five blocks
DROPOUT = 0.5  # share of fc6's and fc7's outputs that training sets to zero
VERSION = 1  # to be raised when preprocess() or VGG16 give other features for the same weights


@dataclass(frozen=True)
class Config:
    """The sizes of a VGG16. The defaults are the paper's.

    Attributes:
        classes: outputs of the top layer, fc8; 0: there is none.
        width: channels of the first block; the later ones have 2, 4, 8 and 8 times as many.
        dense: outputs of fc6 and of fc7; 0: there are none, only the blocks.
        image_size: height and width of the images in pixels, for fc6 a multiple of 32.
        pooling: what an image's features are where there is no fc7: some of "mean4", "max4",
            "mean5", "max5", the mean or maximum over height and width of block 4's outputs,
            pooled, or of block 5's last convolution, one after another; or "quarters4" and
            "quarters5", the means over each quarter of the image.
    """

    classes: int = 1000
    width: int = 64
    dense: int = 4096
    image_size: int = 224
    pooling: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        weights: Mapping[str, Any],
        image_size: int = 224,
        pooling: tuple[str, ...] = ("mean4", "mean5"),
    ) -> "Config":
        """Read the sizes off arrays by name. Image size and pooling are for the blocks alone."""

        def size(layer: str, axis: int) -> int:
            shape = getattr(weights.get(f"vgg_16/{layer}/weights"), "shape", ())
            return int(shape[axis]) if len(shape) == 4 else 0

        classes, dense = size("fc8", -1), size("fc6", -1)
        if dense:
            image_size, pooling = 32 * size("fc6", 0), ()
        return cls(classes, size("conv1/conv1_1", -1) or cls.width, dense, image_size, pooling)

    @property
    def features(self) -> int:
        """How many numbers the top layer sees of an image."""
        parts = sum(4 if name.startswith("quarters") else 1 for name in self.pooling)
        return self.dense or 8 * self.width * parts

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of all weights, first layer first: 32, or 26 of the blocks."""
        layers: dict[str, tuple[int, ...]] = {}
        channels = 3
        for block, count in enumerate(CONVOLUTIONS, 1):
            filters = self.width * min(2 ** (block - 1), 8)
            for layer in range(1, count + 1):
                layers[f"conv{block}/conv{block}_{layer}"] = (3, 3, channels, filters)
                channels = filters
        if self.dense:
            side = self.image_size // 32  # five poolings have halved the image five times
            layers["fc6"] = (side, side, channels, self.dense)
            layers["fc7"] = (1, 1, self.dense, self.dense)
        if self.classes:
            layers["fc8"] = (1, 1, self.features, self.classes)
        shapes: dict[str, tuple[int, ...]] = {}
        for name, shape in layers.items():
            shapes[f"vgg_16/{name}/weights"] = shape
            shapes[f"vgg_16/{name}/biases"] = shape[-1:]
        return shapes


# %% The network


def preprocess(images: tf.Tensor, image_size: int) -> tf.Tensor:
    """Bring images to the size and scale that the network was trained on.

    Args:
        images: RGB, any numeric type, (N, H, W, 3), 0 to 255.
        image_size: height and width to resize to, in pixels.

    Returns:
        float32 (N, image_size, image_size, 3) with the mean colour taken away.
    """
    images = tf.image.resize(tf.cast(images, tf.float32), [image_size, image_size])
    return images - tf.constant(MEAN_RGB)


class VGG16(tf.Module):
    """Thirteen convolutions in five blocks, then three dense layers, or none, or a top one.

    Args:
        weights: an array for every name in `config.shapes()`, as `vgg16_files.read` returns them.
        config: the sizes.
        dtype: the format of the weights in memory and of the arithmetic, float32 or bfloat16;
            the top layer's is always float32: it costs next to nothing, and it decides.
        trained: which of the other layers are to be trained, such as "conv5". Their weights are in
            float32 in memory, since small steps get lost in bfloat16; the arithmetic is as above.

    Raises:
        WeightsError: a weight is missing, too many, or has the wrong shape or dtype.
    """

    def __init__(
        self,
        weights: Mapping[str, np.ndarray],
        config: Config,
        dtype: tf.DType = tf.float32,
        trained: tuple[str, ...] = (),
    ):
        super().__init__(name="vgg_16")
        check_weights(weights, config)
        self.config = config
        self.dtype = dtype
        self.weights = {}
        for name in config.shapes():
            in_float32 = name.split("/")[1] in ("fc8", *trained)
            value = tf.cast(weights[name], tf.float32 if in_float32 else dtype)
            self.weights[name] = tf.Variable(value, name=name)

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Compute float32 logits (N, classes) from preprocessed images (N, H, W, 3)."""
        features = self.features(images, training)
        return self.top(tf.nn.dropout(features, DROPOUT) if training else features)

    def features(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Compute all but the top layer: fc7's outputs, (N, dense) in the network's dtype.

        Without dense layers: what the last blocks give, pooled as config says, float32 (N, F).
        """
        pool4 = self.lower_blocks(images)
        return self.hidden(pool4, self.block(5, pool4), training)

    def lower_blocks(self, images: tf.Tensor) -> tf.Tensor:
        """Compute blocks 1 to 4, pooled, (N, 14, 14, 512) in the network's dtype."""
        x = tf.cast(images, self.dtype)  # (N, 224, 224, 3) at the paper's size
        for number in range(1, 5):
            x = pool(self.block(number, x))  # (N, 112, 112, 64), ... (N, 14, 14, 512)
        return x

    def block4(self, images: tf.Tensor) -> tf.Tensor:
        """Compute block 4's last convolution, (N, H/8, W/8, 512), of images as they are."""
        x = tf.cast(images - tf.constant(MEAN_RGB), self.dtype)
        for number in range(1, 4):
            x = pool(self.block(number, x))
        return self.block(4, x)

    def upper_layers(self, pool4: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Compute all that comes after block 4 from its outputs, pooled, of any float type.

        Returns:
            The outputs of the last convolution, (N, 14, 14, 512) in the network's dtype, and the
            logits, float32 (N, classes).
        """
        pool4 = tf.cast(pool4, self.dtype)
        conv5 = self.block(5, pool4)
        return conv5, self.top(self.hidden(pool4, conv5))

    def block(self, number: int, x: tf.Tensor) -> tf.Tensor:
        """Compute the convolutions of a block, counted from 1; what comes out is not yet pooled."""
        for layer in range(1, CONVOLUTIONS[number - 1] + 1):
            kernel, bias = self.layer(f"conv{number}/conv{number}_{layer}", x)
            x = tf.nn.conv2d(x, kernel, strides=1, padding="SAME")  # keeps height and width
            x = tf.nn.relu(tf.nn.bias_add(x, bias))
        return x

    def hidden(self, pool4: tf.Tensor, conv5: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Compute the features from block 4's outputs, pooled, and block 5's, not pooled."""
        if not self.config.dense:
            last = {"4": tf.cast(pool4, tf.float32), "5": tf.cast(conv5, tf.float32)}
            over = {"mean": tf.reduce_mean, "max": tf.reduce_max, "quarters": quarters}
            parts = [over[name[:-1]](last[name[-1]], [1, 2]) for name in self.config.pooling]
            return tf.concat(parts, axis=1)  # (N, 1024) for two
        pool5 = pool(conv5)  # (N, 7, 7, 512)
        x = tf.reshape(pool5, [-1, np.prod(pool5.shape[1:])])  # (N, 25088)
        x = tf.nn.relu(self.dense("fc6", x))  # (N, 4096)
        if training:
            x = tf.nn.dropout(x, DROPOUT)
        return tf.nn.relu(self.dense("fc7", x))  # (N, 4096)

    def top(self, features: tf.Tensor) -> tf.Tensor:
        """Compute float32 logits (N, classes) from the features."""
        if not self.config.classes:
            raise ValueError("this VGG16 has no top layer: put one on with replace_top()")
        return self.dense("fc8", tf.cast(features, tf.float32))

    def weights_of(self, layers: Sequence[str]) -> dict[str, tf.Variable]:
        """Return the weights of some layers, or blocks of them, such as "conv5", by name."""
        return {name: w for name, w in self.weights.items() if name.split("/")[1] in layers}

    def replace_top(self, kernel: np.ndarray, bias: np.ndarray) -> None:
        """Put a new top layer on: kernel, float32 (F, classes); bias, float32 (classes,)."""
        self.config = dataclasses.replace(self.config, classes=len(bias))
        for name, value in (("weights", kernel[None, None]), ("biases", bias)):
            name = f"vgg_16/fc8/{name}"
            self.weights[name] = tf.Variable(value, dtype=tf.float32, name=name)

    def dense(self, layer: str, x: tf.Tensor) -> tf.Tensor:
        """Multiply by a dense layer's matrix.

        The checkpoint holds it as the kernel of a convolution that covers the whole image, (7, 7,
        512, 4096) for fc6. On an image of just that size, the convolution is a matrix product.
        """
        kernel, bias = self.layer(layer, x)
        return tf.nn.bias_add(tf.matmul(x, tf.reshape(kernel, [-1, kernel.shape[-1]])), bias)

    def layer(self, name: str, x: tf.Tensor) -> list[tf.Tensor]:
        """Return a layer's kernel and bias in the format of its inputs `x`."""
        names = f"vgg_16/{name}/weights", f"vgg_16/{name}/biases"
        return [tf.cast(self.weights[name], x.dtype) for name in names]


def pool(x: tf.Tensor) -> tf.Tensor:
    """Keep the largest of every 2x2 values, as VGG16 does behind each block."""
    return tf.nn.max_pool2d(x, ksize=2, strides=2, padding="VALID")


def quarters(x: tf.Tensor, axis: Sequence[int]) -> tf.Tensor:
    """Return the means over each quarter of images (N, H, W, C), over `axis` [1, 2]: (N, 4 C)."""
    height, width = x.shape[1] // 2, x.shape[2] // 2
    means = tf.nn.avg_pool2d(x, (height, width), (height, width), "VALID")
    return tf.reshape(means, [-1, 4 * x.shape[3]])


def random_weights(config: Config, seed: int) -> dict[str, np.ndarray]:
    """Draw the weights of an untrained network.

    Normal with standard deviation sqrt(2 / inputs), so that a signal neither grows nor fades from
    layer to layer (He et al. 2015, section 2.2, https://arxiv.org/abs/1502.01852); biases are zero.

    Returns:
        float32 arrays for the names in `config.shapes()`.
    """
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in config.shapes().items():
        if name.endswith("biases"):
            weights[name] = np.zeros(shape, np.float32)
        else:
            scale = np.float32(np.sqrt(2 / np.prod(shape[:-1])))
            weights[name] = rng.standard_normal(shape, np.float32)
            weights[name] *= scale
    return weights


# %% Weights


def check_weights(weights: Mapping[str, np.ndarray], config: Config, source: str = "") -> None:
    """Check that exactly the weights of `config` are there, with their shapes, as finite float32.

    Raises:
        WeightsError: names the first weight that is missing, unknown or wrong.
    """
    where = f"{source}: " if source else ""
    expected = config.shapes()
    for name, shape in expected.items():
        if name not in weights:
            raise WeightsError(f"{where}{name} is missing; is this a VGG16 checkpoint?")
        found = weights[name]
        if tuple(found.shape) != shape:
            raise WeightsError(f"{where}{name} has shape {tuple(found.shape)}, expected {shape}")
        if found.dtype != np.float32:
            raise WeightsError(f"{where}{name} has dtype {found.dtype}, expected float32")
        if not np.isfinite(found).all():  # a ReLU can hide it: the result would just be wrong
            raise WeightsError(f"{where}{name} holds values that are not finite numbers")
    for name in weights:
        if name not in expected:
            raise WeightsError(f"{where}{name} is not a weight of VGG16")


def weights_digest(arrays: Iterable[tuple[str, np.ndarray]]) -> str:
    """Return the SHA-256 of names and arrays, in any order, in hexadecimal digits."""
    each = []
    for name, array in arrays:
        digest = hashlib.sha256(f"{name} {array.shape} {array.dtype}\n".encode())
        digest.update(np.ascontiguousarray(array))
        each.append(digest.digest())
    return hashlib.sha256(b"".join(sorted(each))).hexdigest()


def feature_source(
    weights: Mapping[str, np.ndarray], config: Config, dtype: tf.DType
) -> dict[str, Any]:
    """Name all that the outputs below the top layer depend on, but the images; goes into JSON."""
    source = {
        "weights_sha256": weights_digest((n, w) for n, w in weights.items() if "/fc8/" not in n),
        "arithmetic": dtype.name,
        "version": VERSION,
    }
    if not config.dense:  # else the weights say it
        source |= {"image_size": config.image_size, "pooling": list(config.pooling)}
    return source
