"""Embeddings of clips, and the metrics computed from them."""
