"""The captioner as an MLflow model: photos in base64 in, captions out.

MLflow copies this file beside the checkpoints into every model it logs, and runs the copy to save, load and serve it;
nothing is pickled. The captioner itself is that of the captionlab installed where the model runs. Knows MLflow's
model contract and the captioner; nothing of runs or of the registry.
"""

import base64
import dataclasses
import sys
from pathlib import Path
from typing import Any, cast

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature, set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array, Object, Property

from captionlab import CaptionlabError, Decoding
from captionlab.core.records import MAX_BEAM, MAX_LENGTH_PENALTY, MAX_WORDS

MAX_PHOTOS = 64  # of one request
OUTPUTS = Schema(
    [
        ColSpec(DataType.long, "image"),
        ColSpec(DataType.string, "caption"),
        ColSpec(DataType.double, "log_prob"),
        ColSpec(
            Array(Object([Property("caption", DataType.string), Property("log_prob", DataType.double)])),
            "alternatives",
        ),
    ]
)


def signature(decoding: Decoding) -> ModelSignature:
    """Inputs, outputs and parameters of the model; the default decoding is the one selected on validation."""
    return ModelSignature(
        # A string column passes base64 from JSON and bytes from Python alike; MLflow would decode a binary column
        # itself, in some of its request formats only, and skip what is not base64 without an error.
        inputs=Schema([ColSpec(DataType.string, "image")]),
        outputs=OUTPUTS,
        params=ParamSchema(
            [
                ParamSpec("beam", DataType.long, decoding.beam),
                ParamSpec("top", DataType.long, 5),
                ParamSpec("length_penalty", DataType.double, decoding.length_penalty),
                ParamSpec("max_words", DataType.long, decoding.max_words),
            ]
        ),
    )


class CaptionModel(PythonModel):
    """A system or an ensemble behind MLflow's ``predict``."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the checkpoint and its encoder, so that no request waits for them."""
        from captionlab import Captioner, EnsembleCaptioner  # not above: saving a model needs no torch

        path = Path(context.artifacts["checkpoint"])  # a file, or the folder of an ensemble's
        self.captioner = EnsembleCaptioner.load(sorted(path.iterdir())) if path.is_dir() else Captioner.load(path)
        self.captioner.warm_up()
        name, dataset, decoding = self.captioner.name, self.captioner.dataset, self.captioner.decoding.label
        print(f"captionlab: {name}, trained on {dataset}, {decoding}", file=sys.stderr)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """One row per photo: its number in the request, its caption, and the others of the ``top`` best captions.

        An invalid request raises an MlflowException, which the server answers with 400.
        """
        assert params is not None  # MLflow fills in the defaults
        beam, top, length_penalty, max_words = (params[p] for p in ("beam", "top", "length_penalty", "max_words"))
        in_range = 1 <= beam <= MAX_BEAM and 0 <= length_penalty <= MAX_LENGTH_PENALTY and 1 <= max_words <= MAX_WORDS
        if not (in_range and top >= 1):
            raise MlflowException.invalid_parameter_value(
                f"beam must be 1 to {MAX_BEAM}, top 1 or more, length_penalty 0 to {MAX_LENGTH_PENALTY}, "
                f"max_words 1 to {MAX_WORDS}"
            )
        decoding = {"beam": beam, "length_penalty": length_penalty, "max_words": max_words}
        try:
            dataclasses.replace(self.captioner.decoding, **decoding)
        except ValueError as error:  # more words than max_words were chosen on validation as the fewest
            raise MlflowException.invalid_parameter_value(str(error)) from error
        if len(model_input) > MAX_PHOTOS:
            raise MlflowException.invalid_parameter_value(f"{len(model_input)} photos; a request takes {MAX_PHOTOS}")
        photos = [_bytes(number, value) for number, value in enumerate(model_input["image"])]
        rows = []
        for number, said in enumerate(self.captioner.stream(photos, **decoding)):
            if isinstance(said, CaptionlabError):
                raise MlflowException.invalid_parameter_value(f"photo {number}: {said}")
            best, *others = (
                {"caption": sentence.caption, "log_prob": round(sentence.log_prob, 4)} for sentence in said[:top]
            )
            rows.append({"image": number, **best, "alternatives": others})
        return pd.DataFrame(rows, columns=[column.name for column in OUTPUTS])


def _bytes(number: int, value: object) -> bytes:
    """One photo's bytes, from bytes or base64."""
    try:
        return value if isinstance(value, bytes) else base64.b64decode(cast(str, value), validate=True)
    except (ValueError, TypeError) as error:
        raise MlflowException.invalid_parameter_value(f"photo {number} is not base64 ({error})") from error


set_model(CaptionModel())
