"""Checks example 09 against the stand-in for TensorFlow Serving: that answers over REST and gRPC
are the model's, and that whatever comes in place of an answer is one line that says what to do.
Checks the stand-in too, by what TensorFlow Serving's API pages say of each address.
"""

import base64
import contextlib
import io
import json
import shutil
import socket
import sys
import threading
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import requests
from misbehaving_server import honest, resets_after, running_server, sends_a_page, status
from PIL import Image
from programs import error_of, run
from serving_stand_in import Version, predict_pb2, running

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from datasets import mnist  # noqa: E402
from examples import common  # noqa: E402
from examples import example09_serving_client as example09  # noqa: E402
from examples.common import tf  # noqa: E402

both = pytest.mark.parametrize("protocol", [example09.Rest, example09.Grpc], ids=["REST", "gRPC"])


@pytest.fixture(scope="module")
def data(sample_dir):
    return mnist.load("sample", sample_dir)


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


def wait_for(condition):
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("it did not happen within 20 s")


def client(protocol, ports, **settings):
    given = {"server": "localhost", "model": "mnist", "model_version": None}
    given |= {"rest_port": ports.rest_port, "grpc_port": ports.port}
    return protocol(Namespace(**given | settings))


def flags(server, *more):
    return ["--rest-port", server.rest_port, "--grpc-port", server.port, *more]


def ask_main(capsys, *argv):
    return error_of(example09.main, capsys, *argv)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


# --- A whole run ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(server, sample_dir, tmp_path_factory):
    """One whole run: its folder of results, metrics and output."""
    models_dir = tmp_path_factory.mktemp("models")
    folders = ["--data", "sample", "--data-dir", sample_dir, "--models-dir", models_dir]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(example09, "SIZES", (1, 3))
        patch.setattr(example09, "REQUESTS", 4)
        patch.setattr(example09, "UNTIMED", 1)
        return models_dir / example09.NAME, *run(example09.main, *flags(server, *folders))


def test_it_finds_what_example_08_has_measured(finished, exported):
    folder, metrics, output = finished
    assert metrics["test_accuracy"] == exported[1]["test_accuracy"]
    assert f"test accuracy {metrics['test_accuracy']:.4f} on sample data" in output
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    with Image.open(folder / "answers.png") as image:
        assert min(image.size) > 200


def test_it_prints_status_signatures_and_single_answers(finished, server, data):
    _, _, output = finished
    assert f"REST at http://localhost:{server.rest_port}: version 1 AVAILABLE\n" in output
    assert f"gRPC at localhost:{server.port}: version 1 AVAILABLE\n" in output
    answer = "classes int32 (None,), probabilities float32 (None, 10)\n"
    assert output.count(f"    serving_default: images uint8 (None, 28, 28, 1) -> {answer}") == 2
    assert output.count(f"    files: images string (None,) -> {answer}") == 2
    assert "__" not in output
    digit = data.test_labels[0]
    assert f"REST: the first is a {digit}, with " in output
    assert f"gRPC: the first is a {digit}, with " in output
    assert "over REST and over gRPC differ by 0 at most" in output


def test_the_table_of_latency(finished):
    _, metrics, output = finished
    rows = metrics["latency"]
    expected = [(way, n) for n in (1, 3) for way in ("REST, rows", "REST, columns", "gRPC")]
    assert [(row["way"], row["images"]) for row in rows] == expected
    for row in rows:
        assert 0 < row["median_ms"] <= row["percentile_95_ms"]
        assert f"{row['median_ms']:.1f}" in output
    assert output.count("\ngRPC   ") == 2
    assert metrics["images_per_second"] > 0


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


@pytest.mark.parametrize("version", [[], ["--model-version", "1"]], ids=["highest", "1"])
def test_a_picture_of_one_s_own(server, data, tmp_path, capsys, version):
    path = tmp_path / "digit.png"
    path.write_bytes(png(255 - np.kron(data.test_images[0, ..., 0], np.ones((5, 5), np.uint8))))
    argv = flags(server, "--image", path, "--models-dir", tmp_path, *version)
    result = example09.main(list(map(str, argv)))
    assert result["digit"] == data.test_labels[0]
    assert f"{max(result['probabilities']):.2%}  {result['digit']}\n" in capsys.readouterr().out
    assert (tmp_path / example09.NAME / "picture.png").is_file()


# --- The answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 33])
def test_answers_are_the_model_s(server, data, count):
    images = data.test_images[:count]
    request = predict_pb2.PredictRequest()
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
def test_files_are_classified(server, data, protocol):
    images = data.test_images[:20]
    files = [png(image[..., 0]) for image in images]
    classes, _ = client(protocol, server).predict(files, "files")
    assert np.mean(classes == data.test_labels[:20]) > 0.8


