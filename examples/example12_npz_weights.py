"""Example 12: a network's weights in one .npz file, and the network in plain NumPy.

You will learn what a network computes, down to multiplying and adding, and how to carry it to where
there is no TensorFlow: the weights of example 05 go into a file that NumPy reads on every machine,
and from there into TensorFlow, NumPy, PyTorch and MATLAB. The logits are the same.

    python examples/example12_npz_weights.py                     # the network of example 05, MNIST
    python examples/example12_npz_weights.py --data sample       # offline, on small sample data
    python examples/example12_npz_weights.py --weights PATH.npz  # a file from another machine

The README has the measured results, each with its machine, versions, seeds and time.

Before this one: example 05, whose network it is. After it: example 13, .npz files of half a
gigabyte.
"""

import importlib.util
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # so that `datasets` is ours
from examples import common  # isort: skip  # before TensorFlow, which it imports silently

import numpy as np
import scipy.io
import tensorflow as tf
from numpy.lib.stride_tricks import sliding_window_view
from tqdm import tqdm

from datasets import mnist
from models import WeightsError

NAME = Path(__file__).stem
TRAINED_BY = "example05_mnist_cnn_nn"
EPOCHS = 8  # of the moment's training, where example 05 has not run
TRAIN_IMAGES = 5000  # for it
BATCH_SIZE = 64
LEARNING_RATE = 1e-3
BATCH = 250  # images that go through a network at once
TOLERANCE = 1e-4  # of logits: float32 has seven digits, and each library adds up in its own order

# %% Names
# A network is its weights, and some lines of code that compute with them. Whoever is given the
# weights must see what each of them is; so names and shapes are settled first. A layer has a kernel
# and a bias, which is added to each of its outputs. The axes of the kernels are
#
#   convolution   (height, width, channels in, channels out)
#   dense         (numbers in, numbers out)

CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4")
SHAPES = {
    "conv1/kernel": (5, 5, 1, 32),
    "conv1/bias": (32,),
    "conv2/kernel": (3, 3, 32, 64),
    "conv2/bias": (64,),
    "conv3/kernel": (3, 3, 64, 128),
    "conv3/bias": (128,),
    "conv4/kernel": (3, 3, 128, 128),
    "conv4/bias": (128,),
    "dense/kernel": (3 * 3 * 128, 10),
    "dense/bias": (10,),
}

# %% The network in TensorFlow
# It is the network of example 05, where each operation is explained.


def tensorflow_logits(weights: Mapping, images: np.ndarray) -> tf.Tensor:
    """Compute float32 logits (N, 10) from uint8 images (N, 28, 28, 1)."""

    def layer(name, x, stride=1, padding="VALID"):
        x = tf.nn.conv2d(x, weights[f"{name}/kernel"], stride, padding)
        return tf.nn.relu(x + weights[f"{name}/bias"])

    x = tf.cast(images, tf.float32) / 255  # from 0 to 1
    x = layer("conv1", x, stride=2)  # (N, 12, 12, 32)
    x = layer("conv2", x)  # (N, 10, 10, 64)
    x = tf.nn.max_pool2d(x, ksize=2, strides=2, padding="VALID")  # (N, 5, 5, 64)
    x = layer("conv3", x)  # (N, 3, 3, 128)
    x = layer("conv4", x, padding="SAME")  # (N, 3, 3, 128)
    x = tf.reshape(x, [-1, 3 * 3 * 128])  # (N, 1152)
    return tf.matmul(x, weights["dense/kernel"]) + weights["dense/bias"]  # (N, 10)


# %% The weights
# Example 05 has left a checkpoint, in which variables are named after the attributes of its Python
# objects: conv2/kernel is network/kernels/1/.ATTRIBUTES/VARIABLE_VALUE. So reading it takes objects
# with the same attributes. That is one reason to give others a file with names of its own.


def get_weights(data: mnist.Dataset, args) -> tuple[dict[str, np.ndarray], str, float]:
    """Return float32 weights, where they come from, and the seconds of training for them."""
    if args.weights:
        return read_npz(args.weights), common.shown(args.weights), 0.0
    rng = np.random.default_rng(args.seed)
    variables = {}
    for name, shape in SHAPES.items():
        deviation = np.sqrt(2 / np.prod(shape[:-1])) if name.endswith("kernel") else 0.0
        variables[name] = tf.Variable(rng.normal(0, deviation, shape), dtype=tf.float32)

    folder, seconds = args.models_dir / TRAINED_BY, 0.0
    if (folder / "weights.index").is_file():
        network = tf.train.Checkpoint(
            kernels=[variables[f"{name}/kernel"] for name in CONVOLUTIONS],
            biases=[variables[f"{name}/bias"] for name in CONVOLUTIONS],
            dense=variables["dense/kernel"],
            dense_biases=variables["dense/bias"],
        )
        common.read_weights(network, folder, f"{TRAINED_BY}.py")
        source = common.shown(folder)
    else:
        source = (
            f"a moment's training, because there are none in {common.shown(folder)}"
        )
        seconds = train_for_a_moment(variables, data, args)
    return (
        {name: variable.numpy() for name, variable in variables.items()},
        source,
        seconds,
    )


