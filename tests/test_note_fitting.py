"""Note 5: over- and underfitting; what helps, against TensorFlow, theory and what was measured."""

import re

import notes
import numpy as np
import programs
import pytest
import tensorflow as tf

from datasets import mnist

fitting = programs.figures("fitting")
DOWNLOADS = programs.ROOT / "datasets" / "downloads"
PRESENT = len(list((DOWNLOADS / "mnist").glob("*-ubyte*"))) >= 4


@pytest.mark.parametrize("count", [4, 6, 11, 30])
def test_the_expected_errors_are_means_over_draws(count):
    rng = np.random.default_rng(0)
    y = fitting.wave(fitting.PLACES) + fitting.NOISE * rng.normal(size=(20_000, 12))
    at_points = y @ fitting.smoother(fitting.PLACES, count).T
    fine = fitting.FINE[::4]
    between, truth = y @ fitting.smoother(fine, count).T, fitting.wave(fine)
    expected = fitting.expected_errors(count)
    assert np.mean((between.mean(0) - truth) ** 2) == pytest.approx(expected["bias"], abs=3e-3)
    assert between.var(axis=0).mean() == pytest.approx(expected["variance"], rel=0.05)
    test = np.mean((between - truth) ** 2) + fitting.NOISE**2
    assert test == pytest.approx(expected["test"], rel=0.05)
    training = np.mean((at_points - y) ** 2)
    assert training == pytest.approx(expected["training"], rel=0.03, abs=1e-9)


def test_a_fit_with_few_coefficients_is_least_squares():
    y = fitting.wave(fitting.PLACES) ** 3
    by_numpy = np.polynomial.Polynomial.fit(fitting.PLACES, y, 5)(fitting.FINE)
    np.testing.assert_allclose(fitting.smoother(fitting.FINE, 6) @ y, by_numpy, atol=1e-9)


def test_bias_falls_variance_rises_and_then_comes_double_descent():
    errors = {count: fitting.expected_errors(count) for count in fitting.COUNTS}
    variances = [errors[count]["variance"] for count in range(1, 13)]
    assert variances == sorted(variances)
    assert errors[1]["bias"] > errors[4]["bias"] > errors[6]["bias"]
    test = {count: error["test"] for count, error in errors.items()}
    assert (min(test, key=test.get), max(test, key=test.get)) == (6, 12)  # 6: degree 5
    assert test[6] < test[200] < test[12] / 10  # it falls again, here not below the minimum
    assert errors[12]["training"] == pytest.approx(0, abs=1e-9)


def test_networks_side_by_side_do_not_know_each_other(data):
    setting = fitting.Setting(batch_norm=True, l2=1e-3, l1=1e-5)
    together, alone = (fitting.trained(data, setting, 40, seeds) for seeds in ([0, 1, 2], [1]))
    for several, one in zip(together.variables, alone.variables, strict=True):
        np.testing.assert_allclose(several[1:2], one, atol=1e-4)


def test_a_step_is_that_of_a_keras_network(data):
    networks = fitting.Networks(fitting.BASE, seeds=[3])
    layers = [tf.keras.Input([28, 28, 1]), tf.keras.layers.Rescaling(1 / 255)]
    layers += [tf.keras.layers.Flatten()]
    layers += [tf.keras.layers.Dense(units, "relu") for units in fitting.HIDDEN]
    model = tf.keras.Sequential([*layers, tf.keras.layers.Dense(10)])
    pairs = zip(networks.kernels, networks.biases, strict=True)
    model.set_weights([array for k, b in pairs for array in (k.numpy()[0], b.numpy()[0, 0])])
    setting = fitting.Setting(smoothing=0.2)
    loss = tf.keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2)
    model.compile(tf.keras.optimizers.SGD(setting.rate), loss)
    chosen = fitting.plan(fitting.own_images(data, setting, [3]), 1, [3])[0, 0]
    model.train_on_batch(data.train_images[chosen], np.eye(10)[data.train_labels[chosen]])
    trained = fitting.trained(data, setting, 1, seeds=[3])
    for ours, theirs in zip(trained.kernels, model.get_weights()[::2], strict=True):
        np.testing.assert_allclose(ours.numpy()[0], theirs, atol=1e-5)


