"""Note 5: over- and underfitting; what helps, against TensorFlow, theory and what was measured."""

import re

import numpy as np
import programs
import pytest
import tensorflow as tf

from datasets import mnist

fitting = programs.figures("fitting")
NOTE = programs.ROOT / "docs" / "notes" / "05_over_and_underfitting.md"
GENERATED = NOTE.parent / "_generated"
DOWNLOADS = programs.ROOT / "datasets" / "downloads"
PRESENT = len(list((DOWNLOADS / "mnist").glob("*-ubyte*"))) >= 4


@pytest.fixture(scope="module")
def sample(sample_dir):
    """Return sample data in the form of MNIST."""
    return mnist.load("sample", sample_dir)


def rows(name):
    """Return the cells of a table that the script has written, without its heading."""
    lines = (GENERATED / f"{name}.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    return cells[2:]


@pytest.fixture(scope="module")
def errors():
    """Return the table of errors: training error, test error, those better, test loss."""
    table = {}
    for name, training, test, _, better, loss in rows("fitting_errors"):
        table[name] = float(training), float(test), better[:1], float(loss)
        table.setdefault(name.partition(",")[0], table[name])
    return table


@pytest.fixture(scope="module")
def points():
    """Return the means of the pictures' points, by quantity and by x as it is written."""
    table = {}
    for quantity, x, mean, _, _ in rows("fitting_points"):
        table.setdefault(quantity, {})[x] = float(mean)
    return table


# --- Polynomials ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [4, 6, 11, 30])
def test_the_expected_errors_are_means_over_draws(count):
    rng = np.random.default_rng(0)
    y = fitting.wave(fitting.PLACES) + fitting.NOISE * rng.normal(size=(20_000, 12))
    at_points = y @ fitting.smoother(fitting.PLACES, count).T
    between = y @ fitting.smoother(fitting.FINE, count).T
    truth = fitting.wave(fitting.FINE)
    expected = fitting.expected_errors(count)
    assert np.mean((between.mean(0) - truth) ** 2) == pytest.approx(expected["bias"], abs=1e-3)
    assert between.var(axis=0).mean() == pytest.approx(expected["variance"], rel=0.03)
    test = np.mean((between - truth) ** 2) + fitting.NOISE**2
    assert test == pytest.approx(expected["test"], rel=0.03)
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
    assert min(test, key=test.get) == 6  # degree 5
    assert max(test, key=test.get) == 12
    assert test[6] < test[200] < test[12] / 10  # it falls again, here not below the minimum
    assert errors[12]["training"] == pytest.approx(0, abs=1e-9)


def test_the_deviation_of_an_estimated_error():
    assert np.sqrt(0.09 * 0.91 / 10_000) == pytest.approx(0.003, abs=0.0005)


# --- The networks ---------------------------------------------------------------------------------


def weights(networks):
    return [variable.numpy() for variable in networks.variables]


def test_the_number_of_weights():
    networks = fitting.Networks(fitting.BASE, seeds=[0])
    assert sum(int(tf.size(v)) for v in networks.trainable_variables) == 118_282
    assert "118,282" in NOTE.read_text()


def test_networks_side_by_side_do_not_know_each_other(sample):
    setting = fitting.Setting(batch_norm=True, l2=1e-3, l1=1e-5)
    together = fitting.trained(sample, setting, 40, seeds=[0, 1, 2])
    alone = fitting.trained(sample, setting, 40, seeds=[1])
    for several, one in zip(weights(together), weights(alone), strict=True):
        np.testing.assert_allclose(several[1:2], one, atol=1e-4)


def test_a_step_is_that_of_a_keras_network(sample):
    networks = fitting.Networks(fitting.BASE, seeds=[3])
    layers = [tf.keras.Input([28, 28, 1]), tf.keras.layers.Rescaling(1 / 255)]
    layers += [tf.keras.layers.Flatten()]
    layers += [tf.keras.layers.Dense(units, "relu") for units in fitting.HIDDEN]
    model = tf.keras.Sequential([*layers, tf.keras.layers.Dense(10)])
    pairs = zip(networks.kernels, networks.biases, strict=True)
    model.set_weights([array for k, b in pairs for array in (k.numpy()[0], b.numpy()[0, 0])])
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf.keras.optimizers.SGD(fitting.BASE.rate), loss)
    chosen = fitting.plan(fitting.own_images(sample, fitting.BASE, [3]), 1, [3])[0, 0]
    model.train_on_batch(sample.train_images[chosen], sample.train_labels[chosen])
    trained = fitting.trained(sample, fitting.BASE, 1, seeds=[3])
    for ours, theirs in zip(trained.kernels, model.get_weights()[::2], strict=True):
        np.testing.assert_allclose(ours.numpy()[0], theirs, atol=1e-5)


