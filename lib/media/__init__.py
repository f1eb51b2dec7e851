"""Files and videos: written whole or not at all, decoded exactly, each frame by its number."""
