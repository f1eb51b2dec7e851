"""The pre-flight check: everything a run lacks is in one table before it starts."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from companion import budgets, extraction, preflight, run
from companion.profiles import ROOT, Params, load_params
from companion.splits import load_split
from companion.workflow import NOTEBOOKS
from detectors.benchmarks import fill, load_benchmark
from media.errors import InputError

UCF_VIDEOS = "UCF_Crimes_Videos/UCF_Crimes/Videos"
NAMES = {  # XD-Violence's end in their classes
    "ucf_crime": {"abnormal": "Abuse/abnormal{}_x264.mp4", "normal": "Normal/normal{}_x264.mp4"},
    "xd_violence": {"abnormal": "{}_label_B1-0-0", "normal": "{}_label_A"},
    "ubnormal": {k: k + "_scene_1_scenario_{}" for k in ("abnormal", "normal")},
    "msad": {"abnormal": "Fire/Fire_{}.mp4", "normal": "n/MSAD_normal_{}.mp4"},
}


def write(path: Path, text: str = "content") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def names(benchmark: str) -> dict[str, list[str]]:
    """As many list entries per split as published, named as in the benchmark."""
    entries: dict[str, list[str]] = {}
    for split, counts in load_benchmark(benchmark).counts.items():
        if split == "test" or benchmark == "ucf_crime":  # the others only test
            numbered = [(kind, f"{split}{i}") for kind, n in counts.items() for i in range(n)]
            entries[split] = [NAMES[benchmark][k].format(number) for k, number in numbered]
    return entries


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A complete data root: every list in full, every video a file with a few bytes."""
    for name in ("ucf_crime", "xd_violence", "ubnormal", "msad"):
        benchmark, entries = load_benchmark(name), names(name)
        folder = tmp_path / benchmark.annotation_root
        for split, lines in entries.items():
            files = benchmark.lists[split]
            if name == "xd_violence":
                lines = ["path,label", *(f"features/{e}__0.npy,A" for e in lines)]  # of features
            write(folder / files[0], "\n".join(lines))
            for other in files[1:]:
                write(folder / other, "")
            for entry in entries[split]:
                write(tmp_path / benchmark.video_root / fill(benchmark.video_pattern, entry))
                if name == "ubnormal" and entry.startswith("abnormal"):
                    write(folder / f"Scene1/{entry}_annotations/{entry}_tracks.txt", "1,2,3")
    rows = [f"{Path(e).stem}.mp4  Normal  -1  -1  -1  -1" for e in names("ucf_crime")["test"]]
    write(tmp_path / "ucf_crime/lists/Temporal_Anomaly_Annotation.txt", "\n".join(rows))
    violent = [e for e in names("xd_violence")["test"] if "_A" not in e]
    write(tmp_path / "xd_violence/annotations.txt", "\n".join(f"{e} 1 2" for e in violent))
    write(tmp_path / "xd_violence/annotations_multiclasses.txt", "")
    np.save(tmp_path / "MSAD/gt-MSAD-WS-new.npy", np.zeros(16 * 240))
    for split in ("train", "test"):
        clip = {"box_infos": [[]], "region_captions": ["a man"], "timestamps": None}
        where = {"train": "Training", "test": "Testing"}[split]
        videos = [f"{UCF_VIDEOS}/{e}" for e in names("ucf_crime")[split][-40:]]
        videos += [f"MSAD/MSAD_Videos/Normal_{where}/normal_{i}.mp4" for i in range(9)]
        items = [clip | {"video": v, "global_caption": f"Normal video: {v}"} for v in videos]
        write(tmp_path / f"Final_ucf_fgclip_translated_qwen_{split}.json", json.dumps(items))
        for video in videos:
            write(tmp_path / video)
    return tmp_path


def paper(root: Path, **changes: object) -> Params:
    """The paper profile on ``root``, with random weights, on the CPU."""
    fixed = {"data_root": str(root), "pretrained": None, "device": "cpu"}
    return load_params("paper", fixed | changes)


