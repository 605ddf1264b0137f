"""Note 8 and docs/figures/sequences.py: recurrent networks, LSTM, autoencoders."""

import re

import numpy as np
import pytest
from programs import ROOT, figures

sequences = figures("sequences")
from examples.common import tf  # noqa: E402

NOTE = (ROOT / "docs" / "notes" / "08_sequences_and_autoencoders.md").read_text()
GENERATED = ROOT / "docs" / "notes" / "_generated"


def table(name):
    """Read the rows of a generated table: {first cell: the numbers behind it}."""
    lines = (GENERATED / f"{name}.md").read_text().strip().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rows = [row for row in rows if re.fullmatch(r"[\d.]+", row[-1])]
    return {row[0]: list(map(float, row[1:])) for row in rows}


@pytest.fixture(scope="module")
def data():
    return sequences.digits()


# --- Recurrent networks ---------------------------------------------------------------------------


def keras_weights(layer, inputs, seed=0):
    """Build a layer with random weights, the biases too, and return them."""
    layer.build([None, None, inputs])
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.normal(0, 0.5, w.shape) for w in layer.get_weights()])
    return layer.get_weights()


def test_both_cells_compute_what_those_of_keras_do():
    x = np.random.default_rng(1).normal(size=(7, 3, 5)).astype(np.float32)  # steps, N, inputs
    for kind, step in (
        (tf.keras.layers.SimpleRNN, sequences.rnn_step),
        (tf.keras.layers.LSTM, sequences.lstm_step),
    ):
        layer = kind(4, return_sequences=True)
        weights = keras_weights(layer, 5)
        ours = sequences.outputs(step, tf.constant(x), weights)
        np.testing.assert_allclose(ours, layer(x.swapaxes(0, 1)).numpy().swapaxes(0, 1), atol=1e-6)


def test_the_listings_of_the_note_run_and_the_lstm_in_them_is_that_of_keras():
    names = {}
    for listing in re.findall(r"```python\n(.*?)```", NOTE, re.DOTALL):
        exec(listing, names)
    assert names["reader"].output_shape == (None, 10)
    layer = tf.keras.layers.LSTM(6)
    weights = keras_weights(layer, 28)
    x = np.random.default_rng(2).random((4, 28, 28), np.float32)
    np.testing.assert_allclose(names["lstm"](x, *weights), layer(x), atol=1e-5)


def test_only_the_forget_gate_starts_with_a_bias_of_one_in_keras_and_it_is_the_second():
    layer = tf.keras.layers.LSTM(3)
    layer.build([None, None, 2])
    assert layer.get_weights()[2].tolist() == [0] * 3 + [1] * 3 + [0] * 6
    ours = sequences.new_lstm(1.0, inputs=2, units=3, networks=1)
    assert ours[2][0, 0].tolist() == [0] * 3 + [1] * 3 + [0] * 6
    np.testing.assert_allclose(ours[1][0] @ ours[1][0].T, np.eye(3), atol=1e-12)


def test_back_propagation_through_time_as_the_note_writes_it():
    rng = np.random.default_rng(3)
    x, direction = rng.normal(size=(6, 2, 3)), rng.normal(size=(2, 4))
    weights = [tf.constant(rng.normal(0, 0.6, shape)) for shape in ((3, 4), (4, 4), (4,))]
    with tf.GradientTape() as tape:
        tape.watch(weights)
        h = sequences.outputs(sequences.rnn_step, tf.constant(x), weights)
        loss = tf.reduce_sum(h[-1] * direction)
    expected = tape.gradient(loss, weights[1])

    h = [np.zeros((2, 4)), *(state.numpy() for state in h)]
    delta, gradient = direction * (1 - h[-1] ** 2), 0
    for t in range(6, 0, -1):
        gradient += h[t - 1].T @ delta
        delta = (delta @ weights[1].numpy().T) * (1 - h[t - 1] ** 2)
    np.testing.assert_allclose(gradient, expected, atol=1e-12)


# --- Gradients through time -----------------------------------------------------------------------


def test_a_gradient_may_explode_below_a_spectral_radius_of_one():
    radius, norms = sequences.exploding_below_one(30)
    assert radius == pytest.approx(0.5)
    np.testing.assert_allclose(norms[1:] / norms[:-1], 1.46)


