"""Ablations: valid variants, differences paired by seed, the schedule's rule, known inputs."""

from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from test_detector_tables import scored

from alertclip.records import Item, Region
from companion import ablation_tables, ablations, figures, paper_numbers, variant_runs, variants
from companion.ablation_tables import first_gain, gains, rank_correlation
from companion.profiles import load_params
from companion.splits import standard_negatives
from media.errors import InputError

VARIANTS = variants.load_variants()
T2 = 4.302652729911275  # Student's t, 97.5%, of two degrees of freedom
ROOT = "companion.profiles.ROOT"


def test_a_misspelt_variant_is_named(tmp_path):
    file = tmp_path / "ablations.yaml"
    for row, wrong in (("title: x, changes: {lora_rank: 3}", "lora_rank"), ("titel: x", "titel")):
        file.write_text(f"alertclip:\n  x: {{group: A, {row}}}\n")
        with pytest.raises(InputError, match=f"(?s)ablations.yaml, x: .*{wrong}"):
            variants.load_variants(file)


def test_results_hold_value_and_change_each_with_its_own_interval():
    rows = [("full", 80, 60, 70), ("region", 79, 58, 67), ("vadclip-c", 50, 60, 70)]
    table = pd.DataFrame(
        [(n, s, m, v + plus) for n, *vs in rows for s, v in enumerate(vs)
         for m, plus in (("frame AUC", 0), ("MSS", -50))],
        columns=["variant", "seed", "metric", "value"],
    )  # fmt: skip
    table.loc[len(table)] = ("global", 0, "frame AUC", 75.0)  # its other seeds failed
    results = ablation_tables.results_table(load_params("mini"), table)
    results = results.set_index(["variant", "metric"])
    row, alone = results.loc[("region", "frame AUC")], results.loc[("vadclip-c", "frame AUC")]
    half, spread = T2 / np.sqrt(3), np.std([79, 58, 67], ddof=1)
    assert (row["value"], row["change"], row["seeds"]) == (68, -2, 3)
    assert (row["low"], row["high"]) == pytest.approx((68 - half * spread, 68 + half * spread))
    assert (row["change_low"], row["change_high"]) == pytest.approx((-2 - half, -2 + half))
    assert results.loc[("region", "MSS"), "value"] == 18 and not row["reference"]
    assert alone["value"] == 60 and np.isnan(alone["change"])  # its reference has not been run
    backbones = {"full": "", "global": "", "region": "", "vadclip-c": "Full"}
    assert results["backbone"].groupby("variant").first().to_dict() == backbones
    one = results.loc[("global", "frame AUC")]
    assert one["change"] == -5 and np.isnan(one["change_low"]) and one["seeds"] == 1
    short = ablation_tables.ablation_table(table, "frame AUC").set_index("title")
    assert short.loc["global + region", "low"] == row["change_low"]


def test_a_detector_is_compared_on_the_same_features():
    rows = [("vadclip", 0, 60, "a"), ("vadclip", 0, 80, "b"), ("vadclip-c", 0, 79, "b")]
    table = pd.DataFrame(rows, columns=["variant", "seed", "value", "weights"])
    results = ablation_tables.ablation_table(table.assign(metric="frame AUC"), "frame AUC")
    assert results[["value", "change", "seeds"]].to_numpy().tolist() == [[70, 0, 1], [79, -1, 1]]


def test_variants_pair_on_one_processor_and_a_seed_counts_once():
    rows = [("full", 0, 80, "a"), ("full", 0, 84, "b"), ("full", 1, 60, "a"), ("hard", 0, 79, "a"),
            ("hard", 0, 81, "b"), ("hard", 1, 58, "b"), ("global", 0, 70, "b")]  # fmt: skip
    table = pd.DataFrame(rows, columns=["variant", "seed", "value", "processor"])
    results = ablation_tables.ablation_table(table.assign(metric="MSS"), "MSS").set_index("title")
    found = results[["value", "change", "seeds"]].to_numpy().tolist()  # full, global, hard
    assert found == [[71, 0, 2], [70, -14, 1], [80, -2, 1]]


def test_a_verdict_counts_what_the_interval_leaves_zero_out_of():
    rows = [("whole", 80, 0, 0, 0, True), ("a", 75, -5, -6, -4, False), ("b", 81, 1, -1, 3, False)]
    columns = ["title", "value", "change", "low", "high", "reference"]
    table = pd.DataFrame(rows, columns=columns).assign(metric="AUC", seeds=5)
    worse = "Worse: **1 of 2 variants** (a -5.0 [-6.0, -4.0]). Better: **0**. For the other 1"
    assert worse in ablation_tables.verdict(table)
    one = table.assign(seeds=1, low=np.nan, high=np.nan)
    assert "a -5.0; b +1.0. One seed" in ablation_tables.verdict(one)


