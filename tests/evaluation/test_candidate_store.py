"""The store of candidates: reused only if all inputs are the same."""

import dataclasses
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from builders import write_tree
from captionlab.config import Params
from captionlab.core.files import write_jsonl
from captionlab.core.records import CAPTIONS
from captionlab.core.results import checkpoint_of
from captionlab.evaluation import candidate_store
from captionlab.evaluation.candidate_store import CandidateStore
from captionlab.evaluation.candidates import Candidates
from captionlab.inference.captioner import Sentence
from results_tree import write_checkpoint

if TYPE_CHECKING:
    from conftest import World

ONE, BOTH = (("baseline", "a"),), (("baseline", "a"), ("attention", "b"))
SENTENCE = Sentence(caption="a dog", log_prob=-1.25, score=-0.5, tokens=(4, 5))
FOUND = Candidates(
    images={"val": ["val0.jpg"], "test": ["test0.jpg"]}, encoder="tiny",
    ranked={"val": [[[[SENTENCE]]]], "test": [[[[SENTENCE]]]]}, without_photo=["a"], loss=1.5, accuracy=0.25,
)  # fmt: skip


@pytest.fixture
def root(tmp_path: Path, world: "World") -> Path:
    write_tree(tmp_path, world)
    for system, name in BOTH:
        write_checkpoint(tmp_path, system, name)
    return tmp_path


def test_candidates_round_trip(root: Path, project_params: Params) -> None:
    CandidateStore(project_params, root).save(BOTH, FOUND)
    store = CandidateStore(project_params, root)  # of a later evaluation
    assert store.load(BOTH) == FOUND
    assert store.load(ONE) is None


def test_candidates_are_read_from_a_read_only_disk(
    root: Path, project_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CandidateStore(project_params, root)
    store.save(ONE, FOUND)

    def refused(path: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "touch", refused)
    assert store.load(ONE) == FOUND


@pytest.mark.parametrize("change", ["checkpoint", "captions", "decodings", "device", "damaged", "missing"])
def test_a_changed_input_invalidates_candidates(
    root: Path, project_params: Params, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    store = CandidateStore(project_params, root)
    store.save(BOTH, FOUND)
    params = project_params
    match change:
        case "checkpoint":
            write_checkpoint(root, "attention", "b", seed=2)
        case "captions":
            write_jsonl(root / CAPTIONS, [])
        case "decodings":
            params = dataclasses.replace(params, evaluate=dataclasses.replace(params.evaluate, length_penalty=0.1))
        case "device":
            monkeypatch.setattr(candidate_store, "choose_device", lambda wanted: "cuda")  # auto, where a GPU is now
        case "damaged":
            path = store.path(BOTH)
            path.write_bytes(path.read_bytes()[:-20])
        case "missing":
            checkpoint_of(root, "attention", "b").unlink()
    assert CandidateStore(params, root).load(BOTH) is None


def test_the_least_recently_used_are_deleted(
    root: Path, project_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidate_store, "KEPT", 2)
    store = CandidateStore(project_params, root)
    members = [(("baseline", "a"),), (("attention", "b"),), BOTH]
    for age, own in zip((200, 100), members[:2], strict=True):
        store.save(own, FOUND)
        os.utime(store.path(own), (1000 - age, 1000 - age))
    assert store.load(members[0]) == FOUND  # and it becomes the most recently used
    store.save(BOTH, FOUND)
    assert [store.load(own) is None for own in members] == [False, True, False]
