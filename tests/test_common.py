"""Checks examples/common.py: flags, exit statuses, Ctrl-C, the choice of the number format, that
files are replaced whole or not at all, and that the pictures show what they should.
"""

import inspect
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from datasets.download import DataError  # noqa: E402
from examples import common  # noqa: E402
from models import WeightsError  # noqa: E402

# --- Flags and exit statuses ----------------------------------------------------------------------


def parse(*arguments):
    return common.make_parser("Title.\nMore.", 8, 500, 0.1, seed=3).parse_args(arguments)


def test_defaults_are_the_example_s():
    args = parse()
    assert (args.epochs, args.batch_size, args.learning_rate, args.seed) == (8, 500, 0.1, 3)
    assert (args.data, args.precision) == ("full", "auto")
    assert args.train_images is args.min_accuracy is None
    assert args.data_dir == ROOT / "datasets" / "downloads"  # whatever the current folder is
    assert args.models_dir == ROOT / "models"


def test_an_example_that_trains_nothing_has_no_flags_for_training(capsys):
    parser = common.make_parser("Title.")
    args = parser.parse_args(["--data", "sample", "--min-accuracy", "0.5"])
    assert set(vars(args)) == {"data", "data_dir", "models_dir", "min_accuracy"}
    with pytest.raises(SystemExit):
        parser.parse_args(["--epochs", "1"])
    assert "--epochs" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [
        *("--epochs 0", "--epochs x", "--batch-size -1", "--seed -1", "--seed 4294967296"),
        *("--learning-rate 0", "--learning-rate nan", "--learning-rate -0.1", "--data other"),
    ],
)
def test_values_out_of_range_are_refused(flags, capsys):
    with pytest.raises(SystemExit) as error:
        parse(*flags.split())
    assert error.value.code == 2
    assert flags.split()[0] in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "problem",
    [
        common.UserError("what\n  where"),
        DataError("what where"),
        WeightsError("what where"),
        OSError("what where"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_status_1(problem, capsys):
    def main():
        raise problem

    with pytest.raises(SystemExit) as error:
        common.run(main)
    assert error.value.code == 1
    assert capsys.readouterr() == ("", "error: what where\n")


def test_a_missing_file_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        common.run(lambda: (tmp_path / "missing.jpg").read_bytes())
    assert "missing.jpg" in capsys.readouterr().err


def test_ctrl_c_is_status_130(capsys):
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as error:
        common.run(main)
    assert error.value.code == 130
    assert "goes on" in capsys.readouterr().err


def test_a_mistake_in_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        common.run(lambda: 1 / 0)


def test_success_does_not_exit():
    assert common.run(dict) is None


# --- Ctrl-C ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks(number):
    with common.ctrl_c() as stop_asked:
        assert not stop_asked()
        os.kill(os.getpid(), number)
        assert stop_asked()
        assert stop_asked()


def test_the_second_ctrl_c_interrupts():
    with pytest.raises(KeyboardInterrupt), common.ctrl_c() as stop_asked:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop_asked()
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("not interrupted")


def test_a_signal_that_the_shell_has_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with common.ctrl_c() as stop_asked:
            os.kill(os.getpid(), signal.SIGINT)
            assert not stop_asked()
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop_asked()
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_while_tensorflow_is_imported_is_status_130_and_silent():
    # The child sends itself the signal in the middle of the import.
    script = (
        "import os, runpy, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'tensorflow.python':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    example = ROOT / "examples" / "example06_cifar10_cnn_nn.py"
    process = subprocess.run(
        [sys.executable, "-c", script, str(example)], capture_output=True, text=True, timeout=120
    )
    assert (process.returncode, process.stdout, process.stderr) == (130, "", "")


@pytest.mark.parametrize("leave_by", ["the end", "an error", "Ctrl-C"])
def test_the_handlers_are_put_back(leave_by):
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    try:
        with common.ctrl_c():
            assert [signal.getsignal(number) for number in numbers] != before
            if leave_by == "an error":
                raise ValueError
            if leave_by == "Ctrl-C":
                os.kill(os.getpid(), signal.SIGINT)
    except ValueError:
        pass
    assert [signal.getsignal(number) for number in numbers] == before


# --- Number format --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx2 fma avx512f avx512_bf16", "bfloat16"),
        ("fpu amx_tile amx_bf16", "bfloat16"),
        ("fpu avx2 fma avx512f", "float32"),
        ("fpu not_avx512_bf16", "float32"),
        (None, "float32"),  # no /proc/cpuinfo: macOS, Windows
    ],
)
def test_auto_is_bfloat16_where_the_processor_has_it(flags, expected, monkeypatch, capsys):
    monkeypatch.setattr(common, "processor", lambda: {"flags": flags} if flags else {})
    monkeypatch.setattr(common.tf.config, "list_physical_devices", lambda kind: [])
    assert common.start("auto").name == expected
    assert common.start("float32").name == "float32"
    assert common.start("bfloat16").name == "bfloat16"
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert expected in lines[0]
    assert f"TensorFlow {common.tf.__version__}" in lines[0]


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), "float32"), ((8, 0), "bfloat16"), ((10, 0), "bfloat16")]
)
def test_auto_on_a_gpu(capability, expected, monkeypatch, capsys):
    config = common.tf.config
    details = {"device_name": "Some GPU", "compute_capability": capability}
    monkeypatch.setattr(config, "list_physical_devices", lambda kind: ["gpu"])
    monkeypatch.setattr(config.experimental, "set_memory_growth", lambda gpu, value: None)
    monkeypatch.setattr(config.experimental, "get_device_details", lambda gpu: details)
    assert common.start("auto").name == expected
    assert "Some GPU" in capsys.readouterr().out


