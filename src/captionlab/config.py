"""params.yaml as frozen dataclasses. An unknown or missing key, a wrong type or a value out of range is an error.

Knows the parameters and their ranges, not what they do.
"""

import dataclasses
import itertools
import typing
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import Field, StrictBool, StrictInt, StrictStr
from pydantic.dataclasses import dataclass

from captionlab.core.dataset_formats import FORMATS, Format
from captionlab.core.files import read_yaml
from captionlab.core.params import BuildVocabParams as BuildVocabParams  # with "as" they are names of this module too
from captionlab.core.params import CleanCaptionsParams as CleanCaptionsParams
from captionlab.core.params import EncoderParams as EncoderParams
from captionlab.core.params import ExtractFeaturesParams as ExtractFeaturesParams
from captionlab.core.params import GuestParams as GuestParams
from captionlab.core.params import ImageToTextParams as ImageToTextParams
from captionlab.core.records import MAX_BEAM, MAX_LENGTH_PENALTY, MAX_WORDS, Decoding
from captionlab.core.validation import (
    Checked,
    FilePath,
    FolderName,
    Name,
    NoRepeats,
    Number,
    Seed,
    Share,
    Size,
    by_kind,
    validate,
)
from captionlab.errors import CaptionlabError
from captionlab.models.params import (
    AttentionParams,
    BaselineParams,
    MergeParams,
    ModifiedParams,
    StatesParams,
    SystemParams,
)

RENAMED = {  # keys of earlier versions
    "agreeing": "consensus_k",
    "agreement": "consensus_weight",
    "average": "ema_decay",
    "doubly_stochastic": "training.doubly_stochastic",  # was a key of attention
    "input": "embedding",
    "photos_per_step": "batch_size",
}

Entry = typing.TypeVar("Entry")
Beam = Annotated[StrictInt, Field(ge=1, le=MAX_BEAM)]  # 1 is greedy
Words = Annotated[StrictInt, Field(ge=1, le=MAX_WORDS)]
Ngram = Annotated[StrictInt, Field(ge=0, le=1000)]  # words; 0 is none
LengthPenalty = Annotated[Number, Field(ge=0, le=MAX_LENGTH_PENALTY)]  # score = log probability / length ** penalty


@dataclass(frozen=True, kw_only=True)
class ScenesParams(Checked):
    """How many scenes are drawn for each split, and the seed."""

    train: Size
    val: Size
    test: Size
    seed: Seed


@dataclass(frozen=True, kw_only=True)
class DatasetParams(Checked):
    """Which captioned photos to read."""

    name: FolderName  # of the reports folder; with format "auto" the format too
    format: Literal["auto", Format]
    source: FilePath  # a folder
    max_bad_share: Share  # of images or captions that may be unusable before the run stops
    val_share: Share  # of the images, where the format has no split
    test_share: Share
    split_seed: Seed
    scenes: ScenesParams

    @property
    def resolved_format(self) -> str:
        """The format, with "auto" resolved to the dataset's name."""
        if self.format != "auto":
            return self.format
        if self.name in FORMATS:
            return self.name
        known = ", ".join(FORMATS)
        raise CaptionlabError(f"dataset.name {self.name!r} is not a format; set dataset.format to one of {known}")


@dataclass(frozen=True, kw_only=True)
class TrainingParams(Checked):
    """How a system is trained; a configuration's own ``training`` replaces any of the keys."""

    seed: Seed
    epochs: Size  # at most
    patience: Size  # epochs without a better validation loss before it stops
    batch_size: Size  # photos per step; each with all its captions
    optimizer: Literal["adamw", "adam", "rmsprop"]
    learning_rate: Annotated[Number, Field(gt=0, le=10)]
    encoder_learning_rate: Annotated[Number, Field(ge=0, le=10)] = 0.0  # of encoder blocks trained with the system
    crop: Annotated[Number, Field(gt=0, le=1)] = 1.0  # smallest share of the area of a random crop of their maps
    weight_decay: Annotated[Number, Field(ge=0, le=100)]
    schedule: Literal["cosine", "plateau", "constant"]
    plateau_patience: Size  # epochs without a better validation loss before a reduction
    plateau_factor: Annotated[Number, Field(gt=0, lt=1)]  # of the learning rate at each reduction
    label_smoothing: Annotated[Number, Field(ge=0, lt=1)]
    doubly_stochastic: Annotated[Number, Field(ge=0, le=1000)]  # weight of Xu et al. 2015's attention loss; 0: none
    scheduled_sampling: Share  # of the words read that the system samples itself; grows to this over the training
    clip_norm: Annotated[Number, Field(gt=0, le=1_000_000)]
    ema_decay: Annotated[Number, Field(ge=0, lt=1)]  # of the weights' moving average, which is kept; 0: none
    precision: Literal["auto", "fp32", "bf16"]
    cider_photos: Annotated[StrictInt, Field(ge=0, le=1_000_000)] = 0  # of validation, captioned after each epoch
    warm_start: Literal["none", "released"] = "none"  # released: begin with the released captioner
    max_megabytes: Annotated[Number, Field(gt=0, le=100_000)]  # of a system's weights; a larger system is refused


