"""Writing hard negatives: the contract of an answer, resume, the published format."""

import json

import pytest

from alertclip.errors import InputError
from alertclip.records import Item, Keyframe, Region
from alertclip.vagta import load_surrogate, load_vagta
from companion.profiles import load_params
from curation import negatives
from curation.contract import is_english, normal_form, read_answer, violations
from curation.endpoint import NoReply, estimated_tokens
from curation.writers import TemplateWriter, Unit, estimate, load_negative_prompts, units
from curation.writing_results import Results
from miniworld.world import clip_jobs
from miniworld.world_annotations import entries, write_annotations

GOOD = ["Two men hug each other.", "Two men dance in the park.", "Two men shake hands."]
FENCED = "```json\n" + json.dumps(GOOD) + "\n```"
PROMPTS = load_negative_prompts()
UNIT = Unit("MSAD/a.mp4", 0, "Two men fight.", False, None, None, None)


def kinds(answer, positive="Two men fight."):
    return [(v.kind, v.index) for v in read_answer(answer, positive)[1]]


# --- the contract


def test_an_answer_that_keeps_the_contract_passes_fenced_or_not():
    for answer in (json.dumps(GOOD), FENCED, f"\n{FENCED}\n"):
        assert read_answer(answer, "Two men fight.") == (GOOD, [])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Sure! " + json.dumps(GOOD), [("not JSON", None)]),
        (json.dumps(GOOD)[:-9], [("not JSON", None)]),
        (FENCED + "\nHope this helps!", [("not JSON", None)]),
        ("[" * 100_000, [("not JSON", None)]),
        (json.dumps({"captions": GOOD}), [("not a list", None)]),
        (json.dumps(GOOD[:2]), [("wrong number", None)]),
        (json.dumps([*GOOD, "Two men wave."]), [("wrong number", None)]),
        (json.dumps([GOOD[0], 7, " "]), [("not text", 1), ("not text", 2)]),
        (json.dumps([*GOOD[:2], "two men HUG, each other"]), [("repeated", 2)]),
        (json.dumps([*GOOD[:2], " two  men “fight”!"]), [("equal to the positive", 2)]),
        (json.dumps([*GOOD[:2], "Two men 穿梭 the park."]), [("not English", 2)]),
        (json.dumps([*GOOD[:2], "Deux hommes dansent dans le parc."]), [("not English", 2)]),
    ],
)
def test_each_broken_rule_is_named_with_its_string(answer, expected):
    assert kinds(answer) == expected


def test_twenty_tokens_pass_and_twenty_one_do_not():
    twenty = "the man in the park " * 4
    assert violations([twenty, *GOOD[:2]], "x") == []
    assert violations([twenty + "the", *GOOD[:2]], "x")[0].kind == "over-long"


def test_english_is_told_from_other_languages():
    assert is_english("A woman enters a café and sits at a table—alone.")
    others = [
        "Zwei Männer kämpfen auf der Straße.",
        "Dos hombres pelean en la calle.",
        "两个人走路",
    ]
    assert not any(map(is_english, [*others, "Мужчины дерутся.", "123", ""]))
    assert normal_form("Two  MEN, fight!") == normal_form("two men ｆight")


# --- resume


class Scripted:
    """A writer that answers from a list and counts; stands for any other."""

    name = "scripted"
    usage = None

    def __init__(self, answers):
        self.answers, self.asked = answers, []

    def write(self, unit, answer="", broken=()):
        self.asked.append(unit.region_index)
        found = self.answers[min(len(self.asked), len(self.answers)) - 1]
        if isinstance(found, BaseException):
            raise found
        return found


