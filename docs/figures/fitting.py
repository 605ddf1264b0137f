"""Draw the figures of note 5: over- and underfitting, and what helps, measured on MNIST.

    python docs/figures/fitting.py

writes docs/images/fitting_*.svg and the tables fitting_* of the notes. The differences to be seen
are of a percent and less, too small for sample data: this script needs the real MNIST files, which
`datasets.mnist` downloads on first use (12 MB, to datasets/downloads). It trains 185 small
networks, five side by side, which takes about three minutes on two cores.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import drawing  # isort: skip  # before TensorFlow
from drawing import GREY, INK, ROOT  # isort: skip

import numpy as np
import tensorflow as tf
from numpy.polynomial import legendre
from tqdm import tqdm

from datasets import mnist

# %% Polynomials
# A fit by least squares is linear in the measured values: at other places it is S y, with a matrix
# S that depends on the places alone. So all expectations over the noise can be computed exactly.

PLACES = np.linspace(-1, 1, 12)
NOISE = 0.3  # standard deviation of what is added to the wave
DEGREES = (1, 5, 11)  # of the polynomials that are drawn
DRAW = 3  # seed of the noise in the picture
FINE = np.linspace(-1, 1, 1001)
COUNTS = (*range(1, 31), 35, 40, 50, 70, 100, 140, 200)  # of coefficients


def wave(x: np.ndarray) -> np.ndarray:
    """Compute the function that is to be found."""
    return np.sin(1.5 * np.pi * x)


def smoother(places: np.ndarray, count: int) -> np.ndarray:
    """Return S, (len(places), 12): S y is the fitted polynomial of `count` coefficients there.

    The polynomial is a sum of Legendre's, each divided by the root of its mean square and by its
    degree + 1. Where many sums meet all points, the one with the smallest coefficients is taken.
    """
    degrees = np.arange(count)
    scale = np.sqrt(2 * degrees + 1) / (degrees + 1)
    features = legendre.legvander(PLACES, count - 1) * scale
    return (legendre.legvander(places, count - 1) * scale) @ np.linalg.pinv(features)


def expected_errors(count: int) -> dict[str, float]:
    """Return the mean squared errors over all draws of the noise: on points, and in between."""
    at_points, between = smoother(PLACES, count), smoother(FINE, count)
    bias = np.mean((between @ wave(PLACES) - wave(FINE)) ** 2)
    variance = NOISE**2 * np.mean(np.sum(between**2, axis=1))
    rest = np.eye(len(PLACES)) - at_points
    training = np.mean((rest @ wave(PLACES)) ** 2) + NOISE**2 * np.mean(np.sum(rest**2, axis=1))
    return {
        "bias": bias,
        "variance": variance,
        "test": bias + variance + NOISE**2,
        "training": training,
    }


def draw_polynomials() -> None:
    """Draw three fits, the errors by degree, and double descent."""
    y = wave(PLACES) + NOISE * np.random.default_rng(DRAW).normal(size=len(PLACES))
    axes = drawing.panels(3, (3.65, 3.3))
    for degree, style in zip(DEGREES, ("--", "-", "-."), strict=True):
        axes[0].plot(FINE, smoother(FINE, degree + 1) @ y, style, label=f"degree {degree}")
    axes[0].plot(FINE, wave(FINE), ":", color=INK, label="wave")
    axes[0].plot(PLACES, y, "o", color=INK, markersize=5)
    axes[0].set(title="fits to 12 points", xlabel="x", ylim=(-2.3, 2.3))

    errors = {count: expected_errors(count) for count in COUNTS}
    for key, label, style in (
        ("training", "on the 12 points", "s--"),
        ("test", "on new points", "o-"),
        ("bias", "bias²", "v:"),
        ("variance", "variance", "^:"),
    ):
        values = [errors[degree + 1][key] for degree in range(12)]
        axes[1].plot(range(12), np.maximum(values, 1e-9), style, label=label)
    axes[1].set(title="errors by degree", xlabel="degree")

    for key, label, style in (
        ("training", "on the 12 points", "s--"),
        ("test", "on new points", "o-"),
    ):
        values = np.maximum([errors[count][key] for count in COUNTS], 1e-9)
        axes[2].plot(COUNTS, values, style, markersize=3, label=label)
    axes[2].axvline(len(PLACES), color=GREY, linestyle=":")
    axes[2].set(title="beyond 12 coefficients", xlabel="coefficients", xscale="log")
    for axis in axes[1:]:
        axis.set(ylabel="mean squared error", yscale="log", ylim=(2e-3, 5))
    for axis in axes:
        axis.figure.legend(loc="outside lower center", ncols=2)
    drawing.save_panels(axes, "fitting_polynomials")


# %% Networks
# Five networks with two hidden layers are trained side by side: weights (K, inputs, outputs),
# batches (K, N, inputs). Each seed has training images, first weights and an order of its own, and
# they are the same whatever method is tried, so that results can be compared seed by seed.

HIDDEN = (128, 128)
SEEDS = (0, 1, 2, 3, 4)
IMAGES = 1000  # to train on
BATCH = 50
STEPS = 2000  # 100 epochs of 1,000 images
KEEP = 0.9  # share of the old moving average that is kept in every step
EPSILON = 1e-3  # keeps batch normalisation from dividing by zero


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a training differs in; the defaults are the base setting."""

    rate: float = 0.5  # learning rate of the first step; it falls to 0 along a line
    images: int = IMAGES
    shift: int = 0  # pixels by which an image is moved at most, in each direction
    dropout: float = 0.0  # share of the hidden units that are left out
    batch_norm: bool = False
    l2: float = 0.0
    l1: float = 0.0
    smoothing: float = 0.0


