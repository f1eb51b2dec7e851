"""Adapters in the upper blocks alone, and the tokens below them kept: the same bits, less work."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_clip
import torch
from test_alertclip import gradients_of, make_batch

from alertclip.clips import Batch
from alertclip.errors import InputError
from alertclip.lora import add_lora
from alertclip.model import AlertCLIP
from alertclip.prefix import PrefixCache
from alertclip.tower import frozen_depth

BATCH = replace(make_batch(), sources=["clip x", "clip y"])


def upper(root: Path | None = None, bf16: bool = False, **options) -> AlertCLIP:
    """Adapters in the last block of each tower, the tokens below kept under ``root``."""
    model = tiny_clip.alertclip(temporal_dropout=0.0, **options)
    torch.manual_seed(0)
    model.adapted = add_lora(model.adapted, 2, 4, 0.0, blocks=1)
    if root:
        model.prefix = PrefixCache(root, model.clip.visual, [bf16])
    return model


def gradients(model: AlertCLIP, batch: Batch = BATCH, bf16: bool = False) -> list[torch.Tensor]:
    return gradients_of(model, bf16, batch)


def test_adapters_stay_in_the_upper_blocks_of_both_towers():
    names = [n for n, _ in upper().named_parameters() if "lora_A" in n]
    assert len(names) == 2 * 3  # q, k, v of two towers
    assert all("resblocks.1." in name for name in names)
    words = add_lora(tiny_clip.backbone().model, 2, 4, 0.0, ("q", "embedding"), ("text",), 1)
    names = [n for n, _ in words.named_parameters() if "lora_A" in n or "embedding_A" in n]
    assert not any(".visual." in n or "resblocks.0." in n for n in names) and len(names) == 2
    every = add_lora(tiny_clip.backbone().model, 2, 4, 0.0, blocks=9)
    assert sum("lora_A" in n for n, _ in every.named_parameters()) == 2 * 2 * 3


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("patch_tokens", ["plain", "value"])
def test_kept_tokens_change_no_bit(patch_tokens, bf16, tmp_path):
    plain = gradients(upper(patch_tokens=patch_tokens), bf16=bf16)
    for _ in ("written", "read"):
        ours = upper(tmp_path, bf16, patch_tokens=patch_tokens)
        assert all(map(torch.equal, gradients(ours, bf16=bf16), plain))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2


def test_a_kept_clip_does_not_pass_the_lower_blocks_again(tmp_path):
    model, frames = upper(tmp_path), []
    model.clip.visual.conv1.register_forward_hook(lambda _, given, __: frames.append(len(given[0])))
    first, second = (replace(BATCH, sources=names) for names in (["x", "y"], ["z", "x"]))
    gradients(model, first)
    gradients(model, first)
    gradients(model, second)
    assert frames == [6, 3]  # both clips, then the new one alone


def test_a_damaged_file_is_made_again(tmp_path):
    plain = gradients(upper())
    gradients(upper(tmp_path))
    for file in tmp_path.rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:100])
    assert all(map(torch.equal, gradients(upper(tmp_path)), plain))


def test_frozen_weights_and_arithmetic_have_folders_of_their_own(tmp_path):
    visual = upper().clip.visual
    first = PrefixCache(tmp_path, visual, ["fp32", [0.5]]).folder
    assert PrefixCache(tmp_path, visual, ["bf16", [0.5]]).folder != first
    assert PrefixCache(tmp_path, visual, ["fp32", [0.6]]).folder != first
    visual.transformer.resblocks[1].mlp.c_fc.weight.data += 1  # above: the same tokens
    assert PrefixCache(tmp_path, visual, ["fp32", [0.5]]).folder == first
    visual.transformer.resblocks[0].mlp.c_fc.weight.data += 1
    assert PrefixCache(tmp_path, visual, ["fp32", [0.5]]).folder != first


def test_nothing_is_kept_where_the_first_block_learns(tmp_path):
    visual = tiny_clip.alertclip().clip.visual.requires_grad_(False)
    assert frozen_depth(visual) == 1  # never the last block: its values may be the patches
    visual.conv1.requires_grad_(True)
    assert frozen_depth(visual) == 0
    model = tiny_clip.alertclip()
    model.adapted = add_lora(model.adapted, 2, 4, 0.0)
    with pytest.raises(InputError, match="set lora_blocks"):
        PrefixCache(tmp_path, model.clip.visual, [])
