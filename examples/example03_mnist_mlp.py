"""Example 03: softmax regression and a network with hidden layers, for MNIST.

You will learn the framework that all of deep learning shares, with nothing hidden:
one-hot labels, weights, a loss, its gradient, and many small steps down that gradient.
Two networks go through it and are compared: softmax regression, and a multilayer
perceptron (MLP) with two hidden layers.

    python examples/example03_mnist_mlp.py                     # downloads 12 MB once
    python examples/example03_mnist_mlp.py --image seven.png   # what digit is this?
    python examples/example03_mnist_mlp.py --data sample       # offline, on drawings

The recipe is put together from papers, each named where it is used. docs/results.md
has the measured results. Before this one: example 02, a training run seen through
TensorBoard. After it: example 04, which replaces the hidden layers by convolutions, and
what is written out here by Keras.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `datasets` is ours
from examples.helpers import cli, device, report  # isort: skip  # before TensorFlow
import matplotlib
import numpy as np
import tensorflow as tf

from datasets import mnist
from examples.helpers.run import Run
from models.saved import read_weights, write_weights
from models.training import count_parameters

NAME = Path(__file__).stem
EPOCHS, BATCH_SIZE = 10, 500
SAMPLE_BATCH_SIZE = 50  # of 500, the sample images would fill two batches
LEARNING_RATE = 0.2  # at the peak of the cycle
HIDDEN = (512, 512)  # perceptrons in each hidden layer
MOMENTUM = 0.9
LONGEST_GRADIENT = 1.0  # a longer one is shortened to this
WARM_UP = 0.1  # share of the steps in which the learning rate rises
SHIFT = 1  # pixels by which an image is moved at most, in each direction
PIXEL_MEAN, PIXEL_DEVIATION = 33.3, 78.6  # of MNIST's training images, of 255

# %% Data
# MNIST has 60,000 training images of handwritten digits and 10,000 test images, 28 x 28
# pixels from 0 (paper) to 255 (ink). The last 5,000 training images are for validation:
# every choice in this file was made on them. The test images are used once, at the end.
#
# A label is a number, but a 3 is not more than a 2, or nearer to it than to a 7.
# One-hot encoding makes it a vector, 1 at the place of the digit and 0 elsewhere: what
# the network is to put out, all of the probability on the right digit.


def one_hot(labels: tf.Tensor, classes: int) -> tf.Tensor:
    """Turn labels (N,), such as [2], into float32 (N, classes), such as [[0, 0, 1]]."""
    return tf.cast(labels[:, None] == tf.range(classes), tf.float32)


# %% Augmentation
# A network with hidden layers has more weights than there are images, and can learn
# them by heart: the loss goes on falling for the training images and no longer for
# others, which is called overfitting. Against it, each image is moved by up to a
# pixel, anew in every epoch: the digit stays the same, its pixels do not. Softmax
# regression cannot overfit much, and its templates would blur: it sees the images as
# they are.


def move(images: np.ndarray, shift: int, rng: np.random.Generator) -> np.ndarray:
    """Move images, uint8 (N, 28, 28, 1), by up to `shift` pixels; paper comes in."""
    border = (shift, shift)
    padded = np.pad(images, ((0, 0), border, border, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (28, 28), axis=(1, 2))
    tops, lefts = rng.integers(0, 2 * shift + 1, (2, len(images)))
    moved = windows[np.arange(len(images)), tops, lefts]  # (N, 1, 28, 28)
    return moved.transpose(0, 2, 3, 1)


# %% Model
# A perceptron (F. Rosenblatt 1958) multiplies each input by a weight and adds up the
# products and a constant, the bias. A layer of perceptrons with the same inputs $x$ is
# a product with a matrix, $x W + b$. The softmax turns ten such sums $z$, called
# logits, into probabilities, $p_i = e^{z_i} / \sum_j e^{z_j}$.
#
# Softmax regression, or multinomial logistic regression, is ten perceptrons and nothing
# else. The weights of each are a template that is laid on the image (templates.png).
# One template cannot know sevens with a bar, sevens without, and keep both apart from
# ones.
#
# Hidden layers come in between. Two layers would be no more than one, $x (W_1 W_2)$, if
# nothing stood between them. ReLU, $\max(x, 0)$, does: a hidden perceptron answers to
# some images and is silent for others; the next layer combines such answers.
#
# Weights start at random, or all perceptrons of a layer would learn the same. Their
# variance, $2 / n$ for $n$ inputs, keeps the signal as strong behind a ReLU as before
# it (K. He et al. 2015, section 2.2, https://arxiv.org/abs/1502.01852). The output
# layer starts at zero: no opinion.


class Network(tf.Module):
    """Layers of perceptrons; without hidden layers, `hidden=()`, softmax regression."""

    def __init__(self, hidden: tuple[int, ...], dtype: tf.DType, seed: int):
        super().__init__()
        rng = np.random.default_rng(seed)
        self.dtype = dtype
        self.kernels, inputs = [], 28 * 28
        for outputs in hidden:
            kernel = rng.normal(0, np.sqrt(2 / inputs), (inputs, outputs))
            self.kernels.append(tf.Variable(kernel, dtype=tf.float32))
            inputs = outputs
        self.kernels.append(tf.Variable(tf.zeros([inputs, 10])))
        self.biases = [tf.Variable(tf.zeros(outputs)) for outputs in (*hidden, 10)]

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Compute float32 logits (N, 10) from uint8 images (N, 28, 28, 1)."""
        x = tf.reshape(tf.cast(images, tf.float32), [-1, 28 * 28])  # (N, 784)
        x = (x - PIXEL_MEAN) / PIXEL_DEVIATION  # of mean 0 and variance 1
        for kernel, bias in zip(self.kernels[:-1], self.biases[:-1], strict=True):
            x = tf.matmul(tf.cast(x, self.dtype), tf.cast(kernel, self.dtype))
            x = tf.nn.relu(x + tf.cast(bias, self.dtype))  # (N, 512)
        return tf.matmul(tf.cast(x, tf.float32), self.kernels[-1]) + self.biases[-1]


