"""Example 09: asking a model that TensorFlow Serving serves.

You will learn to use a network that runs in another process, on this machine or on any other: over
REST, which is text, and over gRPC, which is packed bytes; with single images, batches and files;
what a server tells of its model, how long answers take, and what may come in place of an answer.

    python examples/example09_serving_client.py                   # asks the server on this machine
    python examples/example09_serving_client.py --data sample     # with the digits of sample data
    python examples/example09_serving_client.py --server 192.168.0.7
    python examples/example09_serving_client.py --image seven.png # what digit is this?

A server must be running: example 08 writes its model, and ends with the two ways to start one.

Before this one: example 08, which exports the model. After it: example 10, from photographs of
one's own to TFRecord files.
"""

import base64
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # so that `datasets` is ours
from examples import common  # isort: skip  # before TensorFlow, which it imports silently

import grpc
import numpy as np
import requests
import tensorflow as tf
from google.protobuf import json_format
from PIL import Image
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from tqdm import tqdm

from datasets import mnist
from datasets.download import root_cause

NAME = Path(__file__).stem
TIMEOUT = 10  # seconds within which an answer must come
SHOWN = 32  # test images that are drawn with the answers
BATCH_SIZE = 256  # images in a request, when all test images are sent
SIZES = (1, 4, 16, 64)  # images in the requests that are timed
REQUESTS, UNTIMED = 100, 5  # of each size; and before them, some that do not count

# %% Data
# The test images of MNIST, as in examples 03 to 05. The client has no network, only the address of
# one; it uses TensorFlow for nothing but the format of gRPC's tensors.
#
# %% What may come in place of an answer
# Between client and server lies a network, and the server may be another one than we think. What
# helps then is one line that says who was asked, what came, and what to do.


def no_answer(client, reason: str) -> common.UserError:
    """Nothing listens, the name is unknown, it takes too long, or the connection breaks."""
    return common.UserError(
        f"no answer from {client.address} ({reason}): start a server as the last lines of  "
        "python examples/example08_serving_export.py  say, wait until it has loaded the model, "
        f"or correct --server or {client.flag}"
    )


def refused(client, missing: bool, message: str) -> common.UserError:
    """The server does not have what was asked for, or cannot use what was sent."""
    message = message.partition("\n")[0].rstrip(
        "."
    )  # what follows names nodes of the graph
    advice = (
        "correct --model or --model-version"
        if missing
        else "send what the signature takes"
    )
    return common.UserError(f"{client.address} refuses: {message}: {advice}")


# %% REST
# HTTP and JSON, which every language can speak; https://www.tensorflow.org/tfx/serving/api_rest:
#
#     GET  /v1/models/mnist             its versions and their states
#     GET  /v1/models/mnist/metadata    its signatures
#     POST /v1/models/mnist:predict     a question
#
# After the name may come /versions/2; without it, the highest version answers. A question is in one
# of two formats, and so is its answer. The row format has one entry for each image, the columnar
# format one for each tensor:
#
#     {"instances": [image, image]}
#     {"predictions": [{"classes": 7, "probabilities": [...]}, {"classes": 2, ...}]}
#
#     {"inputs": {"images": [image, image]}}
#     {"outputs": {"classes": [7, 2], "probabilities": [[...], [...]]}}
#
# An image is lists in lists, with all its numbers written out as digits. JSON has no bytes, so the
# content of a file becomes {"b64": "iVBORw0..."}: base64 writes three bytes as four letters
# (RFC 4648, section 4).


