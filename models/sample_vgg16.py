"""Sample weights: a small VGG16, trained on the spot, in the archive that the real one comes in.

The real weights took weeks on ImageNet and fill half a gigabyte. These have an eighth of the width,
see 64 x 64 pixels and are trained for half a minute on whatever images the caller has, so
that transfer learning can be tried offline. They are sample data and called so.
"""

import functools
import hashlib
import inspect
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import filelock
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from models import vgg16

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
    def train_step(images, labels, learning_rate):
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


def make_archive(
    folder: Path,
    archive_name: str,
    checkpoint_name: str,
    class_index_name: str,
    class_names: Sequence[str],
    draw: functools.partial[tuple[np.ndarray, np.ndarray]],
) -> Path:
    """Make the archive with the checkpoint, and the names of its classes, unless they are there.

    Args:
        folder: where to keep them; a folder below it is named after all that they depend on, so
            that another network, or other images, never meet old weights.
        archive_name: of the tar.gz file.
        checkpoint_name: of the checkpoint in it, of TensorFlow's format V1.
        class_index_name: of the JSON file beside it, in the form of Keras' imagenet_class_index.
        class_names: a name for each label.
        draw: returns training images, uint8 (N, 64, 64, 3), and labels, integers (N,).

    Returns:
        The path of the archive.
    """
    scripts = (__file__, vgg16.__file__, inspect.getfile(draw.func))
    texts = [Path(script).read_text() for script in scripts]
    source = repr((class_names, draw.args, draw.keywords, *texts))
    folder = folder / hashlib.sha256(source.encode()).hexdigest()[:8]
    archive = folder / archive_name
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / "lock"):
        if archive.is_file():
            return archive
        images, labels = draw()
        checkpoint = folder / f"{checkpoint_name}.part"
        vgg16.write_v1_checkpoint(checkpoint, train(images, labels, len(class_names)))
        index = {number: [f"sample{number:05}", name] for number, name in enumerate(class_names)}
        (folder / class_index_name).write_text(json.dumps(index))
        part = folder / f"{archive_name}.part"
        with tarfile.open(part, "w:gz", compresslevel=1) as tar:
            tar.add(checkpoint, checkpoint_name)
        checkpoint.unlink()
        os.replace(part, archive)  # last: where there is an archive, all of it is there
    return archive
