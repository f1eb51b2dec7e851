"""The audit of hard negatives: hand-counted faults, planted ones, the clean file, VAGTA's own."""

import json

import numpy as np
import pandas as pd
import pytest
from faults.harness import refused

from alertclip.vagta import load_surrogate
from companion.profiles import load_params
from companion.screening_tables import plant_and_clean
from curation import audit
from miniworld.planted_faults import TEXT_FAULTS, plant_text_faults
from miniworld.world import clip_jobs, entries, write_annotations

FIGHT = "UCF_Crimes_Videos/UCF_Crimes/Videos/Fighting/Fighting002_x264.mp4"
CALM = "UCF_Crimes_Videos/UCF_Crimes/Videos/Training_Normal_Videos_Anomaly/Normal_Videos1.mp4"
LONG = "people walk on the street " * 5


def row(negatives, caption="Two men fight.", video=FIGHT, index=0, timestamps=None):
    frames = [1, 26] if video == FIGHT else None
    about = {"video": video, "region_index": index, "frames_25": frames, "timestamps": timestamps}
    return about | {"region_caption": caption, "hard_negative": negatives}


ROWS = [
    row(["Two men hug.", "two men hug", "Two men FIGHT"]),
    row([], index=1),
    row(["Two men are walking.", 7, "People stand in a line."], index=2),
    row(["People float in the air.", "People 穿梭 away.", LONG], "People walk.", CALM, 0, [0, 9]),
    row(["People walk.", "Two men hug.", "People run but the"], "People stand.", CALM, 0, [9, 18]),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The annotation files of a small mini world, without its videos."""
    folder = tmp_path_factory.mktemp("world")
    write_annotations(folder, list(map(entries, clip_jobs("train", 160, "flat", 0))))
    return folder / "hard_negatives_train.json"


def test_every_kind_is_counted_by_hand_and_left_out_of_the_clean_file(tmp_path):
    path, out = tmp_path / "small.json", tmp_path / "clean.json"
    path.write_text(json.dumps({"meta_file": "f", "model": "m", "created_at": 1, "items": ROWS}))
    regions = audit.read_regions(path)
    table = audit.negatives_table(regions)
    shares = audit.violation_table(regions, table, n_boot=50).set_index(["direction", "kind"])
    counts = (3, 1, 1, 1, 1, 1, 4, 3, 1, 1)
    expected = dict(zip((*audit.CONTRACT, *audit.OTHER), counts, strict=True))
    assert shares.loc["all", "count"].to_dict() == expected
    assert shares.loc[("all", "missing"), "n"] == 15 and shares.loc[("all", "repeated"), "n"] == 12
    calm = shares.loc["normal to abnormal", "count"]
    assert calm["over-long"] == 1 and calm["repeated"] == 0
    assert ((shares["low"] <= shares["value"]) & (shares["value"] <= shares["high"])).all()
    where = table[table["caption of another region"]]
    assert list(zip(where["region"], where["position"], strict=True)) == [(4, 0)]
    done = audit.clean(path, out, table)
    left = [r["hard_negative"] for r in json.loads(out.read_text())["items"]]
    assert left == [
        ["Two men hug."], [], ["Two men are walking.", "People stand in a line."],
        ["People float in the air."], ["People walk.", "Two men hug."],
    ]  # fmt: skip
    kinds = ["repeated, cut off", "equal to the positive, cut off"]
    assert len(done) == 6 and done["kind"].tolist()[:2] == kinds
    assert not audit.negatives_table(audit.read_regions(out))[list(audit.DROPPED)].any(axis=None)
    audit.clean(path, out, table, ["fantastical"])
    assert json.loads(out.read_text())["items"][3]["hard_negative"][0].startswith("People 穿梭")
    assert len(load_surrogate(out)[0]) == 3


def test_fantastical_words_are_told_from_plain_ones():
    odd = "A cat floats by/They stop mid-air/He walks backward/Cars fly off/A robot"
    plain = "A man reversed out/Midnight in the park/A boat on the flood/A fan"
    assert all(audit.is_fantastical(t, "") for t in odd.split("/"))
    assert not any(audit.is_fantastical(t, "") for t in plain.split("/"))
    assert not audit.is_fantastical("People dance.", "Two people are dancing.")


def test_intervals_resample_videos_and_stay_open_where_nothing_counts():
    counts = np.repeat([1.0, 0.0], 50)  # one video all bad, 9 videos clean
    videos = ["bad"] * 50 + [f"v{i % 9}" for i in range(50)]
    grouped = audit.share_interval(counts, videos, 500, 0)
    single = audit.share_interval(counts, map(str, range(100)), 500, 0)
    assert grouped.value == single.value == 0.5
    assert grouped.high - grouped.low > 3 * (single.high - single.low)
    empty = audit.share_interval(np.zeros(30), [f"v{i % 10}" for i in range(30)], 500, 0)
    assert empty.low == 0.0 and empty.high == pytest.approx(0.2775, abs=1e-4)  # Wilson, 0 of 10


def test_words_give_negatives_away_only_if_they_differ(world):
    regions = audit.read_regions(world)
    marked = regions.assign(negatives=[[f"suddenly {t}" for t in n] for n in regions["negatives"]])
    obvious = audit.shortcut_table(marked, audit.negatives_table(marked), 50).set_index("direction")
    assert obvious.loc["all", "value"] > 0.95 and obvious.loc["all", "chance"] == 0.25
    rng = np.random.default_rng(0)
    pools = [[c, *n] for c, n in zip(regions["caption"], regions["negatives"], strict=True)]
    mixed = [[p[i] for i in rng.permutation(4)] for p in pools]
    shuffled = regions.assign(caption=[m[0] for m in mixed], negatives=[m[1:] for m in mixed])
    fair = audit.shortcut_table(shuffled, audit.negatives_table(shuffled), 50)
    assert abs(fair.loc[0, "value"] - 0.25) < 0.12


def test_planted_faults_are_found_and_left_out(tmp_path, world):
    P = load_params("mini", {"hard_negatives_train": str(world), "bootstrap_samples": 50})
    shares = plant_and_clean(P, tmp_path).set_index("kind")
    certain = [kind for kind in TEXT_FAULTS if kind not in ("fantastical", "wrong polarity")]
    assert (shares.loc[certain, "value"] == 1).all()
    assert shares.loc["wrong polarity", "value"] > 0.9
    assert 0.3 < shares.loc["fantastical", "value"] < 0.8  # of normal captions only, as defined
    files = world, tmp_path / "planted.json", tmp_path / "vagta-clean.json"
    rows = [json.loads(path.read_text())["items"] for path in files]
    original, planted, cleaned = ([row["hard_negative"] for row in shares] for shares in rows)
    spoilt = [a != b for a, b in zip(original, planted, strict=True)]
    assert sum(spoilt) == 80
    left = [len(c) for c, bad in zip(cleaned, spoilt, strict=True) if not bad]
    assert np.mean(left) > 2.8 and sum(map(len, cleaned)) < sum(map(len, planted))


def test_faults_are_planted_by_seed_or_none_at_all(tmp_path, world):
    out = tmp_path / "a.json"
    planted, again = (plant_text_faults(world, out, 1.0, 0) for _ in range(2))
    pd.testing.assert_frame_equal(planted, again)
    regions = audit.read_regions(world).set_index("key")
    captions = regions.groupby("class_name")["caption"].agg(set)
    assert set(planted["kind"]) == set(TEXT_FAULTS)
    flipped = planted[planted["kind"] == "wrong polarity"]
    for key, after in zip(flipped["key"], flipped["after"], strict=True):
        assert after in captions[regions.loc[key, "class_name"]]
        assert after != regions.loc[key, "caption"]
    assert plant_text_faults(world, out, 0.0, 0).empty
    assert json.loads(out.read_text()) == json.loads(world.read_text())


def test_the_command_writes_audit_and_clean_file_of_this_schema_alone(tmp_path, world):
    audit.main([str(world), "--out", str(tmp_path)])
    shares = pd.read_csv(tmp_path / "audit.csv").set_index(["direction", "measure"])
    table = audit.negatives_table(audit.read_regions(world))
    share = table["over-long"].mean()
    assert shares.loc[("all", "over-long"), "value"] == pytest.approx(share, 1e-5)
    clean = json.loads((tmp_path / "vagta-clean.json").read_text())["items"]
    left_out = len(pd.read_csv(tmp_path / "vagta-clean.csv"))
    assert sum(len(row["hard_negative"]) for row in clean) == len(table) - left_out
    for content in ([], {"items": []}, {"items": [{"video": "a"}]}):
        (tmp_path / "x.json").write_text(json.dumps(content))
        assert "x.json" in refused(audit.read_regions, tmp_path / "x.json")


def test_the_published_file_holds_what_was_counted_by_other_means(shared_data):
    regions = audit.read_regions(shared_data / "vagta" / "qwen_vl_train.json")
    table = audit.negatives_table(regions)
    assert (len(regions), len(table)) == (3726, 11175)
    counts = table[list(audit.CONTRACT[1:])].sum()
    assert counts["over-long"] == 584 and counts["not text"] == 0
    assert counts["not English"] == 4 and counts["equal to the positive"] == 3
    assert table["negative"].nunique() == 9276
    assert (3 - regions["negatives"].map(len)).sum() == 3
