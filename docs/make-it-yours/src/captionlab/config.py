"""params.yaml as frozen dataclasses. An unknown or missing key, a wrong type or a value out of range is an error."""

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from captionlab.core.files import read_yaml
from captionlab.core.validation import Checked, FolderName, Number, Seed, Size, validate
from captionlab.errors import CaptionlabError

Part = Annotated[Number, Field(gt=0, lt=0.5)]


@dataclass(frozen=True, kw_only=True)
class DatasetParams(Checked):
    """How the digits are split."""

    name: FolderName  # of the folder in reports/ and of MLflow's experiment
    val_share: Part
    test_share: Part
    split_seed: Seed


@dataclass(frozen=True, kw_only=True)
class TrainParams(Checked):
    """Of the stochastic gradient descent."""

    seed: Seed
    epochs: Size
    learning_rate: Annotated[Number, Field(gt=0)]
    weight_decay: Annotated[Number, Field(ge=0)]


@dataclass(frozen=True, kw_only=True)
class Params(Checked):
    """The whole file."""

    dataset: DatasetParams
    train: TrainParams


def load_params(path: Path) -> Params:
    """Read and check params.yaml; a CaptionlabError names the file and the key of the first fault."""
    raw = read_yaml(path, "run captionlab from the project's folder")
    try:
        return validate(Params, raw)
    except CaptionlabError as error:
        raise CaptionlabError(f"{path}: {error}") from None
