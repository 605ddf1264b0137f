"""The command that makes all figures and tables of the notes; and that they are those in docs/.

The numbers themselves are tested note by note, in tests/test_note*.py.
"""

import io
import json
import re
import shutil
import subprocess
import sys
import time

import matplotlib.pyplot as plt
import numpy as np
import pytest
import results
from PIL import Image
from programs import ROOT, figures

from datasets import cifar10, pretrained

FIGURES = ROOT / "docs" / "figures"
SCRIPTS = sorted({path.stem for path in FIGURES.glob("*.py")} - {"__main__", "drawing", "runs"})
RECORDED = [path.with_suffix(".json") for path in sorted(results.RESULTS.glob("*.txt"))]
DOWNLOADS = ROOT / "datasets" / "downloads"
REAL_DATA = {"fitting": DOWNLOADS / "mnist", "hero": DOWNLOADS / pretrained.VGG16_BLOCKS.path}


def make(*arguments, folder=FIGURES):
    command = [sys.executable, str(folder), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=1800)


def test_the_command_runs_scripts_and_says_which_one_failed(tmp_path):
    shutil.copy(FIGURES / "__main__.py", tmp_path)
    (tmp_path / "good.py").write_text("import sys; print('good', sys.argv[1:])")
    (tmp_path / "bad.py").write_text("raise SystemExit('error: bad')")
    (tmp_path / "silent.py").write_text("raise SystemExit(3)")
    process = make("--folder", "there", folder=tmp_path)
    assert process.returncode == 1
    assert "good ['--folder', 'there']" in process.stdout  # though one before it failed
    assert "error: bad" in process.stderr and "silent: ended without a reason" in process.stderr
    assert make("good", folder=tmp_path).returncode == 0
    process = make("nonsense", folder=tmp_path)
    assert process.returncode == 2
    assert process.stderr.endswith("no script docs/figures/nonsense.py\n")
    assert "bad, good, silent" in make("--help", folder=tmp_path).stdout


def pictures_of(name, folder):
    """Return the pictures that a script has made in a folder like docs/."""
    files = (folder / "images").glob("*.svg")
    return {path.name: path for path in files if re.split(r"[_.]", path.name)[0] == name}


def seen(browser, path):
    """Return what a browser shows of a picture, grey (H, W)."""
    browser.open(path.as_uri())
    deadline = time.monotonic() + 30
    while not browser.evaluate(
        "document.contentType == 'image/svg+xml' && document.readyState == 'complete'"
    ):
        assert time.monotonic() < deadline, f"{path} does not load"
        time.sleep(0.05)
    return np.asarray(Image.open(io.BytesIO(browser.screenshot())).convert("L"), float)


@pytest.mark.slow
@pytest.mark.figures
@pytest.mark.parametrize("name", SCRIPTS)
def test_what_lies_in_docs_is_what_the_script_makes(name, tmp_path, browser):
    if name in REAL_DATA and not REAL_DATA[name].exists():
        pytest.skip(f"needs the real data in {REAL_DATA[name]}")
    shutil.copytree(ROOT / "docs" / "notes", tmp_path / "notes")
    process = make(name, "--folder", tmp_path)
    assert process.returncode == 0, process.stderr
    for note in (tmp_path / "notes").iterdir():  # on another processor, last digits may be others
        texts = [each.read_text() for each in (note, ROOT / "docs" / "notes" / note.name)]
        texts = [re.sub(r"[\d.,]+", "#", text) for text in texts]
        assert texts[0] == texts[1], f"python docs/figures/{name}.py makes another {note.name}"
    made, kept = pictures_of(name, tmp_path), pictures_of(name, ROOT / "docs")
    assert set(made) == set(kept)
    browser.resize(550, 400)  # as large as the largest
    for file, path in made.items():
        new, old = seen(browser, path), seen(browser, kept[file])
        assert np.abs(new - old).mean() < 3, f"{file} looks different"


# --- Recorded runs --------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """docs/figures/runs.py in the style of all figures, drawing in a folder of its own."""
    module = figures("runs")
    monkeypatch.setattr(module.drawing, "folder", tmp_path)
    with plt.rc_context():
        plt.rcdefaults()
        plt.rcParams.update(module.drawing.STYLE)
        yield module


def test_recorded_runs_are_drawn_as_they_lie_in_docs(runs, tmp_path):
    runs.main()
    folders = tmp_path / "images", results.IMAGES
    made, kept = ({x.name: x.read_bytes() for x in y.glob("example*.svg")} for y in folders)
    assert set(made) == set(kept)
    others = [name for name in made if made[name] != kept[name]]
    assert others == [], "python docs/figures/runs.py draws them anew"


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_recorded_run_has_its_curves_and_its_matrix(path):
    metrics, printed = json.loads(path.read_text()), path.with_suffix(".txt").read_text()
    shown = " ".join(picture.name for picture in results.pictures_of(path))
    scores = {name.removeprefix("validation_") for name in metrics.get("history", ())}
    assert shown.count("learning_curves_") == len(scores - {"seconds"})
    has_matrix = "confusion_matrix.png" in printed
    assert shown.count("confusion_matrix.svg") == has_matrix
    if has_matrix:
        names, rows = results.matrix_of(path)
        counts = np.array(rows)
        assert counts.shape == (len(names), len(names))
        share = np.trace(counts) / counts.sum()
        assert share == pytest.approx(metrics["test_accuracy"], abs=1e-6)


def test_a_confusion_matrix_can_be_read_on_a_phone(runs, monkeypatch):
    drawn = []
    monkeypatch.setattr(runs.drawing, "save", lambda figure, name: drawn.append(figure))
    counts = np.full((10, 10), 888)
    counts[1, 3], counts[2, 5] = 123, 0
    runs.draw_matrix(list(cifar10.CLASS_NAMES), counts, "matrix")
    (figure,) = drawn
    figure.draw_without_rendering()
    (axis,) = figure.axes
    found = {tuple(int(x) for x in text.get_position()): text.get_text() for text in axis.texts}
    expected = {(j, i): str(count) for (i, j), count in np.ndenumerate(counts) if count}
    assert found == expected  # true classes in rows
    texts = [*axis.texts, *axis.get_yticklabels(), axis.xaxis.label, axis.yaxis.label]
    sizes = [text.get_fontsize() for text in [*texts, *axis.get_xticklabels()]]
    assert figure.get_figwidth() <= 3.65 and min(sizes) >= 8.25  # 350 and 11 pixels
    boxes = [text.get_window_extent() for text in texts]
    assert sum(a.overlaps(b) for a in boxes for b in boxes) == len(boxes)  # each with itself
    plt.close(figure)
