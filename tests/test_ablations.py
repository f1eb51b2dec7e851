"""Ablations: every variant is valid, differences are paired by seed, parts can be left out."""

import numpy as np
import pandas as pd
import pytest
import torch
from test_detector_tables import scored

from alertclip.errors import InputError
from alertclip.records import Region
from alertclip.vagta import Item
from companion import ablation_tables, ablations, detector_tables, figures
from companion import profiles as params_module
from companion.ledger.paper_results import load_paper_results
from companion.profiles import load_params
from companion.splits import standard_negatives
from companion.workflow import NOTEBOOKS
from detectors.anomalyclip.losses import total_loss
from detectors.anomalyclip.selector import Selection
from detectors.anomalyclip.settings import AnomalyCLIPSettings, anomalyclip_settings
from detectors.training_protocol import DETECTORS, DetectorParams
from detectors.vadclip.settings import vadclip_settings


def test_every_variant_is_valid_and_differs_from_its_reference():
    P = load_params("mini")
    variants = ablations.load_variants()
    hashes = {name: ablations.inputs_hash(P, name, 0) for name in variants}
    assert len(set(hashes.values())) == len(variants)
    groups = {variant.group for variant in variants.values()}
    for group in groups:
        assert sum(v.reference for v in variants.values() if v.group == group) == 1
    for v in variants.values():
        if v.kind == "vadclip":
            vadclip_settings(DetectorParams(vadclip_changes=v.changes.get("vadclip_changes", {})))
        if v.kind == "anomalyclip":
            changes = v.changes.get("anomalyclip_changes", {})
            anomalyclip_settings(DetectorParams(anomalyclip_changes=changes))


def test_a_misspelt_variant_is_named(tmp_path):
    path = tmp_path / "ablations.yaml"
    path.write_text("alertclip:\n  x: {group: A, title: x, changes: {lora_rank: 3}}\n")
    with pytest.raises(InputError, match=r"(?s)ablations.yaml, x: .*lora_rank"):
        ablations.load_variants(path)


def test_changes_are_paired_by_seed():
    values = {"full": [80, 60, 70], "region": [79, 58, 67]}
    rows = [(n, s, "video AUC", v) for n, vs in values.items() for s, v in enumerate(vs)]
    rows.append(("global", 0, "video AUC", 75.0))  # its other seeds failed
    table = pd.DataFrame(rows, columns=["variant", "seed", "metric", "value"])
    made = ablation_tables.ablation_table(table, "video AUC").set_index("title")
    row = made.loc["global + region"]
    assert row["change"] == pytest.approx(-2) and row["seeds"] == 3
    half = 4.302652729911275 / np.sqrt(3)  # t of two degrees of freedom; deviation 1
    assert (row["low"], row["high"]) == (pytest.approx(-2 - half), pytest.approx(-2 + half))
    alone = made.loc["global"]
    assert alone["change"] == -5 and np.isnan(alone["low"]) and alone["seeds"] == 1
    words = ablation_tables.verdicts(made.reset_index()).set_index("title")["verdict"]
    assert words.to_dict() == {"global": "not shown", "global + region": "not shown"}
    assert figures.paired_changes(made.reset_index()).axes


def test_results_hold_value_and_change_each_with_its_own_interval():
    rows = [("full", 80, 60, 70), ("region", 79, 58, 67), ("vadclip-c", 50, 60, 70)]
    table = pd.DataFrame(
        [(n, s, m, v + plus) for n, *vs in rows for s, v in enumerate(vs)
         for m, plus in (("frame AUC", 0), ("MSS", -50))],
        columns=["variant", "seed", "metric", "value"],
    )  # fmt: skip
    made = ablation_tables.results_table(load_params("mini"), table).set_index(
        ["variant", "metric"]
    )
    row = made.loc[("region", "frame AUC")]
    half = 4.302652729911275 / np.sqrt(3)  # t of two degrees of freedom, per deviation
    spread = np.std([79, 58, 67], ddof=1)
    assert (row["value"], row["change"], row["seeds"]) == (68, -2, 3)
    assert (row["low"], row["high"]) == pytest.approx((68 - half * spread, 68 + half * spread))
    assert (row["change_low"], row["change_high"]) == pytest.approx((-2 - half, -2 + half))
    assert made.loc[("region", "MSS"), "value"] == 18 and not row["reference"]
    alone = made.loc[("vadclip-c", "frame AUC")]  # its reference has not been run
    assert alone["value"] == 60 and np.isnan(alone["change"]) and np.isnan(alone["change_low"])
    assert made["backbone"].groupby("variant").first().to_dict() == {
        "full": "", "region": "", "vadclip-c": "Full",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "metrics"),
    [
        ("vadclip-c", {"mAP@0.1", "mAP@0.2", "mAP@0.3", "mAP@0.4", "mAP@0.5", "mAP@AVG"}),
        ("anomalyclip", {"mean AUC", "mean AP"}),
    ],
)
def test_a_detector_gets_the_profiles_backbone_and_its_papers_metrics(monkeypatch, name, metrics):
    asked, variant = [], ablations.load_variants()[name]
    best = [scored("clip", [1.0])]
    monkeypatch.setattr(detector_tables, "score_stages", lambda *given: asked.append(given) or best)
    P = load_params("smoke", {"ablation_backbone": "clip"})
    table = ablations._detected(P, variant).set_index("metric")["value"]
    assert asked == [(P, variant.kind, ["clip"])] and table["frame AUC"] == 100
    assert set(table.index) == {"frame AUC", "frame AP", "AnoAUC"} | metrics
    assert table.index.is_unique


