"""A convolution with what usually goes with it; examples 05 and 06 write it out and explain it."""

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
