"""The ledger: transcription complete, keys real, statuses, claims and checks by rule."""

import re

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml

from alertclip.errors import InputError
from companion import inconsistencies, ledger, paper_numbers, report, result_tables
from companion.profiles import PAPER_RESULTS, ROOT, load_params
from detectors.benchmarks import load_benchmark

RESULTS = paper_numbers.paper_numbers()
CELLS = {cell.key: cell for cell in RESULTS.cells()}
SIZES = {  # cells, of which empty: counted in the documents, not in the file
    "Alert-CLIP": (49, 2),
    "Alert-CLIP supplementary": (135, 2),
    "AnomalyCLIP": (477, 48),
    "VadCLIP": (152, 1),
    "VA-GPT": (14, 0),
}
WEAK = "Alert-CLIP | Weakly supervised | UCF-Crime AUC | {}"


def book_of(tmp_path, profile="mini", inconsistent=(), **tables):
    for name, rows in tables.items():
        pd.DataFrame(rows).to_csv(tmp_path / f"{name}.csv", index=False)
    P = load_params(profile, {"data_root": "."} if profile.startswith("paper") else {})
    book = ledger.ledger(RESULTS, tmp_path, P, inconsistent)
    keys = book[["document", "table", "row", "column"]].agg(" | ".join, axis=1)
    return book.assign(name=keys).set_index("name")


def backbones(clip, full):
    low_high = [{"low": value - 1, "high": value + 1, "n": 9} for value in (clip, full)]
    rows = zip(("CLIP", "Full"), (clip, full), low_high, strict=True)
    return [{"setting": "frame AUC", "model": m, "value": v} | ends for m, v, ends in rows]


class TestTranscription:
    def test_every_cell_of_every_table_is_there(self):
        counts = {name: [0, 0] for name in RESULTS.documents}
        for cell in CELLS.values():
            counts[cell.document][0] += 1
            counts[cell.document][1] += cell.paper is None
        assert {name: tuple(n) for name, n in counts.items()} == SIZES
        assert len(RESULTS.tables) == 51

    @pytest.mark.parametrize(
        ("key", "printed"),
        [
            (WEAK.format("Full"), "89.32"),
            ("Alert-CLIP | Weakly supervised | MSAD AP | Stage I", "75.10"),
            ("Alert-CLIP supplementary | Table 4 | text lr | Stage 2", "1.5e-6"),
            ("AnomalyCLIP | Table 5 | SSRL | Stoop", "71.81"),
            ("AnomalyCLIP | Table 13 | without L_A+ | AUC", "45.23"),
            ("VadCLIP | Table 4 | VadCLIP | AVG", "6.68"),
            ("VadCLIP | Table 2 | CLIP-TSA (2023) | Ano-AUC", ""),
            ("VA-GPT | Table 1 | Ours | Total Video Length", "128.00"),
        ],
    )
    def test_cells_keep_their_printed_digits(self, key, printed):
        assert RESULTS.printed(key) == printed

    def test_documents_are_named_by_title(self):
        assert not re.search(r"\b00\d\b|_[0-9a-f]{16}", PAPER_RESULTS.read_text())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: t["rows"]["MSAD AP"].pop(), "a row that is too long or too short"),
            (lambda t: t["rows"].pop("MSAD AP"), "has 3 rows"),
            (lambda t: t["rows"]["MSAD AP"].__setitem__(0, "~"), "has 1 empty cells"),
            (lambda t: t["measured_by"][0].update(rows={"UCF AUC": "x"}), "knows no UCF AUC"),
            (lambda t: t.update(compare=[["Stage 1", "CLIP"]]), "knows no Stage 1"),
            (lambda t: (t.pop("otherwise"), t["measured_by"].pop()), "must say in otherwise"),
            (lambda t: t.update(colour="red"), "Extra inputs"),
        ],
    )
    def test_a_damaged_table_is_named(self, tmp_path, change, message):
        raw = yaml.load(PAPER_RESULTS.read_text(), paper_numbers.LOADER)
        change(raw["tables"][0])
        (tmp_path / "bad.yaml").write_text(yaml.safe_dump(raw))
        with pytest.raises(InputError, match=message):
            paper_numbers.paper_numbers(tmp_path / "bad.yaml")


