"""Example 07: transfer learning, VGG16 from ImageNet's thousand classes to CIFAR-10's ten.

You will learn how to take over a network that others have trained: read its checkpoint, rebuild it,
check that it works, and give it a new top layer for a task of your own. All layers below the top
one stay as they are, so what they make of an image is computed once and kept on disk.

    python examples/example07_vgg16_cifar10.py --data sample    # offline: small weights made here
    python examples/example07_vgg16_cifar10.py                  # VGG16 (513 MB) and CIFAR-10
    python examples/example07_vgg16_cifar10.py --train-images 50000 --test-images 10000    # hours

The README has the measured results, each with its machine, versions, seed and time.

Before this one: example 06, a network trained on CIFAR-10 alone. After it: example 08, which hands
a trained network to TensorFlow Serving.
"""

import gc
import inspect
import os
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `datasets` is ours
from examples import common  # isort: skip  # before TensorFlow, which it imports silently

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps
from tqdm import tqdm

from datasets import cifar10, pretrained, sample
from datasets.download import DataError
from models import feature_cache, sample_vgg16, vgg16

NAME = Path(__file__).stem
EPOCHS = 30  # of the top layer
BATCH_SIZE = 128  # of the top layer
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-2
DROPOUT = 0.5  # of fc7's outputs while the top layer is trained, as VGG16 itself was trained
EXTRACTION_BATCH = 25  # images; larger is no faster on a CPU, and needs more memory
TRAIN_IMAGES, TEST_IMAGES = 3000, 1000  # of the full data: about a quarter of an hour, two cores
VALIDATION_SHARE = 0.1  # of the training images, to choose the best epoch by
SAMPLE_IMAGES = 6000  # drawn to train the sample VGG16 on


# %% 1. Download the checkpoint and extract it
# vgg_16.ckpt is the original authors' network, converted by the TF-slim library in 2016. It is a
# checkpoint in the oldest format, V1, which TensorFlow 2 still reads.
#
# With --data sample there is an archive of the same layout with a VGG16 of an eighth of the width.
# It has learned to tell 20 kinds of drawn objects apart; the ten of the task are not among them.


def get_weights(args) -> tuple[Path, vgg16.Config, tuple[str, ...] | None]:
    """Return the file of weights, the network's sizes, and the names of its classes if known."""
    if args.data == "sample" and args.weights is None:
        kinds = sample.OTHER_KINDS
        archive = sample_vgg16.make_archive(
            args.data_dir / "sample" / "vgg16",
            pretrained.ARCHIVE,
            pretrained.CHECKPOINT,
            pretrained.CLASS_INDEX,
            kinds,
            lambda: sample.drawn_objects(kinds, SAMPLE_IMAGES, sample_vgg16.IMAGE_SIZE, seed=7),
        )
        checkpoint = pretrained.extract_checkpoint(archive)
        return checkpoint, sample_vgg16.config(len(kinds)), pretrained.class_names(archive.parent)
    try:
        names = pretrained.imagenet_class_names(args.data_dir)
    except DataError as error:
        print(f"classes are shown as numbers: {error}")
        names = None
    return args.weights or pretrained.vgg16_checkpoint(args.data_dir), vgg16.Config(), names


# %% 2. Reconstruct the network
# The checkpoint holds numbers, not layers. The layers are in models/vgg16.py, the other half of
# this example: read it now. Each of the 32 weights is checked for its name, shape and dtype.


# %% 3. Check it on a photograph
# If a single weight were in the wrong place, or the colours in the wrong order, the network would
# still answer, but nonsense. A photograph of something it knows shows that it sees.


