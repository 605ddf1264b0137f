"""Note 3: softmax and cross-entropy: losses and their gradients, overflow, smoothing, training."""

import notes
import numpy as np
import programs
import pytest
import tensorflow as tf

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
