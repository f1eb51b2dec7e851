"""MiniVLM: a small LLaVA on MiniCLIP's tokens, in place of VA-GPT's LLaMA-VID (7 B).

It sees training clips of the mini world alone, four joined to a footage, and learns in one stage
(LLaVA: two) captions and verdicts of clips, what happens between two times, and which anomaly
happens when, with and without an interval before the question. Each number is one token.
The recipe was chosen by hand on development clips.
``python -m companion.mini_vlm --out DIR`` trains it again.
"""

import argparse
import re
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn

from alertclip.backbone import load_backbone
from alertclip.blip import renamed
from companion import extraction
from companion.profiles import Params, read_command_line
from companion.splits import load_split
from media.cache import FrameCache
from media.files import progress, write_json
from miniworld.prior import END, PAD, START, UNKNOWN
from vagpt.effective_tokens import Shown
from vagpt.instructions import template_pairs
from vagpt.language_model import Dialogue, VisionLanguageModel
from vagpt.questions import Option, Question, prompt, words
from vagpt.temporal_classifier import text_prior
from vagpt.timed_captions import TimedCaption, from_items

IMAGE, POOL, LENGTH, PARTS = "<image>", 2, 8.0, 4  # a footage is four clips of 8 s
FRAMES = [8, 16, 24, 40, 48, 56]  # shown: one of the first three, one of the last three
WIDTH, LAYERS, HEADS, SPREAD = 128, 3, 4, 0.03  # of the language model; SD of its initial weights
PIECES = r" ?\d+\.\d| ?\d+| ?[A-Za-z]+(?:-[A-Za-z]+)*|\s|[^\sA-Za-z0-9]"
NUMBER = r" ?\d+(\.\d)?"
CHAT = (  # Vicuna's form, as in LLaVA-1.5
    "{% for m in messages %}{{ m['role'].upper() }}: {% for part in m['content'] %}"
    "{{ '<image>\n' if part['type'] == 'image' else part['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


class School:
    """Draws the dialogues of a training step from visual tokens (N, 6, n, W) and captions (N)."""

    def __init__(
        self, tokens: Tensor, captions: Sequence[TimedCaption], classes: Sequence[str], size: int
    ) -> None:
        """``size`` dialogues per step, all of one kind so that they are about equally long."""
        self.tokens, self.captions, self.classes, self.size = tokens, captions, classes, size
        is_abnormal = np.array([caption.abnormal for caption in captions])
        self.abnormal, self.normal = np.flatnonzero(is_abnormal), np.flatnonzero(~is_abnormal)

    def __call__(self, rng: np.random.Generator) -> list[Dialogue]:
        """Dialogues of one step; they show a quarter, half or all tokens of each frame."""
        share = rng.choice([0.25, 0.25, 0.5, 1.0])
        number = max(1, round(share * self.tokens.shape[2]))
        kind = (self.clip, self.footage)[int(rng.random() < 0.75)]
        return [kind(rng, number) for _ in range(self.size)]

    def clip(self, rng: np.random.Generator, number: int) -> Dialogue:
        """One clip: its caption, whether it is abnormal and, if so, when."""
        i = int(rng.choice(self.abnormal if rng.random() < 0.6 else self.normal))
        what, when, last = template_pairs(self.captions[i])
        turns = [what, *[when] * bool(self.captions[i].abnormal), last]
        return Dialogue(self._show([i], rng, number), turns if rng.random() < 0.5 else turns[::-1])

    def footage(self, rng: np.random.Generator, number: int) -> Dialogue:
        """Four clips, mostly one of them abnormal: which anomaly, when, and what at which time."""
        picked = rng.choice(self.normal, PARTS)
        slot, answer = int(rng.integers(PARTS)), Option()
        span = LENGTH * slot + np.array([2.0, LENGTH])  # a classifier's guess for normal footage
        if rng.random() < 0.7:
            picked[slot] = rng.choice(self.abnormal)
            caption = self.captions[picked[slot]]
            span = LENGTH * slot + np.array([caption.start, min(caption.end, LENGTH)])
            answer = Option(caption.class_name, tuple(span))
        interval = ""
        if rng.random() < 2 / 3:
            start, end = span + rng.normal(0, rng.choice([0, 0.4, 0.8]), 2)
            start = max(0.0, start)
            interval = text_prior(self.classes, start, min(max(end, start + 0.5), PARTS * LENGTH))
        kinds = ["total", *["temporal"] * (answer.class_name is not None)][:: rng.choice([-1, 1])]
        questions = [Question("", kind, PARTS * LENGTH, (answer,), 0) for kind in kinds]
        turns = [(prompt(questions[0], interval, listed=False), answer.text)]
        turns += [(prompt(q, listed=False).splitlines()[-1], answer.text) for q in questions[1:]]
        for position in rng.permutation(PARTS)[:3]:
            clip = self.captions[picked[position]]
            times = f"from {LENGTH * position:.1f} s to {LENGTH * (position + 1):.1f} s"
            happens = words(clip.class_name) if clip.abnormal else "everything is normal"
            turns.append((f"What happens {times}?", happens))
        return Dialogue(self._show(picked, rng, number), turns)

    def _show(self, picked: Sequence[int], rng: np.random.Generator, number: int) -> Shown:
        tokens, times = [], []
        for position, i in enumerate(picked):
            frames = np.array([rng.integers(0, 3), rng.integers(3, 6)])
            kept = np.sort(rng.permutation(self.tokens.shape[2])[:number])
            tokens.append(self.tokens[i, frames][:, None, kept].float())
            times.append(LENGTH * (position + np.array(FRAMES)[frames] / 64))
        joined = torch.cat(tokens)
        return Shown(joined, np.zeros(joined.shape[:3]), np.concatenate(times))


def word_tokenizer(texts: Sequence[str]) -> transformers.PreTrainedTokenizerFast:
    """Tokens for the words of ``texts`` and for times in tenths of a second up to 40 s.

    A word has two: one after a space and one at the start of a line, which follows an image.
    """
    types = dict.fromkeys(p.lstrip(" ") or p for text in texts for p in re.findall(PIECES, text))
    words = [p for p in types if p.isalpha() or "-" in p[1:]]
    marks = [p for p in types if p not in words and not re.fullmatch(NUMBER, p)]
    numbers = [f" {n / 10:.1f}" for n in range(401)]
    pieces = [f"{space}{p}" for space in ("", " ") for p in [*map(str, range(41)), *words]]
    vocabulary = {p: i for i, p in enumerate([PAD, UNKNOWN, START, END, *numbers, *pieces, *marks])}
    backend = Tokenizer(models.WordLevel(vocabulary, UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), "isolated")
    backend.decoder = decoders.Fuse()
    names = {"pad_token": PAD, "unk_token": UNKNOWN, "bos_token": START, "eos_token": END}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken(IMAGE, special=True)]})
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, tokenizer.bos_token_id)]
    )
    return tokenizer


