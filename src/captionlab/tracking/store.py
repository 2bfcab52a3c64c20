"""One experiment in MLflow's server or database: found or made, and used by one process at a time.

Imports mlflow late, because that takes seconds. Knows addresses, experiments and locks; nothing of what a run shows.
"""

import logging
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

from filelock import FileLock

from captionlab.errors import CaptionlabError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

LIVE_SECONDS = 5  # what one call may cost a training; a slower server is given up
TURN_SECONDS = 60  # how long to wait for the other processes at the start, when one of them makes the tables
TRAINING_KEY = "captionlab.training_key"


class TrackingError(CaptionlabError):
    """The tracking server or database cannot be used now; everything worth keeping is still on disk."""


def tracking_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI, or else the SQLite file at the repository's root."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(home(root) / 'mlflow.db').as_posix()}"


def configure_mlflow() -> None:
    """Have mlflow keep quiet and give up soon in this process. Only counts before the first import of mlflow."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(LIVE_SECONDS))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("mlflow.store.db.utils", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # tracebacks and retries: the one warning is ours


@contextmanager
def translated(uri: str) -> Iterator[None]:
    """Whatever fails inside becomes a TrackingError that names the server or database."""
    try:
        from alembic.util.exc import CommandError
        from google.protobuf.json_format import ParseError  # type: ignore[import-untyped]
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError as why:
        raise TrackingError(f"MLflow cannot be used; it needs: pip install {why.name}") from why
    try:
        yield
    except ImportError as why:  # the driver of a database, say
        raise TrackingError(
            without_password(f"MLflow at {uri} cannot be used; it needs: pip install {why.name}")
        ) from why
    # CommandError tells of half-made tables; OSError holds the lock's time-out and the network's errors;
    # ValueError and ParseError mean an answer that is not MLflow's.
    except (MlflowException, SQLAlchemyError, sqlite3.Error, CommandError, OSError, ValueError, ParseError) as why:
        reason = " ".join(str(why).split())[:200]
        raise TrackingError(without_password(f"MLflow at {uri} cannot be used ({reason})")) from why


class Store:
    """One experiment in the tracking server or database; makes it when it is missing."""

    def __init__(self, root: Path, experiment: str) -> None:
        configure_mlflow()
        self.root = root
        self.uri = tracking_uri(root)
        self.home = home(root)
        with self.session() as client:
            self.experiment_id = self._experiment(client, experiment)

    @contextmanager
    def session(self, patience: float = TURN_SECONDS) -> "Iterator[MlflowClient]":
        """A client, alone among this machine's processes; whatever fails inside becomes a TrackingError.

        MLflow itself neither makes its tables safely from two processes (making a client does) nor looks up and
        creates in one step.
        """
        with translated(self.uri), FileLock(self.home / "mlflow.db.lock", timeout=patience):
            from mlflow import MlflowClient

            self._prepare_sqlite()
            yield MlflowClient(tracking_uri=self.uri)

    def runs_of(self, client: "MlflowClient", training_key: str) -> "list[Run]":
        """The runs that show this training, newest first."""
        condition = f"tags.`{TRAINING_KEY}` = '{training_key}'"
        return list(client.search_runs([self.experiment_id], condition, order_by=["attributes.start_time DESC"]))

    def _experiment(self, client: "MlflowClient", name: str) -> str:
        from mlflow.exceptions import MlflowException

        served = self.uri.startswith(("http", "databricks"))  # a server chooses where its files lie
        # MLflow's own default is relative to a working directory that a queued experiment's clone takes with it.
        location = None if served else (self.home / "mlartifacts" / name).as_uri()
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(client.create_experiment(name, artifact_location=location))
            except MlflowException as why:  # another machine was quicker
                if why.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                return self._experiment(client, name)
        there = urlparse(found.artifact_location)
        if there.scheme == "file" and found.artifact_location != location and not Path(unquote(there.path)).is_dir():
            raise TrackingError(
                f"the files of MLflow's experiment {name} should lie in {unquote(there.path)}, which is gone; if the "
                f"repository was moved, delete {self.home / 'mlflow.db'} and run `captionlab track`"
            )
        if found.lifecycle_stage != "active":  # deleted in the UI: its name cannot be used twice
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _prepare_sqlite(self) -> None:
        """Make the tables of a new file, all or none, and fail fast on a file that is locked or broken.

        MLflow, killed while it makes them, leaves a file that it refuses for ever; a locked one it retries for minutes.
        """
        from mlflow import MlflowClient
        from sqlalchemy.engine import make_url

        database = make_url(self.uri).database if self.uri.startswith("sqlite") else None
        if not database:
            return
        path = Path(database)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                made = Path(folder) / path.name
                MlflowClient(tracking_uri=f"sqlite:///{made.as_posix()}")
                copy = shutil.copy(made, path.with_name(f"{path.name}.partial"))  # not renamed: MLflow keeps it open
            Path(copy).replace(path)
        with closing(sqlite3.connect(path, timeout=LIVE_SECONDS)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()


def home(root: Path) -> Path:
    """The repository's root; for a queued experiment, which runs in a temporary clone, the root it was cloned from."""
    return Path(os.environ.get("DVC_ROOT") or root).resolve()


def without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]+@", "//", text)
