"""Hyper-parameters of VadCLIP: Implementation details of the paper, and the official options."""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from alertclip.errors import InputError

Variant = Literal["official", "paper"]
"""Where the released code and the text differ: do as the one or as the other."""


@dataclass(frozen=True)
class VadCLIPSettings:
    """Architecture and training of one model. The defaults are the official ones of UCF-Crime.

    ``length`` is the number of snippets of one pass; ``prefix`` and ``postfix`` count the learned
    context tokens on either side of a class name (both 0: the name alone, Table 6 without
    L-Prompt); ``batch_size`` counts all videos of a batch, half of them normal if ``balanced``.

    What ``variant`` changes, official against paper: the graph (four convolutions, of which two
    have a convolutional residual, and exp(-d/e), against one shared W, eq. 1, and the softmax of
    eq. 3); the attention of the visual prompt (raw logits over all positions against confidences
    over the video, eq. 6); the residual of eq. 7 (around V + t against around t); the separation
    of texts (mean of absolute cosines against the sum of positive ones, eq. 9). ``preset`` sets
    rate, epochs, batch, schedule and layers, too.

    Of the text, this cannot be done: overlapping windows (it gives neither their stride nor how
    they are merged; windows are disjoint, as in the code); the top K "for each row" of M (rows
    are snippets, which would leave no vector over classes; K is per class over time, as in the
    code). GELU is CLIP's QuickGELU in both. Of the code, this is not done: keeping the weights
    that are best on the test set and going on from them after each epoch. The last epoch is kept;
    ``training_steps`` leaves any other rule to its caller.
    """

    learning_rate: float = 2e-5
    epochs: int = 10
    batch_size: int = 128
    balanced: bool = True
    milestones: tuple[int, ...] = (4, 8)  # epochs after which the rate falls to a tenth
    window: int = 8  # 0: one of all snippets, Table 5's global transformer
    layers: int = 2
    heads: int = 1
    length: int = 256
    prefix: int = 10
    postfix: int = 10
    separation_weight: float = 1e-1  # lambda, eq. 10
    temperature: float = 0.07  # tau, eq. 8
    similarity_threshold: float = 0.7
    weight_decay: float = 0.01
    variant: Variant = "official"
    adapter: Literal["full", "local", "graph", "none"] = "full"  # Table 5: LGT-Adapter or parts
    focus: Literal["anomaly", "average", "none"] = "anomaly"  # Table 7: of the visual prompt
    binary_weight: float = 1.0  # Table 6: 0 trains the A-branch alone
    alignment_weight: float = 1.0  # Table 6: 0 trains the C-branch alone

    def __post_init__(self) -> None:
        checks = {
            "variant must be official or paper": self.variant in ("official", "paper"),
            # The official code leaves the tail without any position to attend to: not a number.
            "window must divide length": (
                self.window == 0 or (self.window > 0 and self.length % self.window == 0)
            ),
            "layers, heads, length and epochs must be positive": (
                min(self.layers, self.heads, self.length, self.epochs) > 0
            ),
            "prefix and postfix must not be negative": min(self.prefix, self.postfix) >= 0,
            "batch_size must be positive, and even if balanced": (
                self.batch_size > 0 and not (self.balanced and self.batch_size % 2)
            ),
            "adapter must be full, local, graph or none": (
                self.adapter in ("full", "local", "graph", "none")
            ),
            "focus must be anomaly, average or none": self.focus in ("anomaly", "average", "none"),
            "temperature must be positive": self.temperature > 0,
        }
        broken = [rule for rule, kept in checks.items() if not kept]
        if broken:
            raise InputError(f"VadCLIP settings: {'; '.join(broken)}")


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
# The text is silent on how batches are drawn; a fixed rate, since it names no schedule.
_TEXT: dict[str, Any] = {"variant": "paper", "batch_size": 64, "milestones": (), "layers": 1}
PRESETS = {
    ("ucf", "official"): UCF,
    ("ucf", "paper"): replace(UCF, learning_rate=1e-5, **_TEXT),
    ("xd", "official"): XD,
    ("xd", "paper"): replace(XD, learning_rate=2e-5, epochs=20, **_TEXT),
}


def preset(name: str, variant: Variant = "official", **changes: Any) -> VadCLIPSettings:
    """The settings of ucf (UCF-Crime) or xd (XD-Violence), of code or text, with changes."""
    if (name, variant) not in PRESETS:
        raise InputError(
            f"VadCLIP preset {name}, {variant}: choose ucf or xd, and official or paper"
        )
    unknown = changes.keys() - {field.name for field in fields(VadCLIPSettings)}
    if unknown:
        raise InputError(f"VadCLIP has no setting {', '.join(sorted(unknown))}")
    return replace(PRESETS[name, variant], **changes)
