"""What training loops need: loss, accuracy, a learning-rate schedule, steps, predictions, a count.

Examples 03 and 06 write them out and explain them; the examples after them take them from here.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from tqdm import tqdm


def mean_loss(logits: tf.Tensor, labels: tf.Tensor, smoothing: float = 0) -> tf.Tensor:
    """Return the cross-entropy of logits (N, C) and labels int32 (N,), averaged over the batch.

    With label smoothing, the share `smoothing` of each label belongs to all classes alike; example
    05 explains why.
    """
    if smoothing:
        classes = logits.shape[-1]
        targets = tf.one_hot(labels, classes) * (1 - smoothing) + smoothing / classes
        return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


def accuracy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Return the share of rows of logits (N, C) whose largest entry is the label's, int32 (N,)."""
    hits = tf.equal(tf.argmax(logits, axis=-1, output_type=tf.int32), labels)
    return tf.reduce_mean(tf.cast(hits, tf.float32))


def scores(logits: tf.Tensor, labels: tf.Tensor, smoothing: float = 0) -> dict[str, tf.Tensor]:
    """Return loss and accuracy on the validation images, by the names that Run.validate() wants."""
    loss = mean_loss(logits, labels, smoothing)
    return {"validation_loss": loss, "validation_accuracy": accuracy(logits, labels)}


def one_cycle(done: float, warm_up: float) -> float:
    """Return the learning rate's share of its peak when the share `done` of the steps is done.

    It rises from zero to the peak in the share `warm_up` of the steps, then falls to zero (L.
    Smith, N. Topin 2017, https://arxiv.org/abs/1708.07120).
    """
    return min(done / warm_up, (1 - done) / (1 - warm_up))


def adam_steps(
    network: tf.Module, losses: Callable[..., dict[str, tf.Tensor]]
) -> tuple[Callable[..., dict[str, tf.Tensor]], tf.keras.optimizers.Optimizer]:
    """Return a compiled function that takes a step of Adam, and Adam itself, for checkpoints.

    Args:
        network: maps images, in training, to outputs.
        losses: maps the outputs, and all that is to be known of the images, to values by name, of
            which "loss" is to become smaller.

    Returns:
        A function of the learning rate, images, and what is known of them, that returns the values;
        and the optimizer, built.
    """
    weights, optimizer = network.trainable_variables, tf.keras.optimizers.Adam()
    optimizer.build(weights)

    @tf.function
    def train_step(learning_rate: tf.Tensor, images: tf.Tensor, *known: tf.Tensor) -> dict:
        optimizer.learning_rate.assign(learning_rate)
        with tf.GradientTape() as tape:
            values = losses(network(images, training=True), *known)
        optimizer.apply(tape.gradient(values["loss"], weights), weights)
        return values

    return train_step, optimizer


def predict(
    infer: Callable[[np.ndarray], tf.Tensor], images: np.ndarray, batch_size: int = 1000
) -> np.ndarray:
    """Return what a network's function makes of images (N, ...): logits (N, C); none is left out.

    The last batch is as long as it comes out.
    """
    starts = tqdm(range(0, len(images), batch_size), "predicting", leave=False, delay=2)
    return np.concatenate([infer(images[start : start + batch_size]) for start in starts])


def count_parameters(network: tf.Module) -> int:
    """Count the trainable numbers of a network or a Keras model."""
    return sum(int(tf.size(variable)) for variable in network.trainable_variables)
