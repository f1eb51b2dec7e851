"""An executed notebook as one HTML page with every image inside."""

import copy
import re
from pathlib import Path

from nbconvert import HTMLExporter
from nbformat import NotebookNode

from companion.profiles import ROOT

REFERENCE = re.compile(r"!\[[^\]]*\]\(\.\./(figures/(\w+)\.png)\)\n*")


def html_page(book: NotebookNode, name: str, drawn: Path) -> str:
    """The page of ``book``; a reference figure stays only where ``drawn`` lacks the run's own."""
    book = copy.deepcopy(book)
    for cell in book.cells:
        if cell.cell_type == "markdown":
            cell.source = REFERENCE.sub(lambda found: _kept(found, drawn), cell.source)
    exporter = HTMLExporter(embed_images=True, exclude_input_prompt=True)
    # nbconvert embeds images below this folder only.
    resources = {"metadata": {"name": name, "path": str(ROOT)}}
    return exporter.from_notebook_node(book, resources)[0]


def _kept(found: re.Match[str], drawn: Path) -> str:
    own = (drawn / f"{found[2]}.png").is_file()
    return "" if own else found[0].replace("../figures", "figures")
