"""The network of example 14 and its orthogonalised steps, for images of any size.

Example 14 writes both out, explains them, and names where they come from: Keller Jordan's
cifar10-airbench (https://github.com/KellerJordan/cifar10-airbench).
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from models.normalisation import BatchNormalisation
from models.training import accuracy, mean_loss

MOMENTUM, WEIGHT_DECAY, LABEL_SMOOTHING = 0.6, 5e-4, 0.2
OFFSET_RATE, HEAD_RATE = 160, 20  # times the learning rate of the kernels


def whitening_kernels(
    images: np.ndarray, size: int, stride: int, components: int
) -> tuple[np.ndarray, np.ndarray]:
    """Compute a fixed first layer that turns patches into uncorrelated numbers.

    Args:
        images: some images, uint8 (N, H, W, 3).
        size: height and width of a patch.
        stride: between the patches that are looked at.
        components: how many numbers to make of a patch, of those that vary most.

    Returns:
        The mean of each colour, rounded, float32 (3,); kernels, float32 (size, size, 3,
        components).
    """
    mean = images.mean(axis=(0, 1, 2)).round().astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(images - mean, (size, size), (1, 2))
    windows = windows[:, ::stride, ::stride].transpose(0, 1, 2, 4, 5, 3)
    patches = windows.reshape(-1, size * size * 3)
    variances, vectors = np.linalg.eigh(np.cov(patches, rowvar=False))  # the largest come last
    kernels = (vectors / np.sqrt(variances + 2))[:, -components:]
    return mean, kernels.reshape(size, size, 3, components).astype(np.float32)


class Network(tf.Module):
    """Whitening, stages of two 3x3 convolutions with max pooling after the first, and a head.

    The variables are float32; it is computed in `dtype`.
    """

    def __init__(
        self,
        mean: np.ndarray,
        whitening: np.ndarray,
        channels: Sequence[int],
        classes: int,
        dtype: tf.DType,
        seed: int,
        stride: int = 1,
        keep: float = 0.6,
    ):
        """Make the variables.

        Args:
            mean: of each colour.
            whitening: the kernels of the first layer.
            channels: of the stages.
            classes: how many there are.
            dtype: tf.float32 or tf.bfloat16.
            seed: of the random kernels.
            stride: of the first layer.
            keep: share of batch normalisation's moving averages that is kept in every step.
        """
        super().__init__()
        rng = np.random.default_rng(seed)
        self.mean, self.whitening, self.stride, self.dtype = mean, whitening, stride, dtype
        self.kernels, self.norms, inputs = [], [], whitening.shape[-1]
        for outputs in np.repeat(channels, 2):
            kernel = rng.uniform(-1, 1, (3, 3, inputs, outputs)) / np.sqrt(9 * inputs)
            same = min(inputs, outputs)  # the first outputs begin as copies of the inputs
            kernel[..., :same] = 0
            kernel[1, 1, range(same), range(same)] = 1
            self.kernels.append(tf.Variable(kernel, dtype=tf.float32))
            self.norms.append(BatchNormalisation(outputs, keep))
            inputs = outputs
        head = rng.uniform(-1, 1, (inputs, classes)) / np.sqrt(inputs)
        self.head = tf.Variable(head, dtype=tf.float32)

    @tf.function
    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Compute float32 logits (N, classes) from uint8 images (N, H, W, 3)."""
        x = tf.cast(images, self.dtype) - tf.cast(self.mean, self.dtype)
        x = tf.nn.conv2d(x, tf.cast(self.whitening, self.dtype), self.stride, "SAME")
        for layer, kernel in enumerate(self.kernels):
            x = tf.nn.conv2d(x, tf.cast(kernel, self.dtype), 1, "SAME")
            if layer % 2 == 0:
                x = tf.nn.max_pool2d(x, 2, 2, "VALID")
            x = tf.nn.relu(self.norms[layer](x, training))
        x = tf.cast(tf.reduce_mean(x, axis=[1, 2]), tf.float32)
        return tf.matmul(x, self.head) / 9


def orthogonal(matrix: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Return about U V^T, computed in `dtype`, for a float32 matrix U S V^T."""
    x = tf.cast(matrix / (tf.norm(matrix) + 1e-7), dtype)
    for _ in range(3):
        square = tf.matmul(x, x, transpose_a=True)
        x = 3.4445 * x + x @ (-4.7750 * square + 2.0315 * square @ square)
    return tf.cast(x, tf.float32)


def direction(velocity: tf.Variable, gradient: tf.Tensor) -> tf.Tensor:
    """Take a gradient into its velocity, and look one velocity ahead."""
    velocity.assign(MOMENTUM * velocity + gradient)
    return gradient + MOMENTUM * velocity


class Training(tf.Module):
    """A network, and the velocities of its three groups of variables."""

    def __init__(self, network: tf.Module):
        """Begin with velocities of zero; a network has `kernels`, `norms`, `head` and `dtype`."""
        super().__init__()
        self.network = network
        self.groups = [network.kernels, [n.offset for n in network.norms], network.head]
        self.velocity = tf.nest.map_structure(lambda v: tf.Variable(0 * v), self.groups)

    @tf.function(autograph=False)  # it has no loop or branch for the graph
    def step(self, images: tf.Tensor, labels: tf.Tensor, rate: tf.Tensor) -> dict[str, tf.Tensor]:
        """Learn from a batch, and return its loss and its accuracy."""
        with tf.GradientTape() as tape:
            logits = self.network(images, training=True)
            loss = mean_loss(logits, labels, LABEL_SMOOTHING)
        kernels, offsets, head = self.groups
        of_kernels, of_offsets, of_head = tape.gradient(loss, self.groups)
        gradients = [of_kernels, of_offsets, of_head + WEIGHT_DECAY * head]
        steps = tf.nest.map_structure(direction, self.velocity, gradients)
        for kernel, step in zip(kernels, steps[0], strict=True):
            matrix = tf.reshape(step, [-1, kernel.shape[-1]])
            step = tf.reshape(orthogonal(matrix, self.network.dtype), kernel.shape)
            kernel.assign(kernel * (kernel.shape[-1] ** 0.5 / tf.norm(kernel)))
            kernel.assign_sub(rate * step)
        for offset, step in zip(offsets, steps[1], strict=True):
            offset.assign_sub(OFFSET_RATE * rate * step)
        head.assign_sub(HEAD_RATE * rate * steps[2])
        return {"loss": loss, "accuracy": accuracy(logits, labels)}
