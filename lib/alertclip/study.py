"""The steps that several notebooks share: a stage's model, its embeddings, its numbers.

The three models compared throughout are CLIP as loaded, Alert-CLIP after Stage I, and after
Stage II ("full"). All are embedded by the same code on the same clips.
"""

import hashlib
import json
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import open_clip
import pandas as pd
import torch
from torch.nn.functional import normalize

from alertclip import diagnosis, figures
from alertclip.data.boxes import region_span
from alertclip.data.clips import ClipDataset
from alertclip.data.splits import Split, clip_dataset, load_split
from alertclip.evaluation.embeddings import ClipEmbeddings, embed_clips, reuse_or_embed
from alertclip.evaluation.metrics import (
    auc_statistic,
    frame_metrics,
    video_metrics,
    zero_shot_margin,
)
from alertclip.evaluation.zero_shot import frame_scores, wording_table
from alertclip.files import sha256_json
from alertclip.model.alertclip import AlertCLIP
from alertclip.model.backbone import load_backbone
from alertclip.model.export import export_open_clip, load_alertclip
from alertclip.params import ROOT, Params
from alertclip.prompts import PromptSets, load_prompts
from alertclip.score import (
    HELD,
    ScoreCurve,
    draw,
    embed_prompts,
    load_model,
    score_video,
)

Stage = Literal["clip", "stage1", "full"]
STAGES: dict[Stage, str] = {"clip": "CLIP", "stage1": "Stage I", "full": "Full"}
FOLDERS = {"stage1": "stage1/final", "full": "stage2/final"}


class StageResult(NamedTuple):
    """A stage's embeddings of one split beside the prompts in the same space."""

    stage: Stage
    clips: ClipEmbeddings
    normal: np.ndarray  # (C_N, D)
    abnormal: np.ndarray  # (C_A, D)

    @property
    def similarities(self) -> np.ndarray:
        """S_N and S_A of each clip: (N, 2)."""
        return diagnosis.set_similarities(self.clips.embedding, self.normal, self.abnormal)

    @property
    def margins(self) -> np.ndarray:
        """Zero-shot anomaly score of each clip: (N,)."""
        return zero_shot_margin(self.clips.embedding, self.normal, self.abnormal)


def device(P: Params) -> torch.device:
    """The device parameter resolved: auto is CUDA where present."""
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(automatic if P.device == "auto" else P.device)


def stage_folder(P: Params, stage: Stage) -> Path:
    """Folder of a tuned stage's weights."""
    return P.run_dir / FOLDERS[stage]


def stage_model(P: Params, stage: Stage) -> AlertCLIP:
    """The model of a stage in evaluation mode. At "clip" nothing is tuned: mean-pooled CLIP."""
    if stage != "clip":
        return load_alertclip(stage_folder(P, stage)).to(device(P)).eval()
    torch.manual_seed(P.seed)
    model = AlertCLIP(
        load_backbone(P.backbone, P.pretrained),
        temporal_layers=P.temporal_layers,
        temporal_heads=P.temporal_heads,
    )
    return model.to(device(P)).eval()


@torch.inference_mode()
def text_embeddings(model: AlertCLIP, sentences: list[str]) -> np.ndarray:
    """Unit text embeddings (C, D) of ``sentences``."""
    return normalize(model.encode_text(list(sentences)).float(), dim=-1).cpu().numpy()


def evaluate_stage(
    P: Params, stage: Stage, split: Split = "test", prompts: PromptSets | None = None
) -> StageResult:
    """Embed a split with a stage's model (reused while weights and data are the same)."""
    model = stage_model(P, stage)
    sets = prompts or load_prompts(ROOT / P.prompts).sets
    dataset = clip_dataset(P, split, model.backbone.image_size)
    clips = reuse_or_embed(
        P.run_dir / "embeddings" / f"{stage}-{split}.safetensors",
        _identity(P, model, split, dataset),
        lambda: embed_clips(model, dataset, P.evaluation_batch_size, device(P)),
    )
    return StageResult(
        stage,
        clips,
        text_embeddings(model, list(sets.normal)),
        text_embeddings(model, list(sets.abnormal)),
    )


def _identity(P: Params, model: AlertCLIP, split: Split, dataset: ClipDataset) -> dict[str, object]:
    return {
        "model": weights_digest(model),
        "split": split,
        "clips": [item.key for item in dataset.items],
        "videos": dataset.digest(),
        "num_frames": P.num_frames,
    }


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 over every tensor of a model: equal digests give equal embeddings."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def mss_by_class(P: Params, results: list[StageResult]) -> pd.DataFrame:
    """MSS with intervals, one row per model and class ("all" first)."""
    tables = []
    for r in results:
        table = diagnosis.mss_table(
            r.similarities,
            r.clips.labels,
            r.clips.classes,
            P.bootstrap_samples,
            P.seed,
            videos(r.clips),
        )
        tables.append(table.assign(model=STAGES[r.stage]))
    return pd.concat(tables, ignore_index=True)


