"""Sphinx extension: a page for each example, prose beside code, and links both ways with the notes.

It writes, before Sphinx reads the sources, docs/examples/ (pages and notebooks) and docs/source/
(pages of scripts that the notes name); git ignores both. The notes are plain Markdown, as GitHub
shows it. Their links to scripts become links to these pages:

    ../../examples/example05_mnist_cnn_nn.py#training-step    a cell, by its heading
    ../../models/vgg16.py                                     a script
"""

import html
import json
import re
import shutil
import textwrap
from pathlib import Path
from typing import ClassVar

import cells
import results
from cells import DOCS, ROOT, Example, Mention
from docutils import nodes
from pygments.lexer import RegexLexer
from pygments.token import Comment, Name, Whitespace
from sphinx.application import Sphinx

REPOSITORY_FILES = "../.."  # from a page in docs/examples/ or docs/source/
LONGEST_PIECE, LONGEST_WORD = 32, 40  # characters of code in a text that stay on one line


def write(path: Path, text: str) -> None:
    """Write a page, unless it is there already: Sphinx reads again what is new."""
    if not path.is_file() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


README = ROOT / "README.md"
SAYS_LITTLE = {
    "sample": "An accuracy on sample data says that the code works, not how good the method is.\n",
    "random_weights": "Its times are the real VGG16's; its accuracy says nothing about it.\n",
    "stand_in": "It speaks the server's interfaces; its speed says nothing about the server's.\n",
}


# %% Pages


# What stands for itself in the prose of a cell; then what becomes a link, a listing, or code.
PROSE = re.compile(
    r"```.*?^```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|https?://\S+"
    r"|(?P<commands>(?:^ {4}[^\n]*\n?)+)"
    r"|(?P<words>[Ee]xample)\s(?P<number>\d\d)\b"
    r"|(?P<results>docs/results\.md)"
    r"|(?P<script>\b(?:models|datasets|examples/helpers)/\w+\.py\b)"
    r"|(?P<times>(?<=\d)\sx\s(?=\d))"
    r"|(?P<code>\b(?:tf|np|keras|layers)\.[\w.]*\w(?:\(\))?|\b\w+\(\)|(?<![\w-])--[a-z][\w-]*"
    r"|(?<![\w/.])[\w.]*\.(?:ckpt|csv|h5|mat|npy|npz|png|proto|zip)\b"
    r"|\b[A-Z]+_[A-Z_]+\b|\b[a-z]\w*_\w+\b|\bb?(?:u?int|float)(?:8|16|32|64)\b"
    r"|\b(?:conv|fc|pool)\d\b|(?<![\w/])datasets/[\w/]+"
    r"|\((?:[A-Z]|\d+),[\w, \n]*\))",
    re.MULTILINE | re.DOTALL,
)


def with_links(prose: str, examples: dict[str, Example]) -> str:
    """Make links of what the prose of a cell names: examples, scripts; and code of code's names.

    Commands become listings, and 3 x 3 gets its sign.
    """

    def replacement(found: re.Match) -> str:
        if found["commands"]:
            return f"```command\n{textwrap.dedent(found[0]).rstrip()}\n```\n"
        if found["number"] in examples:
            name = f"{found['words']}\N{NO-BREAK SPACE}{found['number']}"
            return f"[{name}]({examples[found['number']].path.stem}.md)"
        if found["results"]:
            return "[`docs/results.md`](../results.md)"
        if found["script"]:
            return f"[`{found[0]}`](/source/{found[0]}.md)"
        if found["times"]:
            return " × "
        return f"`{found[0]}`" if found["code"] else found[0]

    return PROSE.sub(replacement, prose)


class CommandLexer(RegexLexer):
    """Marks what must not be torn apart where a command is too long for its column."""

    name = "Command"
    flags = re.MULTILINE
    tokens: ClassVar = {
        "root": [
            (r"^\S+", Name.Builtin),
            (r"#.*", Comment.Single),
            (r"\S+", Name),
            (r"\s+", Whitespace),
        ]
    }


def as_links(places: list[Mention]) -> str:
    """Return one line with links to the notes that speak of a cell, and to their sections."""
    notes: dict[str, list[str]] = {}
    for place in places:
        page, anchor = f"../notes/{place.note}.md", cells.anchor(place.section)
        title = place.title.replace(" ", "\N{NO-BREAK SPACE}", 1)  # 10. Transfer learning
        sections = notes.setdefault(f"[{title}]({page})", [])
        if place.section not in ("", "Exercises"):
            sections.append(f"[{place.section}]({page}#{anchor})")
    lines = [f"{note}: {', '.join(found)}" if found else note for note, found in notes.items()]
    return "In the notes: " + "; ".join(lines) + "."


