"""The example video and model of notebook 00, and the export with its check.

``python -m companion.quickstart`` writes what notebook 00 shows before any run.
"""

import argparse
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import open_clip
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize

from alertclip.anomaly_curve import ScoreCurve, embed_prompts, score_video
from alertclip.blip import is_blip, max_tokens
from alertclip.export import ADAPTER, META, export_open_clip
from alertclip.model import AlertCLIP
from alertclip.score import HELD, draw, load_model
from companion import figures
from companion.figures.style import styled
from companion.profiles import ROOT, Params, read_command_line
from companion.splits import clip_dataset, load_split, prepare_data
from companion.stage_runs import resolve_device
from companion.tuned_models import event_spans, prompts_of, provenance, stage_model
from media.files import read_json, sha256_file, share, write_json

Encoders = tuple[Callable[[Tensor], Tensor], Callable[[Sequence[str]], Tensor]]
SHIPPED = ROOT / "lib" / "miniworld" / "example"
LARGEST = 300_000  # bytes, of the shipped video
SHIPPED_OF = "the committed reference run (synthetic)"


def export(P: Params) -> pd.DataFrame:
    """Write Full to export/, load it with its own library alone, and compare embeddings.

    Columns: embeddings (image or text), n, largest (absolute difference between AlertCLIP's towers
    and those that open_clip, or transformers for BLIP, reads from the folder).
    """
    model = stage_model(P, "full").cpu()
    meta = {"num_frames": P.data.num_frames, **provenance(P)}
    out = export_open_clip(model, P.run_dir / "export", meta)
    encode_image, encode_text = stock_encoders(out)
    clip = clip_dataset(P, "test", model.image_size)[0]
    frames = torch.from_numpy(clip["frames"]).permute(0, 3, 1, 2)  # (T, 3, H, W)
    sentences = prompts_of(P).sentences()
    with torch.inference_mode():
        ours = model.encode_frames(frames[None]).v[0], model.encode_text(sentences)
        theirs = encode_image((frames / 255 - model.mean) / model.std), encode_text(sentences)
    largest = [float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)]
    sizes = [len(frames), len(sentences)]
    return pd.DataFrame({"embeddings": ["image", "text"], "n": sizes, "largest": largest})


def stock_encoders(folder: Path) -> Encoders:
    """Image and text encoder of an export, from open_clip or transformers alone.

    Normalised pixels (F, 3, H, W) -> (F, D), and texts -> (C, D), both of unit length.
    """
    if is_blip(folder):
        return _transformers_encoders(folder)
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
    truncate = {"truncation": True, "max_length": max_tokens(model.config)}
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def image(pixels: Tensor) -> Tensor:
        states = model.vision_model(pixels).last_hidden_state
        return normalize(model.vision_proj(states[:, 0]), dim=-1)

    def text(texts: Sequence[str]) -> Tensor:
        tokens = tokenizer(list(texts), padding=True, return_tensors="pt", **truncate)
        states = model.text_encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        return normalize(model.text_proj(states[:, 0]), dim=-1)

    return image, text


def best_model(P: Params) -> tuple[AlertCLIP, str]:
    """The run's exported model, else the one shipped for its backbone, else the untuned backbone.

    Returned with a line that names it.
    """
    device = str(resolve_device(P))
    for folder, of in ((P.run_dir / "export", P.profile), (SHIPPED / P.model.backbone, SHIPPED_OF)):
        if (folder / META).is_file():
            model, line = load_model(str(folder), None, device)
            return model, f"{line} of {of}"
    return load_model(P.model.backbone, P.model.pretrained, device)


def score_example(P: Params, model: AlertCLIP) -> tuple[ScoreCurve, list[tuple[float, float]]]:
    """Anomaly curve of a video and its annotated events in s, if known.

    The video is the parameter ``video``, else the run's first abnormal test video; for the mini
    world, before a run has rendered it, a shipped copy.
    """
    path, spans = ROOT / P.video, []
    if not P.video and P.data.world == "miniworld" and not (P.run_dir / "export").exists():
        example = read_json(SHIPPED / "example.json")
        path, spans = SHIPPED / example["file"], [tuple(span) for span in example["events_s"]]
    elif not P.video:
        prepare_data(P)
        item = next(item for item in load_split(P, "test")[0] if item.is_abnormal)
        path, spans = P.data_dir / item.video, event_spans(P, "test")[item.key]
    return score_video(model, path, embed_prompts(model, prompts_of(P)), P.data.num_frames), spans


def ship(P: Params, out: Path = SHIPPED) -> None:
    """Write what notebook 00 shows before any run: Full in half precision, and one test video."""
    folder = out / P.model.backbone
    shutil.copytree(P.run_dir / "export", folder, ignore=shutil.ignore_patterns(ADAPTER))
    for file in folder.glob("*.safetensors"):
        save_file({name: x.half() for name, x in load_file(file).items()}, file)
    card = {
        "what": f"Full of a run of the {P.profile} profile, float16",
        "sha256": {f.name: sha256_file(f) for f in sorted(folder.glob("*.safetensors"))},
        **provenance(P),
        "command": f"python -m companion.quickstart --profile {P.profile}",
    }
    write_json(folder / "card.json", card)
    small = (i for i in load_split(P, "test")[0] if (P.data_dir / i.video).stat().st_size < LARGEST)
    item = next(item for item in small if item.is_abnormal)
    shutil.copyfile(P.data_dir / item.video, out / "example.mp4")
    share(out)
    example = {"file": "example.mp4", "events_s": event_spans(P, "test")[item.key]}
    example |= {"caption": item.global_caption, "data": "synthetic"}
    write_json(out / "example.json", example)


def curve_figure(
    model: AlertCLIP, curve: ScoreCurve, spans: list[tuple[float, float]], what: str
) -> figures.Figure:
    """The anomaly curve with key frames and attention; annotated events are shaded."""
    figure = figures.Figure(figsize=(9, 7.2), layout="constrained")
    return styled(draw)(model, curve, f"{what}; {HELD}.", spans, figure)


if __name__ == "__main__":
    ship(read_command_line(argparse.ArgumentParser(description=ship.__doc__))[1])
