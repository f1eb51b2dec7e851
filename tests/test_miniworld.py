"""The mini world: nothing leaks before the event, files follow the schemas, seeds fix everything.

MiniCLIP's pre-training: its loss, its seed, and the folder that open_clip reads.
"""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from test_frames import sequential

import miniworld
from alertclip.backbone import load_backbone
from media.errors import InputError
from media.files import sha256_file
from miniworld import prior
from miniworld.captions import WORDINGS
from miniworld.plan import FPS, FRAMES, PAIRS, SEEDS, draw_plan
from miniworld.render import Shot, event_box
from miniworld.stills import GENERIC, PEOPLE, TOPICS

OPENINGS = [wordings[-1].split("{")[0].strip() for wordings in WORDINGS.values()]  # held out


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("world")
    miniworld.generate(out, train=20, dev=2, test=16, workers=1)
    return out


def clips(world):
    return pd.read_csv(world / "clips.csv").to_dict("records")


@pytest.mark.parametrize("style", ["flat", "line"])
def test_twins_are_equal_until_the_event_and_differ_after(style):
    for seed in range(70_001, 70_033):
        plan = draw_plan(seed, "test", 0, style)
        shot = Shot(plan)
        for k in (0, plan.start // 2, plan.start - 2, plan.start - 1):
            normal, abnormal = (shot.frame(twin, k / FPS) for twin in (False, True))
            assert np.array_equal(normal, abnormal), (seed, k)
        after = (plan.start + 12) / FPS
        assert not np.array_equal(shot.frame(False, after), shot.frame(True, after))


def test_twins_are_equal_until_the_event_after_h264(world):
    rows = [row for row in clips(world) if row["split"] == "test"]
    for normal, abnormal in zip(rows[::2], rows[1::2], strict=True):
        start = int(normal["event_start_s"] * FPS)
        assert normal["seed"] == abnormal["seed"] and 0.22 <= start / FRAMES <= 0.42
        a, b = (sequential(world / row["video"])[1] for row in (normal, abnormal))
        assert a.shape == b.shape == (FRAMES, 240, 320, 3)
        assert np.array_equal(a[:start], b[:start]) and not np.array_equal(a, b)


def test_same_seed_same_files_whatever_the_workers(world, tmp_path):
    miniworld.generate(tmp_path, train=20, dev=2, test=16, workers=2)

    def digests(root):
        return {p.relative_to(root): sha256_file(p) for p in root.rglob("*") if p.is_file()}

    assert digests(tmp_path) == digests(world)


def test_complete_worlds_are_reused_and_interrupted_ones_resumed(world):
    mark = world / "world.json"
    row = clips(world)[5]
    missing, kept = world / row["video"], world / clips(world)[0]["video"]
    before, stamp = missing.read_bytes(), kept.stat().st_mtime_ns
    missing.unlink()
    miniworld.generate(world, train=20, dev=2, test=16, workers=1)
    assert not missing.exists()  # complete: nothing is looked at again
    mark.write_text(json.dumps({**json.loads(mark.read_text()), "complete": False}))
    miniworld.generate(world, train=20, dev=2, test=16, workers=1)
    assert missing.read_bytes() == before and kept.stat().st_mtime_ns == stamp


def test_foreign_folders_and_odd_counts_are_refused(tmp_path):
    (tmp_path / "MSAD").mkdir()
    for dev, message in ((0, "another folder"), (3, "even")):
        with pytest.raises(InputError, match=message):
            miniworld.generate(tmp_path, train=0, dev=dev, test=2)


def test_splits_are_balanced_and_disjoint(world):
    rows = clips(world)
    train, test = ([r for r in rows if r["split"] == s] for s in ("train", "test"))
    assert len(train) == 20 and sum(r["label"] for r in train) == 8
    assert sorted(r["class_name"] for r in test if r["label"]) == sorted(miniworld.CLASSES)
    assert len({r["video"] for r in rows}) == len(rows)
    ends = list(SEEDS.values())
    assert all(a.stop <= b.start for a, b in zip(ends[:-1], ends[1:], strict=True))
    elsewhere = {draw_plan(s, split).scene for split in ("train", "stills") for s in range(400)}
    assert miniworld.HELD_OUT_SCENE not in elsewhere and len(elsewhere) >= 8
    assert miniworld.HELD_OUT_SCENE in {draw_plan(s, "test").scene for s in range(70_001, 70_041)}


def test_annotations_follow_the_published_schema(world):
    for split in ("train", "dev", "test"):
        items = json.loads((world / f"vagta_{split}.json").read_text())
        hard = json.loads((world / f"hard_negatives_{split}.json").read_text())["items"]
        for item, negatives in zip(items, hard, strict=True):
            abnormal = not item["global_caption"].startswith("Normal video: ")
            track = item["box_infos"][0]
            assert bool(track) == abnormal and (world / item["video"]).exists()
            assert (item["timestamps"] == [0.0, 8.0]) == (not abnormal and "UCF" in item["video"])
            assert len(set(negatives["hard_negative"]) - set(item["region_captions"])) == 3
            for caption in (*item["region_captions"], *negatives["hard_negative"]):
                assert len(caption.split()) <= 20, caption
            clock = [key["frame"] for key in track]
            assert negatives["frames_25"] == ([clock[0], clock[-1]] if track else None)
            assert clock == sorted({*clock} & {*range(1, 201)})
            enabled = [key["enabled"] for key in track]
            assert enabled == [True] * (len(track) - 1) + [False] * abnormal
            for x1, y1, x2, y2 in (key["bbox"] for key in track):
                assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1
        text = json.dumps([items, hard]).lower()  # the held-out wording never reaches training
        assert split == "test" or not [o for o in OPENINGS if o.lower() in text]


def test_boxes_hold_what_the_event_changes():
    inside = total = 0.0
    for seed in range(70_001, 70_017):
        plan = draw_plan(seed, "test")
        t = (plan.start + 14) / FPS
        normal, abnormal = (Shot(plan).frame(twin, t) for twin in (False, True))
        a, b = (event_box(plan, twin, t) for twin in (False, True))
        change = np.abs(normal.astype(int) - abnormal).sum(2)
        x1, y1, x2, y2 = (f(p, q) for f, p, q in zip((min, min, max, max), a, b, strict=True))
        part = np.s_[int(y1 * 240) : int(y2 * 240) + 1, int(x1 * 320) : int(x2 * 320) + 1]
        inside, total = inside + change[part].sum(), total + change.sum()
    assert inside / total > 0.93  # the rest: shadows, spilt noise


def test_stills_are_neutral_seeded_and_paired():
    images, captions, attributes = miniworld.stills(400, seed=0, size=(64, 48), workers=1)
    assert images.shape == (400, 64, 48, 3) and len(captions) == len(attributes) == 400
    again, _, _ = miniworld.stills(16, seed=0, size=(64, 48), workers=1)
    assert np.array_equal(again, images[:16])
    topics = {event: {w.format(**PEOPLE, at="").strip() for w in (*WORDINGS[event][:-1], *more)}
              for event, more in TOPICS.items()}  # fmt: skip
    wild = set().union(*(topics[pair.event] for pair in PAIRS))
    loaded = sorted(wild.union(GENERIC, *topics.values()), key=len, reverse=True)
    first = [next((t for t in loaded if c.startswith(t)), "") for c in captions]
    assert 0.25 < np.mean([bool(t) for t in first]) < 0.45
    plain = [c.removeprefix(t) for c, t in zip(captions, first, strict=True)]
    words = {word for caption in plain for word in caption.replace(",", "").split()}
    assert not words & {"fight", "robs", "shoots", "crashes", "explodes", "flames", "falls", "gun",
                        "abnormal", "unusual", "hug", "dance"}  # fmt: skip
    # A topic says nothing about the twin: violent words are as likely on either.
    violent = np.array([t in wild for t in first])
    shown = np.array([a["abnormal"] == "1" for a in attributes])
    assert abs(violent[shown].mean() - violent[~shown].mean()) < 0.1
    assert 0.25 < np.mean([a["abnormal"] == "1" for a in attributes]) < 0.45


CAPTIONS = ["a red square", "a blue square", "a red circle", "a red square"]


def test_identical_captions_share_the_target():
    """Images 0 and 1 have one caption: each wants half its mass on either copy."""
    image = torch.eye(2)
    text = torch.eye(2)[[0, 0]]  # the same embedding, as the same caption has
    loss = prior.soft_contrastive_loss(image, text, torch.tensor(1.0), torch.tensor([5, 5]))
    # image -> text: both rows uniform, cross-entropy log 2. text -> image: logits (1, 0) in both
    # rows, targets (.5, .5): log(e + 1) - .5
    expected = (np.log(2) + np.log(np.e + 1) - 0.5) / 2
    assert float(loss) == pytest.approx(expected, abs=1e-6)


def make_stills(size: int):
    images = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), np.uint8)
    return images, CAPTIONS, prior.train_tokenizer(CAPTIONS)


