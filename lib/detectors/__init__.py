"""Weakly supervised detectors on frozen CLIP features: VadCLIP and AnomalyCLIP."""