class TestKeys:
    def test_every_notebook_writes_the_csv_that_is_named(self):
        used = {(m.notebook, m.csv) for t in RESULTS.tables for m in t.measured_by}
        used |= {(s.notebook, s.csv) for s in RESULTS.statements}
        for notebook, csv in used:
            book = nbformat.read(ROOT / f"notebooks/{notebook}.ipynb", as_version=4)
            code = "\n".join(c.source for c in book.cells if c.cell_type == "code")
            assert re.search(rf"""["'/]{csv}(\.csv)?["']""", code), (notebook, csv)

    @pytest.mark.parametrize("csv", ["settings", "inconsistencies"])
    def test_every_row_that_the_report_writes_is_there(self, csv):
        P = load_params("mini")
        table = (
            ledger.settings_table(P)["name"]
            if csv == "settings"
            else inconsistencies.check_table(RESULTS, P)["check"]
        )
        column = {"settings": "name", "inconsistencies": "check"}[csv]
        cells = [c for c in CELLS.values() if c.measure and c.measure.csv == csv]
        wanted = {c.measure.selector(c.row, c.column)[column] for c in cells}
        assert len(wanted) >= 13 and wanted <= set(table)

    def test_columns_exist_in_the_committed_tables(self):
        for cell in CELLS.values():
            path = ROOT / "figures" / f"{cell.measure.csv}.csv" if cell.measure else None
            if path and path.is_file():
                columns = set(pd.read_csv(path, nrows=1))
                assert {*cell.measure.where, cell.measure.value} <= columns, cell.key

    def test_data_sets_are_benchmarks(self):
        names = ("ucf_crime", "xd_violence", "shanghaitech", "ubnormal", "msad")
        titles = {load_benchmark(name).title for name in names}
        assert {m.on for t in RESULTS.tables for m in t.measured_by} <= titles | {""}

    def test_figures_show_the_paper_beside_ours(self):
        rows = [("CLIP", "frame AUC"), ("Stage I", "frame AP"), ("Full", "AnoAUC")]
        table = pd.DataFrame(rows, columns=["model", "setting"])
        marked = result_tables.with_paper(table, "VadCLIP, UCF-Crime", "setting")["paper"]
        assert marked[:2].tolist() == [88.02, 32.16] and np.isnan(marked[2])
        assert (
            result_tables.with_paper(table, "VadCLIP, mini world", "setting")["paper"].isna().all()
        )


