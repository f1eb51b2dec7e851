"""Annotation files of a world, in the schemas of VAGTA and UCF-Crime."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from alertclip.files import atomic_write, write_json
from miniworld.captions import describe
from miniworld.events import event_frames, event_of
from miniworld.plan import DIALS, FPS, SECONDS
from miniworld.world_video import Job, keyframes


def entries(job: Job) -> tuple[dict, dict, dict]:
    """Test-schema item, hard-negative item and clips.csv row of a clip."""
    plan = job.plan()
    caption, region, negatives = describe(plan, job.abnormal, job.split)
    ucf_normal = not job.abnormal and plan.pair.dataset == "UCF-Crime"
    timestamps = [0.0, SECONDS] if ucf_normal else None
    track = keyframes(plan) if job.abnormal else []
    item = {
        "video": job.path,
        "global_caption": caption,
        "region_captions": [region],
        "box_infos": [track],
        "timestamps": timestamps,
    }
    hard = {
        "video": job.path,
        "region_index": 0,
        "frames_25": [track[0]["frame"], track[-1]["frame"]] if track else None,
        "region_caption": region,
        "hard_negative": negatives,
        "timestamps": timestamps,
    }
    return item, hard, _row(job)


def _row(job: Job) -> dict:
    plan = job.plan()
    start, end = event_frames(plan)
    return {
        "video": job.path,
        "split": job.split,
        "pair": plan.pair.event,
        "twin": event_of(plan, job.abnormal),
        "class_name": plan.pair.class_name if job.abnormal else "Normal",
        "label": int(job.abnormal),
        "scene": plan.scene,
        "seed": plan.seed,
        "event_start_s": start / FPS,
        "event_end_s": end / FPS,
        **{dial: round(getattr(plan, dial), 4) for dial in DIALS},
        "difficulty": plan.difficulty,
        "style": plan.style,
    }


def write_annotations(root: Path, made: Sequence[tuple[Job, tuple[dict, dict, dict]]]) -> None:
    """All annotation files of a world; ``made`` pairs each job with its ``entries``."""
    for split in ("train", "dev", "test"):
        part = [parts for job, parts in made if job.split == split]
        write_json(root / f"vagta_{split}.json", [item for item, _, _ in part])
        meta = {"meta_file": f"vagta_{split}.json", "model": "template", "created_at": 0}
        negatives = [hard for _, hard, _ in part]
        write_json(root / f"hard_negatives_{split}.json", {**meta, "items": negatives})
        with atomic_write(root / f"{split}.txt") as temporary:
            temporary.write_text("".join(f"{row['video']}\n" for _, _, row in part), "utf-8")
    rows = [row for _, (_, _, row) in made]
    with atomic_write(root / "clips.csv") as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, lineterminator="\r\n")
    with atomic_write(root / "Temporal_Anomaly_Annotation.txt") as temporary:
        temporary.write_text("".join(map(_temporal_line, rows)), encoding="utf-8")


def _temporal_line(row: dict) -> str:
    """UCF-Crime style: native frames, end exclusive, -1 where there is none."""
    seconds = row["event_start_s"], row["event_end_s"]
    start, end = (int(second * FPS) if row["label"] else -1 for second in seconds)
    return f"{Path(row['video']).name}  {row['class_name']}  {start}  {end}  -1  -1  \n"
