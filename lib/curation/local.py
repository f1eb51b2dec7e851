"""A vision-language model on this machine, by folder or name, with the endpoint's interface."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from alertclip.errors import InputError
from curation.endpoint import Usage


class LocalModel:
    """A transformers image-and-text model, decoded greedily so that a rerun answers the same."""

    def __init__(
        self,
        model: str,
        system: str = "",
        device: torch.device | str = "cpu",
        max_tokens: int = 300,
    ) -> None:
        """Load safetensors weights and the processor; InputError if there is no such model."""
        try:
            self._processor: Any = AutoProcessor.from_pretrained(model)
            loaded = AutoModelForImageTextToText.from_pretrained(model, use_safetensors=True)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{model}: no image-and-text model to load ({reason})") from None
        self._model = loaded.to(device).eval()
        self.name, self.system, self.usage = model, system, Usage()
        self._max_tokens = max_tokens

    @torch.inference_mode()
    def ask(self, prompt: str, frames: Sequence[np.ndarray] = ()) -> str:
        """The model's text for a prompt and frames (H, W, 3) uint8 RGB."""
        images = [{"type": "image", "image": Image.fromarray(frame)} for frame in frames]
        messages = [{"role": "user", "content": [*images, {"type": "text", "text": prompt}]}]
        if self.system:
            text = [{"type": "text", "text": self.system}]
            messages.insert(0, {"role": "system", "content": text})
        inputs = self._processor.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self._model.device)
        output = self._model.generate(**inputs, max_new_tokens=self._max_tokens, do_sample=False)
        new = output[0, inputs["input_ids"].shape[1] :]
        self.usage.requests += 1
        self.usage.prompt_tokens += inputs["input_ids"].shape[1]
        self.usage.completion_tokens += len(new)
        return self._processor.decode(new, skip_special_tokens=True)
