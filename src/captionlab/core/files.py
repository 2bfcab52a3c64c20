"""Files that are complete or absent: every write goes to a temporary name beside the target and is renamed.

Knows nothing of the files' content.
"""

import glob
import hashlib
import json
import os
import platform
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

from captionlab.errors import CaptionlabError

_DEEPEST = 50
_LONGEST_YAML = 200_000  # characters; the reader takes a second for 20,000
_HOST = platform.node()  # process ids are unique on one machine only


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; on success it replaces ``path``, on failure it is removed.

    Raises CaptionlabError when the disk is full, the folder cannot be written or ``path`` is a device or a pipe.
    """
    _check_named(path)
    check_regular(path)
    temporary = path.with_name(f".{path.name}.{_HOST}-{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_orphans(path)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CaptionlabError(f"cannot write {path}: {reason}; free space or choose a writable folder") from error
    finally:
        with suppress(OSError):  # where its folder is not a folder, there is nothing to remove
            temporary.unlink()


def through_link(path: Path) -> Path:
    """The file to write where a user names ``path``: of a symbolic link its target, so that the link stays.

    Not for artifacts: there a link may lead into DVC's cache, whose files must not change. Raises CaptionlabError for
    a device or a pipe, and for a link of the system such as /dev/stdout, wherever it leads.
    """
    check_regular(path)
    if not path.is_symlink():
        return path
    if path.absolute().parts[:2] in (("/", "dev"), ("/", "proc")):
        raise _no_file(path)
    return path.resolve()


def check_regular(path: Path) -> None:
    """Raise CaptionlabError for a device or a pipe: one would be replaced, the other never ends or waits for ever."""
    with suppress(OSError, ValueError):  # what cannot be looked at cannot be opened either
        if not stat.S_ISREG(mode := path.stat().st_mode) and not stat.S_ISDIR(mode):
            raise _no_file(path)


def _check_named(path: Path) -> None:
    """Raise CaptionlabError for the current folder and the like, beside which nothing can be written."""
    if path.name in ("", ".."):
        raise CaptionlabError(f"{path} would be replaced as a whole; name a file or folder in it")


def _no_file(path: Path) -> CaptionlabError:
    return CaptionlabError(f"{path} is a device or a pipe, not a file; name a file")


def _remove_orphans(path: Path) -> None:
    """Remove the temporary files of ``path`` that killed processes of this machine left; running ones keep theirs."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.{glob.escape(_HOST)}-*.partial"):
        number = left.name.removesuffix(".partial").rpartition("-")[2]
        if number.isdigit() and not _is_running(int(number)):
            left.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    if os.name != "posix":  # elsewhere signal 0 does not ask, it kills
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's
        return True
    return True


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a fresh temporary folder; on success it replaces ``path`` as a whole, on failure it is removed.

    Of a symbolic link the folder that it names is replaced. Raises CaptionlabError when ``path`` is a file, and as
    ``atomic_file`` does.
    """
    _check_named(path)
    if path.is_symlink():
        path = path.resolve()
    if path.exists() and not path.is_dir():
        raise CaptionlabError(f"{path} is a file, not a folder; move it away")
    temporary = path.with_name(f".{path.name}.partial")
    former = path.with_name(f".{path.name}.former.partial")  # always whole: before it is deleted it is renamed
    deleted = path.with_name(f".{path.name}.deleted.partial")
    try:
        _move_back(former, path)  # where a run was killed before the new one was in its place
        _delete(former, deleted)
        shutil.rmtree(temporary, ignore_errors=True)  # left by a killed run
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():  # moved aside first: a kill must not leave a part of it under its name
            path.replace(former)
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CaptionlabError(f"cannot write {path}: {reason}; free space or choose a writable folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):
            _move_back(former, path)
            _delete(former, deleted)


def _move_back(former: Path, path: Path) -> None:
    if former.exists() and not path.exists():
        former.replace(path)


def _delete(folder: Path, name: Path) -> None:
    """Delete a folder under another name; what a kill leaves of it has that name."""
    shutil.rmtree(name, ignore_errors=True)
    if folder.exists():
        folder.replace(name)
        shutil.rmtree(name, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 with Unix line ends, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON in the given order: the same value gives the same bytes."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Write one compact JSON value per line."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


@contextmanager
def _named(path: Path, missing: str = "run the stage that writes it (dvc repro)") -> Iterator[None]:
    """Errors of reading the file as CaptionlabErrors that name it."""
    try:
        yield
    except FileNotFoundError:
        raise CaptionlabError(f"{path} does not exist; {missing}") from None
    except OSError as error:
        raise CaptionlabError(f"cannot read {path}: {error.strerror or error}") from error


def read_json(path: Path) -> Any:
    """Read JSON; a missing or invalid file is a CaptionlabError that names it."""
    try:
        with _named(path):
            text = path.read_text(encoding="utf-8")
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
        raise CaptionlabError(f"{path} is not valid JSON ({error}); run the stage that writes it again") from error


def iter_jsonl(path: Path) -> Iterator[Any]:
    """One JSON value per line, read line by line.

    A missing or invalid file is a CaptionlabError that names file and line, raised when the line is reached.
    """
    number = 0
    with _named(path), path.open(encoding="utf-8") as lines:
        try:
            # Not splitlines(), which also splits at characters that a JSON string may contain.
            for line in lines:
                number += 1
                yield json.loads(line.removesuffix("\n"))
        except UnicodeDecodeError as error:
            raise CaptionlabError(f"{path} is not UTF-8 text ({error})") from error
        except (ValueError, RecursionError) as error:
            raise CaptionlabError(f"{path}, line {number} is not valid JSON ({error})") from error


def read_jsonl(path: Path) -> list[Any]:
    """All of ``iter_jsonl``."""
    return list(iter_jsonl(path))


def read_yaml(path: Path, missing: str) -> Any:
    """Read YAML as plain values. A CaptionlabError names the file; ``missing`` is the advice when it does not exist."""
    from ruamel.yaml import YAML  # slow to import, and few commands read YAML
    from ruamel.yaml.error import YAMLError

    try:
        with _named(path, missing):
            text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CaptionlabError(f"{path} is not valid YAML: it is not UTF-8 text ({error})") from error
    if len(text) > _LONGEST_YAML:
        raise CaptionlabError(f"{path} has {len(text):,} characters; at most {_LONGEST_YAML:,} are read")
    if max(accumulate((c in "[{") - (c in "]}") for c in text), default=0) > _DEEPEST:
        # A few thousand nested brackets take the reader minutes.
        raise CaptionlabError(f"{path} is not valid YAML: more than {_DEEPEST} nested brackets")
    try:
        return YAML(typ="safe").load(text)
    except (YAMLError, ValueError, TypeError, RecursionError) as error:  # an invalid date, a list as a key
        raise CaptionlabError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hex, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while block := source.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def digest_of(value: Any) -> str:
    """A short digest of a JSON value: equal values have equal digests on any machine."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
