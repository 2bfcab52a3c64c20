"""The registered model on an NVIDIA GPU: loaded in one thread and asked in another, as MLflow's server does."""

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest

from captionlab.core.results import checkpoint_of
from captionlab.demo.examples import example_photo

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(find_spec("mlflow") is None, reason="MLflow, which serves the model, is not installed"),
]


def test_the_model_describes_the_photos_it_knows(demo_root: Path) -> None:
    import pandas as pd
    from mlflow.pyfunc.model import PythonModelContext

    from captionlab.serving.model import CaptionModel
    from demo_project import KNOWN

    photos = pd.DataFrame({"image": [example_photo(example.name) for example in KNOWN]})
    context = PythonModelContext({"checkpoint": str(checkpoint_of(demo_root, "attention", "tiny"))}, {})
    model = CaptionModel()
    model.load_context(context)
    params = {"beam": 3, "top": 1, "length_penalty": 0.7, "max_words": 20}
    with ThreadPoolExecutor(1) as thread:
        answers = thread.submit(model.predict, context, photos, params).result()
    assert answers["caption"].to_list() == [example.label.lower() for example in KNOWN]