def test_a_killed_run_goes_on_where_it_stopped(tmp_path):
    path, many = tmp_path / "r.jsonl", [Unit("a", i, f"x {i}", True, *[None] * 3) for i in range(4)]
    killed = Scripted([FENCED, "no list", FENCED, KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        negatives.write_all(killed, many, path, repairs=0)
    with path.open("ab") as stream:
        stream.write('{"digest": "torn — no line end'.encode())
    again = Scripted([FENCED])
    rows = negatives.write_all(again, many, path, repairs=0)
    assert again.asked == [1, 3] and len(rows) == 4
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert len(path.read_bytes().splitlines()) == 5  # the broken one stays on record
    assert negatives.remaining(again, many, Results(path)) == []
    other = [Unit("a", 0, "another caption", True, *[None] * 3)]
    assert negatives.remaining(again, other, Results(path)) == other
    path.write_bytes(b"nonsense\n" + path.read_bytes())
    with pytest.raises(InputError, match="line 1"):
        Results(path)


def test_one_silent_unit_does_not_stop_the_batch_and_a_dead_endpoint_does(tmp_path):
    many = [Unit("a", i, "x", True, *[None] * 3) for i in range(20)]
    writer = Scripted([FENCED, NoReply("HTTP 500"), FENCED, *[NoReply("gone")] * 9])
    with pytest.raises(InputError, match="5 units in a row got no reply; the last: gone"):
        negatives.write_all(writer, many, tmp_path / "r.jsonl", repairs=0)
    assert writer.asked == list(range(8))


# --- units, frames, published format


def test_units_are_the_regions_with_their_times():
    track = (Keyframe(26, (0, 0, 1, 1)), Keyframe(51, (0, 0, 1, 1), False))
    fight = Item(
        "MSAD/Fighting/a.mp4", "g", (Region("r0", track), Region("r1", (), (), (0.0, 2.0)))
    )
    calm = Item("UCF/Training_Normal_Videos_Anomaly/n.mp4", "g", (Region("c"),), (5.0, 9.0))
    found = [(u.region_index, u.frames_25, u.span, u.abnormal) for u in units([fight, calm])]
    spans = [(0, (26, 51), (1.0, 2.0), True), (1, (1, 51), (0.0, 2.0), True)]
    assert found == [*spans, (0, None, (5.0, 9.0), False)]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """The annotation files of a small mini world, without its videos."""
    folder = tmp_path_factory.mktemp("world")
    jobs = [job for split in ("train", "dev") for job in clip_jobs(split, 64, "flat", 0)]
    write_annotations(folder, [(job, entries(job)) for job in jobs])
    return folder


def test_the_template_writer_publishes_the_worlds_own_negatives(tmp_path, texts):
    P = load_params("mini", {"world_train": 64, "world_dev": 64})
    items, _ = load_vagta(texts / "vagta_train.json")
    writer, chosen = TemplateWriter(P, "train"), units(items)
    rows = negatives.write_all(writer, chosen, tmp_path / "r.jsonl")
    assert {row["status"] for row in rows.values()} == {"ok"}
    made = negatives.published(writer, chosen, rows, "vagta_train.json")
    world = json.loads((texts / "hard_negatives_train.json").read_text())
    assert made.keys() == world.keys()
    kept = [row["attempts"] == 1 for row in rows.values()]
    same = [a == b for a, b in zip(made["items"], world["items"], strict=True)]
    assert same == kept and sum(kept) > 50  # the others were over-long and are repaired
    path = tmp_path / "made.json"
    path.write_text(json.dumps(made))
    read, report = load_vagta(texts / "vagta_train.json", path)
    assert all(len(item.regions[0].hard_negatives) == 3 for item in read)
    assert not any("hard negative" in row.reason for row in report.rows)
    assert len(load_surrogate(path)[0]) == 64


def test_the_dry_run_estimates():
    calm, fight = UNIT, Unit("a", 1, "Two men fight.", True, *[None] * 3)
    expected = estimate([calm, fight], PROMPTS, 4, (2.0, 10.0))
    prompts = sum(
        estimated_tokens(PROMPTS.system + PROMPTS.task(u), 0, (1, 1)) for u in (calm, fight)
    )
    assert expected["prompt_tokens"] == pytest.approx(prompts + 4 * 192, abs=1)  # 336*448/28**2
    assert expected["completion_tokens"] == 160 and expected["images"] == 4
    assert expected["cost"] == pytest.approx((expected["prompt_tokens"] * 2 + 1600) / 1e6, abs=1e-4)


def test_a_prompt_file_is_checked(tmp_path):
    for text, message in [("system: x", "missing"), ("[", "YAML"), ("- 1", "not a prompt file")]:
        (tmp_path / "p.yaml").write_text(text)
        with pytest.raises(InputError, match=message):
            load_negative_prompts(tmp_path / "p.yaml")
