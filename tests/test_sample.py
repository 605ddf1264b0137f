"""Checks datasets/sample.py: that the sample data is deterministic, made whole or not at all, made
like MNIST, and that the drawn objects need a convolutional network: pixels alone do not do.
"""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from datasets import cifar10, mnist, sample  # noqa: E402
from datasets.download import DataError  # noqa: E402

MAKERS = [sample.make_mnist, sample.make_cifar10, sample.make_cats_dogs]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def objects(data_dir):
    return cifar10.load("sample", data_dir)


@pytest.fixture(scope="module")
def digits(data_dir):
    return mnist.load("sample", data_dir)


def flat(images):
    return images.reshape(len(images), -1) / np.float32(255) - np.float32(0.5)


# --- Files ----------------------------------------------------------------------------------------


def in_a_process(code, *args):
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + textwrap.dedent(code)
    return subprocess.Popen([sys.executable, "-c", script, *map(str, args)])


MAKE = """
    from pathlib import Path
    from datasets import sample
    getattr(sample, sys.argv[1])(Path(sys.argv[2]))
"""
KILL_AT_THE_LAST_FILE = """
    import os, signal
    from pathlib import Path
    from datasets import sample
    write, written = Path.write_bytes, []

    def write_bytes(path, content):
        written.append(path)
        if len(written) == int(sys.argv[3]):
            write(path, content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return write(path, content)

    Path.write_bytes = write_bytes
    getattr(sample, sys.argv[1])(Path(sys.argv[2]))
"""


@pytest.mark.parametrize("make", MAKERS)
def test_another_process_makes_the_same_bytes(data_dir, tmp_path, make):
    assert in_a_process(MAKE, make.__name__, tmp_path).wait() == 0
    assert contents(make(tmp_path)) == contents(make(data_dir))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
@pytest.mark.parametrize("make", MAKERS)
def test_a_killed_run_is_followed_by_one_that_completes(data_dir, tmp_path, make):
    whole = contents(make(data_dir))
    last = len(whole) - 1  # behind it comes only the mark that all are there
    process = in_a_process(KILL_AT_THE_LAST_FILE, make.__name__, tmp_path, last)
    assert process.wait() == -signal.SIGKILL
    assert contents(make(tmp_path)) == whole


def test_two_processes_at_once_do_no_harm(data_dir, tmp_path):
    processes = [in_a_process(MAKE, "make_cifar10", tmp_path) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    folder = sample.make_cifar10(tmp_path)
    assert contents(folder) == contents(sample.make_cifar10(data_dir))


@pytest.mark.parametrize("make", MAKERS)
def test_what_is_there_is_not_made_again(data_dir, make):
    folder = make(data_dir)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert make(data_dir) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_missing_files_and_those_of_another_edition_are_made_again(data_dir, tmp_path):
    good = contents(sample.make_cifar10(data_dir))
    folder = sample.make_cifar10(tmp_path)
    (folder / "data_batch_2.bin").unlink()
    assert contents(sample.make_cifar10(tmp_path)) == good
    (folder / "made_by.txt").write_text("an older edition")
    (folder / "data_batch_1.bin").write_bytes(b"older")
    assert contents(sample.make_cifar10(tmp_path)) == good


@pytest.mark.parametrize("make", MAKERS)
def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path, make):
    (tmp_path / "sample").write_text("a file in the place of the folder")
    with pytest.raises(DataError, match="cannot write sample data to") as error:
        make(tmp_path)
    assert str(tmp_path / "sample") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_a_read_only_folder_with_whole_data_is_good_enough(tmp_path):
    folder = sample.make_cifar10(tmp_path)
    for path in (folder, folder.parent):
        path.chmod(0o500)
    try:
        assert sample.make_cifar10(tmp_path) == folder
    finally:
        for path in (folder, folder.parent):
            path.chmod(0o700)


# --- Digits ---------------------------------------------------------------------------------------


def test_digits_are_placed_like_those_of_mnist(digits):
    for images in (digits.train_images, digits.validation_images, digits.test_images):
        for image in images[..., 0]:
            rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
            assert 18 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 20
            for axis in (0, 1):
                centre = np.average(np.arange(28), weights=image.sum(axis=1 - axis))
                assert abs(centre - 14) < 0.6


