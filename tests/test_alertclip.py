"""AlertCLIP: CLIP at the start, one pass of the tower, temporal head, regions, texts."""

from functools import partial

import pytest
import tiny_clip
import torch
from faults.harness import refused
from torch import nn
from torch.nn.functional import normalize
from torchvision.ops import roi_align

from alertclip.clips import Batch
from alertclip.lora import add_lora
from alertclip.losses import total_loss
from alertclip.model import AttentionPooling, TemporalTransformer, roi_features

WHOLE = [0.0, 0.0, 1.0, 1.0]


def make_batch() -> Batch:
    """Two clips of 3 frames; a region of each and a second in clip 0; 3, 1 and 0 hard negatives."""
    boxes = torch.tensor([WHOLE, [0.1, 0.2, 0.7, 0.9], [0.5, 0.0, 1.0, 0.5]])
    return Batch(
        frames=tiny_clip.frames(2, 3),
        mask=torch.tensor([[True, True, True], [True, True, False]]),
        global_captions=["a fight", "a calm street"],
        region_clip=torch.tensor([0, 1, 0]),
        boxes=boxes[:, None].expand(-1, 3, -1).contiguous(),
        region_mask=torch.tensor([[True, True, True], [False, True, True], [True, True, True]]),
        region_captions=["two men fight", "a woman walks", "a man falls"],
        hard_negatives=[["two men hug", "men dance", "two men talk"], ["a woman runs"], []],
        labels=torch.tensor([1, 0]),
        keys=["x", "y"],
    )


@pytest.mark.parametrize("pool", ["tok", "avg"])
def test_frames_patches_and_texts_are_those_of_the_stock_towers(pool):
    model, stock, frames = tiny_clip.alertclip(pool), tiny_clip.clip(pool), tiny_clip.frames(2, 3)
    x = (frames.flatten(0, 1) / 255 - model.mean) / model.std
    features = model.encode_frames(frames, patches=True)
    close = {"atol": 1e-5, "rtol": 0}
    torch.testing.assert_close(features.v.flatten(0, 1), stock.encode_image(x, True), **close)
    tokens = stock.visual.forward_intermediates(x, indices=1, normalize_intermediates=True)
    expected = torch.einsum("fchw,cd->fdhw", tokens["image_intermediates"][0], stock.visual.proj)
    torch.testing.assert_close(features.patches, expected, **close)
    assert model.encode_frames(frames).patches is None
    rows, texts = [], ["a fight", "calm", "a fight", "fire here", "calm"]
    model.clip.token_embedding.register_forward_hook(lambda _, args, __: rows.append(len(args[0])))
    expected = stock.encode_text(tiny_clip.tokenize(texts), normalize=True)
    torch.testing.assert_close(model.encode_text(texts), expected, **close)
    assert rows == [3]  # each is encoded once


def test_checkpointing_changes_no_gradient():
    def gradients(checkpointing) -> tuple[list, int]:
        model = tiny_clip.alertclip(temporal_dropout=0.0, checkpointing=checkpointing)
        torch.manual_seed(0)
        model.adapted = add_lora(model.adapted, 2, 4, 0.2)
        tiny_clip.stir(model)
        passes = []
        for block in model.clip.visual.transformer.resblocks:
            block.register_forward_pre_hook(lambda *_: passes.append(1))
        torch.manual_seed(3)
        model.train()(make_batch()).v.square().cumsum(-1).sum().backward()
        return [p.grad for p in model.parameters() if p.grad is not None], len(passes) - 2

    plain, none = gradients("none")
    ours, extra = gradients("all")
    assert (none, extra) == (0, 2)
    for a, b in zip(plain, ours, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("training", [False, True])
def test_untrained_model_is_the_masked_mean_of_unit_frames(training):
    model = tiny_clip.alertclip().train(training)  # even dropout has no say yet
    frames, mask = tiny_clip.frames(2, 4), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    v = model.encode_frames(frames).v
    torch.testing.assert_close(v.norm(dim=-1), torch.ones(2, 4))
    clip = model.encode_clip(frames, mask)
    expected = normalize(torch.stack([v[0].mean(0), v[1, :2].mean(0)]), dim=-1)
    torch.testing.assert_close(clip.embedding, expected, atol=1e-6, rtol=0)
    assert torch.equal(clip.z, v)
    assert clip.weights[1].tolist() == [0.5, 0.5, 0, 0]


def test_padding_has_no_say_and_order_does():
    temporal, pooling = TemporalTransformer(16, heads=2), AttentionPooling(16)
    for module in (temporal, pooling):
        tiny_clip.stir(module.eval())
    v, mask = torch.randn(2, 5, 16), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    z = temporal(v, mask)
    torch.testing.assert_close(temporal(v[1:, :3], mask[1:, :3])[0], z[1, :3])
    pooled, weights = pooling(z, mask)
    torch.testing.assert_close(weights.sum(1), torch.ones(2))
    assert weights[1, 3:].tolist() == [0, 0] and weights[1, 0] != weights[1, 1]
    torch.testing.assert_close(pooled[1], (weights[1, :3, None] * z[1, :3]).sum(0))
    backwards = temporal(v[:1].flip(1), mask[:1]).flip(1)
    assert (backwards - z[:1]).abs().max() > 1e-2


def test_temporal_head_is_the_papers():
    temporal, pooling = TemporalTransformer(512), AttentionPooling(512)
    layers = temporal.encoder.layers
    assert len(layers) == 2 and temporal.positions.shape == (256, 512)
    assert all(layer.norm_first and layer.self_attn.num_heads == 8 for layer in layers)
    assert all((layer.linear1.out_features, layer.dropout.p) == (2048, 0.1) for layer in layers)
    assert [m.out_features for m in pooling.score if isinstance(m, nn.Linear)] == [256, 1]
    assert "257" in refused(temporal, torch.zeros(1, 257, 512), torch.ones(1, 257).bool())


def test_roi_is_the_mean_of_roi_align_and_so_is_its_gradient():
    patches = torch.randn(3, 4, 5, 7, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[0.1, 0.2, 0.9, 0.4], [0.0, 0.5, 0.05, 1.0], [0.4, 0.4, 0.4, 0.4]])
    frame = torch.tensor([2.0, 0.0, 2.0])
    rois = torch.cat([frame[:, None], boxes * torch.tensor([7, 5, 7, 5])], dim=1)
    results = []
    align = partial(roi_align, boxes=rois, output_size=(5, 7), sampling_ratio=2, aligned=True)
    for f in (lambda x: roi_features(x, frame, boxes), lambda x: align(x).mean((2, 3))):
        leaf = patches.clone().requires_grad_()
        pooled = f(leaf)
        results.append((pooled, *torch.autograd.grad(pooled.square().sum(), leaf)))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("pooling", ["mean", "temporal"])
