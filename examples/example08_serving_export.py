"""Example 08: a trained network becomes a model that TensorFlow Serving can serve.

You will learn how a network leaves Python: a SavedModel with all preparation of the images inside
its graph, signatures with named inputs and outputs, requests to warm up with, and versions that a
running server takes up by itself.

    python examples/example08_serving_export.py                  # exports example 04's network
    python examples/example08_serving_export.py --data sample    # offline, on small sample data

Where example 04 has not been run, a small network is trained for a moment.

The README has the measured results, each with its machine, versions, seeds and time.

Before this one: example 04, which trains the network and saves it for Python. After it: example 09,
which asks the server.
"""

import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # so that `datasets` is ours
from examples import common  # isort: skip  # before TensorFlow, which it imports silently

import numpy as np
import tensorflow as tf
from filelock import FileLock
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from datasets import mnist

NAME = Path(__file__).stem
TRAINED = "example04_mnist_cnn_layers"  # whose network is exported
SERVED = "mnist"  # the name under which clients ask for it
EPOCHS, STEPS = 1, 500  # of the small network that is trained where there is no other
BATCH_SIZE = 64
LEARNING_RATE = 3e-3
WARM_UP_SIZES = (
    1,
    16,
)  # images in the requests that a server answers before it is ready
CHECKED = (
    1000  # test images for which the exported model must answer as the network does
)
TOLERANCE = 0.01  # between their probabilities: bfloat16 has three digits

# %% Data
# MNIST, as in examples 03 to 05, to check with what is exported: the test images.
#
# %% Model
# A file in Keras' own format, .keras, holds layers and weights, and Keras is needed to make a
# network of them again. It may have been trained in bfloat16, on a processor that is fast with it.
# The server's may not be, so the layers, whose weights are float32 always, are told to compute in
# float32. (--precision bfloat16 exports for a server that is known to have such a processor.)


def load_network(models_dir: Path, data: mnist.Dataset) -> tf.keras.Model | None:
    """Return the network of example 04, or None where there is none for this data set."""
    file = models_dir / TRAINED / "model.keras"
    metrics = file.with_name("metrics.json")
    if not (file.is_file() and metrics.is_file()):
        return None
    try:
        if json.loads(metrics.read_text())["data"] != data.name:
            return None
        return tf.keras.models.load_model(file)
    except Exception as error:  # json, zipfile, h5py and Keras each raise their own
        raise common.UserError(
            f"the network in {common.shown(file.parent)} is damaged: "
            f"run  python examples/{TRAINED}.py  again"
        ) from error


def train_for_a_moment(data: mnist.Dataset, args) -> tf.keras.Model:
    """Train a small network: uint8 images (N, 28, 28, 1) in, logits (N, 10) out."""
    tf.keras.utils.set_random_seed(args.seed)
    layers = tf.keras.layers
    model = tf.keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(16, 5, strides=2, activation="relu"),  # (N, 12, 12, 16)
            layers.Conv2D(32, 3, strides=2, activation="relu"),  # (N, 5, 5, 32)
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf.keras.optimizers.Adam(args.learning_rate), loss)
    count = len(data.train_images[: args.train_images])
    drawn = np.random.default_rng(args.seed).integers(
        count, size=STEPS * args.batch_size
    )
    images, labels = data.train_images[drawn], data.train_labels[drawn]
    model.fit(images, labels, args.batch_size, args.epochs, verbose=0)
    return model


# %% Signatures
# What a server offers are signatures: functions whose inputs and outputs have names, types and
# shapes. A None in a shape leaves that size open; here it is the number of images. Clients should
# not have to know how the network wants its numbers. So all preparation, even the decoding of a
# file, is part of the graph: nobody can forget it there, or do it a little differently.
#
# A graph that runs in a session does not compare what it is fed with the shapes in the signature.
# This network would answer something to an image of 29 x 29 pixels, and an image that comes without
# its batch may end the whole server, in a kernel that takes four axes for granted. Hence
# ensure_shape: it makes an error of such a request.


def signatures(model: tf.keras.Model) -> dict[str, tuple[Callable, tf.TensorSpec]]:
    """Return functions, and what each of them takes, by the names under which clients ask."""

    def classify(images):  # (N, 28, 28, 1), from 0 for paper to 255 for ink
        images = tf.ensure_shape(images, [None, 28, 28, 1])
        probabilities = tf.nn.softmax(model(images, training=False))  # (N, 10)
        classes = tf.argmax(probabilities, axis=1, output_type=tf.int32)  # (N,)
        return {"classes": classes, "probabilities": probabilities}

    def from_floats(images):  # from 0 to 1
        return classify(255 * images)

    def from_files(images):  # the contents of PNG or JPEG files
        pixels = tf.TensorSpec([28, 28, 1], tf.float32)
        return classify(tf.map_fn(like_mnist, images, fn_output_signature=pixels))

    return {
        "serving_default": (
            classify,
            tf.TensorSpec([None, 28, 28, 1], tf.uint8, "images"),
        ),
        "floats": (from_floats, tf.TensorSpec([None, 28, 28, 1], tf.float32, "images")),
        "files": (from_files, tf.TensorSpec([None], tf.string, "images")),
    }


