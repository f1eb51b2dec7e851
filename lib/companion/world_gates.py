"""Is the synthetic world suited to test the paper's claim? Two of three gates, measured.

1. World: a small network trained on clip labels detects the event, but not from the frames before.
2. Prior: a probe on MiniCLIP's frozen embeddings detects the event; the fixed prompts do not.
3. Phenomenon: Stages I and II change that (notebooks 03 and 04).

``python -m companion.world_gates --profile mini --split dev``. Decisions are made on the
development split; the test split is measured once.
"""

import argparse
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate
from torchvision.ops import Conv2dNormActivation

from alertclip.intervals import bootstrap_interval, mean
from alertclip.model import AlertCLIP
from alertclip.mss import signed_score
from companion import tuned_models
from companion.figures import write_table
from companion.profiles import Params, read_command_line
from companion.splits import Split, clip_dataset, prepare_data
from detectors.frame_metrics import auc_statistic
from media.files import progress
from miniworld import stills
from miniworld.captions import PLACES, article

PHRASES = {
    "scene": lambda value: PLACES[value],
    "colour": lambda value: f"a person in {article(value)} shirt",
    "object": lambda value: f"a {value}",
    "posture": lambda value: f"a person {value}",
}
ONE_ACTOR = ("smash", "fire", "explosion", "fall")  # with one person, whom the phrase describes


class EventNetwork(nn.Module):
    """One logit per clip: frame features, their maximum over frames, then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        sizes = pairwise((3, 32, 64, 128, 128))
        self.frame = nn.Sequential(*(Conv2dNormActivation(*pair, stride=2) for pair in sizes))
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(256, 1))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """frames (B, T, 3, h, w) uint8 -> logits (B,)."""
        x = self.frame(frames.flatten(0, 1).float() / 127.5 - 1)
        x = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1).unflatten(0, frames.shape[:2])
        return self.head(x.amax(1)).squeeze(1)


def train_event_network(frames: torch.Tensor, labels: torch.Tensor, seed: int) -> EventNetwork:
    """Fit on clips (B, T, 3, h, w) uint8 and labels (B,); flipped at random."""
    torch.manual_seed(seed)
    network, steps = EventNetwork(), 14 * (len(frames) // 32)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in progress(range(steps), steps, "event network"):
        batch = torch.randint(len(frames), (32,))
        x = frames[batch].flip(-1) if torch.rand(()) < 0.5 else frames[batch]
        loss = binary_cross_entropy_with_logits(network(x), labels[batch].float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def world_gate(P: Params, split: Split) -> list[dict]:
    """Gate 1: AUC of the event network on whole clips and on the frames before any event."""
    train, test = (_clips(P, name) for name in ("train", split))
    rows = []
    # Events start after .22 of the clip: the first two of eight uniform frames come before.
    for name, end in (("whole clip", None), ("before the event", P.data.num_frames // 4)):
        network = train_event_network(train[0][:, :end], train[1], P.seed)
        with torch.no_grad():
            scores = torch.cat([network(x) for x in test[0][:, :end].split(64)]).numpy()
        rows.append(_auc(P, f"event network, {name}: AUC", scores, test[1].numpy()))
    return rows


def prior_gate(P: Params, split: Split) -> list[dict]:
    """Gate 2: what MiniCLIP encodes (stills, probe) and its prompts do not detect (MSS, AUC)."""
    train, test = (tuned_models.evaluate_stage(P, "clip", name) for name in ("train", split))
    # Mean, maximum and spread over frames: (N, T, D) -> (N, 3D).
    fitted, tested = (
        np.concatenate([v.mean(1), v.max(1), v.std(1)], 1) for v in (train.clips.v, test.clips.v)
    )
    regression = LogisticRegression(C=0.1, max_iter=2000, random_state=0)
    probe = make_pipeline(StandardScaler(), regression).fit(fitted, train.clips.labels)
    signed = signed_score(test.similarities, test.clips.labels)
    mss = bootstrap_interval(signed, mean, *P.draws)
    scores, labels = probe.decision_function(tested), test.clips.labels
    return [
        *still_accuracy(P, [tuned_models.stage_model(P, "clip")])[0],
        _auc(P, "probe on frozen embeddings: AUC", scores, labels),
        _auc(P, "untuned prompts: AUC", test.margins, labels),
        {"measure": "untuned prompts: MSS", **mss._asdict()},
    ]


@torch.inference_mode()
def still_accuracy(P: Params, models: list[AlertCLIP], count: int = 1200) -> list[list[dict]]:
    """Zero-shot accuracy per model and attribute, on stills from another world than the prior's."""
    size, workers = models[0].image_size, max(1, P.workers)
    images, _, attributes = stills(count, P.world.seed + 1, size, workers)
    frames = torch.from_numpy(images).permute(0, 3, 1, 2)[:, None]  # (N, 1, 3, H, W)
    rows: list[list[dict]] = [[] for _ in models]
    for model, model_rows in zip(models, rows, strict=True):
        batches = frames.split(64)
        v = torch.cat([model.encode_frames(x.to(model.mean.device)).v[:, 0] for x in batches])
        for name, phrase in PHRASES.items():
            shown = [i for i, a in enumerate(attributes) if a[name] != "none"]
            any_actors = name in ("scene", "object")  # these do not describe a person
            kept = [i for i in shown if any_actors or attributes[i]["pair"] in ONE_ACTOR]
            truth = np.array([attributes[i][name] for i in kept])
            values = sorted(set(truth))
            text = model.encode_text([phrase(value) for value in values]).cpu()
            correct = np.array(values)[(v.cpu()[kept] @ text.T).argmax(1).numpy()] == truth
            interval = bootstrap_interval(correct.astype(float), seed=P.seed)
            measure = f"stills, {name} of {len(values)}: accuracy"
            model_rows.append({"measure": measure, **interval._asdict()})
    return rows


def _auc(P: Params, measure: str, scores: np.ndarray, labels: np.ndarray) -> dict:
    interval = bootstrap_interval(scores, auc_statistic(labels), *P.draws)
    return {"measure": measure, **interval._asdict()}


def _clips(P: Params, split: Split, size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames (N, T, 3, size, size) uint8 and labels (N,)."""
    dataset = clip_dataset(P, split, tuned_models.stage_model(P, "clip").image_size)
    frames = (torch.from_numpy(dataset[i]["frames"]) for i in range(len(dataset)))
    small = (interpolate(x.permute(0, 3, 1, 2).float(), (size, size), mode="area") for x in frames)
    labels = torch.tensor([item.is_abnormal for item in dataset.items]).long()
    return torch.stack([x.round().to(torch.uint8) for x in small]), labels


if __name__ == "__main__":  # prints the gates and writes them to runs/<profile>/gates_<split>.csv
    parser = argparse.ArgumentParser(prog="python -m companion.world_gates", description=__doc__)
    parser.add_argument("--split", choices=("dev", "test"), default="dev")
    args, P = read_command_line(parser)
    prepare_data(P)
    table = pd.DataFrame(prior_gate(P, args.split) + world_gate(P, args.split))
    write_table(table, P.run_dir / f"gates_{args.split}.csv")
    print(table.round(3).to_string(index=False))
