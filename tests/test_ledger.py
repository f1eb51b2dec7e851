"""The ledger: transcription complete, keys real, statuses, claims and checks by rule."""

import re
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
from faults.harness import refused
from test_notebooks import code

from companion import inconsistencies, ledger, paper_numbers, report, result_tables
from companion.paper_numbers import EMPTY, cells, load, printed, same_digits
from companion.profiles import ROOT, load_params
from companion.report import settings_table

SIZES = {  # cells, of which empty: counted in the documents, not in the file
    "Alert-CLIP": (49, 2),
    "Alert-CLIP supplementary": (135, 2),
    "AnomalyCLIP": (477, 48),
    "VadCLIP": (152, 1),
    "VA-GPT": (14, 0),
}
WEAK = "Alert-CLIP | Weakly supervised | UCF-Crime AUC | {}"


def book_of(tmp_path, profile="mini", inconsistent=(), changes=None, **tables):
    for name, rows in tables.items():
        pd.DataFrame(rows).to_csv(tmp_path / f"{name}.csv", index=False)
    real = profile.startswith("paper")
    P = load_params(profile, {"data_root": str(tmp_path)} | (changes or {}) if real else {})
    book = ledger.ledger(tmp_path, P, inconsistent)
    return book.assign(key=book[ledger.COLUMNS[:4]].agg(" | ".join, axis=1)).set_index("key")


def backbones(clip, full):
    rows = zip(("CLIP", "Full"), (clip, full), strict=True)
    ends = [{"low": v - 1, "high": v + 1, "n": 9, "value": v, "model": m} for m, v in rows]
    return [{"setting": "frame AUC"} | row for row in ends]


class TestTranscription:
    def test_every_cell_of_every_table_is_there(self):
        counts = {name: [0, 0] for name in load()["documents"]}
        for cell in cells().values():
            counts[cell.document][0] += 1
            counts[cell.document][1] += not cell.paper
        assert {name: tuple(n) for name, n in counts.items()} == SIZES
        assert len(load()["tables"]) == 51
        assert printed("VA-GPT | Table 1 | Ours | Total Video Length") == "128.00"

    @pytest.mark.parametrize("table", load()["tables"], ids=lambda t: t["table"])
    def test_tables_have_their_size_and_labels(self, table):
        size = [len(table["rows"]), len(table["columns"])]
        assert size == [int(n) for n in table["size"]]
        numbers = [text for row in table["rows"].values() for text in row]
        assert numbers.count(EMPTY) == int(table.get("empty", 0))
        labels = {*table["rows"], *table["columns"]}
        used = {name for pair in table.get("compare", []) for name in pair}
        used |= {*table.get("units", {})} | {table.get("baseline", "0")} - {"0"}
        for measure in table.get("measured_by", []):
            used |= {*measure.get("rows", {}), *measure.get("columns", {})}
        assert used <= labels
        read = paper_numbers.table_cells(table)
        assert all(cell.measure or cell.otherwise for cell in read)

    def test_a_row_of_the_wrong_length_is_named(self):
        table = deepcopy(load()["tables"][0])
        table["rows"]["MSAD AP"].pop()
        assert "Weakly supervised: row MSAD AP" in refused(list, paper_numbers.table_cells(table))


class TestKeys:
    def test_every_notebook_writes_the_csv_that_is_named(self):
        used = {(c.measure.notebook, c.measure.csv) for c in cells().values() if c.measure}
        for notebook, csv in used | {("05_zero_shot", "retention")}:
            source = code(ROOT / f"notebooks/{notebook}.ipynb")
            assert re.search(rf"""["'/]{csv}(\.csv)?["']""", source), (notebook, csv)

    def test_every_row_that_the_report_writes_is_there(self):
        P = load_params("mini")
        written = {"settings": settings_table(P)["name"]}
        written["inconsistencies"] = inconsistencies.check_table(P)["check"]
        for csv, names in written.items():
            used = [c for c in cells().values() if c.measure and c.measure.csv == csv]
            wanted = {c.where[names.name] for c in used}
            assert len(wanted) >= 13 and wanted <= set(names)

    def test_tables_show_the_paper_beside_ours(self):
        rows = [("CLIP", "frame AUC"), ("Stage I", "frame AP"), ("Full", "AnoAUC")]
        table = pd.DataFrame(rows, columns=["model", "setting"])
        beside = result_tables.with_paper(table, "VadCLIP, UCF-Crime", "setting")["paper"]
        assert beside[:2].tolist() == [88.02, 32.16] and np.isnan(beside[2])
        other = result_tables.with_paper(table, "VadCLIP, mini world", "setting")["paper"]
        assert other.isna().all()
        for heading in load()["headings"]:
            assert paper_numbers.beside(heading)


