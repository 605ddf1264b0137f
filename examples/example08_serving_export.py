"""Example 08: a trained network becomes a model that TensorFlow Serving can serve.

You will learn how a network leaves Python: a SavedModel with all preparation of the
images inside its graph, signatures with named inputs and outputs, requests to warm up
with, and versions that a running server takes up by itself.

    python examples/example08_serving_export.py                # example 05's network
    python examples/example08_serving_export.py --data sample  # offline, small digits

Where example 05 has not been run, the same network is trained for a moment. Folders and
files are TensorFlow Serving's (https://www.tensorflow.org/tfx/guide/serving).
docs/results.md has the measured results. Before this one: example 05, which trains the
network. After it: example 09, which asks the server.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `datasets` is ours
from examples.helpers import cli, device, report  # isort: skip  # before TensorFlow
import numpy as np
import tensorflow as tf
from filelock import FileLock
from tensorflow_serving.apis import prediction_log_pb2

from datasets import mnist
from models import mnist_cnn
from models.saved import describe

NAME = Path(__file__).stem
TRAINED = "example05_mnist_cnn_nn"  # whose network is exported
SERVED = "mnist"  # the name under which clients ask for it
WARM_UP_SIZES = (1, 16)  # images in the requests that come before all others
CHECKED = 1000  # test images for which the answers must be the network's
TOLERANCE = 0.01  # between their probabilities: bfloat16 has three digits

# %% Model
# A checkpoint holds numbers; models/mnist_cnn.py makes the layers of example 04 of them
# again. Example 05 may have trained in bfloat16, on a processor that is fast with it.
# The server's may not be, so the layers compute in float32.


def set_precision(network: tf.keras.Model, dtype: tf.DType) -> None:
    """Choose in what the layers compute, but the last: logits are float32 always."""
    for layer in network.layers[:-1]:
        layer.dtype_policy = "float32" if dtype == tf.float32 else f"mixed_{dtype.name}"


# %% Preparation
# Clients should not have to know how the network wants its numbers. So all preparation,
# even the decoding of a file, is made of TensorFlow's operations and becomes part of
# the graph: nobody can forget it there, or do it a little differently. It is what
# datasets/digits.py does with OpenCV, where more care is taken: of shadows, for one.
#
# The graph is made before any picture comes. So the size of a picture is a tensor, too,
# tf.shape, and whatever depends on it is computed anew in every call: tf.where chooses
# where a Python `if` would have chosen once for all, and `tf.debugging.Assert` makes
# the error that `raise` would make in Python.


def digit_of(file: tf.Tensor) -> tf.Tensor:
    """Turn the content of a PNG or JPEG file into float32 (28, 28, 1) as MNIST's."""
    picture = tf.io.decode_image(file, channels=1, expand_animations=False)
    grey = tf.cast(picture[..., 0], tf.float32)
    border = tf.concat([grey[0], grey[-1], grey[:, 0], grey[:, -1]], axis=0)
    paper = tf.reduce_mean(border)  # its shade; ink is darker, or lighter on dark paper
    ink = tf.nn.relu(tf.where(paper > 127.5, paper - grey, grey - paper))
    return like_mnist(ink * tf.math.divide_no_nan(255.0, tf.reduce_max(ink)))


def like_mnist(ink: tf.Tensor) -> tf.Tensor:
    """Fit ink (H, W), 0 to 255, into 20 x 20 pixels; centre its mass in (28, 28, 1)."""
    places = tf.where(ink > 50)  # (N, 2): rows and columns of what is seen
    message = "a picture shows nothing: it is all one colour"
    with tf.control_dependencies([tf.debugging.Assert(tf.size(places) > 0, [message])]):
        corner = tf.reduce_min(places, axis=0)
    ink = tf.slice(ink, corner, tf.reduce_max(places, axis=0) - corner + 1)
    size = tf.cast(tf.shape(ink), tf.float32)
    size = tf.maximum(tf.cast(tf.round(20 * size / tf.reduce_max(size)), tf.int32), 1)
    ink = tf.image.resize(ink[..., None], size, antialias=True)
    rows_and_columns = tf.meshgrid(*map(tf.range, tf.unstack(size)), indexing="ij")
    positions = tf.cast(tf.stack(rows_and_columns, axis=-1), tf.float32)  # (h, w, 2)
    centre = tf.reduce_sum(ink * positions, axis=[0, 1]) / tf.reduce_sum(ink)
    corner = tf.clip_by_value(tf.cast(tf.round(14 - centre), tf.int32), 0, 28 - size)
    return tf.image.pad_to_bounding_box(ink, *tf.unstack(corner), 28, 28)


