"""Instruction data in LLaVA's conversation format (VA-GPT, supplementary 1.1).

A timed caption is a clip; each gets three question-answer pairs, the last of which asks whether
there are any anomalies. The paper says three but counts 16,308 pairs for 4,077 clips, four each.

``python -m vagpt.instructions UCFCrime_Train.json --data-root FOLDER --out instructions.json``
reads UCA's captions, leaves out UCF-Crime's test videos and writes pairs by template, or by a chat
model with ``--chat-url URL --chat-model NAME``.
"""

import argparse
import json
import re
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from alertclip.prompts import load_prompts
from alertclip.records import Report, item_key
from alertclip.score import load_model
from curation.chat_models import Endpoint, NoReply, Results
from detectors.benchmarks import load_benchmark
from media.errors import InputError
from media.files import sha256_json, write_json
from vagpt.questions import words
from vagpt.timed_captions import TimedCaption, read_uca, text_judge, training_only

PARAMS = Path(__file__).resolve().parents[2] / "params"
FORM = yaml.safe_load((PARAMS / "facts" / "instructions.yaml").read_text(encoding="utf-8"))
LAST = "Are there any anomalies?"
PAIRS = 3  # per clip
ATTEMPTS = 3  # replies that a model may give per clip
Pair = tuple[str, str]  # a question and its answer


def template_pairs(caption: TimedCaption) -> list[Pair]:
    """Return pairs by template; the wording of the questions is drawn by clip."""
    rng = np.random.default_rng([0, zlib.crc32(_key(caption).encode())])
    when, finding = "Over the whole video.", "everything in it is normal."
    if np.isfinite(caption.end):
        when = f"From {caption.start:.1f} s to {caption.end:.1f} s."
    if caption.abnormal:
        finding = f"{words(caption.class_name)}. {caption.sentence}"
    questions = str(rng.choice(FORM["what"])), str(rng.choice(FORM["when"])), LAST
    answers = caption.sentence, when, f"{verdict(caption)}, {finding}"
    return list(zip(questions, answers, strict=True))


def model_pairs(caption: TimedCaption, model: Endpoint) -> list[Pair]:
    """Return pairs that a model writes from the caption; it is told what is wrong with a reply.

    Raises NoReply after ATTEMPTS wrong replies.
    """
    kind = f"an anomaly ({words(caption.class_name)})" if caption.abnormal else "nothing abnormal"
    fields = {"caption": json.dumps(caption.sentence), "kind": kind, "verdict": verdict(caption)}
    prompt, correction = FORM["task"].format(last=LAST, **fields), ""
    for _ in range(ATTEMPTS):
        pairs, problem = read_pairs(model.ask(prompt + correction), caption)
        if not problem:
            return pairs
        correction = FORM["again"].format(broken=problem)
    raise NoReply(f"{ATTEMPTS} replies broke the form, the last: {problem}")


def read_pairs(reply: str, caption: TimedCaption) -> tuple[list[Pair], str]:
    """Return the pairs of a reply, or none and what is wrong with it."""
    try:
        pairs = [(v["question"].strip(), v["answer"].strip()) for v in json.loads(reply)]
    except (ValueError, RecursionError, TypeError, LookupError, AttributeError):
        return [], "it is not one JSON list of questions and answers and nothing else"
    if len(pairs) != PAIRS or not all(map(all, pairs)):
        return [], f"it is not a list of {PAIRS} questions with answers"
    if len({question.casefold() for question, _ in pairs}) < PAIRS:
        return [], "a question comes twice"
    if pairs[-1][0] != LAST:
        return [], f"the last question is not {LAST}"
    if not re.match(rf"{verdict(caption)}\b", pairs[-1][1]):
        return [], f"the last answer does not begin with {verdict(caption)}"
    return pairs, ""


def verdict(caption: TimedCaption) -> str:
    """Return Yes if the clip is abnormal, else No."""
    return "Yes" if caption.abnormal else "No"


def conversation(caption: TimedCaption, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return a LLaVA record of turns by human and gpt; the first question has the image token."""
    turns = []
    for number, (question, answer) in enumerate(pairs):
        text = question if number else f"<image>\n{question}"
        turns += [{"from": "human", "value": text}, {"from": "gpt", "value": answer}]
    record = {"id": _key(caption), "video": caption.video, "conversations": turns}
    if np.isfinite(caption.end):
        record["time"] = [caption.start, caption.end]
    return record


def write_instructions(
    captions: Sequence[TimedCaption],
    write: Callable[[TimedCaption], list[Pair]],
    name: str,
    path: Path,
) -> tuple[list[dict[str, Any]], Report]:
    """Write the records of all clips to ``path`` (JSON); the report lists clips without one.

    ``write`` raises NoReply where it has no pairs to give; ``name`` identifies it. Each result is
    saved at once in a .jsonl beside it, so that a restarted call only writes what is missing.
    InputError if there are no captions.
    """
    if not captions:
        raise InputError(
            "no caption is of a training video of this benchmark; to train on one and test on"
            " another: python -m companion.vagpt_exam --benchmark NAME"
        )
    done, report, records = Results(path.with_suffix(".jsonl")), Report(), []
    for caption in captions:
        digest = sha256_json([name, *caption])
        if digest not in done.rows:
            try:
                record = conversation(caption, write(caption))
            except NoReply as error:
                report.add(_key(caption), str(error), "left out")
                continue
            done.add({"digest": digest, "record": record})
        records.append(done.rows[digest]["record"])
    write_json(path, records)
    return records, report


def _key(caption: TimedCaption) -> str:
    bounded = np.isfinite(caption.end)
    return item_key(caption.video, (caption.start, caption.end) if bounded else None)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m vagpt.instructions", description=__doc__)
    add = parser.add_argument
    add("file", type=Path, help="a caption file of UCA")
    add("--data-root", type=Path, required=True, help="folder with the benchmark's split lists")
    add("--out", type=Path, default=Path("instructions.json"))
    add("--benchmark", default="ucf_crime", help="whose test videos are left out")
    add("--model", default="miniclip", help="CLIP that judges which sentence is an anomaly")
    add("--pretrained", help="open_clip tag or safetensors file for --model")
    add("--prompts", type=Path, default=PARAMS / "prompts.yaml")
    add("--chat-url", default="", help="endpoint of --chat-model")
    add("--chat-model", default="", help="chat model that writes; none = template")
    args = parser.parse_args(arguments)
    if bool(args.chat_url) != bool(args.chat_model):
        parser.error("give --chat-url and --chat-model together")
    try:
        benchmark, prompts = load_benchmark(args.benchmark), load_prompts(args.prompts)
        clip, _ = load_model(args.model, args.pretrained, "cpu")
        texts = {name: prompts.classes.get(name) or [words(name)] for name in benchmark.classes}
        judge = text_judge(clip.encode_text, texts | {"Normal": prompts.sets.normal})
        read, reading = read_uca(args.file, benchmark.classes, judge)
        captions, leaking = training_only(read, benchmark, args.data_root)
        write, name = template_pairs, "template"
        if args.chat_model:
            model = Endpoint(args.chat_url, args.chat_model)
            write, name = lambda caption: model_pairs(caption, model), model.name
        records, writing = write_instructions(captions, write, name, args.out)
        report = Report([*reading.rows, *leaking.rows, *writing.rows])
        report.to_csv(args.out.with_suffix(".csv"))
    except InputError as error:
        sys.exit(str(error))
    print(f"{args.out}: {len(records)} clips; {len(report.rows)} findings in the .csv beside it")


if __name__ == "__main__":
    main()
