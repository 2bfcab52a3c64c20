"""Corpus scores of generated captions under the strict protocol or a report's own. Strings in, numbers out.

Knows nothing of files, datasets or systems. Every score runs from 0 to 1, CIDEr-D from 0 to 10.
"""

import dataclasses
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np

from captionlab.core.records import Protocol, Scores
from captionlab.data.text import clean, report_b_text
from captionlab.errors import CaptionlabError, some_of
from captionlab.metrics.bootstrap import PerPhoto
from captionlab.metrics.cider import ORDERS, CiderD, Words, ngrams
from captionlab.metrics.meteor import Meteor

_REPORT_B = [(1.0, 0.0, 0.0, 0.0), (0.5, 0.5, 0.0, 0.0), (0.3, 0.3, 0.3, 0.0), (0.25, 0.25, 0.25, 0.25)]
_BETA = 1.2  # ROUGE-L's weight of recall
_MARKER = re.compile(r"(<\w+>)")  # <start>, <end>, <unk>


class Scorer:
    """Scores captions of one set of photos; the references are prepared once.

    ``references`` maps each image id to its reference captions as written. Raises CaptionlabError when there are no
    references, or none for a photo.

    The protocols:

    - ``strict``: lowercase, punctuation dropped, split on whitespace and, in languages written without spaces, into
      characters; all references used. A marker such as ``<unk>`` in a hypothesis is a word that matches no reference.
      Corpus BLEU, ROUGE-L, CIDEr-D (idf from these references) and METEOR, all equal to pycocoevalcap's on the same
      words, with one exception: where no n-gram of an order matches, BLEU is 0 and pycocoevalcap's is slightly larger
      (2e-4 for BLEU-4 of a few captions), because it avoids a division by zero.
    - ``report_a``: BLEU by torchtext's rule, with a start and an end word counted in references and hypothesis, and
      report A's cleaning. The report gives one number, torchtext's default, which is BLEU-4 here. Three differences
      remain or are unknown: it tokenised with spaCy, so a full stop was a word that its systems could generate and
      ours cannot; rare words were ``<UNK>`` in its references and could match; whether it used all five references.
    - ``report_b``: BLEU by nltk, ``startseq`` and ``endseq`` counted in references and hypothesis, one-letter words
      dropped from both, BLEU-3 with weights that sum to 0.9. The references keep punctuation within and after words
      ("t-shirt", "dogs,"), the hypothesis has the tokenizer's words ("shirt"), so these never match.

    In both reports a caption of the maximum length has no end word; here the end word is always counted.
    """

    def __init__(self, references: Mapping[str, Sequence[str]], protocol: Protocol = "strict") -> None:
        if not references:
            raise CaptionlabError("there are no references to score against")
        self._images = sorted(references)
        for image in self._images:
            if not references[image]:
                raise CaptionlabError(f"image {image!r} has no references; give it one or leave it out")
        self._protocol = protocol
        self._references = [[_reference(raw, protocol) for raw in references[image]] for image in self._images]
        self._cider = CiderD(self._references) if protocol == "strict" else None

    def score(self, hypotheses: Mapping[str, str], meteor: Meteor | None = None) -> Scores:
        """Score one caption per photo. METEOR is None without ``meteor``, whose Java takes seconds to start.

        Raises CaptionlabError, naming some, when the ids are not those of the references.
        """
        return self.score_all({"": hypotheses}, meteor)[""]

    def score_all(self, systems: Mapping[str, Mapping[str, str]], meteor: Meteor | None = None) -> dict[str, Scores]:
        """Score several systems, each as ``score`` would."""
        words = {name: self._words(hypotheses) for name, hypotheses in systems.items()}
        with ThreadPoolExecutor(1) as pool:  # Java runs in parallel
            java = meteor if self._cider else None
            found = pool.submit(java.scores, self._references, list(words.values())) if java else None
            scores = {name: self._score(own) for name, own in words.items()}
            meteors = found.result() if found else None
        if meteors is None:
            return scores
        return {
            name: dataclasses.replace(own, meteor=value.corpus)
            for (name, own), value in zip(scores.items(), meteors, strict=True)
        }

    def per_photo(self, hypotheses: Mapping[str, str]) -> PerPhoto:
        """Each photo's contribution to the strict scores except METEOR, in the order of the sorted ids."""
        if self._cider is None:
            raise ValueError("only the strict protocol has scores per photo")
        return self._parts(self._words(hypotheses), self._references, self._clipping, self._cider)

    def per_caption(
        self, pairs: Sequence[tuple[str, str]], meteor: Meteor | None = None
    ) -> tuple[PerPhoto, list[float] | None]:
        """Each caption's part in the strict scores, and its METEOR, for pairs of image id and caption.

        A photo may have any number of captions; the idf of CIDEr-D stays that of the photos.
        """
        if self._cider is None:
            raise ValueError("only the strict protocol has scores per caption")
        places = {image: place for place, image in enumerate(self._images)}
        photos = [places[image] for image, _ in pairs]
        words = [_hypothesis(caption, self._protocol) for _, caption in pairs]
        references = [self._references[photo] for photo in photos]
        with ThreadPoolExecutor(1) as pool:  # Java runs in parallel
            found = pool.submit(meteor.scores, references, [words]) if meteor else None
            parts = self._parts(words, references, [self._clipping[photo] for photo in photos], self._cider)
            meteors = found.result() if found else None
        return parts, list(meteors[0].captions) if meteors else None

    @staticmethod
    def _parts(
        words: Sequence[Words], references: Sequence[Sequence[Words]], clipping: Sequence[Counter[Words]],
        cider: CiderD,
    ) -> PerPhoto:  # fmt: skip
        matched, total, closest = [], [], []
        for own, most, known in zip(words, clipping, references, strict=True):
            matched.append(_matched(own, most))
            total.append([max(0, len(own) - n) for n in range(ORDERS)])
            # of two references equally close, the shorter
            closest.append(min((abs(len(own) - len(reference)), len(reference)) for reference in known)[1])
        return PerPhoto(
            matched_NO=np.array(matched, dtype=np.float64),
            total_NO=np.array(total, dtype=np.float64),
            words_N=np.array([len(own) for own in words], dtype=np.float64),
            reference_words_N=np.array(closest, dtype=np.float64),
            rouge_l_N=np.array([_rouge_l(own, known) for own, known in zip(words, references, strict=True)]),
            cider_N=cider.scores(words, references),
        )

    @cached_property
    def _clipping(self) -> list[Counter[Words]]:
        return [_most(references) for references in self._references]

    def cider_by_image(self, hypotheses: Mapping[str, str]) -> dict[str, float]:
        """CIDEr-D of each photo's caption; ``score`` gives their mean. Strict protocol only."""
        if self._cider is None:
            raise ValueError(f"the protocol {self._protocol} has no CIDEr")
        scores = self._cider.scores(self._words(hypotheses), self._references)
        return dict(zip(self._images, scores.tolist(), strict=True))

    def _words(self, hypotheses: Mapping[str, str]) -> list[Words]:
        _check_ids(self._images, hypotheses)
        return [_hypothesis(hypotheses[image], self._protocol) for image in self._images]

    def _score(self, hypotheses: list[Words]) -> Scores:
        if self._cider is not None:
            parts = self._parts(hypotheses, self._references, self._clipping, self._cider)
            return Scores(**parts.corpus(), meteor=None)
        if self._protocol == "report_a":
            bleus = _torchtext_bleu(self._references, self._clipping, hypotheses)
        else:
            bleus = _report_b_bleu(self._references, hypotheses)
        bleu_1, bleu_2, bleu_3, bleu_4 = bleus
        return Scores(bleu_1=bleu_1, bleu_2=bleu_2, bleu_3=bleu_3, bleu_4=bleu_4, rouge_l=None, cider=None, meteor=None)