class Networks(tf.Module):
    """K networks of the same form, one for each seed."""

    def __init__(self, setting: Setting, seeds: Sequence[int] = SEEDS):
        super().__init__()
        self.setting = setting
        rngs = [np.random.default_rng([seed, 0]) for seed in seeds]
        sizes = [28 * 28, *HIDDEN, 10]

        def normal(inputs, outputs):
            draws = [rng.normal(0, np.sqrt(2 / inputs), (inputs, outputs)) for rng in rngs]
            return tf.Variable(np.stack(draws), dtype=tf.float32)

        def full(value, size, trainable=True):
            return tf.Variable(tf.fill([len(seeds), 1, size], value), trainable=trainable)

        self.kernels = [normal(*pair) for pair in itertools.pairwise(sizes)]
        self.biases = [full(0.0, size) for size in sizes[1:]]
        if setting.batch_norm:
            self.scales = [full(1.0, size) for size in HIDDEN]
            self.moving_means = [full(0.0, size, trainable=False) for size in HIDDEN]
            self.moving_variances = [full(1.0, size, trainable=False) for size in HIDDEN]

    def __call__(self, images: tf.Tensor, training: bool, step=0) -> tf.Tensor:
        """Compute logits (K, N, 10) from uint8 images (K or 1, N, 28, 28, 1).

        `step` chooses the units that are left out in training.
        """
        x = tf.cast(images, tf.float32) / 255
        x = tf.reshape(x, [tf.shape(x)[0], -1, 28 * 28])
        for layer in range(len(HIDDEN)):
            x = tf.matmul(x, self.kernels[layer])  # (K, N, 128)
            if self.setting.batch_norm:
                x = self.normalise(x, layer, training)
            x = tf.nn.relu(x + self.biases[layer])
            if training and self.setting.dropout:
                x = tf.nn.experimental.stateless_dropout(x, self.setting.dropout, [step, layer])
        return tf.matmul(x, self.kernels[-1]) + self.biases[-1]

    def normalise(self, x: tf.Tensor, layer: int, training: bool) -> tf.Tensor:
        """Normalise each unit by the batch in training, else by moving averages; then scale."""
        mean, variance = self.moving_means[layer], self.moving_variances[layer]
        if training:
            batch_mean, batch_variance = tf.nn.moments(x, axes=[1], keepdims=True)
            mean.assign(KEEP * mean + (1 - KEEP) * batch_mean)
            variance.assign(KEEP * variance + (1 - KEEP) * batch_variance)
            mean, variance = batch_mean, batch_variance
        return (x - mean) * tf.math.rsqrt(variance + EPSILON) * self.scales[layer]


