"""Checks example 13: each format to the bit, memory, loading by name, damage, stopped runs."""

import signal
import weakref

import h5py
import numpy as np
import pytest
from programs import arguments, error_of, run, start, stop_when
from test_vgg16 import BIASES, SMALL, weights_with_biases, write_keras

from datasets import pretrained
from examples import example13_npz_weights_vgg16 as example13
from examples.helpers.report import tf
from models import WeightsError, sample_vgg16, vgg16, vgg16_files


@pytest.fixture(scope="module")
def weights():
    return dict(sorted(weights_with_biases(SMALL).items()))


@pytest.fixture
def npz(weights, tmp_path):
    return example13.write_npz(tmp_path / "w.npz", weights.items())


@pytest.fixture(scope="module")
def finished(sample_dir, tmp_path_factory):
    """One whole run: its folder of results, metrics and output."""
    models_dir = tmp_path_factory.mktemp("models")
    return models_dir / example13.NAME, *run(example13.main, *arguments(sample_dir, models_dir))


def assert_same(found, expected):
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes(), name


def places_in(path):
    with h5py.File(path) as file:
        found = {}
        file.visititems(lambda name, item: found.update({name: item}) if item.name else None)
        return {name: item[()] for name, item in found.items() if isinstance(item, h5py.Dataset)}


def formats(folder):
    """What writes weights to each of the formats, and what reads them."""
    return {
        "npz": (
            lambda arrays: example13.write_npz(folder / "w.npz", arrays),
            lambda: dict(example13.read_npz(folder / "w.npz")),
        ),
        "checkpoint": (
            lambda arrays: example13.write_checkpoint(folder / "w", arrays),
            lambda: dict(vgg16_files.each_array(folder / "w" / "vgg_16.ckpt")),
        ),
        "Keras": (
            lambda arrays: example13.write_keras(folder / "w.weights.h5", arrays, SMALL),
            lambda: places_in(folder / "w.weights.h5"),
        ),
    }


each_format = pytest.mark.parametrize("form", ["npz", "checkpoint", "Keras"])


def test_a_whole_run(finished, sample_dir):
    folder, metrics, output = finished
    assert metrics["test_accuracy"] > 0.98  # of the answers are as in float32
    assert 0 < metrics["largest_change_of_an_output"] < 0.1
    assert metrics["largest_difference_to_keras"] < 1e-4
    sizes = [(folder / name).stat().st_size for name in ("vgg_16_float16.npz", "vgg_16.npz")]
    assert sizes[0] == pytest.approx(sizes[1] / 2, rel=0.01)
    assert "   all: 32 loaded\n   all but the top: 30 loaded\n      unexpected: " in output
    path = pretrained.find_vgg16("full", "sample", sample_dir, sample_vgg16.checkpoint)
    for written in ("vgg_16.npz", "checkpoint/vgg_16.ckpt", "vgg_16.weights.h5"):
        read = vgg16_files.read(folder / written)  # as example 07 does
        assert_same(read, vgg16_files.read(path, sample_vgg16.config(20)))


def test_the_blocks_alone(weights, tmp_path):
    """From Keras' file, in a folder of an odd name; features are alike."""
    folder = tmp_path / "{1} %s ä"
    blocks = {name: array for name, array in weights.items() if "/fc" not in name}
    write_keras(tmp_path / "notop.h5", blocks)
    argv = "--weights", tmp_path / "notop.h5", "--models-dir", folder
    metrics, output = run(example13.main, *argv)
    assert metrics["test_accuracy"] > 0.9  # of the strongest features are the same
    assert 0 < metrics["largest_change_of_an_output"] < 0.01
    assert metrics["largest_difference_to_keras"] < 1e-4
    assert metrics["parameters"] == sum(array.size for array in blocks.values())
    assert "   all: 26 loaded\n" in output
    for written in ("vgg_16.npz", "checkpoint/vgg_16.ckpt", "vgg_16.weights.h5"):
        assert_same(vgg16_files.read(folder / example13.NAME / written), blocks)


def test_a_run_that_is_killed_harms_nothing(finished, sample_dir, tmp_path):
    folder, metrics, _ = finished
    argv = arguments(sample_dir, tmp_path)
    process = start(example13.__file__, *argv)
    stop_when(process, lambda: list(tmp_path.glob("*/vgg_16.*")), signal.SIGKILL)
    again, _ = run(example13.main, *argv)
    for name in ("vgg_16.npz", "vgg_16_float16.npz"):
        assert (tmp_path / folder.name / name).read_bytes() == (folder / name).read_bytes()
    assert again["largest_difference_to_keras"] == metrics["largest_difference_to_keras"]
    assert not list(tmp_path.glob("**/*.part*"))


@pytest.mark.parametrize("form", ["npz", "checkpoint"])
def test_each_format_gives_back_every_bit(weights, tmp_path, form):
    special = weights | {BIASES: np.float32([0, -0.0, 1e-45, 3.4e38, np.pi, -1, 2, 3])}
    write, read = formats(tmp_path)[form]
    write(special.items())
    assert_same(read(), special)
    assert len(list(tmp_path.iterdir())) == 1