def test_each_seed_has_images_of_its_own_and_epochs_use_each_once(sample):
    owned = fitting.own_images(sample, fitting.BASE)
    assert all(len(set(row)) == fitting.IMAGES for row in owned)
    assert len({tuple(row) for row in owned.tolist()}) == len(fitting.SEEDS)
    plan = fitting.plan(owned, 2 * fitting.IMAGES // fitting.BATCH)
    for k, row in enumerate(owned):
        for epoch in np.split(plan[:, k], 2):
            assert sorted(epoch.ravel()) == sorted(row)


def test_quality_is_error_and_loss(sample):
    networks = fitting.Networks(fitting.Setting(), seeds=[0, 1])
    images, labels = sample.test_images[:200], sample.test_labels[:200]
    errors, losses = fitting.quality(networks, images, labels, 50)
    logits = networks(images[None], training=False).numpy()
    np.testing.assert_allclose(errors, np.mean(logits.argmax(2) != labels, axis=1), atol=1e-6)
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    np.testing.assert_allclose(losses, [float(loss(labels, z)) for z in logits], rtol=1e-5)


def test_early_stopping_keeps_the_best_moment_of_each_network(sample):
    stopping = fitting.EarlyStopping(sample)
    fitting.trained(sample, fitting.BASE, 60, look=stopping.look, every=10)
    history = np.array(stopping.history)  # (looks, 2, 2, K)
    assert stopping.steps == [10, 20, 30, 40, 50, 60]
    for criterion, factor in ((0, 100), (1, 1)):
        networks = stopping.networks(criterion)
        now = fitting.quality(networks, sample.validation_images, sample.validation_labels)
        best = history[:, 1, criterion].min(axis=0)
        np.testing.assert_allclose(factor * now[criterion], best, rtol=1e-4)


# --- Augmentation and label smoothing -------------------------------------------------------------


def test_moved_images_are_moved_by_up_to_so_much(sample):
    images = sample.train_images[:300]
    result = fitting.moved(tf.constant(images), 2, tf.constant(5)).numpy()
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    views = {(y, x): padded[:, y : y + 28, x : x + 28] for y in range(5) for x in range(5)}
    found = {p: np.all(result == view, axis=(1, 2, 3)) for p, view in views.items()}
    assert np.all(np.any(list(found.values()), axis=0))
    assert all(hits.any() for hits in found.values())  # and every move occurs
    again = fitting.moved(tf.constant(images), 2, tf.constant(6)).numpy()
    assert not np.array_equal(result, again)  # anew in each step


def test_smoothed_labels_ask_for_82_percent():
    smoothing, logits, label = 0.2, np.random.default_rng(0).normal(size=(1, 10)), 3
    targets = np.full([1, 10], smoothing / 10)
    targets[0, label] = 1 - smoothing + smoothing / 10
    assert targets.sum() == pytest.approx(1)
    assert targets[0, label] == pytest.approx(0.82)
    keras = tf.keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
    ours = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
    assert float(keras(tf.one_hot([label], 10), logits)) == pytest.approx(float(ours[0]), rel=1e-5)


# --- Dropout --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_dropout_is_inverted(rate):
    x = np.random.default_rng(0).uniform(1, 2, (400, 500)).astype(np.float32)
    dropped = tf.nn.dropout(x, rate, seed=1).numpy()
    kept = dropped != 0
    assert kept.mean() == pytest.approx(1 - rate, abs=0.01)
    np.testing.assert_allclose(dropped[kept], (x / (1 - rate))[kept], rtol=1e-6)
    assert dropped.mean() == pytest.approx(x.mean(), rel=0.01)
    layer = tf.keras.layers.Dropout(rate)
    np.testing.assert_array_equal(layer(x, training=False), x)  # nothing is multiplied
    np.testing.assert_array_equal(layer(x), x)


def test_our_networks_drop_in_training_alone(sample):
    images = sample.test_images[None, :50]
    plain = fitting.Networks(fitting.BASE, seeds=[0])
    dropping = fitting.Networks(fitting.Setting(dropout=0.4), seeds=[0])
    np.testing.assert_array_equal(plain(images, False), dropping(images, False))
    several = np.stack([dropping(images, True, step) for step in range(400)])
    assert several.std(axis=0).min() > 0
    first = tf.nn.relu(tf.matmul(images.reshape(1, 50, -1) / np.float32(255), plain.kernels[0]))
    masked = tf.nn.experimental.stateless_dropout(first, 0.4, [7, 0]).numpy()
    expected = np.where(masked == 0, 0, first / np.float32(0.6))
    np.testing.assert_allclose(masked, expected, rtol=1e-5)


def test_the_listing_runs(capsys):
    (listing,) = re.findall(r"```python\n(.*?)```", NOTE.read_text(), re.DOTALL)
    tf.random.set_seed(0)
    scope = {}
    exec(listing, scope)
    values = set(np.unique(scope["dropped"]).tolist())
    assert values == {0.0, 1.25}
    assert float(tf.reduce_mean(scope["dropped"])) == pytest.approx(1, abs=0.01)
    assert "1.25" in capsys.readouterr().out


# --- Batch normalisation --------------------------------------------------------------------------


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
    assert np.abs(networks.normalise(half, 0, True) - networks.normalise(x, 0, True)[:, :25]).max()


def test_which_variance_goes_into_the_averages():
    x = tf.random.stateless_normal([10, 1, 1, 4], [0, 0])
    mean, biased = tf.nn.moments(x, [0, 1, 2])
    y, _, returned = tf.compat.v1.nn.fused_batch_norm(x, tf.ones(4), tf.zeros(4), epsilon=1e-5)
    np.testing.assert_allclose(returned, biased * 10 / 9, rtol=1e-5)
    np.testing.assert_allclose(y, (x - mean) * tf.math.rsqrt(biased + 1e-5), atol=1e-5)
    layer = tf.keras.layers.BatchNormalization(momentum=0.0)
    layer(x, training=True)
    np.testing.assert_allclose(layer.moving_variance, biased, rtol=1e-5)


def test_what_is_not_trainable_in_keras_is_in_inference_mode():
    layer = tf.keras.layers.BatchNormalization()
    x = tf.random.stateless_normal([10, 4], [0, 0], mean=5.0)
    layer.build(x.shape)
    layer.trainable = False
    np.testing.assert_array_equal(layer(x, training=True), layer(x, training=False))
    np.testing.assert_array_equal(layer.moving_mean, np.zeros(4))


def test_of_a_single_image_nothing_is_left():
    networks = fitting.Networks(fitting.Setting(batch_norm=True), seeds=[0])
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 1, 28, 28, 1), np.uint8)
    first, second = (networks(image, training=True) for image in images)
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_the_length_of_weights_before_normalisation_changes_nothing():
    x = tf.random.stateless_normal([1, 50, 784], [0, 0])
    networks = fitting.Networks(fitting.Setting(batch_norm=True), seeds=[0])
    before = networks.normalise(tf.matmul(x, networks.kernels[0]), 0, training=True)
    after = networks.normalise(tf.matmul(x, 5 * networks.kernels[0]), 0, training=True)
    np.testing.assert_allclose(before, after, atol=2e-3)


