"""Checks the parts of example 04: that the table in it is right, that the learning rate rises and
falls, and that the batches are augmented images. Whole runs are checked in test_mnist_cnns.py; that
its network is the one of example 05 is checked with that example.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from datasets import mnist  # noqa: E402
from examples import example04_mnist_cnn_layers as example04  # noqa: E402


@pytest.fixture(scope="module")
def data(sample_dir):
    return mnist.load("sample", sample_dir)


def test_the_table_of_weights_is_right():
    text = Path(example04.__file__).read_text()
    model = example04.make_model()
    for layer in model.layers:
        if layer.name.startswith(("conv", "dense")):
            assert f"{layer.count_params():>11,}\n" in text, layer.name


def test_the_learning_rate_rises_and_falls():
    class Optimizer:
        learning_rate = 0.0

    callback = example04.OneCycle(peak=2.0, steps=11, epochs=4)
    callback.set_model(type("Model", (), {"optimizer": Optimizer()})())
    rates = []
    for epoch in range(4):
        callback.on_epoch_begin(epoch)
        for batch in range(11):
            callback.on_train_batch_begin(batch)
            rates.append(callback.model.optimizer.learning_rate)
    top = int(np.argmax(rates))
    assert 0 < rates[0] < rates[top] <= 2
    assert 0 < rates[-1] < 0.1
    assert np.all(np.diff(rates[: top + 1]) > 0)
    assert np.all(np.diff(rates[top:]) < 0)
    assert top / 44 == pytest.approx(example04.WARM_UP, abs=0.05)


def test_a_batch_is_augmented_images_and_one_hot_labels(data):
    images, labels = next(iter(example04.batches(data.train_images, data.train_labels, 32, 0)))
    assert images.shape == (32, 28, 28, 1)
    assert images.dtype == np.uint8
    assert labels.shape == (32, 10)
    assert np.all(np.sort(labels, axis=1) == np.eye(10)[9])
    originals = {image.tobytes() for image in data.train_images}
    assert not originals & {image.tobytes() for image in images.numpy()}
