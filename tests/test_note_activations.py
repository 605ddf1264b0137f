"""Note 2: activation functions: averages, deep networks before and after training, dead units."""

import notes
import numpy as np
import programs
import pytest
import tensorflow as tf

figures = programs.figures("activations")


@pytest.fixture(scope="module")
def digits():
    return figures.drawing.small_digits()


def test_averages_over_normally_distributed_sums():
    found = {f: figures.moments(f) for f in (tf.sigmoid, tf.tanh, tf.nn.selu)}
    assert found[tf.sigmoid]["largest_slope"] == pytest.approx(0.25, abs=1e-6)
    assert found[tf.tanh]["largest_slope"] == pytest.approx(1, abs=1e-6)
    assert found[tf.nn.selu]["mean"] == pytest.approx(0, abs=1e-3)  # what SELU was made for
    assert found[tf.nn.selu]["variance"] == pytest.approx(1, abs=1e-3)
    below, above = figures.derivative(tf.tanh, np.array([1.82, 1.81]))
    assert below < 0.1 < above


def test_condition_number():
    h = figures.sigmoid(np.random.default_rng(0).standard_normal((20_000, 64)))
    values = np.linalg.eigvalsh(h.T @ h / len(h))
    found = figures.moments(tf.sigmoid)
    expected = figures.condition(found["mean"], found["variance"])
    assert values[-1] / np.median(values) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("name", figures.FORMULAS)
def test_gradients_against_the_tape(name):
    kernels = figures.random_weights(1.5, layers=4, units=8)
    _, lengths = figures.forward_and_back(name, kernels)
    x, upstream = np.random.default_rng(1).standard_normal((2, figures.EXAMPLES, 8))
    additions = [tf.zeros([figures.EXAMPLES, 8], tf.float64) for _ in kernels]
    with tf.GradientTape() as tape:
        tape.watch(additions)
        h = tf.constant(x)
        for kernel, addition in zip(kernels, additions, strict=True):
            h = figures.FIRST[name](h @ kernel + addition)
        loss = tf.reduce_sum(h * upstream)
    expected = [np.sqrt(np.mean(g.numpy() ** 2)) for g in tape.gradient(loss, additions)]
    np.testing.assert_allclose(lengths, expected, rtol=1e-9)


def test_every_tanh_network_is_a_sigmoid_network():
    kernels = figures.random_weights(1.0, layers=5, units=16)
    a = b = np.random.default_rng(2).standard_normal((10, 16))
    for kernel, other, bias in zip(kernels, *figures.as_sigmoids(kernels), strict=True):
        a, b = np.tanh(a @ kernel), figures.sigmoid(b @ other + bias)
    np.testing.assert_allclose(2 * b - 1, a, atol=1e-12)
    sums = []  # the same, of the networks that are trained: in front of the last activation
    for change, function in ((lambda _: None, tf.tanh), (figures.shift_to_sigmoids, tf.sigmoid)):
        variables = figures.make_networks([16, 8, 8, 10], 1.0, count=2)
        change(variables)
        x = np.random.default_rng(2).standard_normal((10, 16), np.float32)
        sums.append(figures.logits_of(variables[:4], function, tf.constant(x)))
    np.testing.assert_allclose(sums[1], 2 * sums[0], atol=1e-5)


def test_depth():
    factors = {
        name: float(cells[0]) for name, *cells in notes.rows(notes.generated("activations_depth"))
    }
    assert factors["sigmoid, Glorot"] < 0.25
    assert factors["sigmoid, He"] < 0.25 * np.sqrt(2)
    assert factors["ReLU, Glorot"] == pytest.approx(np.sqrt(0.5), rel=0.02)
    assert factors["ReLU, He"] == pytest.approx(1, rel=0.02)
    assert 0.9 < factors["tanh, Glorot"] < 1 < factors["tanh, He"]
    assert factors[figures.AS_TANH] == factors["tanh, Glorot"]
    larger, _ = figures.as_sigmoids(figures.random_weights(1.0))  # but without the biases
    assert figures.factor(figures.forward_and_back("sigmoid", larger)[1]) < 0.7
    kernels = figures.random_weights(1.0)
    spreads = {name: figures.forward_and_back(name, kernels)[0][-1] for name in figures.FORMULAS}
    assert spreads["sigmoid"] < 1e-14 < 1e-6 < spreads["ReLU"] < 0.05 < spreads["tanh"]


def test_what_the_page_says_about_training():
    table = notes.rows(notes.generated("activations_training"))
    shallow, deep = ({row[0]: float(row[i].split()[0]) for row in table} for i in (1, 3))
    assert len(table) == 5 and min(shallow.values()) > 95
    assert deep["sigmoid, Glorot"] < 15
    assert deep["ReLU, Glorot"] < 70 < 90 < deep["ReLU, He"]
    assert deep["tanh, Glorot"] > 90 and deep[figures.AS_TANH] > 90


def test_dead_units(monkeypatch, digits):
    monkeypatch.setattr(figures, "DEAD_RATES", np.array([0.125, 0.5, 1]))
    dead, right = figures.measure_dead(digits, "ReLU")  # (2, seeds, 3, units), (seeds, 3)
    before, after = dead.mean(axis=(1, 3))
    assert after[0] == pytest.approx(before[0], abs=0.005)
    assert after[1] == pytest.approx(1 / 7, abs=0.03)
    assert after[2] > 0.95
    small, larger, too_large = right.mean(axis=0)
    assert larger > max(small - 0.01, 0.95) > 0.3 > too_large
    assert np.all(dead[1] >= dead[0])  # in the first layer, the dead do not rise
    monkeypatch.setattr(figures, "SEEDS", 1)
    _, leaky = figures.measure_dead(digits, "leaky ReLU, slope 0.1")
    assert leaky[0, 0] > 0.95 and not leaky[0, 2] >= 0.3  # the rate is too high for any network
