"""The command that makes all figures and tables of the notes; and that they are those in docs/.

The numbers themselves are tested note by note, in tests/test_note*.py.
"""

import io
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from programs import ROOT

FIGURES = ROOT / "docs" / "figures"
SCRIPTS = sorted({path.stem for path in FIGURES.glob("*.py")} - {"__main__", "drawing"})
REAL_DATA = {"fitting": ROOT / "datasets" / "downloads" / "mnist"}  # and not sample data


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
