"""What each notebook needs on the real data: hours by card, GB of disk and of memory.

Estimates from params/budgets.yaml: the pre-flight compares them with the free disk, and
``python -m companion.budgets [PROFILE]`` prints the table of docs/real-data.md. Decoding on the CPU
is not in the hours; small notebooks (everything but 03 to 07) are left out.
"""

import sys
from typing import Any, NamedTuple

import pandas as pd
import yaml

from companion.profiles import BUDGETS, Params, load_params
from companion.variants import load_variants
from detectors.benchmarks import load_benchmark

SIDE, DIM, FLOAT = 224, 512, 4  # pixels, width of an embedding, bytes
MODELS = 3  # CLIP, Stage I, Full


class Need(NamedTuple):
    """Work of a notebook, TFLOP by precision, and what it writes and holds, GB."""

    fp32: float = 0
    bf16: float = 0
    frames_gb: float = 0  # decoded frames, in runs/cache
    features_gb: float = 0  # in the run's folder
    memory_gb: float = 0

    def hours(self, speed: dict[str, float]) -> float:
        """Hours on a card of so many TFLOP/s by precision."""
        return (self.fp32 / speed["fp32"] + self.bf16 / speed["bf16"]) / 3600


def needs(P: Params) -> dict[str, Need]:
    """Need of notebooks 03 to 07 by number; nothing for the mini world."""
    if P.data.world == "miniworld":
        return {}
    known = yaml.safe_load(BUDGETS.read_text())
    gflop = known["gflop_per_frame"]
    tflop = gflop.get(P.model.backbone, max(gflop.values())) / 1000
    stages = [_stage(P, number, known, tflop) for number in (1, 2)]
    own, extra = _frames(P, known, "train") + _frames(P, known, "test"), 0.0
    for changes in P.evaluation.transfer.values():
        extra += _frames(P.changed(changes), known, "test")
    length = P.detector.snippet_length
    vadclip = _features(P, own * P.detector.snippet_crops, length, tflop)
    single = _features(P, own / P.detector.frame_stride, 1, tflop)
    variants = [v for v in map(load_variants().get, P.ablation.variants) if v]
    tuned, seeds = [v for v in variants if v.kind == "alertclip"], len(P.ablation.seeds)
    detected = sum(v.detector for v in tuned) * P.ablation.detector * seeds
    return {
        "03": stages[0],
        "04": stages[1],
        "05": _times(_features(P, extra * P.detector.snippet_crops, length, tflop), MODELS),
        "06": _both(_times(vadclip, MODELS), _times(single, MODELS)),
        "07": _both(
            _times(stages[0]._replace(frames_gb=0), seeds),
            _both(_times(stages[1], seeds * len(tuned)), _times(vadclip, detected)),
        ),
    }


def _stage(P: Params, number: int, known: dict[str, Any], tflop: float) -> Need:
    """A training stage; the first also decodes the clips."""
    stage = P.stage1 if number == 1 else P.stage2
    clips = {k: min(n, P.rehearsal.clips or n) for k, n in known["clips"].items()}
    seen = stage.total_steps(clips["train"]) * stage.items_per_step * P.data.num_frames
    work = seen * tflop * known["training_passes"][P.model.checkpointing]
    decoded = sum(clips.values()) * P.data.num_frames * SIDE**2 * 3 / 1e9
    return Need(**{stage.precision: work}, frames_gb=decoded if number == 1 else 0)


def _frames(P: Params, known: dict[str, Any], split: str) -> float:
    """Frames of a benchmark's split, or of a rehearsal's share of it; 0 where not known."""
    limit = P.detector.videos if split == "train" else P.rehearsal.test_videos
    benchmark = load_benchmark(P.detector.benchmark)
    videos = sum(benchmark.counts.get(split, {}).values())
    share = min(1, limit / videos) if limit and videos else 1
    return share * known["frames"].get(benchmark.name, {}).get(split, 0)


def _features(P: Params, frames: float, length: int, tflop: float) -> Need:
    """Features of one model: every frame is embedded, one row kept per ``length`` of them."""
    embedded = frames * min(P.detector.snippet_frames, length) / length
    kept = frames / length * DIM * FLOAT / 1e9
    work = {P.evaluation.precision: embedded * tflop}
    return Need(**work, features_gb=kept, memory_gb=kept)


def _times(need: Need, count: int) -> Need:
    """The same for several models, one after the other in memory."""
    return Need(*(count * value for value in need[:4]), need.memory_gb if count else 0)


def _both(one: Need, other: Need) -> Need:
    added = [a + b for a, b in zip(one[:4], other[:4], strict=True)]
    return Need(*added, max(one.memory_gb, other.memory_gb))


def budget_table(P: Params) -> pd.DataFrame:
    """Columns notebook, a column of hours per card, disk and memory in GB; the last row: all."""
    cards = yaml.safe_load(BUDGETS.read_text())["cards"]
    rows = [
        [
            book,
            *(need.hours(speed) for speed in cards.values()),
            need.frames_gb + need.features_gb,
            need.memory_gb,
        ]
        for book, need in needs(P).items()
    ]
    columns = ["notebook", *(f"{card}, h" for card in cards), "disk, GB", "memory, GB"]
    table = pd.DataFrame(rows, columns=columns)
    total = ["all", *table.iloc[:, 1:-1].sum(), table["memory, GB"].max()]
    return pd.concat([table, pd.DataFrame([total], columns=columns)], ignore_index=True)


def markdown(P: Params) -> str:
    """The budget as a table in Markdown."""
    header, *rows = budget_table(P).map(_cell).to_csv(sep="|", index=False).splitlines()
    rule = "|".join("---" for _ in header.split("|"))
    return "\n".join(f"| {line.replace('|', ' | ')} |" for line in (header, rule, *rows))


def _cell(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.0f}" if value >= 10 else f"{value:.1f}"


if __name__ == "__main__":
    print(markdown(load_params((sys.argv[1:] or ["paper"])[0], {"data_root": "."})))
