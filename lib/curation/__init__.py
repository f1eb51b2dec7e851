"""Curation of the training data (Alert-CLIP, supplementary A).

- ``quality``, ``redundancy``, ``consistency``, ``screening``: the 4-criterion score of a clip.
- ``planted_faults``: known faults in copies of clips, to measure what the screening finds.
- ``contract``, ``chat_models``, ``negatives``: hard negatives written by a chat model.
- ``audit``, ``cleaning``: what is wrong with a published hard-negative file, and a clean copy.
"""

from pathlib import Path

PARAMS = Path(__file__).resolve().parents[2] / "params"
