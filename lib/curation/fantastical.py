"""Rewrites of normal captions that no camera would record, by a list of words."""

import re

# What no surveillance camera records, by stem, if a rewrite adds it to its caption. Collected from
# the words that VAGTA's rewrites of normal captions add and its abnormal captions hardly have.
# "Impossible" breaks physics; "whimsical" could be staged but is an anomaly of no class. Rewrites
# that are odd in other words ("eating desks") are missed: the share is a lower bound.
FANTASTICAL = {
    "impossible": r"\b(?:float|levitat|hover|glow|vanish|disappear|teleport|invisib|transform|melt|"
    r"frozen|freez|froze|statue|gravity|translucent|ghost|midair|upside|weightless|orbs?\b|portal|"
    r"shrink|morph|petrif|underwater|backward|in reverse|on the ceiling|through (?:the )?walls?\b|"
    r"mid[- ](?:air|step|motion)|(?:cars?|trucks?|vehicles?|people|person) (?:\w+ )?"
    r"(?:fl(?:y|ies|ew|ying)|danc))",
    "whimsical": r"\b(?:danc|dinosaur|unicorn|dragon|alien|robot|unicycl|juggl|costume|pizza|"
    r"in unison|synchroni|identical mask|chicken|penguin|elephant|piano|clown|pirate|astronaut)",
}
_STEMS = {name: re.compile(stems, re.IGNORECASE) for name, stems in FANTASTICAL.items()}


def fantastical_group(text: str, caption: str = "") -> str:
    """ "impossible", "whimsical" or "" by the words of FANTASTICAL that ``caption`` has not."""
    for name, stems in _STEMS.items():
        if stems.search(text) and not stems.search(caption):
            return name
    return ""
