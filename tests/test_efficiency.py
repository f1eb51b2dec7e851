"""FLOPs agree with a counter exactly; times, floors and hours are what they say."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pytest
import tiny_clip
import torch
from open_clip.model import CLIP
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from alertclip.attention import split_attention
from alertclip.errors import InputError
from alertclip.lora import add_lora
from alertclip.pooling import AttentionPooling, TemporalTransformer
from alertclip.tower import image_and_patches
from companion import costs, machine
from companion.figures.intervals import against_floor
from companion.flops import CONTEXTS, MODELS, Sizes, flops_table
from companion.profiles import load_params

CPU = torch.device("cpu")


def counted(call: Callable[[], object]) -> int:
    """FLOPs that torch's counter sees."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def split_clip(name: str, context: int) -> tuple[nn.Module, Sizes]:
    """The true architecture without memory (meta tensors), and its sizes."""
    config = open_clip.get_model_config(name)
    text = {**config["text_cfg"], "context_length": context}
    with torch.device("meta"):
        model = CLIP(**{**config, "text_cfg": text})
    split_attention(model)
    return model, Sizes.of(config, context=context)


# The towers know nothing of each other: two models cover both backbones and both text lengths.
@pytest.mark.parametrize(("name", "context"), [*zip(MODELS, CONTEXTS, strict=True)])
@torch.no_grad()
def test_towers_agree_with_the_counter(name: str, context: int) -> None:
    model, sizes = split_clip(name, context)
    cost = {module: found.flops for module, found in sizes.modules(frames=1).items()}
    pixels = torch.empty(3, 3, 224, 224, device="meta")
    tokens = torch.zeros(5, context, dtype=torch.long, device="meta")
    image = cost["vision encoder"] + cost["visual projection"]
    assert counted(lambda: model.visual(pixels)) == 3 * image
    grids = image + cost["ROI projection"]
    assert counted(lambda: image_and_patches(model.visual, pixels, "plain")) == 3 * grids
    text = cost["text encoder"] + cost["text projection"]
    assert counted(lambda: model.encode_text(tokens)) == 5 * text


@torch.no_grad()
def test_heads_agree_with_the_counter() -> None:
    cost = Sizes.of(open_clip.get_model_config(MODELS[0])).modules(frames=100)
    with torch.device("meta"):
        temporal, pooling = TemporalTransformer(512).train(), AttentionPooling(512)
        v, mask = torch.empty(1, 100, 512), torch.ones(1, 100, dtype=torch.bool)
    assert counted(lambda: temporal(v, mask)) == cost["temporal transformer"].flops
    assert counted(lambda: pooling(v, mask)) == cost["attention pooling"].flops


@torch.no_grad()
def test_whole_clip_of_an_oblong_model() -> None:
    model = tiny_clip.alertclip().train()  # eval takes torch's fused path, which is not counted
    sizes = Sizes.of(tiny_clip.config())
    frames, mask = tiny_clip.frames(1, 5), torch.ones(1, 5, dtype=torch.bool)
    assert sizes.grid == model.grid == (3, 4)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert counted(lambda: model.encode_clip(frames, mask)) == sizes.clip_flops(5)


def test_training_is_two_forward_passes() -> None:
    model, sizes = split_clip(MODELS[0], 77)
    with torch.device("meta"):
        visual = add_lora(model, 1, 1, 0.0).get_base_model().visual
        pixels = torch.empty(2, 3, 224, 224)
    total = counted(lambda: visual(pixels).sum().backward())
    cost = {module: found.flops for module, found in sizes.modules(frames=1).items()}
    forward = 2 * (cost["vision encoder"] + cost["visual projection"])
    assert total == pytest.approx(2 * forward, rel=0.03)  # adapters and attention more, conv1 less
    once = sizes.training_flops(10, texts=0, regions=False)
    assert once == 2 * sizes.clip_flops(10)
    both = sizes.training_flops(10, texts=5, regions=True)
    text = cost["text encoder"] + cost["text projection"]
    assert both - once == 2 * (5 * text + 10 * cost["ROI projection"])


def test_which_model_the_papers_table_counts() -> None:
    table = flops_table()
    is_one = table[(table["ratio"] - 1).abs() < 1e-3]
    found = is_one.groupby("module")[["model", "context"]].agg(lambda x: sorted(set(x)))
    assert found.loc["vision encoder", "model"] == ["ViT-B-16-quickgelu"]
    assert found.loc["text encoder", "context"] == [248]
    assert {"temporal transformer", "ROI projection"} <= set(found.index)
    assert "text projection" not in found.index
    assert (table["flops"] <= 2 * table["fvcore"]).all()


def test_other_towers_are_refused() -> None:
    with pytest.raises(InputError, match="open_clip's own"):
        Sizes.of(open_clip.get_model_config("ViT-B-16-SigLIP"))


