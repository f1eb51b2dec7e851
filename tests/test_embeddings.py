"""Embeddings are reused only for the same identity, and feed zero-shot scores."""

from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import torch
from faults.harness import refused

from alertclip.embeddings import ClipEmbeddings, reuse_or_embed
from alertclip.prompts import Prompts, PromptSets
from companion import result_tables
from companion.profiles import from_flat
from companion.tuned_models import StageResult
from detectors.frame_metrics import frame_metrics


def embeddings(n: int = 8, frames: int = 4) -> ClipEmbeddings:
    """Clips along x (normal) or y (abnormal); in abnormal clips the last two frames are y."""
    labels = np.arange(n) % 2
    axes, late = np.eye(2, dtype=np.float32), np.arange(frames) >= 2
    clip, z = axes[labels], axes[labels[:, None] * late]
    times = np.tile(np.arange(frames, dtype=np.float32), (n, 1))
    mask, classes = np.ones((n, frames), bool), ["Fire" if label else "Normal" for label in labels]
    return ClipEmbeddings(clip, z, z, mask, times, labels, classes, [f"clip{i}" for i in range(n)])


def encode_text(sentences: list[str]) -> torch.Tensor:
    axes = {"calm": [1.0, 0.0], "fire": [0.0, 1.0], "other": [2**-0.5, 2**-0.5]}
    return torch.tensor([axes[sentence] for sentence in sentences])


def test_embeddings_are_reused_until_something_changes(tmp_path):
    embed, path = Mock(side_effect=embeddings), tmp_path / "test.safetensors"
    first = reuse_or_embed(path, {"weights": "a"}, embed)
    again = reuse_or_embed(path, {"weights": "a"}, embed)
    assert embed.call_count == 1 and again.keys == first.keys
    np.testing.assert_array_equal(again.z, first.z)
    reuse_or_embed(path, {"weights": "b"}, embed)
    assert embed.call_count == 2
    path.write_bytes(b"torn")
    assert "test.safetensors" in refused(reuse_or_embed, path, {"weights": "b"}, embed)


def test_frame_scores_find_the_event_and_wording_moves_the_result(monkeypatch):
    P = from_flat({"profile": "test", "bootstrap_samples": 20})
    result = StageResult("clip", embeddings(), *encode_text(["calm", "fire"])[:, None].numpy())
    spans = {f"clip{i}": [(2.0, 4.0)] for i in range(1, 8, 2)}
    monkeypatch.setattr(result_tables.tuned_models, "event_spans", lambda P, split: spans)
    table = frame_metrics(result_tables.frame_scores(P, result, "test"), n_boot=20)
    assert table["value"].tolist() == [1, 1, 1]
    np.testing.assert_allclose(result_tables.gap_table(result)["gap"], result.margins)
    poor = {"poor": PromptSets(("fire",), ("other",))}
    prompts = Prompts(PromptSets(("calm",), ("fire",)), {}, poor, "digest")
    model = SimpleNamespace(encode_text=encode_text)
    monkeypatch.setattr(result_tables.tuned_models, "prompts_of", lambda P: prompts)
    monkeypatch.setattr(result_tables.tuned_models, "stage_model", lambda P, stage: model)
    table = result_tables.prompt_wordings(P, result)
    assert dict(zip(table["wording"], table["value"], strict=True)) == {"fixed": 100, "poor": 0}
    assert set(table["metric"]) == {"video AUC"}
