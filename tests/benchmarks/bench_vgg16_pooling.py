"""Compares what an image's features may be where VGG16 has convolutions alone.

    python tests/benchmarks/bench_vgg16_pooling.py

For examples 07 and 11: means or maxima of block 4, of block 5, of both; images of several sizes. A
top layer is trained on each as the examples do it, and tried on images that neither train nor test:
CIFAR-10's first 3,000 training images and 1,000 validation images; of cats and dogs the 1,600
photographs that are not for the test, a fifth of them held back in turn.
"""

import statistics
import sys
from pathlib import Path

import numpy as np
from side_by_side import ROOT, make_parser, report

sys.path.insert(0, str(ROOT))
from examples.helpers import device  # isort: skip  # before TensorFlow
import tensorflow as tf
from tqdm import tqdm

from datasets import cats_dogs, cifar10, pretrained
from datasets.photographs import read_photographs
from models import vgg16, vgg16_files
from models.top_layer import train_top

ALL = ("mean4", "max4", "quarters4", "mean5", "max5", "quarters5")
TRIED = [
    *(("mean5",), ("max5",), ("mean4", "mean5"), ("max4", "max5")),
    *(("quarters4", "mean5"), ("quarters4", "quarters5"), ("quarters4", "mean5", "max5")),
]
SIZES = (96, 128)  # of CIFAR-10's images, in pixels
FIT = 30, 128, 1e-3  # epochs, images in a step, learning rate: the defaults of both examples
BATCH = 25


def compute(images: np.ndarray, size: int, path: Path, dtype: tf.DType) -> np.ndarray:
    """Return all that can be pooled, float32 (N, 6144), of uint8 images (N, H, W, 3)."""
    network, _ = vgg16_files.load(path, dtype, image_size=size, pooling=ALL)
    features = tf.function(lambda x: network.features(vgg16.preprocess(x, size)))
    starts = tqdm(range(0, len(images), BATCH), f"{size} pixels", leave=False)
    return np.concatenate([features(images[i : i + BATCH]) for i in starts])


def chosen(features: np.ndarray, pooling: tuple[str, ...]) -> np.ndarray:
    """Return the columns of some kinds of pooling."""
    widths = [2048 if name.startswith("quarters") else 512 for name in ALL]
    parts = dict(zip(ALL, np.split(features, np.cumsum(widths)[:-1], axis=1), strict=True))
    return np.concatenate([parts[name] for name in pooling], axis=1)


def share(train, labels, others, answers, seeds: list[int]) -> float:
    """Return the share of right answers for other images, the mean of several top layers."""
    shares = []
    for seed in seeds:
        held = slice(None, None, 10)  # to choose the epoch by
        kept = np.delete(np.arange(len(train)), held)
        pairs = (train[kept], labels[kept]), (train[held], labels[held])
        kernel, bias, _ = train_top(*pairs, int(labels.max()) + 1, *FIT, seed)
        shares.append(np.mean((others @ kernel + bias).argmax(axis=1) == answers))
    return statistics.mean(shares)


def main() -> None:
    """Try all kinds of pooling, and print a table."""
    args = make_parser(__doc__).parse_args()
    dtype = device.start("auto")
    path = pretrained.find_vgg16("blocks", "full", args.data_dir)
    data = cifar10.load("full", args.data_dir)
    rows = [["features"], *([" and ".join(pooling)] for pooling in TRIED)]
    labels, answers = data.train_labels[:3000], data.validation_labels[:1000]
    for size in SIZES:
        images = np.concatenate([data.train_images[:3000], data.validation_images[:1000]])
        features = compute(images, size, path, dtype)
        rows[0].append(f"CIFAR-10, {size} pixels")
        for row, pooling in zip(rows[1:], TRIED, strict=True):
            train, others = np.split(chosen(features, pooling), [3000])
            row.append(f"{share(train, labels, others, answers, args.seeds):.1%}")
    animals = cats_dogs.load("full", args.data_dir)
    photographs = [*animals.train, *animals.validation]
    labels = np.array([photograph.label for photograph in photographs], np.int32)
    features = compute(read_photographs(animals, photographs, 224), 224, path, dtype)
    rows[0].append("cats and dogs, 224 pixels")
    folds = np.random.default_rng(0).integers(0, 5, len(labels))
    for row, pooling in zip(rows[1:], TRIED, strict=True):
        x, shares = chosen(features, pooling), []
        for fold in range(5):
            train, others = folds != fold, folds == fold
            more = x[others], labels[others], args.seeds[:1]
            shares.append(share(x[train], labels[train], *more))
        row.append(f"{statistics.mean(shares):.1%}")
    means = "means over the seeds (CIFAR-10) or five folds (cats and dogs)"
    title = f"Right answers for validation images: {means}."
    report(args.output, title, rows, __file__, "--seeds", *args.seeds)


if __name__ == "__main__":
    main()
