"""VadCLIP's prompts, forward pass, losses, windows and scores against their definitions."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_detectors import LENGTH, WIDTH, clip, random, tokenize, vadclip

from detectors.training_protocol import VadCLIPSettings
from detectors.vadclip.model import VadCLIP, prompt_layout, score_video
from detectors.vadclip.training import total_loss, training_window
from media.errors import InputError


def test_prompt_slots_of_the_official_layout():
    tokens = torch.zeros(2, 77, dtype=torch.long)
    tokens[0, :3] = torch.tensor([9000, 10, 9999])
    tokens[1, :4] = torch.tensor([9000, 10, 20, 9999])

    def ordinal(tokens):
        return tokens[..., None].float()  # the embedding of a token is its number

    names = ["normal", "car accident"]
    fixed, learned, eot = prompt_layout(tokens, ordinal, names, 10, 10)
    context = -torch.arange(77.0)[:, None]  # slot s holds -s
    one, two = torch.where(learned[..., None], context, fixed).squeeze(-1).int().tolist()
    assert one == [9000, *range(-1, -11, -1), 10, *range(-12, -22, -1), 9999, *range(-23, -77, -1)]
    assert two[:11] == one[:11] and two[11:13] == [10, 20]
    assert two[13:23] == list(range(-13, -23, -1)) and two[23] == 9999 and two[24] == -24
    assert eot.tolist() == [1 + 21, 2 + 21]


def test_prompt_that_does_not_fit_is_named():
    names, embedding = ["a b c d e f g", "a b c d e f g h"], clip().token_embedding
    _, _, eot = prompt_layout(tokenize(names[:1]), embedding, names[:1], 2, 1)
    assert eot.tolist() == [11]  # just fits
    with pytest.raises(InputError, match="class a b .* h: 8 tokens, prefix 2 .* 12 of"):
        prompt_layout(tokenize(names), embedding, names, 2, 1)


class ByDefinition:
    """The forward pass of one video in float64, from the official state dict."""

    def __init__(self, model: VadCLIP, variant: str) -> None:
        self.w, self.settings = model.double().state_dict(), model.settings
        self.official = variant == "official"

    def own(self, name):
        return self.w[f"{name}.weight"], self.w[f"{name}.bias"]

    def mlp(self, name, x):
        h = F.linear(x, *self.own(f"{name}.c_fc"))
        return F.linear(h * (1.702 * h).sigmoid(), *self.own(f"{name}.c_proj"))

    def block(self, name, x):
        w, b = self.w[f"{name}.attn.in_proj_weight"], self.w[f"{name}.attn.in_proj_bias"]
        packed = F.linear(F.layer_norm(x, x.shape[1:], *self.own(f"{name}.ln_1")), w, b)
        rows = [part.chunk(3, dim=1) for part in packed.split(self.settings.window or len(x))]
        attended = [(q @ k.T / q.shape[1] ** 0.5).softmax(-1) @ v for q, k, v in rows]
        x = x + F.linear(torch.cat(attended), *self.own(f"{name}.attn.out_proj"))
        return x + self.mlp(f"{name}.mlp", F.layer_norm(x, x.shape[1:], *self.own(f"{name}.ln_2")))

    def convolution(self, name, x, adjacency):
        out, residual = adjacency @ (x @ self.w[f"{name}.weight"]), x
        if f"{name}.residual.weight" in self.w:
            residual = F.conv1d(x.T, *self.own(f"{name}.residual"), padding=2).T
        return (out + residual) * (1.702 * (out + residual)).sigmoid()

    def graph(self, x, n):
        similar, near = torch.zeros(2, len(x), len(x)).double()
        cosine = torch.cosine_similarity(x[:n, None], x[:n], dim=-1)
        similar[:n, :n] = torch.where(cosine > 0.7, cosine, 0.0).softmax(-1)
        place = torch.arange(len(x)).double()
        gaps = (place[:, None] - place).abs()
        if self.official:
            near = torch.exp(-gaps / np.e)
            h1 = self.convolution("gc2", self.convolution("gc1", x, similar), similar)
            h2 = self.convolution("gc4", self.convolution("gc3", x, near), near)
            return torch.cat([h1, h2], dim=1)
        near[:n, :n] = (-gaps[:n, :n]).softmax(-1)
        h = x @ self.w["gc.weight"].T
        h = torch.cat([similar @ h, near @ h], dim=1)
        return x + h * (1.702 * h).sigmoid()

    def __call__(self, x, n, text):
        x = x + self.w["frame_position_embeddings.weight"]
        for i in range(self.settings.layers):
            x = self.block(f"temporal.resblocks.{i}", x)
        f = F.linear(self.graph(x, n), *self.own("linear"))
        logits1 = F.linear(f + self.mlp("mlp2", f), *self.own("classifier"))[:, 0]
        attention = logits1 if self.official else logits1.sigmoid() * (torch.arange(len(x)) < n)
        both = text + F.normalize(attention @ f, dim=0)
        t = (both if self.official else text) + self.mlp("mlp1", both)
        return logits1, torch.cosine_similarity(f[:, None], t, dim=-1) / 0.07


@pytest.mark.parametrize(("variant", "window"), [("official", 4), ("paper", 4), ("official", 0)])
def test_forward_is_its_definition(variant, window):
    model = vadclip(variant=variant, window=window).double()
    x, lengths = random(3, LENGTH, WIDTH).double(), torch.tensor([LENGTH, 5, 1])
    x[1] = x[1] + 2 * x[1, :1]  # alike enough to pass the similarity threshold
    with torch.no_grad():
        text = model.encode_text()
        logits1, logits2, _ = model(x, lengths, text)
    reference = ByDefinition(model, variant)
    for i, n in enumerate(lengths.tolist()):
        expected1, expected2 = reference(x[i], n, text)
        # larger confidences would hide what sigmoid is given
        assert variant == "official" or expected1.abs().max() < 10
        np.testing.assert_allclose(logits1[i], expected1, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(logits2[i], expected2, rtol=1e-6, atol=1e-6)


def losses_by_definition(logits1, logits2, text, targets, lengths, official):
    """L_bce, L_nce and L_cts in float64 numpy, video by video."""
    logits1, logits2, text, y = (t.double().numpy() for t in (logits1, logits2, text, targets))
    binary, alignment = [], []
    for b, n in enumerate(lengths.tolist()):
        k = int(n / 16 + 1)
        p = np.mean(sorted(1 / (1 + np.exp(-logits1[b, :n])))[-k:])
        binary.append(-np.log(1 - p if y[b, 0] else p))
        s = np.array([np.mean(sorted(curve)[-k:]) for curve in logits2[b, :n].T])
        log_p = s - np.log(np.exp(s).sum())
        alignment.append(-sum(log_p[c] for c in np.flatnonzero(y[b])) / y[b].sum())
    unit = text / np.linalg.norm(text, axis=1, keepdims=True)
    cosine = [unit[0] @ other for other in unit[1:]]
    if official:
        return np.mean(binary), np.mean(alignment), sum(map(abs, cosine)) / len(cosine)
    return np.mean(binary), np.mean(alignment), sum(max(0, c) for c in cosine)


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_losses_are_their_definitions(variant):
    logits1, logits2, text = random(4, 256), 3 * random(4, 256, 5, seed=1), random(5, 8, seed=2)
    text[1] = -text[0]  # one cosine is negative for sure
    targets = torch.tensor([[1.0, 0, 0, 0, 0], [0, 1, 0, 1, 1], [0, 0, 1, 0, 0], [1, 0, 0, 0, 0]])
    lengths = torch.tensor([15, 16, 256, 40])
    settings = VadCLIPSettings(variant=variant, separation_weight=0.3)
    total, *terms = total_loss(logits1, logits2, text, targets, lengths, settings).values()
    expected = losses_by_definition(logits1, logits2, text, targets, lengths, variant == "official")
    assert terms == pytest.approx(expected, rel=1e-5)
    assert total.item() == pytest.approx(np.dot([1, 1, 0.3], expected), rel=1e-5)


def test_training_window_pools_the_long_and_pads_the_short():
    features, edges = random(511, 2).double(), np.linspace(0, 511, 257).astype(int)  # official
    expected = np.add.reduceat(features.numpy(), edges[:-1]) / np.diff(edges)[:, None]
    np.testing.assert_allclose(training_window(features, 256)[0], expected)
    ramp = torch.arange(1.0, 4)[:, None]
    padded, length = training_window(ramp[:2], 3)
    assert padded.tolist() == [[1], [2], [0]] and length == 2
    assert training_window(ramp, 3)[0].tolist() == ramp.tolist()


def test_scores_of_both_branches_per_snippet():
    model, features = vadclip(), random(2 * LENGTH + 5, WIDTH)
    text = model.encode_text().detach()
    one, two = (score_video(model, features.numpy(), text, aligned) for aligned in (False, True))
    assert np.array_equal(one.other_branch, two.anomaly)
    assert np.array_equal(two.other_branch, one.anomaly)
    assert one.probabilities.shape == (37, 3) and one.anomaly.shape == two.anomaly.shape == (37,)
    # The second chunk on its own: nothing passes between chunks.
    middle, inside = features[LENGTH : 2 * LENGTH], slice(LENGTH, 2 * LENGTH)
    with torch.no_grad():
        logits1, logits2, _ = model(middle[None], torch.tensor([LENGTH]), text)
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    close(one.anomaly[inside], logits1[0].sigmoid())
    close(one.probabilities[inside], logits2[0].softmax(-1))
    close(two.anomaly, one.probabilities[:, 1:].sum(-1))
    # A whole number of chunks makes no chunk of padding alone.
    close(score_video(model, middle, text).anomaly, one.anomaly[inside])


@pytest.mark.parametrize(
    ("adapter", "reached"),
    [("none", 1), ("local", 4), ("transformers", 16), ("graph", 16), ("full", 16)],
)
def test_how_far_the_parts_of_the_adapter_see(adapter, reached):
    """Of 16 positions in windows of 4: those that change with the first (Table 5)."""
    model, x = vadclip(adapter=adapter), random(1, LENGTH, WIDTH)
    changed, valid = x.clone(), torch.ones(1, LENGTH).bool()
    changed[0, 0, 0] += 3
    moved = (model.encode_video(changed, valid) - model.encode_video(x, valid))[0].abs().amax(-1)
    assert moved.gt(1e-6).nonzero().flatten().tolist() == list(range(reached))


def test_bad_features_are_named():
    model, bad = vadclip(), random(4, WIDTH)
    bad[2, 3] = float("nan")
    wrong = {"not finite": bad, "give n x 16": random(4, WIDTH + 1), "n > 0": random(0, WIDTH)}
    for message, features in wrong.items():
        with pytest.raises(InputError, match=message):
            score_video(model, features, model.encode_text())
