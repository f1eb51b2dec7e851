"""A scored example video, and the exported backbone with its proof."""

from collections.abc import Callable, Sequence
from pathlib import Path

import open_clip
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import normalize

from alertclip.anomaly_curve import ScoreCurve, embed_prompts, score_video
from alertclip.blip import is_blip, max_tokens
from alertclip.export import export_open_clip
from alertclip.model import AlertCLIP
from alertclip.score import HELD, draw, load_model
from companion import figures
from companion.figures.style import new_figure, styled
from companion.profiles import ROOT, Params
from companion.splits import clip_dataset, load_split, prepare_data
from companion.stage_runs import resolve_device
from companion.tuned_models import event_spans, prompts_of, provenance, stage_model

Encoders = tuple[Callable[[Tensor], Tensor], Callable[[Sequence[str]], Tensor]]


def export(P: Params) -> pd.DataFrame:
    """Write Full to export/, load it with its own library alone, and compare embeddings.

    Columns: embeddings (image or text), n, largest (absolute difference between AlertCLIP's towers
    and those that open_clip, or transformers for BLIP, reads from the folder).
    """
    model = stage_model(P, "full").cpu()
    meta = {"num_frames": P.data.num_frames, **provenance(P)}
    out = export_open_clip(model, P.run_dir / "export", meta)
    image, text = stock_encoders(out)
    clip = clip_dataset(P, "test", model.image_size)[0]
    frames = torch.from_numpy(clip["frames"]).permute(0, 3, 1, 2)  # (T, 3, H, W)
    sentences = prompts_of(P).sentences()
    with torch.inference_mode():
        ours = model.encode_frames(frames[None]).v[0], model.encode_text(sentences)
        theirs = image((frames / 255 - model.mean) / model.std), text(sentences)
    largest = [float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)]
    sizes = [len(frames), len(sentences)]
    return pd.DataFrame({"embeddings": ["image", "text"], "n": sizes, "largest": largest})


def stock_encoders(folder: Path) -> Encoders:
    """Image and text encoder of an export by open_clip or transformers alone, without our code.

    Normalised pixels (F, 3, H, W) -> (F, D), and texts -> (C, D), both of unit length.
    """
    return _transformers_encoders(folder) if is_blip(folder) else _open_clip_encoders(folder)


def _open_clip_encoders(folder: Path) -> Encoders:
    source = f"local-dir:{folder}"
    model = open_clip.create_model(source, require_pretrained=True).eval().requires_grad_(False)
    tokenizer = open_clip.get_tokenizer(source)
    return (
        lambda pixels: model.encode_image(pixels, normalize=True),
        lambda texts: model.encode_text(tokenizer(list(texts)), normalize=True),
    )


def _transformers_encoders(folder: Path) -> Encoders:
    from transformers import AutoTokenizer, BlipForImageTextRetrieval

    model = BlipForImageTextRetrieval.from_pretrained(folder).eval().requires_grad_(False)
    cut = {"truncation": True, "max_length": max_tokens(model.config)}
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def image(pixels: Tensor) -> Tensor:
        states = model.vision_model(pixels).last_hidden_state
        return normalize(model.vision_proj(states[:, 0]), dim=-1)

    def text(texts: Sequence[str]) -> Tensor:
        tokens = tokenizer(list(texts), padding=True, return_tensors="pt", **cut)
        states = model.text_encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        return normalize(model.text_proj(states[:, 0]), dim=-1)

    return image, text


def best_model(P: Params) -> tuple[AlertCLIP, str]:
    """The run's exported model, else the profile's untuned backbone; and a line that says which."""
    folder, device = P.run_dir / "export", str(resolve_device(P))
    if not (folder / "alert_clip.json").is_file():
        return load_model(P.model.backbone, P.model.pretrained, device)
    model, line = load_model(str(folder), None, device)
    return model, f"{line} of profile {P.profile}"


def score_example(P: Params, model: AlertCLIP) -> tuple[ScoreCurve, list[tuple[float, float]]]:
    """Score the video parameter, else the first abnormal test video; its events in s, if known."""
    path, spans = ROOT / P.video, []
    if not P.video:
        prepare_data(P)
        item = next(item for item in load_split(P, "test")[0] if item.is_abnormal)
        path, spans = P.data_dir / item.video, event_spans(P, "test")[item.key]
    return score_video(model, path, embed_prompts(model, prompts_of(P)), P.data.num_frames), spans


def curve_figure(
    model: AlertCLIP, curve: ScoreCurve, spans: list[tuple[float, float]], what: str
) -> figures.Figure:
    """The anomaly curve with key frames and attention; annotated events are shaded."""
    return styled(draw)(model, curve, f"{what}; {HELD}.", spans, new_figure(9, 7.2))