def two_columns(prose: str, code: str, line: int) -> str:
    """Put prose on the left and code on the right."""
    listing = f"```{{code-block}} python\n:lineno-start: {line}\n\n{code}\n```"
    columns = [("prose", prose)] if prose else []
    columns += [("code", listing)] if code else []
    inner = "".join(f":::::{{container}} cell-{name}\n{text}\n:::::\n" for name, text in columns)
    return f"::::::{{container}} cell\n{inner}::::::\n"


def example_page(example: Example, examples, mentions) -> str:
    """Return the page of an example: its cells, then what a real run printed and drew."""
    name, number = example.path.stem, example.number
    parts = [f"({example.label()})=\n# {number}. {example.title}\n"]
    for cell in example.cells:
        prose = with_links(cell.prose, examples)
        places = mentions.get((number, cells.slug(cell.heading)), [])
        if places:
            prose += f"\n\n:::{{container}} in-the-notes\n{as_links(places)}\n:::"
        if cell.heading:
            parts.append(f"({example.label(cell.heading)})=\n## {cell.heading}\n")
        else:
            prose += (
                f"\n\n{{download}}`The script <{REPOSITORY_FILES}/examples/{name}.py>` · "
                f"{{download}}`as a notebook <{name}.ipynb>`"
            )
        parts.append(two_columns(prose, cell.code, cell.line))
    parts.append(recorded_runs(number))
    return "\n".join(parts)


PANELS = {
    "audio": "Audio, a chirp to listen to, alone and under noise.",
    "distributions": "Distributions, how weights and gradients are spread, step by step, in bands.",
    "graphs": "Graphs, with network, loss and gradients as boxes that can be opened.",
    "histograms": "Histograms, the same numbers as hills, one behind the other.",
    "hparams": "HParams, six short runs with their settings and their accuracies.",
    "images": "Images, the confusion matrix after an epoch; the slider leads to earlier ones.",
    "pr_curves": "PR Curves, precision by recall for each digit, in validation and test.",
    "profile": "Profile, on what a step has spent its time.",
    "projector": "Projector, images as points in the last hidden layer, projected to three axes.",
    "scalars": "Scalars, two runs' accuracies in one chart, and the learning rate as it falls.",
    "text": "Text, how the run was made and what came of it.",
    "timeseries": "Time Series, the curves and pictures of all runs on one page.",
}
CAPTIONS = {
    "learning_curves": "Learning curves: loss and score by epoch, in training and validation.",
    "confusion_matrix": "Confusion matrix: a row for each true class, a column for each answer; "
    "what is right lies on the diagonal, and where nothing stands, there is no image.",
    "worst_mistakes": "The mistakes of which the network was surest: what it says, what it is.",
    "grad_cam": "Where the network looks: each image beside what in it speaks for the answer.",
    "first_kernels": "The kernels of the first layer, as small colour images.",
    "templates": "Templates: red pixels speak for a digit, blue ones against it.",
    "answers": "Images of the test: what is there, and what the network finds.",
    "precision": "Precision over recall of each class, at an IoU of 0.5.",
    "run": "A run of the test: each drawing that is asked beside the answer.",
    "plane": "Characters never trained on, a colour each, where t-SNE puts their embeddings.",
    "picture": "A picture as the network was given it, and the likeliest class.",
} | {panel: f"TensorBoard on sample data: {text}" for panel, text in PANELS.items()}


def said_of_curves(metrics: dict) -> list[str]:
    """Return what a run's learning curves show, for those who have it read to them."""
    return [
        f"{name.replace('_', ' ').capitalize()} by epoch: "
        + ", ".join(f"in {x} from {parts[x][0]:.3g} to {parts[x][-1]:.3g}" for x in parts)
        for name, parts in results.curves_of(metrics).items()
    ]


def said_of_matrix(path: Path) -> str:
    """Return what a run's confusion matrix shows, in short."""
    names, rows = results.matrix_of(path)
    right, total = sum(row[i] for i, row in enumerate(rows)), sum(map(sum, rows))
    mistakes = [(x, i, j) for i, row in enumerate(rows) for j, x in enumerate(row) if i != j]
    count, true, answer = max(mistakes)
    text = f"Confusion matrix of {total:,} answers: {right:,} are right"
    worst = f"; most often, {names[true]} is taken for {names[answer]} ({count})"
    return text + worst if count else text


