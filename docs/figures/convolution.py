"""Draw the figures of note 6: convolution, padding, receptive fields, pooling.

    python docs/figures/convolution.py

writes docs/images/convolution_*.svg and the tables convolution_* of the notes. What is trained is
trained on sample data, scikit-learn's handwritten digits; the photograph is the one of Grace Hopper
(U.S. Navy, public domain) that matplotlib brings along.
"""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import drawing  # isort: skip  # before TensorFlow
from drawing import GREY, INK, ORANGE  # isort: skip

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from PIL import Image

from datasets import mnist

# %% Sizes


def output_size(size: int, kernel: int, stride: int = 1, padding: int = 0) -> int:
    """Return height or width of what comes out with `padding` zeros on each side."""
    return (size + 2 * padding - kernel) // stride + 1


def same_padding(size: int, kernel: int, stride: int = 1) -> tuple[int, int]:
    """Return how many zeros TensorFlow's "SAME" puts before and after `size` pixels.

    Source: https://www.tensorflow.org/api_docs/python/tf/nn, "Notes on padding".
    """
    outputs = math.ceil(size / stride)
    total = max((outputs - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def tensorflow_size(size: int, kernel: int, stride: int, padding: str | int) -> int:
    """Return the size that comes out of TensorFlow for one row of `size` pixels."""
    if isinstance(padding, int):
        padding = [[0, 0], [0, 0], [padding, padding], [0, 0]]
    row, weights = tf.zeros([1, 1, size, 1]), tf.zeros([1, kernel, 1, 1])
    return tf.nn.conv2d(row, weights, strides=[1, stride], padding=padding).shape[2]


SIZES = (  # where, size, kernel, stride
    ("example 05, first convolution", 28, 5, 2),
    ("example 05, last convolution", 3, 3, 1),
    ("example 14, whitening", 32, 2, 1),
    ("example 10, whitening", 96, 4, 2),
    ("VGG16, every convolution of block 1", 224, 3, 1),
    ("GoogLeNet, first convolution", 224, 7, 2),
    ("the same, one pixel more", 225, 7, 2),
    ("AlexNet, first convolution", 227, 11, 4),
)


def sizes_table() -> str:
    """Return what TensorFlow makes of some sizes."""
    rows = []
    for where, size, kernel, stride in SIZES:
        half = (kernel - 1) // 2
        valid, same, symmetric = (
            tensorflow_size(size, kernel, stride, padding) for padding in ("VALID", "SAME", half)
        )
        before, after = same_padding(size, kernel, stride)
        row = [where, size, kernel, stride, valid, same, f"{before} + {after}"]
        rows.append([*map(str, row), f"{symmetric} ({half} + {half})"])
    header = [
        "where",
        "$n$",
        "$k$",
        "$s$",
        "VALID",
        "SAME",
        "its zeros",
        "$p = \\lfloor(k-1)/2\\rfloor$",
    ]
    return drawing.table(header, "lrrrrrrr", rows)


def draw_padding() -> None:
    """Draw where the windows of three kinds of padding lie on six pixels; kernel 3, stride 2."""
    size, kernel, stride = 6, 3, 2
    kinds = (
        ("VALID", 0, 0),
        ("SAME", *same_padding(size, kernel, stride)),
        ("one zero on each side", 1, 1),
    )
    axes = drawing.panels(3, (3.65, 1.4))
    for axis, (name, before, after) in zip(axes, kinds, strict=True):
        for place in range(-before, size + after):
            inside = 0 <= place < size
            look = {"fill": False} if inside else {"facecolor": GREY, "alpha": 0.5}
            axis.add_patch(plt.Rectangle((place, 0), 1, 1, edgecolor=INK, **look))
            text = f"$x_{place}$" if inside else "0"
            axis.text(place + 0.5, 0.5, text, ha="center", va="center")
        for number in range((size + before + after - kernel) // stride + 1):
            start, height = number * stride - before, -0.45 - 0.4 * number
            axis.plot([start + 0.08, start + kernel - 0.08], [height] * 2, color=INK, linewidth=3)
            centre = start + kernel / 2
            axis.plot([centre], [height], "o", color=ORANGE, markersize=7, zorder=3)
        axis.set(xlim=(-1.2, 7.2), ylim=(-1.7, 1.1), title=name)
        axis.axis("off")
    drawing.save_panels(axes, "convolution_padding")


# %% A convolution in numbers

STROKE = np.array(
    [
        [0, 0, 1, 8, 9, 2],
        [0, 1, 7, 9, 3, 0],
        [0, 0, 8, 9, 2, 0],
        [1, 0, 9, 8, 1, 0],
        [0, 2, 9, 7, 0, 0],
        [0, 1, 8, 9, 1, 0],
    ]
)
EDGE = np.array([[-1, 0, 1]] * 3)
WINDOW = (1, 0)  # the window whose sum is written out: row and column


def correlate(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Slide a kernel (h, w) over an image (H, W), as TensorFlow does, without padding."""
    image, kernel = (tf.constant(array, tf.float32) for array in (image, kernel))
    result = tf.nn.conv2d(image[None, :, :, None], kernel[:, :, None, None], 1, "VALID")
    return result[0, :, :, 0].numpy()


def draw_array(axis, array: np.ndarray, title: str, limit: float) -> None:
    """Draw a small array as numbers on squares, the brighter the larger."""
    axis.imshow(array, cmap="gray", vmin=-2 * limit, vmax=limit)  # zero is grey, numbers legible
    for (row, column), value in np.ndenumerate(array):
        colour = "white" if value < -limit / 2 else "black"
        text = f"{value:g}".replace("-", "\N{MINUS SIGN}")
        axis.text(column, row, text, ha="center", va="center", color=colour, fontsize=10)
    axis.set(title=title, xticks=[], yticks=[])


def draw_box(axis, row: float, column: float, height: int, width: int) -> None:
    """Draw a thick frame around some of an array's squares."""
    corner = (column - 0.5, row - 0.5)
    axis.add_patch(plt.Rectangle(corner, width, height, fill=False, edgecolor=ORANGE, linewidth=3))


def draw_numbers() -> None:
    """Draw an image, a kernel, their convolution, and what max pooling leaves of it."""
    answers = correlate(STROKE, EDGE)
    pooled = tf.nn.max_pool2d(answers[None, :, :, None], 2, 2, "VALID")[0, :, :, 0].numpy()
    axes = []
    for array, title, limit in (
        (STROKE, "image", 9),
        (EDGE, "kernel", 1),
        (answers, "convolution", 27),
        (pooled, "max pooling", 27),
    ):
        axes += drawing.panels(1, (0.33 * len(array) + 0.1, 0.33 * len(array) + 0.3))
        draw_array(axes[-1], array, title, limit)
    row, column = WINDOW
    draw_box(axes[0], row, column, 3, 3)
    draw_box(axes[2], row, column, 1, 1)
    drawing.save_panels(axes, "convolution_numbers")


# %% What kernels do


def photograph() -> np.ndarray:
    """Return part of the photograph of Grace Hopper: grey, float (120, 120), 0 to 1."""
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    image = Image.open(path).convert("L").crop((110, 20, 470, 380)).resize((120, 120))
    return np.asarray(image) / 255


GREYS = plt.get_cmap("gray", 24)  # few, so that the file is small
KERNELS = {
    "mean of 5 x 5": np.full((5, 5), 1 / 25),
    "upright edges": np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]),  # Sobel's
    "level edges": np.array([[-1, -2, -1], [0, 0, 0], [1, 2, 1]]),
    "sharper": np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]]),
}