def build(texts: Sequence[str], out: Path) -> None:
    """Write a MiniVLM to ``out`` with MiniCLIP's vision tower and a random language model.

    Embeddings of numbers start as sinusoids of their value, so that close times have similar ones.
    """
    backbone, tokenizer = load_backbone("miniclip"), word_tokenizer(texts)
    visual, size = backbone.model.visual, backbone.image_size
    block, patch = visual.transformer.resblocks[0], visual.patch_size[0]
    vision = transformers.CLIPVisionConfig(
        hidden_size=visual.transformer.width, num_hidden_layers=visual.transformer.layers,
        num_attention_heads=block.attn.num_heads, intermediate_size=block.mlp.c_fc.out_features,
        image_size=size[0], patch_size=patch, hidden_act="gelu",
    )  # fmt: skip
    text = transformers.LlamaConfig(
        vocab_size=len(tokenizer), tie_word_embeddings=True, initializer_range=SPREAD,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, hidden_size=WIDTH, intermediate_size=3 * WIDTH,
        num_hidden_layers=LAYERS, num_attention_heads=HEADS,
    )  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, vision_feature_layer=-1, tie_word_embeddings=True,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
    )  # fmt: skip
    model = transformers.LlavaForConditionalGeneration(config)
    prefix, state = "vision_model.", renamed(backbone.model.state_dict(), "clip")
    weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    tower = model.model.vision_tower
    getattr(tower, "vision_model", tower).load_state_dict(weights)
    waves = 2 * np.pi * np.geomspace(1 / 64, 2, WIDTH // 2)  # radians per second
    with torch.no_grad():
        for piece, i in tokenizer.get_vocab().items():
            if re.fullmatch(NUMBER, piece):
                value = torch.from_numpy(np.r_[np.sin(w := waves * float(piece)), np.cos(w)])
                model.get_input_embeddings().weight[i].mul_(0.5).add_(SPREAD * value)
    model.save_pretrained(out)
    images = transformers.CLIPImageProcessor(
        size={"height": size[0], "width": size[1]}, do_center_crop=False, resample=2,
        image_mean=list(backbone.mean), image_std=list(backbone.std),
    )  # fmt: skip
    transformers.LlavaProcessor(
        images, tokenizer, patch_size=patch, image_token=IMAGE, chat_template=CHAT,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    ).save_pretrained(out)  # fmt: skip


def whiten(projector: nn.Module, tokens: Tensor) -> None:
    """Initialise the projector so that its first layer standardises tokens (M, W)."""
    first, mean, spread = projector.linear_1, tokens.mean(dim=0), tokens.std(dim=0)
    with torch.no_grad():
        nn.init.normal_(first.weight, std=len(mean) ** -0.5).div_(spread)
        first.bias.copy_(-first.weight @ mean)
        nn.init.normal_(projector.linear_2.weight, std=0.05)


def train(P: Params, steps: int, batch_size: int, seed: int, out: Path) -> None:
    """Train a MiniVLM and write it (fp16) and its card to ``out``."""
    torch.manual_seed(seed)
    began, benchmark = time.monotonic(), extraction.detector_benchmark(P)[0]
    items = load_split(P, "train")[0]
    captions = from_items(items)
    empty = torch.zeros(len(captions), len(FRAMES), 1, 1)
    school = School(empty, captions, benchmark.abnormal_classes, batch_size)
    rng = np.random.default_rng(seed)
    turns = [turn for _ in range(400) for d in school(rng) for turn in d.turns]
    chats = [f"USER: \n{question} ASSISTANT: {answer}" for question, answer in turns]
    build([*chats, *(c.sentence for c in captions)], out)
    vlm = VisionLanguageModel(str(out), POOL)
    cache, tokens = FrameCache(P.cache_dir, vlm.image_size), []
    for item in progress(items, len(items), "visual tokens"):
        frames = np.asarray(cache.get(P.data_dir / item.video, FRAMES))
        tokens.append(vlm.see(frames).half())
    school.tokens = torch.stack(tokens).flatten(2, 3)
    llava = vlm.model.model
    whiten(llava.multi_modal_projector, school.tokens.float().flatten(0, 2)[::7])
    for module in (llava.language_model, llava.multi_modal_projector):
        module.requires_grad_(True)
    losses = vlm.fit(school, steps, 3e-3, seed=seed, label="pre-training MiniVLM")
    vlm.model.half().save_pretrained(out)
    card = {
        "what": "MiniVLM, a LLaVA over MiniCLIP; it knows nothing of the real world",
        "trained on": f"{len(captions)} training clips of the mini world, joined in fours",
        "steps": steps, "batch_size": batch_size, "seed": seed,
        "loss": round(float(np.mean(losses[-50:])), 3),
        "minutes": round((time.monotonic() - began) / 60, 1),
        "command": f"python -m companion.mini_vlm --out DIR --profile {P.profile} --steps {steps}"
        f" --batch-size {batch_size} --seed {seed}",
    }  # fmt: skip
    write_json(out / "card.json", card)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m companion.mini_vlm", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    for name, default in {"steps": 1200, "batch-size": 12, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args, P = read_command_line(parser)
    train(P, args.steps, args.batch_size, args.seed, args.out)
