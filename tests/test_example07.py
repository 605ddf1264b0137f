"""Checks example 07 on sample data: that all six steps do what they say, that VGG16_10 from end to
end is what its stored parts give, that a second run reuses what the first has computed, what is
printed when something is wrong, and that a run goes on after a kill and after Ctrl-C.
"""

import json
import os
import re
import signal
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from programs import error_of, run, start, status, stop_when

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from datasets import cifar10, sample  # noqa: E402
from examples import example07_vgg16_cifar10 as example07  # noqa: E402
from examples.common import tf  # noqa: E402
from models import sample_vgg16, vgg16  # noqa: E402

TEST_IMAGES = 1000  # of the sample data
TIE = 1 / TEST_IMAGES  # float16 may decide one image otherwise, where two classes are as likely
SMALL_CONFIG = sample_vgg16.config(len(sample.OTHER_KINDS))
# No proxy answers on port 9, so that nothing reaches the network.
OFFLINE = os.environ | dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
# A run that is over in a second where the features are there.
BRIEF = ["--no-baseline", "--train-images", "500", "--test-images", "200", "--epochs", "2"]


def arguments(data_dir, models_dir, *more):
    return ["--data", "sample", "--data-dir", str(data_dir), "--models-dir", str(models_dir), *more]


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def finished(sample_dir, models_dir):
    """One whole run, which also makes the sample archive for the session: metrics and output."""
    return run(example07.main, *arguments(sample_dir, models_dir))


@pytest.fixture(scope="module")
def folder(finished, models_dir):
    """The folder of results of the whole run."""
    return models_dir / "example07_vgg16_cifar10"


@pytest.fixture(scope="module")
def checkpoint(finished, sample_dir):
    """The sample checkpoint, in format V1."""
    (path,) = (sample_dir / "sample" / "vgg16").glob("*/vgg_16.ckpt")
    return path


