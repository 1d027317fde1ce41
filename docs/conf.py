"""Settings of Sphinx for `make docs`. The pages are the repository's Markdown, where it stands.

Formulas become MathML, which browsers draw themselves, so the site needs no network.
"""

import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import pdoe  # noqa: E402 - the checkout, not an installed version

project = "pdoe"
author = "The pdoe authors"
version = release = pdoe.__version__
html_title = f"pdoe {version}"
html_theme = "furo"
html_show_copyright = False
html_math_renderer = "mathml"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "docs/**.rst",
    "experiments/**.md",
    "results/**.md",
    "*.md",
]
suppress_warnings = ["toc.not_included"]  # lists that a table of results links to
html_extra_path = ["redirect/index.html"]  # the top of the site leads to its home page

myst_heading_anchors = 4  # links to headings, as on GitHub
smartquotes_action = "D"  # dashes alone: C' stays C'
highlight_language = "text"  # of blocks without a language: commands and trees of folders
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False
napoleon_use_ivar = True


def write_inline(translator, node):
    translator.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def write_block(translator, node):
    translator.body.append(tex2mathml(node.astext(), as_block=True))
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (write_inline, None), (write_block, None))
