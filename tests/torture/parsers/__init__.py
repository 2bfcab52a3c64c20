"""The parsers to fuzz, each with valid files and special cases."""

from torture.fuzz import Parser
from torture.parsers import datasets, photos, results, texts, weights


def parsers() -> list[Parser]:
    """Every parser to fuzz."""
    return [parser for part in (datasets, texts, weights, results, photos) for parser in part.parsers()]