def _check_ids(images: Sequence[str], hypotheses: Mapping[str, str]) -> None:
    known = set(images)
    missing = [image for image in images if image not in hypotheses]
    unknown = sorted(image for image in hypotheses if image not in known)
    faults = [
        f"{len(ids)} {fault} ({some_of(ids)})"
        for ids, fault in ((missing, "without a hypothesis"), (unknown, "without references"))
        if ids
    ]
    if faults:
        raise CaptionlabError(
            f"references and hypotheses must hold the same image ids, but there are {' and '.join(faults)}"
        )


def _reference(raw: str, protocol: Protocol) -> Words:
    match protocol:
        case "strict":
            return clean(raw, "characters")
        case "report_a":
            return ("<sos>", *clean(raw, "report_a"), "<eos>")
        case "report_b":
            return ("startseq", *report_b_text(raw).split(), "endseq")


def _hypothesis(caption: str, protocol: Protocol) -> Words:
    match protocol:
        case "strict":
            parts: Iterable[Words] = (
                (part,) if _MARKER.fullmatch(part) else clean(part, "characters") for part in _MARKER.split(caption)
            )
            return tuple(word for part in parts for word in part)
        case "report_a":
            return ("<sos>", *clean(caption, "report_a"), "<eos>")
        case "report_b":
            return ("startseq", *clean(caption, "report_b"), "endseq")


