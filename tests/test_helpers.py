"""Checks examples/helpers: flags, errors, runs that can be continued, what a run leaves behind."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from programs import ROOT

from datasets import cifar10, drawings
from datasets.download import DataError
from examples.helpers import cli, device, report
from examples.helpers.run import Run, code_of
from models import WeightsError

tf = report.tf

# --- Flags and exit statuses ----------------------------------------------------------------------


def parse(*arguments):
    return cli.make_parser("Title.\nMore.", 8, 500, 0.1).parse_args(arguments)


def test_defaults_are_the_example_s():
    args = parse()
    assert (args.epochs, args.batch_size, args.learning_rate, args.seed) == (8, 500, 0.1, 0)
    assert args.data_dir == ROOT / "datasets" / "downloads"  # whatever the current folder is
    assert args.models_dir == ROOT / "models"


def test_settings_are_the_flags_that_decide_the_result():
    settings = cli.settings(parse("--epochs", "3", "--restart"), tf.bfloat16, but=["data"])
    assert settings["epochs"] == 3
    assert settings["precision"] == "bfloat16"
    assert settings.keys().isdisjoint(["data", "data_dir", "models_dir", "min_accuracy", "restart"])


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
    ("problem", "status", "line"),
    [
        (cli.UserError("what\n  where"), 1, "error: what where"),
        (DataError("what where"), 1, "error: what where"),
        (WeightsError("what where"), 1, "error: what where"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt("saved there"), 130, "interrupted; saved there"),
    ],
)
def test_what_the_user_can_mend_is_one_line(problem, status, line, capsys):
    def main():
        raise problem

    with pytest.raises(SystemExit) as error:
        cli.run(main)
    assert error.value.code == status
    assert capsys.readouterr().err.strip() == line


@pytest.mark.parametrize("fault", [ZeroDivisionError(), OSError("ours"), FileNotFoundError()])
def test_a_fault_of_ours_keeps_its_traceback(fault):
    def main():
        raise fault

    with pytest.raises(type(fault)):
        cli.run(main)


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match=r"cannot write .*metrics\.json: "):
        report.write_json(tmp_path / "file" / "metrics.json", {})
    with pytest.raises(WeightsError, match=r"cannot write .*a\.png: "):
        report.save_figure(report.plt.figure(), tmp_path / "file" / "a.png")
    report.plt.close("all")


IMPORT_AND_INTERRUPT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Interrupt:
    def find_spec(self, name, *_):
        if name == "tensorflow.python":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
import examples.helpers
"""


