"""The three models that are compared (CLIP as loaded, Stage I, Full) and their embeddings."""

import math
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch

from alertclip import mss
from alertclip.backbone import load_backbone
from alertclip.checkpoint import weights_hash
from alertclip.embeddings import ClipEmbeddings, embed_clips, reuse_or_embed
from alertclip.export import load_alertclip
from alertclip.model import AlertCLIP
from alertclip.mss import encode_sets
from alertclip.prompts import Prompts, load_prompts
from alertclip.records import region_span
from companion.profiles import ROOT, Params
from companion.splits import Split, clip_dataset, is_surrogate, load_split, prepare_data
from companion.stage_runs import resolve_device
from media.files import sha256_json

Stage = Literal["clip", "stage1", "full"]
STAGES: dict[Stage, str] = {"clip": "CLIP", "stage1": "Stage I", "full": "Full"}
WHOLE = (0.0, math.inf)  # the span of an event without boxes or times: the whole clip


def available_stages(P: Params) -> tuple[Stage, ...]:
    """The models that a profile can compare; with released features, untuned CLIP alone."""
    return ("clip",) if P.features else tuple(STAGES)


class StageResult(NamedTuple):
    """A model's embeddings of one split, and of the prompts."""

    stage: Stage
    clips: ClipEmbeddings
    normal: np.ndarray  # (C_N, D)
    abnormal: np.ndarray  # (C_A, D)

    @property
    def similarities(self) -> np.ndarray:
        """S_N and S_A per clip (B, 2)."""
        return mss.set_similarities(self.clips.embedding, self.normal, self.abnormal)

    @property
    def margins(self) -> np.ndarray:
        """S_A - S_N per clip (B,): the zero-shot anomaly score."""
        normal, abnormal = self.similarities.T
        return abnormal - normal


def untuned(P: Params, pretrained: str | None = None) -> AlertCLIP:
    """The profile's architecture on ``pretrained`` weights (None: random), in evaluation mode."""
    torch.manual_seed(P.seed)
    backbone = load_backbone(P.model.backbone, pretrained)
    model = AlertCLIP(backbone, P.model.temporal_layers, P.model.temporal_heads)
    return model.to(resolve_device(P)).eval()


def stage_model(P: Params, stage: Stage) -> AlertCLIP:
    """The model of a stage in evaluation mode; "clip" is untuned CLIP with mean pooling."""
    if stage == "clip":
        return untuned(P, P.model.pretrained)
    return load_alertclip(P.tuned_dir / stage).to(resolve_device(P)).eval()


@torch.inference_mode()
def text_embeddings(model: AlertCLIP, sentences: list[str]) -> np.ndarray:
    """Unit text embeddings (C, D) of ``sentences``."""
    return model.encode_text(list(sentences)).float().cpu().numpy()


def evaluate_stage(P: Params, stage: Stage, split: Split = "test") -> StageResult:
    """Embed a split with a stage's model, or reuse those of equal weights and clips."""
    prepare_data(P)
    model = stage_model(P, stage)
    dataset = clip_dataset(P, split, model.image_size)
    identity = {"model": weights_hash(model), "split": split, "videos": dataset.digest()}
    identity |= {"clips": [i.key for i in dataset.items], "num_frames": dataset.num_frames}
    path = P.run_dir / "embeddings" / f"{stage}-{split}.safetensors"
    embed = partial(embed_clips, model, dataset, P.evaluation.batch_size, resolve_device(P))
    clips = reuse_or_embed(path, identity, embed)
    return StageResult(stage, clips, *encode_sets(model.encode_text, prompts_of(P).sets))


def prompts_of(P: Params) -> Prompts:
    """The profile's prompt file: P_N, P_A, class prompts and alternative wordings."""
    return load_prompts(ROOT / P.evaluation.prompts)


def videos(clips: ClipEmbeddings) -> list[str]:
    """The video of each clip, the unit that the bootstrap resamples."""
    return [key.split("#")[0] for key in clips.keys]


def event_spans(P: Params, split: Split) -> dict[str, list[tuple[float, float]]]:
    """Annotated events of each abnormal clip in seconds (end-exclusive), by clip key."""
    return {
        item.key: [region_span(region) or item.timestamps or WHOLE for region in item.regions]
        for item in load_split(P, split)[0]
        if item.is_abnormal
    }


def provenance(P: Params) -> dict[str, object]:
    """What every figure and export states: profile, kind of data, seed, hashes."""
    data = "synthetic" if P.data.world == "miniworld" else P.data.world
    return {
        "profile": P.profile,
        "data": f"{data}, surrogate training text" if is_surrogate(P) else data,
        "seed": P.seed,
        "params": sha256_json(P.flat())[:12],
        "prompts": prompts_of(P).digest[:12],
    }
