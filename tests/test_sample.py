"""Checks datasets/sample.py and drawings.py: the files are whole, and not too easy."""

import signal

import numpy as np
import pytest
from programs import ROOT, start

from datasets import cifar10, drawings, mnist, sample
from datasets.download import DataError

MAKERS = [
    *(sample.make_mnist, sample.make_cifar10, sample.make_cats_dogs),
    *(sample.make_bccd, sample.make_nuclei, sample.make_omniglot),
]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def objects(sample_dir):
    return cifar10.load("sample", sample_dir)


def flat(images):
    return images.reshape(len(images), -1) / np.float32(255) - np.float32(0.5)


IMPORTS = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path; from datasets import sample
"""
MAKE = "getattr(sample, sys.argv[1])(Path(sys.argv[2]))\n"
KILL_IN_THE_LAST_FILE = """
import os, signal
write = Path.write_bytes
def write_bytes(path, content):
    if path.name in (
        *("t10k-labels-idx1-ubyte.gz", "batches.meta.txt", "train.zip", "all_runs.zip"),
        *("BCCD_Dataset-1.0.zip", "stage1_train.zip"),
    ):
        write(path, content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    return write(path, content)
Path.write_bytes = write_bytes
"""


@pytest.mark.parametrize("make", MAKERS)
def test_a_killed_run_is_followed_by_two_at_once_that_make_the_same(sample_dir, tmp_path, make):
    process = start("-c", IMPORTS + KILL_IN_THE_LAST_FILE + MAKE, make.__name__, tmp_path)
    assert process.wait() == -signal.SIGKILL
    processes = [start("-c", IMPORTS + MAKE, make.__name__, tmp_path) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert contents(make(tmp_path)) == {
        name: content
        for name, content in contents(make(sample_dir)).items()
        if not name.endswith(".report.json")
    }


def test_what_is_there_is_not_made_again_and_what_is_missing_is(sample_dir, tmp_path):
    folder = sample.make_cifar10(tmp_path)
    (folder / "data_batch_2.bin").unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert sample.make_cifar10(tmp_path) == folder
    assert contents(folder) == contents(sample.make_cifar10(sample_dir))
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "sample").write_text("a file in the place of the folder")
    with pytest.raises(DataError, match=r"cannot write to .*sample[^\n]*$"):
        sample.make_mnist(tmp_path)


def test_digits_are_scikit_learn_s_placed_like_those_of_mnist(sample_dir):
    from sklearn.datasets import load_digits

    digits = mnist.load("sample", sample_dir)
    labels = [digits.train_labels, digits.validation_labels, digits.test_labels]
    assert np.array_equal(np.concatenate(labels), load_digits().target)
    for image in np.concatenate([digits.train_images, digits.test_images])[..., 0]:
        rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
        assert 18 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 20
        for axis in (0, 1):
            centre = np.average(np.arange(28), weights=image.sum(axis=1 - axis))
            assert abs(centre - 14) < 0.6
    train, test = flat(digits.train_images), flat(digits.test_images)
    means = np.stack([train[digits.train_labels == digit].mean(axis=0) for digit in range(10)])
    nearest = np.argmin(((test[:, None] - means) ** 2).sum(axis=2), axis=1)
    assert (nearest == digits.test_labels).mean() > 0.75


@pytest.mark.parametrize("size", [8, 100])
def test_drawings_have_any_size_each_kind_equally_often_and_the_seed_decides(size):
    kinds = drawings.CIFAR10_KINDS + drawings.OTHER_KINDS
    assert len(set(kinds + drawings.FACE_KINDS)) == 10 + 20 + 2
    first, again, other = (drawings.drawn_objects(kinds, 60, size, seed) for seed in (1, 1, 2))
    assert (first[0].shape, first[0].dtype) == ((60, size, size, 3), np.uint8)
    assert np.bincount(first[1]).tolist() == [2] * len(kinds)
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


def test_no_image_is_in_two_parts_and_every_part_has_every_kind(objects, sample_dir):
    for dataset in (objects, mnist.load("sample", sample_dir)):
        parts = (dataset.train_images, dataset.validation_images, dataset.test_images)
        images = [image.tobytes() for part in parts for image in part]
        assert len(set(images)) == len(images)
        for labels in (dataset.train_labels, dataset.validation_labels, dataset.test_labels):
            assert np.bincount(labels, minlength=10).min() > 0.05 * len(labels)


def test_pixels_alone_do_not_tell_the_kind(objects):
    from sklearn.linear_model import LogisticRegression, RidgeClassifier

    def colours(images):
        return np.concatenate([images.mean((1, 2)), images.std((1, 2))], axis=1) / 64

    for classifier, features, most in (
        (RidgeClassifier(alpha=1000, solver="lsqr"), flat, 0.6),
        (LogisticRegression(max_iter=500), colours, 0.4),
    ):
        classifier.fit(features(objects.train_images), objects.train_labels)
        assert classifier.score(features(objects.test_images), objects.test_labels) < most
