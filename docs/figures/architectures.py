"""Count what the networks in models/ are made of, compare it with their papers, and draw them.

    python docs/figures/architectures.py

writes the tables architectures* of the notes and docs/images/architectures*.svg. Every count is
taken from the graph that TensorFlow builds of a network; only what papers have published is typed
here, with its place.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass

import drawing  # isort: skip  # before TensorFlow
from drawing import BLUE, GREEN, GREY, ORANGE, PURPLE, table  # isort: skip

import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from models import alexnet, inception_v1, lenet5, vgg16, vgg19

# %% What the papers say

# Numbers in brackets are those of the references in docs/notes/07_architectures.md: [1] LeCun et
# al. 1998, [2] Krizhevsky et al. 2012, [4] Simonyan, Zisserman 2014, [5] Szegedy et al. 2014, [7]
# He et al. 2015.

# Parameters, and millions of multiply-adds for one image.
PUBLISHED = {
    "LeNet-5": ("60,000", "–"),  # [1, section II.A]
    "AlexNet": ("60\u00a0M", "–"),  # [2, section 4]
    "VGG16": ("138\u00a0M", "15,300"),  # [4, table 2], [7, section 4.1]
    "VGG19": ("144\u00a0M", "19,600"),  # [4, table 2], [7, section 3.3]
    "GoogLeNet": ("", "1,500"),  # [5, table 1, summed below], [5, section 1]
}

# Networks asked, what each sees of a photograph, crops each sees (where only crops are seen), which
# images, the top-5 error in percent, and where that stands.
ERRORS = [
    ("AlexNet", "1", "10 crops", 10, "validation", "18.2", "[2] table 2"),
    ("AlexNet", "5", "10 crops", 10, "test", "16.4", "[2] table 2"),
    ("AlexNet (a)", "7", "10 crops", None, "test", "15.3", "[2] table 2"),
    ("VGG16, S = 256", "1", "all, one size", None, "validation", "8.8", "[4] table 3"),
    ("VGG16, jittered", "1", "all, one size", None, "validation", "8.1", "[4] table 3"),
    ("VGG16, jittered", "1", "all, three sizes", None, "validation", "7.5", "[4] table 4"),
    ("VGG16, jittered", "1", "the same, 150 crops", None, "validation", "7.2", "[4] table 5"),
    ("VGG19, S = 256", "1", "all, one size", None, "validation", "9.0", "[4] table 3"),
    ("VGG19, jittered", "1", "all, one size", None, "validation", "8.0", "[4] table 3"),
    ("VGG19, jittered", "1", "all, three sizes", None, "validation", "7.5", "[4] table 4"),
    ("VGG19, jittered", "1", "all, three sizes", None, "test", "7.3", "[4] 4.2"),
    ("VGG19, jittered", "1", "the same, 150 crops", None, "validation", "7.1", "[4] table 5"),
    ("VGG19, jittered", "1", "the same, 150 crops", None, "test", "7.0", "[4] table 7"),
    ("VGG (b)", "7", "all, three sizes", None, "test", "7.3", "[4] table 6"),
    ("VGG16 and 19, jittered", "2", "the same, 150 crops", None, "test", "6.8", "[4] table 6"),
    ("GoogLeNet", "1", "1 crop", 1, "validation", "10.07", "[5] table 3"),
    ("GoogLeNet", "1", "10 crops", 10, "validation", "9.15", "[5] table 3"),
    ("GoogLeNet", "1", "144 crops", 144, "validation", "7.89", "[5] table 3"),
    ("GoogLeNet (c)", "7", "144 crops", None, "test", "6.67", "[5] section 7"),
    ("ResNet-152", "1", "all, five sizes", None, "validation", "4.49", "[7] table 4"),
    ("ResNets (d)", "6", "all, five sizes", None, "test", "3.57", "[7] table 5"),
]

# Szegedy et al., table 1: thousands of parameters and millions of operations in each row.
GOOGLENET_TABLE = {
    "conv1": (2.7, 34),
    "conv2": (112, 360),
    "3a": (159, 128),
    "3b": (380, 304),
    "4a": (364, 73),
    "4b": (437, 88),
    "4c": (463, 100),
    "4d": (580, 119),
    "4e": (840, 170),
    "5a": (1072, 54),
    "5b": (1388, 71),
    "linear": (1000, 1),
}

# %% Counting


@dataclass(frozen=True)
class Layer:
    """A convolution or a dense layer: a `Conv2D` or `MatMul` in the graph.

    Attributes:
        name: that of its weights, without the network's name in front.
        kind: "Conv2D" or "MatMul".
        weights: numbers in its kernel or matrix, or in the tower's part of it; no biases.
        multiply_adds: products for one image: each weight, wherever it is applied.
        depth: layers on the longest way from the image to here, this one included.
    """

    name: str
    kind: str
    weights: int
    multiply_adds: int
    depth: int


@dataclass(frozen=True)
class Counts:
    """What one network is made of: its layers, and the number of its parameters, biases too."""

    layers: list[Layer]
    parameters: int

    def depth(self) -> int:
        """Return how many layers the longest way from the image to the answer has."""
        return max(layer.depth for layer in self.layers)

    def weights(self, kind: str = "") -> int:
        """Return the number of weights, of layers of one kind or of all."""
        return sum(layer.weights for layer in self.layers if kind in layer.kind)

    def multiply_adds(self, kind: str = "") -> int:
        """Return the number of multiply-adds for one image, in layers of one kind or of all."""
        return sum(layer.multiply_adds for layer in self.layers if kind in layer.kind)


def count(function: Callable[[tf.Tensor], tf.Tensor], image_shape: tuple[int, ...]) -> Counts:
    """Build the graph of a network for one image, and count what is in it.

    Args:
        function: takes images (1, H, W, C); only variables that it reads are counted.
        image_shape: (H, W, C).
    """
    image = tf.TensorSpec([1, *image_shape], tf.float32)
    graph = tf.function(function).get_concrete_function(image).graph
    variables = {id(variable.handle): variable.name for variable in graph.variables}
    names = {id(inside): variables[id(outside)] for outside, inside in graph.captures}
    layers, depths = [], {}
    for operation in graph.get_operations():  # each comes after those that it depends on
        depth = max((depths[tensor.op.name] for tensor in operation.inputs), default=0)
        if operation.type in ("Conv2D", "MatMul"):
            depth += 1
            kernel, output = operation.inputs[1], operation.outputs[0]
            weights = int(np.prod(kernel.shape))
            places = int(np.prod(output.shape[1:-1]))  # 1 for a dense layer
            while kernel.op.type != "ReadVariableOp":  # back through a split or a reshape
                kernel = next(tensor for tensor in kernel.op.inputs if tensor.op.type != "Const")
            name = names[id(kernel.op.inputs[0])]  # such as vgg_19/conv1/conv1_1/weights:0
            name = name.partition("/")[2].removesuffix("/weights:0")
            layers.append(Layer(name, operation.type, weights, places * weights, depth))
        depths[operation.name] = depth
    parameters = sum(int(np.prod(variable.shape)) for variable in graph.variables)
    return Counts(layers, parameters)


def zeros(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Return arrays of zeros that take no memory: to be counted, weights need no values."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def count_all() -> dict[str, Counts]:
    """Count all networks at their papers' sizes."""
    image_size = vgg16.Config().image_size
    counts = {"LeNet-5": count(lenet5.LeNet5(zeros(lenet5.shapes())), (32, 32, 1))}
    for name, module, make, size in (
        ("AlexNet", alexnet, alexnet.AlexNet, alexnet.IMAGE_SIZE),
        ("VGG16", vgg16, vgg16.VGG16, image_size),
        ("VGG19", vgg19, vgg19.VGG19, image_size),
        ("GoogLeNet", inception_v1, inception_v1.InceptionV1, inception_v1.IMAGE_SIZE),
    ):
        config = module.Config()
        counts[name] = count(make(zeros(config.shapes()), config), (size, size, 3))
        gc.collect()  # a VGG fills half a gigabyte
    return counts


