"""How fast example 07 computes VGG16's features, beside the machine's own matrix products.

    python tests/benchmarks/bench_vgg16_features.py [--pairs 9] [--output PATH.json]

The network has its full size; weights and images are random. Which share of the machine's
matrix-product speed does feature extraction reach? Both sides run in turn, and the median of the
pairs' ratios counts; it can pass 100 %, for a square product is not the fastest there is. And how
much shorter is an epoch of the top layer on stored features than one through the whole network,
which is extrapolated? Two minutes on two cores, and 2 GB of memory.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from side_by_side import ROOT, report, seconds, spread

sys.path.insert(0, str(ROOT))

import examples.helpers  # noqa: F401  # isort: skip  # before TensorFlow
import numpy as np
import tensorflow as tf

from examples import example07_vgg16_cifar10 as example07
from models import vgg16

BATCH = example07.BATCH
SIZES = (2048, 4096)  # of the square matrices; the faster one counts
HEAD_IMAGES = 4000  # whose features are stored
HEAD_EPOCHS = 20


def gigaflop_per_image(config: vgg16.Config) -> float:
    """Count a multiplication and an addition for each weight and each position it is used at."""
    total = 0
    for name, shape in config.shapes().items():
        if name.endswith("weights") and "/fc8/" not in name:
            block = int(name.split("conv")[1][0]) if "/conv" in name else 0
            side = config.image_size // 2 ** (block - 1) if block else 1
            total += 2 * side**2 * int(np.prod(shape))
    return total / 1e9


def fastest_product(dtype: tf.DType) -> tuple[Callable[[], object], float]:
    """Return the fastest product of square matrices, and its thousand million operations."""
    candidates = []
    for size in SIZES:
        a, b = (tf.cast(tf.random.normal([size, size]), dtype) for _ in range(2))
        multiply = tf.function(tf.matmul)

        def product(multiply=multiply, a=a, b=b) -> object:
            return multiply(a, b)[0, 0].numpy()  # .numpy() waits for the result

        product()  # traces and warms up
        gigaflop = 2 * size**3 / 1e9
        speed = gigaflop / min(seconds(product) for _ in range(4))
        candidates.append((speed, product, gigaflop))
    return max(candidates, key=lambda candidate: candidate[0])[1:]


def measure_extraction(weights: dict[str, np.ndarray], dtype: tf.DType, pairs: int) -> dict:
    """Measure extraction, and matrix products of as many operations, in turn."""
    config = vgg16.Config()
    network = vgg16.VGG16(weights, config, dtype)
    size = config.image_size
    extract = tf.function(lambda images: network.features(vgg16.preprocess(images, size)))
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 32, 32, 3), np.uint8)
    product, product_gigaflop = fastest_product(dtype)
    gigaflop = BATCH * gigaflop_per_image(config)
    repeats = round(gigaflop / product_gigaflop)

    def products() -> None:
        for _ in range(repeats):
            product()

    def features() -> None:
        extract(images).numpy()

    features()  # traces and warms up
    product_speeds, speeds = [], []  # in GFLOP a second
    for _ in range(pairs):
        product_speeds.append(repeats * product_gigaflop / seconds(products))
        speeds.append(gigaflop / seconds(features))
    shares = [speed / product for speed, product in zip(speeds, product_speeds, strict=True)]
    speed = statistics.median(speeds)
    return {
        "images_per_second": BATCH * speed / gigaflop,
        "gflop_per_second": speed,
        "matrix_product_gflop_per_second": statistics.median(product_speeds),
        "share_of_matrix_product": spread(shares, ".0%"),
    }


def measure_head_epoch() -> float:
    """Return the seconds of an epoch of the top layer on stored features, validation included."""
    rng = np.random.default_rng(0)
    features = rng.random((HEAD_IMAGES, vgg16.Config().dense), np.float32).astype(np.float16)
    labels = rng.integers(0, 10, HEAD_IMAGES).astype(np.int32)
    trained = HEAD_IMAGES * 9 // 10
    parts = [(features[part], labels[part]) for part in (slice(trained), slice(trained, None))]

    def train(epochs: int) -> None:
        rate = example07.LEARNING_RATE
        example07.train_top(*parts, 10, epochs, example07.BATCH_SIZE, rate, seed=0)

    # The difference leaves out what happens once: statistics of the features, tracing.
    train(1)
    return (seconds(lambda: train(HEAD_EPOCHS + 1)) - seconds(lambda: train(1))) / HEAD_EPOCHS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--output", type=Path, metavar="PATH", help="write the figures as JSON too")
    args = parser.parse_args()

    weights = vgg16.random_weights(vgg16.Config(), seed=0)
    head, shares = measure_head_epoch(), []
    rows = [["arithmetic", "images a second", "GFLOP/s", "matrix product", "share (range)"]]
    for dtype in (tf.float32, tf.bfloat16):
        found = measure_extraction(weights, dtype, args.pairs)
        speeds = found["gflop_per_second"], found["matrix_product_gflop_per_second"]
        cells = [f"{found['images_per_second']:.1f}", *(f"{speed:.0f}" for speed in speeds)]
        rows.append([dtype.name, *cells, found["share_of_matrix_product"]])
        whole = HEAD_IMAGES / found["images_per_second"]
        shares.append(f"1/{whole / head:.0f} in {dtype.name}")
    title = (
        "full-size VGG16, random weights: feature extraction beside the machine's own "
        f"matrix product, median of {args.pairs} pairs. An epoch of the top layer on stored "
        f"features of {HEAD_IMAGES:,} images takes {head:.2f} s; of an epoch through the "
        f"whole network (extrapolated from the images a second) that is {', '.join(shares)}."
    )
    report(args.output, title, rows, __file__)


if __name__ == "__main__":
    main()
