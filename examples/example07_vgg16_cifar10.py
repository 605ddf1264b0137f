"""Example 07: transfer learning, VGG16 from ImageNet's thousand classes to CIFAR-10's ten.

You will learn how to take over a network that others have trained: read its checkpoint, rebuild it,
check that it works, and give it a new top layer for a task of your own. All layers below the top
one stay as they are, so what they make of an image is computed once and kept on disk.

    python examples/example07_vgg16_cifar10.py --data sample    # offline: small weights made here
    python examples/example07_vgg16_cifar10.py                  # VGG16 (513 MB) and CIFAR-10
    python examples/example07_vgg16_cifar10.py --train-images 50000 --test-images 10000    # hours

The README has the measured results, each with its machine, versions, seed and time.

Before this one: example 06, a network trained on CIFAR-10 alone. After it: example 08, what becomes
of a network when it is trained.
"""

import gc
import os
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # so that `datasets` is ours
from examples import common  # isort: skip  # before TensorFlow, which it imports silently

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps
from tqdm import tqdm

from datasets import cifar10, pretrained, sample
from datasets.download import DataError
from models import feature_cache, vgg16

NAME = Path(__file__).stem
EPOCHS = 30  # of the top layer
BATCH_SIZE = 128  # of the top layer
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-2
DROPOUT = (
    0.5  # of fc7's outputs while the top layer is trained, as VGG16 itself was trained
)
EXTRACTION_BATCH = 25  # images; larger is no faster on a CPU, and needs more memory
TRAIN_IMAGES, TEST_IMAGES = (
    3000,
    1000,
)  # of the full data: six minutes on two cores, bfloat16
VALIDATION_SHARE = (
    10  # every tenth of the training images is there to choose the best epoch by
)

# %% 1. Download the checkpoint and extract it
# vgg_16.ckpt is the original authors' network, converted by the TF-slim library in 2016. It is a
# checkpoint in the oldest format, V1, which TensorFlow 2 still reads.
#
# With --data sample there is an archive of the same layout with a VGG16 of an eighth of the width.
# It has learned to tell 20 kinds of drawn objects apart; the ten of the task are not among them.
# Both are made by `common.vgg16_checkpoint`, with what datasets/pretrained.py knows of the archive.

# %% 2. Reconstruct the network
# The checkpoint holds numbers, not layers. The layers are in models/vgg16.py, the other half of
# this example: read it now. Each of the 32 weights is checked for its name, shape and dtype.


# %% 3. Check it on a photograph
# If a single weight were in the wrong place, or the colours in the wrong order, the network would
# still answer, but nonsense. A photograph of something it knows shows that it sees.


def check(network: vgg16.VGG16, checkpoint: Path, args) -> None:
    """Print the five likeliest classes for a photograph, or for a drawing if weights are sample."""
    size, classes = network.config.image_size, network.config.classes
    path = args.image
    if path is None and classes < 1000:
        kind = sample.OTHER_KINDS[0]
        image, what = (
            sample.drawn_objects([kind], 1, size, seed=8)[0][0],
            f"a drawing ({kind})",
        )
    else:
        path = (
            path
            or Path(common.matplotlib.get_data_path())
            / "sample_data"
            / "grace_hopper.jpg"
        )
        try:
            photograph = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        except Exception as error:  # a damaged file raises errors of a dozen kinds
            raise common.UserError(
                f"{path} cannot be read as an image: {error}"
            ) from error
        image, what = np.asarray(ImageOps.fit(photograph, (size, size))), path.name
    try:
        if classes < 1000:
            names = pretrained.class_names(checkpoint.parent)
        else:
            names = pretrained.imagenet_class_names(args.data_dir)
    except DataError as error:
        print(f"   classes are shown as numbers: {error}")
        names = [f"class {number}" for number in range(classes)]
    probabilities = tf.nn.softmax(network(vgg16.preprocess(image[None], size)))[
        0
    ].numpy()
    print(f"   what VGG16_{classes} sees in {what}:")
    for index in np.argsort(-probabilities)[:5]:
        print(f"   {probabilities[index]:7.2%}  {names[index]}")


# %% 4. Save the model
# A checkpoint holds the weights alone. A SavedModel holds the computation as well, from
# uint8 images of any size to probabilities, and needs none of our code to run.


