"""What a reader takes away: the exported backbone, and a scored video."""

import pandas as pd
import torch

from alertclip.export import export_open_clip, stock_encoders
from alertclip.model import AlertCLIP
from alertclip.prompts import load_prompts
from alertclip.score import HELD, ScoreCurve, draw, embed_prompts, score_video
from alertclip.score.models import load_model
from companion import figures
from companion.profiles import ROOT, Params
from companion.splits import clip_dataset, load_split, prepare_data
from companion.stage_runs import resolve_device
from companion.tuned_models import event_spans, provenance, stage_model


def export(P: Params) -> pd.DataFrame:
    """Copy the tuned model to export/ and prove that its own library reads it without this package.

    Largest difference of image and text embeddings between AlertCLIP's towers and the folder
    loaded by open_clip (BLIP: transformers) alone.
    """
    model = stage_model(P, "full").cpu()
    meta = {"num_frames": P.data.num_frames, **provenance(P)}
    out = export_open_clip(model, P.run_dir / "export", meta)
    image, text = stock_encoders(out)
    dataset = clip_dataset(P, "test", model.image_size)
    frames = torch.from_numpy(dataset[0]["frames"]).permute(0, 3, 1, 2)  # (T, 3, H, W)
    sentences = load_prompts(ROOT / P.evaluation.prompts).sentences()
    with torch.inference_mode():
        ours = model.encode_frames(frames[None]).v[0], model.encode_text(sentences)
        theirs = image((frames / 255 - model.mean) / model.std), text(sentences)
    largest = [float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)]
    return pd.DataFrame(
        {"embeddings": ["image", "text"], "n": [len(frames), len(sentences)], "largest": largest}
    )


def best_model(P: Params) -> tuple[AlertCLIP, str]:
    """The run's exported model if there is one, else the profile's untuned backbone; says which."""
    folder = P.run_dir / "export"
    if (folder / "alert_clip.json").is_file():
        model, line = load_model(str(folder), None, str(resolve_device(P)))
        return model, f"{line} of profile {P.profile}"
    return load_model(P.model.backbone, P.model.pretrained, str(resolve_device(P)))


def score_example(P: Params, model: AlertCLIP) -> tuple[ScoreCurve, list[tuple[float, float]]]:
    """Score the video parameter, else the first abnormal test video; events in s if annotated."""
    spans: list[tuple[float, float]] = []
    path = ROOT / P.video
    if not P.video:
        prepare_data(P)
        items, _ = load_split(P, "test")
        item = next(item for item in items if item.is_abnormal)
        path, spans = P.data_dir / item.video, event_spans(P, "test")[item.key]
    prompts = embed_prompts(model, load_prompts(ROOT / P.evaluation.prompts))
    return score_video(model, path, prompts, P.data.num_frames), spans


def curve_figure(
    model: AlertCLIP, curve: ScoreCurve, spans: list[tuple[float, float]], what: str
) -> figures.Figure:
    """The curve with key frames and attention; annotated events shaded."""
    return draw(model, curve, f"{what}; {HELD}.", spans)
