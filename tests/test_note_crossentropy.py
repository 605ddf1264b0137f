"""Checks what note 3 says: its formulas against TensorFlow, its listing, and its measurements."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import programs  # noqa: E402

from examples import example03_mnist_mlp as example03  # noqa: E402
from examples import example05_mnist_cnn_nn as example05  # noqa: E402
from examples.common import tf  # noqa: E402

figures = programs.figures("crossentropy")
GENERATED = ROOT / "docs" / "notes" / "_generated"


@pytest.fixture(scope="module")
def digits():
    return figures.load_digits()


@pytest.fixture(scope="module")
def some():
    """Random logits, their softmax and one-hot targets, float64 (20, 10)."""
    rng = np.random.default_rng(0)
    logits = 3 * rng.standard_normal((20, 10))
    return logits, tf.nn.softmax(logits).numpy(), np.eye(10)[rng.integers(0, 10, 20)]


# --- Formulas -------------------------------------------------------------------------------------


def test_softmax(some):
    logits, p, _ = some
    powers = np.exp(logits)
    np.testing.assert_allclose(p, powers / powers.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(tf.nn.softmax(logits + 7), p)
    np.testing.assert_allclose(logits[:, 0] - logits[:, 1], np.log(p[:, 0] / p[:, 1]))
    sigmoid = tf.sigmoid(logits[:, 1] - logits[:, 0])
    np.testing.assert_allclose(tf.nn.softmax(logits[:, :2])[:, 1], sigmoid)


def test_gradients(some):
    logits, p, y = some
    found = figures.gradient(figures.cross_entropy, logits, y)
    np.testing.assert_allclose(found, p - y, atol=1e-12)
    found = figures.gradient(figures.squared_error, logits, y)
    expected = 2 * p * (p - y - np.sum(p * (p - y), axis=1, keepdims=True))
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_binary_cross_entropy():
    z, t = np.linspace(-30, 30, 50), np.arange(50) % 2.0
    found = tf.nn.sigmoid_cross_entropy_with_logits(labels=t, logits=z)
    s = tf.sigmoid(z).numpy()
    # 1 - sigmoid(z) is sigmoid(-z), without rounding
    direct = np.where(t == 1, -np.log(s), -np.log(tf.sigmoid(-z).numpy()))
    np.testing.assert_allclose(found, direct, atol=1e-12)
    stable = np.maximum(z, 0) - z * t + np.log1p(np.exp(-np.abs(z)))
    np.testing.assert_allclose(found, stable, atol=1e-12)
    z = tf.constant(z)
    with tf.GradientTape() as tape:
        tape.watch(z)
        loss = tf.nn.sigmoid_cross_entropy_with_logits(labels=t, logits=z)
    np.testing.assert_allclose(tape.gradient(loss, z), s - t, atol=1e-12)


def test_no_opinion_costs_ln_10():
    network = example03.Network((16,), tf.float32, seed=0)  # its output layer starts at zero
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1), np.uint8)
    loss = example03.mean_loss(network(images), tf.range(5))
    assert float(loss) == pytest.approx(np.log(10))


def test_mean_of_logits_is_the_geometric_mean_of_probabilities(some):
    logits, p, _ = some
    mean = np.exp(np.log(p).mean(axis=0))
    np.testing.assert_allclose(tf.nn.softmax(logits.mean(axis=0)), mean / mean.sum())


def test_both_losses_are_smallest_for_the_true_probabilities(some):
    logits, p, _ = some
    truth = logits[:1]
    for loss in (figures.cross_entropy, figures.squared_error):

        def expected(z, loss=loss):
            losses = loss(np.repeat(z[None], 10, axis=0), np.eye(10))  # for each possible label
            return float(np.sum(p[0] * losses.numpy()))

        assert all(expected(truth[0]) < expected(other) for other in logits[1:])
        assert all(
            expected(truth[0]) < expected(truth[0] + 0.1 * direction) for direction in np.eye(10)
        )


def test_accuracy_and_loss_part():
    losses = [-np.mean(np.log(p)) for p in ([0.6, 0.6, 0.4], [0.99, 0.99, 0.01])]
    assert [f"{loss:.2f}" for loss in losses] == ["0.65", "1.54"]


def test_listing(capsys):
    text = (ROOT / "docs" / "notes" / "03_softmax_and_cross_entropy.md").read_text()
    (listing,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(listing, {})
    expected = re.findall(r"# (\[.*?\])$", listing, re.MULTILINE)
    assert len(expected) == 3
    assert capsys.readouterr().out.splitlines() == expected


# --- Overflow -------------------------------------------------------------------------------------


def test_what_float32_can_hold():
    with np.errstate(over="ignore", under="ignore"):
        assert np.isinf(np.exp(np.float32(89))) and np.isfinite(np.exp(np.float32(88)))
        assert np.exp(np.float32(-104)) == 0 < np.exp(np.float32(-103))
    assert tf.exp(-90.0) == 0 < tf.exp(-87.0)


def test_overflow():
    y = np.float32([[1, 0]])
    for gap in figures.GAPS:
        logits = np.float32([[0, gap]])
        values = {n: float(way(logits, y)[0]) for n, way in figures.WAYS.items()}
        slopes = {n: figures.gradient(w, logits, y)[0, 0] for n, w in figures.WAYS.items()}
        assert values["from logits"] == pytest.approx(np.logaddexp(0, gap))
        assert slopes["from logits"] == pytest.approx(-1, abs=0.01)
        assert values["Keras, probabilities"] < 16.2
        if gap >= 20:
            assert slopes["Keras, probabilities"] == 0
        if gap >= 100:
            for name in ("exp, sum, log", "`tf.nn.softmax`, log"):
                assert values[name] == np.inf and np.isnan(slopes[name])


def test_keras_finds_the_logits_in_a_graph():
    layers = [tf.keras.Input([2]), tf.keras.layers.Activation("softmax")]
    model = tf.keras.Sequential(layers)
    model.compile(loss="categorical_crossentropy")
    loss = model.evaluate(np.float32([[0, 100]]), np.float32([[1, 0]]), verbose=0)
    assert loss == pytest.approx(100)


# --- Mean or sum ----------------------------------------------------------------------------------


def test_mean_and_sum(some):
    logits, _, y = map(tf.constant, some)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(logits)
        losses = figures.cross_entropy(logits, y)
        mean, total = tf.reduce_mean(losses), tf.reduce_sum(losses)
    np.testing.assert_allclose(tape.gradient(total, logits), 20 * tape.gradient(mean, logits))
    keras = tf.keras.losses.MeanSquaredError()(y, tf.nn.softmax(logits))
    ours = tf.reduce_mean(figures.squared_error(logits, y))
    assert float(keras) == pytest.approx(float(ours) / 10)


# --- Label smoothing ------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.1, 0.2])
def test_smoothing(smoothing):
    gap = figures.best_gap(smoothing)
    gaps = np.linspace(gap - 3, gap + 3, 601)
    losses = figures.losses_over_gap(gaps, smoothing)
    assert gaps[losses.argmin()] == pytest.approx(gap)
    target = figures.smooth(np.eye(10)[0], smoothing)
    assert losses.min() == pytest.approx(-np.sum(target * np.log(target)))


def test_smoothing_is_that_of_example_05():
    logits, labels = tf.random.stateless_normal([8, 10], [0, 0]), np.arange(8)
    targets = figures.smooth(np.eye(10, dtype=np.float32)[labels], example05.LABEL_SMOOTHING)
    expected = tf.reduce_mean(figures.cross_entropy(logits, targets))
    assert float(example05.mean_loss(logits, labels)) == pytest.approx(float(expected))


def test_recorded_run_of_example_05():
    metrics = json.loads((ROOT / "docs" / "results" / "example05_default.json").read_text())
    text = (ROOT / "docs" / "notes" / "03_softmax_and_cross_entropy.md").read_text()
    (stated,) = re.findall(r"training\s+loss\s+of\s+(0\.\d+)", text)
    assert f"{metrics['history']['loss'][-1]:.3f}" == stated


def test_tables():
    for name, table in (
        ("crossentropy_overflow", figures.overflow_table()),
        ("crossentropy_smoothing", figures.smoothing_table()),
    ):
        assert table in (GENERATED / f"{name}.md").read_text()


# --- Squared error --------------------------------------------------------------------------------


def test_gradients_when_sure_of_the_wrong():
    logits, targets = figures.two_classes(np.array([-15.0, -10, -5]))
    cross = np.abs(figures.gradient(figures.cross_entropy, logits, targets)[:, 0])
    squared = np.abs(figures.gradient(figures.squared_error, logits, targets)[:, 0])
    assert np.all(cross > 0.99)
    np.testing.assert_allclose(squared[1:] / squared[:-1], np.exp(5), rtol=0.05)  # exponentially
    assert np.all(figures.squared_error(logits, targets) < 2)


def test_table_of_training_says_what_the_page_says():
    text = (GENERATED / "crossentropy_training.md").read_text()
    right = {}
    for row in text.splitlines():
        if "(" in row:
            _, start, loss, cell, *_ = (part.strip() for part in row.split("|"))
            right[start, loss] = float(cell.split()[0])
    cross, squared, of_logits = figures.LOSSES
    for start in ("softmax regression", "hidden layer of 64"):
        assert right[start, squared] > right[start, cross] - 0.8  # two images
    best = right["hidden layer of 64", of_logits]
    assert 3 / 2.56 <= best - right["hidden layer of 64", squared] <= 4 / 2.56
    others = [right["softmax regression", loss] for loss in (cross, squared)]
    worst = right["softmax regression", of_logits]
    assert 1 / 2.56 <= min(others) - worst <= max(others) - worst <= 2 / 2.56
    wrong = "softmax regression, sure of the wrong"
    assert right[wrong, cross] > right["softmax regression", cross] - 0.8
    assert right[wrong, squared] < 70 < right[wrong, of_logits] < right[wrong, cross] - 5


def test_training(monkeypatch, digits):
    monkeypatch.setattr(figures, "RATES", 2.0 ** np.array([-10, -5, 1, 4]))
    monkeypatch.setattr(figures, "ORDERS", 1)
    images, targets, *validation = digits

    def trained(name, start):
        variables = figures.train(figures.LOSSES[name], start, images, targets, figures.RATES)
        return figures.accuracies(variables, *validation)[0]

    cross, squared, _ = figures.LOSSES
    assert trained(cross, figures.make_start(0)).min() > 0.9  # at nearly every rate
    by_squared = trained(squared, figures.make_start(0))
    assert by_squared[1] > 0.95 and by_squared[[0, 2, 3]].max() < 0.9
    start = figures.wrong_start(digits)
    assert trained(cross, start).max() > 0.95
    assert trained(squared, start).max() < 0.75


def test_start_is_sure_of_the_wrong(digits):
    images, targets, *_ = digits
    kernel, bias = figures.wrong_start(digits)
    p = tf.nn.softmax(images @ kernel + bias).numpy()
    assert np.mean(p.argmax(axis=1) == (targets.argmax(axis=1) + 1) % 10) > 0.98
    assert np.median(np.sum(p * targets, axis=1)) < 1e-4
