"""Reads the examples cell by cell, and the notes' links to them; needs nothing but Python.

A cell begins with a line `# %% Heading`. The comment right below it is its prose, written in
Markdown; the rest, up to the next such line, is its code. What stands before the first of these
lines is the first cell: its prose is the docstring without the title.
"""

import ast
import json
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
# Links of a page to an example, or to one of its cells by the heading; and to another script.
CELL_LINK = re.compile(r"\]\((?:\.\./)+examples/example(\d\d)_\w+\.py(?:#([\w-]+))?\)")
SOURCE_LINK = re.compile(r"\]\((?:\.\./)+((?!examples/example)[\w/]+\.(?:py|sh))\)")


@dataclass(frozen=True)
class Cell:
    """A cell of an example.

    Attributes:
        heading: what stands behind `# %%`; empty in the first cell.
        prose: Markdown.
        code: the lines of code, without empty ones around them.
        line: the number of the first of them in the file.
    """

    heading: str
    prose: str
    code: str
    line: int


@dataclass(frozen=True)
class Example:
    """An example: the path of its script, its title and its cells."""

    path: Path
    title: str
    cells: list[Cell]

    @property
    def number(self) -> str:
        """Two digits."""
        return self.path.name[len("example") :][:2]

    def label(self, heading: str = "") -> str:
        """Return the anchor of one of its cells, or of the whole page."""
        return f"example{self.number}" + (f"-{slug(heading)}" if heading else "")


@dataclass(frozen=True)
class Mention:
    """A place in a note that links to a cell: the note's file, its title, the section."""

    note: str
    title: str
    section: str


def slug(heading: str) -> str:
    """Return a heading as it stands in addresses."""
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")


def anchor(heading: str) -> str:
    """Return the anchor that MyST gives a heading of a note, as GitHub does."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def without_margins(lines: list[str], first: int) -> tuple[str, int]:
    """Join lines without the empty ones around them; return them and where they begin."""
    while lines and not lines[0].strip():
        lines, first = lines[1:], first + 1
    return "\n".join(lines).rstrip(), first


def as_markdown(lines: list[str]) -> str:
    """Make Markdown of a comment: tables and formulas, which are indented, become listings."""
    made, listing = [], []
    for before, line in zip(["", *lines], [*lines, "end"], strict=True):
        if line.startswith("  ") and (listing or before == "" or before.endswith(":")):
            listing.append(line)
        elif listing and line == "":
            listing.append("")
        else:
            if listing:
                text = textwrap.dedent("\n".join(listing)).strip("\n")
                made += ["", "```text", text, "```", ""]
                listing = []
            made.append(line)
    return "\n".join(made[:-1]).strip()


def read_example(path: Path) -> Example:
    """Read a script."""
    text = path.read_text()
    title, _, docstring = ast.get_docstring(ast.parse(text)).partition("\n")
    lines = text.splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("# %%")]
    begin = ast.parse(text).body[0].end_lineno
    cells = [Cell("", docstring.strip(), *without_margins(lines[begin : starts[0]], begin + 1))]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        first = start + 1
        while first < end and lines[first].startswith("#"):
            first += 1
        comment = [line[1:].removeprefix(" ") for line in lines[start + 1 : first]]
        heading = lines[start].removeprefix("# %%").strip()
        cells.append(
            Cell(heading, as_markdown(comment), *without_margins(lines[first:end], first + 1))
        )
    title = title.partition(": ")[2].rstrip(".")
    return Example(path, title[0].upper() + title[1:], cells)


def read_examples(folder: Path = ROOT / "examples") -> dict[str, Example]:
    """Read all examples, by their numbers."""
    examples = map(read_example, sorted(folder.glob("example[0-9][0-9]_*.py")))
    return {example.number: example for example in examples}


def mentions(folder: Path = DOCS / "notes") -> dict[tuple[str, str], list[Mention]]:
    """Find the notes that link to each cell, by the example's number and the cell's slug."""
    found = {}
    for path in sorted(folder.glob("*.md")):
        title = section = ""
        for line in path.read_text().splitlines():
            if line.startswith("# ") and not title:
                title = line[2:]
            elif line.startswith(("## ", "### ")):
                section = line.lstrip("# ")
            for place in CELL_LINK.findall(line):
                places = found.setdefault(place, [])
                mention = Mention(path.stem, title, section)
                if mention not in places:
                    places.append(mention)
    return found


# %% Notebooks

PLACE = """# Made from examples/{name}, and needs what lies around it: open this
# notebook in a folder of the repository, with its environment (.venv) as the kernel.
import sys
from pathlib import Path

folders = [folder / "examples" for folder in (Path.cwd(), *Path.cwd().parents)]
folders = [folder for folder in folders if (folder / "{name}").is_file()]
if not folders:
    raise FileNotFoundError("this notebook must lie in the repository that has examples/{name}")
__file__ = str(folders[0] / "{name}")"""

PICTURES = """# What the run has drawn
from IPython.display import Image, display

for picture in sorted((folders[0].parent / "models" / Path(__file__).stem).glob("*.png")):
    display(Image(picture))"""


def runs(code: str, source: str) -> str:
    """Make a script's last lines, which run it as a program, call main() with flags instead.

    A kernel's own command line has other flags. With --restart, since what is changed in a cell
    does not change the script, by which a training that can be continued is known.
    """
    flags, comment = [], ""
    if "make_parser" in source:
        flags, comment = ["--data", "sample"], "  # without --data sample: the real data"
    if "make_parser(__doc__, " in source:
        flags.append("--restart")
    call = f"metrics = main({json.dumps(flags)}){comment}"
    return re.sub(r'if __name__ == "__main__":\n    \w+\.run\(main\)', call, code)


def notebook(example: Example) -> str:
    """Return an example as a Jupyter notebook: its prose as text, its code as cells that run."""
    source, name = example.path.read_text(), example.path.name
    cells = [("markdown", f"# {example.number}. {example.title}\n\n{example.cells[0].prose}")]
    cells.append(("code", PLACE.format(name=name)))
    cells.append(("code", example.cells[0].code))
    for cell in example.cells[1:]:
        cells.append(("markdown", f"## {cell.heading}\n\n{cell.prose}"))
        cells.append(("code", runs(cell.code, source)))
    if "save_figure" in source or "plot_" in source:
        cells.append(("code", PICTURES))
    return json.dumps(
        {
            "cells": [
                {"cell_type": kind, "id": f"cell-{i}", "metadata": {}, "source": text}
                | ({"execution_count": None, "outputs": []} if kind == "code" else {})
                for i, (kind, text) in enumerate(cells)
                if text
            ],
            "metadata": {
                "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                "language_info": {"name": "python"},
            },
            "nbformat": 4,
            "nbformat_minor": 5,
        },
        indent=1,
    )
