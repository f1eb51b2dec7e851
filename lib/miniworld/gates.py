"""Is the synthetic world fit for the argument? Networks that answer for its three gates.

1. World: a small network trained on clip labels sees the event; frames before it tell nothing.
2. Prior: a probe on MiniCLIP's frozen embeddings sees the event, the fixed prompts do not.
3. Phenomenon: Stage I and II change that: measured in notebooks 03 and 04.

``python -m miniworld.gates --profile mini --split dev`` measures 1 and 2. The development split
decides; the test split is for the one final measurement.
"""

import argparse
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from alertclip.clips import ClipDataset
from alertclip.files import progress
from alertclip.model import AlertCLIP
from alertclip.mss import Interval, bootstrap_interval, signed_score
from companion import tuned_models
from companion.figures import write_table
from companion.profiles import Params, load_params, parse_overrides
from companion.splits import Split, clip_dataset, prepare_data
from detectors.frame_metrics import auc_statistic
from miniworld import stills
from miniworld.captions import PLACES, article


class EventNetwork(nn.Module):
    """Per-frame convolutions, mean and max over frames, one logit: the event is visible or not."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        channels = [3, width, width * 2, width * 4, width * 4]
        layers: list[nn.Module] = []
        for before, after in zip(channels[:-1], channels[1:], strict=True):
            layers += [
                nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
            ]
        self.frame = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(channels[-1] * 2, 1))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """frames: (B, T, 3, H, W) uint8 -> logits (B,)."""
        clips, length = frames.shape[:2]
        x = self.frame(frames.flatten(0, 1).float() / 127.5 - 1)
        x = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1).unflatten(0, (clips, length))
        return self.head(x.amax(1)).squeeze(1)


def shrink(frames: torch.Tensor, size: int = 64) -> torch.Tensor:
    """(B, T, 3, H, W) uint8 -> the same at size x size, still uint8."""
    flat = interpolate(frames.flatten(0, 1).float(), (size, size), mode="area")
    return flat.round().to(torch.uint8).unflatten(0, frames.shape[:2])


def train_event_network(
    frames: torch.Tensor, labels: torch.Tensor, epochs: int = 14, seed: int = 0
) -> EventNetwork:
    """Fit on clips (B, T, 3, h, w) uint8 and labels (B,); flips are the only augmentation."""
    torch.manual_seed(seed)
    network = EventNetwork()
    steps = epochs * (len(frames) // 32)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in progress(range(steps), steps, "event network", every_s=20):
        picked = torch.randint(len(frames), (32,))
        x = frames[picked].flip(-1) if torch.rand(()) < 0.5 else frames[picked]
        loss = binary_cross_entropy_with_logits(network(x), labels[picked].float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def event_scores(network: EventNetwork, frames: torch.Tensor) -> np.ndarray:
    """Logit of each clip (B,)."""
    return torch.cat([network(part) for part in frames.split(64)]).numpy()


def probe_scores(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Logistic regression on clip descriptors (N, F): decision value of each test clip."""
    probe = make_pipeline(
        StandardScaler(), LogisticRegression(C=0.1, max_iter=2000, random_state=seed)
    )
    return probe.fit(train, labels).decision_function(test)


def clip_descriptor(frame_embeddings: np.ndarray) -> np.ndarray:
    """Mean, maximum and spread over frames: (N, T, D) -> (N, 3D)."""
    return np.concatenate(
        [frame_embeddings.mean(1), frame_embeddings.max(1), frame_embeddings.std(1)], 1
    )


def world_gate(P: Params, split: Split) -> pd.DataFrame:
    """Gate 1: AUC of the event network on whole clips and on the frames before any event."""
    size = tuned_models.stage_model(P, "clip").image_size
    train, test = (_clips(clip_dataset(P, name, size)) for name in ("train", split))
    rows = []
    # Events start after .22 of the clip: of eight uniform frames the first two come before.
    early = P.data.num_frames // 4
    for name, part in (("whole clip", slice(None)), ("before the event", slice(early))):
        network = train_event_network(train[0][:, part], train[1], seed=P.seed)
        scores = event_scores(network, test[0][:, part])
        rows.append(_row(f"event network, {name}: AUC", _auc(P, scores, test[1].numpy())))
    return pd.DataFrame(rows)


