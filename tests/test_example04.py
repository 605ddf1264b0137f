"""Checks the parts of example 04; whole runs in test_mnist_cnns.py, its network in example 05's."""

from pathlib import Path

import numpy as np
import pytest

from examples import example04_mnist_cnn_layers as example04
from models import augmentation

tf = example04.tf


def test_the_table_of_weights_is_right():
    text = Path(example04.__file__).read_text()
    for layer in example04.make_model().layers:
        if layer.name.startswith(("conv", "dense")):
            assert f"{layer.count_params():>11,}\n" in text, layer.name


def test_the_learning_rate_rises_and_falls(monkeypatch):
    monkeypatch.setattr(example04, "make_model", lambda: None)
    model = tf.keras.Sequential([tf.keras.layers.Input((1,)), tf.keras.layers.Dense(1)])
    rates = []
    note = tf.keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: rates.append(float(model.optimizer.learning_rate))
    )
    model.compile("sgd", "mse")
    callbacks = [example04.OneCycle(2.0, 40), note]
    model.fit(np.zeros((10, 1)), np.zeros((10, 1)), 1, 4, verbose=0, callbacks=callbacks)
    top = int(np.argmax(rates))
    assert (rates[0], len(rates), max(rates)) == (0, 40, 2)
    assert top / 40 == example04.WARM_UP
    assert np.all(np.diff(rates[: top + 1]) > 0)
    assert np.all(np.diff(rates[top:]) < 0)
    assert rates[-1] < 0.1


def epochs_of(data, *epochs):
    batches = example04.batches(data.train_images, data.train_labels, 32, 0, range(*epochs))
    return [(images.numpy(), labels.numpy()) for images, labels in batches]


def test_an_epoch_is_every_image_once_changed_and_with_its_label(data, monkeypatch):
    originals = {image.tobytes(): i for i, image in enumerate(data.train_images)}
    images, labels = epochs_of(data, 1)[0]
    assert (images.shape, images.dtype, labels.shape) == ((32, 28, 28, 1), np.uint8, (32, 10))
    assert not originals.keys() & {image.tobytes() for image in images}
    for name in ("ANGLE", "ZOOM", "SHIFT"):
        monkeypatch.setattr(example04, name, 0)
    images, labels = map(np.concatenate, zip(*epochs_of(data, 1), strict=True))
    places = [originals[image.tobytes()] for image in images]
    assert len(set(places)) == len(places) == 1280  # seven images are left over
    assert np.array_equal(labels, np.eye(10)[data.train_labels[places]])


def test_what_comes_depends_on_the_seed_and_the_number_of_the_step(data):
    whole, rest = epochs_of(data, 2), epochs_of(data, 1, 2)
    assert len(whole) == 2 * len(rest)
    for (images, labels), (same_images, same_labels) in zip(whole[40:], rest, strict=True):
        assert np.array_equal(images, same_images)
        assert np.array_equal(labels, same_labels)
    assert not np.array_equal(whole[0][1], whole[40][1])  # another order in another epoch


def test_augmentation_changes_little_and_never_the_same(data):
    images = np.repeat(data.test_images[:1], 200, axis=0)
    out = example04.augment(images, [0, 1]).numpy()
    amounts = example04.ANGLE, example04.ZOOM, example04.SHIFT
    imported = augmentation.turn_resize_move(images, [0, 1], *amounts)
    assert np.array_equal(out, imported)  # what example 05 does is what is written out here
    assert np.array_equal(out, example04.augment(images, [0, 1]))
    assert len({image.tobytes() for image in out}) == 200
    ink = out.sum(axis=(1, 2, 3)) / images[0].sum()
    assert 0.65 < ink.min() < ink.max() < 1.5  # none is gone, none blown up
    centres = (out * np.arange(28.0)[:, None, None]).sum(axis=(1, 2, 3)) / out.sum(axis=(1, 2, 3))
    assert 1 < np.ptp(centres) < 6


def test_augmentation_without_amounts_is_the_image(data):
    images = data.test_images[:50]
    assert np.array_equal(augmentation.turn_resize_move(images, [0, 0], 0, 0, 0), images)
    assert not np.array_equal(augmentation.turn_resize_move(images, [0, 0], 0, 0, 2), images)


@pytest.mark.parametrize("nine_views", [example04.nine_views, augmentation.nine_views])
def test_nine_views_are_the_image_moved_by_a_pixel(nine_views):
    images = np.random.default_rng(0).integers(1, 256, (2, 28, 28, 1), np.uint8)
    views = nine_views(images)
    assert np.array_equal(views[4], images)
    for view, (y, x) in zip(views, np.ndindex(3, 3), strict=True):
        moved = np.roll(images, (1 - y, 1 - x), axis=(1, 2))  # what leaves comes in opposite
        for axis, step in ((1, y - 1), (2, x - 1)):
            if step:
                moved.swapaxes(0, axis)[-1 if step > 0 else 0] = 0  # there should be paper
        np.testing.assert_array_equal(view, moved)