def googlenet_in_training() -> Counts:
    """Count GoogLeNet with its auxiliary classifiers."""
    config, size = inception_v1.Config(), inception_v1.IMAGE_SIZE
    network = inception_v1.InceptionV1(zeros(config.shapes()), config)
    return count(network.training_logits, (size, size, 3))


# %% Tables


def millions(number: float) -> str:
    """Return a number in millions: 60,965,224 becomes 61.0, 325,680 becomes 0.3257."""
    return f"{number / 1e6:,.1f}" if number >= 1e6 else f"{number / 1e6:.4f}"


def counts_table(counts: dict[str, Counts]) -> str:
    """Return the table of layers, parameters and operations, and what it needs explained."""
    paper = 1024 * sum(thousands for thousands, _ in GOOGLENET_TABLE.values())
    published = PUBLISHED | {"GoogLeNet": (f"{paper / 1e6:.2f}\u00a0M", PUBLISHED["GoogLeNet"][1])}
    rows = [
        [
            name,
            str(found.depth()),
            f"{found.parameters:,}",
            published[name][0],
            f"{100 * found.weights('MatMul') / found.parameters:.0f}\u00a0%",
            millions(found.multiply_adds()),
            published[name][1],
            f"{100 * found.multiply_adds('MatMul') / found.multiply_adds():.1f}\u00a0%",
        ]
        for name, found in counts.items()
    ]
    header = ["network", "layers", "parameters", "published", "dense"]
    header += ["10⁶ multiply-adds", "published", "dense"]
    auxiliary = googlenet_in_training().parameters - counts["GoogLeNet"].parameters
    convolutions = counts["VGG16"].multiply_adds("Conv2D")
    return f"""{table(header, "lrrrrrrr", rows)}

*Layers* are convolutions and dense layers on the longest way from the image to the answer; the
paper's seven of LeNet-5 include two subsamplings and the output, which compares. *Parameters* are
weights and biases. A *multiply-add* is one weight times one input, added to a sum; convolutions and
dense layers are counted, biases, pooling and normalisation are not. *Dense* is the dense layers'
share; LeNet-5's C5 counts as the convolution that it is called, though its kernels are as large as
its input.

Published are LeNet-5's numbers in [1, section II.A], AlexNet's in [2, section 4], the VGGs' in
[4, table 2] and, the multiply-adds, in [7, sections 4.1 and 3.3], GoogLeNet's in [5, table 1 and
section 1]. Its parameters are the column of table 1, added up with K = 1,024: the 1,024 times 1,000
weights of the dense layer are 1000K there. Its auxiliary classifiers, which serve only the
training, have {auxiliary:,} parameters more. The 15,300 for VGG16 are its convolutions alone, which
have {millions(convolutions)} here; the 19,600 for VGG19 include the dense layers.
"""


