"""Where the papers contradict themselves, arithmetic or their own files, computed point by point.

Each check of params/facts/inconsistencies.yaml is a formula over printed numbers and over facts
computed here: FLOPs, videos of benchmarks, differences between cells, VAGTA's files.
"""

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import yaml

from alertclip.records import MAX_TOKENS, token_count
from alertclip.vagta import strip_prefix
from companion import flops
from companion.paper_numbers import cells, load, number, printed, same_digits, value
from companion.profiles import FACTS, Params
from companion.report import benchmark_counts
from media.errors import InputError
from media.files import read_json

HOLDS, CONTRADICTED, DOUBTFUL = "holds", "contradicted", "doubtful"
NOT_RUN = "not run"
MISSING = ("", NOT_RUN, "needs VAGTA's files and a profile that reads them")
Facts = dict[str, Any]


def check_table(P: Params) -> pd.DataFrame:
    """All checks: columns check, document, claim, stated, computed, verdict, finding, refutes.

    Checks of VAGTA's files run only if the profile reads them (world: vagta) and they are present.
    """
    vagta = vagta_facts(P)
    facts = flops_facts() | deviations() | vagta
    facts |= {f"{name}_videos": benchmark_counts(name)["videos"] for name in ("ucf_crime", "msad")}
    text, rows = (FACTS / "inconsistencies.yaml").read_text(encoding="utf-8"), []
    for check in yaml.safe_load(text)["checks"]:
        key = check["stated"]  # of a cell, or else the statement itself
        stated = printed(key) if key in cells() else key
        result = MISSING if check.get("needs_vagta") and not vagta else _judge(check, stated, facts)
        refutes = key if check.get("refutes") else ""
        rows.append((check["check"], check["document"], check["claim"], stated, *result, refutes))
    names = ["check", "document", "claim", "stated", "computed", "verdict", "finding", "refutes"]
    return pd.DataFrame(rows, columns=names)


def _judge(check: dict[str, Any], stated: str, facts: Facts) -> tuple[float | str, str, str]:
    """The computed value of a check, its verdict and its finding."""
    names = facts | broken_orders(check) | {"stated": _number(stated)}
    for name, source in check.get("values", {}).items():
        cell = source in cells()
        names[name] = _number(printed(source)) if cell else _evaluate(source, names)
    formula = check["computed"]
    computed = formula.format(**names) if "{" in formula else _evaluate(formula, names)
    names["computed"] = computed
    right = same_digits(stated, str(computed))
    if "holds" in check:
        right = _evaluate(check["holds"], names)
    verdict = HOLDS if right else DOUBTFUL if check.get("doubtful") else CONTRADICTED
    return computed, verdict, check["finding"].format(**names)


def _number(text: str) -> float | str:
    return text if number(text) is None else float(text)


def _evaluate(formula: str, names: Facts) -> Any:
    return pd.eval(formula, engine="python", local_dict=names)


def refuted(checks: pd.DataFrame) -> set[str]:
    """Keys of the cells whose printed number a check contradicts."""
    return set(checks.loc[checks["verdict"] == CONTRADICTED, "refutes"]) - {""}


def flops_facts() -> Facts:
    """Closed-form operations as fvcore counts them, for Table 5: in T (vision towers) or G."""
    towers = {"b32": (32, 768, 12), "b16": (16, 768, 12), "l32": (32, 1024, 24)}
    costs = {name: flops.clip_costs(*tower) for name, tower in towers.items()}
    long = flops.clip_costs(*towers["b16"], context=248)
    modules = {
        "visual_projection": costs["b16"]["visual projection"],
        "text": costs["b16"]["text encoder"],
        "text_projection": costs["b16"]["text projection"],
        "long_text": long["text encoder"],
        "temporal": flops.transformer(2, flops.FRAMES, flops.DIM),
        "no_attention": flops.as_published(768)["temporal transformer"],
        "roi_projection": flops.as_published(768)["ROI projection"],
    } | {name: cost["vision encoder"] for name, cost in costs.items()}
    giga = {name: float(cost @ flops.FVCORE) / 1e9 for name, cost in modules.items()}
    return giga | {name: giga[name] / 1e3 for name in towers}


