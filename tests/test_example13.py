"""Checks example 13: that each format gives back every bit, and is what NumPy, TensorFlow and Keras
themselves read and write; that no more than one array is in memory; that loading by name reports
what it does; and that damaged files, and runs that are stopped, harm nothing.
"""

import json
import math
import signal
import sys
import weakref
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from programs import error_of, run, start, stop_when

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from examples import common  # noqa: E402
from examples import example13_npz_weights_vgg16 as example13  # noqa: E402
from examples.common import tf  # noqa: E402
from models import WeightsError, vgg16  # noqa: E402

# 64 pixels: fc6 sees 2 x 2 positions, so that their order matters.
SMALL = vgg16.Config(classes=7, width=2, dense=8, image_size=64)
BIASES = "vgg_16/conv3/conv3_2/biases"  # stands for any weight


def weights_with_biases(config):
    """Random weights; the biases too, so that none can be left out or swapped unnoticed."""
    weights, rng = vgg16.random_weights(config, 0), np.random.default_rng(0)
    for name, array in weights.items():
        if name.endswith("biases"):
            array += rng.normal(0, 0.1, array.shape).astype(np.float32)
    return weights


@pytest.fixture(scope="module")
def weights():
    return weights_with_biases(SMALL)


@pytest.fixture
def npz(weights, tmp_path):
    return example13.write_npz(tmp_path / "w.npz", weights)


def arguments(data_dir, models_dir, *more):
    return ["--data", "sample", "--data-dir", data_dir, "--models-dir", models_dir, *more]


@pytest.fixture(scope="module")
def finished(sample_dir, tmp_path_factory):
    """One whole run: its folder of results, metrics and output."""
    models_dir = tmp_path_factory.mktemp("models")
    return models_dir / example13.NAME, *run(example13.main, *arguments(sample_dir, models_dir))


def assert_same(found, expected):
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes(), name


def writers(folder):
    """What writes weights to each of the formats."""
    return {
        "npz": lambda weights: example13.write_npz(folder / "w.npz", weights),
        "checkpoint": lambda weights: example13.write_checkpoint(folder / "w", weights),
        "Keras": lambda weights: example13.write_keras(folder / "w.weights.h5", weights, SMALL),
    }


each_format = pytest.mark.parametrize("form", ["npz", "checkpoint", "Keras"])

# --- A whole run ----------------------------------------------------------------------------------


def test_a_whole_run(finished):
    folder, metrics, output = finished
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert metrics["test_accuracy_float32"] > 0.8  # of 1,000 drawings of 20 kinds
    assert metrics["test_accuracy"] == metrics["test_accuracy_float16"]
    assert metrics["test_accuracy"] == pytest.approx(metrics["test_accuracy_float32"], abs=0.005)
    assert metrics["same_answers"] > 0.99
    assert 0 < metrics["largest_change_of_a_probability"] < 0.1
    assert metrics["bytes_float16"] == pytest.approx(metrics["bytes_float32"] / 2, rel=0.01)
    assert metrics["train_seconds"] == 0
    assert f"{metrics['parameters']:,} parameters, the same bits in all three files" in output
    assert "all, into VGG16_20: 32 loaded, 0 missing, 0 of another shape, 0 unexpected\n" in output
    assert "VGG16_10: 30 loaded, 0 missing, 0 of another shape, 2 unexpected\n" in output
    assert "      unexpected: vgg_16/fc8/biases, vgg_16/fc8/weights\n" in output
    assert "what the two top layers are given differs by 0e+00\n" in output


def test_example_07_takes_the_file_in_place_of_the_checkpoint(finished):
    folder, metrics, _ = finished
    config = vgg16.Config(classes=20, width=8, dense=512, image_size=64)
    read = vgg16.read_weights(folder / "vgg_16.npz", config)
    assert_same(read, vgg16.read_weights(Path(metrics["weights"]), config))


def test_a_run_that_is_killed_harms_nothing(finished, sample_dir, tmp_path):
    folder, metrics, _ = finished
    argv = arguments(sample_dir, tmp_path)
    process = start(example13.__file__, *argv)
    stop_when(process, lambda: list(tmp_path.glob("*/vgg_16.npz*")), signal.SIGKILL)
    again, _ = run(example13.main, *argv)
    for name in ("vgg_16.npz", "vgg_16_float16.npz"):
        assert (tmp_path / folder.name / name).read_bytes() == (folder / name).read_bytes()
    for key in ("test_accuracy", "largest_change_of_a_probability", "largest_difference_to_keras"):
        assert again[key] == metrics[key]
    assert not list(tmp_path.glob("**/*.part"))


