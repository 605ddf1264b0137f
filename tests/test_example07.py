"""Checks example 07 on sample data: VGG16_10 and its stored parts, features, errors, stops."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from programs import ROOT, arguments, error_of, run, start, status, stop_when
from test_vgg16 import weights_with_biases

from datasets import cifar10, drawings, pretrained
from datasets.download import DataError
from examples import example07_vgg16_cifar10 as example07
from examples.helpers import report
from examples.helpers.report import tf
from models import sample_vgg16, vgg16, vgg16_files

SMALL = sample_vgg16.config(len(drawings.OTHER_KINDS))
# A run that is over in a second where the features are there; all its shards are full.
BRIEF = ["--no-baseline", "--train-images", "1000", "--test-images", "200", "--epochs", "2"]


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def finished(sample_dir, models_dir):
    """One run: metrics and output."""
    flags = ["--train-images", "2000", "--test-images", "400", "--epochs", "10"]
    return run(example07.main, *arguments(sample_dir, models_dir, *flags))


@pytest.fixture(scope="module")
def folder(finished, models_dir):
    return models_dir / example07.NAME


@pytest.fixture
def no_files(monkeypatch):
    """A run writes no SavedModel and no pictures, which take longer than the rest."""
    monkeypatch.setattr(example07, "save_model", lambda *_: [])
    monkeypatch.setattr(report, "plot_results", lambda *_: [])


def shards(folder):
    """When each shard of features was written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("**/features/*/*.npy")}


def test_transfer_works(finished):
    """Chance is 0.1."""
    metrics, output = finished
    assert metrics["test_accuracy"] > 0.65
    assert metrics["test_accuracy"] > metrics["test_accuracy_untrained"] + 0.25
    alone = metrics["test_accuracy_of_top_layer"]
    one_view = metrics["test_accuracy_from_one_view"]
    assert one_view == pytest.approx(alone, abs=0.0026)  # one image, a tie
    assert metrics["parameters"] < sum(map(np.prod, SMALL.shapes().values()))  # ten classes
    assert (metrics["train_images"], metrics["test_images"]) == (2000, 400)
    top = re.search(r"sees in a drawn (\w+):\n +[\d.]+%  (\w+)\n", output)
    assert top[1] == top[2]  # the sample network knows what it has learned


def test_saved_model_gives_what_the_checkpoint_gives(folder):
    network = vgg16.VGG16(vgg16.random_weights(SMALL, 1), SMALL)
    path = folder / "vgg16_20" / "checkpoint" / "vgg_16"
    tf.train.Checkpoint(network=network).read(str(path)).assert_consumed()
    loaded = tf.saved_model.load(str(folder / "vgg16_20" / "saved_model"))
    serve = loaded.signatures["serving_default"]
    images, labels = drawings.drawn_objects(drawings.OTHER_KINDS, 100, 48, seed=9)
    probabilities = serve(images=tf.constant(images))["probabilities"].numpy()
    expected = tf.nn.softmax(network(vgg16.preprocess(images, 64))).numpy()
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    assert np.mean(probabilities.argmax(axis=1) == labels) > 0.5  # of 20 classes


def test_stored_parts_make_vgg16_10(finished, folder, weights, sample_dir):
    """The checkpoint and the stored top layer together give the accuracy that was reported."""
    accuracy = accuracy_of_stored_parts(folder, weights, sample_dir, 400)
    # Here in float32: where the run was in bfloat16, features differ in the third digit.
    assert accuracy == pytest.approx(finished[0]["test_accuracy_from_one_view"], abs=0.01)


def accuracy_of_stored_parts(folder, weights, sample_dir, count):
    with np.load(folder / "vgg16_10.npz") as file:
        parts = {name: file[name] for name in file.files}
    network = vgg16.VGG16(weights | {n: w for n, w in parts.items() if "/fc8/" not in n}, SMALL)
    network.replace_top(parts["vgg_16/fc8/weights"][0, 0], parts["vgg_16/fc8/biases"])
    data = cifar10.load("sample", sample_dir)
    logits = network(vgg16.preprocess(data.test_images[:count], 64)).numpy()
    return np.mean(logits.argmax(axis=1) == data.test_labels[:count])


