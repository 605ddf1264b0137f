"""Times examples 03, 04 and 05 against the introductions that people would otherwise read.

    python tests/benchmarks/bench_mnist.py

On MNIST, every side a process of its own, start-up, evaluation and pictures included, one after the
other and again for each seed. The peers are written from their descriptions:

* TensorFlow's quickstart for beginners (https://www.tensorflow.org/tutorials/quickstart/beginner);
* "Simple MNIST convnet" of keras.io (https://keras.io/examples/vision/mnist_convnet/).
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from side_by_side import ROOT, epochs_flag, in_own_process, make_parser, report, spread

sys.path.insert(0, str(ROOT))
SHORT = ["--epochs", "1", "--train-images", "40000"]
EXAMPLES = {  # what is compared with which peer
    "example 03": ("example03_mnist_mlp", [], "quickstart"),
    "example 04, short": ("example04_mnist_cnn_layers", SHORT, "mnist_convnet"),
    "example 05, short": ("example05_mnist_cnn_nn", SHORT, "mnist_convnet"),
    "example 04": ("example04_mnist_cnn_layers", [], "mnist_convnet"),
    "example 05": ("example05_mnist_cnn_nn", [], "mnist_convnet"),
}


def peer(name: str, data_dir: Path, seed: int, epochs: int | None) -> float:
    """Train a peer's network and return its test accuracy."""
    import numpy as np
    import tensorflow as tf

    from datasets import mnist

    tf.keras.utils.set_random_seed(seed)
    data = mnist.load("full", data_dir)
    images = np.concatenate([data.train_images, data.validation_images]) / 255.0
    labels = np.concatenate([data.train_labels, data.validation_labels])
    test = (data.test_images / 255.0, data.test_labels)
    layers = tf.keras.layers
    stack = [layers.Input((28, 28, 1))]
    if name == "quickstart":
        stack += [layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dropout(0.2)]
        options = {"epochs": epochs or 5}
    else:
        for filters in (32, 64):
            stack += [layers.Conv2D(filters, 3, activation="relu"), layers.MaxPooling2D(2)]
        stack += [layers.Flatten(), layers.Dropout(0.5)]
        images, test = images.astype("float32"), (test[0].astype("float32"), test[1])
        options = {"epochs": epochs or 15, "batch_size": 128, "validation_split": 0.1}
    model = tf.keras.Sequential([*stack, layers.Dense(10)])
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    model.fit(images, labels, verbose=2, **options)
    return model.evaluate(*test, verbose=0)[1]


def measure(name: str, seed: int, args: argparse.Namespace) -> tuple[float, float]:
    """Return test accuracy and seconds of an example or a peer."""
    common = ["--data-dir", args.data_dir, *epochs_flag(args)]
    with tempfile.TemporaryDirectory() as folder:
        if name in EXAMPLES:
            example, flags, _ = EXAMPLES[name]
            script = ROOT / "examples" / f"{example}.py"
            output = Path(folder) / example / "metrics.json"
            flags = [*flags, "--seed", seed, "--models-dir", folder]
        else:
            script = __file__
            output = Path(folder) / "metrics.json"
            flags = ["--peer", name, "--seeds", seed, "--output", output]
        seconds = in_own_process(script, *common, *flags)
        return json.loads(output.read_text())["test_accuracy"], seconds


def main() -> None:
    """Run all sides and print a table."""
    parser = make_parser(__doc__)
    parser.add_argument("--peer", choices=["quickstart", "mnist_convnet"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        accuracy = peer(args.peer, args.data_dir, args.seeds[0], args.epochs)
        args.output.write_text(json.dumps({"test_accuracy": accuracy}))
        return

    sides = ["quickstart", *EXAMPLES, "mnist_convnet"]
    results = {side: [] for side in sides}
    for seed in args.seeds:
        for side in sides:
            results[side].append(measure(side, seed, args))
            accuracy, seconds = results[side][-1]
            print(f"seed {seed}: {side:21} {accuracy:.2%} in {seconds:.0f} s", flush=True)

    rows = [["", "test accuracy, median (range)", "seconds, median (range)", "share of its time"]]
    for side, measured in results.items():
        accuracies, times = zip(*measured, strict=True)
        share = ""
        if side in EXAMPLES:
            other = EXAMPLES[side][-1]
            pairs = zip(times, (seconds for _, seconds in results[other]), strict=True)
            share = f"{statistics.median(a / b for a, b in pairs):.2f} of {other}"
        rows.append([side, spread(accuracies, ".2%"), spread(times, ".0f"), share])
    title = (
        f"MNIST, {len(args.seeds)} seeds, whole processes in turn. The shares are medians over the "
        f"seeds. Short: {' '.join(SHORT)}. quickstart: TensorFlow's for beginners; mnist_convnet: "
        "keras.io's."
    )
    report(args.output, title, rows, __file__, "--seeds", *args.seeds, *epochs_flag(args))


if __name__ == "__main__":
    main()
