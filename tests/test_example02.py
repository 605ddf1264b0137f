"""Checks example 02: what its event files hold and, in TensorBoard and a browser (slow), show.

SCREENSHOTS=FOLDER keeps pictures of the panels.
"""

import contextlib
import importlib.util
import io
import itertools
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import wave
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image
from programs import arguments, error_of, start, wait_for
from sklearn import metrics as sklearn_metrics
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins import projector
from tensorboard.plugins.hparams import plugin_data_pb2

from examples import example02_tensorboard as example02
from examples.example02_tensorboard import tf

DIGITS = {f"digit/{digit}/pr_curves" for digit in range(10)}
SWEEP = [
    f"rate={rate},units={units}"
    for rate, units in itertools.product(example02.SWEEP_RATES, example02.SWEEP_UNITS)
]
HAS_PROFILE_PLUGIN = importlib.util.find_spec("tensorboard_plugin_profile") is not None


@pytest.fixture(scope="module")
def models_dir(sample_dir, tmp_path_factory):
    """Run the example once, for all tests."""
    folder = tmp_path_factory.mktemp("models")
    example02.main(list(map(str, arguments(sample_dir, folder))))
    return folder


@pytest.fixture(scope="module")
def log(models_dir):
    (folder,) = (models_dir / example02.NAME / "logs").iterdir()
    return folder


# --- What is in the event files -------------------------------------------------------------------


def load(folder):
    """Open a run with TensorBoard's own reader."""
    return EventAccumulator(str(folder), {"tensors": 0, "graph": 1}).Reload()


def tags(run, plugin):
    """Return a run's tags that belong to a plugin."""
    names = run.Tags()["tensors"]
    return {tag for tag in names if run.SummaryMetadata(tag).plugin_data.plugin_name == plugin}


def values(run, tag):
    """Return steps and values of a tag."""
    found = run.Tensors(tag)
    return [event.step for event in found], [tf.make_ndarray(event.tensor_proto) for event in found]


def test_scalars_of_training_and_validation_share_their_tags(log):
    training, validation = load(log / "train"), load(log / "validation")
    assert len(values(training, "batch_loss")[0]) == 12 * example02.EPOCHS
    for run in (training, validation):
        steps, loss = values(run, "epoch_loss")
        assert steps == list(range(example02.EPOCHS))
        assert loss[-1] < 0.5 * loss[0]
        assert values(run, "epoch_accuracy")[1][-1] > 0.85
    rates = values(training, "epoch_learning_rate")[1]
    expected = example02.LEARNING_RATE * (1 - np.arange(1, len(rates) + 1) / len(rates))
    np.testing.assert_allclose(rates, expected, atol=1e-6)  # a straight line


def test_histograms_of_weights_biases_and_gradients_of_each_layer(log):
    sizes = {"hidden1/kernel": 784 * 128, "hidden1/bias": 128, "hidden2/kernel": 128 * 64}
    sizes |= {"hidden2/bias": 64, "output/kernel": 64 * 10, "output/bias": 10}
    for name, kind in (("train", "histogram"), ("examined", "gradient")):
        run = load(log / name)
        assert tags(run, "histograms") == {f"network/{name}/{kind}" for name in sizes}
        for name, size in sizes.items():
            steps, histograms = values(run, f"network/{name}/{kind}")
            assert len(steps) == example02.EPOCHS
            # Rows of left edge, right edge, count.
            assert [histogram[:, 2].sum() for histogram in histograms] == [size] * len(steps)
            assert not np.array_equal(histograms[0], histograms[-1]), f"{name} does not change"


def test_graph_has_named_scopes_and_devices(log):
    nodes = load(log / "examined").Graph().node
    for scope in ("hidden1", "hidden2", "output", "loss/", "gradient_tape/"):
        assert any(scope in node.name for node in nodes), scope
    products = [node for node in nodes if node.op == "MatMul"]
    assert len(products) == 3 + 3 + 2  # forward; gradients of the weights; and of layers' inputs
    expected = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    assert all(expected in node.device for node in products)


def test_images_of_the_labels_and_after_every_epoch(log):
    assert tags(load(log / "input"), "images") == {"labelled"}
    run = load(log / "examined")
    assert tags(run, "images") == {"confusion_matrix", "worst_mistakes"}
    for tag in tags(run, "images"):
        steps, pictures = values(run, tag)
        assert steps == list(range(example02.EPOCHS))
        assert len({png for _, _, png in pictures}) == len(steps)
        for width, height, png in pictures:
            assert Image.open(io.BytesIO(png)).size == (int(width), int(height)) > (200, 200)