def own_images(data: mnist.Dataset, setting: Setting, seeds: Sequence[int] = SEEDS) -> np.ndarray:
    """Return which training images each network has, (K, images)."""
    count = len(data.train_images)
    rngs = [np.random.default_rng([seed, 1]) for seed in seeds]
    return np.stack([rng.permutation(count)[: setting.images] for rng in rngs])


def plan(owned: np.ndarray, steps: int, seeds: Sequence[int] = SEEDS) -> np.ndarray:
    """Return which image is used when, (steps, K, BATCH): epoch after epoch, each shuffled."""
    columns = []
    for seed, images in zip(seeds, owned, strict=True):
        rng = np.random.default_rng([seed, 2])
        epochs = -(-steps * BATCH // len(images))
        order = np.concatenate([rng.permutation(images) for _ in range(epochs)])
        columns.append(order[: steps * BATCH].reshape(steps, BATCH))
    return np.stack(columns, axis=1).astype(np.int32)


def moved(images: tf.Tensor, shift: int, step: tf.Tensor) -> tf.Tensor:
    """Move uint8 images (N, 28, 28, 1) by up to `shift` pixels, each anew; paper comes in."""
    moves = tf.random.stateless_uniform([2, len(images)], [7, step], -shift, shift + 1, tf.int32)
    dx, dy = tf.unstack(tf.cast(moves, tf.float32))
    zero, one = tf.zeros_like(dx), tf.ones_like(dx)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([one, zero, dx, zero, one, dy, zero, zero], axis=1),
        output_shape=[28, 28],
        fill_value=0.0,
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )


def soft_threshold(kernel: tf.Tensor, amount: tf.Tensor) -> tf.Tensor:
    """Bring all weights nearer to zero by `amount`, and those that are nearer than that to zero."""
    return tf.sign(kernel) * tf.maximum(tf.abs(kernel) - amount, 0)


def trained(
    data: mnist.Dataset,
    setting: Setting,
    steps: int = STEPS,
    seeds: Sequence[int] = SEEDS,
    look: Callable[[int, Networks], None] | None = None,
    every: int = 0,
) -> Networks:
    """Train by plain stochastic gradient descent; `look` is called after so many steps each."""
    networks = Networks(setting, seeds)
    variables = networks.trainable_variables
    images, labels = tf.constant(data.train_images), tf.constant(data.train_labels)
    batches = plan(own_images(data, setting, seeds), steps, seeds)

    @tf.function
    def go(batches, first):
        for i in tf.range(tf.shape(batches)[0]):
            step = first + i
            chosen = tf.ensure_shape(batches[i], [len(seeds), BATCH])
            x = tf.gather(images, tf.reshape(chosen, [-1]))  # (K * BATCH, 28, 28, 1)
            if setting.shift:
                x = moved(x, setting.shift, step)
            x = tf.reshape(x, [len(seeds), BATCH, 28, 28, 1])
            targets = tf.one_hot(tf.gather(labels, chosen), 10)
            targets = targets * (1 - setting.smoothing) + setting.smoothing / 10
            with tf.GradientTape() as tape:
                logits = networks(x, training=True, step=step)
                losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)  # (K, BATCH)
                loss = tf.reduce_sum(tf.reduce_mean(losses, axis=1))  # each network has its own
                if setting.l2:
                    squares = [tf.reduce_sum(kernel**2) for kernel in networks.kernels]
                    loss += setting.l2 / 2 * tf.add_n(squares)
            rate = setting.rate * (1 - tf.cast(step, tf.float32) / steps)
            gradients = tape.gradient(loss, variables)
            for variable, gradient in zip(variables, gradients, strict=True):
                variable.assign_sub(rate * gradient)
            if setting.l1:
                for kernel in networks.kernels:
                    kernel.assign(soft_threshold(kernel, rate * setting.l1))

    every = every or steps
    for first in range(0, steps, every):
        go(tf.constant(batches[first : first + every]), tf.constant(first))
        if look:
            look(first + every, networks)
    return networks