@both
def test_floats_are_classified(server, data, protocol):
    images = data.test_images[:5]
    asked = client(protocol, server)
    classes, probabilities = asked.predict((images / 255).astype(np.float32), "floats")
    expected_classes, expected = asked.predict(images)
    np.testing.assert_array_equal(classes, expected_classes)
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)


def test_status_and_signatures_are_the_same_over_both(server):
    rest, over_grpc = (client(protocol, server) for protocol in (example09.Rest, example09.Grpc))
    assert rest.status() == over_grpc.status()
    theirs, ours = rest.signatures(), over_grpc.signatures()
    assert {"serving_default", "floats", "files"} <= set(theirs)
    assert dict(theirs) == dict(ours)


def test_a_new_version_is_taken_up_and_no_request_is_refused(exported, tmp_path, data):
    version = exported[0] / "serving" / "mnist" / "1"
    shutil.copytree(version, tmp_path / "m" / "1")
    with running(tmp_path / "m") as server:
        wait_for(lambda: server.current)
        asked = [client(protocol, server) for protocol in (example09.Rest, example09.Grpc)]
        shutil.copytree(version, tmp_path / "part")
        (tmp_path / "part").rename(tmp_path / "m" / "2")
        while server.current[0] == 1:
            for one in asked:
                one.predict(data.test_images[:1])
        states = {v.version: v.state for v in asked[0].status().model_version_status}
        assert list(states) == [2, 1]
        wait_for(lambda: server.states[1][0] != server.states[2][0])
        shutil.rmtree(tmp_path / "m" / "2")  # back to the one before
        wait_for(lambda: server.current[0] == 1)


# --- What the server refuses ----------------------------------------------------------------------


def test_no_such_model(server, capsys):
    error = ask_main(capsys, *flags(server, "--model", "no model/?"))
    assert "Could not find any versions of model no model/?: correct --model or" in error


def test_no_such_version(server, capsys):
    error = ask_main(capsys, *flags(server, "--model-version", "7"))
    assert "Could not find version 7 of model mnist: correct --model or --model-version" in error


@both
def test_asking_for_what_is_not_there(server, data, protocol):
    for settings in ({"model": "nope"}, {"model_version": 7}):
        asked = client(protocol, server, **settings)
        for method in (asked.status, asked.signatures):
            with pytest.raises(common.UserError, match=r"refuses: .*: correct --model"):
                method()
        with pytest.raises(common.UserError, match=r"refuses: Servable not found .*: correct"):
            asked.predict(data.test_images[:1])


@both
def test_no_such_signature(server, data, protocol):
    with pytest.raises(common.UserError, match=r'refuses: .*"nope" not found'):
        client(protocol, server).predict(data.test_images[:1], "nope")


@both
@pytest.mark.parametrize("shape", [(28, 28, 1), (1, 27, 27, 1), (1,)], ids=str)
def test_wrong_shape(server, data, protocol, shape):
    asked = client(protocol, server)
    with pytest.raises(common.UserError, match=r"Shape of tensor .*: send what"):
        asked.predict(np.zeros(shape, np.uint8))
    asked.predict(data.test_images[:1])


@both
def test_wrong_type(server, data, protocol):
    with pytest.raises(common.UserError, match=r"refuses: .*uint8"):
        client(protocol, server).predict(data.test_images[:1] / np.float32(255))


@both
@pytest.mark.parametrize("content", [b"", b"no picture"], ids=["empty", "text"])
def test_a_broken_picture(server, data, protocol, content):
    asked = client(protocol, server)
    with pytest.raises(common.UserError, match=r"refuses: .*: send what") as error:
        asked.predict([content], "files")
    assert "node" not in str(error.value)
    asked.predict(data.test_images[:1])


def test_a_picture_that_is_none_or_missing(server, tmp_path, capsys):
    path = tmp_path / "digit.png"
    assert str(path) in ask_main(capsys, *flags(server, "--image", path))
    path.write_text("no picture")
    assert "Unknown image file format" in ask_main(capsys, *flags(server, "--image", path))


def test_a_version_that_is_still_loading(served, capsys):
    with running(served, hold=True) as server:
        wait_for(lambda: server.states)
        error = ask_main(capsys, *flags(server))
    assert "is not ready: version 1 LOADING: wait until a version is AVAILABLE" in error


def test_a_version_that_cannot_be_loaded(served, tmp_path, capsys):
    shutil.copytree(served / "1", tmp_path / "3")
    (tmp_path / "3" / "saved_model.pb").write_bytes(b"no model")
    with running(tmp_path) as server:
        wait_for(lambda: server.states.get(3, (0, 0))[1])
        error = ask_main(capsys, *flags(server))
    assert "is not ready: version 3 END" in error
    assert "the server's log says why" in error


