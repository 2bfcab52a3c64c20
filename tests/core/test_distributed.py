"""Several processes under torchrun with gloo on one machine."""

import csv
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from builders import digests, draw_photos, project, write_params, write_tree
from captionlab import Captioner
from captionlab.config import load_params
from captionlab.core import distributed
from captionlab.core.cores import local_processes
from captionlab.core.files import read_json, read_jsonl
from captionlab.stages.extract_features import extract_features
from captionlab.tracking.store import tracking_uri
from captionlab.training.fit import train_system
from torchrun import torchrun

if TYPE_CHECKING:
    from conftest import Run, World

REPOSITORY = Path(__file__).parents[2]

# Rank 1 is killed once, in the middle of epoch 3.
FRAGILE = """
import os, signal
from torch import nn
from captionlab import cli
clip, steps = nn.utils.clip_grad_norm_, 0
def fragile(*given):
    global steps
    steps += 1
    with open("steps.txt", "a") as file:
        print(os.environ["TORCHELASTIC_RESTART_COUNT"], os.environ["RANK"], file=file)
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and steps == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return clip(*given)
nn.utils.clip_grad_norm_ = fragile
cli.main()
"""


@pytest.fixture(scope="module", autouse=True)
def database(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        folder = tmp_path_factory.mktemp("mlflow")
        shutil.copy(empty_database, folder)
        patch.setenv("DVC_ROOT", str(folder))  # where it lies
        yield


@pytest.fixture
def root(tmp_path: Path, world: "World") -> Path:
    """A project ready for training: six photos in steps of five, so that one rank has none in the last step."""
    write_tree(tmp_path, world)
    plain = {"encoder": "tiny", "embedding": 8, "hidden": 8, "layers": 1, "dropout": 0.0}
    looking = {"attention": 6, "memory": 5, "teacher_forcing": True, "tied": False}
    return write_params(
        tmp_path, {"tiny": 2},
        {"epochs": 4, "batch_size": 5, "learning_rate": 0.02, "ema_decay": 0.9, "doubly_stochastic": 0.7},
        baseline={"tiny": plain, "forgetful": {**plain, "dropout": 0.5}}, attention={"tiny": {**plain, **looking}},
    )  # fmt: skip


def history(root: Path, system: str, name: str) -> dict[str, np.ndarray[Any, Any]]:
    with (root / f"artifacts/models/{system}/{name}/history.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {key: np.array([float(row[key]) for row in rows]) for key in rows[0]}


@pytest.mark.slow
@pytest.mark.parametrize("system", ["baseline", "attention"])
def test_two_processes_train_like_one(root: Path, system: str) -> None:
    """Without dropout, which differs between processes; the only difference is the order of sums."""
    train_system(load_params(root / "params.yaml"), root, system, "tiny")
    expected = history(root, system, "tiny")
    shutil.rmtree(root / "artifacts/models")
    done = torchrun(root, "-m", "captionlab.cli", f"train_{system}", "tiny")
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert [line.split(":")[0] for line in said[:4]] == [f"{system}.tiny epoch {n}/4" for n in range(1, 5)]  # once
    assert len(said) == 5
    for key, column in history(root, system, "tiny").items():
        np.testing.assert_allclose(column, expected[key], rtol=1e-4, atol=2e-6, err_msg=key)
    assert expected["train_loss"][-1] < expected["train_loss"][0] - 0.05
    assert read_json(root / f"artifacts/timings/train_{system}.tiny.json")["item"] == "tiny"
    assert not any((root / ".resume").rglob("*.pt"))
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri(root))
    (experiment,) = client.search_experiments(filter_string="name = 'captionlab/tiny'")
    runs = [run for run in client.search_runs([experiment.experiment_id]) if run.info.run_name == f"{system}.tiny"]
    assert [run.info.status for run in runs] == ["FINISHED"]  # continues the output of one process


@pytest.mark.slow
def test_a_killed_process_does_not_change_the_result(root: Path) -> None:
    """With dropout, and to the same bytes as an uninterrupted run of two processes."""
    (root / "fragile.py").write_text(FRAGILE)
    out = root / "artifacts/models/baseline/forgetful"
    done = torchrun(root, "--max-restarts=1", "fragile.py", "train_baseline", "forgetful")
    assert done.returncode == 0, done.stderr
    steps = (root / "steps.txt").read_text().splitlines()
    assert steps.count("0 1") == 5
    assert steps.count("1 0") == steps.count("1 1") == 2 * 2  # only epochs 3 and 4
    found = digests(out)
    shutil.rmtree(out)
    assert torchrun(root, "-m", "captionlab.cli", "train_baseline", "forgetful").returncode == 0
    assert found == digests(out)


# Extraction


# Rank 1 is killed once at its last photos, after rank 0 has finished and its own first photos are stored.
DYING = """
import os, signal, time
from pathlib import Path
from captionlab import cli
from captionlab.data import store
from captionlab.encoders import extraction, engines
from captionlab.core.files import read_json
extraction.BLOCK = 4
read = extraction.read_photo
folder = Path(".resume/features/efficientnet_lite0")
parts = {folder / "part1of2/progress.json": 12, folder / "part2of2/progress.json": 4}
def watched(path, **how):
    with open("read.txt", "a") as file:
        file.write(path.name + "\\n")
    if path.name >= "016.jpg" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        while not all(part.exists() and read_json(part)["done"] == done for part, done in parts.items()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    return read(path, **how)
extraction.read_photo = watched
cli.main()
"""


@pytest.mark.slow
def test_two_processes_extract_the_same_bytes_even_if_one_is_killed(tmp_path: Path) -> None:
    params = project(tmp_path, 21, efficientnet_lite0=3)
    extract_features(params, tmp_path, "efficientnet_lite0")
    out = tmp_path / "artifacts/features/efficientnet_lite0"
    expected = digests(out)
    shutil.rmtree(out)
    baseline = {"encoder": "efficientnet_lite0", "embedding": 8, "hidden": 8, "layers": 1, "dropout": 0.0}
    write_params(tmp_path, {"efficientnet_lite0": 3}, {}, baseline={"tiny": baseline})
    (tmp_path / "dying.py").write_text(DYING)
    done = torchrun(tmp_path, "--max-restarts=1", "dying.py", "extract_features", "efficientnet_lite0")
    assert done.returncode == 0, done.stderr
    assert digests(out) == expected
    assert done.stdout.startswith("efficientnet_lite0: 21 photos, pooled 1280, grid 9x1280; ")
    assert done.stdout.count("\n") == 1
    read = (tmp_path / "read.txt").read_text().split()
    assert [name for name in sorted(read) if name < "016.jpg"] == [f"{number:03d}.jpg" for number in range(16)]
    assert set(read) == {f"{number:03d}.jpg" for number in range(21)}


@pytest.mark.parametrize("command", ["download", "doctor", "preset"])
def test_single_process_commands_refuse_torchrun(
    tmp_path: Path, run: "Run", monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # torchrun sets this for its processes
    assert run(command) == (
        1, "", "captionlab: torchrun is for extract_features, train_*, finetune and caption; run this command without "
        "it\n",
    )  # fmt: skip


# Captions


def captions(path: Path) -> list[tuple[str, str]]:
    return [(row["image"], row["caption"]) for row in read_jsonl(path)]


@pytest.mark.slow
def test_two_processes_caption_a_folder_and_resume(tmp_path: Path, released: Path) -> None:
    names = draw_photos(tmp_path / "photos", 7)
    photos = [f"photos/{name}" for name in names]
    command = ["-m", "captionlab.cli", "caption", "photos", "--model", str(released), "--out", "all.jsonl"]
    done = torchrun(tmp_path, *command)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    expected = captions(tmp_path / "all.jsonl")
    assert [image for image, _ in expected] == photos
    said = [sentences[0].caption for sentences in Captioner.load(released).caption([tmp_path / p for p in photos])]
    assert [caption for _, caption in expected] == said

    lines = (tmp_path / "all.jsonl").read_bytes().splitlines(keepends=True)
    kept = json.dumps({**json.loads(lines[5]), "caption": "kept"}) + "\n"
    (tmp_path / "all.jsonl").write_bytes(lines[3] + kept.encode())
    (tmp_path / "all.jsonl.rank3").write_bytes(lines[1] + lines[0][:-4])  # of a killed process
    (tmp_path / "photos/003x.jpg").write_bytes(b"no photo")
    done = torchrun(tmp_path, *command)
    assert done.returncode != 0
    assert done.stderr.count("cannot read the photo photos/003x.jpg") == 1
    assert captions(tmp_path / "all.jsonl") == [*expected[:5], (photos[5], "kept"), expected[6]]
    assert [path.name for path in tmp_path.glob("all.jsonl*")] == ["all.jsonl"]


# Without torchrun


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_each_photo_of_a_step_belongs_to_one_rank(world: "World", count: int) -> None:
    data = world.split("train")
    dealt = zip(*(data.batches(4, 1, rank, count) for rank in range(count)), strict=True)
    for whole, shares in zip(data.batches(4, 1), dealt, strict=True):
        own = [position for batch in shares if batch.words_share for position in batch.positions]
        assert sorted(own) == sorted(whole.positions)
        for name in ("words_share", "captions_share"):
            assert sum(getattr(batch, name) for batch in shares) == pytest.approx(1)
        for batch in shares:
            if batch.words_share:
                assert batch.captions_share == pytest.approx(len(batch.photo_B) / len(whole.photo_B))


def test_without_torchrun_nothing_is_initialised(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (distributed.rank(), distributed.world_size(), distributed.is_main(), local_processes()) == (0, 1, True, 1)
    assert distributed.all_reduce_sum(1.5, 2) == (1.5, 2)
    assert distributed.broadcast_object("x") == "x"
    distributed.barrier()
    assert distributed.shard(10, 4) == slice(0, 12)
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    slices = []
    for number in range(3):
        monkeypatch.setattr(distributed, "rank", lambda number=number: number)
        slices.append(list(range(10))[distributed.shard(10, 4)])
    assert slices == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