# %% Signatures
# What a server offers are signatures: functions whose inputs and outputs have names,
# types and shapes. A `None` in a shape leaves that size open: the number of images.
# A graph that runs in a session does not compare what it is fed with these shapes. The
# network would answer something to an image of 29 x 29 pixels, and an image that comes
# without its batch may end the whole server, in a kernel that takes four axes for
# granted. Hence tf.ensure_shape: it makes an error of such a request.


def signatures(network: tf.keras.Model) -> dict[str, Callable]:
    """Return functions of `images` by the names under which clients ask for them."""
    shape = [None, 28, 28, 1]

    def classify(images):  # from 0 for paper to 255 for ink
        x = tf.ensure_shape(images, shape)
        for layer in network.layers:  # network(x) would make whole numbers of floats
            x = layer(x)
        probabilities = tf.nn.softmax(x)  # (N, 10)
        classes = tf.argmax(probabilities, axis=1, output_type=tf.int32)  # (N,)
        return {"classes": classes, "probabilities": probabilities}

    def from_files(images):  # the contents of PNG or JPEG files
        digit = tf.TensorSpec(shape[1:], tf.float32)
        return classify(tf.map_fn(digit_of, images, fn_output_signature=digit))

    def with_input(function, shape, dtype):
        return tf.function(function, [tf.TensorSpec(shape, dtype, "images")])

    return {
        "serving_default": with_input(classify, shape, tf.uint8),
        "floats": with_input(lambda images: classify(255 * images), shape, tf.float32),
        "files": with_input(from_files, [None], tf.string),
    }


def as_inputs(images: np.ndarray) -> dict[str, np.ndarray]:
    """Return uint8 images (N, 28, 28, 1) as each signature wants them."""
    files = np.array([tf.io.encode_png(image).numpy() for image in images], object)
    floats = np.float32(images / 255)
    return {"serving_default": images, "floats": floats, "files": files}


# %% Warm-up
# The first request of a kind is slow, because memory is allocated and kernels are
# chosen then. The server sends itself the requests that it finds in a TFRecord file in
# `assets.extra`, and only then tells anyone that it is ready
# (https://www.tensorflow.org/tfx/serving/saved_model_warmup).


def write_warm_up(path: Path, images: np.ndarray) -> None:
    """Write requests for each signature, made of images, uint8 (N, 28, 28, 1)."""
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in as_inputs(images).items():
            for size in WARM_UP_SIZES:
                record = prediction_log_pb2.PredictionLog()
                request = record.predict_log.request
                request.model_spec.name = SERVED
                request.model_spec.signature_name = signature
                request.inputs["images"].CopyFrom(tf.make_tensor_proto(inputs[:size]))
                writer.write(record.SerializeToString())


# %% Check
# A server knows nothing of Python: it lets the graph restore the weights, feeds and
# runs it. So does the check, with a session, TensorFlow 1's way of running a graph.
# tf.saved_model.load would not do: it makes Python objects again, and is content with
# models that no server can run, such as tf.saved_model.save makes of an object that
# holds a Keras model. (Keras' own `ExportArchive` does it right.)
#
# Each signature gets the same images in its own form, and must find the network's
# probabilities; the answers of one that prepares its images wrongly would be far off.


def answers_of(folder: Path, inputs: dict[str, np.ndarray]) -> dict[str, dict]:
    """Print a SavedModel's signatures, and ask each: outputs by signature and name."""
    answers = {}
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(folder))
        for name, images in inputs.items():
            signature = loaded.signature_def[name]
            print(f"{name}: {describe(signature)}")
            outputs = {key: info.name for key, info in signature.outputs.items()}
            asked = {signature.inputs["images"].name: images}
            answers[name] = session.run(outputs, asked)
    return answers