@tf.function(reduce_retracing=True)
def _quality(networks, images, labels, training):
    logits = networks(images, training)  # (K, N, 10)
    labels = tf.broadcast_to(labels, tf.shape(logits)[:2])
    wrong = tf.argmax(logits, axis=2, output_type=tf.int32) != labels
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return tf.reduce_mean(tf.cast(wrong, tf.float32), axis=1), tf.reduce_mean(losses, axis=1)


def quality(networks: Networks, images, labels, batch: int = 5000, training: bool = False):
    """Return the share of wrong answers and the mean cross-entropy, each float64 (K,).

    Args:
        networks: K networks.
        images: uint8 (N, 28, 28, 1), or (K, N, 28, 28, 1) for images of their own.
        labels: (N,) or (K, N).
        batch: how many images are computed at a time; N is a multiple of it, or smaller.
        training: whether the networks compute as in training, which is a mistake here.
    """
    if labels.ndim == 1:
        images, labels = images[None], labels[None]
    parts = [
        _quality(networks, images[:, i : i + batch], labels[:, i : i + batch], training)
        for i in range(0, labels.shape[1], batch)
    ]
    return np.mean([[np.array(value, float) for value in part] for part in parts], axis=0)


# %% What helps
# Each method by itself, in a few strengths. The strength with the lowest mean validation error is
# taken, and only these networks see the test images.

BASE = Setting()
RATES = (0.2, 0.5, 1.0)
HIGHER_RATES = (1.0, 2.0, 4.0)  # tried with batch normalisation besides
SIZES = (250, 1000, 4000, 16_000, 55_000)
STRENGTHS = {
    "shift": (1, 2, 3),
    "dropout": (0.2, 0.4, 0.6),
    "l2": (1e-3, 3e-3, 1e-2),
    "l1": (3e-5, 1e-4, 3e-4),
    "smoothing": (0.1, 0.2, 0.4),
}
NAMES = {
    "shift": "moved by up to {} pixels",
    "dropout": "dropout, rate {}",
    "l2": "L2, λ = {}",
    "l1": "L1, λ = {}",
    "smoothing": "label smoothing, {}",
}


def plain(strength: float) -> str:
    """Write a strength without exponent: 0.00003 for 3e-05."""
    return np.format_float_positional(strength, trim="-")


def title(name: str, strength: float) -> str:
    """Return a method's name in the table of errors."""
    return NAMES[name].format(plain(strength))


LOOK = 40  # steps between two looks of early stopping: two epochs
QUICK_STEPS = 200  # of the comparison of learning rates
QUICK_RATES = (0.1, 0.3, 1.0, 3.0, 10.0)


def on_validation(data: mnist.Dataset, networks: Networks) -> np.ndarray:
    """Return the validation errors in percent, (K,)."""
    return 100 * quality(networks, data.validation_images, data.validation_labels)[0]


def on_test(data: mnist.Dataset, networks: Networks) -> np.ndarray:
    """Return the test errors in percent, (K,)."""
    return 100 * quality(networks, data.test_images, data.test_labels)[0]


def on_training(data: mnist.Dataset, networks: Networks) -> np.ndarray:
    """Return errors in percent and losses on (up to 1,000 of) each network's own images, (2, K)."""
    owned = own_images(data, networks.setting)[:, :IMAGES]
    errors, losses = quality(networks, data.train_images[owned], data.train_labels[owned])
    return np.stack([100 * errors, losses])


