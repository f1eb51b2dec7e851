"""Who writes hard negatives: a model that is asked, or the mini world's own rules.

Every writer gives a raw answer to a unit; the contract is checked by the caller, the same for all.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import yaml

from alertclip.errors import InputError
from alertclip.files import sha256_json
from alertclip.records import CLOCK, Item, Region, item_key, region_span
from alertclip.video import probe, read_frames, uniform_indices
from companion.profiles import ROOT, Params
from companion.splits import Split
from curation.contract import MAX_TOKENS, Violation
from curation.endpoint import Usage, estimated_tokens
from miniworld.captions import describe
from miniworld.world import clip_jobs

PROMPTS = ROOT / "params" / "negative_prompts.yaml"
LONGER_SIDE = 448  # pixels of an attached frame
TYPICAL = (336, 448)  # H, W of one for estimates: 4:3 surveillance video
ANSWER_TOKENS = 3 * MAX_TOKENS + 20  # three captions and the list around them
TROUSERS = re.compile(r" and \w+ trousers")
QUOTED = 1000  # characters of a broken answer that are sent back


@dataclass(frozen=True)
class Unit:
    """A caption to write for: a region of an abnormal clip, or a whole normal clip.

    ``span`` is in seconds, None = the whole video; ``frames_25`` counts on the 25 fps clock from 1.
    """

    video: str
    region_index: int
    caption: str
    abnormal: bool
    timestamps: tuple[float, float] | None
    frames_25: tuple[int, int] | None
    span: tuple[float, float] | None

    @property
    def key(self) -> str:
        """Unique name: clip and region."""
        return f"{item_key(self.video, self.timestamps)} region {self.region_index}"


def units(items: Sequence[Item]) -> list[Unit]:
    """One unit per region, in order; the region of a normal clip is its whole segment."""
    return [
        Unit(
            item.video,
            index,
            region.caption,
            item.is_abnormal,
            item.timestamps,
            _frames_25(region),
            region_span(region) or item.timestamps,
        )
        for item in items
        for index, region in enumerate(item.regions)
    ]


def _frames_25(region: Region) -> tuple[int, int] | None:
    if region.track:
        return region.track[0].frame, region.track[-1].frame
    if region.span:
        return round(region.span[0] * CLOCK) + 1, round(region.span[1] * CLOCK) + 1
    return None


class Asker(Protocol):
    """A model that takes a question with frames (H, W, 3) uint8; raises NoReply if it has none."""

    name: str
    usage: Usage

    def ask(self, prompt: str, frames: Sequence[np.ndarray] = ()) -> str:
        """Its text."""


class Writer(Protocol):
    """Writes one raw answer for a unit; after a broken one, with the answer and its violations."""

    name: str
    usage: Usage

    def write(self, unit: Unit, answer: str = "", broken: Sequence[Violation] = ()) -> str:
        """An answer that ought to keep the contract."""


@dataclass(frozen=True)
class NegativePrompts:
    """The prompt file: system, the two tasks and the request to repair an answer."""

    system: str
    abnormal_to_normal: str
    normal_to_abnormal: str
    repair: str

    def task(self, unit: Unit) -> str:
        """The prompt for a unit; its caption is one JSON string, so it cannot end the quotation."""
        text = self.abnormal_to_normal if unit.abnormal else self.normal_to_abnormal
        return text.format(caption=json.dumps(unit.caption, ensure_ascii=False), tokens=MAX_TOKENS)

    def again(self, unit: Unit, answer: str, broken: Sequence[Violation]) -> str:
        """The prompt with what was wrong about the last answer."""
        named = "; ".join(violation.detail for violation in broken)
        quoted = json.dumps(answer[:QUOTED], ensure_ascii=False)
        return self.task(unit) + self.repair.format(answer=quoted, violations=named)


def load_negative_prompts(path: Path | str = PROMPTS) -> NegativePrompts:
    """Read a prompt file; InputError names what is missing, unknown or not text."""
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        prompts = NegativePrompts(**raw)
        prompts.abnormal_to_normal.format(caption="", tokens=0)
        prompts.normal_to_abnormal.format(caption="", tokens=0)
        prompts.repair.format(answer="", violations="")
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML ({error})") from None
    except (TypeError, AttributeError, KeyError, IndexError, ValueError) as error:
        raise InputError(f"{path}: not a prompt file ({error})") from None
    return prompts


class ModelWriter:
    """Asks a vision-language model, with frames attached for abnormal -> normal."""

    def __init__(
        self, asker: Asker, prompts: NegativePrompts, data_dir: Path, frames: int = 4
    ) -> None:
        """``frames`` per abnormal unit; 0 = from the caption alone, which the paper does not do."""
        self.asker, self.prompts, self.data_dir, self.frames = asker, prompts, data_dir, frames
        digest = sha256_json(vars(prompts))[:12]
        self.name = f"{asker.name}, prompts {digest}, {frames} frames"

    @property
    def usage(self) -> Usage:
        """What the model has used."""
        return self.asker.usage

    def write(self, unit: Unit, answer: str = "", broken: Sequence[Violation] = ()) -> str:
        """Ask for a unit; DecodeError if its video cannot be read, NoReply if none came."""
        prompt = self.prompts.again(unit, answer, broken) if broken else self.prompts.task(unit)
        return self.asker.ask(prompt, self._frames(unit))

    def _frames(self, unit: Unit) -> Sequence[np.ndarray]:
        if not (unit.abnormal and self.frames):
            return ()
        path = self.data_dir / unit.video
        info = probe(path)
        start, end = unit.span or (0.0, info.duration)
        scale = min(1.0, LONGER_SIDE / max(info.height, info.width))
        size = round(info.height * scale), round(info.width * scale)
        indices = uniform_indices(start, end, info.fps, info.frames, self.frames)
        return list(read_frames(path, indices, size))


class TemplateWriter:
    """The mini world's rules, from the plan of each clip (synthetic captions only)."""

    name = "template"

    def __init__(self, P: Params, split: Split) -> None:
        if P.data.world != "miniworld":
            raise InputError(f"profile {P.profile}: the template writer knows the mini world only")
        count = {"train": P.world.train, "dev": P.world.dev, "test": P.world.test}[split]
        jobs = clip_jobs(split, count, P.world.style, P.world.seed)
        self._jobs = {job.path: job for job in jobs}
        self.usage = Usage()

    def write(self, unit: Unit, answer: str = "", broken: Sequence[Violation] = ()) -> str:
        """The three template negatives of the clip; an over-long answer loses the trousers."""
        job = self._jobs[unit.video]
        texts = describe(job.plan(), job.abnormal, job.split)[2]
        return json.dumps([TROUSERS.sub("", text) for text in texts] if broken else texts)


def estimate(
    chosen: Sequence[Unit], prompts: NegativePrompts, frames: int, prices: tuple[float, float]
) -> dict[str, Any]:
    """What writing for ``chosen`` would take, one request each: tokens, and cost at ``prices``.

    prices: of a million prompt and completion tokens, in any currency.
    """
    prompt = sum(
        estimated_tokens(prompts.system + prompts.task(u), frames * u.abnormal, TYPICAL)
        for u in chosen
    )
    completion = ANSWER_TOKENS * len(chosen)
    cost = (prompt * prices[0] + completion * prices[1]) / 1e6
    return {
        "requests": len(chosen),
        "images": frames * sum(u.abnormal for u in chosen),
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "cost": round(cost, 4),
    }