def save(network: vgg16.VGG16, folder: Path, digest: str) -> list[Path]:
    """Write folder/checkpoint/ and folder/saved_model/, unless these weights are there already."""
    mark = folder / "weights_sha256.txt"
    if not mark.is_file() or mark.read_text() != digest:
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        tf.train.Checkpoint(network=network).write(str(part / "checkpoint" / "vgg_16"))

        @tf.function(
            input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, "images")]
        )
        def serve(images):
            logits = network(vgg16.preprocess(images, network.config.image_size))
            return {"probabilities": tf.nn.softmax(logits)}

        with common.silent_stderr():
            tf.saved_model.save(
                network, str(part / "saved_model"), {"serving_default": serve}
            )
        (part / mark.name).write_text(digest)
        shutil.rmtree(folder, ignore_errors=True)
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


def train_top(train, validation, classes: int, args):
    """Train the top layer, a softmax regression, with AdamW; keep the best epoch's weights.

    Features are scaled to mean 0 and variance 1 for training. The result takes them as they are:
    the scaling is moved into the weights.

    Args:
        train: features, float16 (N, F), and labels, int32 (N,).
        validation: likewise.
        classes: how many.
        args: the parsed flags.

    Returns:
        Kernel, float32 (F, classes); bias, float32 (classes,); the history of loss and accuracy.
    """
    features, labels = train
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    chunks = np.array_split(
        features, -(-len(features) // 1000)
    )  # or the differences fill memory
    variance = sum(np.square(chunk - mean).sum(axis=0) for chunk in chunks) / len(
        features
    )
    deviation = np.sqrt(variance) + 1e-6

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

    history = {
        "loss": [],
        "accuracy": [],
        "validation_loss": [],
        "validation_accuracy": [],
    }
    best = (0.0, kernel.numpy(), bias.numpy())
    for epoch in tqdm(range(args.epochs), "   training the top layer", leave=False):
        order = np.random.default_rng([args.seed, epoch]).permutation(len(features))
        batches = np.split(order, range(args.batch_size, len(order), args.batch_size))
        rows = [
            train_step(
                features[batch],
                labels[batch],
                tf.constant([args.seed, epoch * 10_000 + i]),
            )
            for i, batch in enumerate(batches)
        ]
        values = [*np.mean(rows, axis=0), *map(float, measure(*validation))]
        if not np.isfinite(values[0] + values[2]):
            raise common.UserError(
                f"the loss is {values[0]:.4g}: use a smaller --learning-rate"
            )
        for key, value in zip(history, values, strict=True):
            history[key].append(float(value))
        if values[-1] > best[0]:
            best = (values[-1], kernel.numpy(), bias.numpy())
    kernel = best[1] / deviation[:, None]
    return kernel, best[2] - mean @ kernel, history


# %% 6. Run, and compare with a network that has never seen an image
# Is it the training on other images that helps, or would any VGG16 do? The same top layer on an
# untrained VGG16 tells.


def main(argv: list[str] | None = None) -> dict:
    """Go through the six steps and return the metrics."""
    parser = common.make_parser(__doc__, EPOCHS, BATCH_SIZE, LEARNING_RATE)
    add = parser.add_argument
    add(
        "--test-images",
        type=common.positive_int,
        metavar="N",
        help="use only the first N",
    )
    add(
        "--weights",
        type=Path,
        metavar="PATH",
        help="VGG16 as .ckpt (V1, V2), Keras' .h5, or .npz",
    )
    add("--image", type=Path, metavar="PATH", help="photograph to check VGG16_1000 on")
    add("--no-baseline", action="store_true", help="leave out the untrained network")
    args = parser.parse_args(argv)
    dtype = common.start(args.precision)
    folder = args.models_dir / NAME

    data = cifar10.load(args.data, args.data_dir)
    limits = (TRAIN_IMAGES, TEST_IMAGES) if args.data == "full" else (50_000, 10_000)
    count, test_count = args.train_images or limits[0], args.test_images or limits[1]
    if count < 2 * VALIDATION_SHARE:
        raise common.UserError(
            f"--train-images {count} is too few: use {2 * VALIDATION_SHARE}"
        )
    held_back = count // VALIDATION_SHARE
    labels = data.train_labels[: count - held_back]
    validation_labels = data.validation_labels[:held_back]
    test_images, test_labels = (
        data.test_images[:test_count],
        data.test_labels[:test_count],
    )
    print(common.summary(data, len(data.train_images)))
    print(
        f"used: {len(labels):,}, {len(validation_labels):,} and {len(test_labels):,} of them"
    )
    if args.data == "full":
        print("to use all, which takes hours: --train-images 50000 --test-images 10000")

    print("1. checkpoint")
    path, config = common.vgg16_checkpoint(args)
    print(f"2. VGG16_{config.classes} from {common.shown(path)}")
    weights = vgg16.read_weights(path, config)
    network = vgg16.VGG16(weights, config)
    parameters = sum(array.size for array in weights.values())
    print(
        f"   {len(weights)} weights, {parameters:,} parameters, {config.image_size} pixels"
    )
    print("3. check")
    check(network, path, args)
    print("4. save")
    files = save(
        network, folder / f"vgg16_{config.classes}", vgg16.weights_digest(weights)
    )

    print("5. transfer")
    del (
        network
    )  # half a gigabyte; it and the functions compiled from it refer to each other,
    gc.collect()  # so that only the garbage collector sets them free

    def features_of(network, weights, title):
        """Return the network's features of the training, validation and test images."""
        extract = fixed_part(network)
        fixed = {name: array for name, array in weights.items() if "/fc8/" not in name}
        description = vgg16.describe(fixed, dtype)
        return [
            feature_cache.cached_features(
                folder / "features",
                description,
                extract,
                images,
                count,
                (config.dense,),
                EXTRACTION_BATCH,
                f"   {title}, {part} images",
            )[:]
            for part, images, count in (
                ("training", data.train_images, len(labels)),
                ("validation", data.validation_images, len(validation_labels)),
                ("test", data.test_images, len(test_labels)),
            )
        ]

    def trained_top(train, validation, test):
        """Return a top layer trained on features, its history, and its test accuracy."""
        classes = len(data.class_names)
        top = train_top((train, labels), (validation, validation_labels), classes, args)
        logits = test.astype(np.float32) @ top[0] + top[1]
        return *top, float(np.mean(logits.argmax(axis=1) == test_labels))

    network = vgg16.VGG16(weights, config, dtype)
    features = features_of(network, weights, "VGG16")
    started = time.perf_counter()
    kernel, bias, history, top_accuracy = trained_top(*features)
    train_seconds = time.perf_counter() - started
    print(
        f"   the top layer alone, on stored features: test accuracy {top_accuracy:.4f}"
    )

    network.replace_top(kernel, bias)  # VGG16_10, from images to logits

    @tf.function(input_signature=[tf.TensorSpec([None, 32, 32, 3], tf.uint8)])
    def vgg16_10(images):
        return network(vgg16.preprocess(images, config.image_size))

    started = time.perf_counter()
    starts = range(0, len(test_images), EXTRACTION_BATCH)
    bar = tqdm(starts, "   VGG16_10 end to end", leave=False)
    logits = np.concatenate(
        [vgg16_10(test_images[i : i + EXTRACTION_BATCH]) for i in bar]
    )
    images_per_second = len(test_images) / (time.perf_counter() - started)
    accuracy = float(np.mean(logits.argmax(axis=1) == test_labels))
    print(f"   VGG16_10 from end to end:                test accuracy {accuracy:.4f}")
    top = folder / "vgg16_10_top_layer.npz"
    np.savez(
        top, **{"vgg_16/fc8/weights": kernel[None, None], "vgg_16/fc8/biases": bias}
    )

    print("6. compare")
    untrained_accuracy = None
    if not args.no_baseline:
        del network, weights, vgg16_10, features
        gc.collect()
        weights = vgg16.random_weights(config, args.seed)
        network = vgg16.VGG16(weights, config, dtype)
        features = features_of(network, weights, "untrained VGG16")
        *_, untrained_accuracy = trained_top(*features)
        print(
            f"   on an untrained VGG16, the same top layer: test accuracy {untrained_accuracy:.4f}"
        )

    probabilities, title = tf.nn.softmax(logits).numpy(), f"Example 07, {data.name}"
    pictures = common.plot_results(
        folder,
        history,
        test_images,
        test_labels,
        probabilities,
        data.class_names,
        title,
    )
    metrics = {
        "data": data.name,
        "weights": common.shown(path),
        "train_images": len(labels) + len(validation_labels),
        "test_images": len(test_labels),
        "test_accuracy": accuracy,
        "test_accuracy_of_top_layer": top_accuracy,
        "test_accuracy_untrained": untrained_accuracy,
        "train_seconds": round(train_seconds, 1),
        "images_per_second": round(images_per_second, 1),
        "parameters": parameters,
        "epochs": args.epochs,
        "batch_size": args.batch_size,
        "learning_rate": args.learning_rate,
        "seed": args.seed,
        "precision": dtype.name,
        "history": history,
    }
    return common.finish(
        folder, metrics, [*files, top, *pictures], args, argv, __file__
    )


# %% What to try next
# * --train-images 500: how few images are enough? Run example 06 with as many, and compare.
# * --image a photograph of your own.
# * Use fc6's outputs in place of fc7's (VGG16.features): are earlier features better for drawings?

if __name__ == "__main__":
    common.run(main)
