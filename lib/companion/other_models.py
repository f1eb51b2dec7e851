"""Zero-shot rows of models that are not tuned here (Alert-CLIP, Table 1 and the zero-shot table).

``python -m companion.other_models --profile paper --overlays paper-longclip paper-siglip
paper-blip --vlm llava-hf/llava-1.5-7b-hf``

MSS of the untuned backbones of the profile and the overlays. Frame metrics of the overlays'
backbones; of a LLaVA (--vlm), whose score is the log-odds of "Yes" to one question about the middle
frame of each snippet; and of any other method (--scores NAME=FOLDER), whose scores are read from
FOLDER: for each test video of the profile's own benchmark, VIDEO__0.npy, (snippets, 1) of real
numbers. Tables go to runs/<profile>/figures/.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd

from alertclip.checkpoint import weights_hash
from companion.detector_tables import Curves
from companion.extraction import evaluation_set, source_hash, tested_videos
from companion.profiles import Params, load_params, parse_overrides, read_command_line
from companion.stage_runs import resolve_device
from companion.zero_shot_tables import by_domain, held_curves, mss_by_domain, zero_shot_table
from detectors.features import SnippetRule, decoded_pieces, feature_file
from media.errors import InputError
from media.files import atomic_write, sha256_json, write_table
from vagpt.effective_tokens import Shown
from vagpt.language_model import Dialogue, VisionLanguageModel

QUESTION = "Are there any anomalies in this image? Answer Yes or No."  # ours: the paper gives none
BATCH = 16  # frames per call


def write_odds(P: Params, vlm: VisionLanguageModel, folder: Path) -> None:
    """Write the log-odds of "Yes" (snippets, 1) of each test video that ``folder`` lacks."""
    rule, odds = SnippetRule(P.detector.snippet_length, 1), defaultdict(list)
    videos = [v for v in tested_videos(P).values() if not feature_file(folder, v, 0).exists()]
    pieces = decoded_pieces(videos, vlm.image_size, rule, P.cache_dir, P.workers)
    for path, frames, last, reason in pieces:
        for batch in np.split(frames, range(BATCH, len(frames), BATCH)):
            tokens = vlm.see(batch)
            keep_all = np.full((1, *tokens.shape[1:3]), np.inf)  # every token is kept
            shown = [Shown(image, keep_all, np.zeros(1)) for image in tokens.split(1)]
            items = [Dialogue(image, [(QUESTION, None)]) for image in shown]
            odds[path].append(vlm.log_odds(items, "Yes", "No"))
        if last and not len(frames):
            raise InputError(f"{path}: {reason}")
        if last:
            with atomic_write(feature_file(folder, path, 0)) as temporary:
                np.save(temporary, np.concatenate(odds.pop(path))[:, None], allow_pickle=False)


def read_scores(P: Params, name: str, folder: Path) -> Curves:
    """Scores of a method, from files laid out as released features of one column.

    InputError names a file that is missing or has more columns.
    """
    P = P.changed({"features": str(folder), "snippet_crops": 1})
    test = evaluation_set(P, None, "vadclip")
    if wrong := [t.name for t, x in zip(test.truths, test.features, strict=True) if x.shape[1] > 1]:
        raise InputError(f"{folder}: {wrong[0]} of {name} is no column of scores (snippets, 1)")
    return held_curves(P, name, test, [x[:, 0] for x in test.features])


def vlm_table(P: Params, name: str) -> pd.DataFrame:
    """The zero-shot table of a LLaVA, by name or folder, on every domain."""
    vlm = VisionLanguageModel(name, P.qa.vlm_pool, str(resolve_device(P)))
    decisive = [weights_hash(vlm.model), QUESTION, P.qa.vlm_pool, P.detector.snippet_length]
    root, title = P.run_dir / "vagpt" / f"odds-{sha256_json(decisive)[:8]}", Path(name).name

    def curves(domain: Params) -> list[Curves]:
        write_odds(domain, vlm, folder := root / source_hash(domain) / domain.detector.benchmark)
        return [read_scores(domain, title, folder)]

    return by_domain(P, curves)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m companion.other_models", description=__doc__)
    add = parser.add_argument
    add("--overlays", nargs="*", default=[], help="other backbones, such as paper-siglip")
    add("--vlm", help="a LLaVA of transformers, by name or folder")
    add("--scores", action="append", default=[], metavar="NAME=FOLDER")
    args, P = read_command_line(parser)
    names = [f"{args.profile}+{overlay}" for overlay in args.overlays]
    others = [load_params(name, parse_overrides(args.p)) for name in names]
    signs = [mss_by_domain(P, ("clip",)).assign(model=P.profile)] if others else []
    rows = []
    for Q in others:
        columns = {"model": Q.profile, "paper": np.nan}  # the paper's numbers are CLIP's
        signs.append(mss_by_domain(Q, ("clip",)).assign(**columns))
        rows.append(zero_shot_table(Q, ("clip",), "snippet").assign(**columns))
    rows += [vlm_table(P, args.vlm)] if args.vlm else []
    alone = P.changed({"transfer": {}})
    for name, _, folder in (entry.partition("=") for entry in args.scores):
        rows.append(by_domain(alone, lambda Q, n=name, f=folder: [read_scores(Q, n, Path(f))]))
    for name, tables in {"mss_backbones": signs, "zero_shot_others": rows}.items():
        if tables:
            write_table(table := pd.concat(tables), P.run_dir / "figures" / f"{name}.csv")
            print(table.round(4).to_string(index=False))


if __name__ == "__main__":
    main()
