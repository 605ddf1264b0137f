"""Example 14: the network of example 06, trained to a better result in the same time.

You will learn what makes training fast: whitened inputs, layers that begin as identity,
orthogonalised steps (Muon), small images first, alternating flips, a gradient by hand;
and that six views of an image are more certain than one.

    python examples/example14_cifar10_record.py                # downloads 170 MB once
    python examples/example14_cifar10_record.py --data sample  # offline, on drawings

The recipe is not ours. All but the small images and the gradient is Keller Jordan's
record, cifar10-airbench (https://github.com/KellerJordan/cifar10-airbench,
https://arxiv.org/abs/2404.00498, https://kellerjordan.github.io/posts/muon/). It goes
back to tysam-code's hlb-CIFAR10 (https://github.com/tysam-code/hlb-CIFAR10) and David
Page (https://www.myrtle.ai/2018/09/24/how_to_train_your_resnet/). For two cores in
place of a GPU, our network is smaller, with ReLU, and so are the batches.
docs/results.md has the measured results. Before this one: example 13, the weights of
VGG16 in one file. After it: example 15, detection.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so `datasets` is ours
from examples.helpers import cli, device, report  # isort: skip  # before TensorFlow
import numpy as np
import tensorflow as tf

from datasets import cifar10
from examples.helpers.run import Run
from models.normalisation import BatchNormalisation
from models.training import accuracy, count_parameters, mean_loss, one_cycle, predict

NAME = Path(__file__).stem
EPOCHS, BATCH_SIZE = 9, 500
LEARNING_RATE = 0.12  # of the kernels, at the peak of the cycle
OFFSET_RATE, HEAD_RATE = 160, 20  # times that: of the two other groups of variables
MOMENTUM, WEIGHT_DECAY, LABEL_SMOOTHING = 0.6, 5e-4, 0.2
WARM_UP = 0.1  # share of the steps in which the learning rate rises
CHANNELS = (32, 64, 192)  # of the three stages, each of two convolutions
SHIFT = 2  # pixels by which an image is moved at most, in each direction
SMALL, SMALL_SHARE = 24, 0.6  # side of the small images; share of the epochs with them
VALIDATION_SHARE = 50  # one in so many training images is held back; to choose, 10

# %% Data
# Half of the images are mirrored in even epochs, the others in odd ones: *alternating*
# flips show more that is new than chance does. Long runs also hide a square of each
# image (cutout, T. DeVries, G. Taylor 2017, https://arxiv.org/abs/1708.04552).
# Convolutions slide over images of any size. So the first epochs learn from crops of 24
# pixels, in little more than half the time, and the later ones refine on whole images
# what they have learned (M. Tan, Q. Le 2021, https://arxiv.org/abs/2104.00298).


def augment(images: np.ndarray, mirrored, size: int, cutout: int, rng) -> np.ndarray:
    """Crop uint8 images (N, 32, 32, 3) to `size`, mirror some, and hide squares."""
    results = np.empty((len(images), size, size, 3), np.uint8)
    border = (SHIFT, SHIFT) if size == 32 else (0, 0)  # whole images are only moved
    images = np.pad(images, ((0, 0), border, border, (0, 0)), mode="symmetric")
    corners = rng.integers(0, images.shape[1] - size + 1, (len(images), 2))
    squares = rng.integers(1 - cutout, size, (len(images), 2))
    for i, ((y, x), (top, left)) in enumerate(zip(corners, squares, strict=True)):
        crop = images[i, y : y + size, x : x + size]
        results[i] = crop[:, ::-1] if mirrored[i] else crop
        results[i, max(0, top) : top + cutout, max(0, left) : left + cutout] = 120
    return results


# %% Whitening
# Neighbouring pixels are nearly equal, so gradient descent would need long to find the
# small differences that matter. *Whitening*, a fixed first layer, turns every patch of
# 2 x 2 pixels into 12 uncorrelated numbers of equal variance: the principal components,
# each divided by its standard deviation (A. Coates, H. Lee, A. Ng, AISTATS 2011). What
# hardly varies is noise, and not blown up: all variances get 2 more.


def whitening_kernels(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute each colour's mean, rounded, (3,), and kernels (2, 2, 3, 12), float32."""
    mean = images.mean(axis=(0, 1, 2)).round().astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(images - mean, (2, 2), (1, 2))
    patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 12)  # of all places
    variances, components = np.linalg.eigh(np.cov(patches, rowvar=False))
    kernels = components / np.sqrt(variances + 2)  # one in each column
    return mean, kernels.reshape(2, 2, 3, 12).astype(np.float32)


# %% Convolution
# TensorFlow knows the gradients of its operations. On a CPU, that of the kernel is the
# slowest part of a step, and for images of 4 x 4 pixels nine matrix products are
# faster: the gradient of the weight at one of the nine places is the sum, over all
# windows, of the pixel there times the gradient of what came out.


