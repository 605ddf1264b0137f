"""Checks example 02 in three ways: its event files hold what each panel is about; a running
TensorBoard reports every plugin as active and hands out its data; and a browser shows every panel.
Also TFRecord as the example describes it, --serve, and what is said when something is wrong.

The panel Profile needs the package tensorboard-plugin-profile, the browser checks Chromium or
Chrome. SCREENSHOTS=FOLDER keeps a picture of every panel in that folder.
"""

import contextlib
import gzip
import importlib.util
import io
import itertools
import json
import os
import runpy
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.parse
import urllib.request
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from programs import start

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from examples import common  # noqa: E402  # isort: skip  # before TensorFlow: silences it
import tensorflow as tf  # noqa: E402
from google.protobuf import text_format  # noqa: E402
from sklearn import metrics as sklearn_metrics  # noqa: E402
from tensorboard.backend.event_processing import event_accumulator  # noqa: E402
from tensorboard.plugins import projector  # noqa: E402
from tensorboard.plugins.hparams import plugin_data_pb2  # noqa: E402

from datasets import mnist  # noqa: E402
from examples import example02_tensorboard as example02  # noqa: E402

SCRIPT = ROOT / "examples" / "example02_tensorboard.py"
LAYERS = ("hidden1", "hidden2", "output")
DIGITS = [f"digit/{digit}/pr_curves" for digit in range(10)]
SWEEP = [
    f"rate={rate},units={units}"
    for rate, units in itertools.product(example02.SWEEP_RATES, example02.SWEEP_UNITS)
]
HAS_PROFILE_PLUGIN = importlib.util.find_spec("tensorboard_plugin_profile") is not None
needs_profile_plugin = pytest.mark.skipif(
    not HAS_PROFILE_PLUGIN,
    reason="needs the package tensorboard-plugin-profile, which shows profiles in TensorBoard",
)


@pytest.fixture(scope="module")
def data(sample_dir):
    return mnist.load("sample", sample_dir)


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def metrics(sample_dir, models_dir):
    """Run the example once, for all tests."""
    arguments = ["--data", "sample", "--data-dir", str(sample_dir), "--models-dir", str(models_dir)]
    return example02.main(arguments)


@pytest.fixture(scope="module")
def log(metrics):
    return Path(metrics["log"])


# --- What is in the event files -------------------------------------------------------------------


@pytest.fixture(scope="module")
def events(log):
    """Return a function that opens a run with TensorBoard's own reader."""

    def load(run):
        reader = event_accumulator.EventAccumulator(str(log / run), {"tensors": 0, "graph": 1})
        return reader.Reload()

    return load


def tags(run, plugin):
    """Return a run's tags that belong to a plugin."""
    names = run.Tags()["tensors"]
    return {tag for tag in names if run.SummaryMetadata(tag).plugin_data.plugin_name == plugin}


def values(run, tag):
    """Return steps and values of a tag."""
    found = run.Tensors(tag)
    return [event.step for event in found], [tf.make_ndarray(event.tensor_proto) for event in found]


def test_metrics(metrics, models_dir):
    assert metrics["test_accuracy"] > 0.8
    assert metrics["parameters"] == 784 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10
    written = json.loads((models_dir / example02.NAME / "metrics.json").read_text())
    assert written == json.loads(json.dumps(metrics))


def test_scalars_of_training_and_validation_share_their_tags(events):
    training, validation = events("train"), events("validation")
    assert tags(training, "scalars") == {"loss", "accuracy", "learning_rate"}
    assert tags(validation, "scalars") == {"loss", "accuracy"}
    for run in (training, validation):
        steps, loss = values(run, "loss")
        assert len(steps) >= 20
        assert steps == sorted(set(steps))
        assert np.mean(loss[-3:]) < 0.5 * np.mean(loss[:3])
        assert np.mean(values(run, "accuracy")[1][-3:]) > 0.85
    steps, rates = values(training, "learning_rate")
    assert rates[0] == pytest.approx(example02.LEARNING_RATE)
    assert 0 < rates[-1] < 0.05 * example02.LEARNING_RATE
    np.testing.assert_allclose(np.diff(rates, 2), 0, atol=1e-6)  # a straight line


