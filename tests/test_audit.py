"""The audit of hard negatives: hand-counted faults, planted ones, the clean file, VAGTA's own."""

import json

import numpy as np
import pandas as pd
import pytest

from alertclip.caption_checks import token_count
from alertclip.errors import InputError
from alertclip.prompts import PromptSets
from alertclip.vagta import load_surrogate, load_vagta
from companion.figures.audit_figures import overlap_distribution, violations_by_kind
from companion.profiles import load_params
from curation import audit, overlay, polarity
from curation.fantastical import fantastical_group
from curation.writers import TemplateWriter
from miniworld.world import clip_jobs
from miniworld.world_annotations import entries, write_annotations

FIGHT = "UCF_Crimes_Videos/UCF_Crimes/Videos/Fighting/Fighting002_x264.mp4"
CALM = "UCF_Crimes_Videos/UCF_Crimes/Videos/Training_Normal_Videos_Anomaly/Normal_Videos1.mp4"
LONG = "people walk on the street " * 5


def row(negatives, caption="Two men fight.", video=FIGHT, index=0, timestamps=None):
    return {
        "video": video,
        "region_index": index,
        "frames_25": [1, 26] if video == FIGHT else None,
        "region_caption": caption,
        "hard_negative": negatives,
        "timestamps": timestamps,
    }


ROWS = [
    row(["Two men hug.", "two men hug", "Two men FIGHT"]),
    row([], index=1),
    row(["Two men are walking.", 7, "People stand in a line."], index=2),
    row(["People float in the air.", "People 穿梭 away.", LONG], "People walk.", CALM, 0, [0, 9]),
    row(["People walk.", "Two men hug.", "People run but the"], "People stand.", CALM, 0, [9, 18]),
]


def written(path, rows):
    path.write_text(json.dumps({"meta_file": "f", "model": "m", "created_at": 1, "items": rows}))
    return path


