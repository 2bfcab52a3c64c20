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
from typing import IO, Self

import numpy as np

Words = tuple[str, ...]

_STARTUP_SECONDS = 120.0  # limit; loading its table of paraphrases takes 5 to 10 s
_LAST_SECONDS = 5.0  # limit; what a failing Java may take to say why
_PAIR_SECONDS = 0.01  # limit; comparing a caption with a reference takes 0.0003 s
_STOPPED = "it stopped or took too long"
_COUNTS = 23  # numbers that METEOR gives of a caption and a reference
_WORDS = (0, 1)  # their places: words of the caption and of the reference,
_CHUNKS = 20  # chunks,
_MATCHED = (21, 22)  # matched words of the caption and of the reference
_JAVA_OPTIONS = (
    # It reads 270 MB of paraphrases and keeps most of them: a large heap from the start and a small young generation
    # save a fifth of the time and of the memory that Java takes by itself.
    "-Xms1G", "-Xmx1G", "-Xmn64M", "-XX:+UseSerialGC",
    # Or it writes decimals as the system's language does, with a comma.
    "-Duser.language=en", "-Duser.country=US", "-Duser.language.format=en", "-Duser.country.format=US",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MeteorScores:
    """The scores of one system's hypotheses, from 0 to 1: of each caption, and of all together."""

    captions: Sequence[float]
    corpus: float


class Meteor:
    """Scores captions by the Java program, which starts at the first use and ends with the ``with`` block.

    Starting it takes longer than scoring a thousand captions, so whoever scores several times shares one. Scores are
    kept, 0.4 kB for each caption and reference: systems often give a photo the same caption, and people are scored
    against parts of the same references.
    """

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()
        self._program: _Program | None = None
        self._failed = False
        self._counts: dict[tuple[Words, Words], str] = {}
        self._scores: dict[str, float] = {}  # of counts

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()
        self._program = None

    def scores(
        self, references: Sequence[Sequence[Words]], systems: Sequence[Sequence[Words]]
    ) -> list[MeteorScores] | None:
        """The scores of each system's hypotheses, given in the order of ``references``.

        None without Java or pycocoevalcap. None also if Java fails or hangs, with a RuntimeWarning the first time.
        """
        java, jar = shutil.which("java"), java_program("meteor/meteor-1.5.jar")
        if self._failed or java is None or jar is None:
            return None
        try:
            if self._program is None:
                log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
                self._open.enter_context(log)
                command = [java, *_JAVA_OPTIONS, "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]
                self._program = _Program(command, log)
                self._open.callback(self._program.end)
            seconds = _STARTUP_SECONDS + _PAIR_SECONDS * sum(map(len, references))
            found = []
            for hypotheses in systems:
                with self._program.deadline(seconds):
                    found.append(self._of_system(self._program, references, hypotheses))
            return found
        except OSError as error:
            self._failed = True
            reason = "; ".join([str(error), *(self._program.last_lines() if self._program else [])])
            warnings.warn(f"METEOR is left out: Java gave no score ({reason})", RuntimeWarning, stacklevel=2)
            return None

    def _of_system(
        self, program: "_Program", references: Sequence[Sequence[Words]], hypotheses: Sequence[Words]
    ) -> MeteorScores:
        """Score each caption by its best reference, of equally good ones by the first, as METEOR does.

        Raises OSError when the program ends or its answer is not numeric.
        """
        best = [
            max((self._count(program, reference, words) for reference in own), key=self._scores.__getitem__)
            for own, words in zip(references, hypotheses, strict=True)
        ]
        counts_NC = np.array([counts.split() for counts in best], dtype=np.float64)
        # The corpus' counts are the sums of its captions', without the chunk of a caption that matches as a whole.
        whole_N = (counts_NC[:, _CHUNKS] == 1) & (counts_NC[:, _MATCHED] == counts_NC[:, _WORDS]).all(axis=1)
        counts_NC[whole_N, _CHUNKS] = 0
        corpus = program.score(" ".join(map(str, counts_NC.sum(axis=0))))
        return MeteorScores(captions=[self._scores[counts] for counts in best], corpus=corpus)

    def _count(self, program: "_Program", reference: Words, hypothesis: Words) -> str:
        """The numbers of words, matches and chunks of a caption with one reference; ``_scores`` has their score."""
        if (reference, hypothesis) not in self._counts:
            self._counts[reference, hypothesis] = counts = program.count(reference, hypothesis)
            if counts not in self._scores:
                self._scores[counts] = program.score(counts)
        return self._counts[reference, hypothesis]


class _Program:
    """The running Java program. ``log`` gets its errors: a file, because a pipe that nobody reads would fill.

    Each method raises OSError when the program has ended or its answer is not numeric.
    """

    def __init__(self, command: Sequence[str], log: IO[str]) -> None:
        self._log = log
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, encoding="utf-8", errors="replace"
        )

    def count(self, reference: Words, hypothesis: Words) -> str:
        """The numbers of words, matches and chunks of a caption with one reference."""
        self._send("SCORE", " ".join(reference), " ".join(hypothesis))
        line = self._read()
        numbers = line.split()
        if len(numbers) != _COUNTS or not all(number.replace(".", "", 1).isdigit() for number in numbers):
            raise OSError(f"it answered {line!r}")
        return line

    def score(self, counts: str) -> float:
        """METEOR of these counts."""
        self._send("EVAL", counts)
        self._read()  # the score of this caption; the next line is that of all captions, the same
        line = self._read()
        try:
            return float(line)
        except ValueError:
            raise OSError(f"it answered {line!r}") from None

    def _send(self, *parts: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(" ||| ".join(parts) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise OSError(_STOPPED) from None

    def _read(self) -> str:
        """The next line, which is not empty."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise OSError(_STOPPED)
        return line

    @contextlib.contextmanager
    def deadline(self, seconds: float) -> Iterator[None]:
        """Kill the process after this time; a pending read then ends."""
        watchdog = threading.Timer(seconds, self._process.kill)
        watchdog.start()
        try:
            yield
        finally:
            watchdog.cancel()

    def last_lines(self) -> list[str]:
        """What the process printed last, without lines on its options and on places in its code. Ends it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # it ends
        with self.deadline(_LAST_SECONDS):
            said = self._process.stdout.read()  # Java writes why it does not start here, and exceptions to the log
            self._process.wait()
        self._log.seek(0)
        lines = [line.strip()[:200] for line in (said + self._log.read()).splitlines()]
        return [line for line in lines if line and not line.startswith(("Picked up ", "at "))][-3:]

    def end(self) -> None:
        """Kill the process, which has nothing to save."""
        self._process.kill()
        with contextlib.suppress(OSError), self._process:  # it flushes to a dead process
            pass


def java_program(path: str) -> Path | None:
    """A Java program of the installed pycocoevalcap, found without importing it."""
    package = importlib.util.find_spec("pycocoevalcap")
    for folder in (package.submodule_search_locations or []) if package else []:
        jar = Path(folder, path)
        if jar.is_file():
            return jar
    return None