@pytest.mark.parametrize(("kind", "metrics"), [
    ("vadclip", {"mAP@0.1", "mAP@0.2", "mAP@0.3", "mAP@0.4", "mAP@0.5", "mAP@AVG"}),
    ("anomalyclip", {"mean AUC", "mean AP"}),
])  # fmt: skip
def test_a_detector_gets_the_profiles_backbone_and_its_papers_metrics(monkeypatch, kind, metrics):
    asked, best, score = [], [scored("clip", [1.0])], "companion.detector_tables.score_stages"
    monkeypatch.setattr(score, lambda *given: asked.append(given) or best)
    P = load_params("smoke", {"ablation_backbone": "clip"})
    table = pd.concat(variant_runs._detected(P, kind)).set_index("metric")["value"]
    assert asked == [(P, kind, ["clip"])] and table["frame AUC"] == 100
    assert set(table.index) == {"frame AUC", "frame AP", "AnoAUC"} | metrics
    assert table.index.is_unique


def test_every_model_of_a_training_is_measured_on_benchmarks(monkeypatch):
    def score(P, kind, stages):  # AnomalyCLIP is right on each, VadCLIP wrong on CLIP
        wrong = {"clip"} if kind == "vadclip" else set()
        return [scored(stage, [-1.0 if stage in wrong else 1.0]) for stage in stages]

    models = {"model": ["CLIP", "Stage I", "Full"], "value": [40, 80, 85]}
    other = pd.DataFrame(models | {"setting": "line drawings: frame AUC"})
    novel = pd.DataFrame(models | {"subset": "novel", "normals": True, "metric": "AUC"})
    monkeypatch.setattr("companion.detector_tables.score_stages", score)
    monkeypatch.setattr(variant_runs, "train_variant", lambda P, name, seed: P)
    monkeypatch.setattr(variant_runs, "zero_shot_table", lambda *_: other)
    monkeypatch.setattr(variant_runs, "open_vocabulary_table", lambda *_: novel)
    table = variant_runs.benchmark_metrics(load_params("smoke"), "full", 0)
    wide = table.pivot(index="measure", columns="model", values="value")
    names = [*models["model"], "Stage I minus CLIP", "Full minus Stage I", "Full minus CLIP"]
    expected = {
        "VadCLIP: frame AUC": [0, 100, 100, 100, 0, 100],
        "AnomalyCLIP: frame AUC": [100, 100, 100, 0, 0, 0],
        "zero-shot, line drawings: frame AUC": [40, 80, 85, 40, 5, 45],
        "VadCLIP of base classes: frame AUC, novel": [40, 80, 85, 40, 5, 45],
    }
    assert {name: wide.loc[name, names].tolist() for name in expected} == expected


def test_a_hash_that_reads_as_a_number_stays_text(tmp_path, monkeypatch):
    monkeypatch.setattr(ROOT, tmp_path)
    P, digest = load_params("mini"), variant_runs.inputs_hash(load_params("mini"), "full", 0)
    for found in ("417e66085674", digest):
        row = {"variant": "full", "seed": 0, "metric": "MSS", "value": 1, "params": found}
        file = ablations.result_file(P, "full", 0)
        figures.write_table(pd.DataFrame([row | {"weights": "123456789012"}]), file)
        table = ablations.results(P, ["full"], [0])
        assert table[["params", "weights"]].to_numpy().tolist() == [[found, "123456789012"]]
        assert ablations._current(P, "full", 0, "ablations") is (found == digest)


def test_variants_differ_from_each_other_and_what_decides_a_result_is_in_its_hash():
    def hashes(**changes: object) -> dict[str, str]:
        P = load_params("mini", changes)
        return {name: variant_runs.inputs_hash(P, name, 0) for name in VARIANTS}

    def changed(**changes: object) -> set[str]:
        return {name for name, found in hashes(**changes).items() if found != reference[name]}

    reference = hashes()
    assert len(set(reference.values())) == len(VARIANTS)
    for group in {variant.group for variant in VARIANTS.values()}:
        assert sum(v.reference for v in VARIANTS.values() if v.group == group) == 1
    tuned = {name for name, variant in VARIANTS.items() if variant.kind == "alertclip"}
    assert changed(ablation_detector=True) == {"full", "global", "region", "standard", "joint"}
    assert changed(ablation_backbone="clip") == set(VARIANTS) - tuned
    assert changed(stage2_steps=26) == changed(stage1_base_lr=1e-3) == set(VARIANTS)
    assert not changed(stage2_save_steps=7, stage1_save_limit=9)
    assert not changed(workers=7, transfer={}, qa_epochs=1, video="a.mp4")


