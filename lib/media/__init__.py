"""Atomic files, and exact decoding of video frames by number."""