def test_the_numbers_in_the_notes_are_right():
    text = Path(example13.__file__).read_text()
    shapes = vgg16.Config().shapes()
    bytes_ = {name: 4 * math.prod(shape) for name, shape in shapes.items()}
    largest = max(bytes_, key=bytes_.get)
    assert largest == "vgg_16/fc6/weights"
    total = sum(bytes_.values())
    assert f"{total / 4e6:.0f} million weights, {total / 1e6:.0f} MB, of which " in text
    assert f"of which {bytes_[largest] / 1e6:.0f} MB are the kernel of fc6" in text
    assert np.finfo(np.float32).nmant + 1 == 24
    assert np.finfo(np.float16).nmant + 1 == 11
    assert f"{np.finfo(np.float16).max:,.0f}" == "65,504"
    assert f"{np.finfo(np.float16).smallest_normal:.5f}" == "0.00006"


# --- There and back -------------------------------------------------------------------------------


@each_format
def test_each_format_gives_back_every_bit(weights, tmp_path, form):
    special = {**weights, BIASES: np.float32([0, -0.0, 1e-45, 3.4e38, np.pi, -1, 2, 3])}
    assert_same(writers(tmp_path)[form](special), special)
    assert len(list(tmp_path.iterdir())) == 1


def test_from_v1_through_npz_to_v2(weights, tmp_path):
    vgg16.write_v1_checkpoint(tmp_path / "vgg_16.ckpt", weights)
    first = example13.open_checkpoint(tmp_path / "vgg_16.ckpt")
    assert_same(first, weights)  # without global_step and mean_rgb, which are no weights
    second = example13.write_npz(tmp_path / "w.npz", first)
    third = example13.write_checkpoint(tmp_path / "v2", second)
    assert_same(third, weights)
    assert_same(vgg16.read_weights(tmp_path / "v2" / "vgg_16.ckpt", SMALL), weights)


@each_format
def test_one_array_at_a_time(weights, tmp_path, form):
    """At most two are alive: the one that is written, and a moment later the next."""
    alive, most = weakref.WeakSet(), []

    class Array(np.ndarray):  # plain ones cannot be referred to weakly and put into sets
        __hash__ = object.__hash__

    def read(name):
        array = weights[name].copy().view(Array)
        alive.add(array)
        most.append(len(alive))
        return array

    writers(tmp_path)[form](example13.Arrays(tmp_path, weights, read))
    assert len(most) == len(weights)
    assert max(most) <= 2


@each_format
def test_what_is_interrupted_leaves_the_old_file(weights, npz, tmp_path, form):
    write = writers(tmp_path / "folder")[form]
    (tmp_path / "folder").mkdir()
    write(weights)

    def read(name):
        if name == BIASES:
            raise KeyboardInterrupt
        return weights[name] + 1

    with pytest.raises(KeyboardInterrupt):
        write(example13.Arrays(tmp_path, weights, read))
    assert_same({**writers_open(tmp_path / "folder")[form]()}, weights)
    assert_same(write(weights), weights)  # what was left behind is in nobody's way
    assert len(list((tmp_path / "folder").iterdir())) == 1


def writers_open(folder):
    """What opens the files of writers()."""
    return {
        "npz": lambda: example13.open_npz(folder / "w.npz"),
        "checkpoint": lambda: example13.open_checkpoint(folder / "w" / "vgg_16.ckpt"),
        "Keras": lambda: example13.open_keras(folder / "w.weights.h5", SMALL),
    }


# --- .npz as NumPy has it -------------------------------------------------------------------------


def test_numpy_reads_our_file(weights, npz):
    with np.load(npz.path, allow_pickle=False) as file:
        assert_same(dict(file), weights)
    with zipfile.ZipFile(npz.path) as archive:
        assert archive.testzip() is None


def test_we_read_numpys_file(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "a/b": rng.normal(size=(2, 3, 5)),
        "columns": np.asfortranarray(rng.normal(size=(4, 3)).astype(np.float32)),
        "half": np.float16([1, 2, 3]),
        "big": np.arange(5, dtype=">i4"),
        "one": np.array(7),
        "ünicode": np.array([True, False]),
    }
    np.savez(tmp_path / "w.npz", **arrays)
    assert_same(example13.open_npz(tmp_path / "w.npz"), arrays)


def test_it_is_little_endian_whatever_the_machine_and_equal_for_equal_arrays(weights, tmp_path):
    others = {name: array.astype(">f4") for name, array in weights.items()}
    files = [
        example13.write_npz(tmp_path / f"{number}.npz", arrays).path.read_bytes()
        for number, arrays in enumerate((weights, others))
    ]
    assert files[0] == files[1]
    assert files[0].count(b"'descr': '<f4'") == len(weights)


def test_arrays_are_mapped_and_cannot_be_changed(npz):
    array = base = npz["vgg_16/fc6/weights"]
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1
    while not isinstance(base, np.memmap):
        base = base.base
    assert base.filename == npz.path