def shards(folder):
    """When each shard of features was written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("**/features/*/*.npy")}


# --- The six steps --------------------------------------------------------------------------------


def test_metrics(finished, folder):
    metrics, _ = finished
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    expected = {"test_accuracy", "train_seconds", "total_seconds", "images_per_second"}
    expected |= {"parameters", "epochs", "seed", "precision", "data", "command", "versions"}
    assert expected | {"machine"} <= metrics.keys()
    assert metrics["data"].startswith("sample data")
    assert metrics["test_images"] == TEST_IMAGES
    assert metrics["images_per_second"] > 0
    assert metrics["parameters"] == sum(map(np.prod, SMALL_CONFIG.shapes().values()))
    assert metrics["command"].startswith("python examples/example07_vgg16_cifar10.py --data sample")


def test_transfer_works(finished):
    """Chance is 0.1. Seeds 0 to 3 in both precisions gave 0.81 to 0.82, untrained 0.33 to 0.37."""
    metrics, _ = finished
    assert metrics["test_accuracy"] > 0.7
    assert metrics["test_accuracy"] > metrics["test_accuracy_untrained"] + 0.25
    loss = metrics["history"]["loss"]
    assert len(loss) == metrics["epochs"]
    assert loss[-1] < 0.7 * loss[0]


def test_end_to_end_is_as_accurate_as_the_top_layer_alone(finished):
    metrics, _ = finished
    assert metrics["test_accuracy"] == pytest.approx(metrics["test_accuracy_of_top_layer"], abs=TIE)


def test_output(finished):
    metrics, output = finished
    steps = ["1. checkpoint", "2. VGG16_20 from", "3. check", "4. save", "5. transfer"]
    positions = [output.index(step) for step in [*steps, "6. compare"]]
    assert positions == sorted(positions)
    assert output.count(metrics["data"]) == 2  # at the beginning and beside the accuracy
    top = re.search(r"sees in a drawing \((\w+)\):\n +([\d.]+)%  (\w+)\n", output)
    assert top[1] == top[3]  # the sample network knows what it has learned
    assert f"test accuracy {metrics['test_accuracy']:.4f} on sample data" in output
    assert max(map(len, output.splitlines())) < 200


def test_files(finished, folder):
    _, output = finished
    for name in ("learning_curves.png", "confusion_matrix.png", "worst_mistakes.png"):
        with Image.open(folder / name) as image:
            assert min(image.size) > 200
    written = re.findall("^wrote (.*)$", output, re.MULTILINE)
    assert len(written) == 7
    assert all(Path(path).exists() for path in written)
    assert not list(folder.glob("**/*.part"))


def test_saved_model_gives_what_the_checkpoint_gives(folder):
    network = vgg16.VGG16(vgg16.random_weights(SMALL_CONFIG, 1), SMALL_CONFIG)
    path = folder / "vgg16_20" / "checkpoint" / "vgg_16"
    tf.train.Checkpoint(network=network).read(str(path)).assert_consumed()
    loaded = tf.saved_model.load(str(folder / "vgg16_20" / "saved_model"))
    serve = loaded.signatures["serving_default"]
    images, labels = sample.drawn_objects(sample.OTHER_KINDS, 100, 48, seed=9)
    probabilities = serve(images=tf.constant(images))["probabilities"].numpy()
    expected = tf.nn.softmax(network(vgg16.preprocess(images, 64))).numpy()
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    assert np.mean(probabilities.argmax(axis=1) == labels) > 0.5  # of 20 classes


def test_stored_parts_make_vgg16_10(finished, folder, checkpoint, sample_dir):
    """The checkpoint and the stored top layer together give the accuracy that was reported."""
    metrics, _ = finished
    network = vgg16.VGG16(vgg16.read_weights(checkpoint, SMALL_CONFIG), SMALL_CONFIG)
    with np.load(folder / "vgg16_10_top_layer.npz") as top:
        network.replace_top(top["vgg_16/fc8/weights"][0, 0], top["vgg_16/fc8/biases"])
    data = cifar10.load("sample", sample_dir)
    logits = network(vgg16.preprocess(data.test_images, 64)).numpy()
    accuracy = np.mean(logits.argmax(axis=1) == data.test_labels)
    # Here in float32: where the run was in bfloat16, features differ in the third digit.
    assert accuracy == pytest.approx(metrics["test_accuracy"], abs=0.01)


def test_features_are_those_of_the_fixed_layers(checkpoint, sample_dir):
    network = vgg16.VGG16(vgg16.read_weights(checkpoint, SMALL_CONFIG), SMALL_CONFIG)
    images = cifar10.load("sample", sample_dir).test_images[:7]
    features = example07.fixed_part(network)(images).numpy()
    assert features.dtype == np.float16
    expected = network.features(vgg16.preprocess(images, 64))
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-2)


def test_second_run_computes_no_features(finished, folder, models_dir, sample_dir):
    metrics, _ = finished
    before = shards(folder)
    saved = (folder / "vgg16_20" / "saved_model" / "saved_model.pb").stat().st_mtime_ns
    again = example07.main(arguments(sample_dir, models_dir))
    assert shards(folder) == before
    assert (folder / "vgg16_20" / "saved_model" / "saved_model.pb").stat().st_mtime_ns == saved
    for name, values in metrics["history"].items():
        assert again["history"][name] == pytest.approx(values)
    for key in ("test_accuracy", "test_accuracy_of_top_layer", "test_accuracy_untrained"):
        assert again[key] == metrics[key]


def test_stored_features_do_not_depend_on_the_top_layer(
    finished, folder, sample_dir, models_dir, checkpoint, tmp_path, small_is_expected
):
    weights = vgg16.read_weights(checkpoint, SMALL_CONFIG)
    before = shards(folder)
    weights["vgg_16/fc8/biases"] += 1
    np.savez(tmp_path / "w.npz", **weights)
    flags = ["--weights", str(tmp_path / "w.npz"), *BRIEF]
    example07.main(arguments(sample_dir, models_dir, *flags))
    assert shards(folder) == before


# --- The top layer --------------------------------------------------------------------------------


def test_top_layer_takes_features_as_they_are():
    """Features of very different sizes, one of them always zero, as ReLU leaves some."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 400).astype(np.int32)
    features = rng.normal(size=(400, 6)) + 4 * np.eye(3, 6)[labels]
    features = (features * [1, 100, 0.01, 1, 5000, 0] + [0, 500, 0, 0, 20_000, 0]).astype(
        np.float16
    )
    args = Namespace(learning_rate=0.01, epochs=20, batch_size=32, seed=0)
    parts = [(features[part], labels[part]) for part in (slice(360), slice(360, None))]
    kernel, bias, history = example07.train_top(*parts, 3, args)
    assert (kernel.shape, kernel.dtype) == ((6, 3), np.float32)
    assert (bias.shape, bias.dtype) == ((3,), np.float32)
    logits = features.astype(np.float32) @ kernel + bias
    assert np.mean(logits.argmax(axis=1) == labels) > 0.95
    # What is returned is the best epoch's, and says on the last 40 what was measured then.
    validation = np.mean(logits[-40:].argmax(axis=1) == labels[-40:])
    assert validation == pytest.approx(max(history["validation_accuracy"]), abs=0.026)  # one of 40


# --- What the user can mend -----------------------------------------------------------------------


@pytest.fixture
def small_is_expected(monkeypatch):
    """--weights takes sample weights in place of full-size ones; no names of classes are sought."""

    def offline(data_dir):
        raise example07.DataError("offline")

    monkeypatch.setattr(example07.pretrained, "imagenet_class_names", offline)
    monkeypatch.setattr(example07.vgg16, "Config", lambda: SMALL_CONFIG)


@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "missing"])
def test_image_that_is_none(finished, sample_dir, models_dir, tmp_path, capsys, content):
    path = tmp_path / "photograph.jpg"
    if content is not None:
        path.write_bytes(content)
    argv = arguments(sample_dir, models_dir, "--image", str(path), *BRIEF)
    error = error_of(example07.main, capsys, *argv)
    assert str(path) in error
    assert "cannot be read as an image" in error