def test_processor_and_cores():
    if Path("/proc/cpuinfo").exists():
        assert len(common.processor()) > 1
    assert 1 <= common.cores() <= os.cpu_count()


# --- Files ----------------------------------------------------------------------------------------


def test_fingerprint_changes_with_settings_and_script(tmp_path):
    script, other = tmp_path / "a.py", tmp_path / "b.py"
    script.write_text("one")
    other.write_text("two")
    settings = {"epochs": 3, "channels": (1, 2), "train_images": None}
    name = common.fingerprint(settings, str(script))
    assert name == common.fingerprint(dict(reversed(settings.items())), str(script))
    assert name != common.fingerprint(settings | {"epochs": 4}, str(script))
    assert name != common.fingerprint(settings, str(other))
    assert name.isalnum()
    assert (tmp_path / name).parent == tmp_path
    script.write_text("changed")
    assert name != common.fingerprint(settings, str(script))


def test_json_is_replaced_whole(tmp_path):
    path = tmp_path / "new folder" / "metrics.json"
    common.write_json(path, {"a": 1})
    common.write_json(path, {"a": [0.5, None], "é": "ü"})
    assert json.loads(path.read_text()) == {"a": [0.5, None], "é": "ü"}
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]


def test_a_failed_write_leaves_the_old_json(tmp_path):
    path = tmp_path / "metrics.json"
    common.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        common.write_json(path, {"a": 2, "b": object()})
    assert json.loads(path.read_text()) == {"a": 1}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills with SIGKILL")
