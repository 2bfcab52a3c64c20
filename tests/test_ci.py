"""Configuration of other services: workflows, pre-commit's hooks and containers, checked without running them."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
# The properties in use, as https://containers.dev/implementors/json_reference defines them; no package has the schema.
TEXT = {"type": "string"}
CONTAINER = {
    "type": "object",
    "required": ["image"],
    "additionalProperties": False,
    "properties": {
        "name": TEXT,
        "image": TEXT,
        "features": {"type": "object", "additionalProperties": {"type": ["object", "string", "boolean"]}},
        "postCreateCommand": {"type": ["string", "array", "object"]},
        "forwardPorts": {"type": "array", "items": {"type": ["integer", "string"], "maximum": 65535}},
        "customizations": {
            "type": "object",
            "properties": {"vscode": {"properties": {"extensions": {"type": "array", "items": TEXT}}}},
        },
    },
}
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def steps(workflow: Path) -> list[dict[str, Any]]:
    jobs = YAML(typ="safe").load(workflow)["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


def check(*command: str | Path) -> None:
    done = subprocess.run([sys.executable, "-m", *map(str, command)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_workflows_follow_githubs_schema() -> None:
    assert [path.name for path in WORKFLOWS] == ["report.yml", "tests.yml"]
    check("check_jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS)
    check("check_jsonschema", "--builtin-schema", "custom.github-workflows-require-timeout", *WORKFLOWS)


def test_hooks_follow_pre_commits_schema() -> None:
    check("pre_commit", "validate-config", ".pre-commit-config.yaml")


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_existing_commands(workflow: Path) -> None:
    targets = set(re.findall(r"^(\S+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    scripts = [step["run"] for step in steps(workflow) if "run" in step]
    assert scripts
    for script in [*scripts, (ROOT / ".ci/run").read_text(encoding="utf-8")]:
        subprocess.run(["bash", "-n", "-c", script], check=True)
        assert set(re.findall(r"^make (\S+)", script, re.MULTILINE)) <= targets
        for path in re.findall(r"\.ci/\w+|reports/[\w/.]+", script):
            assert (ROOT / path).exists(), path


def test_a_forks_pull_request_gets_the_comparison_too() -> None:
    """It gets no comment: its token may not write one."""
    of_report = steps(ROOT / ".github/workflows/report.yml")
    (artifact,) = (step["with"]["path"].split() for step in of_report if "upload-artifact" in step.get("uses", ""))
    assert "comment.md" in artifact
    (compare,) = (step["run"] for step in of_report if step.get("name") == "Compare")
    assert 'cat comment.md >> "$GITHUB_STEP_SUMMARY"' in compare


def test_make_reports_results_that_differ_from_git(tmp_path: Path) -> None:
    def run(*command: str) -> str:
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "reports").mkdir()
    for name in ("dvc.lock", "reports/metrics.json"):
        (tmp_path / name).write_text("committed\n", encoding="utf-8")
    run("git", "init", "-q")
    run("git", "add", ".")
    assert run("make", "-s", "differences") == ""
    (tmp_path / "reports/metrics.json").write_text("of another processor\n", encoding="utf-8")
    assert "git restore dvc.lock reports" in run("make", "-s", "differences")


@pytest.mark.parametrize(("cores", "jobs", "threads"), [(8, 2, 4), (8, 3, 2), (2, 2, 1), (2, 3, 1)])
def test_make_queue_divides_the_cores(tmp_path: Path, cores: int, jobs: int, threads: int) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    tools = tmp_path / ".venv/bin"
    tools.mkdir(parents=True)
    for name, script in (("getconf", f"echo {cores}"), ("dvc", 'echo "$OMP_NUM_THREADS threads: dvc $@"')):
        (tools / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (tools / name).chmod(0o755)
    command = ["make", "-s", "-o", ".venv/.installed", "queue", f"JOBS={jobs}"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert said == f"{threads} threads: dvc queue start -j {jobs}\n"


def test_the_image_copies_existing_files() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = {name for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE) for name in line.split()[:-1]}
    context = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert context[0] == "*"
    assert copied == {name[1:] for name in context if name.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)


def test_the_development_container_follows_its_schema_and_uses_the_makefile(tmp_path: Path) -> None:
    path = ROOT / ".devcontainer/devcontainer.json"
    (tmp_path / "schema.json").write_text(json.dumps(CONTAINER), encoding="utf-8")
    check("check_jsonschema", "--schemafile", tmp_path / "schema.json", path)
    container = json.loads(path.read_text(encoding="utf-8"))
    target = container["postCreateCommand"].removeprefix("make ")
    assert f"\n{target}:" in (ROOT / "Makefile").read_text(encoding="utf-8")
    python = container["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert python.endswith("/.venv/bin/python")
