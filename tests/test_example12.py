"""Checks example 12: its file, and its network in NumPy, for PyTorch and for MATLAB."""

import importlib.util
import json
import zipfile

import numpy as np
import pytest
import scipy.io
import scipy.signal
from programs import Trap, arguments, error_of, run

from datasets import mnist, sample
from examples import example05_mnist_cnn_nn as example05
from examples import example12_npz_weights as example12
from examples.example12_npz_weights import cli, mnist_cnn, tf
from models import WeightsError, saved


def leave(network, models_dir):
    """Leave a network as a run of example 05 on sample data leaves it."""
    saved.write_weights(network, models_dir / example05.NAME)
    metrics = {"data": sample.MNIST_NAME}
    (models_dir / example05.NAME / "metrics.json").write_text(json.dumps(metrics))


@pytest.fixture(scope="module")
def network():
    """The network with random weights; the biases too, so that none can be swapped unnoticed."""
    tf.keras.utils.set_random_seed(0)
    network = mnist_cnn.make_network()
    for weight in network.weights:
        if weight.name == "bias":
            weight.assign(tf.random.normal(weight.shape, stddev=0.1))
    return network


@pytest.fixture(scope="module")
def weights(network):
    return mnist_cnn.weights_of(network)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (4, 28, 28, 1), np.uint8)


@pytest.fixture(scope="module")
def finished(sample_dir, tmp_path_factory):
    """One whole run that finds no trained network: its folder of results, metrics and output."""
    models_dir = tmp_path_factory.mktemp("models")
    return models_dir / example12.NAME, *run(example12.main, *arguments(sample_dir, models_dir))


def test_without_a_trained_network_it_trains_one_and_says_so(finished):
    _, metrics, output = finished
    assert "example 05 has left no network" in output
    assert "\nweights: a moment's training\n" in output
    assert metrics["test_accuracy"] > 0.85  # of 254; chance is 0.1
    assert metrics["train_seconds"] > 0
    torch = bool(importlib.util.find_spec("torch"))
    assert list(metrics["libraries"]) == ["TensorFlow", "NumPy", "PyTorch"][: 2 + torch]
    for result in metrics["libraries"].values():
        assert result["test_accuracy"] == metrics["test_accuracy"]
        assert result["largest_difference"] < 1e-4


def test_with_the_network_of_example_05(sample_dir, tmp_path):
    """Each weight is in its place: the file gives the logits that example 05's network gives."""
    network = example05.Network(tf.float32, seed=3)
    for number, bias in enumerate([*network.biases, network.dense_biases]):
        bias.assign(np.random.default_rng(number).normal(0, 0.1, bias.shape))
    leave(network, tmp_path)
    metrics, output = run(example12.main, *arguments(sample_dir, tmp_path))
    assert f"weights: {tmp_path / example05.NAME}\n" in output
    assert metrics["train_seconds"] == 0
    with np.load(tmp_path / example12.NAME / "mnist_cnn.npz") as file:
        read = dict(file)
    images = mnist.load("sample", sample_dir).test_images
    expected = example05.predict(network, images)
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(example12.numpy_logits(read, images), expected, rtol=0, atol=1e-4)


def test_with_a_file_from_elsewhere(finished, sample_dir, tmp_path):
    folder, metrics, _ = finished
    path = folder / "mnist_cnn.npz"
    again, _ = run(example12.main, *arguments(sample_dir, tmp_path, "--weights", path))
    assert (again["test_accuracy"], again["train_seconds"]) == (metrics["test_accuracy"], 0)
    with np.load(path) as first, np.load(tmp_path / example12.NAME / "mnist_cnn.npz") as second:
        assert all(np.array_equal(first[name], second[name]) for name in first)


def test_a_difference_between_the_libraries_is_an_error(images, weights):
    libraries = {
        "TensorFlow": lambda images: example12.numpy_logits(weights, images),
        "NumPy": lambda images: example12.numpy_logits(weights, images) + 0.01,
    }
    with pytest.raises(cli.UserError, match=r"NumPy differs from TensorFlow by 1\.0e-02"):
        example12.compare(libraries, images, np.zeros(4, np.int32))


# --- The same in every library --------------------------------------------------------------------


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4)])
def test_convolution_is_scipys(size, stride, padding):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 9, 11, 3))
    kernel, bias = rng.normal(size=(*size, 3, 4)), rng.normal(size=4)
    result = example12.convolution(images, kernel, bias, stride, padding)
    for image, output in zip(images, result, strict=True):
        padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
        for k in range(4):
            whole = scipy.signal.correlate(padded, kernel[..., k], "valid")[..., 0]
            np.testing.assert_allclose(output[..., k], whole[::stride, ::stride] + bias[k])


def test_numpy_gives_tensorflows_logits_in_float32(network, weights, images):
    logits, expected = example12.numpy_logits(weights, images), network(images).numpy()
    assert logits.dtype == np.float32
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


def test_arrays_for_pytorch_in_its_order_of_axes(weights, images):
    """Computed here as PyTorch defines it, with channels first, so that it need not be there."""
    arrays = example12.weights_for_pytorch(weights)
    assert arrays["conv2.weight"].shape == (64, 32, 3, 3)
    assert arrays["dense.weight"].shape == (10, 1152)

    def layer(name, x, stride=1, padding=0):  # (C, H, W) to (K, H', W')
        x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
        outputs = [
            scipy.signal.correlate(x, kernel, "valid")[0, ::stride, ::stride]
            for kernel in arrays[f"{name}.weight"]
        ]
        return np.maximum(outputs + arrays[f"{name}.bias"][:, None, None], 0)

    x = layer("conv1", images[0].transpose(2, 0, 1) / 255, stride=2)
    x = layer("conv2", x).reshape(64, 5, 2, 5, 2).max(axis=(2, 4))
    x = layer("conv4", layer("conv3", x), padding=1)
    logits = arrays["dense.weight"] @ x.ravel() + arrays["dense.bias"]
    expected = example12.numpy_logits(weights, images[:1])[0]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