def test_a_kill_leaves_the_old_json_and_does_not_disturb_the_next_write(tmp_path):
    path = tmp_path / "metrics.json"
    common.write_json(path, {"a": 1})
    # The function alone: to import TensorFlow with it would take seconds.
    script = "import json, os, signal, sys\nfrom pathlib import Path\n"
    script += inspect.getsource(common.write_json)
    script += "os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)\n"
    script += "write_json(Path(sys.argv[1]), {'a': 2})\n"
    process = subprocess.run([sys.executable, "-c", script, str(path)], timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert json.loads(path.read_text()) == {"a": 1}
    common.write_json(path, {"a": 3})
    assert json.loads(path.read_text()) == {"a": 3}


def test_finish_completes_the_metrics(tmp_path, capsys):
    args = parse("--min-accuracy", "0.5")
    metrics = {"test_accuracy": 0.5, "train_seconds": 1.5, "data": "some data"}
    argv = ["--data-dir", "a folder"]
    result = common.finish(tmp_path, metrics, [tmp_path / "a.png"], args, argv, "/x/example99.py")
    assert result == json.loads((tmp_path / "metrics.json").read_text())
    assert result["command"] == "python examples/example99.py --data-dir 'a folder'"
    assert set(result["versions"]) == {"python", "tensorflow", "numpy"}
    assert result["machine"]["cores"] == common.cores()
    assert result["total_seconds"] > 0
    output = capsys.readouterr().out
    assert "test accuracy 0.5000 on some data" in output
    assert "a.png" in output


def test_finish_keeps_the_results_that_are_below_the_accuracy_asked_for(tmp_path):
    metrics = {"test_accuracy": 0.4, "train_seconds": 1.5, "data": "some data"}
    with pytest.raises(common.UserError, match=r"0\.4000 is below --min-accuracy 0\.5"):
        common.finish(tmp_path, metrics, [], parse("--min-accuracy", "0.5"), [], "example99.py")
    assert json.loads((tmp_path / "metrics.json").read_text())["test_accuracy"] == 0.4


def test_shown_is_short_below_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert common.shown(tmp_path / "a" / "b.png") == str(Path("a/b.png"))
    assert common.shown(Path("a/b.png")) == str(Path("a/b.png"))
    assert common.shown(tmp_path.parent / "other") == str(tmp_path.parent / "other")


# --- Pictures -------------------------------------------------------------------------------------


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def coloured(path):
    """Return the share of pixels that are neither grey, black nor white."""
    picture = pixels(path)
    return np.mean(picture.max(axis=2) - picture.min(axis=2) > 40)


HISTORY = {
    "loss": [2.0, 1.0],
    "accuracy": [0.2, 0.6],
    "validation_loss": [1.9, 1.2],
    "validation_accuracy": [0.3, 0.5],
}


def test_learning_curves(tmp_path):
    path = common.plot_learning_curves(HISTORY, tmp_path / "new" / "curves.png", "title")
    assert coloured(path) > 0.005  # two lines, in blue and orange
    other = {key: values[::-1] for key, values in HISTORY.items()}
    path_of_other = common.plot_learning_curves(other, tmp_path / "other.png", "title")
    assert not np.array_equal(pixels(path), pixels(path_of_other))


def test_learning_curves_of_one_epoch(tmp_path):
    history = {key: values[:1] for key, values in HISTORY.items()}
    assert coloured(common.plot_learning_curves(history, tmp_path / "curves.png", "title")) > 0


def test_confusion_matrix_is_darkest_where_all_are_right(tmp_path, monkeypatch):
    drawn = {}
    keep = common.plt.Axes.imshow

    def imshow(axis, share, **options):
        drawn["share"] = share
        return keep(axis, share, **options)

    monkeypatch.setattr(common.plt.Axes, "imshow", imshow)
    labels, predictions = np.array([0, 0, 0, 0, 1]), np.array([0, 0, 0, 1, 0])
    path = tmp_path / "matrix.png"
    common.plot_confusion_matrix(labels, predictions, ["a", "b", "never"], path, "title")
    # The row is the true class, the column the predicted one.
    assert drawn["share"].tolist() == [[0.75, 0.25, 0], [1, 0, 0], [0, 0, 0]]
    assert coloured(path) > 0.05


def test_worst_mistakes_are_the_most_certain_ones(tmp_path, monkeypatch):
    shown = {}
    monkeypatch.setattr(
        common,
        "plot_images",
        lambda images, path, title, captions: shown.update(images=images, captions=captions),
    )
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
    probabilities = np.array([[0.6, 0.4], [0.9, 0.1], [0.3, 0.7], [0.8, 0.2]])
    labels = np.array([1, 0, 0, 1])
    common.plot_worst_mistakes(
        images, labels, probabilities, ["cat", "dog"], tmp_path / "x.png", "title"
    )
    assert shown["images"].ravel().tolist() == [3, 2, 0]
    assert shown["captions"] == ["cat 80%\nis dog", "dog 70%\nis cat", "cat 60%\nis dog"]


@pytest.mark.parametrize("count", [0, 1, 9, 40])
def test_any_number_of_mistakes_can_be_shown(count, tmp_path):
    images = np.full((count, 8, 8, 3), (200, 30, 30), np.uint8)
    probabilities = np.tile([1.0, 0.0], (count, 1))
    path = common.plot_worst_mistakes(
        images, np.ones(count, int), probabilities, ["cat", "dog"], tmp_path / "x.png", "title"
    )
    assert pixels(path).std() > 5  # at least the title
    assert (coloured(path) > 0.01) == (count > 0)


def test_grey_images_are_grey(tmp_path):
    images = np.random.default_rng(0).random((3, 8, 8, 1))
    path = common.plot_images(images, tmp_path / "grey.png", "title")
    assert pixels(path).std() > 5
    assert coloured(path) == 0


def test_the_three_standard_pictures(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (20, 32, 32, 3), np.uint8), rng.integers(0, 3, 20)
    probabilities = rng.dirichlet(np.ones(3), 20)
    paths = common.plot_results(
        tmp_path, HISTORY, images, labels, probabilities, ["a", "b", "c"], "title"
    )
    names = ["learning_curves.png", "confusion_matrix.png", "worst_mistakes.png"]
    assert paths == [tmp_path / name for name in names]
    assert all(coloured(path) > 0.001 for path in paths)
    assert common.plt.get_fignums() == []  # every figure is closed
