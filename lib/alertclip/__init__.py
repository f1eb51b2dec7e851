"""Alert-CLIP: abnormality-aware tuning of CLIP for video anomaly detection.

Modules in reading order; each imports only what stands before it:

- ``errors``, ``files``, ``memory``: one error type for bad input, atomic writes, progress, malloc.
- ``params``: every knob of a run, typed.
- ``data``: VAGTA annotations, boxes, videos, frame cache, clips, the synthetic mini world.
- ``model``: open_clip towers with split attention, LoRA, temporal transformer, regions, export.
- ``losses``: one function per objective of the paper.
- ``training``: one loop for Stage I and Stage II.
- ``diagnosis``, ``evaluation``, ``explain``: MeanSignScore, zero-shot metrics, attention maps.
- ``prompts``: the fixed prompt file.
- ``figures``: a tidy table in, a figure out.
- ``shards``, ``score``: score your own videos.
- ``stages``, ``study``, ``showcase``: what the notebooks call: models, tables, exports.
- ``detectors``, ``weak``, ``comparison``, ``transfer``, ``disentangle``, ``feature_space``,
  ``retention``: VadCLIP and AnomalyCLIP on each backbone, and what tuning forgets.
- ``curation``: screening of clips, hard negatives and their audit.
- ``ablations``, ``ablation_tables``, ``degradation``, ``failures``, ``efficiency``, ``qa``: what
  notebooks 07 to 10 measure.
- ``ledger``, ``inconsistencies``, ``report``: the papers' numbers beside ours.
- ``seeds``, ``prior``, ``gates``: several seeds, pre-training, the mini world's fitness.
- ``announce``, ``workflow``, ``run``: notebooks executed in order, behind ``run_all.sh``.

Axis letters: B clips, T frames, R regions, K hard negatives, C prompts, D embedding dimension,
N patch tokens, H and W pixels. A mask is True where the entry is real.
"""

__version__ = "0.1.0"
