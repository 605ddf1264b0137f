"""Note 10: features of every layer, the cache, preparation of images; what was measured."""

import shutil
import subprocess
import sys

import notes
import numpy as np
import programs
import pytest
import tensorflow as tf
from sklearn.linear_model import LogisticRegression

from models import vgg16

figures = programs.figures("transfer")
SMALL = vgg16.Config(classes=3, width=2, dense=8, image_size=64)


@pytest.fixture(scope="module")
def small_network():
    return vgg16.VGG16(vgg16.random_weights(SMALL, seed=0), SMALL)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)


def test_transfer_wins_with_few_images_and_loses_with_many():
    table = notes.numbers("transfer_sizes")
    transfer, scratch, untrained = np.array(list(table.values())).T
    assert list(table) == [f"{size:,}" for size in figures.SIZES]
    assert transfer[0] > 2 * scratch[0]
    assert scratch[0] < 20  # ten images: little better than guessing
    assert (transfer[:3] > scratch[:3]).all() and (transfer[4:] < scratch[4:]).all()
    assert (transfer > 2 * untrained).all()
    assert abs(transfer[3] - scratch[3]) < 5  # hundreds of images: there they cross


def test_the_best_layer_depends_on_the_number_of_images():
    table = notes.numbers("transfer_layers")
    assert list(table) == list(figures.LAYERS)
    ten, hundred, thousand, untrained = np.array(list(table.values())).T
    assert set(np.argsort(ten)[-2:]) == {6, 7}  # fc6 and fc7
    assert set(np.argsort(hundred)[-3:]) == {5, 6, 7}
    assert figures.LAYERS[thousand.argmax()] == "block 4"
    assert untrained.max() < thousand[2]
    assert figures.LAYERS[untrained.argmax()] == "block 3"  # and less from there on
    assert np.all(np.diff(untrained[3:]) < 0)


def test_a_wrong_scale_leaves_a_guess():
    table = notes.numbers("transfer_preprocessing")
    trained, colours, no_mean, unit = (value for (value,) in table.values())
    assert trained > 85
    assert no_mean < colours < trained < colours + 3
    assert unit <= 100 / 20 + 3  # of 20 kinds


@pytest.mark.slow  # two minutes; on another processor the digits may differ a little
def test_all_is_measured_again(tmp_path, monkeypatch):
    shutil.copytree(programs.ROOT / "docs" / "notes", tmp_path / "notes")
    command = [sys.executable, programs.ROOT / "docs/figures/transfer.py", "--folder", tmp_path]
    subprocess.run(command, check=True, capture_output=True)
    names = ("transfer_sizes", "transfer_layers", "transfer_preprocessing")
    kept = [notes.numbers(name) for name in names]
    monkeypatch.setattr(notes, "NOTES", tmp_path / "notes")
    for name, expected in zip(names, kept, strict=True):
        found = notes.numbers(name)
        assert list(found) == list(expected)
        assert np.allclose(list(found.values()), list(expected.values()), atol=4), name


def test_layer_outputs_are_those_of_the_network(small_network, images):
    found = figures.layer_outputs(small_network, images)
    prepared = vgg16.preprocess(images, SMALL.image_size)
    assert list(found) == list(figures.LAYERS)
    block4 = small_network.lower_blocks(prepared).numpy().reshape(len(images), -1)
    assert np.allclose(found["block 4"], block4, rtol=1e-4, atol=1e-4)
    assert np.allclose(found["fc7"], small_network.features(prepared), rtol=1e-4, atol=1e-4)


def test_subsets_are_balanced_and_differ():
    labels = np.random.default_rng(0).permutation(np.arange(500) % 10)
    first, second = (figures.subset(labels, 100, seed) for seed in (0, 1))
    assert np.bincount(labels[first]).tolist() == [10] * 10
    assert len(set(first)) == 100
    assert set(first) != set(second)


def test_axes_along_the_training_features_change_no_answer():
    """Fewer unknowns, the same regression: against one that is fitted without that."""
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    features = rng.normal(size=(40, 200)) + 0.3 * labels[:, None]
    train, test = (features[:30], labels[:30]), (features[30:], labels[30:])
    mean, scale = train[0].mean(axis=0), (train[0].std(axis=0) + 1e-6) * np.sqrt(200)
    plain = LogisticRegression(C=figures.INVERSE_PENALTY, max_iter=2000, tol=1e-8)
    plain.fit((train[0] - mean) / scale, train[1])
    expected = plain.score((test[0] - mean) / scale, test[1])
    assert figures.linear_accuracy(train, test) == expected


def test_what_example_11_stores_is_what_the_table_of_the_cache_counts(small_network, images):
    """float16, so many bytes an image and for both views: as the real VGG16, a smaller one."""
    table, config = notes.rows(notes.generated("transfer_cache")), vgg16.Config()
    for layer, values in (("pool4", (config.image_size // 16) ** 2 * 512), ("fc7", config.dense)):
        part = {"pool4": small_network.lower_blocks, "fc7": small_network.features}[layer]
        shape = (4, 4, 8 * SMALL.width) if layer == "pool4" else (SMALL.dense,)
        assert tuple(part(vgg16.preprocess(images, 64)).shape[1:]) == shape
        (row,) = (row for row in table if row[0] == layer)
        assert row[2:4] == [f"{2 * values:,}", f"{4 * values:,}"]
    (pool4,) = (row for row in table if row[0] == "pool4")
    assert float(pool4[-1].split()[0]) > 90  # blocks 1 to 4 are nine tenths of the work


def test_an_epoch_on_stored_features_is_a_small_part_of_one_through_the_network():
    found = figures.benchmark()
    for dtype in ("float32", "bfloat16"):
        parts = found["images"] / found[dtype] / found["seconds"]
        assert parts == pytest.approx(found[f"{dtype}_ratio"], rel=0.15)


def test_preparation_against_keras(images):
    ours = vgg16.preprocess(images, 32).numpy()
    keras = tf.keras.applications.vgg16.preprocess_input(images.astype(np.float32))
    assert np.allclose(figures.swapped(images, 32), keras, atol=0.01)
    assert np.allclose(ours[..., ::-1], keras, atol=0.01)
    assert np.allclose(figures.no_mean(images, 32), images, atol=1e-3)
    assert np.allclose(figures.unit_scale(images, 32), images / 255, atol=1e-5)
