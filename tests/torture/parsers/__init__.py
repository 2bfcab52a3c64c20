"""The parsers to fuzz, each with valid files and a list of special cases."""

from torture.fuzz import Parser
from torture.parsers import datasets, photos, results, texts, weights


def parsers() -> list[Parser]:
    """Every parser."""
    return [parser for part in (datasets, texts, weights, results, photos) for parser in part.parsers()]