@tf.custom_gradient
def convolution_by_hand(x: tf.Tensor, kernel: tf.Tensor):
    """Convolve images (N, H, W, inputs) with a kernel (3, 3, inputs, outputs)."""

    def gradients(upstream):
        _, height, width, _ = x.shape
        padded = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
        of_kernel = []
        for row, column in np.ndindex(3, 3):
            pixels = padded[:, row : row + height, column : column + width]
            of_kernel.append(tf.einsum("nhwi,nhwo->io", pixels, upstream))
        of_x = tf.nn.conv2d_transpose(upstream, kernel, tf.shape(x), 1, "SAME")
        return of_x, tf.reshape(tf.stack(of_kernel), kernel.shape)

    return tf.nn.conv2d(x, kernel, strides=1, padding="SAME"), gradients


# %% Model
# The stages are those of example 06. The first outputs of a convolution begin as copies
# of its inputs: the *identity* lets the signal through from the first step on. Batch
# normalisation is fused into one operation (models/normalisation.py). The head gets the
# largest value of each channel. A ninth of its logits keeps high learning rates from
# doing harm at the start.


class Network(tf.Module):
    """The variables, all float32, and the way from images to logits, in `dtype`."""

    def __init__(self, images: np.ndarray, channels, dtype: tf.DType, seed: int):
        super().__init__()
        rng = np.random.default_rng(seed)
        self.dtype = dtype
        self.mean, self.whitening = whitening_kernels(images)
        self.kernels, self.norms, inputs = [], [], 12
        for outputs in np.repeat(channels, 2):
            kernel = rng.uniform(-1, 1, (3, 3, inputs, outputs)) / np.sqrt(9 * inputs)
            same = min(inputs, outputs)
            kernel[..., :same] = 0
            kernel[1, 1, range(same), range(same)] = 1
            self.kernels.append(tf.Variable(kernel, dtype=tf.float32))
            self.norms.append(BatchNormalisation(outputs, keep=0.6))
            inputs = outputs
        head = rng.uniform(-1, 1, (inputs, 10)) / np.sqrt(inputs)
        self.head = tf.Variable(head, dtype=tf.float32)

    @tf.function
    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Compute float32 logits (N, 10) from uint8 images (N, size, size, 3)."""
        x = tf.cast(images, self.dtype) - tf.cast(self.mean, self.dtype)  # exact
        x = tf.nn.conv2d(x, tf.cast(self.whitening, self.dtype), 1, "SAME")
        for layer, kernel in enumerate(self.kernels):
            kernel = tf.cast(kernel, self.dtype)
            if x.shape[1] <= 4:
                x = convolution_by_hand(x, kernel)
            else:
                x = tf.nn.conv2d(x, kernel, strides=1, padding="SAME")
            if layer % 2 == 0:  # (N, 16, 16, 32), (N, 8, 8, 64) and (N, 4, 4, 192)
                x = tf.nn.max_pool2d(x, ksize=2, strides=2, padding="VALID")
            x = tf.nn.relu(self.norms[layer](x, training))
        x = tf.cast(tf.reduce_max(x, axis=[1, 2]), tf.float32)  # (N, 192)
        return tf.matmul(x, self.head) / 9


# %% Update rule
# A kernel's velocity, written as a matrix, is long in a few directions and short in all
# others, along which the network hardly learns. *Muon* makes a step about equally long
# in all: $U V^T$ in place of $U S V^T$, the singular value decomposition. To decompose
# would take too long. But a polynomial of the matrix with odd powers only changes
# nothing but the singular values; three times (a Newton-Schulz iteration) it brings
# them near 1:
#
# $$s \leftarrow 3.4445\,s - 4.7750\,s^3 + 2.0315\,s^5$$


def orthogonal(matrix: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Return about U V^T, computed in `dtype`, for a float32 matrix U S V^T."""
    x = tf.cast(matrix / (tf.norm(matrix) + 1e-7), dtype)  # no s is above 1 now
    for _ in range(3):
        square = tf.matmul(x, x, transpose_a=True)
        x = 3.4445 * x + x @ (-4.7750 * square + 2.0315 * square @ square)
    return tf.cast(x, tf.float32)


def direction(velocity: tf.Variable, gradient: tf.Tensor) -> tf.Tensor:
    """Take a gradient into its velocity, and look ahead, as example 06 explains."""
    velocity.assign(MOMENTUM * velocity + gradient)
    return gradient + MOMENTUM * velocity


# %% Training step
# There are three groups of variables. A kernel takes orthogonal steps; in place of
# weight decay, it is brought to the same length before each. An offset takes far longer
# steps, and so does the head, whose weights decay.


