"""Example 11: transfer learning, VGG16 from ImageNet's thousand classes to cats and dogs.

You will learn what one does with a task of one's own and few photographs: take over a network as in
example 07, then, as the second stage, let its last block of convolutions learn, too. You will see
where in a photograph the network looks, and get its answers for your own photographs as a table.

    python examples/example11_vgg16_cats_dogs.py --data sample                # offline
    python examples/example11_vgg16_cats_dogs.py --data sample --fine-tune    # with stage 2
    python examples/example11_vgg16_cats_dogs.py --small                      # VGG16 and 69 MB
    python examples/example11_vgg16_cats_dogs.py --image PATH                 # a file or a folder

The README has the measured results, each with its machine, versions, seed and time.

Before this one: example 10, the same photographs and a network from scratch. After it: example 12,
a network's weights in a file that everyone can read.
"""

import concurrent.futures
import csv
import inspect
import os
import sys
import time
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # so that `datasets` is ours
from examples import common  # isort: skip  # before TensorFlow, which it imports silently

import cv2
import numpy as np
import tensorflow as tf
from PIL import Image
from tqdm import tqdm

from datasets import cats_dogs
from datasets.download import DataError
from models import feature_cache, vgg16

NAME = Path(__file__).stem
EPOCHS = 30  # of the top layer
BATCH_SIZE = 128  # of the top layer
LEARNING_RATE = 1e-3  # of the top layer
WEIGHT_DECAY = 1e-2
DROPOUT = (
    0.5  # of fc7's outputs while the top layer is trained, as VGG16 itself was trained
)
FINE_TUNED = "conv5"  # the last block
FINE_TUNE_EPOCHS = 3
FINE_TUNE_BATCH = 32
FINE_TUNE_RATE = 2e-5  # at the start; it falls to zero along a line
EXTRACTION_BATCH = 25  # images; larger is no faster on a CPU, and needs more memory
TRAIN_IMAGES, TEST_IMAGES = (
    2000,
    1000,
)  # of the full data: three minutes on two cores, bfloat16
PICTURES = 16  # test images for which Grad-CAM is drawn

# %% Data
# VGG16 sees squares of 224 x 224 pixels. Each photograph is brought to this form, whatever its own:
# a cat that is a little squeezed is still a cat, while one whose ears are cut off is harder.


def squared(image: np.ndarray, size: int) -> np.ndarray:
    """Resize an image, uint8 (H, W, 3), to (size, size, 3), whatever its shape."""
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)


def read_all(photographs: cats_dogs.Photographs, chosen, size: int) -> np.ndarray:
    """Read some photographs, and return them as uint8 (N, size, size, 3)."""

    def read(photograph: cats_dogs.Photograph) -> np.ndarray:
        return squared(cats_dogs.decode(photographs.read(photograph)), size)

    with concurrent.futures.ThreadPoolExecutor(common.cores()) as pool:
        return np.array(list(pool.map(read, chosen)))


# %% Model
# VGG16 in two parts. What the fixed part makes of an image never changes, so it is computed once
# and kept on disk, as in example 07 and by the same models/feature_cache.py. Here that is done for
# two views of each image: as it is, and mirrored. A cat that looks to the left may as well look to
# the right, so there is twice as much to learn from; in a test, the mean of both logits counts.
#
# In stage 1, all but the top layer is fixed. In stage 2, the last block of convolutions learns,
# too, so that blocks 1 to 4 are fixed, which are nine tenths of the work.


@tf.function(reduce_retracing=True)
def fixed_part(network: vgg16.VGG16, images: tf.Tensor, layer: str) -> tf.Tensor:
    """Compute outputs of fc7 or pool4, float16 (N, ...), from uint8 (N, size, size, 3)."""
    images = vgg16.preprocess(images, network.config.image_size)
    outputs = {"fc7": network.features, "pool4": network.lower_blocks}[layer]
    return tf.cast(outputs(images), tf.float16)