def test_histograms_of_weights_biases_and_gradients_of_each_layer(events):
    run = events("train")
    sizes = {"kernel": (784 * 128, 128 * 64, 64 * 10), "bias": (128, 64, 10)}
    expected = {
        f"{layer}/{kind}{suffix}": size
        for kind in sizes
        for layer, size in zip(LAYERS, sizes[kind], strict=True)
        for suffix in ("", "_gradient")
    }
    assert tags(run, "histograms") == set(expected)
    for tag, size in expected.items():
        steps, histograms = values(run, tag)
        assert len(steps) >= 20
        for histogram in histograms:  # rows of left edge, right edge, count
            assert histogram[:, 2].sum() == size
        assert not np.array_equal(histograms[0], histograms[-1]), f"{tag} does not change"


def test_graph_has_named_scopes_and_devices(events):
    nodes = events("train").Graph().node
    names = [node.name for node in nodes]
    for scope in (*(f"network_1/{layer}_1/" for layer in LAYERS), "loss/", "accuracy/", "update/"):
        assert any(name.startswith(scope) for name in names), scope
    assert any(name.startswith("gradient_tape/") for name in names)
    products = [node for node in nodes if node.op == "MatMul"]
    assert len(products) == 3 + 3 + 2  # forward; gradients of the weights; and of layers' inputs
    expected = "GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0"
    assert all(node.device.endswith(expected) for node in products)


def test_images_of_the_labels_and_after_every_epoch(events):
    assert tags(events("input"), "images") == {"labelled"}
    run = events("validation")
    assert tags(run, "images") == {"confusion_matrix", "misclassified"}
    for tag in ("confusion_matrix", "misclassified"):
        steps, pictures = values(run, tag)
        assert steps == [25, 50, 75]
        assert len({picture[2] for picture in pictures}) == 3
        for width, height, png in pictures:
            with Image.open(io.BytesIO(png)) as picture:
                assert picture.size == (int(width), int(height))
                assert min(picture.size) > 200


def test_audio_is_a_rising_tone_with_and_without_noise(events):
    run = events("input")
    assert tags(run, "audio") == {"chirp/clean", "chirp/with_noise"}
    sounds = []
    for tag in ("chirp/clean", "chirp/with_noise"):
        content = values(run, tag)[1][0][0, 0]
        with wave.open(io.BytesIO(content)) as file:
            assert file.getframerate() == example02.SOUND_RATE
            assert file.getnframes() == example02.SOUND_RATE * example02.SOUND_SECONDS
            sounds.append(np.frombuffer(file.readframes(file.getnframes()), np.int16) / 2**15)
    for sound in sounds:  # the loudest frequency of each tenth of a second rises in both
        spectra = np.abs(np.fft.rfft(sound.reshape(20, -1)))
        loudest = spectra.argmax(axis=1) * 10  # Hz
        np.testing.assert_allclose(loudest, np.linspace(245, 1955, 20), atol=100)
    clean, noisy = (sound / sound.std() for sound in sounds)
    assert np.corrcoef(clean, noisy)[0, 1] == pytest.approx(np.sqrt(0.5), abs=0.02)  # equal power


def test_text_is_a_configuration_and_a_report(events, metrics):
    assert tags(events("input"), "text") == {"configuration"}
    assert tags(events("test"), "text") == {"report"}
    (configuration,) = values(events("input"), "configuration")[1]
    assert "| learning_rate | 0.2 |" in configuration.item().decode()
    (report,) = values(events("test"), "report")[1]
    assert f"| test accuracy | {metrics['test_accuracy']:.2%} |" in report.item().decode()


def test_pr_curves_of_every_class(events):
    for run, count in (("validation", 3), ("test", 1)):
        run = events(run)
        assert tags(run, "pr_curves") == set(DIGITS)
        for tag in DIGITS:
            steps, curves = values(run, tag)
            assert steps == [25, 50, 75][-count:]
            recall = curves[-1][5]
            assert recall[0] == 1
            assert (np.diff(recall) <= 0).all()


