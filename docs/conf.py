"""How the documentation is built: ``make docs``."""

import re

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

from lungvq import __version__

project = "lungvq"
author = "The lungvq authors"
copyright = "2026, the lungvq authors"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "results/*.md"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = False
napoleon_use_rtype = False
suppress_warnings = ["ref.footnote"]  # a source need not be cited within its docstring

html_theme = "furo"
html_title = "lungvq"
html_math_renderer = "mathml"


def _number_references(app, what, name, obj, options, lines):
    """Docstrings each count their references from 1; on one page they must count on."""
    key = name.replace(".", "-").replace("_", "-").lower()
    for n, line in enumerate(lines):
        lines[n] = re.sub(r"\[(\d+)\](?=_)|(?<=\.\. )\[(\d+)\]", lambda m: f"[#{key}-{m[1] or m[2]}]", line)


def _inline_math(writer, node):
    writer.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def _display_math(writer, node):
    writer.body.append(tex2mathml(node.astext(), as_block=True))
    raise nodes.SkipNode


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _number_references, priority=100)
    # Equations as MathML, which browsers draw by themselves: the site needs no network.
    app.add_html_math_renderer("mathml", (_inline_math, None), (_display_math, None))
