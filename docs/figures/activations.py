"""Draw the figures of note 2: activation functions, their derivatives, and their effect in depth.

    python docs/figures/activations.py

writes docs/images/activations_*.svg and the tables activations_* of the notes. Deep networks are
measured before any training, on random inputs; what is trained here is trained on sample data,
scikit-learn's handwritten digits, so that it takes seconds and comes out the same everywhere.
"""

import itertools

import drawing  # isort: skip  # before TensorFlow
from drawing import BLUE, GREY, INK, ORANGE  # isort: skip

import numpy as np
import tensorflow as tf

# %% Curves

FIRST = {"sigmoid": tf.sigmoid, "tanh": tf.tanh, "ReLU": tf.nn.relu}
LATER = {
    "leaky ReLU, slope 0.1": lambda x: tf.nn.leaky_relu(x, 0.1),
    "ELU": tf.nn.elu,
    "GELU": tf.nn.gelu,
    "SiLU (swish)": tf.nn.silu,
}
STYLES = ["-", "--", "-.", ":"]


def derivative(function, x: np.ndarray) -> np.ndarray:
    """Return the derivative of a function of single numbers as TensorFlow computes it."""
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x).numpy()


def draw_curves() -> None:
    """Draw activation functions and their derivatives."""
    x = np.linspace(-5, 5, 1000)  # an even number: 0 is left out, where some have a corner
    axes = drawing.panels(4)
    for (left, right), group in zip((axes[:2], axes[2:]), (FIRST, LATER), strict=True):
        for style, (name, function) in zip(STYLES, group.items(), strict=False):
            left.plot(x, function(x), style, label=name)
            right.plot(x, derivative(function, x), style, label=name)
        left.set(title="function", ylim=(-1.3, 4.3), xlabel="x")
        right.set(title="derivative", ylim=(-0.25, 1.95), xlabel="x")
    axes[1].axhline(0.25, color=GREY, linewidth=0.8)
    axes[1].text(-4.9, 0.28, "0.25", color=GREY)
    for axis in axes:
        axis.legend(loc="upper left")
    drawing.save_panels(axes, "activations_curves")


# %% Numbers
# Behind a layer of many inputs and random weights, the sums are about normally distributed. So what
# matters of a function are its averages over the normal distribution.


def moments(function) -> dict[str, float]:
    """Return averages over sums with mean 0 and variance 1.

    Returns:
        "mean" and "variance" of the outputs, "square_slope", the mean square of the derivative,
        and "largest_slope", the largest derivative anywhere.
    """
    x = np.linspace(-12, 12, 240_000)  # 0 is left out
    weights = np.exp(-(x**2) / 2)
    weights /= weights.sum()
    y, slope = function(x).numpy(), derivative(function, x)
    mean = weights @ y
    return {
        "mean": mean,
        "variance": weights @ (y - mean) ** 2,
        "square_slope": weights @ slope**2,
        "largest_slope": slope.max(),
    }


def condition(mean: float, variance: float, units: int = 64) -> float:
    """Return the condition number of E[h h^T], if units are independent and all alike.

    The matrix has the eigenvalue `variance` in all directions but one, and
    `variance + units * mean**2` along (1, ..., 1).
    """
    return 1 + units * mean**2 / variance


def moments_table() -> str:
    """Return the averages of all functions."""
    header = ["function", "largest slope", "mean square slope"]
    header += ["mean output", "deviation", "condition number"]
    rows = []
    for name, function in (FIRST | LATER).items():
        found = moments(function)
        number = condition(found["mean"], found["variance"])
        rows.append([name, f"{found['largest_slope']:.2f}", f"{found['square_slope']:.3f}"])
        rows[-1] += [f"{found['mean'] + 0:.2f}".replace("-0.00", "0.00")]
        rows[-1] += [f"{found['variance'] ** 0.5:.2f}", f"{number:.0f}"]
    return drawing.table(header, "lrrrrr", rows)


# %% Depth
# The functions once more, in NumPy, and their derivatives by formula: with them, the way forward
# and the way back through a deep network are a line each.


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Compute 1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(-x))


