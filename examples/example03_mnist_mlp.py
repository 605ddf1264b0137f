"""Example 03: softmax regression and a network with hidden layers, for MNIST.

You will learn the framework that all of deep learning shares, slowly and with nothing hidden:
one-hot labels, weights, a loss, its gradient, and many small steps down that gradient. Two models
go through it, softmax regression and a network with two hidden layers, and are compared.

    python examples/example03_mnist_mlp.py                     # MNIST; downloads 12 MB once
    python examples/example03_mnist_mlp.py --image seven.png    # what digit is this?
    python examples/example03_mnist_mlp.py --data sample       # offline, on small sample data

The README has the measured results, each with its machine, versions, seeds and time.

Before this one: example 02, a training run seen through TensorBoard. After it: example 04, which
replaces the hidden layers by convolutions, and what is written out here by Keras.
"""

import itertools
import sys
import time
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # so that `datasets` is ours
from examples import common  # isort: skip  # before TensorFlow, which it imports silently

import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from datasets import mnist

NAME = Path(__file__).stem
EPOCHS = 10
BATCH_SIZE = 500
SAMPLE_BATCH_SIZE = (
    50  # of 500, the 1,287 sample images would make only two steps in an epoch
)
LEARNING_RATE = 0.2  # at the peak of the cycle
HIDDEN = (512, 512)  # perceptrons in each hidden layer
MOMENTUM = 0.9
LONGEST_GRADIENT = 1.0  # a longer one is shortened to this
WARM_UP = (
    0.1  # share of the steps in which the learning rate rises; then it falls to zero
)
SHIFT = 1  # pixels by which an image is moved at most, in each direction
PIXEL_MEAN, PIXEL_DEVIATION = 33.3, 78.6  # of MNIST's training images, of 255

# %% Data
# MNIST has 60,000 training images of handwritten digits and 10,000 test images, 28 x 28 pixels from
# 0 (paper) to 255 (ink). The last 5,000 training images are for validation: every choice in this
# file was made on them. The test images are used once, at the end; whoever chooses by them measures
# only how well they chose.
#
# A label is a number, but a 3 is not more than a 2, or nearer to it than to a 7. One-hot encoding
# makes it a vector, 1 at the place of the digit and 0 elsewhere. It is what the network is to put
# out: all of the probability on the right digit.


def one_hot(labels: tf.Tensor, classes: int) -> tf.Tensor:
    """Turn labels (N,), such as [2], into float32 (N, classes), such as [[0, 0, 1, 0, ...]]."""
    return tf.cast(labels[:, None] == tf.range(classes), tf.float32)


# %% Model
# A perceptron (F. Rosenblatt 1958) multiplies each input by a weight and adds up the products and a
# constant, the bias. A layer of perceptrons with the same inputs x is a product with a matrix,
# x W + b. The softmax turns ten such sums, called logits, into probabilities: exp(logit), divided
# by the total of all ten.
#
# (a) Softmax regression, or multinomial logistic regression: 784 pixels, ten perceptrons, nothing
#     else. The weights of each are a template that is laid on the image (templates.png). One
#     template cannot know sevens with a bar, sevens without, and keep both apart from ones.
# (b) Hidden layers in between. Two layers would be no more than one, x (W1 W2), if nothing stood
#     between them. ReLU(x) = max(x, 0) does: a hidden perceptron answers to some images and is
#     silent for others, and the next layer combines such answers.
#
# Weights start at random, or all perceptrons of a layer would learn the same. Their variance of
# 2 / inputs keeps the signal as strong behind a ReLU as before it (K. He et al. 2015, section 2.2,
# https://arxiv.org/abs/1502.01852). The output layer starts at zero: no opinion.


