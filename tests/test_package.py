"""The effects of importing the package, and the wheel in a separate environment."""

import ast
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builders import draw_photos

REPOSITORY = Path(__file__).parents[1]

SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def openmp(script: str, monkeypatch: pytest.MonkeyPatch, **settings: str) -> str:
    """The settings that OpenMP reports when it starts."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    for name, value in {"OMP_DISPLAY_ENV": "VERBOSE", **settings}.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    if "OMP_WAIT_POLICY" not in done.stderr:
        pytest.skip("this torch has no OpenMP that reports its settings")
    return done.stderr


@pytest.mark.parametrize("script", ["from captionlab import Captioner", "from captionlab import cli; import torch"])
def test_openmp_spins_briefly(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    report = openmp(script, monkeypatch)
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in report
    assert "GOMP_SPINCOUNT = '1000'" in report or "KMP_BLOCKTIME='0" in report  # GNU's or LLVM's OpenMP


def test_user_settings_take_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    script = "from captionlab import Captioner"
    report = openmp(script, monkeypatch, OMP_WAIT_POLICY="ACTIVE")
    assert "OMP_WAIT_POLICY = 'ACTIVE'" in report
    assert "GOMP_SPINCOUNT = '1000'" not in report
    report = openmp(script, monkeypatch, GOMP_SPINCOUNT="1234", KMP_BLOCKTIME="1234")
    assert "GOMP_SPINCOUNT = '1234'" in report or "KMP_BLOCKTIME='1234" in report


def test_every_imported_library_is_a_dependency() -> None:
    imported = set()
    for path in (REPOSITORY / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).split(".")[0])
    with_mlflow = {"alembic", "google", "sqlalchemy"}  # and used for its errors only
    with_others = {"anyio", "markupsafe"}  # Starlette's, Jinja's
    imported -= sys.stdlib_module_names | {"captionlab"} | with_mlflow | with_others
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for extra, lines in project["optional-dependencies"].items() if extra != "dev" for line in lines]
    declared = {canonicalize_name(Requirement(line).name) for line in project["dependencies"] + extras}
    packages = packages_distributions()
    assert {name for name in imported if not declared & {canonicalize_name(p) for p in packages[name]}} == set()


def call(*command: str | Path, folder: Path) -> str:
    done = subprocess.run([*map(str, command)], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_captions_and_exports_in_an_empty_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uses the dependencies of the tests' environment, without its editable captionlab."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", REPOSITORY, folder=tmp_path)
    wheel, archive = sorted((tmp_path / "dist").iterdir(), key=lambda path: path.suffix != ".whl")
    said = call(sys.executable, "-m", "twine", "check", "--strict", wheel, archive, folder=tmp_path)
    assert said.count("PASSED") == 2
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = tmp_path / "venv/bin/python"
    here = call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=tmp_path).strip()
    Path(here, "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    call(
        sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--ignore-installed",
        wheel, folder=tmp_path,
    )  # fmt: skip
    origin = call(python, "-c", "import captionlab; print(captionlab.__file__)", folder=tmp_path)
    assert origin.startswith(here)
    (photo,) = draw_photos(tmp_path, 1)
    command = tmp_path / "venv/bin/captionlab"
    caption = call(command, "caption", photo, folder=tmp_path)
    assert len(caption.split()) > 2
    call(command, "export", "out", folder=tmp_path)
    assert call(python, "out/caption.py", photo, folder=tmp_path) == caption
    assert (tmp_path / "out/index.html").exists()