def test_a_failed_job_is_named_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    table = pd.DataFrame({"value": [1.0]})
    measure = Mock(side_effect=[table, table, ValueError("no luck")])
    monkeypatch.setattr(ROOT, tmp_path)
    monkeypatch.setitem(variant_runs.MEASURES, "ablations", (measure, ()))
    monkeypatch.setattr(ablations, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
    monkeypatch.setattr(ablations, "prepare_data", lambda P: None)
    P, names = load_params("smoke"), ["full", "region", "global"]
    ablations.run(P, names, [0], cores=1)
    assert "global, seed 0: failed (no luck)" in capsys.readouterr().out
    log = ablations.result_file(P, "global", 0).with_suffix(".log")
    assert "ValueError: no luck" in log.read_text()
    results = ablations.results(P, names, [0])
    expected = [variant_runs.inputs_hash(P, name, 0) for name in ("full", "region")]
    assert results["params"].tolist() == expected


def test_standard_negatives_are_captions_of_other_regions():
    regions = [Region(f"caption {i}", hard_negatives=("a", "b")) for i in range(4)]
    items = [Item(f"{i}.mp4", "g", (region,)) for i, region in enumerate(regions)]
    drawn = standard_negatives(items, seed=0)
    for item in drawn:
        (region,) = item.regions
        assert len(set(region.hard_negatives)) == 2
        assert region.caption not in region.hard_negatives
        assert all(text.startswith("caption") for text in region.hard_negatives)
    assert drawn == standard_negatives(items, seed=0) != standard_negatives(items, seed=1)


def test_the_committed_reference_has_seeds_enough_in_the_files_order():
    table = figures.committed("ablations_reference")
    seeds = table.groupby("variant")["seed"].nunique()
    tuned = {"full", "global", "region", "hard", "standard", "joint"}
    tuned |= {"mean-head", "stripped", "attention-lora", "rank-4", "text-lora", "visual-lora"}
    detectors = {name for name, variant in VARIANTS.items() if variant.kind != "alertclip"}
    assert set(seeds.index) == tuned | detectors and (seeds >= 3).all()
    tuned = table[[VARIANTS[name].kind == "alertclip" for name in table["variant"]]]
    assert tuned.drop_duplicates(["variant", "seed"])["weights"].is_unique  # nothing is a copy
    rows = ablation_tables.results_table(load_params("mini"), table.query("metric == 'AnoAUC'"))
    assert rows["variant"].tolist() == [name for name in VARIANTS if name in set(rows["variant"])]
    assert rows["change"].notna().all()  # each has its reference, on the same features


def test_the_ledger_asks_for_variants_of_the_same_meaning():
    counts = dict.fromkeys(("alertclip", "vadclip", "anomalyclip"), 0)
    for cell in paper_numbers.cells().values():
        if cell.measure and cell.measure.csv == "ablation_results":
            where = cell.where
            variant = VARIANTS[where["variant"]]
            assert cell.document.replace("-", "").lower() == variant.kind, cell.key
            tuned = variant.kind == "alertclip"
            assert where.get("backbone", "") == ("" if tuned else "CLIP"), cell.key
            assert variant.detector or not tuned, cell.key
            counts[variant.kind] += 1
    assert counts == {"alertclip": 7, "vadclip": 26, "anomalyclip": 86}


def test_variants_of_other_negatives_share_stage_1(monkeypatch, tmp_path):
    monkeypatch.setattr(ROOT, tmp_path)
    monkeypatch.setattr(variant_runs, "run_stage", lambda P, stage: P)
    P = load_params("mini")
    changed = [variant_runs._changed(P, VARIANTS[n], 7) for n in ("full", "standard", "region")]
    changed.append(changed[0].changed({"hard_negatives_train": "planted.json"}))
    first, *others = (variant_runs.shared_stage1(Q, P) for Q in changed)
    assert all(other.run_dir == first.run_dir for other in others)
    rank = variant_runs._changed(P, VARIANTS["rank-4"], 7)
    assert variant_runs.shared_stage1(rank, P).run_dir != first.run_dir


def test_the_rule_needs_both_metrics_at_one_step_paired_by_seed():
    sure, unsure = [2.0, 2.1, 1.9], [2.0, -2.0, 0.1]
    gains_at = {"video AUC": (sure, unsure, sure, sure), "frame AUC": (unsure, sure, sure, sure)}
    rows = [
        (2, metric, 25 * i, seed, variant, 50.0 + seed + gain * (variant == "full"))
        for metric, steps in gains_at.items() for i, values in enumerate(steps, start=1)
        for seed, gain in enumerate(values) for variant in ("global", "full")
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["stage", "metric", "step", "seed", "variant", "value"])
    assert first_gain(table) == 75
    first, half = gains(table).iloc[0], T2 * 0.1 / np.sqrt(3)  # times the standard error
    expected = [2.0, 2.0 - half, 2.0 + half]
    assert first[["change", "low", "high"]].tolist() == pytest.approx(expected, abs=1e-5)
    assert first_gain(table[table["step"] < 75]) is None


def test_rank_correlation_resamples_variants():
    wide = pd.DataFrame({"variant": [*"aabbcc"], "x": range(6), "y": range(6, 0, -1)})
    assert rank_correlation(wide, "x", "y", n_boot=50) == pytest.approx((-1, -1, -1))
