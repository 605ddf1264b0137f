"""Checks the site's sources: cells of examples, links between notes and examples, notebooks; and,
where it has been built (python docs/build.py), its pages: that no link leads nowhere.
"""

import ast
import json
import os
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
sys.path[:0] = [str(ROOT), str(DOCS / "_ext")]

import cells  # noqa: E402

NOTES = sorted((DOCS / "notes").glob("*.md"))
EXAMPLES = cells.read_examples()
each_note = pytest.mark.parametrize("note", NOTES, ids=lambda path: path.stem)
each_example = pytest.mark.parametrize("number", EXAMPLES)

# --- Cells ----------------------------------------------------------------------------------------

SCRIPT = '''"""Example 05: a title.

You will learn nothing.
"""

import sys  # one

# %% Data
# Prose with a table:
#
#   a   1
#   b   2
#
# More.
#
# * a list, whose
#   lines are indented


def load():
    """Not prose."""


# %% What to try next
# * Nothing.

if __name__ == "__main__":
    load()
'''


def test_a_script_is_read_cell_by_cell(tmp_path):
    path = tmp_path / "example05_what.py"
    path.write_text(SCRIPT)
    example = cells.read_example(path)
    assert (example.number, example.title) == ("05", "A title")
    first, data, last = example.cells
    assert first == cells.Cell("", "You will learn nothing.", "import sys  # one", 6)
    assert data.heading == "Data"
    assert data.code == 'def load():\n    """Not prose."""'
    assert SCRIPT.splitlines()[data.line - 1] == "def load():"
    assert "```text\na   1\nb   2\n```" in data.prose
    assert data.prose.endswith("More.\n\n* a list, whose\n  lines are indented")
    assert last.code.startswith("if __name__")
    assert example.label("What to try next") == "example05-what-to-try-next"


@each_example
def test_no_line_of_a_script_is_lost(number):
    example = EXAMPLES[number]
    shown = "\n".join(f"{cell.heading}\n{cell.prose}\n{cell.code}" for cell in example.cells)
    shown += "\n" + ast.get_docstring(ast.parse(example.path.read_text())).splitlines()[0]
    words = set(re.findall(r"\w+", example.path.read_text()))
    assert words - set(re.findall(r"\w+", shown)) <= {"Example", number}
    lines = example.path.read_text().splitlines()
    for cell in example.cells:
        for offset, line in enumerate(cell.code.splitlines()):
            assert lines[cell.line - 1 + offset] == line


@each_example
def test_no_two_cells_have_the_same_address(number):
    headings = [cells.slug(cell.heading) for cell in EXAMPLES[number].cells]
    assert len(set(headings)) == len(headings)


# --- Links ----------------------------------------------------------------------------------------


def test_there_are_eleven_notes_in_order():
    assert [path.name[:2] for path in NOTES] == [f"{i:02}" for i in range(1, 12)]
    for path in NOTES:
        assert path.read_text().startswith(f"# {int(path.name[:2])}. ")


@each_note
def test_links_of_a_note_lead_somewhere(note):
    text = note.read_text()
    for role in cells.CELL_ROLE.findall(text):
        number, heading = cells.target(role)
        headings = [cell.heading for cell in EXAMPLES[number].cells]
        assert heading in headings, f"{role}: example {number} has {headings}"
    for path in cells.SOURCE_ROLE.findall(text):
        assert (ROOT / path).is_file(), path
    for name in re.findall(r"\{doc\}`([^`]+)`", text):
        assert (DOCS / "notes" / f"{name}.md").is_file(), name
    for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
        assert (note.parent / name).is_file(), name
    for name in re.findall(r"\{include\} (\S+)", text):
        assert (note.parent / name).is_file(), name


@each_note
def test_a_note_leads_to_an_example_and_has_references(note):
    text = note.read_text()
    assert cells.CELL_ROLE.search(text)
    assert "\n## References\n" in text
    assert re.search(r"https://(doi|arxiv|www|papers|proceedings)", text)


@each_example
def test_a_note_leads_to_each_example(number):
    assert any(found == number for found, _ in cells.mentions()), "no note links to it"


def test_a_role_of_another_form_is_an_error():
    with pytest.raises(ValueError, match="is not of the form example05"):
        cells.target("example5#Model")


def test_every_table_that_is_made_is_shown_or_tested():
    made = {path.name for path in (DOCS / "notes" / "_generated").iterdir()}
    shown = set(re.findall(r"\{include\} _generated/(\S+)", "".join(n.read_text() for n in NOTES)))
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_note_*.py"))
    assert shown <= made
    assert [name for name in made - shown if Path(name).stem not in tests] == []


