"""Checks whole runs of examples 03, 04 and 05 on sample data: learning, stops, pictures, errors."""

import functools

import numpy as np
import programs
import pytest
from PIL import Image
from programs import arguments, error_of, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from datasets import mnist
from examples import example03_mnist_mlp as example03
from examples import example04_mnist_cnn_layers as example04
from examples import example05_mnist_cnn_nn as example05

tf = example05.tf


@pytest.fixture(scope="module", params=[example03, example04, example05], ids=lambda e: e.NAME[:9])
def example(request):
    return request.param


@pytest.fixture(scope="module")
def runs(sample_dir, tmp_path_factory):
    """Return a function that runs an example with some flags, but no second time."""

    @functools.cache
    def run_once(example, *flags):
        folder = tmp_path_factory.mktemp("models")
        argv = arguments(sample_dir, folder, "--precision", "float32", *flags)
        return folder, *run(lambda argv: programs.without_pictures(example.main, *argv), *argv)

    return run_once


@pytest.fixture
def finished(example, runs):
    """One whole run: its folder of results, metrics and output."""
    folder, *result = runs(example, "--batch-size", 64 if example != example03 else 50)
    return folder / example.NAME, *result


def test_it_learns(example, finished):
    _, metrics, _ = finished
    assert metrics["test_accuracy"] > (0.88 if example is example03 else 0.93)  # of 254
    history = metrics["history"]
    assert {len(values) for values in history.values()} == {metrics["epochs"]}
    assert history["loss"][-1] < history["loss"][0] - 0.5
    if example is example03:
        regression = metrics["softmax_regression"]
        assert regression["test_accuracy"] > 0.85
        losses = [m["history"]["validation_loss"][-1] for m in (metrics, regression)]
        assert losses[0] < 0.7 * losses[1]
        assert regression["parameters"] == 785 * 10
        assert metrics["parameters"] == 785 * 512 + 513 * 512 + 513 * 10
    else:
        assert abs(metrics["test_accuracy"] - metrics["test_accuracy_from_one_view"]) < 0.05


@pytest.mark.parametrize("example", [example04], ids=["example04"], indirect=True)
def test_the_file_is_the_model_and_tensorboard_can_read_the_curves(finished, data):
    folder, metrics, output = finished
    assert "loaded again: largest difference between the logits 0\n" in output
    model = tf.keras.models.load_model(folder / "model.keras")  # with nothing of the example's
    right = model.predict(data.test_images, verbose=0).argmax(axis=1) == data.test_labels
    assert np.mean(right) == pytest.approx(metrics["test_accuracy_from_one_view"])
    (logs,) = folder.glob("logs/*")
    for part, name in (("train", "loss"), ("validation", "validation_loss")):
        events = EventAccumulator(str(logs / part), {"tensors": 0}).Reload()
        values = [tf.make_ndarray(e.tensor_proto) for e in events.Tensors("epoch_loss")]
        assert values == pytest.approx(metrics["history"][name], rel=1e-5)


# --- Stopped, and continued -----------------------------------------------------------------------

STEPS = 8  # in an epoch, of 3; example 03 trains softmax regression for 24 steps first


def tiny(example):
    more = ["--hidden", 16, 16] if example is example03 else []
    return ["--train-images", 400, "--batch-size", 50, "--epochs", 3, *more]


def states(example, models_dir):
    """All that was trained, byte by byte; of example 03, both networks."""
    folders = [models_dir, models_dir / example.NAME] if example is example03 else [models_dir]
    return [programs.final_state(folder) for folder in folders]


@pytest.fixture
def not_stopped(example, runs):
    models_dir, metrics, _ = runs(example, *tiny(example))
    return metrics["test_accuracy"], states(example, models_dir)


