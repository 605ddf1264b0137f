"""Checks example 12: that the file gives back what went in, on every machine and with nothing but
numbers inside; that the network in NumPy, and the weights as they are turned for PyTorch and
MATLAB, compute what TensorFlow, scipy and PyTorch compute; and what is said of a wrong file.
"""

import importlib.util
import json
import signal
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.signal
from programs import error_of, run, start, status, stop_when

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from datasets import mnist  # noqa: E402
from examples import common  # noqa: E402
from examples import example05_mnist_cnn_nn as example05  # noqa: E402
from examples import example12_npz_weights as example12  # noqa: E402
from examples.common import tf  # noqa: E402
from models import WeightsError  # noqa: E402


def arguments(data_dir, models_dir, *more):
    return ["--data", "sample", "--data-dir", data_dir, "--models-dir", models_dir, *more]


@pytest.fixture(scope="module")
def weights():
    """Random weights; the biases too, so that none can be left out or swapped unnoticed."""
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape).astype(np.float32)
        if name.endswith("kernel")
        else rng.normal(0, 0.1, shape).astype(np.float32)
        for name, shape in example12.SHAPES.items()
    }


@pytest.fixture(scope="module")
def images():
    """uint8 (4, 28, 28, 1)."""
    return np.random.default_rng(1).integers(0, 256, (4, 28, 28, 1), np.uint8)


@pytest.fixture(scope="module")
def finished(sample_dir, tmp_path_factory):
    """One whole run that finds no trained network: its folder of results, metrics and output."""
    models_dir = tmp_path_factory.mktemp("models")
    argv = arguments(sample_dir, models_dir)
    return models_dir / example12.NAME, *run(example12.main, *argv)


# --- A whole run ----------------------------------------------------------------------------------


def test_without_a_trained_network_it_trains_one_and_says_so(finished):
    folder, metrics, output = finished
    assert "\nweights: a moment's training, because there are none in " in output
    assert metrics["test_accuracy"] > 0.85  # of 254; chance is 0.1
    assert metrics["train_seconds"] > 0
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert metrics["parameters"] == sum(map(np.prod, example12.SHAPES.values()))
    torch = bool(importlib.util.find_spec("torch"))
    assert ("PyTorch is not installed" in output) is not torch
    assert list(metrics["libraries"]) == ["TensorFlow", "NumPy", "PyTorch"][: 2 + torch]
    for result in metrics["libraries"].values():
        assert result["test_accuracy"] == metrics["test_accuracy"]
        assert result["largest_difference"] < 1e-4


def test_with_the_network_of_example_05(sample_dir, tmp_path):
    """Each weight is in its place: the file gives the logits that example 05's network gives."""
    network = example05.Network(tf.float32, seed=3)
    for number, bias in enumerate([*network.biases, network.dense_biases]):
        bias.assign(np.random.default_rng(number).normal(0, 0.1, bias.shape))
    common.write_weights(network, tmp_path / example05.NAME)
    metrics, output = run(example12.main, *arguments(sample_dir, tmp_path))
    assert f"weights: {tmp_path / example05.NAME}\n" in output
    assert metrics["train_seconds"] == metrics["epochs"] == 0
    read = example12.read_npz(tmp_path / example12.NAME / "mnist_cnn.npz")
    images = mnist.load("sample", sample_dir).test_images
    expected = example05.predict(network, images)
    assert np.std(expected) > 0.1
    for logits in (example12.tensorflow_logits, example12.numpy_logits):
        np.testing.assert_allclose(logits(read, images), expected, rtol=0, atol=1e-4)


def test_with_a_file_from_elsewhere(finished, sample_dir, tmp_path):
    folder, metrics, _ = finished
    path = folder / "mnist_cnn.npz"
    again, _ = run(example12.main, *arguments(sample_dir, tmp_path, "--weights", path))
    assert again["test_accuracy"] == metrics["test_accuracy"]
    assert again["train_seconds"] == 0
    written = tmp_path / example12.NAME / "mnist_cnn.npz"
    first, second = example12.read_npz(path), example12.read_npz(written)
    assert all(np.array_equal(first[name], second[name]) for name in example12.SHAPES)


