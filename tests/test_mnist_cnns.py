"""Checks whole runs of examples 04 and 05, the same network in two notations, on sample data: that
they learn, that a run which is stopped goes on where it was, that a picture of one's own is
classified with what was trained, and what is said when something is wrong.
"""

import itertools
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from programs import error_of, run, start, stop_when
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from datasets import mnist  # noqa: E402
from examples import example04_mnist_cnn_layers as example04  # noqa: E402
from examples import example05_mnist_cnn_nn as example05  # noqa: E402
from examples.common import tf  # noqa: E402

of_example04 = pytest.mark.parametrize(
    "example", [pytest.param(example04, id="example04")], indirect=True
)


@pytest.fixture(scope="module", params=[example04, example05], ids=["example04", "example05"])
def example(request):
    return request.param


def arguments(data_dir, models_dir, *more):
    folders = ["--data-dir", data_dir, "--models-dir", models_dir]
    return ["--data", "sample", "--batch-size", 64, "--precision", "float32", *folders, *more]


@pytest.fixture(scope="module")
def data(sample_dir):
    return mnist.load("sample", sample_dir)


@pytest.fixture(scope="module")
def finished(example, sample_dir, tmp_path_factory):
    """One whole run: its folder of results, metrics and output."""
    models_dir = tmp_path_factory.mktemp("models")
    return models_dir / example.NAME, *run(example.main, *arguments(sample_dir, models_dir))


# --- A whole run ----------------------------------------------------------------------------------


def test_it_learns(finished):
    folder, metrics, output = finished
    assert metrics["test_accuracy"] > 0.93  # of 254; chance is 0.1
    history = metrics["history"]
    assert {len(values) for values in history.values()} == {metrics["epochs"]}
    assert history["loss"][-1] < history["loss"][0] - 0.5
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    assert f"test accuracy {metrics['test_accuracy']:.4f} on sample data" in output
    for name in ("learning_curves", "confusion_matrix", "worst_mistakes"):
        with Image.open(folder / f"{name}.png") as image:
            assert min(image.size) > 100


def test_it_prints_a_line_for_each_epoch_and_little_else(example, finished):
    _, metrics, output = finished
    others = {example04: 13, example05: 12}[example]
    assert len(output.splitlines()) == metrics["epochs"] + others


@of_example04
def test_the_file_is_the_model(finished, data):
    """Loaded without this script, it gives the accuracy that was reported."""
    folder, metrics, output = finished
    assert "loaded again: largest difference between the logits 0\n" in output
    code = (
        "import sys, numpy as np, tensorflow as tf\n"
        "model = tf.keras.models.load_model(sys.argv[1])\n"
        "np.save(sys.argv[3], model.predict(np.load(sys.argv[2]), verbose=0))\n"
    )
    np.save(folder / "images.npy", data.test_images)
    files = [folder / name for name in ("model.keras", "images.npy", "logits.npy")]
    subprocess.run([sys.executable, "-c", code, *map(str, files)], check=True, timeout=120)
    right = np.load(files[-1]).argmax(axis=1) == data.test_labels
    assert np.mean(right) == pytest.approx(metrics["test_accuracy_from_one_view"])


def test_nine_views_are_the_image_moved_by_a_pixel(example, monkeypatch):
    images = np.random.default_rng(0).integers(1, 256, (2, 28, 28, 1), np.uint8)
    if example is example04:
        views = example04.nine_views(images)
    else:
        monkeypatch.setattr(example05, "predict", lambda network, images: images)
        views = example05.predict_from_nine_views(None, images)
    assert np.array_equal(views[4], images)
    steps = [-1, 0, 1]  # down or right, none, up or left
    for view, (up, left) in zip(views, itertools.product(steps, steps), strict=True):
        moved = np.roll(images, (-up, -left), axis=(1, 2))  # what leaves comes in on the other side
        for axis, step in ((1, up), (2, left)):
            if step:
                moved.swapaxes(0, axis)[-1 if step > 0 else 0] = 0  # there should be paper
        np.testing.assert_array_equal(view, moved)


@of_example04
def test_tensorboard_can_read_the_curves(finished):
    folder, metrics, _ = finished
    (logs,) = folder.glob("runs/*/logs")
    for part, name in (("train", "loss"), ("validation", "validation_loss")):
        events = EventAccumulator(str(logs / part), {"tensors": 0}).Reload()
        values = [tf.make_ndarray(e.tensor_proto) for e in events.Tensors("epoch_loss")]
        assert values == pytest.approx(metrics["history"][name], rel=1e-5)


# --- Stopped, and continued -----------------------------------------------------------------------


