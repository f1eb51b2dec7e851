"""MiniCLIP and MiniSigLIP: small open_clip models pre-trained on stills of the mini world.

MiniCLIP replaces OpenAI's CLIP, so that the whole method runs without a download; MiniSigLIP is the
second family (params/facts/mini_models.yaml). By design they share CLIP's weakness: they learn
scenes, colours, objects and postures from neutral captions, but never which twin of a pair is
abnormal. The card written beside the weights says so. Both are pre-trained with symmetric InfoNCE:
SigLIP's pairwise sigmoid loss, made for batches of 32,768, learned almost nothing here in 400 steps
of 256. ``python -m miniworld.prior --out DIR [--family siglip]`` trains them again.
"""

import argparse
import math
import platform
import time
from copy import deepcopy
from pathlib import Path

import numpy as np
import open_clip
import torch
import yaml
from open_clip.model import CLIP, CustomTextCLIP
from safetensors.torch import save_file
from tokenizers import ByteLevelBPETokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

import miniworld
from alertclip.attention import pack_state_dict, split_attention
from alertclip.training import learning_rate_factor
from media.files import atomic_write, progress, write_json
from miniworld.plan import FACTS_FILE
from miniworld.stills import ABNORMAL_SHARE, GENERIC_SHARE, TOPIC_SHARE

NAMES = {"clip": "MiniCLIP", "siglip": "MiniSigLIP"}
RECIPES = yaml.safe_load(FACTS_FILE.with_name("mini_models.yaml").read_text(encoding="utf-8"))
CONTEXT_LENGTH, BATCH_SIZE = 40, 256
PEAK_LR, WARMUP = 1.2e-3, 0.05
PAD, UNKNOWN, START, END = "<pad>", "<unk>", "<start>", "<end>"


def open_clip_config(family: str, vocab_size: int) -> dict:
    """Contents of open_clip_config.json: model_cfg and preprocess_cfg."""
    config = deepcopy(RECIPES[family])
    config["model_cfg"]["text_cfg"]["vocab_size"] = vocab_size
    return config


def build(family: str, vocab_size: int) -> nn.Module:
    """The model with random weights from torch's global generator."""
    config = open_clip_config(family, vocab_size)["model_cfg"]
    for name in ("hf_tokenizer_name", "tokenizer_kwargs"):  # only for open_clip's factory
        del config["text_cfg"][name]
    if not config.pop("custom_text", False):
        return CLIP(**config)
    model = CustomTextCLIP(**config)
    with torch.no_grad():  # layer scales of one: SigLIP's towers have none
        for block in model.visual.trunk.blocks:
            block.ls1.gamma.fill_(1.0)
            block.ls2.gamma.fill_(1.0)
    return model


