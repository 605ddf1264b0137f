"""Draw the figures of note 8: recurrent networks, LSTM, autoencoders.

    python docs/figures/sequences.py

writes docs/images/sequences_*.svg and the tables sequences_* of the notes. What is trained here is
trained on random symbols and on sample data, scikit-learn's handwritten digits.
"""

import tempfile
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import drawing  # isort: skip  # before TensorFlow
from drawing import BLUE, GREEN, GREY, INK, ORANGE, PAPER, PURPLE  # isort: skip

import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from scipy import ndimage

from datasets import mnist

# Gradients through time
STEPS = 60  # of the sequences
UNITS = 64
RADII = (0.8, 1.0, 1.6)  # spectral radii of the recurrent matrix of a plain network
INPUT_SCALES = (0.1, 1.0)  # standard deviation of what the inputs add to each unit's sum
FORGET_BIASES = (0.0, 1.0, 3.0)  # sigmoid: 0.50, 0.73, 0.95
NETWORKS, SEQUENCES = 5, 20  # medians are over both

# Remembering a symbol
SYMBOLS = 4  # to be remembered, and as many others that distract
DELAYS = (10, 20, 40)  # steps from the symbol to the question, both counted
MEMORY_UNITS = 32
MEMORY_RADII = (0.8, 1.0)
MEMORY_STEPS = 250  # of training
MEMORY_BATCH = 20
LONGEST_GRADIENT = 1.0  # a longer one is shortened to this

# Autoencoders
CODES = (2, 8, 32)
WIDTH = 256  # units between image and code, and between code and image
EPOCHS = 50
NOISE = 0.4  # standard deviation, of pixels from 0 to 1

# %% Recurrent networks


