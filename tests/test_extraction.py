"""Features by shares: every benchmark that notebooks 05 and 06 read, once."""

from alertclip.files import Shard
from companion import extraction
from companion.profiles import load_params


def test_features_are_asked_for_wherever_the_notebooks_read_them(monkeypatch):
    asked = []

    def extract_for_all(P, wanted, detector, training=True, shard=None):
        asked.append((P.detector.benchmark, detector, training, shard.number))

    monkeypatch.setattr(extraction, "extract_for_all", extract_for_all)
    monkeypatch.setattr(extraction, "domain_gaps", lambda P: [])  # no data at hand, none read
    P = load_params("paper+paper-msad")
    extraction.extract(P, Shard(2, 8))
    own = [("msad", "vadclip", True, 2), ("msad", "anomalyclip", True, 2)]
    partitioned = [("ucf_crime", "vadclip", True, 2)]
    assert asked[:3] == own + partitioned
    others = [(name, "vadclip", False, 2) for name in ("xd_violence", "ubnormal")]
    assert set(others) <= set(asked[3:]) and not any(training for _, _, training, _ in asked[3:])
