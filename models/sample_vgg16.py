"""Sample weights: a small VGG16, trained on the spot, as a checkpoint like that of the real one.

The real weights took weeks on ImageNet and fill half a gigabyte. These have an eighth of the width,
see 64 x 64 pixels and are trained for half a minute on whatever images the caller has, so
that transfer learning can be tried offline. They are sample data and called so.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import filelock
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from models import WeightsError, vgg16, vgg16_files

VERSION = 1  # to be raised when the training, or the images that it is given, change
IMAGES, SEED = 6000, 7  # drawn to train on
IMAGE_SIZE = 64  # pixels, 224 in the real network
STEPS = 600
BATCH_SIZE = 64
LEARNING_RATE = 1e-3
SCALE = 64  # brings pixels to about -2 ... 2 while training; moved into the first kernel at the end


def config(classes: int) -> vgg16.Config:
    """Return the sizes of the small network."""
    return vgg16.Config(classes, width=8, dense=512, image_size=IMAGE_SIZE)


def train(images: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """Train the small VGG16 from nothing, with Adam and dropout.

    Args:
        images: uint8 (N, 64, 64, 3), N at least 64.
        labels: integers (N,).
        classes: how many.

    Returns:
        float32 arrays by name, as `vgg16.VGG16` takes them.
    """
    tf.random.set_seed(0)
    rng = np.random.default_rng(0)
    network = vgg16.VGG16(vgg16.random_weights(config(classes), seed=0), config(classes))
    variables = network.trainable_variables
    optimizer = tf.keras.optimizers.Adam()
    optimizer.build(variables)

    @tf.function
    def train_step(images: tf.Tensor, labels: tf.Tensor, learning_rate: tf.Tensor) -> None:
        optimizer.learning_rate.assign(learning_rate)
        with tf.GradientTape() as tape:
            logits = network(vgg16.preprocess(images, IMAGE_SIZE) / SCALE, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses)
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    for step in tqdm(range(STEPS), "training the sample VGG16", leave=False):
        batch = rng.choice(len(images), BATCH_SIZE, replace=False)
        rate = LEARNING_RATE * min(1, 2 * (1 - step / STEPS))
        train_step(images[batch], labels[batch], tf.constant(rate))
    weights = {name: variable.numpy() for name, variable in network.weights.items()}
    weights["vgg_16/conv1/conv1_1/weights"] /= SCALE
    return weights


def checkpoint(
    folder: Path,
    class_names: Sequence[str],
    draw: Callable[[Sequence[str], int, int, int], tuple[np.ndarray, np.ndarray]],
) -> Path:
    """Return the small VGG16's checkpoint, in format V1, trained first where there is none.

    Args:
        folder: where to keep it, in a folder below that is named by the settings.
        class_names: a name for each label.
        draw: takes class names, the number of images, their height and width and a seed; returns
            images, uint8 (N, size, size, 3), and labels, integers (N,).

    Returns:
        The path of the checkpoint.

    Raises:
        WeightsError: the checkpoint cannot be written.
    """
    settings = VERSION, class_names, IMAGES, SEED, IMAGE_SIZE, STEPS, BATCH_SIZE, LEARNING_RATE
    name = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]
    path = folder / name / "vgg_16.ckpt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_suffix(".lock")):  # two processes need it at once
            if not path.is_file():
                images, labels = draw(class_names, IMAGES, IMAGE_SIZE, SEED)
                part = path.with_suffix(".part")
                vgg16_files.write_v1_checkpoint(part, train(images, labels, len(class_names)))
                os.replace(part, path)
    except OSError as error:
        raise WeightsError(f"cannot write {path}: {error.strerror}") from error
    except tf.errors.OpError as error:
        raise WeightsError(f"cannot write {path}: {error.message}") from error
    return path
