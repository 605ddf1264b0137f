"""Checks that every example has the shape that readers know from the others: what its docstring
says, its cells, its main(), that it stands by itself, and that --help and importing are quiet.
"""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

EXAMPLES = sorted((ROOT / "examples").glob("example[0-9][0-9]_*.py"))
each_example = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)


def imported_modules(path):
    """Return the full names of all modules, and of what is taken out of them, in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def known_flags(path, capsys):
    """Return the flags that an example's --help names."""
    main = importlib.import_module(f"examples.{path.stem}").main
    with pytest.raises(SystemExit):
        main(["--help"])
    return set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out))


def test_there_are_examples_and_no_two_have_a_number():
    numbers = [path.name[len("example") :][:2] for path in EXAMPLES]
    assert len(numbers) >= 2
    assert len(set(numbers)) == len(numbers)


@each_example
def test_docstring(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    title, blank, *rest = docstring.splitlines()
    number = path.name[len("example") :][:2]
    assert re.fullmatch(rf"Example {number}: .+\.", title)
    assert blank == ""
    assert rest[0].startswith("You will learn ")
    commands = [line for line in rest if line.startswith("    ")]
    assert commands, "no indented line with the command"
    for command in commands:
        assert re.match(rf"    python examples/{path.name}( |$)", command), command
    assert "Before this one" in docstring
    assert "After it" in docstring


@each_example
def test_commands_of_the_docstring_have_flags_that_exist(path, capsys):
    known = known_flags(path, capsys)
    commands = re.findall(r"^    python .*$", ast.get_docstring(ast.parse(path.read_text())), re.M)
    used = set(re.findall(r"--[a-z][a-z-]*", " ".join(commands)))
    assert used <= known


SHARED = ("--data", "--data-dir", "--models-dir", "--min-accuracy")
TRAINING = ("--batch-size", "--learning-rate", "--seed", "--precision", "--train-images")


@each_example
def test_flags_are_those_of_the_others(path, capsys):
    known = known_flags(path, capsys)
    if path.stem.startswith("example01"):  # adds two numbers: no data, no files
        return
    assert known.issuperset(SHARED)
    if "--epochs" in known:
        assert known.issuperset(TRAINING)


@each_example
def test_cells(path):
    text = path.read_text()
    cells = re.findall(r"^# %%(.*)$", text, re.M)
    assert len(cells) >= 4
    for cell in cells:
        assert re.fullmatch(r" \S.*", cell), f"a cell without a heading: {cell!r}"
    assert cells[-1] == " What to try next"
    suggestions = text[text.rindex("# %%") :]
    assert re.search(r"^# \* ", suggestions, re.M)


@each_example
def test_repository_comes_first_on_the_path(path):
    line = "sys.path.insert(0, str(Path(__file__).resolve().parents[1]))"
    before, found, after = path.read_text().partition(line)
    assert found
    for package in ("datasets", "models", "examples"):
        used = re.compile(rf"^(from|import) {package}\b", re.M)
        assert not used.search(before), f"{package} is imported before the path is set"
    assert re.search(r"^(from|import) (datasets|models|examples)\b", after, re.M)


@each_example
def test_main_takes_arguments_and_returns_metrics(path):
    main = importlib.import_module(f"examples.{path.stem}").main
    (argv,) = inspect.signature(main).parameters.values()
    assert argv.name == "argv"
    assert argv.default is None
    assert inspect.signature(main).return_annotation is dict
    last = ast.parse(path.read_text()).body[-1]
    assert isinstance(last, ast.If)
    assert ast.unparse(last.test) == "__name__ == '__main__'"


@each_example
def test_no_example_imports_another(path):
    others = [name for name in imported_modules(path) if re.search(r"\bexample\d\d", name)]
    assert others == []


@pytest.mark.parametrize(
    ("package", "may_not_know"),
    [("datasets", ("models", "examples")), ("models", ("datasets", "examples"))],
)
def test_arrows_go_one_way(package, may_not_know):
    files = list((ROOT / package).glob("*.py"))
    assert files
    for path in files:
        known = {name.split(".")[0] for name in imported_modules(path)}
        assert known.isdisjoint(may_not_know), path.name


@each_example
def test_help_is_help_and_nothing_else(path, capsys):
    main = importlib.import_module(f"examples.{path.stem}").main
    with pytest.raises(SystemExit) as error:
        main(["--help"])
    assert error.value.code == 0
    output, errors = capsys.readouterr()
    assert output.startswith("usage: ")
    assert f"\nExample {path.name[len('example') :][:2]}: " in output
    assert errors == ""


def test_starting_is_silent_in_any_folder(tmp_path):
    # One process for one example: all of them start in the same way, and it takes seconds.
    process = subprocess.run(
        [sys.executable, str(EXAMPLES[0]), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0
    assert process.stdout.startswith(f"usage: {EXAMPLES[0].name} ")
    assert process.stderr == ""
    assert list(tmp_path.iterdir()) == []