def errors_table(counts: dict[str, Counts]) -> str:
    """Return the table of published errors, with what an answer costs where that is known."""
    rows = []
    for network, networks, seen, crops, images, error, source in ERRORS:
        cost = "–"
        if crops:
            multiply_adds = int(networks) * crops * counts[network].multiply_adds()
            cost = f"{multiply_adds / 1e9:,.1f}"
        rows.append([network, networks, seen, images, f"{error}\u00a0%", cost, source])
    header = ["network", "asked", "what each sees", "images", "error"]
    header += ["10⁹ multiply-adds", "where"]
    least = 7 * 144 * counts["GoogLeNet"].multiply_adds()
    return f"""{table(header, "lrllrrl", rows)}

*Asked* is the number of networks whose answers are averaged. VGG was trained on images of one size,
S = 256, or with scale jittering. The multiply-adds are by our count, for one photograph, where only
crops are seen. (a) Two of the seven have a sixth convolution and were trained on ImageNet's 22,000
classes before. (b) The competition's entry: configurations C, D and E, some with jittering. (c) One
of the seven is wider; {7 * 144:,} passes take more than {least / 1e9:,.0f} · 10⁹ multiply-adds. (d)
Of different depths.
"""


def googlenet_rows(counts: Counts) -> dict[str, tuple[int, int]]:
    """Return weights and multiply-adds of GoogLeNet, by the rows of the paper's table 1."""
    rows = dict.fromkeys(GOOGLENET_TABLE, (0, 0))
    for layer in counts.layers:
        row = layer.name.partition("/")[0].removesuffix("_reduce")
        weights, multiply_adds = rows[row]
        rows[row] = weights + layer.weights, multiply_adds + layer.multiply_adds
    return rows


