"""Checks note 11: which reader reads which format now, what its files hold, whose code is run, and
that its listing reads TFRecord files.
"""

import re
import sys
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import programs  # noqa: E402

figures = programs.figures("tools")
GENERATED = ROOT / "docs" / "notes" / "_generated"
PAGE = (ROOT / "docs" / "notes" / "11_tools.md").read_text()


def generated(name):
    """Return a table without the line that says who made it."""
    return (GENERATED / f"{name}.md").read_text().partition("-->")[2].strip()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    network = figures.trained_network()
    return network, figures.write_all(network, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    network = figures.trained_network(figures.UNITS)
    return network, figures.write_all(network, tmp_path_factory.mktemp("large"))


# --- Formats --------------------------------------------------------------------------------------


def test_every_cell_of_the_table_of_readers(small):
    outcomes = figures.try_all(*small)
    assert len(outcomes) == len(figures.READERS) * len(figures.FORMATS)
    assert figures.readers_table(outcomes) == generated("tools_readers")
    noted = {pair for pair, outcome in outcomes.items() if outcome == figures.PARTLY}
    assert noted <= set(figures.NOTED)


def test_readers_notice_a_file_of_another_network(small, tmp_path):
    """What is compared really is: a file with other weights passes with no reader."""
    network, _ = small
    others = figures.write_all(figures.make_network(7), tmp_path)
    outcomes = figures.try_all(network, others)
    assert set(outcomes.values()) <= {figures.NO, figures.WEIGHTS}
    wrong = {pair for pair, outcome in outcomes.items() if outcome != figures.NO}
    assert not wrong


def test_a_restore_that_loads_nothing_says_so_only_when_asked(small):
    _, paths = small
    before = figures.make_network(1)
    for name in ("V1", "V2, names", "SavedModel"):
        status = tf.train.Checkpoint(model=before).restore(str(paths[name]))
        with pytest.raises(AssertionError):
            status.assert_consumed()
    for found, expected in zip(before.weights, figures.make_network(1).weights, strict=True):
        assert np.array_equal(found, expected)


def test_a_session_does_not_find_the_variables_of_a_keras_model_saved_by_tensorflow(
    small, tmp_path
):
    network, _ = small
    tf.saved_model.save(network, str(tmp_path))
    with pytest.raises(tf.errors.FailedPreconditionError):
        figures.try_session(tmp_path, {}, network(figures.EXAMPLES).numpy())


def test_a_saved_model_as_a_layer_can_be_trained_and_has_no_layers(small):
    network, paths = small
    layer = tf.keras.layers.TFSMLayer(str(paths["SavedModel"]), call_endpoint="serve")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(figures.EXAMPLES) ** 2)
    gradients = tape.gradient(loss, [v.value for v in layer.trainable_weights])
    assert len(gradients) == len(network.trainable_weights)
    assert all(gradient is not None for gradient in gradients)
    assert not hasattr(layer, "layers")


def test_contents_and_sizes(large):
    network, paths = large
    assert f"{network.count_params():,} weights" in PAGE
    found, written = figures.contents_table(network, paths), generated("tools_contents")
    number = r"\d+\.\d\d"
    assert re.sub(number, "", found) == re.sub(number, "", written)
    sizes = [list(map(float, re.findall(number, table))) for table in (found, written)]
    np.testing.assert_allclose(*sizes, atol=0.02)  # a graph holds names, and Keras' file a date
    assert dict(zip(figures.FORMATS, sizes[0], strict=False)) == pytest.approx(
        {
            "V1": 1,
            "V2, names": 1,
            "V2, objects": 3,
            "SavedModel": 2,  # each weight twice
            ".keras": 3,
            ".weights.h5": 3,
            ".h5, whole": 3,
            ".npz": 1,
        },
        abs=0.15,
    )


def test_without_adam_all_files_but_the_saved_model_are_small(monkeypatch, tmp_path):
    compile_network = tf.keras.Sequential.compile
    monkeypatch.setattr(
        tf.keras.Sequential, "compile", lambda self, _, loss: compile_network(self, "sgd", loss)
    )
    network = figures.trained_network(figures.UNITS)
    paths = figures.write_all(network, tmp_path)
    large = {
        name
        for name, (_, size) in figures.sizes(network, paths).items()
        if size > 1.2 * 4 * network.count_params()
    }
    assert large == {"SavedModel"}
    assert not figures.keeps_optimiser(network, paths[".keras"])


