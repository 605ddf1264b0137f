"""A stand-in for TensorFlow Serving: a small server for tests that speaks its REST and gRPC
interfaces, over a folder of SavedModels, as far as example 09 uses them.

    python tests/serving_stand_in.py models/serving/mnist    # to try example 09 by hand

What it answers follows https://www.tensorflow.org/tfx/serving/api_rest and the .proto files of
tensorflow-serving-api. As the real server does, it serves the highest version in the folder,
answers the model's own warm-up requests before it calls a version ready, takes up a new version
while it runs, and computes by feeding a graph in a session, without looking at shapes. Its speed
says nothing about the real server's.
"""

import argparse
import base64
import contextlib
import json
import re
import sys
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from examples.helpers.report import tf  # noqa: I001  # before all that imports TensorFlow

import grpc
import numpy as np
from google.protobuf import json_format
from tensorflow_serving import apis
from tensorflow_serving.apis import (
    model_service_pb2_grpc,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

Code = grpc.StatusCode
State = apis.get_model_status_pb2.ModelVersionStatus.State
ADDRESS = r"(?i)/v1/models/([^/:]+)(?:/versions/(\d+))?(/metadata|:predict)?"
DEFAULT_SIGNATURE = "serving_default"


class RefusalError(Exception):
    """A request that is answered with an error."""

    def __init__(self, code, message):
        super().__init__(f"{code.name}: {message}")
        self.code, self.message = code, message


# --- A version of the model -----------------------------------------------------------------------


class Version:
    """A SavedModel as the server holds it: a graph whose weights were restored by the graph."""

    def __init__(self, folder):
        self.session = tf.compat.v1.Session(graph=tf.Graph())
        with self.session.graph.as_default():
            loaded = tf.compat.v1.saved_model.load(self.session, ["serve"], str(folder))
        self.signatures = dict(loaded.signature_def)
        warm_up = folder / "assets.extra" / "tf_serving_warmup_requests"
        records = tf.data.TFRecordDataset(str(warm_up)) if warm_up.exists() else []
        for record in records:
            log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
            self.predict(log.predict_log.request)

    def predict(self, request):
        """Answer a PredictRequest with the named output tensors, np.ndarray."""
        name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        if name not in self.signatures:
            problem = f'Serving signature key "{name}" not found.'
            raise RefusalError(Code.FAILED_PRECONDITION, problem)
        signature = self.signatures[name]
        if set(request.inputs) != set(signature.inputs):
            raise RefusalError(Code.INVALID_ARGUMENT, "input tensor alias not found in signature")
        find = self.session.graph.get_tensor_by_name
        feeds = {
            find(signature.inputs[alias].name)._as_tf_output(): tf.make_ndarray(tensor)
            for alias, tensor in request.inputs.items()
        }
        outputs = sorted(signature.outputs)
        fetches = [find(signature.outputs[alias].name)._as_tf_output() for alias in outputs]
        try:
            # Session.run would compare shapes and convert types, which the server does not do.
            self.session._extend_graph()
            values = self.session._call_tf_sessionrun(None, feeds, fetches, [], None)
        except tf.errors.OpError as error:
            code = next(code for code in Code if code.value[0] == error.error_code)
            raise RefusalError(code, error.message) from error
        return dict(zip(outputs, values, strict=True))


class Model:
    """The versions in a folder, of which the highest is served."""

    def __init__(self, name, folder, poll_seconds):
        self.name, self.folder, self.poll_seconds = name, Path(folder), poll_seconds
        self.current = None  # (number, Version)
        self.states = {}  # of each version that was ever seen: state, code and message of an error
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def watch(self):
        while not self.closed.is_set():
            found = [int(path.name) for path in self.folder.glob("*") if path.name.isdecimal()]
            state, error, _ = self.states.get(max(found, default=0), (State.START, 0, ""))
            if found and not error and state in (State.START, State.END):
                self.take_up(max(found))
            self.closed.wait(self.poll_seconds)

    def take_up(self, number):
        self.states[number] = (State.LOADING, 0, "")
        try:
            version = Version(self.folder / str(number))
        except Exception as error:  # whatever is wrong with the files: this version is not served
            self.states[number] = (State.END, Code.UNKNOWN.value[0], str(error))
            return
        before, self.current = self.current, (number, version)
        self.states[number] = (State.AVAILABLE, 0, "")
        if before:
            self.states[before[0]] = (State.END, 0, "")

    def find(self, spec):
        """Return number and Version that a ModelSpec asks for."""
        current, number = self.current, spec.version.value
        if spec.name != self.name or not current or number not in (0, current[0]):
            wanted = f"Specific({spec.name}, {number})" if number else f"Latest({spec.name})"
            raise RefusalError(Code.NOT_FOUND, f"Servable not found for request: {wanted}")
        return current

    # --- What can be asked ---

    def predict(self, request):
        number, version = self.find(request.model_spec)
        response = apis.predict_pb2.PredictResponse(model_spec=request.model_spec)
        response.model_spec.version.value = number
        for alias, values in version.predict(request).items():
            response.outputs[alias].CopyFrom(tf.make_tensor_proto(values))
        return response

    def metadata(self, request):
        number, version = self.find(request.model_spec)
        response = apis.get_model_metadata_pb2.GetModelMetadataResponse(
            model_spec=request.model_spec
        )
        response.model_spec.version.value = number
        signatures = apis.get_model_metadata_pb2.SignatureDefMap(signature_def=version.signatures)
        response.metadata["signature_def"].Pack(signatures)
        return response

    def status(self, request):
        spec = request.model_spec
        numbers = sorted(self.states if spec.name == self.name else [], reverse=True)
        problem = f"Could not find any versions of model {spec.name}"
        if spec.version.value:
            numbers = [number for number in numbers if number == spec.version.value]
            problem = f"Could not find version {spec.version.value} of model {spec.name}"
        if not numbers:
            raise RefusalError(Code.NOT_FOUND, problem)
        response = apis.get_model_status_pb2.GetModelStatusResponse()
        for number in numbers:
            state, code, message = self.states[number]
            status = response.model_version_status.add(version=number, state=state)
            status.status.error_code, status.status.error_message = code, message
        return response


# --- REST -----------------------------------------------------------------------------------------


def as_array(value, dtype):
    """Make an array of nested lists, as the server does: strictly."""
    if dtype == tf.string:
        return np.array([base64.b64decode(item["b64"], validate=True) for item in value], object)
    array = np.array(value)
    if array.dtype.kind not in ("i" if dtype.is_integer else "if"):
        raise ValueError(f"{str(value)[:80]} is not of expected type: {dtype.name}")
    return array.astype(dtype.as_numpy_dtype)


def request_from_json(text, spec, signatures):
    """Return the PredictRequest that a JSON text stands for, and whether it is in row format."""
    body = json.loads(text)
    rows, name = "instances" in body, body.get("signature_name", DEFAULT_SIGNATURE)
    if name not in signatures:
        raise RefusalError(
            Code.INVALID_ARGUMENT, f'Serving signature name: "{name}" not found in signature def'
        )
    request = apis.predict_pb2.PredictRequest(model_spec=spec)
    request.model_spec.signature_name = name
    try:
        for alias, info in signatures[name].inputs.items():  # there is only one
            value = body["instances"] if rows else body["inputs"][alias]
            tensor = tf.make_tensor_proto(as_array(value, tf.as_dtype(info.dtype)))
            request.inputs[alias].CopyFrom(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise RefusalError(Code.INVALID_ARGUMENT, f"JSON Value: {error}") from error
    return request, rows


def as_dict(message):
    return json_format.MessageToDict(message, True, True)  # with zeros, with names of .proto


class RestHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave together

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            status, answer = 200, self.result(body)
        except RefusalError as error:
            status, answer = 404 if error.code == Code.NOT_FOUND else 400, {"error": error.message}
        content = json.dumps(answer, indent=1).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self):
        self.do_GET()

    def result(self, body):
        model, found = self.server.model, re.fullmatch(ADDRESS, self.path)
        if not found or (self.command == "POST") != (found[3] == ":predict"):
            raise RefusalError(
                Code.INVALID_ARGUMENT, f"Malformed request: {self.command} {self.path}"
            )
        request = apis.get_model_metadata_pb2.GetModelMetadataRequest(
            metadata_field=["signature_def"]
        )
        request.model_spec.name = unquote(found[1])
        if found[2]:
            request.model_spec.version.value = int(found[2])
        spec = request.model_spec
        if found[3] == ":predict":
            request, rows = request_from_json(body, spec, model.find(spec)[1].signatures)
            outputs = model.predict(request).outputs
            outputs = {name: tf.make_ndarray(outputs[name]).tolist() for name in sorted(outputs)}
            columns = zip(*outputs.values(), strict=True)
            answer = [dict(zip(outputs, row, strict=True)) for row in columns]
            return {"predictions": answer} if rows else {"outputs": outputs}
        if found[3]:
            answer = as_dict(model.metadata(request))
            del answer["metadata"]["signature_def"]["@type"]
            return answer
        return as_dict(
            model.status(apis.get_model_status_pb2.GetModelStatusRequest(model_spec=spec))
        )

    def log_message(self, *args):
        pass


# --- gRPC, and both -------------------------------------------------------------------------------


def answering(method):
    """Make a gRPC method of one of the model's, which returns a response or raises."""

    def answer(request, context):
        try:
            return method(request)
        except RefusalError as error:
            context.abort(error.code, error.message)

    return answer


@contextlib.contextmanager
def running(folder, name="mnist", port=0, rest_port=0, poll_seconds=0.02):
    """Serve a folder, on free ports if none are given; yields the Model, which names them."""
    model = Model(name, folder, poll_seconds)
    rest = ThreadingHTTPServer(("localhost", rest_port), RestHandler)
    rest.model, model.rest_port = model, rest.server_port
    rest.handle_error = lambda *_: None  # clients that go away are what some tests are about
    threading.Thread(target=rest.serve_forever, args=(0.02,), daemon=True).start()

    options = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
    server = grpc.server(futures.ThreadPoolExecutor(4), options=options)
    prediction = prediction_service_pb2_grpc.PredictionServiceServicer()
    prediction.Predict = answering(lambda request: model.predict(request))
    prediction.GetModelMetadata = answering(model.metadata)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(prediction, server)
    service = model_service_pb2_grpc.ModelServiceServicer()
    service.GetModelStatus = answering(model.status)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(service, server)
    model.port = server.add_insecure_port(f"localhost:{port}")
    server.start()
    try:
        yield model
    finally:
        model.closed.set()
        server.stop(None).wait()
        rest.shutdown()
        rest.server_close()
        model.thread.join()


def main():
    parser = argparse.ArgumentParser(description="A stand-in for TensorFlow Serving, for tests.")
    parser.add_argument("folder", type=Path, help="with a folder for each version: 1, 2, ...")
    args = parser.parse_args()
    try:
        with running(args.folder, "mnist", 8500, 8501, 1.0), contextlib.suppress(KeyboardInterrupt):
            print("gRPC on port 8500, REST on port 8501, until Ctrl-C")
            while True:
                time.sleep(1)
    except (OSError, RuntimeError) as error:  # of REST, of gRPC
        sys.exit(f"error: port 8500 or 8501 is in use, by another server? ({error})")


if __name__ == "__main__":
    main()