@pytest.mark.parametrize("given", ["x", "images"])
def test_a_model_of_another_kind(tmp_path, capsys, given):
    """What goes in or what comes out has another name."""
    spec = tf.TensorSpec([None], tf.float32, given)
    serve = tf.function(lambda x: {"y": x}, input_signature=[spec])
    tf.saved_model.save(tf.Module(), str(tmp_path / "1"), {"serving_default": serve})
    with running(tmp_path, name="other") as server:
        wait_for(lambda: server.current)
        error = ask_main(capsys, *flags(server, "--model", "other"))
        assert "no signature serving_default from images to classes" in error
        error = ask_main(capsys, *flags(server, "--model", "other", "--image", "x.png"))
        assert "no signature files from images to classes" in error


# --- What the network does ------------------------------------------------------------------------


@pytest.fixture
def closed_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        yield listener.getsockname()[1]  # bound, and nothing listens


@contextlib.contextmanager
def deaf_server():
    """Accepts connections, and says nothing."""
    with socket.create_server(("localhost", 0)) as listener:
        yield listener.getsockname()[1]


HELP = "start a server as the last lines of python examples/example08_serving_export.py say"


@pytest.mark.parametrize("flag", ["--rest-port", "--grpc-port"])
def test_nothing_listens(server, closed_port, capsys, flag):
    error = ask_main(capsys, *flags(server, flag, closed_port))
    assert f"localhost:{closed_port} (" in error
    assert "Connection refused" in error
    assert HELP in error
    assert f"correct --server or {flag}" in error


@both
def test_a_host_that_nobody_knows(server, protocol):
    asked = client(protocol, server, server="no.such.host.invalid")
    with pytest.raises(common.UserError, match=r"no answer from .*no\.such\.host\.invalid"):
        asked.status()


@both
def test_no_answer_in_time(protocol, monkeypatch):
    monkeypatch.setattr(example09, "TIMEOUT", 0.3)
    with deaf_server() as port:
        asked = client(protocol, Namespace(rest_port=port, port=port))
        with pytest.raises(common.UserError, match=r"no answer from .*: start a server"):
            asked.status()


@both
def test_an_answer_that_takes_too_long(server, data, protocol, monkeypatch):
    asked = client(protocol, server)
    asked.predict(data.test_images[:1])
    monkeypatch.setattr(example09, "TIMEOUT", 0.3)
    release = threading.Event()
    monkeypatch.setattr(server, "predict", lambda request: release.wait(3))
    with pytest.raises(common.UserError, match=r"no answer from .*(none in 0\.3 s|Deadline)"):
        asked.predict(data.test_images[:1])
    release.set()


def test_the_ports_are_mixed_up(server, capsys):
    argv = ["--rest-port", server.port, "--grpc-port", server.rest_port]
    error = ask_main(capsys, *argv)
    assert "correct --server or --rest-port" in error
    assert error.isprintable()
    error = ask_main(capsys, *flags(server, "--grpc-port", server.rest_port))
    assert "correct --server or --grpc-port" in error
    assert error.isprintable()


def another_json(request, content):
    request.head(200, Content_Type="application/json", Content_Length=len(content))
    request.wfile.write(content)


@pytest.mark.parametrize(
    ("content", "behaviour"),
    [
        (b"", sends_a_page),
        (b"", status(404)),
        (b"{}", honest),
        (b"[1, 2]", another_json),
        (b'{"detail": "hello"}', another_json),
    ],
)
def test_another_web_server(capsys, content, behaviour):
    with running_server() as other:
        other.add("/v1/models/mnist", content, behaviour)
        error = ask_main(capsys, "--rest-port", other.server_port)
    assert "is not TensorFlow Serving's REST interface: correct --server or --rest-port" in error


def test_a_connection_that_breaks(capsys):
    """As Docker does it, which listens before the server in the container does."""
    with running_server() as other:
        other.add("/v1/models/mnist", b"{}", resets_after(0))
        error = ask_main(capsys, "--rest-port", other.server_port)
    assert "no answer from" in error
    assert "wait until it has loaded the model" in error


@pytest.mark.parametrize("argv", [["--rest-port", "0"], ["--grpc-port", "70000"], ["--epochs", 1]])
def test_wrong_flags(argv, capsys):
    with pytest.raises(SystemExit) as error:
        example09.main(list(map(str, argv)))
    assert error.value.code == 2
    assert argv[0] in capsys.readouterr().err


# --- The stand-in ---------------------------------------------------------------------------------


