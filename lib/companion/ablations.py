"""Ablations: variants of a profile over seeds, each a job of its own.

``python -m companion.ablations --profile mini --seeds 0 1 2 3 4 --cores 2`` runs every variant of
params/ablations.yaml; ``--variants`` names some. Snakemake spreads the jobs over
cores; a failed one neither blocks nor loses the others, finished ones are kept.
Results: runs/<profile>/ablations/<variant>/seed<seed>.csv; ``ablation_tables`` pairs them.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from alertclip.errors import InputError
from alertclip.export import META
from alertclip.files import atomic_write, locked, progress, sha256_json
from companion import result_tables, tuned_models
from companion.figures.style import write_table
from companion.profiles import ABLATIONS, ROOT, Params, from_flat, load_params, parse_overrides
from companion.splits import prepare_data
from companion.stage_runs import run_stage
from curation import audit_report
from detectors import backbone_tables, cross_domain

STAGE1 = ("stage1_", "lora_", "temporal_", "world", "annotations_", "backbone", "pretrained",
          "num_frames", "strip_class_prefix", "negatives", "seed", "data_root")  # fmt: skip

INDIFFERENT = ("ablation_", "workers", "notebooks_at_once", "device", "video", "failure_", "qa_",
               "transfer", "open_vocabulary_", "retention_", "evaluation_batch_size",
               "compile")  # fmt: skip
YOUNGER = {"lora_blocks": None}  # than the reference: they count where they are not at this default


class Variant(BaseModel):
    """A row of an ablation: which parameters it changes, and what is trained and measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: Literal["alertclip", "vadclip", "anomalyclip"]
    group: str
    title: str
    reference: bool = False
    changes: dict[str, Any] = {}
    detector: bool = False  # tuned, and measured on the benchmark too where the profile asks for it
    negatives: Literal["", "planted", "vagta-clean"] = ""  # with faults, or without those found


@cache
def load_variants(path: Path = ABLATIONS) -> dict[str, Variant]:
    """All variants by name; InputError names the variant whose fields or parameters are wrong."""
    found: dict[str, Variant] = {}
    for kind, rows in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        for name, row in rows.items():
            try:
                found[name] = Variant(name=name, kind=kind, **row)
                from_flat(found[name].changes)
            except (ValidationError, TypeError) as error:
                raise InputError(f"{path.name}, {name}: {error}") from None
    return found


def result_file(P: Params, name: str, seed: int) -> Path:
    """Where the result of a variant under a seed is kept."""
    return P.run_dir / "ablations" / name / f"seed{seed}.csv"


def run_variant(P: Params, name: str, seed: int) -> Path:
    """Train and measure a variant under a seed; one row per metric.

    Columns variant, seed, metric, value (per cent; MSS as it is), params and weights, hashes.
    """
    variant = load_variants()[name]
    if variant.kind == "alertclip":
        tuned = _faulty(_changed(P, variant, seed), variant)
        table = _tuned(tuned, P, _has_detector(P, variant))
    else:
        table = _detected(_detector_params(P, variant, seed), variant)
    out = result_file(P, name, seed)
    write_table(table.assign(variant=name, seed=seed, params=inputs_hash(P, name, seed)), out)
    return out


def _changed(P: Params, variant: Variant, seed: int) -> Params:
    profile = f"{P.profile}/ablations/{variant.name}/seed{seed}"
    own = {"profile": profile, "seed": seed}
    return cross_domain.changed(P, P.ablation.changes | variant.changes | own)


def _faulty(P: Params, variant: Variant) -> Params:
    """P with the hard negatives of a variant that has some of its own."""
    if not variant.negatives:
        return P
    folder = P.run_dir / "negatives"
    audit_report.plant_and_clean(P, folder)
    return cross_domain.changed(
        P, {"hard_negatives_train": str(folder / f"{variant.negatives}.json")}
    )


def _detector_params(P: Params, variant: Variant, seed: int) -> Params:
    """Only the detector's settings change: features and tuned weights are those of the run."""
    values = P.flat()
    changes = {k: values[k] | v if isinstance(v, dict) else v for k, v in variant.changes.items()}
    return cross_domain.changed(P, changes | {"detector_seeds": [seed]})


