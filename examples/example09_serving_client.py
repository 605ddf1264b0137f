"""Example 09: asking a model that TensorFlow Serving serves.

You will learn to use a network that runs in another process, on this machine or on any
other: over REST, which is text, and over gRPC, which is packed bytes; what a server
tells of its model, how long answers take, and what may come in place of an answer.

    python examples/example09_serving_client.py                 # on this machine
    python examples/example09_serving_client.py --data sample   # offline, small digits
    python examples/example09_serving_client.py --server 192.168.0.7
    python examples/example09_serving_client.py --image seven.png  # what digit is this?

A server must be running: example 08 writes its model, and ends with the two ways to
start one. docs/results.md has measured results. Before this one: example 08. After it:
example 10, from photographs of one's own to TFRecord files.
"""

import base64
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `datasets` is ours
from examples.helpers import cli, device, report  # isort: skip  # before TensorFlow
import grpc
import numpy as np
import requests
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from datasets import mnist, pictures
from datasets.download import root_cause
from models.saved import describe

NAME = Path(__file__).stem
TIMEOUT = 10  # seconds within which an answer must come
BATCH_SIZE = 256  # images in a request, when all test images are sent
SIZES = (1, 4, 16, 64)  # images in the requests that are timed
REQUESTS, UNTIMED = 100, 5  # of each size; and before them, some that do not count

# %% What may come in place of an answer
# Between client and server lies a network, and the server may be another one than we
# think. What helps then is one line that says who was asked, what came, and what to do.
# The errors of both libraries, the one for HTTP and the one for gRPC, become this line.


def no_answer(client, what: str) -> cli.UserError:
    """Nothing listens, or something else; it is too slow, not ready, or refuses."""
    line = what.partition("\n")[0]  # after it come nodes of the graph
    line = line if line.isprintable() else "bytes that are not HTTP"
    return cli.UserError(
        f"no answer from {client.address} ({line}): start a server as the last lines "
        "of  python examples/example08_serving_export.py  say; wait until it is ready; "
        f"or correct --server, {client.flag}, --model or --model-version"
    )


# %% REST
# HTTP and JSON, as all languages speak: https://www.tensorflow.org/tfx/serving/api_rest
#
#     GET  /v1/models/mnist             its versions and their states
#     GET  /v1/models/mnist/metadata    its signatures
#     POST /v1/models/mnist:predict     a question
#
# After the name may come `/versions/2`; without it, the highest version answers. In the
# row format there is an entry for each image, in the columnar one for each tensor:
#
#     {"instances": [image, image]}
#     {"predictions": [{"classes": 7, "probabilities": [...]}, ...]}
#     {"inputs": {"images": [image, image]}}
#     {"outputs": {"classes": [7, 2], "probabilities": [[...], ...]}}
#
# An image is lists in lists, all its numbers written out as digits. JSON has no bytes:
# the content of a file becomes `{"b64": "iVBORw0..."}` (base64, RFC 4648, section 4).


class Rest:
    """Asks over REST."""

    flag = "--rest-port"

    def __init__(self, server: str, port: int, model: str, version: int | None = None):
        self.address = f"http://{server}:{port}"
        self.model = f"{self.address}/v1/models/{requests.utils.quote(model, safe='')}"
        self.model += f"/versions/{version}" if version else ""
        self.session = requests.Session()  # keeps the connection open between requests
        self.session.trust_env = False  # no detour by a proxy of the environment's

    def ask(self, path: str, key: str, question: dict | None = None):
        """Send a request; return what the JSON object of the answer has under `key`."""
        method, url = "POST" if question else "GET", self.model + path
        try:
            answer = self.session.request(method, url, json=question, timeout=TIMEOUT)
            found = answer.json()[key if answer.ok else "error"]
        except (requests.JSONDecodeError, KeyError, TypeError) as error:
            raise no_answer(self, "what is there is not TensorFlow Serving") from error
        except requests.RequestException as error:
            raise no_answer(self, root_cause(error)) from error
        if not answer.ok:
            raise no_answer(self, found)
        return found

    def predict(self, images, signature="serving_default", rows=False):
        """Classify images; see `Grpc.predict`. With `rows`, ask in the row format."""
        if signature == "files":
            images = [{"b64": base64.b64encode(file).decode()} for file in images]
        else:
            images = images.tolist()
        question = {"signature_name": signature}
        if rows:
            question["instances"] = images
            answers = self.ask(":predict", "predictions", question)
            answer = {name: [row[name] for row in answers] for name in answers[0]}
        else:
            question["inputs"] = {"images": images}
            answer = self.ask(":predict", "outputs", question)
        return np.array(answer["classes"]), np.float32(answer["probabilities"])


