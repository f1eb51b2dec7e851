"""Where a run's time goes: the slow cells of its notebooks, from the copies that it executed."""

import argparse
import re
from pathlib import Path

import nbformat
import pandas as pd

from companion.profiles import load_params
from companion.workflow import NOTEBOOKS
from media.files import write_table


def cells(folder: Path, least: float) -> pd.DataFrame:
    """Cells that took ``least`` seconds or more: columns notebook, section, seconds."""
    rows = []
    for name in (notebook.name for notebook in NOTEBOOKS):
        section, path = "", folder / f"{name}.ipynb"
        if not path.is_file():
            continue
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                found = re.findall(r"^#+ (.+)$", cell.source, re.MULTILINE)
                section = found[0] if found else section
            elif (seconds := cell.metadata["papermill"]["duration"] or 0) >= least:
                rows.append({"notebook": name, "section": section, "seconds": seconds})
    return pd.DataFrame(rows, columns=["notebook", "section", "seconds"]).round(1)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--profile", default="mini")
    options.add_argument("--least", type=float, default=10, help="seconds")
    options.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    o = options.parse_args()
    table = cells(load_params(o.profile).run_dir, o.least)
    write_table(table, o.out / f"cells_{o.profile}.csv")
    print(table.sort_values("seconds", ascending=False).to_string(index=False))


if __name__ == "__main__":
    main()
