"""MSS by hand, bootstrap intervals that cover, and the prompt file."""

import numpy as np
import pytest

from alertclip import mss
from alertclip.intervals import bootstrap_interval
from alertclip.prompts import load_prompts
from alertclip.score import PROMPTS
from media.errors import InputError


def unit(rng, *shape):
    x = rng.normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_set_similarities_are_means_of_cosines():
    rng = np.random.default_rng(0)
    x, normal, abnormal = unit(rng, 4, 8), unit(rng, 3, 8), unit(rng, 5, 8)
    expected = np.stack([(x @ normal.T).mean(1), (x @ abnormal.T).mean(1)], axis=1)
    np.testing.assert_allclose(mss.set_similarities(x, normal, abnormal), expected, atol=1e-12)


def test_mss_table_per_class():
    similarities = np.array([[0.0, 0.2], [0.1, 0.0], [0.3, 0.0], [0.5, 0.1]])
    classes = ["Fire", "Fire", "Normal", "Normal"]
    table = mss.mss_table(similarities, [1, 1, 0, 0], classes, n_boot=50)
    assert table["class_name"].tolist() == ["all", "Fire", "Normal"]
    assert table["n"].tolist() == [4, 2, 2]
    assert table["mss"].tolist() == pytest.approx([0.2, 0.05, 0.35])
    assert table["right_signed"].tolist() == [0.75, 0.5, 1.0]
    assert ((table["low"] <= table["mss"]) & (table["mss"] <= table["high"])).all()


def test_bootstrap_interval_covers_and_repeats():
    rng = np.random.default_rng(1)
    intervals = [bootstrap_interval(rng.normal(size=60), n_boot=300, seed=s) for s in range(100)]
    assert 0.85 <= np.mean([i.low <= 0 <= i.high for i in intervals]) <= 1.0
    values = rng.normal(size=60)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)


def test_the_prompt_file_names_every_class():
    prompts = load_prompts(PROMPTS)
    world = "Normal Fighting Robbery Shooting Vandalism RoadAccidents Fire Explosion People_falling"
    ucf = "Abuse Arrest Arson Assault Burglary Shoplifting Stealing"
    msad = "Object_falling Traffic_accident Water_incident"
    assert set(prompts.classes) == set(f"{world} {ucf} {msad}".split())
    assert not set(prompts.sets.normal) & set(prompts.sets.abnormal)


@pytest.mark.parametrize(
    "rest, message",
    [
        ("abnormal: []", "abnormal: .*at least 1 item"),
        ("abnormal: [fire, ' ']", "abnormal.1: "),
        ("abnormal: [fire]\nabnormals: [x]", "abnormals: "),
        ("abnormal: [fire]\nclasses: {Fire: fire}", "classes.Fire: "),
    ],
)
def test_a_bad_prompt_file_names_the_entry(tmp_path, rest, message):
    (tmp_path / "p.yaml").write_text(f"normal: [calm]\n{rest}\n")
    with pytest.raises(InputError, match=rf"p\.yaml: {message}"):
        load_prompts(tmp_path / "p.yaml")
