"""VA-GPT's exam: a language model tuned on instruction data, with none, one or both of its tokens.

``python -m companion.vagpt_exam --profile paper --model llava-hf/llava-1.5-7b-hf --benchmark ucf``

Per seed, projector and LoRA train on all visual tokens, then briefly on the kept ones (VA-GPT).
Arms: spatial = kept tokens, temporal = the classifier's interval in the prompt. It trains on the
profile's own benchmark and is asked about that or another one (``transfer``). Below
``runs/<profile>/vagpt/``, and reused: questions.json per benchmark, visual tokens per video,
adapters, replies.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from alertclip.checkpoint import weights_hash
from companion import extraction, qa_tables
from companion.profiles import Params, read_command_line
from companion.splits import load_split
from companion.stage_runs import resolve_device
from companion.tuned_models import stage_model
from curation.chat_models import Results
from detectors.event_annotations import video_name
from media.cache import FrameCache
from media.errors import InputError
from media.files import progress, sha256_json, write_json, write_table
from vagpt import instructions, temporal_classifier
from vagpt.answerers import answer_all, arm_differences, arm_table, blind_answerer
from vagpt.effective_tokens import Shown, between, frames_shown, timm_patches, unit, video_tokens
from vagpt.language_model import Dialogue, VisionLanguageModel, draw_from, join_shown
from vagpt.questions import LETTERS, Footage, Question, QuestionSet, prompt
from vagpt.timed_captions import TimedCaption, from_items, training_only

ARMS = {"none": (False, False), "spatial": (True, False), "temporal": (False, True),
        "both": (True, True)}  # kept tokens, the classifier's interval  # fmt: skip
BATCH = 16  # questions answered at once
GALLERY = (  # VA-GPT, supplementary 2.1 and 2.2; last, the question that ends each clip's lesson
    "What happens in this clip?",
    "Where is the anomaly: top, bottom, centre, right or left?",
    "When does the anomaly happen?",
    "Are there any anomalies?",
)


class Exam(NamedTuple):
    """Questions; visual tokens and the classifier's sentence (``hints``) of each footage."""

    asked: QuestionSet
    shown: dict[str, Shown]
    hints: dict[str, str]
    listed: bool  # questions list their options
    source: str  # hash of the domain


