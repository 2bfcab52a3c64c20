"""params.yaml as frozen dataclasses. Strict: an unknown, missing or mistyped key is an error that names it.

Knows the shape of the parameters, not what they do.
"""

import dataclasses
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from captionlab.core.files import read_yaml
from captionlab.core.records import Decoding
from captionlab.core.strict import build
from captionlab.errors import CaptionlabError
from captionlab.models.params import (
    AttentionParams,
    BaselineParams,
    MergeParams,
    ModifiedParams,
    StatesParams,
    SystemParams,
)


@dataclass(frozen=True, kw_only=True)
class ScenesParams:
    """How many drawn scenes each split gets, and the seed that draws them."""

    train: int
    val: int
    test: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class DatasetParams:
    """Which captioned photos to read."""

    name: str  # names the reports folder; with format "auto" it is the format too
    format: Literal["auto", "scenes", "flickr8k", "parquet", "folder"]
    source: str  # a folder
    max_bad_share: float  # of images or captions that may be unusable before the run stops
    val_share: float  # of the images, where the format brings no split
    test_share: float
    split_seed: int
    scenes: ScenesParams

    @property
    def resolved_format(self) -> str:
        """The format, with "auto" resolved to the dataset's name."""
        if self.format != "auto":
            return self.format
        if self.name in ("scenes", "flickr8k", "parquet", "folder"):
            return self.name
        raise CaptionlabError(
            f"dataset.name {self.name!r} is not a format; set dataset.format to scenes, flickr8k, parquet or folder"
        )


@dataclass(frozen=True, kw_only=True)
class CleanCaptionsParams:
    """How a raw caption becomes words."""

    cleaning: Literal["standard", "characters", "report_a", "report_b"]


@dataclass(frozen=True, kw_only=True)
class BuildVocabParams:
    """Which words the systems can say."""

    min_count: int  # in the training captions


@dataclass(frozen=True, kw_only=True)
class EncoderParams:
    """What to keep of one encoder's output."""

    grid: int  # regions a side, average-pooled from the last feature map; 0 keeps no grid
    mirrored: bool = False  # the photos' mirror images too: a training sees one or the other, by chance


@dataclass(frozen=True, kw_only=True)
class ExtractFeaturesParams:
    """Which encoders look at the photos."""

    encoders: dict[str, EncoderParams]


@dataclass(frozen=True, kw_only=True)
class TrainingParams:
    """How a system is trained; every key may be overridden in a configuration's own ``training``."""

    seed: int
    epochs: int  # at most
    patience: int  # epochs without a better validation loss before it stops
    batch_size: int  # photos a step; each brings all its captions
    optimizer: Literal["adamw", "adam", "rmsprop"]
    learning_rate: float
    weight_decay: float
    schedule: Literal["cosine", "plateau", "constant"]
    label_smoothing: float
    doubly_stochastic: float  # weight of the term that asks every region to be attended to; 0 for none
    scheduled_sampling: float  # the share of the words read, growing up to it, that are the system's own
    clip_norm: float
    ema_decay: float  # of an exponential moving average of the weights, which is validated and kept; 0 for none
    precision: Literal["auto", "fp32", "bf16"]
    max_megabytes: float  # a larger system is refused


@dataclass(frozen=True, kw_only=True)
class RetrievalParams:
    """One configuration of the retrieval row, which learns nothing."""

    encoder: str
    neighbours: tuple[int, ...]  # training photos that lend their captions; chosen on validation, as the beam is
    consensus_k: int  # a caption's consensus is the mean similarity to so many of the other candidates


@dataclass(frozen=True, kw_only=True)
class FinetuneParams:
    """A trained configuration goes on: with CIDEr-D as its reward (``samples``), or with ``teachers``."""

    system: str
    config: str  # its configuration that goes on
    cross_entropy: float  # share of the loss, 0 to 1, that stays cross-entropy of the true captions
    samples: int = 0  # captions drawn of a photo, to be rewarded
    teachers: tuple[str, ...] = ()  # configurations of the same system, whose mean probabilities it learns to give
    training: dict[str, Any] = dataclasses.field(default_factory=dict)  # laid over the configuration's own


@dataclass(frozen=True, kw_only=True)
class EnsembleParams:
    """Trained systems that choose each word together; or one or more whose captions are ranked again."""

    members: tuple[str, ...]  # such as attention.lite2 or finetune.lite2; one alone may be re-ranked
    neighbours: int = 0  # training photos whose captions re-rank what the beam found; 0 for none
    consensus_weight: float = 0.0  # of a candidate's CIDEr-D against their captions, beside its log probability


