"""What all notes have in common: their tables are those of the code, and their listings run."""

import re

import notes
import numpy as np
import programs
import pytest
import tensorflow as tf

from examples import (
    example03_mnist_mlp,
    example04_mnist_cnn_layers,
    example05_mnist_cnn_nn,
    example06_cifar10_cnn_nn,
    example11_vgg16_cats_dogs,
    example14_cifar10_record,
    example15_detection_bccd,
    example16_segmentation_nuclei,
    example17_similarity_omniglot,
)

# The tables that are made at once, each by a function of the script it is named after. Those for
# which networks are trained are made anew by  pytest -m figures.
TABLES = {
    "activations_depth": lambda script: script.depth_table(script.measure_depth()),
    "activations_moments": lambda script: script.moments_table(),
    "convolution_costs": lambda script: script.costs_table(),
    "convolution_fields": lambda script: script.fields_table(),
    "convolution_moves": lambda script: script.moves_table(),
    "convolution_sizes": lambda script: script.sizes_table(),
    "crossentropy_overflow": lambda script: script.overflow_table(),
    "crossentropy_smoothing": lambda script: script.smoothing_table(),
    "tasks_definitions": lambda script: script.definitions_table(script.worked_example()),
    "tasks_detections": lambda script: script.detections_table(script.worked_example()),
    "tasks_masks": lambda script: script.masks_table(script.make_scene()),
    "tasks_retrieval": lambda script: script.retrieval_table(),
    "tasks_unbalanced": lambda script: script.unbalanced_table(),
    "tools_numbers": lambda script: script.numbers_table(),
    "tools_reading": lambda script: script.reading_table(),
    "training_backpropagation": lambda script: script.example_table(),
    "transfer_cache": lambda script: script.cache_table(),
    "transfer_pooling": lambda script: script.pooling_table(),
    "transfer_epoch": lambda script: script.benchmark_text(),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_what_its_script_makes_now(name):
    script = name.partition("_")[0]
    made = TABLES[name](programs.figures(script))
    assert made == notes.generated(name), f"python docs/figures/{script}.py makes it anew"


@pytest.mark.parametrize("number", [n for n in range(1, 12) if notes.listings(n)])
def test_listings_run_and_print_what_stands_beside_them(number, capsys):
    notes.run_listings(number)
    promised = re.findall(r"print\(.*# (\[.*?\])", "".join(notes.listings(number)))
    assert [line for line in capsys.readouterr().out.splitlines() if line[0] == "["] == promised


@pytest.mark.parametrize("number", range(1, 12))
def test_maths_survive_the_markdown_of_github(number):
    prose = re.sub(r"```.*?```|`[^`]*`", "", notes.text(number))
    spans = re.findall(r"\$\$.*?\$\$|\$[^$]+\$", prose)
    lost = r"\\[!-/:-@\[-`{-~]"  # of \, and \\ GitHub passes on a comma and a single backslash
    italics = r"[)}\]]_\{.*[)}\]]_\{"  # what is between two such underscores
    assert [span for span in spans if re.search(f"{lost}|{italics}", span)] == []


def count(variables):
    return sum(int(tf.size(variable)) for variable in variables)


def test_numbers_in_the_text_are_those_of_the_code():
    sequences, training = programs.figures("sequences"), programs.figures("training")
    fitting = programs.figures("fitting")
    digits, network = sequences.digits(), sequences.Autoencoder(32)
    network(np.zeros((1, 784), np.float32))
    kappa = training.LARGEST / training.SMALLEST
    plain, root = (kappa - 1) / (kappa + 1), (kappa**0.5 - 1) / (kappa**0.5 + 1)
    small = programs.figures("tools").make_network(0, programs.figures("tools").UNITS)
    convolutional = example05_mnist_cnn_nn.Network(tf.float32, seed=0)
    layers = example04_mnist_cnn_layers.make_model().layers  # the same network
    computing = (tf.keras.layers.Conv2D, tf.keras.layers.MaxPooling2D, tf.keras.layers.Dense)
    kept = sum(np.prod(x.output.shape[1:]) for x in layers if isinstance(x, computing))
    batch = example05_mnist_cnn_nn.BATCH_SIZE
    stated = {
        4: [
            f"{plain:.2f} and {root:.2f}",
            f"{count(training.new_network(0)):,}",
            f"{kept:,}",
            f"{kept * batch / 1e6:.1f} million",
            f"batch of {batch}",
            f"{count(convolutional.trainable_variables):,}",
        ],
        5: [f"{count(fitting.Networks(fitting.BASE, [0]).trainable_variables):,}"],
        8: [f"{count(network.decoder.weights):,}", f"{sequences.EPOCHS} epochs"],
        9: [f"{len(digits.test_images)} digits", f"{len(digits.train_images):,} others"],
        11: [f"{small.count_params():,}"],
    }
    for number, words in stated.items():
        assert [text for text in words if text not in notes.text(number)] == [], number


def test_settings_of_examples_that_notes_state():
    smoothing = {"04": example04_mnist_cnn_layers, "05": example05_mnist_cnn_nn}
    smoothing["14"] = example14_cifar10_record
    for share, users, *_ in notes.rows(notes.generated("crossentropy_smoothing")):
        for user in users.split(", "):
            assert float(share) == smoothing[user].LABEL_SMOOTHING
    examples = (example03_mnist_mlp, *smoothing.values(), example06_cifar10_cnn_nn)
    assert [example.WARM_UP for example in examples] == [0.1, 0.2, 0.2, 0.1, 0.2]
    tasks = (example15_detection_bccd, example16_segmentation_nuclei, example17_similarity_omniglot)
    assert {example.WARM_UP for example in tasks} == {0.1}
    top = example11_vgg16_cats_dogs
    assert pytest.approx(top.LEARNING_RATE / 50) == top.FINE_TUNE_RATE


def test_figures_and_tables_are_written_where_notes_look_for_them(tmp_path, monkeypatch):
    drawing = programs.figures("drawing")
    monkeypatch.setattr(drawing, "folder", tmp_path)
    texts = []
    for _ in range(2):
        figure, axis = drawing.plt.subplots()
        axis.plot([0, 1], color=drawing.BLUE)
        picture = drawing.save(figure, "some_picture")
        texts.append(picture.read_text())
    assert texts[0] == texts[1]  # no date, no random names
    assert "stroke: var(--blue)" in texts[0]  # and not the light page's
    assert picture == tmp_path / "images" / "some_picture.svg"
    table = drawing.table(["a", "b"], "lr", [["1", "2"]])
    (tmp_path / "notes").mkdir()
    note, other = tmp_path / "notes" / "1.md", tmp_path / "notes" / "2.md"
    begin, end = (
        "before\n<!-- some_table: made by docs/figures/some.py -->\n",
        "<!-- end of some_table -->\nx",
    )
    note.write_text(f"{begin}\nan older one\n\n{end}")
    other.write_text("another note")
    assert drawing.write(table, "some_table") == note
    assert note.read_text() == f"{begin}\n| a | b |\n| --- | ---: |\n| 1 | 2 |\n\n{end}"
    assert notes.generated("some_table", note.parent) == table
