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
from side_by_side import seconds

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from datasets import cifar10  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=ROOT / "datasets/downloads")
    parser.add_argument("--pairs", type=int, default=15)
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
    print(f"median of {args.pairs} pairs      seconds    MB/s")
    for name, times in (("numpy.fromfile, 6 files", reads), ("cifar10.load", loads)):
        median = statistics.median(times)
        megabytes = sum(file.stat().st_size for file in files) / 1e6
        print(f"{name:24} {median:7.3f} {megabytes / median:7.0f}")
    median = statistics.median(ratios)
    print(f"ratio: median {median:.1f}, from {min(ratios):.1f} to {max(ratios):.1f}")


if __name__ == "__main__":
    main()