def test_ctrl_c_while_tensorflow_is_imported_is_silent():
    command = [sys.executable, "-c", IMPORT_AND_INTERRUPT]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (process.returncode, process.stdout, process.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("place", ["", "b.png", "a/b.png"])
def test_shown_is_short_below_the_current_folder(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.shown(tmp_path / place) == str(Path(place))
    assert cli.shown(tmp_path.parent / "other") == str(tmp_path.parent / "other")


@pytest.mark.parametrize(
    ("flags", "capability", "expected"),
    [
        ("fpu avx2 fma avx512f avx512_bf16", None, "bfloat16"),
        ("fpu amx_tile amx_bf16", None, "bfloat16"),
        ("fpu avx2 fma avx512f", None, "float32"),
        ("fpu not_avx512_bf16", None, "float32"),
        (None, None, "float32"),  # no /proc/cpuinfo: macOS, Windows
        (None, (8, 0), "bfloat16"),
        ("avx512_bf16", (7, 5), "float32"),
    ],
)
def test_auto_is_bfloat16_where_it_is_fast(flags, capability, expected, monkeypatch, capsys):
    config = tf.config
    details = {"device_name": "Some GPU", "compute_capability": capability}
    monkeypatch.setattr(device, "processor", lambda: {"flags": flags} if flags else {})
    monkeypatch.setattr(config, "list_physical_devices", lambda kind: ["gpu"] * bool(capability))
    monkeypatch.setattr(config.experimental, "set_memory_growth", lambda gpu, value: None)
    monkeypatch.setattr(config.experimental, "get_device_details", lambda gpu: details)
    assert [device.start(p).name for p in ("float32", "auto")] == ["float32", expected]
    line = capsys.readouterr().out.splitlines()[1]
    assert line.endswith(f"TensorFlow {tf.__version__} | {expected}")
    assert ("Some GPU" in line) == bool(capability)


# --- A run that can be stopped and continued ------------------------------------------------------


def train(folder, at=None, stop=None, epochs=3, steps=4, restart=False):
    """Count steps, in a variable and in what they return; call `stop` in step `at`."""
    count = tf.Variable(0.0)
    run = Run(folder, {"seed": 0}, __file__, epochs, steps, restart, count=count)
    for epoch in run:
        for step in run.steps():
            assert run.step == epoch * steps + step
            count.assign_add(1.0)
            if run.step == at:
                stop()
            run.record({"loss": 1 / count, "accuracy": count / 100})
        run.validate({"validation_loss": float(count)})
    return run, float(count)


def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def sigterm():
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_averages_prints_and_remembers(tmp_path, capsys):
    run, count = train(tmp_path)
    assert (count, run.done) == (12, 1)
    metrics = run.metrics(batch_size=6)
    assert metrics["history"]["validation_loss"] == [4, 8, 12]
    assert metrics["train_seconds"] == round(sum(metrics["history"]["seconds"]), 1)
    speed = 12 * 6 / sum(metrics["history"]["seconds"])
    assert metrics["images_per_second"] == pytest.approx(speed, abs=0.5)
    assert metrics["history"]["accuracy"] == pytest.approx([0.025, 0.065, 0.105])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("epoch  1: loss 0.5208, accuracy 0.0250, validation loss 4.0000, ")


@pytest.mark.parametrize("stop", [ctrl_c, sigterm])
@pytest.mark.parametrize("at", [0, 2, 3, 5, 11])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(at, stop, tmp_path):
    undisturbed, count = train(tmp_path / "a")
    if at < 11:  # in the last step there is nothing left to stop
        with pytest.raises(KeyboardInterrupt, match=rf"after step {at + 1} .* goes on"):
            train(tmp_path / "b", at, stop)
    run, continued = train(tmp_path / "b")
    assert continued == count
    for row, other in zip(run.history, undisturbed.history, strict=True):
        assert {**row, "seconds": 0} == {**other, "seconds": 0}


def test_the_second_ctrl_c_interrupts_at_once(tmp_path):
    with pytest.raises(KeyboardInterrupt) as stopped:
        train(tmp_path, 5, lambda: (ctrl_c(), ctrl_c()))
    assert not stopped.value.args
    assert train(tmp_path)[1] == 12  # from the end of the first epoch


def test_a_signal_that_the_shell_has_ignored_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert train(tmp_path, 5, ctrl_c)[1] == 12
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("stop", [lambda: None, ctrl_c, lambda: 1 / 0])
def test_the_signals_are_given_back(stop, tmp_path):
    numbers, kept = (signal.SIGINT, signal.SIGTERM), []
    before = [signal.getsignal(number) for number in numbers]
    try:
        train(tmp_path, 5, stop)
    except KeyboardInterrupt as error:
        kept.append(error)  # and with it the frames of the loop, as a notebook does
    except ZeroDivisionError as error:
        error.__traceback__ = None
    assert [signal.getsignal(number) for number in numbers] == before


def test_restart_forgets(tmp_path):
    train(tmp_path)
    assert train(tmp_path, restart=True)[0].history[0]["validation_loss"] == 4


def test_a_loss_that_is_no_number_ends_the_run(tmp_path):
    run = Run(tmp_path, {}, __file__, 1, 1)
    run.record({"loss": tf.constant(np.nan)})
    with pytest.raises(cli.UserError, match=r"loss nan, .* s: use a smaller --learning-rate"):
        run.validate({})


def test_too_few_images_for_a_batch_are_refused(tmp_path):
    with pytest.raises(cli.UserError, match="lower --batch-size"):
        Run(tmp_path, {}, __file__, 1, 0)


def test_the_newest_runs_are_kept(tmp_path):
    folders = []
    for seed in range(3 + 2):
        folders.append(Run(tmp_path, {"seed": seed}, __file__, 1, 1).folder)
        os.utime(folders[-1], (seed, seed))
    Run(tmp_path, {"seed": 3}, __file__, 1, 1)
    assert sorted(folders[0].parent.iterdir()) == sorted(folders[-3:])


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("# a comment\ndef f(x):\n    '''Text.'''\n    return (x\n        + 1)", True),
        ("def f(x):\n    '''Other.'''\n    'text'\n    return x + 1", True),
        ("def f(x):\n    '''Text.'''\n    return x + 2", False),
        ("def f(x):\n    return x + 1", False),  # nothing stands where a text was
    ],
)
def test_what_counts_is_what_the_code_computes(text, same, tmp_path):
    one, other = tmp_path / "one.py", tmp_path / "other.py"
    one.write_text("def f(x):\n    '''Text.'''\n    return x + 1")
    other.write_text(text.replace("    'text'\n", ""))
    assert (code_of(one) == code_of(other)) == same


def test_the_models_that_a_script_imports_count(tmp_path):
    for line in ("from models import vgg16", "from models.vgg16 import VGG16"):
        (tmp_path / "a.py").write_text(line)
        assert len(code_of(tmp_path / "a.py")) > len((ROOT / "models" / "vgg16.py").read_text())


