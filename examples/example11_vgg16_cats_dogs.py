"""Example 11: transfer learning, VGG16 from ImageNet's thousand classes to two.

You will learn what one does with a task of one's own and few photographs: take over a
network as in example 07, then, as the second stage, let its last block of convolutions
learn, too. You will see where in a photograph the network looks, and get its answers
for your own photographs as a table.

    python examples/example11_vgg16_cats_dogs.py --data sample --fine-tune  # offline
    python examples/example11_vgg16_cats_dogs.py --small --weights blocks   # 128 MB
    python examples/example11_vgg16_cats_dogs.py --photos PATH  # classes of your own
    python examples/example11_vgg16_cats_dogs.py --image PATH   # a file or a folder

Fixed features first, then fine-tuning with a low learning rate, is common practice
(https://keras.io/guides/transfer_learning/). Before this one: example 10, the same
photographs and a network from scratch. After it: example 12, a network's weights in a
file that everyone can read. docs/results.md has the measured results.
"""

import csv
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `datasets` is ours
from examples.helpers import cli, device, report  # isort: skip  # before TensorFlow
import cv2
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from datasets import cats_dogs, pretrained
from datasets.photographs import Photographs, read_photographs
from datasets.pictures import read_pictures
from examples.helpers.run import Run
from models import sample_vgg16, vgg16, vgg16_files
from models.fine_tuning import BATCH, TUNED, FineTuning, fixed_outputs
from models.top_layer import train_top
from models.training import accuracy, count_parameters, predict, scores

NAME = Path(__file__).stem
TRAIN_IMAGES, TEST_IMAGES = 2000, 1000  # some minutes on two cores in bfloat16
EPOCHS, BATCH_SIZE, LEARNING_RATE = 30, 128, 1e-3  # of stage 1, the top layer
POOLING = ("max5",)  # features where there is no fc7, chosen on validation images
FINE_TUNE_EPOCHS, FINE_TUNE_BATCH = 3, 32
FINE_TUNE_RATE = 2e-5  # at the start; it falls to zero along a line
PICTURES = 16  # for which Grad-CAM is drawn

# %% Data
# VGG16 sees squares of 224 x 224 pixels. Each photograph is brought to this form: a cat
# that is a little squeezed is still a cat, while one whose ears are cut off is harder.


def choose(data: Photographs, count: int, tested: int) -> tuple:
    """Return photographs to train on, to choose by and to test on, and their labels."""
    parts = data.train[:count], data.validation[:tested], data.test[:tested]
    labels = [np.array([p.label for p in part], np.int32) for part in parts]
    print(data.summary(len(parts[0])))
    counts = {"train_images": len(parts[0]), "test_images": len(parts[2])}
    return parts, labels, counts | {"data": data.name, "left_out": len(data.left_out)}


# %% Model
# VGG16 comes from where example 07 has it from. In stage 1, all but the top layer is
# fixed. In stage 2, the last block of convolutions learns, too, so that blocks 1 to 4
# are fixed, which are nine tenths of the work. What the fixed part makes of an image is
# computed once and kept on disk (`fixed_outputs` in models/fine_tuning.py), here for
# two views of each image: as it is, and mirrored. A cat that looks to the left may as
# well look to the right, so there is twice as much to learn from; in a test, the mean
# of both logits counts.
#
# With `--weights blocks` there is no fc7. Then a photograph's features are the largest
# value that each of the last convolution's 512 channels has anywhere in it: whether
# something is there, not where.


def remember(network, source, data: Photographs, parts, folder: Path, pool4: bool):
    """Return features and, if asked for, pool4 of two views of the parts' photographs.

    Both are lists of one (N, 2, ...) for each part.
    """

    def views(some):
        images = read_photographs(data, some, network.config.image_size)
        return [images, images[:, :, ::-1]]

    source = source | {"views": "squares, as they are and mirrored"}
    more = folder / "features", pool4, data.identify
    return fixed_outputs(network, source, views, parts, *more)


# %% Stage 1: a new top layer
# The top layer is the softmax regression on features that example 07 explains, on both
# views of each photograph. The epoch with the lowest validation loss is kept.
# Afterwards the layer becomes part of the network, so that from here on there is one
# network from an image to its classes, whichever of the stages were gone through.


def replace_top(network: vgg16.VGG16, features, labels, *training) -> tuple:
    """Train a new top layer on the features of three parts, (N, 2, F) each.

    Returns the test images' logits (N, C), the history by epoch, the test accuracy.
    """
    train, validation, test = (x[:] for x in features)
    views = (
        (x.reshape(-1, x.shape[-1]), np.repeat(y, 2))
        for x, y in ((train, labels[0]), (validation, labels[1]))
    )
    kernel, bias, history = train_top(*views, *training)
    if not np.isfinite(history["loss"] + history["validation_loss"]).all():
        raise cli.UserError("the loss is not finite: use a smaller --learning-rate")
    network.replace_top(kernel, bias)
    logits = test.mean(axis=1, dtype=np.float32) @ kernel + bias
    top_accuracy = float(accuracy(logits, labels[2]))
    print(f"stage 1, on stored features: test accuracy {top_accuracy:.4f}")
    return logits, history, top_accuracy


