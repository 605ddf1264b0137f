"""Draw the figures of note 4: loss surfaces, backpropagation, gradient descent and its relatives.

    python docs/figures/training.py

writes docs/images/training_*.svg and the tables training_* of the notes. The valley is a quadratic
function; the network that is trained is a small one in NumPy, on sample data, scikit-learn's
handwritten digits of 8 x 8 pixels, so that everything takes seconds.
"""

import functools
import math
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy's small products are faster on one core
import drawing  # isort: skip  # before TensorFlow
from drawing import BLUE, GREEN, GREY, INK, ORANGE  # isort: skip

import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

IMAGES = 1536  # of the 1,797 sample images: many batch sizes divide it
HIDDEN = 32  # units
SMALLEST, LARGEST = 1.0, 20.0  # curvatures of the valley, along it and across
TURNED = math.radians(25)  # the valley lies aslant, as valleys do
START = np.array([-5.0, 1.2])  # along the valley and across
SQUARE = (3.65, 3.3)  # inches, of some pictures

# %% Backpropagation by hand

X, TARGET = np.array([1.0, 2.0]), np.array([0.0, 1.0])  # one example, of the second class
EXAMPLE = {
    "W": np.array([[0.3, 0.4], [0.1, -0.6]]),
    "b": np.array([0.0, 0.1]),
    "V": np.array([[1.0, -1.0], [0.5, 1.0]]),
    "c": np.array([0.0, 0.0]),
}
EXAMPLE_RATE = 0.5  # learning rate of the one step in the table


def forward_by_hand(weights: dict) -> dict:
    """Go forward through 2 inputs, 2 hidden units and 2 classes; return all values by name."""
    z = X @ weights["W"] + weights["b"]
    h = np.tanh(z)
    u = h @ weights["V"] + weights["c"]
    p = np.exp(u) / np.exp(u).sum()
    return {"z": z, "h": h, "u": u, "p": p, "L": -np.log(p @ TARGET)}


def backward_by_hand(weights: dict, values: dict) -> dict:
    """Go back from the loss; return its derivatives by the name of what it is derived by."""
    h, p = values["h"], values["p"]
    of_u = p - TARGET
    of_h = weights["V"] @ of_u
    of_z = of_h * (1 - h**2)
    return {
        "u": of_u,
        "c": of_u,
        "V": np.outer(h, of_u),
        "h": of_h,
        "z": of_z,
        "b": of_z,
        "W": np.outer(X, of_z),
    }


def gradient_of_tape(weights: dict) -> dict:
    """Return the derivatives by W, b, V and c as TensorFlow computes them."""
    variables = {name: tf.Variable(value) for name, value in weights.items()}
    with tf.GradientTape() as tape:
        h = tf.tanh(X[None] @ variables["W"] + variables["b"])
        logits = h @ variables["V"] + variables["c"]
        loss = tf.nn.softmax_cross_entropy_with_logits(TARGET[None], logits)
    return {name: g.numpy() for name, g in tape.gradient(loss, variables).items()}


def stepped(weights: dict) -> dict:
    """Return the weights after one step of gradient descent."""
    gradient = backward_by_hand(weights, forward_by_hand(weights))
    return {name: value - EXAMPLE_RATE * gradient[name] for name, value in weights.items()}


def written(value: np.ndarray) -> str:
    """Write a number, a vector, or a matrix as its rows, for a table."""
    if np.ndim(value) == 2:
        return " and ".join(written(row) for row in value)
    numbers = [f"{number:.4f}".replace("-", "\N{MINUS SIGN}") for number in np.atleast_1d(value)]
    return numbers[0] if np.ndim(value) == 0 else f"({', '.join(numbers)})"


def example_table() -> str:
    """Return all values of the example, forward and back, as a table."""
    values = forward_by_hand(EXAMPLE)
    derivatives = backward_by_hand(EXAMPLE, values)
    after = forward_by_hand(stepped(EXAMPLE))
    rows = [
        ("forward", "$z = xW + b$", values["z"]),
        ("", r"$h = \tanh z$", values["h"]),
        ("", "$u = hV + c$", values["u"]),
        ("", r"$p = \mathrm{softmax}(u)$", values["p"]),
        ("", r"$L = -\ln p_2$", values["L"]),
        ("back", r"$\delta_u = p - y$, also of $c$", derivatives["u"]),
        ("", r"of $V$: $h^\top \delta_u$", derivatives["V"]),
        ("", r"$\delta_h = \delta_u V^\top$", derivatives["h"]),
        ("", r"$\delta_z = \delta_h \odot (1 - h^2)$, also of $b$", derivatives["z"]),
        ("", r"of $W$: $x^\top \delta_z$", derivatives["W"]),
        ("one step", rf"$L$ after a step with $\eta = {EXAMPLE_RATE}$", after["L"]),
    ]
    cells = [(way, formula, written(value)) for way, formula, value in rows]
    return drawing.table(("", "", "value"), "lll", cells)