def fixed_outputs(
    layer: str,
    network: vgg16.VGG16,
    digest: dict,
    photographs,
    chosen,
    title: str,
    folder: Path,
) -> feature_cache.Features:
    """Return a layer's outputs for both views of some photographs, float16 (N, 2, ...), from disk.

    `digest` names the network's weights and arithmetic.
    """
    config = network.config
    side = config.image_size // 16  # four poolings have halved the image four times

    def extract(part):
        images = read_all(photographs, part, config.image_size)
        views = images, images[:, :, ::-1]
        return np.stack([fixed_part(network, view, layer) for view in views], axis=1)

    return feature_cache.cached_features(
        folder,
        digest
        | {
            "layer": layer,
            "code": inspect.getsource(squared) + inspect.getsource(extract),
        },
        extract,
        chosen,
        len(chosen),
        {"fc7": (2, config.dense), "pool4": (2, side, side, 8 * config.width)}[layer],
        EXTRACTION_BATCH,
        f"{layer}, {title} images",
        identify=lambda part: repr(
            [photographs.checksum(item) for item in part]
        ).encode(),
    )


def upper_part(network: vgg16.VGG16, pool4: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Compute all that comes after block 4, (N, 14, 14, 512), as it was fed to block 5.

    Returns:
        The outputs of the last convolution, (N, 14, 14, 512), and float32 logits (N, 2).
    """
    conv5 = network.block(5, tf.cast(pool4, network.dtype))
    features = network.hidden(vgg16.pool(conv5))  # (N, 4096)
    return conv5, network.dense("fc8", tf.cast(features, tf.float32))


# %% Stage 1: a new top layer
# The top layer is a softmax regression on 4096 features. Example 07 writes its training out; here
# it is a small model of Keras, which trains on both views of each photograph. The weights of the
# epoch with the smallest loss in validation are kept.


def train_top(train, validation, args) -> tuple[np.ndarray, np.ndarray, dict]:
    """Train the top layer.

    Args:
        train: features, float16 (N, 2, 4096), and labels, int32 (N,).
        validation: likewise.
        args: the parsed flags.

    Returns:
        Kernel, float32 (4096, 2); bias, float32 (2,); the history of loss and accuracy.
    """
    tf.keras.utils.set_random_seed(args.seed)
    mean = train[0].mean(axis=(0, 1), dtype=np.float32)
    deviation = train[0].std(axis=(0, 1), dtype=np.float32) + 1e-6

    def views(features, labels):  # (2 N, 4096), (2 N,)
        return ((features - mean) / deviation).reshape(-1, len(mean)), np.repeat(
            labels, 2
        )

    dense = tf.keras.layers.Dense(
        len(cats_dogs.CLASS_NAMES), kernel_initializer="zeros"
    )
    top = tf.keras.Sequential([tf.keras.layers.Dropout(DROPOUT), dense])
    top.compile(
        tf.keras.optimizers.AdamW(args.learning_rate, weight_decay=WEIGHT_DECAY),
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    best = tf.keras.callbacks.EarlyStopping(
        patience=args.epochs, restore_best_weights=True
    )
    history = top.fit(
        *views(*train),
        batch_size=args.batch_size,
        epochs=args.epochs,
        validation_data=views(*validation),
        callbacks=[best],
        verbose=0,
    ).history
    if not np.isfinite(history["loss"] + history["val_loss"]).all():
        raise common.UserError("the loss is not finite: use a smaller --learning-rate")
    kernel, bias = dense.get_weights()
    kernel /= deviation[:, None]  # so that it takes features as they are
    history = {
        key.replace("val_", "validation_"): values for key, values in history.items()
    }
    return kernel, bias - mean @ kernel, history


# %% Stage 2: fine-tuning
# The last block has learned to see what tells a thousand classes apart. A small learning rate, so
# that it forgets little of that, turns it to what tells two apart. It can only come after stage 1:
# the gradients of a top layer that knows nothing would destroy what the block knows.


def tuned_weights(network: vgg16.VGG16) -> dict[str, tf.Variable]:
    """Return the weights of the last block and of the top layer by their names."""
    layers = FINE_TUNED, "fc8"
    return {
        name: w for name, w in network.weights.items() if name.split("/")[1] in layers
    }


class FineTuning(tf.Module):
    """The weights of the last block and the top layer, and everything else that changes."""

    def __init__(self, network: vgg16.VGG16, steps: int):
        super().__init__()
        self.network = network
        self.tuned = tuned_weights(network)
        rate = tf.keras.optimizers.schedules.PolynomialDecay(FINE_TUNE_RATE, steps, 0.0)
        self.optimizer = tf.keras.optimizers.Adam(rate)
        self.optimizer.build(list(self.tuned.values()))
        self.step = tf.Variable(0, dtype=tf.int64)
        self.sums = tf.Variable(
            tf.zeros(3, tf.float64)
        )  # loss, accuracy, seconds, of this epoch
        self.history = tf.Variable(
            tf.zeros([FINE_TUNE_EPOCHS, len(common.HISTORY)], tf.float64)
        )

    def checkpoint(self) -> tf.train.Checkpoint:
        """Make a checkpoint of all that changes; the fixed weights would fill a quarter of a GB."""
        return tf.train.Checkpoint(
            tuned=self.tuned,
            optimizer=self.optimizer,
            step=self.step,
            sums=self.sums,
            history=self.history,
        )

    @tf.function(reduce_retracing=True)
    def train_step(self, pool4: tf.Tensor, labels: tf.Tensor) -> None:
        """Learn from one batch."""
        variables = list(self.tuned.values())
        with tf.GradientTape() as tape:
            _, logits = upper_part(self.network, pool4)
            loss = mean_loss(logits, labels)
        gradients = tape.gradient(loss, variables)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        right = tf.equal(tf.argmax(logits, axis=1, output_type=tf.int32), labels)
        share = tf.reduce_mean(tf.cast(right, tf.float32))
        self.sums.assign_add(tf.cast([loss, share, 0.0], tf.float64))
        self.step.assign_add(1)

    @tf.function(reduce_retracing=True)
    def infer(self, pool4: tf.Tensor) -> tf.Tensor:
        """Compute logits (N, 2) from both views (N, 2, 14, 14, 512)."""
        return (
            sum(upper_part(self.network, view)[1] for view in tf.unstack(pool4, axis=1))
            / 2
        )

    def predict(self, pool4: feature_cache.Features) -> np.ndarray:
        """Return logits (N, 2), batch by batch."""
        starts = range(0, len(pool4), EXTRACTION_BATCH)
        return np.concatenate(
            [self.infer(pool4[i : i + EXTRACTION_BATCH]) for i in starts]
        )


def mean_loss(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Return the cross-entropy of logits (N, 2) and labels (N,), averaged over the batch."""
    return tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    )


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of rows of logits (N, 2) whose largest entry is the label's."""
    return float(np.mean(logits.argmax(axis=-1) == labels))


