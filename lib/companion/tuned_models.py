"""The models that are compared and their embeddings.

They are CLIP as loaded, Alert-CLIP after Stage I, and after Stage II ("full"). All are embedded by
the same code on the same clips.
"""

import math
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from alertclip import mss
from alertclip.backbone import load_backbone
from alertclip.boxes import region_span
from alertclip.checkpoint import weights_hash
from alertclip.clips import ClipDataset
from alertclip.embeddings import ClipEmbeddings, embed_clips, reuse_or_embed
from alertclip.export import load_alertclip
from alertclip.files import sha256_json
from alertclip.model import AlertCLIP
from alertclip.prompts import PromptSets, load_prompts
from alertclip.zero_shot import encode_sets
from companion.profiles import ROOT, Params
from companion.splits import Split, clip_dataset, is_surrogate, load_split, prepare_data
from companion.stage_runs import resolve_device
from detectors.frame_metrics import zero_shot_margin

Stage = Literal["clip", "stage1", "full"]
STAGES: dict[Stage, str] = {"clip": "CLIP", "stage1": "Stage I", "full": "Full"}
WHOLE = (0.0, math.inf)
FOLDERS = {"stage1": "stage1", "full": "full"}


class StageResult(NamedTuple):
    """A stage's embeddings of one split beside the prompts in the same space."""

    stage: Stage
    clips: ClipEmbeddings
    normal: np.ndarray  # (C_N, D)
    abnormal: np.ndarray  # (C_A, D)

    @property
    def similarities(self) -> np.ndarray:
        """S_N and S_A of each clip: (N, 2)."""
        return mss.set_similarities(self.clips.embedding, self.normal, self.abnormal)

    @property
    def margins(self) -> np.ndarray:
        """Zero-shot anomaly score of each clip: (N,)."""
        return zero_shot_margin(self.clips.embedding, self.normal, self.abnormal)


def stage_folder(P: Params, stage: Stage) -> Path:
    """Folder of a tuned stage's weights."""
    return P.run_dir / FOLDERS[stage]


def stage_model(P: Params, stage: Stage) -> AlertCLIP:
    """The model of a stage in evaluation mode. At "clip" nothing is tuned: mean-pooled CLIP."""
    if stage != "clip":
        return load_alertclip(stage_folder(P, stage)).to(resolve_device(P)).eval()
    torch.manual_seed(P.seed)
    model = AlertCLIP(
        load_backbone(P.model.backbone, P.model.pretrained),
        temporal_layers=P.model.temporal_layers,
        temporal_heads=P.model.temporal_heads,
    )
    return model.to(resolve_device(P)).eval()


@torch.inference_mode()
def text_embeddings(model: AlertCLIP, sentences: list[str]) -> np.ndarray:
    """Unit text embeddings (C, D) of ``sentences``."""
    return model.encode_text(list(sentences)).float().cpu().numpy()


def evaluate_stage(
    P: Params, stage: Stage, split: Split = "test", prompts: PromptSets | None = None
) -> StageResult:
    """Embed a split with a stage's model (reused while weights and data are the same)."""
    prepare_data(P)
    model = stage_model(P, stage)
    sets = prompts or load_prompts(ROOT / P.evaluation.prompts).sets
    dataset = clip_dataset(P, split, model.backbone.image_size)
    clips = reuse_or_embed(
        P.run_dir / "embeddings" / f"{stage}-{split}.safetensors",
        _identity(P, model, split, dataset),
        lambda: embed_clips(model, dataset, P.evaluation.batch_size, resolve_device(P)),
    )
    return StageResult(stage, clips, *encode_sets(model.encode_text, sets))


def _identity(P: Params, model: AlertCLIP, split: Split, dataset: ClipDataset) -> dict[str, object]:
    return {
        "model": weights_hash(model),
        "split": split,
        "clips": [item.key for item in dataset.items],
        "videos": dataset.digest(),
        "num_frames": P.data.num_frames,
    }


def videos(clips: ClipEmbeddings) -> list[str]:
    """Video of each clip: what a bootstrap resamples together."""
    return [key.split("#")[0] for key in clips.keys]


def event_spans(P: Params, split: Split) -> dict[str, list[tuple[float, float]]]:
    """Annotated events of each abnormal clip in seconds (end-exclusive), by clip key.

    A region without boxes is the whole clip, as the annotation reader reports it.
    """
    items, _ = load_split(P, split)
    return {
        item.key: [region_span(region) or item.timestamps or WHOLE for region in item.regions]
        for item in items
        if item.is_abnormal
    }


def provenance(P: Params) -> dict[str, object]:
    """What every figure and export carries: profile, kind of data, seed, hashes."""
    data = "synthetic" if P.data.world == "miniworld" else P.data.world
    return {
        "profile": P.profile,
        "data": f"{data}, surrogate training text" if is_surrogate(P) else data,
        "seed": P.seed,
        "params": sha256_json(P.flat())[:12],
        "prompts": load_prompts(ROOT / P.evaluation.prompts).digest[:12],
    }