def draw_kernels() -> None:
    """Draw a photograph and what four kernels make of it."""
    image = photograph()
    axes = drawing.panels(5, (1.48, 2.2))
    axes[0].imshow(image, cmap=GREYS, vmin=0, vmax=1, interpolation="bilinear")
    axes[0].set_title("photograph")
    for axis, (name, kernel) in zip(axes[1:], KERNELS.items(), strict=True):
        low, high = (-2, 2) if kernel.sum() == 0 else (0, 1)  # without a sum: zero is mid-grey
        answers = correlate(image, kernel)
        axis.imshow(answers, cmap=GREYS, vmin=low, vmax=high, interpolation="bilinear")
        rows = [" ".join(f"{weight:g}" for weight in row) for row in kernel]
        text = "1/25, 25 times" if len(kernel) == 5 else "\n".join(rows)
        axis.set_title(name)
        axis.set_xlabel(text.replace("-", "\N{MINUS SIGN}"))
    for axis in axes:
        axis.set(xticks=[], yticks=[], anchor="N")
    drawing.save_panels(axes, "convolution_kernels")


# %% Weights and multiply-adds

LAYERS = (  # where, input (H, W, C), kernel, outputs (H, W, C)
    ("example 05, first", (28, 28, 1), 5, (12, 12, 32)),
    ("example 05, second", (12, 12, 32), 3, (10, 10, 64)),
    ("example 05, third", (5, 5, 64), 3, (3, 3, 128)),
    ("VGG16, conv1_1", (224, 224, 3), 3, (224, 224, 64)),
    ("VGG16, conv5_3", (14, 14, 512), 3, (14, 14, 512)),
)