def test_fine_tuning(weights, sample_dir, tmp_path, no_files, monkeypatch):
    """Block 5 learns, too, and a second run does nothing anew, whatever it is tested on."""
    monkeypatch.setattr(example07, "FINE_TUNE_EPOCHS", 2)
    argv = arguments(sample_dir, tmp_path, *BRIEF, "--fine-tune")
    metrics, _ = run(example07.main, *argv)
    assert metrics["test_accuracy"] > metrics["test_accuracy_of_top_layer"] - 0.02 > 0.6
    losses = metrics["history"]["validation_loss"]
    assert len(losses) == 2 and losses[1] < losses[0]
    folder = tmp_path / example07.NAME
    with np.load(folder / "vgg16_10.npz") as file:
        changes = [np.abs(file[n] - weights[n]).max() for n in file.files if "conv5" in n]
    assert len(changes) == 6 and min(changes) > 0 and max(changes) < 0.1
    found = accuracy_of_stored_parts(folder, weights, sample_dir, 200)
    assert found == pytest.approx(metrics["test_accuracy_from_one_view"], abs=0.01)
    before = shards(folder)
    again, output = run(example07.main, *argv, "--test-images", "100")
    assert again["history"] == metrics["history"]
    assert "epoch  1" not in output
    assert before.items() <= shards(folder).items()


def test_other_weights_meet_the_same_features(
    folder, sample_dir, models_dir, weights, tmp_path, no_files
):
    """Whatever their format, and whatever their top layer."""
    before, accuracies = shards(folder), set()
    for change in (0, 1):
        top = {"vgg_16/fc8/biases": weights["vgg_16/fc8/biases"] + np.float32(change)}
        np.savez(tmp_path / "w.npz", **weights | top)
        argv = arguments(sample_dir, models_dir, *BRIEF, "--weights", tmp_path / "w.npz")
        metrics, _ = run(example07.main, *argv)
        accuracies.add(metrics["test_accuracy"])
    assert shards(folder) == before
    assert len(accuracies) == 1