def test_a_mapped_array_outlives_its_file(weights, npz):
    array = npz[BIASES]
    example13.write_npz(npz.path, {name: value + 1 for name, value in weights.items()})
    npz.path.unlink()
    np.testing.assert_array_equal(array, weights[BIASES])


def test_looking_up_a_name_reads_nothing(tmp_path):
    arrays = example13.Arrays(tmp_path, ["a"], lambda name: pytest.fail("read"))
    assert "a" in arrays
    assert "b" not in arrays
    assert (len(arrays), list(arrays)) == (1, ["a"])
    with pytest.raises(KeyError):
        arrays["b"]


# --- Loading by name ------------------------------------------------------------------------------


def test_the_report(weights, npz):
    kernel, biases = "vgg_16/conv1/conv1_1/weights", "vgg_16/conv1/conv1_1/biases"
    variables = {
        kernel: tf.Variable(tf.zeros(SMALL.shapes()[kernel])),
        biases: tf.Variable([5.0]),
        "other": tf.Variable([6.0]),
    }
    report = example13.load_by_name(variables, npz)
    assert report == {
        "loaded": [kernel],
        "missing": ["other"],
        "of another shape": [biases],
        "unexpected": sorted(set(weights) - {kernel, biases}),
    }
    np.testing.assert_array_equal(variables[kernel], weights[kernel])
    assert (variables[biases].numpy(), variables["other"].numpy()) == (5, 6)


def test_float16_becomes_the_variables_dtype(weights, npz, tmp_path):
    half = example13.write_npz(tmp_path / "half.npz", example13.as_float16(npz))
    expected = {name: array.astype(np.float16) for name, array in weights.items()}
    assert_same(half, expected)
    network = example13.empty_network(SMALL)
    report = example13.load_by_name(network.weights, half)
    assert len(report["loaded"]) == len(weights)
    for name, variable in network.weights.items():
        assert variable.dtype == tf.float32
        np.testing.assert_array_equal(variable, expected[name].astype(np.float32))


@pytest.mark.parametrize("value", [65_520, -1e30])
def test_what_float16_cannot_hold_is_an_error(weights, tmp_path, value):
    large = {**weights, BIASES: np.full(8, value, np.float32)}
    npz = example13.write_npz(tmp_path / "w.npz", large)
    with pytest.raises(WeightsError, match=f"{BIASES} is too large for float16"):
        example13.write_npz(tmp_path / "half.npz", example13.as_float16(npz))
    assert not (tmp_path / "half.npz").exists()


# --- Keras ----------------------------------------------------------------------------------------


def datasets_of(path):
    with h5py.File(path) as file:
        found = {}
        file.visititems(
            lambda name, item: found.update({name: item[()]}) if hasattr(item, "dtype") else None
        )
    return found


def test_our_file_is_the_one_that_keras_writes(weights, tmp_path):
    """Keras loads ours; what it then saves has the same arrays in the same places; we read that."""
    ours = example13.write_keras(tmp_path / "ours.weights.h5", weights, SMALL)
    model = example13.keras_vgg16(SMALL)
    model.load_weights(ours.path)
    model.save_weights(tmp_path / "theirs.weights.h5")
    assert_same(datasets_of(tmp_path / "theirs.weights.h5"), datasets_of(ours.path))
    assert_same(example13.open_keras(tmp_path / "theirs.weights.h5", SMALL), weights)
    images = np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3), np.uint8)
    expected = example13.ours(vgg16.VGG16(weights, SMALL))(images).numpy()
    logits = example13.keras(model)(images).numpy()
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("place", "array", "told"),
    [
        ("layers/conv2d_3/vars/1", None, "vgg_16/conv2/conv2_2/biases is missing"),
        ("layers/conv2d_3/vars/1", np.zeros(5, "f4"), r"conv2_2/biases has shape \(5,\)"),
        ("layers/conv2d/vars/1", np.zeros(2), "conv1_1/biases has dtype float64"),
        ("layers/dense/vars/0", np.zeros((8, 64), "f4"), "cannot be read"),  # (64, 8) turned
        ("layers/dense_3/vars/0", np.zeros(3, "f4"), "layers/dense_3/vars/0 is not a weight"),
    ],
)
def test_what_is_wrong_in_keras_file_is_named(weights, tmp_path, place, array, told):
    path = example13.write_keras(tmp_path / "w.weights.h5", weights, SMALL).path
    with h5py.File(path, "r+") as file:
        file.pop(place, None)
        if array is not None:
            file[place] = array
    with pytest.raises(WeightsError, match=told):
        vgg16.check_weights(example13.open_keras(path, SMALL), SMALL)


