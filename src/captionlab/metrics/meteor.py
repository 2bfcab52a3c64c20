"""METEOR 1.5 by the Java program in the package pycocoevalcap. Words in, numbers out.

Knows nothing of files or protocols. If Java is missing or fails, the score is None.
"""

import contextlib
import importlib.util
import shutil
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

Words = tuple[str, ...]

_STARTUP_SECONDS = 120.0  # limit; loading its table of paraphrases takes 5 to 10 s
_LAST_SECONDS = 5.0  # limit; what a failing Java may take to say why
_CAPTION_SECONDS = 0.05  # limit; scoring one takes 0.0005 s
_JAVA_OPTIONS = (
    # It reads 270 MB of paraphrases and keeps most of them: a large heap from the start and a small young generation
    # save a fifth of the time and of the memory that Java takes by itself.
    "-Xms1G", "-Xmx1G", "-Xmn64M", "-XX:+UseSerialGC",
    # Or it writes decimals as the system's language does, with a comma.
    "-Duser.language=en", "-Duser.country=US", "-Duser.language.format=en", "-Duser.country.format=US",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Meteor:
    """The scores of one system's hypotheses, from 0 to 1: of each caption, and of all together."""

    captions: Sequence[float]
    corpus: float


def meteor_scores(references: Sequence[Sequence[Words]], systems: Sequence[Sequence[Words]]) -> list[Meteor] | None:
    """The scores of each system's hypotheses, given in the order of ``references``.

    One Java process scores all systems, because starting it costs far more than scoring a thousand captions. Returns
    None without Java or pycocoevalcap, and None with a RuntimeWarning if Java fails or hangs. pycocoevalcap's own
    wrapper is not used: after an error its destructor waits for a lock for ever.
    """
    java, jar = shutil.which("java"), java_program("meteor/meteor-1.5.jar")
    if java is None or jar is None:
        return None
    command = [java, *_JAVA_OPTIONS, "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]
    try:
        with (
            tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log,  # a pipe nobody reads would fill
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
                errors="replace",
            ) as process,
        ):
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                scores = []
                known: dict[tuple[int, Words], str] = {}
                for hypotheses in systems:
                    with _deadline(process, _STARTUP_SECONDS + _CAPTION_SECONDS * len(references)):
                        scores.append(_score(process.stdin, process.stdout, references, hypotheses, known))
                return scores
            except (OSError, ValueError) as error:
                with contextlib.suppress(OSError):
                    process.stdin.close()  # it ends
                with _deadline(process, _LAST_SECONDS):
                    said = process.stdout.read()  # Java writes why it does not start here, and exceptions to the log
                    process.wait()
                log.seek(0)
                raise ValueError("; ".join([str(error), *_reason(said + log.read())])) from error
            finally:
                process.kill()
                with contextlib.suppress(OSError):  # flushing to a dead process
                    process.stdin.close()
    except (OSError, ValueError) as error:
        warnings.warn(f"METEOR is left out: Java gave no score ({error})", RuntimeWarning, stacklevel=2)
        return None


def _reason(printed: str) -> list[str]:
    """The last lines of what a failed Java printed, without those on its options and on the places in its code."""
    lines = [line.strip()[:200] for line in printed.splitlines()]
    return [line for line in lines if line and not line.startswith(("Picked up ", "at "))][-3:]


@contextlib.contextmanager
def _deadline(process: "subprocess.Popen[str]", seconds: float) -> Iterator[None]:
    """Kill the process after this time; a pending read then ends."""
    watchdog = threading.Timer(seconds, process.kill)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


def java_program(path: str) -> Path | None:
    """A Java program of the installed pycocoevalcap, found without importing it."""
    package = importlib.util.find_spec("pycocoevalcap")
    for folder in (package.submodule_search_locations or []) if package else []:
        jar = Path(folder, path)
        if jar.is_file():
            return jar
    return None


def _score(
    stdin: IO[str], stdout: IO[str], references: Sequence[Sequence[Words]], hypotheses: Sequence[Words],
    known: dict[tuple[int, Words], str],
) -> Meteor:  # fmt: skip
    """Request the statistics of each caption, then the scores of each and of the corpus.

    ``known`` keeps the statistics: systems and decodings often give a photo the same caption, and Java is slow.
    Raises OSError or ValueError when the process dies or its answer is not numeric.
    """
    statistics = []
    for photo, (own, words) in enumerate(zip(references, hypotheses, strict=True)):
        if (photo, words) in known:
            statistics.append(known[photo, words])
            continue
        line = _ask(stdin, stdout, ["SCORE", *map(" ".join, own), " ".join(words)])
        if not line:
            raise ValueError("it stopped or took too long")
        if not all(part.replace(".", "", 1).isdigit() for part in line.split()):
            raise ValueError(f"it answered {line!r}")
        statistics.append(line)
        known[photo, words] = line
    line = _ask(stdin, stdout, ["EVAL", *statistics])
    captions = [float(line), *(float(stdout.readline()) for _ in statistics[1:])]
    return Meteor(captions=captions, corpus=float(stdout.readline()))


def _ask(stdin: IO[str], stdout: IO[str], parts: Sequence[str]) -> str:
    stdin.write(" ||| ".join(parts) + "\n")
    stdin.flush()
    return stdout.readline().strip()