# %% Stage 2: fine-tuning
# The last block has learned to see what tells a thousand classes apart. A small
# learning rate, so that it forgets little of that, turns it to what tells two apart. It
# can only come after stage 1: the gradients of a top layer that knows nothing would
# destroy what the block knows. That layer stays. `FineTuning` takes the steps (see
# models/fine_tuning.py): Adam, whose rate falls to zero, so that the last one counts.


def fine_tune(network, pool4, labels, folder: Path, settings, restart):
    """Train from where it was left, on one view at a time; return logits, history."""
    count, steps = len(labels[0]), -(-len(labels[0]) // FINE_TUNE_BATCH)
    tuning = FineTuning(network, FINE_TUNE_RATE, FINE_TUNE_EPOCHS * steps)
    more = FINE_TUNE_EPOCHS, steps, restart
    run = Run(folder, settings, __file__, *more, **tuning.changing)
    for epoch in run:
        rng = np.random.default_rng([settings["seed"], epoch])
        order, views = rng.permutation(count), rng.integers(0, 2, count)
        for step in run.steps():
            rows = order[step * FINE_TUNE_BATCH : (step + 1) * FINE_TUNE_BATCH]
            images = pool4[0][rows][np.arange(len(rows)), views[rows]]
            run.record(tuning.train_step(images, labels[0][rows]))
        logits = predict(tuning.infer, pool4[1], BATCH)
        run.validate(scores(logits, labels[1]))
    history = run.metrics(FINE_TUNE_BATCH)["history"]
    return predict(tuning.infer, pool4[2], BATCH), history


# %% Where the network looks
# Grad-CAM (R. R. Selvaraju et al. 2017, section 3, https://arxiv.org/abs/1610.02391).
# Each of the 512 channels of the last convolution is a map of 14 x 14 that says where
# the channel sees something. The gradient of a class's logit says how much the class
# depends on it. So the sum of the maps, each weighted with its mean gradient, is large
# where the network sees what speaks for the class. A ReLU leaves out what speaks
# against it. In the picture, the sum is enlarged to the image and laid over it, from
# blue, where nothing speaks for the class, to red.


@tf.function(reduce_retracing=True)
def grad_cam(network: vgg16.VGG16, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Map what speaks for the likeliest class in uint8 images (N, size, size, 3).

    Returns maps, float32 (N, 14, 14) from 0 to 1, and probabilities, float32 (N, C).
    """
    pool4 = network.lower_blocks(vgg16.preprocess(images, network.config.image_size))
    with tf.GradientTape() as tape:
        conv5, logits = network.upper_layers(pool4)
        score = tf.reduce_max(logits, axis=1)  # (N,)
    gradient = tape.gradient(score, conv5)  # (N, 14, 14, 512)
    weights = tf.reduce_mean(gradient, axis=[1, 2], keepdims=True)  # (N, 1, 1, 512)
    maps = tf.cast(tf.nn.relu(tf.reduce_sum(weights * conv5, axis=-1)), tf.float32)
    maps /= tf.reduce_max(maps, axis=[1, 2], keepdims=True) + 1e-9
    return maps, tf.nn.softmax(logits)


def plot_grad_cam(network, images, names, path: Path, truth=()) -> Path:
    """Draw images beside where the network looks in them, with what it sees there."""
    maps, probabilities = (tensor.numpy() for tensor in grad_cam(network, images))
    pictures, captions = [], []
    for i, (image, row) in enumerate(zip(images, probabilities, strict=True)):
        heat = plt.get_cmap("jet")(cv2.resize(maps[i], image.shape[:2]).clip(0, 1))
        pictures += [image, (image / 2 + heat[..., :3] * 127).astype(np.uint8)]
        captions.append(f"is {names[truth[i]]}" if len(truth) else "")
        captions.append(f"{names[row.argmax()]} {row.max():.0%}")
    title, columns = "Example 11: where the network looks", min(4, len(pictures))
    return report.plot_images(pictures, path, title, captions, columns, 3.65 / columns)


# %% Pictures of one's own
# Kaggle's competition (https://www.kaggle.com/c/dogs-vs-cats-redux-kernels-edition)
# wants a table `id,label`: a picture's number, and the probability of the second class,
# a dog. With more than two classes, each has a column. The pictures come one by one,
# so that a folder may hold more of them than memory does.


def answer_pictures(path: Path, trained: Path, weights: str, dtype) -> dict:
    """Tell the class of a picture, or of all pictures of a folder."""
    base = None if weights in ("full", "blocks") else Path(weights)  # None: as trained
    network, classes = vgg16_files.read_with_part(trained, base, dtype)
    size, names, rows, first = network.config.image_size, [], [], []
    infer = tf.function(lambda x: tf.nn.softmax(network(vgg16.preprocess(x, size))))
    for name, image in read_pictures(path, size):
        names.append(name)
        rows.append(infer(image[None])[0].numpy())
        first += [image] if len(first) < PICTURES else []
    for name, row in zip(names[:PICTURES], rows, strict=False):
        print(f"{row.max():8.2%}  {classes[row.argmax()]}  {name}")
    two = len(classes) == 2
    table, page = (trained.with_name(f"predictions.{kind}") for kind in ("csv", "png"))
    with cli.replacing(table) as part, part.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", *(["label"] if two else classes)])
        for name, row in zip(names, rows, strict=True):
            writer.writerow([name, *(f"{p:.6f}" for p in (row[1:] if two else row))])
    plot_grad_cam(network, np.array(first), classes, page)
    print(f"wrote {cli.shown(table)}, {len(rows):,} pictures\nwrote {cli.shown(page)}")
    return {"ids": names, "probabilities": np.array(rows).tolist()}


# %% Flags
# Besides those that all examples share, these say whose photographs are learned from,
# whose weights, and how far training goes. Fine-tuning has to be asked for, since it
# takes time and much of the disk: what block 4 puts out is computed once and kept.


def parse(argv: list[str] | None):
    """Return the flags."""
    parser = cli.make_parser(__doc__, EPOCHS, BATCH_SIZE, LEARNING_RATE)
    add = parser.add_argument
    add("--small", action="store_true", help="download 3,000 photographs, not 25,000")
    add("--photos", type=Path, metavar="PATH", help="your own: a folder of folders")
    add("--test-images", type=cli.positive_int, default=TEST_IMAGES, metavar="N")
    add("--weights", default="full", metavar="full|blocks|PATH", help="VGG16's")
    add("--fine-tune", action="store_true", help="stage 2; 0.4 MB on disk a photograph")
    add("--image", type=Path, metavar="PATH", help="picture, or folder, to classify")
    parser.set_defaults(train_images=TRAIN_IMAGES)
    return parser.parse_args(argv)


# %% Run
# Photographs are chosen, what the fixed layers make of them is computed or found on
# disk, and the two stages follow. Only what has learned is written, the last block and
# the top layer: the rest is in VGG16's own file, and both are put together again where
# a picture is to be classified.


def main(argv: list[str] | None = None) -> dict:
    """Train, evaluate, draw, and return the metrics; or tell what pictures show."""
    args = parse(argv)
    dtype, folder = device.start(args.precision), args.models_dir / NAME
    trained = folder / "trained.npz"  # what training changes, and of which weights
    if args.image:
        return answer_pictures(args.image, trained, args.weights, dtype)
    data = cats_dogs.load(args.data, args.data_dir, args.small, args.photos)
    parts, labels, metrics = choose(data, args.train_images, args.test_images)
    sample = sample_vgg16.checkpoint
    path = pretrained.find_vgg16(args.weights, args.data, args.data_dir, sample)
    network, source = vgg16_files.load(path, dtype, (TUNED,), pooling=POOLING)
    features, pool4 = remember(network, source, data, parts, folder, args.fine_tune)
    began = time.perf_counter()
    names, page = data.class_names, folder / "grad_cam.png"
    fit = len(names), args.epochs, args.batch_size, args.learning_rate, args.seed
    logits, history, top_accuracy = replace_top(network, features, labels, *fit)
    seconds = time.perf_counter() - began
    settings = cli.settings(args, dtype, but=["data", "weights", "small", "photos"])
    if args.fine_tune:
        own = settings | source | {"photographs": [data.checksum(p) for p in parts[0]]}
        logits, history = fine_tune(network, pool4, labels, folder, own, args.restart)
        seconds += sum(history["seconds"])
    vgg16_files.write_part(trained, network, [TUNED, "fc8"], path, source, names)
    images = read_photographs(data, parts[2], network.config.image_size)
    answers = images, labels[2], tf.nn.softmax(logits).numpy(), names
    files = report.plot_results(folder, f"Example 11, {data.name}", history, *answers)
    some = network, images[:PICTURES]
    files += [trained, plot_grad_cam(*some, names, page, labels[2])]
    metrics |= settings | {
        "weights": cli.shown(path),
        "test_accuracy_of_top_layer": top_accuracy,
        "test_accuracy": float(accuracy(logits, labels[2])),
        "train_seconds": round(seconds, 1),
        "images_per_second": round(len(labels[0]) * len(history["loss"]) / seconds),
        "parameters": count_parameters(network),
        "history": history,
    }
    return report.finish(folder, metrics, files, argv, args.min_accuracy)


# %% What to try next
# * `--train-images 100`, with and without `--fine-tune`: how few are enough?
# * `FINE_TUNE_RATE = 1e-3`: what becomes of the accuracy in the first steps, and why?
# * Look at worst_mistakes.png and grad_cam.png: does the network look at the animal?
# * Kaggle scores the table by log loss: why does it help to clip at 0.005 and 0.995?

if __name__ == "__main__":
    cli.run(main)
