"""The parameters of a run: typed groups, with flat names in YAML; a misspelt name is an error.

A profile (``params/<profile>.yaml``) lists only its deviations from the defaults, which are the
paper's values (supplementary Table 4) or, where the paper gives none, ours.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml
from pydantic import Field, ValidationError

from alertclip import hyperparameters as paper
from detectors.benchmarks import Benchmark, load_benchmark
from detectors.training_protocol import DETECTORS, DetectorParams, detector_settings
from media.errors import InputError, nearest
from media.files import half_the_cores
from vagpt.qa_protocol import QAParams

ROOT = Path(__file__).resolve().parents[2]
PROFILES = ROOT / "params"
FACTS = PROFILES / "facts"  # data, not parameters
NESTED = {"transfer": {}, "open_vocabulary_changes": {}}  # parameters that hold changes
TESTING = {"evaluation", "detector", "qa", "ablation", "failure"}  # groups without effect on tuning

Kind = Literal["blur", "darkness", "noise", "compression", "resolution", "occlusion", "actor size"]


class WorldParams(paper.Group):
    """Size and style of the rendered world."""

    train: int = Field(800, ge=2)
    dev: int = Field(160, ge=2)
    test: int = Field(400, ge=2)
    style: Literal["flat", "line"] = "flat"
    seed: int = Field(0, ge=0)


class RehearsalParams(paper.Group):
    """Limits of a rehearsal (params/paper-rehearsal.yaml), whose numbers mean nothing."""

    clips: int | None = Field(None, ge=16)  # drawn by seed from each of VAGTA's files
    test_videos: int | None = Field(None, ge=4)  # of each benchmark, evenly spaced in its list
    world: int | None = Field(None, ge=4)  # clips per split of the world that 01 renders


class EvaluationParams(paper.Group):
    """Metrics, prompts and other domains."""

    PLAIN: ClassVar = ("bootstrap_samples", "prompts", "transfer", "open_vocabulary_changes",
                       "retention_imagenet", "retention_coco")  # fmt: skip

    batch_size: int = Field(8, ge=1)
    # Of snippet features; auto = fp16 on a GPU, as CLIP is released, else fp32
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    bootstrap_samples: int = Field(1000, ge=10)
    prompts: str = "params/prompts.yaml"
    transfer: dict[str, dict[str, Any]] = {}  # other domains: title -> changes to the profile
    open_vocabulary_changes: dict[str, Any] = {}  # for a benchmark without base and novel classes
    retention_imagenet: str = ""  # folder val/ with a folder per class
    retention_coco: str = ""  # folder with captions_val2017.json and val2017/


class AblationParams(paper.Group):
    """Which variants of params/ablations.yaml notebook 07 runs, under which seeds."""

    variants: list[str] = []  # empty = all
    seeds: list[int] = Field([0, 1, 2, 3, 4], min_length=1)
    backbone: Literal["clip", "stage1", "full"] = "clip"  # of the detectors' own variants
    detector: bool = True  # also by VadCLIP, on new features: variants with detector: true


class FailureParams(paper.Group):
    """Failures under controlled degradation (notebook 08)."""

    clips: int | None = Field(None, ge=4)  # drawn by seed, half abnormal; None = all
    levels: dict[Kind, list[float]] = {  # in the units of degradation.py
        "blur": [1, 2, 4, 8], "darkness": [2, 4, 6, 8], "noise": [10, 20, 40, 80],
        "compression": [40, 20, 10, 5], "resolution": [112, 56, 28, 14],
        "occlusion": [0.25, 0.5, 0.75, 1], "actor size": [0.7, 0.5, 0.35, 0.25],
    }  # fmt: skip
    gallery: int = Field(4, ge=1)  # worst errors shown of each kind
    videos: str = ""  # a folder of real clips to show; empty = the data root, if real
    names: list[str] = ["Abuse011", "RoadAccidents018", "RoadAccidents022", "Arson016"]


class Params(paper.Group):
    """All parameters of a run. Paths are relative to the project root, annotations to data_root."""

    profile: str = "paper"
    seed: int = Field(42, ge=0)  # Table 4
    device: str = "auto"  # auto = cuda where present, else cpu
    workers: int = Field(default_factory=half_the_cores, ge=0)  # processes that decode or render
    notebooks_at_once: int = Field(1, ge=1)  # 1 with one GPU; more on a CPU, where they share cores
    features: str = ""  # folder of released features, used instead of videos (05, 06, 11)
    video: str = ""  # a file to score; empty = one of the run's test videos
    data: paper.DataParams = paper.DataParams()
    world: WorldParams = WorldParams()
    model: paper.ModelParams = paper.ModelParams()
    training: paper.TrainingParams = paper.TrainingParams()
    stage1: paper.StageParams = paper.StageParams()
    stage2: paper.StageParams = paper.StageParams(**paper.STAGE2)
    evaluation: EvaluationParams = EvaluationParams()
    detector: DetectorParams = DetectorParams()
    qa: QAParams = QAParams()
    ablation: AblationParams = AblationParams()
    failure: FailureParams = FailureParams()
    rehearsal: RehearsalParams = RehearsalParams()

    def flat(self) -> dict[str, Any]:
        """Every parameter by its flat name, as a profile writes it."""
        return {name: getattr(getattr(self, g) if g else self, f) for name, (g, f) in FLAT.items()}

    def changed(self, changes: dict[str, Any]) -> "Params":
        """A copy with some parameters changed by flat name, validated again."""
        return from_flat(self.flat() | changes)

    def nested(self) -> dict[str, dict[str, Any]]:
        """Parameter changes for other domains, by the parameter that holds them."""
        nested = {f"transfer: {title}": c for title, c in self.evaluation.transfer.items()}
        nested["open_vocabulary_changes"] = self.evaluation.open_vocabulary_changes
        return {where: changes for where, changes in nested.items() if changes}

    @property
    def benchmark(self) -> Benchmark:
        """The detectors' benchmark (params/benchmarks.yaml)."""
        return load_benchmark(self.detector.benchmark)

    @property
    def draws(self) -> tuple[int, int]:
        """Number of bootstrap samples of an interval, and their seed."""
        return self.evaluation.bootstrap_samples, self.seed

    @property
    def run_dir(self) -> Path:
        """Folder that the profile's run writes to."""
        return ROOT / "runs" / self.profile

    @property
    def tuned_dir(self) -> Path:
        """Folder of the tuned models; overlays that change only the testing share their base's."""
        name, *inner = self.profile.split("/")
        first, *overlays = name.split("+")
        return ROOT.joinpath("runs", "+".join([first, *filter(_tunes, overlays)]), *inner)

    @property
    def cache_dir(self) -> Path:
        """Decoded frames and frozen tokens, named by content and shared by all profiles."""
        return ROOT / "runs" / "cache"

    @property
    def features_dir(self) -> Path:
        """The folder of released features with environment variables resolved."""
        return ROOT / os.path.expandvars(self.features)

    @property
    def data_dir(self) -> Path:
        """The data root with environment variables resolved; equal mini worlds share one."""
        if self.data.world == "miniworld":
            sizes = f"{self.world.train}-{self.world.dev}-{self.world.test}"
            return ROOT / "runs" / "worlds" / f"{self.world.style}-{sizes}-{self.world.seed}"
        expanded = os.path.expandvars(self.data.data_root)
        if "$" in expanded:
            raise InputError(
                f"data_root is {self.data.data_root} and that variable is not set: set it to the"
                " folder that holds UCF_Crimes_Videos/, MSAD/ and the VAGTA json files (see"
                " docs/real-data.md), or pass -p data_root=FOLDER"
            )
        return ROOT / expanded


