"""Draw the figures and make the tables of note 10: what a trained network can lend to another task.

    python docs/figures/transfer.py

writes docs/images/transfer_*.svg and the tables transfer_* of the notes. All is sample data: the
small VGG16 of models/sample_vgg16.py, which has learned to tell 20 kinds of drawn objects apart,
and drawings of ten other kinds. The script takes two minutes, and half a minute more the first
time, when the small VGG16 is trained: with TensorFlow's deterministic operations (`drawing.run`),
which the examples do without, so that it is kept in a folder of its own.
"""

import json
import re
import warnings
from collections.abc import Callable, Sequence

import drawing  # isort: skip  # before TensorFlow
from drawing import GREY  # isort: skip

import architectures
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from datasets import cifar10, drawings
from models import vgg16, vgg16_files
from models.sample_vgg16 import checkpoint

DATA_DIR = drawing.ROOT / "datasets" / "downloads"
WEIGHTS_DIR = DATA_DIR / "figures"  # trained here, so that they are the same whatever ran before
SIZES = (10, 30, 100, 300, 1000, 4000)  # training images, of all ten kinds together
LAYER_SIZES = (10, 100, 1000)  # those for which all layers are compared
SUBSETS = 3  # choices of the training images for each of the sizes
INVERSE_PENALTY = 100  # scikit-learn's C; 10 ... 1000 are much the same on the validation images
STEPS, BATCH_SIZE, LEARNING_RATE = 500, 32, 2e-3  # of the network that is trained from scratch
LAYERS = ("pixels", "block 1", "block 2", "block 3", "block 4", "block 5", "fc6", "fc7")

# %% Features of every layer


def sample_vgg16() -> tuple[dict[str, np.ndarray], vgg16.Config]:
    """Return the weights of the small VGG16, trained first where it is missing, and its sizes."""
    folder = WEIGHTS_DIR / "sample" / "vgg16"
    path = checkpoint(folder, drawings.OTHER_KINDS, drawings.drawn_objects)
    weights = vgg16_files.read(path)
    return weights, vgg16.Config.of(weights)


def layer_outputs(network: vgg16.VGG16, images: np.ndarray) -> dict[str, np.ndarray]:
    """Compute what all layers make of uint8 images (N, H, W, 3).

    Returns:
        float32 (N, F) for each of `LAYERS`; the blocks' outputs are pooled.
    """

    @tf.function
    def outputs(images):
        x = vgg16.preprocess(images, network.config.image_size)
        found = {"pixels": tf.cast(images, tf.float32)}
        for number in range(1, 6):
            x = found[f"block {number}"] = vgg16.pool(network.block(number, x))
        x = tf.reshape(x, [-1, np.prod(x.shape[1:])])
        for name in ("fc6", "fc7"):
            x = found[name] = tf.nn.relu(network.dense(name, x))
        return {name: tf.reshape(x, [tf.shape(x)[0], -1]) for name, x in found.items()}

    parts = [outputs(images[start : start + 250]) for start in range(0, len(images), 250)]
    return {name: np.concatenate([part[name] for part in parts]) for name in LAYERS}