class TestStatus:
    def test_synthetic_data_never_reproduce(self, tmp_path):
        book = book_of(tmp_path, vadclip_backbones=backbones(88.02, 95))
        row = book.loc[WEAK.format("CLIP")]
        assert (row["ours"], row["low"], row["n"]) == (88.02, 87.02, 9)
        assert row["status"] == f"{ledger.DIRECTION}: synthetic data"
        assert row["source"] == "vadclip_backbones.csv"
        assert not book["status"].str.startswith("reproduced").any()

    def test_settings_and_arithmetic_are_no_results(self, tmp_path):
        P = load_params("mini")
        tables = {"settings": settings_table(P), "inconsistencies": inconsistencies.check_table(P)}
        status = book_of(tmp_path, **tables)["status"]
        table = "Alert-CLIP supplementary | "
        assert status[table + "Table 4 | weight decay | Stage 1"] == ledger.SAME
        assert status[table + "Table 4 | epochs | Stage 2"] == ledger.OTHER  # steps instead
        assert status[table + "Table 5 | Visual projection | FLOPs"] == ledger.EQUAL
        assert status[table + "Table 5 | Text encoder | FLOPs"] == ledger.UNEQUAL

    def test_the_paper_profile_is_table_4(self, tmp_path):
        status = book_of(tmp_path, "paper", settings=settings_table(load_params("paper")))["status"]
        rows = status[status.index.str.contains("supplementary | Table 4", regex=False)]
        assert (rows == ledger.SAME).sum() == 30 and not (rows == ledger.OTHER).any()

    def test_refuted_and_empty_cells(self, tmp_path):
        key = WEAK.format("CLIP")
        book = book_of(tmp_path, inconsistent={key}, vadclip_backbones=backbones(88, 95))
        assert book.loc[key, "status"] == ledger.INCONSISTENT and book.loc[key, "ours"] == 88
        empty = book.loc["Alert-CLIP | Zero-shot | LLaVA-1.5-7B | UB AUC"]
        assert empty["status"] == ledger.BLANK and empty["paper"] == ""

    def test_domains_are_kept_apart(self, tmp_path):
        base = {"model": "CLIP", "low": 1, "high": 2, "n": 3}
        rows = [base | {"setting": f"{d}: frame {m}", "value": v}
                for v, d, m in ((1, "mini world", "AUC"), (2, "line drawings", "AUC"),
                                (3, "line drawings", "AP"))]  # fmt: skip
        book = book_of(tmp_path, zero_shot_snippet=rows)
        columns = ("UCF AUC", "UB AUC", "XD AP", "UB AP")
        ours = [book.loc[f"Alert-CLIP | Zero-shot | CLIP | {c}", "ours"] for c in columns]
        assert ours == [1, 2, 3, 3]

    def test_rounding_is_to_the_printed_digits(self):
        assert same_digits("4.501", "4.50149") and not same_digits("4.501", "4.50151")
        assert same_digits("5e-6", "5e-06")
        assert same_digits("cosine", "cosine") and not same_digits("cosine", "1")


class TestClaims:
    @pytest.mark.parametrize(
        ("full", "verdict"), [(93, ledger.HOLDS), (91, ledger.OPEN), (87, ledger.FAILS)]
    )
    def test_intervals_decide(self, tmp_path, full, verdict):
        book = book_of(tmp_path, vadclip_backbones=backbones(90, full))
        table = ledger.claims(book, tmp_path).set_index("claim")
        row = table.loc["Full above CLIP: UCF-Crime AUC"]
        assert row["verdict"] == verdict
        assert row["paper"] == pytest.approx(1.30) and row["ours"] == full - 90

    def test_a_number_below_zero_must_be_below(self, tmp_path):
        for mss, verdict in ((-0.2, ledger.HOLDS), (0.2, ledger.FAILS)):
            row = {"domain": "average", "model": "CLIP", "value": mss, "n": 9}
            book = book_of(tmp_path, mss_domains=[row | {"low": mss - 0.1, "high": mss + 0.1}])
            table = ledger.claims(book, tmp_path).set_index("claim")
            assert table.loc["CLIP, average of Table 1 below 0: MSS", "verdict"] == verdict

    def test_kept_knowledge_is_read_from_our_table(self, tmp_path):
        rows = [{"setting": "stills", "model": m, "value": v, "low": v - 1, "high": v + 1}
                for m, v in (("CLIP", 80), ("Full", 70))]  # fmt: skip
        rows += [{"setting": "not measured", "model": m} for m in ("CLIP", "Full")]
        table = ledger.claims(book_of(tmp_path, retention=rows), tmp_path)
        kept = table[table["source"] == "retention.csv"]
        assert kept["verdict"].tolist() == [ledger.FAILS] and kept["ours"].tolist() == [-10]