FLAT: dict[str, tuple[str, str]] = {}
"""Flat name -> (group, field); the group is empty for fields of Params itself."""
for group, info in Params.model_fields.items():
    kind: Any = info.annotation
    if not hasattr(kind, "model_fields"):
        FLAT[group] = ("", group)
        continue
    for field in kind.model_fields:
        plain = kind.PLAIN is True or field in (kind.PLAIN or ())
        FLAT[field if plain else f"{group}_{field}"] = (group, field)


def from_flat(values: dict[str, Any]) -> Params:
    """Parameters from ``values`` by flat name, else defaults; InputError names a wrong one."""
    tree: dict[str, Any] = {"stage2": dict(paper.STAGE2)}
    for name, value in values.items():
        if name not in FLAT:
            raise InputError(f"{name}: no such parameter{nearest(name, FLAT)}")
        group, field = FLAT[name]
        if name in ("backbone", "pretrained"):
            value = _from_root(value)
        (tree.setdefault(group, {}) if group else tree)[field] = value
    try:
        P = Params.model_validate(tree)
    except ValidationError as error:
        raise InputError("; ".join(_explain(e) for e in error.errors())) from None
    for name in DETECTORS:
        detector_settings(name, P.detector)  # raises if a change to its preset is misspelt
    for where, changes in P.nested().items():
        within(where, from_flat, values | NESTED | changes)
    return P


