"""What training, evaluation and diagnostics leave on disk, as typed records: one reader and one writer for each file.

Knows the files' shapes and places; computes no score. The package's other modules have what belongs to single
photos, to people's judgments, to CLIPScore and SPICE, and to guests.
"""

import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captionlab.core.files import digest_of, write_json, write_text
from captionlab.core.records import (
    CHECKPOINT,
    DATASET,
    EVALUATION,
    MODELS,
    Decoding,
    Given,
    Neighbours,
    Protocol,
    Scores,
    Split,
)
from captionlab.core.typed import read_record, typed
from captionlab.errors import CaptionlabError

Shares = Mapping[str, float | None]  # by score: bleu_4, cider


# The dataset


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What ``download`` found."""

    name: str
    format: str
    digest: str
    images: int
    captions: int
    splits: dict[Split, int]
    split_source: str = ""  # where the splits come from
    set_aside: int  # photos that no split names
    problems: list[dict[str, Any]]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a dataset's folder."""
    write_json(folder / "manifest.json", dataclasses.asdict(manifest))


def read_manifest(root: Path) -> Manifest:
    """The manifest of artifacts/dataset."""
    return read_record(root / DATASET / "manifest.json", Manifest)


# Training


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One row of a training history. Losses are nats per word without smoothing; accuracies are shares of words."""

    epoch: int
    train_loss: float
    val_loss: float
    train_accuracy: float
    val_accuracy: float
    train_perplexity: float
    val_perplexity: float
    learning_rate: float
    train_reward: float | None = None  # mean CIDEr-D of the sampled captions; in self-critical training only
    val_cider: float | None = None  # of validation captions; None in a training without cider_photos

    def rounded(self) -> dict[str, float]:
        """The figures as they are kept and logged, without those that this training does not have."""
        return {key: round(value, 6) for key, value in dataclasses.asdict(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A trained system: what it is, what was set, and which epoch was kept."""

    system: str
    name: str
    encoder: str
    embedding: int
    hidden: int
    layers: int
    parameters: int
    megabytes: float
    epochs: int
    best_epoch: int
    training_key: str
    params: dict[str, Any]  # flat
    weights: dict[str, list[int]]  # shapes


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a training leaves beside its checkpoint."""

    summary: Summary
    history: tuple[Epoch, ...]


def checkpoint_of(root: Path, system: str, name: str) -> Path:
    """Where the checkpoint of a trained system lies."""
    return root / MODELS / system / name / CHECKPOINT


def write_training(folder: Path, training: Training) -> None:
    """Write summary.json and history.csv."""
    out = io.StringIO()
    rows = [epoch.rounded() for epoch in training.history]
    table = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(folder / "history.csv", out.getvalue())
    write_json(folder / "summary.json", dataclasses.asdict(training.summary))


def read_summary(folder: Path) -> Summary:
    """The summary of a trained system's folder."""
    return read_record(folder / "summary.json", Summary)


def read_training(folder: Path) -> Training:
    """Summary and history of a trained system's folder; CaptionlabError names the file that is missing or damaged."""
    summary = read_summary(folder)
    path = folder / "history.csv"
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            rows = [{key: value or None for key, value in row.items()} for row in csv.DictReader(lines)]
    except FileNotFoundError:
        raise CaptionlabError(f"{path} does not exist; run the stage that writes it (dvc repro)") from None
    except (OSError, ValueError, csv.Error) as error:
        raise CaptionlabError(f"cannot read {path} ({error}); train the system again") from error
    history = typed(rows, tuple[Epoch, ...], str(path))
    if summary.best_epoch not in [epoch.epoch for epoch in history]:
        raise CaptionlabError(
            f"{path} lacks epoch {summary.best_epoch}, which summary.json names as the best; train the system again"
        )
    return Training(summary=summary, history=history)


@dataclass(frozen=True, kw_only=True)
class Members:
    """What several trained systems that are put together have in all."""

    encoder: str
    parameters: int
    megabytes: float


def read_members(root: Path, members: Iterable[tuple[str, str]]) -> Members:
    """Encoders, parameters and size of the (system, name) pairs together."""
    summaries = [read_summary(root / MODELS / system / name) for system, name in members]
    return Members(
        encoder=", ".join(sorted({summary.encoder for summary in summaries})),
        parameters=sum(summary.parameters for summary in summaries),
        megabytes=sum(summary.megabytes for summary in summaries),
    )


def recipe(root: Path, system: str, name: str) -> str:
    """A digest of everything that was set but the seed: equal for trainings that differ in their seed alone.

    What a fine-tuning began with, and its teachers, count by their own recipes.
    """
    summary = read_summary(root / MODELS / system / name)
    told = {key: value for key, value in summary.params.items() if key != "training.seed"}
    if system == "finetune":
        base = told["finetune.system"]
        told["finetune.config"] = recipe(root, base, told["finetune.config"])
        told["finetune.teachers"] = sorted(recipe(root, base, teacher) for teacher in told["finetune.teachers"])
    return digest_of([system, told])


# Evaluation


@dataclass(frozen=True, kw_only=True)
class DecodedScores:
    """The scores of one configuration's captions under one decoding."""

    decoding: Decoding | Neighbours | Given
    val: Scores | None  # strict protocol; None for a guest without captions of that split
    test: dict[Protocol, Scores]

    @property
    def val_cider(self) -> float:
        """CIDEr-D on the validation split, 0 where it is unknown."""
        return (self.val.cider if self.val else None) or 0.0


