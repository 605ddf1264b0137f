"""Batch normalisation as one fused operation; example 06 writes it out and explains it."""

import tensorflow as tf


class BatchNormalisation(tf.Module):
    """Brings each channel to mean 0 and variance 1, over the batch, and adds a learned offset.

    There is no learned scale: the normalisation behind the next layer undoes what it does. Outside
    of training, moving averages take the place of the batch's mean and variance. The operation
    passes over memory once, tf.nn.moments and what follows several times.
    """

    def __init__(self, channels: int, keep: float = 0.9, epsilon: float = 1e-5):
        """Begin with offset 0, mean 0 and variance 1.

        Args:
            channels: how many there are.
            keep: share of a moving average that is kept in every step.
            epsilon: keeps it from dividing by zero.
        """
        super().__init__()
        self.keep, self.epsilon = keep, epsilon
        self.offset = tf.Variable(tf.zeros(channels))
        self.moving_mean = tf.Variable(tf.zeros(channels), trainable=False)
        self.moving_variance = tf.Variable(tf.ones(channels), trainable=False)

    def __call__(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        """Normalise x, (N, H, W, channels) of any float type."""
        x, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=tf.ones_like(self.offset),
            offset=self.offset,
            mean=self.moving_mean,  # these two are not used in training
            variance=self.moving_variance,
            epsilon=self.epsilon,
            is_training=training,
        )
        if training:
            for average, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
                average.assign(self.keep * average + (1 - self.keep) * value)
        return x
