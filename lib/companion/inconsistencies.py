"""Where the papers contradict themselves, arithmetic or their own files: every point computed.

What they state is listed in params/paper_results.yaml under ``checks``. Each function below yields
the name of a check, what we compute, the verdict, and a finding in words.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, product
from typing import Any

import pandas as pd

from alertclip.errors import InputError
from alertclip.files import read_json
from alertclip.records import MAX_TOKENS, token_count
from alertclip.vagta import strip_prefix
from companion import flops
from companion.ledger import benchmark_counts
from companion.paper_numbers import cells, load, printed, same_digits, value
from companion.profiles import Params

HOLDS, CONTRADICTED, DOUBTFUL = "holds", "contradicted", "doubtful"
Results = Iterator[tuple[str, float | str, str, str]]  # check, computed, verdict, finding
NOT_RUN = "not run"
MISSING = ("", NOT_RUN, "needs VAGTA's files and a profile that reads them")
SUPPLEMENTARY = "Alert-CLIP supplementary"
COUNT = "Alert-CLIP | VAGTA | {} | count"
WEAK = "Alert-CLIP | Weakly supervised | {} {} | {}"  # data set, metric, model
OPEN = SUPPLEMENTARY + " | Table 1 | {} {} | {} {}"  # data set, part, model, metric
PARTS = ("Overall", "Base", "Novel")
SCREENING = SUPPLEMENTARY + " | A.2 | {} | value"
SELECTOR = "AnomalyCLIP | Table D.{} | {} | {}"


def holds(right: bool, otherwise: str = CONTRADICTED) -> str:
    """The verdict of a comparison."""
    return HOLDS if right else otherwise


def check_table(P: Params) -> pd.DataFrame:
    """All checks: columns check, document, claim, stated, computed, verdict, finding, refutes.

    Those of VAGTA's files run where the profile reads them (world: vagta) and they are there.
    """
    parts = flops_checks(), sums(), screening(), models(), losses(), sentences(), vagta_files(P)
    found, rows = {name: result for name, *result in chain(*parts)}, []
    for check in load()["checks"]:
        name, stated = check["check"], check["stated"]
        shown, refutes = (printed(stated) if stated in cells() else stated), "refutes" in check
        row = name, check["document"], check["claim"], shown, *found.get(name, MISSING)
        rows.append((*row, stated if refutes else ""))
    names = ["check", "document", "claim", "stated", "computed", "verdict", "finding", "refutes"]
    return pd.DataFrame(rows, columns=names)


def refuted(checks: pd.DataFrame) -> set[str]:
    """Cells whose printed number a check has shown to be wrong."""
    return set(checks.loc[checks["verdict"] == CONTRADICTED, "refutes"]) - {""}


def as_printed(key: str, computed: float) -> tuple[float, str]:
    """What is computed, and whether it has the printed digits."""
    return computed, holds(same_digits(printed(key), str(computed)))


def flops_checks() -> Results:
    """Table 5 against closed forms, in T or G of fvcore's operations."""
    vision, visual, temporal, text, text_projection, total, roi = (
        key for key in cells() if key.startswith(f"{SUPPLEMENTARY} | Table 5 | ")
    )
    b32, b16 = (_giga(flops.clip_costs(*vit)) for vit in flops.VIT.values())
    l32, long = (_giga(flops.clip_costs(*v)) for v in ((32, 1024, 24), (16, 768, 12, 248)))
    published, full = _giga(flops.as_published(768)), flops.transformer(2, flops.FRAMES, flops.DIM)
    named, counted, large = (x["vision encoder"] / 1e3 for x in (b32, b16, l32))
    attended, hidden = _giga({"": full})[""], published["temporal transformer"]
    lines = counted + (value(visual) + value(temporal) + value(text)) / 1e3
    in_g, in_m = (lines + value(text_projection) / scale for scale in (1e3, 1e6))
    small = value(temporal) + value(visual) + value(text_projection)
    shares = 100 * value(vision) / value(total), small / 10 / value(total)
    for name, key, computed, finding in (
        ("vision", vision, named, f"ViT-B/32 needs {named:.3f} T, ViT-B/16 {counted:.3f} T"),
        ("visual projection", visual, b16["visual projection"], "256 x 768 x 512"),
        ("temporal", temporal, attended,
         f"with attention {attended:.3f} G, FFN and LayerNorm alone {hidden:.3f} G"),
        ("text", text, b16["text encoder"],
         f"77 tokens need {b16['text encoder']:.3f} G, 248 tokens {long['text encoder']:.3f} G"),
        ("text projection", text_projection, b16["text projection"],
         f"512 x 512 = {1e3 * b16['text projection']:.3f} M, not G"),
        ("total", total, in_m,
         f"with the text projection in G {in_g:.4f} T, in M {in_m:.4f} T"),
        ("ROI projection", roi, published["ROI projection"], "256 frames x 5 boxes x 768 x 512"),
    ):  # fmt: skip
        yield f"{name} FLOPs", *as_printed(key, computed), finding
    verdict, finding = as_printed(vision, large)[1], f"Table 5 states {printed(vision)} T"
    yield "backbone", f"L/32 needs {large:.3f} T", verdict, finding
    finding = "7 x 7 fits the ViT-B/32 that is named, 14 x 14 the ViT-B/16 of Table 5's FLOPs"
    yield "patch grid", 14, holds(as_printed(vision, named)[1] == HOLDS, DOUBTFUL), finding
    yield "vision share", shares[0], holds(shares[0] > 99), "of the stated total"
    yield "share of small modules", shares[1], holds(shares[1] < 1), "of the stated total"


