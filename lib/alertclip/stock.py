"""What others see of an export: its towers by open_clip or transformers alone, not by ours."""

from collections.abc import Callable, Sequence
from pathlib import Path

import open_clip
import torch
from torch import Tensor
from torch.nn.functional import normalize

from alertclip.blip import is_blip, max_tokens

Encoders = tuple[Callable[[Tensor], Tensor], Callable[[Sequence[str]], Tensor]]
"""Normalised pixels (F, 3, H, W) -> (F, D), and texts -> (C, D), both of unit length."""


def stock_encoders(folder: Path) -> Encoders:
    """Image and text encoder of an exported folder, by the library that its family belongs to."""
    return _transformers(folder) if is_blip(folder) else _open_clip(folder)


def _open_clip(folder: Path) -> Encoders:
    source = f"local-dir:{folder}"
    model, _, _ = open_clip.create_model_and_transforms(source, require_pretrained=True)
    model, tokenizer = model.eval(), open_clip.get_tokenizer(source)

    @torch.inference_mode()
    def image(pixels: Tensor) -> Tensor:
        return model.encode_image(pixels, normalize=True)

    @torch.inference_mode()
    def text(texts: Sequence[str]) -> Tensor:
        return model.encode_text(tokenizer(list(texts)), normalize=True)

    return image, text


def _transformers(folder: Path) -> Encoders:
    from transformers import AutoTokenizer, BlipForImageTextRetrieval

    model = BlipForImageTextRetrieval.from_pretrained(folder).eval()
    cut = {"truncation": True, "max_length": max_tokens(model.config)}
    tokenizer = AutoTokenizer.from_pretrained(folder)

    @torch.inference_mode()
    def image(pixels: Tensor) -> Tensor:
        return normalize(model.vision_proj(_first(model.vision_model(pixels))), dim=-1)

    @torch.inference_mode()
    def text(texts: Sequence[str]) -> Tensor:
        tokens = tokenizer(list(texts), padding=True, return_tensors="pt", **cut)
        states = model.text_encoder(tokens.input_ids, tokens.attention_mask)
        return normalize(model.text_proj(_first(states)), dim=-1)

    return image, text


def _first(states: object) -> Tensor:
    return states.last_hidden_state[:, 0]