def subset(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Choose training images, as many of each of the ten kinds, and return their numbers."""
    rng = np.random.default_rng(seed)
    kinds = [np.flatnonzero(labels == kind) for kind in range(10)]
    return np.concatenate([rng.permutation(numbers)[: size // 10] for numbers in kinds])


def linear_accuracy(train, test) -> float:
    """Train a softmax regression on features, (N, F) and labels (N,), and test it on others.

    Each feature is scaled to mean 0 and variance 1 / F on the training images, so that the penalty
    means the same for layers with few outputs and with many.
    """
    (features, labels), (test_features, test_labels) = train, test
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-6
    scale = deviation * np.sqrt(features.shape[1])
    features, test_features = (features - mean) / scale, (test_features - mean) / scale
    regression = LogisticRegression(C=INVERSE_PENALTY, max_iter=200)
    # Threads that wait for each other take longer than one alone for matrices as small as these.
    with threadpool_limits(1, "blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # untrained features take for ever
        if features.shape[1] > len(features):
            # The penalty keeps the weights in the space that the training features span: with axes
            # along it, the same problem has fewer unknowns, and is solved much faster.
            axes, _ = np.linalg.qr(features.T)
            features, test_features = features @ axes, test_features @ axes
        regression.fit(features, labels)
        return regression.score(test_features, test_labels)


# %% From scratch


def small_cnn(images: np.ndarray, labels: np.ndarray, seed: int) -> tf.keras.Model:
    """Train a small convolutional network from nothing on uint8 images (N, 32, 32, 3)."""
    tf.keras.utils.set_random_seed(seed)
    layers = [tf.keras.Input([32, 32, 3]), tf.keras.layers.Rescaling(1 / 127.5, -1)]
    for channels in (16, 32, 64):
        layers += [
            tf.keras.layers.Conv2D(channels, 3, padding="same", activation="relu"),
            tf.keras.layers.MaxPool2D(),
        ]
    layers += [
        tf.keras.layers.Flatten(),
        tf.keras.layers.Dropout(0.5),
        tf.keras.layers.Dense(10),
    ]
    network = tf.keras.Sequential(layers)
    rate = tf.keras.optimizers.schedules.PolynomialDecay(LEARNING_RATE, STEPS, 0.0)
    network.compile(
        tf.keras.optimizers.Adam(rate),
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    rng, batch_size = np.random.default_rng(seed), min(BATCH_SIZE, len(images))
    rounds = -(-STEPS * batch_size // len(images))
    order = np.concatenate([rng.permutation(len(images)) for _ in range(rounds)])
    order = order[: STEPS * batch_size]
    network.fit(images[order], labels[order], batch_size, epochs=1, shuffle=False, verbose=0)
    return network


def measure() -> dict[tuple[str, str, int], list[float]]:
    """Return test accuracies, for each of the subsets, by network, layer and number of images."""
    data = cifar10.load("sample", DATA_DIR)
    weights, config = sample_vgg16()
    found = {}
    for name, values in (("trained", weights), ("untrained", vgg16.random_weights(config, 0))):
        network = vgg16.VGG16(values, config)
        train, test = (layer_outputs(network, x) for x in (data.train_images, data.test_images))
        for layer in LAYERS:
            sizes = SIZES if layer == "fc7" else LAYER_SIZES
            for size in sizes if name == "trained" or layer == "fc7" else LAYER_SIZES[-1:]:
                found[name, layer, size] = [
                    linear_accuracy(
                        (train[layer][rows], data.train_labels[rows]),
                        (test[layer], data.test_labels),
                    )
                    for rows in (subset(data.train_labels, size, seed) for seed in range(SUBSETS))
                ]
    for size in SIZES:
        found["scratch", "", size] = []
        for seed in range(SUBSETS):
            rows = subset(data.train_labels, size, seed)
            network = small_cnn(data.train_images[rows], data.train_labels[rows], seed)
            _, accuracy = network.evaluate(data.test_images, data.test_labels, verbose=0)
            found["scratch", "", size].append(accuracy)
    return found


CURVES = (
    ("trained", "fc7", "features of the trained sample VGG16", "o-"),
    ("scratch", "", "small CNN from scratch", "s--"),
    ("untrained", "fc7", "features of an untrained VGG16", "^:"),
)


def draw_sizes(found: dict) -> plt.Figure:
    """Draw test accuracy over the number of training images: mean and range of the subsets."""
    figure, axis = plt.subplots(figsize=(3.65, 3.6))
    for network, layer, label, style in CURVES:
        values = np.array([found[network, layer, size] for size in SIZES])
        (line,) = axis.plot(SIZES, values.mean(axis=1), style, label=label)
        axis.fill_between(
            SIZES, values.min(axis=1), values.max(axis=1), color=line.get_color(), alpha=0.2, lw=0
        )
    axis.axhline(0.1, color=GREY, linewidth=1)
    axis.annotate("guessing", (SIZES[-1], 0.1), (0, 3), textcoords="offset points", ha="right")
    axis.set(xscale="log", ylim=(0, 1), xlabel="training images", ylabel="test accuracy")
    axis.set_xticks(SIZES, [f"{size:,}" for size in SIZES])
    axis.minorticks_off()
    figure.legend(loc="outside lower center")
    return figure


def draw_layers(found: dict) -> plt.Figure:
    """Draw test accuracy of a softmax regression on each layer's outputs."""
    figure, axis = plt.subplots(figsize=(3.65, 3.9))
    curves = [("trained", size, style) for size, style in zip(LAYER_SIZES, "^so", strict=True)]
    for network, size, style in [*curves, ("untrained", LAYER_SIZES[-1], "o")]:
        values = [np.mean(found[network, layer, size]) for layer in LAYERS]
        look = {"color": GREY, "linestyle": "--"} if network == "untrained" else {}
        axis.plot(LAYERS, values, marker=style, label=f"{network}, {size:,} images", **look)
    axis.set(ylim=(0, 1), xlabel="features from", ylabel="test accuracy")
    axis.tick_params("x", rotation=45)
    figure.legend(loc="outside lower center")
    return figure


def sizes_table(found: dict) -> str:
    """Return the accuracies of the first picture, in percent: mean, least and most."""

    def cell(values):
        mean, least, most = (100 * f(values) for f in (np.mean, min, max))
        return f"{mean:.1f} ({least:.1f}–{most:.1f})"

    rows = [
        [f"{size:,}", *(cell(found[network, layer, size]) for network, layer, *_ in CURVES)]
        for size in SIZES
    ]
    return drawing.table(["training images", *(label for *_, label, _ in CURVES)], "rrrr", rows)


def layers_table(found: dict) -> str:
    """Return the accuracies of the second picture, in percent."""
    kinds = [("trained", size) for size in LAYER_SIZES] + [("untrained", LAYER_SIZES[-1])]
    rows = [
        [layer, *(f"{100 * np.mean(found[network, layer, size]):.1f}" for network, size in kinds)]
        for layer in LAYERS
    ]
    header = ["features from", *(f"{network}, {size:,} images" for network, size in kinds)]
    return drawing.table(header, "lrrrr", rows)


# %% Preprocessing


def swapped(images: tf.Tensor, size: int) -> tf.Tensor:
    """Preprocess as Keras' VGG16 wants it: blue, green, red."""
    return vgg16.preprocess(images, size)[..., ::-1]


def no_mean(images: tf.Tensor, size: int) -> tf.Tensor:
    """Preprocess without taking away the mean colour."""
    return vgg16.preprocess(images, size) + tf.constant(vgg16.MEAN_RGB)


def unit_scale(images: tf.Tensor, size: int) -> tf.Tensor:
    """Preprocess to 0 ... 1."""
    return no_mean(images, size) / 255


PREPARATIONS: tuple[tuple[str, Callable[[tf.Tensor, int], tf.Tensor]], ...] = (
    ("RGB minus the mean colour: as it was trained", vgg16.preprocess),
    ("BGR minus the mean colour", swapped),
    ("RGB, 0 ... 255", no_mean),
    ("RGB, 0 ... 1", unit_scale),
)


def preprocessing_accuracies() -> list[float]:
    """Test the sample VGG16 on 1,000 new drawings of its own 20 kinds, prepared in each way."""
    weights, config = sample_vgg16()
    network = vgg16.VGG16(weights, config)
    images, labels = drawings.drawn_objects(drawings.OTHER_KINDS, 1000, config.image_size, seed=9)
    return [
        float(np.mean(network(prepare(images, config.image_size)).numpy().argmax(axis=1) == labels))
        for _, prepare in PREPARATIONS
    ]


def preprocessing_table(accuracies: Sequence[float]) -> str:
    """Return the table of accuracies by the preparation of the images."""
    rows = [
        [name, f"{100 * accuracy:.1f}\u00a0%"]
        for (name, _), accuracy in zip(PREPARATIONS, accuracies, strict=True)
    ]
    return drawing.table(["what the sample VGG16 is fed", "test accuracy"], "lr", rows)


# %% The cache


def cache_table() -> str:
    """Return what the features of VGG16's layers weigh, and how much work is behind them."""
    config = vgg16.Config()
    network = vgg16.VGG16(architectures.zeros(config.shapes()), config)
    counts = architectures.count(network, (config.image_size, config.image_size, 3))
    rows = []
    for name, last, shape in (
        ("photograph, uint8", None, (config.image_size, config.image_size, 3)),
        ("pool4", "conv4", (config.image_size // 16,) * 2 + (8 * config.width,)),
        ("pool5", "conv5", (config.image_size // 32,) * 2 + (8 * config.width,)),
        ("fc7", "fc7", (config.dense,)),
    ):
        names = [layer.name.partition("/")[0] for layer in counts.layers]
        end = len(names) - names[::-1].index(last) if last else 0
        done = sum(layer.multiply_adds for layer in counts.layers[:end])
        size = int(np.prod(shape)) * (2 if last else 1)
        rows.append(
            [
                name,
                " x ".join(map(str, shape)),
                f"{size:,}",
                f"{2 * size:,}",
                f"{25_000 * size / 1e9:.1f} GB",
                f"{100 * done / counts.multiply_adds():.1f}\u00a0%",
            ]
        )
    header = ["what is kept", "numbers", "bytes an image", "both views", "25,000 images"]
    return drawing.table([*header, "work done"], "llrrrr", rows)


def benchmark() -> dict[str, float]:
    """Read from docs/results what an epoch takes: images, seconds, ratios, images a second."""
    path = drawing.ROOT / "docs" / "results" / "benchmark_vgg16_features.json"
    result = json.loads(path.read_text())
    pattern = r"of ([\d,]+) images takes ([\d.]+) s.* 1/(\d+) in float32, 1/(\d+) in bfloat16"
    numbers = [float(x.replace(",", "")) for x in re.search(pattern, result["title"]).groups()]
    rates = {row[0]: float(row[1]) for row in result["table"][1:]}
    names = ("images", "seconds", "float32_ratio", "bfloat16_ratio")
    return dict(zip(names, numbers, strict=True)) | rates


def benchmark_text() -> str:
    """Return the sentence about the time of an epoch."""
    found = benchmark()
    return (
        f"On two cores (`python tests/benchmarks/bench_vgg16_features.py`), VGG16 computes the "
        f"features of {found['float32']:g} images a second in float32, and of "
        f"{found['bfloat16']:g} in bfloat16. By this measure (extrapolated), an epoch of "
        f"{found['images']:,.0f} images through the whole network takes "
        f"{found['images'] / found['float32']:.0f} s or "
        f"{found['images'] / found['bfloat16']:.0f} s. An epoch of the top layer on stored "
        f"features was measured: {found['seconds']:g} s, one part in "
        f"{found['float32_ratio']:,.0f}, or in {found['bfloat16_ratio']:,.0f}."
    )


def pooling_table() -> str:
    """Return what the benchmark of pooling has measured."""
    path = drawing.ROOT / "docs" / "results" / "benchmark_vgg16_pooling.json"
    head, *rows = json.loads(path.read_text())["table"]
    return drawing.table(head, "l" + "r" * (len(head) - 1), rows)


def main() -> None:
    """Draw all figures and write all tables."""
    drawing.write(cache_table(), "transfer_cache")
    drawing.write(pooling_table(), "transfer_pooling")
    drawing.write(benchmark_text(), "transfer_epoch")
    drawing.write(preprocessing_table(preprocessing_accuracies()), "transfer_preprocessing")
    found = measure()
    drawing.write(sizes_table(found), "transfer_sizes")
    drawing.write(layers_table(found), "transfer_layers")
    drawing.save(draw_sizes(found), "transfer_sizes")
    drawing.save(draw_layers(found), "transfer_layers")


if __name__ == "__main__":
    drawing.run(main)