def pictures(path: Path, metrics: dict) -> str:
    """Return a run's pictures; those of a kind stand beside each other, above one caption.

    Where there is room, so do kinds.
    """
    parts = []
    for kind, caption in CAPTIONS.items():
        pattern = re.compile(rf"example\d\d_(?:\w+_)?{kind}(?:_\d+)?")
        shown = [x for x in results.pictures_of(path) if pattern.fullmatch(x.stem)]
        texts = [caption] * len(shown)
        if kind == "learning_curves":
            texts = said_of_curves(metrics)
        elif kind == "confusion_matrix" and shown:
            texts = [said_of_matrix(path)]
        if shown:
            pairs = zip(texts, shown, strict=True)
            images = "\n".join(f"![{text}](../images/{picture.name})" for text, picture in pairs)
            parts.append(f"::::{{container}} kind\n{images}\n\n*{caption}*\n::::\n")
    return ":::::{container} pictures\n" + "".join(parts) + ":::::\n" if parts else ""


def recorded_runs(number: str) -> str:
    """Return what the recorded runs of an example have printed and drawn."""
    parts = []
    for path in results.recorded(number):
        metrics = json.loads(path.read_text())
        output = path.with_suffix(".txt").read_text().rstrip()
        kind = results.kind_of(path)
        parts.append(f"## {results.KINDS[kind]}\n\n{SAYS_LITTLE.get(kind, '')}")
        parts.append(f"`{metrics['command']}` on {results.machine(metrics)}:\n")
        listing = f"```{{code-block}} text\n{output}\n```"
        parts.append(f":::{{container}} run-output\n{listing}\n:::\n")
        parts.append(pictures(path, metrics))
    return "\n".join(parts)


GALLERY = {
    "Start here": ("01", "02", "03"),
    "Convolutional networks": ("04", "05", "06", "14"),
    "Networks that others have trained": ("07", "11", "13"),
    "Photographs in, answers out": ("10", "08", "09", "12"),
    "Objects, pixels, similarity": ("15", "16", "17"),
}
THUMBNAILS = (
    *("scalars", "templates", "first_kernels", "grad_cam", "answers", "plane", "worst_mistakes"),
    *("confusion", "learning_curves_3"),
)


def thumbnail(number: str) -> str:
    """Return the line that shows an example's picture on its card, if it has one."""
    pictures = sorted((DOCS / "images").glob(f"example{number}_*"))
    found = [path for words in THUMBNAILS for path in pictures if words in path.stem]
    return f":img-top: images/{found[0].name}\n" if found else ""


def gallery(examples: dict[str, Example]) -> str:
    """Return cards that lead to the examples, by topic, with the words of README.md's index."""
    pattern = r"^\| (\d\d) \| \[`\w+\.py`\].*?\| (.*?) \| (.*?) ?\|$"
    rows = re.findall(pattern, README.read_text(), re.MULTILINE)
    words = {number: (what, result) for number, what, result in rows}
    parts = []
    for topic, numbers in GALLERY.items():
        columns = 2 if len(numbers) % 3 == 1 else 3  # none stands alone
        parts.append(f"### {topic}\n\n::::::{{grid}} 1 2 2 {columns}\n:gutter: 3\n")
        for number in numbers:
            example, (what, result) = examples[number], words[number]
            link = f":link: examples/{example.path.stem}\n:link-type: doc\n"
            head = f":::::{{grid-item-card}} {number}. {example.title}\n{link}{thumbnail(number)}"
            foot = f"::::{{card-footer}}\n{result}\n::::\n" if result else ""
            parts.append(f"{head}\n{what}\n\n{foot}:::::\n")
        parts.append("::::::\n")
    return "\n".join(parts)


def list_of_notes() -> str:
    """Return the list of the notes in README.md, with links to the pages."""
    rows = re.findall(
        r"^\| \d+ \| \[(.*?)\]\(docs/(notes/\w+\.md)\) \| (.*?) \|$",
        README.read_text(),
        re.MULTILINE,
    )
    return "".join(
        f"{i}. [{title}]({path}): {what}\n" for i, (title, path, what) in enumerate(rows, 1)
    )


def source_page(path: str) -> str:
    """Return a page that shows a script."""
    up = "../" * (path.count("/") + 2)
    listing = f"```{{literalinclude}} {up}{path}\n:linenos:\n```"
    return f"---\norphan: true\nhide-toc: true\n---\n\n# `{path}`\n\n{listing}\n"


