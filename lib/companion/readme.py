"""``python -m companion.readme``: write the numbers of README.md and docs/ from the CSVs.

The texts are templates in docs/templates; README.md has its results table between two markers.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from companion.ablation_tables import ablation_table, gains, over_seeds
from companion.figures.style import committed
from companion.profiles import ROOT
from media.errors import InputError
from media.files import atomic_write

TEMPLATES = ROOT / "docs" / "templates"
PAGES = ("results.md", "speed.md")
OVER_SEEDS = {"ablations": "ablations_reference", "short": "short_trainings", "seeds": "seeds_test",
              "siglip": "minisiglip_seeds", "benchmarks": "benchmarks_test"}  # fmt: skip
BEGIN, END = "<!-- results: python -m companion.readme -->", "<!-- end of results -->"


def main() -> None:
    """Write every page whose text has changed, and print its name."""
    for path, text in pages().items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            with atomic_write(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
            print(f"written: {path.relative_to(ROOT)}")


def pages() -> dict[Path, str]:
    """Text of README.md and of the generated pages of docs/, by path."""
    loader = FileSystemLoader(TEMPLATES, encoding="utf-8")
    templates = Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True)
    templates.globals.update(num=num, ci=ci, total=total, judged=judged, apart=apart)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    if BEGIN not in readme or END not in readme:
        raise InputError(f"README.md: the markers {BEGIN} and {END} are missing")
    before, after = readme.split(BEGIN)[0], readme.split(END)[1]
    table = templates.get_template("readme_results.md").render()
    docs = {ROOT / "docs" / name: templates.get_template(name).render() for name in PAGES}
    return {ROOT / "README.md": f"{before}{BEGIN}\n{table}{END}{after}", **docs}


def num(
    name: str, digits: int = 1, column: str = "value", scale: float = 1, **where: object
) -> str:
    """A number from a table, formatted: from the only row with the values of ``where``."""
    return f"{scale * _row(name, where)[column]:.{digits}f}"


def _interval(name: str, column: str, scale: float, where: dict[str, object]) -> list[float]:
    """Value, low and high, scaled; a scale of -1 turns a change into a loss."""
    value, *ends = scale * _row(name, where)[[column, "low", "high"]].astype(float)
    return [value, *sorted(ends)]


def ci(name: str, digits: int = 1, column: str = "value", scale: float = 1, **where: object) -> str:
    """A number with its interval, as "39.0 [34.3, 43.7]"."""
    numbers = (round(v, digits) + 0.0 for v in _interval(name, column, scale, where))  # no -0.0
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*numbers, d=digits)


def total(name: str, **where: object) -> int:
    """Sum of the column items over the rows with the values of ``where``."""
    return int(_rows(name, where)["items"].sum())


def judged(
    name: str, digits: int = 1, column: str = "value", scale: float = 1, **where: object
) -> str:
    """A difference with its interval: bold above zero, italic below.

    If the interval contains zero, the smallest detectable difference follows.
    """
    value, low, high = _interval(name, column, scale, where)
    text = f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
    if low > 0:
        return f"**{text}**"
    return f"*{text}*" if high < 0 else f"{text} ({value - low:.{digits}f})"


def apart(**where: object) -> str:
    """Root mean square difference of a seed's two trainings in seeds_test.csv, one decimal."""
    part = _rows("seeds_test.csv", where)
    first, second = part.pivot(index="processor", columns="seed", values="value").to_numpy()
    return f"{np.sqrt(np.mean((first - second) ** 2)):.1f}"


@cache
def _table(name: str) -> pd.DataFrame:
    if name == "gains":  # Full minus global alone on development clips, by step
        return gains(committed("learning_curves"))
    base, _, processor = name.partition(" on ")  # one training of each seed, or the mean of all
    if base in OVER_SEEDS:
        table = committed(OVER_SEEDS[base])
        table = table[table["processor"] == processor] if processor else table
        if "variant" not in table:  # models and their differences
            return over_seeds(table)
        table = table.assign(variant=table["variant"].str.removesuffix(", 25 steps"))
        return pd.concat(ablation_table(table, metric) for metric in table["metric"].unique())
    return pd.read_csv(ROOT / name if "/" in name else ROOT / "figures" / name)


def _rows(name: str, where: dict[str, object]) -> pd.DataFrame:
    table = _table(name)
    return table[(table[list(where)] == pd.Series(where)).all(axis=1)] if where else table


def _row(name: str, where: dict[str, object]) -> pd.Series:
    rows = _rows(name, where)
    if len(rows) != 1:
        raise InputError(f"{name}: {len(rows)} rows with {where}; a template needs exactly one")
    return rows.iloc[0]


if __name__ == "__main__":
    main()