def costs(inputs: Sequence[int], kernel: int, outputs: Sequence[int]) -> tuple[int, int, int]:
    """Return weights and multiply-adds of a convolution, and the weights of a dense layer.

    Biases are not counted. The dense layer has the same inputs and outputs; each of its weights is
    used once for an image, so it has as many multiply-adds as weights.
    """
    weights = kernel**2 * inputs[-1] * outputs[-1]
    return weights, outputs[0] * outputs[1] * weights, math.prod(inputs) * math.prod(outputs)


def costs_table() -> str:
    """Return what some layers of the examples need, and what dense layers would."""
    rows = []
    for where, inputs, kernel, outputs in LAYERS:
        weights, multiply_adds, dense = costs(inputs, kernel, outputs)
        shapes = ("×".join(map(str, shape)) for shape in (inputs, outputs))
        numbers = (f"{number:,}" for number in (weights, multiply_adds, dense))
        rows.append([where, *shapes, *numbers])
    header = ["convolution", "in", "out", "its weights", "multiply-adds", "weights if dense"]
    return drawing.table(header, "lrrrrr", rows)


# %% Moving the image

SIGNAL = (0, 0, 2, 5, 1, 0, 0, 0, 0)
WEIGHTS = (1, 2, 1)


def slide(signal: Sequence[float], weights: Sequence[float], stride: int = 1) -> np.ndarray:
    """Slide a kernel over a row of numbers, as TensorFlow does, without padding."""
    return correlate(np.array([signal]), np.array([weights]))[0, ::stride]


def moves_table() -> str:
    """Return what comes of a row of numbers, and of the same row moved by one and by two."""
    rows = []
    for name, move in (("as it is", 0), ("moved by 1", 1), ("moved by 2", 2)):
        signal = np.roll(SIGNAL, move)
        row = [name, f"`{' '.join(map(str, signal))}`"]
        for stride in (1, 2):
            answers = slide(signal, WEIGHTS, stride)
            row += [f"`{' '.join(f'{answer:g}' for answer in answers)}`", f"{answers.max():g}"]
        rows.append(row)
    header = ["", "input", "stride 1", "maximum", "stride 2", "maximum"]
    return drawing.table(header, "lllrlr", rows)


MOVES = range(-4, 5)  # pixels to the right; the sample's digits have 4 empty columns on both sides