# --- The top layer --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def features():
    """Features of very different sizes, one of them always zero, as ReLU leaves some; labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 400).astype(np.int32)
    features = rng.normal(size=(400, 6)) + 4 * np.eye(3, 6)[labels]
    features = features * [1, 100, 0.01, 1, 5000, 0] + [0, 500, 0, 0, 20_000, 0]
    features = features.astype(np.float16)
    return [(features[part], labels[part]) for part in (slice(360), slice(360, None))]


def test_top_layer_takes_features_as_they_are(features):
    """And is that of the epoch with the lowest validation loss, which this rate overshoots."""
    kernel, bias, history = example07.train_top(*features, 3, 12, 32, 1.0, 0)
    (train, labels), (validation, answers) = features
    assert (kernel.shape, kernel.dtype, bias.dtype) == ((6, 3), np.float32, np.float32)
    logits = validation.astype(np.float32) @ kernel + bias
    loss = tf.keras.losses.sparse_categorical_crossentropy(answers, logits, from_logits=True)
    losses = history["validation_loss"]
    assert float(np.mean(loss)) == pytest.approx(min(losses), rel=1e-3)
    assert losses[-1] > min(losses)
    assert np.mean((train.astype(np.float32) @ kernel + bias).argmax(axis=1) == labels) > 0.9


# --- What the user can mend -----------------------------------------------------------------------


def test_image_of_ones_own(finished, sample_dir, models_dir, tmp_path, capsys, no_files):
    path = tmp_path / "drawing.png"
    image = drawings.drawn_objects(["clock"], 1, 200, seed=3)[0][0]
    Image.fromarray(image).convert("RGBA").save(path)
    argv = arguments(sample_dir, models_dir, "--image", path, *BRIEF)
    _, output = run(example07.main, *argv)
    assert re.search(r"sees in drawing.png:\n +[\d.]+%  clock\n", output)
    path.write_bytes(b"no image")
    assert str(path) in error_of(example07.main, capsys, *argv)


@pytest.mark.parametrize("content", [None, "no names", "{}"])
def test_names_that_cannot_be_had_are_numbers(tmp_path, monkeypatch, capsys, content):
    def download(*_):
        if content is None:
            raise DataError("offline")
        (tmp_path / "index.json").write_text(content)
        return tmp_path / "index.json"

    monkeypatch.setattr(pretrained, "download", download)
    assert pretrained.class_names(3, tmp_path) == ("class 0", "class 1", "class 2")
    assert "classes are shown as numbers" in capsys.readouterr().out


@pytest.mark.parametrize("value", [np.nan, 1e6], ids=["nan", "large"])
def test_weights_that_give_no_usable_features(
    sample_dir, weights, tmp_path, capsys, no_files, value
):
    biases = weights["vgg_16/fc7/biases"].copy()
    biases[0] = value
    np.savez(tmp_path / "w.npz", **weights | {"vgg_16/fc7/biases": biases})
    argv = arguments(sample_dir, tmp_path, "--weights", tmp_path / "w.npz", *BRIEF)
    assert "finite" in error_of(example07.main, capsys, *argv)
    assert not shards(tmp_path)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--learning-rate 1e38", "--learning-rate"),
        ("--train-images 10", "--train-images"),
        ("--weights nowhere.ckpt", "nowhere.ckpt"),
    ],
)
def test_flags_that_cannot_work(finished, sample_dir, models_dir, capsys, no_files, flags, told):
    argv = arguments(sample_dir, models_dir, *BRIEF, *flags.split())
    assert told in error_of(example07.main, capsys, *argv)


# --- Stopped, and at its full size ----------------------------------------------------------------


def test_stopped_twice_while_features_are_computed(
    weights, sample_dir, tmp_path, capsys, no_files, monkeypatch
):
    """By a kill, and then by Ctrl-C in the second shard after those that were whole."""
    argv = arguments(sample_dir, tmp_path, *BRIEF, "--train-images", "2000")
    process = start(example07.__file__, *argv)
    stop_when(process, lambda: len(shards(tmp_path)) >= 2, signal.SIGKILL)
    killed = shards(tmp_path)

    def interrupted(network, source, views, *more, fixed_outputs=example07.fixed_outputs):
        batches = itertools.count()

        def interrupting(images):
            if next(batches) == 1.5 * 100 / example07.BATCH:
                os.kill(os.getpid(), signal.SIGINT)
            return views(images)

        return fixed_outputs(network, source, interrupting, *more)

    with monkeypatch.context() as patch:
        patch.setattr(example07, "fixed_outputs", interrupted)
        assert status(example07.main, capsys, *argv) == (130, ["interrupted"])
    kept = shards(tmp_path)
    metrics, _ = run(example07.main, *argv)
    every = shards(tmp_path)
    assert 2 <= len(killed) == len(kept) - 1 < len(every) - 1
    assert {path: every[path] for path in kept} == kept  # none was computed twice
    assert len(every) == (metrics["train_images"] + metrics["test_images"]) / 100
    assert metrics["test_accuracy"] > 0.6


@pytest.mark.slow
@pytest.mark.real
def test_full_size(tmp_path):
    """On real CIFAR-10 images: features are finite, memory stays below 4 GB.

    In float32 and with the untrained network, which takes the most memory.
    """
    data_dir = ROOT / "datasets" / "downloads"
    if not any((data_dir / "cifar10").glob("cifar-10-*")):
        pytest.skip(f"lay cifar-10-binary.tar.gz in {data_dir}/cifar10")
    vgg16_files.write_v1_checkpoint(tmp_path / "vgg_16.ckpt", weights_with_biases(vgg16.Config()))
    # What the process itself needed; ru_maxrss may count what the process that started it had.
    code = (
        "import re, runpy, sys; from pathlib import Path; del sys.argv[0];"
        "runpy.run_path(sys.argv[0], run_name='__main__');"
        "print('peak kB', re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])"
    )
    flags = ["--precision", "float32", "--epochs", "3"]
    flags += ["--train-images", "100", "--test-images", "100"]
    flags += ["--weights", tmp_path / "vgg_16.ckpt", "--data-dir", data_dir]
    command = [sys.executable, "-c", code, example07.__file__, *flags, "--models-dir", tmp_path]
    offline = os.environ | dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=900, env=offline
    )
    try:
        assert done.returncode == 0, done.stderr[-2000:]
        shapes = [np.load(path).shape for path in shards(tmp_path)]
        assert sorted(shapes) == [(count, 1, 4096) for count in (10, 10, 90, 90, 100, 100)]
        metrics = json.loads((tmp_path / example07.NAME / "metrics.json").read_text())
        alone = metrics["test_accuracy_of_top_layer"]
        one_view = metrics["test_accuracy_from_one_view"]
        assert one_view == pytest.approx(alone, abs=0.01)  # one image, a tie
        assert int(re.search(r"peak kB (\d+)", done.stdout)[1]) * 1024 < 4e9
    finally:
        shutil.rmtree(tmp_path)  # more than a gigabyte of models
