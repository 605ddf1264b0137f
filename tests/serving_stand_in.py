"""A stand-in for TensorFlow Serving: a small server for tests that speaks its REST and gRPC
interfaces, over a folder of SavedModels.

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

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from examples.helpers.report import tf  # noqa: E402, I001  # before all that imports TensorFlow

import grpc  # noqa: E402
import numpy as np  # noqa: E402
from google.protobuf import json_format  # noqa: E402
from tensorflow_serving.apis import (  # noqa: E402
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

Code = grpc.StatusCode
State = get_model_status_pb2.ModelVersionStatus.State
HTTP_STATUS = {Code.INVALID_ARGUMENT: 400, Code.FAILED_PRECONDITION: 400, Code.NOT_FOUND: 404}
HTTP_STATUS |= {Code.UNIMPLEMENTED: 501, Code.UNAVAILABLE: 503}  # all others: 500
PLACE = r"(?i)/v1/models(?:/([^/:]+))?(?:/versions/(\d+)|/labels/([^/:]+))?"
DEFAULT_SIGNATURE = "serving_default"


class RefusalError(Exception):
    """A request that is answered with an error."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code, self.message = code, message

    def __str__(self):
        return f"{self.code.name}: {self.message}"


def invalid(message):
    return RefusalError(Code.INVALID_ARGUMENT, message)


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
        known, sent = set(signature.inputs), set(request.inputs)
        if len(sent) != len(known):
            raise invalid(f"input size does not match signature: {len(sent)}!={len(known)}")
        for alias in sent - known:
            raise invalid(
                f"input tensor alias not found in signature: {alias}. "
                f"Inputs expected to be in the set {{{','.join(sorted(known))}}}."
            )
        outputs = list(request.output_filter) or sorted(signature.outputs)
        for alias in outputs:
            if alias not in signature.outputs:
                raise invalid(f"output tensor alias not found in signature: {alias}")
        find = self.session.graph.get_tensor_by_name
        feeds = {
            find(signature.inputs[alias].name)._as_tf_output(): tf.make_ndarray(tensor)
            for alias, tensor in request.inputs.items()
        }
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

    def __init__(self, name, folder, poll_seconds, hold):
        self.name, self.folder, self.poll_seconds = name, Path(folder), poll_seconds
        self.current = None  # (number, Version)
        self.states = {}  # of each version that was ever seen: state, code and message of an error
        self.may_load = threading.Event()  # a version is LOADING until it is set
        if not hold:
            self.may_load.set()
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def watch(self):
        while not self.closed.is_set():
            found = [int(path.name) for path in self.folder.glob("*") if path.name.isdecimal()]
            if found and self.states.get(max(found), (State.START,))[0] in (State.START, State.END):
                self.take_up(max(found))
            self.closed.wait(self.poll_seconds)

    def take_up(self, number):
        if self.states.get(number, (None, 0))[1]:
            return  # it has failed before
        self.states[number] = (State.LOADING, 0, "")
        self.may_load.wait()
        try:
            version = Version(self.folder / str(number))
        except Exception as error:  # whatever is wrong with the files: this version is not served
            code = getattr(getattr(error, "code", None), "value", (Code.UNKNOWN.value[0],))[0]
            self.states[number] = (State.END, code, str(error))
            return
        before, self.current = self.current, (number, version)
        self.states[number] = (State.AVAILABLE, 0, "")
        if before:
            self.states[before[0]] = (State.END, 0, "")

    def find(self, model_spec):
        """Return number and Version that a ModelSpec asks for."""
        self.check_label(model_spec)
        number, wanted = model_spec.version.value, f"Latest({model_spec.name})"
        if model_spec.HasField("version"):
            wanted = f"Specific({model_spec.name}, {number})"
        current = self.current
        if (
            model_spec.name != self.name
            or not current
            or (model_spec.HasField("version") and number != current[0])
        ):
            raise RefusalError(Code.NOT_FOUND, f"Servable not found for request: {wanted}")
        return current

    def check_label(self, model_spec):
        if model_spec.version_label:  # this server has been told of none
            label = model_spec.version_label
            raise invalid(f"Unrecognized servable version label: {label}")

    # --- What can be asked ---

    def predict(self, request):
        number, version = self.find(request.model_spec)
        response = predict_pb2.PredictResponse()
        response.model_spec.name = self.name
        response.model_spec.version.value = number
        signature = request.model_spec.signature_name or DEFAULT_SIGNATURE
        response.model_spec.signature_name = signature
        for alias, values in version.predict(request).items():
            response.outputs[alias].CopyFrom(as_proto_field(values))
        return response

    def metadata(self, request):
        if list(request.metadata_field) != ["signature_def"]:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        number, version = self.find(request.model_spec)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = self.name
        response.model_spec.version.value = number
        signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=version.signatures)
        response.metadata["signature_def"].Pack(signatures)
        return response

    def status(self, request):
        spec = request.model_spec
        self.check_label(spec)
        numbers = sorted(self.states if spec.name == self.name else [], reverse=True)
        if spec.HasField("version"):
            wanted = spec.version.value
            if wanted not in numbers:
                problem = f"Could not find version {wanted} of model {spec.name}"
                raise RefusalError(Code.NOT_FOUND, problem)
            numbers = [wanted]
        elif not numbers:
            problem = f"Could not find any versions of model {spec.name}"
            raise RefusalError(Code.NOT_FOUND, problem)
        response = get_model_status_pb2.GetModelStatusResponse()
        for number in numbers:
            state, code, message = self.states[number]
            status = response.model_version_status.add(version=number, state=state)
            status.status.error_code, status.status.error_message = code, message
        return response


