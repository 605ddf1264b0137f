"""OpenCV, Pillow and TensorFlow at decoding and shrinking photographs: speed, and other pixels.

    python tests/benchmarks/bench_image_decoding.py [--data sample] [--output PATH.json]

Each way is given the same JPEG files, one after the other on one core; all ways take turns, so that
other load on the machine meets all alike, and the medians of the rounds count. Differences are
between the values of pixels, 0 to 255: those of decoding from OpenCV's, those of shrinking from the
exact mean of all pixels that one pixel of the result covers.
"""

import argparse
import io
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from side_by_side import report, seconds

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from examples.helpers import cli  # noqa: E402  # isort: skip  # before TensorFlow
import cv2  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from PIL import Image  # noqa: E402

from datasets import cats_dogs  # noqa: E402

SIDE = 128  # pixels, to which photographs are shrunk
PHOTOGRAPHS = 200
ROUNDS = 7


def with_pillow(jpeg: bytes) -> np.ndarray:
    """Decode as the data set does, but for the archive."""
    return np.asarray(Image.open(io.BytesIO(jpeg)))


def with_opencv(jpeg: bytes, flags: int = cv2.IMREAD_COLOR_RGB) -> np.ndarray:
    """Decode with OpenCV."""
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), flags)


DECODERS: dict[str, Callable[[bytes], np.ndarray]] = {
    "OpenCV, imdecode": with_opencv,
    "Pillow, Image.open": with_pillow,
    "tf.io.decode_jpeg": lambda jpeg: tf.io.decode_jpeg(jpeg).numpy(),
    'tf.io.decode_jpeg, "INTEGER_ACCURATE"': lambda jpeg: tf.io.decode_jpeg(
        jpeg, dct_method="INTEGER_ACCURATE"
    ).numpy(),
}


def opencv_to(side: int, interpolation: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that shrinks with OpenCV."""
    return lambda image: cv2.resize(image, (side, side), interpolation=interpolation)


def pillow_to(side: int, resampling: Image.Resampling) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that shrinks with Pillow."""
    return lambda image: np.asarray(Image.fromarray(image).resize((side, side), resampling))


def tensorflow_to(side: int, **options) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that shrinks with TensorFlow; its result is float32."""
    return lambda image: tf.image.resize(image, (side, side), **options).numpy()


SHRINKERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "OpenCV, INTER_AREA": opencv_to(SIDE, cv2.INTER_AREA),
    "OpenCV, INTER_LINEAR: the next 4 pixels": opencv_to(SIDE, cv2.INTER_LINEAR),
    "Pillow, BOX": pillow_to(SIDE, Image.Resampling.BOX),
    "Pillow, BILINEAR": pillow_to(SIDE, Image.Resampling.BILINEAR),
    'tf.image.resize, "area"': tensorflow_to(SIDE, method="area"),
    "tf.image.resize, antialias=True": tensorflow_to(SIDE, antialias=True),
    "tf.image.resize: the next 4 pixels": tensorflow_to(SIDE),
}


def exactly(image: np.ndarray) -> np.ndarray:
    """Shrink to the mean of what each pixel covers, with fractions of pixels at its borders."""
    for axis in (0, 1):
        total = np.insert(np.cumsum(image, axis=axis, dtype=np.float64), 0, 0, axis=axis)
        size = image.shape[axis]
        borders = np.linspace(0, size, SIDE + 1)
        before = np.minimum(borders.astype(int), size - 1)
        share = (borders - before).reshape([-1, 1, 1] if axis == 0 else [1, -1, 1])
        sums = total.take(before, axis) * (1 - share) + total.take(before + 1, axis) * share
        image = np.diff(sums, axis=axis) * (SIDE / size)
    return image


def compare(ways: dict, inputs: list, expected: list) -> list[list[str]]:
    """Return a row for each way: its name, images a second, mean and largest difference."""
    times = {name: [] for name in ways}
    results = {name: [way(one) for one in inputs] for name, way in ways.items()}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            times[name].append(seconds(lambda way=way: [way(one) for one in inputs]))
    rows = []
    for name in ways:
        pairs = zip(results[name], expected, strict=True)
        differences = [np.abs(result - np.float64(exact)) for result, exact in pairs]
        mean = np.mean([difference.mean() for difference in differences])
        largest = max(difference.max() for difference in differences)
        speed = len(inputs) / statistics.median(times[name])
        rows.append([name, f"{speed:,.0f}", f"{mean:.2f}", f"{largest:.0f}"])
    return rows


def main() -> None:
    """Compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", choices=["full", "sample"], default="full")
    parser.add_argument("--data-dir", type=Path, default=ROOT / "datasets" / "downloads")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    photographs = cats_dogs.load(args.data, args.data_dir)
    jpegs = [photographs.read(photograph) for photograph in photographs.train[: 2 * PHOTOGRAPHS]]
    jpegs = [jpeg for jpeg in jpegs if min(with_opencv(jpeg).shape[:2]) >= SIDE][:PHOTOGRAPHS]
    images = [with_opencv(jpeg) for jpeg in jpegs]

    title = (
        f"{len(jpegs)} of {photographs.name}, {np.mean([i.shape[1] for i in images]):.0f} x "
        f"{np.mean([i.shape[0] for i in images]):.0f} pixels on average, on one core; medians of "
        f"{ROUNDS} rounds. Decoding, then shrinking to {SIDE} x {SIDE}."
    )
    rows = [
        ["", "images a second", "mean difference", "largest difference"],
        *compare(DECODERS, jpegs, images),
        *compare(SHRINKERS, images, [exactly(image) for image in images]),
    ]
    flags = ["--data", args.data] if args.data != "full" else []
    report(args.output, title, rows, __file__, *flags)


if __name__ == "__main__":
    cli.run(main)
