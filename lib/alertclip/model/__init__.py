"""The model: open_clip towers with split attention, LoRA, temporal transformer, regions, export."""
