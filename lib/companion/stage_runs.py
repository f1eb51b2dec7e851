"""A stage of a profile: data, model, adapters, loop, export."""

from functools import partial
from pathlib import Path

import torch

from alertclip import distributed
from alertclip.backbone import load_backbone
from alertclip.checkpoint import read_state
from alertclip.clips import ClipDataset
from alertclip.errors import InputError
from alertclip.export import META, export_open_clip, load_alertclip
from alertclip.files import sha256_json
from alertclip.footprint import fit_into_memory
from alertclip.lora import add_lora
from alertclip.model import AlertCLIP
from alertclip.prefix import PrefixCache
from alertclip.stage_settings import stage_settings
from alertclip.tower import compile_blocks
from alertclip.training import fit
from companion.profiles import Params
from companion.splits import clip_dataset, prepare_data, require_disjoint


def run_stage(P: Params, stage: int) -> Path:
    """Train stage 1 or 2 of a profile and return ``stageN/final``, an open_clip folder.

    Goes on where an interrupted call stopped; does nothing if the stage is finished. The processes
    of torchrun share the work. Raises InputError if data, weights or, for stage 2, Stage I are
    missing.
    """
    settings, device = stage_settings(P, stage), distributed.own_device(resolve_device(P))
    with distributed.first_alone():
        prepare_data(P)
        require_disjoint(P)
        torch.manual_seed(P.seed)
        model = initial_model(P, stage).to(device)
        if P.model.cache_prefix:
            model.prefix = _prefix_cache(P, model, settings.precision)
        if P.model.compile:
            compile_blocks(model.clip.visual)
        train, dev = (clip_dataset(P, split, model.image_size) for split in ("train", "dev"))
    out, regions = P.run_dir / f"stage{stage}", stage == 2
    look_ahead = partial(fit_into_memory, model, settings, P.data.num_frames, regions, out.name)
    fit(
        model,
        train,
        dev,
        settings,
        out,
        regions=regions,
        seed=P.seed,
        device=device,
        provenance=_provenance(P, train),
        workers=P.workers if device.type == "cuda" else 0,  # a CPU has no cores to spare
        prepare=look_ahead if P.model.checkpointing == "auto" else None,
    )
    if distributed.rank() == 0 and not (out / "final" / META).exists():
        state = read_state(out / "final")
        meta = {"stage": stage, "num_frames": P.data.num_frames, "run": state["identity"]}
        export_open_clip(model, out / "final", meta)
    distributed.barrier()
    return out / "final"


def initial_model(P: Params, stage: int) -> AlertCLIP:
    """The model before its first step: CLIP, or the merged Stage I, with new adapters.

    Stage I's adapters are folded into the weights because the ranks differ (Table 4: 4 and 16).
    """
    settings = stage_settings(P, stage)
    scratch = stage == 1 or P.training.from_scratch
    before = None if scratch else _finished_stage1(P)
    model = AlertCLIP(
        before.backbone if before else load_backbone(P.model.backbone, P.model.pretrained),
        temporal_layers=P.model.temporal_layers,
        temporal_heads=P.model.temporal_heads,
        temporal_dropout=P.model.temporal_dropout,
        region_pooling=P.model.region_pooling,
        patch_tokens=P.model.patch_tokens,
        checkpointing="none" if P.model.checkpointing == "auto" else P.model.checkpointing,
    )
    if before:
        model.temporal.load_state_dict(before.temporal.state_dict())
        model.pooling.load_state_dict(before.pooling.state_dict())
    rank, alpha, dropout = settings.lora_rank, settings.lora_alpha, settings.lora_dropout
    where = P.model.lora_targets, P.model.lora_towers, P.model.lora_blocks
    model.adapted = add_lora(model.adapted, rank, alpha, dropout, *where)
    model.logit_scale.requires_grad_(True)  # CLIP's temperature is learned
    # Untrained, the temporal transformer is the identity and the pooling weights are uniform.
    model.temporal.requires_grad_(P.model.temporal_head == "transformer")
    model.pooling.requires_grad_(P.model.temporal_head != "mean")
    return model


def _prefix_cache(P: Params, model: AlertCLIP, precision: str) -> PrefixCache:
    backbone, device = model.backbone, model.mean.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    made_by = [precision, name, torch.__version__, P.model.compile]
    made_by += [backbone.config, backbone.mean, backbone.std]
    return PrefixCache(P.cache_dir / "prefix", model.clip.visual, made_by)


def _finished_stage1(P: Params) -> AlertCLIP:
    folder = P.run_dir / "stage1" / "final"
    if not (folder / META).exists():
        raise InputError(
            f"Stage II starts from Stage I, and {folder} is not finished: first run"
            f" python -m alertclip.training --profile {P.profile} --stage 1"
        )
    return load_alertclip(folder)


def _provenance(P: Params, train: ClipDataset) -> dict[str, object]:
    """What beside settings and weights decides the result: data by content, model options."""
    content = [
        (repr(item), train.cache.info(train.root / item.video).sha256) for item in train.items
    ]
    names = ("num_frames", "region_pooling", "patch_tokens", "temporal_dropout", "temporal_heads",
             "backbone")  # fmt: skip
    return {"data": sha256_json(content)} | {name: P.flat()[name] for name in names}


def resolve_device(P: Params) -> torch.device:
    """The device parameter resolved: auto is CUDA where present; InputError if it is not here."""
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    name = automatic if P.device == "auto" else P.device
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # the latter from a torch without CUDA
        reason = str(error).splitlines()[0]
        raise InputError(f"device={name}: {reason}; use device=auto, or cpu") from None
    device = torch.device(name)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # clocks, peaks of memory and names are the current GPU's
    return device