def broken_orders(check: dict[str, Any]) -> Facts:
    """Pairs of cells that do not rise, and overall values outside the range of their parts."""
    rising, between = check.get("rising", {}), check.get("between", {})
    broken = [name for name, (low, high) in rising.items() if value(high) < value(low)]
    for name, keys in between.items():
        whole, *parts = map(value, keys)
        if not min(parts) <= whole <= max(parts):
            broken.append(f"{name}: {whole} outside {min(parts)} to {max(parts)}")
    of_full = sum(name.startswith("Full") for name in broken)
    which = ("; " if between else ", ").join(broken)
    return {"broken": len(broken), "which": which, "of_full": of_full}


def deviations() -> Facts:
    """Largest deviation of printed gains and means from their cells, and how many were compared."""
    tables = {(t["document"], t["table"]): t for t in load()["tables"]}
    gaps: dict[str, list[float]] = {}
    for document in ("AnomalyCLIP", "VadCLIP"):  # a stated gain against the difference of its cells
        table = tables[document, "Gains in the text"]
        for row, (name, minuend, subtrahend, column) in table["differences"].items():
            a, b = (value(f"{document} | {name} | {x} | {column}") for x in (minuend, subtrahend))
            gap = abs(a - b - float(table["rows"][row][0]))
            gaps.setdefault(f"{document.lower()}_gains", []).append(gap)
    means = {"class_means": ("AnomalyCLIP", 4, 5, 6), "iou_means": ("VadCLIP", 3, 4)}
    for name, (document, *numbers) in means.items():  # a printed mean against the mean of its row
        rows = [row for n in numbers for row in tables[document, f"Table {n}"]["rows"].values()]
        gaps[name] = [abs(np.mean([*map(float, x)]) - float(last)) for *x, last in rows]
    largest = {name: round(max(values), 4) for name, values in gaps.items()}
    return largest | {f"{name}_count": len(values) for name, values in gaps.items()}


def vagta_facts(P: Params) -> Facts:
    """Counts in VAGTA's published files; empty for another world or without the files."""
    try:
        if P.data.world != "vagta":
            return {}
        test = read_json(P.data_dir / P.data.annotations_test)
        train = read_json(P.data_dir / P.data.hard_negatives_train)["items"]
    except (InputError, KeyError, TypeError):  # missing or malformed
        return {}
    abnormal = [row for row in train if row["frames_25"] is not None]
    normal = [row for row in train if row["frames_25"] is None]
    videos = {row["video"] for row in train}
    usual, usual_items = Counter(len(row["hard_negative"]) for row in train).most_common(1)[0]
    lengths = [token_count(text) for row in train for text in row["hard_negative"]]
    captions = [row["global_caption"] for row in test]
    boxes = [k["bbox"] for row in test for track in row["box_infos"] for k in track]
    return {
        "items": len(train),
        "videos": len(videos),
        "abnormal": len(abnormal),
        "abnormal_videos": len({row["video"] for row in abnormal}),
        "normal": len(normal),
        "normal_videos": len({row["video"] for row in normal}),
        "usual": usual,
        "usual_items": usual_items,
        "negatives": len(lengths),
        "longest": max(lengths),
        "too_long": sum(length > MAX_TOKENS for length in lengths),
        "most_tokens": MAX_TOKENS,
        "of_ucf": sum(video.startswith("UCF_Crimes_Videos/") for video in videos),
        "ucf_train": benchmark_counts("ucf_crime")["train"],
        "tests": len(test),
        "test_videos": len({row["video"] for row in test}),
        "test_regions": sum(len(row["region_captions"]) for row in test),
        "labelled": sum(strip_prefix(caption) != caption for caption in captions),
        "boxes": len(boxes),
        "largest": max(map(max, boxes)),
    }
