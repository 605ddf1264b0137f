"""Example 12: a network's weights in one .npz file, and the network in plain NumPy.

You will learn what a network computes, down to multiplying and adding, and how to carry
it to where there is no TensorFlow: the weights of example 05 go into a file that every
machine reads, and from there into NumPy, PyTorch and MATLAB. The logits are the same.

    python examples/example12_npz_weights.py                     # MNIST
    python examples/example12_npz_weights.py --data sample       # offline, small digits
    python examples/example12_npz_weights.py --weights PATH.npz  # from another machine

Where example 05 has not been run, the same network is trained for a moment.
docs/results.md has the measured results. Before this one: example 05, whose network it
is. After it: example 13, .npz files of half a gigabyte.
"""

import importlib.util
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `datasets` is ours
from examples.helpers import cli, device, report  # isort: skip  # before TensorFlow
import numpy as np
import scipy.io
import tensorflow as tf

from datasets import mnist
from models import WeightsError, mnist_cnn
from models.training import accuracy, predict

NAME = Path(__file__).stem
TRAINED = "example05_mnist_cnn_nn"  # whose network it is
AT_ONCE = 250  # images that go through a network in one piece
TOLERANCE = 1e-4  # of logits; float32 has seven digits

Array = np.ndarray
Weights = Mapping[str, np.ndarray]

# %% The weights
# A network is its weights, and some lines of code that compute with them. Example 05
# has left a checkpoint, in which TensorFlow names variables after attributes of Python
# objects: the kernel of `conv2` is `network/kernels/1/.ATTRIBUTES/VARIABLE_VALUE`, and
# reading it takes objects with the same attributes. Others are better served by names
# that say what each array is: `conv2/kernel`.


def find_network(path: Path | None, trained: Path, data: mnist.Dataset) -> tuple:
    """Return the network, from an .npz file or example 05, and seconds of training."""
    if path is None:
        images, labels = data.train_images, data.train_labels
        return mnist_cnn.trained(trained, data.name, images, labels)
    network = mnist_cnn.make_network()
    arrays = weights_from_npz(path, mnist_cnn.weights_of(network))
    network.set_weights(list(arrays.values()))
    return network, 0.0


# %% The file
# An .npz file is a zip archive of .npy files, and each of these is one array: a line of
# text that gives its dtype and shape, and then the numbers as they lie in memory
# (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html).
#
# * The line says `<f4`: floats of 4 bytes, the lowest byte first, "little-endian". Some
#   processors keep them the other way round; we write this way on all of them.
# * An .npy file may also hold Python objects, as a pickle; and reading a pickle runs
#   whatever program is in it. With `allow_pickle=False` that is an error.
# * What we rely on is checked: a kernel of the wrong shape may fit, and answer wrongly.
#   The line of an error names the array, what was found, and what was expected.


def weights_to_npz(path: Path, weights: Weights) -> Path:
    """Write little-endian float32 arrays to an .npz file, and return its path."""
    arrays = {name: np.asarray(array, "<f4") for name, array in weights.items()}
    with cli.replacing(path) as part:
        np.savez(part, allow_pickle=False, **arrays)
    return path


