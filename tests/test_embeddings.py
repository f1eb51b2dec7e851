"""Embeddings are reused only under the same identity, and feed zero-shot scores."""

import numpy as np
import pytest
import torch

from alertclip.embeddings import ClipEmbeddings, reuse_or_embed
from alertclip.errors import InputError
from alertclip.prompts import Prompts, PromptSets
from companion.embedding_tables import frame_scores, wording_table
from detectors.frame_metrics import frame_metrics


def embeddings(n: int = 8, frames: int = 4) -> ClipEmbeddings:
    """Clips along x (normal) or y (abnormal); in abnormal clips the last two frames are y."""
    labels = np.arange(n) % 2
    z = np.zeros((n, frames, 2), np.float32)
    z[..., 0] = 1
    z[labels == 1, 2:] = [0, 1]
    clip = np.where(labels[:, None] == 1, [[0.0, 1.0]], [[1.0, 0.0]]).astype(np.float32)
    times = np.tile(np.arange(frames, dtype=np.float32), (n, 1))
    mask, classes = np.ones((n, frames), bool), ["Fire" if label else "Normal" for label in labels]
    return ClipEmbeddings(clip, z, z, mask, times, labels, classes, [f"clip{i}" for i in range(n)])


def encode_text(sentences: list[str]) -> torch.Tensor:
    axes = {"calm": [1.0, 0.0], "fire": [0.0, 1.0], "other": [2**-0.5, 2**-0.5]}
    return torch.tensor([axes[sentence] for sentence in sentences])


def test_embeddings_are_reused_until_something_changes(tmp_path):
    made = []

    def embed() -> ClipEmbeddings:
        made.append(1)
        return embeddings()

    path = tmp_path / "test.safetensors"
    first = reuse_or_embed(path, {"weights": "a"}, embed)
    again = reuse_or_embed(path, {"weights": "a"}, embed)
    assert len(made) == 1 and again.keys == first.keys
    np.testing.assert_array_equal(again.z, first.z)
    reuse_or_embed(path, {"weights": "b"}, embed)
    assert len(made) == 2
    path.write_bytes(b"torn")
    with pytest.raises(InputError, match="test.safetensors"):
        reuse_or_embed(path, {"weights": "b"}, embed)


def test_frame_scores_find_the_event():
    text = encode_text(["calm", "fire"]).numpy()
    spans = {f"clip{i}": [(2.0, 4.0)] for i in range(1, 8, 2)}
    table = frame_metrics(frame_scores(embeddings(), text[:1], text[1:], spans), n_boot=20)
    assert table["value"].tolist() == [1, 1, 1]


def test_wording_moves_the_result():
    poor = {"poor": PromptSets(("fire",), ("other",))}
    prompts = Prompts(PromptSets(("calm",), ("fire",)), {}, poor, "digest")
    table = wording_table(embeddings(), encode_text, prompts, n_boot=20)
    values = table.set_index(["wording", "metric"])["value"]
    assert values["fixed", "video AUC"] == 1 and values["poor", "video AUC"] == 0
    assert values["fixed", "MSS"] == 1 and values["poor", "MSS"] < 0
