"""The transformers folder gives the numbers of the model it came from."""

import open_clip
import pytest
import tiny_clip
import torch
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from alertclip.backbone import from_clip
from alertclip.errors import InputError
from alertclip.export import export_huggingface
from alertclip.lora import add_lora
from alertclip.model import AlertCLIP

TEXTS = ["two men fight", "a café, calm & quiet; it's 3 o'clock", "stop! hey!you"]


def square_clip(quick_gelu: bool) -> AlertCLIP:
    config = tiny_clip.config(quick_gelu=quick_gelu)
    config["vision_cfg"] |= {"image_size": 32}
    config["text_cfg"] |= {"vocab_size": 49408, "context_length": 77}
    torch.manual_seed(0)
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    model = AlertCLIP(from_clip(open_clip.CLIP(**config), tokenizer, "tiny", config), 1, 2)
    model.adapted = add_lora(model.adapted, 2, 4, 0.0)
    tiny_clip.stir(model)
    return model.eval()


@pytest.mark.parametrize("quick_gelu", [True, False])
@torch.no_grad()
def test_embeddings_and_tokens_are_equal(quick_gelu, tmp_path):
    model = square_clip(quick_gelu)
    frames = torch.randint(0, 256, (1, 2, 3, 32, 32), dtype=torch.uint8)
    image, text = model.encode_frames(frames).v[0], model.encode_text(TEXTS)
    export_huggingface(model, tmp_path)

    clip = CLIPModel.from_pretrained(tmp_path).eval()
    tokens = CLIPTokenizer.from_pretrained(tmp_path)(
        TEXTS, padding="max_length", return_tensors="pt"
    )
    real = tokens.attention_mask * tokens.input_ids  # open_clip pads with 0
    assert torch.equal(real, model.backbone.tokenizer(TEXTS))
    pixels = CLIPImageProcessor.from_pretrained(tmp_path)(
        list(frames[0]), return_tensors="pt"
    ).pixel_values
    found = clip(**tokens, pixel_values=pixels)
    torch.testing.assert_close(found.image_embeds, image, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.text_embeds, text, atol=1e-5, rtol=0)
    torch.testing.assert_close(clip.logit_scale, model.logit_scale)


def test_what_transformers_cannot_express_is_refused(tmp_path):
    with pytest.raises(InputError, match="class-token pooling"):
        export_huggingface(tiny_clip.alertclip("avg"), tmp_path)
