"""One optimiser step of Stage II: the library's against the straightforward implementation.

straight    a loop over clips, each text encoded where it occurs, fp32, every block recomputed in
            the backward pass (the paper's gradient checkpointing)
ours        clips and frames in one batch, each caption once, bf16 products, nothing recomputed
upper       ours, with adapters in the upper three blocks of each tower alone

Same weights, same clips, no dropout; the gradients of the adapters are compared.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from harness import answer, compare, cosines, interleave, parser, save

from alertclip.checkpoint import trainable
from alertclip.clips import Batch
from alertclip.losses import Embeddings, concatenate, total_loss
from alertclip.model import AlertCLIP, fill_negatives
from alertclip.objective import StageObjective
from companion.latency import random_batch, stage_start
from companion.profiles import Params, load_params

Work = Callable[[], np.ndarray]
CAPTIONS = 8  # distinct ones among the clips' captions: annotations repeat themselves


def setting(backbone: str, frames: int, own: dict[str, object]) -> Params:
    """Table 4's Stage II on a given backbone without dropout, with a contender's own changes."""
    changes = {"stage2_lora_dropout": 0.0, "temporal_dropout": 0.0, "device": "cpu"}
    mine = {"backbone": backbone, "num_frames": frames, "checkpointing": "none"}
    return load_params("paper", changes | mine | own)


def model_and_batch(P: Params, clips: int) -> tuple[AlertCLIP, Batch]:
    """The same for every contender."""
    model = stage_start(P, 2).train()
    generator = torch.Generator().manual_seed(1)
    for parameter in trainable(model).values():  # what starts at zero hides mistakes
        parameter.data += 0.01 * torch.randn(parameter.shape, generator=generator)
    batch = random_batch(model.image_size, clips, P.data.num_frames)
    captions = [batch.global_captions[i % CAPTIONS] for i in range(clips)]
    return model, replace(batch, global_captions=captions)


def gradient(model: AlertCLIP) -> np.ndarray:
    """All gradients as one vector, taken away from the model."""
    found = [p.grad.flatten() for p in trainable(model).values() if p.grad is not None]
    model.zero_grad()
    return torch.cat(found).numpy()


def ours(P: Params, clips: int, folder: Path) -> Work:
    """The library's forward and backward pass."""
    model, batch = model_and_batch(P, clips)
    device = torch.device("cpu")
    objective = StageObjective(model, P.training, "bf16", True, device)

    def work() -> np.ndarray:
        objective.backward([batch], 1)
        return gradient(model)

    return work


def one_clip(model: AlertCLIP, batch: Batch, number: int) -> Embeddings:
    """Clip ``number`` alone through the model, its texts one by one."""
    part = slice(number, number + 1)
    frames = model.encode_frames(batch.frames[part], patches=True)
    v = model.pool_frames(frames.v, batch.mask[part]).embedding
    here = torch.zeros(1, dtype=torch.long)
    v_r = model.encode_regions(frames.patches, here, batch.boxes[part], batch.region_mask[part])
    negatives, mask = fill_negatives(batch.hard_negatives[part], batch.region_captions[part])
    texts = [batch.global_captions[number], batch.region_captions[number], *negatives]
    t, t_r, *t_neg = (model.encode_text([text]) for text in texts)
    captions = batch.global_captions[part], batch.region_captions[part]
    t_neg = torch.stack(t_neg, dim=1)
    return Embeddings(v, t, captions[0], v_r, t_r, t_neg, mask, captions[1])


def straight(P: Params, clips: int, folder: Path) -> Work:
    """What one writes first; it keeps nothing."""
    model, batch = model_and_batch(P, clips)

    def work() -> np.ndarray:
        parts = [one_clip(model, batch, number) for number in range(clips)]
        total_loss(concatenate(parts), model.logit_scale.exp()).total.backward()
        return gradient(model)

    return work


UPPER = {"lora_blocks": 3}
CONTENDERS = {
    "ours": (ours, {}),
    "straight": (straight, {"checkpointing": "all"}),
    "upper": (ours, UPPER),
}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--backbone", default="ViT-B-32-quickgelu")
    options.add_argument("--clips", type=int, default=8, help="Table 4's micro-batch")
    options.add_argument("--frames", type=int, default=16)
    o = options.parse_args()
    if o.contender:
        make, own = CONTENDERS[o.contender]
        work = make(setting(o.backbone, o.frames, own), o.clips, o.answer)
        work()  # warm-up
        answer(o.answer, work, o.clips)
        return
    sizes = ["--backbone", o.backbone, "--clips", str(o.clips), "--frames", str(o.frames)]
    table, outputs = interleave(__file__, list(CONTENDERS), o.repeats, sizes)
    sizes = {"backbone": o.backbone, "clips": o.clips, "frames": o.frames}
    save(table.assign(**sizes), "train", o.out)
    pairs = {"straight": "ours"}
    equal = [f"cosine of gradients {cosines(outputs[a], outputs[b]):.5f}" for b, a in pairs.items()]
    save(compare(table, pairs).assign(agreement=equal), "train_ratio", o.out)


if __name__ == "__main__":
    main()