FORMULAS = {
    "sigmoid": (sigmoid, lambda x: sigmoid(x) * (1 - sigmoid(x))),
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "ReLU": (lambda x: np.maximum(x, 0), lambda x: (x > 0).astype(float)),
}
GAINS = {"Glorot": 1.0, "He": 2.0}  # variance of a weight, times the inputs of its unit
LAYERS, UNITS, EXAMPLES = 30, 256, 64
AS_TANH = "sigmoid, as tanh"  # computes what tanh, Glorot computes


def random_weights(gain: float, layers: int = LAYERS, units: int = UNITS) -> list[np.ndarray]:
    """Draw matrices (units, units) with the variance gain / units, the same draw for each gain."""
    rng = np.random.default_rng(0)
    return [np.sqrt(gain / units) * rng.standard_normal((units, units)) for _ in range(layers)]


def as_sigmoids(kernels: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return kernels and biases with which sigmoids compute what tanh does with the given ones.

    tanh(x) = 2 sigmoid(2 x) - 1: the factors and the -1 go into the next layer.
    """
    others = [2 * kernels[0]] + [4 * kernel for kernel in kernels[1:]]
    biases = [np.zeros(len(kernels[0]))] + [-2 * kernel.sum(axis=0) for kernel in kernels[1:]]
    return others, biases


def forward_and_back(name: str, kernels, biases=None) -> tuple[np.ndarray, np.ndarray]:
    """Send random inputs through a network and a random gradient back.

    Args:
        name: of the activation function.
        kernels: of the layers, each (units, units).
        biases: of the layers, each (units,); none if left out.

    Returns:
        For each layer, how much its outputs differ between examples (the standard deviation, root
        mean square over the units), and the root mean square of the gradient with respect to its
        sums, in front of the activation function.
    """
    function, slope = FORMULAS[name]
    biases = biases or [0.0] * len(kernels)
    rng = np.random.default_rng(1)
    x, gradient = rng.standard_normal((2, EXAMPLES, len(kernels[0])))
    sums, spreads = [], []
    for kernel, bias in zip(kernels, biases, strict=True):
        sums.append(x @ kernel + bias)
        x = function(sums[-1])
        spreads.append(np.sqrt(np.mean(x.var(axis=0))))
    lengths = []
    for kernel, total in zip(reversed(kernels), reversed(sums), strict=True):
        gradient = gradient * slope(total)
        lengths.append(np.sqrt(np.mean(gradient**2)))
        gradient = gradient @ kernel.T
    return np.array(spreads), np.array(lengths[::-1])


def measure_depth() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Measure every activation function with every initialisation, before any training."""
    results = {
        f"{name}, {start}": forward_and_back(name, random_weights(gain))
        for name, (start, gain) in itertools.product(FORMULAS, GAINS.items())
    }
    results[AS_TANH] = forward_and_back("sigmoid", *as_sigmoids(random_weights(1.0)))
    return results


def factor(lengths: np.ndarray) -> float:
    """Return by what a gradient is multiplied on its way back through one layer, on average."""
    return float((lengths[0] / lengths[-1]) ** (1 / (len(lengths) - 1)))


def power(number: float) -> str:
    """Return a number as 1.2 · 10^3, in TeX, if it is far from 1."""
    mantissa, exponent = f"{number:.1e}".split("e")
    return (
        f"{number:.2f}" if abs(int(exponent)) < 2 else rf"${mantissa} \cdot 10^{{{int(exponent)}}}$"
    )


def depth_table(results: dict) -> str:
    """Return the factors for one layer, and what they come to over all of them."""
    header = ["activation, initialisation", "factor for one layer", f"over {LAYERS - 1} layers"]
    rows = [
        [name, f"{factor(lengths):.3f}", power(lengths[0] / lengths[-1])]
        for name, (_, lengths) in results.items()
    ]
    return drawing.table(header, "lrr", rows)


def draw_depth(results: dict) -> None:
    """Draw how differences between examples fade forward, and gradients backward."""
    axes = drawing.panels(2, (3.65, 3.7))
    colours = {"sigmoid": ORANGE, "tanh": BLUE, "ReLU": INK}
    layers = np.arange(1, LAYERS + 1)
    for name, (spreads, lengths) in results.items():
        look = {"color": colours[name.split(",")[0]], "linestyle": "-", "label": name}
        if name.endswith("He"):
            look["linestyle"] = "--"
        if name == AS_TANH:
            look |= {"marker": "o", "markersize": 3, "linestyle": ""}
            look["label"], spreads = f"{name} (doubled)", 2 * spreads
        axes[0].semilogy(layers, spreads, **look)
        axes[1].semilogy(layers, lengths / lengths[-1], **look | {"label": name})
    axes[0].set(title="outputs: differences between examples")
    axes[1].set(title="gradient, relative to the last layer")
    for axis in axes:
        axis.set(xlabel="layer", ylim=(1e-20, 1e2))
        axis.figure.legend(loc="outside lower center", ncols=2)
    drawing.save_panels(axes, "activations_depth")


# %% Training
# Networks that differ only in learning rate and seed are trained side by side: their weights are
# one array with one more axis, (networks, inputs, outputs).

BATCH_SIZE = 50
SEEDS = 3


def make_networks(sizes, gain: float, count: int) -> list[tf.Variable]:
    """Return kernels and biases of `count` networks for each seed; the output layer is zero."""
    variables = []
    for layer, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        deviation = np.sqrt(gain / inputs) if layer < len(sizes) - 2 else 0
        kernels = [
            np.random.default_rng([seed, layer]).normal(0, deviation, (inputs, outputs))
            for seed in np.repeat(range(SEEDS), count)
        ]
        variables.append(tf.Variable(np.stack(kernels), dtype=tf.float32))
        variables.append(tf.Variable(tf.zeros([SEEDS * count, 1, outputs])))
    return variables


def logits_of(variables, function, x: tf.Tensor) -> tf.Tensor:
    """Compute logits (networks, N, 10) from images (N, 196)."""
    x = x[None]
    for kernel, bias in zip(variables[:-2:2], variables[1:-2:2], strict=True):
        x = function(tf.matmul(x, kernel) + bias)  # (networks, N, units)
    return tf.matmul(x, variables[-2]) + variables[-1]


def train(variables, function, rates, images, labels, epochs: int) -> None:
    """Train with plain gradient descent on cross-entropy, each network at its own rate."""
    rates = tf.constant(np.tile(rates, SEEDS), tf.float32)[:, None, None]

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            logits = logits_of(variables, function, x)
            y = tf.repeat(y[None], len(logits), axis=0)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
            loss = tf.reduce_sum(tf.reduce_mean(losses, axis=1))  # the networks do not interact
        for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            variable.assign_sub(rates * gradient)

    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(len(images))
        for start in range(0, len(images) - BATCH_SIZE + 1, BATCH_SIZE):
            batch = order[start : start + BATCH_SIZE]
            step(tf.constant(images[batch]), tf.constant(labels[batch]))


def accuracies(variables, function, images, labels) -> np.ndarray:
    """Return the share of right answers, (SEEDS, rates)."""
    answers = np.argmax(logits_of(variables, function, tf.constant(images)), axis=-1)
    return np.mean(answers == labels, axis=1).reshape(SEEDS, -1)


SHALLOW, DEEP, WIDTH = 2, 10, 64  # hidden layers, and the units in each
RATES = 2.0 ** np.arange(-6, 3)
TRAINED = [("sigmoid", "Glorot"), ("tanh", "Glorot"), ("ReLU", "Glorot"), ("ReLU", "He")]


def trained_accuracies(hidden: int, digits, epochs: int = 15) -> dict[str, np.ndarray]:
    """Return validation accuracies (SEEDS, RATES) for every activation and initialisation.

    The last network starts with sigmoids that compute what tanh, Glorot computes.
    """
    images, labels, *validation = digits
    sizes, results = [196, *[WIDTH] * hidden, 10], {}
    for name, start in [*TRAINED, (AS_TANH, "Glorot")]:
        variables = make_networks(sizes, GAINS[start], len(RATES))
        if name == AS_TANH:
            shift_to_sigmoids(variables)
        function = FIRST["sigmoid" if name == AS_TANH else name]
        train(variables, function, RATES, images, labels, epochs)
        key = name if name == AS_TANH else f"{name}, {start}"
        results[key] = accuracies(variables, function, *validation)
    return results


def shift_to_sigmoids(variables: list[tf.Variable]) -> None:
    """Do to networks of `make_networks` what `as_sigmoids` does; the output layer is zero."""
    for layer, (kernel, bias) in enumerate(zip(variables[:-2:2], variables[1:-2:2], strict=True)):
        if layer > 0:
            bias.assign(-2 * tf.reduce_sum(kernel, axis=1, keepdims=True))
        kernel.assign((4 if layer > 0 else 2) * kernel)


def training_table(shallow: dict, deep: dict) -> str:
    """Return the best accuracies over the learning rates, in per cent, with those of all seeds."""

    def cell(results):
        best = results.mean(axis=0).argmax()
        seeds = results[:, best]
        numbers = 100 * np.array([seeds.mean(), seeds.min(), seeds.max()])
        text = "{:.1f} ({:.1f} to {:.1f})".format(*numbers)
        same = np.ptp(results) < 0.01  # nothing to choose
        return text, "any" if same else f"{RATES[best]:g}"

    header = ["activation, initialisation", f"{SHALLOW} hidden layers", "rate"]
    header += [f"{DEEP} hidden layers", "rate"]
    rows = [[name, *cell(shallow[name]), *cell(deep[name])] for name in shallow]
    return drawing.table(header, "lrrrr", rows)


# %% Dead units

DEAD_RATES = 2.0 ** np.arange(-4, 2.1, 0.5)
DEAD_UNITS = 256  # in the only hidden layer
KINDS = {"ReLU": tf.nn.relu, "leaky ReLU, slope 0.1": LATER["leaky ReLU, slope 0.1"]}


def never_positive(variables, images: np.ndarray) -> np.ndarray:
    """Return which hidden units have no positive sum for any image, bool (networks, units)."""
    return np.all(tf.matmul(images[None], variables[0]) + variables[1] <= 0, axis=1)


def measure_dead(digits, kind: str, epochs: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Train networks of one hidden layer; return dead units and validation accuracies.

    Returns:
        Which units have no positive sum for any training image, before and after the training,
        bool (2, SEEDS, rates, units); and accuracies (SEEDS, rates), NaN for networks whose weights
        have become so large that they are no numbers any more.
    """
    images, labels, *validation = digits
    variables = make_networks([196, DEAD_UNITS, 10], GAINS["He"], len(DEAD_RATES))
    dead = [never_positive(variables, images)]
    train(variables, KINDS[kind], DEAD_RATES, images, labels, epochs)
    dead.append(never_positive(variables, images))
    dead = np.reshape(dead, (2, SEEDS, len(DEAD_RATES), DEAD_UNITS))
    right = accuracies(variables, KINDS[kind], *validation)
    sane = [np.isfinite(variable).all(axis=(1, 2)) for variable in variables]
    return dead, np.where(np.reshape(np.all(sane, axis=0), right.shape), right, np.nan)


def draw_dead(results: dict) -> None:
    """Draw the share of units without a positive sum, and the accuracy, by learning rate."""
    axes = drawing.panels(2)
    for (kind, (dead, right)), style in zip(results.items(), ("o-", "s--"), strict=True):
        share = dead[1].mean(axis=(0, 2)) + 0 * right.mean(axis=0)  # NaN where there is no network
        axes[0].semilogx(DEAD_RATES, share, style, base=2, label=kind)
        axes[1].semilogx(DEAD_RATES, right.mean(axis=0), style, base=2, label=kind)
    axes[0].set(title="units that are positive for no image", ylabel="share")
    axes[1].set(title="validation images, right answers", ylabel="share")
    for axis in axes:
        axis.set(xlabel="learning rate", xlim=(2**-4.3, 2**2.3), ylim=(-0.05, 1.05))
        axis.legend()
    drawing.save_panels(axes, "activations_dead")


def main() -> None:
    """Draw all figures and write all tables."""
    draw_curves()
    drawing.write(moments_table(), "activations_moments")
    depth = measure_depth()
    draw_depth(depth)
    drawing.write(depth_table(depth), "activations_depth")
    digits = drawing.small_digits()
    shallow, deep = (trained_accuracies(hidden, digits) for hidden in (SHALLOW, DEEP))
    drawing.write(training_table(shallow, deep), "activations_training")
    draw_dead({kind: measure_dead(digits, kind) for kind in KINDS})


if __name__ == "__main__":
    drawing.run(main)
