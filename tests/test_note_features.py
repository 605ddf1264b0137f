"""Checks what note 1 says: the perceptron's rule, two layers, and networks that were built."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import programs  # noqa: E402

from examples.common import tf  # noqa: E402

figures = programs.figures("features")
AND, OR, XOR = np.array([0, 0, 0, 1]), np.array([0, 1, 1, 1]), np.array([0, 1, 1, 0])
INPUTS = np.column_stack([figures.CORNERS, np.ones(4)])


# --- A perceptron ---------------------------------------------------------------------------------


def test_the_rule_comes_to_rest_for_and():
    weights, mistakes = figures.perceptron_rule(AND, 12)
    assert mistakes[0] > 0
    assert mistakes[-6:] == [0] * 6
    assert (INPUTS @ weights > 0).astype(int).tolist() == AND.tolist()


def test_the_rule_never_comes_to_rest_for_xor():
    _, mistakes = figures.perceptron_rule(XOR, 1000)
    assert min(mistakes) > 0


def test_two_of_sixteen_functions_cannot_be_learned():
    never = [
        targets
        for targets in itertools.product([0, 1], repeat=4)
        if figures.perceptron_rule(np.array(targets), 100)[1][-1]
    ]
    assert sorted(never) == [(0, 1, 1, 0), (1, 0, 0, 1)]  # XOR and its opposite


def test_the_rule_makes_few_mistakes_when_there_is_a_margin():
    """Novikoff 1962: from weights of 0, at most (R / margin)^2 mistakes."""
    weights = np.zeros(3)
    best, mistakes = np.array([2, 2, -3]) / np.sqrt(17), 0  # separates AND
    signs = 2 * AND - 1
    margin, radius = (signs * (INPUTS @ best)).min(), np.linalg.norm(INPUTS, axis=1).max()
    assert margin > 0
    for _ in range(100):
        for x, target in zip(INPUTS, AND, strict=True):
            output = float(weights @ x > 0)
            weights += (target - output) * x
            mistakes += output != target
    assert 0 < mistakes <= (radius / margin) ** 2


def test_distance_from_the_hyperplane():
    rng = np.random.default_rng(0)
    w, b, x = rng.normal(size=3), 0.7, rng.normal(size=3)
    distance = (w @ x + b) / np.linalg.norm(w)
    foot = x - distance * w / np.linalg.norm(w)
    assert w @ foot + b == pytest.approx(0, abs=1e-12)
    assert np.linalg.norm(x - foot) == pytest.approx(abs(distance))


# --- Two layers -----------------------------------------------------------------------------------


def test_xor_through_the_hidden_layer():
    """With the weights in the text."""
    x1, x2 = figures.CORNERS.T
    h1, h2 = x1 + x2 - 0.5 > 0, x1 + x2 - 1.5 > 0
    assert h1.astype(int).tolist() == OR.tolist()
    assert h2.astype(int).tolist() == AND.tolist()
    assert (h1 - h2.astype(float) - 0.5 > 0).astype(int).tolist() == XOR.tolist()


def test_layers_without_activation_function_are_one():
    rng = np.random.default_rng(0)
    w1, b1, w2, b2 = (rng.normal(size=size) for size in ((5, 4), 5, (3, 5), 3))
    x = rng.normal(size=4)
    assert np.allclose(w2 @ (w1 @ x + b1) + b2, (w2 @ w1) @ x + (w2 @ b1 + b2))


# --- Universal approximation ----------------------------------------------------------------------

X = np.linspace(0, 1, 2001)


def largest_error(network):
    return np.abs(network(X) - figures.wave(X)).max()


def test_a_built_network_meets_the_wave_at_its_bends():
    places = np.linspace(0, 1, 17)
    assert np.allclose(figures.built(16)(places), figures.wave(places))


def test_twice_the_units_make_a_quarter_of_the_error():
    errors = [largest_error(figures.built(units)) for units in (16, 32, 64, 128, 256)]
    for error, next_one in itertools.pairwise(errors):
        assert error / next_one == pytest.approx(4, rel=0.05)
    assert largest_error(figures.built(4)) / largest_error(figures.built(8)) < 3.5  # not yet


def test_beyond_the_interval_a_built_network_is_wrong():
    outside = np.array([-0.3, 1.5])
    assert np.all(np.abs(figures.built(64)(outside) - figures.wave(outside)) > 0.5)


@pytest.mark.slow
def test_the_built_network_beats_the_trained_one():
    """Ten seconds of training, as in the picture."""
    assert largest_error(figures.trained(64)) > 3 * largest_error(figures.built(64))


# --- The hierarchy --------------------------------------------------------------------------------


def test_what_a_unit_sees():
    """A unit of each convolution depends on so many pixels in a row as the picture says."""
    layers = [tf.keras.Input([28, 28, 1])]
    convolutions = []
    for channels in figures.CHANNELS:
        convolutions.append(tf.keras.layers.Conv2D(channels, 3, kernel_initializer="ones"))
        layers += [convolutions[-1], tf.keras.layers.AveragePooling2D(2)]  # all inputs count
    network = tf.keras.Sequential(layers)
    for number, (layer, field) in enumerate(zip(convolutions, figures.FIELDS, strict=True)):
        part = tf.keras.Model(network.inputs, layer.output)
        image = tf.Variable(tf.ones([1, 28, 28, 1]))
        with tf.GradientTape() as tape:
            unit = part(image)[0, 1, 1, 0]
        rows = np.flatnonzero(np.abs(tape.gradient(unit, image)[0, :, :, 0]).sum(axis=1))
        stride = 2**number
        assert (rows[0], len(rows)) == (stride, field)


def test_first_kernels_without_mean_ignore_an_even_surface():
    kernel = tf.constant(np.random.default_rng(0).normal(size=(3, 3, 1, 8)), tf.float32)
    kept = figures.WithoutMean()(kernel)
    answers = tf.nn.conv2d(tf.fill([1, 5, 5, 1], 0.8), kept, strides=1, padding="VALID")
    assert np.allclose(answers, 0, atol=1e-6)
    assert np.allclose(kernel - kept, tf.reduce_mean(kernel, axis=[0, 1, 2]))
