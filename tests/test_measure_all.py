"""Checks tests/benchmarks: commands run again, failures are said, every benchmark starts."""

import json
import runpy
import sys

import matplotlib.pyplot as plt
import measure_all
import numpy as np
import pytest
from matplotlib import colors
from programs import ROOT, figures

BENCHMARKS = sorted((ROOT / "tests" / "benchmarks").glob("bench_*.py"))
TRAINS = """
import json, os, pathlib, sys
from PIL import Image
folder = pathlib.Path(__file__).parents[1] / "models" / "example03_brief"
folder.mkdir(exist_ok=True)
metrics = {"command": sys.argv[1:], "test_accuracy": 0.9, "style": os.environ["MATPLOTLIBRC"]}
(folder / "metrics.json").write_text(json.dumps(metrics))
for name in ("confusion_matrix", "learning_curves", "templates", "worst_mistakes"):
    Image.new("RGBA", (9, 9)).save(folder / f"{name}.png")
(folder / "confusion_matrix.csv").write_text("the counts")
print("test accuracy 0.9, written to", folder)
"""
MEASURES = "import pathlib, sys; pathlib.Path(sys.argv[-1]).write_text(str(sys.argv[1:-1]))"
FAILS = "import sys; print('a bar', file=sys.stderr); sys.exit('error: no data')"
KINDS = ("default", "long", "sample")
SCRIPTS = {  # by the results that they make
    "benchmark_fails": ("tests/benchmarks/bench_fails.py", FAILS),
    "benchmark_works": ("tests/benchmarks/bench_works.py", MEASURES),
    "example01_default": ("examples/example01_default.py", "print('a + b = 7.0')"),
    **{f"example03_{x}": ("examples/example03_brief.py", TRAINS) for x in KINDS},
    "example05_default": ("examples/example05_fails.py", FAILS),
}


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder of results in a project whose scripts are over at once; some of them fail."""
    folder = tmp_path / "results"
    for name in ("examples/helpers", "tests/benchmarks", "results", "images", "data"):
        (tmp_path / name).mkdir(parents=True)
    for name, (script, text) in SCRIPTS.items():
        (tmp_path / script).write_text(text)
        result = {"command": f"python {script} --data sample", "old": True}
        (folder / f"{name}.json").write_text(json.dumps(result))
    monkeypatch.setattr(measure_all, "ROOT", tmp_path)
    monkeypatch.setattr(measure_all, "RESULTS", folder)
    monkeypatch.setattr(measure_all.results, "IMAGES", tmp_path / "images")
    monkeypatch.setattr(measure_all, "show", lambda: None)
    return folder


def test_all(results, tmp_path, capsys):
    failures = measure_all.main(["--data-dir", str(tmp_path / "data")])
    assert failures == dict.fromkeys(
        ["benchmark_fails.json", "example05_default.json"], "error: no data"
    )
    for name in failures:
        assert json.loads((results / name).read_text())["old"]
    made = json.loads((results / "example03_sample.json").read_text())
    style = str(measure_all.MATPLOTLIBRC)
    assert made == {"command": ["--data", "sample"], "test_accuracy": 0.9, "style": style}
    text = (results / "example03_sample.txt").read_text()
    assert text == "test accuracy 0.9, written to /path/to/project/models/example03_brief\n"
    assert {path.stem for path in results.glob("*.txt")} == {
        *("example01_default", "example03_default", "example03_sample")  # as the site shows them
    }
    assert {path.stem for path in (tmp_path / "images").iterdir()} == {
        "example03_templates",  # real photographs belong to others
        *("example03_sample_templates", "example03_sample_worst_mistakes"),
    }
    matrices = {path.stem: path.read_text() for path in results.glob("*.csv")}
    assert matrices == {  # for docs/figures/runs.py
        f"example03_{kind}_confusion_matrix": "the counts" for kind in ("default", "sample")
    }
    timed = json.loads((results / "example01_default.json").read_text())  # it writes no files
    assert timed["command"].endswith("example01_default.py --data sample")
    assert timed["total_seconds"] >= 0
    assert (results / "benchmark_works.json").read_text() == "['--data', 'sample', '--output']"
    output = capsys.readouterr().out
    assert "not measured: benchmark_fails: error: no data" in output
    assert "5 of 7 files" in output


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_every_benchmark_starts_and_can_write_its_result(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(path), run_name="__main__")
    assert (stop.value.code, "--output" in capsys.readouterr().out) == (0, True)


def test_some_by_their_names(results, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(measure_all, "measure", lambda path, copy: asked.append(path.stem) or "")
    argv = ["bench", "05", "--data-dir", str(tmp_path / "data")]
    assert measure_all.main(argv) == {}
    assert asked == ["example05_default", "benchmark_fails", "benchmark_works"]  # in this order


def test_the_copy_has_scripts_and_data_but_no_results(tmp_path):
    data = tmp_path / "data"
    for name in ("mnist", "sample"):
        (data / name).mkdir(parents=True)
    copy = measure_all.copy_of_the_project(tmp_path, data)
    assert (copy / "examples" / "helpers" / "run.py").is_file()
    assert [path.name for path in (copy / "datasets" / "downloads").iterdir()] == ["mnist"]
    assert all(path.suffix == ".py" for path in (copy / "models").iterdir())


def test_what_scripts_read_comes_with_them(tmp_path):
    (tmp_path / "data").mkdir()
    copy = measure_all.copy_of_the_project(tmp_path, tmp_path / "data")
    assert (copy / "datasets" / "drawings.svg").is_file()
    assert (copy / "datasets" / "downloads").is_dir()


def luminance(colour):
    """Return how bright a colour is, from 0 to 1, as WCAG 2 defines it."""
    rgb = np.array(colors.to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def test_pictures_can_be_read_on_a_light_page_and_on_a_dark_one():
    with plt.rc_context(fname=measure_all.MATPLOTLIBRC):
        figure, axis = plt.subplots()
        axis.set(title="title", xlabel="x")
        legend = axis.legend(axis.plot([0, 1]), ["a line"])
        figure.canvas.draw()
        texts = [axis.title, axis.xaxis.label, *axis.get_xticklabels(), *axis.get_yticklabels()]
        colours = {text.get_color() for text in [*texts, *legend.get_texts()]}
        colours |= {spine.get_edgecolor() for spine in axis.spines.values()}
        alpha = np.asarray(figure.canvas.buffer_rgba())[..., 3]
    plt.close(figure)
    assert np.median(alpha) == 0  # no ground
    for ground in ("white", figures("drawing").COLOURS["paper"][1]):
        for colour in colours:
            dark, light = sorted([luminance(colour), luminance(ground)])
            assert (light + 0.05) / (dark + 0.05) > 4.25