@dataclass(frozen=True, kw_only=True)
class RetrievalParams(Checked):
    """One configuration of retrieval, the baseline without training."""

    encoder: StrictStr
    neighbours: Annotated[tuple[Annotated[StrictInt, Field(ge=1, le=1000)], ...], Field(min_length=1), NoRepeats]
    consensus_k: Size  # most similar candidates that a caption's consensus is the mean of


@dataclass(frozen=True, kw_only=True)
class FinetuningParams(Checked):
    """What all entries of ``finetune`` share; the validation captions' CIDEr-D decides when each stops."""

    beam: Beam  # of the validation captions
    length_penalty: LengthPenalty
    max_words: Words  # of validation captions, and of captions sampled in self-critical training
    top_k: Size  # most probable words of a teacher that distillation learns from

    @property
    def decoding(self) -> Decoding:
        """Of the validation captions."""
        return Decoding(beam=self.beam, length_penalty=self.length_penalty, max_words=self.max_words)


@dataclass(frozen=True, kw_only=True)
class FinetuneParams(Checked):
    """Further training of a trained configuration: self-critical (``samples``), distillation (``teachers``) or neither.

    With neither it continues as it was trained, for example with the last blocks of its encoder no longer frozen.
    """

    system: StrictStr
    config: StrictStr  # the configuration to start from
    cross_entropy: Share = 1.0  # of the loss that is cross-entropy of the reference captions
    samples: Annotated[StrictInt, Field(ge=0, le=100)] = 0  # captions sampled for each photo
    teachers: tuple[StrictStr, ...] = ()  # configurations of the same system, whose mean probabilities are the targets
    training: dict[StrictStr, Any] = dataclasses.field(default_factory=dict)  # replaces keys of the configuration's


@dataclass(frozen=True, kw_only=True)
class EnsembleParams(Checked):
    """Trained systems whose probabilities are averaged, and re-ranking: by log probability plus weighted consensus."""

    members: Annotated[tuple[StrictStr, ...], Field(min_length=1)]  # such as attention.lite2; one may be re-ranked
    neighbours: Annotated[StrictInt, Field(ge=0, le=1000)] = 0  # training photos that re-ranking compares with; 0: none
    consensus_weight: Annotated[Number, Field(ge=0, le=1_000_000)] = 0.0  # of CIDEr-D with their captions


@dataclass(frozen=True, kw_only=True)
class SimilarityParams(Checked):
    """How re-ranking and photo fit compare photos: by what a ridge regression predicts from their features."""

    semantic_dimensions: Size  # of the latent semantic analysis of the captions
    min_captions: Size  # training captions that have a word which photo fit knows
    seed: Seed  # of the latent semantic analysis
    ridge: Annotated[Number, Field(gt=0, le=1e12)]  # the regression's penalty
    semantic_weight: Annotated[Number, Field(ge=0, le=1e6)]  # of the prediction beside the features, in re-ranking


@dataclass(frozen=True, kw_only=True)
class EvaluateParams(Checked):
    """How captions are decoded and scored."""

    beams: Annotated[tuple[Beam, ...], Field(min_length=1), NoRepeats]
    length_penalty: LengthPenalty
    max_words: Words
    min_words: Annotated[tuple[Words, ...], Field(min_length=1), NoRepeats] = (1,)
    no_repeat_ngram: Annotated[tuple[Ngram, ...], Field(min_length=1), NoRepeats] = (0,)
    similarity: SimilarityParams
    clip: FilePath | None = None  # for CLIPScore: a folder or a name in the HF cache
    spice: StrictBool = False
    shuffles: Annotated[StrictInt, Field(ge=1, le=1000)]  # of the photos, for the scores with a wrong photo
    resamples: Annotated[StrictInt, Field(ge=1, le=100_000)]  # of the photos, for intervals and significance
    seed: Seed  # of shuffles and resamples
    recall_references: Annotated[StrictInt, Field(ge=1, le=1000)]  # of a photo, with a colour that recall expects

    @property
    def decodings(self) -> list[Decoding]:
        """Every decoding that is tried; validation chooses one for each configuration."""
        tried = itertools.product(self.beams, self.min_words, self.no_repeat_ngram)
        plain = Decoding(length_penalty=self.length_penalty, max_words=self.max_words)
        return [replace(plain, beam=beam, min_words=least, no_repeat_ngram=size) for beam, least, size in tried]