def googlenet_table(counts: Counts, alexnet_parameters: int) -> str:
    """Return GoogLeNet's rows beside those of the paper's table 1, and what may explain them."""
    found = googlenet_rows(counts)
    rows = [
        [
            row,
            f"{weights / 1024:,.1f}",
            f"{GOOGLENET_TABLE[row][0]:,}",
            f"{multiply_adds / 1e6:,.1f}",
            str(GOOGLENET_TABLE[row][1]),
        ]
        for row, (weights, multiply_adds) in found.items()
    ]
    paper = [sum(column) for column in zip(*GOOGLENET_TABLE.values(), strict=True)]
    rows.append(
        [
            "sum",
            f"{counts.weights() / 1024:,.1f}",
            f"{paper[0]:,.1f}",
            f"{counts.multiply_adds() / 1e6:,.1f}",
            f"{paper[1]:,}",
        ]
    )
    header = ["row", "weights / 1024", "table 1", "10⁶ multiply-adds", "table 1"]
    separable = 7 * 7 * 3 * 8 + 3 * 8 * 64
    one, _, three, _, five, _ = inception_v1.MODULES["3a"]
    naive = 28 * 28 * 192 * (one + 9 * three + 25 * five)
    more = 832 * 16 + 5 * 5 * 16 * 128  # 48 in place of 32 outputs of 5a's 5x5 reduce
    wider = [found["5a"][0] + more, found["5a"][1] + 7 * 7 * more]
    ratio = alexnet_parameters / counts.parameters
    return f"""{table(header, "lrrrr", rows)}

Where the columns differ by more than rounding, the paper does not say why. What we can say:

- *conv1* fits a separable convolution, which the authors describe for their next network ([3],
  appendix): 8 kernels of 7 x 7 for each colour, then 1 x 1 over their 24 outputs,
  make {separable:,} weights and {millions(112 * 112 * separable)} million multiply-adds.
- *4c*: 463K weights at 14 x 14 positions are {millions(196 * 463 * 1024)} million products, not the
  100 of the same row.
- *5a* fits about if the 1 x 1 before its 5 x 5 has 48 outputs in place of the 32 in the table:
  {wider[0] / 1024:,.0f}K and {millions(wider[1])} million. That is a guess.
- The introduction's 12 times fewer parameters than AlexNet are {ratio:.1f} times fewer by our
  count.

In module 3a, the same large kernels without 1 x 1 convolutions before them would take
{millions(naive)} million multiply-adds in place of {millions(found["3a"][1])}.
"""


# %% Pictures


