"""Captions of every system for a split, chosen, scored and diagnosed."""