def prior_gate(P: Params, split: Split) -> pd.DataFrame:
    """Gate 2: what MiniCLIP sees (stills, probe) and what its prompts do not (MSS, AUC)."""
    train, test = (tuned_models.evaluate_stage(P, "clip", name) for name in ("train", split))
    labels = test.clips.labels
    probe = probe_scores(clip_descriptor(train.clips.v), train.clips.labels,
                         clip_descriptor(test.clips.v))  # fmt: skip
    model = tuned_models.stage_model(P, "clip")
    signed = bootstrap_interval(
        signed_score(test.similarities, labels), n_boot=P.evaluation.bootstrap_samples, seed=P.seed
    )
    return pd.DataFrame(
        [
            *still_accuracy(P, model, held_out_stills(P, model)),
            _row("probe on frozen embeddings: AUC", _auc(P, probe, labels)),
            _row("untuned prompts: AUC", _auc(P, test.margins, labels)),
            _row("untuned prompts: MSS", signed),
        ]
    )


PHRASES: dict[str, Callable[[str], str]] = {
    "scene": lambda value: PLACES[value],
    "colour": lambda value: f"a person in {article(value)} shirt",
    "object": lambda value: f"a {value}",
    "posture": lambda value: f"a person {value}",
}
Stills = tuple[torch.Tensor, list[dict]]
"""Frames (N, 1, 3, H, W) uint8 and what each shows."""
ONE_ACTOR = ("smash", "fire", "explosion", "fall")  # elsewhere "the person" would be ambiguous


def held_out_stills(P: Params, model: AlertCLIP, count: int = 1200) -> Stills:
    """Images and attributes of stills of another world seed than the prior's."""
    images, _, attributes = stills(count, P.world.seed + 1, model.image_size, max(1, P.workers))
    return torch.from_numpy(images).permute(0, 3, 1, 2)[:, None], attributes


@torch.inference_mode()
def still_accuracy(P: Params, model: AlertCLIP, held_out: Stills) -> list[dict]:
    """Zero-shot accuracy per attribute on held-out stills."""
    frames, attributes = held_out
    v = [model.encode_frames(part.to(model.mean.device)).v[:, 0] for part in frames.split(64)]
    v = torch.cat(v).cpu()
    rows = []
    for name, phrase in PHRASES.items():
        kept = [
            i
            for i, a in enumerate(attributes)
            if a[name] != "none" and (name in ("scene", "object") or a["pair"] in ONE_ACTOR)
        ]
        truth = np.array([attributes[i][name] for i in kept])
        values = sorted(set(truth))
        text = model.encode_text([phrase(value) for value in values]).cpu()
        right = np.array(values)[(v[kept] @ text.T).argmax(1).numpy()] == truth
        interval = bootstrap_interval(right.astype(float), seed=P.seed)
        rows.append(_row(f"stills, {name} of {len(values)}: accuracy", interval))
    return rows


def _auc(P: Params, scores: np.ndarray, labels: np.ndarray) -> Interval:
    return bootstrap_interval(scores, auc_statistic(labels), P.evaluation.bootstrap_samples, P.seed)


def _row(measure: str, interval: Interval) -> dict:
    return {"measure": measure, **interval._asdict()}


def _clips(dataset: ClipDataset) -> tuple[torch.Tensor, torch.Tensor]:
    frames = [
        torch.from_numpy(dataset[i]["frames"]).permute(0, 3, 1, 2) for i in range(len(dataset))
    ]
    labels = torch.tensor([item.is_abnormal for item in dataset.items])
    return torch.cat([shrink(f[None]) for f in frames]), labels.long()


def main() -> None:
    """Command line: print the gates and write them to runs/<profile>/gates_<split>.csv."""
    parser = argparse.ArgumentParser(prog="python -m miniworld.gates", description=__doc__)
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--split", choices=("dev", "test"), default="dev")
    parser.add_argument("-p", action="append", default=[], metavar="NAME=VALUE", dest="overrides")
    args = parser.parse_args()
    P = load_params(args.profile, parse_overrides(args.overrides))
    prepare_data(P)
    table = pd.concat([prior_gate(P, args.split), world_gate(P, args.split)], ignore_index=True)
    write_table(table, P.run_dir / f"gates_{args.split}.csv")
    print(table.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