def videos(clips: ClipEmbeddings) -> list[str]:
    """Video of each clip: what a bootstrap resamples together."""
    return [key.split("#")[0] for key in clips.keys]


def zero_shot(P: Params, results: list[StageResult]) -> pd.DataFrame:
    """Video-level and frame-level AUC and AP in per cent, with intervals, per model."""
    rows, spans = [], event_spans(P, "test")
    for r in results:
        video = video_metrics(
            r.margins, r.clips.labels, P.bootstrap_samples, P.seed, videos(r.clips)
        )
        scores = frame_scores(r.clips, r.normal, r.abnormal, spans)
        frame = frame_metrics(scores, P.bootstrap_samples, P.seed)
        rows.append(pd.concat([video, frame]).assign(model=STAGES[r.stage]))
    table = pd.concat(rows, ignore_index=True)
    return _per_cent(table).rename(columns={"metric": "setting"})


def event_spans(P: Params, split: Split) -> dict[str, list[tuple[float, float]]]:
    """Annotated events of each abnormal clip in seconds (end-exclusive), by clip key."""
    items, _ = load_split(P, split)
    return {
        item.key: [region_span(region) for region in item.regions if region.track]
        for item in items
        if item.is_abnormal
    }


def paired(P: Params, before: StageResult, after: StageResult) -> pd.DataFrame:
    """Differences after - before on the same clips: MSS and video AUC (points), with intervals."""
    labels, groups = before.clips.labels, videos(before.clips)
    signed = [diagnosis.signed_score(r.similarities, labels) for r in (before, after)]
    mss = diagnosis.paired_difference(
        *signed, n_boot=P.bootstrap_samples, seed=P.seed, groups=groups
    )
    auc = diagnosis.paired_difference(
        before.margins,
        after.margins,
        auc_statistic(labels),
        P.bootstrap_samples,
        P.seed,
        groups,
    )
    name = f"{STAGES[after.stage]} minus {STAGES[before.stage]}"
    return pd.DataFrame(
        [{"difference": name, "measure": m, **i._asdict()} for m, i in (("MSS", mss), ("AUC", auc))]
    )


def umap_table(results: list[StageResult], seed: int, with_text: bool = True) -> pd.DataFrame:
    """UMAP of clips (and prompts) per model: columns panel, x, y, group."""
    tables = []
    for r in results:
        groups = ["abnormal clip" if label else "normal clip" for label in r.clips.labels]
        parts = [r.clips.embedding]
        if with_text:
            parts += [r.normal, r.abnormal]
            groups += ["normal prompt"] * len(r.normal) + ["abnormal prompt"] * len(r.abnormal)
        xy = diagnosis.project_2d(np.concatenate(parts), seed)
        frame = pd.DataFrame({"x": xy[:, 0], "y": xy[:, 1], "group": groups})
        tables.append(frame.assign(panel=STAGES[r.stage]))
    return pd.concat(tables, ignore_index=True)


def training_log(P: Params, stage: int) -> pd.DataFrame:
    """Tidy log of a stage: columns step, term, value; one row per step and loss term."""
    lines = (P.run_dir / f"stage{stage}" / "log.jsonl").read_text().splitlines()
    rows = pd.DataFrame([json.loads(line) for line in lines])
    terms = [c for c in rows if c.startswith("loss")]
    return rows.melt("step", terms, "term", "value").dropna()


def prompt_wordings(P: Params, result: StageResult) -> pd.DataFrame:
    """Video AUC (per cent) of every wording in the prompt file: how far words alone move it."""
    model = stage_model(P, result.stage)
    table = wording_table(
        result.clips,
        model.encode_text,
        load_prompts(ROOT / P.prompts),
        P.bootstrap_samples,
        P.seed,
        videos(result.clips),
    )
    return _per_cent(table[table["metric"] == "video AUC"]).assign(
        setting=lambda t: t["wording"], model=STAGES[result.stage]
    )


def by_difficulty(P: Params, results: list[StageResult]) -> pd.DataFrame:
    """Video AUC per difficulty of the mini world; one row "all" where clips have none."""
    difficulty = _difficulty(P)
    rows = []
    for r in results:
        levels = np.array([difficulty.get(name, "all") for name in videos(r.clips)])
        for level in [x for x in ("easy", "medium", "hard", "all") if x in levels]:
            part = levels == level
            if len(set(r.clips.labels[part])) == 2:
                table = video_metrics(
                    r.margins[part], r.clips.labels[part], P.bootstrap_samples, P.seed
                )
                rows.append(table.head(1).assign(setting=level, model=STAGES[r.stage]))
    return _per_cent(pd.concat(rows, ignore_index=True))