def accuracies_when_moved(seed: int = 0) -> dict[str, list[float]]:
    """Train three networks on sample digits, and test them on digits that are moved sideways.

    Stride and pooling of the convolutional ones make a jump of four pixels: one place in the last
    feature map is four pixels in the image.

    Returns:
        For each network its share of right answers for each of MOVES.
    """
    with tempfile.TemporaryDirectory() as folder:
        data = mnist.load("sample", Path(folder))
    layers = tf.keras.layers
    options = {"activation": "relu", "padding": "same"}
    convolutions = (
        lambda: layers.Conv2D(16, 5, strides=2, **options),  # (N, 14, 14, 16)
        lambda: layers.Conv2D(32, 3, **options),
        lambda: layers.MaxPooling2D(),  # (N, 7, 7, 32)
        lambda: layers.Conv2D(64, 3, **options),  # (N, 7, 7, 64)
    )
    kinds = {
        "dense layers": (layers.Flatten, lambda: layers.Dense(128, "relu")),
        "convolutions, dense layer": (*convolutions, layers.Flatten),
        "convolutions, global max pooling": (*convolutions, layers.GlobalMaxPooling2D),
    }
    found = {}
    for name, parts in kinds.items():
        tf.keras.utils.set_random_seed(seed)
        network = tf.keras.Sequential(
            [
                layers.Input([28, 28, 1]),
                layers.Rescaling(1 / 255),
                *(part() for part in parts),
                layers.Dense(10),
            ]
        )
        loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        network.compile(tf.keras.optimizers.Adam(3e-3), loss)
        network.fit(data.train_images, data.train_labels, epochs=15, batch_size=64, verbose=0)
        found[name] = []
        for move in MOVES:
            moved = np.roll(data.test_images, move, axis=2)
            answers = network(moved).numpy().argmax(axis=1)
            found[name].append(float(np.mean(answers == data.test_labels)))
    return found


def draw_moved() -> None:
    """Draw how well three networks read digits that are moved."""
    figure, axis = plt.subplots(figsize=(3.65, 3.4))
    for (name, values), style in zip(
        accuracies_when_moved().items(), ("o-", "s--", "^-."), strict=True
    ):
        axis.plot(MOVES, [100 * value for value in values], style, label=name)
    axis.axhline(10, color=GREY, linestyle=":", label="chance")
    axis.set(xlabel="pixels by which test digits are moved to the right")
    axis.set(ylabel="right answers (%)", xticks=MOVES, ylim=(0, 100))
    figure.legend(loc="outside lower center")
    drawing.save(figure, "convolution_moved")


# %% Receptive fields

Layer = tuple[str, int, int]  # "conv" or "pool", kernel, stride
EXAMPLE05 = (("conv", 5, 2), ("conv", 3, 1), ("pool", 2, 2), ("conv", 3, 1), ("conv", 3, 1))
VGG16 = tuple(
    layer for count in (2, 2, 3, 3, 3) for layer in (*[("conv", 3, 1)] * count, ("pool", 2, 2))
)


def receptive_field(layers: Sequence[Layer]) -> tuple[int, int]:
    """Return the receptive field of the last layer's units, and the jump between neighbours.

    Both in pixels of the image.
    """
    field, jump = 1, 1
    for _, kernel, stride in layers:
        field += (kernel - 1) * jump
        jump *= stride
    return field, jump


def measured_field(layers: Sequence[Layer], images: int = 16) -> int:
    """Measure with gradients how many rows of the image one unit of the last layer sees.

    All weights are positive, so that no gradient is cut off by chance. A max pooling hands the
    gradient to one input only; therefore some random images are tried. They are larger than the
    formula says, so that a larger field would be found out.
    """
    field, jump = receptive_field(layers)
    size = field + 2 * jump
    image = tf.random.stateless_uniform([images, size, size, 1], [0, 0])
    with tf.GradientTape() as tape:
        tape.watch(image)
        x = image
        for kind, kernel, stride in layers:
            if kind == "pool":
                x = tf.nn.max_pool2d(x, kernel, stride, "VALID")
            else:
                weights = tf.fill([kernel, kernel, 1, 1], 1 / kernel**2)
                x = tf.nn.relu(tf.nn.conv2d(x, weights, stride, "VALID"))
        unit = x[:, 0, 0, 0]
    matters = tape.gradient(unit, image) > 0  # (images, size, size, 1)
    rows = tf.where(tf.reduce_any(matters, axis=[0, 2, 3]))
    return int(tf.reduce_max(rows) - tf.reduce_min(rows)) + 1