class EarlyStopping:
    """Looks at networks while they are trained, and keeps the weights of the best moments."""

    def __init__(self, data: mnist.Dataset):
        self.data = data
        self.steps: list[int] = []
        self.history: list[np.ndarray] = []  # (2, 2, K): training, validation; errors, losses
        self.best: list[list[np.ndarray]] = [[], []]  # by error, by loss: the variables
        self.best_steps = np.zeros([2, len(SEEDS)], int)

    def look(self, step: int, networks: Networks) -> None:
        """Note errors in percent and losses, and keep the weights of networks that are best now."""
        data = self.data
        errors, losses = quality(networks, data.validation_images, data.validation_labels)
        row = np.stack([on_training(data, networks), [100 * errors, losses]])
        self.steps.append(step)
        self.history.append(row)
        for criterion in range(2):
            now = [variable.numpy() for variable in networks.variables]
            before = [past[1, criterion] for past in self.history[:-1]]
            better = row[1, criterion] < np.min(before, axis=0, initial=np.inf)
            self.best_steps[criterion][better] = step
            kept = self.best[criterion] or now
            self.best[criterion] = [
                np.where(better[:, None, None], new, old)
                for new, old in zip(now, kept, strict=True)
            ]

    def networks(self, criterion: int) -> Networks:
        """Return the networks as they were at their best, by error (0) or by loss (1)."""
        networks = Networks(BASE)
        for variable, value in zip(networks.variables, self.best[criterion], strict=True):
            variable.assign(value)
        return networks


@dataclasses.dataclass
class Results:
    """All that was measured, and what is needed to draw it."""

    data: mnist.Dataset
    stopping: EarlyStopping
    rate_errors: dict[float, np.ndarray]  # validation errors of the base setting, percent
    strength_errors: dict[str, dict[float, np.ndarray]]  # validation errors, percent
    normalised_errors: dict[float, np.ndarray]  # by learning rate, with batch normalisation
    zeros: dict[float, float]  # by strength of L1: share of weights that are 0
    sparsest: Networks  # those with the strongest L1
    chosen: dict[str, float]
    networks: dict[str, Networks]  # of the table, by name
    sizes: dict[int, Networks]
    quick_losses: dict[bool, list[np.ndarray]]  # with and without batch normalisation


def measure(data: mnist.Dataset) -> Results:
    """Train all networks."""
    strengths = sum(map(len, STRENGTHS.values()))
    total = len(RATES) + strengths + 1 + len(HIGHER_RATES) + 1 + len(SIZES) - 1
    bar = tqdm(total=total, leave=False)

    def train(setting: Setting, **options) -> Networks:
        networks = trained(data, setting, **options)
        bar.update()
        return networks

    stopping = EarlyStopping(data)
    base = train(BASE, look=stopping.look, every=LOOK)
    rate_errors = {
        rate: on_validation(
            data, base if rate == BASE.rate else train(dataclasses.replace(BASE, rate=rate))
        )
        for rate in RATES
    }
    table = {"none": base}
    strength_errors, zeros, chosen = {}, {}, {}
    for name, strengths in STRENGTHS.items():
        tried = {s: train(dataclasses.replace(BASE, **{name: s})) for s in strengths}
        errors = {s: on_validation(data, networks) for s, networks in tried.items()}
        chosen[name] = min(errors, key=lambda s, errors=errors: errors[s].mean())
        strength_errors[name] = errors
        table[title(name, chosen[name])] = tried[chosen[name]]
        if name == "l1":
            zeros = {s: share_of_zeros(networks) for s, networks in tried.items()}
            sparsest = tried[strengths[-1]]
        if name == "dropout":
            normalised = {
                rate: train(Setting(rate, batch_norm=True)) for rate in (BASE.rate, *HIGHER_RATES)
            }
            normalised_errors = {r: on_validation(data, n) for r, n in normalised.items()}
            best = min(normalised_errors, key=lambda r: normalised_errors[r].mean())
            table["batch normalisation"] = normalised[BASE.rate]
            table[f"batch normalisation, learning rate {best:g}"] = normalised[best]
    table["early stopping, by validation loss"] = stopping.networks(1)
    table["early stopping, by validation error"] = stopping.networks(0)
    both = dataclasses.replace(BASE, shift=chosen["shift"], dropout=chosen["dropout"])
    table["moved, and dropout"] = train(both)
    sizes = {
        size: base if size == IMAGES else train(dataclasses.replace(BASE, images=size))
        for size in SIZES
    }
    table["4 times the images"] = sizes[4 * IMAGES]
    quick = {
        batch_norm: [
            on_training(data, trained(data, Setting(rate, batch_norm=batch_norm), QUICK_STEPS))[1]
            for rate in QUICK_RATES
        ]
        for batch_norm in (False, True)
    }
    bar.close()
    return Results(
        data=data,
        stopping=stopping,
        rate_errors=rate_errors,
        strength_errors=strength_errors,
        normalised_errors=normalised_errors,
        zeros=zeros,
        sparsest=sparsest,
        chosen=chosen,
        networks=table,
        sizes=sizes,
        quick_losses=quick,
    )


