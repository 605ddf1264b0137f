"""Measure again all that docs/results.md states; rewrite its tables, draw the runs' curves.

    python tests/benchmarks/measure_all.py                # everything: about two hours
    python tests/benchmarks/measure_all.py example1 mnist # files whose name has one of these in it

Each file in docs/results/ says by which command it was made. That command runs again, in a copy of
the project that has no results yet, and the file is replaced when it has ended well. What could not
be measured is listed at the end, with the reason, and its old file stays.

What an example has printed is kept beside its file, as .txt, its confusion matrix as .csv, and what
it has drawn in docs/images/, for the site: of a run on real data the plots only, since photographs
belong to others. Learning curves and matrices are drawn for the site by docs/figures/runs.py.
Example 09 asks tests/serving_stand_in.py, which is started for it.

Data is taken from datasets/downloads, so that no download is part of a time. Sample data and the
sample weights are made anew.
"""

import argparse
import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]
import results  # noqa: E402

from examples.helpers import report  # noqa: E402

RESULTS = results.RESULTS
MATPLOTLIBRC = ROOT / "docs" / "figures" / "matplotlibrc"  # for light pages and dark ones
RANDOM_WEIGHTS = "models/random_vgg_16.ckpt"
# There are no images in these.
PLOTS = ("first_kernels", "precision", "templates")
DRAWN_ANEW = ("confusion_matrix", "learning_curves")  # by docs/figures/runs.py


def copy_of_the_project(folder: Path, data_dir: Path) -> Path:
    """Copy the scripts to a folder, with links to the data, and return the copy's path."""
    copy = folder / "project"
    for name in ("examples", "examples/helpers", "datasets", "models", "tests", "tests/benchmarks"):
        (copy / name).mkdir(parents=True)
        for file in (ROOT / name).glob("*.*"):
            if file.suffix in (".py", ".svg"):  # drawings are read from an SVG file
                shutil.copy(file, copy / name)
    (copy / "datasets" / "downloads").mkdir()
    for path in data_dir.iterdir():
        if path.is_dir() and path.name != "sample":
            (copy / "datasets" / "downloads" / path.name).symlink_to(path.resolve())
    return copy


@contextlib.contextmanager
def server(copy: Path) -> Iterator[None]:
    """Serve what example 08 has exported, until the block ends."""
    words = [sys.executable, "tests/serving_stand_in.py", "models/serving/mnist"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, cwd=copy, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            if not process.stdout.readline():
                sys.exit(process.stderr.read())
            time.sleep(3)  # until it has loaded the model
            yield
        finally:
            process.terminate()


def keep(result: Path, output: str, made: Path) -> None:
    """Keep what a run has printed, and its matrix and pictures, which lie beside its metrics.json.

    Args:
        result: the run's file in docs/results/.
        output: what it has printed.
        made: the folder that it has written to.
    """
    kind = results.kind_of(result)
    if kind not in results.KINDS:
        return
    result.with_suffix(".txt").write_text(output)
    if (matrix := made / "confusion_matrix.csv").is_file():
        shutil.copyfile(matrix, result.with_name(f"{result.stem}_{matrix.name}"))
    name = result.stem.removesuffix("_default")
    for picture in sorted(made.glob("*.png")):
        kept = results.IMAGES / f"{name}_{picture.name}"
        if picture.stem in PLOTS:
            shutil.copyfile(picture, kept)
        elif kind == "sample" and picture.stem not in DRAWN_ANEW:
            with Image.open(picture) as image:  # 256 colours take a sixth of the bytes
                image.quantize().save(kept, optimize=True)


def measure(result: Path, copy: Path) -> str:
    """Run the command of a file of results, and replace the file; return why that did not work."""
    command = json.loads(result.read_text())["command"]
    _, script, *arguments = shlex.split(command)
    environment = os.environ | {"MATPLOTLIBRC": str(MATPLOTLIBRC)}

    def run(*words: str) -> tuple[str, str]:
        process = subprocess.run(
            [sys.executable, *words],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        lines = process.stderr.replace("\r", "\n").strip().splitlines() or ["no reason given"]
        return process.stdout, "" if process.returncode == 0 else lines[-1]

    if RANDOM_WEIGHTS in arguments and not (copy / RANDOM_WEIGHTS).exists():
        _, reason = run("tests/benchmarks/make_random_vgg16.py", RANDOM_WEIGHTS)
        if reason:
            return reason
    if result.name.startswith("benchmark_"):
        made = copy / result.name
        _, reason = run(script, *arguments, "--output", str(made))
    else:
        made = copy / "models" / Path(script).stem / "metrics.json"
        started = time.perf_counter()
        with server(copy) if "example09" in script else contextlib.nullcontext():
            output, reason = run(script, *arguments)
        if not reason and not made.is_file():  # example 01 writes no files
            seconds = round(time.perf_counter() - started, 1)
            report.write_json(
                made, report.origin(Path(script).stem, arguments) | {"total_seconds": seconds}
            )
        if not reason:
            keep(result, output.replace(str(copy), "/path/to/project"), made.parent)
    if not reason:
        shutil.copyfile(made, result)
    return reason


def show() -> None:
    """Put the new figures into docs/results.md and the index of README.md, and draw them."""
    for script in ("results.py", "figures/runs.py"):
        subprocess.run([sys.executable, str(ROOT / "docs" / script)], check=True)


def main(arguments: list[str] | None = None) -> dict[str, str]:
    """Measure, and return why a file could not be made anew, by its name."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="parts of the names of files in docs/results/")
    parser.add_argument("--data-dir", type=Path, default=ROOT / "datasets" / "downloads")
    args = parser.parse_args(arguments)
    chosen = [  # in the order of the examples: some use what earlier ones have trained
        path
        for path in sorted(RESULTS.glob("*.json"), key=lambda path: (path.stem[0] == "b", path))
        if not args.names or any(name in path.stem for name in args.names)
    ]
    failures = {}
    with tempfile.TemporaryDirectory() as folder:
        copy = copy_of_the_project(Path(folder), args.data_dir)
        for path in (bar := tqdm(chosen)):
            bar.set_description(path.stem)
            if reason := measure(path, copy):
                failures[path.name] = reason
                tqdm.write(f"not measured: {path.stem}: {reason}")
    show()
    print(f"{len(chosen) - len(failures)} of {len(chosen)} files in docs/results/ measured again")
    return failures


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
