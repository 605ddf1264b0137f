"""Measures how many photographs it takes, with VGG16's convolutions and from scratch.

    python tests/benchmarks/bench_learning_curve.py --seeds 0 1 2

Examples 11 (`--weights blocks`, stage 1) and 10 learn from the first N photographs of the archive.
Example 10 takes as many steps for few photographs as for 1,600, since an epoch has fewer.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path

from side_by_side import ROOT, in_own_process, make_parser, report, spread

SIZES = (50, 100, 200, 400, 800, 1600)
EPOCHS, BATCH_SIZE = 20, 64  # of example 10, with 1,600 photographs
NAMES = {
    "from scratch": "example10_cats_dogs_tfrecord",
    "on VGG16's features": "example11_vgg16_cats_dogs",
}


def measure(name: str, size: int, seed: int, folder: Path, data_dir: Path) -> float:
    """Return the test accuracy after learning from `size` photographs."""
    script = NAMES[name]
    flags = ["--train-images", size, "--seed", seed, "--models-dir", folder]
    if name == "from scratch":
        steps = EPOCHS * (max(SIZES) // BATCH_SIZE)
        flags += ["--epochs", max(EPOCHS, steps // max(1, size // BATCH_SIZE))]
    else:
        flags += ["--weights", "blocks"]
    in_own_process(ROOT / "examples" / f"{script}.py", "--data-dir", data_dir, *flags)
    return json.loads((folder / script / "metrics.json").read_text())["test_accuracy"]


def main() -> None:
    """Run both for each size and seed, and print a table."""
    parser = make_parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="photographs")
    args = parser.parse_args()
    found = {name: {size: [] for size in args.sizes} for name in NAMES}
    with tempfile.TemporaryDirectory() as folder:  # one for all: features are computed once
        for name in NAMES:
            for seed in args.seeds:
                for size in args.sizes:
                    share = measure(name, size, seed, Path(folder), args.data_dir)
                    found[name][size].append(share)
                    print(f"{name}, {size} photographs, seed {seed}: {share:.2%}", flush=True)
    rows = [["photographs", *NAMES]]
    for size in args.sizes:
        rows.append([f"{size:,}", *(spread(found[name][size], ".1%") for name in NAMES)])
    last = {name: statistics.median(found[name][args.sizes[-1]]) for name in NAMES}
    title = (
        f"Cats and dogs, 400 photographs for the test, {len(args.seeds)} seeds, medians and ranges:"
        f" with {args.sizes[-1]:,} photographs {last['from scratch']:.1%} from scratch and"
        f" {last[list(NAMES)[1]]:.1%} on the features of VGG16's convolutions."
    )
    report(args.output, title, rows, __file__, "--seeds", *args.seeds)
    if args.output:
        result = json.loads(args.output.read_text()) | {"accuracies": found}
        args.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
