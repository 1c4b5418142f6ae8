"""Settings of the site that ``make docs`` builds: Sphinx with MyST reads the Markdown of this repository where it lies.

The theme is pydata-sphinx-theme: it had a release this month (furo's last is eleven months old, Material for MkDocs
ends in 2027, its successor Zensical is not stable yet), NumPy, SciPy and pandas use it, so that our readers know it,
and it works without a network.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # extension.py

import retrograde

project = "retrograde"
author = "The retrograde authors"
project_copyright = author
version = release = retrograde.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "extension"]
root_doc = "docs/index"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/**",
    "benchmarks/**.md",
    "benchmarks/*/**.md",
    "examples/**.md",
    "examples/*/**.md",
]
exclude_patterns = [".*", "build", "runs", "src", "tests", "lab", "packaging", "**/node_modules", "dist"]
nitpicky = False  # types of other libraries in signatures cannot be looked up without a network
suppress_warnings = [
    "myst.header",  # a page of results may begin at any level
    "ref.python",  # names of types in signatures that two modules have, such as GRU
]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # the anchors that a code host makes
linkcheck_timeout, linkcheck_retries = 20, 2
linkcheck_ignore = [r".*lab\.html"]  # copied to its place when the site is complete
highlight_language = "text"  # fences without a language are output or commands

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autosummary_generate = False
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

html_theme = "pydata_sphinx_theme"
html_title = "retrograde"
html_math_renderer = "mathml"  # extension.py: no script, no network
html_show_search_summary = False  # the search would read other pages, which a browser refuses for file://
html_show_sourcelink = False
html_copy_source = False
html_context = {"default_mode": "auto"}  # light or dark as the reader's system
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_sidebars = {page: [] for page in ("docs/index", "docs/tour", "docs/theory", "docs/lab")}  # no menu of their own
html_theme_options = {
    "logo": {"text": "retrograde"},
    "header_links_before_dropdown": 8,
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "navbar_persistent": ["search-button"],  # the field's name is not what it shows, "Search Ctrl+K"
    "show_nav_level": 2,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_prev_next": True,
    "back_to_top_button": False,
}
