"""Sentences of the papers against their own tables."""

from collections.abc import Sequence

from companion.inconsistencies.check import CONTRADICTED, DOUBTFUL, HOLDS, Check, Outcome, agree
from companion.ledger.paper_results import PaperResults, PaperTable

WEAK = "Alert-CLIP | Weakly supervised | {} | {}"
ABLATED = "Alert-CLIP | Ablation | Global only | AUC"
OPEN = "Alert-CLIP supplementary | Table 1 | {} | {}"
PRECISION = "Alert-CLIP supplementary | Table 4 | mixed precision | Stage 1"
TEXT_AUC = "VadCLIP | Gains in the text | UCF-Crime AUC, comparison | value"
OWN_AUC = "VadCLIP | Table 2 | VadCLIP (Ours) | AUC"
ROUNDING = 0.01  # of a mean of numbers with two decimals, themselves rounded

# Differences in AnomalyCLIP's section 4.2: row of "Gains in the text" -> table, other row, column.
ANOMALYCLIP = {
    "ShanghaiTech AUC, over SSRL": ("Table 1", "SSRL, I3D-RGB", "AUC"),
    "ShanghaiTech mAUC, over SSRL": ("Table 1", "SSRL, I3D-RGB", "mAUC"),
    "ShanghaiTech mAUC, over zero-shot CLIP": ("Table 1", "Zero-shot, CLIP, ViT-B/16", "mAUC"),
    "UCF-Crime mAUC, over ActionCLIP": ("Table 2", "ActionCLIP, ViT-B/16", "mAUC"),
    "UCF-Crime mAUC, over SSRL": ("Table 2", "SSRL, I3D-RGB", "mAUC"),
    "UCF-Crime AUC, over SSRL": ("Table 2", "SSRL, I3D-RGB", "AUC"),
}
# The same of VadCLIP: -> table, better row, worse row, column; the text rounds to one decimal.
VADCLIP = {
    "XD-Violence AP, over CLIP-TSA": ("Table 1", "VadCLIP (Ours)", "CLIP-TSA (2023)", "AP"),
    "XD-Violence AP, over DMU": ("Table 1", "VadCLIP (Ours)", "DMU (2023)", "AP"),
    "UCF-Crime AUC, over CLIP-TSA": ("Table 2", "VadCLIP (Ours)", "CLIP-TSA (2023)", "AUC"),
    "UCF-Crime AUC, over DMU": ("Table 2", "VadCLIP (Ours)", "DMU (2023)", "AUC"),
    "XD-Violence AVG, over Sultani et al.": ("Table 3", "VadCLIP", "Sultani et al.", "AVG"),
    "XD-Violence AVG, over AVVD": ("Table 3", "VadCLIP", "AVVD", "AVG"),
    "no LGT-Adapter, loss of AP":
        ("Table 5", "LGT-Adapter", "Baseline (w/o temporal modeling)", "AP"),
    "no LGT-Adapter, loss of AVG":
        ("Table 5", "LGT-Adapter", "Baseline (w/o temporal modeling)", "AVG"),
    "global encoder and GCN, gain in AP": ("Table 5", "Global TF-Encoder+GCN", "LGT-Adapter", "AP"),
    "LGT-Adapter over it, gain in AVG": ("Table 5", "LGT-Adapter", "Global TF-Encoder+GCN", "AVG"),
    "hand-crafted prompt, loss of AP": ("Table 7", "Learnable-Prompt", "Hand-crafted Prompt", "AP"),
    "hand-crafted prompt, loss of AVG":
        ("Table 7", "Learnable-Prompt", "Hand-crafted Prompt", "AVG"),
    "average-frame prompt, loss of AP":
        ("Table 7", "Anomaly-Focus Visual Prompt", "Average-Frame Visual Prompt", "AP"),
    "average-frame prompt, loss of AVG":
        ("Table 7", "Anomaly-Focus Visual Prompt", "Average-Frame Visual Prompt", "AVG"),
}  # fmt: skip


def stage1_auc(r: PaperResults) -> Outcome:
    """The same model in the main table and in the ablation."""
    ablation, main = r.value(ABLATED), r.value(WEAK.format("UCF-Crime AUC", "Stage I"))
    return Outcome(ablation, agree(ablation == main), f"{main - ablation:+.2f} points apart")


def consistent_gain(r: PaperResults) -> Outcome:
    """Alert-CLIP below CLIP in the main table, over both stages, data sets and measures."""
    rows = ("UCF-Crime AUC", "UCF-Crime AP", "MSAD AUC", "MSAD AP")
    below = [f"{stage}, {row}" for row in rows for stage in ("Stage I", "Full")
             if r.value(WEAK.format(row, stage)) < r.value(WEAK.format(row, "CLIP"))]  # fmt: skip
    return Outcome(len(below), agree(not below), f"of 8 below CLIP: {', '.join(below)}")


def open_gain(r: PaperResults) -> Outcome:
    """Full below CLIP in the open-vocabulary table."""
    rows = [f"{data} {part}" for data in ("UCF-Crime", "XD-Violence")
            for part in ("Overall", "Base", "Novel")]  # fmt: skip
    below = [f"{row} {metric}" for row in rows for metric in ("AUC", "AP")
             if r.value(OPEN.format(row, f"Full {metric}"))
             < r.value(OPEN.format(row, f"CLIP {metric}"))]  # fmt: skip
    return Outcome(len(below), agree(not below), f"of 12 below CLIP: {', '.join(below)}")


