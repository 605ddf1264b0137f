"""Examples 06 and 14 beside TensorFlow's tutorial images/cnn, all as whole processes, in turn.

    python tests/benchmarks/bench_cifar10_training.py --seeds 0 1 2

Each process starts cold, loads CIFAR-10 from the binary version, trains and evaluates. The tutorial
(https://www.tensorflow.org/tutorials/images/cnn) is written anew from its description: three
convolutions, two poolings, two dense layers, Adam, 10 epochs, each with a test. Last, example 14's
training step and the machine's matrix product are timed in turn.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import ROOT, epochs_flag, in_own_process, make_parser, report, seconds, spread

STARTED = time.perf_counter()
sys.path.insert(0, str(ROOT))


def tutorial(data_dir: Path, seed: int, epochs: int) -> dict:
    """Train the tutorial's network, and return its accuracy and seconds."""
    import numpy as np
    import tensorflow as tf

    from datasets import cifar10

    tf.keras.utils.set_random_seed(seed)
    data = cifar10.load("full", data_dir)
    images = np.concatenate([data.train_images, data.validation_images]) / 255.0  # float64
    labels = np.concatenate([data.train_labels, data.validation_labels])
    test = (data.test_images / 255.0, data.test_labels)
    layers = tf.keras.layers
    stack = [layers.Input((32, 32, 3))]
    for filters in (32, 64):
        stack += [layers.Conv2D(filters, 3, activation="relu"), layers.MaxPooling2D(2)]
    stack += [layers.Conv2D(64, 3, activation="relu"), layers.Flatten()]
    stack += [layers.Dense(64, activation="relu"), layers.Dense(10)]
    model = tf.keras.Sequential(stack)
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
    """Count what example 14's convolutions multiply in a step: forward, and for both gradients."""
    total = 32 * 32 * 2 * 2 * 3 * 12  # the whitening only goes forward
    inputs, size = 12, 32
    for number, outputs in enumerate(count for count in channels for _ in range(2)):
        total += (2 if number == 0 else 3) * size * size * 9 * inputs * outputs
        inputs = outputs
        size //= 2 if number % 2 == 0 else 1  # the pooling behind a stage's first convolution
    return total


def step_speed(pairs: int = 15) -> tuple[str, float, float]:
    """Return number format, speed of a training step in GFLOP/s, and its share of a product's."""
    import numpy as np

    from examples import example14_cifar10_record as example14
    from examples.helpers import device
    from examples.helpers.report import tf

    dtype = device.start("auto")
    rng = np.random.default_rng(0)
    count = example14.BATCH_SIZE
    images = rng.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
    labels = rng.integers(0, 10, count).astype(np.int32)
    training = example14.Training(example14.Network(images, example14.CHANNELS, dtype, 0))
    matrix = tf.cast(tf.random.normal([2048, 2048]), dtype)
    product = tf.function(lambda: tf.linalg.matmul(matrix, matrix)[0, 0])

    def speed(work, operations: float) -> float:
        return operations / seconds(work) / 1e9

    def step():
        training.step(images, labels, tf.constant(0.1))["loss"].numpy()

    step(), product()
    speeds = []
    for _ in range(pairs):
        ours = speed(step, 2 * count * multiplications(example14.CHANNELS))
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

    scripts = {
        "example 06": ROOT / "examples" / "example06_cifar10_cnn_nn.py",
        "example 14": ROOT / "examples" / "example14_cifar10_record.py",
    }
    sides = {name: [] for name in (*scripts, "tutorial images/cnn")}
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            common = ["--data-dir", args.data_dir, *epochs_flag(args)]
            for side, script in scripts.items():
                flags = ["--models-dir", folder, "--seed", seed]
                result = {"seconds": in_own_process(script, *flags, *common)}
                written = (Path(folder) / script.stem / "metrics.json").read_text()
                sides[side].append(result | json.loads(written))
            output = Path(folder) / "tutorial.json"
            flags = ["--tutorial", seed, "--output", output]
            result = {"seconds": in_own_process(__file__, *flags, *common)}
            sides["tutorial images/cnn"].append(result | json.loads(output.read_text()))
        for side, results in sides.items():
            accuracy, time_taken = results[-1]["test_accuracy"], results[-1]["seconds"]
            print(f"seed {seed}: {side:19} {accuracy:.2%} in {time_taken:.0f} s", flush=True)

    rows = [["", "test accuracy, median (range)", "seconds, median (range)", "images a second"]]
    for name, results in sides.items():
        accuracies = [result["test_accuracy"] for result in results]
        times = [result["seconds"] for result in results]
        speed = statistics.median(result["images_per_second"] for result in results)
        rows.append([name, spread(accuracies, ".2%"), spread(times, ".0f"), f"{speed:,.0f}"])
    *ours, theirs = ([result["seconds"] for result in results] for results in sides.values())
    pairs = ([a / b for a, b in zip(times, theirs, strict=True)] for times in ours)
    ratios = list(map(statistics.median, pairs))
    precision, speed, share = step_speed()
    title = (
        f"{len(args.seeds)} seeds, whole processes in turn; example 06 takes {ratios[0]:.2f} times "
        f"as long as the tutorial, example 14 {ratios[1]:.2f} times (medians of the pairs). "
        f"Example 14's training step computes {speed:.0f} GFLOP/s, {share:.0%} of what a "
        f"{precision} matrix product beside it reaches."
    )
    report(args.output, title, rows, __file__, "--seeds", *args.seeds, *epochs_flag(args))


if __name__ == "__main__":
    main()
