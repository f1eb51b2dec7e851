"""A LLaVA with random weights, small enough for a test: 8 x 8 visual tokens of 32 values."""

from pathlib import Path

import torch
import transformers
from tokenizers import AddedToken, processors

from miniworld.prior import START, train_tokenizer

IMAGE = "<image>"
CHAT = (  # Vicuna's form, as in LLaVA-1.5
    "{% for m in messages %}{{ m['role'].upper() }}: {% for part in m['content'] %}"
    "{{ '<image>\n' if part['type'] == 'image' else part['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def write(out: Path, texts: list[str]) -> None:
    """Model and processor as transformers loads them; the vocabulary is that of ``texts``."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(texts)
    tokenizer.backend_tokenizer.normalizer = None  # tells upper from lower case
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken(IMAGE, special=True)]})
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, tokenizer.bos_token_id)]
    )
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2}  # fmt: skip
    vision = transformers.CLIPVisionConfig(image_size=128, patch_size=16, **size)
    text = transformers.LlamaConfig(
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.2, **size,  # with 32 dimensions .02 leaves logits near zero
    )  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, tie_word_embeddings=True,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE), vision_feature_layer=-1,
    )  # fmt: skip
    transformers.LlavaForConditionalGeneration(config).save_pretrained(out)
    images = transformers.CLIPImageProcessor(size=dict.fromkeys(("height", "width"), 128),
                                             do_center_crop=False)  # fmt: skip
    transformers.LlavaProcessor(
        images, tokenizer, patch_size=16, image_token=IMAGE, chat_template=CHAT,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    ).save_pretrained(out)  # fmt: skip