def test_export_writes_the_weights_twice(small):
    _, paths = small
    reader = tf.train.load_checkpoint(str(paths["SavedModel"] / "variables" / "variables"))
    tops = {name.split("/")[0] for name in reader.get_variable_to_shape_map()}
    assert {"variables", "_all_variables"} <= tops


def test_training_goes_on_where_the_optimiser_is_kept(small):
    """A whole model that is read again makes the same next step as the one that was written."""
    network, paths = small
    again = tf.keras.models.load_model(paths[".keras"])
    assert again.optimizer.iterations == network.optimizer.iterations > 0
    for found, expected in zip(again.optimizer.variables, network.optimizer.variables, strict=True):
        assert np.array_equal(found, expected)


# --- Code -----------------------------------------------------------------------------------------


def test_whose_code_is_run(tmp_path):
    trials = figures.code_trials(tmp_path)
    assert figures.code_table(trials) == generated("tools_code")
    assert {how for _, how, ran in trials if not ran} == {
        "`np.load`",
        "`load_model`",
        "`tf.saved_model.load`",
    }


def test_hdf5_can_take_an_array_from_another_file(small, tmp_path):
    network, _ = small
    path, other = tmp_path / "model.weights.h5", tmp_path / "other"
    other.write_bytes(bytes(range(16)))
    network.save_weights(path)
    with h5py.File(path, "a") as file:
        place = "layers/conv2d/vars/1"
        shape = file[place].shape
        del file[place]
        file.create_dataset(place, shape, "<f4", external=[(str(other), 0, 16)])
    with h5py.File(path) as file:
        assert file[place][()].tobytes() == other.read_bytes()
    with pytest.raises(ValueError, match="external"):
        figures.make_network(1).load_weights(path)


# --- TFRecord -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def listing():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {}
    exec(code, names)
    return names


def test_the_listing_reads_what_tensorflow_writes(listing, tmp_path):
    path = tmp_path / "some.tfrecord"
    rng = np.random.default_rng(0)
    records = [b"", b"seven", *(rng.bytes(size) for size in (1, 300, 5000))]
    with tf.io.TFRecordWriter(str(path)) as file:
        for record in records:
            file.write(record)
    assert list(listing["read_records"](path)) == records
    parts = figures.record_parts(path.read_bytes())
    assert [content for name, content in parts if name == "data"] == records


def test_the_checksum_is_crc32c(listing):
    """The check value of CRC-32C, of the string "123456789", is 0xe3069283."""
    masked = listing["masked_crc32c"](b"123456789")
    turned = (masked - 0xA282EAD8) % 2**32
    assert (turned << 15 | turned >> 17) % 2**32 == 0xE3069283


@pytest.mark.parametrize("place", [3, 9, 13, 18])
def test_damage_is_noticed(listing, tmp_path, place):
    path = tmp_path / "damaged.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as file:
        file.write(b"seven")
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(AssertionError):
        list(listing["read_records"](path))
    with pytest.raises(tf.errors.DataLossError):
        list(tf.data.TFRecordDataset(str(path)))


def test_reading_as_example_10_measured_it():
    table = figures.reading_table()
    assert table == generated("tools_reading")
    rows = [re.findall(r"[\d,]+(?= \|)", line) for line in table.splitlines()[2:]]
    _, files, shards, decoded, pipeline, learning = (int(row[0].replace(",", "")) for row in rows)
    assert shards / files > 5  # "many times as fast"
    assert learning < pipeline < decoded < files
    photographs = int(rows[0][0].replace(",", ""))
    # "more than half of the time that the network needs to learn from an image"
    assert 0.5 < learning / photographs < 1


# --- Number formats -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", figures.NUMBERS)
def test_number_formats(name):
    expected = ml_dtypes.finfo(name)
    found = figures.number_format(*figures.NUMBERS[name])
    assert found["largest"] == float(expected.max)
    assert found["smallest"] == float(expected.smallest_normal)
    assert found["step"] == float(expected.eps)
    assert expected.bits == 1 + sum(figures.NUMBERS[name])
    assert figures.numbers_table() == generated("tools_numbers")


def test_small_updates_are_lost_in_16_bits():
    for name in ("float16", "bfloat16"):
        dtype = tf.as_dtype(name)
        step = figures.number_format(*figures.NUMBERS[name])["step"]
        one = tf.ones([], dtype)
        assert one + tf.cast(0.4 * step, dtype) == one
        assert one + tf.cast(step, dtype) > one
