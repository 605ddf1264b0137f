"""Checks the site: cells, links, notebooks; where it is built (docs/build.py), its pages."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import cells
import numpy as np
import pytest
import results
from PIL import Image
from programs import ROOT

from examples import example01_add_two_numbers as example01

DOCS = ROOT / "docs"
NOTES = sorted((DOCS / "notes").glob("*.md"))
EXAMPLES = cells.read_examples()
GLOSSARY = DOCS / "glossary.md"
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
#       x
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
    assert "```text\n    x\na   1\nb   2\n```" in data.prose
    assert data.prose.endswith("More.\n\n* a list, whose\n  lines are indented")
    assert last.code.startswith("if __name__")
    assert example.label("What to try next") == "example05-what-to-try-next"


@each_example
def test_no_line_of_a_script_is_lost(number):
    example = EXAMPLES[number]
    text = example.path.read_text()
    shown = [example.title, *(f"{c.heading}\n{c.prose}\n{c.code}" for c in example.cells)]
    words, found = (set(re.findall(r"\w+", x.lower())) for x in (text, "\n".join(shown)))
    assert words - found <= {"example", number}
    lines = text.splitlines()
    for cell in example.cells:
        code = cell.code.splitlines()
        assert lines[cell.line - 1 :][: len(code)] == code
    headings = [cells.slug(cell.heading) for cell in example.cells]
    assert len(set(headings)) == len(headings), "two cells have the same address"


# --- Links ----------------------------------------------------------------------------------------


def test_a_term_of_the_glossary_is_taught_where_it_leads():
    items = re.findall(r"^\* \*\*(.+?)\*\*(.*?)(?=^\* |\Z)", GLOSSARY.read_text(), re.M | re.S)
    assert len(items) > 90
    assert [t.lower() for t, _ in items] == sorted((t.lower() for t, _ in items), key=str.casefold)
    for term, text in items:
        word = re.sub(r" \(.*\)", "", term).split(", ")[0]
        paths = re.findall(r"\]\(([^)#\s]+)", text)
        taught = [(DOCS / path).read_text().replace("#", "") for path in paths]
        taught = " ".join(" ".join(taught).replace("*", "").split()).lower()
        assert word.lower() in taught, f"{term} is not to be found there"


def test_there_are_eleven_notes_in_order():
    assert [path.name[:2] for path in NOTES] == [f"{i:02}" for i in range(1, 12)]
    for path in NOTES:
        assert path.read_text().startswith(f"# {int(path.name[:2])}. ")


@each_note
def test_links_of_a_note_lead_somewhere(note):
    text = note.read_text()
    assert cells.CELL_LINK.search(text), "no link to an example"
    for number, slug in cells.CELL_LINK.findall(text):
        slugs = ["", *(cells.slug(cell.heading) for cell in EXAMPLES[number].cells)]
        assert slug in slugs, f"example {number} has {slugs}"
    paths = set(re.findall(r"\]\((?!https?:)([^)#]+)", text))
    assert [path for path in paths if not (note.parent / path).is_file()] == []
    _, _, references = text.partition("\n## References\n")
    assert re.search(r"https://(doi|arxiv|www|papers|proceedings)", references)


def test_a_note_leads_to_each_example():
    assert {number for number, _ in cells.mentions()} == set(EXAMPLES)


PAGES = [*NOTES, *(DOCS / f"{name}.md" for name in ("results", "serving", "glossary", "data"))]


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_a_page_is_what_github_shows_too(page):
    """It has no directive or role of Sphinx, which GitHub would print as they are."""
    assert re.findall(r"^(?:```|:::)\{|\{\w+\}`", page.read_text(), re.MULTILINE) == []


def test_tables_and_pictures_of_notes_are_made_by_a_script_and_shown_or_tested():
    text = "".join(note.read_text() for note in NOTES)
    scripts = {path.stem for path in (DOCS / "figures").glob("*.py")}
    scripts -= {"__main__", "drawing", "runs"}
    pictures = set(re.findall(r"\(\.\./images/(\w+)\.\w+\)", text))
    shown = set(re.findall(r"^<!-- (\w+): made by", text, re.MULTILINE))
    makers = {name.partition("_")[0] for name in pictures | shown}
    assert {name for name in makers if not name.startswith("example")} <= scripts
    assert [x for x in scripts if f"](../../docs/figures/{x}.py)" not in text] == []


# --- Notebooks ------------------------------------------------------------------------------------


@each_example
def test_a_notebook_has_the_whole_script(number):
    example = EXAMPLES[number]
    notebook = json.loads(cells.notebook(example))
    code = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    source = example.path.read_text()
    assert [cells.runs(cell.code, source) for cell in example.cells if cell.code] == [
        text
        for text in code
        if text not in (cells.PICTURES, cells.PLACE.format(name=example.path.name))
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


@pytest.fixture
def copy(tmp_path):
    """A copy of the scripts, so that what a notebook writes is not in the repository."""
    for package in ("examples", "datasets", "models"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=only_scripts)
    return tmp_path


def only_scripts(folder, names):
    return [name for name in names if not (name.endswith((".py", ".svg")) or name == "helpers")]


def run_notebook(example, folder):
    """Run a notebook in a kernel as Jupyter does, and return what its cells have printed."""
    python = ROOT / ".venv.docs" / "bin" / "python"
    if not python.exists():
        pytest.skip("the site's environment is missing: run  python docs/build.py")
    path = folder / "notebook.ipynb"
    path.write_text(cells.notebook(example))
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    process = subprocess.run(
        [python, "-c", RUN, str(path)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": packages, "IPYTHONDIR": str(folder / "ipython")},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


def test_a_notebook_runs(copy):
    (copy / "notebooks").mkdir()  # anywhere in the repository
    output = run_notebook(EXAMPLES["03"], copy / "notebooks")
    assert "on sample data: scikit-learn's handwritten digits" in output
    assert output.count("image/png") >= 3


SCORE = r"(?:test accuracy|map_50|iou) \S+ on "


@pytest.mark.slow
@pytest.mark.parametrize("number", [n for n in EXAMPLES if n not in ("03", "09")])
def test_every_notebook_runs(number, copy):
    output = run_notebook(EXAMPLES[number], copy)
    assert "a + b = 7.0" in output or re.search(SCORE, output), output[-2000:]


def test_flags_of_a_kernel_are_not_taken_for_ours(monkeypatch, capsys):
    """In an editor's window a cell of the script itself may run, without the notebook's first."""
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    monkeypatch.setattr(sys, "argv", ["cell.py", "-f", "kernel.json"])
    example01.cli.run(example01.main)
    assert "a = 3.0" in capsys.readouterr().out  # the default, not the kernel's flag


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


@pytest.fixture(scope="module")
def pages():
    """All pages of the site, by their paths below its folder."""
    return {str(path.relative_to(HTML)): Page(path) for path in HTML.rglob("*.html")}


@built
def test_no_link_of_the_site_leads_nowhere_and_nothing_is_fetched_from_elsewhere(pages):
    broken = []
    for place, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https", "mailto", "data"):
                continue
            path = unquote(parts.path).removeprefix("/")  # 404.html is shown at any address
            target = os.path.normpath(HTML / place / ".." / path)
            target = os.path.relpath(target, HTML) if parts.path else place
            anchors = pages[target].anchors if target in pages else {""}
            missing = not (HTML / target).exists()
            if missing or (parts.fragment and unquote(parts.fragment) not in anchors):
                broken.append(f"{place}: {link}")
        text = (HTML / place).read_text()
        assert not re.search(r'<(?:script|img|link)[^>]*(?:src|href)="https?://', text), place
    assert broken == []


@built
def test_every_example_and_note_has_a_page_and_no_page_is_left_over(pages):
    for folder, wanted in (("examples", [x.path for x in EXAMPLES.values()]), ("notes", NOTES)):
        found = {Path(name).stem for name in pages if name.startswith(f"{folder}/")}
        assert found == {path.stem for path in wanted}


@built
@each_example
def test_a_page_has_all_cells_and_what_a_run_has_printed(number, pages):
    example = EXAMPLES[number]
    stem = example.path.stem
    page = pages[f"examples/{stem}.html"]
    assert {example.label(cell.heading) for cell in example.cells[1:]} <= page.anchors
    assert {f"{stem}.py", f"{stem}.ipynb"} <= {Path(link).name for link in page.links}
    assert "run-output" in (HTML / "examples" / f"{stem}.html").read_text()
    drawn = {x.name for path in results.recorded(number) for x in results.pictures_of(path)}
    assert drawn == {Path(link).name for link in page.links if "_images/" in link}


@built
def test_links_go_both_ways(pages):
    for (number, slug), places in cells.mentions().items():
        example = EXAMPLES[number]
        name = f"examples/{example.path.stem}.html"
        target = f"../{name}#{example.label()}" + (f"-{slug}" if slug else "")
        for note in {place.note for place in places}:
            assert any(f"notes/{note}.html" in link for link in pages[name].links)
            links = pages[f"notes/{note}.html"].links
            assert any(link.startswith(target) for link in links)


# --- What a browser shows -------------------------------------------------------------------------

LOOKED_AT = {
    "index": "index.html",
    "note": "notes/01_features_and_perceptrons.html",
    "example": "examples/example05_mnist_cnn_nn.html",
    "long output": "examples/example07_vgg16_cifar10.html",
}


def wait_for(browser, condition, otherwise):
    deadline = time.monotonic() + 30
    while not browser.evaluate(condition):
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)


def open_page(browser, address):
    browser.open(f"{HTML.as_uri()}/{address}")
    wait_for(browser, "document.readyState == 'complete'", f"{address} does not load")


@built
@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("name", LOOKED_AT)
def test_a_page_fits_the_window_by_day_and_night(browser, name, width):
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
def test_equations_are_drawn_without_a_network_and_no_page_is_wider_than_a_phone(browser):
    browser.resize(390)
    pages = ["results.html", *(f"notes/{note.stem}.html" for note in NOTES)]
    pages += [f"examples/{example.path.stem}.html" for example in EXAMPLES.values()]
    drawn = "document.querySelectorAll('mjx-container svg').length"
    for page in pages:
        open_page(browser, page)
        enough = f"{drawn} >= document.querySelectorAll('.math').length"
        wait_for(browser, enough, f"{page}: not all equations are drawn")
        wrong = browser.evaluate("document.querySelectorAll('[data-mjx-error]').length")
        assert wrong == 0, f"{page}: MathJax does not understand {wrong} equations"
        assert browser.evaluate("document.documentElement.scrollWidth") <= 390, page


@built
def test_prose_stands_beside_code_where_there_is_room(browser):
    both = ".cell:has(.cell-prose):has(.cell-code)"
    place = f"document.querySelectorAll('{both} .cell-{{}}')[2].getBoundingClientRect()"
    prose, code = place.format("prose"), place.format("code")
    browser.resize(1440)
    open_page(browser, LOOKED_AT["example"])
    assert browser.evaluate(f"{prose}.right <= {code}.left && {prose}.top == {code}.top")
    lines = "[...document.querySelectorAll('.cell-code pre')]"
    assert browser.evaluate(f"{lines}.every((e) => e.scrollWidth <= e.clientWidth)")
    browser.resize(390)
    assert browser.evaluate(f"{prose}.bottom <= {code}.top")


@built
def test_commands_and_short_code_are_not_torn_apart(browser):
    browser.resize(390)
    open_page(browser, LOOKED_AT["long output"])
    pieces = ".highlight-command :is(.nb, .n, .c1), p > code.short"
    pieces = f"[...document.querySelectorAll('{pieces}')]"
    assert browser.evaluate(f"{pieces}.length") > 20
    assert browser.evaluate(f"{pieces}.every((e) => e.getClientRects().length == 1)")


@built
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_figure_has_the_colours_of_a_theme_that_was_chosen_by_hand(browser, theme):
    browser.resize(390, dark=theme == "light")  # the system's is the other one
    open_page(browser, "notes/02_activation_functions.html")
    browser.evaluate(f"document.body.dataset.theme = '{theme}'")
    figure = "document.querySelector('article img[src$=\".svg\"]')"
    wait_for(browser, f"{figure}.complete", "the figure does not load")
    browser.evaluate(f"{figure}.scrollIntoView({{behavior: 'instant'}})")
    place = browser.evaluate(f"(({{x, y, width, height}}) => [x, y, width, height])"
                             f"({figure}.getBoundingClientRect())")  # fmt: skip
    x, y, width, height = map(round, place)
    shown = Image.open(io.BytesIO(browser.screenshot())).convert("L")
    shades = np.asarray(shown.crop((x, y, x + width, y + height)), int)
    ground, ink = (np.median(shades), np.abs(shades - np.median(shades)).max())
    assert (ground > 200) == (theme == "light") and ink > 180


@built
def test_search_finds_a_word_of_the_notes(browser):
    browser.resize(1440)
    open_page(browser, "search.html?q=perceptron")
    wait_for(browser, "document.querySelector('#search-results li') != null", "nothing is found")
    page = r"<main role='main'>of \\(x_1, \\dots, x_n\\) and {b}</main>"
    assert browser.evaluate(f'Search.htmlToText("{page}")') == "of x_1, …, x_n and {b}"


@built
@pytest.mark.parametrize("width", [1440, 1280])
def test_of_three_panels_none_stands_alone(browser, width):
    browser.resize(width)
    panels = "[...document.querySelectorAll('p > img:nth-child(3):last-child')]"
    rows = f"{panels}.map((x) => new Set([...x.parentNode.children].map((y) => y.offsetTop)).size)"
    for note in NOTES:
        open_page(browser, f"notes/{note.stem}.html")
        loaded = "[...document.images].every((x) => x.complete)"
        wait_for(browser, loaded, f"{note.stem}: a figure does not load")
        assert set(browser.evaluate(rows)) <= {1}, note.stem
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