# %% A network for digits, trained by the same formulas


@functools.cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return sample images, float64 (IMAGES, 64) from 0 to 1, and one-hot labels (IMAGES, 10)."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))[:IMAGES]
    return data.data[order] / 16, np.eye(10)[data.target[order]]


def new_network(seed: int) -> list[np.ndarray]:
    """Return W (64, HIDDEN), b, V (HIDDEN, 10) and c, with the variances of Glorot and Bengio."""
    rng = np.random.default_rng(seed)
    kernels = [
        rng.normal(0, math.sqrt(2 / (inputs + outputs)), (inputs, outputs))
        for inputs, outputs in ((64, HIDDEN), (HIDDEN, 10))
    ]
    return [kernels[0], np.zeros(HIDDEN), kernels[1], np.zeros(10)]


def forward(network: list, images: np.ndarray, targets: np.ndarray) -> tuple:
    """Return the mean loss of a batch, and what the way back needs: h and p, (N, HIDDEN), (N, 10).

    Computes in the precision of what it is given.
    """
    kernel, bias, top, top_bias = network
    h = np.tanh(images @ kernel + bias)
    logits = h @ top + top_bias
    logits = logits - logits.max(axis=1, keepdims=True)
    total = np.exp(logits).sum(axis=1, keepdims=True)
    loss = (np.log(total[:, 0]) - (targets * logits).sum(axis=1)).mean()
    return loss, h, np.exp(logits) / total


def loss_and_gradient(network: list, images: np.ndarray, targets: np.ndarray) -> tuple:
    """Return the mean loss of a batch and its gradient, by the formulas of the table."""
    loss, h, p = forward(network, images, targets)
    of_logits = (p - targets) / len(images)
    of_z = of_logits @ network[2].T * (1 - h**2)
    return loss, [images.T @ of_z, of_z.sum(axis=0), h.T @ of_logits, of_logits.sum(axis=0)]