@dataclass(frozen=True, kw_only=True)
class ConfigurationScores:
    """One evaluated configuration. Loss (nats per word) and accuracy are of the test split."""

    system: str
    name: str
    loss: float | None
    accuracy: float | None
    chosen: int  # index of the decoding with the highest CIDEr-D on the validation split
    decodings: tuple[DecodedScores, ...]

    @property
    def key(self) -> str:
        """The configuration as params.yaml and the commands spell it."""
        return f"{self.system}.{self.name}"

    @property
    def best(self) -> DecodedScores:
        """The decoding that validation chose."""
        return self.decodings[self.chosen]

    @property
    def val_cider(self) -> float:
        """CIDEr-D on the validation split, by which configurations are ranked."""
        return self.best.val_cider


def scores_above(own: Mapping[str, float | None], people: Mapping[str, float | None]) -> list[str]:
    """The names of the scores that are above people's; not those that either lacks."""
    pairs = ((score, value, people[score]) for score, value in own.items())
    return [score for score, value, theirs in pairs if value is not None and theirs is not None and value > theirs]


@dataclass(frozen=True, kw_only=True)
class FewerReferences:
    """Scores of the test split against all references of a photo but one: mean over ``ways`` of leaving one out.

    People's caption is the one left out.
    """

    ways: int
    people: Scores
    configurations: dict[str, tuple[Scores, ...]]  # of each decoding

    def above_people(self, key: str, place: int) -> list[str]:
        """The scores in which a configuration is above people in one of its decodings."""
        return scores_above(dataclasses.asdict(self.configurations[key][place]), dataclasses.asdict(self.people))


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All scores, and what they were computed against."""

    dataset: str
    dataset_digest: str
    idf: str
    configurations: tuple[ConfigurationScores, ...]
    fewer_references: FewerReferences | None = None  # None where a test photo has a single reference

    def __getitem__(self, key: str) -> ConfigurationScores:
        """One configuration (``system.name``); one that was not evaluated is a CaptionlabError."""
        found = next((each for each in self.configurations if each.key == key), None)
        if found is None:
            raise CaptionlabError(f"{key} has not been evaluated; run dvc repro, or captionlab evaluate")
        return found

    @property
    def best(self) -> ConfigurationScores:
        """The configuration with the highest CIDEr-D on the validation split."""
        return max(self.configurations, key=lambda each: each.val_cider)


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Write scores.json."""
    write_json(folder / "scores.json", dataclasses.asdict(evaluation))


def read_evaluation(root: Path) -> Evaluation:
    """All scores of artifacts/evaluation."""
    return read_record(root / EVALUATION / "scores.json", Evaluation)


def chosen_decoding(checkpoint: Path) -> Decoding | None:
    """The decoding that evaluation chose for a checkpoint in artifacts/models; None for any other file."""
    path = checkpoint.absolute()
    if len(path.parents) < 5:  # root, artifacts, models, system, name
        return None
    root, (system, name) = path.parents[4], path.parts[-3:-1]
    if path != checkpoint_of(root, system, name) or not (root / EVALUATION / "scores.json").exists():
        return None
    scored = {each.key: each for each in read_evaluation(root).configurations}
    found = scored.get(f"{system}.{name}")
    return found.best.decoding if found and isinstance(found.best.decoding, Decoding) else None


# Diagnostics


@dataclass(frozen=True, kw_only=True)
class LanguageBias:
    """Scores with the right photo, with a wrong one and without one.

    ``image_contribution`` is (right - wrong) / right, the share of the score that depends on the photo.
    """

    right: Shares
    wrong: Shares
    without: Shares
    image_contribution: Shares


@dataclass(frozen=True, kw_only=True)
class WordAgreement:
    """Words of one sort, such as colours, against the references; each counts once per photo.

    ``precision``: of those generated, the share that some reference has. ``recall``: of those that
    ``evaluate.recall_references`` references or more have, the share that was generated.
    """

    said: int
    precision: float | None
    expected: int
    recall: float | None


@dataclass(frozen=True, kw_only=True)
class CaptionStatistics:
    """Shares of the captions that are distinct, repeat a word or pair of words, or are copied from training."""

    distinct: float | None
    repeated: float | None
    copied: float | None
    words: int  # different words
    length: float  # mean, in words
    # Words of all captions to words of the references closest in length, as BLEU counts them; None as released before.
    length_ratio: float | None = None
    colours: WordAgreement
    counts: WordAgreement


@dataclass(frozen=True, kw_only=True)
class ConfigurationDiagnostics:
    """What the scores of one configuration do not show. ``attributes`` are known for drawn scenes only."""

    language_bias: LanguageBias
    caption_statistics: CaptionStatistics
    attributes: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A paired bootstrap: the share of resamples that the first wins, and the two-sided p."""

    wins: float
    p: float


@dataclass(frozen=True, kw_only=True)
class Diagnostics:
    """Everything that ``evaluate`` finds beside the scores, on the test split under each chosen decoding."""

    settings: dict[str, int]
    configurations: dict[str, ConfigurationDiagnostics]
    intervals: dict[str, dict[str, tuple[float, float]]]  # 95 %, by configuration and score
    pairs: dict[str, dict[str, dict[str, Compared]]]  # one, other, score


def write_diagnostics(folder: Path, diagnostics: Diagnostics) -> None:
    """Write diagnostics.json."""
    write_json(folder / "diagnostics.json", dataclasses.asdict(diagnostics))


def read_diagnostics(root: Path) -> Diagnostics:
    """The diagnostics of artifacts/evaluation."""
    return read_record(root / EVALUATION / "diagnostics.json", Diagnostics)