def check(network: vgg16.VGG16, names: tuple[str, ...] | None, path: Path | None) -> None:
    """Print the five likeliest classes for a photograph, or for a drawing if weights are sample."""
    size = network.config.image_size
    if path is None and network.config.classes < 1000:
        kind = sample.OTHER_KINDS[0]
        image, what = sample.drawn_objects([kind], 1, size, seed=8)[0][0], f"a drawing ({kind})"
    else:
        path = path or Path(common.matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
        try:
            photograph = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise common.UserError(f"{path} cannot be read as an image: {error}") from error
        image, what = np.asarray(ImageOps.fit(photograph, (size, size))), path.name
    logits = network(vgg16.preprocess(image[None], size))
    probabilities = tf.nn.softmax(logits)[0].numpy()
    print(f"what VGG16_{network.config.classes} sees in {what}:")
    for index in np.argsort(-probabilities)[:5]:
        print(f"  {probabilities[index]:7.2%}  {names[index] if names else f'class {index}'}")


# %% 4. Save the model
# A checkpoint holds the weights alone. A SavedModel holds the computation as well, from
# uint8 images of any size to probabilities, and needs none of our code to run.


def save(network: vgg16.VGG16, folder: Path, digest: str) -> list[Path]:
    """Write folder/checkpoint/ and folder/saved_model/, unless these weights are there already."""
    mark = folder / "weights_sha256.txt"
    if not mark.is_file() or mark.read_text() != digest:
        part = folder.with_name(folder.name + ".part")
        for old in (part, folder):
            shutil.rmtree(old, ignore_errors=True)
        tf.train.Checkpoint(network=network).write(str(part / "checkpoint" / "vgg_16"))

        @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, "images")])
        def serve(images):
            logits = network(vgg16.preprocess(images, network.config.image_size))
            return {"probabilities": tf.nn.softmax(logits)}

        with common.silent_stderr():
            tf.saved_model.save(network, str(part / "saved_model"), {"serving_default": serve})
        (part / mark.name).write_text(digest)
        os.replace(part, folder)
    return [folder / "checkpoint", folder / "saved_model"]


# %% 5. Transfer: a new top layer on fixed features
# The five blocks, fc6 and fc7 are fixed, so an image's 4096 features never change. VGG16 costs 31
# thousand million operations an image; the top layer 82 thousand. Computing the features once
# and training on them makes an epoch take less than a second.


def fixed_part(network: vgg16.VGG16):
    """Return a compiled function from uint8 images (N, 32, 32, 3) to features, float16 (N, 4096).

    Resizing happens in it, on a batch: CIFAR-10 at 224 x 224 in float32 would need 36 GB.
    """

    @tf.function(input_signature=[tf.TensorSpec([None, 32, 32, 3], tf.uint8)])
    def extract(images):
        features = network.features(vgg16.preprocess(images, network.config.image_size))
        return tf.cast(features, tf.float16)

    return extract


def describe(weights: dict[str, np.ndarray], dtype: tf.DType) -> dict:
    """Name all that the features depend on, but the images: weights, arithmetic, and the code."""
    fixed = {name: array for name, array in weights.items() if "/fc8/" not in name}
    code = inspect.getsource(vgg16.preprocess) + inspect.getsource(vgg16.VGG16)
    return {
        "weights_sha256": vgg16.weights_digest(fixed),
        "arithmetic": dtype.name,
        "mean_rgb": vgg16.MEAN_RGB,
        "code": code,
    }