def test_audio_is_a_rising_tone_with_and_without_noise(log):
    sounds = []
    for tag in ("chirp/clean", "chirp/with_noise"):
        content = values(load(log / "input"), tag)[1][0][0, 0]
        with wave.open(io.BytesIO(content)) as file:
            assert file.getframerate() == example02.SOUND_RATE
            assert file.getnframes() == example02.SOUND_RATE * example02.SOUND_SECONDS
            sounds.append(np.frombuffer(file.readframes(file.getnframes()), np.int16) / 2**15)
    for sound in sounds:  # the loudest frequency of each tenth of a second rises in both
        loudest = np.abs(np.fft.rfft(sound.reshape(20, -1))).argmax(axis=1) * 10  # Hz
        np.testing.assert_allclose(loudest, np.linspace(245, 1955, 20), atol=100)
    clean, noisy = (sound / sound.std() for sound in sounds)
    assert np.corrcoef(clean, noisy)[0, 1] == pytest.approx(np.sqrt(0.5), abs=0.02)  # equal power


def test_text_is_a_configuration_and_a_report(log):
    metrics = json.loads((log.parents[1] / "metrics.json").read_text())
    (configuration,) = values(load(log / "input"), "configuration")[1]
    assert [b"learning_rate", b"0.3"] in configuration.tolist()
    (report,) = values(load(log / "test"), "report")[1]
    assert [b"test_accuracy", str(metrics["test_accuracy"]).encode()] in report.tolist()


def test_pr_curve_equals_scikit_learn(log, tmp_path):
    assert tags(load(log / "examined"), "pr_curves") == DIGITS
    assert tags(load(log / "test"), "pr_curves") == DIGITS
    rng = np.random.default_rng(0)
    labels, p = rng.integers(0, 2, 500), rng.uniform(size=500)
    with example02.make_writer(tmp_path).as_default(step=7):
        example02.write_pr_curves(labels, np.stack([1 - p, p], 1))
    curve = values(load(tmp_path), "digit/1/pr_curves")[1][0]
    for index in (20, 100, 160):  # of 201 thresholds from 0 to 1
        answers = p >= index / 200
        precision, recall = curve[4, index], curve[5, index]
        assert precision == pytest.approx(sklearn_metrics.precision_score(labels, answers))
        assert recall == pytest.approx(sklearn_metrics.recall_score(labels, answers))


def test_hparams_of_every_pair(log):
    def content(run):
        (tag,) = tags(run, "hparams")
        found = run.SummaryMetadata(tag).plugin_data.content
        return plugin_data_pb2.HParamsPluginData.FromString(found)

    experiment = content(load(log / "sweep")).experiment
    assert [info.name for info in experiment.hparam_infos] == ["learning_rate", "units"]
    accuracies = []
    for name in SWEEP:
        run = load(log / "sweep" / name)
        hparams = content(run).session_start_info.hparams
        rate, units = hparams["learning_rate"].number_value, hparams["units"].number_value
        assert name == f"rate={rate},units={units:.0f}"
        accuracies.append(values(run, "sweep/accuracy")[1][-1])
    assert max(accuracies) - min(accuracies) > 0.1  # something to compare


def test_projector_has_points_labels_and_thumbnails(log, data):
    config = projector.ProjectorConfig()
    text_format.Parse((log / "test" / "projector_config.pbtxt").read_text(), config)
    (embedding,) = config.embeddings
    points = np.loadtxt(log / "test" / embedding.tensor_path)
    assert points.shape == (15**2, example02.UNITS[-1])  # of 254 images
    labels = data.test_labels[: len(points)]
    rows = (log / "test" / embedding.metadata_path).read_text().splitlines()
    assert rows == [f"digit {label}" for label in labels]
    width, height = embedding.sprite.single_image_dim
    sprite = np.asarray(Image.open(log / "test" / embedding.sprite.image_path))
    for index in (0, 17, len(points) - 1):
        top, left = index // 15 * height, index % 15 * width
        thumbnail = sprite[top : top + height, left : left + width]
        np.testing.assert_array_equal(255 - thumbnail, data.test_images[index, ..., 0])
    # Digits of a kind lie together: the nearest other point is mostly of the same kind.
    distances = np.square(points[:, None] - points).sum(axis=-1) + np.diag([np.inf] * len(points))
    assert np.mean(labels[distances.argmin(axis=1)] == labels) > 0.8


def test_profile_has_the_steps_and_their_operations(log):
    (path,) = log.glob("train/plugins/profile/*/*.xplane.pb")
    content = path.read_bytes()
    for name in (b"step_num", b"MatMul", b"hidden1", b"Iterator"):
        assert name in content, name


# --- What TensorBoard and a browser show ----------------------------------------------------------


def get(address):
    with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=60) as response:
        return json.load(response)
    return {}