def test_training_is_seeded():
    one, same, other = (
        prior.pretrain(*make_stills(128), steps=2, batch_size=4, seed=seed).state_dict()
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    assert not torch.equal(one["text_projection"], other["text_projection"])


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_saved_folder_is_the_model_that_was_trained(family, tmp_path):
    pixels = prior.RECIPES[family]["preprocess_cfg"]
    stills = make_stills(prior.RECIPES[family]["model_cfg"]["vision_cfg"]["image_size"])
    model = prior.pretrain(*stills, steps=1, batch_size=4, family=family)
    prior.save_prior(model, stills[2], tmp_path, {"what": "test"}, family)
    backbone = load_backbone(f"local-dir:{tmp_path}")
    assert [list(backbone.mean), list(backbone.std)] == [pixels["mean"], pixels["std"]]
    tokens = prior.encode_captions(stills[2], CAPTIONS)
    assert torch.equal(backbone.tokenizer(CAPTIONS), tokens)
    pixels = torch.randn(2, 3, *backbone.image_size)
    with torch.no_grad():
        texts, images = backbone.model.encode_text(tokens), backbone.model.encode_image(pixels)
        assert torch.allclose(texts, model.encode_text(tokens), atol=2e-2)  # fp16 on disk
        assert torch.allclose(images, model.encode_image(pixels), atol=5e-2)