@dataclass(frozen=True, kw_only=True)
class EvaluateParams:
    """How captions are decoded and scored."""

    beams: tuple[int, ...]  # 1 is greedy
    length_penalty: float  # score = log probability / length ** length_penalty
    max_words: int
    shuffles: int  # of the photos, for the scores with a wrong one
    resamples: int  # of the photos, for intervals and significance
    seed: int  # of both

    @property
    def decodings(self) -> list[Decoding]:
        """Every decoding that is tried; validation chooses one for each configuration."""
        return [
            Decoding(beam=beam, length_penalty=self.length_penalty, max_words=self.max_words) for beam in self.beams
        ]


@dataclass(frozen=True, kw_only=True)
class ReportParams:
    """What the report shows."""

    gallery: int  # photos


@dataclass(frozen=True, kw_only=True)
class Params:
    """All of params.yaml."""

    device: Literal["auto", "cpu", "cuda", "mps"]
    dataset: DatasetParams
    clean_captions: CleanCaptionsParams
    build_vocab: BuildVocabParams
    extract_features: ExtractFeaturesParams
    training: TrainingParams
    baseline: dict[str, BaselineParams]
    modified: dict[str, ModifiedParams | MergeParams]
    attention: dict[str, AttentionParams | StatesParams]
    finetune: dict[str, FinetuneParams]
    ensemble: dict[str, EnsembleParams]
    retrieval: dict[str, RetrievalParams]
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
        if name not in self.finetune:
            raise CaptionlabError(
                f"finetune has no entry {name!r}; params.yaml has {', '.join(self.finetune) or 'none'}"
            )
        return self.finetune[name]

    def configurations(self) -> list[tuple[str, str]]:
        """Every (system, configuration name) of the comparison but retrieval: trained, fine-tuned, ensembles."""
        trained = [(system, name) for system, name, _ in self.systems()]
        return [*trained, *(("finetune", name) for name in self.finetune), *(("ensemble", n) for n in self.ensemble)]

    def uses_regions(self, system: str, name: str) -> bool:
        """Whether a trained or fine-tuned configuration attends to regions."""
        if system == "finetune":
            return self.uses_regions(self.finetune[name].system, self.finetune[name].config)
        return system in SYSTEMS and self.system(system, name).uses_regions

    def members(self, system: str, name: str) -> tuple[tuple[str, str], ...]:
        """Whose checkpoints make up a row of the comparison: its own, or an ensemble's members'."""
        if system != "ensemble":
            return ((system, name),)
        return tuple((member.partition(".")[0], member.partition(".")[2]) for member in self.ensemble[name].members)

    def training_of(self, config: SystemParams, further: Mapping[str, Any] = MappingProxyType({})) -> TrainingParams:
        """The shared training parameters, the configuration's own laid over them, and ``further`` ones over both."""
        merged = {**dataclasses.asdict(self.training), **config.training, **further}
        return typing.cast(TrainingParams, build(TrainingParams, merged, "training"))


def _is_system(kind: Any) -> bool:
    return get_origin(kind) is dict and all(
        issubclass(params, SystemParams) for params in get_args(get_args(kind)[1]) or get_args(kind)[1:]
    )


# A system is a section of configurations: Params names each once, with the type of its parameters.
_SYSTEM_PARAMS: dict[str, Any] = {
    name: get_args(kind)[1] for name, kind in get_type_hints(Params).items() if _is_system(kind)
}
SYSTEMS = tuple(_SYSTEM_PARAMS)
SECTIONS = (*SYSTEMS, "finetune", "ensemble", "retrieval")  # those whose configurations are compared


def system_params(system: str) -> tuple[type[SystemParams], ...]:
    """The kinds of parameters that a system's configurations may have."""
    return get_args(_SYSTEM_PARAMS[system]) or (_SYSTEM_PARAMS[system],)


def build_system(system: str, values: dict[str, Any]) -> SystemParams:
    """A configuration from plain values, as a checkpoint stores it; as strict as params.yaml."""
    if system not in _SYSTEM_PARAMS:
        raise CaptionlabError(f"unknown system {system!r}; known are {', '.join(_SYSTEM_PARAMS)}")
    return typing.cast(SystemParams, build(_SYSTEM_PARAMS[system], values, system))


def load_params(path: Path) -> Params:
    """Read and check params.yaml.

    Raises CaptionlabError naming the key and the file for anything unknown, missing or of the wrong type.
    """
    raw = read_yaml(path, "run captionlab from the project's folder")
    try:
        params = typing.cast(Params, build(Params, raw, ""))
        _check_shared(params)
        for system, name, config in params.systems():
            check_configuration(params, f"{system}.{name}", config)
        for name, finetuned in params.finetune.items():
            _check_finetune(params, f"finetune.{name}", finetuned)
        _check_ensembles(params)
    except CaptionlabError as error:
        raise CaptionlabError(f"{path}: {error}") from None
    return params


