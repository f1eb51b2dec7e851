"""Redundancy of clips: exact copies, near duplicates and near-identical scenes.

Candidate pairs are nearest neighbours by perceptual hash and by embedding; each pair is then
compared in full. Motion over time tells a copy from another recording of the same scene: a crop
alters every pixel but not when things move.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.neighbors import NearestNeighbors

NEIGHBOURS = 10
EXACT_BELOW = 4000  # clips: below, exact search takes at most a second; above, approximate search
MOTION_STEPS = 64

# Chosen on the mini world's development clips, whose twins share scene and beginning.
COPY_HASH = 5  # of 64 bits, in the worst frame: finds re-encoded and brighter copies
COPY_MOTION, LIKELY_MOTION = 0.95, 0.9  # correlation of motion: finds cropped copies too
COPY_COSINE = 0.95  # of embeddings
COPY_MEAN_HASH = 16.0  # of 64 bits, mean over frames; unrelated clips have about 30
SCENE_HASH = 10.0  # of 64 bits, mean over frames: same camera, another moment

EXACT, COPY, LIKELY, SCENE, ALIKE = "same content", "copy", "likely copy", "same scene", "alike"
SCORES = {EXACT: 1, COPY: 1, LIKELY: 2, SCENE: 3, ALIKE: 4}


class Fingerprint(NamedTuple):
    """What identifies N clips; all fields in the same order."""

    content: Sequence[str]  # equal for equal bytes and segment
    hashes: np.ndarray  # (N, T, 64) bool, of T evenly spaced frames
    motion: Sequence[np.ndarray]  # N courses of the change from frame to frame, any length
    embedding: np.ndarray  # (N, D), unit length


def nearest(vectors: np.ndarray) -> np.ndarray:
    """Indices (N, K) of the nearest rows of ``vectors`` (N, D); may include the row itself."""
    count = min(NEIGHBOURS, len(vectors) - 1)
    if count < 1:
        return np.empty((len(vectors), 0), int)
    if len(vectors) < EXACT_BELOW:
        return NearestNeighbors(n_neighbors=count).fit(vectors).kneighbors(return_distance=False)
    from pynndescent import NNDescent  # approximate: Dong et al. 2011; compiles for seconds

    return NNDescent(vectors, n_neighbors=count + 1, random_state=0).neighbor_graph[0]


def compare(prints: Fingerprint) -> pd.DataFrame:
    """Similar pairs with their evidence: columns a, b, hash, worst_hash, motion, cosine, kind.

    a < b; hash distances in bits of 64; kind is a key of SCORES. Unrelated pairs are left out.
    """
    bits = prints.hashes.reshape(len(prints.hashes), -1).astype(np.float32)
    _, first, group = np.unique(prints.content, return_index=True, return_inverse=True)
    near = np.hstack([nearest(2 * bits - 1), nearest(prints.embedding), first[group][:, None]])
    clips = np.broadcast_to(np.arange(len(bits))[:, None], near.shape)
    pairs = np.sort(np.stack([clips, near], axis=-1).reshape(-1, 2), axis=1)
    a, b = np.unique(pairs[(pairs[:, 0] >= 0) & (pairs[:, 0] < pairs[:, 1])], axis=0).T
    distance = (prints.hashes[a] != prints.hashes[b]).sum(axis=2)
    motion = np.stack([_normalised(course) for course in prints.motion])
    table = pd.DataFrame({"a": a, "b": b, "hash": distance.mean(axis=1)})
    table["worst_hash"] = distance.max(axis=1)
    table["motion"] = (motion[a] * motion[b]).sum(axis=1)
    table["cosine"] = (prints.embedding[a] * prints.embedding[b]).sum(axis=1)
    content = np.array(prints.content)
    table["kind"] = kinds(table, content[a] == content[b])
    return table[table["kind"] != ""].reset_index(drop=True)


def kinds(pairs: pd.DataFrame, same_content: np.ndarray) -> np.ndarray:
    """Kind of each pair: a key of SCORES, or "" if unrelated; columns as in ``compare``."""
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
    """Columns score (5: unlike all of lower ``rank`` (N,)), kind, match (-1: none), evidence."""
    copies = pairs[pairs["kind"].isin([EXACT, COPY])]
    edges = (np.ones(len(copies)), (copies["a"], copies["b"]))
    graph = coo_array(edges, shape=(len(rank), len(rank)))
    groups = connected_components(graph, directed=False)[1]
    kept = {groups[clip]: clip for clip in np.argsort(rank)[::-1]}  # lowest rank of each group
    originals = [kept[group] for group in groups]
    scores = [(5, "", -1, "") if c == i else (1, COPY, c, "") for i, c in enumerate(originals)]
    for pair in pairs.sort_values("motion", ascending=False).itertuples():
        early, late = sorted((pair.a, pair.b), key=lambda clip: rank[clip])
        score = SCORES[pair.kind]
        if score == 1 and early != scores[late][2]:
            continue  # both are copies of a third clip, which is the one to name
        if score < scores[late][0] or (score == scores[late][0] and not scores[late][3]):
            bits = f"hash {pair.hash:.1f} (worst {pair.worst_hash}) of 64 bits"
            evidence = f"{bits}, motion {pair.motion:.2f}, cosine {pair.cosine:.2f}"
            scores[late] = (score, pair.kind, early, evidence)
    return pd.DataFrame(scores, columns=["score", "kind", "match", "evidence"])


def _normalised(motion: np.ndarray) -> np.ndarray:
    """Motion resampled to MOTION_STEPS, centred, of unit length; zeros if it does not vary."""
    if len(motion) < 2:
        return np.zeros(MOTION_STEPS)
    positions = np.linspace(0, len(motion) - 1, MOTION_STEPS)
    course = np.interp(positions, np.arange(len(motion)), motion)
    centred = course - course.mean()
    length = np.linalg.norm(centred)
    return centred / length if length > 1e-9 else np.zeros(MOTION_STEPS)