class Network(tf.Module):
    """Layers of perceptrons; without hidden layers, `hidden=()`, it is softmax regression."""

    def __init__(self, hidden, dtype: tf.DType, seed: int):
        super().__init__()
        rng = np.random.default_rng(seed)
        self.dtype = dtype
        sizes = [28 * 28, *hidden]
        self.kernels = [
            tf.Variable(
                rng.normal(0, np.sqrt(2 / inputs), (inputs, outputs)), dtype=tf.float32
            )
            for inputs, outputs in itertools.pairwise(sizes)
        ]
        self.kernels.append(tf.Variable(tf.zeros([sizes[-1], 10])))
        self.biases = [
            tf.Variable(tf.zeros(kernel.shape[1])) for kernel in self.kernels
        ]

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Compute float32 logits (N, 10) from uint8 images (N, 28, 28, 1)."""
        x = tf.reshape(tf.cast(images, tf.float32), [-1, 28 * 28])  # (N, 784)
        x = (x - PIXEL_MEAN) / PIXEL_DEVIATION  # of mean 0 and variance 1
        for kernel, bias in zip(self.kernels[:-1], self.biases[:-1], strict=True):
            x = tf.matmul(tf.cast(x, self.dtype), tf.cast(kernel, self.dtype))
            x = tf.nn.relu(x + tf.cast(bias, self.dtype))  # (N, 512)
        return (
            tf.matmul(tf.cast(x, tf.float32), self.kernels[-1]) + self.biases[-1]
        )  # (N, 10)

    @tf.function(reduce_retracing=True)
    def infer(self, images: tf.Tensor) -> tf.Tensor:
        """Compute logits as outside of training, compiled once for any number of images."""
        return self(images)


def parameters(network: tf.Module) -> int:
    """Count the weights and biases of a network."""
    return sum(int(tf.size(variable)) for variable in network.variables)


# %% Loss
# Cross-entropy: minus the logarithm of the probability that is given to the right digit. It is 0
# for certainty, ln 10 = 2.30 for no opinion, and grows without bound for certainty of the wrong.
#
# It is computed from the logits: log(exp(z_i) / sum exp(z)) = z_i - log(sum exp(z)), where
# tf.reduce_logsumexp takes the largest logit out of the sum first. The softmax and then its
# logarithm would be log(0) as soon as one logit is a hundred below another.


def mean_loss(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Return the cross-entropy of logits (N, C) and labels (N,), averaged over the batch."""
    right = tf.reduce_sum(one_hot(labels, logits.shape[1]) * logits, axis=1)  # (N,)
    return tf.reduce_mean(tf.reduce_logsumexp(logits, axis=1) - right)


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of rows of logits (N, 10) whose largest entry is the label's."""
    return float(np.mean(np.argmax(logits, axis=-1) == labels))


# %% Training step
# The gradient says how the loss changes with each weight; a small step against it lowers the loss.
# The tape records what is computed and goes back through it by the chain rule. With all images, a
# step would take a second; with a mini-batch of 500 it takes milliseconds, and the direction is
# nearly as good: 110 steps in an epoch, which is a pass over all images in a new random order.
#
# (b) has more weights than there are images, so it can learn them by heart: the loss goes on
# falling for the training images and no longer for others, which is called over-fitting. Against
# it, each image is moved by up to a pixel, anew in every epoch. The digit stays the same, and its
# pixels, the only thing that could be learned by heart, do not. (a) cannot over-fit much, and
# moving would blur its templates: it sees the images as they are.


def all_shifts(images: np.ndarray, shift: int) -> np.ndarray:
    """Return a view in which [i, y, x] is image i, moved by y - shift down and x - shift right.

    uint8 images (N, 28, 28, 1) become (N, 2 shift + 1, 2 shift + 1, 28, 28); paper comes in.
    """
    padded = np.pad(images[..., 0], ((0, 0), (shift, shift), (shift, shift)))
    return np.lib.stride_tricks.sliding_window_view(padded, (28, 28), axis=(1, 2))[
        :, ::-1, ::-1
    ]


class Training(tf.Module):
    """Everything that changes while training, so that a checkpoint of it holds the whole state."""

    def __init__(self, network: Network, epochs: int, shift: int):
        super().__init__()
        self.network, self.shift = network, shift
        self.velocities = [
            tf.Variable(tf.zeros_like(v)) for v in network.trainable_variables
        ]
        self.epoch = tf.Variable(0)  # how many are done
        self.history = tf.Variable(tf.zeros([epochs, len(common.HISTORY)], tf.float64))

    @tf.function
    def train_step(self, images, labels, learning_rate):
        """Go one step down the gradient of one batch; return its loss and accuracy, (2,).

        Plain gradient descent is `variable -= learning_rate * gradient`. In a long valley it swings
        from side to side and hardly moves along. The velocity is a fading sum of gradients in which
        the swings cancel out; Nesterov momentum looks one velocity ahead (I. Sutskever et al.,
        ICML 2013, section 2). Where the loss is steep, a step as long as the gradient would leap
        far beyond the valley, so the gradient is clipped (R. Pascanu et al., ICML 2013, section
        3.2).
        """
        with tf.GradientTape() as tape:
            logits = self.network(images)
            loss = mean_loss(logits, labels)
        variables = self.network.trainable_variables
        gradients = tape.gradient(loss, variables)
        gradients, _ = tf.clip_by_global_norm(gradients, LONGEST_GRADIENT)
        for variable, velocity, gradient in zip(
            variables, self.velocities, gradients, strict=True
        ):
            velocity.assign(MOMENTUM * velocity + gradient)
            variable.assign_sub(learning_rate * (gradient + MOMENTUM * velocity))
        right = tf.equal(tf.argmax(logits, axis=1, output_type=tf.int32), labels)
        return tf.stack([loss, tf.reduce_mean(tf.cast(right, tf.float32))])


