"""captionlab ui: the printed address, and the end of the server."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from captionlab.errors import CaptionlabError
from captionlab.tracking.ui import ui
from servers import wait_until

REPOSITORY = Path(__file__).parents[2]


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return int(listener.getsockname()[1])


def is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere SIGKILL leaves MLflow's server behind")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_address_is_printed_and_no_server_is_left(
    number: signal.Signals, tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / "params.yaml").write_bytes((REPOSITORY / "params.yaml").read_bytes())
    (tmp_path / "mlflow.db").write_bytes(empty_database.read_bytes())
    port = free_port()
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-m", "captionlab.cli", "ui", "--port", str(port)]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        said = next(line for line in process.stdout if line.startswith("the runs are at "))
        address, _, _ = said.removeprefix("the runs are at ").partition("#")
        assert address == f"http://127.0.0.1:{port}/"
        with urllib.request.urlopen(address, timeout=30) as page:
            assert b"MLflow" in page.read()
        process.send_signal(number)
        process.wait(60)
    assert process.returncode == (-number if number == signal.SIGKILL else 0)
    wait_until(lambda: is_free(port))


def test_the_pages_need_a_free_port(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(CaptionlabError, match=f"port {port} is in use .*; choose another with --port"):
            ui(tmp_path, "captionlab/scenes", port)
    assert list(tmp_path.iterdir()) == []
