"""Checks example 06: network, steps and augmentation against Keras and NumPy; runs that stopped."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from programs import (
    arguments,
    check_ctrl_c,
    check_stopped,
    checkpoint_folder,
    error_of,
    final_state,
    start_to_be_killed,
    without_pictures,
)

from datasets import cifar10
from examples import example06_cifar10_cnn_nn as example06
from examples.helpers import report
from models import training

tf = report.tf


@pytest.fixture(scope="module")
def data(sample_dir):
    return cifar10.load("sample", sample_dir)


@pytest.fixture
def network():
    """A small network, in which nothing is zero or one, so that a mistake there shows."""
    network, rng = example06.Network((4, 8, 8), tf.float32, seed=3), np.random.default_rng(0)
    for norm in network.norms:
        for values in (norm.scale, norm.moving_variance):
            values.assign(rng.uniform(0.5, 2, values.shape))
        for values in (norm.offset, norm.moving_mean):
            values.assign(rng.normal(0, 0.5, values.shape))
    for values in (network.head, network.bias):
        values.assign(rng.normal(0, 0.5, values.shape))
    return network


def keras_twin(network):
    """Return a Keras model of the same shape with the same weights."""
    layers = tf.keras.layers
    model = tf.keras.Sequential([layers.Input((32, 32, 3)), layers.Rescaling(1 / 64, -120 / 64)])
    weights = []
    for i, (kernel, norm) in enumerate(zip(network.kernels, network.norms, strict=True)):
        model.add(layers.Conv2D(kernel.shape[-1], 3, padding="same", use_bias=False))
        if i % 2 == 0:
            model.add(layers.MaxPool2D())
        model.add(layers.BatchNormalization(momentum=example06.KEEP, epsilon=example06.EPSILON))
        model.add(layers.ReLU())
        weights += [kernel, norm.scale, norm.offset, norm.moving_mean, norm.moving_variance]
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(10))
    model.set_weights([weight.numpy() for weight in (*weights, network.head, network.bias)])
    return model


def test_bfloat16_is_near_float32(network, data):
    images = data.test_images[:16]
    expected = network(images, training=True).numpy()
    network.dtype = tf.bfloat16
    logits = network(images, training=True)
    assert logits.dtype == tf.float32
    assert np.abs(logits - expected).max() < 0.05 * np.abs(expected).max()


def test_five_training_steps_equal_keras(network, data, monkeypatch):
    """Batch normalisation and its averages, the loss, and SGD with Nesterov's momentum."""
    monkeypatch.setattr(example06, "WEIGHT_DECAY", 0.1)  # so that it shows
    twin, rate = keras_twin(network), 0.05
    sgd = tf.keras.optimizers.SGD(rate, momentum=example06.MOMENTUM, nesterov=True)
    cross_entropy = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    train_step = example06.make_train_step(network, example06.SGD(network.trainable_variables))
    weights = [variable.value for variable in twin.trainable_variables]
    for step in range(5):
        images = data.train_images[16 * step : 16 * step + 16]
        labels = data.train_labels[16 * step : 16 * step + 16]
        found = train_step(images, labels, tf.constant(rate))
        with tf.GradientTape() as tape:
            logits = twin(images, training=True)
            loss = cross_entropy(labels, logits)
            decay = sum(tf.nn.l2_loss(weight) for weight in weights)
            total = loss + example06.WEIGHT_DECAY * decay
        sgd.apply(tape.gradient(total, weights), twin.trainable_variables)
        np.testing.assert_allclose(found["loss"], loss, rtol=1e-4)
        assert found["accuracy"] == np.mean(np.argmax(logits, axis=1) == labels)
    for ours, theirs in zip(keras_twin(network).weights, twin.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
    images = data.test_images[:16]  # now with the moving averages, whatever the batch
    expected = keras_twin(network)(images, training=False)
    for size in (16, 5, 1):
        logits = training.predict(network.infer, images, batch_size=size)
        np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)


def test_augmentation_makes_every_shift_of_image_and_mirror_image():
    rng = np.random.default_rng(5)
    image = rng.integers(0, 256, (32, 32, 3), np.uint8)
    results = example06.augment(np.repeat(image[None], 4000, axis=0), rng)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), "reflect")
    shifted = [padded[y : y + 32, x : x + 32] for y in range(5) for x in range(5)]
    expected = [picture.tobytes() for s in shifted for picture in (s, np.fliplr(s))]
    found = np.bincount([expected.index(result.tobytes()) for result in results], minlength=50)
    assert found.min() > 40  # 80 of each are expected


TINY = "--train-images 400 --batch-size 50 --epochs 3"
STEPS = 8  # in an epoch
SMALLER = "from examples import example06_cifar10_cnn_nn as e; e.CHANNELS = (4, 4, 8)"


def tiny(sample_dir, models_dir, *more):
    return arguments(sample_dir, models_dir, *TINY.split(), *more)


@pytest.fixture(scope="module")
def undisturbed(data, sample_dir, tmp_path_factory):
    """Return the models folder and the final state of a run of a smaller network."""
    models_dir = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(example06, "CHANNELS", (4, 4, 8))
        without_pictures(example06.main, *tiny(sample_dir, models_dir))
        yield models_dir, final_state(models_dir)


@pytest.mark.parametrize(
    ("moment", "when"), [("Ctrl-C", STEPS + 3), ("in step", 2 * STEPS + 2), ("while saving", 2)]
)
def test_a_run_that_was_stopped_ends_with_the_same_weights(
    moment, when, undisturbed, sample_dir, tmp_path, capsys
):
    argv = tiny(sample_dir, tmp_path)
    if moment == "Ctrl-C":
        check_ctrl_c(when, example06.main, capsys, *argv)
    else:
        check_stopped(start_to_be_killed(example06, moment, when, *argv, before=SMALLER))
    without_pictures(example06.main, *argv)
    assert len(final_state(tmp_path)[0]) > 30
    assert final_state(tmp_path) == undisturbed[1]


DAMAGES = {
    "truncated": ("ckpt-*.data*", lambda path: os.truncate(path, 100)),
    "overwritten": ("ckpt-*.data*", lambda path: path.write_bytes(bytes(path.stat().st_size))),
    "index truncated": ("ckpt-*.index", lambda path: os.truncate(path, 100)),
    "removed": ("ckpt-*", Path.unlink),
    "list emptied": ("checkpoint", lambda path: path.write_text("")),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_one_line_and_can_be_given_up(
    name, undisturbed, sample_dir, tmp_path, capsys
):
    models_dir, state = undisturbed
    shutil.copytree(models_dir, tmp_path, dirs_exist_ok=True)
    pattern, damage = DAMAGES[name]
    for path in checkpoint_folder(tmp_path).glob(pattern):
        damage(path)
    error = error_of(example06.main, capsys, *tiny(sample_dir, tmp_path))
    assert checkpoint_folder(tmp_path).name in error
    assert "--restart" in error
    if name == "truncated":
        without_pictures(example06.main, *tiny(sample_dir, tmp_path, "--restart"))
        assert final_state(tmp_path) == state


def test_a_full_disk_while_saving(sample_dir, tmp_path, capsys, monkeypatch):
    def save(manager):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device\nmore")

    monkeypatch.setattr(tf.train.CheckpointManager, "save", save)
    error = error_of(example06.main, capsys, *tiny(sample_dir, tmp_path))
    assert "No space left on device" in error
    assert str(tmp_path) in error