def test_it_cannot_explode_and_must_vanish_below_a_singular_value_of_one():
    rng = np.random.default_rng(4)
    recurrent = rng.normal(size=(8, 8))
    recurrent *= 0.9 / np.linalg.norm(recurrent, 2)
    h, product = np.zeros(8), np.eye(8)
    for step in range(1, 40):
        h = np.tanh(rng.normal(0, 0.1, 8) + h @ recurrent)
        product = product @ recurrent * (1 - h**2)
        assert np.linalg.norm(product, 2) <= 0.9**step


def test_without_tanh_the_spectral_radius_decides_though_not_at_once():
    matrix = np.array([[0.9, 5], [0, 0.9]])  # its largest singular value is above 5
    powers = [np.linalg.norm(np.linalg.matrix_power(matrix, n), 2) for n in (1, 10, 200)]
    assert powers[1] > powers[0] > 5
    assert powers[2] < 1e-5


def test_a_spectral_radius_above_one_vanishes_where_units_are_saturated():
    below, at, above = sequences.RADII
    weak, strong = sequences.INPUT_SCALES
    assert below < 1 == at < above
    last = {
        (radius, scale): sequences.gradient_norms(
            sequences.rnn_step, sequences.new_rnn(radius, scale, inputs=8)
        )[-1]
        for radius in sequences.RADII
        for scale in sequences.INPUT_SCALES
    }
    assert last[above, weak] > 10
    assert last[above, strong] < 1e-2
    assert last[below, strong] < last[below, weak] < last[at, weak] < 0.1


def test_how_fast_the_gradients_of_an_lstm_vanish_depends_on_the_bias_of_its_forget_gate():
    shrink = {}
    for bias in sequences.FORGET_BIASES:
        weights = sequences.new_lstm(bias, 8, sequences.UNITS, sequences.NETWORKS)
        norms = sequences.gradient_norms(sequences.lstm_step, weights)
        shrink[bias] = (norms[-1] / norms[1]) ** (1 / (len(norms) - 2))
    assert shrink[0.0] < 0.65
    assert shrink[1.0] == pytest.approx(0.83, abs=0.005)
    assert norms.min() > 0.3  # of the last bias, 3
    assert norms[-1] > 1.5 > norms[10]


def test_the_direct_path_of_the_cell_state_is_the_product_of_the_forget_gates_and_not_all():
    rng = np.random.default_rng(5)
    x = tf.constant(rng.normal(size=(6, 1, 3)))
    kernel, bias = rng.normal(size=(3, 8)), rng.normal(size=8)
    for recurrent, direct in ((np.zeros((2, 8)), True), (rng.normal(size=(2, 8)), False)):
        first, gates = tf.constant(rng.normal(size=(1, 2))), 1.0
        with tf.GradientTape() as tape:
            tape.watch(first)
            state = (tf.zeros([1, 2], tf.float64), first)
            for step in tf.unstack(x):
                sums = step @ kernel + state[0] @ recurrent + bias
                gates = gates * tf.sigmoid(sums[:, 2:4])
                state = sequences.lstm_step(step, state, (kernel, recurrent, bias))
        jacobian = tape.jacobian(state[1], first)[0, :, 0]  # (2, 2)
        product = np.diag(np.asarray(gates)[0])
        assert np.allclose(jacobian, product, atol=1e-12) == direct


def test_the_powers_in_the_text():
    assert [round(1 / (1 + np.exp(-b)), 2) for b in sequences.FORGET_BIASES] == [0.5, 0.73, 0.95]
    half, default = (1 / (1 + np.exp(-b)) for b in sequences.FORGET_BIASES[:2])
    np.testing.assert_allclose([half**40, default**40], [1e-12, 4e-6], rtol=0.15)