def _tunes(overlay: str) -> bool:
    """Whether an overlay changes a parameter that affects the tuned models."""
    path = PROFILES / f"{overlay}.yaml"
    return not path.is_file() or any(FLAT[k][0] not in TESTING for k in _read_yaml(path))


def within(where: str, call: Callable[..., Any], *args: Any) -> Any:
    """Return ``call(*args)``; the message of an InputError gets the prefix ``where``."""
    try:
        return call(*args)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _explain(error: Any) -> str:
    place = [str(part) for part in error["loc"] if part != "[key]"]
    fields = {f"{g}.{f}" if g else f: name for name, (g, f) in FLAT.items()}
    flat = fields.get(".".join(place[:2]))
    name = ".".join([flat, *place[2:]] if flat else place)
    known = re.findall("'([^']+)'", str(error.get("ctx", {}).get("expected", "")))
    hint = nearest(str(error["input"]), known)
    return f"{name or 'parameters'}: {error['msg']} (got {error['input']!r}){hint}"


def _from_root(value: str | None) -> str | None:
    """A backbone or weights file relative to the project root as an absolute path."""
    kind, _, name = str(value or "").partition(":")
    if kind == "local-dir" or (kind == "blip" and (ROOT / name).is_dir()):
        return f"{kind}:{ROOT / name}"
    return str(ROOT / value) if value and (ROOT / str(value)).is_file() else value


def load_params(profile: str, overrides: dict[str, Any] | None = None) -> Params:
    """Read ``params/<profile>.yaml`` and overlays, apply ``overrides``, check every name and type.

    Overlays follow a ``+`` ("paper+paper-b16"): later ones win, with ``features`` last, and the
    whole name is the run's. InputError names the parameter, the file and the nearest known name.
    """
    values: dict[str, Any] = {"profile": profile}
    for name in sorted(profile.split("+"), key="features".__eq__):
        values |= _read_yaml(PROFILES / f"{name}.yaml")
    return within("-p", from_flat, values | (overrides or {}))


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """``["stage1_steps=20", "lora_targets=[q, v]"]`` -> values by name, read as YAML."""
    overrides = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"-p {pair}: write it as -p name=value")
        try:
            overrides[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"-p {pair}: the value is not valid YAML; quote it") from None
    return overrides


def read_command_line(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, Params]:
    """Add ``--profile`` and ``-p`` to ``parser``; return its options and the profile's parameters.

    From then on an InputError ends the command with its message alone, without a traceback.
    """
    sys.excepthook = _print_input_error
    parser.add_argument("--profile", default="mini", help="params/<profile>.yaml, joined by +")
    parser.add_argument("-p", nargs="*", action="extend", default=[], metavar="NAME=VALUE")
    args = parser.parse_args()
    return args, load_params(args.profile, parse_overrides(args.p))


def _print_input_error(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if issubclass(kind, InputError):
        print(error, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.exists():
        texts = {p.stem: p.read_text("utf-8") for p in PROFILES.glob("*.yaml")}
        fields = {k: {*re.findall(r"(?m)^(\w+):", text)} for k, text in texts.items()}
        known = sorted(name for name, used in fields.items() if used <= FLAT.keys())
        advice = f"{nearest(path.stem, known)} (there are: {', '.join(known)})"
        raise InputError(f"{path.name}: no such profile in params/{advice}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{path.name}: not valid YAML: {error}") from None
    within(f"params/{path.name}", from_flat, {"profile": path.stem} | values)
    return values