class Course:
    """What all stages share: language model, classifier on Full, files of visual tokens."""

    def __init__(self, P: Params, name: str) -> None:
        """Load the language model ``name`` and train the classifier."""
        self.P, self.name, self.device = P, name, str(resolve_device(P))
        self.benchmark, self.root = extraction.detector_benchmark(P)
        self.full = stage_model(P, "full")
        self.classifier = qa_tables.fit_classifier(P, self.full)
        self.vlm = self.fresh()
        encoder = P.qa.token_encoder
        self.encode = timm_patches(encoder, device=self.device) if encoder else None
        tower = weights_hash(self.vlm.model.model.vision_tower)
        gap = P.detector.snippet_length
        tokens_digest = sha256_json([tower, encoder, P.qa.vlm_pool, P.qa.vlm_frames, gap])[:8]
        self.seen = P.run_dir / "vagpt" / f"tokens-{tokens_digest}"
        model_digest = sha256_json([tokens_digest, weights_hash(self.vlm.model)])[:8]
        self.folder = P.run_dir / "vagpt" / f"{Path(name).name}-{model_digest}"

    def fresh(self) -> VisionLanguageModel:
        """The language model before tuning."""
        return VisionLanguageModel(self.name, self.P.qa.vlm_pool, self.device)

    def tokens(self, P: Params, paths: Sequence[Path]) -> list[Shown]:
        """Visual tokens of the videos of a domain ``P``."""
        cache, gap = FrameCache(P.cache_dir, self.vlm.image_size), P.detector.snippet_length
        folder = self.seen / extraction.source_hash(P)
        files = [folder / f"{path.stem}.safetensors" for path in paths]
        pairs = progress(zip(paths, files, strict=True), len(paths), "visual tokens")
        settings = cache, P.qa.vlm_frames, gap, self.encode
        return [video_tokens(self.vlm.see, path, file, *settings) for path, file in pairs]

    def frames(self, exam: Exam, footage: str) -> np.ndarray:
        """Frames (T, H, W, 3) uint8 behind the tokens of a footage."""
        videos = exam.asked.parts[[f.name for f in exam.asked.footages].index(footage)]
        cache, paths = FrameCache(self.P.cache_dir, self.vlm.image_size), exam.asked.paths
        return np.concatenate([frames_shown(paths[i], cache, self.P.qa.vlm_frames) for i in videos])

    def exam(self, P: Params, asked: QuestionSet, vectors: Sequence[np.ndarray]) -> Exam:
        """An exam on ``asked``, whose videos have unit frame embeddings ``vectors`` of Full."""
        spans = qa_tables.classifier_spans(asked, self.classifier, vectors)
        classes = self.benchmark.abnormal_classes
        sentences = {k: temporal_classifier.text_prior(classes, *span) for k, span in spans.items()}
        shown, joined = self.tokens(P, asked.paths), {}
        for item, indices in zip(asked.footages, asked.parts, strict=True):
            lengths = [asked.videos[i].duration for i in indices]
            starts = np.cumsum([0.0, *lengths[:-1]]).tolist()
            joined[item.name] = join_shown([shown[i] for i in indices], starts)
        return Exam(asked, joined, sentences, self.P.qa.vlm_listed, extraction.source_hash(P))

    def test(self, P: Params, count: int | None = None) -> Exam:
        """The exam on a domain's test videos, or on the first ``count`` of them, half abnormal."""
        data = extraction.evaluation_set(P, self.full, "vadclip")
        asked = qa_tables.ask_questions(P, data, count)
        features = {t.name: unit(f) for t, f in zip(data.named, data.features, strict=True)}
        return self.exam(P, asked, [features[video.name] for video in asked.videos])

    def lessons(self) -> list[Dialogue]:
        """Instruction data of training videos, and four-option questions on them.

        The questions, with and without the classifier's interval, are ours: VA-GPT does not say if
        it trains on the format of its test. Each clip serves as a video and, with its middle frame,
        as an image.
        """
        P, captions = self.P, {}
        annotated = from_items(load_split(P, "train")[0])
        for caption in training_only(annotated, self.benchmark, self.root)[0]:
            captions.setdefault(caption.video, []).append(caption)
        data = extraction.training_set(P, self.full, "vadclip")
        vectors = {n: unit(f) for n, f in zip(data.names, data.features, strict=True)}
        paths = {video_name(path.name): path for path in extraction.chosen_videos(P)}
        names = [n for n in paths if n in captions and n in vectors][: P.qa.vlm_videos]
        shown = dict(zip(names, self.tokens(P, [paths[n] for n in names]), strict=True))
        step = P.detector.snippet_length / self.benchmark.fps
        videos = [_footage(n, captions[n], step * len(vectors[n])) for n in names]
        asked = qa_tables.question_set(P, videos, [paths[n] for n in names])
        exam = self.exam(P, asked, [vectors[n] for n in names])
        items = [_item(exam, q, interval, q.right)
                 for q in asked.questions for interval in (False, True)]  # fmt: skip
        timed = [caption for n in names for caption in captions[n]]
        return items + [d for c in timed for d in _instructions(c, shown[c.video])]

    def stage(self, lessons: Sequence[Dialogue], seed: int, kept: bool) -> Path:
        """Folder of the adapters after a stage, named by a hash of what determines them."""
        qa = self.P.qa.model_dump(exclude={"vlm_seeds"})
        decisive = {k: v for k, v in qa.items() if k.startswith(("vlm", "token_share"))}
        digest = sha256_json([decisive, [item.turns for item in lessons]])[:8]
        return self.folder / f"{'kept' if kept else 'all'}-seed{seed}-{digest}"

    def tuned(self, lessons: Sequence[Dialogue], seed: int, kept: bool) -> VisionLanguageModel:
        """The model after the first stage or, if ``kept``, after both; adapters are reused."""
        qa, vlm = self.P.qa, self.fresh()
        first, last = (self.stage(lessons, seed, k) for k in (False, kept))
        draw = draw_from(lessons, qa.vlm_batch_size)
        if finished := [folder for folder in (last, first) if folder.exists()]:
            vlm.load_adapter(finished[0])
        else:
            vlm.adapt(qa.vlm_rank, seed)
            vlm.fit(draw, qa.vlm_steps, qa.vlm_learning_rate, 1.0, seed, "tuning on all tokens")
            vlm.save_adapter(first)
        if not last.exists():
            vlm.fit(draw, qa.vlm_kept_steps, qa.vlm_learning_rate / 2, qa.token_share, seed,
                    "tuning on kept tokens")  # fmt: skip
            vlm.save_adapter(last)
        return vlm


def _footage(name: str, captions: Sequence[TimedCaption], duration: float) -> Footage:
    within = (c for c in captions if c.abnormal and c.start < duration)
    events = sorted({(c.start, min(c.end, duration), c.class_name) for c in within})
    return Footage(name, duration, tuple(e[:2] for e in events), tuple(e[2] for e in events))


def _item(exam: Exam, question: Question, interval: bool, option: int | None = None) -> Dialogue:
    text = prompt(question, exam.hints[question.video] if interval else "", exam.listed)
    names = LETTERS if exam.listed else [o.text for o in question.options]
    return Dialogue(exam.shown[question.video], [(text, None if option is None else names[option])])