@pytest.fixture(scope="module")
def table():
    return inconsistencies.check_table(load_params("mini")).set_index("check")


class TestChecks:
    def test_verdicts(self, table):
        names = {verdict: set(part.index) for verdict, part in table.groupby("verdict")}
        contradicted = {f"{n} FLOPs" for n in ("vision", "text", "temporal", "text projection")}
        contradicted |= {"candidate videos", "questions per clip", "videos of UCF-Crimes"}
        contradicted |= {"open-vocabulary gain", "mixed precision", "AUC in the text", "backbone"}
        assert names["contradicted"] == contradicted | {"abnormal direction loss"}
        doubtful = {"patch grid", "lowest score", "Stage I AUC", "consistent gain", "own numbers"}
        doubtful |= {"overall between parts", "data and framework", "normal direction loss"}
        assert names["doubtful"] == doubtful and len(names["not run"]) == 9

    def test_findings(self, table):
        assert "248 tokens 10.133 G" in table.loc["text FLOPs", "finding"]
        assert "LayerNorm alone 1.076 G" in table.loc["temporal FLOPs", "finding"]
        assert "in G 4.5126 T, in M 4.5123 T" in table.loc["total FLOPs", "finding"]
        assert "1.30 points, 0.13" in table.loc["data and framework", "finding"]
        keys = inconsistencies.refuted(table)
        assert len(keys) == 9 and keys <= set(cells())

    @pytest.mark.parametrize(("key", "number", "check"), [
        ("AnomalyCLIP | Table 4 | SSRL | Arson", "93.97", "means over classes"),
        ("AnomalyCLIP | Table 2 | SSRL, I3D-RGB | mAUC", "88.98", "differences in the text"),
        ("Alert-CLIP | VAGTA | normal training clips | count", "2586", "sum of clips"),
        ("Alert-CLIP supplementary | Table 6 | Total | Time", "86.26", "training hours"),
    ])  # fmt: skip
    def test_a_wrong_digit_is_found(self, key, number, check, monkeypatch):
        document, name, row, column = key.split(" | ")
        raw = deepcopy(load())
        table = next(t for t in raw["tables"] if (t["document"], t["table"]) == (document, name))
        table["rows"][row][table["columns"].index(column)] = number
        changed = {c.key: c for t in raw["tables"] for c in paper_numbers.table_cells(t)}
        for module in (paper_numbers, inconsistencies):
            monkeypatch.setattr(module, "load", lambda: raw)
            monkeypatch.setattr(module, "cells", lambda: changed)
        checks = inconsistencies.check_table(load_params("mini")).set_index("check")
        assert checks.loc[check, "verdict"] == "contradicted"

    def test_published_files(self, shared_data):
        P = load_params("paper", {"data_root": str(shared_data / "vagta")})
        table = inconsistencies.check_table(P).set_index("check")
        assert table.loc["test items", "finding"] == "702 items, 494 videos, 734 regions"
        abnormal = table.loc["abnormal training items", ["computed", "verdict", "finding"]]
        assert abnormal.tolist() == [1141, "contradicted", "regions of 900 videos, not clips"]
        assert table.loc["longest hard negative", "finding"].startswith("584 of 11,175")
        assert table.loc["class prefix", "finding"].startswith("700 of 702")
        assert "1,565 are in VAGTA" in table.loc["in-domain zero-shot", "finding"]
        assert table.loc["box coordinates", "verdict"] == "contradicted"


class TestReport:
    def test_a_ledger_without_results_is_whole_escaped_and_counted(self, tmp_path):
        book = book_of(tmp_path)
        table = ledger.claims(book, tmp_path)
        assert set(table["verdict"]) == {ledger.UNTESTED}
        counts = table.set_index(["document", "table"])["claim"]
        assert counts["Alert-CLIP", "Weakly supervised"] == "12 orderings"
        assert report.status_items(book)["items"].sum() == len(cells())
        book.loc[book.index[0], "row"] = "<b>x"
        page = report.folded(book).data
        assert page.count("<details>") == len(load()["tables"])
        assert "&lt;b&gt;x" in page and "<b>x" not in page and ">nan<" not in page.lower()

    def test_numbers_are_short_and_counts_are_whole(self):
        page = report.whole(pd.DataFrame({"n": [25600.0], "low": [0.123456], "high": [np.nan]}))
        assert re.findall(r"<td>(.*)</td>", page.data) == ["25,600", "0.1235", ""]
