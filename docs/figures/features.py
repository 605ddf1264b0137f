"""Draw the figures of note 1: learned features, perceptrons, universal approximation.

    python docs/figures/features.py

writes docs/images/features_*.svg. What is trained here is trained on sample data, scikit-learn's
handwritten digits, so that it takes seconds and comes out the same everywhere.
"""

import tempfile
from pathlib import Path

import drawing  # isort: skip  # before TensorFlow
from drawing import INK, PAPER  # isort: skip

import numpy as np
import tensorflow as tf

from datasets import mnist

CHANNELS = (8, 16, 32)  # of three convolutions, each with a pooling behind it
FIELDS = (3, 8, 18)  # pixels: height and width of what a unit of each layer sees
SHOWN = 4  # channels of each layer in the picture
PATCHES = 8  # for each channel: those to which it answers most strongly


# %% A hierarchy of features


class WithoutMean(tf.keras.constraints.Constraint):
    """Keeps kernels (3, 3, 1, C) at a mean of 0, so that an even surface does not excite them."""

    def __call__(self, kernel):
        """Return the kernels without their means."""
        return kernel - tf.reduce_mean(kernel, axis=[0, 1, 2])


def trained_network(images: np.ndarray, labels: np.ndarray) -> tf.keras.Model:
    """Train a small convolutional network on digits, uint8 (N, 28, 28, 1)."""
    tf.keras.utils.set_random_seed(0)
    layers = [tf.keras.Input([28, 28, 1]), tf.keras.layers.Rescaling(1 / 255)]
    for number, channels in enumerate(CHANNELS):
        only_contrast = WithoutMean() if number == 0 else None
        layers += [
            tf.keras.layers.Conv2D(channels, 3, activation="relu", kernel_constraint=only_contrast),
            tf.keras.layers.MaxPool2D(),
        ]
    layers += [tf.keras.layers.Flatten(), tf.keras.layers.Dense(10)]
    network = tf.keras.Sequential(layers)
    network.compile("adam", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    network.fit(images, labels, epochs=20, batch_size=32, verbose=0)
    return network


def strongest_patches(network: tf.keras.Model, images: np.ndarray, layer: int) -> list[np.ndarray]:
    """Return for some channels the parts of images that excite them most, of different images.

    Args:
        network: from `trained_network`.
        images: uint8 (N, 28, 28, 1).
        layer: of the three convolutions, from 0.

    Returns:
        For each channel uint8 (PATCHES, field, field).
    """
    convolutions = [part for part in network.layers if isinstance(part, tf.keras.layers.Conv2D)]
    part = tf.keras.Model(network.inputs, convolutions[layer].output)
    answers = part.predict(images, verbose=0)  # (N, H, W, C)
    stride, field = 2**layer, FIELDS[layer]
    found = []
    for channel in np.argsort(-answers.max(axis=(0, 1, 2)), kind="stable")[:SHOWN]:
        best = answers[..., channel].reshape(len(images), -1)
        chosen = np.argsort(-best.max(axis=1), kind="stable")[:PATCHES]
        rows, columns = np.divmod(best[chosen].argmax(axis=1), answers.shape[2])
        found.append(
            np.stack(
                [
                    images[i, stride * row :, stride * column :, 0][:field, :field]
                    for i, row, column in zip(chosen, rows, columns, strict=True)
                ]
            )
        )
    return found


def draw_hierarchy() -> None:
    """Draw what excites some channels of each layer most."""
    with tempfile.TemporaryDirectory() as folder:
        data = mnist.load("sample", Path(folder))
    network = trained_network(data.train_images, data.train_labels)
    axes = drawing.panels(3, (3.65, 2.0))
    for layer, (axis, field) in enumerate(zip(axes, FIELDS, strict=True)):
        patches = np.stack(strongest_patches(network, data.test_images, layer)) / 255
        patches = patches.repeat(18 // field, axis=2).repeat(18 // field, axis=3)
        patches = np.pad(patches, [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=0.5)
        axis.imshow(np.vstack([np.hstack(list(strip)) for strip in patches]), cmap="gray")
        axis.set_title(f"convolution {layer + 1}: a unit sees {field} × {field} pixels")
        axis.axis("off")
    drawing.save_panels(axes, "features_hierarchy")


# %% A perceptron

CORNERS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], float)


def perceptron_rule(targets: np.ndarray, rounds: int) -> tuple[np.ndarray, list[int]]:
    """Rosenblatt's rule on the four corners of a square.

    Returns:
        The weights (w1, w2, b), and in how many corners each round found the perceptron wrong.
    """
    inputs = np.column_stack([CORNERS, np.ones(4)])  # the constant input carries the bias
    weights, mistakes = np.array([0, 0, 0.5]), []
    for _ in range(rounds):
        wrong = 0
        for x, target in zip(inputs, targets, strict=True):
            output = float(weights @ x > 0)
            weights += (target - output) * x
            wrong += output != target
        mistakes.append(wrong)
    return weights, mistakes


def draw_line(axis, weights: np.ndarray, label: str) -> None:
    """Draw where w1 x1 + w2 x2 + b = 0."""
    first, second, bias = weights
    x = np.array([-0.4, 1.4])
    if second:
        axis.plot(x, -(first * x + bias) / second, label=label)
    else:
        axis.axvline(-bias / first, label=label)


def draw_corners(axis, points: np.ndarray, targets: np.ndarray) -> None:
    """Draw points, filled where the target is 1."""
    colours = [INK if target else PAPER for target in targets]
    axis.scatter(*points.T, c=colours, edgecolors=INK, s=90, zorder=3)
    axis.set(xlim=(-0.4, 1.4), ylim=(-0.4, 1.4), xticks=[0, 1], yticks=[0, 1], aspect="equal")


def draw_perceptrons() -> None:
    """Draw AND and XOR, the rule at work on both, and XOR as two layers see it."""
    conjunction, exclusive = np.array([0, 0, 0, 1]), np.array([0, 1, 1, 0])
    weights, mistakes = perceptron_rule(conjunction, 12)
    _, mistakes_exclusive = perceptron_rule(exclusive, 12)

    axes = drawing.panels(4)
    draw_corners(axes[0], CORNERS, conjunction)
    draw_line(axes[0], weights, "found by the rule")
    first, second, bias = weights
    axes[0].set(title=f"AND: {first:g} $x_1$ + {second:g} $x_2$ $-$ {-bias:g} > 0")
    for name, values, style in (("AND", mistakes, "o-"), ("XOR", mistakes_exclusive, "s--")):
        axes[1].plot(range(1, 13), values, style, label=name)
    axes[1].set(
        title="mistakes of the rule", xlabel="round", xticks=range(2, 13, 2), yticks=range(5)
    )
    axes[1].legend()

    hidden_weights = np.array([[1, 1, -0.5], [1, 1, -1.5]])  # OR and AND
    draw_corners(axes[2], CORNERS, exclusive)
    for row, name in zip(hidden_weights, ("OR", "AND"), strict=True):
        draw_line(axes[2], row, name)
    axes[2].set(title="XOR: two lines", xlabel="$x_1$", ylabel="$x_2$")
    axes[2].legend(loc="upper left", bbox_to_anchor=(1, 1))
    hidden = (np.column_stack([CORNERS, np.ones(4)]) @ hidden_weights.T > 0).astype(float)
    output_weights = np.array([1, -1, -0.5])  # OR and not AND
    outputs = np.column_stack([hidden, np.ones(4)]) @ output_weights > 0
    assert outputs.tolist() == exclusive.astype(bool).tolist()
    draw_corners(axes[3], hidden, exclusive)
    draw_line(axes[3], output_weights, "")
    axes[3].set(title="the same, behind the hidden layer", xlabel="OR", ylabel="AND")
    axes[0].set(xlabel="$x_1$", ylabel="$x_2$")
    drawing.save_panels(axes, "features_perceptrons")


# %% Universal approximation


def wave(x: np.ndarray) -> np.ndarray:
    """Compute the function to be approximated."""
    return np.sin(2 * np.pi * x) + 0.5 * np.sin(6 * np.pi * x)


def built(units: int):
    """Build a network of one hidden layer of ReLUs that meets the wave at `units` + 1 places."""
    places = np.linspace(0, 1, units + 1)
    slopes = np.diff(wave(places)) * units
    changes = np.diff(slopes, prepend=0)  # each unit bends the line at its place

    def network(x):
        return wave(places[:1]) + np.maximum(x[:, None] - places[:-1], 0) @ changes

    return network


def trained(units: int):
    """Train a network of the same size from a random start."""
    tf.keras.utils.set_random_seed(0)
    x = np.linspace(0, 1, 1001)[:, None]
    spread = tf.keras.initializers.RandomUniform(-2, 2)  # so that bends are all over the interval
    network = tf.keras.Sequential(
        [
            tf.keras.Input([1]),
            tf.keras.layers.Rescaling(4, -2),
            tf.keras.layers.Dense(
                units, "relu", kernel_initializer=spread, bias_initializer=spread
            ),
            tf.keras.layers.Dense(1),
        ]
    )
    network.compile(tf.keras.optimizers.Adam(0.01), "mse")
    network.fit(x, wave(x), batch_size=32, epochs=300, verbose=0)
    return lambda x: network.predict(x[:, None], verbose=0)[:, 0]


def draw_approximation() -> None:
    """Draw a wave and networks that were built, and one that was trained, to approximate it."""
    x = np.linspace(0, 1, 2001)
    axes = drawing.panels(3)
    for units in (4, 8, 16):
        axes[0].plot(x, built(units)(x), label=f"{units} units")
    axes[0].plot(x, wave(x), ":", color=INK, label="wave")
    axes[0].set(title="built: one bend for each unit", xlabel="x")

    counts = 2 ** np.arange(2, 9)
    errors = [np.abs(built(units)(x) - wave(x)).max() for units in counts]
    axes[1].loglog(counts, errors, "o-", base=2, label="built")
    network = trained(64)
    error = np.abs(network(x) - wave(x)).max()
    axes[1].loglog([64], [error], "s", base=2, label="trained by gradient descent")
    axes[1].set(title="largest error on the interval", xlabel="units")

    outside = np.linspace(-0.6, 1.6, 2001)
    axes[2].plot(outside, built(64)(outside), label="64 units, built")
    axes[2].plot(outside, network(outside), "--", label="64 units, trained")
    axes[2].plot(outside, wave(outside), ":", color=INK, label="wave")
    axes[2].axvspan(0, 1, alpha=0.1)
    axes[2].set(title="beyond the interval", xlabel="x", ylim=(-4, 4))
    for axis in axes:
        axis.legend()
    drawing.save_panels(axes, "features_approximation")


def main() -> None:
    """Draw all figures."""
    draw_hierarchy()
    draw_perceptrons()
    draw_approximation()


if __name__ == "__main__":
    drawing.run(main)
