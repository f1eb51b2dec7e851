"""Where the papers contradict themselves, their files or arithmetic: each point is computed.

"contradicted" is shown by arithmetic or by a file; "doubtful" is a coincidence, or a statement that
holds under one reading only.
"""

from collections.abc import Iterator

import open_clip
import pandas as pd

from companion.flops import BOXES, FRAMES, Sizes, blocks
from companion.paper_numbers import PaperNumbers, same_digits
from companion.profiles import Params
from companion.table_checks import (
    CONTRADICTED,
    COUNT,
    DOUBTFUL,
    MAIN,
    SUPPLEMENTARY,
    Row,
    agree,
    file_checks,
    table_checks,
    text_checks,
)
from detectors.benchmarks import load_benchmark

FLOPS = SUPPLEMENTARY + " | Table 5 | {} | FLOPs"
SCREENING = SUPPLEMENTARY + " | A.2 | {} | value"
VISION, TOTAL = "Vision encoder (CLIP-B/32)", "Total (inference, no ROI)"
TEMPORAL, SMALL = "Temporal Transformer (2 layers)", ("Visual projection", "Text projection")


def check_table(numbers: PaperNumbers, P: Params) -> pd.DataFrame:
    """All checks: columns check, document, claim, stated, computed, verdict, finding, refutes.

    Those of VAGTA's files run where the profile reads them and they are there.
    """
    r = numbers
    rows = [*_costs(r), *_arithmetic(r), *table_checks(r), *text_checks(r), *file_checks(P)]
    table = pd.DataFrame(rows, columns=Row._fields)
    table["stated"] = [r.printed(x) if " | " in x else x for x in table["stated"]]
    return table.assign(refutes=table["refutes"].map("; ".join))


def refuted(table: pd.DataFrame) -> set[str]:
    """Cells whose printed number a check has shown to be wrong."""
    wrong = table[(table["verdict"] == CONTRADICTED) & table["refutes"].ne("")]
    return {key for keys in wrong["refutes"] for key in keys.split("; ")}


def sizes(patch: int, context: int = 77) -> Sizes:
    """CLIP ViT-B with that patch side on 224 x 224."""
    return Sizes.of(open_clip.get_model_config(f"ViT-B-{patch}"), context=context)


def vision_teraflops(patch: int) -> float:
    """fvcore's operations (T) of the vision encoder on the paper's 256 frames."""
    return sizes(patch).modules()["vision encoder"].fvcore / 1e12


def _costs(r: PaperNumbers) -> Iterator[Row]:
    b16, b32 = vision_teraflops(16), vision_teraflops(32)
    l32 = FRAMES * (blocks(24, 1024, 50).fvcore + 49 * 1024 * 3072 + 5 * 51 * 1024) / 1e12
    giga = {name: cost.fvcore / 1e9 for name, cost in sizes(16).modules().items()}
    paper = {name: cost.fvcore / 1e9 for name, cost in sizes(16).as_published().items()}
    long = sizes(16, 248).modules()["text encoder"].fvcore / 1e9
    temporal = blocks(2, 512, FRAMES).fvcore / 1e9
    text = giga["text projection"]

    def flops(name: str, row: str, claim: str, computed: float, finding: str) -> Row:
        key = FLOPS.format(row)
        right = agree(same_digits(r.printed(key), str(computed)))
        return Row(name, SUPPLEMENTARY, claim, key, computed, right, finding, (key,))

    yield flops("vision FLOPs", VISION, "FLOPs of CLIP-B/32 on 256 frames, in T", b32,
                f"ViT-B/32 needs {b32:.3f} T, ViT-B/16 {b16:.3f} T")  # fmt: skip
    name, printed = "Alert-CLIP | Set-up | visual backbone | value", r.printed(FLOPS.format(VISION))
    yield Row("backbone", MAIN, "the backbone's name", name, f"L/32 needs {l32:.3f} T",
              agree(same_digits(printed, str(l32))), f"Table 5 states {printed} T",
              (name,))  # fmt: skip
    grid = SUPPLEMENTARY + " | C.1 and C.2 | patch grid, {} | value"
    finding = "7 x 7 fits B/32, which the text names; the ViT of Table 5's FLOPs has 14 x 14"
    yield Row("patch grid", SUPPLEMENTARY, "patches on a side", grid.format("height"),
              sizes(16).grid[0], DOUBTFUL, finding)  # fmt: skip
    yield flops("visual projection FLOPs", "Visual projection", "in G", giga["visual projection"],
                "256 x 768 x 512")  # fmt: skip
    yield flops("temporal FLOPs", TEMPORAL, "of a transformer of two layers, in G", temporal,
                f"with attention {temporal:.3f} G, FFN and LayerNorm alone"
                f" {paper['temporal transformer']:.3f} G")  # fmt: skip
    yield flops("text FLOPs", "Text encoder", "of CLIP's text encoder, in G",
                giga["text encoder"],
                f"77 tokens need {giga['text encoder']:.3f} G,"
                f" 248 tokens {long:.3f} G")  # fmt: skip
    yield flops("text projection FLOPs", "Text projection", "in G", text,
                f"512 x 512 = {1e3 * text:.3f} M, not G")  # fmt: skip
    lines = [r.value(FLOPS.format(row)) for row in (TEMPORAL, "Text encoder", *SMALL)]
    as_printed = b16 + sum(lines) / 1e3
    in_millions = as_printed - lines[-1] * (1 - 1e-3) / 1e3
    yield flops("total FLOPs", TOTAL, "the sum of the lines (text projection in M), in T",
                in_millions, f"with the text projection in G {as_printed:.4f} T,"
                f" in M {in_millions:.4f} T")  # fmt: skip
    yield flops("ROI projection FLOPs", "ROI projection (train only)", "in G",
                paper["ROI projection"], f"256 frames x {BOXES} boxes x 768 x 512")  # fmt: skip
    total = r.value(FLOPS.format(TOTAL))
    share = 100 * r.value(FLOPS.format(VISION)) / total
    yield Row("vision share", SUPPLEMENTARY, "vision encoder in the total", "over 99%", share,
              agree(share > 99), "of the stated total")  # fmt: skip
    share = sum(r.value(FLOPS.format(row)) for row in (TEMPORAL, *SMALL)) / 10 / total
    yield Row("share of small modules", SUPPLEMENTARY,
              "temporal model and projections in the total", "less than 1%", share,
              agree(share < 1), "of the stated total")  # fmt: skip