@pytest.fixture(scope="module")
def tensorboard(log, tmp_path_factory):
    """Start TensorBoard on a free port, and wait until it has read all runs."""
    output = tmp_path_factory.mktemp("tensorboard") / "output.txt"
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(log), "--port", "0"]
    with output.open("w") as file:
        process = subprocess.Popen([*command, "--host", "127.0.0.1"], stdout=file, stderr=file)

    def address():
        assert process.poll() is None, output.read_text()
        lines = [line for line in output.read_text().splitlines() if " at http://" in line]
        return lines and lines[0].partition(" at ")[2].split("/ ")[0]

    try:
        found = wait_for(address, lambda: f"TensorBoard: {output.read_text()}")
        wait_for(lambda: len(get(f"{found}/data/runs")) == 6 + len(SWEEP), "all runs")
        yield found
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_every_plugin_is_active(tensorboard):
    expected = {
        *("timeseries", "scalars", "images", "audio", "graphs", "distributions", "histograms"),
        *("text", "pr_curves", "hparams", "projector"),
    } | ({"profile"} if HAS_PROFILE_PLUGIN else set())

    def missing():
        listing = get(f"{tensorboard}/data/plugins_listing")
        return expected - {name for name, plugin in listing.items() if plugin["enabled"]}

    wait_for(lambda: not missing(), missing)


# Whether something is drawn among the elements e of a page.
DRAWN = """e.filter((x) => x.naturalWidth > 200 || x.duration > 1.9 ||
['text', 'TD', 'VAADIN-GRID-CELL-CONTENT', 'CANVAS', 'IFRAME'].includes(x.tagName)).length >= 2"""
PANELS = {
    "timeseries": ["epoch_accuracy", "train", "validation"],
    "scalars": ["epoch_accuracy", "learning_rate", "validation"],
    "images": ["confusion_matrix", "labelled", "worst_mistakes"],
    "audio": ["chirp/clean", "chirp/with_noise"],
    "graphs": ["network", "loss", "gradient_tape"],
    "distributions": ["kernel/gradient", "hidden2/bias"],
    "histograms": ["kernel/gradient", "hidden2/bias"],
    "text": ["configuration", "learning_rate", "report", "test_accuracy"],
    "pr_curves": ["digit/0", "digit/9", "test is at", "examined is at"],
    "hparams": ["learning_rate", "units", "accuracy", *SWEEP],
    "projector": ["last hidden layer", "225x64", "Points:"],
    "profile": ["Sessions (1)", "Overview Page", "Performance Summary"],
}


@pytest.mark.slow
@pytest.mark.parametrize("panel", PANELS)
def test_browser_shows_the_panel(browser, tensorboard, panel):
    if panel == "profile" and not HAS_PROFILE_PLUGIN:
        pytest.skip("needs the package tensorboard-plugin-profile")
    browser.open(f"{tensorboard}/#{panel}")

    def missing():
        text = browser.text()
        return [word for word in PANELS[panel] if word not in text]

    def shown():
        return not missing() and browser.evaluate_elements(DRAWN)

    wait_for(shown, lambda: f"the panel {panel} to show {missing() or 'something'}")
    time.sleep(0.5)  # for what is still being drawn
    picture = browser.screenshot()
    colours = Image.open(io.BytesIO(picture)).convert("RGB").getcolors(maxcolors=1 << 24)
    assert len(colours) > 100, "nothing is drawn"
    if folder := os.environ.get("SCREENSHOTS"):
        Path(folder, f"example02_{panel}.png").write_bytes(picture)


# --- --serve, and what goes wrong -----------------------------------------------------------------


@pytest.mark.slow
def test_serve_shows_a_run_of_its_own_until_ctrl_c(sample_dir, tmp_path):
    argv = arguments(sample_dir, tmp_path, "--serve", "--port", 0, "--epochs", 1)
    process = start(example02.__file__, *argv)
    try:
        output = ""
        while "until Ctrl-C" not in output:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            output += line
        address = output.partition("TensorBoard is at ")[2].partition("/\n")[0]
        runs = {"input", "train", "validation", "examined", "sweep", "test"}
        wait_for(lambda: runs <= set(get(f"{address}/data/runs")), "all runs")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "Traceback" not in errors
    assert not get(f"{address}/data/runs")


@pytest.mark.filterwarnings("ignore:html5lib's sanitizer:DeprecationWarning")  # TensorBoard's own
def test_a_port_that_is_taken_is_said_before_training(sample_dir, tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for port in (taken.getsockname()[1], 99999):
            argv = arguments(sample_dir, tmp_path, "--serve", "--port", port)
            error = error_of(example02.main, capsys, *argv)
            assert f"port {port}" in error
            assert error.endswith("choose another --port")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line(data, sample_dir, tmp_path):
    """In place of a full disk: no file may have more than 100 kB; pictures have less."""
    process = subprocess.run(
        [sys.executable, example02.__file__, *map(str, arguments(sample_dir, tmp_path))],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 1
    assert process.stderr.startswith("error: cannot write ")
    assert process.stderr.endswith("; File too large\n")
    assert process.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--learning-rate", "1e20"], "smaller --learning-rate"),
        (["--train-images", "20"], "do not fill a batch: lower --batch-size"),
    ],
)
def test_bad_input(sample_dir, tmp_path, capsys, flags, told):
    assert told in error_of(example02.main, capsys, *arguments(sample_dir, tmp_path, *flags))
