"""Measures how well example 17 finds photographs of the same animal, and what other embeddings do.

    python tests/benchmarks/bench_retrieval.py

Each of the 400 test photographs of cats and dogs asks for its nearest among the 1,600 others, by
the cosine. Precision at k is the share of the k nearest that show the same animal, averaged over
all that ask; by chance it is a half.
"""

import sys
from pathlib import Path

import numpy as np
from side_by_side import ROOT, make_parser, report

sys.path.insert(0, str(ROOT))
from examples.helpers import device  # isort: skip  # before TensorFlow
import tensorflow as tf
from tqdm import tqdm

from datasets import cats_dogs, pretrained
from datasets.photographs import read_photographs
from models import vgg16, vgg16_files
from models.augmentation import whole

POOLING = ("mean4", "max4", "mean5", "max5")  # example 17 takes the last one
NEAREST = (1, 8)
BATCH = 25


def compute(images: np.ndarray, path: Path, dtype: tf.DType) -> dict[str, np.ndarray]:
    """Return embeddings, float32 (N, F), of uint8 images (N, 224, 224, 3), by their names."""
    network, _ = vgg16_files.load(path, dtype, pooling=POOLING)
    features = tf.function(lambda x: network.features(vgg16.preprocess(x, 224)))
    starts = tqdm(range(0, len(images), BATCH), "features", leave=False)
    found = np.concatenate([features(images[i : i + BATCH]) for i in starts])
    parts = dict(zip(POOLING, np.split(found, len(POOLING), axis=1), strict=True))
    small = np.concatenate([whole(images[i : i + 100], 32) for i in range(0, len(images), 100)])
    pixels = small.reshape(len(images), -1).astype(np.float32)
    return {"32 x 32 pixels": pixels - pixels.mean(axis=1, keepdims=True)} | parts


def precision(asked: np.ndarray, others: np.ndarray, same: np.ndarray, count: int) -> float:
    """Return precision at `count`; same (A, N) tells which pairs show the same animal."""
    asked, others = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (asked, others))
    nearest = np.argsort(-asked @ others.T, axis=1)[:, :count]
    return float(np.take_along_axis(same, nearest, axis=1).mean())


def main() -> None:
    """Compute the embeddings, and print a table."""
    args = make_parser(__doc__).parse_args()
    dtype, path = device.start("auto"), pretrained.find_vgg16("blocks", "full", args.data_dir)
    data = cats_dogs.load("full", args.data_dir, small=True)
    photographs = [*data.test, *data.train, *data.validation]
    labels = np.array([photograph.label for photograph in photographs])
    count = len(data.test)
    same = labels[:count, None] == labels[count:]
    rows = [["embedding", *(f"precision at {k}" for k in NEAREST)]]
    images = read_photographs(data, photographs, 224)
    for name, x in compute(images, path, dtype).items():
        shares = [precision(x[:count], x[count:], same, k) for k in NEAREST]
        rows.append([name, *(f"{share:.1%}" for share in shares)])
    title = f"{count:,} photographs ask for the nearest of {len(labels) - count:,} others."
    report(args.output, title, rows, __file__)


if __name__ == "__main__":
    main()
