"""Time, memory and size of the file for each step of example 13, at VGG16's full size.

    python tests/benchmarks/bench_npz_weights.py [--repeats 3] [--output PATH.json]

The weights are random, 553 MB of them; the largest layer has 411 MB. Each step runs in a process of
its own, whose memory is the highest resident set (VmHWM) less what it had before. The aim: 1.6
times the largest layer; where TensorFlow reads or is given an array, it makes two copies of it.
Beside them, what NumPy does by itself. Files are in the system's cache when they are read. Linux,
4 GB of memory, and 4 GB in the folder for temporary files (TMPDIR); three minutes on two cores.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from side_by_side import ROOT, report, seconds, spread

sys.path.insert(0, str(ROOT))

import examples.helpers  # noqa: F401  # isort: skip  # before TensorFlow
import numpy as np
import tensorflow as tf

from examples import example13_npz_weights_vgg16 as example13
from models import vgg16, vgg16_files

CONFIG = vgg16.Config()
CHECKPOINT, NPZ, HALF, KERAS = "vgg_16.ckpt", "vgg_16.npz", "float16.npz", "vgg_16.weights.h5"


def convert_checkpoint(folder: Path) -> Path:
    return example13.write_npz(folder / NPZ, vgg16_files.each_array(folder / CHECKPOINT))


def write_checkpoint(folder: Path) -> Path:
    return example13.write_checkpoint(folder / "v2", example13.read_npz(folder / NPZ)).parent


def read_one_by_one(folder: Path) -> None:
    sum(float(array.flat[-1]) for _, array in example13.read_npz(folder / NPZ))


def read_with_numpy(folder: Path) -> dict:
    with np.load(folder / NPZ, allow_pickle=False) as file:
        return dict(file)


def convert_with_numpy(folder: Path) -> Path:
    np.savez(folder / "numpy.npz", **read_with_numpy(folder))
    return folder / "numpy.npz"


def round_to_float16(folder: Path) -> Path:
    arrays = example13.as_float16(example13.read_npz(folder / NPZ))
    return example13.write_npz(folder / HALF, arrays)


def load_by_name(folder: Path, network: vgg16.VGG16) -> None:
    example13.load_by_name("all", network.weights, example13.read_npz(folder / NPZ))


def write_keras(folder: Path) -> Path:
    return example13.write_keras(folder / KERAS, example13.read_npz(folder / NPZ), CONFIG)


STEPS = {
    "checkpoint (V1) to .npz": convert_checkpoint,
    ".npz to checkpoint (V2)": write_checkpoint,
    ".npz to .npz in float16": round_to_float16,
    ".npz to .weights.h5": write_keras,
    ".npz into a network, by name": load_by_name,
    ".npz, array by array": read_one_by_one,
    "np.load, all arrays": read_with_numpy,
    "np.load and np.savez": convert_with_numpy,
}


def memory(field: str) -> float:
    """Return a field of /proc/self/status in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise LookupError(field)


def run_step(name: str, folder: Path) -> dict:
    """Do a step, and return its seconds, its peak of memory, and the bytes that it has written."""
    step, arguments = STEPS[name], [folder]
    if step is load_by_name:
        arguments.append(vgg16.VGG16(vgg16.random_weights(CONFIG, 0), CONFIG))
    tf.constant(0.0).numpy()  # starts TensorFlow
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to VmRSS
    before, written = memory("VmRSS"), []
    duration = seconds(lambda: written.append(step(*arguments)))
    peak = memory("VmHWM") - before
    path = written[0] if isinstance(written[0], Path) else None
    files = [] if path is None else [path] if path.is_file() else list(path.iterdir())
    return {"seconds": duration, "peak": peak, "bytes": sum(f.stat().st_size for f in files)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)  # in a process of its own
    args = parser.parse_args()
    if args.step:
        print(json.dumps(run_step(args.step[0], Path(args.step[1]))))
        return

    largest = max(4 * int(np.prod(shape)) for shape in CONFIG.shapes().values()) / 1e6
    header = ["step", "seconds, median (range)", "peak of memory", "of the largest layer", "file"]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        maker = Path(__file__).with_name("make_random_vgg16.py")
        command = [sys.executable, maker, Path(folder) / CHECKPOINT]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for name in STEPS:
            command = [sys.executable, __file__, "--step", name, folder]
            results = [
                json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
                for _ in range(args.repeats)
            ]
            peak = statistics.median(result["peak"] for result in results)
            size = results[0]["bytes"] / 1e6
            times = spread([result["seconds"] for result in results], ".1f")
            cells = [f"{peak:,.0f} MB", f"{peak / largest:.1f} times"]
            rows.append([name, times, *cells, f"{size:.1f} MB" if size else ""])
            print(name, *rows[-1][1:3], sep="  ", flush=True)
    title = (
        f"VGG16 of full size, random weights, largest layer {largest:.0f} MB: each step in a "
        f"process of its own, {args.repeats} times. Memory is above what the process had before."
    )
    report(args.output, title, [header, *rows], __file__)


if __name__ == "__main__":
    main()
