"""MiniVLM: a small LLaVA over MiniCLIP's tokens, where VA-GPT has LLaMA-VID.

It learns from stills of the mini world under neutral captions and from exercises in reading: what
can be seen, when, and which option a sentence names. No caption and no exercise says what in a
picture is abnormal. ``python -m companion.mini_vlm --out DIR`` makes it again.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import AddedToken, processors
from torch import Tensor

import miniworld
from alertclip.backbone import load_backbone
from alertclip.blip import renamed
from miniworld.prior import START, train_tokenizer
from vagpt.language_model import Dialogue, Shown, VisionLanguageModel
from vagpt.questions import LETTERS, Footage, Option, Question, make_questions, prompt
from vagpt.temporal_classifier import text_prior

IMAGE, POOL, FRAMES, STEP, PARTS = "<image>", 2, 8, 4.0, 4  # footage: 4 parts of 2 frames, 32 s
LENGTH = FRAMES * STEP
CHAT = (  # Vicuna's form, as in LLaVA-1.5
    "{% for m in messages %}{{ m['role'].upper() }}: {% for part in m['content'] %}"
    "{{ '<image>\n' if part['type'] == 'image' else part['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
SIZES = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4,
         "num_attention_heads": 4}  # fmt: skip
READING = 0.5  # share of the steps that come first and read only
CLASSES = sorted(miniworld.CLASSES)  # as a benchmark lists them


class Exercises:
    """Draws the dialogues of one step: all of one kind, so that they are about equally long."""

    def __init__(self, tokens: Tensor, captions: Sequence[str], size: int) -> None:
        """Visual tokens (N, h, w, W) of stills with their captions."""
        self.tokens, self.captions, self.size = tokens, captions, size
        self.all = (self.describe, self.look_up, self.choose, self.read)
        self.questions: list[Question] = []
        self.left = 0  # steps that still read only

    def __call__(self, rng: np.random.Generator) -> list[Dialogue]:
        """One step."""
        kinds = (self.match, self.match, self.read) if self.left > 0 else self.all
        self.left -= 1
        kind = kinds[rng.integers(len(kinds))]
        return [kind(rng) for _ in range(self.size)]

    def describe(self, rng: np.random.Generator) -> Dialogue:
        """One still: what can be seen?"""
        i = int(rng.integers(len(self.captions)))
        return Dialogue(self._show([i]), [("What can be seen here?", f"{self.captions[i]}.")])

    def look_up(self, rng: np.random.Generator) -> Dialogue:
        """Four stills one after the other: what can be seen at a time?"""
        picked = rng.integers(len(self.captions), size=PARTS)
        at = int(rng.integers(FRAMES))
        question = f"What can be seen at {STEP * (at + 0.5):.1f} s?"
        answer = self.captions[picked[at * PARTS // FRAMES]]
        shown = self._show(np.repeat(picked, FRAMES // PARTS))
        return Dialogue(shown, [(question, f"{answer}.")])

    def choose(self, rng: np.random.Generator) -> Dialogue:
        """Four stills: which option names one of them and its time?"""
        picked = rng.integers(len(self.captions), size=PARTS)
        right, shift = int(rng.integers(PARTS)), rng.uniform(0, 2.5, PARTS)
        order = rng.permutation(PARTS)  # of the times; the right option has its own
        place = np.flatnonzero(order == right)[0]
        order[[right, place]] = order[[place, right]]
        others = rng.integers(len(self.captions), size=PARTS)
        names = [self.captions[picked[k] if k == right else others[k]] for k in range(PARTS)]
        part = LENGTH / PARTS
        options = tuple(
            Option(name, (part * place + float(shift[k]), part * (place + 1)))
            for k, (name, place) in enumerate(zip(names, order, strict=True))
        )
        question = Question("stills", "total", LENGTH, options, right)
        lines = prompt(question).splitlines()
        lines[1] = "What can be seen in it, and when?"
        shown = self._show(np.repeat(picked, FRAMES // PARTS))
        return Dialogue(shown, [("\n".join(lines), LETTERS[right])])

    def read(self, rng: np.random.Generator) -> Dialogue:
        """No frames: which option's time is nearest to the time that a sentence names?"""
        if not self.questions:
            items = []
            for i in range(200):
                end = LENGTH / PARTS * float(rng.integers(1, PARTS + 1))
                span = end - float(rng.uniform(3, 7)), end
                items.append(Footage(str(i), LENGTH, (span,), (str(rng.choice(CLASSES)),)))
            self.questions = make_questions(items, CLASSES, int(rng.integers(1 << 30)))
        question = self.questions.pop()
        noise = 0.0 if self.left > 0 else 0.5  # s, of a classifier
        start, end = question.options[question.right].span + rng.normal(0, noise, 2)
        told = text_prior(CLASSES, max(0.0, start), min(LENGTH, max(end, start + 0.5)))
        return Dialogue(None, [(prompt(question, told), LETTERS[question.right])])

    def match(self, rng: np.random.Generator) -> Dialogue:
        """The same in short, for one option after the other."""
        [(question, _)] = self.read(rng).turns
        lines = question.splitlines()[-1 - len(LETTERS) :]
        turns, told = [], [line.rpartition("from ")[2] for line in lines[:-1] if "from" in line]
        for span in rng.permutation(told):
            letter = next(line[0] for line in lines if line.endswith(span))
            turns.append((f"One of them occurs from {span}.", letter))
        first = "\n".join([*lines, turns[0][0]])
        return Dialogue(None, [(first, turns[0][1]), *turns[1:]])

    def _show(self, numbers: Sequence[int]) -> Shown:
        tokens = self.tokens[torch.as_tensor(np.asarray(numbers))].float()
        times = STEP * (np.arange(len(numbers)) + 0.5)
        return Shown(tokens, np.full(tokens.shape[:3], np.inf), times)