def test_region_embedding_is_the_mean_over_frames_with_a_box(pooling):
    model = tiny_clip.alertclip("avg", region_pooling=pooling)
    frames = model.encode_frames(tiny_clip.frames(1, 3), patches=True)
    boxes, mask = torch.tensor(WHOLE).expand(1, 3, 4), torch.tensor([[True, True, False]])
    regions = model.encode_regions(frames.patches, torch.tensor([0]), boxes, mask)
    features = frames.patches.mean(dim=(2, 3))[:2]  # with average pooling: the image feature
    torch.testing.assert_close(normalize(features, dim=-1), frames.v[0, :2])
    if pooling == "temporal":
        features = normalize(features, dim=-1)
    torch.testing.assert_close(regions[0], normalize(features.mean(0), dim=0), atol=1e-6, rtol=0)


@torch.no_grad()
def test_forward_reads_every_part_of_the_batch_and_stays_near_in_bf16():
    model, batch, passes, calls = tiny_clip.alertclip(), make_batch(), [], []
    model.clip.visual.conv1.register_forward_hook(lambda *_: passes.append(1))
    model.clip.token_embedding.register_forward_hook(lambda _, args, __: calls.append(len(args[0])))
    output = model(batch, regions=True)
    assert calls == [2 + 3 + 4]  # gaps of the ragged negatives cost nothing
    assert len(passes) == 1  # of the tower, for frames and regions
    assert output.negative_mask.tolist() == [[True] * 3, [True, False, False], [False] * 3]
    torch.testing.assert_close(output.t, model.encode_text(batch.global_captions))
    torch.testing.assert_close(output.t_r, model.encode_text(batch.region_captions))
    torch.testing.assert_close(output.t_neg[0], model.encode_text(batch.hard_negatives[0]))
    torch.testing.assert_close(output.t_neg[1, :1], model.encode_text(batch.hard_negatives[1]))
    torch.testing.assert_close(output.v, model.encode_clip(batch.frames, batch.mask).embedding)
    with torch.autocast("cpu", torch.bfloat16):
        reduced = model.train()(batch, regions=True)  # which does without the fused kernel
    for name in ("v", "t", "v_r", "t_r", "t_neg"):
        exact, near = getattr(output, name), getattr(reduced, name)
        length = exact.norm(dim=-1)
        torch.testing.assert_close(length, torch.ones_like(length))
        assert near.dtype == torch.float32 and ((exact * near).sum(-1) > 0.999).all(), name
    assert model(batch).v_r is None


@pytest.mark.parametrize("patch_tokens", ["plain", "value"])
@pytest.mark.parametrize("pooling", ["mean", "temporal"])
def test_every_trainable_part_learns_from_stage_2(pooling, patch_tokens):
    model = tiny_clip.alertclip(region_pooling=pooling, patch_tokens=patch_tokens)
    model.adapted = add_lora(model.adapted, 2, 4, 0.0)
    model.logit_scale.requires_grad_(True)
    tiny_clip.stir(model, scale=0.1)
    embeddings = model.train()(make_batch(), regions=True)
    total_loss(embeddings, model.logit_scale.exp()).total.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # Adding one number to every frame's score changes no softmax.
            flat = name == "pooling.score.2.bias" or "in_proj_bias" in name
            assert parameter.grad.isfinite().all(), name
            assert flat or parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name
