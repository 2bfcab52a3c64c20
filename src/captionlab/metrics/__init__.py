"""Scores of captions against references, and how sure they are. Knows no files and no models."""
