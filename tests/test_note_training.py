"""Note 4: back-propagation, gradient descent and its relatives, against TensorFlow and theory."""

import itertools
import re

import numpy as np
import programs
import pytest
import tensorflow as tf
import threadpoolctl

from examples import (
    example03_mnist_mlp,
    example04_mnist_cnn_layers,
    example05_mnist_cnn_nn,
    example06_cifar10_cnn_nn,
)

training = programs.figures("training")
NOTE = programs.ROOT / "docs" / "notes" / "04_training.md"
GENERATED = NOTE.parent / "_generated"


@pytest.fixture(autouse=True)
def one_core():
    """Keep NumPy's small products on one core: two would wait for each other on a busy machine."""
    with threadpoolctl.threadpool_limits(1):
        yield


# --- Back-propagation -----------------------------------------------------------------------------


def test_the_derivatives_by_hand_are_those_of_the_tape():
    values = training.forward_by_hand(training.EXAMPLE)
    by_hand = training.backward_by_hand(training.EXAMPLE, values)
    for name, gradient in training.gradient_of_tape(training.EXAMPLE).items():
        np.testing.assert_allclose(by_hand[name], gradient, rtol=1e-12)


def test_the_derivatives_by_hand_are_those_of_central_differences():
    by_hand = training.backward_by_hand(
        training.EXAMPLE, training.forward_by_hand(training.EXAMPLE)
    )
    for name, value in training.EXAMPLE.items():
        for place in np.ndindex(value.shape):
            losses = []
            for step in (1e-5, -1e-5):
                moved = {key: array.copy() for key, array in training.EXAMPLE.items()}
                moved[name][place] += step
                losses.append(training.forward_by_hand(moved)["L"])
            assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(by_hand[name][place], abs=1e-9)


def test_the_table_of_the_example_is_up_to_date():
    table = (GENERATED / "training_backpropagation.md").read_text()
    assert training.example_table() in table


def test_the_listing_runs_and_both_ways_agree():
    (listing,) = re.findall(r"^```python\n(.*?)^```", NOTE.read_text(), re.DOTALL | re.MULTILINE)
    names = {}
    exec(listing, names)
    assert len(names["gradients"]) == len(names["by_hand"]) == 4
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


def test_forward_mode_gives_the_derivative_in_one_direction():
    x, direction = tf.constant([0.3, -1.2, 0.7]), tf.constant([1.0, 2.0, -0.5])

    def function(x):
        return tf.reduce_sum(tf.tanh(x) * tf.exp(x))

    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    with tf.autodiff.ForwardAccumulator(x, direction) as accumulator:
        forward = accumulator.jvp(function(x))
    reverse = tf.reduce_sum(tape.gradient(y, x) * direction)
    assert float(forward) == pytest.approx(float(reverse), rel=1e-5)


def test_the_tape_watches_variables_and_not_constants():
    constant, variable, other = tf.constant(2.0), tf.Variable(3.0), tf.Variable(4.0)
    with tf.GradientTape() as tape:
        y = constant * variable
    gradients = tape.gradient(y, [constant, variable, other])
    assert gradients[0] is None
    assert float(gradients[1]) == 2
    assert gradients[2] is None


# --- Cost and memory ------------------------------------------------------------------------------


def multiply_adds(graph) -> int:
    """Count the multiplications in all matrix products of a graph."""
    total = 0
    for operation in graph.get_operations():
        if operation.type == "MatMul":
            rows = operation.outputs[0].shape
            first = operation.inputs[0].shape
            inner = first[0 if operation.get_attr("transpose_a") else 1]
            total += rows[0] * rows[1] * inner
    return total


def test_a_gradient_of_example_03_costs_as_much_as_the_note_says():
    network = example03_mnist_mlp.Network(example03_mnist_mlp.HIDDEN, tf.float32, seed=0)
    images = tf.TensorSpec([8, 28, 28, 1], tf.uint8)
    labels = tf.TensorSpec([8], tf.int32)

    @tf.function
    def forward(images, labels):
        return example03_mnist_mlp.mean_loss(network(images), labels)

    @tf.function
    def gradient(images, labels):
        with tf.GradientTape() as tape:
            loss = example03_mnist_mlp.mean_loss(network(images), labels)
        return tape.gradient(loss, network.trainable_variables)

    counts = [
        multiply_adds(f.get_concrete_function(images, labels).graph) for f in (forward, gradient)
    ]
    assert counts[0] == 8 * (784 * 512 + 512 * 512 + 512 * 10)
    assert f"comes to {counts[1] / counts[0]:.1f}." in " ".join(NOTE.read_text().split())


