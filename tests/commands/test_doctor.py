"""captionlab doctor: each problem is reported with advice, and nothing is changed."""

import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any, get_args

import pytest
from ruamel.yaml import YAML

from builders import write_small_manifest
from captionlab import cli
from captionlab.commands import doctor
from captionlab.commands.doctor import Finding, examine
from captionlab.core.dataset_formats import Format
from captionlab.core.files import write_json
from captionlab.core.records import CaptionedImage
from captionlab.core.results.dataset import write_dataset

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with params.yaml and a dataset of two photos."""
    (tmp_path / "params.yaml").write_bytes((REPOSITORY / "params.yaml").read_bytes())
    (tmp_path / "data/scenes").mkdir(parents=True)
    folder = tmp_path / "artifacts/dataset"
    (folder / "images").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg"):
        (folder / "images" / name).write_bytes(b"")
    write_dataset(
        folder,
        [CaptionedImage(image=name, split="train", captions=("a dog", "dog")) for name in ("a.jpg", "b.jpg")],
    )
    write_small_manifest(tmp_path, name="scenes", images=2, captions=4)
    return tmp_path


def change(project: Path, **changes: Any) -> None:
    yaml = YAML()
    plain = yaml.load(project / "params.yaml")
    for key, value in changes.items():
        inner, last = plain, key.split("__")
        for name in last[:-1]:
            inner = inner[name]
        inner[last[-1]] = value
    yaml.dump(plain, project / "params.yaml")


def found(root: Path) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(root)}


def test_a_valid_project_has_no_failures_and_is_not_changed(project: Path) -> None:
    before = sorted(project.rglob("*"))
    findings = found(project)
    assert [finding.name for finding in findings.values() if finding.verdict == "fail"] == []
    assert findings["torch"].found == metadata.version("torch")
    assert findings["dataset"].found == "scenes is complete: 2 of 2 photos, 4 of 4 captions"
    assert findings["efficientnet_lite0"].found.startswith("installed, works offline (package ")
    assert findings["mlflow runs"].found.startswith("none yet")
    assert "trains in " in findings["device"].found
    assert "GB free" in findings["disk"].found
    assert sorted(project.rglob("*")) == before


def test_every_dataset_format_is_listed_here_and_documented(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs/datasets.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|$", page, re.MULTILINE))
    lines = {name: finding.found for name, finding in found(tmp_path).items() if name.startswith("format ")}
    assert lines == {f"format {name}": text for name, text in rows.items()}
    assert set(rows) == set(get_args(Format))


def test_it_works_without_a_project(tmp_path: Path) -> None:
    findings = found(tmp_path)
    assert findings["params.yaml"].verdict == "warn"
    assert findings.keys() >= {"python", "device", "efficientnet_lite2", "java", "disk", "mlflow runs"}
    assert not findings.keys() & {"dataset", "source", "artifacts"}
    assert list(tmp_path.iterdir()) == []


def test_a_missing_photo_is_named(project: Path) -> None:
    (project / "artifacts/dataset/images/b.jpg").unlink()
    finding = found(project)["dataset"]
    assert (finding.verdict, finding.found) == (
        "fail", "incomplete: 1 of 2 photos, 4 of 4 captions, b.jpg is missing"
    )  # fmt: skip
    assert "dvc checkout" in finding.advice
    write_json(project / "artifacts/dataset/manifest.json", {"name": "scenes"})
    assert found(project)["dataset"].found.startswith("incomplete: ")


def test_another_dataset_and_a_missing_source_are_reported(project: Path) -> None:
    change(project, dataset__name="mine", dataset__format="folder", dataset__source="data/mine")
    findings = found(project)
    assert findings["dataset"].found == "artifacts/dataset has scenes, params.yaml names mine"
    assert (findings["source"].verdict, findings["source"].found) == ("fail", "data/mine is not a folder")
    (project / "data.dvc").write_text("outs:\n- path: data/mine\n")
    assert found(project)["source"].found == "data/mine does not exist yet; dvc repro makes it"


def test_missing_weights_are_reported(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    from captionlab.encoders.torchvision_models import weights_of

    change(
        project, extract_features__encoders__resnet18={"grid": 0}, extract_features__encoders__timm_nosuch={"grid": 0}
    )
    findings = found(project)
    assert findings["resnet18"].verdict == "warn"
    assert findings["resnet18"].found.startswith("not downloaded yet (from https://download.pytorch.org/")
    assert (findings["resnet50"].verdict, findings["resnet50"].found[:23]) == ("ok", "not installed, not used")
    assert findings["timm_nosuch"].verdict == "fail"
    assert "timm knows no model 'nosuch'" in findings["timm_nosuch"].found
    _, cached = weights_of("resnet18")
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert found(project)["resnet18"].verdict == "ok"


def test_old_and_missing_packages_are_reported(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["torch<2", "torchvision", "dvc", "mlflow", "no-such-package>=1", "extra-only; extra == 'dev'"]
    monkeypatch.setattr(metadata, "requires", lambda name: asked)
    findings = found(project)
    assert (findings["torch"].verdict, findings["torch"].advice) == ("warn", "pip install 'torch<2'")
    assert (findings["no-such-package"].verdict, findings["no-such-package"].found[:13]) == ("fail", "not installed")
    assert "extra-only" not in findings


def test_missing_commands_are_reported(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    findings = found(project)
    assert {name for name in findings if findings[name].verdict == "fail"} == {"git", "dvc", "captionlab"}
    assert "source .venv/bin/activate" in findings["captionlab"].advice
    assert (findings["java"].verdict, findings["java"].found) == ("warn", "none on the PATH")


def test_git_without_a_user_name_is_reported(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"):
        monkeypatch.delenv(name, raising=False)
    for scope in ("GLOBAL", "SYSTEM"):
        monkeypatch.setenv(f"GIT_CONFIG_{scope}", os.devnull)
    finding = found(project)["git"]
    assert (finding.verdict, finding.advice) == (
        "warn", 'git config --global user.name "..."; git config --global user.email "..."'
    )  # fmt: skip
    assert "does not know your name and email, which dvc exp run needs" in finding.found
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    subprocess.run(["git", "config", "user.name", "Ada"], cwd=project, check=True)
    assert found(project)["git"].advice == 'git config --global user.email "..."'
    monkeypatch.setenv("GIT_AUTHOR_EMAIL", "ada@example.org")
    assert "git" in found(project)
    monkeypatch.setenv("GIT_COMMITTER_EMAIL", "ada@example.org")
    assert "git" not in found(project)


def test_an_invalid_params_file_and_a_missing_device_are_reported(project: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        change(project, device="cuda")
        assert found(project)["device"].verdict == "fail"
    change(project, device="warp")
    finding = found(project)["params.yaml"]
    assert finding.verdict == "fail"
    assert "device must be one of 'auto', 'cpu', 'cuda' or 'mps', not 'warp'" in finding.found


def test_a_guests_file_that_is_missing_is_reported(project: Path) -> None:
    change(project, guests={"other": {"captions": "data/other.json"}})
    finding = found(project)["params.yaml"]
    assert (finding.verdict, finding.found) == (
        "fail", "guests.other.captions data/other.json is not a file; put the captions there"
    )  # fmt: skip


def test_a_full_disk_is_reported(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for constant, verdict in (("TIGHT_GIGABYTES", "warn"), ("FULL_GIGABYTES", "fail")):
        monkeypatch.setattr(doctor, constant, 1e9)
        assert found(project)["disk"].verdict == verdict


@pytest.fixture
def server() -> Iterator[str]:
    """A server that answers health checks like a tracking server."""

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Health) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_tracking_server_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{server}")
    assert doctor._runs(tmp_path) == Finding(name="mlflow runs", verdict="ok", found=f"http://{server} answers")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@{server}/")
    assert doctor._runs(tmp_path) == Finding(name="mlflow runs", verdict="ok", found=f"http://{server}/ answers")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    finding = doctor._runs(tmp_path)
    assert finding.verdict == "warn"
    assert finding.found.startswith("http://127.0.0.1:9 does not answer (")
    assert "captionlab track publishes later" in finding.advice
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@db/runs")
    assert doctor._runs(tmp_path).found == "at postgresql://db/runs; not checked"


def test_an_address_that_is_no_database_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite+bad")
    said = "MLFLOW_TRACKING_URI, sqlite+bad, is not the address of a database; write sqlite:///FILE, or unset it"
    assert doctor._runs(tmp_path) == Finding(name="mlflow runs", verdict="warn", found=said)


def test_the_database_is_never_created(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE runs (lifecycle_stage TEXT)")
        database.executemany("INSERT INTO runs VALUES (?)", [("active",), ("active",), ("deleted",)])
    assert doctor._runs(tmp_path).found == "2 in mlflow.db; captionlab ui shows them"
    path.write_bytes(b"not a database at all")
    finding = doctor._runs(tmp_path)
    assert finding.verdict == "warn"
    assert "cannot be read" in finding.found
    assert path.read_bytes() == b"not a database at all"


def test_a_folder_without_git_is_reported(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    finding = doctor._artifacts(tmp_path)
    assert finding.verdict == "fail"
    assert finding.found.startswith("dvc status failed (")


def test_a_damaged_file_in_dvcs_cache_is_named(project: Path) -> None:
    """DVC checks only the file mode, which disk errors do not change."""
    for command in (["init", "-q", "--no-scm"], ["add", "-q", "artifacts/dataset"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=project, check=True)
    assert doctor._cache(project).found == "4 files, 0.0 GB, all intact"  # a folder, three others
    for kept in sorted((project / ".dvc/cache/files").rglob("*")):
        if kept.is_file() and (whole := kept.read_bytes()):
            kept.chmod(0o644)
            kept.write_bytes(whole[:5] + bytes([whole[5] ^ 1]) + whole[6:])
            kept.chmod(0o444)
            finding = doctor._cache(project)
            assert (finding.verdict, finding.found) == (
                "fail", f"1 of 4 files are damaged: {kept}"
            )  # fmt: skip
            kept.chmod(0o644)
            kept.write_bytes(whole)


def test_output_is_aligned_and_the_exit_code_is_1_after_a_failure(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*options: str) -> tuple[object, str]:
        monkeypatch.chdir(project)
        monkeypatch.setattr(sys, "argv", ["captionlab", "doctor", *options])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code, capsys.readouterr().out

    code, out = run()
    assert code == 0
    lines = out.splitlines()
    width = max(len(finding.name) for finding in examine(project))
    assert all(line[:4].strip() in ("ok", "warn") and line[4:6] == "  " for line in lines)
    assert all(line[6 + width : 8 + width] == "  " and line[8 + width] != " " for line in lines)
    assert "\x1b" not in out
    (project / "artifacts/dataset/images/a.jpg").unlink()
    code, out = run("--json")
    assert code == 1
    (failed,) = (entry for entry in json.loads(out) if entry["verdict"] == "fail")
    assert (failed["name"], set(failed)) == ("dataset", {"name", "verdict", "found", "advice"})