def _has_detector(P: Params, variant: Variant) -> bool:
    return P.ablation.detector and variant.detector


def _tuned(P: Params, base: Params, detector: bool) -> pd.DataFrame:
    """Both stages and the zero-shot metrics; Stage I is shared where its parameters agree."""
    if not P.training.from_scratch and not (P.run_dir / "stage1").exists():
        copying = P.run_dir / "copying"
        checkpoints = shutil.ignore_patterns("checkpoint-*")
        shutil.copytree(_shared_stage1(P, base), copying, dirs_exist_ok=True, ignore=checkpoints)
        os.replace(copying, P.run_dir / "stage1")
    run_stage(P, 2)
    result = tuned_models.evaluate_stage(P, "full", "test")
    table = result_tables.zero_shot(P, [result]).rename(columns={"setting": "metric"})
    mss = result_tables.mss_by_class(P, [result]).query("class_name == 'all'")
    rows = [table, mss.rename(columns={"mss": "value"}).assign(metric="MSS")]
    rows += _on_benchmark(P) if detector else []
    weights = tuned_models.weights_hash(tuned_models.stage_model(P, "full"))[:12]
    return pd.concat(rows, ignore_index=True)[["metric", "value"]].assign(weights=weights)


def _on_benchmark(P: Params) -> list[pd.DataFrame]:
    """Frame metrics on the benchmark's test videos: of VadCLIP, and zero-shot by snippet."""
    scored = backbone_tables.score_stages(P, "vadclip", ["full"])
    curves = cross_domain.zero_shot_curves(P, ["full"], "snippet")
    return [_frame_metrics(P, scored, "VadCLIP: "), _frame_metrics(P, curves, "snippets: ")]


def _frame_metrics(
    P: Params, scored: Sequence[backbone_tables.Scored | backbone_tables.Curves], prefix: str = ""
) -> pd.DataFrame:
    table = backbone_tables.backbone_table(backbone_tables.resample_models(P, scored), "none")
    return table.assign(metric=prefix + table["setting"])


def _shared_stage1(P: Params, base: Params) -> Path:
    """Stage I for all variants that have the same: the run's own, or one trained here once."""
    own = base.run_dir / "stage1"
    if _decides_stage1(base) == _decides_stage1(P) and (own / META).exists():
        return own
    profile = f"{base.profile}/ablations/stage1-{sha256_json(_decides_stage1(P))[:8]}"
    unused = {"region_negatives": "hard", "hard_negatives_train": base.data.hard_negatives_train}
    shared = P.changed({"profile": profile, **unused})
    with locked(shared.run_dir.with_suffix(".lock")):  # two jobs may want the same
        return run_stage(shared, 1)


def _decides_stage1(P: Params) -> dict[str, Any]:
    return {k: v for k, v in P.flat().items() if k.startswith(STAGE1)}


def _detected(P: Params, variant: Variant) -> pd.DataFrame:
    """A detector on the profile's backbone: frame metrics, and those of its own paper by class."""
    scored = backbone_tables.score_stages(P, variant.kind, [P.ablation.backbone])
    rows = [_frame_metrics(P, scored)]
    if variant.kind == "anomalyclip":
        classes = backbone_tables.class_table(P, scored).query("class_name == 'mean'")
        rows.append(classes.rename(columns={"setting": "metric"}))
    else:
        rows.append(backbone_tables.detection_table(P, scored).query("not normals"))
    weights = tuned_models.weights_hash(tuned_models.stage_model(P, P.ablation.backbone))[:12]
    return pd.concat(rows, ignore_index=True)[["metric", "value"]].assign(weights=weights)


def inputs_hash(P: Params, name: str, seed: int) -> str:
    """Hash of all parameters that decide a variant's result."""
    variant = load_variants()[name]
    tuned = variant.kind == "alertclip"
    make, backbone = (_changed, "full") if tuned else (_detector_params, P.ablation.backbone)
    values = make(P, variant, seed).flat()
    as_ever = [name for name, default in YOUNGER.items() if values[name] == default]
    decisive = {k: v for k, v in values.items() if not k.startswith((*INDIFFERENT, *as_ever))}
    own = [variant.negatives] if variant.negatives else []
    own += ["detector"] if _has_detector(P, variant) else []
    return sha256_json([variant.kind, backbone, decisive, *own])[:12]


