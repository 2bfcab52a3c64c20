"""What ``captionlab judgments`` does: how far each score agrees with Flickr8k's human judgments, as text, CSV or JSON.

The texts are read by ``datasets``, Kendall's tau is computed by ``metrics``.
"""

import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from captionlab.core.devices import choose_device
from captionlab.core.output import json_line
from captionlab.core.results.further_scores import NEEDS
from captionlab.core.results.judgments import Agreements, Tau, as_plain
from captionlab.datasets.flickr8k import copy_photos, read_texts
from captionlab.datasets.judgments import FILES
from captionlab.errors import CaptionlabError
from captionlab.evaluation.further_scores import CLIP, FurtherScorer
from captionlab.metrics.agreement import agreements

_NEEDS = {
    "meteor": "needs Java and the extra captionlab[meteor]",
    "photo_fit": "needs the features of a pipeline: see its report",
    **NEEDS,
}


def judgments(
    source: Path, form: Literal["json", "csv", "table"], clip: str | None, resamples: int, seed: int
) -> list[str]:
    """The lines to print. Broken lines of the judgments are counted on standard error.

    ``clip`` is a folder or a name of CLIP in the Hugging Face cache. None is the published one; where it or a photo is
    missing, CLIPScore and RefCLIPScore are None, and standard error says why. So is SPICE without its parser. The 95 %
    intervals come from ``resamples`` resamples of the photos, drawn with ``seed``.

    Raises CaptionlabError when the folder has no texts of Flickr8k, or these have no judgments.
    """
    texts = read_texts(source)
    for problem in texts.problems:
        print(f"captionlab: {problem.item}: {problem.kind}, {problem.detail}", file=sys.stderr)
    if not texts.judged:
        raise CaptionlabError(f"{source} has no judgments ({', '.join(FILES.values())}); get Flickr8k's texts again")
    with TemporaryDirectory() as folder:

        def photos() -> dict[str, Path]:
            copy_photos(source, Path(folder))
            return {path.name: path for path in Path(folder).iterdir()}

        further = FurtherScorer(clip=clip or CLIP, spice=True, photos=photos, device=choose_device("auto"))
        if clip:
            _ = further.clip_scores  # one that was named and cannot be loaded is an error, before minutes of work
        found = agreements(
            texts.references, texts.judged, resamples, seed,
            lambda pairs, references: {"photo_fit": None, **further.scores(pairs, references)},
        )  # fmt: skip
    for names, reason in further.missing.items():
        print(f"captionlab: without {names}: {reason}", file=sys.stderr)
    match form:
        case "json":
            return [json_line(as_plain(found))]
        case "csv":
            return _csv(found)
        case "table":
            return list(_table(found))


def _table(found: Agreements) -> Iterator[str]:
    for judges, own in found.items():
        of = f"{own.pairs:,} pairs, {own.photos:,} photos"
        yield f"{judges}: tau-{own.variant} of {of}; with 95 % intervals, times 100"
        yield from (f"  {name:14} {_said(name, tau)}" for name, tau in own.scores.items())


def _said(name: str, tau: Tau | None) -> str:
    if tau is None:
        return f"n/a ({_NEEDS.get(name, 'all are equal')})"
    return f"{100 * tau.tau:.1f}  ({100 * tau.low:.1f} to {100 * tau.high:.1f})"


def _csv(found: Agreements) -> list[str]:
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["judges", "variant", "pairs", "photos", "score", "tau", "low", "high"])
    for judges, own in found.items():
        for name, tau in own.scores.items():
            values = ["", "", ""] if tau is None else [tau.tau, tau.low, tau.high]
            table.writerow([judges, own.variant, own.pairs, own.photos, name, *values])
    return out.getvalue().splitlines()