class Rest:
    """Asks over REST."""

    name, flag = "REST", "--rest-port"

    def __init__(self, args):
        self.address = f"http://{args.server}:{args.rest_port}"
        version = f"/versions/{args.model_version}" if args.model_version else ""
        self.model = f"{self.address}/v1/models/{quote(args.model, safe='')}{version}"
        self.session = (
            requests.Session()
        )  # keeps the connection open from request to request
        self.session.trust_env = (
            False  # no detour by a proxy that the environment names
        )

    def ask(self, path: str, key: str, question: dict | None = None):
        """Send a request, and return what the JSON object of the answer has under `key`."""
        method, address = "GET" if question is None else "POST", self.model + path
        try:
            response = self.session.request(
                method, address, json=question, timeout=TIMEOUT
            )
            answer = response.json()
            if response.ok:
                return answer[key]
            message = answer["error"]
        except requests.Timeout as error:
            raise no_answer(self, f"none in {TIMEOUT} s") from error
        except (requests.JSONDecodeError, KeyError, TypeError) as error:
            raise common.UserError(
                f"what answers at {self.address} is not TensorFlow Serving's REST interface: "
                f"correct --server or {self.flag}"
            ) from error
        except requests.RequestException as error:
            reason = root_cause(error)
            reason = reason if reason.isprintable() else "bytes that are not HTTP"
            raise no_answer(self, reason) from error
        raise refused(self, response.status_code == 404, message)

    def status(self) -> get_model_status_pb2.GetModelStatusResponse:
        """Ask which versions there are. The JSON is that of the message that gRPC sends."""
        key, answer = (
            "model_version_status",
            get_model_status_pb2.GetModelStatusResponse(),
        )
        return json_format.ParseDict(
            {key: self.ask("", key)}, answer, ignore_unknown_fields=True
        )

    def signatures(self) -> dict:
        """Ask which signatures there are: a SignatureDef for each name."""
        found, answer = (
            self.ask("/metadata", "metadata"),
            get_model_metadata_pb2.SignatureDefMap(),
        )
        json_format.ParseDict(
            found["signature_def"], answer, ignore_unknown_fields=True
        )
        return answer.signature_def

    def predict(self, images, signature="serving_default", rows=False):
        """Classify images; see `Grpc.predict`. With `rows`, ask in the row format."""
        if isinstance(images, np.ndarray):
            images = images.tolist()
        else:
            images = [{"b64": base64.b64encode(file).decode()} for file in images]
        question = {"signature_name": signature}
        if rows:
            answers = self.ask(
                ":predict", "predictions", question | {"instances": images}
            )
            answer = {name: [row[name] for row in answers] for name in answers[0]}
        else:
            answer = self.ask(
                ":predict", "outputs", question | {"inputs": {"images": images}}
            )
        return np.array(answer["classes"]), np.array(
            answer["probabilities"], np.float32
        )


# %% gRPC
# Calls of functions in another process. Their arguments and results are messages, defined in .proto
# files, from which classes are made for many languages; those of TensorFlow Serving are in the
# package tensorflow-serving-api. They travel as bytes over HTTP/2. A tensor is its type, its shape
# and its numbers as they lie in memory, one byte for each of our pixels: nothing is written out as
# digits here and read again there.