def test_each_seed_has_images_of_its_own_and_epochs_use_each_once(data):
    owned = fitting.own_images(data, fitting.BASE)
    assert all(len(set(row)) == fitting.IMAGES for row in owned)
    assert len({tuple(row) for row in owned.tolist()}) == len(fitting.SEEDS)
    plan = fitting.plan(owned, 2 * fitting.IMAGES // fitting.BATCH)
    for k, row in enumerate(owned):
        for epoch in np.split(plan[:, k], 2):
            assert sorted(epoch.ravel()) == sorted(row)


def test_quality_is_error_and_loss(data):
    networks = fitting.Networks(fitting.Setting(), seeds=[0, 1])
    images, labels = data.test_images[:200], data.test_labels[:200]
    errors, losses = fitting.quality(networks, images, labels, 50)
    logits = networks(images[None], training=False).numpy()
    np.testing.assert_allclose(errors, np.mean(logits.argmax(2) != labels, axis=1), atol=1e-6)
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    np.testing.assert_allclose(losses, [float(loss(labels, z)) for z in logits], rtol=1e-5)


def test_early_stopping_keeps_the_best_moment_of_each_network(data):
    stopping = fitting.EarlyStopping(data)
    fitting.trained(data, fitting.BASE, 60, look=stopping.look, every=10)
    history = np.array(stopping.history)  # (looks, 2, 2, K)
    assert stopping.steps == [10, 20, 30, 40, 50, 60]
    for criterion, factor in ((0, 100), (1, 1)):
        networks = stopping.networks(criterion)
        now = fitting.quality(networks, data.validation_images, data.validation_labels)
        best = history[:, 1, criterion].min(axis=0)
        np.testing.assert_allclose(factor * now[criterion], best, rtol=1e-4)


def test_moved_images_are_moved_by_up_to_so_much(data):
    images = data.train_images[:300]
    result = fitting.moved(tf.constant(images), 2, tf.constant(5)).numpy()
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    views = [padded[:, y : y + 28, x : x + 28] for y in range(5) for x in range(5)]
    found = [np.all(result == view, axis=(1, 2, 3)) for view in views]
    assert np.all(np.any(found, axis=0)) and np.all(np.any(found, axis=1))  # every move occurs
    again = fitting.moved(tf.constant(images), 2, tf.constant(6)).numpy()
    assert not np.array_equal(result, again)  # anew in each step


def test_our_networks_drop_in_training_alone(data):
    images = data.test_images[None, :50]
    plain = fitting.Networks(fitting.BASE, seeds=[0])
    dropping = fitting.Networks(fitting.Setting(dropout=0.4), seeds=[0])
    expected = plain(images, False)
    np.testing.assert_array_equal(dropping(images, False), expected)
    several = np.stack([dropping(images, True, step) for step in range(200)])
    assert several.std(axis=0).min() > 0
    slope, _ = np.polyfit(expected.numpy().ravel(), several.mean(axis=0).ravel(), 1)
    assert 0.8 < slope < 1.2  # it is inverted: on average, nothing becomes smaller


def test_batch_normalisation_is_that_of_keras():
    networks = fitting.Networks(fitting.Setting(batch_norm=True), seeds=[0])
    networks.scales[0].assign(tf.random.stateless_uniform(networks.scales[0].shape, [0, 1], 0.5, 2))
    layer = tf.keras.layers.BatchNormalization(momentum=fitting.KEEP, epsilon=fitting.EPSILON)
    layer.build([None, 128])
    layer.gamma.assign(networks.scales[0][0, 0])
    for step in range(3):
        x = tf.random.stateless_normal([1, 50, 128], [step, 0], mean=2.0, stddev=3.0)
        ours = networks.normalise(x, 0, training=True)
        np.testing.assert_allclose(ours[0], layer(x[0], training=True), atol=1e-5)
    np.testing.assert_allclose(networks.moving_means[0][0, 0], layer.moving_mean, rtol=1e-5)
    np.testing.assert_allclose(networks.moving_variances[0][0, 0], layer.moving_variance, rtol=1e-5)
    ours = networks.normalise(x, 0, training=False)
    np.testing.assert_allclose(ours[0], layer(x[0], training=False), atol=1e-5)
    # An image's answer depends on its neighbours in training, and not at inference.
    half = x[:, :25]
    np.testing.assert_allclose(networks.normalise(half, 0, False), ours[:, :25], atol=1e-6)
    whole = networks.normalise(x, 0, True)
    assert np.abs(networks.normalise(half, 0, True) - whole[:, :25]).max() > 0.01
    # The length of the weights in front of it changes nothing.
    np.testing.assert_allclose(networks.normalise(5 * x, 0, True), whole, atol=2e-3)


def test_weights_of_pixels_that_are_always_paper(data):
    """Only the penalties change them: L2 shrinks them by a share, L1 by an amount, down to 0."""
    steps, seeds = 100, [0]
    first = fitting.Networks(fitting.BASE, seeds).kernels[0].numpy()[0, 0]  # of the corner
    rates = fitting.BASE.rate * (1 - np.arange(steps) / steps)
    assert data.train_images[:, 0, 0].max() == 0
    lowered = np.sign(first) * np.maximum(np.abs(first) - 0.001 * rates.sum(), 0)
    assert np.mean(lowered == 0) > 0.3
    for options, expected in (
        ({}, first),
        ({"l2": 0.01}, first * np.prod(1 - 0.01 * rates)),
        ({"l1": 0.001}, lowered),
    ):
        networks = fitting.trained(data, fitting.Setting(**options), steps, seeds)
        np.testing.assert_allclose(networks.kernels[0][0, 0], expected, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def errors():
    """Return the table of errors: training error, test error, how many are better, test loss."""
    table = {}
    for name, training, test, _, better, loss in notes.rows(notes.generated("fitting_errors")):
        table[name] = float(training), float(test), better[:1], float(loss)
    return table


def test_what_the_page_says_about_the_errors(errors):
    training, base, _, loss = errors["none"]
    assert training == 0
    moved, four = errors["moved by up to 2 pixels"], errors["4 times the images"]
    others = [row[1] for name, row in errors.items() if not name.startswith(("none", "moved", "4"))]
    assert max(moved[1], four[1]) < base - 3 < min(others) - 1  # far more than any other
    assert 0 < four[1] - moved[1] < 0.6  # as good as four times the images, or a little better
    dropout, smoothing = errors["dropout, rate 0.2"], errors["label smoothing, 0.2"]
    faster = errors["batch normalisation, learning rate 1"]
    for row, gain, within in ((dropout, 0.5, 0.15), (smoothing, 0.5, 0.3), (faster, 0.6, 0.4)):
        assert row[1] == pytest.approx(base - gain, abs=within)
    assert {row[2] for row in (moved, four, dropout, smoothing, faster)} == {"5"}  # of 5
    for name in ("batch normalisation", "L2, λ = 0.003", "L1, λ = 0.00003"):  # the same as none
        assert errors[name][1] == pytest.approx(base, abs=0.15)
        assert errors[name][2] in "1234"
    assert smoothing[3] == max(row[3] for row in errors.values())
    assert errors["L2, λ = 0.003"][3] < 0.75 * loss
    by_loss, by_error = (errors[f"early stopping, by validation {x}"] for x in ("loss", "error"))
    assert by_loss[1] > base and by_loss[2] == "0" and by_loss[3] < loss
    assert by_error[1] == pytest.approx(base, abs=0.1)
    assert 0 < moved[1] - errors["moved, and dropout"][1] < base - dropout[1]  # does not add up
    found = re.findall(r"([\d.]+) % at ([\d.]*\d)", notes.generated("fitting_errors"))
    assert len(found) == len(fitting.RATES)
    assert float(min((float(e), rate) for e, rate in found)[1]) == fitting.BASE.rate


def test_what_the_page_says_about_modes():
    table = notes.rows(notes.generated("fitting_modes"))
    averages, mixed, by_digit, single, off, on = (float(mean) for _, mean, _ in table)
    assert averages < mixed < averages + 1  # the mistake hardly shows
    assert by_digit > 80 and single > 85
    assert off + 1 < on


def test_what_the_page_says_about_the_pictures():
    points = {}
    for quantity, x, *values in notes.rows(notes.generated("fitting_points")):
        points.setdefault(quantity, {})[x] = [float(value) for value in values]

    def means(quantity):
        return {x: mean for x, (mean, *_) in points[quantity].items()}

    test, training = means("images: test error, %"), means("images: training error, %")
    assert [test[str(size)] for size in fitting.SIZES] == sorted(test.values(), reverse=True)
    assert training["1000"] == 0 < training["55000"]
    loss, error = means("step: validation loss"), means("step: validation error, %")
    (stop,) = means("step: where the validation loss is least").values()
    assert 1 - stop / fitting.STEPS == pytest.approx(0.9, abs=0.03)  # of the first learning rate
    assert loss["2000"] > 1.2 * loss["200"] and error["2000"] < error["200"]
    shift = means("shift: validation error, %")
    assert min(shift, key=shift.get) == "2"
    assert means("dropout: validation error, %")["0.6"] > error["2000"] + 0.5
    assert means("l1: validation error, %")["0.0003"] == pytest.approx(error["2000"] + 1.3, abs=0.3)
    assert means("l1: weights that are 0, %")["0.0003"] == pytest.approx(75, abs=5)
    mean, _, largest = points["learning rate: validation error, %"]["1"]
    assert mean > 20 and largest > 85  # one of them learns nothing at all
    name = "learning rate: training loss {} batch normalisation"
    without, with_it = (means(name.format(word))["3"] for word in ("without", "with"))
    assert with_it < 0.1 and not without < 2.2  # ln 10 is 2.30: nothing was learned


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.skipif(not PRESENT, reason="lay MNIST's four .gz files in datasets/downloads/mnist")
def test_the_base_setting_again(errors):
    data = mnist.load("full", DOWNLOADS)
    networks = fitting.trained(data, fitting.BASE)
    assert fitting.on_training(data, networks)[0].max() == 0
    assert fitting.on_test(data, networks).mean() == pytest.approx(errors["none"][1], abs=0.3)