def write_pages(app: Sphinx) -> None:
    """Write all pages, and delete those of examples that are no more."""
    examples, mentions = cells.read_examples(), cells.mentions()
    made = {"gallery.md": gallery(examples), "notes.md": list_of_notes()}
    for example in examples.values():
        made[f"{example.path.stem}.md"] = example_page(example, examples, mentions)
        made[f"{example.path.stem}.ipynb"] = cells.notebook(example)
    folder = DOCS / "examples"
    for path in folder.glob("*") if folder.is_dir() else ():
        if path.name not in made:
            path.unlink()
    for name, text in made.items():
        write(folder / name, text)
    pages = (*DOCS.glob("*.md"), *(DOCS / "notes").glob("*.md"))
    sources = {path for page in pages for path in cells.SOURCE_LINK.findall(page.read_text())}
    prose = "\n".join(cell.prose for example in examples.values() for cell in example.cells)
    sources |= {found["script"] for found in PROSE.finditer(prose) if found["script"]}
    shutil.rmtree(DOCS / "source", ignore_errors=True)
    for path in sources:
        if (ROOT / path).is_file():
            write(DOCS / "source" / f"{path}.md", source_page(path))


# %% Links


def link_pages(app: Sphinx, name: str, source: list[str]) -> None:
    """Turn a page's links to scripts into links to the pages that show them."""

    def to_cell(link: re.Match) -> str:
        number, slug = link.groups()
        return f"](#example{number}-{slug})" if slug else f"](#example{number})"

    if not name.startswith(("examples/", "source/")):
        text = cells.SOURCE_LINK.sub(r"](/source/\1.md)", source[0])
        source[0] = cells.CELL_LINK.sub(to_cell, text)


def describe(app: Sphinx, page: str, template: str, context: dict, tree: nodes.document) -> None:
    """Say in a page's head, for those who search, what it is about: its first words.

    And complete the headings of the menu, for those who have it read to them.
    """
    heading, menu = 'role="heading"', context.get("furo_navigation_tree", "")
    context["furo_navigation_tree"] = menu.replace(heading, f'{heading} aria-level="2"')
    paragraphs = tree.findall(nodes.paragraph) if tree else ()
    for words in (" ".join(paragraph.astext().split()) for paragraph in paragraphs):
        content = html.escape(textwrap.shorten(words, 160))
        context["metatags"] += f'<meta name="description" content="{content}" />'
        return


def keep_together(app: Sphinx, tree: nodes.document) -> None:
    """See to what no line shall break: short code, 5 %, 3 × 3, a formula and what touches it."""
    for literal in tree.findall(nodes.literal):
        text = literal.astext()
        longest = max(map(len, text.split()), default=0)
        if longest > LONGEST_WORD or isinstance(literal.parent, nodes.title):
            literal["classes"].append("long")
        elif len(text) <= LONGEST_PIECE:
            literal["classes"].append("short")
    for text in list(tree.findall(nodes.Text)):
        if not isinstance(text.parent, nodes.literal | nodes.literal_block | nodes.math):
            tied = re.sub(r"(?<=\d)\s(?=[%×])|(?<=×)\s(?=\d)", "\N{NO-BREAK SPACE}", text)
            text.parent.replace(text, nodes.Text(tied))
    for formula in list(tree.findall(nodes.math)):
        line, place = formula.parent, formula.parent.index(formula)
        near = [line[i] if 0 <= i < len(line) else "" for i in (place - 1, place + 1)]
        left, right = (text if isinstance(text, nodes.Text) else "" for text in near)
        before, start = re.fullmatch(r"(.*?)(\S*)", left, re.DOTALL).groups()
        end, after = re.fullmatch(r"(\S*)(.*)", right, re.DOTALL).groups()
        whole = nodes.inline("", "", nodes.Text(start), formula, nodes.Text(end))
        whole["classes"].append("short")
        parts = [nodes.Text(before), whole, nodes.Text(after)]
        line[place - bool(left) : place + 1 + bool(right)] = parts


def part_formulas(app: Sphinx, tree: nodes.document) -> None:
    """Part formulas that stand beside each other: on a phone, they go one below the other."""
    for block in list(tree.findall(nodes.math_block)):
        parts = block.astext().split(r"\qquad")
        if len(parts) > 1:
            formulas = [nodes.math("", rf"\displaystyle {part.strip()}") for part in parts]
            block.replace_self(nodes.paragraph("", "", *formulas, classes=["formulas"]))


def setup(app: Sphinx) -> dict:
    """Called by Sphinx."""
    app.connect("html-page-context", describe, priority=900)  # after the theme
    app.connect("builder-inited", write_pages)
    app.connect("source-read", link_pages)
    app.connect("doctree-read", keep_together)
    app.connect("doctree-read", part_formulas)
    app.add_lexer("command", CommandLexer)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