@pytest.mark.slow
def test_keras_own_vgg16_loads_the_file_of_full_size(tmp_path):
    config = vgg16.Config()
    weights = weights_with_biases(config)
    images = np.random.default_rng(1).integers(0, 256, (2, 224, 224, 3), np.uint8)
    expected = example13.ours(vgg16.VGG16(weights, config))(images).numpy()
    path = example13.write_keras(tmp_path / "vgg_16.weights.h5", weights, config).path
    del weights
    model = tf.keras.applications.VGG16(weights=None, classifier_activation=None)
    model.load_weights(path)
    logits = example13.keras(model)(images).numpy()
    path.unlink()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


# --- What can be wrong ----------------------------------------------------------------------------


def read_all(path):
    return {name: np.array(array) for name, array in example13.open_npz(path).items()}


def test_changed_bytes_are_noticed(weights, npz):
    content = bytearray(npz.path.read_bytes())
    for name in weights:
        with zipfile.ZipFile(npz.path) as archive:
            end = archive.getinfo(f"{name}.npy").header_offset + 200
        damaged = bytearray(content)
        damaged[end] ^= 4
        npz.path.write_bytes(damaged)
        with pytest.raises(WeightsError) as error:
            read_all(npz.path)
        assert str(npz.path) in str(error.value)
        npz.path.write_bytes(content)
    assert_same(read_all(npz.path), weights)


def test_cut_files(npz):
    content = npz.path.read_bytes()
    for cut in [0, 1, 30, *np.linspace(100, len(content) - 1, 15).astype(int)]:
        npz.path.write_bytes(content[:cut])
        with pytest.raises(WeightsError, match="cannot be read as a file of weights"):
            read_all(npz.path)


class Trap:
    """An object whose unpickling leaves a trace."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.filterwarnings("ignore:Stored array in format 3.0")
def test_files_of_other_kinds(weights, tmp_path):
    trace, path = tmp_path / "executed", tmp_path / "w.npz"
    array = np.empty(3, object)
    array[:] = [Trap(trace)] * 3
    np.savez(path, trap=array)
    with pytest.raises(WeightsError, match="cannot be read as a file of weights"):
        read_all(path)
    assert not trace.exists()
    np.savez_compressed(path, **weights)
    with pytest.raises(WeightsError, match="is compressed"):
        read_all(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"not an array")
    with pytest.raises(WeightsError, match="cannot be read as a file of weights"):
        read_all(path)
    np.savez(path, a=np.zeros(1, [("λ", "f4")]))  # an .npy file of version 3
    with pytest.raises(WeightsError, match="a is not an array of numbers"):
        read_all(path)
    for path in (tmp_path / "none", tmp_path):
        for opener in (
            example13.open_npz,
            example13.open_checkpoint,
            lambda path: example13.open_keras(path, SMALL),
        ):
            with pytest.raises(WeightsError, match="cannot be read as a file of weights"):
                opener(path)


def test_a_disk_that_lies(weights, npz):
    with pytest.raises(WeightsError, match="does not hold what was written"):
        example13.check_same(npz, vgg16.weights_digest({**weights, BIASES: np.ones(8, "f4")}))


def test_a_checkpoint_that_cannot_be_written(weights, tmp_path, monkeypatch):
    def full(**_):
        raise tf.errors.ResourceExhaustedError(None, None, "no\nspace")

    monkeypatch.setattr(example13.tf.raw_ops, "SaveV2", full)
    with pytest.raises(common.UserError, match=r"cannot write a checkpoint to .*no space"):
        example13.write_checkpoint(tmp_path / "w", weights)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "vgg_16.ckpt cannot be read as a file of weights: "),
        (b"", "vgg_16.ckpt cannot be read as a file of weights: "),
        (b"<html>404</html>" * 1000, "vgg_16.ckpt cannot be read as a file of weights: "),
        (SMALL, "vgg_16.ckpt: vgg_16/conv1/conv1_1/weights has shape (3, 3, 3, 2), expected"),
    ],
    ids=["missing", "empty", "text", "another size"],
)
def test_a_wrong_checkpoint(weights, tmp_path, capsys, content, told):
    path = tmp_path / "vgg_16.ckpt"
    if content is SMALL:
        vgg16.write_v1_checkpoint(path, weights)
    elif content is not None:
        path.write_bytes(content)
    error = error_of(example13.main, capsys, "--weights", path, "--models-dir", tmp_path)
    assert told in error
    assert not (tmp_path / example13.NAME / "vgg_16.npz").exists()


def test_min_accuracy(tmp_path, capsys, monkeypatch, weights):
    vgg16.write_v1_checkpoint(tmp_path / "w.ckpt", weights)
    monkeypatch.setattr(common, "vgg16_checkpoint", lambda _: (tmp_path / "w.ckpt", SMALL))
    monkeypatch.setattr(example13, "DRAWINGS", 50)
    flags = ["--models-dir", tmp_path]
    assert "is below --min-accuracy" in error_of(
        example13.main, capsys, *flags, "--min-accuracy", "1.01"
    )