def _giga(costs: dict[str, Any]) -> dict[str, float]:
    return {module: float(cost @ flops.FVCORE) / 1e9 for module, cost in costs.items()}


def sums() -> Results:
    """Hours, rates and counts that follow from each other."""
    time = (SUPPLEMENTARY + " | Table 6 | {} | Time").format
    hours = round(value(time("Stage 1, 100 epochs")) + value(time("Stage 2, 20 epochs")), 6)
    yield "training hours", hours, holds(hours == value(time("Total"))), "Stage 1 plus Stage 2"
    speed = (SUPPLEMENTARY + " | Table 7 | Alert-CLIP | {}").format
    videos = 1000 / value(speed("Latency"))
    right = same_digits(printed(speed("Videos/s")), str(videos))
    right &= round(256 * videos, -2) == value(speed("Frames/s"))  # "approximately 1200"
    yield "throughput", 256 * videos, holds(right), f"{videos:.3f} videos a second"
    names = ("clips", "training clips", "test clips", "normal training clips",
             "abnormal training clips")  # fmt: skip
    clips, train, test, normal, abnormal = (value(COUNT.format(name)) for name in names)
    right = train + test == clips and normal + abnormal == train
    finding = f"{normal:g} + {abnormal:g} = {normal + abnormal:g}"
    yield "sum of clips", train + test, holds(right), finding
    pairs = value("VA-GPT | Table 1 | Ours | Questions-Answer Pairs")
    clips = value("VA-GPT | Table 1 | Ours | Num. of Clips")
    finding = f"{pairs:,.0f} pairs, {clips:,.0f} clips"
    yield "questions per clip", pairs / clips, holds(pairs / clips == 3), finding
    stated = value("VA-GPT | Numbers in the text | videos of UCF-Crimes | value")
    there = benchmark_counts("ucf_crime")["videos"]
    finding = "Table 1 calls the same number clips"
    yield "videos of UCF-Crimes", there, holds(stated <= there), finding


def screening() -> Results:
    """Supplementary A.2: candidates, shares by score, and the range of the score."""
    stated = value(SCREENING.format("candidate videos"))
    removed = value(SCREENING.format("removed, score 0-25"))
    there = sum(benchmark_counts(name)["videos"] for name in ("ucf_crime", "msad"))
    left = f"{stated - removed:,.0f}"
    finding = f"less those removed it is {left}, the number of clips after segmentation"
    yield "candidate videos", there, holds(stated <= there), finding
    bins = [SCREENING.format(f"share with score {name}") for name in ("0-25", "25-40", "40-50")]
    share, whole = 100 * removed / stated, sum(map(value, bins))
    right = same_digits(printed(bins[0]), str(share)) and abs(whole - 100) < 0.15
    yield "score bins", share, holds(right), f"bins add up to {whole:.1f} %"
    criteria = ("class", "clarity", "quality", "redundancy")
    weights = sum(value(SCREENING.format(f"weight of {name}")) for name in criteria)
    low, high = (weights * value(SCREENING.format(f"{end} score of a criterion"))
                 for end in ("lowest", "highest"))  # fmt: skip
    finding = f"totals lie between {low:g} and {high:g}"
    yield "lowest score", low, holds(low == 0, DOUBTFUL), finding


