"""Note 4: backpropagation, gradient descent and its relatives, against TensorFlow and theory."""

import itertools
import re

import notes
import numpy as np
import programs
import pytest
import tensorflow as tf

from examples import example03_mnist_mlp, example14_cifar10_record

training = programs.figures("training")


def test_the_derivatives_by_hand_are_those_of_the_tape_and_of_central_differences():
    example = training.EXAMPLE
    by_hand = training.backward_by_hand(example, training.forward_by_hand(example))
    for name, gradient in training.gradient_of_tape(example).items():
        np.testing.assert_allclose(by_hand[name], gradient, rtol=1e-12)
    for name, value in example.items():
        for place in np.ndindex(value.shape):
            losses = []
            for step in (1e-5, -1e-5):
                moved = {key: array.copy() for key, array in example.items()}
                moved[name][place] += step
                losses.append(training.forward_by_hand(moved)["L"])
            assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(by_hand[name][place], abs=1e-9)


def test_both_ways_of_the_listing_agree():
    names = notes.run_listings(4)
    for tape, hand in zip(names["gradients"], names["by_hand"], strict=True):
        np.testing.assert_allclose(tape, hand, rtol=1e-5)
    for name, value in training.EXAMPLE.items():
        np.testing.assert_allclose(names[name], value, rtol=1e-6)
    loss = training.forward_by_hand(training.EXAMPLE)["L"]
    assert float(names["loss"]) == pytest.approx(loss, rel=1e-6)


def test_the_gradient_of_a_batch_is_that_of_tensorflow():
    images, targets = (part[:50] for part in training.digits())
    network = training.new_network(3)
    loss, by_formula = training.loss_and_gradient(network, images, targets)
    variables = [tf.Variable(part) for part in network]
    with tf.GradientTape() as tape:
        logits = tf.tanh(images @ variables[0] + variables[1]) @ variables[2] + variables[3]
        mean = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))
    assert loss == pytest.approx(float(mean), rel=1e-12)
    for formula, gradient in zip(by_formula, tape.gradient(mean, variables), strict=True):
        np.testing.assert_allclose(formula, gradient, rtol=1e-9, atol=1e-12)


def test_a_gradient_of_example_03_costs_as_much_as_the_note_says():
    network = example03_mnist_mlp.Network(example03_mnist_mlp.HIDDEN, tf.float32, seed=0)
    specs = tf.TensorSpec([8, 28, 28, 1], tf.uint8), tf.TensorSpec([8], tf.int32)

    def forward(images, labels):
        return example03_mnist_mlp.mean_loss(network(images), labels)

    def gradient(images, labels):
        with tf.GradientTape() as tape:
            loss = forward(images, labels)
        return tape.gradient(loss, network.trainable_variables)

    once, both = (
        notes.multiply_adds(tf.function(f).get_concrete_function(*specs).graph)
        for f in (forward, gradient)
    )
    assert once == 8 * (784 * 512 + 512 * 512 + 512 * 10)
    assert f"{both / once:.1f}" in notes.text(4)


def test_central_differences_are_best_in_between():
    errors = training.errors_of_differences()
    double, single = errors["float64"], errors["float32"]
    for i in (0, 1):
        assert double[i + 1] / double[i] == pytest.approx(1e-2, rel=0.1)  # of order h squared
    assert -5.1 < np.log10(training.STEP_LENGTHS[double.argmin()]) < -3.9
    assert double.min() < 1e-8 < 1e-6 < double[-1]
    assert single.min() > 1e-4  # three digits and no more
    assert training.STEP_LENGTHS[single.argmin()] >= 1e-3 * 0.99
    assert single[-1] == 1  # float32 sees no difference at all

    def powers(table):
        """Errors as large as the derivatives, 10^0 and above, are rounding and nothing else."""
        found = [re.findall(r"10\^\{(-?\d+)\}", cell) for row in notes.rows(table) for cell in row]
        return np.minimum(np.array(found, int).reshape(-1, 3), 0)

    made, written = powers(training.check_table()), powers(notes.generated("training_check"))
    assert made[:, 0].tolist() == written[:, 0].tolist()
    np.testing.assert_allclose(made, written, atol=1)  # rounding differs by machine


def test_swapping_units_changes_nothing_but_halfway_it_is_worse():
    network = training.trained_network()
    twin, data = training.twin(network), training.digits()
    loss = training.forward(network, *data)[0]
    assert training.forward(twin, *data)[0] == pytest.approx(loss, rel=1e-9)
    halfway = [(first + second) / 2 for first, second in zip(network, twin, strict=True)]
    assert training.forward(halfway, *data)[0] > 5 * loss


@pytest.mark.parametrize("share, converges", [(0.1, True), (0.99, True), (1.01, False)])
def test_gradient_descent_converges_below_two_over_the_largest_curvature(share, converges):
    losses = training.valley_loss(training.descend(share * 2 / training.LARGEST, 0, 1000))
    assert losses[-1] < 1e-3 * losses[0] if converges else losses[-1] > 1e3 * losses[0]
    assert np.linalg.eigvalsh(training.valley())[-1] == pytest.approx(training.LARGEST)


def test_the_best_rate_is_close_to_one_that_makes_it_worse(monkeypatch):
    assert {0.5, 1, 2, 4} < set(training.DIGIT_RATES)
    monkeypatch.setattr(training, "DIGIT_RATES", [training.DIGIT_RATES[0], 0.5, 1, 2, 4])
    losses = training.losses_by_rate()
    best, start = losses.argmin(), np.log(10)
    assert losses[best + 1] > start > losses[best]  # the next rate is twice the best
    assert losses[0] > 0.9 * start  # too small: hardly any progress
    assert np.all(np.diff(losses[: best + 1]) < 0)