# %% gRPC
# Calls of functions in another process. Arguments and results are messages, defined in
# .proto files, from which classes are made for many languages; those of TensorFlow
# Serving are in the package `tensorflow-serving-api`. They travel as bytes over HTTP/2.
# A tensor is its type, its shape and its numbers as they lie in memory.
#
# A channel is the connection, and a stub has the functions of the other side as
# methods. The channel is "insecure", without encryption, as the server was started:
# right on one machine or within a network of your own, and nowhere else.


class Grpc:
    """Asks over gRPC."""

    flag = "--grpc-port"

    def __init__(self, server: str, port: int, model: str, version: int | None = None):
        self.address, self.model, self.version = f"{server}:{port}", model, version
        channel = grpc.insecure_channel(self.address, [("grpc.enable_http_proxy", 0)])
        self.service = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def predict(self, images, signature="serving_default"):
        """Classify uint8 (N, 28, 28, 1): integers (N,) and probabilities (N, 10)."""
        request = predict_pb2.PredictRequest()
        request.model_spec.name = self.model
        request.model_spec.signature_name = signature
        if self.version:
            request.model_spec.version.value = self.version
        request.inputs["images"].CopyFrom(tf.make_tensor_proto(images))
        try:
            answer = self.service.Predict(request, timeout=TIMEOUT).outputs
        except grpc.RpcError as error:
            raise no_answer(self, error.details()) from error
        return tuple(tf.make_ndarray(answer[x]) for x in ("classes", "probabilities"))


# %% Status and metadata
# A version is `START`, `LOADING`, `AVAILABLE`, `UNLOADING` or `END`. The metadata are
# signatures: so a client finds out what a model takes and returns before it sends
# anything.


def look_at(rest: Rest, wanted: str) -> None:
    """Print states and signatures; one must be AVAILABLE, and one be `wanted`."""
    versions = rest.ask("", "model_version_status")
    line = "version {version} {state} {status[error_message]}"
    text = ", ".join(line.format(**version).strip() for version in versions)
    print(f"{rest.address}: {text}")
    if "AVAILABLE" not in [version["state"] for version in versions]:
        raise no_answer(rest, text)
    found = rest.ask("/metadata", "metadata")["signature_def"]["signature_def"]
    for name in sorted(found.keys() - {"__saved_model_init_op"}):  # TensorFlow's own
        print(f"    {name}: {describe(found[name])}")
    inputs, outputs = (found.get(wanted, {}).get(x, {}) for x in ("inputs", "outputs"))
    if set(inputs) != {"images"} or not {"classes", "probabilities"} <= set(outputs):
        raise no_answer(rest, f"no {wanted} from images to classes and probabilities")


# %% Latency
# How long is it from question to answer? The median says what is usual; the 95th
# percentile, which one request in twenty exceeds, what users complain about. A request
# costs something whatever is in it. A batch pays that once, and one large matrix
# product keeps a processor busier than many small ones.
#
# Requests follow each other, so this is how long one user waits, not how many the
# server could answer at once. The first ones do not count: connections are opened then.


def measure(ask: Callable, images: np.ndarray, size: int) -> list[float]:
    """Send batches of `size` images one by one; return the seconds that each takes."""
    seconds = []
    for number in range(UNTIMED + REQUESTS):
        batch = images.take(np.arange(size) + number * size, axis=0, mode="wrap")
        began = time.perf_counter()
        ask(batch)
        seconds.append(time.perf_counter() - began)
    return seconds[UNTIMED:]


def compare(ways: dict[str, Callable], images: np.ndarray) -> list[dict]:
    """Print a table of latency and images a second, and return its rows."""
    columns = "way", "images", "median_ms", "percentile_95_ms", "images_per_second"
    print("               images in   latency in ms:        images")
    print("               a request   median     95 %   a second")
    rows = []
    for size in SIZES:
        for way, ask in ways.items():
            seconds = measure(ask, images, size)
            median, late = 1000 * np.percentile(seconds, [50, 95])
            rows.append([way, size, median, late, size / np.mean(seconds)])
            print("{:15}{:9}   {:6.1f}   {:6.1f}   {:8,.0f}".format(*rows[-1]))
    return [dict(zip(columns, row, strict=True)) for row in rows]


