"""How MiniVLM is made: its tokenizer, and the footage it learns from."""

import numpy as np
import torch

from companion import mini_vlm
from vagpt.timed_captions import TimedCaption


def test_each_time_is_one_token_and_no_character_is_lost():
    text = "USER: When? ASSISTANT: fire, from 18.4 s to 24.0 s"
    tokenizer = mini_vlm.word_tokenizer([text.replace("18.4", "1.0"), "USER: \n"])
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.convert_tokens_to_ids(" 18.4") in ids and tokenizer.decode(ids) == text
    first = tokenizer("USER: \nWhen, fire? USER: fire", add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in ids + first


def test_answers_name_the_abnormal_clip_and_its_time():
    captions = [TimedCaption(f"n{i}", "Normal", 0.0, 8.0, "A walk.", False) for i in range(9)]
    captions += [TimedCaption("a", "Fire", 2.5, 8.0, "A fire.", True)]
    tokens = torch.arange(10.0)[:, None, None, None].expand(10, 6, 16, 4)  # a clip's number
    school, rng = mini_vlm.School(tokens, captions, ["Fire"], 2), np.random.default_rng(0)
    for item in (school.footage(rng, 4) for _ in range(20)):
        place = np.flatnonzero(item.shown.tokens[::2, 0, 0, 0] == 9)
        start = 8.0 * place[0] if len(place) else 0
        answer = f"fire, from {start + 2.5:.1f} s to {start + 8:.1f} s"
        assert item.turns[0][1] == (answer if len(place) else "No anomaly")
        assert item.shown.tokens.shape == (8, 1, 4, 4) and (np.diff(item.shown.times) > 0).all()
        happens = {q: a for q, a in item.turns if q.startswith("What happens")}
        event = happens.get(f"What happens from {start:.1f} s to {start + 8:.1f} s?", "fire")
        assert len(happens) == 3 and (event == "fire") >= len(place)
