"""What all figures share: the style file, the palette, checks, legends and saving."""

import functools
import io
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import ParamSpec

import matplotlib
import matplotlib.figure
import pandas as pd
from matplotlib.axes import Axes

from alertclip.errors import InputError
from alertclip.files import atomic_write
from companion.profiles import ROOT

STYLE = Path(__file__).with_name("companion.mplstyle")
NORMAL, ABNORMAL, INK = "#0072B2", "#D55E00", "#333333"
FIXED = {
    "normal clip": NORMAL,
    "abnormal clip": ABNORMAL,
    "normal prompt": "#009E73",
    "abnormal prompt": "#000000",
}
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = "osD^vP*X"
PAPER = "paper"

Arguments = ParamSpec("Arguments")


class Figure(matplotlib.figure.Figure):
    """A Figure that needs no global state and that a notebook shows by naming it."""

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        self._write(stream)
        return stream.getvalue()

    def _write(self, target: Path | io.BytesIO) -> None:
        with matplotlib.rc_context(fname=STYLE):
            # Without a Software entry the bytes do not depend on matplotlib's version string.
            self.savefig(target, format="png", metadata={"Software": None})


def styled(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """Draw under the project's style, whatever the caller's settings are."""

    @functools.wraps(draw)
    def wrapper(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Figure:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(
                matplotlib.rc_params_from_file(STYLE, use_default_template=False)
            )
            return draw(*args, **kwargs)

    return wrapper


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in inches whose layout keeps every label inside."""
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, name: str, table: pd.DataFrame, folder: Path | str) -> Figure:
    """Write ``folder/name.png`` and the table it was drawn from as ``name.csv``, atomically.

    The same figure and table give the same bytes. Returns the figure for display.
    """
    folder = Path(folder)
    write_table(table, folder / f"{name}.csv")
    with atomic_write(folder / f"{name}.png") as temporary:
        figure._write(temporary)
    return figure


def committed(name: str) -> pd.DataFrame:
    """A table of the committed figures/; InputError if it is not there."""
    path = ROOT / "figures" / f"{name}.csv"
    if not path.is_file():
        raise InputError(f"{path}: missing; restore it with git checkout figures")
    return pd.read_csv(path)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a CSV atomically, the same bytes on every system."""
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")


def require(table: pd.DataFrame, columns: Iterable[str], figure: str) -> None:
    """InputError naming the figure and the column that is missing, or that there are no rows."""
    missing = [column for column in columns if column not in table]
    if missing:
        raise InputError(f"{figure}: the table has no column {', '.join(missing)}")
    if table.empty:
        raise InputError(f"{figure}: the table has no rows")


def headline(figure: Figure, title: str, caption: str = "") -> None:
    """Title at the top left, caption (what the marks are, n, interval) at the bottom."""
    if title:
        text = wrap(title, int(figure.get_figwidth() * 8))
        figure.suptitle(text, x=0.01, ha="left", weight="bold")
    if caption:
        stamp(figure, caption)


def stamp(figure: Figure, line: str) -> None:
    """Add ``line`` (such as where the numbers come from) as the last one under the figure."""
    lines = textwrap.wrap(line, int(figure.get_figwidth() * 13))
    text = "\n".join([*figure.get_supxlabel().splitlines(), *lines])
    figure.supxlabel(text, x=0.01, ha="left", fontsize=9, color=INK)


def legend_outside(figure: Figure, axes: Axes) -> None:
    """One legend to the right of the axes, outside the data; the paper's mark comes last."""
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    names = sorted(unique, key=lambda name: name == PAPER)
    if names:
        figure.legend([unique[name] for name in names], names, loc="outside right upper")


def in_order(values: Iterable[str]) -> list[str]:
    """Distinct values in the order in which the table brings them."""
    return list(dict.fromkeys(values))


def wrap(text: str, width: int) -> str:
    """Break a label into lines of at most ``width`` characters."""
    return "\n".join(textwrap.wrap(str(text), width)) or str(text)


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour per name; normal and abnormal clips and prompts always have theirs."""
    return {name: FIXED.get(str(name), PALETTE[i % len(PALETTE)]) for i, name in enumerate(names)}