def test_after_ctrl_c_it_ends_as_one_that_was_not_stopped(
    example, not_stopped, sample_dir, tmp_path, capsys
):
    """In the second epoch; in example 03, in the last step of its first network."""
    argv = arguments(sample_dir, tmp_path, "--precision", "float32", *tiny(example))
    programs.check_ctrl_c(24 if example is example03 else 14, example.main, capsys, *argv)
    assert not list(tmp_path.glob("*/metrics.json"))
    if example is example03:  # the other network is not begun
        assert not list(tmp_path.glob("*/checkpoints"))
    assert programs.without_pictures(example.main, *argv)["test_accuracy"] == not_stopped[0]
    assert states(example, tmp_path) == not_stopped[1]
    done = {example03: 24, example04: 16, example05: 14}[example]  # fit() has whole epochs
    assert f"going on after step {done}, " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("example", "when"),
    [
        pytest.param(example03, 37, id="example03", marks=pytest.mark.slow),
        pytest.param(example04, 13, id="example04"),
        pytest.param(example05, 13, id="example05", marks=pytest.mark.slow),
    ],
    indirect=["example"],
)
def test_after_a_kill_it_ends_as_one_that_was_not(example, when, not_stopped, sample_dir, tmp_path):
    argv = arguments(sample_dir, tmp_path, "--precision", "float32", *tiny(example))
    programs.check_stopped(programs.start_to_be_killed(example, "in step", when, *argv))
    assert programs.without_pictures(example.main, *argv)["test_accuracy"] == not_stopped[0]
    assert states(example, tmp_path) == not_stopped[1]


@pytest.mark.parametrize("example", [example04], ids=["example04"], indirect=True)
def test_a_learning_rate_that_is_too_high(example, sample_dir, tmp_path, capsys):
    """What a callback raises comes out of Keras' fit() as it is."""
    argv = arguments(sample_dir, tmp_path, "--learning-rate", "1e38", "--epochs", 1)
    assert "--learning-rate" in error_of(example.main, capsys, *argv)


# --- A picture of one's own -----------------------------------------------------------------------


def test_a_picture_is_classified(example, finished, data, tmp_path, capsys, monkeypatch):
    """Sample digits, made large and dark on light, are seen as what they are."""
    monkeypatch.setattr(mnist, "load", lambda *_: pytest.fail("no data is needed"))
    folder, right = finished[0], 0
    for image, label in zip(data.test_images[:10], data.test_labels, strict=False):
        large = Image.fromarray(255 - image[..., 0]).resize((300, 300))
        large.save(tmp_path / "digit.png")
        argv = ["--image", tmp_path / "digit.png", "--models-dir", folder.parent]
        result, output = run(example.main, *argv)
        digit, probabilities = result["answer"], result["probabilities"]
        assert sum(probabilities) == pytest.approx(1, abs=1e-3)
        _, *lines, wrote = output.splitlines()
        assert len(lines) == 5
        assert lines[0].split() == [f"{max(probabilities):.2%}", digit]
        assert wrote.endswith("picture.png")
        right += digit == str(label)
    assert right >= 9
    with Image.open(folder / "picture.png") as seen:
        assert np.asarray(seen.convert("L")).std() > 5


@pytest.fixture
def picture(data, tmp_path):
    """A digit of the sample data as a file."""
    Image.fromarray(data.test_images[0, ..., 0]).save(tmp_path / "digit.png")
    return tmp_path / "digit.png"


def test_a_picture_before_anything_was_trained(example, picture, tmp_path, capsys):
    error = error_of(example.main, capsys, "--image", picture, "--models-dir", tmp_path)
    assert "no trained network in " in error
    assert f"python examples/{example.NAME}.py" in error


DAMAGES = {
    "half": lambda content: content[: len(content) // 2],
    "one byte": lambda content: (
        content[: len(content) // 2] + b"!" + content[len(content) // 2 + 1 :]
    ),
    "text": lambda _: b"half a file",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_picture_where_what_was_trained_is_damaged(
    example, finished, picture, tmp_path, capsys, damage
):
    (tmp_path / example.NAME).mkdir()
    pattern = "model.keras" if example is example04 else "weights.*"
    for file in finished[0].glob(pattern):
        content = DAMAGES[damage](file.read_bytes())
        (tmp_path / example.NAME / file.name).write_bytes(content)
    error = error_of(example.main, capsys, "--image", picture, "--models-dir", tmp_path)
    assert "damaged" in error
    assert f"python examples/{example.NAME}.py" in error


@pytest.mark.parametrize("example", [example03], ids=["example03"], indirect=True)
def test_a_picture_for_a_network_of_another_shape(example, finished, picture, capsys):
    argv = ["--image", picture, "--models-dir", finished[0].parent, "--hidden", "8"]
    assert "of another network" in error_of(example.main, capsys, *argv)


@pytest.mark.parametrize("content", [b"no image", None], ids=["text", "missing"])
def test_a_picture_that_is_none(example, finished, tmp_path, capsys, content):
    path = tmp_path / "digit.png"
    if content is not None:
        path.write_bytes(content)
    flags = ["--image", path, "--models-dir", finished[0].parent]
    assert str(path) in error_of(example.main, capsys, *flags)