def one_cycle(done: float) -> float:
    """Return the learning rate's share of its peak when the share `done` of the steps is done."""
    return min(
        done / WARM_UP, (1 - done) / (1 - WARM_UP)
    )  # large steps first; small ones settle


# %% Evaluation


def evaluate(training: Training, data: mnist.Dataset, images_in_epoch: int) -> dict:
    """Return the test accuracy of a network and how its training went, for metrics.json."""
    history = common.as_history(training.history)
    seconds = sum(history["seconds"])
    return {
        "test_accuracy": accuracy(
            training.network.infer(data.test_images), data.test_labels
        ),
        "train_seconds": round(seconds, 1),
        "images_per_second": round(len(history["seconds"]) * images_in_epoch / seconds),
        "parameters": parameters(training.network),
        "history": history,
    }


def plot_both(results: dict[str, dict], path: Path, title: str) -> Path:
    """Plot loss and accuracy by epoch, of both networks in one picture."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6))
    for axis, key in zip(axes, ("loss", "accuracy"), strict=True):
        for colour, (name, result) in zip(
            ("tab:orange", "tab:blue"), results.items(), strict=True
        ):
            for part, prefix, style in (
                ("training", "", "-"),
                ("validation", "validation_", "--"),
            ):
                values = result["history"][prefix + key]
                epochs, label = range(1, len(values) + 1), f"{name}, {part}"
                axis.plot(
                    epochs, values, style, marker="o", c=colour, ms=4, label=label
                )
        axis.set(xlabel="epoch", ylabel=key)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.suptitle(title)
    return common.save_figure(figure, path)


def plot_templates(network: Network, path: Path) -> Path:
    """Draw the weights of softmax regression: ink on red speaks for the digit, on blue against."""
    templates = network.kernels[0].numpy().T.reshape(10, 28, 28)
    shades = 0.5 + 0.5 * templates / np.abs(templates).max(axis=(1, 2), keepdims=True)
    colours = plt.get_cmap("bwr")(shades)[..., :3]
    return common.plot_images(
        colours, path, "Templates of softmax regression", "0123456789", 5
    )


# %% Run
# A checkpoint of both networks is written after every epoch. Order and shifts depend only on the
# seed and the number of the epoch, so a run that was stopped, even by a power cut, ends with the
# same weights as one that was not. Ctrl-C stops after the epoch at hand, which takes a second.


def train(training: Training, data: mnist.Dataset, args, manager, stop_asked):
    """Train from the epoch where the checkpoint left off to the last one."""
    labels = data.train_labels[: args.train_images]
    shifts = all_shifts(data.train_images[: args.train_images], training.shift)
    steps = (
        len(labels) // args.batch_size
    )  # in an epoch; images left over wait for the next
    print(common.EPOCH_HEADING)
    for epoch in range(int(training.epoch), args.epochs):
        started, sums = time.perf_counter(), 0
        rng = np.random.default_rng([args.seed, epoch])
        order = rng.permutation(len(labels))
        down, across = rng.integers(0, 2 * training.shift + 1, (2, len(labels)))
        for i in range(steps):
            batch, step = (
                order[i * args.batch_size :][: args.batch_size],
                epoch * steps + i,
            )
            rate = args.learning_rate * one_cycle(
                (step + 1) / (steps * args.epochs + 1)
            )
            images = shifts[batch, down[batch], across[batch]][
                ..., None
            ]  # (N, 28, 28, 1)
            sums += training.train_step(images, labels[batch], tf.constant(rate))
        loss, right = sums.numpy() / steps
        seconds = time.perf_counter() - started
        logits = training.network.infer(data.validation_images)
        validation_loss = float(mean_loss(logits, data.validation_labels))
        validation_right = accuracy(logits, data.validation_labels)
        row = [loss, right, validation_loss, validation_right, seconds]
        common.report_epoch(epoch + 1, row)
        training.history[epoch].assign(row)
        training.epoch.assign(epoch + 1)
        common.save(manager)
        if stop_asked() and epoch + 1 < args.epochs:
            raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> dict:
    """Train both networks, compare, draw, and return the metrics; or classify a picture."""
    parser = common.make_parser(__doc__, EPOCHS, BATCH_SIZE, LEARNING_RATE)
    add = parser.add_argument
    add(
        "--hidden",
        type=common.positive_int,
        nargs="+",
        default=HIDDEN,
        help="hidden layers",
    )
    add("--image", type=Path, metavar="PATH", help="picture of a digit to classify")
    add("--restart", action="store_true", help="begin anew, without checkpoints")
    args = parser.parse_args(argv)
    dtype = common.start(args.precision)
    folder = args.models_dir / NAME
    linear, deep = (Network(hidden, dtype, args.seed) for hidden in ((), args.hidden))
    if args.image:
        image = mnist.read_picture(args.image)
        common.read_weights(deep, folder, __file__)
        return common.show_digit(
            image, tf.nn.softmax(deep.infer(image[None])[0]).numpy(), folder
        )

    if args.data == "sample" and args.batch_size == BATCH_SIZE:
        args.batch_size = SAMPLE_BATCH_SIZE
        print(f"--batch-size {SAMPLE_BATCH_SIZE}, for there are few sample images")
    data = mnist.load(args.data, args.data_dir)
    count = common.count_images(data, args)
    trainings = {
        "softmax regression": Training(linear, args.epochs, shift=0),
        "hidden layers": Training(deep, args.epochs, SHIFT),
    }
    settings = common.run_settings(args, dtype, "hidden")
    checkpoints = folder / "checkpoints" / common.fingerprint(settings, __file__)
    checkpoint = tf.train.Checkpoint(trainings=list(trainings.values()))
    manager = common.open_checkpoints(checkpoint, checkpoints, args.restart)
    if manager.latest_checkpoint:
        print(f"going on from {common.shown(manager.latest_checkpoint)}")
    with common.ctrl_c() as stop_asked:
        for name, training in trainings.items():
            if stop_asked() and int(training.epoch) < args.epochs:
                raise KeyboardInterrupt
            print(f"{name}: {parameters(training.network):,} parameters")
            train(training, data, args, manager, stop_asked)

    images_in_epoch = count // args.batch_size * args.batch_size
    results = {
        name: evaluate(t, data, images_in_epoch) for name, t in trainings.items()
    }
    for name, result in results.items():
        print(f"{name + ':':19} test accuracy {result['test_accuracy']:.4f}")
    metrics = settings | results["hidden layers"] | {"data": data.name}
    metrics["softmax_regression"] = results["softmax regression"]
    metrics["train_seconds"] = round(
        sum(r["train_seconds"] for r in results.values()), 1
    )
    probabilities = tf.nn.softmax(deep.infer(data.test_images)).numpy()
    title = f"Example 03, {data.name}"
    labels, names = data.test_labels, data.class_names
    files = [
        plot_both(results, folder / "learning_curves.png", title),
        plot_templates(linear, folder / "templates.png"),
        common.plot_confusion_matrix(
            labels,
            probabilities.argmax(axis=1),
            names,
            folder / "confusion_matrix.png",
            title,
        ),
        common.plot_worst_mistakes(
            data.test_images,
            labels,
            probabilities,
            names,
            folder / "worst_mistakes.png",
            title,
        ),
        common.write_weights(deep, folder),
        checkpoints,
    ]
    return common.finish(folder, metrics, files, args, argv, __file__)


# %% What to try next
# * --image with a photograph of a digit that you have written: what has become of it in
#   picture.png? Move it, turn it, write with a thinner pen: when does the network fail?
# * --hidden 32, --hidden 2048, --hidden 128 128 128 128: what counts more, width or depth?
# * SHIFT = 0: what happens to the gap between the dashed line and the solid one? And with dropout
#   (tf.nn.experimental.stateless_dropout behind each ReLU, in training only) in place of shifts?
# * Leave out tf.nn.relu: how far do two hidden layers get without it?
# * MOMENTUM = 0: how many epochs does plain gradient descent need?
# * --data sample with LONGEST_GRADIENT = 1e9: what does clipping prevent?

if __name__ == "__main__":
    common.run(main)