def like_mnist(file: tf.Tensor) -> tf.Tensor:
    """Bring a picture of a digit to the form of MNIST's images, with operations of TensorFlow only.

    Light on dark, fitted into 20 x 20 pixels, and with its centre of mass in the middle of 28 x 28.
    (`datasets.mnist.read_picture` takes more care: of shadows, for one, and of transparent paper.)

    Args:
        file: string (), the content of an image file.

    Returns:
        float32 (28, 28, 1), from 0 to 255.
    """
    picture = tf.io.decode_image(file, channels=1, expand_animations=False)
    ink = tf.cast(picture[..., 0], tf.float32)  # (height, width)
    paper = tf.reduce_mean(tf.concat([ink[0], ink[-1], ink[:, 0], ink[:, -1]], axis=0))
    ink = tf.nn.relu(tf.where(paper > 127.5, paper - ink, ink - paper))
    ink *= tf.math.divide_no_nan(255.0, tf.reduce_max(ink))
    seen = ink > 50
    tf.debugging.Assert(
        tf.reduce_any(seen), ["a picture shows nothing: it is all one colour"]
    )
    rows, columns = (tf.where(tf.reduce_any(seen, axis))[:, 0] for axis in (1, 0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    size = tf.cast(tf.shape(ink), tf.float32)
    size = tf.maximum(tf.cast(tf.round(20 * size / tf.reduce_max(size)), tf.int32), 1)
    ink = tf.image.resize(
        ink[..., None], size, antialias=True
    )  # (20, up to 20, 1), or the reverse
    places = []
    for axis in (0, 1):
        mass = tf.reduce_sum(ink, [1 - axis, 2])  # of each row; then of each column
        positions = tf.range(tf.cast(size[axis], tf.float32))
        centre = tf.reduce_sum(positions * mass) / tf.reduce_sum(mass)
        place = tf.cast(tf.round(14 - centre), tf.int32)
        places.append(tf.clip_by_value(place, 0, 28 - size[axis]))
    return tf.image.pad_to_bounding_box(ink, *places, 28, 28)


def as_inputs(images: np.ndarray) -> dict[str, np.ndarray]:
    """Return uint8 images (N, 28, 28, 1) as each signature wants them."""
    files = np.array([tf.io.encode_png(image).numpy() for image in images], object)
    floats = (images / 255).astype(np.float32)
    return {"serving_default": images, "floats": floats, "files": files}


# %% Warm-up
# The first request of a kind is slow, because memory is allocated and kernels are chosen then. The
# server sends itself the requests that it finds in a TFRecord file in assets.extra, and only after
# that does it tell anyone that it is ready.


def write_warm_up(path: Path, images: np.ndarray) -> None:
    """Write requests of several sizes for each signature, made of images, uint8 (N, 28, 28, 1)."""
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in as_inputs(images).items():
            for size in WARM_UP_SIZES:
                request = predict_pb2.PredictRequest()
                request.model_spec.name = SERVED
                request.model_spec.signature_name = signature
                request.inputs["images"].CopyFrom(tf.make_tensor_proto(inputs[:size]))
                log = prediction_log_pb2.PredictLog(request=request)
                record = prediction_log_pb2.PredictionLog(predict_log=log)
                writer.write(record.SerializeToString())


# %% Check
# A server knows nothing of Python. It lets the graph restore the weights, then feeds and runs it.
# That is what the check does, with a session, TensorFlow 1's way of running a graph. It would not
# do to load the model with tf.saved_model.load, which makes Python objects again and restores their
# weights one by one: it is content with models that no server can run. (With Keras 3.12 such a one
# comes from tf.saved_model.save of an object with a Keras model in it: the graph restores copies of
# the weights, which no signature reads. Keras' own ExportArchive, below, does it right.)


def check(folder: Path, model: tf.keras.Model, data: mnist.Dataset) -> float:
    """Print the signatures of a SavedModel, and compare their answers with those of the network.

    Returns:
        The share of the test images that `serving_default` classifies right.

    Raises:
        UserError: probabilities differ by more than TOLERANCE, or a class is not the likeliest.
    """
    images = data.test_images
    inputs = as_inputs(images[:CHECKED])
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        found = tf.compat.v1.saved_model.load(
            session, ["serve"], str(folder)
        ).signature_def

        def run(name, images):
            outputs = {
                output: info.name for output, info in found[name].outputs.items()
            }
            return session.run(outputs, {found[name].inputs["images"].name: images})

        answers = {name: run(name, inputs[name]) for name in inputs}
        starts = range(0, len(images), 1000)
        found_classes = [
            run("serving_default", images[i : i + 1000])["classes"] for i in starts
        ]

    for name, (function, _) in signatures(model).items():
        print(f"{name}: {common.describe(found[name])}")
        classes, probabilities = (
            answers[name]["classes"],
            answers[name]["probabilities"],
        )
        expected = tf.function(function)(inputs[name])["probabilities"]
        difference = float(np.abs(probabilities - expected).max())
        print(
            f"    probabilities for {len(classes):,} test images within {difference:.1g}"
        )
        if not (
            difference <= TOLERANCE
            and np.array_equal(classes, probabilities.argmax(axis=1))
        ):
            raise common.UserError(
                f"signature {name} does not answer as the network does (by up to {difference:.2g}; "
                f"{TOLERANCE:g} is allowed): nothing was exported"
            )
    return float(np.mean(np.concatenate(found_classes) == data.test_labels))


# %% Versions
# The server watches a folder that holds a folder for each version, named by a whole number, and
# serves the highest. It may look at any moment. So a version is written beside that folder, and
# renamed into it when it is whole: renaming is one operation, and nobody ever sees half a model.


def export(
    model: tf.keras.Model, folder: Path, data: mnist.Dataset
) -> tuple[Path, float]:
    """Write the next version of a model, if it passes the check.

    Returns:
        The version's folder, and its accuracy on the test images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f"{folder.name}.part")
    with FileLock(folder.with_name(f"{folder.name}.lock")):  # one at a time
        shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
        archive = tf.keras.export.ExportArchive()
        for name, (function, given) in signatures(model).items():
            archive.add_endpoint(name, function, [given])
        archive.write_out(str(part), verbose=False)
        accuracy = check(part, model, data)
        warm_up = part / "assets.extra" / "tf_serving_warmup_requests"
        write_warm_up(warm_up, data.train_images[: max(WARM_UP_SIZES)])
        versions = [
            int(path.name) for path in folder.iterdir() if path.name.isdecimal()
        ]
        version = folder / str(max(versions, default=0) + 1)
        os.rename(part, version)
    return version, accuracy


# %% Run


def main(argv: list[str] | None = None) -> dict:
    """Export the network, check it, say how to serve it, and return the metrics."""
    parser = common.make_parser(__doc__, EPOCHS, BATCH_SIZE, LEARNING_RATE)
    parser.set_defaults(precision="float32")
    args = parser.parse_args(argv)
    dtype = common.start(args.precision)

    data = mnist.load(args.data, args.data_dir)
    common.count_images(data, args)
    source, seconds = TRAINED, 0.0
    model = load_network(args.models_dir, data)
    if model is None:
        print(
            f"{TRAINED}.py has left no network for this data set: a small one is trained"
        )
        source, started = "trained for a moment", time.perf_counter()
        model = train_for_a_moment(data, args)
        seconds = time.perf_counter() - started
    for layer in model.layers[
        :-1
    ]:  # the last one, whose outputs are the logits, is in float32
        layer.dtype_policy = "float32" if dtype == tf.float32 else f"mixed_{dtype.name}"
    print(f"{model.count_params():,} parameters")

    folder = args.models_dir / "serving" / SERVED
    version, accuracy = export(model, folder, data)
    metrics = common.run_settings(args, dtype) | {
        "data": data.name,
        "network": source,
        "version": int(version.name),
        "test_accuracy": accuracy,
        "train_seconds": round(seconds, 1),
        "parameters": model.count_params(),
    }
    metrics = common.finish(
        args.models_dir / NAME, metrics, [version], args, argv, __file__
    )
    base = shlex.quote(str(folder.resolve()))
    print(f"""serve it with Docker, or with the package tensorflow-model-server (see the README):
    docker run --rm -p 8500:8500 -p 8501:8501 -v {base}:/models/{SERVED} \\
        -e MODEL_NAME={SERVED} tensorflow/serving
    tensorflow_model_server --port=8500 --rest_api_port=8501 \\
        --model_name={SERVED} --model_base_path={base}
and ask it with  python examples/example09_serving_client.py""")
    return metrics


# %% What to try next
# * saved_model_cli show --all --dir models/serving/mnist/1: what does it know of the network?
# * Export twice while a server runs: which version answers, and after how long?
# * Write a digit with dark ink on light paper, photograph it, and send the file to `files`. Then
#   use `datasets.mnist.read_picture` and `serving_default`. Which is right more often, and why?
# * Add a signature that returns the two likeliest digits only (tf.math.top_k).

if __name__ == "__main__":
    common.run(main)