def test_seconds_and_spread() -> None:
    calls: list[int] = []
    found = machine.seconds(lambda: calls.append(1), CPU, repeats=4, warm_up=3)
    assert len(calls) == 7 and found.shape == (4,) and (found > 0).all()
    assert machine.spread(np.array([5.0, 1, 2, 4, 3])) == (3, 2, 4, 5)


def test_ceilings_feed_the_floors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(machine.SIDE, "cpu", 64)
    monkeypatch.setitem(machine.COPY_BYTES, "cpu", 1 << 16)
    # A call of 2 ms: 2 * 64^3 FLOPs and 2 * 2^16 bytes in that time.
    monkeypatch.setattr(machine, "seconds", lambda call, device, n: np.full(n, 2e-3))
    table = machine.ceilings(CPU).set_index("measure")
    assert table.loc["matmul, fp32", "value"] == pytest.approx(2 * 64**3 / 2e-3 / 1e9)
    assert table.loc["copy", "value"] == pytest.approx(2 * 2**16 / 2e-3 / 1e9)
    assert machine.flops_per_second(table.reset_index())["bf16"] == pytest.approx(2 * 64**3 / 2e-3)


@pytest.mark.skipif(not (machine.PROC / "clear_refs").exists(), reason="Linux forgets peaks")
def test_peak_memory_rises_and_is_forgotten() -> None:
    torch.ones(500_000_000, dtype=torch.uint8)  # freed, and kept
    machine.forget_peak(CPU)
    before = machine.peak_memory(CPU)
    held = torch.ones(300_000_000, dtype=torch.uint8)
    high = machine.peak_memory(CPU)
    assert high - before == pytest.approx(0.3, abs=0.03)
    del held
    assert machine.peak_memory(CPU) > high - 0.03  # the kernel counts in batches
    machine.forget_peak(CPU)
    assert machine.peak_memory(CPU) < high - 0.2


def test_commit_is_empty_without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    assert machine.commit() == ""
    monkeypatch.setenv("PATH", "")
    assert machine.surroundings(CPU)["commit"] == ""


@pytest.fixture(scope="module")
def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables 7 and 6 of MiniCLIP with two frames."""
    P = load_params("mini", {"num_frames": 2, "device": "cpu"})
    ceiling = {"fp32": 1e12, "bf16": 2e12}
    return (costs.latency_table(P, ceiling, repeats=2),
            costs.training_table(P, ceiling, clips=3, repeats=2))  # fmt: skip


def mini_sizes() -> Sizes:
    return Sizes.of(costs.load_backbone(load_params("mini").model.backbone).config)


def test_latency_table(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    table = tables[0].set_index(["fp32", "bf16"][i] for i in range(2))
    assert (table["low"] <= table["ours"]).all() and (table["ours"] <= table["high"]).all()
    assert table["frames_per_s"].tolist() == pytest.approx((2e3 / table["ours"]).tolist())
    assert table["ratio"].tolist() == pytest.approx((table["ours"] / table["floor"]).tolist())
    assert table.loc["fp32", "floor"] == pytest.approx(1e3 * mini_sizes().clip_flops(2) / 1e12)
    assert table.loc["fp32", "floor"] == pytest.approx(2 * table.loc["bf16", "floor"])
    assert table["cosine"].between(0.999, 1 + 1e-5).all()
    assert table["paper"].isna().all()  # another model: the paper's time is not beside it


def test_training_table(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    one, two, both = (row for _, row in tables[1].iterrows())
    assert one["ours"] == pytest.approx(one["step_s"] / 3 * 3726 * 100 / 3600)
    assert two["ours"] == pytest.approx(two["step_s"] / 3 * 3726 * 20 / 3600)
    assert both["ours"] == pytest.approx(one["ours"] + two["ours"])
    assert both["paper"] == pytest.approx(86.25)
    work = mini_sizes().training_flops(2, texts=5, regions=True)
    assert two["floor"] == pytest.approx(3726 * 20 * work / 2e12 / 3600)
    assert both["ratio"] == pytest.approx(both["ours"] / both["floor"])


def test_stage_start_has_the_stages_adapters() -> None:
    P = load_params("mini", {"stage1_lora_rank": 2, "stage2_lora_rank": 6})
    ranks = [costs.stage_start(P, stage).adapted.peft_config["default"].r for stage in (1, 2)]
    assert ranks == [2, 6]


def test_random_batch_has_different_texts() -> None:
    batch = costs.random_batch((24, 32), clips=3, frames=4)
    assert batch.frames.shape == (3, 4, 3, 24, 32) and batch.boxes.shape == (3, 4, 4)
    assert (batch.boxes[..., 2:] > batch.boxes[..., :2]).all() and batch.boxes.max() <= 1
    texts = [*batch.global_captions, *batch.region_captions, *sum(batch.hard_negatives, [])]
    assert len(set(texts)) == 3 * costs.TEXTS[2] and batch.region_mask.all()


def test_figures_show_every_line(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    axes = against_floor(tables[1], "Schedule").axes[0]
    assert len(axes.get_yticklabels()) == 3 and axes.get_xscale() == "log"
