"""Fine-tuning of VGG16: blocks 1 to 4 and the top layer stay as they are, block 5 learns.

Example 11 explains it. Blocks 1 to 4 are nine tenths of the work; what they make of an image never
changes, so it is computed once and kept on disk.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from models import vgg16
from models.feature_cache import Features, cached_features
from models.training import accuracy, mean_loss

BATCH = 25  # images that go through VGG16 at once: more are no faster on a CPU
TUNED = "conv5"  # the block that learns


def fixed_outputs(
    network: vgg16.VGG16,
    source: dict,
    views: Callable[[Sequence], list[np.ndarray]],
    parts: Sequence[Sequence],
    folder: Path,
    keep_pool4: bool,
    identify: Callable[[Sequence], np.ndarray | bytes] = np.ascontiguousarray,
) -> tuple[list[Features], list[Features]]:
    """Return what the fixed layers make of images, computed once for every view and kept on disk.

    Args:
        network: a VGG16, whose weights below the top layer are those that `source` names.
        source: see `cached_features`; what distinguishes these views from others is in it.
        views: takes some of the images, returns their views: uint8 arrays (n, H, W, 3).
        parts: the images to train on, to choose by, and to test on.
        folder: see `cached_features`.
        keep_pool4: whether fine-tuning will need block 4's outputs.
        identify: see `cached_features`.

    Returns:
        For each part the features, float16 (N, views, F), and block 4's outputs, pooled, float16
        (N, views, h, w, C), or nothing.
    """
    size = network.config.image_size

    @tf.function(reduce_retracing=True)
    def lower(images: tf.Tensor) -> tf.Tensor:
        return tf.cast(network.lower_blocks(vgg16.preprocess(images, size)), tf.float16)

    @tf.function(reduce_retracing=True)
    def upper(pool4: tf.Tensor) -> tf.Tensor:
        pool4 = tf.cast(pool4, network.dtype)
        return network.hidden(pool4, network.block(5, pool4))

    def pool4_of(images: Sequence) -> np.ndarray:
        return np.stack([lower(view) for view in views(images)], axis=1)

    def features_of(pool4: np.ndarray) -> np.ndarray:
        return np.stack([upper(pool4[:, view]) for view in range(pool4.shape[1])], axis=1)

    def keep(layer: str, extract: Callable, images: Any, *by: Callable) -> Features:
        origin, title = source | {"layer": layer}, f"   VGG16 up to {layer}"
        if layer == "pool4":
            origin.pop("pooling", None)  # it comes later
        return cached_features(folder, origin, extract, images, BATCH, title, *by)

    if not keep_pool4:

        def extract(images: Sequence) -> np.ndarray:
            return features_of(pool4_of(images))

        return [keep("features", extract, part, identify) for part in parts], []
    pool4 = [keep("pool4", pool4_of, part, identify) for part in parts]
    return [keep("features from pool4", features_of, part) for part in pool4], pool4


class FineTuning:
    """A small learning rate turns what the last block has learned to see to a new task.

    Adam's rate falls from `learning_rate` to zero along a line, in so many `steps`; the gradients
    are those of the mean cross-entropy. The top layer, which has been trained to its end, stays:
    its inputs are tens, so that a step which is small for a kernel is none for it.
    `changing` is what a run is to save: all that differs from the published network.
    """

    def __init__(self, network: vgg16.VGG16, learning_rate: float, steps: int):
        rate = tf.keras.optimizers.schedules.PolynomialDecay(learning_rate, steps, 0.0)
        self.network, self.weights = network, list(network.weights_of([TUNED]).values())
        self.optimizer = tf.keras.optimizers.Adam(rate)
        self.optimizer.build(self.weights)
        changed = network.weights_of([TUNED, "fc8"])
        self.changing = {"changed": changed, "optimizer": self.optimizer}

    @tf.function(reduce_retracing=True)
    def train_step(self, pool4: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        """Take a step on block 4's outputs (n, h, w, C); return mean loss and accuracy."""
        with tf.GradientTape() as tape:
            _, logits = self.network.upper_layers(pool4)
            loss = mean_loss(logits, labels)
        gradients = tape.gradient(loss, self.weights)
        self.optimizer.apply_gradients(zip(gradients, self.weights, strict=True))
        return {"loss": loss, "accuracy": accuracy(logits, labels)}

    @tf.function(reduce_retracing=True)
    def infer(self, pool4: tf.Tensor) -> tf.Tensor:
        """Return the mean logits (n, classes) of all views, from (n, views, h, w, C)."""
        views = tf.unstack(pool4, axis=1)
        return tf.add_n([self.network.upper_layers(view)[1] for view in views]) / len(views)