def test_pr_curve_equals_scikit_learn(tmp_path):
    rng = np.random.default_rng(0)
    labels, p = rng.integers(0, 2, 500), rng.uniform(size=500)
    writer = example02.make_writer(tmp_path)
    with writer.as_default():
        example02.write_pr_curves(np.stack([1 - p, p], 1), labels, ("0", "1"), step=7)
    writer.close()
    run = event_accumulator.EventAccumulator(str(tmp_path)).Reload()
    curve = values(run, "digit/1/pr_curves")[1][0]
    for index in (20, 100, 160):  # of 201 thresholds from 0 to 1
        answers = p >= index / 200
        precision, recall = curve[4, index], curve[5, index]
        assert precision == pytest.approx(sklearn_metrics.precision_score(labels, answers))
        assert recall == pytest.approx(sklearn_metrics.recall_score(labels, answers))


def test_hparams_of_every_pair(events):
    def content(run):
        (tag,) = tags(run, "hparams")
        return plugin_data_pb2.HParamsPluginData.FromString(
            run.SummaryMetadata(tag).plugin_data.content
        )

    experiment = content(events("sweep")).experiment
    assert [info.name for info in experiment.hparam_infos] == ["learning_rate", "units"]
    accuracies = {}
    for rate, units in itertools.product(example02.SWEEP_RATES, example02.SWEEP_UNITS):
        run = events(f"sweep/rate={rate},units={units}")
        hparams = content(run).session_start_info.hparams
        assert hparams["learning_rate"].number_value == rate
        assert hparams["units"].number_value == units
        accuracies[rate, units] = values(run, "sweep/accuracy")[1][-1]
    assert max(accuracies.values()) - min(accuracies.values()) > 0.1  # something to compare


def test_projector_has_points_labels_and_thumbnails(log, data):
    folder = log / "test"
    config = projector.ProjectorConfig()
    text_format.Parse((folder / "projector_config.pbtxt").read_text(), config)
    (embedding,) = config.embeddings
    points = np.loadtxt(folder / embedding.tensor_path)
    assert points.shape == (len(data.test_images), example02.UNITS[-1])
    header, *about = (folder / embedding.metadata_path).read_text().splitlines()
    assert header.split("\t") == ["label", "predicted", "right"]
    rows = [line.split("\t") for line in about]
    assert [row[0] for row in rows] == [f"digit {label}" for label in data.test_labels]
    assert all((row[0] == row[1]) == (row[2] == "yes") for row in rows)
    width, height = embedding.sprite.single_image_dim
    sprite = np.asarray(Image.open(folder / embedding.sprite.image_path))
    columns = sprite.shape[1] // width
    for index in (0, 17, len(points) - 1):
        top, left = index // columns * height, index % columns * width
        thumbnail = sprite[top : top + height, left : left + width]
        np.testing.assert_array_equal(255 - thumbnail, data.test_images[index, ..., 0])
    # Digits of a kind lie together: the nearest other point is mostly of the same kind.
    distances = np.square(points[:, None] - points).sum(axis=-1) + np.diag([np.inf] * len(points))
    same = data.test_labels[distances.argmin(axis=1)] == data.test_labels
    assert same.mean() > 0.8


def test_profile_has_the_steps_and_their_operations(log):
    (path,) = log.glob("train/plugins/profile/*/*.xplane.pb")
    content = path.read_bytes()
    for name in (b"train", b"step_num", b"MatMul", b"hidden1", b"Iterator"):
        assert name in content, name


# --- TFRecord -------------------------------------------------------------------------------------


def masked_crc(content):
    """Compute CRC-32C bit by bit, and mask it, as the example describes it."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_by_hand(path, count):
    """Read the first records of a file, by nothing but the example's description."""
    with path.open("rb") as file:
        for _ in range(count):
            length = file.read(8)
            assert struct.unpack("<I", file.read(4)) == (masked_crc(length),)
            content = file.read(struct.unpack("<Q", length)[0])
            assert struct.unpack("<I", file.read(4)) == (masked_crc(content),)
            yield content