def _report_b_bleu(references: Sequence[Sequence[Words]], hypotheses: Sequence[Words]) -> list[float]:
    """The four calls of nltk's ``corpus_bleu`` in report B, its weights of 0.3 included."""
    from nltk.translate.bleu_score import corpus_bleu  # nltk takes a second to import, and no other protocol needs it

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it warns of an order without a match, whose BLEU is 0
        scores = corpus_bleu(references, hypotheses, weights=_REPORT_B)
    return [float(score) if score > 1e-50 else 0.0 for score in scores]  # nltk writes that 0 as 1e-77 or less


def _torchtext_bleu(
    references: Sequence[Sequence[Words]], clipping: Sequence[Counter[Words]], hypotheses: Sequence[Words]
) -> list[float]:
    """BLEU-1 to 4 by the rule of ``torchtext.data.metrics.bleu_score`` with ``max_n`` 1 to 4 and equal weights.

    0 when any order has no match. Of two references equally close in length the first one counts, not the shortest.
    torchtext computes in float32, this in float64.
    """
    matched, total = [0] * ORDERS, [0] * ORDERS
    reference_length = hypothesis_length = 0
    for own, most, words in zip(references, clipping, hypotheses, strict=True):
        hypothesis_length += len(words)
        reference_length += min((len(reference) for reference in own), key=lambda size: abs(len(words) - size))
        for n, hits in enumerate(_matched(words, most)):
            matched[n] += hits
            total[n] += max(0, len(words) - n)
    brevity = min(1 - reference_length / hypothesis_length, 0.0)
    logs = [math.log(hits / all_) if hits else -math.inf for hits, all_ in zip(matched, total, strict=True)]
    return [math.exp(brevity + math.fsum(logs[:n]) / n) for n in range(1, ORDERS + 1)]


def _most(references: Sequence[Words]) -> Counter[Words]:
    """The largest count of each n-gram in any one reference."""
    most: Counter[Words] = Counter()
    for reference in references:
        most |= ngrams(reference)
    return most


def _matched(words: Words, most: Counter[Words]) -> list[int]:
    """The number of n-grams of each order that a caption shares with its references, clipped."""
    hits = [0] * ORDERS
    for gram, count in ngrams(words).items():
        hits[len(gram) - 1] += min(count, most[gram])
    return hits


def _rouge_l(words: Words, references: Sequence[Words]) -> float:
    """ROUGE-L of one caption as COCO computes it: the best precision and the best recall, over all references.

    0 for a hypothesis without words.
    """
    common = [_longest_common_subsequence(words, reference) for reference in references]
    precision = max(common) / max(1, len(words))
    recall = max(size / max(1, len(reference)) for size, reference in zip(common, references, strict=True))
    if precision == 0:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _longest_common_subsequence(a: Words, b: Words) -> int:
    """The length of it, by bits instead of a table (Hyyrö 2004): bit i is 0 where a[:i + 1] added a word."""
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    everything = (1 << len(a)) - 1
    row = everything
    for word in b:
        hits = row & places.get(word, 0)
        row = (row + hits) | (row - hits)
    return len(a) - (row & everything).bit_count()
