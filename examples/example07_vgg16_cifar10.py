"""Example 07: transfer learning, VGG16 from ImageNet's thousand classes to ten others.

You will learn how to take over a neural network that others have trained: read its
checkpoint, rebuild it, check that it works, and give it a new top layer for a task of
your own. All layers below the top one stay as they are, so what they make of an image
is computed once and kept on disk.

    python examples/example07_vgg16_cifar10.py --data sample     # offline
    python examples/example07_vgg16_cifar10.py --weights blocks  # convolutions, 59 MB
    python examples/example07_vgg16_cifar10.py                   # all of VGG16, 513 MB
    python examples/example07_vgg16_cifar10.py --train-images 50000 --test-images 10000

The network is K. Simonyan's and A. Zisserman's (2014, https://arxiv.org/abs/1409.1556).
That features from ImageNet serve other tasks was shown by J. Donahue et al. (2013,
https://arxiv.org/abs/1310.1531).
docs/results.md has the measured results. Before this one: example 06, a network trained
on CIFAR-10 alone. After it: example 08, what becomes of a network that is trained.
"""

import gc
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `datasets` is ours
from examples.helpers import cli, device, report  # isort: skip  # before TensorFlow
import matplotlib
import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from datasets import cifar10, drawings, pictures, pretrained
from examples.helpers.run import Run
from models import vgg16, vgg16_files
from models.fine_tuning import BATCH, TUNED, FineTuning, fixed_outputs
from models.sample_vgg16 import checkpoint
from models.top_layer import train_top
from models.training import accuracy, count_parameters, predict, scores

NAME = Path(__file__).stem
TRAIN_IMAGES = {"full": 3000, "sample": 5000}  # of the full data: with the test
TEST_IMAGES = 1000  # images, six minutes on two cores in bfloat16
VALIDATION_SHARE = 10  # one in so many training images is held back to choose by
EPOCHS, BATCH_SIZE, LEARNING_RATE = 30, 128, 1e-3  # of the top layer
FINE_TUNE_EPOCHS, FINE_TUNE_BATCH = 4, 50
FINE_TUNE_RATE = 1e-4  # at the start; it falls to zero along a line
# What the convolutions alone are given and give, chosen on validation images (note 10)
BLOCKS_SIZE = 128  # pixels; an image of 32 x 32 has no more to show at 224
POOLING = ("quarters4", "mean5")

# %% 1 and 2. Download the checkpoint, reconstruct the network
# vgg_16.ckpt is the original authors' network, converted for TF-slim in 2016. It is a
# checkpoint in the oldest format, V1, which TensorFlow 2 still reads. With
# `--data sample` there is one of the same layout, of a VGG16 with an eighth of the
# width. It has learned, here and in half a minute, to tell 20 kinds of drawn objects
# apart; the ten kinds of the task are not among them.
#
# `--weights blocks` takes the thirteen convolutions without the three dense layers,
# which Keras publishes as a file of its own, a ninth as large.
#
# The checkpoint holds numbers, not layers. The layers are in models/vgg16.py, the other
# half of this example: read it now. Each weight is checked for its name, shape, dtype.

# %% 3. Check it on a photograph
# If a single weight were in the wrong place, or the colours in the wrong order, the
# network would still answer, but nonsense. A photograph of something that it knows
# shows that it sees. The convolutions alone name nothing: they are put to the test in
# step 6.


def check_on_picture(network: vgg16.VGG16, path: Path | None, names, folder) -> None:
    """Print the likeliest classes for a picture; by default one that it must know."""
    size, classes = network.config.image_size, network.config.classes
    if path is None and classes < vgg16.Config().classes:
        (image,), _ = drawings.drawn_objects(drawings.OTHER_KINDS[:1], 1, size, seed=8)
        title = f"a drawn {drawings.OTHER_KINDS[0]}"
    else:
        path = path or Path(matplotlib.get_data_path(), "sample_data/grace_hopper.jpg")
        picture = Image.fromarray(pictures.read_picture(path))
        image, title = np.asarray(ImageOps.fit(picture, (size, size))), path.name
    print(f"   what VGG16_{classes} sees in {title}:")
    logits = network(vgg16.preprocess(image[None], size))
    probabilities = tf.nn.softmax(logits[0]).numpy()
    report.show_answer(image, probabilities, names, folder)


# %% 4. Save the model
# A checkpoint holds the weights alone. A SavedModel holds the computation as well, from
# uint8 images of any size to probabilities, or features, and needs none of our code.


def save_model(network: vgg16.VGG16, folder: Path) -> list[Path]:
    """Write a checkpoint and a SavedModel to a folder, and return where they are."""
    images = tf.TensorSpec([None, None, None, 3], tf.uint8, "images")

    @tf.function(input_signature=[images])
    def serve(images):
        inputs = vgg16.preprocess(images, network.config.image_size)
        if network.config.classes:
            return {"probabilities": tf.nn.softmax(network(inputs))}
        return {"features": network.features(inputs)}

    with cli.replacing(folder) as part:
        prefix = str(part / "checkpoint" / "vgg_16")
        tf.train.Checkpoint(network=network).write(prefix)
        tf.saved_model.save(network, str(part / "saved_model"), serve)
    return [folder / "checkpoint", folder / "saved_model"]


