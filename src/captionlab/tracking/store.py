"""One experiment on MLflow's server or in its database: found or made, and used by one process at a time.

Imports mlflow late, because that takes seconds. Knows addresses, experiments and locks; nothing of a run's content.
"""

import logging
import os
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
from captionlab.tracking.address import reason, shown

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

LIVE_SECONDS = 5  # limit of one call during a training; a slower server is not used further
TURN_SECONDS = 60  # limit of waiting for other processes at the start, when one of them makes the tables
TRAINING_KEY = "captionlab.training_key"
FILES = "mlartifacts"
_ADDRESSES = (  # where MLflow's tables store the addresses of files
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)


class TrackingError(CaptionlabError):
    """The tracking server or database cannot be used; nothing is lost, as all results are on disk too."""


def tracking_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI, or the SQLite file at the repository's root."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(home(root) / 'mlflow.db').as_posix()}"


def configure_mlflow() -> None:
    """Suppress MLflow's log and shorten its timeouts in this process; only before the first import of mlflow."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it prints the server's password too
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(LIVE_SECONDS))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    os.environ.setdefault("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "3")  # MLflow's 10 miss trainings of ten seconds
    monitor = "mlflow.system_metrics.system_metrics_monitor"
    for name in ("mlflow.store.db.utils", "alembic", "urllib3.connectionpool", monitor):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # no tracebacks and retries beside our one warning


_OWN = (TypeError, AttributeError, NameError, AssertionError, LookupError)
_PACKAGES = {"MySQLdb": "mysqlclient", "psycopg2": "psycopg2-binary"}  # of modules with another name


@contextmanager
def translated(uri: str) -> Iterator[None]:
    """Turn every error inside into a TrackingError that names the server or database, without its password.

    Errors of the program itself, such as a TypeError, are left as they are.
    """
    try:
        yield
    except (CaptionlabError, *_OWN):
        raise
    except ImportError as error:  # MLflow, the driver of a database, or the client of S3
        package = _PACKAGES.get(str(error.name), error.name)
        raise TrackingError(f"MLflow at {shown(uri)} cannot be used; it needs: pip install {package}") from error
    except Exception as error:  # those of the database, the network and the client of stored files have no common type
        why = reason(error, uri)
        cause = None if why is None else error  # a traceback would show what is left out here
        raise TrackingError(f"MLflow at {shown(uri)} cannot be used ({why or type(error).__name__})") from cause


class Store:
    """One experiment on the tracking server or in the database; made when it is missing."""

    def __init__(self, root: Path, experiment: str) -> None:
        configure_mlflow()
        self.root = root
        self.uri = tracking_uri(root)
        self.home = home(root)
        with self.session() as client:
            adopt_files(self.uri, self.home)
            self.experiment_id = self._experiment(client, experiment)

    @contextmanager
    def session(self, patience: float = TURN_SECONDS) -> "Iterator[MlflowClient]":
        """A client that no other process of this machine uses meanwhile; errors inside become a TrackingError.

        MLflow neither makes its tables safely from two processes (making a client does that) nor finds and creates a
        run in one step.
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
        location = None if served else (self.home / FILES / name).as_uri()
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(client.create_experiment(name, artifact_location=location))
            except MlflowException as error:  # another machine was quicker
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                return self._experiment(client, name)
        there = urlparse(found.artifact_location)
        if there.scheme == "file" and found.artifact_location != location and not Path(unquote(there.path)).is_dir():
            raise TrackingError(
                f"the files of MLflow's experiment {name} are missing, {unquote(there.path)} does not exist; if the "
                f"project was moved, move {FILES} too, or delete {self.home / 'mlflow.db'} and run `captionlab track`"
            )
        if found.lifecycle_stage != "active":  # deleted in the UI: its name cannot be used twice
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _prepare_sqlite(self) -> None:
        """Make all tables of a new file or none, and fail fast on a file that is locked or damaged.

        MLflow, killed while it makes them, leaves a file that it never accepts again; a locked one it retries for
        minutes.
        """
        from mlflow import MlflowClient

        path = sqlite_file(self.uri)
        if path is None:
            return
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
    """The repository's root; for a queued experiment, which runs in a temporary clone, the root of the original."""
    return Path(os.environ.get("DVC_ROOT") or root).resolve()


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite database; None for any other address. TrackingError where the address has no such form."""
    if not uri.startswith(("sqlite:///", "sqlite+")):
        return None
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        database = make_url(uri).database
    except ArgumentError:
        raise TrackingError(
            f"MLFLOW_TRACKING_URI, {shown(uri)}, is not the address of a database; write sqlite:///FILE, or unset it"
        ) from None
    return Path(database) if database else None


def adopt_files(uri: str, home: Path) -> None:
    """In a project that was copied or moved with its database and files, let the database name these files.

    MLflow stores absolute addresses and cannot change them; without this, a copy writes into the original's folder.
    """
    path = sqlite_file(uri)
    if path is None or path.resolve().parent != home:
        return
    with closing(sqlite3.connect(path, timeout=LIVE_SECONDS)) as connection, connection:
        for (old,) in connection.execute("SELECT artifact_location FROM experiments").fetchall():
            folder = home / FILES / unquote(str(old).rpartition(f"/{FILES}/")[2])
            new = folder.as_uri()
            if not str(old).startswith("file://") or old == new or not folder.is_dir():
                continue
            for table, column in _ADDRESSES:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ? || '/'",
                    (new, len(old) + 1, old, len(old) + 1, old),
                )
