"""Checks what note 2 says: its formulas against TensorFlow, its listing, and its measurements."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import programs  # noqa: E402

from examples import example05_mnist_cnn_nn as example05  # noqa: E402
from examples.common import tf  # noqa: E402

figures = programs.figures("activations")
GENERATED = ROOT / "docs" / "notes" / "_generated"


def tensor_gradient(function, *inputs):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = function(*inputs)
    return tape.gradient(y, inputs)


# --- Formulas -------------------------------------------------------------------------------------


def test_formulas():
    from scipy.stats import norm

    x = np.linspace(-6, 6, 1000)  # without 0
    s = 1 / (1 + np.exp(-x))
    up, density = norm.cdf(x), norm.pdf(x)
    formulas = {  # the rows of the page's first table
        tf.sigmoid: (s, s * (1 - s)),
        tf.tanh: (2 / (1 + np.exp(-2 * x)) - 1, 1 - np.tanh(x) ** 2),
        tf.nn.relu: (np.maximum(0, x), x > 0),
        tf.nn.leaky_relu: (np.where(x > 0, x, 0.2 * x), np.where(x > 0, 1, 0.2)),
        tf.nn.elu: (np.where(x > 0, x, np.exp(x) - 1), np.where(x > 0, 1, np.exp(x))),
        tf.nn.gelu: (x * up, up + x * density),
        tf.nn.silu: (x * s, s * (1 + x * (1 - s))),
    }
    for function, (y, slope) in formulas.items():
        np.testing.assert_allclose(function(x), y, atol=1e-7)
        np.testing.assert_allclose(figures.derivative(function, x), slope, atol=1e-7)


def test_largest_slopes():
    assert figures.moments(tf.sigmoid)["largest_slope"] == pytest.approx(0.25, abs=1e-6)
    assert figures.moments(tf.tanh)["largest_slope"] == pytest.approx(1, abs=1e-6)
    assert figures.derivative(tf.tanh, np.array([1.82])) < 0.1
    assert figures.derivative(tf.tanh, np.array([1.81])) > 0.1


def test_selu_reproduces_mean_and_variance():
    found = figures.moments(tf.nn.selu)
    assert found["mean"] == pytest.approx(0, abs=1e-3)
    assert found["variance"] == pytest.approx(1, abs=1e-3)


def test_condition_number():
    rng = np.random.default_rng(0)
    h = 1 / (1 + np.exp(-rng.standard_normal((200_000, 64))))
    values = np.linalg.eigvalsh(h.T @ h / len(h))
    found = figures.moments(tf.sigmoid)
    expected = figures.condition(found["mean"], found["variance"])
    assert values[-1] / np.median(values) == pytest.approx(expected, rel=0.02)


def test_positive_inputs_give_a_units_weights_gradients_of_one_sign():
    x = tf.random.stateless_uniform([1, 20], [0, 0])  # one example
    kernel = tf.Variable(tf.random.stateless_normal([20, 5], [0, 1]))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.tanh(x @ kernel) * [1.0, -2, 3, -4, 5])
    signs = np.sign(tape.gradient(loss, kernel))
    assert np.all(signs == signs[:1])


# --- Depth ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", figures.FORMULAS)
def test_gradients_against_the_tape(name):
    kernels = figures.random_weights(1.5, layers=4, units=8)
    _, lengths = figures.forward_and_back(name, kernels)
    x, upstream = np.random.default_rng(1).standard_normal((2, figures.EXAMPLES, 8))
    additions = [tf.zeros([figures.EXAMPLES, 8], tf.float64) for _ in kernels]

    def network(*additions):
        h = tf.constant(x)
        for kernel, addition in zip(kernels, additions, strict=True):
            h = figures.FIRST[name](h @ kernel + addition)
        return tf.reduce_sum(h * upstream)

    gradients = tensor_gradient(network, *additions)
    expected = [np.sqrt(np.mean(gradient.numpy() ** 2)) for gradient in gradients]
    np.testing.assert_allclose(lengths, expected, rtol=1e-9)


def test_every_tanh_network_is_a_sigmoid_network():
    kernels = figures.random_weights(1.0, layers=5, units=16)
    others, biases = figures.as_sigmoids(kernels)
    a = b = np.random.default_rng(2).standard_normal((10, 16))
    for kernel, other, bias in zip(kernels, others, biases, strict=True):
        a, b = np.tanh(a @ kernel), figures.sigmoid(b @ other + bias)
    np.testing.assert_allclose(2 * b - 1, a, atol=1e-12)


@pytest.fixture(scope="module")
def depth():
    return figures.measure_depth()


def test_depth(depth):
    factors = {name: figures.factor(lengths) for name, (_, lengths) in depth.items()}
    assert factors["sigmoid, Glorot"] < 0.25
    assert factors["sigmoid, He"] < 0.25 * np.sqrt(2)
    assert factors["ReLU, Glorot"] == pytest.approx(np.sqrt(0.5), rel=0.02)
    assert factors["ReLU, He"] == pytest.approx(1, rel=0.02)
    assert 0.9 < factors["tanh, Glorot"] < 1 < factors["tanh, He"]
    assert factors[figures.AS_TANH] == pytest.approx(factors["tanh, Glorot"], rel=1e-6)
    spreads = {name: spreads[-1] for name, (spreads, _) in depth.items()}
    assert spreads["sigmoid, Glorot"] < 1e-14 < 1e-6 < spreads["ReLU, Glorot"]
    assert min(spreads["tanh, Glorot"], spreads["ReLU, He"], spreads[figures.AS_TANH]) > 0.05


def test_larger_weights_alone_do_not_mend_the_sigmoid():
    others, _ = figures.as_sigmoids(figures.random_weights(1.0))
    _, lengths = figures.forward_and_back("sigmoid", others)
    assert figures.factor(lengths) < 0.7


def test_tables(depth):
    for name, table in (
        ("activations_depth", figures.depth_table(depth)),
        ("activations_moments", figures.moments_table()),
    ):
        assert table in (GENERATED / f"{name}.md").read_text()


# --- Training -------------------------------------------------------------------------------------


def test_table_of_training_says_what_the_page_says():
    text = (GENERATED / "activations_training.md").read_text()
    rows = {row.split("|")[1].strip(): row for row in text.splitlines() if " to " in row}
    shallow, deep = ({}, {})
    for name, row in rows.items():
        shallow[name], deep[name] = map(float, re.findall(r"([\d.]+) \(", row))
    assert len(rows) == 5 and min(shallow.values()) > 95
    assert deep["sigmoid, Glorot"] < 15
    assert deep["ReLU, Glorot"] < 70 < 90 < deep["ReLU, He"]
    assert deep["tanh, Glorot"] > 90 and deep[figures.AS_TANH] > 90


def test_deep_sigmoids_learn_only_from_the_start_of_tanh(monkeypatch):
    digits = figures.drawing.small_digits()
    monkeypatch.setattr(figures, "RATES", np.array([0.25, 1]))
    monkeypatch.setattr(figures, "SEEDS", 1)
    monkeypatch.setattr(figures, "TRAINED", [("sigmoid", "Glorot")])
    results = figures.trained_accuracies(figures.DEEP, digits, epochs=10)
    assert results["sigmoid, Glorot"].max() < 0.2
    assert results[figures.AS_TANH].max() > 0.85


def test_dead_units(monkeypatch):
    digits = figures.drawing.small_digits()
    monkeypatch.setattr(figures, "DEAD_RATES", np.array([0.125, 0.5, 1]))
    dead, right = figures.measure_dead(digits, "ReLU")
    before, after = dead.mean(axis=(1, 3))
    assert after[0] == pytest.approx(before[0], abs=0.005)
    assert after[1] == pytest.approx(1 / 7, abs=0.03)
    assert after[2] > 0.95
    right = right.mean(axis=0)
    assert right[1] > right[0] - 0.01 and right[1] > 0.95
    assert right[2] < 0.3
    assert np.all(dead[1] >= dead[0])  # in the first layer, the dead do not rise
    _, leaky = figures.measure_dead(digits, "leaky ReLU, slope 0.1")
    assert np.all(leaky[:, 0] > 0.95)
    assert np.all(np.isnan(leaky[:, 2]) | (leaky[:, 2] < 0.3))


# --- At zero --------------------------------------------------------------------------------------


def test_listing(capsys):
    text = (ROOT / "docs" / "notes" / "02_activation_functions.md").read_text()
    (listing,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(listing, {})
    expected = re.findall(r"# (\[.*?\])", listing)
    assert capsys.readouterr().out.splitlines() == expected


def test_sums_of_exactly_zero_occur():
    network = example05.Network(tf.float32, seed=0)
    paper = tf.zeros([1, 28, 28, 1])
    assert not np.any(tf.nn.conv2d(paper, network.kernels[0], 2, "VALID") + network.biases[0])
