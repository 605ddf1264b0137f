"""Note 1: the perceptron's rule, networks that were built, and what a unit sees."""

import itertools

import numpy as np
import programs
import pytest
import tensorflow as tf

figures = programs.figures("features")


def test_the_rule_comes_to_rest_but_for_two_of_sixteen_functions():
    inputs = np.column_stack([figures.CORNERS, np.ones(4)])
    never = set()
    for targets in itertools.product([0, 1], repeat=4):
        weights, mistakes = figures.perceptron_rule(np.array(targets), 100)
        answers = (inputs @ weights > 0).astype(int)
        if min(mistakes):
            never.add(targets)
        else:
            assert set(mistakes[mistakes.index(0) :]) == {0}
            assert tuple(answers) == targets
    assert never == {(0, 1, 1, 0), (1, 0, 0, 1)}  # XOR and its opposite


X = np.linspace(0, 1, 2001)


def largest_error(network):
    return np.abs(network(X) - figures.wave(X)).max()


def test_a_built_network_meets_the_wave_at_its_bends_and_nowhere_beyond_them():
    places = np.linspace(0, 1, 17)
    assert np.allclose(figures.built(16)(places), figures.wave(places))
    outside = np.array([-0.3, 1.5])
    assert np.all(np.abs(figures.built(64)(outside) - figures.wave(outside)) > 0.5)


def test_twice_the_units_make_a_quarter_of_the_error():
    errors = [largest_error(figures.built(units)) for units in (16, 32, 64, 128, 256)]
    for error, next_one in itertools.pairwise(errors):
        assert error / next_one == pytest.approx(4, rel=0.05)
    assert largest_error(figures.built(4)) / largest_error(figures.built(8)) < 3.5  # not yet


@pytest.mark.slow  # ten seconds of training, as in the picture
def test_the_built_network_beats_the_trained_one():
    assert largest_error(figures.trained(64)) > 3 * largest_error(figures.built(64))


def test_what_a_unit_sees():
    """A unit of each convolution depends on so many pixels in a row as the picture says."""
    layers, convolutions = [tf.keras.Input([28, 28, 1])], []
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
        assert (rows[0], len(rows)) == (2**number, field)


def test_first_kernels_without_mean_ignore_an_even_surface():
    kernel = tf.constant(np.random.default_rng(0).normal(size=(3, 3, 1, 8)), tf.float32)
    kept = figures.WithoutMean()(kernel)
    answers = tf.nn.conv2d(tf.fill([1, 5, 5, 1], 0.8), kept, strides=1, padding="VALID")
    assert np.allclose(answers, 0, atol=1e-6)
    assert np.allclose(kernel - kept, tf.reduce_mean(kernel, axis=[0, 1, 2]))