def test_example_05_keeps_as_many_numbers_as_the_note_says():
    layers = example04_mnist_cnn_layers.make_model().layers  # the same network
    computing = (tf.keras.layers.Conv2D, tf.keras.layers.MaxPooling2D, tf.keras.layers.Dense)
    numbers = sum(np.prod(x.output.shape[1:]) for x in layers if isinstance(x, computing))
    network = example05_mnist_cnn_nn.Network(tf.float32, seed=0)
    weights = sum(int(tf.size(variable)) for variable in network.trainable_variables)
    text = " ".join(NOTE.read_text().split())
    batch = example05_mnist_cnn_nn.BATCH_SIZE
    assert f"out {numbers:,} numbers for an image" in text
    assert f"{numbers * batch / 1e6:.1f} million for a batch of {batch}" in text
    assert f"beside {weights:,} weights" in text


# --- Central differences --------------------------------------------------------------------------


def test_central_differences_are_best_in_between():
    errors = training.errors_of_differences()
    double, single = errors["float64"], errors["float32"]
    assert double[1] / double[0] == pytest.approx(1e-2, rel=0.1)  # of order h squared
    assert double[2] / double[1] == pytest.approx(1e-2, rel=0.1)
    best = training.STEP_LENGTHS[double.argmin()]
    assert best in (pytest.approx(1e-4), pytest.approx(1e-5))
    assert double.min() < 1e-8 < 1e-6 < double[-1]
    assert single.min() > 1e-4  # three digits and no more
    assert training.STEP_LENGTHS[single.argmin()] >= 1e-3 * 0.99
    assert single[-1] == 1  # float32 sees no difference at all


def test_the_table_of_central_differences_is_up_to_date():
    def powers(text):
        return [[int(n) for n in re.findall(r"10\^\{(-?\d+)\}", line)] for line in text.split("\n")]

    made, written = training.check_table(), (GENERATED / "training_check.md").read_text()
    rows = zip([p for p in powers(made) if p], [p for p in powers(written) if p], strict=True)
    for now, then in rows:
        assert np.abs(np.subtract(now, then)).max() <= 1  # rounding errors differ by machine
        assert now[0] == then[0]


# --- Surfaces and descents ------------------------------------------------------------------------


def test_swapping_units_changes_nothing_but_halfway_it_is_worse():
    network = training.trained_network()
    twin, data = training.twin(network), training.digits()
    loss = training.forward(network, *data)[0]
    assert training.forward(twin, *data)[0] == pytest.approx(loss, rel=1e-9)
    halfway = [(first + second) / 2 for first, second in zip(network, twin, strict=True)]
    assert training.forward(halfway, *data)[0] > 5 * loss
    assert f"{sum(part.size for part in network):,} weights" in NOTE.read_text()


@pytest.mark.parametrize("share, converges", [(0.1, True), (0.99, True), (1.01, False)])
def test_gradient_descent_converges_below_two_over_the_largest_curvature(share, converges):
    losses = training.valley_loss(training.descend(share * 2 / training.LARGEST, 0, 1000))
    assert (losses[-1] < 1e-3 * losses[0]) == converges
    if not converges:
        assert losses[-1] > 1e3 * losses[0]


def test_a_step_lowers_the_loss_by_what_the_theorem_says():
    largest = np.linalg.eigvalsh(training.valley())[-1]
    assert largest == pytest.approx(training.LARGEST)
    rng = np.random.default_rng(0)
    for share in (0.1, 0.5, 0.95):
        rate = share * 2 / largest
        place = rng.normal(size=2)
        gradient = training.valley() @ place
        before, after = training.valley_loss(np.stack([place, place - rate * gradient]))
        assert before - after >= rate * (1 - rate * largest / 2) * gradient @ gradient - 1e-12