def models() -> Results:
    """CLIP, Stage I and Full in Alert-CLIP's tables."""
    ablation = value("Alert-CLIP | Ablation | Global only | AUC")
    clip, first, full = (
        value(WEAK.format("UCF-Crime", "AUC", m)) for m in ("CLIP", "Stage I", "Full")
    )
    finding = f"{first - ablation:+.2f} points apart; they may be two experiments"
    yield "Stage I AUC", ablation, holds(ablation == first, DOUBTFUL), finding
    below = []
    for data, metric, model in product(("UCF-Crime", "MSAD"), ("AUC", "AP"), ("Stage I", "Full")):
        if value(WEAK.format(data, metric, model)) < value(WEAK.format(data, metric, "CLIP")):
            below.append(f"{model}, {data} {metric}")
    of_full = sum(name.startswith("Full") for name in below)
    verdict = holds(not below, CONTRADICTED if of_full else DOUBTFUL)
    finding = f"of 8 below CLIP: {', '.join(below)}; of Full {of_full} of 4"
    yield "consistent gain", len(below), verdict, finding
    rows = list(product(("UCF-Crime", "XD-Violence"), PARTS, ("AUC", "AP")))
    below = [" ".join(row) for row in rows if _open(*row, "Full") < _open(*row, "CLIP")]
    finding = f"of 12 below CLIP: {', '.join(below)}"
    yield "open-vocabulary gain", len(below), holds(not below), finding
    outside = []  # with the same normal videos, overall AUC is a weighted mean of the parts' AUC
    for data, model in product(("UCF-Crime", "XD-Violence"), ("CLIP", "Full")):
        overall, *parts = (_open(data, part, "AUC", model) for part in PARTS)
        if not min(parts) <= overall <= max(parts):
            outside.append(f"{data} {model} AUC: {overall} outside {min(parts)} to {max(parts)}")
    finding = "; ".join(outside) or "all between"
    yield "overall between parts", len(outside), holds(not outside, DOUBTFUL), finding
    before, own, both = (value(f"{SUPPLEMENTARY} | Table 3 | {row} | AUC") for row in
                         ("Original data + Original framework", "Original data + Alert-CLIP",
                          "VAGTA + Alert-CLIP"))  # fmt: skip
    finding = "CLIP and Full are Table 3's first and last row, of other data too: of the gain"
    finding += f" of {full - clip:.2f} points, {own - before:.2f} remain on the original data"
    other_data = (clip, full) == (before, both)
    yield "data and framework", both, holds(not other_data, DOUBTFUL), finding


def _open(data: str, part: str, metric: str, model: str) -> float:
    return value(OPEN.format(data, part, model, metric))


def losses() -> Results:
    """AnomalyCLIP's directional losses, of which its text says that both help."""
    full = value(SELECTOR.format(17, "L_A^DIR, L_N^DIR", "AP"))
    without = value(SELECTOR.format(17, "L_N^DIR", "AP"))
    finding = f"without it {without:.2f}, with both losses {full:.2f}"
    yield "abnormal direction loss", without, holds(full > without), finding
    neither, alone = (value(SELECTOR.format(16, row, "AUC")) for row in ("neither", "L_N^DIR"))
    finding = f"alone it gives {alone:.2f}, no directional loss {neither:.2f}"
    yield "normal direction loss", alone, holds(alone > neither, DOUBTFUL), finding


def sentences() -> Results:
    """Sentences against the tables that they are about."""
    own = printed(WEAK.format("UCF-Crime", "AUC", "CLIP"))
    published = printed("VadCLIP | Table 2 | VadCLIP (Ours) | AUC")
    finding = "VadCLIP's published AUC on UCF-Crime, digit for digit"
    yield "own numbers", published, holds(own != published, DOUBTFUL), finding
    text = value("VadCLIP | Gains in the text | UCF-Crime AUC, comparison | value")
    finding = "Table 2, abstract and introduction"
    yield "AUC in the text", float(published), holds(float(published) == text), finding
    stated = printed(f"{SUPPLEMENTARY} | Table 4 | mixed precision | Stage 1")
    yield "mixed precision", stated, holds("False" not in stated), "Table 4, Stage 1"
    yield "differences in the text", *_largest(_differences("AnomalyCLIP"), 0)
    rounded = _largest(_differences("VadCLIP"), 0.05)  # to one decimal
    yield "differences in the text, VadCLIP", *rounded
    means = _row_gaps("AnomalyCLIP", ("Table 4", "Table 5", "Table 6"))
    yield "means over classes", *_largest(means, 0.01)  # of numbers rounded themselves
    yield "means over IoU", *_largest(_row_gaps("VadCLIP", ("Table 3", "Table 4")), 0.01)


