"""VGG16: the network, written with tf.nn, and its weights from every format they are found in.

Source: K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", 2014, configuration D, https://arxiv.org/abs/1409.1556. Variables are named as in the
checkpoint vgg_16.ckpt of TF-slim, https://github.com/tensorflow/models/tree/master/research/slim.
"""

import glob
import hashlib
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import tensorflow as tf

from models import WeightsError

MEAN_RGB = (123.68, 116.78, 103.94)  # of the ImageNet training images, on a scale from 0 to 255
CONVOLUTIONS = (2, 2, 3, 3, 3)  # layers in each of the five blocks
DROPOUT = 0.5  # share of fc6's and fc7's outputs that training sets to zero


@dataclass(frozen=True)
class Config:
    """The sizes of a VGG16. The defaults are the paper's.

    Attributes:
        classes: outputs of the top layer, fc8.
        width: channels of the first block; the later ones have 2, 4, 8 and 8 times as many.
        dense: outputs of fc6 and of fc7.
        image_size: height and width of the images in pixels, a multiple of 32.
    """

    classes: int = 1000
    width: int = 64
    dense: int = 4096
    image_size: int = 224

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of all 32 weights, first layer first."""
        layers = {}
        channels = 3
        for block, count in enumerate(CONVOLUTIONS, 1):
            filters = self.width * min(2 ** (block - 1), 8)
            for layer in range(1, count + 1):
                layers[f"conv{block}/conv{block}_{layer}"] = (3, 3, channels, filters)
                channels = filters
        side = self.image_size // 32  # five poolings have halved the image five times
        layers["fc6"] = (side, side, channels, self.dense)
        layers["fc7"] = (1, 1, self.dense, self.dense)
        layers["fc8"] = (1, 1, self.dense, self.classes)
        shapes = {}
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
    """Thirteen convolutions in five blocks, then three dense layers.

    Args:
        weights: an array for every name in `config.shapes()`, as `read_weights` returns them.
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
        dtype=tf.float32,
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
        if training:
            features = tf.nn.dropout(features, DROPOUT)
        return self.dense("fc8", tf.cast(features, tf.float32))

    def features(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Compute fc7's outputs, (N, dense) in the network's dtype: all layers but the top one."""
        pool5 = pool(self.block(5, self.lower_blocks(images)))  # (N, 7, 7, 512)
        return self.hidden(pool5, training)

    def lower_blocks(self, images: tf.Tensor) -> tf.Tensor:
        """Compute blocks 1 to 4, pooled, (N, 14, 14, 512) in the network's dtype."""
        x = tf.cast(images, self.dtype)  # (N, 224, 224, 3) at the paper's size
        for number in range(1, 5):
            x = pool(self.block(number, x))  # (N, 112, 112, 64), ... (N, 14, 14, 512)
        return x

    def block(self, number: int, x: tf.Tensor) -> tf.Tensor:
        """Compute the convolutions of a block, counted from 1; what comes out is not yet pooled."""
        for layer in range(1, CONVOLUTIONS[number - 1] + 1):
            x = tf.nn.relu(self.convolution(f"conv{number}/conv{number}_{layer}", x))
        return x

    def hidden(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Compute fc6 and fc7, (N, dense), from the fifth block's outputs, pooled."""
        x = tf.reshape(x, [-1, np.prod(x.shape[1:])])  # (N, 25088)
        x = tf.nn.relu(self.dense("fc6", x))  # (N, 4096)
        if training:
            x = tf.nn.dropout(x, DROPOUT)
        return tf.nn.relu(self.dense("fc7", x))  # (N, 4096)

    def replace_top(self, kernel: np.ndarray, bias: np.ndarray) -> None:
        """Put a new top layer on: kernel, float32 (dense, classes); bias, float32 (classes,)."""
        for name, value in (("weights", kernel[None, None]), ("biases", bias)):
            name = f"vgg_16/fc8/{name}"
            self.weights[name] = tf.Variable(value, dtype=tf.float32, name=name)

    def convolution(self, layer: str, x: tf.Tensor) -> tf.Tensor:
        """Convolve with 3x3 kernels; the zero padding keeps height and width."""
        kernel, bias = (self.weight(layer, kind, x) for kind in ("weights", "biases"))
        return tf.nn.bias_add(tf.nn.conv2d(x, kernel, strides=1, padding="SAME"), bias)

    def dense(self, layer: str, x: tf.Tensor) -> tf.Tensor:
        """Multiply by a dense layer's matrix.

        The checkpoint holds it as the kernel of a convolution that covers the whole image, (7, 7,
        512, 4096) for fc6. On an image of just that size, the convolution is a matrix product.
        """
        kernel, bias = (self.weight(layer, kind, x) for kind in ("weights", "biases"))
        return tf.nn.bias_add(tf.matmul(x, tf.reshape(kernel, [-1, kernel.shape[-1]])), bias)

    def weight(self, layer: str, kind: str, x: tf.Tensor) -> tf.Tensor:
        """Return a layer's "weights" or "biases" in the format of its inputs `x`."""
        return tf.cast(self.weights[f"vgg_16/{layer}/{kind}"], x.dtype)


def pool(x: tf.Tensor) -> tf.Tensor:
    """Keep the largest of every 2x2 values, as VGG16 does behind each block."""
    return tf.nn.max_pool2d(x, ksize=2, strides=2, padding="VALID")


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


def describe(weights: Mapping[str, np.ndarray], dtype: tf.DType) -> dict:
    """Name all that features computed by these weights depend on, but the images.

    That is the weights, the arithmetic, and the code. It goes into JSON.
    """
    code = [inspect.getsource(part) for part in (preprocess, VGG16, pool)]
    return {
        "weights_sha256": weights_digest(weights),
        "arithmetic": dtype.name,
        "mean_rgb": MEAN_RGB,
        "code": "".join(code),
    }


def weights_digest(weights: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of all weights, names and shapes included, in hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(f"{name} {weights[name].shape} {weights[name].dtype}\n".encode())
        digest.update(np.ascontiguousarray(weights[name]))
    return digest.hexdigest()


def read_weights(path: Path, config: Config) -> dict[str, np.ndarray]:
    """Read VGG16's weights from any of the formats they are found in, and check them.

    * a TensorFlow checkpoint with TF-slim's names, of version V1 (one file, vgg_16.ckpt) or V2
      (PREFIX.index and PREFIX.data-...; give PREFIX or PREFIX.index),
    * Keras' vgg16_weights_tf_dim_ordering_tf_kernels.h5,
    * an .npz file with one array for each of TF-slim's names.

    Args:
        path: the file.
        config: the sizes that are expected.

    Returns:
        float32 arrays for the names in `config.shapes()`.

    Raises:
        WeightsError: there is no such file, it cannot be read, or it does not hold what it should.
    """
    if path.suffix == ".index":
        path = path.with_suffix("")
    if not os.path.isfile(path) and not os.path.isfile(f"{path}.index"):
        raise WeightsError(f"there is no file of weights at {path}")
    readers = {".h5": _read_keras, ".hdf5": _read_keras, ".npz": _read_npz}
    reader = readers.get(path.suffix.lower(), _read_checkpoint)
    try:
        weights = reader(path)
    except WeightsError:
        raise
    except Exception as error:  # whatever the three libraries raise for a file that is no good
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{path} cannot be read as a file of weights: {reason}") from error
    check_weights(weights, config, str(path))
    return {name: weights[name] for name in config.shapes()}


def open_checkpoint(path: Path) -> tuple[list[str], Callable[[str], np.ndarray]]:
    """Return the names of the weights in a checkpoint (V1, V2), and a function that reads one."""
    # The name of a V1 checkpoint is a pattern to TensorFlow, where "[" has a meaning of its own.
    name = glob.escape(str(path)) if os.path.isfile(path) else str(path)
    reader = tf.train.load_checkpoint(name)
    others = {"global_step", "vgg_16/mean_rgb"}  # in TF-slim's file, but no weights
    return [n for n in reader.get_variable_to_shape_map() if n not in others], reader.get_tensor


def _read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    names, read = open_checkpoint(path)
    # A copy, because TensorFlow never gives the memory of its own arrays back to the system.
    return {name: np.array(read(name)) for name in names}


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: np.asarray(arrays[name]) for name in arrays.files}


def _read_keras(path: Path) -> dict[str, np.ndarray]:
    """Read Keras' file: the same network for blue-green-red images, fc1 on flattened images."""
    weights = {}
    with h5py.File(path) as file:
        for group_name, group in file.items():
            arrays = []
            group.visititems(lambda _, item, found=arrays: _keep_array(item, found))
            if not arrays:
                continue  # a layer without weights, such as a pooling
            if len(arrays) != 2:
                raise WeightsError(
                    f"{path}: {group_name} holds {len(arrays)} arrays, not a kernel and its biases"
                )
            kernel, bias = sorted(arrays, key=lambda array: -array.ndim)
            block = group_name.replace("block", "conv").replace("_conv", "/conv")
            if "/" in block:  # block1_conv2 -> conv1/conv1_2
                convolution, layer = block.split("/conv")
                name = f"vgg_16/{convolution}/{convolution}_{layer}"
            else:
                name = "vgg_16/" + {"fc1": "fc6", "fc2": "fc7", "predictions": "fc8"}.get(
                    group_name, group_name
                )
            weights[f"{name}/weights"], weights[f"{name}/biases"] = kernel, bias
    first = "vgg_16/conv1/conv1_1/weights"
    if first in weights:
        weights[first] = np.ascontiguousarray(weights[first][:, :, ::-1])  # BGR to RGB
    for name in ("fc6", "fc7", "fc8"):
        kernel = weights.get(f"vgg_16/{name}/weights")
        if kernel is None:
            raise WeightsError(
                f"{path}: {name} is missing; the file without the top layers (notop) is not enough"
            )
        last = weights.get("vgg_16/conv5/conv5_3/biases")
        side = 1
        if name == "fc6" and last is not None:  # (25088, 4096) -> (7, 7, 512, 4096)
            side = round((kernel.shape[0] / len(last)) ** 0.5)
        weights[f"vgg_16/{name}/weights"] = kernel.reshape(side, side, -1, kernel.shape[-1])
    return weights


def _keep_array(item: object, found: list[np.ndarray]) -> None:
    if isinstance(item, h5py.Dataset):
        found.append(item[()])


def write_v1_checkpoint(path: Path, weights: Mapping[str, np.ndarray]) -> None:
    """Write weights as TF-slim's vgg_16.ckpt has them: format V1, 34 names.

    Besides the weights there are `vgg_16/mean_rgb`, float32 (3,), and `global_step`, int64.
    """
    everything = {
        **weights,
        "vgg_16/mean_rgb": np.array(MEAN_RGB, np.float32),
        "global_step": np.array(0, np.int64),
    }
    names = sorted(everything)
    tf.raw_ops.Save(
        filename=str(path), tensor_names=names, data=[everything[name] for name in names]
    )