# --- Penalties ------------------------------------------------------------------------------------

WEIGHTS, GRADIENT = np.float32([3, -0.5, 0.01]), np.float32([0.2, -0.1, 0.3])


def step_of(optimizer, gradient):
    variable = tf.Variable(WEIGHTS)
    optimizer.apply_gradients([(tf.constant(gradient, tf.float32), variable)])
    return variable.numpy()


def test_weight_decay_is_l2_for_plain_gradient_descent():
    rate, strength = 0.1, 0.02
    penalty = step_of(tf.keras.optimizers.SGD(rate), GRADIENT + strength * WEIGHTS)
    decay = step_of(tf.keras.optimizers.SGD(rate, weight_decay=strength), GRADIENT)
    np.testing.assert_allclose(penalty, decay, rtol=1e-6)
    np.testing.assert_allclose(decay, (1 - rate * strength) * WEIGHTS - rate * GRADIENT, rtol=1e-6)


def test_weight_decay_is_not_l2_for_adam():
    rate = 0.1
    for strength in (0.02, 0.2):
        penalty = step_of(tf.keras.optimizers.Adam(rate, epsilon=1e-12), strength * WEIGHTS)
        np.testing.assert_allclose(WEIGHTS - penalty, rate * np.sign(WEIGHTS), rtol=1e-3)
        decay = step_of(tf.keras.optimizers.AdamW(rate, weight_decay=strength), 0 * WEIGHTS)
        np.testing.assert_allclose(decay, (1 - rate * strength) * WEIGHTS, rtol=1e-5)