class TestStatus:
    def test_synthetic_data_never_reproduce(self, tmp_path):
        book = book_of(tmp_path, vadclip_backbones=backbones(88.02, 95))
        row = book.loc[WEAK.format("CLIP")]
        assert (row["ours"], row["low"], row["n"], row["seeds"]) == (88.02, 87.02, 9, 3)
        assert row["status"] == ledger.DIRECTION and len(row["hash"]) == 12
        assert not book["status"].str.startswith("reproduced").any()

    def test_real_data_by_interval_and_data_set(self, tmp_path):
        book = book_of(tmp_path, "paper", vadclip_backbones=backbones(87.1, 95))
        assert book.loc[WEAK.format("CLIP"), "status"] == ledger.INTERVAL
        assert book.loc[WEAK.format("Full"), "status"] == ledger.DIFFERS
        other = book.loc["Alert-CLIP | Weakly supervised | MSAD AUC | CLIP", "status"]
        assert other == "not run: needs a run on MSAD"
        absent = book.loc[WEAK.format("Stage I"), "status"]
        assert absent == "not run: not in this run (setting = frame AUC, model = Stage I)"

    def test_settings_and_arithmetic_are_no_results(self, tmp_path):
        P = load_params("mini")
        tables = {
            "settings": ledger.settings_table(P),
            "inconsistencies": inconsistencies.check_table(RESULTS, P),
        }
        status = book_of(tmp_path, **tables)["status"]
        table = "Alert-CLIP supplementary | "
        assert status[table + "Table 4 | weight decay | Stage 1"] == ledger.SAME
        assert status[table + "Table 4 | epochs | Stage 2"] == ledger.OTHER  # 75 steps instead
        assert status[table + "Table 4 | LoRA rank | Stage 1"] == ledger.OTHER
        assert status[table + "Table 5 | Visual projection | FLOPs"] == ledger.EQUAL
        assert status[table + "Table 5 | Text encoder | FLOPs"] == ledger.UNEQUAL

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
        ours = [book.loc[f"Alert-CLIP | Zero-shot | CLIP | {c}", "ours"] for c in
                ("UCF AUC", "UB AUC", "XD AP", "UB AP")]  # fmt: skip
        assert ours == [1, 2, 3, 3]

    def test_ablations_by_backbone_and_data_set(self, tmp_path):
        row = {"variant": "vadclip-a", "metric": "frame AP", "seeds": 5}
        rows = [row | {"backbone": "Full", "value": 68.15, "low": 68, "high": 69},
                row | {"backbone": "CLIP", "value": 60.0, "low": 50, "high": 70}]  # fmt: skip
        key = "VadCLIP | Table 6 | A | AP"
        found = book_of(tmp_path, "paper+paper-xd", ablation_results=rows).loc[key]
        assert (found["ours"], found["low"], found["seeds"]) == (60, 50, 5)
        assert found["status"] == ledger.INTERVAL
        for profile in ("paper", "mini"):
            found = book_of(tmp_path, profile, ablation_results=rows).loc[key]
            assert found["status"] == "not run: needs a run on XD-Violence"
        row = {"variant": "joint", "backbone": "", "seeds": 1, "value": 70, "low": "", "high": ""}
        rows = [row | {"metric": "frame AUC"}, row | {"metric": "VadCLIP: frame AUC"}]
        key = "Alert-CLIP | Training order and negatives | {} | AUC".format
        book = book_of(tmp_path, ablation_results=rows)
        joint = book.loc[key("Joint training from scratch, weakly supervised")]
        assert joint["status"] == ledger.DIRECTION and joint["seeds"] == 1
        hard = book.loc[key("Hard negatives, zero-shot"), "status"]
        assert hard.startswith("not run: needs UCF-Crime (variant = full, metric = snippets")

    def test_a_spread_over_seeds_serves_as_interval(self, tmp_path):
        rows = {"model": ["CLIP"], "normals": [False], "metric": ["mAP@0.1"], "value": [10.0]}
        book = book_of(tmp_path, vadclip_detection=rows | {"seed_sd": [1.5]})
        row = book.loc["VadCLIP | Table 4 | VadCLIP | 0.1"]
        assert (row["low"], row["high"]) == (7.0, 13.0)

    def test_a_row_that_is_there_twice_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="has 2 rows with setting = frame AUC, model = CLIP"):
            book_of(tmp_path, vadclip_backbones=backbones(1, 2) + backbones(3, 4))

    @pytest.mark.parametrize(
        ("printed", "ours", "same"),
        [
            ("4.501", "4.50149", True),
            ("4.501", "4.50151", False),
            ("75.10", "75.14", False),
            ("5e-6", "5e-06", True),
            ("5e-6", "4e-06", False),
            ("1900", "1900.0", True),
            ("cosine", "cosine", True),
            ("cosine", "1", False),
        ],
    )
    def test_rounding_is_to_the_printed_digits(self, printed, ours, same):
        assert paper_numbers.same_digits(printed, ours) is same