@dataclass(frozen=True, kw_only=True)
class ReportParams(Checked):
    """What the report shows."""

    gallery: Annotated[StrictInt, Field(ge=1, le=1000)]  # photos


Modified = Annotated[ModifiedParams | MergeParams, by_kind(ModifiedParams, MergeParams)]
Attention = Annotated[AttentionParams | StatesParams, by_kind(AttentionParams, StatesParams)]


@dataclass(frozen=True, kw_only=True)
class Params(Checked):
    """All of params.yaml."""

    device: Literal["auto", "cpu", "cuda", "mps"]
    dataset: DatasetParams
    clean_captions: CleanCaptionsParams
    build_vocab: BuildVocabParams
    extract_features: ExtractFeaturesParams
    training: TrainingParams
    baseline: dict[Name, BaselineParams]
    modified: dict[Name, Modified]
    attention: dict[Name, Attention]
    finetuning: FinetuningParams
    finetune: dict[Name, FinetuneParams]
    ensemble: dict[Name, EnsembleParams]
    retrieval: dict[Name, RetrievalParams]
    guests: dict[Name, GuestParams]
    guest_models: dict[Name, ImageToTextParams]
    evaluate: EvaluateParams
    report: ReportParams

    def systems(self) -> list[tuple[str, str, SystemParams]]:
        """Every (system, configuration name, configuration), in the file's order."""
        return [(system, name, config) for system in SYSTEMS for name, config in getattr(self, system).items()]

    def system(self, system: str, name: str) -> SystemParams:
        """One configuration, or a CaptionlabError that lists those there are."""
        configs = getattr(self, system)
        if name not in configs:
            raise CaptionlabError(f"{system} has no configuration {name!r}; params.yaml has {', '.join(configs)}")
        return typing.cast(SystemParams, configs[name])

    def finetuned(self, name: str) -> FinetuneParams:
        """One entry of ``finetune``, or a CaptionlabError that lists those there are."""
        return entry("finetune", self.finetune, name)

    def configurations(self) -> list[tuple[str, str]]:
        """Every (system, configuration name) that this project decodes: trained, fine-tuned, ensembles."""
        trained = [(system, name) for system, name, _ in self.systems()]
        return [*trained, *(("finetune", name) for name in self.finetune), *(("ensemble", n) for n in self.ensemble)]

    def rows(self) -> list[tuple[str, str]]:
        """Every (system, configuration name) of the comparison."""
        others = [("retrieval", name) for name in self.retrieval] + [
            ("guests", name) for name in (*self.guests, *self.guest_models)
        ]
        return [*self.configurations(), *others]

    def uses_regions(self, system: str, name: str) -> bool:
        """Whether a trained or fine-tuned configuration attends to regions."""
        if system == "finetune":
            return self.uses_regions(self.finetune[name].system, self.finetune[name].config)
        return system in SYSTEMS and self.system(system, name).uses_regions

    def members(self, system: str, name: str) -> tuple[tuple[str, str], ...]:
        """Whose checkpoints make up a row of the comparison: its own, or an ensemble's members'."""
        if system != "ensemble":
            return ((system, name),)
        members = entry("ensemble", self.ensemble, name).members
        return tuple((member.partition(".")[0], member.partition(".")[2]) for member in members)

    def training_of(
        self, config: SystemParams, further: Mapping[str, Any] = MappingProxyType({}), key: str = "training"
    ) -> TrainingParams:
        """The shared training parameters, with the configuration's own and then ``further`` ones in their place.

        ``key`` begins the names in errors.
        """
        merged = {**dataclasses.asdict(self.training), **config.training, **further}
        return validate(TrainingParams, merged, key, RENAMED)


def entry(section: str, entries: Mapping[str, Entry], name: str) -> Entry:
    """One entry of a section, or a CaptionlabError that lists those there are."""
    if name not in entries:
        raise CaptionlabError(f"{section} has no entry {name!r}; params.yaml has {', '.join(entries) or 'none'}")
    return entries[name]


def _is_system(kind: Any) -> bool:
    return get_origin(kind) is dict and all(
        issubclass(params, SystemParams) for params in get_args(get_args(kind)[1]) or get_args(kind)[1:]
    )


# A system is a section of configurations: Params names each once, with the type of its parameters.
_SYSTEM_PARAMS: dict[str, Any] = {
    name: get_args(kind)[1] for name, kind in get_type_hints(Params).items() if _is_system(kind)
}
SYSTEMS = tuple(_SYSTEM_PARAMS)
SECTIONS = (*SYSTEMS, "finetune", "ensemble", "retrieval", "guests")  # those whose configurations are compared


