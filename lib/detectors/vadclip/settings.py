"""Settings of VadCLIP: the paper's implementation details and the official options."""

from typing import Any, Literal

from pydantic import Field, model_validator

from alertclip.hyperparameters import Group
from detectors.training_protocol import DetectorParams, Variant, changed_settings


class VadCLIPSettings(Group):
    """Architecture and training of one model. The defaults are the official ones of UCF-Crime.

    ``variant`` "paper" changes the graph (one shared W and the softmax of eq. 3, not four
    convolutions and exp(-d/e)), the attention of the visual prompt (eq. 6: confidences over the
    video, not raw logits over all positions), the residual of eq. 7 (around t, not V + t) and the
    separation of texts (eq. 9: sum of positive cosines, not mean of absolute ones). In both
    variants windows do not overlap and the top K is per class over time, as in the code.
    """

    learning_rate: float = Field(2e-5, gt=0)
    epochs: int = Field(10, ge=1)
    batch_size: int = Field(128, ge=1)  # all videos of a batch
    balanced: bool = True  # half of a batch is normal
    milestones: tuple[int, ...] = (4, 8)  # epochs after which the rate falls to a tenth
    window: int = Field(8, ge=0)  # snippets; 0: one window over all (Table 5's global transformer)
    layers: int = Field(2, ge=1)
    heads: int = Field(1, ge=1)
    length: int = Field(256, ge=1)  # snippets of one pass
    prefix: int = Field(10, ge=0)  # learned tokens before a class name; with postfix 0 too: the
    postfix: int = Field(10, ge=0)  # name alone (Table 6 without L-Prompt)
    separation_weight: float = 1e-1  # lambda, eq. 10
    temperature: float = Field(0.07, gt=0)  # tau, eq. 8
    similarity_threshold: float = 0.7
    weight_decay: float = 0.01
    variant: Variant = "official"
    adapter: Literal["full", "local", "graph", "none"] = "full"  # Table 5: LGT-Adapter or parts
    focus: Literal["anomaly", "average", "none"] = "anomaly"  # Table 7: of the visual prompt
    binary_weight: float = 1.0  # Table 6: 0 trains the A-branch alone
    alignment_weight: float = 1.0  # Table 6: 0 trains the C-branch alone

    @model_validator(mode="after")
    def _check(self) -> "VadCLIPSettings":
        # otherwise the official code gives NaN: the last positions attend to nothing
        if self.window and self.length % self.window:
            raise ValueError("window must divide length")
        if self.balanced and self.batch_size % 2:
            raise ValueError("batch_size must be even if balanced")
        return self


UCF = VadCLIPSettings()
XD = VadCLIPSettings(
    learning_rate=1e-5,
    batch_size=96,
    balanced=False,
    milestones=(3, 6, 10),
    window=64,
    layers=1,
    separation_weight=1e-4,
)
# The text names no schedule, hence a fixed rate, and does not say how batches are drawn.
_TEXT: dict[str, Any] = {"variant": "paper", "batch_size": 64, "milestones": (), "layers": 1}
PRESETS = {
    ("ucf", "official"): UCF,
    ("ucf", "paper"): UCF.model_copy(update={"learning_rate": 1e-5, **_TEXT}),
    ("xd", "official"): XD,
    ("xd", "paper"): XD.model_copy(update={"learning_rate": 2e-5, "epochs": 20, **_TEXT}),
}


def vadclip_settings(detector: DetectorParams) -> VadCLIPSettings:
    """The preset of ``detector`` with its changes; InputError names a wrong setting."""
    preset = PRESETS[detector.vadclip_preset, detector.variant]
    return changed_settings(preset, detector.vadclip_changes, "vadclip_changes")