def test_a_difference_between_the_libraries_is_an_error(sample_dir, finished, monkeypatch, capsys):
    folder, _, _ = finished
    right = example12.numpy_logits
    monkeypatch.setattr(example12, "numpy_logits", lambda *given: right(*given) + 0.01)
    argv = arguments(sample_dir, folder.parent, "--weights", folder / "mnist_cnn.npz")
    assert "NumPy's logits differ from TensorFlow's by 1.0e-02" in error_of(
        example12.main, capsys, *argv
    )


# --- The same in every library --------------------------------------------------------------------


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4)])
def test_convolution_is_scipys(size, stride, padding):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 9, 11, 3)).astype(np.float32)
    kernel, bias = (rng.normal(size=s).astype(np.float32) for s in ((*size, 3, 4), 4))
    result = example12.convolution(images, kernel, bias, stride, padding)
    for image, output in zip(images, result, strict=True):
        padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
        for k in range(4):
            whole = sum(
                scipy.signal.correlate(padded[..., c], kernel[:, :, c, k], "valid")
                for c in range(3)
            )
            expected = whole[::stride, ::stride] + bias[k]
            np.testing.assert_allclose(output[..., k], expected, rtol=0, atol=1e-5)


def test_pooling_and_relu_are_tensorflows():
    images = np.random.default_rng(0).normal(size=(2, 6, 8, 3)).astype(np.float32)
    expected = tf.nn.max_pool2d(images, 2, 2, "VALID")
    np.testing.assert_array_equal(example12.max_pooling(images), expected)
    np.testing.assert_array_equal(example12.relu(images), tf.nn.relu(images))


def test_numpy_gives_tensorflows_logits_in_float32(weights, images):
    logits = example12.numpy_logits(weights, images)
    expected = example12.tensorflow_logits(weights, images).numpy()
    assert logits.dtype == np.float32
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


def test_arrays_for_pytorch_in_its_order_of_axes(weights, images):
    """Computed here as PyTorch defines it, with channels first, so that it need not be there."""
    arrays = example12.pytorch_arrays(weights)
    assert arrays["conv2.weight"].shape == (64, 32, 3, 3)
    assert arrays["dense.weight"].shape == (10, 1152)

    def layer(name, x, stride=1, padding=0):  # (C, H, W) to (K, H', W')
        x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
        outputs = [
            scipy.signal.correlate(x, kernel, "valid")[0, ::stride, ::stride]
            for kernel in arrays[f"{name}.weight"]
        ]
        return np.maximum(outputs + arrays[f"{name}.bias"][:, None, None], 0)

    expected = example12.numpy_logits(weights, images[:1])[0]
    x = layer("conv1", images[0].transpose(2, 0, 1) / 255, stride=2)
    x = layer("conv2", x)
    x = x.reshape(64, 5, 2, 5, 2).max(axis=(2, 4))
    x = layer("conv4", layer("conv3", x), padding=1)
    logits = arrays["dense.weight"] @ x.ravel() + arrays["dense.bias"]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


def test_pytorch_gives_tensorflows_logits(weights, images):
    torch = pytest.importorskip("torch")
    expected = example12.tensorflow_logits(weights, images).numpy()
    logits = example12.pytorch_logits(weights, images)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)

    class Module(torch.nn.Module):
        """Layers under the names of the file, as somebody who uses PyTorch would write them."""

        def __init__(self):
            super().__init__()
            self.conv1 = torch.nn.Conv2d(1, 32, 5, stride=2)
            self.conv2 = torch.nn.Conv2d(32, 64, 3)
            self.conv3 = torch.nn.Conv2d(64, 128, 3)
            self.conv4 = torch.nn.Conv2d(128, 128, 3, padding=1)
            self.dense = torch.nn.Linear(1152, 10)

        def forward(self, x):
            x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
            x = torch.nn.functional.max_pool2d(x, 2)
            x = torch.relu(self.conv4(torch.relu(self.conv3(x))))
            return self.dense(x.flatten(1))

    arrays, module = example12.pytorch_arrays(weights), Module()
    module.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
    inputs = torch.tensor(images.transpose(0, 3, 1, 2) / 255, dtype=torch.float32)
    with torch.no_grad():
        np.testing.assert_allclose(module(inputs), expected, rtol=0, atol=1e-4)