def weights_from_npz(path: Path, like: Weights) -> dict[str, Array]:
    """Read float32 weights with the names and shapes of `like` from an .npz file.

    Raises:
        WeightsError: there is no such file, it is damaged, or something else is in it.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except Exception as error:  # a dozen kinds, from NumPy and zipfile
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"cannot read {path} as an .npz file: {reason}") from error
    found = {name: f"{array.dtype.str} {array.shape}" for name, array in arrays.items()}
    wanted = {name: f"<f4 {array.shape}" for name, array in like.items()}
    for name in [*wanted, *found]:
        kind, expected = found.get(name, "missing"), wanted.get(name, "no such array")
        if kind != expected:
            raise WeightsError(f"{path}: {name} is {kind}, expected {expected}")
        if not np.isfinite(arrays[name]).all():
            raise WeightsError(f"{path}: {name} holds numbers that are not finite")
    return {name: arrays[name].astype(np.float32, copy=False) for name in like}


# %% The network in NumPy
# A convolution lays its kernel on a window of the image, multiplies the numbers that
# lie upon each other, adds up the products and a bias, and does so for each window and
# each kernel. Number $k$ of the output at row $y$ and column $x$ is
#
# $$b_k + \sum_{i,\,j,\,c} \mathrm{image}[y + i,\, x + j,\, c]\;
#   \mathrm{kernel}[i,\, j,\, c,\, k]$$
#
# Seven nested loops would take minutes. sliding_window_view returns all windows as one
# more array, without copying a number. If each window is a row of one matrix, and each
# kernel a column of another, their product holds all sums. np.tensordot makes both and
# multiplies them, which processors are fastest at (K. Chellapilla, S. Puri, P. Simard
# 2006, https://inria.hal.science/inria-00112631).


def convolution(
    images: Array, kernel: Array, bias: Array, stride: int = 1, padding: int = 0
) -> Array:
    """Slide kernels (h, w, C, K) over images (N, H, W, C) with zeros on each side.

    Returns (N, y, x, K), with y = (H + 2 padding - h) // stride + 1 and x likewise.
    """
    images = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(images, kernel.shape[:2], (1, 2))
    windows = windows[:, ::stride, ::stride]  # (N, rows, columns, C, h, w)
    return np.tensordot(windows, kernel, axes=[(4, 5, 3), (0, 1, 2)]) + bias


def max_pooling(images: Array) -> Array:
    """Keep the largest of each 2 x 2 numbers: (N, H, W, C) to (N, H / 2, W / 2, C)."""
    count, height, width, channels = images.shape
    squares = images.reshape(count, height // 2, 2, width // 2, 2, channels)
    return squares.max(axis=(2, 4))


def numpy_logits(weights: Weights, images: Array) -> Array:
    """Compute float32 logits (N, 10) from uint8 images (N, 28, 28, 1)."""

    def layer(name, x, stride=1, padding=0):
        kernel, bias = weights[f"{name}/kernel"], weights[f"{name}/bias"]
        return np.maximum(convolution(x, kernel, bias, stride, padding), 0)  # ReLU

    x = images.astype(np.float32) / 255  # from 0 to 1
    x = layer("conv1", x, stride=2)  # (N, 12, 12, 32)
    x = max_pooling(layer("conv2", x))  # (N, 5, 5, 64)
    x = layer("conv4", layer("conv3", x), padding=1)  # (N, 3, 3, 128)
    return x.reshape(len(x), -1) @ weights["dense/kernel"] + weights["dense/bias"]


# %% The network in PyTorch
# PyTorch computes the same, with its axes in another order:
#
#                TensorFlow, NumPy          PyTorch
#   images       (N, height, width, in)     (N, in, height, width)
#   convolution  (height, width, in, out)   (out, in, height, width)
#   dense        (in, out)                  (out, in)
#
# Beware of the dense layer. Its 1152 inputs are an image of 3 x 3 pixels and 128
# channels in one row: here pixel by pixel, in PyTorch channel by channel. So its kernel
# is seen as one of a convolution that covers the image, turned as the others are, and
# made flat again. Transposed only, it would fit as well, and give wrong answers.
#
# Padding has no names here: `padding=1` puts one row of zeros on each side, which is
# TensorFlow's `"SAME"` for a kernel of 3 x 3 and a stride of 1. Images come with the
# channels first, so `permute` turns them before the first layer.


def weights_for_pytorch(weights: Weights) -> dict[str, Array]:
    """Return the weights by PyTorch's names, in its order of axes: a `state_dict`."""
    arrays = {}
    for name, array in weights.items():
        if name == "dense/kernel":
            array = array.reshape(3, 3, 128, 10).transpose(3, 2, 0, 1).reshape(10, -1)
        elif name.endswith("kernel"):
            array = array.transpose(3, 2, 0, 1)
        arrays[name.replace("/", ".").replace("kernel", "weight")] = array
    return arrays


def pytorch_logits(weights: Weights, images: Array) -> Array:
    """Compute float32 logits (N, 10) from uint8 images (N, 28, 28, 1)."""
    import torch

    state = {n: torch.tensor(a) for n, a in weights_for_pytorch(weights).items()}

    def layer(name, x, stride=1, padding=0):
        kernel, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return torch.relu(torch.conv2d(x, kernel, bias, stride, padding))

    x = torch.tensor(images).permute(0, 3, 1, 2) / 255  # (N, 1, 28, 28)
    x = layer("conv1", x, stride=2)  # (N, 32, 12, 12)
    x = torch.max_pool2d(layer("conv2", x), 2)  # (N, 64, 5, 5)
    x = layer("conv4", layer("conv3", x), padding=1)  # (N, 128, 3, 3)
    return (x.flatten(1) @ state["dense.weight"].T + state["dense.bias"]).numpy()