def test_a_hash_that_reads_as_a_number_stays_text(tmp_path, monkeypatch):
    monkeypatch.setattr(params_module, "ROOT", tmp_path)
    P, digest = load_params("mini"), ablations.inputs_hash(load_params("mini"), "full", 0)
    for found in ("417e66085674", digest):
        row = {"variant": "full", "seed": 0, "metric": "MSS", "value": 1, "params": found}
        file = ablations.result_file(P, "full", 0)
        figures.write_table(pd.DataFrame([row | {"weights": "123456789012"}]), file)
        table = ablations.results(P, ["full"], [0])
        assert table[["params", "weights"]].to_numpy().tolist() == [[found, "123456789012"]]
        assert ablations._current(P, "full", 0) is (found == digest)


def test_what_else_is_measured_is_in_the_hash():
    P, full = load_params("mini"), load_params("mini", {"ablation_detector": True})
    clip = load_params("mini", {"ablation_backbone": "clip"})
    changed = {
        which: {n for n in ablations.load_variants()
                if ablations.inputs_hash(P, n, 0) != ablations.inputs_hash(other, n, 0)}
        for which, other in (("detector", full), ("backbone", clip))
    }  # fmt: skip
    assert changed["detector"] == {"full", "global", "region", "standard", "joint"}
    kinds = {name: variant.kind for name, variant in ablations.load_variants().items()}
    assert changed["backbone"] == {name for name, kind in kinds.items() if kind != "alertclip"}


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


def test_left_out_terms_do_not_count():
    settings = AnomalyCLIPSettings(normal_id=0, top_k=1, bottom_k=1)
    torch.manual_seed(0)
    logits, p = torch.randn(4, 3, 2, 2), torch.rand(4, 3, 2)
    probabilities = torch.rand(4, 3, 2, 3)
    chosen = Selection(*[torch.zeros(2, 1, dtype=torch.long)] * 3)
    labels = torch.tensor([1, 2])
    whole = total_loss(logits, p, probabilities, labels, chosen, settings)
    less = AnomalyCLIPSettings(
        normal_id=0, top_k=1, bottom_k=1, left_out=("normal_top", "sparsity")
    )
    part = total_loss(logits, p, probabilities, labels, chosen, less)
    gone = whole.normal_top + settings.sparsity_weight * whole.sparsity
    torch.testing.assert_close(part.total, whole.total - gone)
    with pytest.raises(ValueError, match="left_out"):
        AnomalyCLIPSettings(left_out=("normal",))


def test_how_activations_are_kept_outdates_no_result_of_paper():
    P = load_params("paper")
    old = P.changed({"checkpointing": "all"})
    assert P.model.checkpointing == "auto"
    assert ablations.inputs_hash(P, "full", 0) == ablations.inputs_hash(old, "full", 0)
    upper = P.changed({"lora_blocks": 3})
    assert ablations.inputs_hash(P, "full", 0) != ablations.inputs_hash(upper, "full", 0)


def test_the_committed_reference_has_five_seeds_and_no_copies():
    table = ablation_tables.reference_table()
    variants = ablations.load_variants()
    assert set(table["variant"]) <= set(variants)
    seeds = table.groupby("variant")["seed"].nunique()
    assert (seeds >= 5).all(), seeds[seeds < 5]
    tuned = [name for name in seeds.index if variants[name].kind == "alertclip"]
    weights = table[table["variant"].isin(tuned)].drop_duplicates(["variant", "seed"])["weights"]
    assert weights.is_unique
    assert {"vadclip", "anomalyclip", "full"} <= set(seeds.index)
    P = load_params("mini")
    for name, seed, digest in table[["variant", "seed", "params"]].drop_duplicates().to_numpy():
        assert digest == ablations.inputs_hash(P, name, seed), f"{name}, {seed}: run it again"


def test_the_ledger_asks_for_variants_of_the_same_meaning():
    variants, counts = (
        ablations.load_variants(),
        dict.fromkeys(("alertclip", *DETECTORS), 0),
    )
    for cell in load_paper_results().cells():
        if cell.measure and cell.measure.csv == "ablation_results":
            where = cell.measure.selector(cell.row, cell.column)
            variant = variants[where["variant"]]
            assert cell.document.replace("-", "").lower() == variant.kind, cell.key
            tuned = variant.kind == "alertclip"
            assert where.get("backbone", "") == ("" if tuned else "CLIP"), cell.key
            assert variant.detector or not tuned, cell.key
            counts[variant.kind] += 1
    assert counts == {"alertclip": 7, "vadclip": 24, "anomalyclip": 54}


def test_variants_of_other_negatives_share_stage_1(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(params_module, "ROOT", tmp_path)
    monkeypatch.setattr(ablations, "run_stage", lambda P, stage: P)
    P, variants = load_params("mini"), ablations.load_variants()
    changed = [ablations._changed(P, variants[n], 7) for n in ("full", "standard", "planted")]
    changed[2] = changed[2].model_copy(update={"hard_negatives_train": "planted.json"})
    first, *others = (ablations._shared_stage1(Q, P) for Q in changed)
    assert all(other == first for other in others)


def test_no_variant_reads_what_its_notebook_ignores():
    book = next(book for book in NOTEBOOKS if book.name == "07_ablations")
    assert set(book.ignores) <= set(ablations.INDIFFERENT)


def test_rows_stand_in_the_order_of_the_file():
    variants, reference = ablations.load_variants(), ablation_tables.reference_table()
    for metric in ("video AUC", "AnoAUC"):
        rows = ablation_tables.ablation_table(reference, metric)
        places = [(variant.group, variant.title) for variant in variants.values()]
        order = [places.index(row) for row in zip(rows["group"], rows["title"], strict=True)]
        assert order == sorted(order)
