"""How long loading CIFAR-10 takes, beside reading the bytes of its six binary files.

    python tests/benchmarks/bench_cifar10_loading.py [--data-dir datasets/downloads] [--pairs 15]

Both sides run in turn, so that other load on the machine meets both alike; the ratio is the median
of the pairs' ratios. The files are read once before, so that the disk plays no part. The aim: no
more than 6 times as long as numpy.fromfile.
"""

import argparse
import statistics
import sys
from pathlib import Path

import numpy as np
from side_by_side import report, seconds, spread

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from datasets import cifar10  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=ROOT / "datasets/downloads")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    folder = args.data_dir / "cifar10" / "cifar-10-batches-bin"
    files = sorted(folder.glob("*.bin"))
    if len(files) != 6:
        sys.exit(f"error: needs the six .bin files of CIFAR-10's binary version in {folder}")

    def read() -> object:
        return [np.fromfile(file, np.uint8) for file in files]

    def load() -> object:
        return cifar10.load("full", args.data_dir)

    read(), load()
    pairs = [(seconds(read), seconds(load)) for _ in range(args.pairs)]
    reads, loads = zip(*pairs, strict=True)
    ratios = [load / read for read, load in pairs]
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    rows = [["", "seconds", "MB a second"]]
    for name, times in (("numpy.fromfile, 6 files", reads), ("cifar10.load", loads)):
        median = statistics.median(times)
        rows.append([name, f"{median:.3f}", f"{megabytes / median:,.0f}"])
    title = (
        f"loading all of CIFAR-10 from the binary version takes {spread(ratios, '.1f')} times as "
        f"long as reading the bytes of its files; medians of {args.pairs} pairs."
    )
    report(args.output, title, rows, __file__)


if __name__ == "__main__":
    main()
