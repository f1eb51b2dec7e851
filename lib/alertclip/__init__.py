"""Alert-CLIP: abnormality-aware tuning of CLIP for video anomaly detection.

The method in reading order, as the paper tells it:

- ``hyperparameters``: Table 4 and the rest of the method's parameters, in typed groups.
- ``attention``, ``blip``, ``backbone``: CLIP, SigLIP or BLIP, taken apart for LoRA.
- ``lora``: adapters on the projections, and the optimiser's parameter groups.
- ``model``: frames to clips, boxes to regions, texts; the model of both stages.
- ``losses``: L_global, L_region, L_hard and their sum, one function each.
- ``objective``, ``distributed``, ``checkpoint``, ``training``: gradients of a step, several
  processes, resume, and the loop of Stage I and Stage II.
- ``export``: the tuned model for open_clip, transformers and PEFT.
- ``attention_maps``: where the model looks.

Data and evaluation:

- ``records``, ``vagta``: annotations and what is wrong in them.
- ``clips``: from annotated videos to a batch.
- ``prompts``, ``embeddings``, ``intervals``, ``mss``: MeanSignScore and zero-shot detection.
- ``anomaly_curve``, ``score``: score your own videos, on several machines if need be.

The package ``media`` holds what lies beneath: videos decoded exactly, files never half-written, one
error type for bad input.

Axis letters: B clips, T frames, R regions, K hard negatives, C prompts, D embedding dimension,
N patch tokens, H and W pixels. A mask is True where the entry is real.
"""

__version__ = "0.1.0"
