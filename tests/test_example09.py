"""Checks example 09 against the stand-in for TensorFlow Serving, and against what is no server."""

import functools
import json
import shutil
import socket
import threading

import numpy as np
import pytest
from misbehaving_server import MisbehavingServer, answers, resets_after, status
from PIL import Image
from programs import arguments, error_of, png, run, wait_for
from serving_stand_in import apis, running, tf

from examples import example09_serving_client as example09
from examples.helpers.cli import UserError

both = pytest.mark.parametrize("protocol", [example09.Rest, example09.Grpc], ids=["REST", "gRPC"])


@pytest.fixture(scope="module")
def served(exported, tmp_path_factory):
    """A copy of what example 08 has exported, for one server to watch."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(exported[0] / "serving" / "mnist" / "1", folder / "1")
    return folder


@pytest.fixture(scope="module")
def server(served):
    with running(served) as server:
        wait_for(lambda: server.current)
        yield server


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """No answer is waited for long; and a proxy that nobody runs is not in the way."""
    monkeypatch.setattr(example09, "TIMEOUT", 5)
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def client(protocol, server, model="mnist", version=None, host="localhost"):
    port = server.rest_port if protocol is example09.Rest else server.port
    return protocol(host, port, model, version)


def flags(server, *more):
    return ["--rest-port", server.rest_port, "--grpc-port", server.port, *more]


ask_main = functools.partial(error_of, example09.main)


@pytest.fixture(scope="module")
def finished(server, sample_dir, tmp_path_factory):
    """One whole run: its folder of results, metrics and output."""
    models_dir = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(example09, "SIZES", (1, 3))
        patch.setattr(example09, "REQUESTS", 4)
        return models_dir / example09.NAME, *run(
            example09.main, *flags(server, *arguments(sample_dir, models_dir))
        )


def test_it_finds_what_example_08_has_measured(finished, exported, server, data):
    folder, metrics, output = finished
    assert metrics["test_accuracy"] == exported[1]["test_accuracy"]
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert (folder / "worst_mistakes.png").is_file()
    assert f"http://localhost:{server.rest_port}: version 1 AVAILABLE\n" in output
    answer = "classes int32 (None,), probabilities float32 (None, 10)\n"
    assert f"    serving_default: images uint8 (None, 28, 28, 1) -> {answer}" in output
    assert f"    files: images string (None,) -> {answer}" in output
    assert "__" not in output
    sizes = len(json.dumps(data.test_images[0].tolist())), 784
    assert f"takes {sizes[0]:,} bytes as JSON, " in output
    assert "over REST and over gRPC differ by 0 at most" in output
    for name in ("REST", "gRPC"):
        assert f"{name}: the first is a {data.test_labels[0]}, with " in output

    rows = metrics["latency"]
    expected = [(way, n) for n in (1, 3) for way in ("REST, rows", "REST, columns", "gRPC")]
    assert [(row["way"], row["images"]) for row in rows] == expected
    for row in rows:
        assert 0 < row["median_ms"] <= row["percentile_95_ms"]
        assert f"{row['median_ms']:.1f}" in output


def test_every_batch_is_timed_and_the_first_do_not_count(monkeypatch, data):
    sent, clock = [], iter(range(1000))
    monkeypatch.setattr(example09.time, "perf_counter", lambda: next(clock) ** 2)
    seconds = example09.measure(sent.append, data.test_images, 60)
    assert len(sent) == example09.REQUESTS + example09.UNTIMED
    assert {batch.shape for batch in sent} == {(60, 28, 28, 1)}
    np.testing.assert_array_equal(sent[1], data.test_images[60:120])
    np.testing.assert_array_equal(sent[4][-46:], data.test_images[:46])  # around the end: 254
    first = 2 * example09.UNTIMED
    assert seconds[0] == (first + 1) ** 2 - first**2
    assert len(seconds) == example09.REQUESTS


def test_a_picture_of_one_s_own(server, data, tmp_path, capsys):
    path = tmp_path / "digit.png"
    assert str(path) in ask_main(capsys, *flags(server, "--image", path))
    path.write_bytes(png(255 - np.kron(data.test_images[0, ..., 0], np.ones((5, 5), np.uint8))))
    argv = flags(server, "--image", path, "--models-dir", tmp_path, "--model-version", 1)
    result = example09.main(list(map(str, argv)))
    assert result["answer"] == str(data.test_labels[0])
    assert f"{max(result['probabilities']):.2%}  {result['answer']}\n" in capsys.readouterr().out
    assert (tmp_path / example09.NAME / "picture.png").is_file()


@pytest.mark.parametrize(
    ("form", "mode"),
    [
        *(("PNG", "RGBA"), ("PNG", "I;16"), ("JPEG", "CMYK"), ("GIF", "P")),
        *(("WEBP", "RGB"), ("BMP", "RGB"), ("TIFF", "F"), ("JPEG", "turned")),
    ],
)
def test_a_picture_that_the_model_cannot_decode_itself(server, data, tmp_path, form, mode):
    grey = 255 - np.kron(data.test_images[0, ..., 0], np.ones((5, 5), np.uint8))
    if mode == "turned":  # as a camera that was held upright leaves it
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(np.rot90(grey)).save(tmp_path / "a", form, exif=exif)
    else:
        scaled = {"I;16": grey.astype(np.uint16) * 257, "F": np.float32(grey / 255)}
        image = Image.fromarray(scaled.get(mode, grey))
        image = image if mode in scaled else image.convert("RGB").convert(mode)
        image.save(tmp_path / "a", form)
    argv = flags(server, "--image", tmp_path / "a", "--models-dir", tmp_path)
    assert example09.main(list(map(str, argv)))["answer"] == str(data.test_labels[0])


def test_the_stand_in_says_that_its_port_is_in_use(server, served):
    for ports in ({"port": server.port}, {"rest_port": server.rest_port}):
        with pytest.raises((OSError, RuntimeError)), running(served, **ports):
            pass


# --- The answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 33])
def test_answers_are_the_model_s(server, data, count):
    images = data.test_images[:count]
    request = apis.predict_pb2.PredictRequest()
    request.inputs["images"].CopyFrom(tf.make_tensor_proto(images))
    expected = server.current[1].predict(request)
    rest, over_grpc = (client(protocol, server) for protocol in (example09.Rest, example09.Grpc))
    answers = [rest.predict(images), rest.predict(images, rows=True), over_grpc.predict(images)]
    for classes, probabilities in answers:
        assert np.issubdtype(classes.dtype, np.integer)
        assert probabilities.dtype == np.float32
        np.testing.assert_array_equal(classes, expected["classes"])
        np.testing.assert_array_equal(probabilities, expected["probabilities"])


@both
def test_files_and_floats_are_classified(server, data, protocol):
    images = data.test_images[:20]
    asked = client(protocol, server)
    expected_classes, expected = asked.predict(images)
    classes, _ = asked.predict([png(image[..., 0]) for image in images], "files")
    assert np.mean(classes == expected_classes) > 0.8
    classes, probabilities = asked.predict((images / 255).astype(np.float32), "floats")
    np.testing.assert_array_equal(classes, expected_classes)
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)


# --- What the server refuses ----------------------------------------------------------------------


def test_no_such_model_or_version(server, capsys):
    for flag, value, reason in (
        ("--model", "no model/?", "Could not find any versions of model no model/?"),
        ("--model-version", "7", "Could not find version 7 of model mnist"),
    ):
        error = ask_main(capsys, *flags(server, flag, value))
        assert f"({reason}): start a server" in error
        assert "or correct --server, --rest-port, --model or --model-version" in error


@both
def test_asking_for_what_is_not_there(server, data, protocol):
    for settings in ({"model": "nope"}, {"version": 7}):
        asked = client(protocol, server, **settings)
        with pytest.raises(UserError, match=r"\(Servable not found for request: .*(nope|7)"):
            asked.predict(data.test_images[:1])
    with pytest.raises(UserError, match=r'"nope" not found'):
        client(protocol, server).predict(data.test_images[:1], "nope")


@both
@pytest.mark.parametrize(
    ("sent", "signature", "reason"),
    [
        (np.zeros((28, 28, 1), np.uint8), "serving_default", "Shape of tensor"),
        (np.zeros((1, 27, 27, 1), np.uint8), "serving_default", "Shape of tensor"),
        (np.full((1, 28, 28, 1), 0.5, np.float32), "serving_default", "uint8"),
        ([b""], "files", "Input is empty"),
        ([b"no picture"], "files", "Unknown image file format"),
    ],
    ids=["no batch", "too small", "floats", "empty file", "text"],
)
def test_what_it_cannot_use(server, data, protocol, sent, signature, reason):
    asked = client(protocol, server)
    with pytest.raises(UserError, match=reason) as error:
        asked.predict(sent, signature)
    assert "node" not in str(error.value)
    asked.predict(data.test_images[:1])  # the server goes on


@pytest.mark.parametrize("file", ["saved_model.pb", "assets.extra/tf_serving_warmup_requests"])
def test_a_version_that_cannot_be_loaded(served, tmp_path, capsys, file):
    shutil.copytree(served / "1", tmp_path / "3")
    (tmp_path / "3" / file).write_bytes(b"no model and no record" * 9)
    with running(tmp_path) as server:
        wait_for(lambda: server.states.get(3, (0, 0))[1])
        assert server.current is None
        error = ask_main(capsys, *flags(server))
    assert "(version 3 END " in error
    assert "wait until it is ready" in error


@pytest.mark.parametrize("given", ["x", "images"])
def test_a_model_of_another_kind(tmp_path, capsys, given):
    """What goes in or what comes out has another name."""
    spec = tf.TensorSpec([None], tf.float32, given)
    serve = tf.function(lambda x: {"y": x}, input_signature=[spec])
    tf.saved_model.save(tf.Module(), str(tmp_path / "1"), {"serving_default": serve})
    with running(tmp_path, name="other") as server:
        wait_for(lambda: server.current)
        for more, wanted in (([], "serving_default"), (["--image", "x.png"], "files")):
            error = ask_main(capsys, *flags(server, "--model", "other", *more))
            assert f"no {wanted} from images to classes" in error


# --- What the network does ------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--rest-port", "--grpc-port"])
def test_nothing_listens(server, sample_dir, capsys, flag):
    with socket.socket() as listener:
        listener.bind(("localhost", 0))  # bound, and nothing listens
        port = listener.getsockname()[1]
        argv = flags(server, flag, port, "--data", "sample", "--data-dir", sample_dir)
        error = ask_main(capsys, *argv)
    assert f"localhost:{port} (" in error
    assert "Connection refused" in error
    assert "the last lines of python examples/example08_serving_export.py say" in error
    assert f"correct --server, {flag}, " in error


@both
def test_a_host_that_nobody_knows(server, data, protocol):
    asked = client(protocol, server, host="no.such.host.invalid")
    with pytest.raises(UserError, match=r"no answer from .*no\.such\.host\.invalid"):
        asked.predict(data.test_images[:1])


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_address_gets_its_brackets(host, capsys):
    error = ask_main(capsys, "--server", host, "--rest-port", 9)
    assert "no answer from http://[::1]:9 (" in error


@both
def test_no_answer_in_time(server, data, protocol, monkeypatch):
    """Of a server that says nothing at all, and of one that takes too long."""
    asked = client(protocol, server)
    asked.predict(data.test_images[:1])
    monkeypatch.setattr(example09, "TIMEOUT", 0.3)
    with socket.create_server(("localhost", 0)) as deaf:
        silent = protocol("localhost", deaf.getsockname()[1], "mnist")
        with pytest.raises(UserError, match=r"no answer from .*: start a server"):
            silent.predict(data.test_images[:1])
    release = threading.Event()
    monkeypatch.setattr(server, "predict", lambda request: release.wait(3))
    with pytest.raises(UserError, match=r"no answer from .*(timed out|Deadline)"):
        asked.predict(data.test_images[:1])
    release.set()


def test_the_ports_are_mixed_up(server, sample_dir, capsys):
    error = ask_main(capsys, "--rest-port", server.port, "--grpc-port", server.rest_port)
    assert "correct --server, --rest-port" in error and error.isprintable()
    argv = flags(server, "--data", "sample", "--data-dir", sample_dir)
    error = ask_main(capsys, *argv, "--grpc-port", server.rest_port)
    assert "correct --server, --grpc-port" in error
    assert error.isprintable()


NOT_OURS = "what is there is not TensorFlow Serving"


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (answers(200, b"<html></html>", Content_Type="text/html"), NOT_OURS),
        (answers(200, b"{}", Content_Type="application/json"), NOT_OURS),
        (answers(200, b"[1, 2]", Content_Type="application/json"), NOT_OURS),
        (status(404), NOT_OURS),
        (resets_after(0), "Connection reset by peer"),  # as Docker does it at first
    ],
)
def test_another_web_server(capsys, behaviour, reason):
    other = MisbehavingServer()
    other.add("/v1/models/mnist", b"{}", behaviour)
    error = ask_main(capsys, "--rest-port", other.server_port)
    other.stop()
    assert f"({reason}): start a server" in error
    assert "correct --server, --rest-port" in error