def test_the_best_rate_is_close_to_one_that_makes_it_worse(monkeypatch):
    assert {0.5, 1, 2, 4} < set(training.DIGIT_RATES)
    monkeypatch.setattr(training, "DIGIT_RATES", [training.DIGIT_RATES[0], 0.5, 1, 2, 4])
    losses = training.losses_by_rate()
    best, start = losses.argmin(), np.log(10)
    assert losses[best + 1] > start > losses[best]  # the next rate is twice the best
    assert losses[0] > 0.9 * start  # too small: hardly any progress
    assert np.all(np.diff(losses[: best + 1]) < 0)


def test_momentum_is_as_fast_as_theory_says():
    kappa = training.LARGEST / training.SMALLEST
    factors = {}
    for name, settings in training.METHODS.items():
        distances = np.linalg.norm(training.descend(steps=80, **settings), axis=1)
        factors[name] = (distances[60] / distances[20]) ** (1 / 40)
    plain, root = (kappa - 1) / (kappa + 1), (kappa**0.5 - 1) / (kappa**0.5 + 1)
    assert factors["gradient descent"] == pytest.approx(plain, abs=0.001)
    assert factors["heavy ball"] == pytest.approx(root, abs=0.03)
    assert factors["heavy ball"] < factors["Nesterov"] < factors["gradient descent"]
    assert f"here {plain:.2f} and {root:.2f}" in " ".join(NOTE.read_text().split())


# --- Update rules ---------------------------------------------------------------------------------


def steps_of_keras(optimizer, rates) -> np.ndarray:
    """Descend the valley with a Keras optimizer, one step for each rate."""
    matrix = tf.constant(training.valley(), tf.float64)
    place = tf.Variable(training.valley_start(), dtype=tf.float64)
    places = [place.numpy()]
    for rate in rates:
        optimizer.learning_rate = rate
        optimizer.apply([tf.linalg.matvec(matrix, place)], [place])
        places.append(place.numpy())
    return np.array(places)


@pytest.mark.parametrize("nesterov", [False, True])
def test_both_conventions_of_momentum_agree_while_the_rate_is_constant(nesterov):
    sgd = tf.keras.optimizers.SGD(0.02, momentum=0.8, nesterov=nesterov)
    ours = training.descend(0.02, 0.8, 20, nesterov)
    np.testing.assert_allclose(steps_of_keras(sgd, [0.02] * 20), ours, rtol=1e-4, atol=1e-5)


def test_they_differ_when_the_rate_falls():
    sgd = tf.keras.optimizers.SGD(0.02, momentum=0.8, nesterov=True)
    keras = steps_of_keras(sgd, [0.02, 0.02, 0.002])
    place, velocity = training.valley_start(), np.zeros(2)
    for rate in (0.02, 0.02, 0.002):
        gradient = training.valley() @ place
        velocity = 0.8 * velocity + gradient
        place = place - rate * (gradient + 0.8 * velocity)
    assert np.linalg.norm(keras[-1] - place) > 0.1


def test_nesterov_stores_the_place_that_is_looked_ahead_to():
    matrix, rate, momentum = training.valley(), 0.02, 0.8
    place, velocity = training.valley_start(), np.zeros(2)
    ahead = [place]
    for _ in range(10):
        velocity = momentum * velocity - rate * matrix @ (place + momentum * velocity)
        place = place + velocity
        ahead.append(place + momentum * velocity)
    np.testing.assert_allclose(ahead, training.descend(rate, momentum, 10, True), rtol=1e-12)


def test_a_steady_gradient_is_multiplied_by_momentum():
    velocity = 0.0
    for _ in range(500):
        velocity = 0.9 * velocity + 1
    assert velocity == pytest.approx(10)