def test_a_regularizer_of_keras_has_no_half():
    assert float(tf.keras.regularizers.L2(0.5)(tf.constant(WEIGHTS))) == pytest.approx(
        0.5 * np.sum(WEIGHTS**2)
    )


def test_soft_thresholds_make_zeros_and_the_gradient_of_l1_does_not():
    kernel = fitting.soft_threshold(tf.constant(WEIGHTS), 0.02).numpy()
    np.testing.assert_allclose(kernel, [2.98, -0.48, 0], rtol=1e-6)
    penalty, variable = tf.keras.regularizers.L1(0.1), tf.Variable([0.005])
    seen = []
    for _ in range(20):
        with tf.GradientTape() as tape:
            loss = penalty(variable)
        variable.assign_sub(0.1 * tape.gradient(loss, variable))
        seen.append(float(variable[0]))
    assert 0 not in seen
    assert min(seen) < 0 < max(seen)


def test_weights_of_pixels_that_are_always_paper(sample):
    steps, seeds = 100, [0]
    first = fitting.Networks(fitting.BASE, seeds).kernels[0].numpy()[0, 0]  # of the corner
    rates = fitting.BASE.rate * (1 - np.arange(steps) / steps)
    assert sample.train_images[:, 0, 0].max() == 0

    def corner(**options):
        networks = fitting.trained(sample, fitting.Setting(**options), steps, seeds)
        return networks.kernels[0].numpy()[0, 0]

    np.testing.assert_array_equal(corner(), first)
    decayed = corner(l2=0.01)
    np.testing.assert_allclose(decayed, first * np.prod(1 - 0.01 * rates), rtol=1e-4)
    np.testing.assert_allclose(decayed, first * np.exp(-0.01 * rates.sum()), rtol=1e-2)
    lowered = np.sign(first) * np.maximum(np.abs(first) - 0.001 * rates.sum(), 0)
    np.testing.assert_allclose(corner(l1=0.001), lowered, atol=1e-6)
    assert np.mean(lowered == 0) > 0.3


# --- What was measured ----------------------------------------------------------------------------