@each_format
def test_one_array_at_a_time(weights, tmp_path, form):
    """At most two are alive: the one that is written, and a moment later the next."""
    alive, most = weakref.WeakSet(), []

    class Array(np.ndarray):  # plain ones cannot be referred to weakly and put into sets
        __hash__ = object.__hash__

    def arrays():
        for name in weights:
            array = weights[name].copy().view(Array)
            alive.add(array)
            most.append(len(alive))
            yield name, array
            del array

    formats(tmp_path)[form][0](arrays())
    assert len(most) == len(weights)
    assert max(most) <= 2


@each_format
def test_what_is_interrupted_leaves_the_old_file(weights, tmp_path, form):
    write, read = formats(tmp_path)[form]
    write(weights.items())
    before = read()

    def interrupted():
        for name in weights:
            if name == BIASES:
                raise KeyboardInterrupt
            yield name, weights[name] + 1

    with pytest.raises(KeyboardInterrupt):
        write(interrupted())
    assert_same(read(), before)
    write(weights.items())  # what was left behind is in nobody's way
    assert len(list(tmp_path.iterdir())) == 1


def test_a_disk_that_lies(weights, tmp_path, monkeypatch):
    vgg16_files.write_v1_checkpoint(tmp_path / "vgg_16.ckpt", weights)
    read = example13.read_npz

    def wrong(path):
        for name, array in read(path):
            yield name, array + np.float32(name == BIASES)

    monkeypatch.setattr(example13, "read_npz", wrong)
    with pytest.raises(WeightsError, match="is the disk sound"):
        example13.convert(tmp_path / "vgg_16.ckpt", tmp_path)


def test_the_report(weights, npz, capsys):
    kernel, biases = "vgg_16/conv1/conv1_1/weights", "vgg_16/conv1/conv1_1/biases"
    variables = {
        kernel: tf.Variable(tf.zeros(SMALL.shapes()[kernel])),
        biases: tf.Variable([5.0]),
        "other": tf.Variable([6.0]),
    }
    found = example13.load_by_name("some", variables, example13.read_npz(npz))
    assert found == {
        "loaded": [kernel],
        "missing": ["other"],
        "of another shape": [biases],
        "unexpected": sorted(set(weights) - {kernel, biases}),
    }
    assert "some: 1 loaded" in capsys.readouterr().out
    np.testing.assert_array_equal(variables[kernel], weights[kernel])
    assert (variables[biases].numpy(), variables["other"].numpy()) == (5, 6)


def test_float16_becomes_the_variables_dtype(weights, npz, tmp_path):
    half = example13.as_float16(example13.read_npz(npz))
    example13.write_npz(tmp_path / "half.npz", half)
    network = vgg16.VGG16(vgg16.random_weights(SMALL, 1), SMALL)
    arrays = example13.read_npz(tmp_path / "half.npz")
    assert len(example13.load_by_name("half", network.weights, arrays)["loaded"]) == 32
    for name, variable in network.weights.items():
        assert variable.dtype == tf.float32
        np.testing.assert_array_equal(variable, weights[name].astype(np.float16))


@pytest.mark.parametrize("value", [65_520, -1e30, np.nan])
def test_what_float16_cannot_hold_is_an_error(tmp_path, value):
    arrays = example13.as_float16([("a", np.float32([1, value]))])
    with pytest.raises(WeightsError, match="a holds a number that is too large for float16"):
        example13.write_npz(tmp_path / "half.npz", arrays)
    assert not (tmp_path / "half.npz").exists()


def test_our_file_is_the_one_that_keras_writes(weights, tmp_path):
    """Keras loads ours; what it then saves has the same arrays in the same places."""
    ours = example13.write_keras(tmp_path / "ours.weights.h5", weights.items(), SMALL)
    model = example13.keras_vgg16(SMALL)
    model.load_weights(ours)
    model.save_weights(tmp_path / "theirs.weights.h5")
    assert_same(places_in(tmp_path / "theirs.weights.h5"), places_in(ours))
    images = np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3), np.uint8)
    expected = example13.predict_with_ours(vgg16.VGG16(weights, SMALL), images)
    logits = example13.predict_with_keras(ours, SMALL, images)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
def test_keras_own_vgg16_loads_the_file_of_full_size(tmp_path):
    config = vgg16.Config()
    weights = weights_with_biases(config)
    images = np.random.default_rng(1).integers(0, 256, (2, 224, 224, 3), np.uint8)
    expected = example13.predict_with_ours(vgg16.VGG16(weights, config), images)
    path = example13.write_keras(tmp_path / "vgg_16.weights.h5", weights.items(), config)
    del weights
    model = tf.keras.applications.VGG16(weights=None, classifier_activation=None)
    model.load_weights(path)
    path.unlink()
    logits = model(tf.keras.applications.vgg16.preprocess_input(images.astype(np.float32)))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("other", ["lacks a weight", "has one more"])
def test_a_checkpoint_of_another_network(weights, tmp_path, capsys, other):
    path, more = tmp_path / "vgg_16.ckpt", weights | {"vgg_16/fc9/biases": weights[BIASES]}
    less = {name: array for name, array in weights.items() if name != BIASES}
    vgg16_files.write_v1_checkpoint(path, less if other == "lacks a weight" else more)
    told = "does not hold the weights of a VGG16"
    assert told in error_of(example13.main, capsys, "--weights", path, "--models-dir", tmp_path)
