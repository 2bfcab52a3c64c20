"""MLflow's own web pages on this project's runs. Knows how to start and stop them, and nothing of what they show."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from captionlab.errors import CaptionlabError
from captionlab.tracking import runs
from captionlab.tracking.address import shown
from captionlab.tracking.store import tracking_uri

_PR_SET_PDEATHSIG = 1  # of Linux's prctl


def ui(root: Path, experiment: str, port: int) -> list[str]:
    """Serve MLflow's pages on this machine until Ctrl-C or SIGTERM; a tracking server shows them by itself.

    Prints the address when the pages can be opened. Returns the closing lines. Raises CaptionlabError when MLflow
    cannot start, or ends by itself.
    """
    uri = tracking_uri(root)
    if uri.startswith("http"):
        return [f"the runs are at {shown(uri).rstrip('/')}{runs.comparison_page(root, experiment)}"]
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        raise CaptionlabError(f"port {port} is in use ({error.strerror}); choose another with --port") from error
    page = runs.comparison_page(root, experiment)
    print("MLflow starts; this takes some seconds", file=sys.stderr, flush=True)
    try:
        with _stops_on_sigterm(), _server(uri, port) as server:
            if _answers(server, f"http://127.0.0.1:{port}/health"):
                print(f"the runs are at http://127.0.0.1:{port}{page} (Ctrl-C stops it)", flush=True)
            code = server.wait()
    except KeyboardInterrupt:
        return ["stopped"]
    raise CaptionlabError(f"MLflow ended with exit code {code}; its own lines above say why")


@contextmanager
def _server(uri: str, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """MLflow's server; it ends with the block, and on Linux with this process however that ends."""
    command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--port", str(port)]
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,  # not in the command, which everybody on the machine can list
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # it takes seconds and memory, and nothing here uses it
    }
    with subprocess.Popen(
        command, env=environment, stdout=sys.stderr, preexec_fn=_dies_with_this_process()
    ) as server:  # fmt: skip
        try:
            yield server
        finally:
            server.terminate()  # MLflow passes it on to its worker, which SIGKILL would leave behind


def _dies_with_this_process() -> Callable[[], None] | None:
    """What the child has to do before it starts, on Linux; elsewhere SIGKILL leaves it behind."""
    if sys.platform != "linux":
        return None
    parent, library = os.getpid(), ctypes.CDLL(None)

    def ask() -> None:
        library.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended just now
            os.kill(os.getpid(), signal.SIGTERM)

    return ask


@contextmanager
def _stops_on_sigterm() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _answers(server: "subprocess.Popen[bytes]", address: str) -> bool:
    """Wait until the server answers; False when it ends before that."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            opener.open(address, timeout=5).close()
            return True
        except OSError:  # nobody listens yet
            try:
                server.wait(0.2)
                return False
            except subprocess.TimeoutExpired:
                pass