def fields_table() -> str:
    """Return the receptive fields in example 05 and VGG16, by the formula and measured."""
    rows = []
    names = ("convolution 5 × 5, stride 2", "convolution 3 × 3", "max pooling 2 × 2, stride 2")
    for count, name in enumerate((*names, *names[1:2] * 2), 1):
        rows.append([f"example 05: {name}", EXAMPLE05[:count]])
    ends = [number for number, (kind, *_) in enumerate(VGG16, 1) if kind == "pool"]
    for block, end in enumerate(ends, 1):
        rows.append([f"VGG16: pool{block}, behind block {block}", VGG16[:end]])
    return drawing.table(
        ["behind", "jump $j$", "field $r$", "measured"],
        "lrrr",
        [
            [name, str(jump), str(field), str(measured_field(layers))]
            for name, layers in rows
            for field, jump in [receptive_field(layers)]
        ],
    )


DEPTHS = (1, 2, 4, 8, 16, 32)


def influence(depth: int, networks: int = 30, channels: int = 16) -> np.ndarray:
    """Measure how much the middle unit of random networks depends on each pixel it sees.

    Args:
        depth: 3x3 convolutions, each with a ReLU, with weights as training begins with them.
        networks: how many are averaged.
        channels: of each layer.

    Returns:
        The mean of the squared gradients, divided by their sum, float (2 depth + 1, 2 depth + 1).
    """
    side = 2 * depth + 1
    total = np.zeros([side, side])
    for seed in range(networks):
        rng = np.random.default_rng(seed)
        image = tf.constant(rng.standard_normal((1, side, side, channels), np.float32))
        with tf.GradientTape() as tape:
            tape.watch(image)
            x = image
            for _ in range(depth):
                weights = rng.standard_normal((3, 3, channels, channels), np.float32)
                x = tf.nn.conv2d(x, weights * math.sqrt(2 / (9 * channels)), 1, "VALID")
                x = tf.nn.relu(x)
            unit = tf.reduce_sum(x)  # all channels of the one place that is left
        total += np.sum(tape.gradient(unit, image)[0].numpy() ** 2, axis=-1)
    return total / total.sum()


def effective_side(shares: np.ndarray, share: float = 0.95) -> int:
    """Return the side of the smallest square around the middle that has `share` of the sum."""
    middle = len(shares) // 2
    for reach in range(middle + 1):
        square = slice(middle - reach, middle + reach + 1)
        if shares[square, square].sum() >= share:
            return 2 * reach + 1
    return len(shares)


def draw_receptive_field() -> None:
    """Draw which pixels matter to a unit behind several 3x3 convolutions."""
    maps = {depth: influence(depth) for depth in DEPTHS}
    axes = [*drawing.panels(3, (1.78, 2.0)), *drawing.panels(1)]
    for axis, depth in zip(axes, (4, 8, 32), strict=False):
        axis.imshow(np.sqrt(maps[depth] / maps[depth].max()), cmap="gray", vmin=0, vmax=1)
        side = effective_side(maps[depth])
        middle = depth - side // 2
        draw_box(axis, middle, middle, side, side)
        axis.set_title(f"{depth} layers:\n{2 * depth + 1} × {2 * depth + 1} pixels")
        axis.set(xticks=[], yticks=[])
    depths = np.array(DEPTHS)
    sides = [effective_side(maps[depth]) for depth in DEPTHS]
    axes[3].loglog(depths, 2 * depths + 1, "o-", label="receptive field", base=2)
    axes[3].loglog(depths, sides, "s--", label="with 95 % of the sum", base=2)
    axes[3].loglog(depths, 3.7 * np.sqrt(depths), ":", c=INK, label="$3.7\\sqrt{L}$", base=2)
    axes[3].set(xlabel="layers $L$", ylabel="side (pixels)", xticks=DEPTHS)
    for coordinate in (axes[3].xaxis, axes[3].yaxis):
        coordinate.set_major_formatter("{x:g}")
    axes[3].legend()
    drawing.save_panels(axes, "convolution_receptive_field")


def main() -> None:
    """Draw all figures and write all tables."""
    drawing.write(costs_table(), "convolution_costs")
    drawing.write(sizes_table(), "convolution_sizes")
    drawing.write(moves_table(), "convolution_moves")
    drawing.write(fields_table(), "convolution_fields")
    draw_numbers()
    draw_padding()
    draw_kernels()
    draw_receptive_field()
    draw_moved()


if __name__ == "__main__":
    drawing.run(main)