def test_adam_of_example_05_is_that_of_keras_and_does_not_see_the_scale_of_the_loss():
    def ours(scale, steps=30, rate=0.05):
        place, mean, square = training.valley_start(), 0, 0
        for step in range(1, steps + 1):
            gradient = scale * training.valley() @ place
            mean = example05_mnist_cnn_nn.MEAN_DECAY * mean + 0.1 * gradient
            square = example05_mnist_cnn_nn.SQUARE_DECAY * square + 0.001 * gradient**2
            now = rate * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            place = place - now * mean / (np.sqrt(square) + example05_mnist_cnn_nn.TINY)
        return place

    keras = steps_of_keras(tf.keras.optimizers.Adam(0.05), [0.05] * 30)[-1]
    np.testing.assert_allclose(ours(1), keras, rtol=1e-3)
    np.testing.assert_allclose(ours(1000), ours(1), rtol=1e-5)
    first = ours(1, steps=1) - training.valley_start()
    np.testing.assert_allclose(np.abs(first), 0.05, rtol=1e-4)


def test_without_its_correction_adam_begins_with_steps_that_are_too_long():
    lengths = training.adam_step(5000, corrected=False)
    assert 6 < lengths.max() < 7
    assert lengths[0] == pytest.approx(10**0.5)
    np.testing.assert_allclose(training.adam_step(5000, corrected=True), 1)


def test_muon_of_example_06_makes_a_step_about_equally_long_in_all_directions():
    rng = np.random.default_rng(0)
    left, _ = np.linalg.qr(rng.normal(size=(288, 32)))
    right, _ = np.linalg.qr(rng.normal(size=(32, 32)))
    sizes = np.geomspace(1, 0.05, 32)  # a matrix that is long in few directions
    matrix = tf.constant((left * sizes) @ right, tf.float32)
    after = np.linalg.svd(example06_cifar10_cnn_nn.orthogonal(matrix, tf.float32), compute_uv=False)
    assert after.max() / after.min() < 3 < sizes.max() / sizes.min()
    assert 0.4 < after.min() < after.max() < 1.3


# --- Batches --------------------------------------------------------------------------------------


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
    pairs = np.array([gradient(b) for b in itertools.product(range(8), repeat=2)])
    variance = np.mean(np.sum((pairs - whole) ** 2, axis=1))
    assert variance == pytest.approx(single / 2, rel=1e-9)  # with putting back


def test_smaller_batches_get_further_by_images_and_larger_ones_by_steps(monkeypatch):
    monkeypatch.setattr(training, "BATCH_RATES", 2.0 ** np.arange(-3, 2))  # the best ones
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


# --- Schedules ------------------------------------------------------------------------------------


def test_the_expected_loss_is_the_mean_of_many_noisy_descents():
    rates = training.PEAK * training.schedules()["one cycle"][:60]
    rng, curvatures = np.random.default_rng(0), np.array([training.SMALLEST, training.LARGEST])
    places = np.tile(training.START, (20_000, 1))
    for rate in rates:
        noise = rng.normal(0, training.NOISE**0.5, places.shape)
        places = places - rate * (curvatures * places + noise)
    mean = np.mean(0.5 * places**2 @ curvatures)
    assert mean == pytest.approx(training.expected_losses(rates)[-1], rel=0.03)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.08])
def test_a_constant_rate_settles_where_the_note_says(rate):
    settled = training.expected_losses(np.full(3000, rate))[-1]
    curvatures = np.array([training.SMALLEST, training.LARGEST])
    assert settled == pytest.approx(np.sum(rate * training.NOISE / (4 - 2 * rate * curvatures)))


def test_all_schedules_that_fall_end_below_all_that_do_not():
    last = {
        name: training.expected_losses(training.PEAK * shares)[-1]
        for name, shares in training.schedules().items()
    }
    constant = [loss for name, loss in last.items() if name.startswith("constant")]
    falling = [loss for name, loss in last.items() if not name.startswith("constant")]
    assert max(falling) * 10 < min(constant)
    assert max(falling) < 2 * min(falling)


def test_one_cycle_is_that_of_the_examples():
    shares = training.schedules()["one cycle"]
    steps = training.SCHEDULE_STEPS
    for example in (example03_mnist_mlp, example06_cifar10_cnn_nn):
        assert example.WARM_UP == 0.1
        expected = [example.one_cycle((step + 1) / (steps + 1)) for step in range(steps)]
        np.testing.assert_allclose(shares, expected)
    assert example04_mnist_cnn_layers.WARM_UP == example05_mnist_cnn_nn.WARM_UP == 0.2
