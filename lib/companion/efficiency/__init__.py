"""What the model costs: FLOPs by formula, the machine's ceilings, latency, training time."""
