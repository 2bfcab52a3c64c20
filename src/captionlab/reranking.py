"""Which caption of those that a beam found: its own best, or the one that agrees with similar photos' captions.

Sentences in, sentences out. Knows nothing of files, splits or how sentences are made.
"""

from collections.abc import Callable

from captionlab.captioner import Sentence
from captionlab.config import EnsembleParams
from captionlab.models.base import Features
from captionlab.retrieval import Retriever

Choose = Callable[[Features, list[list[Sentence]]], list[Sentence]]  # photos and their candidates, best first


def as_ranked(features: Features, ranked: list[list[Sentence]]) -> list[Sentence]:
    """The beam's own best."""
    return [sentences[0] for sentences in ranked]


def by_neighbours(retriever: Retriever, params: EnsembleParams, length_penalty: float) -> Choose:
    """Ranked by the beam's score plus agreement with what people wrote of the training photos that look most alike.

    After Devlin et al. 2015, "Language models for image captioning: the quirks and what works".
    """

    def choose(features: Features, ranked: list[list[Sentence]]) -> list[Sentence]:
        words = [[tuple(sentence.caption.split()) for sentence in sentences] for sentences in ranked]
        agreement = retriever.agreement(words, features.pooled_PD.cpu().numpy(), params.neighbours)
        chosen = []
        for sentences, own in zip(ranked, agreement, strict=True):
            scores = [
                _score(sentence, length_penalty) + params.agreement * agreed
                for sentence, agreed in zip(sentences, own, strict=True)
            ]
            chosen.append(sentences[scores.index(max(scores))])
        return chosen

    return choose


def _score(sentence: Sentence, length_penalty: float) -> float:
    return sentence.log_prob / float((len(sentence.tokens) + 1) ** length_penalty)  # the end is a word, too
