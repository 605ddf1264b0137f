"""Note 11: which reader reads which format, whose code is run, TFRecord files, number formats."""

import re

import ml_dtypes
import notes
import numpy as np
import programs
import pytest
import tensorflow as tf

figures = programs.figures("tools")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    network = figures.trained_network()
    return network, figures.write_all(network, tmp_path_factory.mktemp("small"))


def test_every_cell_of_the_table_of_readers(small):
    outcomes = figures.try_all(*small)
    assert len(outcomes) == len(figures.READERS) * len(figures.FORMATS)
    assert figures.readers_table(outcomes) == notes.generated("tools_readers")
    noted = {pair for pair, outcome in outcomes.items() if outcome == figures.PARTLY}
    assert noted <= set(figures.NOTED)


def test_no_reader_takes_a_file_of_another_network_for_this_one(small, tmp_path):
    others = figures.write_all(figures.make_network(7), tmp_path)
    assert set(figures.try_all(small[0], others).values()) == {figures.NO}


def test_a_restore_that_loads_nothing_says_so_only_when_asked(small):
    _, paths = small
    before = figures.make_network(1)
    for name in ("V1", "V2, names", "SavedModel"):
        status = tf.train.Checkpoint(model=before).restore(str(paths[name]))
        with pytest.raises(AssertionError):
            status.assert_consumed()
    for found, expected in zip(before.weights, figures.make_network(1).weights, strict=True):
        assert np.array_equal(found, expected)


def test_what_the_footnotes_say_of_saved_models(small, tmp_path):
    network, paths = small
    tf.saved_model.save(network, str(tmp_path))  # Keras' model, not by its own export
    with pytest.raises(tf.errors.FailedPreconditionError):
        figures.try_session(tmp_path, {}, network(figures.EXAMPLES).numpy())
    inside = tf.train.load_checkpoint(str(paths["SavedModel"] / "variables" / "variables"))
    tops = {name.split("/")[0] for name in inside.get_variable_to_shape_map()}
    assert {"variables", "_all_variables"} <= tops  # each weight twice
    layer = tf.keras.layers.TFSMLayer(str(paths["SavedModel"]), call_endpoint="serve")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(figures.EXAMPLES) ** 2)
    gradients = tape.gradient(loss, [v.value for v in layer.trainable_weights])
    assert len(gradients) == len(network.trainable_weights)
    assert all(gradient is not None for gradient in gradients) and not hasattr(layer, "layers")


def test_contents_and_sizes(tmp_path):
    network = figures.trained_network(figures.UNITS)
    paths = figures.write_all(network, tmp_path)
    found, written = figures.contents_table(network, paths), notes.generated("tools_contents")
    number = r"\d+\.\d\d"
    assert re.sub(number, "", found) == re.sub(number, "", written)
    sizes = [list(map(float, re.findall(number, table))) for table in (found, written)]
    np.testing.assert_allclose(*sizes, atol=0.02)  # a graph holds names, and Keras' file a date
    once, twice, with_adam = 1, 2, 3
    wanted = [once, once, with_adam, twice, with_adam, with_adam, with_adam, once]
    np.testing.assert_allclose(sizes[0][: len(figures.FORMATS)], wanted, atol=0.15)


def test_a_file_of_a_network_without_adam_has_no_state_of_it(tmp_path):
    network = figures.make_network(0)
    network.compile("sgd", network.loss)
    network.fit(figures.EXAMPLES, figures.LABELS, verbose=0)
    paths = figures.write_all(network, tmp_path)
    assert not figures.keeps_optimiser(network, paths[".keras"])


def test_whose_code_is_run(tmp_path):
    trials = figures.code_trials(tmp_path)
    assert figures.code_table(trials) == notes.generated("tools_code")
    not_run = {how for _, how, ran in trials if not ran}
    assert not_run == {"`np.load`", "`load_model`", "`tf.saved_model.load`"}


def test_the_listing_reads_what_tensorflow_writes_and_notices_damage(tmp_path):
    names = notes.run_listings(11)
    masked = names["masked_crc32c"](b"123456789")
    turned = (masked - 0xA282EAD8) % 2**32
    assert (turned << 15 | turned >> 17) % 2**32 == 0xE3069283  # the check value of CRC-32C

    path, rng = tmp_path / "some.tfrecord", np.random.default_rng(0)
    records = [b"seven", b"", *(rng.bytes(size) for size in (1, 300, 5000))]
    with tf.io.TFRecordWriter(str(path)) as file:
        for record in records:
            file.write(record)
    whole = path.read_bytes()
    assert list(names["read_records"](path)) == records
    parts = figures.record_parts(whole)
    assert [content for name, content in parts if name == "data"] == records
    for place in (3, 9, 13, 18):  # in each of the four parts of the first record
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(AssertionError):
            list(names["read_records"](path))
        with pytest.raises(tf.errors.DataLossError):
            list(tf.data.TFRecordDataset(str(path)))


@pytest.mark.parametrize("name", figures.NUMBERS)
def test_number_formats(name):
    expected = ml_dtypes.finfo(name)
    found = figures.number_format(*figures.NUMBERS[name])
    assert found["largest"] == float(expected.max)
    assert found["smallest"] == float(expected.smallest_normal)
    assert found["step"] == float(expected.eps)
    assert expected.bits == 1 + sum(figures.NUMBERS[name])