def ask_rest(server, path, **question):
    address = f"http://localhost:{server.rest_port}/v1/models{path}"
    with requests.Session() as session:
        session.trust_env = False
        response = session.post(address, json=question) if question else session.get(address)
    return response.status_code, response.json()


def test_stand_in_status(server):
    status = {"error_code": "OK", "error_message": ""}
    versions = [{"version": "1", "state": "AVAILABLE", "status": status}]
    for path in ("/mnist", "/mnist/versions/1"):
        assert ask_rest(server, path) == (200, {"model_version_status": versions})
    code, answer = ask_rest(server, "/mnist/versions/2")
    assert (code, answer) == (404, {"error": "Could not find version 2 of model mnist"})


def test_stand_in_metadata(server):
    code, answer = ask_rest(server, "/mnist/metadata")
    assert code == 200
    assert answer["model_spec"] == {"name": "mnist", "signature_name": "", "version": "1"}
    signature = answer["metadata"]["signature_def"]["signature_def"]["files"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    images = signature["inputs"]["images"]
    assert images["dtype"] == "DT_STRING"
    shape = {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}
    assert images["tensor_shape"] == shape
    assert set(signature["outputs"]) == {"classes", "probabilities"}


def test_stand_in_predict(server, data):
    images = data.test_images[:2].tolist()
    code, rows = ask_rest(server, "/mnist:predict", instances=images)
    assert code == 200
    assert list(rows) == ["predictions"]
    assert [set(row) for row in rows["predictions"]] == [{"classes", "probabilities"}] * 2
    assert isinstance(rows["predictions"][0]["classes"], int)
    assert len(rows["predictions"][0]["probabilities"]) == 10
    named = [{"images": image} for image in images]
    assert ask_rest(server, "/mnist:predict", instances=named) == (200, rows)
    code, columns = ask_rest(server, "/mnist/versions/1:predict", inputs=images)
    assert code == 200
    assert ask_rest(server, "/mnist:predict", inputs={"images": images}) == (200, columns)
    assert columns["outputs"]["classes"] == [row["classes"] for row in rows["predictions"]]
    file = {"b64": base64.b64encode(png(data.test_images[0, ..., 0])).decode()}
    for question in ({"instances": [file]}, {"instances": [{"images": file}]}, {"inputs": [file]}):
        code, _ = ask_rest(server, "/mnist:predict", signature_name="files", **question)
        assert code == 200


@pytest.mark.parametrize(
    ("path", "question", "code", "message"),
    [
        ("/nope:predict", {"instances": [1]}, 404, "Servable not found for request: Latest(nope)"),
        (
            "/mnist/versions/9:predict",
            {"instances": [1]},
            404,
            "Servable not found for request: Specific(mnist, 9)",
        ),
        ("/mnist/labels/stable", {}, 400, "Unrecognized servable version label: stable"),
        ("/mnist:predict", {"nothing": 1}, 400, "Missing 'inputs' or 'instances' key"),
        ("/mnist:predict", {"inputs": 1, "instances": [1]}, 400, "expecting only one of"),
        ("/mnist:predict", {"instances": []}, 400, "Excepting 'instances' to be an list"),
        ("/mnist:predict", {"inputs": {"x": 1}}, 400, "Missing named input: images"),
        ("/mnist:predict", {"inputs": [0.5]}, 400, "is not of expected type: uint8"),
        ("/mnist:predict", {"inputs": [[1], [1, 2]]}, 400, "list at unexpected size"),
        ("/mnist:predict", {"inputs": 1, "signature_name": "x"}, 400, '"x" not found in signature'),
        ("/mnist:nothing", {"inputs": 1}, 400, "Malformed request: POST /v1/models/mnist:nothing"),
        ("", {}, 400, "Missing model name in request."),
    ],
)
def test_stand_in_errors(server, path, question, code, message):
    found, answer = ask_rest(server, path, **question)
    assert (found, list(answer)) == (code, ["error"])
    assert message in answer["error"]


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_stand_in_takes_json_objects_only(server, text):
    address = f"http://localhost:{server.rest_port}/v1/models/mnist:predict"
    with requests.Session() as session:
        session.trust_env = False
        response = session.post(address, data=text)
    assert response.status_code == 400
    assert "JSON" in response.json()["error"]


def test_stand_in_does_not_serve_a_version_whose_warm_up_fails(served, tmp_path):
    shutil.copytree(served / "1", tmp_path / "1")
    (tmp_path / "1" / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"no record" * 9)
    with pytest.raises(tf.errors.DataLossError):
        Version(tmp_path / "1")
    with running(tmp_path) as server:
        wait_for(lambda: server.states.get(1, (0, 0))[1])
        assert server.current is None