def test_what_the_page_says_about_the_table(errors):
    training, base, _, loss = errors["none"]
    assert training == 0
    others = {k: v for k, v in errors.items() if k != "none"}
    single = [v[1] for k, v in others.items() if not k.startswith(("moved", "4 times"))]
    moved, four = errors["moved by up to 2 pixels"], errors["4 times the images"]
    assert max(moved[1], four[1]) < base - 3 < min(single) - 1  # far more than any other
    assert abs(moved[1] - four[1]) < 0.6  # as good as four times the images, or a little better
    assert moved[1] < four[1]
    dropout, smoothing = errors["dropout, rate 0.2"], errors["label smoothing, 0.2"]
    assert dropout[1] == pytest.approx(base - 0.5, abs=0.15)
    assert smoothing[1] == pytest.approx(dropout[1], abs=0.2)
    for remedy in (moved, four, dropout, smoothing):
        assert remedy[2] == "5"
    for name in ("batch normalisation", "L2", "L1"):  # the same as none
        assert errors[name][1] == pytest.approx(base, abs=0.15)
        assert errors[name][2] in "1234"
    assert smoothing[3] == max(v[3] for v in errors.values())
    faster = errors["batch normalisation, learning rate 1"]
    assert faster[1] == pytest.approx(dropout[1], abs=0.3)
    assert faster[2] == "5"
    assert errors["L2"][3] < 0.75 * loss
    by_loss = errors["early stopping, by validation loss"]
    by_error = errors["early stopping, by validation error"]
    assert by_loss[1] > base
    assert (by_loss[2], by_loss[3] < loss) == ("0", True)
    assert by_error[1] == pytest.approx(base, abs=0.1)
    assert 0 < moved[1] - errors["moved, and dropout"][1] < base - dropout[1]  # does not add up


def test_the_base_setting_had_the_lowest_validation_error_of_the_rates():
    text = " ".join((GENERATED / "fitting_errors.md").read_text().split())
    found = re.findall(r"([\d.]+) % at ([\d.]*\d)", text)
    assert len(found) == len(fitting.RATES)
    assert float(min(found, key=lambda pair: float(pair[0]))[1]) == fitting.BASE.rate
    assert (
        float(re.search(r"an error of ([\d.]+) %", text)[1]) > min(float(e) for e, _ in found) + 1
    )


def test_what_the_page_says_about_modes():
    found = {name: float(mean) for name, mean, _ in rows("fitting_modes")}
    averages, mixed, by_digit, single, off, on = found.values()
    assert averages < mixed < averages + 1  # the mistake hardly shows
    assert by_digit > 80
    assert single > 85
    assert off + 1 < on


def test_what_the_page_says_about_the_pictures(points):
    test, training = points["images: test error, %"], points["images: training error, %"]
    sizes = [str(size) for size in fitting.SIZES]
    assert [test[s] for s in sizes] == sorted(test.values(), reverse=True)
    assert training["1000"] == 0 < training["55000"]
    loss, error = points["step: validation loss"], points["step: validation error, %"]
    stop = points["step: where the validation loss is least"][""]
    assert 1 - stop / fitting.STEPS == pytest.approx(0.9, abs=0.03)  # of the first learning rate
    assert loss["2000"] > 1.2 * loss["200"]
    assert error["2000"] < error["200"]

    base = points["step: validation error, %"]["2000"]
    shift = points["shift: validation error, %"]
    assert min(shift, key=shift.get) == "2"
    assert points["dropout: validation error, %"]["0.6"] > base + 0.5
    l1, zeros = points["l1: validation error, %"], points["l1: weights that are 0, %"]
    assert l1["0.0003"] == pytest.approx(base + 1.3, abs=0.3)
    assert zeros["0.0003"] == pytest.approx(75, abs=5)
    name = "learning rate: training loss {} batch normalisation"
    assert points["learning rate: validation error, %"]["1"] > 20  # the plain ones: far worse
    rate_1 = ["learning rate: validation error, %", "1"]
    (most,) = (row[4] for row in rows("fitting_points") if row[:2] == rate_1)
    assert float(most) > 85  # one of them learns nothing at all
    without, with_it = points[name.format("without")], points[name.format("with")]
    assert with_it["3"] < 0.1
    assert not without["3"] < 2.2  # ln 10 is 2.30: nothing was learned


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.skipif(not PRESENT, reason="lay MNIST's four .gz files in datasets/downloads/mnist")
def test_the_base_setting_again(errors):
    data = mnist.load("full", DOWNLOADS)
    networks = fitting.trained(data, fitting.BASE)
    assert fitting.on_training(data, networks)[0].max() == 0
    again = fitting.on_test(data, networks).mean()
    assert again == pytest.approx(errors["none"][1], abs=0.3)
