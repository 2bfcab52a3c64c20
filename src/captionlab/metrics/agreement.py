"""How far each score agrees with what people think of captions: Kendall's tau, with intervals over the photos.

Captions and marks in, records out; knows no files. Shape letters: N judgments, P photos, R resamples.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from captionlab.core.results.judgments import Agreement, Agreements, JudgedCaption, Judges, Tau
from captionlab.metrics.bootstrap import Floats, draw, interval
from captionlab.metrics.meteor import Meteor
from captionlab.metrics.scorer import Scorer

Variant = Literal["b", "c"]
Ranks = NDArray[np.intp]
Further = Callable[[Sequence[tuple[str, str]], Mapping[str, Sequence[str]]], Mapping[str, Floats | None]]
"""From pairs of image id and caption, and the references of each image, to scores of each caption."""

_VARIANTS: dict[Judges, Variant] = {"experts": "c", "crowd": "b"}  # as the literature has them
_BLOCK = 256  # judgments compared with all others at once


def agreements(
    references: Mapping[str, Sequence[str]], judged: Sequence[JudgedCaption], resamples: int, seed: int,
    further: Further | None = None,
) -> Agreements:  # fmt: skip
    """Kendall's tau between the scores of the judged captions and their marks, for each group of judges.

    As SPICE (Anderson et al. 2016) and CLIPScore (Hessel et al. 2021) do: tau-c over every single mark of the experts,
    without the captions that are among the photo's references; tau-b with the crowd's share of yes, and there the
    judged captions of a photo are not among its references. Photos without references are left out. CIDEr-D takes its
    idf from the references of the judged photos; the BLEU of a single caption is that of ``PerPhoto.by_caption``.
    ``further`` gives more scores of the captions by name, or None for a score that could not be computed.
    """
    found: dict[Judges, Agreement] = {}
    with Meteor() as meteor:
        for judges, variant in _VARIANTS.items():
            own = [each for each in judged if each.judges == judges and each.image in references]
            known = {each.image: list(references[each.image]) for each in own}
            if judges == "experts":
                own = [each for each in own if not each.is_reference]
            else:
                said = {(each.image, each.caption) for each in own if each.is_reference}
                known = {image: [raw for raw in raws if (image, raw) not in said] for image, raws in known.items()}
            own = [each for each in own if known[each.image]]
            if own:
                known = {each.image: known[each.image] for each in own}
                weights_RP = draw(len(known), resamples, seed)
                found[judges] = _agreement(known, own, variant, weights_RP, meteor, further)
    return found


def _agreement(
    references: Mapping[str, Sequence[str]], judged: Sequence[JudgedCaption], variant: Variant, weights_RP: Floats,
    meteor: Meteor, further: Further | None,
) -> Agreement:  # fmt: skip
    pairs = [(each.image, each.caption) for each in judged]
    parts, meteors = Scorer(references).per_caption(pairs, meteor)
    scores: dict[str, Floats | None] = {**parts.by_caption(), "meteor": np.array(meteors) if meteors else None}
    if further:
        scores |= further(pairs, references)
    places = {image: place for place, image in enumerate(references)}
    repeats = [len(each.marks) for each in judged]
    marks_N = np.concatenate([each.marks for each in judged])
    photos_N = np.repeat([places[each.image] for each in judged], repeats)
    return Agreement(
        variant=variant, pairs=len(judged), photos=len(references), resamples=len(weights_RP),
        scores={
            name: None if own is None else tau(np.repeat(own, repeats), marks_N, photos_N, variant, weights_RP)
            for name, own in scores.items()
        },
    )  # fmt: skip


def tau(scores_N: Floats, marks_N: Floats, photos_N: Ranks, variant: Variant, weights_RP: Floats) -> Tau | None:
    """Kendall's tau of scores and marks, and its 95 % interval over resamples of the photos.

    None where all scores or all marks are equal; such resamples do not count.
    """
    taus_R = resampled_tau(scores_N, marks_N, photos_N, variant, weights_RP)
    taus_R = taus_R[~np.isnan(taus_R)]
    if len(set(scores_N)) < 2 or len(set(marks_N)) < 2 or not len(taus_R):
        return None
    found = float(kendalltau(scores_N, marks_N, variant=variant).statistic)
    low, high = interval(taus_R)
    return Tau(tau=round(found, 6), low=round(low, 6), high=round(high, 6))


def resampled_tau(scores_N: Floats, marks_N: Floats, photos_N: Ranks, variant: Variant, weights_RP: Floats) -> Floats:
    """(R,) Kendall's tau of resamples: row r counts every judgment of photo p ``weights_RP[r, p]`` times.

    NaN where all scores or all marks that were drawn are equal.

    Equal to scipy's on the repeated judgments, at a thousandth of the time: the concordance of each two photos is
    computed once, and that of a resample is a quadratic form in its weights.
    """
    score_ranks_N = np.unique(scores_N, return_inverse=True)[1]
    mark_ranks_N = np.unique(marks_N, return_inverse=True)[1]
    concordance_PP = _concordance(score_ranks_N, mark_ranks_N, photos_N, weights_RP.shape[1])
    taus = []
    for weights_P in weights_RP:
        weights_N = weights_P[photos_N]
        judgments = weights_N.sum()
        pairs = judgments * (judgments - 1) / 2
        concordant = weights_P @ concordance_PP @ weights_P
        scores_U = np.bincount(score_ranks_N, weights_N)  # how often each value occurs
        marks_U = np.bincount(mark_ranks_N, weights_N)
        if variant == "b":
            untied = [pairs - (each * (each - 1) / 2).sum() for each in (scores_U, marks_U)]
            most = np.sqrt(untied[0] * untied[1])
        else:
            values = min((scores_U > 0).sum(), (marks_U > 0).sum())
            most = judgments**2 * (values - 1) / values / 2
        taus.append(concordant / most if most else np.nan)
    return np.array(taus)


def _concordance(scores_N: Ranks, marks_N: Ranks, photos_N: Ranks, photos: int) -> Floats:
    """(P, P) concordant less discordant pairs with one judgment of each photo; all entries sum to that of all pairs.

    Two judgments with the most frequent mark are tied and add nothing, so such rows are skipped, and a pair of other
    judgments, which is met from both sides, counts half each time.
    """
    order_N = np.argsort(photos_N, kind="stable")
    scores_N, marks_N, photos_N = scores_N[order_N], marks_N[order_N], photos_N[order_N]
    present, starts = np.unique(photos_N, return_index=True)
    frequent_N = marks_N == np.bincount(marks_N).argmax()
    halves_N = np.where(frequent_N, 2, 1).astype(np.int8)
    concordance_PP = np.zeros((photos, photos))
    rows = np.flatnonzero(~frequent_N)
    for begin in range(0, len(rows), _BLOCK):
        block = rows[begin : begin + _BLOCK]
        agree_BN = _signs(scores_N, block) * _signs(marks_N, block) * halves_N
        sums_BP = np.add.reduceat(agree_BN, starts, axis=1, dtype=np.int32)
        np.add.at(concordance_PP, (photos_N[block][:, None], present[None, :]), sums_BP)
    return concordance_PP / 2


def _signs(values_N: Ranks, block: Ranks) -> NDArray[np.int8]:
    """(B, N) the sign of each difference between the block's values and all values."""
    own_B1 = values_N[block][:, None]
    return (own_B1 > values_N).astype(np.int8) - (own_B1 < values_N).astype(np.int8)
