"""A procedural surveillance world: twin clips that differ only in the event.

Each seed gives one pair of twins, an everyday event and the abnormal one that resembles it, with
equal pixels before the event starts. Files and annotations follow UCF-Crime, MSAD and VAGTA, so
that the code for the real data runs on them unchanged. Words, colours and poses are data:
params/facts/miniworld.yaml.
"""

from miniworld.plan import CLASSES, HELD_OUT_SCENE
from miniworld.stills import stills
from miniworld.world import generate

__all__ = ["CLASSES", "HELD_OUT_SCENE", "generate", "stills"]