def test_ten_planted_gaps_are_in_one_table(root, monkeypatch) -> None:
    usage = shutil.disk_usage(root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**13))
    assert run.check_inputs(paper(root), NOTEBOOKS, fetch=False) == ""
    (root / UCF_VIDEOS / "Abuse/abnormaltest7_x264.mp4").unlink()
    cut = root / "ucf_crime/lists/Anomaly_Train.txt"
    cut.write_text("\n".join(cut.read_text().splitlines()[:-3]))
    (root / "MSAD/MSAD_Videos/Normal_Training/normal_3.mp4").write_text("")
    (root / "Final_ucf_fgclip_translated_qwen_test.json").unlink()
    (root / "XD_Violence/Videos").rename(root / "XD_Violence/videos")
    (root / "UBnormal/Scene1/abnormal_scene_1_scenario_test5_annotations").rename(root / "other")
    write(root / "MSAD/gt-MSAD-WS-new.npy", "no array")
    (root / "b32.pt").write_bytes(b"weights")
    monkeypatch.setattr("companion.profiles.ROOT", root / "project")  # nothing written
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**9))
    wrong = {"pretrained": str(root / "b32.pt"), "device": "cuda:99", "failure_videos": "nowhere"}
    with pytest.raises(InputError) as caught:
        run.check_inputs(paper(root, **wrong), NOTEBOOKS, fetch=False)
    lines = str(caught.value).splitlines()[2:]
    expected = [
        ("stops", "05 06 07 10 ", "UCF-Crime, test: 1 of 290 videos missing.*abnormaltest7"),
        ("stops", "05 06 07 10 ", "UCF-Crime, train list: 1607 videos, published are 1610"),
        ("stops", "01 02 03 04", "VAGTA's clips: 1 of 9 videos missing.*normal_3.*skip_lost_clips"),
        ("stops", "01 02 03 04", "annotations_test: .*_test.json is missing.*github"),
        ("left out", "05 ", "XD-Violence, test: 800 of 800 videos missing"),
        ("left out", "05 ", "abnormal_scene_1_scenario_test5_tracks.txt.*UBnormal has no rows"),
        ("left out", "05 ", "gt-MSAD-WS-new.npy: not a readable array.*MSAD .* has no rows"),
        ("stops", "all", "pretrained .*b32.pt"),
        ("stops", "all", "device=cuda:99"),
        ("stops", "all", "failure_videos: .*nowhere is missing"),
        ("warns", "all", "disk of .*: 1 GB free, about 377 GB will be written"),
    ]
    for verdict, books, text in expected:
        assert [x for x in lines if re.match(rf"{verdict} +{books}.*{text}", x)], text
    assert len(lines) == len(expected)
    assert lines == sorted(lines, key=lambda line: "slw".index(line[0]))  # what stops comes first


def test_training_lists_are_asked_only_of_what_is_trained_on(root) -> None:
    (root / "ucf_crime/lists/Anomaly_Train.txt").unlink()
    P = paper(root)
    domains = extraction.domains(P)
    assert list(domains) == ["UCF-Crime", *P.evaluation.transfer]
    first = [book for book in NOTEBOOKS if book.name < "05"]
    assert [g.verdict for g in preflight.find_gaps(P, first, fetch=False)] in ([], ["warns"])
    (root / "UBnormal/Scene1/normal_scene_1_scenario_test9.mp4").unlink()
    with pytest.warns(UserWarning, match="UBnormal is left out.*normal_scene_1_scenario_test9"):
        assert "UBnormal" not in extraction.domains(P)


def test_a_rehearsal_reads_a_part_of_every_list(root) -> None:
    P = paper(root, rehearsal_test_videos=10, rehearsal_clips=16)
    videos = extraction.tested_videos(P)
    assert len(videos) == 10 and sum("abnormal" in name for name in videos) == 5
    assert len(load_split(P, "train")[0]) + len(load_split(P, "dev")[0]) == 8  # all are normal
    assert load_split(P, "test")[0] == load_split(P, "test")[0]
    drawn = extraction.chosen_videos(P.changed({"detector_videos": 6})).values()
    assert sorted(map(bool, drawn)) == [False] * 3 + [True] * 3
    msad = [*extraction.tested_videos(P.changed({"benchmark": "msad"}))]
    entries = [Path(name).stem for name in names("msad")["test"]]
    assert msad == [*entries[:5], *entries[-5:]]  # from both ends of its vector


def test_weights_of_the_hub_are_only_named_before_a_dry_run(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    P = load_params("mini", {"backbone": "ViT-B-32-quickgelu", "pretrained": "openai"})
    [gap] = preflight.weight_gaps(P, fetch=False)
    assert gap.verdict == "warns" and "openai of ViT-B-32-quickgelu: not on" in gap.what


def test_the_budget_is_the_papers_arithmetic() -> None:
    P = load_params("paper", {"data_root": "."})
    table = budgets.budget_table(P).set_index("notebook")
    # 4,187 clips of 256 frames; 12.63 M frames in ten crops, 1.11 M in one; all alone; 3 models
    assert table.loc["03", "disk, GB"] == pytest.approx(4187 * 256 * 224**2 * 3 / 1e9)
    rows = (12.63e6 * 10 + 1.11e6) / 16 + 13.74e6
    assert table.loc["06", "disk, GB"] == pytest.approx(rows * 512 * 4 * 3 / 1e9)
    page = (ROOT / "docs/real-data.md").read_text()
    assert budgets.markdown(P) in page
    half = budgets.budget_table(P.changed({"rehearsal_test_videos": 145})).set_index("notebook")
    assert half.loc["06", "disk, GB"] < table.loc["06", "disk, GB"]
    fp32 = budgets.budget_table(P.changed({"evaluation_precision": "fp32"})).set_index("notebook")
    hours = fp32["A100, h"]
    assert hours["06"] == pytest.approx(table.loc["06", "A100, h"] * 120 / 60)
    sentence = "notebooks 05 to 07 take {:.1f}, {:.0f} and {:.0f} hours on an A100"
    assert sentence.format(*hours[["05", "06", "07"]]) in page
