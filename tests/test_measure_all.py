"""Checks tests/benchmarks/measure_all.py: that commands run again in a project without results,
that their files replace the old ones, and that what cannot be measured is said and left as it was.
"""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))

import measure_all  # noqa: E402

NAMES = ("example03_brief", "example05_missing", "benchmark_missing")


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder of results with a command that works, and two whose data is not there."""
    folder = tmp_path / "results"
    folder.mkdir()
    brief = "python examples/example03_mnist_mlp.py --data sample --epochs 1 --train-images 200"
    missing = "python examples/example10_cats_dogs_tfrecord.py"
    benchmark = "python tests/benchmarks/bench_cifar10_loading.py"
    for name, command in zip(NAMES, (brief, missing, benchmark), strict=True):
        (folder / f"{name}.json").write_text(json.dumps({"command": command, "old": True}))
    monkeypatch.setattr(measure_all, "RESULTS", folder)
    monkeypatch.setattr(measure_all, "rewrite_tables", lambda: None)
    monkeypatch.setenv("EXAMPLES_MIRROR", "http://127.0.0.1:9")
    for proxy in ("HTTP_PROXY", "HTTPS_PROXY"):  # so that nothing reaches the network
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    return folder


def test_all(results, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    failures = measure_all.main(["--data-dir", str(tmp_path / "data")])
    assert set(failures) == {"example05_missing.json", "benchmark_missing.json"}
    assert all(reason.startswith("error: ") for reason in failures.values())
    made = json.loads((results / "example03_brief.json").read_text())
    assert made["command"].endswith("--data sample --epochs 1 --train-images 200")
    assert made["test_accuracy"] > 0.1
    for name in failures:
        assert json.loads((results / name).read_text())["old"]
    output = capsys.readouterr().out
    assert "not measured: benchmark_missing: error: " in output
    assert "1 of 3 files" in output


def test_some_by_their_names(results, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(measure_all, "measure", lambda path, copy: asked.append(path.stem) or "")
    (tmp_path / "data").mkdir()
    assert measure_all.main(["bench", "05", "--data-dir", str(tmp_path / "data")]) == {}
    assert asked == ["example05_missing", "benchmark_missing"]  # benchmarks come last


def test_the_copy_has_scripts_and_data_but_no_results(tmp_path):
    data = tmp_path / "data"
    for name in ("mnist", "sample"):
        (data / name).mkdir(parents=True)
    copy = measure_all.copy_of_the_project(tmp_path, data)
    assert (copy / "examples" / "helpers" / "run.py").is_file()
    assert [path.name for path in (copy / "datasets" / "downloads").iterdir()] == ["mnist"]
    assert all(path.suffix == ".py" for path in (copy / "models").iterdir())


@pytest.mark.parametrize(
    ("name", "pictures"),
    [
        ("example06_default", {"example06_learning_curves.png"}),  # photographs belong to others
        (
            "example06_sample",
            {"example06_sample_learning_curves.png", "example06_sample_worst_mistakes.png"},
        ),
        ("example14_long", set()),
    ],
)
def test_what_a_run_prints_and_draws_is_kept(name, pictures, tmp_path, monkeypatch):
    made, images = tmp_path / "made", tmp_path / "images"
    for folder in (made, images):
        folder.mkdir()
    for picture in ("learning_curves.png", "worst_mistakes.png"):
        (made / picture).write_bytes(b"a picture")
    monkeypatch.setattr(measure_all.results, "IMAGES", images)
    measure_all.keep(tmp_path / f"{name}.json", "test accuracy 0.9\n", made)
    assert {path.name for path in images.iterdir()} == pictures
    output = tmp_path / f"{name}.txt"
    assert output.is_file() == bool(pictures)
    assert not pictures or output.read_text() == "test accuracy 0.9\n"
