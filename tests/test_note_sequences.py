"""Note 8: recurrent networks and LSTMs against Keras, gradients through time, autoencoders."""

import notes
import numpy as np
import programs
import pytest
import tensorflow as tf

sequences = programs.figures("sequences")


@pytest.fixture(scope="module")
def data():
    return sequences.digits()


def keras_weights(layer, inputs, seed=0):
    """Build a layer with random weights, the biases too, and return them."""
    layer.build([None, None, inputs])
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.normal(0, 0.5, w.shape) for w in layer.get_weights()])
    return layer.get_weights()


def test_both_cells_and_the_listing_compute_what_those_of_keras_do():
    x = np.random.default_rng(1).normal(size=(7, 3, 5)).astype(np.float32)  # steps, N, inputs
    for kind, step in (
        (tf.keras.layers.SimpleRNN, sequences.rnn_step),
        (tf.keras.layers.LSTM, sequences.lstm_step),
    ):
        layer = kind(4, return_sequences=True)
        weights = keras_weights(layer, 5)
        expected = layer(x.swapaxes(0, 1)).numpy().swapaxes(0, 1)
        ours = sequences.outputs(step, tf.constant(x), weights)
        np.testing.assert_allclose(ours, expected, atol=1e-6)
    names = notes.run_listings(8)
    assert names["reader"].output_shape == (None, 10)
    np.testing.assert_allclose(names["lstm"](x.swapaxes(0, 1), *weights), expected[-1], atol=1e-5)


def test_lstms_start_as_those_of_keras():
    ours = sequences.new_lstm(1.0, inputs=2, units=3, networks=1)
    layer = tf.keras.layers.LSTM(3)
    layer.build([None, None, 2])
    assert ours[2][0, 0].tolist() == layer.get_weights()[2].tolist() == [0] * 3 + [1] * 3 + [0] * 6
    np.testing.assert_allclose(ours[1][0] @ ours[1][0].T, np.eye(3), atol=1e-12)
    assert 0.9 < np.abs(ours[0]).max() / np.sqrt(6 / (2 + 12)) < 1


def test_a_gradient_may_explode_below_a_spectral_radius_of_one():
    radius, norms = sequences.exploding_below_one(30)
    assert radius == pytest.approx(0.5)
    np.testing.assert_allclose(norms[1:] / norms[:-1], 1.46)


def test_a_spectral_radius_above_one_vanishes_where_units_are_saturated():
    below, at, above = sequences.RADII
    weak, strong = sequences.INPUT_SCALES
    assert below < 1 == at < above
    last = {}
    for radius in sequences.RADII:
        for scale in sequences.INPUT_SCALES:
            weights = sequences.new_rnn(radius, scale, inputs=8)
            last[radius, scale] = sequences.gradient_norms(sequences.rnn_step, weights)[-1]
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


@pytest.mark.slow
def test_what_is_remembered_depends_on_the_start():
    at_20, at_40 = (sequences.memory_accuracies(delay) for delay in (20, 40))
    for name in ("plain, radius 1", "LSTM, bias 3"):
        assert min(*at_20[name], *at_40[name]) > 0.95, name
    assert max(*at_20["LSTM, bias 0"], *at_40["LSTM, bias 0"]) < 0.4
    assert np.mean(at_20["LSTM, bias 1"]) > 0.8 > 0.4 > max(at_40["LSTM, bias 1"])
    assert np.mean(at_20["plain, radius 0.8"]) > 0.8 > 0.6 > np.mean(at_40["plain, radius 0.8"])


def test_table_of_codes(data):
    train, test = sequences.as_rows(data.train_images), sequences.as_rows(data.test_images)
    axes, table = sequences.principal(train), notes.numbers("sequences_codes")
    assert list(table) == [str(code) for code in sequences.CODES]
    for code, (pca_train, trained, pca_test, tested) in table.items():
        projection = sequences.pca(axes, int(code))
        errors = [1000 * sequences.error(projection(rows), rows) for rows in (train, test)]
        np.testing.assert_allclose([pca_train, pca_test], errors, atol=0.0501)
        assert trained < pca_train
        assert (tested < pca_test) == (code in ("2", "8"))  # with 32, it overfits


def test_table_of_denoising(data):
    test, table = sequences.as_rows(data.test_images), notes.numbers("sequences_denoising")
    noisy_rows = sequences.with_noise(test, sequences.NOISE, np.random.default_rng(4))
    methods = {"noisy image": lambda images: images, **sequences.baselines(data)}
    assert list(table) == [*methods, "denoising autoencoder"]
    for name, method in methods.items():
        error = 1000 * sequences.error(method(noisy_rows), test)
        assert table[name][0] == pytest.approx(error, abs=0.06)
    noisy, median, gaussian, pca, network = table.values()  # digits, mirrored, negatives
    assert network[0] < pca[0] < gaussian[0] < median[0] < noisy[0]
    assert network[1] < pca[1] < gaussian[1] and network[1] > 2 * network[0]
    assert pca[1] > 1.5 * pca[0]
    assert min(pca[2], network[2]) > 3 * noisy[2]
    np.testing.assert_allclose([gaussian, median], [gaussian[:1] * 3, median[:1] * 3], rtol=0.02)
