"""Re-ranking of candidates by the neighbours' captions, by log probability, and by both."""

import numpy as np
import pytest

from captionlab.config import EnsembleParams
from captionlab.evaluation.reranking import as_ranked, by_neighbours
from captionlab.evaluation.retrieval import Retriever
from captionlab.inference.captioner import Sentence
from captionlab.metrics.cider import CiderD
from retrieval_world import BOATS, CAPTIONS, DOGS, TRAINING, photos, words

LOOKS = photos((2, 2), (-3, -2.9))  # like the dogs, like the boats
RETRIEVER = Retriever(TRAINING, CAPTIONS, consensus_k=1)


def ranked(*captions: tuple[str, float]) -> list[Sentence]:
    return [
        Sentence(caption=caption, log_prob=log_prob, score=log_prob / (len(caption.split()) + 1), tokens=())
        for caption, log_prob in captions
    ]


def chosen(agreement: float, *photos: list[Sentence]) -> list[str]:
    choose = by_neighbours(RETRIEVER, EnsembleParams(members=("a.b",), neighbours=3, consensus_weight=agreement))
    (sentences,) = choose(LOOKS, [list(photos)])
    return [sentence.caption for sentence in sentences]


def test_consensus_is_cider_d_against_the_neighbours_captions() -> None:
    candidates = [words("a dog runs", "a boat sails", "dog dog dog"), words("a boat on the lake")]
    cider = CiderD(CAPTIONS)
    dogs, boats = ([own for photo in near for own in CAPTIONS[photo]] for near in ((0, 1, 2), (3, 4, 5)))
    found = RETRIEVER.consensus(candidates, LOOKS, 3)
    for own, agreed, references in zip(candidates, found, (dogs, boats), strict=True):
        assert agreed == pytest.approx(cider.scores(own, [references] * len(own)))
    assert np.argmax(found[0]) == 0


def test_candidates_like_the_neighbours_captions_rank_higher() -> None:
    both = ranked((BOATS[0], -6.0), (DOGS[0], -6.6))
    assert [sentence.caption for sentence in as_ranked(LOOKS, [[both, both]])[0]] == [BOATS[0], BOATS[0]]
    assert chosen(1.0, both, both) == [DOGS[0], BOATS[0]]


def test_the_log_probability_is_weighted_with_the_consensus() -> None:
    """Without the length penalty of the beam's score, which would count the length twice."""
    sure = ranked(("a boat", -0.3), (DOGS[0], -30.0))
    assert chosen(1e-6, sure, sure)[0] == "a boat"
    assert chosen(100.0, sure, sure)[0] == DOGS[0]
    longer = ranked(("the dog runs", -3.0), ("dog", -2.0))
    assert as_ranked(LOOKS, [[longer]]) == [longer[:1]]
    assert chosen(1e-6, longer, sure)[0] == "dog"


def test_a_single_candidate_is_chosen() -> None:
    assert chosen(2.0, ranked((BOATS[0], -1.0)), ranked((DOGS[0], -1.0))) == [BOATS[0], DOGS[0]]