def test_image_of_ones_own(finished, sample_dir, models_dir, tmp_path, capsys):
    path = tmp_path / "drawing.png"
    image = sample.drawn_objects(["clock"], 1, 200, seed=3)[0][0]
    Image.fromarray(image).convert("RGBA").save(path)
    example07.main(arguments(sample_dir, models_dir, "--image", str(path), *BRIEF))
    assert re.search(r"sees in drawing.png:\n +[\d.]+%  clock\n", capsys.readouterr().out)


def test_weights_in_other_formats_meet_the_same_features(
    finished, folder, sample_dir, models_dir, checkpoint, tmp_path, small_is_expected, capsys
):
    weights = vgg16.read_weights(checkpoint, SMALL_CONFIG)
    np.savez(tmp_path / "w.npz", **weights)
    before = shards(folder)
    accuracies = []
    for path in (checkpoint, tmp_path / "w.npz"):
        argv = arguments(sample_dir, models_dir, "--weights", str(path), *BRIEF)
        metrics = example07.main(argv)
        accuracies.append(metrics["test_accuracy"])
    assert shards(folder) == before
    assert accuracies[0] == accuracies[1]
    # Beside the checkpoint lie the names of its classes; beside the copy there are none.
    first, second = capsys.readouterr().out.split("2. VGG16_20")[1:]
    assert "classes are shown as numbers" not in first
    assert "classes are shown as numbers" in second
    assert re.search(r"%  class \d+\n", second)


@pytest.mark.parametrize("value", [np.nan, 1e6], ids=["nan", "large"])
def test_weights_that_give_no_usable_features(
    finished, sample_dir, checkpoint, tmp_path, capsys, small_is_expected, value
):
    weights = vgg16.read_weights(checkpoint, SMALL_CONFIG)
    weights["vgg_16/fc7/biases"][0] = value
    np.savez(tmp_path / "w.npz", **weights)
    argv = arguments(sample_dir, tmp_path, "--weights", str(tmp_path / "w.npz"), *BRIEF)
    assert "finite" in error_of(example07.main, capsys, *argv)
    assert not shards(tmp_path)


@pytest.mark.parametrize("name", ["missing.ckpt", "text.ckpt", "text.h5", "text.npz"])
def test_weights_that_cannot_be_read(sample_dir, tmp_path, capsys, small_is_expected, name):
    path = tmp_path / name
    if "missing" not in name:
        path.write_text("no weights")
    argv = arguments(sample_dir, tmp_path, "--weights", str(path), *BRIEF)
    assert str(path) in error_of(example07.main, capsys, *argv)


def test_min_accuracy(finished, folder, sample_dir, models_dir, capsys):
    argv = arguments(sample_dir, models_dir, *BRIEF)
    assert status(example07.main, capsys, *argv, "--min-accuracy", "0.3") == (0, [])
    (folder / "metrics.json").unlink()
    error = error_of(example07.main, capsys, *argv, "--min-accuracy", "0.99")
    assert "below --min-accuracy 0.99" in error
    assert (folder / "metrics.json").exists()


def test_a_learning_rate_that_is_too_high(finished, folder, sample_dir, models_dir, capsys):
    before = (folder / "metrics.json").read_text()
    argv = arguments(sample_dir, models_dir, *BRIEF, "--learning-rate", "1e38")
    assert "--learning-rate" in error_of(example07.main, capsys, *argv)
    assert (folder / "metrics.json").read_text() == before


def test_too_few_images(sample_dir, tmp_path, capsys):
    argv = arguments(sample_dir, tmp_path, "--train-images", "10")
    assert "--train-images" in error_of(example07.main, capsys, *argv)


@pytest.mark.parametrize(
    "flags", [["--epochs", "0"], ["--data", "none"], ["--test-images", "-1"], ["--unknown"]]
)
def test_wrong_flags(capsys, flags):
    code, lines = status(example07.main, capsys, *flags)
    assert code == 2
    assert lines[0].startswith("usage: ")


# --- As a program ---------------------------------------------------------------------------------


def test_sample_weights_where_full_size_is_expected(finished, sample_dir, checkpoint, tmp_path):
    argv = arguments(sample_dir, tmp_path, "--weights", str(checkpoint))
    process = start(example07.__file__, *argv, env=OFFLINE)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "2. VGG16_1000" in output
    *_, line = errors.splitlines()
    assert line == (
        f"error: {checkpoint}: vgg_16/conv1/conv1_1/weights has shape (3, 3, 3, 8), "
        "expected (3, 3, 3, 64)"
    )
    assert "Traceback" not in errors


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill", "Ctrl-C"])
def test_stopped_while_features_are_computed(finished, sample_dir, tmp_path, number):
    flags = ["--no-baseline", "--epochs", "2", "--precision", "float32"]
    argv = arguments(sample_dir, tmp_path, *flags)
    process = start(example07.__file__, *argv, env=OFFLINE)
    stop_when(process, lambda: len(shards(tmp_path)) >= 2, number)
    kept = shards(tmp_path)
    metrics = example07.main(argv)
    every = shards(tmp_path)
    assert 2 <= len(kept) < len(every)
    assert {path: every[path] for path in kept} == kept  # none was computed twice
    assert len(every) == (metrics["train_images"] + metrics["test_images"]) / 100
    assert metrics["test_accuracy"] > 0.7
