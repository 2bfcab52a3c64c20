"""Captioners that are ensembles."""

import dataclasses
from pathlib import Path

import pytest

from captionlab.core.records import Decoding
from captionlab.core.results import checkpoint_of
from captionlab.errors import CaptionlabError
from captionlab.inference.captioner import EnsembleCaptioner
from captionlab.training.checkpoint import load_checkpoint, save_checkpoint
from results_tree import write_checkpoint


def test_an_ensemble_names_its_members_and_needs_one_vocabulary(tmp_path: Path) -> None:
    paths = []
    for system in ("baseline", "attention"):
        write_checkpoint(tmp_path, system, "tiny")
        paths.append(checkpoint_of(tmp_path, system, "tiny"))
    both = EnsembleCaptioner.load(paths)
    longer = dataclasses.replace(load_checkpoint(paths[1]), decoding=Decoding(max_words=40))
    save_checkpoint(tmp_path / "longer.safetensors", longer)
    with pytest.raises(CaptionlabError, match=r"several decodings .* 30 words; .* 40 words\); give one for all"):
        EnsembleCaptioner.load([paths[0], tmp_path / "longer.safetensors"])
    assert [member.identity.system for member in both.members] == ["baseline", "attention"]
    assert both.sources == {"tiny": True}  # the baseline uses the pooled vectors of the same store
    checkpoint = load_checkpoint(paths[0])
    vocab = dataclasses.replace(checkpoint.vocab, words=(*checkpoint.vocab.words[:-1], "zebra"))
    save_checkpoint(tmp_path / "other.safetensors", dataclasses.replace(checkpoint, vocab=vocab))
    with pytest.raises(CaptionlabError, match="have different vocabularies; the members of an ensemble share one"):
        EnsembleCaptioner.load([paths[1], tmp_path / "other.safetensors"])
