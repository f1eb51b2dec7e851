"""Train a stage of a profile: data, model, adapters, training loop, export.

``python -m companion.stage_runs --profile mini --stage 1`` trains Stage I. On several GPUs, with
the same result up to rounding and dropout's random numbers:
``torchrun --nproc_per_node 8 -m companion.stage_runs --profile paper --stage 1``.
"""

import argparse
from pathlib import Path

import torch
from torch.utils.data import Dataset, Subset

from alertclip import distributed
from alertclip.backbone import load_backbone
from alertclip.checkpoint import RUN
from alertclip.clips import ClipDataset
from alertclip.export import META, export_open_clip, load_alertclip
from alertclip.hyperparameters import StageParams
from alertclip.lora import add_lora
from alertclip.model import AlertCLIP
from alertclip.training import BOOKKEEPING, fit
from companion.profiles import Params, read_command_line
from companion.splits import clip_dataset, prepare_data, require_disjoint
from media.errors import InputError
from media.files import read_json, sha256_json, write_json

FOLDERS = {1: "stage1", 2: "full"}  # of the model after each stage, in the run's folder


def run_stage(P: Params, stage: int) -> Path:
    """Train stage 1 or 2 of a profile; return the model's folder, which open_clip can load.

    Resumes an interrupted training. InputError without data, weights or, for stage 2, Stage I.
    """
    device = distributed.own_device(resolve_device(P))
    with distributed.first_alone():
        prepare_data(P)
        require_disjoint(P)
        torch.manual_seed(P.seed)
        model = initial_model(P, stage).to(device)
        train, dev = (clip_dataset(P, split, model.image_size) for split in ("train", "dev"))
    out = P.tuned_dir / FOLDERS[stage]
    _refuse_other_settings(P, stage, out)
    clips, data = started_clips(P, train, out)
    workers = P.workers if device.type == "cuda" else 0  # a CPU has no cores to spare
    # Beside the stage's settings and the weights, these decide the result.
    names = {"backbone", "region_pooling", "patch_tokens", "temporal_dropout", "temporal_heads"}
    provenance = {"data": data, **P.data.model_dump(include={"num_frames", "frame_spacing"})}
    fit(
        model, clips, dev, stage_params(P, stage), P.training, out, regions=stage == 2, seed=P.seed,
        device=device, provenance=provenance | P.model.model_dump(include=names), workers=workers,
    )  # fmt: skip
    if distributed.rank() == 0 and not (out / META).exists():
        meta = {"stage": stage, "num_frames": P.data.num_frames, "run": read_json(out / RUN)}
        export_open_clip(model, out, meta)
    distributed.barrier()
    return out


def _refuse_other_settings(P: Params, stage: int, out: Path) -> None:
    """Raise InputError if an overlay would retrain a model that its base profile has tuned."""
    if P.tuned_dir == P.run_dir or not (out / RUN).is_file():
        return
    used, wanted = read_json(out / RUN), stage_params(P, stage).model_dump(exclude=BOOKKEEPING)
    if changed := [f"stage{stage}_{k}" for k, v in wanted.items() if used.get(k, v) != v]:
        raise InputError(
            f"{out} is tuned already, with other values of {', '.join(changed)}: change them for"
            f" the profile {P.tuned_dir.name}, whose models this one shares"
        )


def stage_params(P: Params, stage: int) -> StageParams:
    """Settings of a stage (a column of Table 4); from scratch, Stage II has the steps of both."""
    first, second = P.stage1, P.stage2
    if stage == 2 and P.training.from_scratch:
        if bool(first.steps) != bool(second.steps):
            raise InputError("from_scratch: give both stages steps, or both epochs")
        steps = first.steps and first.steps + second.steps
        return second.model_copy(update={"epochs": first.epochs + second.epochs, "steps": steps})
    return first if stage == 1 else second


