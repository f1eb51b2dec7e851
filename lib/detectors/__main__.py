"""Score feature files with an official checkpoint: one CSV row per feature.

python -m detectors vadclip model_ucf.pth features/*.npy --out scores.csv
python -m detectors anomalyclip state.pt features/*.npy --prototype ncentroid.pt --out scores.csv

A feature is a snippet of 16 frames (VadCLIP) or a frame (AnomalyCLIP), from the CLIP of
``--backbone``. VadCLIP's files bring their CLIP; without one, give ``--pretrained openai``.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from alertclip.backbone import Backbone, load_backbone
from alertclip.errors import InputError
from alertclip.files import atomic_write, progress
from detectors.anomalyclip.model import AnomalyCLIP
from detectors.benchmarks import load_benchmark
from detectors.checkpoints import load_anomalyclip, load_clip, load_vadclip, read_tensors
from detectors.features import read_features
from detectors.fitting import Score, anomalyclip_score, class_prompts, vadclip_score
from detectors.training_protocol import DetectorParams, detector_settings
from detectors.vadclip.model import VadCLIP

PRESETS = {"ucf_crime": "ucf", "xd_violence": "xd", "shanghaitech": "sht"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 1 after an error, which it prints."""
    args = _parser().parse_args(arguments)
    try:
        load = _vadclip if args.detector == "vadclip" else _anomalyclip
        score, classes = load(args, load_backbone(args.backbone, args.pretrained))
        tables = []
        for file in progress(args.features, len(args.features), "video"):
            found = score(read_features(file))
            tables.append(pd.DataFrame(found.probabilities, columns=classes))
            tables[-1].insert(0, "anomaly", found.anomaly)
        videos = [file.stem for file in args.features]
        with atomic_write(args.out) as temporary:
            table = pd.concat(tables, keys=videos, names=["video", "feature"])
            table.to_csv(temporary, float_format="%.6g")
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m detectors", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("detector", choices=["vadclip", "anomalyclip"])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("features", type=Path, nargs="+", help=".npy files, (n, D) each")
    parser.add_argument("--out", type=Path, default=Path("scores.csv"))
    parser.add_argument("--benchmark", default="ucf_crime", choices=list(PRESETS))
    parser.add_argument("--backbone", default="ViT-B-16-quickgelu", help="open_clip's name")
    parser.add_argument("--pretrained", help="weights of the CLIP, if the checkpoint has none")
    parser.add_argument("--prototype", type=Path, help="AnomalyCLIP's ncentroid.pt")
    return parser


def _vadclip(args: argparse.Namespace, backbone: Backbone) -> tuple[Score, list[str]]:
    if args.benchmark == "shanghaitech":
        raise InputError("VadCLIP has no checkpoint for ShanghaiTech: give another --benchmark")
    benchmark = load_benchmark(args.benchmark)
    if not args.pretrained:
        load_clip(backbone.model, args.checkpoint)
    settings = detector_settings("vadclip", DetectorParams(vadclip_preset=PRESETS[args.benchmark]))
    prompts = class_prompts(benchmark, benchmark.classes)
    model = VadCLIP(backbone.model, backbone.tokenizer, prompts, settings)
    load_vadclip(model, args.checkpoint)
    return vadclip_score(model, benchmark), benchmark.classes


def _anomalyclip(args: argparse.Namespace, backbone: Backbone) -> tuple[Score, list[str]]:
    if args.prototype is None:
        raise InputError("AnomalyCLIP needs its prototype: give --prototype ncentroid.pt")
    benchmark, prototype = load_benchmark(args.benchmark), read_tensors(args.prototype)
    classes, width = benchmark.anomalyclip_classes, backbone.model.text_projection.shape[1]
    params = DetectorParams(anomalyclip_preset=PRESETS[args.benchmark])
    settings = detector_settings(
        "anomalyclip", params, normal_id=classes.index(benchmark.normal_class)
    )
    model = AnomalyCLIP(backbone.model, backbone.tokenizer, classes, torch.zeros(width), settings)
    load_anomalyclip(model, args.checkpoint, prototype)
    return anomalyclip_score(model), classes


if __name__ == "__main__":
    sys.exit(main())
