"""Exports: stock open_clip reads them without this package; AlertCLIP is restored in full."""

import shutil

import open_clip
import pytest
import tiny_clip
import torch
from faults.harness import refused
from peft import PeftModel
from tiny_clip import TEXTS, embeddings
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from alertclip.backbone import load_backbone
from alertclip.export import HEAD, META, export_huggingface, export_open_clip, load_alertclip, main
from alertclip.lora import add_lora
from alertclip.model import AlertCLIP
from media.files import UMASK, read_json

SENTENCES = ["two men fight", "a café, calm & quiet; it's 3 o'clock", "stop! hey!you"]


def tuned_clip(*image_size: int, quick_gelu: bool = True) -> AlertCLIP:
    """A tiny AlertCLIP with open_clip's tokenizer, everything trainable moved."""
    config = tiny_clip.config(quick_gelu=quick_gelu)
    config["vision_cfg"] |= {"image_size": [*image_size]}
    config["text_cfg"] |= {"vocab_size": 49408, "context_length": 77}
    torch.manual_seed(0)
    clip = open_clip.CLIP(**config)
    backbone = tiny_clip.from_clip(clip, open_clip.get_tokenizer("ViT-B-32"), "tiny", config)
    model = AlertCLIP(backbone, 1, 2, region_pooling="temporal", patch_tokens="value").eval()
    model.adapted = add_lora(model.adapted, 2, 4, 0.1)
    model.logit_scale.requires_grad_(True)
    tiny_clip.stir(model)
    return model.eval()


@torch.no_grad()
def test_alertclip_comes_back_whole_and_open_clip_and_peft_load_their_parts(tmp_path):
    tuned = tuned_clip(24, 32)
    before, scale, state = embeddings(tuned), tuned.logit_scale.item(), tuned.clip.state_dict()
    start = {n.replace(".base_layer", ""): v.clone() for n, v in state.items() if "lora_" not in n}
    out = export_open_clip(tuned, tmp_path / "export", {"stage": 1})
    again = load_alertclip(out)
    torch.testing.assert_close(embeddings(again), before, atol=1e-5, rtol=0)
    assert (again.region_pooling, again.patch_tokens) == ("temporal", "value")
    assert not again.training and read_json(out / META)["stage"] == 1
    name = f"local-dir:{out}"
    stock, _, preprocess = open_clip.create_model_and_transforms(name, require_pretrained=True)
    tokenizer = open_clip.get_tokenizer(name)
    pixels = (tiny_clip.frames(3) / 255 - tuned.mean) / tuned.std
    image = stock.eval().encode_image(pixels, normalize=True)
    torch.testing.assert_close(image, before[0], atol=1e-5, rtol=0)
    text = stock.encode_text(tokenizer(TEXTS), normalize=True)
    torch.testing.assert_close(text, before[3], atol=1e-5, rtol=0)
    assert stock.logit_scale.item() == pytest.approx(scale)
    config = read_json(out / "open_clip_config.json")
    assert config["model_cfg"]["quick_gelu"] is True
    assert config["preprocess_cfg"]["resize_mode"] == "squash"
    assert "size=[24, 32]" in repr(preprocess) and "CenterCrop" not in repr(preprocess)
    files = sorted(p.name for p in (out / "adapter").iterdir())
    assert files == ["adapter_config.json", "adapter_model.safetensors"]
    for file in (path for path in out.rglob("*") if path.is_file()):
        assert file.stat().st_mode & 0o777 == 0o666 & ~UMASK, f"others cannot read {file.name}"
    tuned.adapted.load_state_dict(start, strict=True)  # the weights the stage started from
    assert (embeddings(tuned)[0] - before[0]).abs().max() > 1e-3
    tuned.adapted = PeftModel.from_pretrained(tuned.adapted, str(out / "adapter")).eval()
    torch.testing.assert_close(embeddings(tuned), before, atol=1e-5, rtol=0)


def test_unfinished_and_foreign_folders_are_refused(tmp_path):
    export_open_clip(tuned_clip(24, 32), tmp_path / "a", {})
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / META).unlink()
    with pytest.raises(SystemExit, match=f"no {META}; not a finished Alert-CLIP export"):
        main([str(tmp_path / "b"), "--out", str(tmp_path / "c")])
    deeper = AlertCLIP(load_backbone(f"local-dir:{tmp_path / 'a'}"), 2, 2)
    export_open_clip(deeper, tmp_path / "deeper", {})
    shutil.copy(tmp_path / "deeper" / HEAD, tmp_path / "a" / HEAD)
    assert "not the head" in refused(load_alertclip, tmp_path / "a")
    averaging = tiny_clip.alertclip("avg")  # which transformers cannot express
    assert "class-token pooling" in refused(export_huggingface, averaging, tmp_path)


@pytest.mark.parametrize("quick_gelu", [True, False])
@torch.no_grad()
def test_transformers_gives_the_same_embeddings_and_tokens(quick_gelu, tmp_path):
    model = tuned_clip(32, 32, quick_gelu=quick_gelu)
    frames = tiny_clip.frames(1, 2, size=(32, 32))
    image, text = model.encode_frames(frames).v[0], model.encode_text(SENTENCES)
    export_open_clip(model, tmp_path / "full", {})
    main([str(tmp_path / "full"), "--out", str(tmp_path)])
    clip = CLIPModel.from_pretrained(tmp_path).eval()
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    tokens = tokenizer(SENTENCES, padding="max_length", return_tensors="pt")
    real = tokens.attention_mask * tokens.input_ids  # open_clip pads with 0
    assert torch.equal(real, model.backbone.tokenizer(SENTENCES))
    images = CLIPImageProcessor.from_pretrained(tmp_path)(list(frames[0]), return_tensors="pt")
    output = clip(**tokens, **images)
    torch.testing.assert_close(output.image_embeds, image, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.text_embeds, text, atol=1e-5, rtol=0)
    torch.testing.assert_close(clip.logit_scale, model.logit_scale)
