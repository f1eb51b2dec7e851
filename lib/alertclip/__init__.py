"""Alert-CLIP: abnormality-aware tuning of CLIP for video anomaly detection.

The method, in the paper's order:

- ``hyperparameters``: Table 4 and the rest of the method's parameters, in typed groups.
- ``attention``, ``blip``, ``backbone``: CLIP, SigLIP or BLIP with attention split for LoRA.
- ``lora``: adapters on the projections, and the optimiser's parameter groups.
- ``model``: embeddings of clips, regions and texts; the model of both stages.
- ``losses``: L_global, L_region, L_hard and their weighted sum.
- ``objective``, ``distributed``, ``checkpoint``, ``training``: gradients of a step, several
  processes, checkpoints, and the training loop of both stages.
- ``export``: the tuned model for open_clip, transformers and PEFT.
- ``attention_maps``: attention rollout over patches.

Data and evaluation:

- ``records``, ``vagta``: annotated clips, and VAGTA's files with a report of their quirks.
- ``clips``: batches of frames, boxes and captions.
- ``prompts``, ``embeddings``, ``intervals``, ``mss``: MeanSignScore and zero-shot detection.
- ``anomaly_curve``, ``score``: anomaly scores for your own videos.

The package ``media`` underneath decodes videos exactly, writes files atomically and defines one
error type for bad input.

Axis letters: B clips, T frames, R regions, K hard negatives, C prompts, D embedding dimension,
N patch tokens, H and W pixels. A mask is True where the entry is real.
"""

__version__ = "0.1.0"
