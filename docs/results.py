"""Write the tables of docs/results.md, and the index in README.md, from docs/results/*.json.

    python docs/results.py            # rewrite the tables
    python docs/results.py --check    # exit with status 1 if they are not what the files say

A run of an example enters the table when its metrics.json is copied to docs/results/ as
exampleNN_what.json, a benchmark when its --output goes to docs/results/benchmark_what.json. No
number in the tables is typed by hand.
"""

import csv
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGE = ROOT / "docs" / "results.md"
RESULTS = ROOT / "docs" / "results"
IMAGES = ROOT / "docs" / "images"

# The runs whose output and pictures are kept, exampleNN_KIND.json; the first there is stands for
# the example in the index.
KINDS = {
    "default": "A real run",
    "photographs": "A real run",
    "blocks": "A real run, on VGG16's convolutions",
    "sample": "A run on sample data",
    "random_weights": "A run with a VGG16 of random numbers",
    "stand_in": "A run against a stand-in for the server",
}
# What an example is scored by: the first number here that its metrics have. The index has what
# stands before the semicolon.
SCORES = {
    "map_50": "mAP {map_50:.3f} at IoU 0.5; COCO's {map:.3f}; a count is off by {count_error:.2f}",
    "iou": "IoU {iou:.3f}; score of the nuclei {score:.3f}, at IoU 0.5 {score_50:.3f}",
    "one_shot_error": "error {one_shot_error:.1%}; by pixels {error_of_pixels:.1%}, "
    "by the untrained network {error_untrained:.1%}",
    "test_accuracy": "{test_accuracy:.2%}",
}
BY_KIND = {  # the columns of example 16's scores by the kind of image
    "iou": "IoU",
    "otsu_iou": "IoU, Otsu's",
    "dice": "Dice",
    "score_50": "score at IoU 0.5",
    "score": "score",
    "score_of_components": "score of components",
    "otsu_score": "score, Otsu's",
}


def row(cells: list[str]) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join([row(header), row(["---"] * len(header)), *map(row, rows)])


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def machine(metrics: dict) -> str:
    """Return the machine and the versions that a result was measured with."""
    what, versions = metrics["machine"], metrics["versions"]
    device = "GPU" if what["gpu"] else f"{what['cores']} cores"
    return f"{what['processor']}, {device}; TensorFlow {versions['tensorflow']}"


def score(metrics: dict) -> str:
    """Return what an example is scored by."""
    found = [text for name, text in SCORES.items() if name in metrics]
    return found[0].format(**metrics) if found else "–"


def runs() -> str:
    """Return the table of the examples' runs, as far as they have been measured."""
    header = [
        "example",
        "command",
        "data",
        "test accuracy, or score",
        "training",
        "in all",
        "arithmetic, seed",
    ]
    rows, machines = [], set()
    for path in sorted(RESULTS.glob("example*.json")):
        metrics = json.loads(path.read_text())
        if "machine" not in metrics:  # the command alone, for tests/benchmarks/measure_all.py
            continue
        machines.add(machine(metrics))
        learned = metrics.get("train_seconds")
        rows.append(
            [
                path.stem[len("example") :][:2],
                f"`{metrics['command']}`",
                metrics.get("data", "–"),
                score(metrics),
                duration(learned) if learned else "–",
                duration(metrics["total_seconds"]),
                f"{metrics['precision']}, {metrics['seed']}" if "seed" in metrics else "–",
            ]
        )
    return table(header, rows) + "\n\nMachine: " + "; ".join(sorted(machines)) + "."


def by_kind() -> str:
    """Return the table of example 16's scores, of all test images and of each kind."""
    metrics = json.loads((RESULTS / "example16_default.json").read_text())
    rows = {"all": metrics} | metrics["kinds"] if "kinds" in metrics else {}
    figures = [[kind, *(f"{row[name]:.3f}" for name in BY_KIND)] for kind, row in rows.items()]
    return table(["images", *BY_KIND.values()], figures)