def _videos(*names: str) -> int:
    counts = [load_benchmark(name).counts for name in names]
    return sum(sum(split.values()) for benchmark in counts for split in benchmark.values())


def _arithmetic(r: PaperNumbers) -> Iterator[Row]:
    hours = SUPPLEMENTARY + " | Table 6 | {} | Time"
    stages = ("Stage 1, 100 epochs", "Stage 2, 20 epochs")
    found = round(sum(r.value(hours.format(stage)) for stage in stages), 6)
    yield Row("training hours", SUPPLEMENTARY, "hours of both stages", hours.format("Total"), found,
              agree(found == r.value(hours.format("Total"))), "Stage 1 plus Stage 2")  # fmt: skip
    speed = SUPPLEMENTARY + " | Table 7 | Alert-CLIP | {}"
    videos = 1000 / r.value(speed.format("Latency"))
    right = same_digits(r.printed(speed.format("Videos/s")), str(videos))
    right &= round(FRAMES * videos, -2) == r.value(speed.format("Frames/s"))  # "approximately 1200"
    yield Row("throughput", SUPPLEMENTARY, "frames a second from 213.26 ms",
              speed.format("Frames/s"), FRAMES * videos, agree(right),
              f"{videos:.3f} videos a second")  # fmt: skip
    key, there = SCREENING.format("candidate videos"), _videos("ucf_crime", "msad")
    stated, removed = r.value(key), r.value(SCREENING.format("removed, score 0-25"))
    yield Row("candidate videos", SUPPLEMENTARY, "videos of UCF-Crime and MSAD", key, there,
              agree(stated <= there), f"less those removed it is {stated - removed:,.0f}, the"
              " number of clips after segmentation", (key,))  # fmt: skip
    share = SCREENING.format("share with score {}")
    bins = [r.value(share.format(name)) for name in ("0-25", "25-40", "40-50")]
    right = same_digits(r.printed(share.format("0-25")), str(100 * removed / stated))
    yield Row("score bins", SUPPLEMENTARY, "removed videos in per cent", share.format("0-25"),
              100 * removed / stated, agree(right and abs(sum(bins) - 100) < 0.15),
              f"bins add up to {sum(bins):.1f} %")  # fmt: skip
    criteria = ("class", "clarity", "quality", "redundancy")
    weight = sum(r.value(SCREENING.format(f"weight of {name}")) for name in criteria)
    score = SCREENING.format("{} score of a criterion")
    low, high = (weight * r.value(score.format(end)) for end in ("lowest", "highest"))
    yield Row("lowest score", SUPPLEMENTARY, "the lowest bin starts at", "0", low,
              agree(low == 0, DOUBTFUL), f"totals lie between {low:g} and {high:g}; a bin may be"
              " wider than what it holds")  # fmt: skip
    names = ("clips", "training clips", "test clips", "normal training clips")
    clips, train, test, normal = (r.value(COUNT.format(name)) for name in names)
    abnormal = r.value(COUNT.format("abnormal training clips"))
    yield Row("sum of clips", MAIN, "training and test clips of VAGTA", COUNT.format("clips"),
              train + test, agree(train + test == clips and normal + abnormal == train),
              f"{normal:g} + {abnormal:g} = {normal + abnormal:g}")  # fmt: skip
    key = "VA-GPT | Numbers in the text | {} | value"
    pairs = r.value("VA-GPT | Table 1 | Ours | Questions-Answer Pairs")
    clips = r.value("VA-GPT | Table 1 | Ours | Num. of Clips")
    yield Row("questions per clip", "VA-GPT", "question and answer pairs a clip",
              key.format("questions per clip"), pairs / clips, agree(pairs / clips == 3),
              f"{pairs:,.0f} pairs, {clips:,.0f} clips",
              (key.format("questions per clip"),))  # fmt: skip
    name, there = key.format("videos of UCF-Crimes"), _videos("ucf_crime")
    yield Row("videos of UCF-Crimes", "VA-GPT", "videos from UCF-Crime", name, there,
              agree(r.value(name) <= there), "Table 1 calls the same number clips",
              (name,))  # fmt: skip
