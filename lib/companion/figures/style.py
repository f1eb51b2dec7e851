"""What all figures share: style, palette, legends, captions and PNG encoding."""

import io
import textwrap
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.figure
import pandas as pd
from matplotlib.axes import Axes

from companion.profiles import ROOT
from media.errors import InputError

STYLE = Path(__file__).with_name("companion.mplstyle")
NORMAL, ABNORMAL, INK, RULE = "#0072B2", "#D55E00", "#333333", "#E3E3E3"
# Okabe and Ito's seven, then three of seaborn's.
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
           "#949494", "#CA9161", "#ECE133"]  # fmt: skip
FIXED = {"normal clip": NORMAL, "abnormal clip": ABNORMAL, "paper": "#000000",
         "normal prompt": "#009E73", "abnormal prompt": "#000000"}  # fmt: skip
MARKERS = "osD^vPdX<>"
styled = matplotlib.rc_context(fname=STYLE)
"""Decorator: the figure function draws in the project's style, whatever the caller has set."""


class Figure(matplotlib.figure.Figure):
    """A figure without pyplot's global state; a notebook displays it at the end of a cell."""

    def _repr_png_(self) -> bytes:
        return self.png

    @cached_property
    def png(self) -> bytes:
        """The finished figure as PNG bytes, rendered once for the run's folder and the notebook."""
        stream = io.BytesIO()
        with matplotlib.rc_context(fname=STYLE):
            # Without a Software entry the bytes do not depend on matplotlib's version.
            self.savefig(stream, format="png", metadata={"Software": None})
        return stream.getvalue()


def panels(width: float, height: float, *shape: int, **shared: Any) -> tuple[Figure, Any]:
    """A figure of this size in inches, whose layout cuts no label, and its subplots."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(*shape, **shared)


def committed(name: str) -> pd.DataFrame:
    """Read a table of the committed figures/; InputError if it is missing."""
    path = ROOT / "figures" / f"{name}.csv"
    if not path.is_file():
        raise InputError(f"{path}: missing; restore it with git checkout figures")
    return pd.read_csv(path)


def headline(figure: Figure, title: str, caption: str = "") -> Figure:
    """Add a title at the top left and, below, a caption on marks, n and intervals."""
    if title:
        text = textwrap.fill(title, int(figure.get_figwidth() * 8))
        figure.suptitle(text, x=0.01, ha="left", weight="bold")
    return stamp(figure, caption)


def stamp(figure: Figure, line: str, marked: Axes | None = None) -> Figure:
    """Add ``line``, such as the data's name, as the last one of the caption.

    With ``marked``, its legend and seaborn's are merged and moved beside the plot.
    """
    if marked is not None:
        _legend_outside(figure, marked)
    if line:
        lines = textwrap.wrap(line, int(figure.get_figwidth() * 13))
        text = "\n".join([*figure.get_supxlabel().splitlines(), *lines])
        figure.supxlabel(text, x=0.01, ha="left", fontsize=9, color=INK)
    return figure


def _legend_outside(figure: Figure, axes: Axes) -> None:
    handles: dict[str, object] = {}
    for legend in filter(None, [*figure.legends, axes.get_legend()]):
        names = [text.get_text() for text in legend.texts]
        handles |= dict(zip(names, legend.legend_handles, strict=True))
    figure.legends.clear()
    axes.legend_ = None
    handles |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(list(handles.values()), list(handles), loc="outside right upper")


def short_name(key: str) -> str:
    """Clip name without folder and suffixes: "a/Fire001_x264.mp4#0-8" -> "Fire001"."""
    return Path(key.split("#")[0]).stem.removesuffix("_x264")


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour per name; normal and abnormal clips and prompts always have the same ones."""
    return {name: FIXED.get(str(name), PALETTE[i % len(PALETTE)]) for i, name in enumerate(names)}


def markers(names: Sequence[str]) -> dict[str, str]:
    """A marker per name; prompts are stars, as other texts are."""
    stars = {name: "*" for name in names if str(name).endswith("prompt")}
    return {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(names)} | stars
