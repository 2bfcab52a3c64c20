"""CLIPScore, RefCLIPScore and SPICE of captions. A score whose model or program is not here is None.

Captions and photos in, scores out; knows no configurations' files.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from captionlab.core.results.further_scores import FurtherScores
from captionlab.errors import CaptionlabError
from captionlab.evaluation.people import mean_of_ways, ways_to_leave_one_out
from captionlab.metrics.bootstrap import Floats
from captionlab.metrics.spice import spice_scores

CLIP = "openai/clip-vit-base-patch32"  # the published scores are this one's
_CLIP, _SPICE = ("clip_score", "ref_clip_score"), ("spice",)
_PEOPLE = "people"  # among configurations, whose keys have a dot


@dataclass(frozen=True, kw_only=True)
class FurtherScorer:
    """Computes the further scores that are asked for."""

    clip: str | None  # a folder or a name in the Hugging Face cache; None: neither CLIPScore nor RefCLIPScore
    spice: bool
    photos: Callable[[], Mapping[str, Path]]  # by image id; called once, when CLIP is loaded
    device: str  # CLIP's
    missing: dict[str, str] = field(default_factory=dict)  # by names of scores, why they could not be computed

    @property
    def names(self) -> tuple[str, ...]:
        """The scores that are asked for."""
        return (*(_CLIP if self.clip else ()), *(_SPICE if self.spice else ()))

    def scores(
        self, pairs: Sequence[tuple[str, str]], references: Mapping[str, Sequence[str]]
    ) -> dict[str, Floats | None]:
        """(N,) by name, for pairs of image id and caption."""
        found: dict[str, Floats | None] = {}
        if self.clip:
            found |= self._tried(_CLIP, lambda: self.clip_scores(pairs, references))
        if self.spice:
            found |= self._tried(_SPICE, lambda: {"spice": spice_scores(pairs, references)})
        return found

    def of_configurations(
        self, said: Mapping[str, Mapping[str, str]], references: Mapping[str, Sequence[str]]
    ) -> FurtherScores:
        """The mean of each score for each configuration's captions by image; people's too where it can be computed."""
        found = self._means(said, references)
        if all(value is None for own in found.values() for value in own.values()):
            return FurtherScores(scores=self.names, configurations=found)
        ways = [self._means({**said, _PEOPLE: people}, left) for people, left in ways_to_leave_one_out(references)]
        fewer = {key: mean_of_ways([way[key] for way in ways]) for key in (_PEOPLE, *said)} if ways else {}
        people = fewer.pop(_PEOPLE, {})
        return FurtherScores(scores=self.names, configurations=found, people=people, fewer_references=fewer)

    def _means(
        self, said: Mapping[str, Mapping[str, str]], references: Mapping[str, Sequence[str]]
    ) -> dict[str, dict[str, float | None]]:
        pairs = sorted({pair for own in said.values() for pair in own.items()})
        places = {pair: place for place, pair in enumerate(pairs)}
        found = self.scores(pairs, references) if pairs else {}
        return {
            key: {
                name: None if values is None else round(float(values[[places[p] for p in own.items()]].mean()), 6)
                for name, values in found.items()
            }
            for key, own in said.items()
        }

    def _tried(self, names: Sequence[str], compute: Callable[[], Mapping[str, Floats]]) -> Mapping[str, Floats | None]:
        try:
            return compute()
        except CaptionlabError as error:
            self.missing[", ".join(names)] = str(error)
            return dict.fromkeys(names)

    @cached_property
    def clip_scores(self) -> Callable[..., Mapping[str, Floats]]:
        """Loads CLIP. Raises CaptionlabError when it or the photos are not here."""
        from captionlab.inference.clip_score import ClipScorer  # transformers takes seconds

        assert self.clip
        scorer, photos = ClipScorer(self.clip, self.device), self.photos()
        return lambda pairs, references: scorer.scores(pairs, photos, references)
