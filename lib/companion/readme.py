"""``python -m companion.readme``: write the numbers of README.md and docs/ from the CSVs.

The texts are templates in docs/templates; README.md takes its results table between two markers.
"""

import sys
from functools import cache
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from alertclip.errors import InputError
from alertclip.files import atomic_write
from companion.ablation_tables import ablation_table
from companion.figures.style import committed
from companion.profiles import ROOT

TEMPLATES = ROOT / "docs" / "templates"
PAGES = ("results.md", "speed.md")
BEGIN, END = "<!-- results: python -m companion.readme -->", "<!-- end of results -->"


def main() -> int:
    """Write every page whose text has changed, and say which."""
    for path, text in pages().items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            with atomic_write(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
            print(f"written: {path.relative_to(ROOT)}")
    return 0


def pages() -> dict[Path, str]:
    """What README.md and the generated pages of docs/ should hold."""
    loader = FileSystemLoader(TEMPLATES, encoding="utf-8")
    templates = Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True)
    shown = {f.__name__: f for f in (num, ci, total, level, change, without, judged, part)}
    templates.globals.update(shown)
    templates.tests["gains"] = _gains
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    if BEGIN not in readme or END not in readme:
        raise InputError(f"README.md: the markers {BEGIN} and {END} are missing")
    before, after = readme.split(BEGIN)[0], readme.split(END)[1]
    table = templates.get_template("readme_results.md").render()
    made = {ROOT / "docs" / name: templates.get_template(name).render() for name in PAGES}
    return {ROOT / "README.md": f"{before}{BEGIN}\n{table}{END}{after}", **made}


def num(
    name: str, digits: int = 1, column: str = "value", scale: float = 1, **where: object
) -> str:
    """A number of a CSV: the only row whose columns have the values of ``where``."""
    return f"{scale * _row(_table(name), where, name)[column]:.{digits}f}"


def ci(name: str, digits: int = 1, column: str = "value", scale: float = 1, **where: object) -> str:
    """The same with its interval, as "39.0 [34.3, 43.7]"."""
    row = scale * _row(_table(name), where, name)[[column, "low", "high"]].astype(float)
    return _interval(*row, digits)


def total(name: str, **where: object) -> int:
    """Sum of the column items over the rows of a CSV that have the values of ``where``."""
    return int(_rows(_table(name), where)["items"].sum())


def level(title: str, metric: str, digits: int = 1) -> str:
    """Mean over seeds of a metric in a variant of the committed ablations."""
    return f"{_variant(title, metric)['value']:.{digits}f}"


def change(title: str, metric: str, digits: int = 1) -> str:
    """Change of a variant in the committed ablations, over seeds, with its interval."""
    return _interval(*_variant(title, metric)[["change", "low", "high"]], digits)


def without(title: str, metric: str, digits: int = 1) -> str:
    """The same as a loss: how much the metric falls in the variant."""
    return _interval(*-_variant(title, metric)[["change", "high", "low"]], digits)


def part(title: str, metric: str, digits: int = 1) -> str:
    """What Full has over a variant with fewer losses, at the run's schedule, with a verdict."""
    row = -_variant(title, metric, "losses_test")[["change", "high", "low"]].astype(float)
    return _judged(*row, digits)


def judged(name: str, digits: int = 1, column: str = "mean", **where: object) -> str:
    """A difference of a CSV with its interval and what the interval says."""
    row = _row(_table(name), where, name)[[column, "low", "high"]].astype(float)
    return _judged(*row, digits)


def _gains(measure: str) -> bool:
    """Whether Full beats Stage I over seeds: the interval of the difference lies above zero."""
    where = {"measure": measure, "model": "Full minus Stage I"}
    return bool(_row(_table("seeds_test_summary.csv"), where, "seeds")["low"] > 0)


def _judged(value: float, low: float, high: float, digits: int) -> str:
    """The interval and a verdict; without one, the difference that would have been seen."""
    text = _interval(value, low, high, digits)
    if low > 0:
        return f"**{text}**"
    seen = f"none shown; {high - value:.{digits}f} would have been"
    return f"{text} ({'a loss' if high < 0 else seen})"


@cache
def _table(name: str) -> pd.DataFrame:
    return pd.read_csv(ROOT / name if "/" in name else ROOT / "figures" / name)


def _variant(title: str, metric: str, name: str = "ablations_reference") -> pd.Series:
    table = ablation_table(committed(name), metric)
    return _row(table, {"title": title}, f"{name}, {metric}")


def _rows(table: pd.DataFrame, where: dict[str, object]) -> pd.DataFrame:
    return table[(table[list(where)] == pd.Series(where)).all(axis=1)] if where else table


def _row(table: pd.DataFrame, where: dict[str, object], name: str) -> pd.Series:
    found = _rows(table, where)
    if len(found) != 1:
        raise InputError(f"{name}: {len(found)} rows with {where}; a template needs exactly one")
    return found.iloc[0]


def _interval(value: float, low: float, high: float, digits: int) -> str:
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


if __name__ == "__main__":
    sys.exit(main())