@pytest.fixture
def small(tmp_path):
    regions = audit.read_regions(written(tmp_path / "small.json", ROWS))
    return regions, audit.negatives_table(regions)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The annotation files of a small mini world, without its videos."""
    folder = tmp_path_factory.mktemp("world")
    jobs = clip_jobs("train", 160, "flat", 0)
    write_annotations(folder, [(job, entries(job)) for job in jobs])
    return folder / "hard_negatives_train.json"


def test_every_kind_is_counted_by_hand(small):
    regions, table = small
    found = audit.violation_table(regions, table, n_boot=50).set_index(["direction", "kind"])
    expected = {
        "missing": 3,
        "over-long": 1,
        "not English": 1,
        "repeated": 1,
        "equal to the positive": 1,
        "not text": 1,
        "cut off": 4,
        "repeated in another region": 3,
        "caption of another region": 1,
        "fantastical": 1,
    }
    assert found.loc["all", "count"].to_dict() == expected
    assert found.loc[("all", "missing"), "n"] == 15 and found.loc[("all", "repeated"), "n"] == 12
    calm = found.loc["normal to abnormal", "count"]
    assert calm["over-long"] == 1 and calm["repeated"] == 0
    assert ((found["low"] <= found["value"]) & (found["value"] <= found["high"])).all()
    where = table[table["caption of another region"]]
    assert list(zip(where["region"], where["position"], strict=True)) == [(4, 0)]
    classes = audit.by_class(table, ["repeated"], 50).set_index("class_name")["value"]
    assert classes.to_dict() == {"Fighting": 1 / 6, "Normal": 0.0}


def test_overlap_is_the_share_of_distinct_words_in_common():
    assert audit.jaccard("A man walks, a man runs.", "The man runs") == 2 / 5
    assert audit.jaccard("7", "!") == 0.0 and audit.jaccard("Two men", "two MEN!") == 1.0


def test_fantastical_words_are_told_from_plain_ones():
    for text in ("A cat floats by.", "They stop mid-air.", "He walks backward.", "Cars fly off."):
        assert fantastical_group(text) == "impossible"
    assert fantastical_group("A robot walks.") == "whimsical"
    assert fantastical_group("People dance.", "Two people are dancing.") == ""
    for text in ("A man reversed out.", "Midnight in the park.", "A boat on the flood.", "A fan."):
        assert fantastical_group(text) == ""


def test_intervals_resample_videos_and_stay_open_where_nothing_counts():
    counts = np.repeat([1.0, 0.0], 50)  # one video all bad, 9 videos clean
    videos = ["bad"] * 50 + [f"v{i % 9}" for i in range(50)]
    grouped = audit.share_interval(counts, videos, 500, 0)
    single = audit.share_interval(counts, map(str, range(100)), 500, 0)
    assert grouped.value == single.value == 0.5
    assert grouped.high - grouped.low > 3 * (single.high - single.low)
    empty = audit.share_interval(np.zeros(30), [f"v{i % 10}" for i in range(30)], 500, 0)
    assert empty.low == 0.0 and empty.high == pytest.approx(0.2775, abs=1e-4)  # Wilson, 0 of 10


def test_richness_compares_equal_lengths(world):
    regions = audit.read_regions(world)
    table = audit.negatives_table(regions)
    found = audit.richness_table(regions, table, size=200, draws=20).set_index("texts")
    assert (found["low"] <= found["value"]).all() and found["value"].between(0.05, 0.9).all()
    copied = table.assign(negative=table["negative"].iloc[0])
    poor = audit.richness_table(regions, copied, size=200, draws=20).set_index("texts")
    assert poor.loc["normal negatives", "value"] < found.loc["normal negatives", "value"] / 2
    assert poor.loc["normal negatives", "distinct"] < 0.01
    assert audit.richness_table(regions, table, size=10**6)["value"].isna().all()


def test_polarity_knows_a_flip_from_none(small):
    regions, table = small
    sets = PromptSets(("calm",), ("fight",))

    def encode(texts):
        bad = np.array(["fight" in t.lower() or "float" in t for t in texts], float)
        return np.stack([1 - bad, bad], axis=1)

    scores = {"j": tuple(polarity.margins(encode, list(t), sets) for t in
                         (regions["caption"], table["negative"]))}  # fmt: skip
    found = polarity.polarity_table(regions, table, scores, 50).set_index("measure")["value"]
    assert found["captions, right sign"] == found["captions, AUC"] == 1.0
    assert found["to normal, right sign"] == 5 / 6  # "Two men FIGHT" stays abnormal
    assert found["to normal, moved"] == 5 / 6
    assert found["to abnormal, right sign"] == found["to abnormal, moved"] == 1 / 6
    assert found["negatives, AUC"] == pytest.approx((1 * 5 + 0.5 * (1 + 25)) / 36)


def test_words_give_negatives_away_only_if_they_differ(world):
    regions = audit.read_regions(world)
    told = regions.assign(negatives=[[f"suddenly {t}" for t in n] for n in regions["negatives"]])
    obvious = polarity.shortcut_table(told, audit.negatives_table(told), 50).set_index("direction")
    assert obvious.loc["all", "value"] > 0.95 and obvious.loc["all", "chance"] == 0.25
    rng = np.random.default_rng(0)
    pools = [[c, *n] for c, n in zip(regions["caption"], regions["negatives"], strict=True)]
    mixed = [[p[i] for i in rng.permutation(4)] for p in pools]
    shuffled = regions.assign(caption=[m[0] for m in mixed], negatives=[m[1:] for m in mixed])
    fair = polarity.shortcut_table(shuffled, audit.negatives_table(shuffled), 50)
    assert abs(fair.loc[0, "value"] - 0.25) < 0.12


def test_the_clean_file_drops_what_is_flagged_and_nothing_else(tmp_path, small):
    path, out = tmp_path / "small.json", tmp_path / "clean.json"
    done = overlay.clean(path, out, small[1])
    left = [r["hard_negative"] for r in json.loads(out.read_text())["items"]]
    assert left == [
        ["Two men hug."],
        [],
        ["Two men are walking.", "People stand in a line."],
        ["People float in the air."],
        ["People walk.", "Two men hug."],
    ]
    assert len(done) == 6 and set(done["action"]) == {"dropped"}
    again = audit.negatives_table(audit.read_regions(out))
    assert not again[list(overlay.DROPPED)].any(axis=None)
    overlay.clean(path, out, small[1], ["fantastical"])
    assert json.loads(out.read_text())["items"][3]["hard_negative"][0].startswith("People 穿梭")
    with pytest.raises(InputError, match="no flag is called nonsense"):
        overlay.clean(path, out, small[1], ["nonsense"])
    assert len(load_surrogate(out)[0]) == 3


def test_planted_faults_are_found_and_repaired(tmp_path, world):
    spoilt, mended = tmp_path / "spoilt.json", tmp_path / "mended.json"
    planted = overlay.plant_faults(world, spoilt, share=0.5, seed=3)
    assert planted["key"].nunique() == 80 and set(planted["kind"]) == set(overlay.FAULTS)
    same = overlay.plant_faults(world, tmp_path / "again.json", share=0.5, seed=3)
    pd.testing.assert_frame_equal(planted, same)
    regions = audit.read_regions(spoilt)
    table = audit.negatives_table(regions)
    words = polarity.words_judge(regions, table)[1]
    table["wrong polarity"] = (words > 0) == table["abnormal"].to_numpy()
    found = overlay.recall_table(planted, regions, table, n_boot=50).set_index("kind")
    for kind in (
        "missing",
        "over-long",
        "not English",
        "repeated",
        "equal to the positive",
        "cut off",
    ):
        assert found.loc[kind, "value"] == 1.0, kind
    assert found.loc["wrong polarity", "value"] > 0.9
    assert 0.3 < found.loc["fantastical", "value"] < 0.8  # of normal captions only, as defined
    untouched = ~table["key"].isin(planted["key"])
    original = audit.negatives_table(audit.read_regions(world))
    others = original[~original["key"].isin(planted["key"])]
    assert table.loc[untouched, "negative"].tolist() == others["negative"].tolist()
    writer = TemplateWriter(load_params("mini", {"world_train": 160}), "train")
    kinds = [*overlay.DROPPED, "wrong polarity"]
    done = overlay.clean(spoilt, mended, table, kinds, writer)
    assert "rewritten" in set(done["action"])
    items, _ = load_vagta(world.parent / "vagta_train.json", mended)
    texts = [t for item in items for region in item.regions for t in region.hard_negatives]
    assert len(texts) == 3 * 160 and max(map(token_count, texts)) <= 20
    with pytest.raises(InputError, match="from 0 to 1"):
        overlay.plant_faults(world, spoilt, share=2, seed=0)


def test_one_kind_of_fault_alone_and_none_at_all(tmp_path, world):
    planted = overlay.plant_faults(world, tmp_path / "a.json", 1.0, 0, ["wrong polarity"])
    regions = audit.read_regions(world).set_index("key")
    captions = regions.groupby("class_name")["caption"].agg(set)
    for key, after in zip(planted["key"], planted["after"], strict=True):
        assert after in captions[regions.loc[key, "class_name"]]
        assert after != regions.loc[key, "caption"]
    none = overlay.plant_faults(world, tmp_path / "b.json", 0.0, 0)
    assert none.empty and json.loads((tmp_path / "b.json").read_text()) == json.loads(
        world.read_text()
    )


def test_the_sheet_is_drawn_by_seed_from_both_directions(world):
    table = audit.negatives_table(audit.read_regions(world))
    sheet = audit.sample_sheet(table, per_direction=5, seed=1)
    assert len(sheet) == 10 and (sheet["class_name"] == "Normal").sum() == 5
    assert sheet.equals(audit.sample_sheet(table, per_direction=5, seed=1))
    assert not sheet["negative"].equals(audit.sample_sheet(table, 5, seed=2)["negative"])


@pytest.mark.parametrize("content", [[], {"items": []}, {"items": [{"video": "a"}]}])
def test_a_file_of_another_schema_is_refused(tmp_path, content):
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="x.json"):
        audit.read_regions(tmp_path / "x.json")


def test_the_figures_draw_any_part_of_the_table(small):
    regions, table = small
    violations_by_kind(audit.violation_table(regions, table, n_boot=50))
    overlap_distribution(table[table["abnormal"]])
    with pytest.raises(InputError, match="overlap"):
        overlap_distribution(table.drop(columns="overlap"))


def test_the_published_file_holds_what_was_counted_by_other_means(shared_data):
    regions = audit.read_regions(shared_data / "vagta" / "qwen_vl_train.json")
    table = audit.negatives_table(regions)
    assert (len(regions), len(table)) == (3726, 11175)
    counts = table[list(audit.CONTRACT[1:])].sum()
    assert counts["over-long"] == 584 and counts["not text"] == 0
    assert counts["not English"] == 4 and counts["equal to the positive"] == 3
    assert table["negative"].nunique() == 9276
    assert (3 - regions["negatives"].map(len)).sum() == 3