def share_of_zeros(networks: Networks) -> float:
    """Return which share of the weights is exactly 0."""
    return float(np.mean(np.concatenate([k.numpy().ravel() == 0 for k in networks.kernels])))


# %% Tables


def write_errors(results: Results) -> None:
    """Write the errors of each method on training and test images."""
    data, rows, base = results.data, [], None
    for name, networks in results.networks.items():
        training = on_training(data, networks)[0]
        errors, losses = quality(networks, data.test_images, data.test_labels)
        errors = 100 * errors
        base = errors if base is None else base
        better = "" if errors is base else f"{np.sum(errors < base)} of {len(errors)}"
        rows.append(
            [
                name,
                f"{training.mean():.2f}",
                f"{errors.mean():.2f}",
                f"{errors.min():.2f} – {errors.max():.2f}",
                better,
                f"{losses.mean():.3f}",
            ]
        )
    owned = own_images(data, BASE)
    others = np.setdiff1d(np.arange(len(data.train_images)), owned)[::5][:10_000]
    images, labels = data.train_images[others], data.train_labels[others]
    elsewhere = 100 * quality(results.networks["none"], images, labels)[0]
    header = ["method", "training error, %", "test error, %", "range", "better", "test loss"]
    rates = [f"{e.mean():.2f} % at {rate:g}" for rate, e in results.rate_errors.items()]
    text = (
        "Mean and range over five seeds; *better*: how many of the five have a lower test error "
        "than with the same images and first weights, unregularised. The learning rate of the base "
        "setting was chosen by the validation error, which "
        f"was {', '.join(rates[:-1])} and {rates[-1]}. "
        f"On {len(others):,} other images from all over the training file, the base networks "
        f"have an error of {elsewhere.mean():.2f} %: "
        "the validation images, its last 5,000, are easier than most."
    )
    drawing.write(drawing.table(header, "lrrrrr", rows) + "\n\n" + text, "fitting_errors")


def write_modes(results: Results) -> None:
    """Write the test errors of networks that compute in the wrong mode."""
    images, labels = results.data.test_images, results.data.test_labels
    by_digit = np.argsort(labels, kind="stable")
    some = np.arange(1000)
    normalised = results.networks["batch normalisation"]
    dropped = results.networks[title("dropout", results.chosen["dropout"])]
    rows = []
    for name, networks, order, batch, training in (
        ("batch normalisation, moving averages", normalised, by_digit, 100, False),
        ("statistics of batches of 100, mixed", normalised, np.arange(10_000), 100, True),
        ("statistics of batches of 100, sorted by digit", normalised, by_digit, 100, True),
        ("statistics of batches of 1 (first 1,000 images)", normalised, some, 1, True),
        ("dropout, off", dropped, np.arange(10_000), 100, False),
        ("dropout, left on", dropped, np.arange(10_000), 100, True),
    ):
        kept = [variable.numpy() for variable in networks.variables]
        errors = 100 * quality(networks, images[order], labels[order], batch, training)[0]
        for variable, value in zip(networks.variables, kept, strict=True):
            variable.assign(value)  # for the mistake also spoils the moving averages
        rows.append([name, f"{errors.mean():.1f}", f"{errors.min():.1f} – {errors.max():.1f}"])
    header = ["networks, and how they compute", "test error, %", "range"]
    drawing.write(drawing.table(header, "lrr", rows), "fitting_modes")


