"""Checks the command that makes all figures and tables of the notes, and that what lies in docs/ is
what it makes. The numbers themselves are tested note by note, in tests/test_note_*.py.
"""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "figures"
SCRIPTS = sorted(path.stem for path in FIGURES.glob("*.py"))
SCRIPTS = [name for name in SCRIPTS if name not in ("__main__", "drawing")]
REAL_DATA = {"fitting": ROOT / "datasets" / "downloads" / "mnist"}  # and not sample data


def make(*arguments):
    command = [sys.executable, str(FIGURES), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=1800)


def test_a_name_that_no_script_has_is_said_at_once():
    process = make("nonsense")
    assert process.returncode == 2
    assert process.stderr.endswith("no script docs/figures/nonsense.py\n")
    assert all(name in process.stderr + make("--help").stdout for name in SCRIPTS)


def test_a_script_that_fails_is_named(tmp_path):
    (tmp_path / "images").write_text("a file where a folder must be")
    process = make("architectures", "--folder", tmp_path)
    assert process.returncode == 1
    assert "error: " in process.stderr
    assert "images" in process.stderr


def made_by(name, folder):
    """Return the pictures and tables that a script has made in a folder like docs/."""
    pictures = {path.name: path for path in (folder / "images").glob("*.png")}
    tables = {path.name: path for path in (folder / "notes" / "_generated").glob("*.md")}
    return {
        file: path
        for file, path in (pictures | tables).items()
        if re.split(r"[_.]", file)[0] == name
    }


@pytest.mark.slow
@pytest.mark.figures
@pytest.mark.parametrize("name", SCRIPTS)
def test_what_lies_in_docs_is_what_the_script_makes(name, tmp_path):
    if name in REAL_DATA and not REAL_DATA[name].exists():
        pytest.skip(f"needs the real data in {REAL_DATA[name]}")
    process = make(name, "--folder", tmp_path)
    assert process.returncode == 0, process.stderr
    made, kept = made_by(name, tmp_path), made_by(name, ROOT / "docs")
    assert set(made) == set(kept)
    for file, path in made.items():
        if path.suffix == ".md":  # on another processor, the last digits may be others
            texts = [re.sub(r"[\d.,]+", "#", each.read_text()) for each in (path, kept[file])]
            assert texts[0] == texts[1], f"python docs/figures/{name}.py makes another {file}"
        else:
            new, old = (np.asarray(Image.open(each).convert("L"), float)
                        for each in (path, kept[file]))  # fmt: skip
            assert new.shape == old.shape, file
            assert np.abs(new - old).mean() < 3, f"{file} looks different"