def as_proto_field(values):
    """Pack an array as the server does: numbers one by one, not as a block of bytes."""
    proto = tf.make_tensor_proto(values)
    if values.dtype in (np.float32, np.int32):
        proto.ClearField("tensor_content")
        field = proto.float_val if values.dtype == np.float32 else proto.int_val
        del field[:]
        field.extend(values.ravel().tolist())
    return proto


# --- REST -----------------------------------------------------------------------------------------


def as_array(value, dtype):
    """Make an array of a number, a text or nested lists of them, as the server does: strictly."""
    wrong = invalid(f"JSON Value: {str(value)[:80]} is not of expected type: {dtype.name}")
    if dtype == tf.string:
        if isinstance(value, list):
            return np.array([as_array(item, dtype) for item in value], object)
        if isinstance(value, str):
            return value.encode()
        if not isinstance(value, dict):
            raise wrong
        if list(value) != ["b64"] or not isinstance(value["b64"], str):
            raise invalid(f"JSON Value: {value} not formatted correctly for base64 data")
        try:
            return base64.b64decode(value["b64"], validate=True)
        except ValueError as error:
            raise invalid("Unable to base64 decode") from error
    try:
        array = np.array(value)
    except ValueError as error:
        raise invalid("Encountered list at unexpected size") from error
    if array.dtype.kind not in ("i" if dtype.is_integer else "if"):
        raise wrong
    return array.astype(dtype.as_numpy_dtype)


def request_from_json(text, spec, signatures):
    """Return the PredictRequest that a JSON text stands for, and whether it is in row format."""
    try:
        body = json.loads(text)
    except ValueError as error:
        raise invalid(f"JSON Parse error: {error}") from error
    if not isinstance(body, dict):
        raise invalid(f"JSON Value: {text[:100]!r} Is not object")
    name = body.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid("'signature_name' key must be a string value.")
    if (name or DEFAULT_SIGNATURE) not in signatures:
        known = name or DEFAULT_SIGNATURE
        raise invalid(f'Serving signature name: "{known}" not found in signature def')
    inputs = signatures[name or DEFAULT_SIGNATURE].inputs
    request = predict_pb2.PredictRequest(model_spec=spec)
    request.model_spec.signature_name = name
    if "instances" in body and "inputs" in body:
        raise invalid("Not formatted correctly expecting only one of 'inputs' or 'instances' keys")
    if "instances" in body:
        rows = body["instances"]
        if not isinstance(rows, list) or not rows:
            raise invalid("Excepting 'instances' to be an list/array with values")
        named = isinstance(rows[0], dict) and list(rows[0]) != ["b64"]
        if not named and len(inputs) > 1:
            raise invalid("instances is a plain list, but expecting list of objects")
        for number, row in enumerate(rows):
            if named and (not isinstance(row, dict) or set(row) != set(inputs)):
                raise invalid(
                    f"Failed to process element: {number} of 'instances' list. JSON object: keys "
                    f"must be equal to: {','.join(sorted(inputs))}"
                )
        columns = {alias: [row[alias] for row in rows] if named else rows for alias in inputs}
    elif "inputs" in body:
        columns = body["inputs"]
        if not isinstance(columns, dict) or list(columns) == ["b64"]:
            if len(inputs) > 1:
                raise invalid("inputs is a plain value/list, but expecting an object")
            columns = dict.fromkeys(inputs, columns)
    else:
        raise invalid("Missing 'inputs' or 'instances' key")
    for alias, info in inputs.items():
        if alias not in columns:
            raise invalid(f"Missing named input: {alias} in 'inputs' object.")
        array = as_array(columns[alias], tf.as_dtype(info.dtype))
        request.inputs[alias].CopyFrom(tf.make_tensor_proto(array))
    return request, "instances" in body


def as_json(values):
    """Return nested lists whose float32 numbers have nine digits, as the server writes them."""
    if isinstance(values, list):
        return [as_json(value) for value in values]
    return float(f"{values:.9g}") if isinstance(values, float) else values


