"""Curation of the training data (Alert-CLIP, supplementary A).

- ``quality``, ``redundancy``, ``screening``: the 4-criterion score of a clip.
- ``contract``, ``chat_models``, ``negatives``: hard negatives written by a chat model.
- ``audit``: what is wrong with a published hard-negative file, and a clean copy.
"""

from pathlib import Path

PARAMS = Path(__file__).resolve().parents[2] / "params"
