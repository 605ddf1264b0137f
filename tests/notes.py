"""What the tests of the notes share: a note's text and its listings, and the tables made for it."""

import re

import numpy as np
import programs
import tensorflow as tf
import threadpoolctl

# Of NumPy's small products, two cores compute none faster than one: they wait for each other.
threadpoolctl.threadpool_limits(1, "blas")
NOTES = programs.ROOT / "docs" / "notes"


def text(number):
    """Return a note, with single spaces for all white space, so that lines may break anywhere."""
    (path,) = NOTES.glob(f"{number:02}_*.md")
    return " ".join(path.read_text().split())


def listings(number):
    """Return the Python listings of a note."""
    (path,) = NOTES.glob(f"{number:02}_*.md")
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def run_listings(number):
    """Run the listings of a note one after the other, and return the names they have defined."""
    names = {}
    for listing in listings(number):
        exec(listing, names)
    return names


def generated(name, folder=NOTES):
    """Return what a script has written into a note, between two comments of this name."""
    pattern = rf"<!-- {name}: made by docs/figures/\w+\.py -->\n\n(.*?)\n\n<!-- end of {name} -->"
    text = "".join(path.read_text() for path in folder.glob("*.md"))
    return re.search(pattern, text, re.DOTALL)[1]


def normal(*shape, seed=0):
    """Return normally distributed numbers, float32."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def rows(table):
    """Return the cells of a Markdown table, without its header."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]


def numbers(name):
    """Return the first number in each cell of a generated table, by the text of its first cell."""
    found = r"\d[\d,]*\.?\d*"
    return {
        first: [float(re.search(found, cell)[0].replace(",", "")) for cell in rest]
        for first, *rest in rows(generated(name))
    }


def multiply_adds(graph):
    """Count the products in convolutions and dense layers, by TensorFlow's profiler."""
    options = tf.compat.v1.profiler.ProfileOptionBuilder
    options = options(options.float_operation()).with_empty_output()
    options = options.with_node_names(show_name_regexes=[".*Conv2D.*", ".*MatMul.*"]).build()
    return tf.compat.v1.profiler.profile(graph, cmd="scope", options=options).total_float_ops // 2