class TestClaims:
    def found(self, tmp_path, clip, full):
        book = book_of(tmp_path, vadclip_backbones=backbones(clip, full))
        table = ledger.claims(RESULTS, book.reset_index(), tmp_path)
        return table[table["claim"] == "Full above CLIP: UCF-Crime AUC"].iloc[0]

    @pytest.mark.parametrize(
        ("full", "verdict"),
        [(93, ledger.HOLDS), (91, ledger.OPEN), (87, ledger.FAILS)],
    )
    def test_intervals_decide(self, tmp_path, full, verdict):
        row = self.found(tmp_path, 90, full)
        assert row["verdict"] == verdict
        assert row["paper"] == pytest.approx(1.30) and row["ours"] == full - 90

    def test_what_is_below_in_the_paper_must_be_below(self):
        low, high = ledger.Span(1, 0.5, 1.5), ledger.Span(3, 2.5, 3.5)
        assert ledger.verdict(low, high, -1) == ledger.HOLDS
        assert ledger.verdict(high, low, -1) == ledger.FAILS

    @pytest.mark.parametrize(("mss", "verdict"), [(-0.2, ledger.HOLDS), (0.2, ledger.FAILS)])
    def test_a_number_below_nought_must_be_below(self, tmp_path, mss, verdict):
        row = {"class_name": "all", "model": "CLIP", "mss": mss, "n": 9}
        rows = [row | {"low": mss - 0.1, "high": mss + 0.1}]
        book = book_of(tmp_path, stage2_mss=rows).reset_index()
        table = ledger.claims(RESULTS, book, tmp_path).set_index("claim")
        assert table.loc["CLIP, average of Table 1 below 0", "verdict"] == verdict

    def test_untested_orderings_are_counted(self, tmp_path):
        book = book_of(tmp_path).reset_index()
        table = ledger.claims(RESULTS, book, tmp_path)
        assert table.empty  # nothing measured, nothing tested; the rest is counted
        untested = {(r["document"], r["table"]): r["claims"] for r in table.attrs["untested"]}
        assert untested["Alert-CLIP", "Weakly supervised"] == 12  # 4 rows, 3 pairs of columns
        assert sum(untested.values()) > 400

    def test_kept_knowledge_is_read_from_our_table(self, tmp_path):
        each = RESULTS.statements[0].each[0]
        rows = [{"setting": each, "model": m, "value": v, "low": v - 1, "high": v + 1}
                for m, v in (("CLIP", 80), ("Full", 70))]  # fmt: skip
        pd.DataFrame(rows).to_csv(tmp_path / "retention.csv", index=False)
        table = ledger.claims(RESULTS, book_of(tmp_path).reset_index(), tmp_path)
        found = table[table["csv"] == "retention.csv"]
        assert found["verdict"].tolist() == [ledger.FAILS] and found["ours"].tolist() == [-10]


@pytest.fixture(scope="module")
def table():
    return inconsistencies.check_table(RESULTS, load_params("mini")).set_index("check")


class TestChecks:
    def test_flops_by_hand(self, table):
        # B/32: 50 tokens of width 768, 12 blocks; per token and block 12 d^2 + 2 T d + 10 d.
        block = 50 * (12 * 768**2 + 2 * 50 * 768 + 10 * 768)
        frame = 49 * 3 * 32**2 * 768 + 5 * 768 * 51 + 12 * block
        found = inconsistencies.vision_teraflops(32)
        assert found == pytest.approx(256 * frame / 1e12, rel=1e-12)
        assert f"{inconsistencies.vision_teraflops(16):.3f}" == "4.501"
        assert table.loc["backbone", "computed"] == "L/32 needs 3.940 T"
        assert table.loc["temporal FLOPs", "computed"] == pytest.approx(
            2 * 256 * (12 * 512**2 + 2 * 256 * 512 + 10 * 512) / 1e9, rel=1e-12
        )
        assert "248 tokens 10.133 G" in table.loc["text FLOPs", "finding"]
        assert "LayerNorm alone 1.076 G" in table.loc["temporal FLOPs", "finding"]
        assert "in G 4.5126 T, in M 4.5123 T" in table.loc["total FLOPs", "finding"]

    def test_verdicts(self, table):
        contradicted = set(table.index[table["verdict"] == "contradicted"])
        flops = {f"{name} FLOPs" for name in ("vision", "text", "temporal", "text projection")}
        counts = {"candidate videos", "questions per clip", "videos of UCF-Crimes"}
        text = {"open-vocabulary gain", "mixed precision", "AUC in the text", "backbone"}
        assert contradicted == flops | counts | text
        doubtful = {"patch grid", "lowest score", "Stage I AUC", "Full and Table 3"}
        doubtful |= {"consistent gain", "overall between parts", "own numbers"}
        doubtful |= {"Selector losses, Table D.16", "Selector losses, Table D.17"}
        assert set(table.index[table["verdict"] == "doubtful"]) == doubtful
        assert (table["verdict"] == "not run").sum() == 9

    def test_what_is_refuted_is_a_cell(self, table):
        keys = inconsistencies.refuted(table.reset_index())
        assert (
            keys <= set(CELLS)
            and "VA-GPT | Numbers in the text | questions per clip | value" in keys
        )
        assert "Alert-CLIP supplementary | Table 5 | Visual projection | FLOPs" not in keys
        assert all(set(x.split("; ")) <= {"", *CELLS} for x in table["refutes"])

    @pytest.mark.parametrize(
        ("key", "value", "check"),
        [
            ("AnomalyCLIP | Table 4 | SSRL | Arson", "93.97", "means over classes"),
            ("VadCLIP | Table 3 | AVVD | 0.3", "21.18", "means over IoU"),
            ("AnomalyCLIP | Table 2 | SSRL, I3D-RGB | mAUC", "88.98", "differences in the text"),
            ("VadCLIP | Table 5 | LGT-Adapter | AVG", "24.80", "differences in the text, VadCLIP"),
            ("Alert-CLIP | VAGTA | normal training clips | count", "2586", "sum of clips"),
            ("Alert-CLIP supplementary | Table 6 | Total | Time", "86.26", "training hours"),
        ],
    )
    def test_a_wrong_digit_is_found(self, key, value, check):
        document, name, row, column = key.split(" | ")
        tables = []
        for table in RESULTS.tables:
            if (table.document, table.table) == (document, name):
                i = table.columns.index(column)
                cells = [value if j == i else c for j, c in enumerate(table.rows[row])]
                table = table.model_copy(update={"rows": table.rows | {row: cells}})
            tables.append(table)
        changed = paper_numbers.PaperNumbers(**(dict(RESULTS) | {"tables": tables}))
        found = inconsistencies.check_table(changed, load_params("mini")).set_index("check")
        assert found.loc[check, "verdict"] == "contradicted"

    def test_published_files(self, shared_data):
        P = load_params("paper", {"data_root": str(shared_data / "vagta")})
        table = inconsistencies.check_table(RESULTS, P).set_index("check")
        assert table.loc["test items", "finding"] == "702 items, 494 videos, 734 regions"
        assert table.loc["abnormal training items", ["computed", "verdict"]].tolist() == [
            1141,
            "contradicted",
        ]
        assert "of 900 videos" in table.loc["abnormal training items", "finding"]
        assert table.loc["longest hard negative", "finding"].startswith("584 of 11,175")
        assert table.loc["class prefix", "finding"].startswith("700 of 702")
        assert "1,565 are in VAGTA" in table.loc["in-domain zero-shot", "finding"]
        assert table.loc["box coordinates", "verdict"] == "contradicted"


