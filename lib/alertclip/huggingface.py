"""The tuned CLIP as a folder of Hugging Face transformers: ``CLIPModel.from_pretrained(folder)``.

The two libraries give the same tensors different names, and neither converts from open_clip.
"""

import re
from pathlib import Path

import open_clip
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer
from transformers.image_utils import PILImageResampling

from alertclip.errors import InputError
from alertclip.lora import merge_lora
from alertclip.model import AlertCLIP

NAMES = [  # open_clip (attention split) -> transformers, applied in order
    (r"^visual\.proj$", "visual_projection.weight"),
    (r"^text_projection$", "text_projection.weight"),
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.conv1", "vision_model.embeddings.patch_embedding"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.ln_pre", "vision_model.pre_layrnorm"),
    (r"^visual\.ln_post", "vision_model.post_layernorm"),
    (r"^token_embedding", "text_model.embeddings.token_embedding"),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^ln_final", "text_model.final_layer_norm"),
    (r"^visual\.transformer\.resblocks", "vision_model.encoder.layers"),
    (r"^transformer\.resblocks", "text_model.encoder.layers"),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.attn\.", ".self_attn."),
]


def export_huggingface(model: AlertCLIP, out: Path) -> Path:
    """Merge the adapters (in place) and write model, tokenizer and image processor to ``out``.

    Raises InputError on what ``CLIPModel`` cannot express: another family, average pooling,
    non-square images, or another vocabulary than CLIP's.
    """
    model.adapted = model.backbone.model = merge_lora(model.adapted)
    clip = CLIPModel(clip_config(model))
    clip.load_state_dict(rename(model.clip.state_dict()), strict=True)
    clip.save_pretrained(out)
    height, width = model.image_size
    CLIPImageProcessor(
        size={"height": height, "width": width},  # squash: nothing is cropped
        do_center_crop=False,
        resample=PILImageResampling.BICUBIC,
        image_mean=list(model.backbone.mean),
        image_std=list(model.backbone.std),
    ).save_pretrained(out)
    _tokenizer(model.clip.context_length).save_pretrained(out)
    return out


def clip_config(model: AlertCLIP) -> CLIPConfig:
    """The architecture as transformers describes it."""
    clip, visual = model.clip, model.clip.visual
    height, width = model.image_size
    if not isinstance(clip, open_clip.CLIP):
        raise InputError(f"{model.backbone.name}: no CLIP; use its own library's export")
    if visual.pool_type != "tok" or height != width or clip.vocab_size != 49408:
        raise InputError(
            f"{model.backbone.name}: CLIPModel needs class-token pooling, square images and CLIP's"
            " vocabulary; use the open_clip export"
        )
    shared = {
        "projection_dim": model.backbone.embed_dim,
        "hidden_act": "quick_gelu" if model.backbone.config.get("quick_gelu") else "gelu",
    }
    vision = {"image_size": height, "patch_size": visual.patch_size[0]}
    text = {
        "vocab_size": clip.vocab_size,
        "max_position_embeddings": clip.context_length,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 49407,
    }
    return CLIPConfig(
        text_config=text | _sizes(clip.transformer) | shared,
        vision_config=vision | _sizes(visual.transformer) | shared,
        projection_dim=model.backbone.embed_dim,
    )


def rename(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict of a split open_clip CLIP under transformers' names."""
    renamed = {}
    for name, tensor in state.items():
        if name.endswith("attn_mask"):
            continue
        turned = name in ("visual.proj", "text_projection")  # parameters there, nn.Linear here
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor.T.contiguous() if turned else tensor
    return renamed


def _sizes(transformer: open_clip.transformer.Transformer) -> dict[str, int]:
    block = transformer.resblocks[0]
    return {
        "hidden_size": transformer.width,
        "intermediate_size": block.mlp.c_fc.out_features,
        "num_hidden_layers": transformer.layers,
        "num_attention_heads": block.attn.num_heads,
    }


def _tokenizer(context_length: int) -> CLIPTokenizer:
    """open_clip's vocabulary as transformers reads it.

    Padding is the end token, as in OpenAI's folders. open_clip pads with id 0, which is a real
    word part; no matter, since attention is causal and the first end token is read.
    """
    bpe = open_clip.SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    return CLIPTokenizer(
        vocab={names.get(token, token): i for token, i in bpe.encoder.items()},
        merges=list(bpe.bpe_ranks),
        pad_token="<|endoftext|>",
        model_max_length=context_length,
    )
