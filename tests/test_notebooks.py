"""The notebooks, executed in a small copy of this project with an experiment."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from ruamel.yaml import YAML

from repository import ROOT, Repository

QUICKSTART = ROOT / "notebooks/quickstart.ipynb"
LARGEST = 300_000  # bytes


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, path_without_java: str) -> Path:
    """A project with two runs of baseline.lite0 in MLflow, one of them an experiment."""
    repository = Repository(tmp_path_factory.mktemp("notebooks"))
    path, yaml = repository.folder / "params.yaml", YAML()
    params = yaml.load(path)
    params["baseline"] = {"lite0": params["baseline"]["tiny"]}
    params |= {"modified": {}, "attention": {}}
    yaml.dump(params, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", path_without_java)
        repository.run("dvc", "repro")
        repository.commit("results")
        repository.run("dvc", "exp", "run", "-S", "baseline.lite0.hidden=24")
    return repository.folder


def output(notebook: Any, source: str) -> str:
    """The text output of the cell that contains ``source``."""
    (cell,) = (cell for cell in notebook.cells if cell.cell_type == "code" and source in cell.source)
    return "".join(found.get("text") or found.data["text/plain"] for found in cell.outputs)


@pytest.mark.slow
def test_the_quickstart_runs(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(project / "src"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    notebook = nbformat.reads((project / "notebooks/quickstart.ipynb").read_text(encoding="utf-8"), 4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": project / "notebooks"}}).execute()
    assert "a group of people are standing in front of a building" in output(notebook, "captioner.caption(photo)")
    assert "retrieval" in output(notebook, "comparison.csv")
    compared = dict(line.split(maxsplit=1) for line in output(notebook, "mlflow.search_runs").splitlines()[1:])
    assert compared["params.hidden"].split() == ["16", "24"]
    assert {"metrics.bleu_4", "metrics.cider"} <= compared.keys()
    kinds = [kind for cell in notebook.cells for found in cell.get("outputs", []) for kind in found.get("data", {})]
    assert (kinds.count("image/jpeg"), kinds.count("image/png")) == (2, 1)


def test_the_quickstart_is_small_and_has_its_outputs() -> None:
    text = QUICKSTART.read_text(encoding="utf-8")
    assert len(text) < LARGEST
    cells = [cell for cell in nbformat.reads(text, 4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell.outputs for cell in cells[1:])
    assert not any(found.output_type == "error" for cell in cells for found in cell.outputs)