def test_mat_has_a_struct_for_each_layer(weights, tmp_path):
    path = example12.write_mat(tmp_path / "w.mat", weights)
    assert {name: kind for name, _, kind in scipy.io.whosmat(path)} == dict.fromkeys(
        [*example12.CONVOLUTIONS, "dense"], "struct"
    )
    file = scipy.io.loadmat(path)
    for name, array in weights.items():
        layer, kind = name.split("/")
        found = file[layer][0, 0][kind]
        assert found.shape == (array.shape if kind == "kernel" else (1, *array.shape))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found.reshape(array.shape), array)


# --- The file -------------------------------------------------------------------------------------


def test_the_file_gives_back_each_bit(weights, tmp_path):
    special = {**weights, "dense/bias": np.float32([0, -0.0, 1e-45, 3.4e38, *range(6)])}
    path = example12.write_npz(tmp_path / "w.npz", special)
    assert [file.name for file in tmp_path.iterdir()] == ["w.npz"]
    read = example12.read_npz(path)
    assert list(read) == list(example12.SHAPES)
    for name, array in special.items():
        assert read[name].dtype == np.float32
        assert read[name].tobytes() == array.tobytes(), name
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [f"{name}.npy" for name in example12.SHAPES]


def test_the_file_is_little_endian_whatever_the_machine(weights, tmp_path):
    """What a machine with the other order of bytes would write is the same, byte by byte."""
    others = {name: array.astype(">f4") for name, array in weights.items()}
    members = []
    for number, arrays in enumerate((weights, others)):
        path = example12.write_npz(tmp_path / f"{number}.npz", arrays)
        with zipfile.ZipFile(path) as archive:
            members.append({name: archive.read(name) for name in archive.namelist()})
    assert members[0] == members[1]
    assert all(b"'descr': '<f4'" in content[:128] for content in members[0].values())


