"""Redundancy of a clip with the others: exact copies, near duplicates, near-identical scenes.

Candidates are nearest neighbours by perceptual hash and by embedding (never all pairs); each pair
is then compared in full. What changes between frames tells copies from other recordings of one
scene: a crop alters every pixel of a frame but not the course of its motion.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.neighbors import NearestNeighbors

NEIGHBOURS = 10
EXACT_BELOW = 4000  # clips; up to there all distances take a second, beyond they are approximated
MOTION_STEPS = 64

# Chosen on the mini world's development clips, whose twins share scene and beginning.
COPY_HASH = 5  # of 64 bits, at the worst moment: re-encoded or brighter
COPY_MOTION, LIKELY_MOTION = 0.95, 0.9  # correlation of motion over time: cropped as well
COPY_COSINE = 0.95  # of embeddings
COPY_MEAN_HASH = 16.0  # of 64 bits, on average; unrelated clips have about 30
SCENE_HASH = 10.0  # of 64 bits, on average: same camera, another moment

EXACT, COPY, LIKELY, SCENE, ALIKE = "same content", "copy", "likely copy", "same scene", "alike"
LEVELS = {EXACT: 1, COPY: 1, LIKELY: 2, SCENE: 3, ALIKE: 4}


class Fingerprint(NamedTuple):
    """What identifies N clips, in one order."""

    content: Sequence[str]  # hash of the bytes (and the segment)
    hashes: np.ndarray  # (N, T, 64) bool, at T equal distances
    motion: Sequence[np.ndarray]  # change from frame to frame, of any length
    embedding: np.ndarray  # (N, D) unit


def nearest(vectors: np.ndarray, count: int, exact_below: int = EXACT_BELOW) -> np.ndarray:
    """Indices (N, <= count) of the nearest other rows of ``vectors`` (N, D), Euclidean.

    From ``exact_below`` rows on, approximately, by nearest-neighbour descent (Dong et al. 2011;
    pynndescent), whose time grows little faster than N.
    """
    count = min(count, len(vectors) - 1)
    if count < 1:
        return np.empty((len(vectors), 0), int)
    if len(vectors) < exact_below:
        return NearestNeighbors(n_neighbors=count).fit(vectors).kneighbors(return_distance=False)
    from pynndescent import NNDescent  # compiles for seconds, which small sets need not pay

    index = NNDescent(vectors, n_neighbors=count + 1, random_state=0)
    return without_self(index.neighbor_graph[0])


def without_self(neighbours: np.ndarray) -> np.ndarray:
    """Each row (N, K + 1) without its own number, or its last entry: (N, K), order kept.

    Of equal vectors the row itself need not be the nearest, nor among the nearest at all.
    """
    own = neighbours == np.arange(len(neighbours))[:, None]
    last = np.argsort(own, axis=1, kind="stable")
    return np.take_along_axis(neighbours, last, axis=1)[:, :-1]


def compare(prints: Fingerprint) -> pd.DataFrame:
    """Candidate pairs with their evidence: columns a, b, hash, worst_hash, motion, cosine, kind.

    a < b; hash distances in bits of 64; kind is a name of LEVELS. Pairs that are nothing of the
    kind are left out.
    """
    bits = prints.hashes.reshape(len(prints.hashes), -1).astype(np.float32)
    candidates = [nearest(2 * bits - 1, NEIGHBOURS), nearest(prints.embedding, NEIGHBOURS)]
    pairs = {pair for found in candidates for pair in _pairs(found)} | _same(prints.content)
    a, b = np.array(sorted(pairs), int).reshape(-1, 2).T
    distance = (prints.hashes[a] != prints.hashes[b]).sum(axis=2)
    motion = np.stack([_course(course) for course in prints.motion])
    table = pd.DataFrame(
        {
            "a": a,
            "b": b,
            "hash": distance.mean(axis=1),
            "worst_hash": distance.max(axis=1),
            "motion": (motion[a] * motion[b]).sum(axis=1),
            "cosine": (prints.embedding[a] * prints.embedding[b]).sum(axis=1),
        }
    )
    content = np.array(prints.content)
    table["kind"] = kinds(table, content[a] == content[b])
    return table[table["kind"] != ""].reset_index(drop=True)


def kinds(pairs: pd.DataFrame, same_content: np.ndarray) -> np.ndarray:
    """Kind of each pair (names of LEVELS), "" for none; columns as in `compare`."""
    alike = (pairs["cosine"] >= COPY_COSINE) & (pairs["hash"] <= COPY_MEAN_HASH)
    rules = {
        EXACT: same_content,
        COPY: (pairs["worst_hash"] <= COPY_HASH) | (alike & (pairs["motion"] >= COPY_MOTION)),
        LIKELY: alike & (pairs["motion"] >= LIKELY_MOTION),
        SCENE: pairs["hash"] <= SCENE_HASH,
        ALIKE: pairs["cosine"] >= COPY_COSINE,
    }
    return np.select(list(rules.values()), list(rules), default="")


def score_redundancy(pairs: pd.DataFrame, rank: np.ndarray) -> pd.DataFrame:
    """Score of each clip, 5 = nothing like it: columns score, kind, match (-1 = none), evidence.

    Of a group of copies the clip of the lowest ``rank`` (N,), distinct numbers, stays; a clip is
    compared with those that rank before it, so that one of two always keeps its place.
    """
    scores = _first_of_groups(pairs, rank)
    for pair in pairs.sort_values("motion", ascending=False).itertuples():
        early, late = sorted((pair.a, pair.b), key=lambda clip: rank[clip])
        score = LEVELS[pair.kind]
        if score == 1 and early != scores[late][2]:
            continue  # both are copies of a third clip, which is the one to name
        if score < scores[late][0] or (score == scores[late][0] and scores[late][3] is None):
            scores[late] = (score, pair.kind, early, pair)
    rows = [(score, kind, match, _evidence(pair)) for score, kind, match, pair in scores]
    return pd.DataFrame(rows, columns=["score", "kind", "match", "evidence"])


def _first_of_groups(pairs: pd.DataFrame, rank: np.ndarray) -> list[tuple]:
    """Start of the scores: every copy that is not the first of its group has 1."""
    copies = pairs[pairs["kind"].isin([EXACT, COPY])]
    ones = np.ones(len(copies))
    graph = coo_array((ones, (copies["a"], copies["b"])), shape=(len(rank), len(rank)))
    groups = connected_components(graph, directed=False)[1]
    order = np.argsort(rank)
    first = {groups[clip]: clip for clip in order[::-1]}
    firsts = [first[group] for group in groups]
    return [
        (5, "", -1, None) if first == clip else (1, COPY, first, None)
        for clip, first in enumerate(firsts)
    ]


def _evidence(pair: object) -> str:
    if pair is None:
        return ""
    return (
        f"hash {pair.hash:.1f} (worst {pair.worst_hash}) of 64 bits, motion {pair.motion:.2f},"
        f" cosine {pair.cosine:.2f}"
    )


def _pairs(neighbours: np.ndarray) -> set[tuple[int, int]]:
    rows = np.repeat(np.arange(len(neighbours)), neighbours.shape[1])
    both = np.sort(np.stack([rows, neighbours.ravel()], axis=1), axis=1)
    both = both[(both[:, 0] != both[:, 1]) & (both[:, 0] >= 0)]
    return set(map(tuple, both.tolist()))


def _same(content: Sequence[str]) -> set[tuple[int, int]]:
    """Each clip with the first of the same bytes."""
    first: dict[str, int] = {}
    pairs = ((first.setdefault(name, number), number) for number, name in enumerate(content))
    return {pair for pair in pairs if pair[0] != pair[1]}


def _course(motion: np.ndarray) -> np.ndarray:
    """Motion over time at a fixed number of places, centred and of unit length; zeros if none."""
    if len(motion) < 2:
        return np.zeros(MOTION_STEPS)
    places = np.linspace(0, len(motion) - 1, MOTION_STEPS)
    course = np.interp(places, np.arange(len(motion)), motion)
    centred = course - course.mean()
    length = np.linalg.norm(centred)
    return centred / length if length > 1e-9 else np.zeros(MOTION_STEPS)
