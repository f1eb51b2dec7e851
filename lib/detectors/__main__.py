"""Score feature files with an official checkpoint: one CSV row per feature.

python -m detectors vadclip model_ucf.pth features/*.npy --out scores.csv
python -m detectors anomalyclip state.pt features/*.npy --prototype ncentroid.pt --out scores.csv

A feature is a snippet of 16 frames (VadCLIP) or a frame (AnomalyCLIP), from the CLIP of
``--backbone``. VadCLIP's checkpoints hold it; for one that does not, give ``--pretrained openai``.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from alertclip.backbone import load_backbone
from detectors.anomalyclip.model import AnomalyCLIP
from detectors.benchmarks import load_benchmark
from detectors.checkpoints import load_anomalyclip, load_clip, load_vadclip, read_tensors
from detectors.features import read_features
from detectors.fitting import Score, anomalyclip_score, class_prompts, vadclip_score
from detectors.training_protocol import DetectorParams, detector_settings
from detectors.vadclip.model import VadCLIP
from media.errors import InputError
from media.files import atomic_write, progress

PRESETS = {"ucf_crime": "ucf", "xd_violence": "xd", "shanghaitech": "sht"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
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
    args = parser.parse_args(arguments)
    try:
        score, classes = load_detector(args)
        tables = []
        for file in progress(args.features, len(args.features), "video"):
            scores = score(read_features(file))
            tables.append(pd.DataFrame(scores.probabilities, columns=classes))
            tables[-1].insert(0, "anomaly", scores.anomaly)
        videos = [file.stem for file in args.features]
        with atomic_write(args.out) as temporary:
            table = pd.concat(tables, keys=videos, names=["video", "feature"])
            table.to_csv(temporary, float_format="%.6g")
    except InputError as error:
        sys.exit(str(error))


def load_detector(args: argparse.Namespace) -> tuple[Score, list[str]]:
    """Return the detector chosen on the command line, as a score function, and its classes."""
    benchmark, preset = load_benchmark(args.benchmark), PRESETS[args.benchmark]
    backbone = load_backbone(args.backbone, args.pretrained)
    clip, tokenizer = backbone.model, backbone.tokenizer
    if args.detector == "vadclip":
        if preset == "sht":
            raise InputError("VadCLIP has no checkpoint for ShanghaiTech: give another --benchmark")
        if not args.pretrained:
            load_clip(clip, args.checkpoint)
        settings = detector_settings("vadclip", DetectorParams(vadclip_preset=preset))
        prompts = class_prompts(benchmark, benchmark.classes)
        vad = VadCLIP(clip, tokenizer, prompts, settings)
        load_vadclip(vad, args.checkpoint)
        return vadclip_score(vad, benchmark), benchmark.classes
    if args.prototype is None:
        raise InputError("AnomalyCLIP needs its prototype: give --prototype ncentroid.pt")
    classes, prototype = benchmark.anomalyclip_classes, read_tensors(args.prototype)
    settings = detector_settings("anomalyclip", DetectorParams(anomalyclip_preset=preset))
    width = clip.text_projection.shape[1]
    anomaly = AnomalyCLIP(clip, tokenizer, classes, torch.zeros(width), settings)
    load_anomalyclip(anomaly, args.checkpoint, prototype)
    return anomalyclip_score(anomaly), classes


if __name__ == "__main__":
    main()
