"""Note 3: softmax and cross-entropy: losses and their gradients, overflow, smoothing, training."""

import notes
import numpy as np
import programs
import pytest
import tensorflow as tf

from examples import example03_mnist_mlp as example03
from examples import example05_mnist_cnn_nn as example05

figures = programs.figures("crossentropy")


@pytest.fixture(scope="module")
def digits():
    return figures.load_digits()


@pytest.fixture(scope="module")
def some():
    """Random logits, their softmax and one-hot targets, float64 (20, 10)."""
    rng = np.random.default_rng(0)
    logits = 3 * rng.standard_normal((20, 10))
    return logits, tf.nn.softmax(logits).numpy(), np.eye(10)[rng.integers(0, 10, 20)]


def test_losses_and_gradients(some):
    logits, p, y = some
    of_logits = figures.squared_error_of_logits
    for loss, value, gradient in (
        (figures.cross_entropy, -np.sum(y * np.log(p), axis=1), p - y),
        (
            figures.squared_error,
            np.sum((p - y) ** 2, axis=1),
            2 * p * (p - y - np.sum(p * (p - y), axis=1, keepdims=True)),
        ),
        (of_logits, np.sum((logits - y) ** 2, axis=1), 2 * (logits - y)),
    ):
        np.testing.assert_allclose(loss(logits, y), value)
        np.testing.assert_allclose(figures.gradient(loss, logits, y), gradient, atol=1e-12)


def test_losses_of_examples(some):
    network = example03.Network((16,), tf.float32, seed=0)  # its output layer starts at zero
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1), np.uint8)
    assert float(example03.mean_loss(network(images), tf.range(5))) == pytest.approx(np.log(10))
    logits, labels = np.float32(some[0][:8]), np.arange(8)
    targets = figures.smooth(np.eye(10, dtype=np.float32)[labels], example05.LABEL_SMOOTHING)
    expected = np.mean(figures.cross_entropy(logits, targets))
    assert float(example05.mean_loss(logits, labels)) == pytest.approx(expected, rel=1e-5)


def test_both_losses_are_smallest_for_the_true_probabilities(some):
    logits, p, _ = some
    for loss in (figures.cross_entropy, figures.squared_error):

        def expected(z, loss=loss):
            losses = loss(np.repeat(z[None], 10, axis=0), np.eye(10))  # for each possible label
            return float(np.sum(p[0] * losses.numpy()))

        others = [*logits[1:], *(logits[0] + 0.1 * np.eye(10))]
        assert expected(logits[0]) < min(map(expected, others))


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


@pytest.mark.parametrize("smoothing", [0.1, 0.2])
def test_smoothing(smoothing):
    gap = figures.best_gap(smoothing)
    gaps = np.linspace(gap - 3, gap + 3, 601)
    losses = figures.losses_over_gap(gaps, smoothing)
    assert gaps[losses.argmin()] == pytest.approx(gap)
    target = figures.smooth(np.eye(10)[0], smoothing)
    assert losses.min() == pytest.approx(-np.sum(target * np.log(target)))


def test_gradients_when_sure_of_the_wrong(digits):
    logits, targets = figures.two_classes(np.array([-15.0, -10, -5]))
    cross = np.abs(figures.gradient(figures.cross_entropy, logits, targets)[:, 0])
    squared = np.abs(figures.gradient(figures.squared_error, logits, targets)[:, 0])
    assert np.all(cross > 0.99)
    np.testing.assert_allclose(squared[1:] / squared[:-1], np.exp(5), rtol=0.05)  # exponentially
    images, targets, *_ = digits
    kernel, bias = figures.wrong_start(digits)
    p = tf.nn.softmax(images @ kernel + bias).numpy()
    assert np.mean(p.argmax(axis=1) == (targets.argmax(axis=1) + 1) % 10) > 0.98
    assert np.median(np.sum(p * targets, axis=1)) < 1e-4


def test_what_the_page_says_about_training():
    image = 100 / 254  # a validation image, in percent; the page counts in images
    table = notes.rows(notes.generated("crossentropy_training"))
    right = {(start, loss): float(cell.split()[0]) for start, loss, cell, _ in table}
    cross, squared, of_logits = figures.LOSSES
    regression, hidden = "softmax regression", "hidden layer of 64"
    for start in (regression, hidden):
        assert right[start, squared] > right[start, cross] - 2.04 * image
    assert 2.9 < (right[hidden, of_logits] - right[hidden, squared]) / image < 4.1
    for loss in (cross, squared):
        assert 0.9 < (right[regression, loss] - right[regression, of_logits]) / image < 2.1
    wrong = "softmax regression, sure of the wrong"
    assert right[wrong, cross] > right[regression, cross] - 2.04 * image
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
