"""The command line: one command per stage, errors in one line, fast help."""

import os
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from ruamel.yaml import YAML

import captionlab
from captionlab import cli
from captionlab.core.command_line import internal_error
from captionlab.core.files import read_json, write_jsonl
from captionlab.errors import CaptionlabError

REPOSITORY = Path(__file__).parents[2]
STAGES = {path.stem for path in (REPOSITORY / "src/captionlab/stages").glob("*.py")} - {"__init__"}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> "Run":
    monkeypatch.chdir(tmp_path)
    return Run(monkeypatch, capsys)


class Run:
    """Runs the command line in this process; returns exit code, stdout and stderr."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: str | Path) -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "argv", ["captionlab", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = self._capsys.readouterr()
        code = caught.value.code
        assert isinstance(code, int)
        return code, out, err


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """The outputs of the stage download without the photos."""
    (tmp_path / "params.yaml").write_bytes((REPOSITORY / "params.yaml").read_bytes())
    rows = [{"image": f"{n}.jpg", "split": "train", "captions": ["A dog runs .", "The dog !"]} for n in range(4)]
    write_jsonl(tmp_path / "artifacts/dataset/dataset.jsonl", rows)
    return tmp_path


def test_stage_command_module_and_params_share_one_name() -> None:
    commands = set(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]
    assert commands >= STAGES
    stages = YAML(typ="safe").load((REPOSITORY / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert set(stages) == STAGES
    for name, stage in stages.items():
        one = stage.get("do", stage)
        assert one["cmd"] == (f"captionlab {name} ${{key}}" if "do" in stage else f"captionlab {name}")


def test_help_lists_every_stage_and_imports_no_heavy_library() -> None:
    script = (
        "import sys; from captionlab.cli import main; sys.argv = ['captionlab', '--help']\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'mlflow', 'pandas', 'numpy', 'matplotlib', 'sklearn', 'nltk', 'dvc', 'pydantic'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    listed = set(re.findall(r"^ {2}(\w+) ", done.stdout, re.MULTILINE))
    assert listed >= STAGES | {"score", "caption", "release", "ui", "doctor"}
    assert "..." not in done.stdout.split("Commands:")[1]  # summaries that are too long are truncated


def test_the_installed_command_reports_an_error_in_one_line(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("captionlab")
    done = subprocess.run([command, "download"], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr == f"captionlab: {tmp_path}/params.yaml does not exist; run captionlab from the project's folder\n"
    )


def test_traceback_shows_where_an_error_occurred(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["captionlab", "--traceback", "download"])
    with pytest.raises(CaptionlabError, match="does not exist"):
        cli.main()


def test_every_command_shows_an_example(run: Run) -> None:
    for name, command in typer.main.get_command(cli.app).commands.items():  # type: ignore[attr-defined]
        code, out, _ = run(name, "--help")
        assert code == 0
        examples = re.findall(r"Example: captionlab (\S+)((?: \S+)*)", " ".join(out.split("Options:")[0].split()))
        assert [example[0] for example in examples] == [name], f"{name} must have one example: {out}"
        known = {option for parameter in command.params for option in parameter.opts}
        used = {word for word in examples[0][1].split() if word.startswith("--")}
        assert used <= known, f"the example of {name} has unknown options: {used - known}"
    assert "Example: captionlab doctor" in run("--help")[1]


def test_the_version(run: Run) -> None:
    assert run("--version") == (0, f"captionlab {captionlab.__version__}\n", "")


def test_the_shell_completes_commands_and_options(tmp_path: Path) -> None:
    command = str(Path(sys.executable).with_name("captionlab"))

    def ask(arguments: list[str], **environment: str) -> str:
        done = subprocess.run(
            [command, *arguments], env={**os.environ, **environment}, capture_output=True, text=True, timeout=30
        )
        assert done.stderr == ""
        return done.stdout

    script = ask([], _CAPTIONLAB_COMPLETE="source_bash")
    assert "complete -o default -F _captionlab_completion captionlab" in script
    bash = shutil.which("bash")
    if bash:  # the real script in the real shell
        asked = "COMP_WORDS=(captionlab train_); COMP_CWORD=1; _captionlab_completion captionlab; echo ${COMPREPLY[@]}"
        path = f"{Path(command).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [bash, "-c", f"{script}\n{asked}"], env={**os.environ, "PATH": path}, capture_output=True, text=True
        )
        assert {"train_baseline", "train_modified", "train_attention"} <= set(done.stdout.split()), done.stderr
        assert "download" not in done.stdout


def test_an_internal_error_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(root: Path, *, cache: bool) -> None:
        raise KeyError("two\nlines")

    monkeypatch.setattr("captionlab.commands.doctor.examine", broken)
    code, out, err = run("doctor", "--json")
    assert (code, out) == (1, "")
    assert err.startswith("captionlab: unexpected error (KeyError: ")
    assert err.endswith("); `captionlab --traceback doctor --json` shows where it occurred\n")
    assert err.count("\n") == 1
    monkeypatch.setattr(sys, "argv", ["captionlab", "caption", "my photo.jpg"])
    assert internal_error(KeyError("x")).endswith(
        "`captionlab --traceback caption 'my photo.jpg'` shows where it occurred"
    )
    monkeypatch.setattr(sys, "argv", ["captionlab", "--traceback", "doctor"])
    with pytest.raises(KeyError):
        cli.main()


@pytest.mark.parametrize("allocate", [
    lambda: torch.empty(10**15), lambda: np.empty(10**15), lambda: bytearray(10**15),
], ids=["torch", "numpy", "python"])  # fmt: skip
def test_too_little_memory_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, allocate: Callable[[], object]
) -> None:
    monkeypatch.setattr("captionlab.commands.doctor.examine", lambda root, *, cache: allocate())
    expected = "captionlab: not enough memory; use a smaller batch_size or system, or stop other programs\n"
    assert run("doctor") == (1, "", expected)


def test_too_little_memory_on_a_gpu_says_how_to_do_without_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def allocate(root: Path, *, cache: Path) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.50 GiB. GPU 0 has 8 GiB in total")

    monkeypatch.setattr("captionlab.commands.doctor.examine", allocate)
    status, out, error = run("doctor")
    assert (status, out, error.count("\n")) == (1, "", 1)
    assert error.startswith("captionlab: not enough memory on the GPU; ")
    assert "CUDA_VISIBLE_DEVICES= before the command" in error


def few_scenes(folder: Path) -> None:
    yaml = YAML()
    params = yaml.load(REPOSITORY / "params.yaml")
    params["dataset"]["scenes"] |= {"train": 30, "val": 2, "test": 2}
    params["dataset"]["source"] = str(REPOSITORY / "assets/scenes")
    yaml.dump(params, folder / "params.yaml")


def test_progress_bars_are_hidden_in_pipes(tmp_path: Path) -> None:
    few_scenes(tmp_path)
    command = [str(Path(sys.executable).with_name("captionlab")), "download"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stderr == ""
    assert not re.search(r"[\r\x1b\x08]", done.stdout)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo terminal")
def test_progress_bars_are_shown_in_a_terminal(tmp_path: Path) -> None:
    import pty
    import termios

    few_scenes(tmp_path)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))  # a new terminal has no width for a progress bar
    command = [str(Path(sys.executable).with_name("captionlab")), "download"]
    done = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=theirs, text=True, timeout=60)
    shown = os.read(ours, 1 << 16).decode() if select.select([ours], [], [], 0)[0] else ""
    os.close(theirs)
    os.close(ours)
    assert "checking photos:   0%" in shown
    assert "%" not in done.stdout


@pytest.mark.parametrize(
    "arguments", [["no_such"], ["extract_features"], ["download", "--no-such"], ["ui", "--port", "0"]]
)
def test_an_invalid_command_has_exit_code_2(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("Usage: ")


def test_a_stage_writes_its_time_and_memory(run: Run, dataset: Path) -> None:
    code, out, err = run("clean_captions")
    assert (code, err) == (0, "")
    assert out.startswith("clean_captions: 8 captions")
    timing = read_json(dataset / "artifacts/timings/clean_captions.json")
    assert sorted(timing) == ["item", "peak_megabytes", "seconds", "stage"]
    assert (timing["stage"], timing["item"]) == ("clean_captions", "")
    assert 10 < timing["peak_megabytes"] < 50_000


@pytest.mark.parametrize("arguments", [
    ["clean_captions", "artifacts/dataset/dataset.jsonl does not exist"],
    ["build_vocab", "artifacts/captions/captions.jsonl does not exist"],
    ["extract_features", "vgg99", "'vgg99' is not in extract_features.encoders"],
    ["train_baseline", "lite9", "baseline has no configuration 'lite9'; params.yaml has lite0, lite1_narrow"],
    ["train_attention", "lite2", "artifacts/vocab/vocab.json does not exist"],
    ["evaluate", "artifacts/dataset/manifest.json does not exist"],
    ["report", "does not exist"],
    ["track", "does not exist"],
])  # fmt: skip
def test_a_stage_without_input_is_one_error_line(run: Run, dataset: Path, arguments: list[str]) -> None:
    (dataset / "artifacts/dataset/dataset.jsonl").unlink()
    *command, message = arguments
    code, out, err = run(*command)
    assert (code, out) == (1, "")
    assert err.startswith("captionlab: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (dataset / "artifacts/timings").exists()


def test_caption_and_release_name_missing_files(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, out, err = run("caption", "empty")
    assert (code, out) == (1, "")
    assert err.startswith("captionlab: no photos in empty; formats are .")
    code, out, err = run("caption", "photo.jpg", "--model", "missing.safetensors")
    assert (code, out) == (1, "")
    assert err.startswith("captionlab: missing.safetensors")
    assert err.count("\n") == 1
    assert run("caption", "photo.jpg", "--beam", "0")[0] == 2
    code, out, err = run("release", "--yes")
    assert (code, out) == (1, "")
    assert err.startswith(f"captionlab: {tmp_path}/artifacts/evaluation/scores.json does not exist")


@pytest.mark.parametrize(("arguments", "named"), [
    (["caption", ""], "the argument after caption is empty"),
    (["caption", "a.jpg", ""], "the argument after a.jpg is empty"),
    (["caption", "a.jpg", "--model", ""], "the argument after --model is empty"),
    (["caption", "a.jpg", "--out="], "--out is empty"),
    (["caption", "a.jpg", "--attention", ""], "the argument after --attention is empty"),
    (["score", "--references", "", "--hypotheses", "h.json"], "the argument after --references is empty"),
    (["score", "--references", "r.json", "--hypotheses="], "--hypotheses is empty"),
    (["release", ""], "the argument after release is empty"),
    (["preset", ""], "the argument after preset is empty"),
    (["demo", "--host", ""], "the argument after --host is empty"),
])  # fmt: skip
def test_an_empty_argument_is_refused(run: Run, tmp_path: Path, arguments: list[str], named: str) -> None:
    """Path("") is the current folder, but an unset variable must not select all photos in it."""
    (tmp_path / "a.jpg").write_bytes(b"")
    assert run(*arguments) == (1, "", f"captionlab: {named}; is a variable unset?\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


COMMAND = Path(sys.executable).with_name("captionlab")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["clean_captions"]])
def test_a_full_disk_at_standard_output_is_one_error_line(dataset: Path, arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([COMMAND, *arguments], cwd=dataset, stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 1
    assert done.stderr == b"captionlab: cannot write the output: No space left on device; free space\n"


def test_a_closed_standard_output_is_refused_before_any_work(dataset: Path) -> None:
    """Any other closed stream does not matter: its place is not taken by the next file that is opened."""
    command = f'"{COMMAND}" clean_captions'
    done = subprocess.run(f"{command} >&-", shell=True, cwd=dataset, capture_output=True, text=True, timeout=60)
    message = "captionlab: standard output is closed; to discard the output send it to /dev/null\n"
    assert (done.returncode, done.stderr) == (1, message)
    assert not (dataset / "artifacts/captions").exists()
    done = subprocess.run(f"{command} <&- 2>&-", shell=True, cwd=dataset, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.count("clean_captions: ")) == (0, 1)


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["clean_captions"]])
def test_a_reader_that_stops_early_gets_no_error_message(dataset: Path, arguments: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as closed:
        done = subprocess.run([COMMAND, *arguments], cwd=dataset, stdout=closed, stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_stage_runs_the_source_of_its_own_project(tmp_path: Path) -> None:
    """As in the clone of a queued experiment, while another copy of captionlab is installed."""
    root = Path(__file__).parents[2]
    shutil.copytree(root / "src", tmp_path / "src", ignore=shutil.ignore_patterns("released", "__pycache__"))
    for name in ("params.yaml", "data.dvc"):
        shutil.copy(root / name, tmp_path)
    stage = tmp_path / "src/captionlab/stages/check_params.py"
    stage.write_text(stage.read_text("utf-8").replace("params.yaml is valid; ", "own source; "), "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "captionlab.cli", "check_params"], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(root / "src")}, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("check_params: own source; ")