def write_points(results: Results) -> None:
    """Write the points of the pictures as numbers, for who wants to look them up."""
    data, rows = results.data, []

    def add(picture: str, x, values: np.ndarray) -> None:
        shown = (f"{v:.4g}" for v in (values.mean(), values.min(), values.max()))
        rows.append([picture, x if isinstance(x, str) else plain(x), *shown])

    for size, networks in results.sizes.items():
        add("images: test error, %", size, on_test(data, networks))
        add("images: training error, %", size, on_training(data, networks)[0])
    for step, values in zip(results.stopping.steps, results.stopping.history, strict=True):
        if step % 200 == 0 or step == LOOK:
            add("step: training loss", step, values[0, 1])
            add("step: validation loss", step, values[1, 1])
            add("step: validation error, %", step, values[1, 0])
    add("step: where the validation loss is least", "", results.stopping.best_steps[1])
    for name, errors in results.strength_errors.items():
        for strength, values in errors.items():
            add(f"{name}: validation error, %", strength, values)
    for rate, values in results.normalised_errors.items():
        add("learning rate: validation error with batch normalisation, %", rate, values)
    for rate, values in results.rate_errors.items():
        add("learning rate: validation error, %", rate, values)
    for strength, share in results.zeros.items():
        add("l1: weights that are 0, %", strength, np.array([100 * share]))
    for batch_norm, losses in results.quick_losses.items():
        name = "with" if batch_norm else "without"
        for rate, values in zip(QUICK_RATES, losses, strict=True):
            add(f"learning rate: training loss {name} batch normalisation", rate, values)
    header = ["picture: quantity", "x", "mean", "least", "largest"]
    drawing.write(drawing.table(header, "lrrrr", rows), "fitting_points")


# %% Figures


def draw_range(axis, x, values: Sequence[np.ndarray], style: str, label: str = "") -> None:
    """Draw means over the seeds, with their ranges."""
    means = np.array([v.mean() for v in values])
    ends = [
        [m - v.min() for m, v in zip(means, values, strict=True)],
        [v.max() - m for m, v in zip(means, values, strict=True)],
    ]
    axis.errorbar(x, means, ends, fmt=style, capsize=3, label=label)


def draw_curves(results: Results) -> None:
    """Draw errors by number of images, and loss and error by step."""
    data = results.data
    axes = drawing.panels(3, (3.65, 3.3))
    test = [on_test(data, networks) for networks in results.sizes.values()]
    training = [on_training(data, networks)[0] for networks in results.sizes.values()]
    draw_range(axes[0], SIZES, test, "o-", "test images")
    draw_range(axes[0], SIZES, training, "s--", "their training images")
    shifted = results.networks[title("shift", results.chosen["shift"])]
    errors = on_test(data, shifted)
    draw_range(axes[0], [IMAGES], [errors], "D", "test images, training images moved")
    axes[0].set(xlabel="training images", ylabel="error, %", xscale="log", ylim=(-0.5, None))
    axes[0].set_xticks(SIZES, [f"{size:,}" for size in SIZES])
    axes[0].minorticks_off()

    history = np.array(results.stopping.history)  # (looks, 2, 2, K)
    for axis, number, name in ((axes[1], 1, "loss"), (axes[2], 0, "error, %")):
        for part, label, style in ((0, "training", "--"), (1, "validation", "-")):
            values = history[:, part, number]
            axis.plot(results.stopping.steps, values.mean(axis=1), style, label=label)
            axis.fill_between(results.stopping.steps, values.min(1), values.max(1), alpha=0.2)
        axis.axvline(
            results.stopping.best_steps[1].mean(), color=INK, linestyle=":", label="least loss"
        )
        axis.set(xlabel="step", ylabel=name)
    axes[1].set(ylim=(0, 0.6))
    axes[2].set(ylim=(-0.5, 20))
    for axis in axes:
        axis.figure.legend(loc="outside lower center", ncols=1 if axis is axes[0] else 3)
    drawing.save_panels(axes, "fitting_curves")