def build(captions: Sequence[str], out: Path) -> None:
    """Write a MiniVLM to ``out`` with MiniCLIP's vision tower and a random language model."""
    backbone = load_backbone("miniclip")
    tokenizer = _tokenizer(captions)
    visual, size = backbone.model.visual, backbone.image_size
    block = visual.transformer.resblocks[0]
    vision = transformers.CLIPVisionConfig(
        hidden_size=visual.transformer.width, num_hidden_layers=visual.transformer.layers,
        num_attention_heads=block.attn.num_heads, intermediate_size=block.mlp.c_fc.out_features,
        image_size=size[0], patch_size=visual.patch_size[0], hidden_act="gelu",
    )  # fmt: skip
    text = transformers.LlamaConfig(
        vocab_size=len(tokenizer), tie_word_embeddings=True, max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, **SIZES,
    )  # fmt: skip
    number = tokenizer.convert_tokens_to_ids(IMAGE)
    parts = {"vision_config": vision, "text_config": text, "image_token_id": number}
    config = transformers.LlavaConfig(**parts, vision_feature_layer=-1, tie_word_embeddings=True)
    model = transformers.LlavaForConditionalGeneration(config)
    state = renamed(backbone.model.state_dict(), "clip")
    prefix = "vision_model."
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    tower = model.model.vision_tower
    missing, unexpected = getattr(tower, "vision_model", tower).load_state_dict(own, strict=False)
    assert not missing and not unexpected, (missing, unexpected)
    model.save_pretrained(out)
    images = transformers.CLIPImageProcessor(
        size={"height": size[0], "width": size[1]}, do_center_crop=False, resample=2,
        image_mean=list(backbone.mean), image_std=list(backbone.std),
    )  # fmt: skip
    processor = transformers.LlavaProcessor(
        images, tokenizer, patch_size=visual.patch_size[0], image_token=IMAGE, chat_template=CHAT,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip
    processor.save_pretrained(out)


def _tokenizer(captions: Sequence[str]) -> transformers.PreTrainedTokenizerFast:
    """Byte-level BPE over captions and exercises, in which whole numbers become one token."""
    rng = np.random.default_rng(0)
    exercises = Exercises(torch.zeros(len(captions), 1, 1, 1), captions, 1)
    texts = [exercises.read(rng).turns[0][0] for _ in range(2000)]
    numbers = [f" {n} s" for n in range(int(LENGTH) + 1) for _ in range(100)]
    roles = ["USER: ASSISTANT: Yes, No, everything in it is normal. A B C D"] * 100
    tokenizer = train_tokenizer([*captions, *texts, *numbers, *roles], lowercase=False)
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken(IMAGE, special=True)]})
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, tokenizer.bos_token_id)]
    )
    return tokenizer


def train(stills: int, steps: int, batch_size: int, seed: int, out: Path) -> None:
    """Write a trained MiniVLM (fp16) to ``out``."""
    images, captions, _ = miniworld.stills(stills, seed, workers=1)
    torch.manual_seed(seed)
    build(captions, out)
    vlm = VisionLanguageModel(str(out), POOL)
    tokens = vlm.see(images)
    for part in (vlm.model.model.language_model, vlm.model.model.multi_modal_projector):
        part.requires_grad_(True)
    draw = Exercises(tokens.half(), captions, batch_size)
    draw.left = round(READING * steps)
    vlm.fit(draw, steps, 2e-3, seed=seed, label="pre-training MiniVLM")
    vlm.model.half()
    vlm.save(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m companion.mini_vlm", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    for name, default in {"stills": 6000, "steps": 6000, "batch-size": 10, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    train(**vars(parser.parse_args()))