def train_for_a_moment(
    variables: dict[str, tf.Variable], data: mnist.Dataset, args
) -> float:
    """Train on some of the images, and return how many seconds it took."""
    images, labels = data.train_images[: args.train_images], data.train_labels
    trained = list(variables.values())
    optimizer = tf.keras.optimizers.Adam(args.learning_rate)
    optimizer.build(trained)

    @tf.function(reduce_retracing=True)
    def train_step(images, labels):
        with tf.GradientTape() as tape:
            logits = tensorflow_logits(variables, images)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses)
        optimizer.apply_gradients(
            zip(tape.gradient(loss, trained), trained, strict=True)
        )
        return loss

    started = time.perf_counter()
    for epoch in tqdm(range(args.epochs), "training", leave=False):
        order = np.random.default_rng([args.seed, epoch]).permutation(len(images))
        for batch in np.split(
            order, range(args.batch_size, len(order), args.batch_size)
        ):
            loss = float(train_step(images[batch], labels[batch]))
        if not np.isfinite(loss):
            raise common.UserError(
                f"the loss is {loss:.4g}: use a smaller --learning-rate"
            )
    return time.perf_counter() - started


# %% The file
# An .npz file is a zip archive of .npy files, and each of these is one array: a line of text that
# gives its dtype and shape, and then the numbers as they lie in memory (NumPy, "numpy.lib.format",
# https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html). Example 13 looks inside.
#
# * The line says '<f4': floats of 4 bytes, the lowest byte first, "little-endian". Some processors
#   keep them the other way round; we write this way on all of them.
# * An .npy file may also hold Python objects, as a pickle; and reading a pickle runs whatever
#   program is in it. With allow_pickle=False that is an error: weights are numbers, nothing else.
# * Half a file can look like a whole one. So it is written under another name and renamed when it
#   is whole: whenever the program is stopped, its name belongs to the old file or to the new one.
# * What we rely on is checked. A kernel of the wrong shape may well fit, and give wrong answers.


def write_npz(path: Path, weights: Mapping[str, np.ndarray]) -> Path:
    """Write arrays as little-endian float32 to an .npz file, and return its path."""
    arrays = {name: np.asarray(array, "<f4") for name, array in weights.items()}
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    os.replace(part, path)
    return path


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read the weights that SHAPES names, float32, from an .npz file.

    Raises:
        WeightsError: there is no such file, it is damaged, or something else is in it.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except (
        Exception
    ) as error:  # a damaged file raises a dozen kinds of errors in NumPy and zipfile
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{path} cannot be read as an .npz file: {reason}"
        ) from error
    for name, shape in SHAPES.items():
        if name not in arrays:
            raise WeightsError(
                f"{path}: {name} is missing; is it a file of this network?"
            )
        array = arrays[name]
        if array.shape != shape:
            raise WeightsError(
                f"{path}: {name} has shape {array.shape}, expected {shape}"
            )
        if array.dtype != "<f4":
            raise WeightsError(
                f"{path}: {name} has dtype {array.dtype.str}, expected <f4"
            )
        if not np.isfinite(array).all():
            raise WeightsError(
                f"{path}: {name} holds values that are not finite numbers"
            )
    for name in arrays:
        if name not in SHAPES:
            raise WeightsError(f"{path}: {name} is not a weight of this network")
    return {name: arrays[name].astype(np.float32, copy=False) for name in SHAPES}


# %% The network in NumPy
# A convolution lays its kernel on a window of the image, multiplies the numbers that lie upon each
# other, adds up the products and a bias, and does so for each window and each kernel:
#
#   output[n, y, x, k] = bias[k] + the sum, over all rows i, columns j and channels c of the kernel,
#                                  of image[n, y + i, x + j, c] * kernel[i, j, c, k]
#
# Seven nested loops would do it, and take minutes. Two steps make it fast:
#
# 1. Think of the windows as one more array. sliding_window_view returns it without copying a
#    number: windows[n, y, x] is the window at row y and column x of image n, and each pixel is seen
#    in many of them. A stride leaves windows out.
# 2. The sum is a matrix product, if each window is a row of one matrix and each kernel a column of
#    another. np.tensordot makes these two matrices, which copies each pixel of the image into all
#    of its windows, and lets the processor do what it is fastest at. Many libraries do the same
#    (K. Chellapilla, S. Puri, P. Simard 2006, https://inria.hal.science/inria-00112631).