def test_a_second_run_trains_nothing_more(example, finished, sample_dir, monkeypatch):
    folder, metrics, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.glob("**/checkpoints/**/*")}
    assert len(before) >= 3
    trained = getattr(example, "Training", tf.keras.Model)
    monkeypatch.setattr(trained, "train_step", lambda *_: pytest.fail("a step of training"))
    again = example.main(list(map(str, arguments(sample_dir, folder.parent))))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for key in ("history", "test_accuracy", "train_seconds"):
        assert again[key] == metrics[key], key


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill", "Ctrl-C"])
def test_a_run_that_is_stopped_goes_on(example, finished, sample_dir, tmp_path, number):
    _, not_stopped, _ = finished
    argv = arguments(sample_dir, tmp_path)
    process = start(example.__file__, *argv)
    stop_when(process, lambda: list(tmp_path.glob("**/ckpt-2.index")), number)
    metrics, output = run(example.main, *argv)
    lines = [line.split() for line in output.splitlines()]
    trained = [int(line[0]) for line in lines if len(line) == 6 and line[0].isdigit()]
    assert 2 <= trained[0] <= 4  # what was saved is not trained again
    assert trained == list(range(trained[0], metrics["epochs"] + 1))
    assert len(metrics["history"]["loss"]) == metrics["epochs"]
    assert metrics["test_accuracy"] > 0.85
    if example is example05:  # whose random numbers depend on the seed and the step alone
        for key in ("loss", "accuracy", "validation_loss", "validation_accuracy"):
            assert metrics["history"][key] == not_stopped["history"][key], key
        assert metrics["test_accuracy"] == not_stopped["test_accuracy"]


# --- A picture of one's own -----------------------------------------------------------------------


@pytest.fixture
def picture(data, tmp_path):
    """A digit of the sample data as a file."""
    path = tmp_path / "digit.png"
    Image.fromarray(data.test_images[0, ..., 0]).save(path)
    return path


def test_a_picture_is_classified(example, finished, data, tmp_path, capsys):
    """Sample digits, made large and dark on light, are seen as what they are."""
    folder, _, _ = finished
    path = tmp_path / "digit.png"
    right = 0
    for image, label in zip(data.test_images[:10], data.test_labels, strict=False):
        Image.fromarray(255 - image[..., 0]).resize((300, 300)).save(path)
        result = example.main(["--image", str(path), "--models-dir", str(folder.parent)])
        digit, probabilities = result["digit"], result["probabilities"]
        assert sum(probabilities) == pytest.approx(1, abs=1e-3)
        assert f"{probabilities[digit]:.2%}  {digit}\n" in capsys.readouterr().out
        right += digit == label
    assert right >= 9
    assert (folder / "picture.png").is_file()


def test_a_picture_before_anything_was_trained(example, picture, tmp_path, capsys):
    error = error_of(example.main, capsys, "--image", picture, "--models-dir", tmp_path)
    assert f"no trained {'model' if example is example04 else 'network'} in " in error
    assert f"python examples/{example.NAME}.py" in error


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"!".join([content[: len(content) // 2], content[len(content) // 2 + 1 :]]),
        lambda _: b"half a file",
    ],
    ids=["half", "one byte", "text"],
)
def test_a_picture_where_what_was_trained_is_damaged(
    example, finished, picture, tmp_path, capsys, damage
):
    folder, _, _ = finished
    (tmp_path / example.NAME).mkdir()
    files = list(folder.glob("model.keras" if example is example04 else "weights.*"))
    assert files
    for file in files:
        (tmp_path / example.NAME / file.name).write_bytes(damage(file.read_bytes()))
    error = error_of(example.main, capsys, "--image", picture, "--models-dir", tmp_path)
    assert "damaged" in error
    assert f"python examples/{example.NAME}.py" in error


@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "missing"])
def test_a_picture_that_is_none(example, finished, tmp_path, capsys, content):
    folder, _, _ = finished
    path = tmp_path / "digit.png"
    if content is not None:
        path.write_bytes(content)
    flags = ["--image", path, "--models-dir", folder.parent]
    assert str(path) in error_of(example.main, capsys, *flags)


# --- What can go wrong in training ----------------------------------------------------------------


def test_a_learning_rate_that_is_too_high(example, sample_dir, tmp_path, capsys):
    argv = arguments(sample_dir, tmp_path, "--learning-rate", "1e38", "--epochs", 1)
    assert "--learning-rate" in error_of(example.main, capsys, *argv)


def test_too_few_images(example, sample_dir, tmp_path, capsys):
    argv = arguments(sample_dir, tmp_path, "--train-images", 10)
    assert "--batch-size" in error_of(example.main, capsys, *argv)