def test_crc_has_the_published_check_value():
    crc = (masked_crc(b"123456789") - 0xA282EAD8) & 0xFFFFFFFF
    assert (crc << 15 | crc >> 17) & 0xFFFFFFFF == 0xE3069283


def test_records_are_as_described(log, data):
    for index, content in enumerate(read_by_hand(log / "digits.tfrecord", 3)):
        features = tf.train.Example.FromString(content).features.feature
        assert set(features) == {"image", "label"}
        assert list(features["label"].int64_list.value) == [data.train_labels[index]]
        (png,) = features["image"].bytes_list.value
        image = np.asarray(Image.open(io.BytesIO(png)))
        np.testing.assert_array_equal(image, data.train_images[index, ..., 0])


def test_event_files_are_of_the_same_format(log):
    (path,) = (log / "test").glob("events.out.tfevents.*")
    first, second = (tf.compat.v1.Event.FromString(x) for x in read_by_hand(path, 2))
    assert first.file_version == "brain.Event:2"
    assert second.summary.value[0].tag == DIGITS[0]


def test_all_records_are_read_back(log, data):
    pairs = list(example02.read_records(log / "digits.tfrecord"))
    assert len(pairs) == example02.RECORDS
    for (image, label), expected in zip(pairs, data.train_images, strict=False):
        np.testing.assert_array_equal(image, expected)
        assert label.dtype == tf.int32
    np.testing.assert_array_equal([label for _, label in pairs], data.train_labels[: len(pairs)])


def test_a_flipped_bit_is_noticed(log, tmp_path):
    content = bytearray((log / "digits.tfrecord").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "damaged.tfrecord").write_bytes(content)
    with pytest.raises(tf.errors.DataLossError):
        list(example02.read_records(tmp_path / "damaged.tfrecord"))


# --- What TensorBoard hands out -------------------------------------------------------------------


def get(address, timeout=60):
    """Fetch a page: its content, unpacked, parsed if it is JSON."""
    request = urllib.request.Request(address, headers={"Accept-Encoding": "gzip"})
    return answer(request, timeout)


def answer(request, timeout=60):
    with urllib.request.urlopen(request, timeout=timeout) as response:
        content = response.read()
        if response.headers.get("Content-Encoding") == "gzip":
            content = gzip.decompress(content)
        kind = response.headers.get_content_type()
    return json.loads(content) if kind == "application/json" else content