def _check_shared(params: Params) -> None:
    """Refuse what the types cannot: names that are no folder's, and a decoding of nothing."""
    names = [params.dataset.name, *params.extract_features.encoders, *(name for _, name in params.configurations())]
    for name in [*names, *params.retrieval]:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise CaptionlabError(f"the name {name!r} would be a folder; use letters, digits, '_', '-' and '.'")
    if not params.evaluate.beams or min(params.evaluate.beams) < 1:
        raise CaptionlabError("evaluate.beams must name at least one beam, each at least 1")
    if params.evaluate.max_words < 1:
        raise CaptionlabError("evaluate.max_words must be at least 1")
    for field in ("shuffles", "resamples"):
        if getattr(params.evaluate, field) < 1:
            raise CaptionlabError(f"evaluate.{field} must be at least 1")
    for name, retrieval in params.retrieval.items():
        _check_encoder(params, f"retrieval.{name}", retrieval.encoder)
        if not retrieval.neighbours or min(*retrieval.neighbours, retrieval.consensus_k) < 1:
            raise CaptionlabError(f"retrieval.{name} must name at least one number of neighbours; all at least 1")


def _check_encoder(params: Params, key: str, encoder: str) -> None:
    encoders = params.extract_features.encoders
    if encoder not in encoders:
        raise CaptionlabError(f"{key}.encoder {encoder!r} is not in extract_features.encoders ({', '.join(encoders)})")


def check_configuration(params: Params, key: str, config: SystemParams) -> None:
    """Refuse what the types cannot: an encoder without features, a size below one."""
    _check_encoder(params, key, config.encoder)
    if config.uses_regions and params.extract_features.encoders[config.encoder].grid < 1:
        raise CaptionlabError(f"{key} needs a grid; set extract_features.encoders.{config.encoder}.grid to 7, say")
    for field in ("embedding", "hidden", "layers"):
        if getattr(config, field) < 1:
            raise CaptionlabError(f"{key}.{field} must be at least 1")
    for field in ("dropout", "image_dropout"):
        if not 0 <= getattr(config, field, 0.0) < 1:
            raise CaptionlabError(f"{key}.{field} must be from 0 to below 1")
    _check_training(params, key, config, {})


def _check_training(params: Params, key: str, config: SystemParams, further: Mapping[str, Any]) -> None:
    try:
        training = params.training_of(config, further)
    except CaptionlabError as error:
        raise CaptionlabError(f"{key}: {error}") from None
    for field in ("epochs", "patience", "batch_size"):
        if getattr(training, field) < 1:
            raise CaptionlabError(f"{key}: training.{field} must be at least 1")
    if not 0 <= training.ema_decay < 1:
        raise CaptionlabError(f"{key}: training.ema_decay must be from 0 to below 1")
    if not 0 <= training.scheduled_sampling <= 1:
        raise CaptionlabError(f"{key}: training.scheduled_sampling must be from 0 to 1")
    if training.scheduled_sampling and isinstance(config, AttentionParams) and not config.teacher_forcing:
        raise CaptionlabError(f"{key}: training.scheduled_sampling wants teacher_forcing to be true")


def _check_finetune(params: Params, key: str, finetuned: FinetuneParams) -> None:
    """Refuse a configuration that is not there or does not read the words it is given, and shares that are none."""
    if finetuned.system not in SYSTEMS:
        raise CaptionlabError(f"{key}.system is {finetuned.system!r}; choose one of {', '.join(SYSTEMS)}")
    config = params.system(finetuned.system, finetuned.config)
    if isinstance(config, AttentionParams) and not config.teacher_forcing:
        raise CaptionlabError(f"{key} wants {finetuned.system}.{finetuned.config}.teacher_forcing to be true")
    if bool(finetuned.teachers) == bool(finetuned.samples):
        raise CaptionlabError(f"{key} wants samples, to be rewarded, or teachers: one of the two")
    for teacher in finetuned.teachers:
        params.system(finetuned.system, teacher)
    if not finetuned.teachers and finetuned.samples < 2:
        raise CaptionlabError(f"{key}.samples must be at least 2: each is compared with the others")
    if not 0 <= finetuned.cross_entropy <= 1:
        raise CaptionlabError(f"{key}.cross_entropy must be from 0 to 1")
    _check_training(params, key, config, finetuned.training)


def _check_ensembles(params: Params) -> None:
    known = [f"{system}.{name}" for system, name in params.configurations() if system != "ensemble"]
    for name, ensemble in params.ensemble.items():
        for member in ensemble.members:
            if member not in known:
                raise CaptionlabError(f"ensemble.{name} has no member {member!r}; choose among {', '.join(known)}")
        if not ensemble.members:
            raise CaptionlabError(f"ensemble.{name} has no members")
        if (
            ensemble.neighbours < 0
            or ensemble.consensus_weight < 0
            or bool(ensemble.neighbours) != bool(ensemble.consensus_weight)
        ):
            raise CaptionlabError(f"ensemble.{name}: neighbours and consensus_weight are both 0, or both above it")
