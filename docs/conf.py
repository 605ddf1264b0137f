"""Settings of the site, for Sphinx; `python docs/build.py` runs it."""

import importlib.util
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "_ext")]

project = "Deep learning for computer vision with TensorFlow"
html_title = "Deep learning for vision"
extensions = ["myst_parser", "sphinx.ext.mathjax", "course"]
extensions += ["sphinx_copybutton", "sphinx_design", "notfound.extension"]
notfound_urls_prefix = os.environ.get("SITE_PREFIX", "")  # of the address of 404.html
notfound_context = {
    "title": "There is no page at this address",
    "body": "<h1>There is no page at this address</h1><p>It may have moved, or the address has a "
    f'mistake in it. The <a href="{notfound_urls_prefix or "/"}index.html">front page</a> leads to '
    "all notes and examples; the menu has a search.</p>",
}
exclude_patterns = [
    "_build",
    "_ext",
    "figures",
    "results",
    "examples/notes.md",
    "examples/gallery.md",
]

# Notes and pages of examples are Markdown, with equations, and fences for columns.
myst_enable_extensions = ["colon_fence", "dollarmath", "linkify"]
myst_disable_syntax = ["myst_line_comment"]  # a line may begin with the % of a number
myst_heading_anchors = 3
myst_links_external_new_tab = True

html_theme = "furo"
html_static_path = ["_static"]
html_favicon = "_static/favicon.svg"
html_css_files = ["course.css"]
html_js_files = ["search.js"]
html_show_sphinx = False
html_show_copyright = False
smartquotes = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "default"
pygments_dark_style = "github-dark"

# MathJax draws the equations in the browser. This one file of it needs no others and no network.
mathjax_package = importlib.util.find_spec("sphinx-mathjax-offline").submodule_search_locations[0]
html_static_path.append(str(Path(mathjax_package) / "static" / "mathjax" / "tex-svg.js"))
mathjax_path = "tex-svg.js"
