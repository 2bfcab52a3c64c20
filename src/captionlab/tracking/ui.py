"""The MLflow pages for this repository's runs. Knows how to start them sparingly, and nothing of what they show."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from captionlab.errors import CaptionlabError
from captionlab.tracking import runs
from captionlab.tracking.store import tracking_uri


def ui(root: Path, experiment: str, port: int) -> list[str]:
    """Serve MLflow's pages on this machine until Ctrl-C; with a tracking server there is nothing to start.

    Returns the closing lines. Raises CaptionlabError when MLflow cannot start or stops by itself.
    """
    uri = tracking_uri(root)
    if uri.startswith("http"):
        return [f"the runs are at {uri.rstrip('/')}{runs.comparison_page(root, experiment)}"]
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        raise CaptionlabError(f"port {port} is taken ({error.strerror}); choose another with --port") from error
    page = runs.comparison_page(root, experiment)
    # As they come, the pages take 21 s and over 1 GB: job runners that nothing here uses, and four workers.
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--workers", "1", "--port", str(port)]
    print(f"MLflow is starting; open http://127.0.0.1:{port}{page} (Ctrl-C stops it)", flush=True)
    with subprocess.Popen(command, env=environment) as server:
        try:
            code = server.wait()
        except KeyboardInterrupt:
            server.terminate()  # takes its worker with it; killed, it would leave it behind
            return ["stopped"]
    raise CaptionlabError(f"MLflow stopped by itself with exit code {code}; what it says stands above")