def initial_model(P: Params, stage: int) -> AlertCLIP:
    """The model before its first step: CLIP or, for Stage II, the merged Stage I; new adapters.

    Stage I's adapters are merged into the weights because the ranks differ (Table 4: 4 and 16).
    """
    settings = stage_params(P, stage)
    stage1, folder = None, P.tuned_dir / FOLDERS[1]
    if stage == 2 and not P.training.from_scratch:
        if not (folder / META).exists():
            raise InputError(
                f"Stage II starts from Stage I, and {folder} is not finished: first run"
                f" python -m companion.stage_runs --profile {P.profile} --stage 1"
            )
        stage1 = load_alertclip(folder)
    names = {"temporal_layers", "temporal_heads", "temporal_dropout", "region_pooling",
             "patch_tokens", "checkpointing"}  # fmt: skip
    model = AlertCLIP(
        stage1.backbone if stage1 else load_backbone(P.model.backbone, P.model.pretrained),
        **P.model.model_dump(include=names),
    )
    if stage1:
        model.temporal.load_state_dict(stage1.temporal.state_dict())
        model.pooling.load_state_dict(stage1.pooling.state_dict())
    adapters = settings.lora_rank, settings.lora_alpha, settings.lora_dropout
    placement = P.model.lora_targets, P.model.lora_towers, P.model.lora_blocks
    model.adapted = add_lora(model.adapted, *adapters, *placement)
    model.logit_scale.requires_grad_(True)  # CLIP's temperature is learned
    # Untrained, the temporal transformer is the identity and the pooling weights are uniform.
    model.temporal.requires_grad_(P.model.temporal_head == "transformer")
    model.pooling.requires_grad_(P.model.temporal_head != "mean")
    return model


def started_clips(P: Params, train: ClipDataset, out: Path) -> tuple[Dataset, str]:
    """The clips that the run in ``out`` started with, and the hash of their content.

    A run's clips are fixed when it starts: a clip that becomes readable later does not join. One
    that is lost stops an unfinished run by name or, with ``skip_lost_clips``, the next clip takes
    its place. If annotations or videos have changed, it is another run, with the current clips.
    """
    content = {
        item.key: [repr(item), train.cache.info(train.root / item.video).sha256]
        for item in train.items
    }
    unreadable = {finding.item for finding in train.failures}
    folder, digest = P.tuned_dir / "clips", sha256_json(list(content.values()))
    started = read_json(out / RUN).get("data", "") if (out / RUN).is_file() else ""
    if (file := folder / f"{started[:16]}.json").is_file():
        record = read_json(file)
        clips = record["clips"]
        same = clips.keys() | {*record["unreadable"]} == content.keys() | unreadable
        if same and all(content.get(key, value) == value for key, value in clips.items()):
            skip = P.data.skip_lost_clips or (out / META).exists()
            return _as_started(train, clips, skip), sha256_json(list(clips.values()))
    if distributed.rank() == 0:
        record = {"clips": content, "unreadable": sorted(unreadable)}
        write_json(folder / f"{digest[:16]}.json", record)
    return train, digest


def _as_started(train: ClipDataset, clips: dict[str, list[str]], skip: bool) -> Dataset:
    """``train`` with the keys of ``clips`` in their order; see ``started_clips``."""
    places = {item.key: i for i, item in enumerate(train.items)}
    lost = [key for key in clips if key not in places]
    if lost and not skip:
        reason = next(f.reason for f in train.failures if f.item == lost[0])
        raise InputError(
            f"{lost[0]}: {len(lost)} clips that this training started with cannot be read now"
            f" ({reason}); restore them, or continue without them: -p skip_lost_clips=true"
        )
    order, place = [], len(places) - 1
    for key in reversed(clips):
        place = places.get(key, place)  # a lost clip takes the next one's
        order.append(place)
    return Subset(train, order[::-1])


def resolve_device(P: Params) -> torch.device:
    """The device of a run: "auto" is CUDA where present; InputError if it cannot be used.

    On a GPU, fp32 matrix products use TF32 from then on; NVIDIA_TF32_OVERRIDE=0 forbids it.
    """
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    name = automatic if P.device == "auto" else P.device
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # the latter from a torch without CUDA
        reason = str(error).splitlines()[0].rstrip(".") + "."
        raise InputError(
            f"device={name}: {reason} To run on the CPU anyway, which takes days on real"
            " videos, pass device=cpu"
        ) from None
    device = torch.device(name)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        if device.index is not None:
            torch.cuda.set_device(device)  # timers and memory counters read the current GPU
    return device


def main() -> None:
    """Command line: train one stage, or resume it."""
    parser = argparse.ArgumentParser(prog="python -m companion.stage_runs", description=__doc__)
    parser.add_argument("--stage", type=int, choices=(1, 2), required=True)
    args, P = read_command_line(parser)
    with distributed.processes():
        out = run_stage(P, args.stage)
        if distributed.rank() == 0:
            print(out)


if __name__ == "__main__":
    main()