def wait_for(condition, what, seconds=60):
    """Ask until the answer is true, and return it; `what()` says what was waited for."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {seconds} s for {what()}"
        time.sleep(0.1)
    return found


def active_plugins(address):
    with contextlib.suppress(OSError):
        listing = get(f"{address}/data/plugins_listing")
        return {name for name, plugin in listing.items() if plugin["enabled"]}
    return set()


@pytest.fixture(scope="module")
def tensorboard(log, tmp_path_factory):
    """Start TensorBoard with the command that the example prints, on a free port."""
    output = tmp_path_factory.mktemp("tensorboard") / "output.txt"
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(log), "--port", "0"]
    with output.open("w") as file:
        process = subprocess.Popen([*command, "--host", "127.0.0.1"], stdout=file, stderr=file)

    def address():
        assert process.poll() is None, output.read_text()
        lines = [line for line in output.read_text().splitlines() if " at http://" in line]
        return lines and lines[0].partition(" at ")[2].split("/ ")[0]

    try:
        yield wait_for(address, lambda: f"TensorBoard: {output.read_text()}")
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def plugin(tensorboard):
    """Return a function that asks a plugin of TensorBoard for something."""

    def ask(route, **parameters):
        return get(f"{tensorboard}/data/plugin/{route}?{urllib.parse.urlencode(parameters)}")

    wait_for(lambda: len(ask("scalars/tags")) == 2 + len(SWEEP), lambda: "all runs")
    return ask


def test_every_plugin_is_active(tensorboard, plugin):
    expected = {
        *("timeseries", "scalars", "images", "audio", "graphs", "distributions", "histograms"),
        *("text", "pr_curves", "hparams", "projector"),
    } | ({"profile"} if HAS_PROFILE_PLUGIN else set())
    wait_for(
        lambda: expected <= active_plugins(tensorboard),
        lambda: expected - active_plugins(tensorboard),
    )


def test_endpoint_of_scalars(plugin):
    found = plugin("scalars/tags")
    assert set(found["train"]) == {"loss", "accuracy", "learning_rate"}
    assert set(found["validation"]) == {"loss", "accuracy"}
    for run in ("train", "validation"):
        points = plugin("scalars/scalars", run=run, tag="loss")  # time, step, value
        assert len(points) >= 20
        assert points[-1][2] < points[0][2]


def test_endpoint_of_graphs(plugin):
    assert plugin("graphs/info")["train"]["run_graph"]
    graph = plugin("graphs/graph", run="train").decode()
    assert 'name: "network_1/hidden1_1/MatMul"' in graph
    assert "device:" in graph


def test_endpoint_of_images(plugin):
    found = plugin("images/tags")
    assert set(found["input"]) == {"labelled"}
    assert set(found["validation"]) == {"confusion_matrix", "misclassified"}
    entries = plugin("images/images", run="validation", tag="misclassified", sample=0)
    assert [entry["step"] for entry in entries] == [25, 50, 75]
    query = dict(urllib.parse.parse_qsl(entries[-1]["query"]))
    with Image.open(io.BytesIO(plugin("images/individualImage", **query))) as image:
        assert min(image.size) > 200


def test_endpoint_of_audio(plugin):
    assert set(plugin("audio/tags")["input"]) == {"chirp/clean", "chirp/with_noise"}
    (entry,) = plugin("audio/audio", run="input", tag="chirp/clean", sample=0)
    query = dict(urllib.parse.parse_qsl(entry["query"]))
    with wave.open(io.BytesIO(plugin("audio/individualAudio", **query))) as file:
        assert file.getnframes() == example02.SOUND_RATE * example02.SOUND_SECONDS


@pytest.mark.parametrize("name", ["histograms", "distributions"])
def test_endpoint_of_histograms_and_distributions(plugin, name):
    assert len(plugin(f"{name}/tags")["train"]) == 12
    assert len(plugin(f"{name}/{name}", run="train", tag="hidden1/kernel_gradient")) >= 20


def test_endpoint_of_text(plugin):
    assert plugin("text/tags") == {"input": ["configuration"], "test": ["report"]}
    (entry,) = plugin("text/text", run="test", tag="report")
    assert "<td>test accuracy</td>" in entry["text"]


def test_endpoint_of_pr_curves(plugin):
    assert set(plugin("pr_curves/tags")["test"]) == set(DIGITS)
    (curve,) = plugin("pr_curves/pr_curves", run="test", tag=DIGITS[7])["test"]
    assert len(curve["precision"]) == len(curve["recall"]) > 10


def test_endpoint_of_hparams(tensorboard, plugin):
    question = {"startIndex": 0, "sliceSize": 100, "allowedStatuses": ["STATUS_UNKNOWN"]}
    address = f"{tensorboard}/data/plugin/hparams/session_groups"
    header = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, json.dumps(question).encode(), header)
    groups = answer(request)["sessionGroups"]
    assert {group["name"] for group in groups} == set(SWEEP)
    assert all(group["metricValues"][0]["value"] > 0 for group in groups)


def test_endpoint_of_projector(plugin, data):
    assert plugin("projector/runs") == ["test"]
    (embedding,) = plugin("projector/info", run="test")["embeddings"]
    count, dimensions = len(data.test_images), example02.UNITS[-1]
    assert embedding["tensorShape"] == [count, dimensions]
    which = {"run": "test", "name": embedding["tensorName"]}
    points = np.frombuffer(plugin("projector/tensor", **which), np.float32)
    assert points.size == count * dimensions
    assert len(plugin("projector/metadata", **which).splitlines()) == 1 + count
    assert plugin("projector/sprite_image", **which).startswith(b"\x89PNG")


@needs_profile_plugin
def test_endpoint_of_profile(plugin):
    (run,) = plugin("profile/runs")
    assert run.startswith("train/")
    assert {"overview_page", "framework_op_stats"} <= set(plugin("profile/run_tools", run=run))
    (host,) = plugin("profile/hosts", run=run, tag="overview_page")
    which = {"run": run, "host": host["hostname"]}
    operations = json.dumps(plugin("profile/data", tag="framework_op_stats", **which))
    assert "MatMul" in operations
    trace = json.dumps(plugin("profile/data", tag="trace_viewer", **which))
    assert "hidden1" in trace


# --- What a browser shows -------------------------------------------------------------------------


# All that is on a page, also within shadow roots and frames, as a list of elements.
ELEMENTS = """
(function all(node) {
  const inner = [...node.querySelectorAll('*')];
  return inner.concat(...inner.map(
    (e) => [e.shadowRoot, e.contentDocument].filter(Boolean).flatMap(all)));
})(document)
"""
# Of these, the texts that are not code.
TEXT = f"""{ELEMENTS}.filter((e) => !['STYLE', 'SCRIPT', 'NOSCRIPT'].includes(e.tagName))
.flatMap((e) => [...e.childNodes].filter((n) => n.nodeType == 3).map((n) => n.data.trim()))
.filter(Boolean).join('\\n')"""

# For each panel, what the page must say, and what must be true of its elements e.
DRAWN = "e.filter((x) => x.tagName == 'text').length > {}"  # axes, or names in a drawing
PANELS = {
    "timeseries": (["accuracy", "confusion_matrix", "train", "validation"], DRAWN.format(10)),
    "scalars": (["accuracy", "learning_rate", "loss", "validation"], DRAWN.format(20)),
    "images": (
        ["confusion_matrix", "labelled", "misclassified"],
        "e.filter((x) => x.tagName == 'IMG' && x.naturalWidth > 200).length >= 2",
    ),
    "audio": (
        ["chirp/clean", "chirp/with_noise"],
        "e.filter((x) => x.tagName == 'AUDIO' && Math.abs(x.duration - 2) < 0.01).length == 2",
    ),
    "graphs": (["network_1", "loss", "gradient_tape", "update"], DRAWN.format(10)),
    "distributions": (["hidden1/kernel_gradient", "hidden2/bias"], DRAWN.format(100)),
    "histograms": (["hidden1/kernel_gradient", "hidden2/bias"], DRAWN.format(100)),
    "text": (["configuration", "learning_rate", "report", "test accuracy on 9"], "true"),
    "pr_curves": (["digit/0", "digit/9", "test is at", "validation is at"], DRAWN.format(100)),
    "hparams": (["learning_rate", "units", "accuracy", *SWEEP], "true"),
    "projector": (
        ["last hidden layer", "254x64", "predicted", "Points:"],
        "e.some((x) => x.tagName == 'CANVAS' && x.width > 200)",
    ),
    "profile": (["Sessions (1)", "Overview Page", "Performance Summary"], "true"),
}


@pytest.mark.parametrize("panel", PANELS)
def test_browser_shows_the_panel(browser, tensorboard, plugin, panel):
    if panel == "profile" and not HAS_PROFILE_PLUGIN:
        pytest.skip("needs the package tensorboard-plugin-profile")
    words, condition = PANELS[panel]
    browser.open(f"{tensorboard}/#{panel}")

    missing = []

    def shown():
        text = browser.evaluate(TEXT) or ""
        missing[:] = [word for word in words if word not in text]
        return not missing and browser.evaluate(f"((e) => {condition})({ELEMENTS})")

    wait_for(shown, lambda: f"the panel {panel} to show {missing or condition}")
    time.sleep(0.5)  # for what is still being drawn
    picture = browser.screenshot()
    colours = Image.open(io.BytesIO(picture)).convert("RGB").getcolors(maxcolors=1 << 24)
    assert len(colours) > 100, "nothing is drawn"
    if folder := os.environ.get("SCREENSHOTS"):
        Path(folder, f"example02_{panel}.png").write_bytes(picture)


# --- Runs, --serve, and what goes wrong -----------------------------------------------------------


def arguments(sample_dir, models_dir, *more):
    places = ["--data-dir", str(sample_dir), "--models-dir", str(models_dir)]
    return ["--data", "sample", *places, *map(str, more)]


def contents(folder):
    """Return all files below a folder with their contents."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_new_folder_takes_the_next_number_and_leaves_what_is_there(tmp_path):
    assert example02.new_folder(tmp_path / "logs") == tmp_path / "logs" / "001"
    (tmp_path / "logs" / "002").write_text("a file of the user")
    assert example02.new_folder(tmp_path / "logs") == tmp_path / "logs" / "003"
    assert (tmp_path / "logs" / "002").read_text() == "a file of the user"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_serve_shows_a_run_of_its_own_until_ctrl_c(sample_dir, models_dir, log):
    before, port = contents(log), free_port()
    flags = ["--serve", "--port", port, "--epochs", 1]
    process = start(SCRIPT, *flags, *arguments(sample_dir, models_dir))
    try:
        lines = []
        while "until Ctrl-C" not in "".join(lines):
            lines.append(process.stdout.readline())
            assert lines[-1], process.stderr.read()
        assert f"TensorBoard is at http://127.0.0.1:{port}/\n" in "".join(lines)
        new = log.parent / "002"
        assert f"open it with  tensorboard --logdir {common.shown(new)}\n" in lines
        runs = {"input", "train", "validation", "sweep", "test"}
        address = f"http://127.0.0.1:{port}"
        wait_for(lambda: runs <= set(get(f"{address}/data/runs")), lambda: "all runs")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "Traceback" not in errors
    assert contents(log) == before
    with pytest.raises(OSError):
        get(address)