def draw_strengths(results: Results) -> None:
    """Draw what each strength of each method comes to on the validation images."""
    axes = drawing.panels(6)
    base = results.rate_errors[BASE.rate]
    titles = {
        "shift": "moved by up to so many pixels",
        "dropout": "dropout rate",
        "l2": "L2: λ",
        "l1": "L1: λ, and the share of weights that are 0",
        "smoothing": "label smoothing",
    }
    for axis, (name, errors) in zip(axes, results.strength_errors.items(), strict=False):
        places = range(len(errors) + 1)
        draw_range(axis, places, [base, *errors.values()], "o-")
        axis.axhline(base.mean(), color=GREY, linestyle=":")
        labels = ["0", *map(plain, errors)]
        if name == "l1":
            shares = [0, *results.zeros.values()]
            labels = [f"{x}\n{share:.0%}" for x, share in zip(labels, shares, strict=True)]
        axis.set_xticks(places, labels)
        axis.set(xlabel=titles[name], ylabel="validation error, %", ylim=(3.5, 10.5))
    last = axes[-1]
    for batch_norm, label, style in (
        (False, "without", "s--"),
        (True, "with batch normalisation", "o-"),
    ):
        losses = [np.nan_to_num(v, nan=np.inf) for v in results.quick_losses[batch_norm]]
        last.plot(QUICK_RATES, [np.median(v) for v in losses], style, label=label)
    last.set(
        xscale="log",
        yscale="log",
        xlabel="learning rate",
        ylabel=f"training loss after {QUICK_STEPS} steps",
    )
    last.figure.legend(loc="outside lower center", ncols=2)
    drawing.save_panels(axes, "fitting_strengths")


def draw_weights(results: Results) -> None:
    """Draw how large the weights of the first layer are, pixel by pixel, and all in their order."""
    chosen = results.chosen
    shown = {
        "no regularisation": results.networks["none"],
        f"L2, λ = {plain(chosen['l2'])}": results.networks[title("l2", chosen["l2"])],
        f"L1, λ = {plain(chosen['l1'])}": results.networks[title("l1", chosen["l1"])],
        f"L1, λ = {plain(STRENGTHS['l1'][-1])}": results.sparsest,
    }
    axes = [*drawing.panels(4, (1.78, 1.9)), *drawing.panels(1)]
    styles = ("-", "--", "-.", ":")
    for axis, style, (name, networks) in zip(axes, styles, shown.items(), strict=False):
        kernel = np.abs(networks.kernels[0].numpy()[0])  # (784, 128) of the first seed
        means = kernel.mean(axis=1).reshape(28, 28)
        picture = axis.imshow(means, vmin=0, vmax=0.06, cmap="viridis")
        axis.figure.colorbar(picture, location="bottom", ticks=[0, 0.02, 0.04, 0.06])
        axis.set(title=name, xticks=[], yticks=[])
        ordered = np.sort(kernel.ravel())[::-1]
        axes[4].plot(np.linspace(0, 100, len(ordered)), ordered, style, label=name)
    axes[4].set(xlabel="share of the weights, %", ylabel="|weight|", yscale="log", ylim=(1e-6, 2))
    axes[4].legend(loc="lower left", bbox_to_anchor=(0.17, 0))
    drawing.save_panels(axes, "fitting_weights")


def main() -> None:
    """Draw all figures and write all tables."""
    draw_polynomials()
    results = measure(mnist.load("full", ROOT / "datasets" / "downloads"))
    draw_curves(results)
    draw_strengths(results)
    draw_weights(results)
    write_errors(results)
    write_modes(results)
    write_points(results)


if __name__ == "__main__":
    drawing.run(main)