def fit(folder, at=None):
    """Train a Keras model with the run as a callback, interrupted in step `at`."""
    tf.keras.utils.set_random_seed(0)
    model = tf.keras.Sequential([tf.keras.layers.Input((2,)), tf.keras.layers.Dense(2)])
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf.keras.optimizers.Adam(), loss, metrics=["accuracy"])
    model.optimizer.build(model.trainable_variables)
    run = Run(folder, {}, __file__, 2, 3, model=model, optimizer=model.optimizer)
    x, y = np.eye(2, dtype=np.float32)[[0, 1] * 3], np.array([0, 1] * 3)
    stop = tf.keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: ctrl_c() if run.step == at else None
    )
    model.fit(
        *(x, y, 2),  # a batch of two, so three steps
        epochs=2,
        initial_epoch=len(run.history),
        validation_data=(x, y),
        callbacks=[run.callback(), stop],
        shuffle=False,
        verbose=0,
    )
    return run.metrics(2)["history"], model.get_weights()


def test_the_run_as_a_callback_of_fit(tmp_path, capsys):
    before = signal.getsignal(signal.SIGINT)
    columns, weights = fit(tmp_path / "a")
    assert set(columns) == {
        *("loss", "accuracy", "validation_loss", "validation_accuracy", "seconds")
    }
    with pytest.raises(KeyboardInterrupt, match="saved after step 3"):
        fit(tmp_path / "b", at=1)
    assert signal.getsignal(signal.SIGINT) == before
    continued, same_weights = fit(tmp_path / "b")
    assert continued | {"seconds": 0} == columns | {"seconds": 0}
    assert all(np.array_equal(a, b) for a, b in zip(weights, same_weights, strict=True))
    assert "going on after step 3" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) == before


# --- What a run leaves behind ---------------------------------------------------------------------


def test_json_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new folder" / "metrics.json"
    report.write_json(path, {"a": [0.5, None], "é": "ü"})
    loop = {}
    loop["itself"] = loop
    with pytest.raises(ValueError, match="Circular"):
        report.write_json(path, loop)
    assert json.loads(path.read_text()) == {"a": [0.5, None], "é": "ü"}
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]


def test_finish_completes_the_metrics_and_checks_the_accuracy(tmp_path, capsys):
    metrics = {"test_accuracy": 0.5, "train_seconds": 1.5, "data": "some data"}
    argv = ["--data-dir", "a folder"]
    more, folder = ([tmp_path / "a.png"], argv, 0.5), tmp_path / "example99"
    result = report.finish(folder, metrics, *more)
    assert result == json.loads((folder / "metrics.json").read_text())
    assert result["command"] == "python examples/example99.py --data-dir 'a folder'"
    assert set(result["versions"]) == {"python", "tensorflow", "numpy"}
    assert 1 <= result["machine"]["cores"] <= os.cpu_count()
    output = capsys.readouterr().out
    assert "test accuracy 0.5000 on some data" in output
    assert "a.png" in output
    with pytest.raises(cli.UserError, match=r"0\.4000 is below --min-accuracy 0\.5"):
        report.finish(folder, metrics | {"test_accuracy": 0.4}, *more)
    assert json.loads((folder / "metrics.json").read_text())["test_accuracy"] == 0.4


def test_finish_can_name_another_score(tmp_path, capsys):
    metrics = {"iou": np.float64(0.5), "test_accuracy": 0.9, "train_seconds": 1.5, "data": "images"}
    more = [], [], 0.6, "iou"
    with pytest.raises(cli.UserError, match=r"^iou 0\.5000 is below --min-accuracy 0\.6$"):
        report.finish(tmp_path, metrics, *more)
    assert json.loads((tmp_path / "metrics.json").read_text())["iou"] == 0.5  # not a text
    assert report.finish(tmp_path, metrics | {"iou": 0.7}, *more)["iou"] == 0.7
    assert "\niou 0.7000 on images\n" in capsys.readouterr().out


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def coloured(path):
    """Return the share of pixels that are neither grey, black nor white."""
    picture = pixels(path)
    return np.mean(picture.max(axis=2) - picture.min(axis=2) > 40)


HISTORY = {"loss": [2.0, 1.0], "accuracy": [0.2, 0.6]}
HISTORY |= {"validation_loss": [1.9, 1.2], "validation_accuracy": [0.3, 0.5]}


def test_learning_curves_show_the_history(tmp_path):
    path = report.plot_learning_curves(tmp_path / "new", "title", HISTORY)
    assert coloured(path) > 0.005  # two lines, in blue and orange
    other = {key: values[::-1] for key, values in HISTORY.items()}
    assert not np.array_equal(
        pixels(path), pixels(report.plot_learning_curves(tmp_path, "title", other))
    )


