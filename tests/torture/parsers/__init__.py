"""The parsers that are fuzzed, each with valid files to begin with and a list of nasty ones."""

from torture.fuzz import Parser
from torture.parsers import datasets, photos, results, texts, weights


def parsers() -> list[Parser]:
    """Every parser, the cheap ones too."""
    return [parser for part in (datasets, texts, weights, results, photos) for parser in part.parsers()]
