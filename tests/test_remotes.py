"""DVC's remotes on local S3 and SSH servers: a push, a clone, a pull, a damaged file.

They need captionlab[remotes], and moto[s3] for S3.
"""

import asyncio
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from captionlab.commands.doctor import examine
from repository import Repository

STAGES = ("download", "clean_captions")  # the fast ones


class Clone(Repository):
    """Another user's clone."""

    def __init__(self, folder: Path, origin: Repository) -> None:
        self.folder = folder
        subprocess.run(["git", "clone", "-q", origin.folder, folder], check=True)

    def empty(self) -> None:
        """Remove all files from DVC."""
        shutil.rmtree(self.folder / ".dvc/cache")
        shutil.rmtree(self.folder / "artifacts", ignore_errors=True)


@dataclass(frozen=True)
class Remote:
    """A server's address, and a function that changes a byte of one of its files."""

    url: str
    options: dict[str, str]
    damage: Callable[[], object]
    stop: Callable[[], object]


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    repository = Repository(tmp_path_factory.mktemp("remotes") / "origin")
    repository.run("dvc", "repro", "-q", STAGES[-1])
    return repository


def flipped(data: bytes) -> bytes:
    return data[:9] + bytes([data[9] ^ 1]) + data[10:]


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
    pytest.importorskip("dvc_s3", reason="needs captionlab[remotes]")
    server = pytest.importorskip("moto.server", reason="needs moto[s3]").ThreadedMotoServer("127.0.0.1", 0)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "lab")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())

    client = pytest.importorskip("boto3").client("s3", endpoint_url=address)
    client.create_bucket(Bucket="lab")

    def damage() -> None:
        keys = [entry["Key"] for entry in client.list_objects_v2(Bucket="lab")["Contents"]]
        key = next(key for key in keys if not key.endswith(".dir"))
        client.put_object(Bucket="lab", Key=key, Body=flipped(client.get_object(Bucket="lab", Key=key)["Body"].read()))

    yield Remote("s3://lab/captionlab", {"endpointurl": address}, damage, server.stop)
    server.stop()


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[Remote]:
    pytest.importorskip("dvc_ssh", reason="needs captionlab[remotes]")
    import asyncssh

    key, store = asyncssh.generate_private_key("ssh-ed25519"), tmp_path / "store"
    key.write_private_key(tmp_path / "key")
    key.write_public_key(tmp_path / "authorized")
    store.mkdir()
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    async def listen() -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            "127.0.0.1", 0, server_host_keys=[key], authorized_client_keys=str(tmp_path / "authorized"),
            sftp_factory=True,
        )  # fmt: skip

    server = asyncio.run_coroutine_threadsafe(listen(), loop).result(30)

    def damage() -> None:
        path = next(path for path in sorted(store.rglob("*")) if path.is_file() and path.suffix != ".dir")
        path.chmod(0o644)
        path.write_bytes(flipped(path.read_bytes()))

    url = f"ssh://lab@127.0.0.1:{server.get_port()}{store}"

    def stop() -> None:
        loop.call_soon_threadsafe(server.close)

    yield Remote(url, {"keyfile": str(tmp_path / "key")}, damage, stop)
    stop()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["s3", "ssh"])
def test_a_clone_pulls_results_and_refuses_damaged_files(
    kind: str, origin: Repository, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    remote: Remote = request.getfixturevalue(kind)
    lines = [f"['remote \"{kind}\"']", f"url = {remote.url}", "verify = true"]
    lines += [f"{key} = {value}" for key, value in remote.options.items()]
    with (origin.folder / ".dvc/config").open("a") as config:
        config.write("\n".join([*lines, ""]))
    origin.run("dvc", "push", "--remote", kind, *STAGES)
    origin.commit(kind)
    clone = Clone(tmp_path / "clone", origin)
    pull = ("dvc", "pull", "--remote", kind, *STAGES)
    clone.run(*pull)
    assert clone.ran(clone.run("dvc", "repro", STAGES[-1])) == {"check_params"}
    assert clone.run("git", "status", "--porcelain") == ""

    remote.damage()
    clone.empty()
    said = clone.run(*pull, ok=False)
    assert "Traceback" not in said
    verdicts = {finding.name: finding.verdict for finding in examine(clone.folder, cache=True)}
    assert verdicts["cache"] == "ok"
    assert clone.ran(clone.run("dvc", "repro", STAGES[-1]))  # the stage of the damaged file
    assert clone.run("git", "status", "--porcelain") == ""

    remote.stop()
    clone.empty()
    said = clone.run(*pull, ok=False)
    assert "ERROR" in said
    assert "Traceback" not in said
