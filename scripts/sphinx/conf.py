"""Settings of Sphinx for docs/: plain Markdown in, a site that works from file:// without a network out."""

project = "qvm"
html_title = "qvm"
html_theme = "furo"
extensions = ["myst_parser"]
myst_heading_anchors = 3
smartquotes = False  # `--json` outside of code keeps its dashes
html_copy_source = False
html_show_sphinx = False
html_show_search_summary = False  # a browser does not fetch pages from file://
html_use_index = False
html_show_copyright = False