def rebuild(path: Path, picture: Path | None, data_dir: Path, folder: Path):
    """Do steps 2 to 4, in float32; return weights, sizes, and where the model is."""
    weights = vgg16_files.read(path)
    config = vgg16.Config.of(weights, BLOCKS_SIZE, POOLING)
    print(f"2. VGG16_{config.classes or 'blocks'} from {cli.shown(path)}")
    network = vgg16.VGG16(weights, config)
    print(f"   {len(weights)} weights, {count_parameters(network):,} parameters")
    if config.classes:
        print("3. check")
        names = pretrained.class_names(config.classes, data_dir)
        check_on_picture(network, picture, names, folder)
    else:
        print("3. the convolutions alone name nothing: step 6 is their test")
    print("4. save")
    files = save_model(network, folder / f"vgg16_{config.classes or 'blocks'}")
    return weights, config, files


# %% 5. Transfer: a new top layer on fixed features
# The five blocks, fc6 and fc7 are fixed, so an image's 4096 features never change.
# VGG16 costs 31 thousand million operations an image; the top layer 82 thousand.
# Computed once and kept on disk (models/feature_cache.py), features make an epoch take
# less than a second.
#
# Without fc6 and fc7, an image's 2560 features are the means of block 5's 512 channels
# over the image, and of block 4's over each quarter of it: how much there is of what
# each channel looks for, and roughly where. No layer wants images of a certain size any
# more, and smaller ones cost less: a third, at 128 x 128. All else stays as it is.
#
# The top layer is a softmax regression, $\mathrm{softmax}(xW + b)$: in Keras a dense
# layer, whose training is called `fit` (example 04). It is in models/top_layer.py, all
# of it in 20 lines. Three things help it on few images:
#
# * Some features are a hundred times as large as others. Each is brought to mean 0 and
#   variance 1, so that one learning rate is right for all. In the end the scaling moves
#   into $W$ and $b$, and the layer takes features as they are.
# * Dropout sets half of the features to zero, others in every step, so that no answer
#   hangs on a few (N. Srivastava et al. 2014, https://jmlr.org/papers/v15/).
# * AdamW draws weights to zero (I. Loshchilov, F. Hutter 2019,
#   https://arxiv.org/abs/1711.05101).
#
# Of all epochs, the one with the lowest validation loss is kept.


def choose(data, count: int, tested: int) -> tuple:
    """Return images to train on, to choose by and to test on; and their labels."""
    held_back = count // VALIDATION_SHARE
    if held_back < 2:
        raise cli.UserError(f"--train-images {count} is too few")
    a, b, c = limits = count - held_back, held_back, tested
    print(f"{data.name}: {limits} images to train on, to choose by, and to test on")
    images = data.train_images[:a], data.validation_images[:b], data.test_images[:c]
    labels = data.train_labels[:a], data.validation_labels[:b], data.test_labels[:c]
    return images, labels


def transfer(weights, config, dtype, folder, images, labels, training, tunes) -> tuple:
    """Train a top layer for these weights on images to train on and to choose by.

    Returns the network with it, block 4's outputs if it `tunes`, and the metrics.
    """
    gc.collect()  # earlier networks and what is compiled of them, which hold each other
    network = vgg16.VGG16(weights, config, dtype, trained=(TUNED,))
    source = vgg16.feature_source(weights, config, dtype)
    more = network, source, lambda some: [some], images, folder / "features", tunes
    features, pool4 = fixed_outputs(*more)
    train, validation, test = (part[:][:, 0] for part in features)
    began, pairs = time.perf_counter(), ((train, labels[0]), (validation, labels[1]))
    kernel, bias, history = train_top(*pairs, *training)
    results = {"train_seconds": round(time.perf_counter() - began, 1)}
    if not np.isfinite(history["loss"] + history["validation_loss"]).all():
        raise cli.UserError("the loss is not finite: use a smaller --learning-rate")
    network.replace_top(kernel, bias)
    correct = float(accuracy(test.astype(np.float32) @ kernel + bias, labels[2]))
    print(f"   the top layer alone, on stored features: test accuracy {correct:.4f}")
    results |= {"test_accuracy_of_top_layer": correct, "history": history}
    return network, pool4, results | {"parameters": count_parameters(network)}


# %% Fine-tuning
# With --fine-tune block 5 goes on learning, from where ImageNet has left it; example 11
# explains how, and why only behind a top layer that has learned.