def test_a_file_that_cannot_be_finished_leaves_the_old_one(weights, tmp_path, monkeypatch):
    for write, writer in (
        (example12.write_npz, (example12.np, "savez")),
        (example12.write_mat, (example12.scipy.io, "savemat")),
    ):
        path = write(tmp_path / write.__name__, weights)
        before = path.read_bytes()

        def full(file, *_, **__):
            file.write_bytes(b"half") if isinstance(file, Path) else file.write(b"half")
            raise OSError("No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(*writer, full)
            with pytest.raises(OSError, match="No space"):
                write(path, weights)
        assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"conv2/kernel": None}, "conv2/kernel is missing"),
        ({"conv5/kernel": np.zeros(3, "f4")}, "conv5/kernel is not a weight of this network"),
        (
            {"conv2/kernel": np.zeros((3, 3, 64, 32), "f4")},
            "conv2/kernel has shape (3, 3, 64, 32), expected (3, 3, 32, 64)",
        ),
        ({"conv2/bias": np.zeros((64, 1), "f4")}, "has shape (64, 1), expected (64,)"),
        ({"conv2/bias": np.zeros(64)}, "conv2/bias has dtype <f8, expected <f4"),
        ({"conv2/bias": np.zeros(64, ">f4")}, "conv2/bias has dtype >f4, expected <f4"),
        ({"conv2/bias": np.zeros(64, "i4")}, "conv2/bias has dtype <i4, expected <f4"),
        ({"dense/bias": np.float32([np.nan] * 10)}, "dense/bias holds values that are not finite"),
        ({"dense/bias": np.float32([np.inf] * 10)}, "dense/bias holds values that are not finite"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(weights, tmp_path, change, told):
    path = tmp_path / "w.npz"
    changed = {name: array for name, array in (weights | change).items() if array is not None}
    np.savez(path, **changed)
    with pytest.raises(WeightsError) as error:
        example12.read_npz(path)
    assert str(error.value).startswith(f"{path}: ")
    assert told in str(error.value)


class Trap:
    """An object whose unpickling leaves a trace."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_is_refused_both_ways(weights, tmp_path, sample_dir, capsys):
    path, trace = tmp_path / "w.npz", tmp_path / "executed"
    array = np.empty(10, object)
    array[:] = [Trap(trace)] * 10
    np.savez(path, **{**weights, "dense/bias": array})
    argv = arguments(sample_dir, tmp_path, "--weights", path)
    assert "pickle" in error_of(example12.main, capsys, *argv)
    assert not trace.exists()
    with pytest.raises((TypeError, ValueError)):
        example12.write_npz(tmp_path / "other.npz", {"dense/bias": array})
    assert not (tmp_path / "other.npz").exists()


def test_damaged_files(weights, tmp_path):
    """Cut anywhere, or with one byte changed among the numbers, a file is refused in one line."""
    path = example12.write_npz(tmp_path / "w.npz", weights)
    content = path.read_bytes()
    damaged = [b"", b"no zip file", b"<html>404</html>" * 100]
    damaged += [content[:cut] for cut in np.linspace(1, len(content) - 1, 9).astype(int)]
    for position in np.random.default_rng(0).integers(1000, len(content) - 5000, 5):
        damaged.append(content[:position] + b"?!" + content[position + 2 :])
    for wrong in damaged:
        path.write_bytes(wrong)
        with pytest.raises(WeightsError) as error:
            example12.read_npz(path)
        assert str(error.value).startswith(f"{path} cannot be read as an .npz file: ")
        assert "\n" not in str(error.value)


def test_other_files_than_npz(weights, tmp_path):
    np.save(tmp_path / "one.npy", weights["dense/bias"])
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        for name in example12.SHAPES:
            archive.writestr(name, b"not an array")
    for path in (tmp_path / "one.npy", tmp_path / "other.zip", tmp_path, tmp_path / "none.npz"):
        with pytest.raises(WeightsError) as error:
            example12.read_npz(path)
        assert str(path) in str(error.value)


# --- What else can go wrong -----------------------------------------------------------------------


def test_a_damaged_network_of_example_05(sample_dir, tmp_path, capsys):
    common.write_weights(example05.Network(tf.float32, seed=3), tmp_path / example05.NAME)
    for file in (tmp_path / example05.NAME).iterdir():
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    error = error_of(example12.main, capsys, *arguments(sample_dir, tmp_path))
    assert "damaged" in error
    assert "python examples/example05_mnist_cnn_nn.py" in error


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--learning-rate", "1e38"], "--learning-rate"),
        (["--precision", "bfloat16"], "float32"),
        (["--weights", "nowhere.npz"], "nowhere.npz"),
    ],
)
def test_bad_input(sample_dir, tmp_path, capsys, flags, told):
    assert told in error_of(example12.main, capsys, *arguments(sample_dir, tmp_path, *flags))
    assert not (tmp_path / example12.NAME / "mnist_cnn.npz").exists()


def test_min_accuracy(finished, sample_dir, tmp_path, capsys):
    weights = ["--weights", finished[0] / "mnist_cnn.npz", "--min-accuracy", 1.01]
    code, lines = status(example12.main, capsys, *arguments(sample_dir, tmp_path, *weights))
    assert code == 1
    assert "is below --min-accuracy" in lines[-1]


def test_interrupted_while_it_trains(sample_dir, tmp_path):
    argv = arguments(sample_dir, tmp_path, "--epochs", 10_000)
    process = start(example12.__file__, *argv)
    stop_when(process, (tmp_path / example12.NAME).is_dir, signal.SIGINT)
    assert not list((tmp_path / example12.NAME).iterdir())


@pytest.mark.real
def test_numpy_on_mnist(tmp_path):
    data_dir = ROOT / "datasets" / "downloads"
    if not any((data_dir / "mnist").glob("t10k-images-idx3-ubyte*")):
        pytest.skip(f"lay the four files of MNIST in {data_dir}/mnist")
    argv = ["--data-dir", data_dir, "--models-dir", tmp_path, "--epochs", 3]
    metrics, _ = run(example12.main, *argv)
    assert metrics["data"] == "MNIST"
    assert metrics["test_accuracy"] > 0.92
    assert metrics["largest_difference"] < 1e-4