def test_digits_have_the_labels_of_scikit_learn(digits):
    from sklearn.datasets import load_digits

    labels = [digits.train_labels, digits.validation_labels, digits.test_labels]
    assert np.array_equal(np.concatenate(labels), load_digits().target)
    train, test = flat(digits.train_images), flat(digits.test_images)
    means = np.stack([train[digits.train_labels == digit].mean(axis=0) for digit in range(10)])
    nearest = np.argmin(((test[:, None] - means) ** 2).sum(axis=2), axis=1)
    assert (nearest == digits.test_labels).mean() > 0.75


# --- Drawn objects --------------------------------------------------------------------------------


def test_kinds_are_ten_and_at_least_sixteen_others():
    assert len(sample.CIFAR10_KINDS) == len(set(sample.CIFAR10_KINDS)) == 10
    assert len(set(sample.OTHER_KINDS)) >= 16
    assert not set(sample.CIFAR10_KINDS) & set(sample.OTHER_KINDS)
    assert not set(sample.CIFAR10_KINDS) & set(cifar10.CLASS_NAMES)
    assert not set(sample.FACE_KINDS) & {*sample.CIFAR10_KINDS, *sample.OTHER_KINDS}


@pytest.mark.parametrize("size", [8, 32, 64, 100])
def test_objects_are_drawn_in_any_size_and_each_kind_equally_often(size):
    images, labels = sample.drawn_objects(sample.OTHER_KINDS, 60, size, seed=1)
    assert (images.shape, images.dtype) == ((60, size, size, 3), np.uint8)
    assert labels.dtype == np.int32
    assert np.bincount(labels).tolist() == [3] * len(sample.OTHER_KINDS)


def test_the_seed_decides():
    first, labels = sample.drawn_objects(sample.CIFAR10_KINDS, 40, 32, seed=1)
    again, same_labels = sample.drawn_objects(sample.CIFAR10_KINDS, 40, 32, seed=1)
    other, _ = sample.drawn_objects(sample.CIFAR10_KINDS, 40, 32, seed=2)
    assert np.array_equal(first, again)
    assert np.array_equal(labels, same_labels)
    assert not np.array_equal(first, other)


def test_no_image_is_in_two_parts(objects, digits):
    for dataset in (objects, digits):
        parts = (dataset.train_images, dataset.validation_images, dataset.test_images)
        images = [image.tobytes() for part in parts for image in part]
        assert len(set(images)) == len(images)


def test_every_part_has_every_kind(objects, digits):
    for dataset in (objects, digits):
        for labels in (dataset.train_labels, dataset.validation_labels, dataset.test_labels):
            counts = np.bincount(labels, minlength=10)
            assert len(counts) == 10
            assert counts.min() > 0.05 * len(labels)


def test_a_linear_classifier_on_pixels_fails(objects):
    from sklearn.linear_model import RidgeClassifier

    classifier = RidgeClassifier(alpha=1000, solver="lsqr")
    classifier.fit(flat(objects.train_images), objects.train_labels)
    assert classifier.score(flat(objects.test_images), objects.test_labels) < 0.6


def test_mean_colours_do_not_tell_the_kind(objects):
    from sklearn.linear_model import LogisticRegression

    def colours(images):
        return np.concatenate([images.mean((1, 2)), images.std((1, 2))], axis=1) / 64

    classifier = LogisticRegression(max_iter=500)
    classifier.fit(colours(objects.train_images), objects.train_labels)
    assert classifier.score(colours(objects.test_images), objects.test_labels) < 0.4


def test_a_small_convolutional_network_succeeds(objects):
    keras = pytest.importorskip("tensorflow").keras
    keras.utils.set_random_seed(1)
    network = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 128, -1)])
    for channels in (16, 32, 64):
        network.add(keras.layers.Conv2D(channels, 3, padding="same", use_bias=False))
        network.add(keras.layers.BatchNormalization(momentum=0.9))
        network.add(keras.layers.ReLU())
        network.add(keras.layers.MaxPooling2D())
    network.add(keras.layers.Flatten())
    network.add(keras.layers.Dense(10))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(), loss=loss, metrics=["accuracy"])
    for learning_rate in (3e-3, 3e-3, 2e-3, 5e-4):
        network.optimizer.learning_rate.assign(learning_rate)
        network.fit(objects.train_images, objects.train_labels, batch_size=50, verbose=0)
    _, accuracy = network.evaluate(objects.test_images, objects.test_labels, verbose=0)
    assert accuracy > 0.9
