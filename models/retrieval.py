"""The images that are most like another one, by the features that VGG16 makes of them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from models import vgg16
from models.fine_tuning import fixed_outputs


def cosines(
    network: vgg16.VGG16,
    source: dict,
    image: np.ndarray,
    others: Sequence,
    read: Callable[[Sequence], np.ndarray],
    identify: Callable[[Sequence], bytes],
    folder: Path,
) -> np.ndarray:
    """Return how similar an image is to others, -1 to 1: the cosines of their features' angles.

    Args:
        network: the blocks of a VGG16, or a whole one.
        source: names its weights; see `feature_cache.cached_features`, also for the last two.
        image: np.uint8 (H, W, 3).
        others: names of images, of any kind.
        read: turns some of the names into np.uint8 (n, H, W, 3).
        identify: returns what changes with the content of some of them.
        folder: where features are kept, so that they are computed once.

    Returns:
        np.float32 (N,).
    """
    (stored,), _ = fixed_outputs(
        network, source, lambda some: [read(some)], [others], folder, False, identify
    )
    own = network.features(vgg16.preprocess(image[None], network.config.image_size))
    own = tf.math.l2_normalize(tf.cast(own, tf.float32), axis=1)
    rows = tf.math.l2_normalize(stored[:, 0].astype(np.float32), axis=1)
    return tf.linalg.matvec(rows, own[0]).numpy()
