"""Sentences of the papers against their own tables, and against VAGTA's published files."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from alertclip.caption_checks import MAX_TOKENS, token_count
from alertclip.errors import InputError
from alertclip.files import read_json
from alertclip.vagta import strip_prefix
from companion.paper_numbers import PaperNumbers
from companion.profiles import Params
from detectors.benchmarks import load_benchmark

HOLDS, CONTRADICTED, DOUBTFUL, NOT_RUN = "holds", "contradicted", "doubtful", "not run"
MAIN, SUPPLEMENTARY = "Alert-CLIP", "Alert-CLIP supplementary"
COUNT = "Alert-CLIP | VAGTA | {} | count"
TOKENS = SUPPLEMENTARY + " | A.4 | tokens, at most | value"
WEAK = "Alert-CLIP | Weakly supervised | {} | {}"
ABLATED = "Alert-CLIP | Ablation | Global only | AUC"
OPEN = SUPPLEMENTARY + " | Table 1 | {} | {}"
SWAP = SUPPLEMENTARY + " | Table 3 | VAGTA + Alert-CLIP | {}"
LOSSES = "AnomalyCLIP | Table D.{} | {} | {}"
BOTH, AWAY = "L_A^DIR, L_N^DIR", "L_N^DIR"
TEXT_AUC = "VadCLIP | Gains in the text | UCF-Crime AUC, comparison | value"
OWN_AUC = "VadCLIP | Table 2 | VadCLIP (Ours) | AUC"
PRECISION = SUPPLEMENTARY + " | Table 4 | mixed precision | Stage 1"
ROUNDING = 0.01  # of a mean of numbers with two decimals, themselves rounded

# Differences that a text states -> table, better row, worse row, column of its own tables.
ANOMALYCLIP = {
    "ShanghaiTech AUC, over SSRL": ("Table 1", "SSRL, I3D-RGB", "AUC"),
    "ShanghaiTech mAUC, over SSRL": ("Table 1", "SSRL, I3D-RGB", "mAUC"),
    "ShanghaiTech mAUC, over zero-shot CLIP": ("Table 1", "Zero-shot, CLIP, ViT-B/16", "mAUC"),
    "UCF-Crime mAUC, over ActionCLIP": ("Table 2", "ActionCLIP, ViT-B/16", "mAUC"),
    "UCF-Crime mAUC, over SSRL": ("Table 2", "SSRL, I3D-RGB", "mAUC"),
    "UCF-Crime AUC, over SSRL": ("Table 2", "SSRL, I3D-RGB", "AUC"),
}
NO_TIME, GLOBAL = "Baseline (w/o temporal modeling)", "Global TF-Encoder+GCN"
AVERAGE, FOCUS = "Average-Frame Visual Prompt", "Anomaly-Focus Visual Prompt"
VADCLIP = {
    "XD-Violence AP, over CLIP-TSA": ("Table 1", "VadCLIP (Ours)", "CLIP-TSA (2023)", "AP"),
    "XD-Violence AP, over DMU": ("Table 1", "VadCLIP (Ours)", "DMU (2023)", "AP"),
    "UCF-Crime AUC, over CLIP-TSA": ("Table 2", "VadCLIP (Ours)", "CLIP-TSA (2023)", "AUC"),
    "UCF-Crime AUC, over DMU": ("Table 2", "VadCLIP (Ours)", "DMU (2023)", "AUC"),
    "XD-Violence AVG, over Sultani et al.": ("Table 3", "VadCLIP", "Sultani et al.", "AVG"),
    "XD-Violence AVG, over AVVD": ("Table 3", "VadCLIP", "AVVD", "AVG"),
    "no LGT-Adapter, loss of AP": ("Table 5", "LGT-Adapter", NO_TIME, "AP"),
    "no LGT-Adapter, loss of AVG": ("Table 5", "LGT-Adapter", NO_TIME, "AVG"),
    "global encoder and GCN, gain in AP": ("Table 5", GLOBAL, "LGT-Adapter", "AP"),
    "LGT-Adapter over it, gain in AVG": ("Table 5", "LGT-Adapter", GLOBAL, "AVG"),
    "hand-crafted prompt, loss of AP": ("Table 7", "Learnable-Prompt", "Hand-crafted Prompt", "AP"),
    "hand-crafted prompt, loss of AVG": (
        "Table 7",
        "Learnable-Prompt",
        "Hand-crafted Prompt",
        "AVG",
    ),
    "average-frame prompt, loss of AP": ("Table 7", FOCUS, AVERAGE, "AP"),
    "average-frame prompt, loss of AVG": ("Table 7", FOCUS, AVERAGE, "AVG"),
}


class Row(NamedTuple):
    """One check; ``refutes`` names the cells that are wrong if it is contradicted."""

    check: str
    document: str
    claim: str
    stated: str  # text, or a cell of the ledger
    computed: float | str
    verdict: str
    finding: str = ""
    refutes: tuple[str, ...] = ()


def agree(right: bool, otherwise: str = CONTRADICTED) -> str:
    """The verdict of a comparison."""
    return HOLDS if right else otherwise


def table_checks(r: PaperNumbers) -> Iterator[Row]:
    """Tables of the papers against each other."""
    stage1 = WEAK.format("UCF-Crime AUC", "Stage I")
    gap = r.value(stage1) - r.value(ABLATED)
    yield Row("Stage I AUC", MAIN, "Stage I on UCF-Crime, main table and ablation", stage1,
              r.value(ABLATED), agree(not gap, DOUBTFUL),
              f"{gap:+.2f} points apart; they may be two experiments")  # fmt: skip
    main = [WEAK.format("UCF-Crime AUC", "Full"), WEAK.format("UCF-Crime AP", "Full")]
    last = [r.printed(SWAP.format(name)) for name in ("AUC", "AP")]
    same = last == [r.printed(key) for key in main]
    yield Row("Full and Table 3", SUPPLEMENTARY, "VAGTA + Alert-CLIP is a run of its own", main[0],
              last[0], agree(not same, DOUBTFUL),
              "the main table's Full, digit for digit: one run stands in two tables")  # fmt: skip
    rows = ("UCF-Crime AUC", "UCF-Crime AP", "MSAD AUC", "MSAD AP")
    below = [f"{model}, {row}" for row in rows for model in ("Stage I", "Full")
             if r.value(WEAK.format(row, model)) < r.value(WEAK.format(row, "CLIP"))]  # fmt: skip
    yield Row("consistent gain", MAIN, "consistently above CLIP, weakly supervised",
              "no case below", len(below), agree(not below, DOUBTFUL),
              f"of 8 below CLIP: {', '.join(below)}; it holds for Full")  # fmt: skip
    parts = [f"{data} {part}" for data in ("UCF-Crime", "XD-Violence")
             for part in ("Overall", "Base", "Novel")]  # fmt: skip
    below = [f"{row} {m}" for row in parts for m in ("AUC", "AP")
             if r.value(OPEN.format(row, f"Full {m}"))
             < r.value(OPEN.format(row, f"CLIP {m}"))]  # fmt: skip
    yield Row("open-vocabulary gain", SUPPLEMENTARY,
              "Full consistently improves upon CLIP on all splits", "no case below", len(below),
              agree(not below), f"of 12 below CLIP: {', '.join(below)}")  # fmt: skip
    outside = list(_outside(r))
    yield Row("overall between parts", SUPPLEMENTARY, "overall AUC lies between base and novel",
              "all between", len(outside), agree(not outside, DOUBTFUL),
              "; ".join(outside) or "all between")  # fmt: skip
    clip = WEAK.format("UCF-Crime AUC", "CLIP")
    yield Row("own numbers", SUPPLEMENTARY,
              "all numbers come from one implementation, none is copied", clip, r.printed(OWN_AUC),
              agree(r.printed(clip) != r.printed(OWN_AUC), DOUBTFUL),
              "VadCLIP's published AUC on UCF-Crime, digit for digit")  # fmt: skip
    yield Row("mixed precision", SUPPLEMENTARY, "all experiments employ mixed precision",
              "in both stages", r.printed(PRECISION), agree("False" not in r.printed(PRECISION)),
              "Table 4, Stage 1")  # fmt: skip
    for table, metric, row, better in (("17", "AP", AWAY, BOTH), ("16", "AUC", "neither", AWAY)):
        one, two = (LOSSES.format(table, name, metric) for name in (row, better))
        finding = f"{row} {r.printed(one)}, {better} {r.printed(two)}: not shown to help"
        yield Row(f"Selector losses, Table D.{table}", "AnomalyCLIP",
                  f"{better} is above {row} in {metric}", r.printed(two), r.value(one),
                  agree(r.value(two) > r.value(one), DOUBTFUL), finding)  # fmt: skip


def _outside(r: PaperNumbers) -> Iterator[str]:
    """With common normal videos, overall AUC is a weighted mean of base and novel AUC."""
    for data in ("UCF-Crime", "XD-Violence"):
        for model in ("CLIP AUC", "Full AUC"):
            overall, *parts = (r.value(OPEN.format(f"{data} {part}", model))
                               for part in ("Overall", "Base", "Novel"))  # fmt: skip
            if not min(parts) <= overall <= max(parts):
                yield f"{data} {model}: {overall} outside {min(parts)} to {max(parts)}"


def text_checks(r: PaperNumbers) -> Iterator[Row]:
    """Stated gains and means against the tables that they come from."""
    yield Row("AUC in the text", "VadCLIP", "AUC on UCF-Crime in the comparison", TEXT_AUC,
              r.value(OWN_AUC), agree(r.value(OWN_AUC) == r.value(TEXT_AUC)),
              "Table 2, abstract and introduction", (TEXT_AUC,))  # fmt: skip
    own = "AnomalyCLIP (ours), ViT-B/16"
    gains = {k: (table, own, other, column) for k, (table, other, column) in ANOMALYCLIP.items()}
    yield _deviation("differences in the text", "AnomalyCLIP",
                     "stated gains follow from its tables", "0",
                     _gaps(r, "AnomalyCLIP", gains, "gain"), 1e-6)  # fmt: skip
    yield _deviation("differences in the text, VadCLIP", "VadCLIP",
                     "stated gains follow from its tables", "within rounding",
                     _gaps(r, "VadCLIP", VADCLIP, "value"), 0.05 + 1e-6)  # fmt: skip
    yield _deviation("means over classes", "AnomalyCLIP", "mAUC and mAP are means of their classes",
                     "within rounding", _means(r, "AnomalyCLIP", ("Table 4", "Table 5", "Table 6")),
                     ROUNDING + 1e-6)  # fmt: skip
    yield _deviation("means over IoU", "VadCLIP", "AVG is the mean over thresholds",
                     "within rounding", _means(r, "VadCLIP", ("Table 3", "Table 4")),
                     ROUNDING + 1e-6)  # fmt: skip


def _gaps(
    r: PaperNumbers, document: str, gains: dict[str, tuple[str, str, str, str]], column: str
) -> list[float]:
    gaps = []
    for row, (table, better, worse, metric) in gains.items():
        one, two = (r.value(f"{document} | {table} | {n} | {metric}") for n in (better, worse))
        gaps.append(abs(one - two - r.value(f"{document} | Gains in the text | {row} | {column}")))
    return gaps


def _means(r: PaperNumbers, document: str, names: Sequence[str]) -> list[float]:
    tables = [t for t in r.tables if t.document == document and t.table in names]
    rows = [[float(cell) for cell in row] for t in tables for row in t.rows.values()]
    return [abs(sum(row[:-1]) / (len(row) - 1) - row[-1]) for row in rows]


def _deviation(
    check: str, document: str, claim: str, stated: str, gaps: list[float], allowed: float
) -> Row:
    return Row(check, document, claim, stated, round(max(gaps), 4), agree(max(gaps) <= allowed),
               f"largest of {len(gaps)} deviations, points")  # fmt: skip


def file_checks(P: Params) -> Iterator[Row]:
    """What is said of VAGTA against its files; "not run" where they are not at hand."""
    files = _published(P)
    for name, document, claim, stated, refutes in FILE_CLAIMS:
        computed, right, finding = (
            files[name] if files else ("", NOT_RUN, "needs VAGTA's files and a profile for them")
        )
        yield Row(name, document, claim, stated, computed, right, finding,
                  (stated,) if refutes else ())  # fmt: skip


FILE_CLAIMS = (  # check, document, claim, stated, whether it refutes the cell
    ("training items", MAIN, "training clips", COUNT.format("training clips"), True),
    ("abnormal training items", MAIN, "abnormal training clips",
     COUNT.format("abnormal training clips"), True),
    ("normal training items", MAIN, "normal training clips", COUNT.format("normal training clips"),
     True),
    ("test items", MAIN, "test clips", COUNT.format("test clips"), True),
    ("hard negatives per caption", MAIN, "hard negatives of a caption",
     COUNT.format("hard negatives per region caption"), True),
    ("longest hard negative", SUPPLEMENTARY, "tokens of a hard negative", TOKENS, True),
    ("class prefix", MAIN, "global captions describe what is seen", "no label in them", False),
    ("in-domain zero-shot", MAIN, "UCF-Crime is tested zero-shot", "no training video of it",
     False),
    ("box coordinates", SUPPLEMENTARY, "boxes are in pixels", "pixels", False),
)  # fmt: skip


def _published(P: Params) -> dict[str, tuple[Any, str, str]] | None:
    """Check -> computed, verdict, finding; None where the files are missing."""
    if P.data.world != "vagta":
        return None
    try:
        test = read_json(P.data_dir / P.data.annotations_test)
        train = read_json(P.data_dir / P.data.hard_negatives_train)["items"]
    except (InputError, KeyError, TypeError):
        return None
    return _training_file(train) | _test_file(test)


def _training_file(train: list[dict[str, Any]]) -> dict[str, tuple[Any, str, str]]:
    kinds = [[x for x in train if (x["frames_25"] is not None) == event] for event in (True, False)]
    (n, videos), (abnormal, a), (normal, b) = ((len(x), _count(x)) for x in (train, *kinds))
    lengths = [token_count(text) for row in train for text in row["hard_negative"]]
    long = sum(length > MAX_TOKENS for length in lengths)
    usual, number = Counter(len(row["hard_negative"]) for row in train).most_common(1)[0]
    ucf = _count([row for row in train if row["video"].startswith("UCF_Crimes_Videos/")])
    official = sum(load_benchmark("ucf_crime").counts["train"].values())
    return {
        "training items": (n, agree(n == 3726), f"of {videos:,} videos"),
        "abnormal training items": (
            abnormal, agree(abnormal == a), f"regions of {a:,} videos, not clips"),
        "normal training items": (normal, agree(normal == 2585), f"segments of {b:,} videos"),
        "hard negatives per caption": (
            usual, agree(number > 0.99 * n), f"{number:,} of {n:,} have {usual}"),
        "longest hard negative": (max(lengths), agree(not long),
            f"{long:,} of {len(lengths):,} are longer than {MAX_TOKENS} tokens"),
        "in-domain zero-shot": (ucf, agree(ucf == 0),
            f"of UCF-Crime's {official:,} training videos, {ucf:,} are in VAGTA with captions"),
    }  # fmt: skip


def _test_file(test: list[dict[str, Any]]) -> dict[str, tuple[Any, str, str]]:
    n, videos, regions = len(test), _count(test), sum(len(x["region_captions"]) for x in test)
    captions = [row["global_caption"] for row in test]
    prefixed = sum(strip_prefix(caption) != caption for caption in captions)
    boxes = [key["bbox"] for row in test for track in row["box_infos"] for key in track]
    largest = max(max(box) for box in boxes)
    return {
        "test items": (n, agree(486 in (n, videos, regions)),
            f"{n} items, {videos} videos, {regions} regions"),
        "class prefix": (prefixed, agree(not prefixed, DOUBTFUL),
            f"{prefixed} of {n} begin with the class or with Normal"),
        "box coordinates": (largest, agree(largest > 2),
            f"{len(boxes):,} boxes, largest coordinate {largest:.3f}: shares of the frame"),
    }  # fmt: skip


def _count(rows: list[dict[str, Any]]) -> int:
    return len({row["video"] for row in rows})