@pytest.mark.slow
def test_what_is_remembered_depends_on_the_start():
    at_20, at_40 = (sequences.memory_accuracies(delay) for delay in (20, 40))
    for name in ("plain, radius 1", "LSTM, bias 3"):
        assert min(*at_20[name], *at_40[name]) > 0.95, name
    assert max(*at_20["LSTM, bias 0"], *at_40["LSTM, bias 0"]) < 0.4
    assert np.mean(at_20["LSTM, bias 1"]) > 0.8 > 0.4 > max(at_40["LSTM, bias 1"])
    assert np.mean(at_20["plain, radius 0.8"]) > 0.8 > 0.6 > np.mean(at_40["plain, radius 0.8"])
    assert f"; {sequences.MEMORY_STEPS} steps)" in NOTE


# --- Autoencoders ---------------------------------------------------------------------------------


def test_a_linear_autoencoder_finds_the_subspace_of_pca_but_not_its_axes():
    rng = np.random.default_rng(6)
    rows = rng.normal(size=(200, 5)) * [3, 2, 1, 0.6, 0.3]
    rows = rows @ np.linalg.qr(rng.normal(size=(5, 5)))[0]
    rows -= rows.mean(axis=0)
    encoder, decoder = rng.normal(0, 0.3, (5, 2)), rng.normal(0, 0.3, (2, 5))
    for _ in range(5000):
        codes = rows @ encoder
        difference = (codes @ decoder - rows) / len(rows)
        encoder, decoder = (
            encoder - 0.03 * rows.T @ difference @ decoder.T,
            decoder - 0.03 * codes.T @ difference,
        )
    components = np.linalg.svd(rows)[2][:2]
    np.testing.assert_allclose(encoder @ decoder, components.T @ components, atol=1e-5)
    axes = decoder / np.linalg.norm(decoder, axis=1, keepdims=True)
    assert np.abs(axes @ components.T).max(axis=1).min() < 0.99


def test_the_errors_of_pca_in_the_table_are_those_of_now(data):
    train, test = sequences.as_rows(data.train_images), sequences.as_rows(data.test_images)
    axes = sequences.principal(train)
    assert list(table("sequences_codes")) == [str(code) for code in sequences.CODES]
    for code, numbers in table("sequences_codes").items():
        projection = sequences.pca(axes, int(code))
        errors = [1000 * sequences.error(projection(rows), rows) for rows in (train, test)]
        np.testing.assert_allclose(numbers[::2], errors, atol=0.0501)


def test_a_curved_autoencoder_is_better_than_pca_with_small_codes_and_overfits_with_32():
    assert f"trained for {sequences.EPOCHS} epochs" in NOTE
    for code, numbers in table("sequences_codes").items():
        pca_train, train, pca_test, test = numbers
        assert train < pca_train
        assert (test < pca_test) == (code in ("2", "8"))


def test_the_errors_of_the_filters_in_the_table_are_those_of_now(data):
    test = sequences.as_rows(data.test_images)
    noisy = sequences.with_noise(test, sequences.NOISE, np.random.default_rng(4))
    rows = table("sequences_denoising")
    methods = {"noisy image": lambda images: images, **sequences.baselines(data)}
    assert list(rows) == [*methods, "denoising autoencoder"]
    for name, method in methods.items():
        assert rows[name][0] == pytest.approx(1000 * sequences.error(method(noisy), test), abs=0.06)


def test_what_the_note_says_of_denoising():
    rows = table("sequences_denoising")
    names = list(rows)
    noisy, median, gaussian, pca, network = rows.values()
    assert names[-2].startswith("PCA") and names[-3].startswith("Gaussian")
    assert network[0] < pca[0] < gaussian[0] < median[0] < noisy[0]  # digits
    assert network[1] > 2 * network[0]  # mirrored
    assert pca[1] > 1.5 * pca[0]
    assert network[1] < pca[1] < gaussian[1]
    assert min(pca[2], network[2]) > 3 * noisy[2]  # negatives
    for numbers in (gaussian, median):
        np.testing.assert_allclose(numbers, numbers[0], rtol=0.02)


def test_the_decoder_is_larger_than_all_the_images_it_could_compress(data):
    network = sequences.Autoencoder(32)
    network(sequences.as_rows(data.test_images[:1]))
    weights = network.decoder.count_params()
    assert (f"{weights:,}", len(data.test_images)) == ("209,936", 254)
    assert f"{weights:,}" in NOTE
    assert 4 * weights > 4 * data.test_images.nbytes
