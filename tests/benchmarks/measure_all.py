"""Measure again all that the README states, and rewrite its tables.

    python tests/benchmarks/measure_all.py                # everything: about two hours
    python tests/benchmarks/measure_all.py example1 mnist # files whose name has one of these in it

Each file in docs/results/ says by which command it was made. That command runs again, in a copy of
the project that has no results yet, and the file is replaced when it has ended well. What could not
be measured is listed at the end, with the reason, and its old file stays.

Data is taken from datasets/downloads, so that no download is part of a time. Sample data and the
sample weights are made anew.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
RANDOM_WEIGHTS = "models/random_vgg_16.ckpt"


def copy_of_the_project(folder: Path, data_dir: Path) -> Path:
    """Copy the scripts to a folder, with links to the data, and return the copy's path."""
    copy = folder / "project"
    for name in ("examples", "datasets", "models", "tests/benchmarks"):
        (copy / name).mkdir(parents=True)
        for script in (ROOT / name).glob("*.py"):
            shutil.copy(script, copy / name)
    (copy / "datasets" / "downloads").mkdir()
    for path in data_dir.iterdir():
        if path.is_dir() and path.name != "sample":
            (copy / "datasets" / "downloads" / path.name).symlink_to(path.resolve())
    return copy


def measure(result: Path, copy: Path) -> str:
    """Run the command of a file of results, and replace the file; return why that did not work."""
    command = json.loads(result.read_text())["command"]
    _, script, *arguments = shlex.split(command)

    def run(*words: str) -> str:
        process = subprocess.run(
            [sys.executable, *words], cwd=copy, capture_output=True, text=True, check=False
        )
        lines = process.stderr.replace("\r", "\n").strip().splitlines() or ["no reason given"]
        return "" if process.returncode == 0 else lines[-1]

    if RANDOM_WEIGHTS in arguments and not (copy / RANDOM_WEIGHTS).exists():
        reason = run("tests/benchmarks/make_random_vgg16.py", RANDOM_WEIGHTS)
        if reason:
            return reason
    if result.name.startswith("benchmark_"):
        made = copy / result.name
        reason = run(script, *arguments, "--output", str(made))
    else:
        made = copy / "models" / Path(script).stem / "metrics.json"
        reason = run(script, *arguments)
    if not reason:
        shutil.copyfile(made, result)
    return reason


def rewrite_tables() -> None:
    """Put the new figures into README.md."""
    subprocess.run([sys.executable, str(ROOT / "docs" / "results.py")], check=True)


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
    rewrite_tables()
    print(f"{len(chosen) - len(failures)} of {len(chosen)} files in docs/results/ measured again")
    return failures


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