def convolution(
    images: np.ndarray,
    kernel: np.ndarray,
    bias: np.ndarray,
    stride: int = 1,
    padding: int = 0,
) -> np.ndarray:
    """Slide kernels (h, w, C, K) over images (N, H, W, C) with `padding` zeros on each side.

    Returns:
        (N, (H + 2 padding - h) // stride + 1, (W + 2 padding - w) // stride + 1, K).
    """
    images = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    windows = sliding_window_view(images, kernel.shape[:2], axis=(1, 2))[
        :, ::stride, ::stride
    ]
    # windows are (N, rows, columns, C, h, w); the sum goes over h, w and C of both
    return np.tensordot(windows, kernel, axes=[(4, 5, 3), (0, 1, 2)]) + bias


def relu(x: np.ndarray) -> np.ndarray:
    """Cut off below zero. Without it, all layers together could do no more than one."""
    return np.maximum(x, 0)


def max_pooling(images: np.ndarray) -> np.ndarray:
    """Keep the largest of each 2 x 2 numbers: (N, H, W, C) becomes (N, H / 2, W / 2, C)."""
    count, height, width, channels = images.shape
    squares = images.reshape(count, height // 2, 2, width // 2, 2, channels)
    return squares.max(axis=(2, 4))


def numpy_logits(weights: Mapping[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    """Compute float32 logits (N, 10) from uint8 images (N, 28, 28, 1)."""

    def layer(name, x, stride=1, padding=0):
        kernel, bias = weights[f"{name}/kernel"], weights[f"{name}/bias"]
        return relu(convolution(x, kernel, bias, stride, padding))

    x = images.astype(np.float32) / 255  # from 0 to 1
    x = layer("conv1", x, stride=2)  # (N, 12, 12, 32)
    x = layer("conv2", x)  # (N, 10, 10, 64)
    x = max_pooling(x)  # (N, 5, 5, 64)
    x = layer("conv3", x)  # (N, 3, 3, 128)
    x = layer("conv4", x, padding=1)  # (N, 3, 3, 128)
    x = x.reshape(len(x), -1)  # (N, 1152)
    return x @ weights["dense/kernel"] + weights["dense/bias"]  # (N, 10)


# %% The network in PyTorch
# PyTorch computes the same, with its axes in another order:
#
#                 TensorFlow, and NumPy above         PyTorch
#   images        (N, height, width, channels)        (N, channels, height, width)
#   convolution   (height, width, in, out)            (out, in, height, width)
#   dense         (in, out)                           (out, in)
#
# Beware of the dense layer. Its 1152 inputs are an image of 3 x 3 pixels and 128 channels in one
# row: here pixel by pixel, in PyTorch channel by channel. So its kernel is seen as one of a
# convolution that covers the image, is turned as the others are, and made flat again. Transposed
# only, it would fit as well, and the answers would be wrong.


def pytorch_arrays(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the weights by PyTorch's names and in its order of axes: a `state_dict` of arrays."""
    arrays = {}
    for name, array in weights.items():
        layer, kind = name.split("/")
        if kind == "kernel":
            kernel = array.reshape(3, 3, 128, 10) if layer == "dense" else array
            turned = kernel.transpose(3, 2, 0, 1)
            array = turned.reshape(10, -1) if layer == "dense" else turned
        arrays[f"{layer}.{'weight' if kind == 'kernel' else kind}"] = (
            np.ascontiguousarray(array)
        )
    return arrays


def pytorch_logits(weights: Mapping[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    """Compute float32 logits (N, 10) from uint8 images (N, 28, 28, 1)."""
    import torch
    from torch.nn import functional

    state = {
        name: torch.from_numpy(array) for name, array in pytorch_arrays(weights).items()
    }

    def layer(name, x, stride=1, padding=0):
        kernel, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return functional.relu(functional.conv2d(x, kernel, bias, stride, padding))

    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255  # (N, 1, 28, 28)
    x = layer("conv1", x, stride=2)  # (N, 32, 12, 12)
    x = layer("conv2", x)  # (N, 64, 10, 10)
    x = functional.max_pool2d(x, 2)  # (N, 64, 5, 5)
    x = layer("conv3", x)  # (N, 128, 3, 3)
    x = layer("conv4", x, padding=1)  # (N, 128, 3, 3)
    return functional.linear(
        x.flatten(1), state["dense.weight"], state["dense.bias"]
    ).numpy()


# %% A file for MATLAB
# In MATLAB, load("mnist_cnn.mat") makes a struct of each layer; conv2.kernel is 3 x 3 x 32 x 64.
# MATLAB's convolution2dLayer has our order of axes. A .mat file counts an array's elements column
# by column, and has no arrays with one axis, so a bias becomes a row: scipy takes care of both.


def write_mat(path: Path, weights: Mapping[str, np.ndarray]) -> Path:
    """Write the weights as a .mat file with a struct for each layer, and return its path."""
    layers = {}
    for name, array in weights.items():
        layer, kind = name.split("/")
        layers.setdefault(layer, {})[kind] = array
    part = path.with_name(f"{path.name}.part")
    scipy.io.savemat(part, layers, appendmat=False)
    os.replace(part, path)
    return path


# %% Run


def predict(
    logits: Callable, weights: Mapping, images: np.ndarray, title: str
) -> np.ndarray:
    """Return logits (N, 10) for images (N, 28, 28, 1); no image is left out."""
    starts = tqdm(range(0, len(images), BATCH), title, leave=False)
    return np.concatenate([logits(weights, images[i : i + BATCH]) for i in starts])


def main(argv: list[str] | None = None) -> dict:
    """Write the file, compute with what it holds in each library, compare; return the metrics."""
    parser = common.make_parser(__doc__, EPOCHS, BATCH_SIZE, LEARNING_RATE)
    parser.set_defaults(train_images=TRAIN_IMAGES, precision="float32")
    parser.add_argument(
        "--weights", type=Path, metavar="PATH", help="an .npz file to use instead"
    )
    args = parser.parse_args(argv)
    if args.precision == "bfloat16":
        raise common.UserError(
            "--precision bfloat16 has two digits: comparing takes float32"
        )
    common.start("float32")
    tf.config.experimental.enable_tensor_float_32_execution(
        False
    )  # three digits, on some GPUs
    folder = args.models_dir / NAME
    folder.mkdir(parents=True, exist_ok=True)
    data = mnist.load(args.data, args.data_dir)
    print(common.summary(data, len(data.train_images)))

    weights, source, train_seconds = get_weights(data, args)
    print("weights:", source)
    files = [write_npz(folder / "mnist_cnn.npz", weights)]
    files += [write_mat(folder / "mnist_cnn.mat", weights)]
    weights = read_npz(files[0])  # from here on, the file is all there is
    parameters = sum(array.size for array in weights.values())
    size = files[0].stat().st_size
    print(
        f"{files[0].name}: {len(weights)} arrays, {parameters:,} parameters, {size:,} bytes"
    )

    libraries = {"TensorFlow": tensorflow_logits, "NumPy": numpy_logits}
    if importlib.util.find_spec("torch"):
        libraries["PyTorch"] = pytorch_logits
    else:
        print("PyTorch is not installed, and left out")
    print("             test accuracy   largest difference   images a second")
    results, expected = {}, None
    for name, logits_of in libraries.items():
        logits_of(weights, data.test_images[:1])  # what a library does only once
        started = time.perf_counter()
        logits = predict(logits_of, weights, data.test_images, name)
        speed = len(logits) / (time.perf_counter() - started)
        expected = logits if expected is None else expected  # TensorFlow's, the first
        difference = float(np.abs(logits - expected).max())
        accuracy = float(np.mean(logits.argmax(axis=1) == data.test_labels))
        print(f"{name:12} {accuracy:13.4f} {difference:20.1e} {speed:17,.0f}")
        if not difference <= TOLERANCE * max(1, np.abs(expected).max()):
            raise common.UserError(
                f"{name}'s logits differ from TensorFlow's by {difference:.1e}"
            )
        results[name] = {"test_accuracy": accuracy, "largest_difference": difference,
                         "images_per_second": round(speed)}  # fmt: skip

    metrics = common.run_settings(args, tf.float32) | results["NumPy"] | {
        "data": data.name,
        "weights": source,
        "train_seconds": round(train_seconds, 1),
        "epochs": args.epochs if train_seconds else 0,
        "parameters": parameters,
        "libraries": results,
    }  # fmt: skip
    return common.finish(folder, metrics, files, args, argv, __file__)


# %% What to try next
# * Write convolution() as the loops of the formula. How many images a second are left?
# * Only transpose the dense layer's kernel in pytorch_arrays(). How many digits are still right?
# * numpy_logits() needs NumPy alone: carry that cell and the file to a Raspberry Pi.
# * Write the gradient of convolution(), and train the network in NumPy.

if __name__ == "__main__":
    common.run(main)