def between_parts(r: PaperResults) -> Outcome:
    """With common normal videos, overall AUC is a weighted mean of base and novel AUC."""
    outside = []
    for data in ("UCF-Crime", "XD-Violence"):
        for model in ("CLIP AUC", "Full AUC"):
            overall, *parts = (r.value(OPEN.format(f"{data} {part}", model))
                               for part in ("Overall", "Base", "Novel"))  # fmt: skip
            if not min(parts) <= overall <= max(parts):
                outside.append(f"{data} {model}: {overall} outside {min(parts)} to {max(parts)}")
    verdict = DOUBTFUL if outside else HOLDS
    return Outcome(len(outside), verdict, "; ".join(outside) or "all between")


def own_numbers(r: PaperResults) -> Outcome:
    """CLIP's row equals the published VadCLIP, whose weights were chosen on the test set."""
    ours, published = r.printed(WEAK.format("UCF-Crime AUC", "CLIP")), r.printed(OWN_AUC)
    verdict = DOUBTFUL if ours == published else HOLDS
    return Outcome(published, verdict, "VadCLIP's published AUC on UCF-Crime, digit for digit")


def mixed_precision(r: PaperResults) -> Outcome:
    """Table 4 switches it off in Stage 1."""
    stated = r.printed(PRECISION)
    return Outcome(stated, agree("False" not in stated), "Table 4, Stage 1")


def vadclip_text(r: PaperResults) -> Outcome:
    """The text's AUC on UCF-Crime against its Table 2."""
    table, text = r.value(OWN_AUC), r.value(TEXT_AUC)
    return Outcome(table, agree(table == text), "Table 2, abstract and introduction")


def anomalyclip_gains(r: PaperResults) -> Outcome:
    """Largest deviation of the stated differences from its tables, in points."""
    own = "AnomalyCLIP (ours), ViT-B/16"
    deviations = []
    for row, (table, other, column) in ANOMALYCLIP.items():
        values = [r.value(f"AnomalyCLIP | {table} | {name} | {column}") for name in (own, other)]
        stated = r.value(f"AnomalyCLIP | Gains in the text | {row} | gain")
        deviations.append(abs(values[0] - values[1] - stated))
    return _deviation(deviations, 1e-6)


def vadclip_gains(r: PaperResults) -> Outcome:
    """The same of VadCLIP, which rounds to one decimal."""
    deviations = []
    for row, (table, better, worse, column) in VADCLIP.items():
        values = [r.value(f"VadCLIP | {table} | {name} | {column}") for name in (better, worse)]
        stated = r.value(f"VadCLIP | Gains in the text | {row} | value")
        deviations.append(abs(values[0] - values[1] - stated))
    return _deviation(deviations, 0.05 + 1e-6)


def class_means(r: PaperResults) -> Outcome:
    """The last column of AnomalyCLIP's class tables is the mean of the others."""
    return _means(r, "AnomalyCLIP", ("Table 4", "Table 5", "Table 6"))


def iou_means(r: PaperResults) -> Outcome:
    """The last column of VadCLIP's mAP tables is the mean of the others."""
    return _means(r, "VadCLIP", ("Table 3", "Table 4"))


def _means(r: PaperResults, document: str, names: Sequence[str]) -> Outcome:
    tables = [t for t in r.tables if t.document == document and t.table in names]
    return _deviation([gap for table in tables for gap in _row_gaps(table)], ROUNDING + 1e-6)


def _row_gaps(table: PaperTable) -> list[float]:
    rows = [[float(cell) for cell in row] for row in table.rows.values()]
    return [abs(sum(row[:-1]) / (len(row) - 1) - row[-1]) for row in rows]


def _deviation(deviations: Sequence[float], allowed: float) -> Outcome:
    largest = max(deviations)
    verdict = HOLDS if largest <= allowed else CONTRADICTED
    return Outcome(round(largest, 4), verdict, f"largest of {len(deviations)} deviations, points")


CHECKS = (
    Check("Stage I AUC", "Alert-CLIP", "Stage I on UCF-Crime, main table and ablation",
          WEAK.format("UCF-Crime AUC", "Stage I"), stage1_auc,
          (WEAK.format("UCF-Crime AUC", "Stage I"), ABLATED)),
    Check("consistent gain", "Alert-CLIP", "consistently above CLIP, weakly supervised",
          "no case below", consistent_gain),
    Check("open-vocabulary gain", "Alert-CLIP supplementary",
          "Full consistently improves upon CLIP on all splits", "no case below", open_gain),
    Check("overall between parts", "Alert-CLIP supplementary",
          "overall AUC lies between base and novel", "all between", between_parts),
    Check("own numbers", "Alert-CLIP supplementary",
          "all numbers come from one implementation, none is copied",
          WEAK.format("UCF-Crime AUC", "CLIP"), own_numbers),
    Check("mixed precision", "Alert-CLIP supplementary",
          "all experiments employ mixed precision", "in both stages", mixed_precision),
    Check("AUC in the text", "VadCLIP", "AUC on UCF-Crime in the comparison", TEXT_AUC,
          vadclip_text, (TEXT_AUC,)),
    Check("differences in the text", "AnomalyCLIP", "stated gains follow from its tables", "0",
          anomalyclip_gains),
    Check("differences in the text, VadCLIP", "VadCLIP", "stated gains follow from its tables",
          "within rounding", vadclip_gains),
    Check("means over classes", "AnomalyCLIP", "mAUC and mAP are means of their classes",
          "within rounding", class_means),
    Check("means over IoU", "VadCLIP", "AVG is the mean over thresholds", "within rounding",
          iou_means),
)  # fmt: skip
