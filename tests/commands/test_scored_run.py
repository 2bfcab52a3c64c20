"""The name of a run that captionlab score adds to MLflow; tests/commands/test_score.py has the rest."""

from pathlib import Path

import pytest

from captionlab.commands.scored_run import add_to_mlflow
from captionlab.errors import CaptionlabError
from captionlab.metrics.scorer import Scorer
from tracked import REPOSITORY


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\x1b[2J", "\udcff"])
def test_a_name_that_cannot_be_shown_is_one_error_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "params.yaml").write_bytes((REPOSITORY / "params.yaml").read_bytes())
    file = tmp_path / "file"
    file.touch()
    scores = Scorer({"a": ["a dog"], "b": ["a cat"]}).score({"a": "a dog", "b": "a cat"})
    with pytest.raises(CaptionlabError, match=r"cannot name a run in MLflow; --mlflow-run takes one line of") as caught:
        add_to_mlflow(tmp_path, name, scores, file, file)
    assert str(caught.value).isprintable()
    assert not (tmp_path / "mlflow.db").exists()
