"""What keeps a run from reproducing a number: backbone, protocol, lists, annotations, interval."""

import numpy as np
import pytest
from test_ledger import WEAK, backbones, book_of

from alertclip.records import LEFT_OUT, Finding, Report
from companion import ledger, profiles
from companion.profiles import load_params
from companion.report import settings_table
from detectors.benchmarks import load_benchmark
from media.files import write_json

P_DATA, CLIP = load_params("paper").data, WEAK.format("CLIP")
ENTRIES = {  # of lists, abnormal and normal
    "ucf_crime": ("Abuse/Abuse{}_x264.mp4", "Normal/Normal_{}_x264.mp4"),
    "xd_violence": ("a/v{}_label_B1-0-0__0.npy,x", "a/n{}_label_A__0.npy,x"),
}


def real_root(root, train_items=3726):
    """Lists of UCF-Crime and XD-Violence as long as the published ones, and VAGTA's two files."""
    for name, forms in ENTRIES.items():
        benchmark = load_benchmark(name)
        folder = root / benchmark.annotation_root
        folder.mkdir(parents=True)
        for split, counts in benchmark.counts.items():
            parts = zip(forms, (counts["abnormal"], counts["normal"]), strict=True)
            lines = [form.format(f"{split}{i}") for form, n in parts for i in range(n)]
            (folder / benchmark.lists[split][0]).write_text("\n".join(lines))
    write_json(root / P_DATA.annotations_train, [])
    write_json(root / P_DATA.hard_negatives_train, {"items": [{}] * train_items})


class TestCertification:
    @pytest.mark.parametrize(("profile", "changes", "lacking"), [
        ("paper", {"stage1_steps": 3}, "published protocol (stage1_steps)"),
        ("paper", {"detector_videos": 16}, "published protocol (detector_videos)"),
        ("paper", {"open_vocabulary_changes": {"num_frames": 8}}, "protocol (num_frames)"),
        ("paper+paper-siglip", {}, ""),
        ("paper", {"pretrained": None}, "paper's backbone and OpenAI's weights"),
    ])  # fmt: skip
    def test_a_reduced_run_is_not_certified(self, tmp_path, profile, changes, lacking):
        real_root(tmp_path)
        table = backbones(88.02, 89.32)
        book = book_of(tmp_path, profile, changes=changes, vadclip_backbones=table)
        status = book.status[CLIP]
        if lacking:
            assert status.startswith(f"{ledger.DIRECTION}: needs the ") and lacking in status
        else:
            assert status == "not run: needs a run with ViT-B-32-quickgelu or ViT-B-16-quickgelu"

    def test_short_lists_other_annotations_and_wide_intervals_are_named(self, tmp_path):
        def lacking(text, **ends):
            book = book_of(tmp_path, "paper", vadclip_backbones=[backbones(88.02, 89)[0] | ends])
            assert book.status[CLIP] == f"{ledger.DIRECTION}: needs {text}"

        lacking("the full train list, 1610 videos, has none")
        real_root(tmp_path, train_items=16)
        names = f"{P_DATA.annotations_train} and {P_DATA.hard_negatives_train}"
        lacking(f"VAGTA's published annotations ({names})")
        write_json(tmp_path / P_DATA.hard_negatives_train, {"items": [{}] * 3726})
        lacking("an interval of at most 5, has 8", low=84, high=92)
        test = tmp_path / "ucf_crime/lists/Anomaly_Test.txt"
        test.write_text("\n".join(test.read_text().splitlines()[:16]))
        lacking("the full test list, 290 videos, has 16")

    def test_real_data_by_interval_data_set_and_what_was_left_out(self, tmp_path, monkeypatch):
        """Clips left out by a run's readers, by those of its ablations, or when training began."""
        monkeypatch.setattr(profiles, "ROOT", tmp_path)
        real_root(tmp_path)
        folder = load_params("paper", {"data_root": str(tmp_path)}).run_dir

        def status(cell=CLIP):
            return book_of(tmp_path, "paper", vadclip_backbones=backbones(87.1, 95)).status[cell]

        assert status(WEAK.format("Full")) == ledger.DIFFERS
        other = status("Alert-CLIP | Weakly supervised | MSAD AUC | CLIP")
        assert other == "not run: needs a run on MSAD"
        absent = "not run: not in this run (setting = frame AUC, model = Stage I)"
        assert status(WEAK.format("Stage I")) == absent
        Report([Finding("a.mp4", "ends late", "clipped")]).to_csv(folder / "videos/test.csv")
        assert status() == ledger.INTERVAL
        write_json(folder / "full/run.json", {"data": "0123456789abcdef0"})
        write_json(folder / "clips/0123456789abcdef.json", {"unreadable": ["b.mp4"]})
        write_json(folder / "clips/of another run.json", {"unreadable": ["c.mp4"]})
        needs = f"{ledger.DIRECTION}: needs every clip and feature"
        assert status() == f"{needs}, 1 were left out, first b.mp4"
        lost = Report([Finding("d__0.npy", "", LEFT_OUT), Finding("b.mp4", "", LEFT_OUT)])
        lost.to_csv(folder / "ablations/full/seed42/videos/ucf_crime-vadclip.csv")
        assert status() == f"{needs}, 2 were left out, first b.mp4"

    def test_cells_of_vadclip_need_its_data_and_backbone(self, tmp_path):
        real_root(tmp_path)
        row = {"variant": "vadclip-a", "metric": "frame AP", "low": 67, "high": 70}
        rows = [row | {"backbone": "Full", "value": 69}, row | {"backbone": "CLIP", "value": 68}]
        key = "VadCLIP | Table 6 | A | AP"
        for profile, value, status in (
            ("paper+paper-xd+paper-b16", 68, ledger.INTERVAL),
            ("paper+paper-xd", None, "not run: needs a run with ViT-B-16-quickgelu"),
            ("mini", None, "not run: needs a run on XD-Violence"),
        ):
            cell = book_of(tmp_path, profile, ablation_results=rows).loc[key]
            assert cell["status"] == status
            assert cell["ours"] == value or (value is None and np.isnan(cell["ours"]))

    def test_counts_are_those_of_the_lists_in_use(self, tmp_path):
        real_root(tmp_path)
        train = tmp_path / "ucf_crime/lists/Anomaly_Train.txt"
        train.write_text("\n".join(train.read_text().splitlines()[:-1]))
        P = load_params("paper", {"data_root": str(tmp_path)})
        status = book_of(tmp_path, "paper", settings=settings_table(P))["status"]
        row = "AnomalyCLIP | Data sets | {} | count".format
        assert status[row("UCF-Crime abnormal training videos")] == ledger.SAME
        assert status[row("UCF-Crime normal training videos")] == ledger.OTHER
        assert status[row("ShanghaiTech videos")].startswith("not run")