def test_momentum_is_as_fast_as_theory_says():
    kappa, factors = training.LARGEST / training.SMALLEST, {}
    for name, settings in training.METHODS.items():
        distances = np.linalg.norm(training.descend(steps=80, **settings), axis=1)
        factors[name] = (distances[60] / distances[20]) ** (1 / 40)
    plain, root = (kappa - 1) / (kappa + 1), (kappa**0.5 - 1) / (kappa**0.5 + 1)
    assert factors["gradient descent"] == pytest.approx(plain, abs=0.001)
    assert factors["heavy ball"] == pytest.approx(root, abs=0.03)
    assert factors["heavy ball"] < factors["Nesterov"] < factors["gradient descent"]


def steps_of_keras(rates, momentum, nesterov) -> np.ndarray:
    """Descend the valley with Keras' SGD, one step for each rate."""
    optimizer = tf.keras.optimizers.SGD(rates[0], momentum, nesterov)
    place = tf.Variable(training.valley_start(), dtype=tf.float64)
    places = [place.numpy()]
    for rate in rates:
        optimizer.learning_rate = rate
        optimizer.apply([tf.linalg.matvec(training.valley(), place)], [place])
        places.append(place.numpy())
    return np.array(places)


@pytest.mark.parametrize("nesterov", [False, True])
def test_both_conventions_of_momentum_agree_while_the_rate_is_constant(nesterov):
    ours = training.descend(0.02, 0.8, 20, nesterov)
    keras = steps_of_keras([0.02] * 20, 0.8, nesterov)
    np.testing.assert_allclose(keras, ours, rtol=1e-4, atol=1e-5)
    place, velocity = training.valley_start(), np.zeros(2)
    for rate in (0.02, 0.02, 0.002):
        gradient = training.valley() @ place
        velocity = 0.8 * velocity + gradient
        place = place - rate * (gradient + 0.8 * velocity if nesterov else velocity)
    falling = steps_of_keras([0.02, 0.02, 0.002], 0.8, nesterov)[-1]
    assert np.linalg.norm(falling - place) > 0.1


def test_without_its_correction_adam_begins_with_steps_that_are_too_long():
    lengths = training.adam_step(5000, corrected=False)
    assert 6 < lengths.max() < 7
    assert lengths[0] == pytest.approx(10**0.5)
    np.testing.assert_allclose(training.adam_step(5000, corrected=True), 1)


def test_the_mean_gradient_of_all_batches_is_the_whole_and_the_variance_falls():
    images, targets = (part[:8] for part in training.digits())
    network = training.new_network(0)

    def gradient(batch):
        batch = list(batch)
        return training.flat(training.loss_and_gradient(network, images[batch], targets[batch])[1])

    whole = gradient(range(8))
    single = np.mean([np.sum((gradient([i]) - whole) ** 2) for i in range(8)])
    for size in (2, 3, 5):
        drawn = np.array([gradient(b) for b in itertools.combinations(range(8), size)])
        np.testing.assert_allclose(drawn.mean(axis=0), whole, atol=1e-12)
        variance = np.mean(np.sum((drawn - whole) ** 2, axis=1))
        assert variance == pytest.approx(single / size * (8 - size) / 7, rel=1e-9)


def test_smaller_batches_get_further_by_images_and_larger_ones_by_steps(monkeypatch):
    monkeypatch.setattr(training, "BATCH_RATES", 2.0 ** np.arange(-2, 1))  # the best ones
    found = training.best_by_batch_size()
    last = [losses[-1] for _, losses in found.values()]
    assert last == sorted(last)
    assert last[-1] > 10 * last[0]
    by_steps = {
        size: (np.arange(1, training.EPOCHS + 1) * (training.IMAGES // size), losses[1:])
        for size, (_, losses) in found.items()
    }
    for small, large in ((4, 32), (32, 256)):
        steps, losses = by_steps[small]
        assert np.interp(steps[0], *by_steps[large]) < losses[0]
    whole = by_steps[training.IMAGES]
    at_the_end = np.interp(whole[0][-1], *by_steps[256])
    assert at_the_end == pytest.approx(whole[1][-1], rel=0.15)  # equals


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.08])
def test_a_constant_rate_settles_where_the_note_says(rate):
    settled = training.expected_losses(np.full(3000, rate))[-1]
    curvatures = np.array([training.SMALLEST, training.LARGEST])
    assert settled == pytest.approx(np.sum(rate * training.NOISE / (4 - 2 * rate * curvatures)))


def test_all_schedules_that_fall_end_below_all_that_do_not():
    rates = {name: training.PEAK * shares for name, shares in training.schedules().items()}
    last = {name: training.expected_losses(each)[-1] for name, each in rates.items()}
    constant = [loss for name, loss in last.items() if name.startswith("constant")]
    falling = [loss for name, loss in last.items() if not name.startswith("constant")]
    assert max(falling) * 10 < min(constant)
    assert max(falling) < 2 * min(falling)


def test_one_cycle_is_that_of_the_examples():
    steps, shares = training.SCHEDULE_STEPS, training.schedules()["one cycle"]
    for example in (example03_mnist_mlp, example14_cifar10_record):
        done = [(step + 1) / (steps + 1) for step in range(steps)]
        expected = [example.one_cycle(share, example.WARM_UP) for share in done]
        np.testing.assert_allclose(shares, expected)