def train(rate: float, epochs: int, batch_size: int, momentum: float = 0, seed: int = 0) -> tuple:
    """Train a new network; return it, and the loss on all images after each epoch, and at first."""
    images, targets = digits()
    network, rng = new_network(seed), np.random.default_rng(seed)
    velocity = [np.zeros_like(part) for part in network]
    losses = [forward(network, images, targets)[0]]
    for _ in range(epochs):
        order = rng.permutation(IMAGES)
        for batch in np.split(order, IMAGES // batch_size):
            _, gradient = loss_and_gradient(network, images[batch], targets[batch])
            velocity = [momentum * v + g for v, g in zip(velocity, gradient, strict=True)]
            network = [w - rate * v for w, v in zip(network, velocity, strict=True)]
        losses.append(forward(network, images, targets)[0])
    return network, np.array(losses)


# %% The valley


def valley() -> np.ndarray:
    """Return the matrix A of the loss w^T A w / 2, (2, 2)."""
    along = np.array([math.cos(TURNED), math.sin(TURNED)])
    across = np.array([-along[1], along[0]])
    return SMALLEST * np.outer(along, along) + LARGEST * np.outer(across, across)


def valley_start() -> np.ndarray:
    """Return where descents begin, (2,)."""
    along = np.array([math.cos(TURNED), math.sin(TURNED)])
    return START[0] * along + START[1] * np.array([-along[1], along[0]])


def descend(rate: float, momentum: float, steps: int, nesterov: bool = False) -> np.ndarray:
    """Descend the valley; return all places, the start among them, (steps + 1, 2)."""
    matrix, place = valley(), valley_start()
    velocity, places = np.zeros(2), [place]
    for _ in range(steps):
        gradient = matrix @ place
        velocity = momentum * velocity + gradient
        place = place - rate * (gradient + momentum * velocity if nesterov else velocity)
        places.append(place)
    return np.array(places)


def valley_loss(places: np.ndarray) -> np.ndarray:
    """Return the loss at places (N, 2)."""
    return 0.5 * np.einsum("ni,ij,nj->n", places, valley(), places)


def draw_valley(axis) -> None:
    """Draw contours of the valley."""
    x, y = np.meshgrid(np.linspace(-6.5, 3, 200), np.linspace(-4.4, 2.6, 200))
    loss = valley_loss(np.stack([x.ravel(), y.ravel()], axis=1)).reshape(x.shape)
    axis.contour(x, y, loss, levels=2.0 ** np.arange(-2, 8), colors=GREY, linewidths=0.5)
    axis.plot(0, 0, "+", c=INK, ms=9)
    axis.grid(False)
    axis.set(xlabel="$w_1$", ylabel="$w_2$", aspect="equal", xlim=(-6.5, 3), ylim=(-4.4, 2.6))


# %% Surfaces


def random_direction(network: list, rng: np.random.Generator) -> list:
    """Return a direction in which each unit's weights have the length that they have in `network`.

    Without that, a step of one length means little to large weights and much to small ones.
    """
    direction = []
    for part in network:
        step = rng.normal(size=part.shape)
        if part.ndim == 2:
            step *= np.linalg.norm(part, axis=0) / np.linalg.norm(step, axis=0)
        else:
            step *= np.linalg.norm(part) / np.linalg.norm(step)
        direction.append(step)
    return direction


def plane(origin: list, first: list, second: list, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the loss at origin + a first + b second for all a and b, (len(b), len(a))."""
    images, targets = digits()
    parts = list(zip(origin, first, second, strict=True))
    return np.array(
        [
            [forward([o + s * f + t * g for o, f, g in parts], images, targets)[0] for s in a]
            for t in b
        ]
    )


def twin(network: list) -> list:
    """Return the same network with its hidden units in another order: the same function."""
    kernel, bias, top, top_bias = network
    order = np.random.default_rng(2).permutation(HIDDEN)
    return [kernel[:, order], bias[order], top[order], top_bias]


def difference(first: list, second: list) -> list:
    """Return first - second."""
    return [f - s for f, s in zip(first, second, strict=True)]


@functools.cache
def trained_network() -> list:
    """Return the network whose surroundings are drawn."""
    return train(rate=0.1, epochs=600, batch_size=IMAGES, momentum=0.9)[0]


def draw_surface() -> None:
    """Draw the loss of a network in two planes, and the valley with its gradients."""
    network, start = trained_network(), new_network(0)
    rng = np.random.default_rng(1)
    axis = plt.subplots(figsize=SQUARE, subplot_kw={"projection": "3d"})[1]
    axes = [axis, *drawing.panels(2, SQUARE)]
    steps = np.linspace(-1.2, 1.2, 25)
    first, second = random_direction(network, rng), random_direction(network, rng)
    loss = plane(network, first, second, steps, steps)
    axis.plot_surface(*np.meshgrid(steps, steps), loss, cmap="viridis", rcount=25, ccount=25, lw=0)
    axis.set(zlabel="loss")
    axis.set_xlabel("first direction", labelpad=6)
    axis.set_ylabel("second direction", labelpad=6)
    axis.set_title("a network, two random directions")
    for coordinate in (axis.xaxis, axis.yaxis, axis.zaxis):
        coordinate.set_pane_color((0, 0, 0, 0))
        coordinate.line.set_color(INK)
    axis.set_box_aspect(None, zoom=0.85)
    axis.view_init(25, -60)

    axis = axes[1]
    a, b = np.linspace(-0.35, 1.35, 41), np.linspace(-0.4, 1.4, 41)
    loss = plane(network, difference(twin(network), network), difference(start, network), a, b)
    levels = np.geomspace(0.02, 6, 19)
    filled = axis.contourf(a, b, np.log10(loss), levels=np.log10(levels), extend="both")
    bar = axis.figure.colorbar(filled, ticks=np.log10([0.03, 0.1, 0.3, 1, 3]))
    bar.ax.set_yticklabels(["0.03", "0.1", "0.3", "1", "3"])
    bar.set_label("loss")
    for x, y, name in ((0, 0, "trained"), (1, 0, "the twin"), (0, 1, "start")):
        axis.plot(x, y, "w*", ms=11, mec="black")
        place = (0, 9) if y else (0, -16)
        look = {"textcoords": "offset points", "ha": "center", "c": "black" if y else "white"}
        axis.annotate(name, (x, y), place, **look)
    axis.set(xlabel="share of the way to the twin", ylabel="share of the way to the start")
    axis.set_title("the same network, a plane through three points")
    axis.grid(False)

    axis = axes[2]
    draw_valley(axis)
    for along, across in (
        (-5, 0.8),
        (-5.5, -0.4),
        (-2.6, -0.8),
        (-1.5, 0.8),
        (1, -0.7),
        (2.4, 0.5),
    ):
        turn = np.array(
            [[math.cos(TURNED), -math.sin(TURNED)], [math.sin(TURNED), math.cos(TURNED)]]
        )
        place = turn @ (along, across)
        downhill = -valley() @ place
        downhill *= 1.1 / np.linalg.norm(downhill)
        axis.annotate("", place + downhill, place, arrowprops={"arrowstyle": "->", "color": BLUE})
        axis.plot(*place, "o", c=BLUE, ms=3)
    axis.set_title("a quadratic valley, and downhill")
    drawing.save_panels(axes, "training_surface")


# %% Learning rate

RATES = {"too small": 0.01, "best": 2 / (SMALLEST + LARGEST), "too large": 0.101}
STEPS = 60
DIGIT_RATES = 2.0 ** np.arange(-8, 8)
DIGIT_STEPS = 100


def losses_by_rate() -> np.ndarray:
    """Return the digits' loss after DIGIT_STEPS steps of gradient descent, for each rate."""
    return np.array([train(rate, DIGIT_STEPS, IMAGES)[1][-1] for rate in DIGIT_RATES])


def draw_rates() -> None:
    """Draw gradient descent with learning rates that are too small, best and too large."""
    axes = drawing.panels(3, SQUARE)
    draw_valley(axes[0])
    for (name, rate), style in zip(RATES.items(), ("s-", "o-", "^:"), strict=True):
        places = descend(rate, 0, STEPS)
        shown = places[:13] if name == "too large" else places[:31]
        label = rf"$\eta$ = {rate:.3g}, {name}"
        axes[0].plot(*shown.T, style, ms=3, lw=1.2, label=label)
        axes[1].semilogy(valley_loss(places), style, ms=3, lw=1.2, markevery=5, label=label)
    axes[0].set_title("the valley")
    axes[1].set(xlabel="step", ylabel="loss")
    axes[1].set_title("loss in the valley")
    for axis in axes[:2]:
        axis.figure.legend(loc="outside lower center")
    axes[2].loglog(DIGIT_RATES, losses_by_rate(), "o-")
    axes[2].set(xlabel=r"learning rate $\eta$", ylabel=f"loss after {DIGIT_STEPS} steps")
    axes[2].set_title("a network for digits")
    drawing.save_panels(axes, "training_rates")


# %% Momentum

ROOT_OF_CONDITION = math.sqrt(LARGEST / SMALLEST)
BEST_MOMENTUM = (ROOT_OF_CONDITION - 1) / (ROOT_OF_CONDITION + 1)
METHODS = {  # each with what is the best for a quadratic function of these curvatures
    "gradient descent": {"rate": 2 / (SMALLEST + LARGEST), "momentum": 0},
    "heavy ball": {
        "rate": 4 / (math.sqrt(SMALLEST) + math.sqrt(LARGEST)) ** 2,
        "momentum": BEST_MOMENTUM**2,
    },
    "Nesterov": {"rate": 1 / LARGEST, "momentum": BEST_MOMENTUM, "nesterov": True},
}


def adam_step(steps: int, corrected: bool) -> np.ndarray:
    """Return the lengths of Adam's first steps, in learning rates, if the gradient is always 1."""
    t = np.arange(1, steps + 1)
    mean, square = 1 - 0.9**t, 1 - 0.999**t
    return mean / np.sqrt(square) * (np.sqrt(square) / mean if corrected else 1)


def draw_momentum() -> None:
    """Draw gradient descent, heavy ball and Nesterov in the valley, and Adam's first steps."""
    axes = drawing.panels(3, SQUARE)
    draw_valley(axes[0])
    for (name, settings), style in zip(METHODS.items(), ("o-", "s--", "^-."), strict=True):
        places = descend(steps=STEPS, **settings)
        axes[0].plot(*places[:31].T, style, ms=3, lw=1.2, label=name)
        axes[1].semilogy(valley_loss(places), style, ms=3, lw=1.2, markevery=5, label=name)
    axes[0].set_title("the valley")
    axes[1].set(xlabel="step", ylabel="loss", ylim=(1e-13, 1e2))
    axes[1].set_title("loss in the valley")
    for corrected, style, label in ((False, "--", "without correction"), (True, "-", "with it")):
        axes[2].semilogx(range(1, 5001), adam_step(5000, corrected), style, label=label)
    axes[2].set(xlabel="step", ylabel=r"length of the step / $\eta$", ylim=(0, 7.5))
    axes[2].set_title("Adam, gradient always the same")
    for axis in axes:
        axis.figure.legend(loc="outside lower center", ncols=3)
    drawing.save_panels(axes, "training_momentum")


# %% Batches

BATCH_SIZES = (4, 32, 256, IMAGES)
EPOCHS = 20
BATCH_RATES = 2.0 ** np.arange(-6, 5)


def flat(gradient: list) -> np.ndarray:
    """Return all numbers of a gradient in one vector."""
    return np.concatenate([part.ravel() for part in gradient])


def gradient_variance(sizes, repeats: int) -> tuple[np.ndarray, float]:
    """Measure how much the gradients of batches scatter around that of all images.

    Returns:
        The mean squared distance from the whole gradient, for each batch size; and the same for
        single images, which is exact.
    """
    images, targets = digits()
    network, rng = new_network(0), np.random.default_rng(0)
    whole = flat(loss_and_gradient(network, images, targets)[1])

    def distance(batch) -> float:
        gradient = flat(loss_and_gradient(network, images[batch], targets[batch])[1])
        return np.sum((gradient - whole) ** 2)

    single = np.mean([distance([i]) for i in range(IMAGES)])
    measured = [
        np.mean([distance(rng.permutation(IMAGES)[:size]) for _ in range(repeats)])
        for size in sizes
    ]
    return np.array(measured), single


def best_by_batch_size() -> dict[int, tuple[float, np.ndarray]]:
    """For each batch size, find the rate that ends with the lowest loss: (rate, losses)."""
    found = {}
    for size in BATCH_SIZES:
        runs = [(rate, train(rate, EPOCHS, size)[1]) for rate in BATCH_RATES]
        found[size] = min(runs, key=lambda run: run[1][-1])
    return found


def draw_batches() -> None:
    """Draw the scatter of mini-batch gradients, and how batches of several sizes learn."""
    axes = drawing.panels(3, SQUARE)
    sizes = 2 ** np.arange(0, 10)
    measured, single = gradient_variance(sizes, repeats=200)
    axes[0].loglog(sizes, measured, "o", base=2, label="measured")
    axes[0].loglog(sizes, single / sizes, "--", c=GREY, base=2, label="variance of one / B")
    left = (IMAGES - sizes) / (IMAGES - 1)
    axes[0].loglog(sizes, single / sizes * left, c=ORANGE, base=2, label="drawn once each")
    axes[0].set(xlabel="images in the batch, $B$", ylabel="mean squared distance")
    axes[0].set_title("from the gradient of all images")
    for (size, (rate, losses)), style in zip(
        best_by_batch_size().items(), ("o-", "s--", "^-.", "v:"), strict=True
    ):
        label = rf"B = {size}, $\eta$ = {rate:g}"
        epochs = np.arange(EPOCHS + 1)
        axes[1].semilogy(epochs, losses, style, ms=3, lw=1.2, label=label)
        steps = epochs[1:] * (IMAGES // size)
        axes[2].loglog(steps, losses[1:], style, ms=3, lw=1.2, label=label)
    axes[1].set(xlabel="epoch", ylabel="loss on all images", xticks=range(0, EPOCHS + 1, 5))
    axes[1].set_title("by images seen")
    axes[2].set(xlabel="step", ylabel="loss on all images")
    axes[2].set_title("the same, by steps")
    for axis in axes:
        axis.figure.legend(loc="outside lower center", ncols=1 if axis is axes[0] else 2)
    drawing.save_panels(axes, "training_batches")


# %% Schedules

SCHEDULE_STEPS = 300
PEAK = 0.08  # learning rate
NOISE = 1.0  # variance of each gradient's two numbers, around the gradient of the valley


def schedules() -> dict[str, np.ndarray]:
    """Return the share of the peak in each step, by the name of the schedule."""
    done = (np.arange(SCHEDULE_STEPS) + 1) / (SCHEDULE_STEPS + 1)
    warm_up = 0.1
    return {
        "constant": np.ones(SCHEDULE_STEPS),
        "constant, a tenth": np.full(SCHEDULE_STEPS, 0.1),
        "steps": np.where(done < 0.5, 1, np.where(done < 0.75, 0.1, 0.01)),
        "warm-up, cosine": np.minimum(
            done / warm_up, 0.5 + 0.5 * np.cos(np.pi * (done - warm_up) / (1 - warm_up))
        ),
        "one cycle": np.minimum(done / warm_up, (1 - done) / (1 - warm_up)),
    }


def expected_losses(rates: np.ndarray) -> np.ndarray:
    """Return the mean loss of all possible noisy descents in the valley, before each step and last.

    Along each axis of the valley, with curvature c, E[w^2] becomes (1 - rate c)^2 E[w^2] +
    rate^2 NOISE, for the noise has mean 0 and knows nothing of the place.
    """
    curvatures, squares = np.array([SMALLEST, LARGEST]), START**2
    losses = [0.5 * curvatures @ squares]
    for rate in rates:
        squares = (1 - rate * curvatures) ** 2 * squares + rate**2 * NOISE
        losses.append(0.5 * curvatures @ squares)
    return np.array(losses)


def draw_schedules() -> None:
    """Draw schedules of the learning rate, and what each does to a noisy descent."""
    axes = drawing.panels(2, (3.65, 3.5))
    styles, colours = (":", "-.", "--", "-", "-"), (INK, GREY, ORANGE, GREEN, BLUE)
    for (name, shares), style, colour in zip(schedules().items(), styles, colours, strict=True):
        look = {"ls": style, "c": colour, "label": name}
        look["lw"] = 2.5 if name == "one cycle" else 1.3
        axes[0].plot(range(1, SCHEDULE_STEPS + 1), shares, **look)
        axes[1].semilogy(expected_losses(PEAK * shares), **look)
    axes[0].set(xlabel="step", ylabel="learning rate / peak")
    axes[1].set(xlabel="step", ylabel="expected loss")
    axes[0].set_title("schedules")
    axes[1].set_title("descent in the valley with noisy gradients")
    for axis in axes:
        axis.figure.legend(loc="outside lower center", ncols=2)
    drawing.save_panels(axes, "training_schedules")


# %% Checking a gradient

STEP_LENGTHS = 10.0 ** np.array([-1, -2, -3, -4, -5, -6, -8, -10])
CHECKED = 30  # weights, in each of the two matrices


def errors_of_differences() -> dict[str, np.ndarray]:
    """Compare derivatives with central differences, for each of STEP_LENGTHS.

    Returns:
        By dtype: the length of the vector of errors, as a share of that of the derivatives.
    """
    images, targets = (part[:64] for part in digits())
    network = new_network(0)
    exact = loss_and_gradient(network, images, targets)[1]
    rng, errors = np.random.default_rng(0), {}
    places = [(part, *rng.integers(0, network[part].shape, (CHECKED, 2)).T) for part in (0, 2)]
    for dtype in ("float64", "float32"):
        x, y = images.astype(dtype), targets.astype(dtype)

        def loss(part, row, column, step, x=x, y=y, dtype=dtype) -> float:
            moved = [w.astype(dtype) for w in network]
            moved[part][row, column] += np.asarray(step, dtype)
            return float(forward(moved, x, y)[0])

        errors[dtype] = []
        for h in STEP_LENGTHS:
            by_difference, by_formula = [], []
            for part, rows, columns in places:
                for place in zip(rows, columns, strict=True):
                    slope = (loss(part, *place, h) - loss(part, *place, -h)) / (2 * h)
                    by_difference.append(slope)
                    by_formula.append(exact[part][place])
            miss = np.linalg.norm(np.subtract(by_difference, by_formula))
            errors[dtype].append(miss / np.linalg.norm(by_formula))
        errors[dtype] = np.array(errors[dtype])
    return errors


def power(number: float) -> str:
    """Write a number as the power of ten that is nearest, for a table."""
    return f"$10^{{{round(math.log10(number))}}}$"


def check_table() -> str:
    """Return the errors of central differences as a table."""
    errors = errors_of_differences()
    rows = [
        (power(h), *(power(errors[dtype][i]) for dtype in ("float64", "float32")))
        for i, h in enumerate(STEP_LENGTHS)
    ]
    return drawing.table(("$h$", "error in float64", "in float32"), "rrr", rows)


def main() -> None:
    """Draw all figures and write the tables."""
    gradient = backward_by_hand(EXAMPLE, forward_by_hand(EXAMPLE))
    for name, value in gradient_of_tape(EXAMPLE).items():
        np.testing.assert_allclose(gradient[name], value, rtol=1e-12)
    drawing.write(example_table(), "training_backpropagation")
    drawing.write(check_table(), "training_check")
    draw_surface()
    draw_rates()
    draw_momentum()
    draw_batches()
    draw_schedules()


if __name__ == "__main__":
    drawing.run(main)