def _differences(document: str) -> list[float]:
    """Distance of each gain that the text states from the difference of its two cells."""
    tables = {(t["document"], t["table"]): t for t in load()["tables"]}
    table, gaps = tables[document, "Gains in the text"], []
    for row, (name, minuend, subtrahend, column) in table["differences"].items():
        a, b = (value(f"{document} | {name} | {x} | {column}") for x in (minuend, subtrahend))
        gaps.append(abs(a - b - float(table["rows"][row][0])))
    return gaps


def _row_gaps(document: str, names: Sequence[str]) -> list[float]:
    """Distance of the last number of each row from the mean of the others."""
    tables = [t for t in load()["tables"] if t["document"] == document and t["table"] in names]
    rows = [[*map(float, row)] for table in tables for row in table["rows"].values()]
    return [abs(sum(row[:-1]) / (len(row) - 1) - row[-1]) for row in rows]


def _largest(gaps: Sequence[float], allowed: float) -> tuple[float, str, str]:
    finding = f"largest of {len(gaps)} deviations, points"
    return round(max(gaps), 4), holds(max(gaps) <= allowed + 1e-6), finding


def vagta_files(P: Params) -> Results:
    """Counts in VAGTA's published files; nothing on another world or without the files."""
    try:
        if P.data.world != "vagta":
            return
        test = read_json(P.data_dir / P.data.annotations_test)
        train = read_json(P.data_dir / P.data.hard_negatives_train)["items"]
    except (InputError, KeyError, TypeError):  # missing, or of another shape
        return
    yield from _training_file(train)
    yield from _test_file(test)


def _training_file(train: list[dict[str, Any]]) -> Results:
    abnormal = [row for row in train if row["frames_25"] is not None]
    normal = [row for row in train if row["frames_25"] is None]
    total, some, rest = (len({row["video"] for row in rows}) for rows in (train, abnormal, normal))
    yield "training items", len(train), holds(len(train) == 3726), f"of {total:,} videos"
    finding = f"regions of {some:,} videos, not clips"
    yield "abnormal training items", len(abnormal), holds(len(abnormal) == some), finding
    finding = f"segments of {rest:,} videos"
    yield "normal training items", len(normal), holds(len(normal) == 2585), finding
    usual, number = Counter(len(row["hard_negative"]) for row in train).most_common(1)[0]
    finding = f"{number:,} of {len(train):,} have {usual}"
    yield "hard negatives per caption", usual, holds(number > 0.99 * len(train)), finding
    lengths = [token_count(text) for row in train for text in row["hard_negative"]]
    long = sum(length > MAX_TOKENS for length in lengths)
    finding = f"{long:,} of {len(lengths):,} are longer than {MAX_TOKENS} tokens"
    yield "longest hard negative", max(lengths), holds(not long), finding
    ucf = len({row["video"] for row in train if row["video"].startswith("UCF_Crimes_Videos/")})
    official = benchmark_counts("ucf_crime")["train"]
    finding = f"of UCF-Crime's {official:,} training videos, {ucf:,} are in VAGTA with captions"
    yield "in-domain zero-shot", ucf, holds(ucf == 0), finding


def _test_file(test: list[dict[str, Any]]) -> Results:
    videos, regions = len({row["video"] for row in test}), [row["region_captions"] for row in test]
    counts = len(test), videos, sum(map(len, regions))
    finding = "{} items, {} videos, {} regions".format(*counts)
    yield "test items", len(test), holds(486 in counts), finding
    captions = [row["global_caption"] for row in test]
    labelled = sum(strip_prefix(caption) != caption for caption in captions)
    finding = f"{labelled} of {len(captions)} begin with the class or with Normal"
    yield "class prefix", labelled, holds(not labelled, DOUBTFUL), finding
    boxes = [k["bbox"] for row in test for track in row["box_infos"] for k in track]
    largest = max(map(max, boxes))
    finding = f"{len(boxes):,} boxes, largest coordinate {largest:.3f}: shares of the frame"
    yield "box coordinates", largest, holds(largest > 2), finding
