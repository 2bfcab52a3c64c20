"""Any row of the last evaluated table as a captioner of photos: ensembles, re-ranked ones and retrieval too.

Knows the project's folder: params.yaml, the trained systems, the evaluation that chose each row's decoding.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from sys import intern
from typing import Any

import numpy as np

from captionlab.config import EnsembleParams, Params, RetrievalParams, SimilarityParams, entry, load_params
from captionlab.core.devices import choose_device
from captionlab.core.files import digest_of, sha256_of
from captionlab.core.records import CAPTIONS, FEATURES, Decoding, Given, Neighbours
from captionlab.core.results import ConfigurationScores, checkpoint_of, read_evaluation
from captionlab.core.results.dataset import iter_cleaned
from captionlab.data.photos import Photo
from captionlab.data.store import open_store
from captionlab.errors import CaptionlabError
from captionlab.evaluation.reranking import ranked_by_neighbours
from captionlab.evaluation.retrieval import Retrieved, Retriever
from captionlab.inference.captioner import Device, EnsembleCaptioner, Sentence
from captionlab.inference.photos import CaptionsPhotos, PhotoReader, stream_photos
from captionlab.metrics.cider import Words
from captionlab.models.base import Features

Ranked = Sequence[Sentence | Retrieved]
"""A photo's captions, best first."""


@dataclass(frozen=True, kw_only=True)
class RowCaptioner(CaptionsPhotos[Ranked]):
    """A row of the comparison, ready to caption photos as it was evaluated."""

    key: str  # system.configuration
    version: str  # which trainings it comes from
    dataset: str
    reranked: bool  # the captions are in another order than that of their scores
    readers: Sequence[PhotoReader]  # one for each encoder
    decoding: Decoding | Neighbours
    describe: Callable[[Features, Any], Sequence[Ranked]]

    @property
    def label(self) -> str:
        """Its name, and which trainings it comes from."""
        return f"{self.key}@{self.version}"

    @classmethod
    def load(cls, root: Path, key: str, device: Device = "auto") -> "RowCaptioner":
        """A row of the table in ``root``, with the decoding that validation chose for it.

        Raises CaptionlabError where there is no such row, or a part of it is missing.
        """
        evaluation = read_evaluation(root)
        row = evaluation[key]
        decoding = row.best.decoding
        if isinstance(decoding, Given):
            raise CaptionlabError(f"{key} is a guest and cannot caption photos; choose another row")
        params = load_params(root / "params.yaml")
        if isinstance(decoding, Neighbours):
            return _retrieval(params, root, evaluation.dataset, row, decoding, device)
        members = [checkpoint_of(root, *member) for member in params.members(row.system, row.name)]
        captioner = EnsembleCaptioner.load(members, device, decoding)
        describe: Callable[[Features, Decoding], Sequence[Ranked]] = captioner.describe
        ensemble = params.ensemble.get(row.name) if row.system == "ensemble" else None
        reranked = ensemble is not None and ensemble.neighbours > 0
        if ensemble and reranked:
            _check_captions(root, key)
            encoder = captioner.members[0].identity.encoder
            similar = training_retriever(root, encoder, by_meaning=params.evaluate.similarity)
            describe = partial(_reranked, captioner, ranked_by_neighbours(similar, ensemble))
        version = captioner.label.rpartition("@")[2]
        if ensemble and reranked:
            version = _version(root, version, ensemble, params.evaluate.similarity)
        return cls(
            key=key, version=version, dataset=evaluation.dataset, reranked=reranked, readers=captioner.readers,
            decoding=decoding, describe=describe,
        )  # fmt: skip

    def decoding_with(self, **changes: Any) -> Decoding | Neighbours:
        """The row's decoding with other fields; CaptionlabError for a row of retrieval, which has none of them."""
        if changes and isinstance(self.decoding, Neighbours):
            raise CaptionlabError(f"{self.key} copies captions and has no {', '.join(changes)}; leave it out")
        return dataclasses.replace(self.decoding, **changes)

    def stream(self, photos: Sequence[Photo], **changes: Any) -> Iterator[Ranked | CaptionlabError]:
        decoding = self.decoding_with(**changes)
        return stream_photos(self.readers, photos, lambda features: self.describe(features, decoding))


def _version(root: Path, weights: str, *config: EnsembleParams | RetrievalParams | SimilarityParams) -> str:
    """What tells a row that compares with the training captions from others of its name."""
    return digest_of([weights, *map(dataclasses.asdict, config), sha256_of(root / CAPTIONS)])[:8]


def _check_captions(root: Path, key: str) -> None:
    if not (root / CAPTIONS).exists():
        raise CaptionlabError(
            f"{key} compares with the captions of similar training photos, which are not here ({CAPTIONS}); run dvc "
            "repro with the dataset, or choose another row"
        )


def _reranked(
    captioner: EnsembleCaptioner, rerank: Callable[[Any, Any], list[list[Sentence]]], features: Features,
    decoding: Decoding,
) -> list[list[Sentence]]:  # fmt: skip
    return rerank(features.pooled_PD.cpu().numpy(), captioner.describe(features, decoding))


def _retrieval(
    params: Params, root: Path, dataset: str, row: ConfigurationScores, decoding: Neighbours, device: Device
) -> RowCaptioner:
    config = entry("retrieval", params.retrieval, row.name)
    _check_captions(root, row.key)
    retriever = training_retriever(root, config.encoder, config.consensus_k)
    grid = params.extract_features.encoders[config.encoder].grid
    weights = open_store(root / FEATURES / config.encoder).weights
    reader = PhotoReader(config.encoder, grid, choose_device(device), weights)

    def describe(features: Features, chosen: Neighbours) -> list[list[Retrieved]]:
        found = retriever.captions(features.pooled_PD.cpu().numpy(), chosen.neighbours)
        return [[Retrieved(caption=" ".join(words))] for words in found]

    return RowCaptioner(
        key=row.key, version=_version(root, weights, config), dataset=dataset, reranked=False, readers=[reader],
        decoding=decoding, describe=describe,
    )  # fmt: skip


def training_retriever(
    root: Path, encoder: str, consensus_k: int = 1, *, by_meaning: SimilarityParams | None = None
) -> Retriever:
    """Finds training photos like a photo, and what people wrote of them, by the features of one encoder."""
    store = open_store(root / FEATURES / encoder)
    images, own = training_captions(root)
    return Retriever(np.asarray(store.pooled[store.rows(images)]), own, consensus_k, by_meaning=by_meaning)


def training_captions(root: Path) -> tuple[list[str], list[list[Words]]]:
    """The training photos in order, and the words of each one's captions; equal words are one object."""
    known: dict[str, list[Words]] = {}
    for caption in iter_cleaned(root):
        if caption.split == "train" and caption.words:
            known.setdefault(caption.image, []).append(tuple(map(intern, caption.words)))
    images = sorted(known)
    return images, [known[image] for image in images]