def fine_tune(network, pool4, labels, folder: Path, settings: dict, restart) -> dict:
    """Train block 5 from where it was left; return how it went."""
    count, steps = len(labels[0]), -(-len(labels[0]) // FINE_TUNE_BATCH)
    tuning = FineTuning(network, FINE_TUNE_RATE, FINE_TUNE_EPOCHS * steps)
    more = FINE_TUNE_EPOCHS, steps, restart
    run = Run(folder, settings, __file__, *more, **tuning.changing)
    for epoch in run:
        order = np.random.default_rng([settings["seed"], epoch]).permutation(count)
        for step in run.steps():
            rows = order[step * FINE_TUNE_BATCH : (step + 1) * FINE_TUNE_BATCH]
            run.record(tuning.train_step(pool4[0][rows][:, 0], labels[0][rows]))
        run.validate(scores(predict(tuning.infer, pool4[1], BATCH), labels[1]))
    return run.metrics(FINE_TUNE_BATCH)


# %% VGG16_10
# The network is whole again, from an image to ten logits. Tested from end to end, it is
# as good as on what is stored, and better with the mean of the logits of an image and
# of its mirror image, as in example 06.


def test_whole(network: vgg16.VGG16, images: np.ndarray) -> tuple[np.ndarray, float]:
    """Return logits (2, N, 10) of images and their mirror images; images a second."""

    @tf.function(reduce_retracing=True)
    def infer(images):  # resized here: CIFAR-10 at 224 x 224 would need 36 GB
        return network(vgg16.preprocess(images, network.config.image_size))

    images, began = np.concatenate([images, images[:, :, ::-1]]), time.perf_counter()
    logits = predict(infer, images, BATCH)
    speed = round(len(images) / (time.perf_counter() - began), 1)
    return logits.reshape(2, -1, logits.shape[1]), speed


# %% Flags
# Five flags are this example's own; `make_parser` adds those that all examples share.


def parse(argv: list[str] | None):
    """Return the flags."""
    parser = cli.make_parser(__doc__, EPOCHS, BATCH_SIZE, LEARNING_RATE)
    add = parser.add_argument
    add("--test-images", type=cli.positive_int, default=TEST_IMAGES, metavar="N")
    add("--weights", default="full", metavar="full|blocks|PATH", help="VGG16's")
    add("--fine-tune", action="store_true", help="block 5, too; 65 kB on disk an image")
    add("--image", type=Path, metavar="PATH", help="picture to check VGG16_1000 on")
    add("--no-baseline", action="store_true", help="leave out the untrained network")
    args = parser.parse_args(argv)
    args.train_images = args.train_images or TRAIN_IMAGES[args.data]
    return args


# %% 6. Run, and compare with a network that has never seen an image
# Is it what VGG16 has learned that helps, or would an untrained one do as well?


def main(argv: list[str] | None = None) -> dict:
    """Go through the six steps and return the metrics."""
    args = parse(argv)
    dtype, folder = device.start(args.precision), args.models_dir / NAME
    data = cifar10.load(args.data, args.data_dir)
    images, labels = choose(data, args.train_images, args.test_images)
    print("1. weights")
    path = pretrained.find_vgg16(args.weights, args.data, args.data_dir, checkpoint)
    weights, config, files = rebuild(path, args.image, args.data_dir, folder)
    print("5. transfer")
    fit = args.epochs, args.batch_size, args.learning_rate, args.seed
    more = config, dtype, folder, images, labels, (len(data.class_names), *fit)
    network, pool4, results = transfer(weights, *more, args.fine_tune)
    settings = cli.settings(args, dtype, but=["no_baseline", "weights", "test_images"])
    if args.fine_tune:
        own = settings | vgg16.feature_source(weights, config, dtype)
        tuned = fine_tune(network, pool4, labels, folder, own, args.restart)
        tuned["train_seconds"] += results["train_seconds"]
        results |= tuned
    views, speed = test_whole(network, images[2])
    logits, changed = views.mean(axis=0), network.weights_of([TUNED, "fc8"])
    files.append(folder / "vgg16_10.npz")
    with cli.replacing(files[-1]) as part:
        np.savez(part, **{name: weight.numpy() for name, weight in changed.items()})
    if not args.no_baseline:
        print("6. compare with an untrained VGG16")
        del network, weights  # half a gigabyte each
        weights = vgg16.random_weights(config, args.seed)
        *_, untrained = transfer(weights, *more, False)
        results["test_accuracy_untrained"] = untrained["test_accuracy_of_top_layer"]
    metrics = settings | results | {"data": data.name, "weights": cli.shown(path)}
    metrics |= {
        "test_accuracy": float(accuracy(logits, labels[2])),
        "test_accuracy_from_one_view": float(accuracy(views[0], labels[2])),
        "test_images": len(labels[2]),
        "images_per_second": speed,
    }
    answers = images[2], labels[2], tf.nn.softmax(logits).numpy(), data.class_names
    files += report.plot_results(folder, NAME, results["history"], *answers)
    return report.finish(folder, metrics, files, argv, args.min_accuracy)


# %% What to try next
# * `--train-images 500`: how few images are enough? How many does example 06 need?
# * `--image` a photograph of your own.
# * Use fc6's outputs in place of fc7's (`VGG16.features`): are they better for
#   drawings?

if __name__ == "__main__":
    cli.run(main)
