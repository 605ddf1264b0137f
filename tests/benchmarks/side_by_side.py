"""What the benchmarks share: programs run in turn, each in a process of its own, their times, and
the result as a table and as JSON.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def seconds(function: Callable[[], object]) -> float:
    """Return how long a call takes, without what it costs to release its result."""
    began = time.perf_counter()
    kept = function()
    ended = time.perf_counter()
    del kept
    return ended - began


def in_own_process(script: str | Path, *arguments: object) -> float:
    """Run a Python script, and return how many seconds it took from start to end."""
    command = [sys.executable, str(script), *map(str, arguments)]
    return seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))


def spread(values: Sequence[float], form: str) -> str:
    """Return median and range of some values."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def make_parser(docstring: str) -> argparse.ArgumentParser:
    """Make a parser with the flags of a benchmark that trains networks with several seeds."""
    parser = argparse.ArgumentParser(description=docstring.partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, default=ROOT / "datasets" / "downloads")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="of all sides, for a quick try")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    return parser


def epochs_flag(args: argparse.Namespace) -> list[object]:
    """Return --epochs as it was given, or nothing."""
    return ["--epochs", args.epochs] if args.epochs else []


def report(
    output: Path | None, title: str, rows: list[list[str]], script: str, *flags: object
) -> None:
    """Print a table; where asked to, write it with title and command, for docs/results.py."""
    print(title)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)))
    if output:
        words = ["python", Path(script).resolve().relative_to(ROOT).as_posix(), *flags]
        result = {"title": title, "command": " ".join(map(str, words)), "table": rows}
        output.write_text(json.dumps(result, indent=2) + "\n")