class Training(tf.Module):
    """A network, and the velocities of its three groups of variables."""

    def __init__(self, network: Network):
        super().__init__()
        self.network = network
        self.groups = [network.kernels, [n.offset for n in network.norms], network.head]
        self.velocity = tf.nest.map_structure(lambda v: tf.Variable(0 * v), self.groups)

    @tf.function(autograph=False)  # it has no loop or branch for the graph
    def step(self, images: np.ndarray, labels: np.ndarray, rate: tf.Tensor) -> dict:
        """Learn from a batch; each size of images is compiled by itself."""
        with tf.GradientTape() as tape:
            logits = self.network(images, training=True)
            loss = mean_loss(logits, labels, LABEL_SMOOTHING)
        kernels, offsets, head = self.groups
        of_kernels, of_offsets, of_head = tape.gradient(loss, self.groups)
        gradients = [of_kernels, of_offsets, of_head + WEIGHT_DECAY * head]
        steps = tf.nest.map_structure(direction, self.velocity, gradients)
        for kernel, step in zip(kernels, steps[0], strict=True):
            matrix = tf.reshape(step, [-1, kernel.shape[-1]])
            step = tf.reshape(orthogonal(matrix, self.network.dtype), kernel.shape)
            kernel.assign(kernel * (kernel.shape[-1] ** 0.5 / tf.norm(kernel)))
            kernel.assign_sub(rate * step)
        for offset, step in zip(offsets, steps[1], strict=True):
            offset.assign_sub(OFFSET_RATE * rate * step)
        head.assign_sub(HEAD_RATE * rate * steps[2])
        return {"loss": loss, "accuracy": accuracy(logits, labels)}


# %% Evaluation
# The mean of the logits of six views is more certain than those of one: the image,
# moved by a pixel up and left, down and right, and the mirror images of all three.


def predict_six_views(network: Network, images: np.ndarray) -> np.ndarray:
    """Return the logits (6, N, 10) of six views of each image; the first is itself."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    moved = [padded[:, i : i + 32, i : i + 32] for i in (1, 0, 2)]
    return np.stack([predict(network, x[:, :, ::d]) for x in moved for d in (1, -1)])


# %% Run
# What makes it exact to stop and continue is explained in example 06.


def train(run: Run, training: Training, data: cifar10.Dataset, count, args) -> None:
    """Train from where the run was left to the end of its last epoch."""
    mirrored = np.random.default_rng(args.seed).random(count) < 0.5
    for epoch in run:
        order = np.random.default_rng([args.seed, epoch]).permutation(count)
        size = SMALL if epoch < int(SMALL_SHARE * args.epochs) else 32
        for step in run.steps():
            batch = order[step * args.batch_size : (step + 1) * args.batch_size]
            rng = np.random.default_rng([args.seed, epoch, step])
            flips = mirrored[batch] != epoch % 2
            images = augment(data.train_images[batch], flips, size, args.cutout, rng)
            rate = tf.constant(args.learning_rate * one_cycle(run.done, WARM_UP))
            run.record(training.step(images, data.train_labels[batch], rate))
        logits = predict(training.network, data.validation_images)
        loss = mean_loss(logits, data.validation_labels, LABEL_SMOOTHING)
        share = accuracy(logits, data.validation_labels)
        run.validate({"validation_loss": loss, "validation_accuracy": share})


# %% Main program
# Whitening is computed from a thousand images, so the network is made after the data.


def main(argv: list[str] | None = None) -> dict:
    """Train, evaluate, draw, and return the metrics."""
    parser = cli.make_parser(__doc__, EPOCHS, BATCH_SIZE, LEARNING_RATE)
    add, side = parser.add_argument, cli.number(int, 0, 32)
    add("--channels", type=cli.positive_int, nargs=3, default=CHANNELS, help="numbers")
    add("--cutout", type=side, metavar="N", default=0, help="pixels of a hidden square")
    args = parser.parse_args(argv)
    dtype, folder = device.start(args.precision), args.models_dir / NAME
    data = cifar10.load(args.data, args.data_dir, VALIDATION_SHARE)
    count = len(data.train_images[: args.train_images])
    print(data.summary(count))
    network = Network(data.train_images[:count][:1000], args.channels, dtype, args.seed)
    training = Training(network)
    print(f"{count_parameters(network):,} parameters")

    settings, steps = cli.settings(args, dtype), count // args.batch_size
    run = Run(
        folder, settings, __file__, args.epochs, steps, args.restart, training=training
    )
    train(run, training, data, count, args)

    views, labels = predict_six_views(network, data.test_images), data.test_labels
    probabilities = tf.nn.softmax(views.mean(axis=0)).numpy()
    metrics = settings | run.metrics(args.batch_size)
    metrics |= {
        "data": data.name,
        "test_accuracy": float(accuracy(probabilities, labels)),
        "test_accuracy_from_one_view": float(accuracy(views[0], labels)),
        "parameters": count_parameters(network),
    }
    answers = data.test_images, labels, probabilities, data.class_names
    files = report.plot_results(folder, NAME, metrics["history"], *answers)
    files.append(run.folder)
    return report.finish(folder, metrics, files, argv, args.min_accuracy)


# %% What to try next
# * `--channels 64 256 256 --epochs 32 --cutout 12`: a long run, of half an hour.
# * `SMALL_SHARE = 0`, `LABEL_SMOOTHING = 0`, `WARM_UP = 0.5`: which costs most?
# * Let `orthogonal` return its matrix as it is: plain SGD, with `--learning-rate 1`,
#   `MOMENTUM = 0.85`, `HEAD_RATE = 1`, `OFFSET_RATE = 8`. How many more epochs?
# * Replace tf.nn.relu with tf.nn.gelu: is it better by the epoch, and by the second?

if __name__ == "__main__":
    cli.run(main)
