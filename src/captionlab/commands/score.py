"""What ``captionlab score`` does: a file of references and one of captions in, scores out.

Formats are read by ``caption_formats``, scores are made by ``metrics``.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from captionlab.core.records import Scores
from captionlab.data.caption_formats import read_captions, read_references
from captionlab.data.text import clean
from captionlab.errors import CaptionlabError, some_of
from captionlab.metrics.bootstrap import draw, interval
from captionlab.metrics.meteor import Meteor
from captionlab.metrics.scorer import Scorer

RESAMPLES, SEED = 1000, 1  # as the report has them unless params.yaml says otherwise


@dataclass(frozen=True)
class Scored:
    """The scores of a file of captions, and their 95 % intervals if these were asked for."""

    scores: Scores
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def score_files(
    references: Path, captions: Path, *, meteor: bool = True, subset: bool = False, intervals: bool = False
) -> Scored:
    """Score captions under the strict protocol; without ``meteor`` no Java is started.

    With ``intervals``, those of BLEU, ROUGE-L and CIDEr-D are made by resampling the photos, as in the report. With
    ``subset``, photos that have no caption are left out, also of CIDEr's word weights. CIDEr of a single photo is None:
    it weighs words by the share of photos that have them. Raises CaptionlabError naming the file when its format is
    unknown, and naming some ids when the two files do not have the same ones, or a photo has no reference with a word.
    """
    # the pair of candidates with the most ids in common
    known, generated = max(
        product(read_references(references), read_captions(captions)),
        key=lambda pair: len(pair[0].keys() & pair[1].keys()),
    )
    if subset:
        known = {image: own for image, own in known.items() if image in generated}
    if wordless := [image for image, own in known.items() if not any(clean(text, "characters") for text in own)]:
        raise CaptionlabError(
            f"{references}: {len(wordless):,} photos have no reference with a word ({some_of(wordless)})"
        )
    try:
        scorer = Scorer(known)
        with Meteor() as java:
            scores = scorer.score(generated, java if meteor else None)
    except CaptionlabError as error:
        can_help = not subset and generated and generated.keys() < known.keys()
        advice = "; --subset leaves these out" if can_help else ""
        raise CaptionlabError(f"{references} and {captions}: {error}{advice}") from None
    if len(known) == 1:  # no interval either: every resample is the same photo
        return Scored(dataclasses.replace(scores, cider=None))
    if not intervals:
        return Scored(scores)
    resampled = scorer.per_photo(generated).scores(draw(len(known), RESAMPLES, SEED))
    return Scored(scores, {name: interval(values_R) for name, values_R in resampled.items()})


def as_record(scored: Scored) -> dict[str, object]:
    """The scores by name, and under ``intervals`` those that were asked for."""
    scores = dataclasses.asdict(scored.scores)
    return scores | {"intervals": scored.intervals} if scored.intervals else scores


def lines(scored: Scored, meteor: bool) -> Iterator[str]:
    """The scores as aligned lines; ``meteor`` is whether it was asked for."""
    java = "needs Java and the extra captionlab[meteor]" if meteor else "left out"
    missing = {"cider": "needs several photos", "meteor": java}
    for name, value in dataclasses.asdict(scored.scores).items():
        between = "  {:.4f} to {:.4f}".format(*scored.intervals[name]) if name in scored.intervals else ""
        yield f"{name:8} {f'n/a ({missing[name]})' if value is None else f'{value:.4f}{between}'}"