@pytest.mark.filterwarnings("ignore:html5lib's sanitizer:DeprecationWarning")  # TensorBoard's own
def test_a_port_that_is_taken_is_said_before_training(sample_dir, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(common.UserError, match=f"port {port}.*choose another --port"):
            example02.main(arguments(sample_dir, tmp_path, "--serve", "--port", port))
    assert list((tmp_path / example02.NAME / "logs").iterdir()) == []


@pytest.mark.filterwarnings("ignore:html5lib's sanitizer:DeprecationWarning")
def test_a_port_that_cannot_be(sample_dir, tmp_path):
    with pytest.raises(common.UserError, match="port 99999"):
        example02.main(arguments(sample_dir, tmp_path, "--serve", "--port", 99999))


def test_missing_tensorboard_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(SystemExit) as error:
        runpy.run_path(str(SCRIPT))
    assert error.value.code.startswith("error: TensorBoard cannot be imported")
    assert "\n" not in error.value.code


def test_ctrl_c_says_how_to_see_what_there_is(sample_dir, tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(example02, "sweep", interrupt)
    with pytest.raises(SystemExit) as stopped:
        example02.main(arguments(sample_dir, tmp_path, "--epochs", 1, "--train-images", 100))
    assert stopped.value.code == 130
    log = tmp_path / example02.NAME / "logs" / "001"
    assert f"tensorboard --logdir {common.shown(log)}" in capsys.readouterr().err
    run = event_accumulator.EventAccumulator(str(log / "train")).Reload()
    assert values(run, "loss")[0] == [1, 2]


def test_a_full_disk_is_one_line(sample_dir, tmp_path, monkeypatch):
    def fail(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "{{node x}} events; No space left")

    monkeypatch.setattr(example02, "write_audio", fail)
    with pytest.raises(common.UserError, match=r"^TensorFlow stopped: events; No space left$"):
        example02.main(arguments(sample_dir, tmp_path))


def test_a_learning_rate_too_high(sample_dir, tmp_path):
    with pytest.raises(common.UserError, match=r"the loss is nan.*lower --learning-rate"):
        example02.main(arguments(sample_dir, tmp_path, "--learning-rate", 1e20))


def test_too_few_images_for_a_batch(sample_dir, tmp_path):
    with pytest.raises(common.UserError, match="20 training images do not fill a batch"):
        example02.main(arguments(sample_dir, tmp_path, "--train-images", 20))
    assert list(tmp_path.iterdir()) == []