def run(P: Params, names: Sequence[str], seeds: Sequence[int], cores: int | None = None) -> None:
    """Run what is missing or outdated, as jobs of Snakemake; failed ones are named at the end."""
    prepare_data(P)
    unknown = sorted(set(names) - set(load_variants()))
    if unknown:
        raise InputError(f"no ablation {', '.join(unknown)}; see params/ablations.yaml")
    wanted = [(name, seed) for name in names for seed in seeds if not _current(P, name, seed)]
    for name, seed in wanted:
        result_file(P, name, seed).unlink(missing_ok=True)
    if not wanted:
        return
    with atomic_write(P.run_dir / "ablations" / "params.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(P.flat()), encoding="utf-8")
    targets = [str(result_file(P, *pair).relative_to(ROOT)) for pair in wanted]
    command = [sys.executable, "-m", "snakemake", *targets, "--snakefile", str(ROOT / "Snakefile")]
    command += ["--directory", str(ROOT), "--cores", str(cores or _slots()), "--nolock"]
    command += ["--keep-going", "--config", f"profile={P.profile}"]
    log = P.run_dir / "ablations" / "snakemake.log"
    with log.open("w") as stream:
        jobs = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        for _ in progress(_finished(P, wanted, jobs), len(wanted), "ablations"):
            pass
    missing = [pair for pair in wanted if not result_file(P, *pair).exists()]
    for name, seed in missing:
        print(
            f"ablation {name}, seed {seed}: failed; see its log, or {log.name}, under {P.profile}"
        )


def _slots() -> int:
    """Jobs at once: one per core this process may use, one alone on a GPU they would share."""
    return 1 if torch.cuda.is_available() else torch.get_num_threads()


def _finished(
    P: Params, wanted: Sequence[tuple[str, int]], jobs: subprocess.Popen
) -> Iterator[tuple[str, int]]:
    """Each pair as its result appears, until the jobs end."""
    waiting = list(wanted)
    while jobs.poll() is None or any(result_file(P, *pair).exists() for pair in waiting):
        done = [pair for pair in waiting if result_file(P, *pair).exists()]
        waiting = [pair for pair in waiting if pair not in done]
        yield from done
        if jobs.poll() is None:
            time.sleep(1)


def _current(P: Params, name: str, seed: int) -> bool:
    file = result_file(P, name, seed)
    return file.exists() and set(_read(file)["params"]) == {inputs_hash(P, name, seed)}


def _read(file: Path) -> pd.DataFrame:
    # As text: 417e66085674 is a hash, and a number too large for a float.
    return pd.read_csv(file, dtype={"params": str, "weights": str})


def results(P: Params, names: Sequence[str], seeds: Sequence[int]) -> pd.DataFrame:
    """Tidy results of the variants that have been run: variant, seed, metric, value, hashes."""
    files = [result_file(P, name, seed) for name in names for seed in seeds]
    tables = [_read(file) for file in files if file.exists()]
    if not tables:
        raise InputError(f"no ablation of {P.profile} has a result; run them first")
    return pd.concat(tables, ignore_index=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: run variants, or with --job exactly one in this process."""
    parser = argparse.ArgumentParser(prog="python -m companion.ablations", description=__doc__)
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--variants", nargs="+", default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument(
        "--cores", type=int, default=None, help="jobs at once; default: one per core, 1 on a GPU"
    )
    parser.add_argument("-p", action="append", default=[], metavar="NAME=VALUE", dest="overrides")
    parser.add_argument("--job", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    try:
        if args.job:
            path = ROOT / "runs" / args.profile / "ablations" / "params.yaml"
            P = from_flat(yaml.safe_load(path.read_text(encoding="utf-8")))
            run_variant(P, args.variants[0], args.seeds[0])
            return 0
        P, names = load_params(args.profile, parse_overrides(args.overrides)), args.variants
        names = names or list(load_variants())
        run(P, names, args.seeds, args.cores)
        write_table(results(P, names, args.seeds), P.run_dir / "ablations_reference.csv")
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