# %% A file for MATLAB
# In MATLAB, `load("mnist_cnn.mat")` makes a struct of each layer; `conv2.kernel` is
# 3 x 3 x 32 x 64, the order of axes of its `convolution2dLayer`. A .mat file has no
# arrays with one axis, and holds the elements column by column: SciPy sees to both.


def weights_to_mat(path: Path, weights: Weights) -> Path:
    """Write a .mat file with a struct for each layer, and return its path."""
    layers = {}
    for name, array in weights.items():
        layer, kind = name.split("/")
        layers.setdefault(layer, {})[kind] = array
    with cli.replacing(path) as part:
        scipy.io.savemat(part, layers)
    return path


# %% Comparison
# Three libraries compute the same sums in different orders, and rounding differs with
# the order. So the logits are not the same to the last bit, but within `TOLERANCE` of
# each other; a kernel with two axes exchanged would be far outside of it. Each library
# is called once before it is timed, for what it does only once.


def compare(libraries: dict[str, Callable], images: Array, labels: Array) -> dict:
    """Print and return each library's figures; the logits of the first are right."""
    print("             test accuracy   largest difference   images a second")
    figures, expected = {}, None
    for name, logits_of in libraries.items():
        logits_of(images[:AT_ONCE])  # what a library does only once
        began = time.perf_counter()
        logits = predict(logits_of, images, AT_ONCE)
        speed = round(len(images) / (time.perf_counter() - began))
        expected = logits if expected is None else expected
        difference = float(np.abs(logits - expected).max())
        share = float(accuracy(logits, labels))
        print(f"{name:12} {share:13.4f} {difference:20.1e} {speed:17,}")
        if not difference <= TOLERANCE * max(1, np.abs(expected).max()):
            raise cli.UserError(f"{name} differs from TensorFlow by {difference:.1e}")
        figures[name] = {"test_accuracy": share, "largest_difference": difference}
        figures[name]["images_per_second"] = speed
    return figures


# %% Run
# The weights go into the file and are read from it again, so that what follows computes
# with what a stranger would find there. PyTorch is compared where it is installed;
# nothing else of this repository needs it. The setting of TensorFloat-32 is for GPUs,
# some of which would round the numbers to three digits on the way.


def main(argv: list[str] | None = None) -> dict:
    """Write the file, compute with what it holds, compare; return the metrics."""
    parser = cli.make_parser(__doc__)
    parser.add_argument("--weights", type=Path, metavar="PATH", help=".npz file to use")
    args = parser.parse_args(argv)
    device.start("float32")
    tf.config.experimental.enable_tensor_float_32_execution(False)  # three digits
    tf.keras.utils.set_random_seed(0)
    data = mnist.load(args.data, args.data_dir)
    print(data.summary(len(data.train_images)))

    folder, trained = args.models_dir / NAME, args.models_dir / TRAINED
    network, seconds = find_network(args.weights, trained, data)
    source = "a moment's training" if seconds else cli.shown(args.weights or trained)
    print("weights:", source)
    weights = mnist_cnn.weights_of(network)
    npz = weights_to_npz(folder / "mnist_cnn.npz", weights)
    mat = weights_to_mat(folder / "mnist_cnn.mat", weights)
    weights = weights_from_npz(npz, weights)  # from here on, the file is all there is
    parameters = sum(array.size for array in weights.values())
    print(f"{npz.name}: {parameters:,} parameters, {npz.stat().st_size:,} bytes")

    libraries = {"TensorFlow": network.predict_on_batch}
    libraries["NumPy"] = partial(numpy_logits, weights)
    if importlib.util.find_spec("torch"):
        libraries["PyTorch"] = partial(pytorch_logits, weights)
    figures = compare(libraries, data.test_images, data.test_labels)
    metrics = figures["NumPy"] | {
        "data": data.name,
        "weights": source,
        "precision": "float32",
        "train_seconds": round(seconds, 1),
        "parameters": parameters,
        "libraries": figures,
    }
    return report.finish(folder, metrics, [npz, mat], argv, args.min_accuracy)


# %% What to try next
# * Write convolution() as the loops of the formula. How many images a second are left?
# * Only transpose the dense layer's kernel for PyTorch. How many digits are right?
# * numpy_logits() needs NumPy alone: carry that cell and the file to a Raspberry Pi.

if __name__ == "__main__":
    cli.run(main)
