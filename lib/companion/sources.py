"""The files a profile needs from elsewhere: what each is, who publishes it, where to put it."""

from alertclip.errors import InputError
from companion.profiles import Params
from detectors.benchmarks import load_benchmark

VAGTA_PAGE = "https://github.com/ClarkZhu216/Alert-CLIP_dataset"
SOURCES = {
    "annotations": f"VAGTA's annotations, {VAGTA_PAGE}",
    "hard_negatives": f"VAGTA's hard negatives, {VAGTA_PAGE}",
    "UCF_Crimes_Videos/UCF_Crimes/Videos": "UCF-Crime (Sultani et al. 2018), the dataset's page",
    "MSAD/MSAD_Videos": "MSAD (Zhu et al. 2024), on request from its authors",
}
TRAINING = ("annotations_train", "hard_negatives_train")
TEXTS = ("annotations_dev", "annotations_test", "hard_negatives_test")
LISTS = "official lists and temporal annotation of {}, from the dataset's or VadCLIP's page"


def missing_data(P: Params) -> list[str]:
    """One line for each missing file of a profile; none for the mini world, rendered on demand.

    Of the two training files one is enough: captions without hard negatives leave that term out,
    and hard negatives without captions serve as flagged surrogates.
    """
    if P.data.world == "miniworld":
        return []
    try:
        root = P.data_dir
    except InputError as error:
        return [f"- {error}; it should hold:", *(f"    {k}: {v}" for k, v in SOURCES.items())]
    if P.features:
        lack = f"- {P.features_dir}: no such folder; set features to where VadCLIP's lie"
        return [] if P.features_dir.is_dir() else [lack]
    names = {field: getattr(P.data, field) for field in (*TRAINING, *TEXTS)}
    missing = {f: name for f, name in names.items() if name and not (root / name).is_file()}
    served = any(names[field] and field not in missing for field in TRAINING)
    folders = [name for name in SOURCES if "/" in name and not (root / name).is_dir()]
    return [
        *(
            f"- {field}: {root / name} is missing: {SOURCES[field.rsplit('_', 1)[0]]}"
            for field, name in missing.items()
            if not (served and field in TRAINING)
        ),
        *(f"- {root / name}: no such folder: {SOURCES[name]}; unpack it there" for name in folders),
    ]


def missing_lists(P: Params) -> list[str]:
    """One line for each missing list or annotation file of the profile's benchmarks."""
    if P.data.world == "miniworld":
        return []
    transfer = [c["benchmark"] for c in P.evaluation.transfer.values() if "benchmark" in c]
    lines = []
    if P.features:  # those whose files are missing are left out
        transfer = []
    for name in dict.fromkeys([P.detector.benchmark, *transfer]):
        benchmark = load_benchmark(name)
        lists = [path for path in benchmark.files(P.data_dir) if not path.is_file()]
        advice = "" if name == P.detector.benchmark else "; or leave it out: -p transfer={}"
        lines += [f"- {path}: missing: {LISTS.format(benchmark.title)}{advice}" for path in lists]
    return lines
