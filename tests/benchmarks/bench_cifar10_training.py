"""Example 06 beside TensorFlow's tutorial images/cnn, both as whole processes, in turn.

    python tests/benchmarks/bench_cifar10_training.py --seeds 0 1 2

Each process starts cold, loads CIFAR-10 from the binary version, trains and evaluates. The tutorial
(https://www.tensorflow.org/tutorials/images/cnn) is written anew from its description: three 3x3
convolutions of 32, 64 and 64 filters, two poolings, dense 64, Adam, batches of 32, 10 epochs,
the test images evaluated after each (its images a second include that). Last, example 06's training
step and the machine's matrix product are timed in turn, to see what share of that speed the step
on whole images reaches.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import epochs_flag, in_own_process, make_parser, report, seconds, spread

STARTED = time.perf_counter()
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def tutorial(data_dir: Path, seed: int, epochs: int) -> dict:
    """Train the tutorial's network, and return its accuracy and seconds."""
    import tensorflow as tf

    from datasets import cifar10

    tf.keras.utils.set_random_seed(seed)
    data = cifar10.load("full", data_dir)
    images = data.train_images.base[:50_000] / 255.0  # as the tutorial: float64, all 50,000
    labels = data.train_labels.base[:50_000]
    test = (data.test_images / 255.0, data.test_labels)
    layers = tf.keras.layers
    model = tf.keras.Sequential(
        [
            layers.Input((32, 32, 3)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    began = time.perf_counter()
    model.fit(images, labels, epochs=epochs, validation_data=test, verbose=2)
    fitted = time.perf_counter() - began
    accuracy = model.evaluate(*test, verbose=0)[1]
    return {
        "test_accuracy": accuracy,
        "total_seconds": time.perf_counter() - STARTED,
        "images_per_second": len(images) * epochs / fitted,
    }


def multiplications(channels: tuple[int, ...]) -> int:
    """Count what example 06's convolutions multiply in one training step, for one image.

    Forward, the gradient of the kernels, the gradient of the inputs: three times the same number,
    except that the whitening only goes forward, and nobody asks for the gradient of its outputs.
    """
    total = 32 * 32 * 2 * 2 * 3 * 12
    inputs, size = 12, 32
    for number, outputs in enumerate(count for count in channels for _ in range(2)):
        total += (2 if number == 0 else 3) * size * size * 9 * inputs * outputs
        inputs = outputs
        size //= 2 if number % 2 == 0 else 1  # the pooling behind a stage's first convolution
    return total


def step_speed(pairs: int = 15) -> tuple[str, float, float]:
    """Time the training step and a matrix product in turn.

    Returns:
        The number format, the step's speed in 10^9 operations a second, and the median share of
        the matrix product's speed.
    """
    import numpy as np

    from examples import common
    from examples import example06_cifar10_cnn_nn as example06

    tf = common.tf
    dtype = common.start("auto")
    rng = np.random.default_rng(0)
    count = example06.BATCH_SIZE
    images = rng.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
    labels = rng.integers(0, 10, count).astype(np.int32)
    network = example06.Network(images, example06.CHANNELS, 10, dtype, 0)
    training = example06.Training(network, 1)
    matrix = tf.cast(tf.random.normal([2048, 2048]), dtype)
    product = tf.function(lambda: tf.linalg.matmul(matrix, matrix)[0, 0])

    def speed(work, operations: float) -> float:
        return operations / seconds(work) / 1e9

    def step():
        mirrored = np.zeros(count, np.float32)
        training.train_step(images, labels, mirrored, tf.constant(0.1), tf.constant([0, 0]), 32)
        training.step.numpy()

    step(), product()
    speeds = []
    for _ in range(pairs):
        ours = speed(step, 2 * count * multiplications(example06.CHANNELS))
        matmul = statistics.median(speed(lambda: product().numpy(), 2 * 2048**3) for _ in range(5))
        speeds.append((ours, ours / matmul))
    ours, shares = zip(*speeds, strict=True)
    return dtype.name, statistics.median(ours), statistics.median(shares)


def main() -> None:
    """Run both sides and print a table."""
    parser = make_parser(__doc__)
    parser.add_argument("--tutorial", type=int, metavar="SEED", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.tutorial is not None:
        result = tutorial(args.data_dir, args.tutorial, args.epochs or 10)
        args.output.write_text(json.dumps(result))
        return

    sides = {"example 06": [], "tutorial images/cnn": []}
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            common = ["--data-dir", args.data_dir, *epochs_flag(args)]
            script = ROOT / "examples" / "example06_cifar10_cnn_nn.py"
            flags = ["--models-dir", folder, "--seed", seed]
            ours = {"seconds": in_own_process(script, *flags, *common)}
            ours |= json.loads((Path(folder) / script.stem / "metrics.json").read_text())
            output = Path(folder) / "tutorial.json"
            flags = ["--tutorial", seed, "--output", output]
            theirs = {"seconds": in_own_process(__file__, *flags, *common)}
            theirs |= json.loads(output.read_text())
        for side, result in zip(sides, (ours, theirs), strict=True):
            sides[side].append(result)
            accuracy, time_taken = result["test_accuracy"], result["seconds"]
            print(f"seed {seed}: {side:19} {accuracy:.2%} in {time_taken:.0f} s", flush=True)

    rows = [["", "test accuracy, median (range)", "seconds, median (range)", "images a second"]]
    for name, results in sides.items():
        accuracies = [result["test_accuracy"] for result in results]
        times = [result["seconds"] for result in results]
        speed = statistics.median(result["images_per_second"] for result in results)
        rows.append([name, spread(accuracies, ".2%"), spread(times, ".0f"), f"{speed:,.0f}"])
    pairs = zip(*sides.values(), strict=True)
    ratio = statistics.median(ours["seconds"] / theirs["seconds"] for ours, theirs in pairs)
    precision, speed, share = step_speed()
    title = (
        f"{len(args.seeds)} seeds, whole processes in turn; example 06 takes {ratio:.2f} times as "
        f"long as the tutorial (median of the pairs). Its training step computes {speed:.0f} "
        f"GFLOP/s, {share:.0%} of what a {precision} matrix product beside it reaches."
    )
    report(title, rows, __file__, args)


if __name__ == "__main__":
    main()
