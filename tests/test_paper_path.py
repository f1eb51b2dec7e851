"""The paper profile end to end, on files in the layout and schema of the real datasets."""

import pytest
from faults.harness import refused
from test_vagta import item, keyframe, qwen, written
from test_video import write_ids

from alertclip.checkpoint import read_history
from companion import profiles as params_module
from companion.profiles import load_params
from companion.stage_runs import run_stage

UCF = "UCF_Crimes_Videos/UCF_Crimes/Videos"
MSAD = "MSAD/MSAD_Videos"
# video, timestamps, whether the region has a box track
CLIPS = [
    (f"{UCF}/Abuse/Abuse001_x264.mp4", None, True),
    (f"{UCF}/Fighting/Fighting002_x264.mp4", None, True),
    (f"{UCF}/Training_Normal_Videos_Anomaly/Normal_Videos001_x264.mp4", [0.0, 0.8], False),
    (f"{UCF}/Training_Normal_Videos_Anomaly/Normal_Videos001_x264.mp4", [0.8, 1.6], False),
    (f"{MSAD}/MSAD_anomaly_videos/Fire/Fire_10.mp4", None, True),
    (f"{MSAD}/Normal_Training/pedestrian street/street_30.mp4", None, False),
]


def annotations(index: int) -> tuple[dict, dict]:
    """One item in the schemas of VAGTA's test file and of qwen_vl_train.json."""
    video, timestamps, boxed = CLIPS[index]
    clip, caption = {"video": video, "timestamps": timestamps}, f"region caption {index}"
    track = [keyframe(2), keyframe(20), keyframe(36, enabled=False)] if boxed else []
    whole = f"Abnormal video: event {index}" if boxed else f"Normal video: {index}"
    full = item(**clip, global_caption=whole, region_captions=[caption], box_infos=[track])
    about = {"region_caption": caption, "frames_25": [2, 36] if boxed else None}
    return full, qwen(**clip, **about, hard_negative=[f"contrary {index} {k}" for k in range(3)])


@pytest.fixture
def paper(tmp_path, monkeypatch):
    """The paper profile on such files, reduced only in length and size."""
    monkeypatch.setattr(params_module, "ROOT", tmp_path)
    for number, video in enumerate(sorted({clip[0] for clip in CLIPS})):
        (tmp_path / video).parent.mkdir(parents=True, exist_ok=True)
        write_ids(tmp_path / video, 48 - number)
    full, items = zip(*map(annotations, range(len(CLIPS))), strict=True)
    others = [row | {"video": row["video"].replace("0", "9")} for row in full]
    stem = "Final_ucf_fgclip_translated_qwen"
    written(tmp_path, full, f"{stem}_train.json")
    written(tmp_path, others, f"{stem}_test.json")
    written(tmp_path, {"model": "qwen-vl-max", "items": items}, "qwen_vl_train.json")
    small = {"num_frames": 2, "pretrained": None, "workers": 0, "device": "cpu"}
    small |= {"validation_fraction": 0.3}
    for number in (1, 2):
        small |= {f"stage{number}_batch_size": 2, f"stage{number}_accumulation": 1}
        small |= {f"stage{number}_steps": number, f"stage{number}_precision": "fp32"}
    return load_params("paper", small | {"data_root": str(tmp_path)})


def test_both_stages_run_and_one_tuned_model_serves_every_benchmark(paper):
    for overlays, folder in (
        ("+paper-xd", "paper"),
        ("+paper-b16+paper-msad", "paper+paper-b16"),
        ("+paper-xd/ablations/joint/seed1", "paper/ablations/joint/seed1"),
    ):
        P = paper.changed({"profile": f"paper{overlays}"})
        assert P.tuned_dir == paper.run_dir.parent / folder
        assert P.run_dir == paper.run_dir.parent / P.profile
    first, second = (run_stage(paper, number) for number in (1, 2))
    assert first == paper.run_dir / "stage1" and second == paper.run_dir / "full"
    history = read_history(second)
    assert [row["step"] for row in history.steps] == [1, 2]
    assert {"loss_global", "loss_region", "loss_hard"} <= history.steps[0].keys()
    assert len(history.validation) == 1
    assert run_stage(paper.changed({"profile": "paper+paper-xd"}), 1) == first
    assert not (paper.run_dir.parent / "paper+paper-xd" / "stage1").exists()
    other = paper.changed({"profile": "paper+paper-xd", "stage1_steps": 3})
    assert "tuned already, with other values of stage1_steps" in refused(run_stage, other, 1)
