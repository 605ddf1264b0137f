"""What holds for every example: its shape, and what it does as a program on sample data."""

import ast
import functools
import importlib
import json
import os
import re
import subprocess
import sys

import pytest
from programs import ROOT, run, status, without_pictures
from sklearn import manifold

from examples import example10_cats_dogs_tfrecord as example10
from examples.helpers import cli

EXAMPLES = sorted((ROOT / "examples").glob("example[0-9][0-9]_*.py"))
each_example = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)

# --- The shape ------------------------------------------------------------------------------------


def tree_of(path):
    return ast.parse(path.read_text())


def imported(path):
    """Return the full names of all modules, and of what is taken out of them, in a file."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def flags_of(path, capsys):
    """Return the flags that an example's --help names."""
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(f"examples.{path.stem}").main(["--help"])
    output, errors = capsys.readouterr()
    assert (stop.value.code, errors) == (0, "")
    assert output.startswith("usage: ")
    return set(re.findall(r"--[a-z][a-z-]*", output))


@each_example
def test_docstring(path, capsys):
    title, blank, *rest = ast.get_docstring(tree_of(path)).splitlines()
    assert re.fullmatch(rf"Example {path.name[len('example') :][:2]}: .+[.?]", title)
    assert blank == ""
    assert rest[0].startswith("You will learn ")
    commands = [line for line in rest if line.startswith("    ")]
    assert commands, "no indented line with the command"
    for command in commands:
        assert re.match(rf"    python examples/{path.name}( |$)", command), command
    text = " ".join(rest)
    assert "Before this one" in text
    assert "After it" in text
    assert set(re.findall(r"--[a-z][a-z-]*", " ".join(commands))) <= flags_of(path, capsys)


@each_example
def test_it_is_read_in_one_sitting(path):
    assert len(path.read_text().splitlines()) <= 300
    (main,) = [node for node in tree_of(path).body if getattr(node, "name", "") == "main"]
    assert main.end_lineno - main.lineno <= 40
    assert ast.unparse(main).startswith("def main(argv: list[str] | None=None) -> dict:")


@each_example
def test_cells(path):
    headings = re.findall(r"^# %%(.*)$", path.read_text(), re.MULTILINE)
    assert len(headings) >= 4
    assert all(re.fullmatch(r" \S.*", heading) for heading in headings)
    assert headings[-1] == " What to try next"
    assert re.search(r"^# \* ", path.read_text().rpartition("# %%")[2], re.MULTILINE)


@each_example
def test_flags_are_those_of_the_others(path, capsys):
    known = flags_of(path, capsys)
    if "--epochs" in known:
        assert known.issuperset(["--batch-size", "--learning-rate", "--seed", "--precision"])
    if "--data" in known:
        assert known.issuperset(["--data-dir", "--models-dir", "--min-accuracy"])


@pytest.mark.parametrize(
    ("files", "strangers"),
    [
        ("examples/example*.py", r"examples\.example"),
        ("examples/helpers/*.py", r"examples\.example"),
        ("datasets/*.py", r"models\b|examples\b"),
        ("models/*.py", r"datasets\b|examples\b"),
    ],
)
def test_arrows_go_one_way(files, strangers):
    paths = list(ROOT.glob(files))
    assert paths
    for path in paths:
        assert [name for name in imported(path) if re.match(strangers, name)] == [], path.name