def kind_of(path: Path) -> str:
    """Return what stands behind the example's number in the name of a file of results."""
    return path.stem.partition("_")[2]


def recorded(number: str) -> list[Path]:
    """Return the files of an example's runs whose output was kept, in the order of KINDS."""
    files = [RESULTS / f"example{number}_{kind}.json" for kind in KINDS]
    return [path for path in files if path.with_suffix(".txt").is_file()]


def pictures_of(path: Path) -> list[Path]:
    """Return the pictures in docs/images/ that were kept of a run, named after its file."""
    name = path.stem.removesuffix("_default")
    others = tuple(f"{name}_{kind}_" for kind in KINDS)  # of the same example
    return [x for x in sorted(IMAGES.glob(f"{name}_*.*")) if not x.stem.startswith(others)]


def curves_of(metrics: dict) -> dict[str, dict[str, list[float]]]:
    """Return loss and scores by epoch: of each, what is known of "training" and "validation"."""
    curves: dict[str, dict[str, list[float]]] = {}
    for key, values in metrics.get("history", {}).items():
        name = key.removeprefix("validation_")
        if name != "seconds":
            curves.setdefault(name, {})["training" if name == key else "validation"] = values
    return curves


def matrix_of(path: Path) -> tuple[list[str], list[list[int]]]:
    """Return a run's confusion matrix, if it was kept: class names, a row for each true class."""
    file = path.with_name(f"{path.stem}_confusion_matrix.csv")
    names, *rows = csv.reader(file.read_text().splitlines() if file.is_file() else [""])
    return names, [list(map(int, row)) for row in rows]


def in_short(number: str) -> str:
    """Return what an example's first recorded run comes to."""
    for path in recorded(number)[:1]:
        metrics = json.loads(path.read_text())
        seconds = duration(metrics["total_seconds"])
        if kind_of(path) in ("random_weights", "stand_in") or "data" not in metrics:
            return seconds  # its accuracy says nothing
        data, flags = metrics["data"].partition(":")[0], metrics["command"].partition(".py ")[2]
        more = f" with `{flags}`" if kind_of(path) == "blocks" else ""
        return f"{score(metrics).partition(';')[0]} on {data} in {seconds}{more}"
    return ""


def with_index(text: str) -> str:
    """Return README.md's text with the last column of the index of examples replaced."""
    pattern = re.compile(r"^(\| (\d\d) \| \[`example\2_.*\|) [^|]*\|$", re.MULTILINE)
    return pattern.sub(lambda found: f"{found[1]} {in_short(found[2])} |", text)


def benchmarks() -> str:
    """Return the tables that the benchmarks have written, each under its command."""
    parts = []
    for path in sorted(RESULTS.glob("benchmark_*.json")):
        result = json.loads(path.read_text())
        head, *rows = result["table"]
        parts.append(f"`{result['command']}`: {result['title']}\n\n{table(head, rows)}")
    return "\n\n".join(parts)


def with_tables(text: str) -> str:
    """Return the text of docs/results.md with its tables up to date."""
    tables = {"runs": runs(), "kinds": by_kind(), "benchmarks": benchmarks()}
    for name, content in tables.items():
        start, end = f"<!-- {name}: written by docs/results.py -->", f"<!-- end of {name} -->"
        before, has_start, rest = text.partition(start)
        _, has_end, after = rest.partition(end)
        if not (has_start and has_end):
            sys.exit(f"docs/results.md lacks {end if has_start else start}")
        text = f"{before}{start}\n\n{content}\n\n{end}{after}"
    return text


def main(arguments: list[str]) -> None:
    """Rewrite the tables, or check them."""
    for path, fill in ((PAGE, with_tables), (README, with_index)):
        before = path.read_text(encoding="utf-8")
        after = fill(before)
        if arguments == ["--check"] and before != after:
            sys.exit(f"{path.name} is out of date: run python docs/results.py")
        path.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
