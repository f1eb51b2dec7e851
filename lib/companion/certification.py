"""What a run lacks to reproduce a number of the papers: the conditions of "reproduced"."""

from collections.abc import Callable
from contextlib import suppress

from alertclip.errors import InputError
from alertclip.files import read_json
from alertclip.hyperparameters import DataParams
from companion.paper_numbers import Cell, load, value
from companion.profiles import FLAT, Params, from_flat
from detectors.benchmarks import list_counts, load_benchmark

WIDEST = {"%": 5.0, "difference of cosines": 0.05}  # of an interval that still says something
METHOD = ("stage1", "stage2", "training", "model", "data", "detector", "evaluation", "rehearsal")
FREE = {"stage1_save_steps", "stage1_save_limit", "stage2_save_steps", "stage2_save_limit",
        "validate_steps", "checkpointing", "data_root", "backbone", "pretrained", "benchmark",
        "vadclip_preset", "anomalyclip_preset", "snippet_test_crop",
        "detector_seeds", "evaluation_batch_size", "bootstrap_samples", "transfer",
        "open_vocabulary_changes", "retention_imagenet", "retention_coco"}  # fmt: skip
SPLITS = {"05_zero_shot": ("test",), "06_weakly_supervised": ("train", "test"),
          "07_ablations": ("train", "test")}  # fmt: skip
Counts = dict[str, dict[str, int]]  # videos by split and label
TRAINING_ITEMS = "Alert-CLIP | VAGTA | training clips | count"


def shortfall(cell: Cell, width: float, P: Params, counts: Callable[[str], Counts]) -> str:
    """The first thing that keeps our number from being a reproduction of the cell; "" if nothing.

    In this order: real data, the paper's backbone with OpenAI's weights, the published schedule and
    protocol, full lists (their published counts), VAGTA's published annotations, and an interval
    of ``width`` (nan: none) that is not wider than WIDEST of its unit, or 5% of the number.
    ``counts`` gives a benchmark's counts in use.
    """
    if P.data.world == "miniworld":
        return "synthetic data"
    if P.model.backbone not in backbones(cell.document) or P.model.pretrained != "openai":
        return "needs the paper's backbone and OpenAI's weights"
    if changed := changed_parameters(P):
        return f"needs the published protocol ({', '.join(changed)})"
    if lacking := _lists(cell, P, counts):
        return lacking
    if cell.document.startswith("Alert-CLIP") and not _published_annotations(P):
        names = DataParams().annotations_train, DataParams().hard_negatives_train
        return f"needs VAGTA's published annotations ({' and '.join(names)})"
    widest = WIDEST.get(cell.unit, abs(float(cell.paper)) / 20)
    return f"needs an interval of at most {widest:g}, has {width:.3g}" if width > widest else ""


def backbones(document: str) -> list[str]:
    """The backbones that may fill a document's cells."""
    return load()["backbones"].get(document, [])


def changed_parameters(P: Params) -> list[str]:
    """Names of the parameters of method and protocol that are not the published ones."""
    published, ours = from_flat({}).flat(), P.flat()
    names = [name for name, (group, _) in FLAT.items() if group in METHOD and name not in FREE]
    changed = [name for name in names if ours[name] != published[name]]
    return changed + sorted({name for c in P.nested().values() for name in c} - FREE)


def _lists(cell: Cell, P: Params, counts: Callable[[str], Counts]) -> str:
    """Whether the lists of the number's benchmark hold as many videos as were published."""
    measure = cell.measure
    for split in SPLITS.get(measure.notebook, ()) if measure else ():
        name = measure.on.lower().replace("-", "_") if measure.on else P.detector.benchmark
        ours, published = counts(name).get(split), load_benchmark(name).counts.get(split)
        if ours != published:
            ours = "none" if ours is None else sum(ours.values())
            return f"needs the full {split} list, {sum(published.values())} videos, has {ours}"
    return ""


def counts_in_use(P: Params, name: str) -> Counts:
    """Videos by split and label in the lists of this run; a split without list is absent."""
    benchmark, counts = load_benchmark(name), {}
    for split in benchmark.counts:
        with suppress(InputError):  # not there, or unreadable
            counts[split] = list_counts(benchmark, P.data_dir, split)
    return counts


def _published_annotations(P: Params) -> bool:
    """Whether VAGTA's training files are there, with as many items as the paper counts."""
    try:
        items = len(read_json(P.data_dir / P.data.hard_negatives_train)["items"])
    except (InputError, KeyError, TypeError):
        return False
    return items == value(TRAINING_ITEMS) and (P.data_dir / P.data.annotations_train).is_file()
