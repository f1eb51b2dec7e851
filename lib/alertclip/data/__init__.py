"""Data: annotations to typed records, videos to frames, both to batches."""