def _difficulty(P: Params) -> dict[str, str]:
    path = P.data_dir / "clips.csv"
    if not path.is_file():
        return {}
    clips = pd.read_csv(path)
    return dict(zip(clips["video"], clips["difficulty"], strict=True))


def _per_cent(table: pd.DataFrame) -> pd.DataFrame:
    columns = ["value", "low", "high"]
    return table.assign(**{name: 100 * table[name] for name in columns})


def prompt_matrix(P: Params, result: StageResult) -> pd.DataFrame:
    """Figure 2 as a table: cosine between every two prompts of the fixed sets."""
    sets = load_prompts(ROOT / P.prompts).sets
    text = np.concatenate([result.normal, result.abnormal])
    return diagnosis.text_similarity_matrix(text, [*sets.normal, *sets.abnormal])


def gaps_per_class(result: StageResult) -> pd.DataFrame:
    """Figure 1 as a table: the first clip of each class, its similarity to both sets."""
    clips = result.clips
    table = diagnosis.gap_table(result.similarities, clips.labels, clips.classes, clips.keys)
    return table.groupby("class_name", sort=True).head(1).sort_values("class_name")


def with_paper(table: pd.DataFrame, paper: dict[tuple[str, str], float]) -> pd.DataFrame:
    """Add the paper's MSS by (model, class_name); nan where it gives none."""
    keys = zip(table["model"], table["class_name"], strict=True)
    return table.assign(paper=[paper.get(key, np.nan) for key in keys])


def provenance(P: Params) -> dict[str, object]:
    """What every reported number carries: profile, seed, parameter hash, prompt hash."""
    return {
        "profile": P.profile,
        "synthetic": P.world == "miniworld",
        "seed": P.seed,
        "params": sha256_json(P.model_dump())[:12],
        "prompts": load_prompts(ROOT / P.prompts).digest[:12],
    }


def show(figure: figures.Figure, name: str, table: pd.DataFrame, P: Params) -> figures.Figure:
    """Save a figure with its table under the run's figures/; named last in a cell, it is shown."""
    return figures.save(figure, name, table, P.run_dir / "figures")


def export(P: Params) -> pd.DataFrame:
    """Copy the tuned model to export/ and prove that stock open_clip reads it.

    Largest difference of image and text embeddings between AlertCLIP's towers and the folder
    loaded by open_clip alone, without this package.
    """
    model = stage_model(P, "full").cpu()
    out = export_open_clip(model, P.run_dir / "export", provenance(P))
    stock, _, _ = open_clip.create_model_and_transforms(f"local-dir:{out}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{out}")
    dataset = clip_dataset(P, "test", model.image_size)
    frames = torch.from_numpy(dataset[0]["frames"]).permute(0, 3, 1, 2)  # (T, 3, H, W)
    sentences = load_prompts(ROOT / P.prompts).sentences()
    pixels = (frames / 255 - model.mean) / model.std
    with torch.inference_mode():
        ours = model.encode_frames(frames[None]).v[0], model.encode_text(sentences)
        theirs = (
            stock.eval().encode_image(pixels, normalize=True),
            stock.encode_text(tokenizer(sentences), normalize=True),
        )
    largest = [float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)]
    return pd.DataFrame(
        {"embeddings": ["image", "text"], "n": [len(frames), len(sentences)], "largest": largest}
    )


def best_model(P: Params) -> tuple[AlertCLIP, str]:
    """The run's exported model if there is one, else the profile's untuned backbone; says which."""
    folder = P.run_dir / "export"
    if (folder / "alert_clip.json").is_file():
        model, line = load_model(str(folder), None, str(device(P)))
        return model, f"{line} of profile {P.profile}"
    return load_model(P.backbone, P.pretrained, str(device(P)))


def score_example(P: Params, model: AlertCLIP) -> tuple[ScoreCurve, list[tuple[float, float]]]:
    """Score the video parameter, else the first abnormal test video; events in s if annotated."""
    spans: list[tuple[float, float]] = []
    path = Path(P.video)
    if not P.video:
        items, _ = load_split(P, "test")
        item = next(item for item in items if item.is_abnormal)
        path, spans = P.data_dir / item.video, event_spans(P, "test")[item.key]
    prompts = embed_prompts(model, load_prompts(ROOT / P.prompts))
    return score_video(model, path, prompts, P.num_frames), spans


def curve_figure(
    model: AlertCLIP, curve: ScoreCurve, spans: list[tuple[float, float]], what: str
) -> figures.Figure:
    """The curve with key frames and attention; annotated events shaded."""
    return draw(model, curve, f"{what}; {HELD}.", spans)
