"""Checks the parts of example 05 against example 04; whole runs in test_mnist_cnns.py."""

import re
from pathlib import Path

import numpy as np

from examples import example04_mnist_cnn_layers as example04
from examples import example05_mnist_cnn_nn as example05

tf = example05.tf


def twins(monkeypatch):
    """Both networks with the same weights, and with nothing left to chance in training."""
    for name in ("ANGLE", "ZOOM", "SHIFT"):
        monkeypatch.setattr(example05, name, 0)
    tf.keras.config.set_dtype_policy("float32")
    network, model = example05.Network(tf.float32, seed=3), example04.make_model()
    rng = np.random.default_rng(0)
    convolutions = [x for x in model.layers if isinstance(x, tf.keras.layers.Conv2D)]
    for kernel, biases, convolution in zip(
        network.kernels, network.biases, convolutions, strict=True
    ):
        biases.assign(rng.uniform(-0.1, 0.1, biases.shape))
        convolution.kernel.assign(kernel)
        convolution.bias.assign(biases)
    model.layers[-1].kernel.assign(network.dense)
    model.layers[-1].bias.assign(network.dense_biases)
    return network, model


def test_same_weights_give_the_same_logits(data, monkeypatch):
    network, model = twins(monkeypatch)
    ours = example05.predict(network.infer, data.test_images, 100)
    theirs = model.predict(data.test_images, batch_size=100, verbose=0)
    assert ours.dtype == np.float32
    assert np.std(theirs) > 0.1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_same_start_and_batches_give_the_same_losses_for_ten_steps(data, monkeypatch):
    """To a thousandth: rounding errors of 1e-5 flip a ReLU here and there and grow step by step.

    A mistake is larger: with MEAN_DECAY 0.85 in place of 0.9 the losses differ by a hundredth.
    """
    rate = 3e-4
    network, model = twins(monkeypatch)
    example04.compile_model(model, rate)
    optimizer = example05.Adam(network.trainable_variables)
    train_step = example05.make_train_step(network, optimizer)
    losses, theirs = [], []
    for step in range(10):
        batch = slice(64 * step, 64 * (step + 1))
        images, labels = data.train_images[batch], data.train_labels[batch]
        values = train_step(images, labels, tf.constant(rate), tf.constant([0, step]))
        losses.append(float(values["loss"]))
        theirs.append(float(model.train_on_batch(images, tf.one_hot(labels, 10))[0]))
        model.reset_metrics()
    assert losses[-1] < losses[0] - 0.3  # they have learned something meanwhile
    np.testing.assert_allclose(losses, theirs, rtol=1e-3)


def test_the_table_of_shapes_is_right():
    text = Path(example05.__file__).read_text()
    network = example05.Network(tf.float32, 0)
    for kernel in network.kernels:
        height, width, _, outputs = kernel.shape
        row = rf"convolution  {height} x {width} .* x +{outputs} +{int(tf.size(kernel)):,}\n"
        assert re.search(row, text), row
    assert re.search(rf"dense +10 +{int(tf.size(network.dense)):,}\n", text)
    dense = f"{784 * 12 * 12 * 32:,}".replace(",", "{,}")
    assert rf"784 \cdot 12 \cdot 12 \cdot 32 = {dense}" in text
