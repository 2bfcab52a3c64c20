"""A digest of captionlab's own source code, for unfinished work that only the same code may continue."""

from collections.abc import Iterable
from pathlib import Path

from captionlab.core.files import digest_of, sha256_of


def code_digest(names: Iterable[str]) -> str:
    """A digest of these files and folders of the package, such as ``models`` or ``core/tokens.py``."""
    package = Path(__file__).parents[1]
    files = (path for name in names for path in sorted((package / name).rglob("*.py")) or [package / name])
    return digest_of([[str(path.relative_to(package)), sha256_of(path)] for path in files])
