"""Table 7: from the pixels of one clip to its embedding, beside the machine's floor."""

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from alertclip.backbone import load_backbone
from alertclip.model import AlertCLIP
from companion.efficiency import flops, paper_costs
from companion.efficiency.machine import PRECISIONS, Spread, seconds, spread
from companion.profiles import Params
from companion.stage_runs import resolve_device

LINE = ["line", "unit", "ours", "low", "high", "n", "floor", "ratio", "paper"]


def untrained(P: Params) -> AlertCLIP:
    """The profile's architecture with any weights: time does not depend on them."""
    torch.manual_seed(P.seed)
    model = AlertCLIP(
        load_backbone(P.model.backbone), P.model.temporal_layers, P.model.temporal_heads
    )
    return model.to(resolve_device(P)).eval()


def random_clip(model: AlertCLIP, frames: int) -> tuple[Tensor, Tensor]:
    """One clip of noise on the model's device: frames (1, T, 3, H, W) uint8, mask (1, T)."""
    device, shape = model.mean.device, (1, frames, 3, *model.image_size)
    pixels = torch.randint(256, shape, dtype=torch.uint8, device=device)
    return pixels, torch.ones(1, frames, dtype=torch.bool, device=device)


@torch.inference_mode()
def encode(model: AlertCLIP, clip: tuple[Tensor, Tensor], precision: str) -> Tensor:
    """Unit embedding (1, D) of a clip, the products in ``precision``."""
    with torch.autocast(model.mean.device.type, torch.bfloat16, enabled=precision == "bf16"):
        return model.encode_clip(*clip).embedding


def clip_latency(
    model: AlertCLIP, frames: int, precision: str, repeats: int
) -> tuple[Spread, float]:
    """Seconds per clip, batch size one, and the cosine of its embedding to that in fp32."""
    clip, device = random_clip(model, frames), model.mean.device
    same = cosine_similarity(encode(model, clip, precision), encode(model, clip, "fp32"))
    return spread(seconds(lambda: encode(model, clip, precision), device, repeats)), float(same)


def table(P: Params, ceiling: Mapping[str, float], repeats: int = 7) -> pd.DataFrame:
    """Table 7: latency of one clip of ``P.data.num_frames`` by precision.

    ``ceiling``: FLOP/s by precision (``machine.flops_per_second``), what floors are divided by.
    Columns LINE, frames, frames_per_s, clips_per_s, cosine (to fp32).
    """
    model, rows = untrained(P), []
    work = flops.clip_flops(
        flops.geometry(model.backbone.config, P.model.temporal_layers), P.data.num_frames
    )
    for precision in PRECISIONS:
        found, cosine = clip_latency(model, P.data.num_frames, precision, repeats)
        ms = tuple(1e3 * value for value in found[:3])
        floor = 1e3 * work / ceiling[precision]
        name = f"{P.model.backbone}, {P.data.num_frames} frames, {precision}"
        numbers = (*ms, found.n, floor, ms[0] / floor, paper_costs.TABLE7_MS)
        rates = (P.data.num_frames, P.data.num_frames / found.median, 1 / found.median)
        rows.append((name, "ms", *numbers, *rates, cosine))
    return pd.DataFrame(rows, columns=[*LINE, "frames", "frames_per_s", "clips_per_s", "cosine"])