def build_system(system: str, values: dict[str, Any]) -> SystemParams:
    """A configuration from plain values, as a checkpoint stores it; checked as params.yaml is."""
    if system not in _SYSTEM_PARAMS:
        raise CaptionlabError(f"unknown system {system!r}; known: {', '.join(_SYSTEM_PARAMS)}")
    (annotated,) = get_args(get_type_hints(Params, include_extras=True)[system])[1:]
    return typing.cast(SystemParams, validate(annotated, values, system, RENAMED))


def load_params(path: Path) -> Params:
    """Read and check params.yaml.

    Raises CaptionlabError, naming the file and the key, for anything unknown, missing, of the wrong type or out of
    range, and for values that contradict each other.
    """
    raw = read_yaml(path, "run captionlab from the project's folder")
    try:
        params = validate(Params, raw, renamed=RENAMED)
        for name, retrieval in params.retrieval.items():
            _check_encoder(params, f"retrieval.{name}", retrieval.encoder)
        for system, name, config in params.systems():
            check_configuration(params, f"{system}.{name}", config)
        if not params.configurations():
            raise CaptionlabError("it names no configuration of any system; add one, for example under baseline")
        if params.dataset.val_share + params.dataset.test_share >= 1:
            raise CaptionlabError("dataset.val_share and dataset.test_share must add up to less than 1")
        if max(params.evaluate.min_words) > params.evaluate.max_words:
            raise CaptionlabError("evaluate.min_words must be at most evaluate.max_words")
        for name, finetuned in params.finetune.items():
            _check_finetune(params, f"finetune.{name}", finetuned)
        _check_ensembles(params)
        if twice := sorted(params.guests.keys() & params.guest_models.keys()):
            raise CaptionlabError(f"{twice[0]!r} is in both guests and guest_models; rename one")
    except CaptionlabError as error:
        raise CaptionlabError(f"{path}: {error}") from None
    return params


def _check_encoder(params: Params, key: str, encoder: str) -> None:
    encoders = params.extract_features.encoders
    if encoder not in encoders:
        raise CaptionlabError(f"{key}.encoder {encoder!r} is not in extract_features.encoders ({', '.join(encoders)})")


def check_configuration(params: Params, key: str, config: SystemParams) -> None:
    """Check one configuration against the other sections: its encoder, its grid, its training."""
    _check_encoder(params, key, config.encoder)
    if config.uses_regions and params.extract_features.encoders[config.encoder].grid < 1:
        raise CaptionlabError(f"{key} needs a grid; set extract_features.encoders.{config.encoder}.grid to 7 or so")
    _check_training(params, key, config, {})


def _check_training(params: Params, key: str, config: SystemParams, further: Mapping[str, Any]) -> None:
    training = params.training_of(config, further, f"{key}.training")
    if training.scheduled_sampling and isinstance(config, AttentionParams) and not config.teacher_forcing:
        raise CaptionlabError(f"{key}: training.scheduled_sampling needs teacher_forcing: true")


def _check_finetune(params: Params, key: str, finetuned: FinetuneParams) -> None:
    """Check that the configurations exist, that words can be given to them, and that it has one method."""
    if finetuned.system not in SYSTEMS:
        raise CaptionlabError(f"{key}.system must be one of {', '.join(SYSTEMS)}, not {finetuned.system!r}")
    config = params.system(finetuned.system, finetuned.config)
    if isinstance(config, AttentionParams) and not config.teacher_forcing:
        raise CaptionlabError(f"{key} needs {finetuned.system}.{finetuned.config}.teacher_forcing: true")
    if finetuned.teachers and finetuned.samples:
        raise CaptionlabError(f"{key} has both samples, for self-critical training, and teachers, for distillation")
    if not finetuned.teachers and not finetuned.samples and finetuned.cross_entropy < 1:
        raise CaptionlabError(f"{key}.cross_entropy below 1 needs samples, for self-critical training, or teachers")
    for teacher in finetuned.teachers:
        params.system(finetuned.system, teacher)
    if finetuned.samples == 1:
        raise CaptionlabError(f"{key}.samples must be at least 2: each is compared with the others")
    _check_training(params, key, config, finetuned.training)


def _check_ensembles(params: Params) -> None:
    known = [f"{system}.{name}" for system, name in params.configurations() if system != "ensemble"]
    for name, ensemble in params.ensemble.items():
        for member in ensemble.members:
            if member not in known:
                raise CaptionlabError(f"ensemble.{name} has no member {member!r}; choose among {', '.join(known)}")
        if bool(ensemble.neighbours) != bool(ensemble.consensus_weight):
            raise CaptionlabError(f"ensemble.{name}: neighbours and consensus_weight must both be 0 or both above 0")