def train_tokenizer(texts: list[str], vocab_size: int = 2048) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on ``texts``; it encodes any text.

    END gets the highest id because open_clip pools the text tower at the largest token id.
    """
    tokenizer = ByteLevelBPETokenizer(add_prefix_space=True, lowercase=True)
    options = {"special_tokens": [PAD, UNKNOWN, START], "min_frequency": 0, "show_progress": False}
    tokenizer.train_from_iterator(texts, vocab_size - 1, **options)
    tokenizer.add_special_tokens([END])
    ends = [(token, tokenizer.token_to_id(token)) for token in (START, END)]
    tokenizer.post_processor = TemplateProcessing(f"{START} $A {END}", special_tokens=ends)
    names = {"pad_token": PAD, "unk_token": UNKNOWN, "bos_token": START, "eos_token": END}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, **names)


def augment(images: Tensor, generator: torch.Generator, family: str) -> Tensor:
    """uint8 (B,H,W,3) -> normalised float (B,3,H,W): flip, shift by up to 6 pixels, brightness."""
    x = images.permute(0, 3, 1, 2).float() / 255
    flip = torch.rand(len(x), generator=generator) < 0.5
    x = torch.where(flip[:, None, None, None], x.flip(3), x)
    x = x.roll(torch.randint(-6, 7, (2,), generator=generator).tolist(), (2, 3))
    x = x * (0.8 + 0.4 * torch.rand(len(x), 1, 1, 1, generator=generator))
    pixels = RECIPES[family]["preprocess_cfg"]
    mean, std = (torch.tensor(pixels[name])[:, None, None] for name in ("mean", "std"))
    return (x.clamp(0, 1) - mean) / std


def soft_contrastive_loss(
    image: Tensor, text: Tensor, scale: Tensor, caption_ids: Tensor
) -> Tensor:
    """Symmetric InfoNCE in which identical captions share the target probability equally.

    image, text: (B, D) l2-normalised; caption_ids: (B,) equal where captions are equal.
    """
    targets = (caption_ids[:, None] == caption_ids[None, :]).float()
    targets = targets / targets.sum(1, keepdim=True)
    logits = scale * image.float() @ text.float().T
    return (cross_entropy(logits, targets) + cross_entropy(logits.T, targets)) / 2


def pretrain(
    images: np.ndarray,
    captions: list[str],
    tokenizer: PreTrainedTokenizerFast,
    steps: int,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    family: str = "clip",
) -> nn.Module:
    """Train MiniCLIP or MiniSigLIP on stills (N,H,W,3) uint8 with one caption each."""
    torch.manual_seed(seed)
    model = build(family, len(tokenizer))
    split_attention(model)  # for its fast backward pass on a CPU
    options = {"betas": (0.9, 0.98), "weight_decay": 0.05}
    optimizer = torch.optim.AdamW(model.parameters(), **options)
    tokens = encode_captions(tokenizer, captions)
    caption_ids = torch.tensor(np.unique(captions, return_inverse=True)[1])
    generator = torch.Generator().manual_seed(seed)
    for step in progress(range(steps), steps, f"pre-training {NAMES[family]}"):
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LR * learning_rate_factor(step, steps, WARMUP)
        picked = torch.randint(len(images), (batch_size,), generator=generator)
        x = augment(torch.from_numpy(images[picked.numpy()]), generator, family)
        with torch.autocast(x.device.type, torch.bfloat16):
            image = model.encode_image(x, normalize=True)
            text = model.encode_text(tokens[picked], normalize=True)
        scale = model.logit_scale.exp()
        loss = soft_contrastive_loss(image, text, scale, caption_ids[picked])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
    return model.eval()


def encode_captions(tokenizer: PreTrainedTokenizerFast, captions: list[str]) -> Tensor:
    """Token ids (B, CONTEXT_LENGTH), equal to those of open_clip's tokenizer for the folder."""
    options = {"return_tensors": "pt", "padding": "max_length", "truncation": True}
    return tokenizer(captions, max_length=CONTEXT_LENGTH, **options).input_ids


def save_prior(
    model: nn.Module, tokenizer: PreTrainedTokenizerFast, out: Path, card: dict, family: str
) -> None:
    """Write an open_clip ``local-dir`` folder: config, fp16 weights, tokenizer, card.json."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    write_json(out / "open_clip_config.json", open_clip_config(family, len(tokenizer)))
    weights = {k: v.half().contiguous() for k, v in pack_state_dict(model.state_dict()).items()}
    with atomic_write(out / "open_clip_model.safetensors") as temporary:
        save_file(weights, temporary)
    write_json(out / "card.json", card)


def main() -> None:
    """Command line: render stills, train tokenizer and model, save both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--family", choices=RECIPES, default="clip")
    for name, default in (("stills", 120_000), ("steps", 3000), ("seed", 0), ("workers", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    start = time.monotonic()
    side = RECIPES[args.family]["model_cfg"]["vision_cfg"]["image_size"]
    images, captions, _ = miniworld.stills(args.stills, args.seed, (side, side), args.workers)
    tokenizer = train_tokenizer(captions)
    model = pretrain(images, captions, tokenizer, args.steps, seed=args.seed, family=args.family)
    name = NAMES[args.family]
    options = [f"--{k} {getattr(args, k)}" for k in ("family", "stills", "steps", "seed")]
    card = {
        "what": f"{name}, a synthetic stand-in for {name.removeprefix('Mini')};"
        " it knows nothing of the real world",
        "engineered": f"neutral captions of postures, clothes, objects and places;"
        f" {ABNORMAL_SHARE:.0%} of the stills show the abnormal twin of a pair;"
        f" {TOPIC_SHARE:.0%} of the captions carry a phrase of either twin and"
        f" {GENERIC_SHARE:.0%} a generic one, both drawn without looking at the twin, so"
        " that the model knows the words and sees the scene but has no notion of abnormal",
        "stills": args.stills, "steps": args.steps, "batch_size": BATCH_SIZE, "seed": args.seed,
        "minutes": round((time.monotonic() - start) / 60, 1),
        "machine": platform.machine(),
        "versions": {"torch": torch.__version__, "open_clip": open_clip.__version__},
        "command": " ".join(["python -m miniworld.prior --out DIR", *options]),
    }  # fmt: skip
    save_prior(model, tokenizer, args.out, card, args.family)


if __name__ == "__main__":
    main()
