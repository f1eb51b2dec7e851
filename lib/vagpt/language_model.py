"""VA-GPT's language model: a LLaVA of transformers that reads a share of the visual tokens.

Frames -> vision tower -> visual tokens -> those that changed (SETS) -> projector -> language model,
by ``inputs_embeds``. VA-GPT starts from LLaMA-VID, which transformers lacks; here any checkpoint
of ``LlavaForConditionalGeneration`` can be used, by name or folder. Unlike in LLaMA-VID, the time
of each frame precedes its tokens.

Axes: T frames, (h, w) token grid, W width of the tower, H of the language model, L length.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from math import isqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy
from torch.nn.utils.rnn import pad_sequence

from alertclip.backbone import WEIGHTS
from alertclip.training import learning_rate_factor
from media import files
from media.errors import InputError
from vagpt.effective_tokens import CHUNK, Shown, keep_top

warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is dep")  # PEFT still asks for it
SHIPPED = "minivlm"  # for the mini world; python -m companion.mini_vlm makes it
IGNORED = -100  # label of tokens that the loss ignores
WARMUP = 0.03  # share of the steps, LLaVA's
# LLaVA adapts every linear layer.
LINEAR = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"


class Dialogue(NamedTuple):
    """Questions about a footage and their answers; None is an answer to be generated."""

    shown: Shown
    turns: Sequence[tuple[str, str | None]]


class VisionLanguageModel:
    """A LLaVA with its processor; visual tokens are averaged over ``pool`` x ``pool``."""

    def __init__(self, name: str, pool: int = 1, device: str = "cpu") -> None:
        """Load safetensors weights, in bf16 on a GPU; InputError if there is no such LLaVA.

        "minivlm" is the one that ships.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor  # slow to import

        name = str(WEIGHTS / name) if name == SHIPPED else name
        safe = {"use_safetensors": True}
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        try:
            self.processor = AutoProcessor.from_pretrained(name)
            model = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype, **safe)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{name}: no vision-language model to load ({reason})") from None
        if model.config.model_type != "llava":
            kind = type(model).__name__
            raise InputError(f"{name}: is a {kind}; choose a LlavaForConditionalGeneration")
        self.model = model.to(device).eval().requires_grad_(False)
        self.name, self.pool, self.tokenizer = name, pool, self.processor.tokenizer

    @property
    def _llava(self) -> nn.Module:
        adapted = hasattr(self.model, "peft_config")
        return (self.model.get_base_model() if adapted else self.model).model

    @property
    def image_size(self) -> tuple[int, int]:
        """Frame size (H, W) of the vision tower."""
        return (self.model.config.vision_config.image_size,) * 2

    @torch.no_grad()
    def see(self, frames: np.ndarray) -> Tensor:
        """Return visual tokens (T, h, w, W) of frames (T, H, W, 3) uint8, before the projector."""
        seen: list[Tensor] = []
        llava, images = self._llava, self.processor.image_processor
        hook = llava.multi_modal_projector.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
        try:
            for chunk in np.split(frames, range(CHUNK, len(frames), CHUNK)):
                pixels = images(images=list(chunk.copy()), return_tensors="pt").pixel_values
                llava.get_image_features(pixels.to(self.model.device, self.model.dtype))
        finally:
            hook.remove()
        tokens = torch.cat(seen)
        side = isqrt(tokens.shape[1])
        grid = tokens.transpose(1, 2).unflatten(2, (side, side))
        return avg_pool2d(grid, self.pool).permute(0, 2, 3, 1).cpu()

    def pieces(self, turns: Sequence[tuple[str, str | None]]) -> Iterator[tuple[str, bool]]:
        """Yield a dialogue in the model's chat template by piece, and if the piece is an answer."""
        messages, before = [], ""
        for number, (question, answer) in enumerate(turns):
            image = [] if number else [{"type": "image"}]
            content = [*image, {"type": "text", "text": question}]
            messages.append({"role": "user", "content": content})
            template = self.processor.apply_chat_template
            prompt = template(messages, add_generation_prompt=True, tokenize=False)
            yield prompt.removeprefix(before), False
            if answer is not None:
                space = "" if prompt[-1].isspace() else " "
                yield f"{space}{answer}{self.tokenizer.eos_token}", True
                text = [{"type": "text", "text": answer}]
                messages.append({"role": "assistant", "content": text})
                before = template(messages, tokenize=False)

    def sequence(self, item: Dialogue, kept: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return token ids and labels (L,), with one image token per kept visual token."""
        ids = list(self.tokenizer("").input_ids)  # special tokens that begin every text
        labels, image = [IGNORED] * len(ids), self.processor.image_token
        counts = kept.sum(axis=(1, 2)).tolist()
        times = [f"{t:.0f} s " if len(counts) > 1 else "" for t in item.shown.times.tolist()]
        frames = " ".join(t + image * n for t, n in zip(times, counts, strict=True))
        for text, counted in self.pieces(item.turns):
            text = text.replace(image, frames)
            new = self.tokenizer(text, add_special_tokens=False).input_ids
            ids += new
            labels += new if counted else [IGNORED] * len(new)
        return torch.tensor(ids), torch.tensor(labels)

    def inputs(self, items: Sequence[Dialogue], share: float = 1.0) -> dict[str, Tensor]:
        """Return inputs_embeds (B, L, H), attention_mask and labels (B, L), padded left.

        Keeps the ``share`` of each frame's visual tokens that changed most.
        """
        masked = [(item, keep_top(item.shown.moved, share)) for item in items]
        sequences = [self.sequence(item, kept) for item, kept in masked]
        ids, labels = map(list, zip(*sequences, strict=True))
        ids = pad_sequence(ids, True, -1, "left").to(self.model.device)
        labels = pad_sequence(labels, True, IGNORED, "left").to(self.model.device)
        embeds = self.model.get_input_embeddings()(ids.clamp_min(0))
        visual = [item.shown.tokens[torch.from_numpy(kept)] for item, kept in masked]
        projector = self._llava.multi_modal_projector
        weights = list(projector.parameters())  # PEFT keeps a frozen copy in another precision
        weights = [p for p in weights if p.requires_grad] or weights
        tokens = torch.cat(visual).to(embeds.device, weights[0].dtype)
        places = (ids == self.model.config.image_token_id)[..., None]
        embeds = embeds.masked_scatter(places, projector(tokens).to(embeds.dtype))
        return {"inputs_embeds": embeds, "attention_mask": (ids >= 0).long(), "labels": labels}

    def loss(self, items: Sequence[Dialogue], share: float = 1.0) -> Tensor:
        """Mean cross-entropy of the answers' tokens."""
        logits, labels = self._answer_logits(items, share)
        return cross_entropy(logits, labels, ignore_index=IGNORED)

    @torch.no_grad()
    def log_likelihood(self, items: Sequence[Dialogue], share: float = 1.0) -> np.ndarray:
        """Mean log probability (B,) of the tokens of each dialogue's answers."""
        logits, labels = self._answer_logits(items, share)
        losses = cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")
        return (-losses.sum(dim=1) / (labels != IGNORED).sum(dim=1)).cpu().numpy()

    def _answer_logits(self, items: Sequence[Dialogue], share: float) -> tuple[Tensor, Tensor]:
        """Return logits (B, vocabulary, n) and labels (B, n) of tokens from the first answer on."""
        inputs = self.inputs(items, share)
        labels = inputs.pop("labels")
        first = int((labels != IGNORED).any(dim=0).nonzero()[0])
        count = labels.shape[1] - first + 1  # a token's logits are one position before it
        logits = self.model(**inputs, logits_to_keep=count).logits[:, :-1]
        return logits.float().transpose(1, 2), labels[:, 1 - count :]

    def adapt(self, rank: int, seed: int = 0) -> None:
        """Make the projector trainable, and add LoRA of ``rank`` to the language model."""
        torch.manual_seed(seed)
        from peft import LoraConfig, get_peft_model  # slow to import

        pattern, full = rf".*language_model.*\.({LINEAR})", ["multi_modal_projector"]
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=pattern,
                            modules_to_save=full)  # fmt: skip
        self.model = _precise(get_peft_model(self.model, config))

    def fit(
        self,
        draw: Callable[[np.random.Generator], list[Dialogue]],
        steps: int,
        learning_rate: float,
        share: float = 1.0,
        seed: int = 0,
        label: str = "tuning",
    ) -> list[float]:
        """Train all trainable weights on answers by AdamW; return the loss of each step.

        ``draw`` returns the dialogues of a step.
        """
        torch.manual_seed(seed)
        rng, losses, device = np.random.default_rng(seed), [], self.model.device.type
        trained = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)
        self.model.train()
        for step in files.progress(range(steps), steps, label):
            rate = learning_rate * learning_rate_factor(step, steps, WARMUP)
            optimizer.param_groups[0]["lr"] = rate
            with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):
                loss = self.loss(draw(rng), share)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            losses.append(loss.item())
        self.model.eval()
        return losses

    @torch.no_grad()
    def answer(
        self, items: Sequence[Dialogue], share: float = 1.0, max_new_tokens: int = 60
    ) -> list[str]:
        """Return greedily decoded replies to dialogues whose last answer is None."""
        inputs = self.inputs(items, share)
        del inputs["labels"]
        ids = self.model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens,
                                  pad_token_id=self.tokenizer.pad_token_id)  # fmt: skip
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    @torch.no_grad()
    def log_odds(self, items: Sequence[Dialogue], yes: str, no: str) -> np.ndarray:
        """Return log p(yes) - log p(no) (B,) of the next word, where the last answer is None.

        The words are compared by the first tokens in which they differ.
        """
        answers = [list(self.pieces([("", word)]))[-1][0] for word in (yes, no)]
        ids = [self.tokenizer(text, add_special_tokens=False).input_ids for text in answers]
        yes_id, no_id = next((a, b) for a, b in zip(*ids, strict=False) if a != b)
        inputs = self.inputs(items)
        del inputs["labels"]
        logits = self.model(**inputs, logits_to_keep=1).logits[:, -1].float()
        return (logits[:, yes_id] - logits[:, no_id]).cpu().numpy()

    def save_adapter(self, out: Path) -> None:
        """Write adapters and projector to a folder atomically."""
        temporary = out.with_name(f".{out.name}")
        self.model.save_pretrained(temporary)
        files.share(temporary)
        os.replace(temporary, out)

    def load_adapter(self, folder: Path) -> None:
        """Load adapters and projector of ``save_adapter``; they stay trainable."""
        from peft import PeftModel

        adapted = PeftModel.from_pretrained(self.model, folder, is_trainable=True)
        self.model = _precise(adapted).eval()


def _precise(model: nn.Module) -> nn.Module:
    """Cast the trained weights to fp32, as AdamW's steps are lost in bf16."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def draw_from(items: Sequence[Dialogue], count: int) -> Callable:
    """Return a function that draws ``count`` dialogues at random."""
    return lambda rng: [items[i] for i in rng.integers(len(items), size=count)]


def join_shown(parts: Sequence[Shown], starts: Sequence[float]) -> Shown:
    """Join videos shown one after the other, each from its start in s."""
    tokens = torch.cat([part.tokens for part in parts])
    times = [part.times + start for part, start in zip(parts, starts, strict=True)]
    return Shown(tokens, np.concatenate([part.moved for part in parts]), np.concatenate(times))