def test_learning_curves_of_scores_that_only_one_part_has(tmp_path, monkeypatch):
    """A loss in training alone, a score in validation alone; seconds are no curve."""
    history = {"loss": [3.0, 2.0], "validation_map_50": [0.1, 0.4], "seconds": [1.0, 1.0]}
    figures = []
    monkeypatch.setattr(report, "save_figure", lambda figure, path: figures.append(figure) or path)
    report.plot_learning_curves(tmp_path, "title", history)
    drawn = {axis.get_ylabel(): axis.get_lines() for axis in figures[0].axes}
    found = {
        name: [(line.get_label(), list(line.get_ydata())) for line in lines]
        for name, lines in drawn.items()
    }
    assert found == {
        "loss": [("training", [3.0, 2.0])],
        "map_50": [("validation", [0.1, 0.4])],
    }
    report.plt.close(figures[0])


def test_confusion_matrix_has_the_true_class_in_its_rows(tmp_path, monkeypatch):
    drawn = []
    keep = report.plt.Axes.imshow
    monkeypatch.setattr(
        report.plt.Axes, "imshow", lambda axis, x, **more: drawn.append(x) or keep(axis, x, **more)
    )
    labels, predictions = np.array([0, 0, 0, 0, 1]), np.array([0, 0, 1, 1, 0])
    names = ["a", "b, or c", "never"]
    answers = np.zeros((5, 8, 8, 3)), labels, np.eye(3)[predictions], names
    path, _ = report.plot_results(tmp_path, "title", {}, *answers)
    assert drawn[0].tolist() == [[2, 2, 0], [1, 0, 0], [0, 0, 0]]
    assert coloured(path) > 0.05
    with (tmp_path / "confusion_matrix.csv").open(encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            names,
            *(list(map(str, row)) for row in drawn[0].tolist()),
        ]


def test_worst_mistakes_are_the_most_certain_ones(tmp_path, monkeypatch):
    shown = {}
    monkeypatch.setattr(
        report,
        "plot_images",
        lambda images, path, title, captions: shown.update(images=images, captions=captions),
    )
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
    probabilities = np.array([[0.6, 0.4], [0.9, 0.1], [0.3, 0.7], [0.8, 0.2]])
    labels = np.array([1, 0, 0, 1])
    report.plot_results(tmp_path, "title", {}, images, labels, probabilities, ["cat", "dog"])
    assert shown["images"].ravel().tolist() == [3, 2, 0]
    assert shown["captions"] == ["cat 80%\nis dog", "dog 70%\nis cat", "cat 60%\nis dog"]


CLASSES = [cifar10.CLASS_NAMES, drawings.CIFAR10_KINDS, ("cat", "dog"), tuple("0123456789")]
CLASSES.append(("mushroom", "snowman"))  # wide letters
CLASSES.append(("golden retriever", "miniature schnauzer", "West Highland white terrier"))


@pytest.mark.parametrize("names", CLASSES, ids=lambda names: names[0])
def test_pages_of_images_can_be_read_on_a_phone(names, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(report, "save_figure", lambda figure, path: figures.append(figure) or path)
    *_, b, a = sorted(range(len(names)), key=lambda i: len(names[i]))  # the longest names
    labels, images = np.tile([a, b], 8), np.zeros((16, 32, 32, 3), np.uint8)
    shares = np.eye(len(names))[np.tile([b, b, a, a], 4)]
    report.plot_results(tmp_path, "Example 07, " * 5, {}, images, labels, shares, names)
    page = figures[-1]
    page.draw_without_rendering()
    titles = [axis.title for axis in page.axes if axis.title.get_text()]
    assert len(titles) == np.sum(shares.argmax(axis=1) != labels) == 8
    assert page.get_figwidth() <= 3.65 and min(x.get_fontsize() for x in titles) >= 8.25
    titles = [page._suptitle, *titles]
    boxes = [thing.get_window_extent().padded(-0.5) for thing in [*titles, *page.axes]]
    assert sum(x.overlaps(y) for x in boxes for y in boxes) == len(boxes)  # each with itself
    for figure in figures:
        report.plt.close(figure)


def test_pictures_have_two_pixels_for_each_of_a_phone(tmp_path):
    path = report.plot_images(np.zeros((8, 8, 8)), tmp_path / "x.png", "title")
    assert 700 <= pixels(path).shape[1] <= 735


@pytest.mark.parametrize(("count", "channels"), [(0, 3), (1, 3), (9, 3), (40, 3), (3, 1)])
def test_any_number_of_images_can_be_shown(count, channels, tmp_path):
    images = np.full((count, 8, 8, 3), (200, 30, 30), np.uint8)[..., :channels]
    path = report.plot_images(images, tmp_path / "x.png", "title", ["a"] * count)
    assert pixels(path).std() > 5  # at least the title
    assert (coloured(path) > 0.01) == (count > 0 and channels == 3)  # grey images are grey
    assert report.plt.get_fignums() == []  # every figure is closed
