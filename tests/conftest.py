"""What tests of several files share."""

import os
import signal
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # `examples` and so on are ours
sys.path += [str(ROOT / place) for place in ("docs", "docs/_ext", "tests/benchmarks")]
pytest.register_assert_rewrite("programs", "browser")  # so that its assertions say what was found

# A shell starts what runs in its background with Ctrl-C ignored; tests are of it in a terminal.
signal.signal(signal.SIGINT, signal.default_int_handler)


# The files that take longest come first, so that no process works alone in the end; and those that
# need the sample VGG16 after test_examples.py, which makes it, so that none has to wait for it.
FIRST = "examples mnist_cnns example10 example08 example02 example06 example14 example07 example11"


def pytest_collection_modifyitems(items):
    places = {f"test_{name}": place for place, name in enumerate(FIRST.split())}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(autouse=True)
def float32_again():
    """What an example has said about arithmetic does not hold for the tests after it."""
    yield
    if "keras" in sys.modules:
        sys.modules["keras"].config.set_dtype_policy("float32")


@pytest.fixture(scope="session")
def sample_dir(tmp_path_factory):
    """A data folder for the whole session: sample data made by one test is there for the next."""
    folder = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):  # one folder for all processes, each with its own
        folder = folder.parent
    (folder / "data").mkdir(exist_ok=True)
    return folder / "data"


@pytest.fixture(scope="session")
def data(sample_dir):
    """The digits of the sample data; tests of other data have their own."""
    from datasets import mnist

    return mnist.load("sample", sample_dir)


@pytest.fixture(scope="session")
def weights(sample_dir):
    """The weights of the sample VGG16, by name."""
    from datasets import pretrained
    from models import sample_vgg16, vgg16_files

    more = "sample", sample_dir, sample_vgg16.checkpoint
    return vgg16_files.read(pretrained.find_vgg16("full", *more))


@pytest.fixture(scope="session")
def exported(sample_dir, tmp_path_factory):
    """What example 08 makes of sample data: the models folder, the metrics and the output."""
    from programs import arguments, run

    from examples import example08_serving_export as example08

    models_dir = tmp_path_factory.mktemp("models")
    return models_dir, *run(example08.main, *arguments(sample_dir, models_dir))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A Chromium without a window."""
    from browser import Browser, find_browser

    path = find_browser()
    if path is None:
        pytest.skip("needs Chromium or Chrome on PATH, or CHROMIUM=/path/to/it")
    browser = Browser(path, tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()
