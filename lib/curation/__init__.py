"""Curation: screening of raw clips, writing of hard negatives, audit of published ones."""