def train_top(features: np.ndarray, labels: np.ndarray, classes: int, args):
    """Train the top layer, a softmax regression, with AdamW; keep the best epoch's weights.

    Features are scaled to mean 0 and variance 1 for training. The result takes them as they are:
    the scaling is moved into the weights.

    Args:
        features: float16 (N, F).
        labels: int32 (N,).
        classes: how many.
        args: the parsed flags.

    Returns:
        Kernel, float32 (F, classes); bias, float32 (classes,); the history of loss and accuracy.
    """
    held_back = round(len(features) * VALIDATION_SHARE)
    train, validation = features[:-held_back], features[-held_back:]
    mean = train.mean(axis=0, dtype=np.float64)
    chunks = np.array_split(
        train, -(-len(train) // 1000)
    )  # squares need more than float16 can hold
    square = sum(np.square(chunk, dtype=np.float32).sum(axis=0) for chunk in chunks) / len(train)
    deviation = np.sqrt(np.maximum(square - mean**2, 0)) + 1e-6
    mean, deviation = tf.constant(mean, tf.float32), tf.constant(deviation, tf.float32)

    kernel = tf.Variable(tf.zeros([features.shape[1], classes]))
    bias = tf.Variable(tf.zeros([classes]))
    optimizer = tf.keras.optimizers.AdamW(args.learning_rate, weight_decay=WEIGHT_DECAY)
    optimizer.build([kernel, bias])

    def measure(x, y, dropout_seed=None):
        x = (tf.cast(x, tf.float32) - mean) / deviation
        if dropout_seed is not None:
            x = tf.nn.experimental.stateless_dropout(x, DROPOUT, dropout_seed)
        logits = tf.matmul(x, kernel) + bias
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
        right = tf.equal(tf.argmax(logits, axis=1, output_type=tf.int32), y)
        return loss, tf.reduce_mean(tf.cast(right, tf.float32))

    @tf.function(reduce_retracing=True)
    def train_step(x, y, seed):
        with tf.GradientTape() as tape:
            loss, accuracy = measure(x, y, seed)
        gradients = tape.gradient(loss, [kernel, bias])
        optimizer.apply_gradients(zip(gradients, [kernel, bias], strict=True))
        return tf.stack([loss, accuracy])

    history = {"loss": [], "accuracy": [], "validation_loss": [], "validation_accuracy": []}
    best = (0.0, kernel.numpy(), bias.numpy())
    for epoch in tqdm(range(args.epochs), "   training the top layer", leave=False):
        order = np.random.default_rng([args.seed, epoch]).permutation(len(train))
        batches = np.split(order, range(args.batch_size, len(order), args.batch_size))
        rows = [
            train_step(train[batch], labels[batch], tf.constant([args.seed, epoch * 10_000 + i]))
            for i, batch in enumerate(batches)
        ]
        values = [*np.mean(rows, axis=0), *map(float, measure(validation, labels[-held_back:]))]
        for key, value in zip(history, values, strict=True):
            history[key].append(float(value))
        if values[-1] > best[0]:
            best = (values[-1], kernel.numpy(), bias.numpy())
    kernel = best[1] / deviation.numpy()[:, None]
    return kernel, best[2] - mean.numpy() @ kernel, history


# %% 6. Run, and compare with a network that has never seen an image
# Is it the training on other images that helps, or would any VGG16 do? The same top layer on an
# untrained VGG16 tells.


def main(argv: list[str] | None = None) -> dict:
    """Go through the six steps and return the metrics."""
    parser = common.make_parser(__doc__, EPOCHS, BATCH_SIZE, LEARNING_RATE)
    add = parser.add_argument
    add("--test-images", type=common.positive_int, metavar="N", help="use only the first N")
    add("--weights", type=Path, metavar="PATH", help="VGG16 as .ckpt (V1, V2), Keras' .h5, or .npz")
    add("--image", type=Path, metavar="PATH", help="photograph to check VGG16_1000 on")
    add("--no-baseline", action="store_true", help="leave out the untrained network")
    args = parser.parse_args(argv)
    dtype = common.start(args.precision)
    folder = args.models_dir / NAME

    data = cifar10.load(args.data, args.data_dir)
    # The top layer's validation images are held back below: here, all 50,000 are for training.
    all_images = np.concatenate([data.train_images, data.validation_images])
    all_labels = np.concatenate([data.train_labels, data.validation_labels])
    limits = (TRAIN_IMAGES, TEST_IMAGES) if args.data == "full" else (None, None)
    labels = all_labels[: args.train_images or limits[0]]
    test_labels = data.test_labels[: args.test_images or limits[1]]
    test_images = data.test_images[: len(test_labels)]
    if len(labels) < 20:
        raise common.UserError(f"--train-images {len(labels)} is too few: at least 20 are needed")
    print(common.summary(data, len(data.train_images)))
    print(f"of these, {len(labels):,} are used for training and {len(test_labels):,} for the test")
    if args.data == "full":
        print("for all of them, in hours: --train-images 50000 --test-images 10000")

    print("1. checkpoint")
    path, config, class_names = get_weights(args)
    print(f"2. VGG16_{config.classes} from {common.shown(path)}")
    weights = vgg16.read_weights(path, config)
    network = vgg16.VGG16(weights, config)
    parameters = sum(array.size for array in weights.values())
    print(f"   {len(weights)} weights, {parameters:,} parameters, {config.image_size} pixels")
    print("3. check")
    check(network, class_names, args.image)
    print("4. save")
    files = save(network, folder / f"vgg16_{config.classes}", vgg16.weights_digest(weights))

    print("5. transfer")
    del network  # half a gigabyte; it and the functions compiled from it refer to each other,
    gc.collect()  # so that only the garbage collector sets them free
    features_folder = folder / "features"
    measured = {"images": 0, "seconds": 0.0}

    def cached(weights, name):
        """Return the network, and its features of the training and of the test images."""
        network = vgg16.VGG16(weights, config, dtype)
        extract, description = fixed_part(network), describe(weights, dtype)

        def timed(batch):
            started = time.perf_counter()
            features = extract(batch).numpy()
            measured["images"] += len(batch)
            measured["seconds"] += time.perf_counter() - started
            return features

        both = []
        for kind, part, count in (
            ("training", all_images, len(labels)),
            ("test", data.test_images, len(test_labels)),
        ):
            try:
                features = feature_cache.cached_features(
                    features_folder,
                    description,
                    timed,
                    part,
                    count,
                    config.dense,
                    EXTRACTION_BATCH,
                    f"   {name}, {kind} images",
                )
            except ValueError as error:
                raise common.UserError(f"these weights do not fit: {error}") from error
            both.append(features)
        return network, *both

    network, features, test_features = cached(weights, "VGG16")
    started = time.perf_counter()
    kernel, bias, history = train_top(features, labels, len(data.class_names), args)
    seconds = time.perf_counter() - started
    head_logits = test_features.astype(np.float32) @ kernel + bias
    head_accuracy = float(np.mean(head_logits.argmax(axis=1) == test_labels))
    print(f"   the top layer alone, on stored features: test accuracy {head_accuracy:.4f}")

    network.replace_top(kernel, bias)  # VGG16_10, from images to logits

    @tf.function(input_signature=[tf.TensorSpec([None, 32, 32, 3], tf.uint8)])
    def vgg16_10(images):
        return network(vgg16.preprocess(images, config.image_size))

    starts = tqdm(
        range(0, len(test_images), EXTRACTION_BATCH), "   VGG16_10 end to end", leave=False
    )
    logits = [vgg16_10(test_images[i : i + EXTRACTION_BATCH]).numpy() for i in starts]
    logits = np.concatenate(logits)
    accuracy = float(np.mean(logits.argmax(axis=1) == test_labels))
    print(f"   VGG16_10 from end to end:                test accuracy {accuracy:.4f}")
    top = folder / "vgg16_10_top_layer.npz"
    np.savez(top, **{"vgg_16/fc8/weights": kernel[None, None], "vgg_16/fc8/biases": bias})

    print("6. compare")
    untrained_accuracy = None
    if not args.no_baseline:
        del network, weights, vgg16_10, features, test_features
        gc.collect()
        untrained = vgg16.random_weights(config, args.seed)
        _, features, test_features = cached(untrained, "untrained VGG16")
        kernel, bias, _ = train_top(features, labels, len(data.class_names), args)
        untrained_logits = test_features.astype(np.float32) @ kernel + bias
        untrained_accuracy = float(np.mean(untrained_logits.argmax(axis=1) == test_labels))
        print(
            f"   the same top layer on an untrained VGG16: test accuracy {untrained_accuracy:.4f}"
        )

    probabilities, title = tf.nn.softmax(logits).numpy(), f"Example 07, {data.name}"
    names = data.class_names
    files += [
        top,
        *common.plot_results(
            folder, history, test_images, test_labels, probabilities, names, title
        ),
    ]
    speed = measured["images"] / measured["seconds"] if measured["images"] else None
    metrics = {
        "data": data.name,
        "weights": common.shown(path),
        "train_images": len(labels),
        "test_images": len(test_labels),
        "test_accuracy": accuracy,
        "test_accuracy_of_top_layer": head_accuracy,
        "test_accuracy_untrained": untrained_accuracy,
        "train_seconds": round(seconds, 1),
        "images_per_second": speed and round(speed, 1),
        "parameters": parameters,
        "epochs": args.epochs,
        "batch_size": args.batch_size,
        "learning_rate": args.learning_rate,
        "seed": args.seed,
        "precision": dtype.name,
        "history": history,
    }
    return common.finish(folder, metrics, files, args, argv, __file__)


# %% What to try next
# * --train-images 500: how few images are enough? Run example 06 with as many, and compare.
# * --image a photograph of your own.
# * Use fc6's outputs in place of fc7's (VGG16.features): are earlier features better for drawings?

if __name__ == "__main__":
    common.run(main)