def test_every_table_and_picture_of_a_note_is_made_by_a_script():
    scripts = {path.stem for path in (DOCS / "figures").glob("*.py")} - {"__main__", "drawing"}
    text = "".join(note.read_text() for note in NOTES)
    names = re.findall(r"\((?:\.\./images)/(\w+)\.png\)|_generated/(\w+)\.md", text)
    for name in {first or second for first, second in names}:
        assert name.partition("_")[0] in scripts or name.startswith("example"), name
    for script in scripts:
        assert f"{{source}}`docs/figures/{script}.py`" in text, f"no note names {script}.py"


# --- Notebooks ------------------------------------------------------------------------------------


@each_example
def test_a_notebook_has_the_whole_script(number):
    example = EXAMPLES[number]
    notebook = json.loads(cells.notebook(example))
    code = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell.code for cell in example.cells if cell.code] == [
        text for text in code if text != cells.PICTURES and "FileNotFoundError" not in text[:999]
    ]
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)


RUN = """
import sys
import time
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], 4)
nbformat.validate(notebook)
NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
for cell in notebook.cells:
    for output in cell.get("outputs", []):
        print(output.get("text", ""), *output.get("data", {}))
"""


def run_notebook(example, folder):
    """Run a notebook in a kernel as Jupyter does, and return what its cells have printed."""
    python = ROOT / ".venv.docs" / "bin" / "python"
    if not python.exists():
        pytest.skip("the site's environment is missing: run  python docs/build.py")
    path = folder / "notebook.ipynb"
    path.write_text(cells.notebook(example))
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    environment = os.environ | {"PYTHONPATH": packages, "IPYTHONDIR": str(folder / "ipython")}
    process = subprocess.run(
        [python, "-c", RUN, str(path)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


@pytest.fixture
def copy(tmp_path):
    """A copy of the scripts, so that what a notebook writes is not in the repository."""
    for package in ("examples", "datasets", "models"):
        (tmp_path / package).mkdir()
        for path in (ROOT / package).glob("*.py"):
            (tmp_path / package / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize("number", ["01", "03"])
def test_a_notebook_runs(number, copy):
    (copy / "notebooks").mkdir()  # anywhere in the repository
    output = run_notebook(EXAMPLES[number], copy / "notebooks")
    if number == "01":
        assert "a + b = 7.0" in output
    else:
        assert "on sample data: scikit-learn's handwritten digits" in output
        assert output.count("image/png") >= 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [n for n in EXAMPLES if n not in ("01", "03", "09")])
def test_every_notebook_runs(number, copy):
    output = run_notebook(EXAMPLES[number], copy)
    assert re.search(r"test accuracy \S+ on ", output), output[-2000:]


def test_flags_of_a_kernel_are_not_taken_for_ours(copy):
    """In an editor's window a cell of the script itself may run, without the notebook's first."""
    launcher = copy / "ipykernel_launcher.py"
    launcher.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from examples import example01_add_two_numbers\n"
        "print(example01_add_two_numbers.main()['sum'])\n"
    )
    process = subprocess.run(
        [sys.executable, launcher, "-f", "kernel.json"], capture_output=True, text=True
    )
    assert process.stdout.endswith("7.0\n"), process.stderr


# --- The pages ------------------------------------------------------------------------------------

HTML = DOCS / "_build" / "html"
built = pytest.mark.skipif(
    not (HTML / "index.html").is_file(), reason="the site is not built: run  python docs/build.py"
)


class Page(HTMLParser):
    """The targets that a page links to, and the anchors that it has."""

    def __init__(self, path):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id":
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.append(value)


@built
def test_no_link_of_the_site_leads_nowhere():
    pages = {path.resolve(): Page(path) for path in HTML.rglob("*.html")}
    assert len(pages) > len(NOTES) + len(EXAMPLES)
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https", "mailto", "data"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not target.exists():
                broken.append(f"{path.name}: {link}")
            elif anchor and target in pages and anchor not in pages[target].anchors:
                broken.append(f"{path.name}: {link}: no such anchor")
    assert broken == []


@built
def test_nothing_is_fetched_from_elsewhere():
    for path in HTML.rglob("*.html"):
        fetched = re.findall(
            r'<(?:script|img|link)[^>]*(?:src|href)="(https?://[^"]+)', path.read_text()
        )
        assert fetched == [], path.name


@built
def test_every_example_and_note_has_a_page_and_no_page_is_left_over():
    examples = {path.stem for path in (HTML / "examples").glob("*.html")}
    assert examples == {example.path.stem for example in EXAMPLES.values()}
    notes = {path.stem for path in (HTML / "notes").glob("*.html")}
    assert notes == {path.stem for path in NOTES}


@built
@each_example
def test_a_page_has_all_cells_and_what_a_run_has_printed(number):
    example = EXAMPLES[number]
    page = Page(HTML / "examples" / f"{example.path.stem}.html")
    for cell in example.cells[1:]:
        assert example.label(cell.heading) in page.anchors
    assert any(link.endswith(example.path.name) for link in page.links), "no script to download"
    assert any(link.endswith(f"{example.path.stem}.ipynb") for link in page.links)
    text = (HTML / "examples" / f"{example.path.stem}.html").read_text()
    assert "run-output" in text


@built
def test_links_go_both_ways():
    for (number, heading), places in cells.mentions().items():
        example = EXAMPLES[number]
        page = Page(HTML / "examples" / f"{example.path.stem}.html")
        for place in places:
            assert any(f"notes/{place.note}.html" in link for link in page.links)
            note = Page(HTML / "notes" / f"{place.note}.html")
            label = example.label(heading)
            assert f"../examples/{example.path.stem}.html#{label}" in note.links or (
                not heading and f"../examples/{example.path.stem}.html" in note.links
            )


# --- What a browser shows -------------------------------------------------------------------------

LOOKED_AT = {
    "index": "index.html",
    "note": "notes/01_features_and_perceptrons.html",
    "example": "examples/example05_mnist_cnn_nn.html",
}


def open_page(browser, address):
    browser.open(f"{HTML.as_uri()}/{address}")
    deadline = time.monotonic() + 30
    while browser.evaluate("document.readyState") != "complete":
        assert time.monotonic() < deadline, f"{address} does not load"
        time.sleep(0.1)


@built
@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("name", LOOKED_AT)
def test_a_page_fits_the_window(browser, name, width):
    for dark in (False, True):
        browser.resize(width, dark=dark)
        open_page(browser, LOOKED_AT[name])
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        red, green, blue = map(int, re.findall(r"\d+", background)[:3])
        assert (red + green + blue < 200) == dark, background
        if folder := os.environ.get("SCREENSHOTS"):
            file = f"site_{name}_{width}{'_dark' * dark}.png"
            Path(folder, file).write_bytes(browser.screenshot())


@built
def test_no_page_is_wider_than_a_phone(browser):
    browser.resize(390)
    pages = ["measured.html", *(f"notes/{note.stem}.html" for note in NOTES)]
    pages += [f"examples/{example.path.stem}.html" for example in EXAMPLES.values()]
    wide = []
    for page in pages:
        open_page(browser, page)
        wide += [page] * (browser.evaluate("document.documentElement.scrollWidth") > 390)
    assert wide == []


@built
def test_prose_stands_beside_code_where_there_is_room(browser):
    place = "document.querySelectorAll('.cell-{}')[2].getBoundingClientRect()"
    prose, code = place.format("prose"), place.format("code")
    browser.resize(1440)
    open_page(browser, LOOKED_AT["example"])
    assert browser.evaluate(f"{prose}.right <= {code}.left && {prose}.top == {code}.top")
    lines = "[...document.querySelectorAll('.cell-code pre')]"
    assert browser.evaluate(f"{lines}.every((e) => e.scrollWidth <= e.clientWidth)")
    browser.resize(390)
    assert browser.evaluate(f"{prose}.bottom <= {code}.top")


@built
def test_equations_are_drawn_without_a_network(browser):
    browser.resize(1440)
    for note in NOTES:
        open_page(browser, f"notes/{note.stem}.html")
        count = browser.evaluate("document.querySelectorAll('.math').length")
        deadline = time.monotonic() + 30
        while browser.evaluate("document.querySelectorAll('mjx-container svg').length") < count:
            assert time.monotonic() < deadline, f"{note.name}: not all equations are drawn"
            time.sleep(0.1)
        wrong = browser.evaluate("document.querySelectorAll('[data-mjx-error]').length")
        assert wrong == 0, f"{note.name}: MathJax does not understand {wrong} equations"


@built
def test_search_finds_a_word_of_the_notes(browser):
    browser.resize(1440)
    open_page(browser, "search.html?q=perceptron")
    results, deadline = "document.querySelectorAll('#search-results li').length", time.monotonic()
    while not browser.evaluate(results):
        assert time.monotonic() < deadline + 30, "nothing is found"
        time.sleep(0.1)
