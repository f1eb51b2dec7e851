"""FLOPs, times and counts that the papers state, from closed formulas and from each other.

FLOPs are counted as fvcore does, for 256 frames of 224 x 224 and one text (Table 5).
"""

from collections.abc import Callable

from companion.efficiency import flops
from companion.inconsistencies.check import Check, Outcome, agree
from companion.ledger.join import same_digits
from companion.ledger.paper_results import PaperResults
from detectors.benchmarks import load_benchmark

FRAMES, SIDE = 256, 224
SUPPLEMENTARY = "Alert-CLIP supplementary"
FLOPS = SUPPLEMENTARY + " | Table 5 | {} | FLOPs"
SCREENING = SUPPLEMENTARY + " | A.2 | {} | value"
VISION, TOTAL = "Vision encoder (CLIP-B/32)", "Total (inference, no ROI)"
TEMPORAL, SMALL = "Temporal Transformer (2 layers)", ("Visual projection", "Text projection")


def vit(patch: int, width: int = 768, layers: int = 12, context: int = 77) -> flops.Geometry:
    """CLIP with a ViT of that patch side on 224 x 224 and the text tower of width 512."""
    towers = (flops.Tower(layers, width, 4 * width), flops.Tower(12, 512, 2048))
    return flops.Geometry(*towers, (SIDE // patch,) * 2, patch, context, 512)


B32, B16, L32 = vit(32), vit(16), vit(32, 1024, 24)


def vision(g: flops.Geometry) -> float:
    """FLOPs (T) of the vision tower on all frames."""
    return FRAMES * flops.vision_encoder(g).fvcore / 1e12


def temporal() -> float:
    """FLOPs (G) of the two temporal layers, their attention included."""
    return 2 * flops.block(flops.Tower(2, 512, 2048), FRAMES).fvcore / 1e9


def vision_flops(r: PaperResults) -> Outcome:
    """Table 5's vision encoder is not the B/32 that it names."""
    finding = f"ViT-B/32 needs {vision(B32):.3f} T, ViT-B/16 {vision(B16):.3f} T"
    return _digits(r, VISION, vision(B32), finding)


def backbone_name(r: PaperResults) -> Outcome:
    """Nor is it the L/32 of the main paper's summary."""
    found = _digits(r, VISION, vision(L32), f"Table 5 states {r.printed(FLOPS.format(VISION))} T")
    return found._replace(computed=f"L/32 needs {vision(L32):.3f} T")


def patch_grid(r: PaperResults) -> Outcome:
    """Patches on a side of the model whose FLOPs Table 5 gives."""
    fits = same_digits(r.printed(FLOPS.format(VISION)), str(vision(B16)))
    side = (B16 if fits else B32).grid[0]
    return Outcome(side, agree(side == 7), f"the ViT of Table 5's FLOPs has {side} x {side}")


def visual_projection(r: PaperResults) -> Outcome:
    """768 x 512 on each frame."""
    computed = FRAMES * flops.visual_projection(B16).fvcore / 1e9
    return _digits(r, "Visual projection", computed, "256 x 768 x 512")


def text_flops(r: PaperResults) -> Outcome:
    """CLIP reads 77 tokens; the number is that of 248."""
    short, long = (flops.text_encoder(vit(16, context=n)).fvcore / 1e9 for n in (77, 248))
    finding = f"77 tokens need {short:.3f} G, 248 tokens {long:.3f} G"
    return _digits(r, "Text encoder", short, finding)


def text_projection(r: PaperResults) -> Outcome:
    """512 x 512 on one text is millions, not billions."""
    computed = flops.text_projection(B16).fvcore / 1e9
    return _digits(r, "Text projection", computed, f"512 x 512 = {1e3 * computed:.3f} M, not G")


def temporal_flops(r: PaperResults) -> Outcome:
    """The temporal transformer with its attention."""
    hidden = flops.Cost(8 * FRAMES * 512**2, normalised=2 * FRAMES * 512)
    without = 2 * hidden.fvcore / 1e9
    finding = f"with attention {temporal():.3f} G, FFN and LayerNorm alone {without:.3f} G"
    return _digits(r, TEMPORAL, temporal(), finding)


def total_flops(r: PaperResults) -> Outcome:
    """The total is the sum of its lines only if the text projection counts in millions."""
    lines = [r.value(FLOPS.format(name)) for name in (TEMPORAL, "Text encoder", *SMALL)]
    as_printed = vision(B16) + sum(lines) / 1e3
    in_millions = as_printed - lines[-1] * (1 - 1e-3) / 1e3
    finding = f"with the text projection in G {as_printed:.4f} T, in M {in_millions:.4f} T"
    return _digits(r, TOTAL, in_millions, finding)


def roi_projection(r: PaperResults) -> Outcome:
    """A projection of five boxes on each frame."""
    computed = FRAMES * flops.visual_projection(B16, flops.BOXES).fvcore / 1e9
    finding = f"256 frames x {flops.BOXES} boxes x 768 x 512"
    return _digits(r, "ROI projection (train only)", computed, finding)


def vision_share(r: PaperResults) -> Outcome:
    """Share of the vision encoder, per cent, by the table's own lines."""
    share = 100 * r.value(FLOPS.format(VISION)) / r.value(FLOPS.format(TOTAL))
    return Outcome(share, agree(share > 99), "of the stated total")


def small_share(r: PaperResults) -> Outcome:
    """Share of the temporal model and the projections, per cent, by the table's own lines."""
    parts = sum(r.value(FLOPS.format(name)) for name in (TEMPORAL, *SMALL))
    share = 100 * parts / 1e3 / r.value(FLOPS.format(TOTAL))
    return Outcome(share, agree(share < 1), "of the stated total")


def training_hours(r: PaperResults) -> Outcome:
    """Stage 1 and Stage 2 add up."""
    key = SUPPLEMENTARY + " | Table 6 | {} | Time"
    parts = ("Stage 1, 100 epochs", "Stage 2, 20 epochs")
    hours = round(sum(r.value(key.format(name)) for name in parts), 6)
    return Outcome(hours, agree(hours == r.value(key.format("Total"))), "Stage 1 plus Stage 2")


def throughput(r: PaperResults) -> Outcome:
    """Videos and frames a second follow from the latency."""
    key = SUPPLEMENTARY + " | Table 7 | Alert-CLIP | {}"
    videos = 1000 / r.value(key.format("Latency"))
    right = same_digits(r.printed(key.format("Videos/s")), str(videos))
    rounded = round(FRAMES * videos, -2)  # "approximately 1200 frames per second"
    right &= rounded == r.value(key.format("Frames/s"))
    return Outcome(FRAMES * videos, agree(right), f"{videos:.3f} videos a second")


def candidate_videos(r: PaperResults) -> Outcome:
    """UCF-Crime and MSAD together have fewer videos."""
    there = _videos("ucf_crime") + _videos("msad")
    stated = r.value(SCREENING.format("candidate videos"))
    kept = stated - r.value(SCREENING.format("removed, score 0-25"))
    finding = f"less those removed it is {kept:,.0f}, the number of clips after segmentation"
    return Outcome(there, agree(stated <= there), finding)


def score_bins(r: PaperResults) -> Outcome:
    """The removed among the candidates, and the three bins, in per cent."""
    share = 100 * r.value(SCREENING.format("removed, score 0-25"))
    share /= r.value(SCREENING.format("candidate videos"))
    names = ("0-25", "25-40", "40-50")
    bins = [r.value(SCREENING.format(f"share with score {name}")) for name in names]
    right = same_digits(r.printed(SCREENING.format("share with score 0-25")), str(share))
    finding = f"bins add up to {sum(bins):.1f} %"
    return Outcome(share, agree(right and abs(sum(bins) - 100) < 0.15), finding)


def lowest_score(r: PaperResults) -> Outcome:
    """Every criterion scores at least one, so totals start at ten."""
    names = ("class", "clarity", "quality", "redundancy")
    weights = sum(r.value(SCREENING.format(f"weight of {name}")) for name in names)
    ends = [weights * r.value(SCREENING.format(f"{end} score of a criterion"))
            for end in ("lowest", "highest")]  # fmt: skip
    return Outcome(ends[0], agree(ends[0] == 0), f"totals lie between {ends[0]:g} and {ends[1]:g}")


def clip_counts(r: PaperResults) -> Outcome:
    """Normal and abnormal, training and test clips add up."""
    names = ("clips", "training clips", "test clips", "normal training clips",
             "abnormal training clips")  # fmt: skip
    clips, train, test, normal, abnormal = (
        r.value(f"Alert-CLIP | VAGTA | {name} | count") for name in names
    )
    right = train + test == clips and normal + abnormal == train
    return Outcome(train + test, agree(right), f"{normal:g} + {abnormal:g} = {normal + abnormal:g}")


def instruction_pairs(r: PaperResults) -> Outcome:
    """Pairs a clip by Table 1, against three questions a clip in the text."""
    pairs = r.value("VA-GPT | Table 1 | Ours | Questions-Answer Pairs")
    clips = r.value("VA-GPT | Table 1 | Ours | Num. of Clips")
    return Outcome(
        pairs / clips, agree(pairs / clips == 3), f"{pairs:,.0f} pairs, {clips:,.0f} clips"
    )


def instruction_videos(r: PaperResults) -> Outcome:
    """UCF-Crime has fewer videos."""
    stated = r.value("VA-GPT | Numbers in the text | videos of UCF-Crimes | value")
    there = _videos("ucf_crime")
    return Outcome(there, agree(stated <= there), "Table 1 calls the same number clips")


def _digits(r: PaperResults, row: str, computed: float, finding: str) -> Outcome:
    verdict = agree(same_digits(r.printed(FLOPS.format(row)), str(computed)))
    return Outcome(computed, verdict, finding)


def _videos(name: str) -> int:
    return sum(sum(counts.values()) for counts in load_benchmark(name).counts.values())


def _flops(name: str, row: str, claim: str, compute: Callable[[PaperResults], Outcome]) -> Check:
    key = FLOPS.format(row)
    return Check(name, SUPPLEMENTARY, claim, key, compute, (key,))


GRID = SUPPLEMENTARY + " | C.1 and C.2 | patch grid, {} | value"
CANDIDATES = SCREENING.format("candidate videos")
QUESTIONS = "VA-GPT | Numbers in the text | questions per clip | value"
VIDEOS = "VA-GPT | Numbers in the text | videos of UCF-Crimes | value"
NAME = "Alert-CLIP | Set-up | visual backbone | value"
CHECKS = (
    _flops("vision FLOPs", VISION, "FLOPs of CLIP-B/32 on 256 frames, in T", vision_flops),
    Check("backbone", "Alert-CLIP", "the backbone's name", NAME, backbone_name, (NAME,)),
    Check("patch grid", SUPPLEMENTARY, "patches on a side", GRID.format("height"), patch_grid,
          (GRID.format("height"), GRID.format("width"))),
    _flops("visual projection FLOPs", "Visual projection", "in G", visual_projection),
    _flops("temporal FLOPs", TEMPORAL, "of a transformer of two layers, in G", temporal_flops),
    _flops("text FLOPs", "Text encoder", "of CLIP's text encoder, in G", text_flops),
    _flops("text projection FLOPs", "Text projection", "in G", text_projection),
    _flops("total FLOPs", TOTAL, "the sum of the lines (text projection in M), in T", total_flops),
    _flops("ROI projection FLOPs", "ROI projection (train only)", "in G", roi_projection),
    Check("vision share", SUPPLEMENTARY, "vision encoder in the total", "over 99%", vision_share),
    Check("share of small modules", SUPPLEMENTARY, "temporal model and projections in the total",
          "less than 1%", small_share),
    Check("training hours", SUPPLEMENTARY, "hours of both stages",
          SUPPLEMENTARY + " | Table 6 | Total | Time", training_hours),
    Check("throughput", SUPPLEMENTARY, "frames a second from 213.26 ms",
          SUPPLEMENTARY + " | Table 7 | Alert-CLIP | Frames/s", throughput),
    Check("candidate videos", SUPPLEMENTARY, "videos of UCF-Crime and MSAD", CANDIDATES,
          candidate_videos, (CANDIDATES,)),
    Check("score bins", SUPPLEMENTARY, "removed videos in per cent",
          SCREENING.format("share with score 0-25"), score_bins),
    Check("lowest score", SUPPLEMENTARY, "the lowest bin starts at", "0", lowest_score),
    Check("sum of clips", "Alert-CLIP", "training and test clips of VAGTA",
          "Alert-CLIP | VAGTA | clips | count", clip_counts),
    Check("questions per clip", "VA-GPT", "question and answer pairs a clip", QUESTIONS,
          instruction_pairs, (QUESTIONS,)),
    Check("videos of UCF-Crimes", "VA-GPT", "videos from UCF-Crime", VIDEOS, instruction_videos,
          (VIDEOS,)),
)  # fmt: skip
