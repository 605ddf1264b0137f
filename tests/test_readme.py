"""Checks that README.md agrees with the files it speaks of: measured results, commands, links."""

import json
import re
import subprocess
import sys

import pytest
import results
from programs import ROOT

README = (ROOT / "README.md").read_text()
SETUP, TEST = (
    "./setup_env.sh python examples/example07_vgg16_cifar10.py --data sample",
    "./setup_env.sh pytest",
)


def test_tables_are_what_the_result_files_say():
    command = [sys.executable, str(ROOT / "docs" / "results.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("page", "row"), [("PAGE", r"\| 03 \| `python.*?\d%"), ("README", r"\| 03 \|.*?\d%")]
)
def test_check_notices_a_number_that_was_changed_by_hand(page, row, monkeypatch, tmp_path):
    text = getattr(results, page).read_text()
    number = re.search(row, text).end() - 2  # the last digit of an accuracy
    changed = "1" if text[number] == "0" else "0"
    monkeypatch.setattr(results, page, tmp_path / "page.md")
    (tmp_path / "page.md").write_text(text[:number] + changed + text[number + 1 :])
    with pytest.raises(SystemExit, match="out of date"):
        results.main(["--check"])


@pytest.mark.parametrize(
    ("metrics", "shown"),
    [
        ({"map_50": 0.9, "map": 0.61, "count_error": 1}, "mAP 0.900 at IoU 0.5 on BCCD in 20 s"),
        ({"iou": 0.9, "score": 0.5, "score_50": 0.7}, "IoU 0.900 on BCCD in 20 s"),
        (
            {"test_accuracy": 0.9, "one_shot_error": 0.1, "error_of_pixels": 0.7}
            | {"error_untrained": 0.5},
            "error 10.0% on BCCD in 20 s",
        ),
        ({"test_accuracy": 0.9}, "90.00% on BCCD in 20 s"),
    ],
)
def test_the_index_shows_the_score_of_the_task(metrics, shown, monkeypatch, tmp_path):
    about = {"data": "BCCD", "command": "python examples/example15.py", "total_seconds": 20}
    (tmp_path / "example15_default.json").write_text(json.dumps(about | metrics))
    (tmp_path / "example15_default.txt").touch()
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    row = "| 15 | [`example15_cells.py`](examples/example15_cells.py) | cells |"
    assert results.with_index(f"{row} |") == f"{row} {shown} |"


def test_a_run_that_was_not_measured_yet_is_left_out(monkeypatch, tmp_path):
    (tmp_path / "example15_default.json").write_text('{"command": "python examples/example15.py"}')
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    assert "example15" not in results.runs()
    assert results.in_short("15") == ""


def test_a_run_has_its_own_pictures_only(monkeypatch, tmp_path):
    for name in ("example15_curves", "example15_blocks_curves", "example15_sample_answers"):
        (tmp_path / f"{name}.png").touch()
    monkeypatch.setattr(results, "IMAGES", tmp_path)
    for run, picture in (("default", "curves"), ("sample", "sample_answers")):
        shown = results.pictures_of(tmp_path / f"example15_{run}.json")
        assert [path.stem for path in shown] == [f"example15_{picture}"]


def test_the_two_commands_stand_together_and_ci_runs_the_second():
    assert f"```\n{SETUP}\n{TEST}\n```" in README
    assert TEST in (ROOT / ".ci" / "run").read_text().splitlines()


def test_it_is_one_page():
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("example[0-9]*.py")), ids=str)
def test_every_example_is_in_the_index(path):
    assert f"](examples/{path.name})" in README


def test_links_and_pictures_are_there():
    targets = re.findall(r"\]\(([^)#]+)", README)
    local = [target for target in targets if not target.startswith("http")]
    assert len(local) >= 4
    assert [target for target in local if not (ROOT / target).exists()] == []


def test_every_picture_is_shown():
    pictures = {f"docs/images/{path.name}" for path in (ROOT / "docs" / "images").iterdir()}
    assert pictures
    shown = set(re.findall(r"!\[[^]]*\]\(([^)]+)\)", README))
    for note in (ROOT / "docs" / "notes").glob("*.md"):
        shown |= set(re.findall(r"!\[[^]]*\]\(\.\./(images/[^)]+)\)", note.read_text()))
    for run in (ROOT / "docs" / "results").glob("*.txt"):  # shown on the example's page
        shown |= {f"images/{path.name}" for path in results.pictures_of(run.with_suffix(".json"))}
    assert pictures == {f"docs/{path.removeprefix('docs/')}" for path in shown}


def test_scripts_that_are_named_are_there():
    named = set(re.findall(r"(?:examples|tests|docs)/[\w/]+\.py", README))
    named = {name for name in named if "NN" not in name}  # what the reader will write
    assert len(named) >= 3
    assert [name for name in named if not (ROOT / name).is_file()] == []