def test_mat_has_a_struct_for_each_layer(weights, tmp_path):
    file = scipy.io.loadmat(example12.weights_to_mat(tmp_path / "w.mat", weights))
    for name, array in weights.items():
        layer, kind = name.split("/")
        found = file[layer][0, 0][kind]
        assert found.shape == (array.shape if kind == "kernel" else (1, *array.shape))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found.reshape(array.shape), array)


# --- The file -------------------------------------------------------------------------------------


def test_the_file_gives_back_each_bit_and_is_little_endian(weights, tmp_path):
    """What a machine with the other order of bytes would write is the same, byte by byte."""
    special = {**weights, "dense/bias": np.float32([0, -0.0, 1e-45, 3.4e38, *range(6)])}
    path = example12.weights_to_npz(tmp_path / "w.npz", special)
    assert [file.name for file in tmp_path.iterdir()] == ["w.npz"]
    read = example12.weights_from_npz(path, weights)
    assert list(read) == list(weights)
    for name, array in special.items():
        assert read[name].dtype == np.float32
        assert read[name].tobytes() == array.tobytes(), name
    others = {name: array.astype(">f4") for name, array in special.items()}
    other = example12.weights_to_npz(tmp_path / "other.npz", others)
    with zipfile.ZipFile(path) as a, zipfile.ZipFile(other) as b:
        for name in a.namelist():
            assert a.read(name) == b.read(name)
            assert b"'descr': '<f4'" in a.read(name)[:128]


@pytest.mark.parametrize("kind", ["npz", "mat"])
def test_a_file_that_cannot_be_finished_leaves_the_old_one(kind, weights, tmp_path, monkeypatch):
    write = getattr(example12, f"weights_to_{kind}")
    path = write(tmp_path / f"w.{kind}", weights)
    before = path.read_bytes()

    def full(part, *_, **__):
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    monkeypatch.setattr(scipy.io, "savemat", full)
    with pytest.raises(WeightsError, match=f"cannot write .*{kind}: No space left on device"):
        write(path, weights)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "array", "told"),
    [
        ("conv2/kernel", None, "is missing, expected <f4 (3, 3, 32, 64)"),
        ("conv5/kernel", np.zeros(3, "f4"), "is <f4 (3,), expected no such array"),
        ("conv2/kernel", np.zeros((3, 3, 64, 32), "f4"), "(3, 3, 64, 32), expected <f4 (3, 3, 32"),
        ("conv2/bias", np.zeros(64), "is <f8 (64,), expected <f4 (64,)"),
        ("dense/bias", np.float32([np.nan] * 10), "holds numbers that are not finite"),
        ("dense/bias", np.float32([np.inf] * 10), "holds numbers that are not finite"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(weights, tmp_path, name, array, told):
    path = tmp_path / "w.npz"
    changed = weights | {name: array}
    np.savez(path, **{name: array for name, array in changed.items() if array is not None})
    with pytest.raises(WeightsError) as error:
        example12.weights_from_npz(path, weights)
    assert str(error.value).startswith(f"{path}: {name} ")
    assert told in str(error.value)


def test_a_pickle_is_refused_both_ways(weights, tmp_path):
    trap = weights | {"dense/bias": np.array([Trap(tmp_path / "executed")] * 10)}
    np.savez(tmp_path / "w.npz", **trap)
    with pytest.raises(WeightsError, match="pickle"):
        example12.weights_from_npz(tmp_path / "w.npz", weights)
    with pytest.raises((TypeError, ValueError)):
        example12.weights_to_npz(tmp_path / "other.npz", trap)
    assert [path.name for path in tmp_path.iterdir()] == ["w.npz"]


def test_damaged_files(weights, tmp_path):
    """Cut anywhere, or with a byte changed among the numbers, a file is refused in one line."""
    path = example12.weights_to_npz(tmp_path / "w.npz", weights)
    content = path.read_bytes()
    damaged = [b"", b"<html>404</html>" * 100]
    damaged += [content[:cut] for cut in np.linspace(1, len(content) - 1, 9).astype(int)]
    for position in np.random.default_rng(0).integers(1000, len(content) - 5000, 5):
        damaged.append(content[:position] + b"?!" + content[position + 2 :])
    np.save(tmp_path / "one.npy", weights["dense/bias"])
    for wrong in [*damaged, (tmp_path / "one.npy").read_bytes()]:
        path.write_bytes(wrong)
        with pytest.raises(WeightsError, match=rf"^cannot read {path} as an .npz file: .+$"):
            example12.weights_from_npz(path, weights)


def test_a_damaged_network_of_example_05(sample_dir, tmp_path, capsys):
    leave(example05.Network(tf.float32, seed=3), tmp_path)
    for file in (tmp_path / example05.NAME).glob("weights.*"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    error = error_of(example12.main, capsys, *arguments(sample_dir, tmp_path))
    assert "damaged" in error
    assert "python examples/example05_mnist_cnn_nn.py" in error


def test_weights_that_are_not_there(sample_dir, tmp_path, capsys):
    argv = arguments(sample_dir, tmp_path, "--weights", "nowhere.npz")
    assert "nowhere.npz" in error_of(example12.main, capsys, *argv)
    assert not (tmp_path / example12.NAME).exists()