class TestReport:
    def test_page_is_whole_and_escapes(self, tmp_path, monkeypatch):
        P = load_params("mini", {"profile": "<b>x"})
        monkeypatch.setattr(type(P), "run_dir", property(lambda self: tmp_path))
        pixel = bytes.fromhex("89504e470d0a1a0a")
        (tmp_path / "figures").mkdir()
        (tmp_path / "figures/one.png").write_bytes(pixel)
        checks = inconsistencies.check_table(RESULTS, P)
        book = ledger.ledger(RESULTS, tmp_path / "figures", P, inconsistencies.refuted(checks))
        found = ledger.claims(RESULTS, book, tmp_path)
        page = report.write_report(P, RESULTS, book, found, checks).read_text()
        assert "data:image/png;base64,iVBORw0KGgo=" in page
        assert "&lt;b&gt;x" in page and "<b>x" not in page and "nan<" not in page
        assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)
        assert not re.search(r"https?://|<script|<link|@import|url\(", page)
        anchors = set(re.findall(r'href="#([^"]+)"', page))
        assert anchors <= set(re.findall(r'id="([^"]+)"', page)) and len(anchors) == 11
        assert all(f"<b>{t.table}</b>" in page for t in RESULTS.tables)

    def test_tables_keep_the_shape_of_the_paper(self, tmp_path):
        view = report.table_view(RESULTS, book_of(tmp_path), "VadCLIP", "Table 2")
        assert [(len(row), row[0]["row"]) for row in view["rows"]][::11] == [
            (2, "SVM baseline"),
            (2, "VadCLIP (Ours)"),
        ]
        assert (view["numbers"], view["measured"]) == (23, 0)

    def test_status_counts_hold_every_number(self, tmp_path):
        counts = ledger.status_counts(book_of(tmp_path))
        assert counts.to_numpy().sum() == len(CELLS)
        assert ledger.status_items(book_of(tmp_path))["items"].sum() == len(CELLS)

    @pytest.mark.parametrize(
        ("value", "text"),
        [(np.nan, ""), (1900, "1,900"), (0.017342, "0.01734"), ("88.50", "88.50"), (2.0, "2")],
    )
    def test_numbers_are_short(self, value, text):
        assert report.shown(value) == text
