"""Closed forms agree with PyTorch's FLOP counter; times, floors and hours by their definitions."""

import numpy as np
import open_clip
import pandas as pd
import pytest
import tiny_clip
import torch
from open_clip.model import CLIP
from torch.utils.flop_counter import FlopCounterMode

from alertclip.attention import split_attention
from companion import flops, latency
from companion.profiles import load_params

CPU = torch.device("cpu")


@pytest.mark.parametrize(("name", "context"), [*zip(flops.VIT, flops.CONTEXTS, strict=True)])
@torch.no_grad()
def test_closed_forms_agree_with_the_counter(name: str, context: int) -> None:
    config = open_clip.get_model_config(name)
    with torch.device("meta"):  # the true sizes without their memory
        model = CLIP(**{**config, "text_cfg": {**config["text_cfg"], "context_length": context}})
        pixels, tokens = torch.empty(1, 3, 224, 224), torch.zeros(1, context, dtype=torch.long)
    split_attention(model)
    costs = {k: 2 * int(c[0]) for k, c in flops.clip_costs(*flops.VIT[name], context).items()}
    with FlopCounterMode(display=False) as counter:
        model.visual(pixels)
    vision = costs["vision encoder"] + costs["visual projection"]
    assert flops.FRAMES * counter.get_total_flops() == vision
    with FlopCounterMode(display=False) as counter:
        model.encode_text(tokens)
    assert counter.get_total_flops() == costs["text encoder"] + costs["text projection"]


def test_count_flops_of_a_whole_clip() -> None:
    model = tiny_clip.alertclip().eval()
    one, two = (flops.count_flops(model, frames) for frames in (1, 2))
    assert two > 2 * one > 0  # attention over time
    text = flops.count_flops(model, 2, texts=1) - two
    assert text > 0 and flops.count_flops(model, 2, texts=3) - two == 3 * text
    width, dim = tiny_clip.config()["vision_cfg"]["width"], model.backbone.embed_dim
    patches = model.grid[0] * model.grid[1]
    assert flops.count_flops(model, 2, regions=True) - two == 2 * 2 * patches * width * dim
    assert not model.training


def test_which_model_the_papers_table_counts() -> None:
    table = flops.table5()
    is_one = table[(table["ratio"] - 1).abs() < 1e-3]
    matching = is_one.groupby("module")[["model", "context"]].agg(lambda x: sorted(set(x)))
    assert matching.loc["vision encoder", "model"] == ["ViT-B-16-quickgelu"]
    assert matching.loc["text encoder", "context"] == [248]
    assert {"temporal transformer", "ROI projection"} <= set(matching.index)
    assert "text projection" not in matching.index
    b16 = table[(table["model"] == "ViT-B-16-quickgelu") & (table["context"] == 248)]
    counts = b16.set_index("module")["fvcore"]
    assert round(counts["vision encoder"] / 1e12, 3) == 4.501  # all the digits that are printed
    assert round(counts["text encoder"] / 1e9, 3) == 10.133


@pytest.mark.skipif(not (latency.PROC / "clear_refs").exists(), reason="Linux forgets peaks")
def test_peak_memory_rises_and_is_forgotten() -> None:
    latency.forget_peak(CPU)
    before = latency.peak_memory(CPU)
    held = torch.ones(300_000_000, dtype=torch.uint8)
    high = latency.peak_memory(CPU)
    assert high - before == pytest.approx(0.3, abs=0.05)
    del held
    latency.forget_peak(CPU)
    assert latency.peak_memory(CPU) < high - 0.2


def test_tables_of_latency_and_of_training_time() -> None:
    """Tables 7 and 6 of MiniCLIP with two frames."""
    P = load_params("mini", {"num_frames": 2, "device": "cpu"})
    speed = pd.DataFrame({"measure": ["matmul, fp32", "matmul, bf16"], "value": [1e3, 2e3]})
    table = latency.latency_table(P, speed, repeats=2)
    assert (table["low"] <= table["ours"]).all() and (table["ours"] <= table["high"]).all()
    assert table["frames_per_s"].tolist() == pytest.approx((2e3 / table["ours"]).tolist())
    assert table["ratio"].tolist() == pytest.approx((table["ours"] / table["floor"]).tolist())
    work = flops.count_flops(latency.untuned(P), 2)
    assert table["floor"].tolist() == pytest.approx([1e3 * work / 1e12, 1e3 * work / 2e12])
    assert table["cosine"].between(0.999, 1 + 1e-5).all() and table["paper"].isna().all()
    training = latency.training_table(P, speed, clips=3, repeats=2)
    one, two, both = (row for _, row in training.iterrows())
    assert one["ours"] == pytest.approx(one["step_s"] / 3 * 3726 * 100 / 3600)
    assert two["ours"] == pytest.approx(two["step_s"] / 3 * 3726 * 20 / 3600)
    assert both["ours"] == pytest.approx(one["ours"] + two["ours"])
    assert both["ratio"] == pytest.approx(both["ours"] / both["floor"])
    names = {"num_frames": 256, "backbone": "ViT-B-16-quickgelu"}  # the paper's own model
    assert latency.paper_value(load_params("mini", names), latency.TABLE7) == 213.26
    assert np.isnan(latency.paper_value(load_params("mini"), latency.TABLE7))