# %% All test images
# Does the network answer from over there as it did at home? The accuracy tells. The two
# ways must agree, as well: their probabilities differ by no more than is lost when
# numbers are written out as digits. How many bytes an image takes in either says where
# the time of the slower one goes.


def ask_all(rest: Rest, over_grpc: Grpc, data: mnist.Dataset, folder: Path) -> dict:
    """Send test images over both, time it, draw mistakes, and return the figures."""
    images, labels = data.test_images, data.test_labels
    sizes = len(str(images[0].tolist())), tf.make_tensor_proto(images[0]).ByteSize()
    print("an image takes {:,} bytes as JSON, {:,} as a tensor".format(*sizes))
    for name, client in (("REST", rest), ("gRPC", over_grpc)):
        (digit,), (row,) = client.predict(images[:1])
        print(f"{name}: the first is a {digit}, with {row.max():.2%}")
    starts, began = range(0, len(images), BATCH_SIZE), time.perf_counter()
    answers = [over_grpc.predict(images[i : i + BATCH_SIZE]) for i in starts]
    speed = round(len(images) / (time.perf_counter() - began))
    difference = np.abs(rest.predict(images[:BATCH_SIZE])[1] - answers[0][1]).max()
    print(f"probabilities over REST and over gRPC differ by {difference:.1g} at most")
    classes, probabilities = map(np.concatenate, zip(*answers, strict=True))
    guesses = labels, probabilities, data.class_names
    report.plot_results(folder, "Example 09", {}, images, *guesses)
    accuracy = float(np.mean(classes == labels))
    return {"test_accuracy": accuracy, "train_seconds": 0.0, "images_per_second": speed}


# %% Run
# First of all the server is asked what it has: were it not there, not ready, or another
# one, the rest would be in vain. With `--image` a file is sent as it is, and what
# prepares it is in the served graph (example 08). Without it, all test images are sent,
# and the ways are timed.


def main(argv: list[str] | None = None) -> dict:
    """Ask for all that a server can tell; return the metrics, or a picture's digit."""
    parser = cli.make_parser(__doc__)
    add, port = parser.add_argument, cli.number(int, 1, 65535)
    add("--server", metavar="HOST", default="localhost", help="the machine it runs on")
    add("--rest-port", type=port, default=8501, help="where it speaks REST")
    add("--grpc-port", type=port, default=8500, help="where it speaks gRPC")
    add("--model", default="mnist", help="name of the model")
    add("--model-version", type=cli.positive_int, help="in place of the highest")
    add("--image", type=Path, help="picture of a digit to classify")
    args = parser.parse_args(argv)
    device.start("float32")
    folder, model = args.models_dir / NAME, (args.model, args.model_version)
    host = args.server.strip("[]")
    host = f"[{host}]" if ":" in host else host  # IPv6, such as ::1
    rest = Rest(host, args.rest_port, *model)
    over_grpc = Grpc(host, args.grpc_port, *model)
    look_at(rest, "files" if args.image else "serving_default")
    if args.image:
        picture = pictures.read_picture(args.image)
        file = tf.io.encode_png(picture).numpy()  # the server sees what is drawn
        _, probabilities = over_grpc.predict([file], "files")
        return report.show_answer(picture, probabilities[0], "0123456789", folder)

    data = mnist.load(args.data, args.data_dir)
    metrics = {"data": data.name, "server": args.server, "model": args.model}
    metrics |= ask_all(rest, over_grpc, data, folder)
    ways = {"REST, rows": lambda batch: rest.predict(batch, rows=True)}
    ways |= {"REST, columns": rest.predict, "gRPC": over_grpc.predict}
    metrics["latency"] = compare(ways, data.test_images)
    files = [folder / "confusion_matrix.png", folder / "worst_mistakes.png"]
    return report.finish(folder, metrics, files, argv, args.min_accuracy)


# %% What to try next
# * `curl localhost:8501/v1/models/mnist/metadata`: what does this script not print of
#   it?
# * Export another version with example 08 meanwhile. Is a request ever refused?
# * Send the test images as PNG files to `files`: how many bytes, and how long?
# * Ask from several threads at once. Does the median stay? And with --enable_batching?

if __name__ == "__main__":
    cli.run(main)