def fine_tune(tuning: FineTuning, train, validation, args, manager) -> None:
    """Train from where the checkpoint left off. One view of each image is drawn in each epoch.

    Args:
        tuning: what is trained.
        train: outputs of pool4, (N, 2, 14, 14, 512), and labels, int32 (N,).
        validation: likewise.
        args: the parsed flags.
        manager: of the checkpoints.
    """
    (pool4, labels), count = train, len(train[1])
    steps = -(-count // FINE_TUNE_BATCH)
    print(common.EPOCH_HEADING)
    with common.ctrl_c() as stop_asked:
        for epoch in range(int(tuning.step) // steps, FINE_TUNE_EPOCHS):
            rng = np.random.default_rng([args.seed, epoch])
            order, views = rng.permutation(count), rng.integers(0, 2, count)
            before, started = tuning.sums[2].numpy(), time.perf_counter()
            done = int(tuning.step) % steps
            bar = tqdm(
                range(done, steps),
                f"epoch {epoch + 1}",
                steps,
                leave=False,
                initial=done,
            )
            for i in bar:
                rows = order[i * FINE_TUNE_BATCH : (i + 1) * FINE_TUNE_BATCH]
                tuning.train_step(
                    pool4[rows][np.arange(len(rows)), views[rows]], labels[rows]
                )
                tuning.sums[2].assign(before + time.perf_counter() - started)
                if stop_asked() and i + 1 < steps:  # a whole epoch is saved below
                    bar.close()
                    print("stopped; saved", common.shown(common.save(manager)))
                    raise KeyboardInterrupt
            logits = tuning.predict(validation[0])
            loss, right, seconds = tuning.sums.numpy() / (steps, steps, 1)
            quality = (
                float(mean_loss(logits, validation[1])),
                accuracy(logits, validation[1]),
            )
            row = [loss, right, *quality, seconds]
            common.report_epoch(epoch + 1, row)
            tuning.history[epoch].assign(row)
            tuning.sums.assign([0.0, 0.0, 0.0])
            common.save(manager)
            if stop_asked() and epoch + 1 < FINE_TUNE_EPOCHS:
                raise KeyboardInterrupt


# %% Where the network looks
# Grad-CAM (Selvaraju et al. 2017, section 3, https://arxiv.org/abs/1610.02391). Each of the 512
# channels of the last convolution is a map of 14 x 14 that says where the channel sees something.
# The gradient of a class's logit says how much the class depends on it. So the sum of the maps,
# each weighted with its mean gradient, is large where the network sees what speaks for the class.


@tf.function(reduce_retracing=True)
def grad_cam(network: vgg16.VGG16, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Map what speaks for the likeliest class in uint8 images (N, size, size, 3).

    Returns:
        Maps, float32 (N, 14, 14) from 0 to 1, and probabilities, float32 (N, 2).
    """
    pool4 = network.lower_blocks(vgg16.preprocess(images, network.config.image_size))
    with tf.GradientTape() as tape:
        conv5, logits = upper_part(network, pool4)
        score = tf.reduce_max(logits, axis=1)  # (N,)
    gradient = tape.gradient(score, conv5)  # (N, 14, 14, 512)
    weights = tf.reduce_mean(gradient, axis=[1, 2], keepdims=True)  # (N, 1, 1, 512)
    maps = tf.cast(tf.nn.relu(tf.reduce_sum(weights * conv5, axis=-1)), tf.float32)
    maps /= tf.reduce_max(maps, axis=[1, 2], keepdims=True) + 1e-9
    return maps, tf.nn.softmax(logits)


def plot_grad_cam(
    network: vgg16.VGG16, images: np.ndarray, path: Path, title: str, truth=()
):
    """Draw images beside where the network looks in them, with what it takes them for."""
    maps, probabilities = (tensor.numpy() for tensor in grad_cam(network, images))
    size = images.shape[1]
    maps = np.stack(
        [cv2.resize(heat, (size, size), interpolation=cv2.INTER_CUBIC) for heat in maps]
    )
    heat = common.plt.get_cmap("jet")(maps.clip(0, 1))[..., :3] * 255
    overlaid = (0.5 * images + 0.5 * heat).astype(np.uint8)
    captions = []
    for number, row in enumerate(probabilities):
        answer = f"{cats_dogs.CLASS_NAMES[row.argmax()]} {row.max():.0%}"
        captions += [f"is {truth[number]}" if len(truth) else "", answer]
    pairs = np.stack([images, overlaid], axis=1).reshape(-1, *images.shape[1:])
    return common.plot_images(pairs, path, title, captions, columns=min(8, len(pairs)))


# %% Pictures of one's own
# Kaggle's competition (https://www.kaggle.com/c/dogs-vs-cats-redux-kernels-edition) wants a table
# `id,label`: the number in a photograph's name, and the probability that it shows a dog.


def predict_pictures(args, folder: Path) -> dict:
    """Tell cats from dogs in the picture, or the folder of pictures, that --image names."""
    if not args.image.exists():
        raise common.UserError(
            f"there is no {args.image}: give a picture or a folder of pictures"
        )
    paths = [args.image]
    if args.image.is_dir():
        known = Image.registered_extensions()
        paths = [path for path in args.image.iterdir() if path.suffix.lower() in known]
        paths.sort(key=lambda path: (len(path.stem), path.stem))  # 2 comes before 10
    network = read_trained(args, folder)
    size = network.config.image_size

    @tf.function(reduce_retracing=True)
    def classify(images):
        return tf.nn.softmax(network(vgg16.preprocess(images, size)))

    names, rows, first = [], [], []
    batches = range(0, len(paths), EXTRACTION_BATCH)
    for start in tqdm(batches, "pictures", leave=False, delay=2):
        images = []
        for path in paths[start : start + EXTRACTION_BATCH]:
            try:
                images.append(squared(cats_dogs.read_picture(path), size))
                names.append(path.stem)
            except DataError as error:
                if not args.image.is_dir():
                    raise
                tqdm.write(f"left out: {error}")
        if images:
            rows += list(classify(np.stack(images)).numpy())
        first = [*first, *images][:PICTURES]
    if not rows:
        raise common.UserError(f"there is no picture that can be read in {args.image}")
    for name, row in list(zip(names, rows, strict=True))[:PICTURES]:
        print(f"{row.max():8.2%}  {cats_dogs.CLASS_NAMES[row.argmax()]}  {name}")
    if len(rows) > PICTURES:
        print(f"          and {len(rows) - PICTURES:,} more")
    table = folder / "predictions.csv"
    part = table.with_name(table.name + ".part")
    with part.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "label"])
        writer.writerows(
            [name, f"{row[1]:.6f}"] for name, row in zip(names, rows, strict=True)
        )
    os.replace(part, table)
    picture = folder / "predictions.png"
    plot_grad_cam(
        network, np.stack(first), picture, "Example 11: where the network looks"
    )
    for path in (table, picture):
        print("wrote", common.shown(path))
    return {"ids": names, "probabilities": np.stack(rows).tolist()}


# %% Run
# What training changes is a small part of the network: it goes into one file, with the checksum of
# the weights that it belongs to.


def read_network(args, dtype: tf.DType) -> tuple[vgg16.VGG16, dict]:
    """Return VGG16 as it was published, or its sample, and what names its weights."""
    path, config = common.vgg16_checkpoint(args)
    print(f"VGG16_{config.classes} from {common.shown(path)}")
    weights = vgg16.read_weights(path, config)
    fixed = {name: array for name, array in weights.items() if "/fc8/" not in name}
    network = vgg16.VGG16(weights, config, dtype, trained=(FINE_TUNED,))
    return network, vgg16.describe(fixed, dtype)


def write_trained(file: Path, network: vgg16.VGG16, digest: dict) -> None:
    """Write the weights that training has changed."""
    trained = {name: weight.numpy() for name, weight in tuned_weights(network).items()}
    part = file.with_suffix(".part.npz")
    np.savez(part, belongs_to=digest["weights_sha256"], **trained)
    os.replace(part, file)


def read_trained(args, folder: Path) -> vgg16.VGG16:
    """Return the network as the last run has left it.

    Raises:
        UserError: there is none, or it was trained from other weights.
    """
    file, again = folder / "trained.npz", f"run  python examples/{NAME}.py  first"
    if not file.is_file():
        raise common.UserError(f"no trained network in {common.shown(folder)}: {again}")
    network, digest = read_network(args, common.start(args.precision))
    try:
        with np.load(file, allow_pickle=False) as arrays:
            if str(arrays["belongs_to"]) != digest["weights_sha256"]:
                raise ValueError("it belongs to other weights of VGG16")
            for name in tuned_weights(network):
                network.weights[name] = tf.Variable(arrays[name])
    except Exception as error:  # NumPy raises a dozen kinds for a file that is damaged
        raise common.UserError(
            f"{common.shown(file)} does not fit: {error}; {again}"
        ) from error
    return network


def main(argv: list[str] | None = None) -> dict:
    """Train, evaluate, draw, and return the metrics; or tell what pictures show."""
    parser = common.make_parser(__doc__, EPOCHS, BATCH_SIZE, LEARNING_RATE)
    add = parser.add_argument
    add(
        "--small",
        action="store_true",
        help="download 3,000 photographs in place of 25,000",
    )
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
    add(
        "--fine-tune",
        action="store_true",
        help="train the last block, too; 0.4 MB on disk for a photograph",
    )
    add(
        "--restart",
        action="store_true",
        help="begin stage 2 anew, whatever checkpoints there are",
    )
    add(
        "--image",
        type=Path,
        metavar="PATH",
        help="picture, or folder of pictures, to classify",
    )
    args = parser.parse_args(argv)
    folder = args.models_dir / NAME
    if args.image:
        return predict_pictures(args, folder)
    dtype = common.start(args.precision)

    data = cats_dogs.load(args.data, args.data_dir, args.small)
    limits = (TRAIN_IMAGES, TEST_IMAGES) if args.data == "full" else (None, None)
    test_count = args.test_images or limits[1]
    train = data.train[: args.train_images or limits[0]]
    validation, test = data.validation[:test_count], data.test[:test_count]
    labels, validation_labels, test_labels = (
        np.array([photograph.label for photograph in chosen], np.int32)
        for chosen in (train, validation, test)
    )
    print(
        f"{data.name}, used: {len(train):,} training, {len(validation):,} validation and "
        f"{len(test):,} test images; {len(data.left_out):,} files left out"
    )
    network, digest = read_network(args, dtype)
    parameters = sum(int(tf.size(weight)) for weight in network.weights.values())

    def outputs(layer):
        parts = (train, "training"), (validation, "validation"), (test, "test")
        more = network, digest, data
        return [
            fixed_outputs(layer, *more, *part, folder / "features") for part in parts
        ]

    features, validation_features, test_features = (part[:] for part in outputs("fc7"))
    started = time.perf_counter()
    kernel, bias, history = train_top(
        (features, labels), (validation_features, validation_labels), args
    )
    seconds = time.perf_counter() - started
    network.replace_top(kernel, bias)
    logits = test_features.mean(axis=1, dtype=np.float32) @ kernel + bias
    top_accuracy = accuracy(logits, test_labels)
    print(
        f"stage 1, the top layer alone, on stored features: test accuracy {top_accuracy:.4f}"
    )

    settings = common.run_settings(args, dtype, "fine_tune")
    checkpoints = []
    if args.fine_tune:
        pool4, validation_pool4, test_pool4 = outputs("pool4")
        tuning = FineTuning(
            network, -(-len(train) // FINE_TUNE_BATCH) * FINE_TUNE_EPOCHS
        )
        run = (
            settings
            | digest
            | {"photographs": [data.checksum(photograph) for photograph in train]}
        )
        checkpoints = [folder / "checkpoints" / common.fingerprint(run, __file__)]
        manager = common.open_checkpoints(
            tuning.checkpoint(), checkpoints[0], args.restart
        )
        if manager.latest_checkpoint:
            print(
                f"going on after step {int(tuning.step)}, from {common.shown(checkpoints[0])}"
            )
        print(f"stage 2: {FINE_TUNED} learns, too")
        fine_tune(
            tuning,
            (pool4, labels),
            (validation_pool4, validation_labels),
            args,
            manager,
        )
        history = common.as_history(tuning.history)
        seconds += sum(history["seconds"])
        logits = tuning.predict(test_pool4)
    write_trained(folder / "trained.npz", network, digest)

    probabilities, names = tf.nn.softmax(logits).numpy(), cats_dogs.CLASS_NAMES
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != test_labels)
    size, title = network.config.image_size, f"Example 11, {data.name}"
    mistakes = read_all(data, [test[i] for i in wrong], size)
    first, truth = (
        read_all(data, test[:PICTURES], size),
        [names[i] for i in test_labels[:PICTURES]],
    )
    files = [
        common.plot_learning_curves(history, folder / "learning_curves.png", title),
        common.plot_confusion_matrix(
            test_labels,
            probabilities.argmax(axis=1),
            names,
            folder / "confusion_matrix.png",
            title,
        ),
        common.plot_worst_mistakes(
            mistakes,
            test_labels[wrong],
            probabilities[wrong],
            names,
            folder / "worst_mistakes.png",
            title,
        ),
        plot_grad_cam(
            network, first, folder / "grad_cam.png", f"{title}: Grad-CAM", truth
        ),
        folder / "trained.npz",
        *checkpoints,
    ]
    metrics = settings | {
        "data": data.name,
        "train_images": len(train),
        "test_images": len(test),
        "left_out": len(data.left_out),
        "test_accuracy": accuracy(logits, test_labels),
        "test_accuracy_of_top_layer": top_accuracy,
        "train_seconds": round(seconds, 1),
        "parameters": parameters,
        "history": history,
    }
    return common.finish(folder, metrics, files, args, argv, __file__)


# %% What to try next
# * --train-images 100, with and without --fine-tune: how few photographs are enough? Example 10 has
#   seen as many as there are, and nothing else.
# * FINE_TUNE_RATE = 1e-3: what becomes of the accuracy in the first steps, and why?
# * Look at worst_mistakes.png and grad_cam.png: does the network look at the animal?
# * Kaggle scores the table by its log loss, where one answer that is certain and wrong costs more
#   than many good ones gain. Clip the probabilities to 0.005 ... 0.995: why does it help?

if __name__ == "__main__":
    common.run(main)
