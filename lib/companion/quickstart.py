"""A scored example video, and the exported backbone with its proof."""

import pandas as pd
import torch

from alertclip.anomaly_curve import ScoreCurve, embed_prompts, score_video
from alertclip.export import export_open_clip, stock_encoders
from alertclip.model import AlertCLIP
from alertclip.score import HELD, draw, load_model
from companion import figures
from companion.figures.style import new_figure, styled
from companion.profiles import ROOT, Params
from companion.splits import clip_dataset, load_split, prepare_data
from companion.stage_runs import resolve_device
from companion.tuned_models import event_spans, prompts_of, provenance, stage_model


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