# %% Loss
# Cross-entropy: minus the logarithm of the probability that is given to the right
# digit. It is 0 for certainty, $\ln 10 = 2.30$ for no opinion, and grows without bound
# for certainty of the wrong. It is computed from the logits,
# $-\ln p_i = \ln \sum_j e^{z_j} - z_i$, where tf.reduce_logsumexp takes the largest
# logit out of the sum first. The softmax and then its logarithm would be $\ln 0$ as
# soon as one logit is a hundred below another.


def mean_loss(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Return the cross-entropy of logits (N, C) and labels (N,), averaged over N."""
    right = tf.reduce_sum(one_hot(labels, logits.shape[1]) * logits, axis=1)  # (N,)
    return tf.reduce_mean(tf.reduce_logsumexp(logits, axis=1) - right)


def accuracy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Return the share of rows of logits (N, C) whose largest entry is the label's."""
    hits = tf.equal(tf.argmax(logits, axis=-1, output_type=tf.int32), labels)
    return tf.reduce_mean(tf.cast(hits, tf.float32))


# %% Training step
# The gradient $g$ says how the loss changes with each weight $w$; a small step against
# it lowers the loss. The tape records what is computed and goes back through it by the
# chain rule. With all images, a step would take a second; with a mini-batch of 500 it
# takes milliseconds, and the direction is nearly as good.
#
# Plain gradient descent, $w \leftarrow w - \eta g$, swings from side to side in a long
# valley and hardly moves along. The velocity $v$ is a fading sum of gradients in which
# the swings cancel out; Nesterov momentum looks one velocity ahead (I. Sutskever et
# al., ICML 2013, section 2):
#
# $$v \leftarrow \mu v + g,\qquad w \leftarrow w - \eta\,(g + \mu v)$$
#
# Where the loss is steep, a step as long as the gradient would leap far beyond the
# valley, so the gradient is clipped (R. Pascanu et al., ICML 2013, section 3.2). The
# learning rate $\eta$ rises to its peak and falls to zero: large steps get far, small
# ones settle (one cycle: L. Smith, N. Topin 2017, https://arxiv.org/abs/1708.07120).


def make_train_step(network: Network, velocities: list[tf.Variable]):
    """Return a compiled function that learns from a batch."""

    @tf.function
    def train_step(images, labels, learning_rate):
        with tf.GradientTape() as tape:
            logits = network(images)
            loss = mean_loss(logits, labels)
        gradients = tape.gradient(loss, network.trainable_variables)
        gradients, _ = tf.clip_by_global_norm(gradients, LONGEST_GRADIENT)
        triples = zip(network.trainable_variables, velocities, gradients, strict=True)
        for weight, velocity, gradient in triples:
            velocity.assign(MOMENTUM * velocity + gradient)
            weight.assign_sub(learning_rate * (gradient + MOMENTUM * velocity))
        return {"loss": loss, "accuracy": accuracy(logits, labels)}

    return train_step


def one_cycle(done: float, warm_up: float) -> float:
    """Return the learning rate, as a share of its peak; `done` is that of the steps."""
    return min(done / warm_up, (1 - done) / (1 - warm_up))


# %% Evaluation
# What a training has come to is asked of the test images, which no step has seen and no
# choice was made on. Softmax regression can be looked into, besides: its weights have
# the shape of an image. And the network can be asked about a picture of your own.


def evaluate(network: Network, run: Run, data: mnist.Dataset, batch_size: int) -> dict:
    """Return what came of a network's training, and how it went, for metrics.json."""
    share = float(accuracy(network(data.test_images), data.test_labels))
    figures = {"test_accuracy": share, "parameters": count_parameters(network)}
    return figures | run.metrics(batch_size)


def plot_templates(network: Network, path: Path) -> Path:
    """Draw softmax regression's weights: red speaks for a digit, blue against it."""
    templates = network.kernels[0].numpy().T.reshape(10, 28, 28)
    shades = templates / np.abs(templates).max(axis=(1, 2), keepdims=True)  # -1 to 1
    colours = matplotlib.colormaps["bwr"](0.5 + 0.5 * shades)[..., :3]
    title = "Templates of softmax regression"
    return report.plot_images(colours, path, title, "0123456789", 5, 0.73)


def classify(picture: Path, network: Network, folder: Path) -> dict:
    """Say which digit a picture shows, by what the last run has learned."""
    image = mnist.read_picture(picture)  # (28, 28, 1)
    read_weights(network, folder, __file__)
    probabilities = tf.nn.softmax(network(image[None])[0]).numpy()
    return report.show_answer(image, probabilities, "0123456789", folder)


# %% Run
# `Run` counts epochs and steps, averages, prints, and saves after every epoch and on
# Ctrl-C; example 06 explains how a run that was stopped can end as one that was not.


def train(network: Network, shift: int, data, settings: dict, folder, args) -> Run:
    """Train from where the run of these settings was left to the end."""
    count = len(data.train_images[: args.train_images])
    steps = count // args.batch_size  # images left over wait for the next epoch
    velocities = [tf.Variable(tf.zeros_like(w)) for w in network.trainable_variables]
    trained = {"network": network, "velocities": velocities}
    run = Run(folder, settings, __file__, args.epochs, steps, args.restart, **trained)
    train_step = make_train_step(network, velocities)
    for epoch in run:
        order = np.random.default_rng([args.seed, epoch]).permutation(count)
        for step in run.steps():
            batch = order[step * args.batch_size : (step + 1) * args.batch_size]
            rng = np.random.default_rng([args.seed, epoch, step])
            images = move(data.train_images[batch], shift, rng)
            rate = tf.constant(args.learning_rate * one_cycle(run.done, WARM_UP))
            run.record(train_step(images, data.train_labels[batch], rate))
        logits, labels = network(data.validation_images), data.validation_labels
        loss, share = mean_loss(logits, labels), accuracy(logits, labels)
        run.validate({"validation_loss": loss, "validation_accuracy": share})
    return run


# %% Main program
# Both networks learn from the same images, in the same order, by the same steps. So
# what the second does better is owed to its hidden layers and to the moved images that
# they need; the pictures show the mistakes of the second.


def main(argv: list[str] | None = None) -> dict:
    """Train both networks, draw, and return the metrics; or classify a picture."""
    parser = cli.make_parser(__doc__, EPOCHS, BATCH_SIZE, LEARNING_RATE)
    parser.add_argument("--hidden", type=cli.positive_int, nargs="+", default=HIDDEN)
    parser.add_argument("--image", type=Path, help="picture of a digit to classify")
    args = parser.parse_args(argv)
    dtype, folder = device.start(args.precision), args.models_dir / NAME
    linear, deep = (Network(hidden, dtype, args.seed) for hidden in ((), args.hidden))
    if args.image:
        return classify(args.image, deep, folder)

    if args.data == "sample" and args.batch_size == BATCH_SIZE:
        args.batch_size = SAMPLE_BATCH_SIZE
        print(f"--batch-size {SAMPLE_BATCH_SIZE}, for there are few sample images")
    data = mnist.load(args.data, args.data_dir)
    print(data.summary(len(data.train_images[: args.train_images])))
    settings, linear_folder = cli.settings(args, dtype), folder / "softmax_regression"
    print(f"softmax regression: {count_parameters(linear):,} parameters")
    linear_run = train(linear, 0, data, settings, linear_folder, args)
    if linear_run.stop_asked:  # in its last epoch, when nothing of it was left to stop
        raise KeyboardInterrupt("the same command goes on with the hidden layers")
    print(f"hidden layers: {count_parameters(deep):,} parameters")
    run = train(deep, SHIFT, data, settings, folder, args)

    regression = evaluate(linear, linear_run, data, args.batch_size)
    print(f"softmax regression: test accuracy {regression['test_accuracy']:.4f}")
    metrics = settings | {"data": data.name, "softmax_regression": regression}
    metrics |= evaluate(deep, run, data, args.batch_size)
    metrics["train_seconds"] += regression["train_seconds"]
    probabilities = tf.nn.softmax(deep(data.test_images)).numpy()
    answers = data.test_images, data.test_labels, probabilities, data.class_names
    files = report.plot_results(folder, "Hidden layers", metrics["history"], *answers)
    files.append(plot_templates(linear, folder / "templates.png"))
    files += [write_weights(deep, folder), run.folder]
    return report.finish(folder, metrics, files, argv, args.min_accuracy)


# %% What to try next
# * `--image` with a photograph of a digit that you have written: what has become of it
#   in picture.png? Move it, turn it, write with a thinner pen: when does the network
#   fail?
# * `--hidden 32`, `--hidden 2048`, `--hidden 128 128 128 128`: width, or depth?
# * `SHIFT = 0`: what happens to the gap between the dashed line and the solid one?
# * Leave out tf.nn.relu: how far do two hidden layers get without it?
# * `--data sample` with `LONGEST_GRADIENT = 1e9`: what does clipping prevent?

if __name__ == "__main__":
    cli.run(main)