def test_starting_is_silent_in_any_folder(tmp_path):
    # One process for one example: all of them start in the same way, and it takes seconds.
    process = subprocess.run(
        [sys.executable, str(EXAMPLES[5]), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0
    assert process.stdout.startswith(f"usage: {EXAMPLES[5].name} ")
    assert process.stderr == ""
    assert list(tmp_path.iterdir()) == []


# --- What it does ---------------------------------------------------------------------------------

# By number: flags for a short run, and the score on sample data that it must reach.
SHORT = {
    "02": ("--epochs 1", 0.5),
    "03": ("--epochs 4", 0.8),
    "04": ("--epochs 2", 0.6),
    "05": ("--epochs 2", 0.6),
    "06": ("--epochs 3 --train-images 1000 --batch-size 25", 0.3),
    "07": ("--epochs 5 --train-images 600 --test-images 200 --no-baseline", 0.6),
    "10": ("--epochs 3 --train-images 200 --batch-size 25", 0.6),
    "11": ("--epochs 5", 0.8),
    "14": ("--epochs 3 --train-images 1000 --batch-size 50 --channels 16 32 64", 0.3),
    "15": ("--epochs 3 --train-images 40", 0.4),
    "16": ("--epochs 1 --batch-size 2", 0.8),
    "17": ("--epochs 1 --batch-size 50", 0.65),
}
SCORES = {"15": "map_50", "16": "iou"}  # of the others it is test_accuracy
METRICS = {
    *("train_seconds", "total_seconds", "images_per_second", "parameters"),
    *("epochs", "seed", "precision", "data", "command", "versions", "machine"),
}
each_that_trains = pytest.mark.parametrize("number", SHORT)


def score_of(number, metrics):
    return metrics[SCORES.get(number, "test_accuracy")]


def example(number):
    """Return an example's path and its main()."""
    (path,) = (ROOT / "examples").glob(f"example{number}_*.py")
    return path, importlib.import_module(f"examples.{path.stem}").main


@pytest.fixture(scope="module")
def runs(sample_dir, tmp_path_factory):
    """Run each example when it is first asked for, and again for an accuracy above 1.

    Example 02, which trains anew in every run, is asked for that at once.
    """
    done = {}

    def both(number, capsys):
        if number not in done:
            path, main = example(number)
            folder = tmp_path_factory.mktemp(f"models{number}")
            argv = ["--data", "sample", "--data-dir", sample_dir, "--models-dir", folder]
            argv += SHORT[number][0].split()
            first, output = run(main, *argv) if number != "02" else (None, "")
            quick = (lambda argv: without_pictures(main, *argv)) if first else main
            argv += ["--min-accuracy", "1.01"]
            (code, errors), more = run(lambda argv: status(quick, capsys, *argv), *argv)
            second = json.loads((folder / path.stem / "metrics.json").read_text())
            done[number] = folder / path.stem, first or second, output or more, code, errors, second
        return done[number]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(example10, "TIMED", 40)  # and hardly any time for measuring
        patch.setattr(example10, "TIMED_SECONDS", 0.02)
        patch.setattr(manifold, "TSNE", functools.partial(manifold.TSNE, max_iter=250))
        yield both


@each_that_trains
def test_it_learns_on_sample_data(number, runs, capsys):
    _, metrics, output, *_ = runs(number, capsys)
    assert score_of(number, metrics) >= SHORT[number][1]
    assert metrics["data"].startswith("sample data")
    assert metrics.keys() >= METRICS
    name = SCORES.get(number, "test accuracy")
    assert f"\n{name} {score_of(number, metrics):.4f} on sample data" in output


@each_that_trains
def test_what_it_says_it_has_written_is_there(number, runs, capsys):
    folder, metrics, output, *_ = runs(number, capsys)
    wrote = re.findall(r"^wrote (.*)$", output, re.MULTILINE)
    assert str(folder / "metrics.json") in wrote
    for path in map(ROOT.joinpath, wrote):
        assert path.is_dir() or path.stat().st_size > 0
    assert sum(path.endswith(".png") for path in wrote) >= (1 if number != "02" else 0)
    assert metrics["command"].startswith(f"python examples/{folder.name}.py --data sample ")


@each_that_trains
def test_a_second_run_continues_and_an_accuracy_can_be_asked_for(number, runs, capsys):
    _, first, _, code, errors, second = runs(number, capsys)
    assert code == 1
    assert len(errors) == 1
    assert errors[0].endswith("is below --min-accuracy 1.01")
    assert score_of(number, second) == score_of(number, first)  # nothing was left to train
    assert second.get("history") == first.get("history")


@pytest.mark.parametrize("number", [*SHORT, "08", "12", "13"])
@pytest.mark.parametrize("flag", ["--models-dir", "--data-dir"])
def test_a_folder_that_is_a_file_is_one_line(number, flag, sample_dir, tmp_path, capsys):
    _, main = example(number)
    (tmp_path / "file").write_text("")
    folders = {"--models-dir": tmp_path / "models", "--data-dir": sample_dir}
    folders[flag] = tmp_path / "file"
    argv = ["--data", "sample", *SHORT.get(number, ("",))[0].split()]
    code, errors = status(main, capsys, *argv, *(x for pair in folders.items() for x in pair))
    assert (code, len(errors)) == (1, 1), errors
    assert errors[0].startswith("error: ")


# --- Where results go, and what a user brings along -----------------------------------------------


@pytest.mark.parametrize("name", ["[1]", "a*b", "what?", "back\\slash", "new\nline", "caf\udce9"])
@each_example
def test_a_folder_that_tensorflow_could_not_read_back_is_refused(path, name, tmp_path, capsys):
    main = importlib.import_module(f"examples.{path.stem}").main
    if "--models-dir" not in flags_of(path, capsys):
        return
    with pytest.raises(SystemExit) as stop:
        main(["--models-dir", str(tmp_path / name), "--data-dir", str(tmp_path)])
    assert stop.value.code == 2
    assert "TensorFlow wants a path" in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


ENVIRONMENT = {
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "KERAS_BACKEND": "jax",
    "TF_USE_LEGACY_KERAS": "1",
}
SETTINGS = """
import examples.helpers
import matplotlib.pyplot as plt, tensorflow as tf
k = tf.keras.config
print(k.backend(), k.floatx(), k.image_data_format(), plt.get_backend().lower())
"""


def test_settings_of_other_projects_change_nothing(tmp_path):
    (tmp_path / ".keras").mkdir()
    strange = {"floatx": "float16", "image_data_format": "channels_first", "backend": "torch"}
    (tmp_path / ".keras" / "keras.json").write_text(json.dumps(strange))
    env = {**os.environ, **ENVIRONMENT, "HOME": str(tmp_path)}
    process = subprocess.run(
        [sys.executable, "-c", SETTINGS], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert process.stdout.split() == ["tensorflow", "float32", "channels_last", "agg"], process


def test_a_home_folder_by_its_sign(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    args = cli.make_parser("Title.").parse_args(["--data-dir=~/x", "--models-dir=~/y"])
    assert (args.data_dir, args.models_dir) == (tmp_path / "x", tmp_path / "y")
