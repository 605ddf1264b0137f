"""Example 01: add two numbers with TensorFlow.

You will learn the words that everything else is said in: a tensor with its shape and
dtype, eager execution, a graph and its nodes, a variable, a gradient, and the device
that did the work.

    python examples/example01_add_two_numbers.py            # 3 + 4
    python examples/example01_add_two_numbers.py 0.1 0.2    # any two numbers

Before this one: the installation (README). After it: example 02, which trains a first
network and watches it with TensorBoard. No files are written.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `examples` is ours
from examples.helpers import cli, device  # isort: skip  # before TensorFlow
import tensorflow as tf

A, B = 3.0, 4.0
FLOAT32 = cli.number(float, -3.4e38, 3.4e38)  # what such a number can be

# %% Tensors
# A tensor is an array of numbers that are all of one kind, its dtype. Its shape has
# one entry for each axis: `()` is a single number, (3,) a vector, (10000, 28, 28) ten
# thousand pictures of 28 rows and 28 columns. We use float32, as networks do: 4 bytes,
# 7 digits, up to $3.4 \cdot 10^{38}$. A Python number without a point would become
# int32, and nothing can be learned by gradients in whole numbers.


def describe(name: str, tensor: tf.Tensor) -> None:
    """Print a tensor's value, shape and dtype in one line."""
    dtype = tensor.dtype.name
    print(f"  {name} = {tensor.numpy()}, shape {tensor.shape}, dtype {dtype}")


# %% Graph
# Eager execution computes an operation when Python comes to its line, as in any
# program. tf.function runs the Python code once, with placeholders in place of the
# numbers, and keeps only the operations: a graph, whose nodes are joined by tensors.
# Later calls with tensors of the same shape and dtype run the graph, without Python:
# that is faster, and a graph can be saved.


@tf.function
def add(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Return a + b."""
    return a + b


def nodes(graph: tf.Graph) -> list[tuple[str, str, str]]:
    """Return the name, the operation and the inputs of each node of a graph."""
    return [
        (node.name, node.type, ", ".join(tensor.op.name for tensor in node.inputs))
        for node in graph.get_operations()
    ]


# %% Variable
# A tensor never changes: each operation makes a new one. A variable keeps its place and
# changes what is in it. The weights of a network are variables, since training changes
# them, a little in every step, and the graph that computes with them stays as it is.


def add_in_place(a: tf.Tensor, b: tf.Tensor) -> tf.Variable:
    """Return a variable that has begun as a, and to which b was added."""
    variable = tf.Variable(a)
    variable.assign_add(b)
    return variable


# %% Gradient
# The tape records operations on what it watches and goes through them backwards. If $a$
# grows by 1, $a + b$ grows by 1 and $ab$ by $b$: these are the partial derivatives,
# $\partial(ab) / \partial a = b$, which make up the gradient. Training a network asks
# how the loss grows with each of the weights.


def gradients(a: tf.Tensor, b: tf.Tensor) -> dict[str, list[float]]:
    """Return how a + b and a * b grow with a, and how with b."""
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([a, b])
        results = {"a + b": a + b, "a * b": a * b}
    return {
        name: [float(gradient) for gradient in tape.gradient(result, [a, b])]
        for name, result in results.items()
    }


# %% Run
# The same sum is computed in three ways, and must be the same: at once, as a graph, and
# in a variable. `add` is called twice but traced once. Its graph has four nodes, whose
# names the program prints: a placeholder for each input, the addition, and an identity
# that hands on the result. Last comes the device. Where there is a GPU, TensorFlow puts
# the work there without being asked.
#
# `main` is what every example has: it reads the flags, calls the functions above in
# their order, and returns what was found, so that a test can call it, too.


def main(argv: list[str] | None = None) -> dict:
    """Add two numbers in three ways, print what happens, and return what was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, value in (("a", A), ("b", B)):
        given = {"default": value, "help": "default %(default)s"}
        parser.add_argument(name, type=FLOAT32, nargs="?", **given)
    words = sys.argv[1:] if argv is None else argv
    if not {"-h", "--help"} & set(words):
        words = ["--", *words]  # -1e5 is a number, not a flag
    args = parser.parse_args(words)
    device.start("float32")

    print("1. Two tensors")
    a, b = tf.constant(args.a, tf.float32), tf.constant(args.b, tf.float32)
    describe("a", a)
    describe("b", b)
    print("2. Eager: computed at once")
    total = a + b  # Python's + calls tf.add
    describe("a + b", total)
    print("3. Graph: traced once, then run")
    from_graph = add(a, b)
    add(b, a)  # other numbers, the same shapes and dtypes: the same graph
    describe("add(a, b)", from_graph)
    found = nodes(add.get_concrete_function(a, b).graph)
    print(f"  {add.experimental_get_tracing_count()} graph for two calls; its nodes:")
    for name, operation, inputs in [("name", "operation", "inputs"), *found]:
        print(f"    {name:10}{operation:13}{inputs}".rstrip())
    print("4. Variable: it changes in place")
    variable = add_in_place(a, b)
    describe("a, after assign_add(b)", variable)
    print("5. Gradient: how the result changes with a and b")
    slopes = gradients(a, b)
    for name, (by_a, by_b) in slopes.items():
        print(f"  of {name}: {by_a} by a, {by_b} by b")
    print(f"6. Device\n  a + b was computed on {total.device}")
    sums = {"sum": float(total), "sum_from_graph": float(from_graph)}
    sums["sum_in_variable"] = float(variable)
    return sums | {"nodes": found, "gradients": slopes, "device": total.device}


# %% What to try next
# * `0.1 0.2`, and `16777216 1`: what is wrong with the sums? What does tf.float64
#   change?
# * Put `print("tracing")` into add(): when is it printed? And `tf.print("running")`?
# * Add `[1, 2, 3]` and `[10]`, then `[1, 2, 3]` and `[1, 2]`: which shapes go together
#   (broadcasting)?
# * `return 2 * a + b` in add(): which nodes come in, and what are the gradients?

if __name__ == "__main__":
    cli.run(main)
