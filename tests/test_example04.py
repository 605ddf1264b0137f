"""Checks example 04 on sample data: that it learns, that the file it writes is the model, that a
run that is killed goes on where it was, and that a picture of one's own is classified. That its
network is the one of example 05 is checked with that example.
"""

import contextlib
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from examples import common  # noqa: E402  # isort: skip  # before TensorFlow: silences it
import tensorflow as tf  # noqa: E402

from datasets import mnist  # noqa: E402
from examples import example04_mnist_cnn_layers as example04  # noqa: E402

SCRIPT = ROOT / "examples" / "example04_mnist_cnn_layers.py"
QUICK = ["--data", "sample", "--batch-size", "64", "--precision", "float32"]


def arguments(data_dir, models_dir, *more):
    return [*QUICK, "--data-dir", str(data_dir), "--models-dir", str(models_dir), *more]


@pytest.fixture(scope="module")
def data(sample_dir):
    return mnist.load("sample", sample_dir)


@pytest.fixture(scope="module")
def finished(sample_dir, tmp_path_factory):
    """One whole run: its folder of results, metrics and output."""
    models_dir, output = tmp_path_factory.mktemp("models"), io.StringIO()
    with contextlib.redirect_stdout(output):
        metrics = example04.main(arguments(sample_dir, models_dir))
    return models_dir / example04.NAME, metrics, output.getvalue()


def test_it_learns(finished):
    folder, metrics, output = finished
    assert metrics["test_accuracy"] > 0.93  # of 254; chance is 0.1
    history = metrics["history"]
    assert {len(values) for values in history.values()} == {metrics["epochs"]}
    assert history["loss"][-1] < history["loss"][0] - 0.5
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    assert f"test accuracy {metrics['test_accuracy']:.4f} on sample data" in output
    assert len(output.splitlines()) == metrics["epochs"] + 13
    for name in ("learning_curves", "confusion_matrix", "worst_mistakes"):
        with Image.open(folder / f"{name}.png") as image:
            assert min(image.size) > 100


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
    assert np.mean(right) == pytest.approx(metrics["test_accuracy"])


def test_the_table_of_weights_is_right():
    text = SCRIPT.read_text()
    model = example04.make_model()
    for layer in model.layers:
        if layer.name.startswith(("conv", "dense")):
            assert f"{layer.count_params():>11,}\n" in text, layer.name


def test_the_learning_rate_rises_and_falls():
    class Optimizer:
        learning_rate = 0.0

    callback = example04.OneCycle(peak=2.0, steps=11, epochs=4)
    callback.set_model(type("Model", (), {"optimizer": Optimizer()})())
    rates = []
    for epoch in range(4):
        callback.on_epoch_begin(epoch)
        for batch in range(11):
            callback.on_train_batch_begin(batch)
            rates.append(callback.model.optimizer.learning_rate)
    top = int(np.argmax(rates))
    assert 0 < rates[0] < rates[top] <= 2
    assert 0 < rates[-1] < 0.1
    assert np.all(np.diff(rates[: top + 1]) > 0)
    assert np.all(np.diff(rates[top:]) < 0)
    assert top / 44 == pytest.approx(example04.WARM_UP, abs=0.05)


def test_tensorboard_can_read_the_curves(finished):
    folder, metrics, _ = finished
    (logs,) = folder.glob("runs/*/logs")
    for part, name in (("train", "loss"), ("validation", "validation_loss")):
        events = EventAccumulator(str(logs / part), {"tensors": 0}).Reload()
        values = [tf.make_ndarray(e.tensor_proto) for e in events.Tensors("epoch_loss")]
        assert values == pytest.approx(metrics["history"][name], rel=1e-5)


def test_a_batch_is_augmented_images_and_one_hot_labels(data):
    images, labels = next(iter(example04.batches(data.train_images, data.train_labels, 32, 0)))
    assert images.shape == (32, 28, 28, 1)
    assert labels.shape == (32, 10)
    assert np.all(np.sort(labels, axis=1) == np.eye(10)[9])
    assert 0 <= images.numpy().min() < images.numpy().max() <= 255
    originals = {image.tobytes() for image in data.train_images.astype(np.float32)}
    assert not originals & {image.tobytes() for image in images.numpy()}


def test_a_second_run_trains_nothing_more(finished, sample_dir):
    folder, metrics, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/checkpoints/*")}
    assert len(before) >= 3
    again = example04.main(arguments(sample_dir, folder.parent))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for key in ("history", "test_accuracy", "train_seconds"):
        assert again[key] == metrics[key]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill", "Ctrl-C"])
def test_a_run_that_is_stopped_goes_on(sample_dir, tmp_path, number, capsys):
    argv = arguments(sample_dir, tmp_path, "--epochs", "6")
    code = (
        "import runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(SCRIPT), *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(tmp_path.glob("**/ckpt-2.index")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(number)
    output, errors = process.communicate(timeout=120)
    assert "test accuracy" not in output
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in errors
    metrics = example04.main(argv)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    trained = [int(line[0]) for line in lines if len(line) == 6 and line[0].isdigit()]
    assert 2 <= trained[0] <= 4  # what was saved is not trained again
    assert trained == list(range(trained[0], 7))
    assert len(metrics["history"]["loss"]) == 6
    assert metrics["test_accuracy"] > 0.85


def status(capsys, *argv):
    """Run as a program does: exit status, and what was written to stderr but progress bars."""
    code = 0
    try:
        common.run(lambda: example04.main(list(argv)))
    except SystemExit as error:
        code = error.code
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    return code, [line for line in lines if line.strip() and "%|" not in line]


def test_a_picture_is_classified(finished, data, tmp_path):
    folder, _, _ = finished
    right = 0
    for number in range(10):
        image = Image.fromarray(255 - data.test_images[number, ..., 0]).resize((300, 300))
        image.save(tmp_path / "digit.png")
        flags = ["--image", str(tmp_path / "digit.png"), "--models-dir", str(folder.parent)]
        right += example04.main(flags)["digit"] == data.test_labels[number]
    assert right >= 9
    assert (folder / "picture.png").is_file()


@pytest.mark.parametrize("content", [None, b"half a file"], ids=["missing", "damaged"])
def test_a_picture_without_a_model(tmp_path, capsys, content):
    Image.fromarray(np.eye(28, dtype=np.uint8) * 255).save(tmp_path / "digit.png")
    if content:
        (tmp_path / example04.NAME).mkdir()
        (tmp_path / example04.NAME / "model.keras").write_bytes(content)
    flags = ["--image", str(tmp_path / "digit.png"), "--models-dir", str(tmp_path)]
    code, lines = status(capsys, *flags)
    assert (code, len(lines)) == (1, 1)
    assert "python examples/example04_mnist_cnn_layers.py" in lines[0]


def test_a_learning_rate_that_is_too_high(sample_dir, tmp_path, capsys):
    argv = arguments(sample_dir, tmp_path, "--learning-rate", "1e38", "--epochs", "1")
    code, lines = status(capsys, *argv)
    assert code == 1
    assert "--learning-rate" in lines[-1]


def test_too_few_images(sample_dir, tmp_path, capsys):
    code, lines = status(capsys, *arguments(sample_dir, tmp_path, "--train-images", "10"))
    assert (code, len(lines)) == (1, 1)
    assert "--batch-size" in lines[0]
