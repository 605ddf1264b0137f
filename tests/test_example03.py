"""Checks the parts of example 03 against NumPy and Keras; whole runs in test_mnist_cnns.py."""

import argparse

import numpy as np
import pytest

from examples import example03_mnist_mlp as example03
from examples.helpers.run import Run
from models import training

tf = example03.tf


def network(hidden=(20, 30), dtype=tf.float32):
    """A small network in which nothing is zero, so that a mistake anywhere shows."""
    network = example03.Network(hidden, dtype, seed=1)
    rng = np.random.default_rng(2)
    for variable in network.variables:
        variable.assign_add(rng.normal(0, 0.1, variable.shape))
    return network


def keras_twin(network):
    """A Keras model of the same shape with the same weights; it takes scaled pixels."""
    *hidden, output = network.kernels
    layers = [tf.keras.layers.Input((28, 28, 1)), tf.keras.layers.Flatten()]
    layers += [tf.keras.layers.Dense(kernel.shape[1], activation="relu") for kernel in hidden]
    model = tf.keras.Sequential([*layers, tf.keras.layers.Dense(output.shape[1])])
    pairs = zip(network.kernels, network.biases, strict=True)
    model.set_weights([variable.numpy() for pair in pairs for variable in pair])
    return model


def scaled(images):
    return (images.astype(np.float32) - example03.PIXEL_MEAN) / example03.PIXEL_DEVIATION


def make_train_step(network):
    velocities = [tf.Variable(tf.zeros_like(w)) for w in network.trainable_variables]
    return example03.make_train_step(network, velocities)


@pytest.mark.parametrize("hidden", [(), (20,), (20, 30)])
def test_logits_equal_those_of_keras(hidden, data):
    model, images = network(hidden), data.test_images[:9]
    logits = model(images)
    assert (logits.shape, logits.dtype) == ((9, 10), tf.float32)
    np.testing.assert_allclose(logits, keras_twin(model)(scaled(images)), rtol=1e-4, atol=1e-4)


def test_bfloat16_is_near_float32(data):
    images = data.test_images[:9]
    logits = network(dtype=tf.bfloat16)(images).numpy()
    assert np.abs(logits - network()(images)).max() < 0.05 * np.abs(logits).max()


def test_pixels_are_scaled_to_mean_0_and_variance_1(data):
    pixels = scaled(data.train_images)  # the sample data is not MNIST, but near it
    assert abs(pixels.mean()) < 0.3
    assert 0.7 < pixels.std() < 1.3


def test_what_is_written_out_here_is_what_later_examples_import():
    rng = np.random.default_rng(3)
    logits = tf.constant(rng.normal(0, 5, (70, 10)), tf.float32)
    labels = tf.constant(rng.integers(0, 10, 70), tf.int32)
    for name in ("mean_loss", "accuracy"):
        ours, theirs = (getattr(module, name) for module in (example03, training))
        np.testing.assert_allclose(ours(logits, labels), theirs(logits, labels), rtol=1e-5)
    for done in np.linspace(0, 1, 11):
        assert example03.one_cycle(done, 0.3) == training.one_cycle(done, 0.3)
    keras = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    np.testing.assert_allclose(
        example03.mean_loss(logits, labels), keras(labels, logits), rtol=1e-5
    )
    huge = tf.constant([[1e4, -1e4, 0.0]])
    assert float(example03.mean_loss(huge, tf.constant([1]))) == pytest.approx(2e4)
    right = np.mean(np.argmax(logits, axis=1) == labels)
    assert float(example03.accuracy(logits, labels)) == pytest.approx(right)


def test_no_opinion_at_the_start(data):
    logits = example03.Network((20,), tf.float32, 0)(data.test_images)
    loss = example03.mean_loss(logits, tf.constant(data.test_labels))
    assert float(loss) == pytest.approx(np.log(10))


def test_steps_equal_those_of_keras(data):
    model = network()
    twin, train_step = keras_twin(model), make_train_step(model)
    optimizer = tf.keras.optimizers.SGD(
        0.05, example03.MOMENTUM, nesterov=True, global_clipnorm=example03.LONGEST_GRADIENT
    )
    cross_entropy = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for step in range(5):
        batch = slice(step * 16, step * 16 + 16)
        images, labels = data.train_images[batch], data.train_labels[batch]
        values = train_step(images, labels, tf.constant(0.05))
        with tf.GradientTape() as tape:
            logits = twin(scaled(images))
            expected = cross_entropy(labels, logits)
        variables = twin.trainable_variables
        optimizer.apply(tape.gradient(expected, [v.value for v in variables]), variables)
        np.testing.assert_allclose(values["loss"], expected, rtol=1e-4)
        assert values["accuracy"] == np.mean(np.argmax(logits, axis=1) == labels)
    for kernel, layer in zip(model.kernels, twin.layers[1:], strict=True):
        np.testing.assert_allclose(kernel, layer.kernel, rtol=1e-3, atol=1e-5)


def test_images_are_moved_in_all_directions_and_paper_comes_in():
    image = np.random.default_rng(4).integers(1, 256, (1, 28, 28, 1), np.uint8)
    moved = example03.move(np.repeat(image, 200, axis=0), 1, np.random.default_rng(0))
    assert (moved.shape, moved.dtype) == ((200, 28, 28, 1), np.uint8)
    padded = np.pad(image[0], ((1, 1), (1, 1), (0, 0)))
    views = {padded[y : y + 28, x : x + 28].tobytes() for y, x in np.ndindex(3, 3)}
    assert {image.tobytes() for image in moved} == views
    np.testing.assert_array_equal(example03.move(image, 0, np.random.default_rng(0)), image)


def test_every_image_is_seen_once_an_epoch_and_moved_only_where_asked(data, monkeypatch, tmp_path):
    seen = []

    def make_train_step(network, velocities):
        return lambda images, labels, rate: (
            seen.append((images, labels)) or {"loss": 0, "accuracy": 0}
        )

    monkeypatch.setattr(example03, "make_train_step", make_train_step)
    originals = data.train_images[:1000].reshape(1000, -1)
    ink = originals.sum(axis=1)  # moved by a pixel, no ink of these digits is lost
    names = {"epochs": 1, "batch_size": 40, "learning_rate": 0.1, "seed": 0, "restart": False}
    args = argparse.Namespace(**names, train_images=1000)
    for shift, kept in ((0, 1.0), (1, 1 / 9)):
        seen.clear()
        run = example03.train(network((4,)), shift, data, {}, tmp_path / str(shift), args)
        assert isinstance(run, Run)
        images, labels = (np.concatenate(parts) for parts in zip(*seen, strict=True))
        assert sorted(images.sum(axis=(1, 2, 3))) == sorted(ink)
        assert np.array_equal(np.bincount(labels), np.bincount(data.train_labels[:1000]))
        known = {original.tobytes() for original in originals}
        share = np.mean([image.tobytes() in known for image in images])
        assert share == pytest.approx(kept, abs=0.04)


@pytest.mark.parametrize("wrong", ["--hidden 0", "--hidden", "--image"])
def test_wrong_flags_are_status_2(wrong, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        example03.main(["--models-dir", str(tmp_path), *wrong.split()])
    assert error.value.code == 2
    assert wrong.split()[0] in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
