"""VA-GPT's language model, on a LLaVA of transformers' own class: random weights, or MiniVLM."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from faults.harness import refused
from test_video import write_ids

from companion import mini_vlm, other_models, vagpt_exam
from companion.profiles import load_params
from media.cache import FrameCache
from vagpt import effective_tokens as et
from vagpt import language_model as lm
from vagpt.answerers import arm_differences, arm_table
from vagpt.questions import Option, Question, prompt
from vagpt.temporal_classifier import text_prior

TURNS = [("What happens?", "Two men fight."), ("Are there any anomalies?", "Yes, fighting.")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("random") / "vlm"
    torch.manual_seed(0)
    mini_vlm.build([f"USER: \n{asked} ASSISTANT: {told} Because 1 s" for asked, told in TURNS], out)
    return out


@pytest.fixture
def vlm(folder):
    return lm.VisionLanguageModel(str(folder), pool=2)


def shown(vlm, frames=3, seed=0):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (frames, *vlm.image_size, 3), np.uint8)
    moved = rng.random((frames, 4, 4))
    moved[0] = np.inf  # has no frame before it
    return lm.Shown(vlm.see(pixels), moved, 2.0 * np.arange(frames))


def test_tokens_are_those_of_transformers_own_forward(folder, vlm):
    plain = lm.VisionLanguageModel(str(folder))
    frame = np.random.default_rng(1).integers(0, 256, (1, *vlm.image_size, 3), np.uint8)
    tokens = plain.see(frame)
    assert tokens.shape == (1, 8, 8, 192)
    item = lm.Dialogue(lm.Shown(tokens, np.full((1, 8, 8), np.inf), np.zeros(1)), TURNS[:1])
    inputs = plain.inputs([item])
    with torch.no_grad():
        ours = plain.model(**inputs).logits
        pixels = plain.processor.image_processor(images=list(frame), return_tensors="pt")
        ids = plain.sequence(item, np.ones((1, 8, 8), bool))[0][None]
        theirs = plain.model(input_ids=ids, pixel_values=pixels.pixel_values).logits
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    pooled = tokens.unflatten(1, (4, 2)).unflatten(3, (4, 2)).mean(dim=(2, 4))
    torch.testing.assert_close(vlm.see(frame), pooled)


@pytest.mark.parametrize(("share", "count"), [(1.0, 48), (0.5, 16 + 8 + 8), (0.1, 16 + 2 + 2)])
def test_kept_tokens_follow_the_rule(vlm, share, count):
    item = lm.Dialogue(shown(vlm), TURNS)
    kept = et.keep_top(item.shown.moved, share)
    ids, _ = vlm.sequence(item, kept)
    image = vlm.model.config.image_token_id
    assert int((ids == image).sum()) == kept.sum() == count
    embeds = vlm.inputs([item], share)["inputs_embeds"][0]
    expected = vlm.model.model.multi_modal_projector(item.shown.tokens[torch.tensor(kept)])
    torch.testing.assert_close(embeds[ids == image], expected)
    text = vlm.tokenizer.decode(ids[ids != image])
    assert text.index("0 s") < text.index("2 s") < text.index("4 s") < text.index("What happens?")


def test_the_loss_counts_answers_only(vlm):
    item = lm.Dialogue(shown(vlm), TURNS)
    ids, labels = vlm.sequence(item, np.ones((3, 4, 4), bool))
    counted = vlm.tokenizer.decode(labels[labels != lm.IGNORED])
    end = vlm.tokenizer.eos_token
    assert counted == f" Two men fight.{end} Yes, fighting.{end}"
    assert torch.equal(ids[labels != lm.IGNORED], labels[labels != lm.IGNORED])
    short = lm.Dialogue(et.between(item.shown, 0, 1), [("Why?", "Because.")])
    inputs = vlm.inputs([item, short])
    one = vlm.sequence(short, np.ones((1, 4, 4), bool))[0]
    assert inputs["attention_mask"].sum(1).tolist() == [len(ids), len(one)]
    with torch.no_grad():  # padding changes nothing
        alone, both = (vlm.model(**vlm.inputs(items)).logits[-1, -5:] for items in
                       ([short], [item, short]))  # fmt: skip
        torch.testing.assert_close(vlm.loss([item, short]), vlm.model(**inputs).loss)
    torch.testing.assert_close(alone, both, atol=1e-4, rtol=1e-4)


def test_tuning_moves_projector_and_adapters_only(folder, vlm, tmp_path):
    item = lm.Dialogue(shown(vlm), TURNS)
    vlm.adapt(rank=4)
    losses = vlm.fit(lm.draw_from([item], 2), 15, 1e-2, share=0.5)
    assert losses[-1] < losses[0] - 1
    trained = {n for n, p in vlm.model.named_parameters() if p.grad is not None}
    assert trained == {n for n, p in vlm.model.named_parameters() if p.requires_grad}
    assert all("lora_" in n or "multi_modal_projector" in n for n in trained)
    asked = lm.Dialogue(item.shown, [("What happens?", None)])
    answers = vlm.answer([asked], 0.5, 8)
    assert answers == vlm.answer([asked], 0.5, 8) == vlm.answer([asked, asked], 0.5, 8)[:1]
    vlm.save_adapter(tmp_path / "tuned")
    again = lm.VisionLanguageModel(str(folder), 2)
    before = {k: v.clone() for k, v in again.model.state_dict().items()}
    again.load_adapter(tmp_path / "tuned")
    assert again.answer([asked], 0.5, 8) == answers
    merged = again.model.merge_and_unload().state_dict()
    moved = {k for k, v in merged.items() if not torch.equal(v, before[k])}
    assert moved and all("projector" in k or "language_model.layers" in k for k in moved)


def test_joined_videos_keep_their_times(vlm):
    parts = [shown(vlm, 2, seed) for seed in (0, 1)]
    joined = lm.join_shown(parts, [0.0, 8.0])
    assert joined.times.tolist() == [0.0, 2.0, 8.0, 10.0]
    assert torch.equal(joined.tokens, torch.cat([part.tokens for part in parts]))
    assert np.isinf(joined.moved[2]).all() and joined.moved.shape == (4, 4, 4)


def test_a_video_becomes_one_file_of_tokens(vlm, tmp_path):
    path = write_ids(tmp_path / "v.mp4", 40)  # a grey that rises by 5 from frame to frame
    cache, file = FrameCache(tmp_path / "cache", vlm.image_size), tmp_path / "v.safetensors"
    first = et.video_tokens(vlm.see, path, file, cache, 4, 8)
    frames = et.frames_shown(path, cache, 4)
    assert first.tokens.shape == (4, 4, 4, 192) and first.moved.shape == (4, 4, 4)
    torch.testing.assert_close(first.tokens, vlm.see(frames), atol=1e-2, rtol=1e-2)
    assert np.isinf(first.moved[0]).all() and np.isfinite(first.moved[1:]).all()
    assert np.diff(first.times) == pytest.approx(np.diff(first.times)[:1].repeat(3))
    path.unlink()  # the file alone is enough
    again = et.video_tokens(vlm.see, path, file, cache, 4, 8)
    assert torch.equal(again.tokens, first.tokens) and np.array_equal(again.moved, first.moved)
    inner = et.between(first, first.times[1], first.times[3])
    assert inner.times.tolist() == first.times[1:3].tolist() and len(inner.tokens) == 2
    nearest = et.between(first, first.times[2] + 0.01, first.times[2] + 0.02)
    assert nearest.times.tolist() == [first.times[2]]


def test_arms_are_compared_on_the_same_questions(tmp_path, monkeypatch):
    keys = {"kind": ["total", "total", "temporal"], "video": ["a", "b", "a"]}
    right = {"none": [(0, 0, 0), (1, 0, 0)], "both": [(1, 1, 1), (1, 0, 1)]}
    tables = [
        pd.DataFrame(keys | {"correct": values, "arm": arm, "seed": seed, "chosen": 0.0})
        for arm, seeds in right.items()
        for seed, values in enumerate(seeds)
    ]
    answers = pd.concat(tables).assign(abnormal=[True, False, True] * 4)
    differences = arm_differences(answers).set_index("setting")["value"]
    assert differences.to_dict() == {"total": 50.0, "temporal": 100.0}
    values = arm_table(answers).set_index(["model", "setting"])["value"]
    assert values["none", "total"] == 25 and values["both", "total"] == 75
    monkeypatch.setattr("sys.argv", ["exam", "--benchmark", "nowhere", "--model", "none"])
    assert "choose from mini world, line drawings" in refused(vagpt_exam.main)
    monkeypatch.setattr("sys.argv", ["exam", "--profile", "paper"])
    assert "name a LLaVA" in refused(vagpt_exam.main)
    assert "no vision-language model" in refused(lm.VisionLanguageModel, str(tmp_path))


def test_replies_are_kept_by_domain_since_two_may_name_their_videos_alike(vlm, tmp_path):
    options = Option(), *(Option("Fire", (float(i), i + 1.0)) for i in range(3))
    asked = SimpleNamespace(questions=[Question("v", "total", 8.0, options, 0)])
    for number, source in enumerate(("flat", "line", "flat")):
        exam = vagpt_exam.Exam(asked, {"v": shown(vlm, seed=number)}, {"v": ""}, False, source)
        vagpt_exam.replies(vlm, exam, "none", 1.0, tmp_path / "none.jsonl")
    assert len((tmp_path / "none.jsonl").read_text().splitlines()) == 2


def test_log_odds_compare_the_words_that_come_next(vlm):
    items = [lm.Dialogue(shown(vlm, seed=i), [("Anomalies?", None)]) for i in range(2)]
    yes = [lm.Dialogue(item.shown, [("Anomalies?", "Yes")]) for item in items]
    inputs = vlm.inputs(yes)
    first = int((inputs["labels"][0] != lm.IGNORED).nonzero()[0])
    logits = vlm.model(**inputs).logits[:, first - 1]
    ids = [vlm.tokenizer(f" {word}", add_special_tokens=False).input_ids for word in ("Yes", "No")]
    place = next(i for i, (a, b) in enumerate(zip(*ids, strict=False)) if a != b)
    odds = vlm.log_odds(items, "Yes", "No")
    expected = logits[:, ids[0][place]] - logits[:, ids[1][place]]
    np.testing.assert_allclose(odds, expected.detach().numpy(), atol=1e-4)
    np.testing.assert_allclose(vlm.log_odds(items, "No", "Yes"), -odds, atol=1e-6)


def test_odds_of_a_video_are_those_of_the_middle_frame_of_each_snippet(vlm, tmp_path, monkeypatch):
    path = write_ids(tmp_path / "v.mp4", 12)
    monkeypatch.setattr(other_models, "tested_videos", lambda P: {"v": path})
    P = load_params("smoke")  # snippets of 4 frames
    other_models.write_odds(P, vlm, tmp_path)
    odds = np.load(tmp_path / "v__0.npy")
    frames = FrameCache(tmp_path / "cache", vlm.image_size).get(path, [2, 6, 10])
    whole = np.full((1, 4, 4), np.inf)
    asked = [(other_models.QUESTION, None)]
    items = [lm.Dialogue(lm.Shown(part, whole, np.zeros(1)), asked) for part in
             vlm.see(np.asarray(frames)).split(1)]  # fmt: skip
    np.testing.assert_allclose(odds[:, 0], vlm.log_odds(items, "Yes", "No"), atol=1e-4)


def test_minivlm_reads_the_interval_before_a_question():
    vlm = lm.VisionLanguageModel(lm.SHIPPED, 2)
    grey = np.full((8, *vlm.image_size, 3), 127, np.uint8)
    frames = lm.Shown(vlm.see(grey), np.full((8, 4, 4), np.inf), 4.0 * np.arange(8) + 2)
    options = tuple(Option("Fire", (8.0 * k + 2.4, 8.0 * k + 8)) for k in range(4))
    question = Question("", "temporal", 32.0, options, 0)
    for right, option in enumerate(options):
        hint = text_prior(["Fire", "Fighting"], option.span[0] + 0.3, option.span[1])
        asked = prompt(question, hint, listed=False)
        likely = vlm.log_likelihood([lm.Dialogue(frames, [(asked, o.text)]) for o in options])
        assert likely.argmax() == right
        alone = [lm.Dialogue(frames, [(asked, option.text)])]
        assert likely[right] == pytest.approx(-vlm.loss(alone).item(), abs=1e-4)
