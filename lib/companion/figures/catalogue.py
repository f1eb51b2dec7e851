"""Figures by name: a CSV and the PNG drawn from it as params/facts/figures.yaml says.

A notebook writes the CSV and draws from it with the same function, so a figure drawn in a run and
one redrawn later are identical to the byte. ``python -m companion.figures.catalogue NAME...``
redraws figures without a model or data.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name

import pandas as pd
import yaml

from companion.figures import style
from companion.profiles import FACTS, ROOT
from media.errors import InputError, nearest
from media.files import atomic_write, read_json, write_json, write_table

SYNTHETIC = "synthetic"  # part of the name of synthetic data
CATALOGUE = yaml.safe_load((FACTS / "figures.yaml").read_text(encoding="utf-8"))["figures"]
DRAWN = [name for name, entry in CATALOGUE.items() if "draw" in entry]  # drawn from a CSV alone


def publish(
    name: str,
    table: pd.DataFrame,
    folder: Path,
    source: dict[str, object],
    figure: style.Figure | None = None,
) -> style.Figure:
    """Write ``folder/name.csv`` and its PNG, stamped with ``source``; returns the figure.

    The figure is drawn as the catalogue says; one that shows frames is passed as ``figure``.
    ``source`` (profile, data, seed ...) is saved beside the tables, so ``redraw`` stamps the same.
    """
    write_table(table, folder / f"{name}.csv")
    write_json(folder / "provenance.json", source)
    return redraw(name, folder, figure)


def redraw(name: str, folder: Path, figure: style.Figure | None = None) -> style.Figure:
    """Draw ``folder/name.csv``, or finish ``figure``; writes the stamped PNG beside the CSV.

    The paper's numbers are of real data: figures of synthetic data leave them to the table.
    InputError for an unknown name, a missing or empty CSV, or one without the figure's columns.
    """
    provenance = folder / "provenance.json"
    source = read_json(provenance) if provenance.is_file() else {}
    if figure is None:
        figure = _drawn(name, folder / f"{name}.csv", str(source.get("data", SYNTHETIC)))
    if data := CATALOGUE.get(name, {}).get("data"):
        source = (source if "screening" in name else {}) | {"data": data}
    style.stamp(figure, ", ".join(f"{key}: {value}" for key, value in source.items()))
    with atomic_write(folder / f"{name}.png") as temporary:
        temporary.write_bytes(figure.png)
    return figure


def _drawn(name: str, path: Path, data: str) -> style.Figure:
    if name not in DRAWN:
        what = "no figure drawn from a CSV alone (its notebook draws one that shows frames)"
        hint = nearest(name, DRAWN) or "; see params/facts/figures.yaml"
        raise InputError(f"{name}: {what}{hint}")
    if not path.is_file():
        raise InputError(f"{path}: no such table; run the notebook that writes it")
    table = pd.read_csv(path)
    if not CATALOGUE[name].get("counted") and SYNTHETIC in data:
        table = table.drop(columns="paper", errors="ignore")
    if table.empty:
        raise InputError(f"{path}: the table has no rows")
    try:
        return draw(name, table)
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: not the table of this figure ({error})") from error


@style.styled
def draw(name: str, table: pd.DataFrame) -> style.Figure:
    """Figure of a table as the catalogue says; nothing is stamped or written."""
    reserved = ("draw", "title", "data", "counted")
    options = {key: value for key, value in CATALOGUE[name].items() if key not in reserved}
    figure = resolve_name(f"companion.figures.{CATALOGUE[name]['draw']}")(table, **options)
    return style.headline(figure, CATALOGUE[name]["title"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 2 for a name or folder that does not exist."""
    parser = argparse.ArgumentParser("python -m companion.figures.catalogue", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help=", ".join(DRAWN))
    parser.add_argument("--folder", type=Path, default=ROOT / "figures", help="of CSVs and PNGs")
    args = parser.parse_args(arguments)
    try:
        for name in args.names:
            redraw(name, args.folder)
            print(args.folder / f"{name}.png")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