class Grpc:
    """Asks over gRPC."""

    name, flag = "gRPC", "--grpc-port"

    def __init__(self, args):
        self.address = f"{args.server}:{args.grpc_port}"
        self.model, self.version = args.model, args.model_version
        channel = grpc.insecure_channel(self.address, [("grpc.enable_http_proxy", 0)])
        self.predictions = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(channel)

    def ask(self, method: Callable, request):
        """Name the model in a request, send it, and return the answer."""
        request.model_spec.name = self.model
        if self.version:
            request.model_spec.version.value = self.version
        try:
            return method(request, timeout=TIMEOUT)
        except grpc.RpcError as error:
            code, message = error.code(), error.details()
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            raise no_answer(self, message)
        raise refused(self, code == grpc.StatusCode.NOT_FOUND, message)

    def status(self) -> get_model_status_pb2.GetModelStatusResponse:
        """Ask which versions there are."""
        return self.ask(
            self.models.GetModelStatus, get_model_status_pb2.GetModelStatusRequest()
        )

    def signatures(self) -> dict:
        """Ask which signatures there are: a SignatureDef for each name."""
        fields = ["signature_def"]
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
        answer = self.ask(self.predictions.GetModelMetadata, request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        answer.metadata["signature_def"].Unpack(
            signatures
        )  # the field may hold any message
        return signatures.signature_def

    def predict(
        self, images: np.ndarray | Sequence[bytes], signature: str = "serving_default"
    ):
        """Classify images, uint8 (N, 28, 28, 1), or with signature `files` the contents of files.

        Returns:
            The classes, integers (N,), and the probabilities, float32 (N, 10).
        """
        request = predict_pb2.PredictRequest()
        request.model_spec.signature_name = signature
        request.inputs["images"].CopyFrom(tf.make_tensor_proto(images))
        outputs = self.ask(self.predictions.Predict, request).outputs
        return tf.make_ndarray(outputs["classes"]), tf.make_ndarray(
            outputs["probabilities"]
        )


# %% Status and metadata
# A version is START, LOADING, AVAILABLE, UNLOADING or END. The metadata are its signatures: so a
# client can find out what a model takes and returns before it sends anything.


def look_at(client: Rest | Grpc, wanted: str) -> None:
    """Print states and signatures; a version must be available, and the one `wanted` ours."""
    versions = client.status().model_version_status
    states = [
        get_model_status_pb2.ModelVersionStatus.State.Name(v.state) for v in versions
    ]
    text = ", ".join(
        f"version {version.version} {state} {version.status.error_message}".strip()
        for version, state in zip(versions, states, strict=True)
    )
    print(f"{client.name} at {client.address}: {text}")
    if "AVAILABLE" not in states:
        raise common.UserError(
            f"{client.address} is not ready: {text}: wait until a version is AVAILABLE; "
            "if none ever is, the server's log says why"
        )
    signatures = client.signatures()
    for name in sorted(signatures):
        if not name.startswith("__"):  # TensorFlow's own
            print(f"    {name}: {common.describe(signatures[name])}")
    signature = signatures.get(wanted)
    if not (
        signature
        and set(signature.inputs) == {"images"}
        and {"classes", "probabilities"} <= set(signature.outputs)
    ):
        raise common.UserError(
            f"the model at {client.address} has no signature {wanted} from images to classes and "
            "probabilities: name one with --model that example 08 has exported"
        )


# %% Latency
# How long is it from question to answer? The median says what is usual; the 95th percentile, which
# one request in twenty exceeds, what users complain about. And how many images are answered in a
# second? A request costs something whatever is in it: it is packed, sent, unpacked, and waits for
# its turn. A batch pays that once, and one large matrix product keeps a processor busier than many
# small ones. So it takes longer, but less for each image. (A server can also gather a batch from
# the requests of many clients: tensorflow_model_server --enable_batching.)


def measure(ask: Callable, images: np.ndarray, size: int) -> np.ndarray:
    """Send batches of `size` images one after the other; return the seconds that each takes."""
    seconds = []
    for number in range(UNTIMED + REQUESTS):
        batch = images.take(np.arange(size) + number * size, axis=0, mode="wrap")
        started = time.perf_counter()
        ask(batch)
        seconds.append(time.perf_counter() - started)
    return np.array(seconds[UNTIMED:])


def compare(rest: Rest, over_grpc: Grpc, images: np.ndarray) -> list[dict]:
    """Print a table of latency and images a second, and return its rows."""
    ways = {
        "REST, rows": lambda batch: rest.predict(batch, rows=True),
        "REST, columns": rest.predict,
        "gRPC": over_grpc.predict,
    }
    columns = ("way", "images", "median_ms", "percentile_95_ms", "images_per_second")
    print(f"{'':15}images in   latency in ms:        images\n"
          f"{'':15}a request   median     95 %   a second")  # fmt: skip
    rows = []
    for size in SIZES:
        for way, ask in ways.items():
            seconds = measure(ask, images, size)
            median, late = 1000 * np.percentile(seconds, [50, 95])
            rows.append([way, size, median, late, size * len(seconds) / seconds.sum()])
            print("{:15}{:9}   {:6.1f}   {:6.1f}   {:8,.0f}".format(*rows[-1]))
    return [dict(zip(columns, row, strict=True)) for row in rows]


# %% Run


def main(argv: list[str] | None = None) -> dict:
    """Ask for everything that a server can tell, and return the metrics; or classify a picture."""
    parser = common.make_parser(__doc__)
    add, port = parser.add_argument, common.number(int, 1, 65535)
    add("--server", metavar="HOST", default="localhost", help="the machine it runs on")
    add("--rest-port", type=port, default=8501, help="where it speaks REST")
    add("--grpc-port", type=port, default=8500, help="where it speaks gRPC")
    add("--model", default="mnist", help="name of the model")
    add(
        "--model-version",
        type=common.positive_int,
        metavar="N",
        help="in place of the highest",
    )
    add("--image", type=Path, metavar="PATH", help="picture of a digit to classify")
    args = parser.parse_args(argv)
    common.start("float32")
    folder = args.models_dir / NAME

    rest, over_grpc = Rest(args), Grpc(args)
    for client in (rest, over_grpc):
        look_at(client, "files" if args.image else "serving_default")
    if args.image:
        content = args.image.read_bytes()
        for client in (rest, over_grpc):
            _, probabilities = client.predict([content], "files")
        picture = np.array(Image.open(args.image).convert("RGB"))
        return common.show_digit(picture, probabilities[0], folder)

    data = mnist.load(args.data, args.data_dir)
    images, labels = data.test_images, data.test_labels
    print(f"{data.name}: {len(images):,} test images")
    lengths = (
        len(json.dumps(images[0].tolist())),
        tf.make_tensor_proto(images[0]).ByteSize(),
    )
    print(
        "an image of 784 pixels takes {:,} bytes as JSON, {:,} as a tensor".format(
            *lengths
        )
    )
    for client in (rest, over_grpc):
        classes, probabilities = client.predict(images[:1])
        print(
            f"{client.name}: the first is a {classes[0]}, with {probabilities[0].max():.2%}"
        )

    started = time.perf_counter()
    starts = tqdm(range(0, len(images), BATCH_SIZE), "all test images", leave=False)
    answers = [over_grpc.predict(images[i : i + BATCH_SIZE]) for i in starts]
    seconds = time.perf_counter() - started
    classes, probabilities = map(np.concatenate, zip(*answers, strict=True))
    difference = np.abs(rest.predict(images[:BATCH_SIZE])[1] - answers[0][1]).max()
    print(f"probabilities over REST and over gRPC differ by {difference:.1g} at most")
    captions = [
        f"{found} {certainty:.0%}" + ("" if found == label else f"\nis {label}")
        for found, certainty, label in zip(
            classes, probabilities.max(axis=1), labels, strict=True
        )
    ]
    title = f"Example 09, {data.name}: what the server says"
    picture = common.plot_images(
        images[:SHOWN], folder / "answers.png", title, captions
    )

    metrics = {
        "data": data.name,
        "server": args.server,
        "model": args.model,
        "test_accuracy": float(np.mean(classes == labels)),
        "train_seconds": 0.0,
        "images_per_second": round(len(images) / seconds),
        "latency": compare(rest, over_grpc, images),
    }
    return common.finish(folder, metrics, [picture], args, argv, __file__)


# %% What to try next
# * curl localhost:8501/v1/models/mnist/metadata: what of it does this script not print?
# * Export another version with example 08 while this script is asking. Is a request ever refused?
# * Send the test images as PNG files to `files`: how many bytes, and how long?
# * Ask from several threads at once. Does the median stay? And with --enable_batching?

if __name__ == "__main__":
    common.run(main)