def draw_networks(counts: dict[str, Counts]) -> plt.Figure:
    """Draw errors over multiply-adds; the area of a disc is the number of parameters."""
    one = {}  # what one network reaches on the validation images, from the least effort to the most
    for row, networks, _, _, images, error, _ in ERRORS:
        network = row.removesuffix(", jittered")  # VGG with one S is left out
        if network in counts and networks == "1" and images == "validation":
            one.setdefault(network, []).append(float(error))
    figure, axis = plt.subplots(figsize=(3.65, 3.4))
    colours = (BLUE, ORANGE, PURPLE, GREEN)
    for color, (network, errors) in zip(colours, one.items(), strict=True):
        found = counts[network]
        x, area = found.multiply_adds() / 1e9, found.parameters / 1e6 * 8  # in square points
        axis.scatter(x, errors[-1], s=area, color=color, alpha=0.35, linewidth=0)
        axis.plot([x] * len(errors), errors, ".-", color=color, linewidth=1)
        text = f"{network}\n{found.parameters / 1e6:.1f} M\nparameters"
        beside = max((area / np.pi) ** 0.5, 5) + 4  # points from the disc's middle to its edge
        above = network == "VGG16"  # its neighbour's text is below
        place = {"xytext": (0, beside if above else -beside), "va": "bottom" if above else "top"}
        axis.annotate(text, (x, errors[-1]), textcoords="offset points", ha="center", **place)
    axis.set(xlim=(-4.5, 24), ylim=(0, 21), xticks=range(0, 25, 5))
    axis.set_xlabel("multiply-adds for one crop, 10⁹")
    axis.set_ylabel("top-5 error of one network,\nvalidation images of ImageNet, %")
    return figure


def draw_inception(module: str = "3a", inputs: int = 192) -> plt.Figure:
    """Draw an inception module with its numbers of channels."""
    one, reduce3, three, reduce5, five, projection = inception_v1.MODULES[module]
    branches = [
        (BLUE, None, ("1 × 1", inputs, one)),
        (ORANGE, ("1 × 1\nconvolution", inputs, reduce3), ("3 × 3", reduce3, three)),
        (PURPLE, ("1 × 1\nconvolution", inputs, reduce5), ("5 × 5", reduce5, five)),
        (GREEN, ("3 × 3\nmax pooling", inputs, inputs), ("1 × 1", inputs, projection)),
    ]
    figure, axis = plt.subplots(figsize=(3.65, 3.6))
    axis.set(xlim=(0, 7.55), ylim=(-0.5, 6.1))
    axis.axis("off")

    def box(x, y, width, height, text, color):
        axis.add_patch(plt.Rectangle((x, y), width, height, color=color, alpha=0.3, linewidth=0))
        axis.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=8.5)

    def arrow(start, end):
        axis.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": GREY})

    box(0, 5.5, 7.55, 0.6, f"28 × 28 pixels, {inputs} channels", GREY)
    left, total = 0.0, inception_v1.outputs(module)
    for column, (color, before, last) in enumerate(branches):
        x = 1.9 * column
        middle = x + 0.925
        if before:
            arrow((middle, 5.5), (middle, 4.82))
            box(x, 3.6, 1.85, 1.2, "{}\n{} → {}".format(*before), color)
            arrow((middle, 3.6), (middle, 2.92))
        else:
            arrow((middle, 5.5), (middle, 2.92))
        box(x, 1.7, 1.85, 1.2, "{}\nconvolution\n{} → {}".format(*last), color)
        width = 7.55 * last[2] / total
        arrow((middle, 1.7), (left + width / 2, 0.62))
        box(left, 0, width, 0.6, str(last[2]), color)
        left += width
    axis.text(3.78, -0.3, f"28 × 28 pixels, {total} channels", ha="center", va="center")
    return figure


def tables(counts: dict[str, Counts]) -> dict[str, str]:
    """Return the text of each generated table by its name."""
    return {
        "architectures": counts_table(counts),
        "architectures_errors": errors_table(counts),
        "architectures_googlenet": googlenet_table(
            counts["GoogLeNet"], counts["AlexNet"].parameters
        ),
    }


def main() -> None:
    """Write all tables and pictures."""
    counts = count_all()
    for name, text in tables(counts).items():
        drawing.write(text, name)
    drawing.save(draw_networks(counts), "architectures")
    drawing.save(draw_inception(), "architectures_inception_module")


if __name__ == "__main__":
    drawing.run(main)
