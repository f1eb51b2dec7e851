"""The model: backbones of three families, LoRA, temporal transformer, regions, export."""