def check(folder: Path, network: tf.keras.Model, images: np.ndarray) -> np.ndarray:
    """Compare a SavedModel's answers for test images (N, 28, 28, 1) with the network's.

    Returns the classes that `serving_default` finds, int32 (N,). A difference beyond
    TOLERANCE, or a class that is not the likeliest, is a UserError.
    """
    inputs = as_inputs(images[:CHECKED]) | {"serving_default": images}
    answers = answers_of(folder, inputs)
    for name, function in signatures(network).items():
        expected = function(inputs[name])["probabilities"]
        found = answers[name]["probabilities"]
        difference = np.abs(found - expected).max()
        print(f"{name}: within {difference:.1g} for {len(found):,} test images")
        right = np.array_equal(answers[name]["classes"], found.argmax(axis=1))
        if not (right and difference <= TOLERANCE):
            reason = f"by up to {difference:.2g}; {TOLERANCE:g} is allowed"
            raise cli.UserError(f"nothing exported: {name} differs ({reason})")
    return answers["serving_default"]["classes"]


# %% Versions
# The server watches a folder that holds a folder for each version, named by a whole
# number, and serves the highest. It may look at any moment. So a version is written
# beside that folder and renamed into it when it is whole: that is one operation, and
# nobody ever sees half a model. The lock is for two exports at a time, which would
# otherwise write into one folder and choose the same number.


def export(network: tf.keras.Model, folder: Path, data: mnist.Dataset) -> tuple:
    """Write the next version; return its folder, and the test images' classes (N,)."""
    part = folder.with_name(f"{folder.name}.part")
    with cli.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):  # one at a time
        with cli.writing(part):
            shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
            archive = tf.keras.export.ExportArchive()
            for name, function in signatures(network).items():
                archive.add_endpoint(name, function, function.input_signature)
            archive.write_out(str(part), verbose=False)
            warm_up = part / "assets.extra" / "tf_serving_warmup_requests"
            write_warm_up(warm_up, data.train_images[: max(WARM_UP_SIZES)])
        classes = check(part, network, data.test_images)
        found = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
        version = folder / str(max(found, default=0) + 1)
        os.rename(part, version)
    return version, classes


# %% How to serve it
# The model has left Python: what is below its folder is all that a server needs. Docker
# brings a server along; the folder is shown to it as /models/mnist. Without Docker the
# same server is a program, which takes the folder as a flag. Both listen on two ports,
# 8500 for gRPC and 8501 for REST (example 09).


def print_how_to_serve(folder: Path) -> None:
    """Print the two ways to start a server, with the full path."""
    base = shlex.quote(str(folder.resolve()))
    print(f"""serve it with Docker, or with tensorflow-model-server (docs/serving.md):
    docker run --rm -p 8500:8500 -p 8501:8501 -v {base}:/models/{SERVED} \\
        -e MODEL_NAME={SERVED} tensorflow/serving
    tensorflow_model_server --port=8500 --rest_api_port=8501 \\
        --model_name={SERVED} --model_base_path={base}
and ask it with  python examples/example09_serving_client.py""")


# %% Run
# The network comes from example 05, is exported, and only then asked: its accuracy is
# that of the classes which the SavedModel has returned, not Python's network. So a
# mistake of the export would be seen in it, too.


def main(argv: list[str] | None = None) -> dict:
    """Export the network, check it, say how to serve it, and return the metrics."""
    parser = cli.make_parser(__doc__)
    kinds = ["auto", "float32", "bfloat16"]
    parser.add_argument("--precision", choices=kinds, default="float32")
    args = parser.parse_args(argv)
    dtype = device.start(args.precision)
    tf.keras.utils.set_random_seed(0)
    data = mnist.load(args.data, args.data_dir)
    print(data.summary(len(data.train_images)))
    training = data.name, data.train_images, data.train_labels
    network, seconds = mnist_cnn.trained(args.models_dir / TRAINED, *training)
    set_precision(network, dtype)
    print(f"{network.count_params():,} parameters")

    version, classes = export(network, args.models_dir / "serving" / SERVED, data)
    metrics = cli.settings(args, dtype) | {
        "data": data.name,
        "network": "trained for a moment" if seconds else TRAINED,
        "version": int(version.name),
        "test_accuracy": float(np.mean(classes == data.test_labels)),
        "train_seconds": round(seconds, 1),
        "parameters": network.count_params(),
    }
    more = metrics, [version], argv, args.min_accuracy
    metrics = report.finish(args.models_dir / NAME, *more)
    print_how_to_serve(version.parent)
    return metrics


# %% What to try next
# * `saved_model_cli show --all --dir models/serving/mnist/1`: what does it tell?
# * Export twice while a server runs: which version answers, and after how long?
# * Write a digit with dark ink on light paper, photograph it, and send the file to
#   `files`, then use `datasets.mnist.read_picture`: which is right more often, and why?

if __name__ == "__main__":
    cli.run(main)
