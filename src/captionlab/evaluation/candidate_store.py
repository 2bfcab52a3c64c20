"""Candidates kept between evaluations, so that only configurations that changed are decoded again.

A file per configuration in ``.resume/candidates``, under a digest of everything that decides its captions: checkpoints,
captions, vocabulary, decodings and this package's code. Neither git nor DVC tracks it; deleting it costs time only.
"""

import dataclasses
import json
from contextlib import suppress
from pathlib import Path

import torch

from captionlab.config import Params
from captionlab.core.code import code_digest
from captionlab.core.devices import choose_device
from captionlab.core.files import digest_of, read_json, sha256_of, write_text
from captionlab.core.records import CAPTIONS, VOCAB
from captionlab.core.results import checkpoint_of, read_manifest
from captionlab.core.typed import typed
from captionlab.errors import CaptionlabError
from captionlab.evaluation.candidates import Candidates, Members

KEPT = 200  # files; the least recently used are deleted
_CODE = ("core/devices.py", "core/tokens.py", "data", "encoders", "evaluation", "inference", "models", "training")


class CandidateStore:
    """The candidates of earlier evaluations with the same data and code."""

    def __init__(self, params: Params, root: Path) -> None:
        self._root = root
        self._folder = root / ".resume/candidates"
        self._shared = [
            read_manifest(root).digest,
            sha256_of(root / CAPTIONS),
            sha256_of(root / VOCAB),
            [dataclasses.asdict(decoding) for decoding in params.evaluate.decodings],
            [choose_device(params.device), torch.__version__, torch.get_num_threads()],
            code_digest(_CODE),
        ]

    def path(self, members: Members) -> Path:
        """Where the candidates of these members are kept."""
        checkpoints = [sha256_of(checkpoint_of(self._root, system, name)) for system, name in members]
        return self._folder / f"{digest_of([checkpoints, *self._shared])}.json"

    def load(self, members: Members) -> Candidates | None:
        """The candidates of these members; None if they were not kept or the file is damaged."""
        if not all(checkpoint_of(self._root, system, name).exists() for system, name in members):
            return None  # decoding reports which one is missing
        path = self.path(members)
        if not path.exists():
            return None
        try:
            found = typed(read_json(path), Candidates, str(path))
        except CaptionlabError:
            return None
        with suppress(OSError):  # on a read-only disk
            path.touch()
        return found

    def save(self, members: Members, candidates: Candidates) -> None:
        """Keep the candidates of these members."""
        write_text(self.path(members), json.dumps(dataclasses.asdict(candidates)))
        files = sorted(self._folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in files[KEPT:]:
            path.unlink()