def as_rest_answer(response, rows):
    """Return what answers a request in row or in columnar format."""
    outputs = {alias: tf.make_ndarray(proto) for alias, proto in response.outputs.items()}
    outputs = {alias: as_json(outputs[alias].tolist()) for alias in sorted(outputs)}
    only = next(iter(outputs.values())) if len(outputs) == 1 else None
    if not rows:
        return {"outputs": outputs if only is None else only}
    if only is None:
        only = [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]
    return {"predictions": only}


def as_dict(message, **options):
    return json_format.MessageToDict(message, always_print_fields_with_no_presence=True, **options)


class RestHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave together

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.answer()

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self.path.lower().startswith("/v1/"):
            self.send(404, "text/html", b"<HTML><HEAD><TITLE>404 Not Found</TITLE></HEAD></HTML>")
            return
        try:
            status, answer = 200, self.result(body)
        except RefusalError as error:
            status, answer = HTTP_STATUS.get(error.code, 500), {"error": error.message}
        self.send(status, "application/json", json.dumps(answer, indent=1).encode())

    def result(self, body):
        model = self.server.model
        if self.command == "POST" and (found := re.fullmatch(PLACE + ":predict", self.path)):
            spec = self.spec(found, predict_pb2.PredictRequest().model_spec)
            _, version = model.find(spec)
            request, rows = request_from_json(body, spec, version.signatures)
            return as_rest_answer(model.predict(request), rows)
        if self.command == "GET" and (found := re.fullmatch(PLACE + "/metadata", self.path)):
            request = get_model_metadata_pb2.GetModelMetadataRequest()
            request.metadata_field.append("signature_def")
            self.spec(found, request.model_spec)
            response = model.metadata(request)
            signatures = get_model_metadata_pb2.SignatureDefMap()
            response.metadata["signature_def"].Unpack(signatures)
            options = {"preserving_proto_field_name": True}
            return {
                "model_spec": as_dict(response.model_spec, **options),
                "metadata": {"signature_def": as_dict(signatures, **options)},
            }
        if self.command == "GET" and (found := re.fullmatch(PLACE, self.path)):
            request = get_model_status_pb2.GetModelStatusRequest()
            self.spec(found, request.model_spec)
            return as_dict(model.status(request))
        raise invalid(f"Malformed request: {self.command} {self.path}")

    def spec(self, found, model_spec):
        """Fill in the ModelSpec that an address names."""
        name, version, label = found.groups()
        if not name:
            raise invalid("Missing model name in request.")
        model_spec.name = unquote(name)
        if version:
            model_spec.version.value = int(version)
        if label:
            model_spec.version_label = unquote(label)
        return model_spec

    def send(self, status, kind, content):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


class RestServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # clients that go away are what some tests are about


# --- gRPC -----------------------------------------------------------------------------------------


def answering(model, method):
    """Make a gRPC method of one of the model's, which returns a response or raises."""

    def answer(request, context):
        try:
            if not request.HasField("model_spec"):
                raise invalid("Missing ModelSpec")
            return getattr(model, method)(request)
        except RefusalError as error:
            context.abort(error.code, error.message)

    return answer


def start_grpc(model, port):
    """Start the gRPC server, and return it and its port."""
    options = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
    server = grpc.server(futures.ThreadPoolExecutor(4), options=options)
    prediction = prediction_service_pb2_grpc.PredictionServiceServicer()
    prediction.Predict = answering(model, "predict")
    prediction.GetModelMetadata = answering(model, "metadata")
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(prediction, server)
    service = model_service_pb2_grpc.ModelServiceServicer()
    service.GetModelStatus = answering(model, "status")
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(service, server)
    port = server.add_insecure_port(f"localhost:{port}")
    server.start()
    return server, port


# --- Both -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(folder, name="mnist", port=0, rest_port=0, poll_seconds=0.02, hold=False):
    """Serve a folder, on free ports if none are given; yields the Model, which names them."""
    model = Model(name, folder, poll_seconds, hold)
    rest = RestServer(("localhost", rest_port), RestHandler)
    rest.model = model
    threading.Thread(target=rest.serve_forever, args=(0.02,), daemon=True).start()
    server, model.port = start_grpc(model, port)
    model.rest_port = rest.server_port
    try:
        yield model
    finally:
        model.may_load.set()
        model.closed.set()
        server.stop(None).wait()
        rest.shutdown()
        rest.server_close()
        model.thread.join()


def main():
    parser = argparse.ArgumentParser(description="A stand-in for TensorFlow Serving, for tests.")
    parser.add_argument("folder", type=Path, help="with a folder for each version: 1, 2, ...")
    parser.add_argument("--name", default="mnist", help="of the model")
    args = parser.parse_args()
    with running(args.folder, args.name, 8500, 8501, 1.0), contextlib.suppress(KeyboardInterrupt):
        print("gRPC on port 8500, REST on port 8501, until Ctrl-C")
        while True:
            time.sleep(1)


if __name__ == "__main__":
    main()