def arrow(axis, start, end, colour=INK, style="-") -> None:
    """Draw an arrow from one point to another."""
    look = {"arrowstyle": "-|>", "color": colour, "linestyle": style, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", end, start, arrowprops=look | {"linewidth": 1.4}, zorder=1)


def box(axis, x, y, text: str, width=0.9, height=0.7, colour=BLUE, size=8.5) -> None:
    """Draw a box with a text, centred at (x, y)."""
    corner = (x - width / 2, y - height / 2)
    axis.add_patch(plt.Rectangle(corner, width, height, fc=(colour, 0.2), ec=INK, zorder=2))
    axis.text(x, y, text, ha="center", va="center", zorder=3, fontsize=size)


def disc(axis, x: float, y: float, text: str) -> None:
    """Draw an operation on single numbers as a small disc."""
    axis.add_patch(plt.Circle((x, y), 0.3, fc=PAPER, ec=INK, zorder=3))
    axis.text(x, y, text, ha="center", va="center", zorder=4, fontsize=10)


def draw_unrolled() -> None:
    """Draw a recurrent network as a loop, and the same one unrolled over four steps."""
    axis, *more = axes = [*drawing.panels(1, (1.5, 2)), *drawing.panels(1, (3.65, 2))]
    box(axis, 0, 0, "$W$", size=10)
    arrow(axis, (0, -1.1), (0, -0.35))
    arrow(axis, (0, 0.35), (0, 1.1))
    axis.plot([0.45, 0.95, 0.95, -0.95, -0.95], [0, 0, -0.7, -0.7, 0], color=INK, lw=1.4)
    arrow(axis, (-0.95, 0), (-0.45, 0))
    axis.text(0.12, -1.05, "$x_t$", fontsize=10)
    axis.text(0.12, 0.8, "$h_t$", fontsize=10)
    axis.text(1.05, -0.35, "one step\nlater", va="center")
    axis.set(xlim=(-1.05, 2.35), ylim=(-2.1, 1.6))

    (axis,) = more
    places = 1.75 * np.arange(4)
    for x, step, style in zip(places, "123T", ("-", "-", "-", ":"), strict=True):
        box(axis, x, 0, "$W$", size=10)
        arrow(axis, (x, -1.1), (x, -0.35))
        axis.text(x + 0.1, -1.05, f"$x_{step}$", fontsize=10)
        arrow(axis, (x - 1.3, 0.12), (x - 0.45, 0.12), style=style)
        axis.text(x + 0.85, 0.28, f"$h_{step}$", fontsize=10, ha="center")
    for x, style in zip(places[1:], ("--", "--", ":"), strict=True):
        arrow(axis, (x - 0.45, -0.14), (x - 1.3, -0.14), ORANGE, style)
    axis.text(-0.9, 0.28, "$h_0$", fontsize=10, ha="center")
    end = places[-1] + 1.75
    arrow(axis, (end - 1.3, 0.12), (end - 0.45, 0.12))
    arrow(axis, (end - 0.45, -0.14), (end - 1.3, -0.14), ORANGE, "--")
    box(axis, end, 0, "loss", colour=ORANGE)
    axis.text(-1.3, 1.1, "forward: the same $W$ at every step")
    backward = "backward: the gradient,\nfrom the loss to ever earlier steps"
    axis.text(end + 0.45, -2.1, backward, color=ORANGE, ha="right")
    axis.set(xlim=(-1.35, end + 0.5), ylim=(-2.1, 1.6))
    for axis in axes:
        axis.set_aspect("equal")
        axis.axis("off")
    drawing.save_panels(axes, "sequences_unrolled")


# %% LSTM
# Every array may have more dimensions in front, such as one for several networks side by side. The
# four parts of the sums are in Keras' order: input gate, forget gate, candidate, output gate.

State = tuple[tf.Tensor, ...]
Weights = Sequence[tf.Tensor]


def rnn_step(x: tf.Tensor, state: State, weights: Weights) -> State:
    """Compute the next state (h,) of a plain network, h (N, units), from x (N, inputs)."""
    kernel, recurrent, bias = weights
    return (tf.tanh(tf.matmul(x, kernel) + tf.matmul(state[0], recurrent) + bias),)


def lstm_step(x: tf.Tensor, state: State, weights: Weights) -> State:
    """Compute the next state (h, c) of an LSTM, both (N, units), from x (N, inputs)."""
    kernel, recurrent, bias = weights  # (inputs, 4 units), (units, 4 units), (4 units)
    h, c = state
    sums = tf.matmul(x, kernel) + tf.matmul(h, recurrent) + bias
    i, f, g, o = tf.split(sums, 4, axis=-1)
    c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
    return tf.sigmoid(o) * tf.tanh(c), c


def outputs(step: Callable, inputs: tf.Tensor, weights: Weights) -> list[tf.Tensor]:
    """Go through inputs (steps, ..., N, inputs) and return h (..., N, units) of each step."""
    units = weights[1].shape[-2]
    zeros = tf.zeros([*inputs.shape[1:-1], units], inputs.dtype)
    state, every = ((zeros,) if step is rnn_step else (zeros, zeros)), []
    for x in tf.unstack(inputs):
        state = step(x, state, weights)
        every.append(state[0])
    return every


def draw_lstm() -> None:
    """Draw one step of an LSTM."""
    figure, axis = plt.subplots(figsize=(3.65, 2.1))
    axis.add_patch(plt.Rectangle((-0.3, -0.1), 10.8, 6.4, fc=(GREY, 0.1), ec=GREY, zorder=0))
    top, middle, gates, low = 5.3, 4.1, 2.1, 0.5  # heights
    forget, write, candidate, read, out = 1.3, 3.1, 5.3, 7.7, 9.6  # places from left to right
    arrow(axis, (-0.6, top), (11.2, top), BLUE)  # the cell state
    axis.plot([-0.6, 10.8], [top, top], color=BLUE, lw=3)
    axis.plot([-0.6, read], [low, low], color=INK, lw=1.4)  # what the gates see
    axis.plot([0, 0], [-1, low], color=INK, lw=1.4)
    for x, width, name in (
        (forget, 1.8, "forget\ngate\n$\\sigma$"),
        (write, 1.5, "input\ngate\n$\\sigma$"),
        (candidate, 2.6, "candidate\ntanh"),
        (read, 1.9, "output\ngate\n$\\sigma$"),
    ):
        arrow(axis, (x, low), (x, gates - 0.9))
        box(axis, x, gates, name, width, 1.8, ORANGE if "tanh" in name else BLUE)
    above = gates + 0.9
    arrow(axis, (forget, above), (forget, top - 0.3))
    axis.plot([write, write], [above, middle], color=INK, lw=1.4)
    arrow(axis, (write, middle), (candidate - 0.3, middle))
    arrow(axis, (candidate, above), (candidate, middle - 0.3))
    arrow(axis, (candidate, middle + 0.3), (candidate, top - 0.3))
    arrow(axis, (out, top), (out, middle + 0.4))
    box(axis, out, middle, "tanh", 1.5, 0.8, ORANGE)
    arrow(axis, (out, middle - 0.4), (out, gates + 0.3))
    arrow(axis, (read + 0.95, gates), (out - 0.3, gates))
    axis.plot([out, out], [gates - 0.3, low], color=INK, lw=1.4)
    arrow(axis, (out, low), (11.2, low))
    disc(axis, forget, top, "×")
    disc(axis, candidate, top, "+")
    disc(axis, candidate, middle, "×")
    disc(axis, out, gates, "×")
    for x, y, text in (
        (-1.9, top, "$c_{t-1}$"),
        (-1.9, low, "$h_{t-1}$"),
        (11.3, top, "$c_t$"),
        (11.3, low, "$h_t$"),
        (0.15, -0.6, "$x_t$"),
        (forget + 0.2, above + 0.5, "$f_t$"),
        (write + 0.2, above + 0.5, "$i_t$"),
        (candidate + 0.2, above + 0.4, "$g_t$"),
        (8.7, gates + 0.45, "$o_t$"),
    ):
        axis.text(x, y, text, fontsize=10, va="center")
    axis.text(candidate, top + 0.4, "cell state: only × and +", color=BLUE, ha="center")
    axis.set(xlim=(-1.9, 12.1), ylim=(-1, 6.4), aspect="equal")
    axis.axis("off")
    drawing.save(figure, "sequences_lstm")


# %% Gradients through time


def with_radius(matrices: np.ndarray, radius: float) -> np.ndarray:
    """Scale matrices (networks, units, units) to a spectral radius."""
    largest = np.abs(np.linalg.eigvals(matrices)).max(axis=1)
    return matrices * (radius / largest)[:, None, None]


def orthogonal(rng: np.random.Generator, networks: int, rows: int, columns: int) -> np.ndarray:
    """Draw matrices (networks, rows, columns) with orthonormal rows, rows <= columns."""
    return np.linalg.qr(rng.normal(size=(networks, columns, rows)))[0].swapaxes(1, 2)


def glorot(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Draw weights (..., inputs, outputs) as Keras does by default (X. Glorot, Y. Bengio 2010)."""
    return rng.uniform(-1, 1, shape) * np.sqrt(6 / (shape[-2] + shape[-1]))


def new_rnn(radius: float, input_scale: float, inputs: int) -> list[np.ndarray]:
    """Draw plain networks, the recurrent matrix from a normal distribution, then scaled."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(NETWORKS, inputs, UNITS)) * (input_scale / np.sqrt(inputs))
    recurrent = with_radius(rng.normal(size=(NETWORKS, UNITS, UNITS)), radius)
    return [kernel, recurrent, np.zeros((NETWORKS, 1, UNITS))]


def new_lstm(forget_bias: float, inputs: int, units: int, networks: int) -> list[np.ndarray]:
    """Draw LSTMs as Keras does by default, but for the bias of the forget gate."""
    rng = np.random.default_rng(0)
    kernel = glorot(rng, networks, inputs, 4 * units)
    recurrent = orthogonal(rng, networks, units, 4 * units)
    bias = np.zeros((networks, 1, 4 * units))
    bias[..., units : 2 * units] = forget_bias
    return [kernel, recurrent, bias]


def gradient_norms(step: Callable, weights: Sequence[np.ndarray]) -> np.ndarray:
    """Measure how the last output depends on what came 0, 1, 2, ... steps earlier.

    The loss is the last h, multiplied by a random vector; its gradient is taken by each input x.

    Args:
        step: `rnn_step` or `lstm_step`.
        weights: float64, of NETWORKS networks that are not trained.

    Returns:
        Norms (STEPS,), medians over networks and sequences, divided by that of the last input.
    """
    rng = np.random.default_rng(1)
    inputs = tf.constant(rng.normal(size=(STEPS, NETWORKS, SEQUENCES, weights[0].shape[1])))
    direction = rng.normal(size=(NETWORKS, SEQUENCES, weights[1].shape[1]))
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.reduce_sum(outputs(step, inputs, list(map(tf.constant, weights)))[-1] * direction)
    norms = np.linalg.norm(tape.gradient(loss, inputs), axis=-1)  # (STEPS, NETWORKS, SEQUENCES)
    medians = np.median(norms, axis=(1, 2))[::-1]
    return medians / medians[0]


def exploding_below_one(steps: int) -> tuple[float, np.ndarray]:
    """Build two units whose gradient grows although the spectral radius is 1/2.

    One unit rests at 0, where the derivative of tanh is 1, the other one in saturation.

    Returns:
        The spectral radius of the recurrent matrix, and the norms (steps,) of the matrices
        d h_t / d h_0.
    """
    recurrent = np.array([[2.0, -2.0], [1.5, -1.5]])  # h <- tanh(recurrent h + bias)
    rest = np.array([0.0, 0.8])
    bias = np.arctanh(rest) - recurrent @ rest  # so that `rest` is followed by `rest`
    product, norms = np.eye(2), []
    for _ in range(steps):
        following = np.tanh(recurrent @ rest + bias)
        assert np.allclose(following, rest)
        product = (1 - following**2)[:, None] * recurrent @ product
        norms.append(np.linalg.norm(product, 2))
    return np.abs(np.linalg.eigvals(recurrent)).max(), np.array(norms)


# %% Remembering a symbol


def memory_batch(rng: np.random.Generator, delay: int, networks: int):
    """Draw sequences: a symbol, then delay - 1 others, each of them one-hot.

    Returns:
        float32 (delay, networks, MEMORY_BATCH, 2 SYMBOLS), and int64 (networks, MEMORY_BATCH): what
        the first symbols were.
    """
    symbols = rng.integers(SYMBOLS, 2 * SYMBOLS, (delay, networks, MEMORY_BATCH))
    symbols[0] -= SYMBOLS
    return np.eye(2 * SYMBOLS, dtype=np.float32)[symbols], symbols[0]


def memory_networks(networks: int) -> dict[str, list]:
    """Draw networks of each kind: {name: [step, kernel, recurrent, bias]}."""
    kinds, inputs, units = {}, 2 * SYMBOLS, MEMORY_UNITS
    for radius in MEMORY_RADII:
        rng = np.random.default_rng(0)
        kernel = glorot(rng, networks, inputs, units)
        recurrent = radius * orthogonal(rng, networks, units, units)
        bias = np.zeros((networks, 1, units))
        kinds[f"plain, radius {radius:g}"] = [rnn_step, kernel, recurrent, bias]
    for forget_bias in FORGET_BIASES:
        weights = new_lstm(forget_bias, inputs, units, networks)
        kinds[f"LSTM, bias {forget_bias:g}"] = [lstm_step, *weights]
    return kinds


def memory_accuracies(delay: int, networks: int = NETWORKS) -> dict[str, np.ndarray]:
    """Train networks to say at the end which symbol came first.

    Networks of the same step are trained side by side, as one with a dimension more; each has its
    own weights, sequences and gradient.

    Returns:
        {name of the kind: accuracy (networks,) on new sequences}.
    """
    kinds, found = memory_networks(networks), {}
    for step in (rnn_step, lstm_step):
        names = [name for name, kind in kinds.items() if kind[0] is step]
        arrays = [
            np.concatenate(parts) for parts in zip(*(kinds[n][1:] for n in names), strict=True)
        ]
        count = len(arrays[0])
        arrays += [
            np.tile(glorot(np.random.default_rng(1), MEMORY_UNITS, SYMBOLS), (count, 1, 1)),
            np.zeros((count, 1, SYMBOLS)),
        ]
        variables = [tf.Variable(array, dtype=tf.float32) for array in arrays]
        optimizer = tf.keras.optimizers.Adam(0.005)
        optimizer.build(variables)

        def logits(inputs, step=step, variables=variables):
            *weights, kernel, bias = variables
            return tf.matmul(outputs(step, inputs, weights)[-1], kernel) + bias

        @tf.function
        def train_step(inputs, first, logits=logits, variables=variables, optimizer=optimizer):
            with tf.GradientTape() as tape:
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(first, logits(inputs))
                loss = tf.reduce_sum(tf.reduce_mean(losses, axis=1))
            gradients = tape.gradient(loss, variables)
            squares = [tf.reduce_sum(g**2, axis=[1, 2], keepdims=True) for g in gradients]
            lengths = tf.sqrt(tf.add_n(squares))  # (count, 1, 1): each network's own
            shorten = LONGEST_GRADIENT / tf.maximum(lengths, LONGEST_GRADIENT)
            optimizer.apply([g * shorten for g in gradients], variables)

        rng = np.random.default_rng(2)
        for _ in range(MEMORY_STEPS):
            train_step(*map(tf.constant, memory_batch(rng, delay, count)))
        right = []
        for _ in range(10):
            inputs, first = memory_batch(rng, delay, count)
            right.append(np.argmax(logits(tf.constant(inputs)), axis=-1) == first)
        accuracies = np.concatenate(right, axis=1).mean(axis=1)
        found |= dict(zip(names, accuracies.reshape(len(names), networks), strict=True))
    return found


def draw_gradients() -> None:
    """Draw how gradients fade or grow, and what that means for remembering."""
    axes = drawing.panels(3, (3.65, 3.7))
    earlier = np.arange(STEPS)
    colours = (GREY, BLUE, ORANGE)
    for radius, colour in zip(RADII, colours, strict=True):
        for scale, style, name in zip(INPUT_SCALES, ("-", "--"), ("weak", "strong"), strict=True):
            norms = gradient_norms(rnn_step, new_rnn(radius, scale, inputs=8))
            label = f"{radius:g}, {name} inputs"
            axes[0].semilogy(earlier, norms, style, color=colour, label=label)
    axes[0].set_title("plain network, not trained")
    for bias, colour, style in zip(FORGET_BIASES, colours, (":", "--", "-"), strict=True):
        norms = gradient_norms(lstm_step, new_lstm(bias, 8, UNITS, NETWORKS))
        axes[1].semilogy(earlier, norms, style, color=colour, label=f"{bias:g}")
    axes[1].set_title("LSTM, not trained")
    for axis in axes[:2]:
        axis.set(xlabel="steps before the last", ylabel="gradient, relative", ylim=(1e-20, 1e4))

    accuracies = [memory_accuracies(delay) for delay in DELAYS]
    looks = [
        (GREY, "s", "-"),
        (BLUE, "o", "-"),
        (GREY, "v", ":"),
        (BLUE, "D", "--"),
        (ORANGE, "^", "--"),
    ]
    for number, (name, (colour, marker, style)) in enumerate(
        zip(accuracies[0], looks, strict=True)
    ):
        places = np.arange(len(DELAYS)) + 0.09 * (number - 2)
        each = np.array([found[name] for found in accuracies])  # (delays, networks)
        axes[2].plot(places, each, marker, color=colour, ms=4, alpha=0.5, mec="none")
        axes[2].plot(places, each.mean(axis=1), style + marker, color=colour, ms=6, label=name)
    axes[2].axhline(1 / SYMBOLS, color=INK, lw=0.8, ls=":")
    axes[2].text(-0.2, 1 / SYMBOLS - 0.07, "chance")
    axes[2].set_title("trained to remember a symbol")
    axes[2].set(ylabel="accuracy", ylim=(0, 1.05))
    axes[2].set_xticks(range(len(DELAYS)), DELAYS)
    axes[2].set_xlabel("steps from symbol to question")
    for axis, title in zip(axes, ("spectral radius", "forget gate's bias", None), strict=True):
        columns = 3 if axis is axes[1] else 2
        axis.figure.legend(loc="outside lower center", title=title, ncols=columns)
    drawing.save_panels(axes, "sequences_gradients")


# %% Autoencoders


def as_rows(images: np.ndarray) -> np.ndarray:
    """Turn uint8 (N, 28, 28, 1) into float32 (N, 784) from 0 to 1."""
    return images.reshape(len(images), -1).astype(np.float32) / 255


def digits() -> mnist.Dataset:
    """Return the sample data."""
    with tempfile.TemporaryDirectory() as folder:
        return mnist.load("sample", Path(folder))


class Autoencoder(tf.keras.Model):
    """784 pixels - WIDTH units - code - WIDTH units - 784 pixels."""

    def __init__(self, code: int):
        super().__init__()
        dense = tf.keras.layers.Dense
        self.encoder = tf.keras.Sequential([dense(WIDTH, "relu"), dense(code)])
        self.decoder = tf.keras.Sequential([dense(WIDTH, "relu"), dense(784, "sigmoid")])

    def call(self, rows):
        """Return reconstructions (N, 784) of (N, 784)."""
        return self.decoder(self.encoder(rows))


def trained(code: int, rows: np.ndarray, noise: float = 0.0) -> Autoencoder:
    """Train an autoencoder; with noise, to return the clean image for the noisy one."""
    tf.keras.utils.set_random_seed(0)
    network, batch = Autoencoder(code), 64
    network(rows[:1])
    steps = EPOCHS * (len(rows) // batch)
    optimizer = tf.keras.optimizers.Adam(
        tf.keras.optimizers.schedules.PolynomialDecay(0.002, steps, end_learning_rate=0.0)
    )
    optimizer.build(network.trainable_variables)

    @tf.function
    def train_step(inputs, targets):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((network(inputs) - targets) ** 2)
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply(gradients, network.trainable_variables)

    rng = np.random.default_rng(0)
    for _ in range(EPOCHS):
        order = rng.permutation(len(rows))
        for start in range(0, len(rows) - batch + 1, batch):
            targets = rows[order[start : start + batch]]
            train_step(tf.constant(with_noise(targets, noise, rng)), tf.constant(targets))
    return network


def with_noise(rows: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Add normally distributed noise of standard deviation `noise`; nothing is cut off."""
    return rows + noise * rng.standard_normal(rows.shape, np.float32)


def principal(train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (D,) of rows (N, D), and their principal components (D, D), first ones first.

    They are the eigenvectors of the covariance, by falling eigenvalue.
    """
    mean = train.mean(axis=0)
    centred = (train - mean).astype(np.float64)
    return mean, np.linalg.eigh(centred.T @ centred)[1][:, ::-1].T.astype(np.float32)


def pca(components: tuple[np.ndarray, np.ndarray], code: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return the projection onto the mean and the first `code` of `principal`'s components."""
    mean, first = components[0], components[1][:code]
    return lambda rows: mean + (rows - mean) @ first.T @ first


def error(rows: np.ndarray, targets: np.ndarray) -> float:
    """Return the squared difference, averaged over all pixels of all images."""
    return float(np.mean((np.asarray(rows) - targets) ** 2))


def thousandths(value: float) -> str:
    """Format a mean squared error for a table."""
    return f"{1000 * value:.1f}"


def show_rows(axis, rows: Sequence[np.ndarray], names: Sequence[str]) -> None:
    """Show rows of images (N, 784), dark on light, with a name on the left of each."""
    lines = [np.concatenate([*images.reshape(-1, 28, 28)], axis=1) for images in rows]
    axis.imshow(np.concatenate(lines), cmap="gray_r", vmin=0, vmax=1)
    axis.set_yticks(14 + 28 * np.arange(len(rows)), names)
    axis.set(xticks=[], anchor="E")  # so that there is room for the names
    axis.tick_params(length=0)
    axis.grid(False)
    axis.spines[:].set_visible(False)


def draw_codes(data: mnist.Dataset) -> None:
    """Draw reconstructions from codes of several sizes, and the plane of codes of size 2."""
    train, test = as_rows(data.train_images), as_rows(data.test_images)
    shown = [int(np.flatnonzero(data.test_labels == digit)[0]) for digit in range(10)]
    rows, names, lines, components = [test[shown]], ["image"], [], principal(train)
    for code in CODES:
        network = trained(code, train)
        rows.append(network(test[shown]).numpy())
        names.append(f"code of {code}")
        projections = pca(components, code)
        errors = [
            error(projections(train), train),
            error(network(train), train),
            error(projections(test), test),
            error(network(test), test),
        ]
        lines.append([str(code), *map(thousandths, errors)])
        if code == 2:
            codes = network.encoder(test).numpy()
    header = ["code", "training: PCA", "autoencoder", "test: PCA", "autoencoder"]
    drawing.write(drawing.table(header, "rrrrr", lines), "sequences_codes")

    axes = [*drawing.panels(1, (3.65, 1.4)), *drawing.panels(1, (3.65, 3.3))]
    show_rows(axes[0], rows, names)
    colours = (BLUE, ORANGE, GREEN, PURPLE, INK, GREEN, PURPLE, BLUE, INK, GREY)  # of the digits
    for (x, y), label in zip(codes, data.test_labels, strict=True):
        where = {"ha": "center", "va": "center", "fontsize": 8.5, "fontweight": "bold"}
        axes[1].text(x, y, str(label), color=colours[label], **where)
    margin = 0.05 * np.ptp(codes, axis=0)
    (left, low), (right, high) = codes.min(axis=0) - margin, codes.max(axis=0) + margin
    axes[1].set(xlim=(left, right), ylim=(low, high), xlabel="first number of the code")
    axes[1].set_ylabel("second number")
    drawing.save_panels(axes, "sequences_codes")


# %% Denoising


def filtered(rows: np.ndarray, name: str, size: float) -> np.ndarray:
    """Smooth images (N, 784) by a "Gaussian" of that deviation, or a "median" of that side."""
    images = rows.reshape(-1, 28, 28)
    if name == "Gaussian":
        return ndimage.gaussian_filter(images, (0, size, size)).reshape(rows.shape)
    return ndimage.median_filter(images, (1, size, size)).reshape(rows.shape)


def best(candidates: dict[str, Callable], noisy: np.ndarray, clean: np.ndarray) -> str:
    """Return the name of the candidate with the smallest error."""
    return min(candidates, key=lambda name: error(candidates[name](noisy), clean))


def baselines(data: mnist.Dataset) -> dict[str, Callable]:
    """Choose the best filter of each kind, and the best number of components, by validation."""
    train, validation = as_rows(data.train_images), as_rows(data.validation_images)
    noisy = with_noise(validation, NOISE, np.random.default_rng(3))
    components = principal(train)
    kinds = [
        {
            f"median of {side} × {side} pixels": lambda rows, s=side: filtered(rows, "median", s)
            for side in (3, 5)
        },
        {
            f"Gaussian filter, {deviation:g} pixels": (
                lambda rows, d=deviation: filtered(rows, "Gaussian", d)
            )
            for deviation in (0.8, 1, 1.2, 1.4, 1.6)
        },
        {f"PCA, {count} components": pca(components, count) for count in (8, 16, 24, 32, 48)},
    ]
    chosen = [best(candidates, noisy, validation) for candidates in kinds]
    return {name: kind[name] for name, kind in zip(chosen, kinds, strict=True)}


def draw_denoising(data: mnist.Dataset) -> None:
    """Draw noisy digits and what several methods make of them; write their errors as a table."""
    test = as_rows(data.test_images)
    network = trained(WIDTH, as_rows(data.train_images), NOISE)
    methods = {"noisy image": lambda rows: rows, **baselines(data)}
    methods["denoising autoencoder"] = lambda rows: network(rows).numpy()
    mirrored = test.reshape(-1, 28, 28)[:, :, ::-1].reshape(test.shape)
    lines = {name: [name] for name in methods}
    results = {}
    for clean in (test, mirrored, 1 - test):
        noisy = with_noise(clean, NOISE, np.random.default_rng(4))
        for name, method in methods.items():
            result = method(noisy)
            lines[name].append(thousandths(error(result, clean)))
            results.setdefault(name, result)
    header = ["", "digits", "mirrored digits", "negatives of digits"]
    drawing.write(drawing.table(header, "lrrr", list(lines.values())), "sequences_denoising")

    shown = [int(np.flatnonzero(data.test_labels == digit)[0]) for digit in range(8)]
    rows = [test[shown], *(result[shown] for result in results.values())]
    figure, axis = plt.subplots(figsize=(3.65, 1.9))
    show_rows(axis, rows, [textwrap.fill(name, 16) for name in ("image", *results)])
    drawing.save(figure, "sequences_denoising")


def main() -> None:
    """Draw all figures."""
    draw_unrolled()
    draw_lstm()
    draw_gradients()
    data = digits()
    draw_codes(data)
    draw_denoising(data)


if __name__ == "__main__":
    drawing.run(main)
