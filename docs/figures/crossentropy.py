"""Draw the figures of note 3: softmax, cross-entropy, and squared error beside it.

    python docs/figures/crossentropy.py

writes docs/images/crossentropy_*.svg and the tables crossentropy_* of the notes. What is trained
here is trained on sample data, scikit-learn's handwritten digits, so that it takes seconds and
comes out the same everywhere.
"""

from collections.abc import Callable

import drawing  # isort: skip  # before TensorFlow
from drawing import GREY  # isort: skip

import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

CLASSES = 10

# %% Losses
# Each takes logits (..., C) and targets of the same shape, and returns (...).


def cross_entropy(logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Compute the cross-entropy of softmax(logits) and targets."""
    return tf.nn.softmax_cross_entropy_with_logits(targets, logits)


def squared_error(logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Compute the squared Euclidean distance between softmax(logits) and targets (Brier 1950)."""
    return tf.reduce_sum((tf.nn.softmax(logits) - targets) ** 2, axis=-1)


def squared_error_of_logits(logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Compute the squared Euclidean distance between logits and targets, without any softmax."""
    return tf.reduce_sum((logits - targets) ** 2, axis=-1)


LOSSES = {
    "cross-entropy": cross_entropy,
    "squared error of probabilities": squared_error,
    "squared error of logits": squared_error_of_logits,
}
STYLES = dict(zip(LOSSES, ("o-", "s--", "^:"), strict=True))


def gradient(loss: Callable, logits, targets) -> np.ndarray:
    """Return the gradient of a loss with respect to the logits, of the same shape."""
    logits, targets = tf.constant(logits), tf.constant(targets)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = loss(logits, targets)
    return tape.gradient(value, logits).numpy()


# %% Gradients
# Two classes; the logit of the right one is z, that of the other one 0.


def two_classes(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and targets, float64 (N, 2)."""
    logits = np.stack([z, np.zeros_like(z)], axis=1)
    return logits, np.broadcast_to([1.0, 0.0], logits.shape)


def draw_gradients() -> None:
    """Draw both losses of probabilities and the lengths of their gradients over the logit."""
    z = np.linspace(-15, 10, 500)
    logits, targets = two_classes(z)
    axes = drawing.panels(3, (3.65, 3.1))
    for name, style in zip(list(LOSSES)[:2], ("-", "--"), strict=True):
        axes[0].plot(z, LOSSES[name](logits, targets), style, label=name)
        lengths = np.abs(gradient(LOSSES[name], logits, targets)[:, 0])
        axes[1].plot(z, lengths, style, label=name)
        axes[2].semilogy(z, lengths, style, label=name)
    axes[0].set(title="loss")
    axes[1].set(title="size of the gradient")
    axes[2].set(title="the same, logarithmic")
    for axis in axes:
        axis.set(xlabel="wrong ←  logit of the right class, z  → right")
        axis.axvline(0, color=GREY, linewidth=0.8)
        axis.figure.legend(loc="outside lower center")
    drawing.save_panels(axes, "crossentropy_gradients")


# %% Overflow
# Four ways to the same number, in float32: the loss of an example whose right class has the logit
# 0, while the other class has a large one.


def by_formula(logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Compute the softmax as in a textbook, then its logarithm."""
    powers = tf.exp(logits)
    right = tf.gather(powers / tf.reduce_sum(powers, axis=-1, keepdims=True), 0, axis=-1)
    return -tf.math.log(right)


def by_softmax(logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Take the logarithm of TensorFlow's softmax, which cannot overflow."""
    return -tf.math.log(tf.gather(tf.nn.softmax(logits), 0, axis=-1))


def by_keras(logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Give probabilities to Keras, which keeps them away from 0."""
    return tf.keras.losses.categorical_crossentropy(targets, tf.nn.softmax(logits))


WAYS = {
    "exp, sum, log": by_formula,
    "`tf.nn.softmax`, log": by_softmax,
    "Keras, probabilities": by_keras,
    "from logits": cross_entropy,
}
GAPS = (5, 20, 80, 100, 1000)


def overflow_table() -> str:
    """Return loss and derivative with respect to the right logit, for every way and some logits."""
    targets = np.float32([[1, 0]])
    rows = []
    for gap in GAPS:
        logits = np.float32([[0, gap]])
        row = [str(gap)]
        for way in WAYS.values():
            value = float(way(logits, targets)[0])
            row.append(f"{value:.5g}, {gradient(way, logits, targets)[0, 0] + 0:.3g}")
        rows.append(row)
    return drawing.table(["other logit", *WAYS], "rrrrr", rows)


# %% Label smoothing


def smooth(targets: np.ndarray, smoothing: float) -> np.ndarray:
    """Move the share `smoothing` of one-hot targets (..., C) to all classes alike."""
    return targets * (1 - smoothing) + smoothing / targets.shape[-1]


def best_gap(smoothing: float) -> float:
    """Return how far the right logit is above all others where the loss is smallest."""
    return float(np.log((1 - smoothing + smoothing / CLASSES) / (smoothing / CLASSES)))


def losses_over_gap(gaps: np.ndarray, smoothing: float) -> np.ndarray:
    """Return the loss if the right logit is above all others, which are alike, by `gaps` (N,)."""
    right = np.eye(CLASSES)[0]
    return cross_entropy(gaps[:, None] * right, smooth(right[None], smoothing)).numpy()


def draw_smoothing() -> None:
    """Draw the loss over the gap between the right logit and the others."""
    gaps = np.linspace(-2, 12, 500)
    figure, axis = plt.subplots()
    for smoothing, style in ((0.0, "-"), (0.1, "--"), (0.2, "-.")):
        line = axis.plot(
            gaps, losses_over_gap(gaps, smoothing), style, label=f"smoothing {smoothing:g}"
        )
        if smoothing:
            gap = np.array([best_gap(smoothing)])
            axis.plot(gap, losses_over_gap(gap, smoothing), "o", color=line[0].get_color())
    axis.set(xlabel="right logit, above all others by", ylabel="loss", ylim=(0, 4))
    axis.legend()
    drawing.save(figure, "crossentropy_smoothing")


def smoothing_table() -> str:
    """Return what the smoothing of examples 04, 05 and 14 asks for."""
    rows = []
    for smoothing, users in ((0.1, "04, 05"), (0.2, "14")):
        gap = best_gap(smoothing)
        smallest = losses_over_gap(np.array([gap]), smoothing)[0]
        asked = 1 - smoothing + smoothing / CLASSES
        rows.append([f"{smoothing:g}", users, f"{asked:.2f}", f"{gap:.2f}", f"{smallest:.3f}"])
    header = ["smoothing", "examples", "asked of the right class", "best gap", "smallest loss"]
    return drawing.table(header, "rlrrr", rows)


# %% Training
# Networks that differ only in learning rate and in the order of the images are trained side by
# side: their weights are one array with two more axes, (orders, rates, inputs, outputs).

BATCH_SIZE = 50
EPOCHS = 20
ORDERS = 3
RATES = 2.0 ** np.arange(-12, 5)
HIDDEN = 64


def load_digits() -> tuple[np.ndarray, ...]:
    """Return the sample digits, images float32 (N, 196) and one-hot labels, twice."""
    images, labels, others, their_labels = drawing.small_digits()
    one_hot = np.eye(CLASSES, dtype=np.float32)
    return images, one_hot[labels], others, one_hot[their_labels]


def make_start(hidden: int) -> list[np.ndarray]:
    """Return kernels and biases of one network; the output layer is zero, as in example 03."""
    if not hidden:
        return [np.zeros((196, CLASSES)), np.zeros((1, CLASSES))]
    kernel = np.random.default_rng(0).normal(0, np.sqrt(2 / 196), (196, hidden))
    return [kernel, np.zeros((1, hidden)), np.zeros((hidden, CLASSES)), np.zeros((1, CLASSES))]


def logits_of(variables, x: tf.Tensor) -> tf.Tensor:
    """Compute logits (orders, rates, N, 10) from images (orders or 1, 1, N, 196)."""
    for kernel, bias in zip(variables[:-2:2], variables[1:-2:2], strict=True):
        x = tf.nn.relu(tf.matmul(x, kernel) + bias)
    return tf.matmul(x, variables[-2]) + variables[-1]


def train(loss: Callable, start, images, targets, rates=RATES, epochs: int = EPOCHS) -> list:
    """Train by plain gradient descent from one start, in several orders, at several rates."""
    copies = [np.broadcast_to(array, (ORDERS, len(rates), *array.shape)) for array in start]
    variables = [tf.Variable(array, dtype=tf.float32) for array in copies]
    scale = tf.constant(rates, tf.float32)[:, None, None]

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            logits = logits_of(variables, x)
            losses = loss(logits, tf.broadcast_to(y, tf.shape(logits)))
            total = tf.reduce_sum(tf.reduce_mean(losses, axis=-1))  # networks do not interact
        for variable, slope in zip(variables, tape.gradient(total, variables), strict=True):
            variable.assign_sub(scale * slope)

    for epoch in range(epochs):
        rngs = [np.random.default_rng([order, epoch]) for order in range(ORDERS)]
        order = np.stack([rng.permutation(len(images)) for rng in rngs])  # (orders, N)
        for first in range(0, len(images) - BATCH_SIZE + 1, BATCH_SIZE):
            batch = order[:, first : first + BATCH_SIZE]
            step(tf.constant(images[batch][:, None]), tf.constant(targets[batch][:, None]))
    return variables


def accuracies(variables, images, targets) -> np.ndarray:
    """Return the share of right answers, (orders, rates); NaN where a network has diverged."""
    logits = logits_of(variables, tf.constant(images[None, None])).numpy()
    right = np.mean(logits.argmax(axis=-1) == targets.argmax(axis=-1), axis=-1)
    return np.where(np.isfinite(logits).all(axis=(2, 3)), right, np.nan)


def wrong_start(digits) -> list[np.ndarray]:
    """Train a softmax regression until it is sure that each digit is the next one."""
    images, targets, *_ = digits
    shifted = np.roll(targets, 1, axis=1)
    variables = train(cross_entropy, make_start(0), images, shifted, np.array([0.25]))
    return [variable.numpy()[0, 0] for variable in variables]


def measure_training(digits) -> dict[str, dict[str, np.ndarray]]:
    """Return the validation accuracies (orders, rates) of all losses from three starts."""
    images, targets, *validation = digits
    starts = {
        "softmax regression": make_start(0),
        f"hidden layer of {HIDDEN}": make_start(HIDDEN),
        "softmax regression, sure of the wrong": wrong_start(digits),
    }
    return {
        start: {
            name: accuracies(train(loss, arrays, images, targets), *validation)
            for name, loss in LOSSES.items()
        }
        for start, arrays in starts.items()
    }


def at_best(results: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the accuracies (orders,) at the rate with the best mean, and this rate."""
    best = np.nanargmax(np.where(np.isnan(results).any(axis=0), -1, results.mean(axis=0)))
    return results[:, best], float(RATES[best])


def training_table(measured: dict) -> str:
    """Return the accuracies at the best learning rate, in per cent, with their spread."""
    rows = []
    for start, results in measured.items():
        for name in LOSSES:
            right, rate = at_best(results[name])
            numbers = 100 * np.array([right.mean(), right.min(), right.max()])
            text = "{:.1f} ({:.1f} to {:.1f})".format(*numbers).replace(" ", "\N{NO-BREAK SPACE}")
            rows.append([start, name, text, f"1/{1 / rate:.0f}" if rate < 1 else f"{rate:.0f}"])
    return drawing.table(["start", "loss", "right answers", "best rate"], "llrr", rows)


def draw_training(measured: dict) -> None:
    """Draw validation accuracies over the learning rate."""
    axes = drawing.panels(3, (3.65, 3.2))
    for axis, (start, results) in zip(axes, measured.items(), strict=True):
        for name, style in STYLES.items():
            right = results[name].mean(axis=0)
            axis.semilogx(RATES, right, style, base=2, label=name)
        axis.set(title=start, xlabel="learning rate", ylabel="right answers", ylim=(-0.03, 1.03))
        axis.set_xlim(RATES[0] / 1.5, RATES[-1] * 1.5)
        axis.figure.legend(loc="outside lower center")
    drawing.save_panels(axes, "crossentropy_training")


def start_table(digits) -> str:
    """Return how long the gradients are for a network that is sure of the wrong."""
    images, targets, *_ = digits
    kernel, bias = wrong_start(digits)
    logits = images @ kernel + bias
    probabilities = tf.nn.softmax(logits).numpy()
    rows = [["probability of the right class", *quartiles(np.sum(probabilities * targets, axis=1))]]
    for name in list(LOSSES)[:2]:
        lengths = np.linalg.norm(gradient(LOSSES[name], logits, targets), axis=1)
        rows.append([f"length of the gradient, {name}", *quartiles(lengths)])
    header = ["of all training images", "a quarter is below", "half are below"]
    return drawing.table([*header, "three quarters are below"], "lrrr", rows)


def quartiles(numbers: np.ndarray) -> list[str]:
    """Return the three quartiles in short."""
    return [f"{number:.2g}" for number in np.quantile(numbers, (0.25, 0.5, 0.75))]


def main() -> None:
    """Draw all figures and write all tables."""
    draw_gradients()
    drawing.write(overflow_table(), "crossentropy_overflow")
    draw_smoothing()
    drawing.write(smoothing_table(), "crossentropy_smoothing")
    digits = load_digits()
    drawing.write(start_table(digits), "crossentropy_start")
    measured = measure_training(digits)
    draw_training(measured)
    drawing.write(training_table(measured), "crossentropy_training")


if __name__ == "__main__":
    drawing.run(main)
