"""The numbers in README.md and docs/ are those of the CSVs, and their links lead somewhere."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from companion import readme, run
from companion.ablations import load_variants
from companion.paper_numbers import load
from companion.profiles import ROOT, load_params, parse_overrides
from media.errors import InputError

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_pages_hold_what_the_tables_say() -> None:
    for path, text in readme.pages().items():
        hint = f"{path.name}: run python -m companion.readme"
        assert path.read_text(encoding="utf-8") == text, hint
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 110


def test_a_number_that_matches_no_row_or_several_is_refused() -> None:
    with pytest.raises(InputError, match="mss_clip.csv: 0 rows"):
        readme.num("mss_clip.csv", 3, "mss", class_name="Arson")
    with pytest.raises(InputError, match="rows with"):
        readme.num("stage1_mss.csv", 3, "mss", class_name="all")  # CLIP and Stage I


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if not link.startswith("http")]
    missing = [link for link in local if not (page.parent / link).exists()]
    assert not missing


def test_every_table_of_the_papers_has_commands_that_exist() -> None:
    page = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("| ")][1:]
    rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    listed = [(row[1], table) for row in rows for table in row[2].split("; ")]
    assert sorted(listed) == sorted((t["document"], t["table"]) for t in load()["tables"])
    commands = {command for row in rows for command in re.findall("`([^`]*[ ][^`]*)`", row[3])}
    assert len(commands) >= 10
    for program, *arguments in map(shlex.split, sorted(commands)):
        if program == "python":
            assert importlib.util.find_spec(arguments[1])
            continue
        args = run._arguments(arguments)
        assert program == "./run_all.sh" and run.select(args.only, "")
        P = load_params(args.profile, parse_overrides(args.parameter))
        assert {*P.ablation.variants} <= {*load_variants()}
