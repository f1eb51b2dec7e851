"""BLIP (Li et al. 2022): the contrastive heads of transformers' BlipForImageTextRetrieval.

The matching head and its cross-attention are not tuned, and are exported unchanged. transformers
has no parameter for the temperature of this model; the config stores its logarithm as
``logit_scale_init_value``.
"""

import re
from collections.abc import Sequence
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from alertclip.attention import SplitSelfAttention, pack_state_dict
from media.errors import InputError
from media.files import read_json

if TYPE_CHECKING:  # takes 1.5 s to import, needed for BLIP only
    from transformers import BlipForImageTextRetrieval, PreTrainedTokenizerBase

MAX_TOKENS = 77  # truncates captions as CLIP does; BLIP itself has 512 positions
LAYER_NAMES = Path(__file__).resolve().parents[2] / "params" / "facts" / "layer_names.yaml"


class BlipAttention(SplitSelfAttention):
    """Split attention with the signature of transformers' blocks."""

    def forward(self, hidden_states: Tensor, **_: Any) -> tuple[Tensor, None]:
        """hidden_states (F, N, width) -> the same shape, None."""
        return super().forward(hidden_states), None


class BlipVision(nn.Module):
    """The vision tower with split attention and its contrastive projection."""

    pool_type = "tok"

    def __init__(self, model: nn.Module, proj: nn.Linear) -> None:
        super().__init__()
        self.model, self.proj = model, proj
        for layer in model.encoder.layers:
            fused, rate = layer.self_attn, layer.self_attn.dropout.p
            layer.self_attn = BlipAttention(fused.qkv, fused.projection, fused.num_heads, rate)
        size, side = model.config.image_size, model.config.image_size // model.config.patch_size
        self.image_size, self.grid = (size, size), (side, side)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute every block in the backward pass; open_clip's towers have the same method."""
        self.model._set_gradient_checkpointing(enable, partial(checkpoint, use_reentrant=False))

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (F, 3, H, W) -> image features (F, D), not normalised."""
        return self.proj(self.model(pixels).last_hidden_state[:, 0])


class BlipRetrieval(nn.Module):
    """BLIP behind CLIP's interface: visual, encode_text, logit_scale."""

    def __init__(self, blip: "BlipForImageTextRetrieval") -> None:
        super().__init__()
        self.visual = BlipVision(blip.vision_model, blip.vision_proj)
        self.text = nn.ModuleDict({"encoder": blip.text_encoder, "proj": blip.text_proj})
        self.itm_head = blip.itm_head
        self.logit_scale = nn.Parameter(torch.tensor(blip.config.logit_scale_init_value))
        self.architecture = blip.config

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Token ids (C, L), padded with the config's pad id -> (C, D), not normalised."""
        encoder = self.text["encoder"]  # runs without cross-attention
        mask = (tokens != encoder.config.pad_token_id).long()
        states = encoder(input_ids=tokens, attention_mask=mask).last_hidden_state
        return self.text["proj"](states[:, 0])


class BlipTokenizer:
    """Turns texts into token ids (C, L), padded to the longest."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", max_tokens: int) -> None:
        self.tokenizer, self.max_tokens = tokenizer, max_tokens

    def __call__(self, texts: Sequence[str]) -> Tensor:
        truncate = {"truncation": True, "max_length": self.max_tokens}
        return self.tokenizer(list(texts), padding=True, return_tensors="pt", **truncate).input_ids


def is_blip(folder: Path) -> bool:
    """Whether the folder holds a BLIP saved by transformers."""
    config = folder / "config.json"
    return config.is_file() and read_json(config).get("model_type") == "blip"


def read_blip(source: str) -> "tuple[BlipRetrieval, BlipTokenizer]":
    """Load model, with its pixel mean and std, and tokenizer from a folder or the Hugging Face hub.

    Reads safetensors only and runs no downloaded code. Raises InputError if anything is missing.
    """
    import transformers

    try:
        config = transformers.BlipConfig.from_pretrained(source)
        blip, report = transformers.BlipForImageTextRetrieval.from_pretrained(
            source, config=config, use_safetensors=True, output_loading_info=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        processor = transformers.BlipImageProcessor.from_pretrained(source)
    except Exception as error:  # hub, network, parser and bad files share no error class
        raise InputError(
            f"backbone blip:{source}: cannot be loaded ({type(error).__name__}: {error}). Download"
            " Salesforce/blip-itm-base-coco, with model.safetensors, from the Hugging Face hub into"
            " a folder and pass backbone=blip:FOLDER"
        ) from error
    if report["missing_keys"]:  # transformers would initialise them at random
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise InputError(f"backbone blip:{source}: no weights for {missing}; not a retrieval BLIP")
    model = BlipRetrieval(blip)
    model.visual.image_mean, model.visual.image_std = processor.image_mean, processor.image_std
    return model, BlipTokenizer(tokenizer, max_tokens(config))


def max_tokens(config: Any) -> int:
    """Number of tokens to which texts are truncated."""
    return min(MAX_TOKENS, config.text_config.max_position_embeddings)


def save_blip(backbone: Any, out: Path) -> None:
    """Write the ``Backbone`` of a BLIP as a folder that transformers and ``read_blip`` load."""
    import transformers

    model = backbone.model
    config = transformers.BlipConfig.from_dict(model.architecture.to_dict())
    config.logit_scale_init_value = model.logit_scale.item()
    blip = transformers.BlipForImageTextRetrieval(config)
    packed = pack_state_dict(model.state_dict())
    del packed["logit_scale"]
    blip.load_state_dict(renamed(packed, "blip"), strict=True)
    blip.save_pretrained(out)
    size = dict(zip(("height", "width"), model.visual.image_size, strict=True))
    statistics = {"image_mean": list(backbone.mean), "image_std": list(backbone.std)}
    images = transformers.BlipImageProcessor(size=size, **statistics)
    transformers.BlipProcessor(images, backbone.tokenizer.tokenizer).save_pretrained(out)


def renamed(state: dict[str, Tensor], family: str) -> dict[str, Tensor]:
    """State dict of a split model under the names that transformers uses for ``family``."""
    patterns = yaml.safe_load(LAYER_NAMES.read_text(encoding="utf-8"))[family]

    def rename(name: str) -> str:
        return reduce(lambda n, pattern: re.sub(pattern, patterns[pattern], n), patterns, name)

    return {rename(name): tensor for name, tensor in state.items()}