def _answers(
    vlm: VisionLanguageModel, exam: Exam, asked: Sequence[Question], interval: bool, share: float
) -> list[str]:
    """Free replies, or the letter of the option that is likeliest per token."""
    if exam.listed:
        return vlm.answer([_item(exam, q, interval) for q in asked], share, max_new_tokens=8)
    items = [_item(exam, q, interval, k) for q in asked for k in range(len(LETTERS))]
    likelihood = vlm.log_likelihood(items, share).reshape(-1, len(LETTERS))
    return [LETTERS[k] for k in likelihood.argmax(axis=1)]


def _instructions(caption: TimedCaption, shown: Shown) -> list[Dialogue]:
    pairs = instructions.template_pairs(caption)
    clip = between(shown, caption.start, caption.end)
    middle = np.arange(len(clip.times)) == len(clip.times) // 2
    image = Shown(clip.tokens[middle], clip.moved[middle], clip.times[middle])
    return [Dialogue(clip, pairs), Dialogue(image, [pairs[0], pairs[-1]])]


def replies(
    vlm: VisionLanguageModel, exam: Exam, arm: str, share: float, file: Path
) -> dict[Question, str]:
    """The model's reply to each question; new ones are appended to ``file`` (.jsonl) at once."""
    kept, interval = ARMS[arm]
    results = Results(file)
    digests = {
        q: sha256_json([exam.source, arm, *q, prompt(q, exam.hints[q.video])])
        for q in exam.asked.questions
    }
    todo = [q for q in digests if digests[q] not in results.rows]
    batches = [todo[i : i + BATCH] for i in range(0, len(todo), BATCH)]
    for batch in progress(batches, len(batches), f"answers, {arm}"):
        texts = _answers(vlm, exam, batch, interval, share if kept else 1.0)
        for question, text in zip(batch, texts, strict=True):
            results.add({"digest": digests[question], "video": question.video, "reply": text})
    return {q: results.rows[digest]["reply"] for q, digest in digests.items()}


def sit(
    course: Course, exam: Exam, lessons: Sequence[Dialogue], arms: Sequence[str] = tuple(ARMS)
) -> pd.DataFrame:
    """Answers of every arm under every seed, and of a blind answerer.

    Columns of ``answer_all``, arm and seed.
    """
    P, asked, tables = course.P, exam.asked.questions, []
    for seed in P.qa.vlm_seeds:
        for kept in sorted({ARMS[arm][0] for arm in arms}):
            vlm, folder = course.tuned(lessons, seed, kept), course.stage(lessons, seed, kept)
            for arm in (arm for arm in arms if ARMS[arm][0] == kept):
                file = folder / f"{arm}.jsonl"
                reply_to = replies(vlm, exam, arm, P.qa.token_share, file)
                tables.append(answer_all(asked, reply_to.__getitem__).assign(arm=arm, seed=seed))
    blind = answer_all(asked, blind_answerer(asked)).assign(arm="blind", seed=0)
    return pd.concat([*tables, blind], ignore_index=True)


def talk(
    vlm: VisionLanguageModel, shown: Shown, asked: Sequence[str], share: float
) -> pd.DataFrame:
    """Free answers about a footage from the kept share of its tokens: columns question, answer."""
    items = [Dialogue(shown, [(question, None)]) for question in asked]
    return pd.DataFrame({"question": asked, "answer": vlm.answer(items, share)})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m companion.vagpt_exam", description=__doc__)
    add = parser.add_argument
    add("--model", default="", help="a LLaVA, by name or folder; empty = the profile's qa_vlm")
    add("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    add("--videos", type=int, help="number of test videos, half abnormal; default: all")
    add("--benchmark", default="", help="test domain, by the start of its title; empty = own")
    args, P = read_command_line(parser)
    if not (model := args.model or P.qa.vlm):
        raise InputError("name a LLaVA with --model, as llava-hf/llava-1.5-7b-hf")
    domains = extraction.domains(P)
    titles = [t for t in domains if t.casefold().startswith(args.benchmark.casefold())]
    if not titles:
        raise InputError(f"--benchmark {args.benchmark}: choose from {', '.join(domains)}")
    course = Course(P, model)
    exam = course.test(domains[titles[0]], args.videos)
    out = course.folder / titles[0].replace(" ", "_")
    records = [q._asdict() | {"prompt": prompt(q), "answer": LETTERS[q.right]}
             for q in exam.asked.questions]  # fmt: skip
    write_json(out / "questions.json", records)
    answers = sit(course, exam, course.lessons(), args.arms)
    write_table(arm_table(answers), out / "accuracy.csv")
    if "none" in args.arms:
        write_table(arm_differences(answers), out / "differences.csv")
    print(arm_table(answers).round(1).to_string(index=False))
    print(f"questions, replies and tables: {out}")


if __name__ == "__main__":
    main()
