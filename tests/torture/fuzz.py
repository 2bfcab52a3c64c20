"""Fuzzing of every parser: mutated valid files and a list of special cases, each in a child process.

A parser may accept what it gets or raise CaptionlabError with one line; anything else is a finding, and so is taking
longer than ``SECONDS`` or more memory than ``BYTES`` beyond what the process had. The mutations know the formats' own
words and numbers, and are guided by coverage: an input that reaches a line of captionlab that none before it reached is
mutated in its turn if it is small.
"""

import copy
import hashlib
import json
import mmap
import os
import resource
import signal
import struct
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import CodeType, FrameType
from typing import Any

import captionlab
from captionlab.errors import CaptionlabError
from torture.tally import Tally

PART = "Bad data"
SECONDS = 5.0  # of processor time, so that a busy machine reports no false hangs
BYTES = 2 << 30
TRACED = 16  # every how many inputs one is traced line by line, which is slow
SMALL = 4096  # bytes of an input that may be mutated in its turn; large ones are slow to read
_OURS = str(Path(captionlab.__file__).parent)
_HEAD = 40
_ROOM = 1 << 24  # bytes of an input that are kept for when the process dies of it
_WORDS = [
    *(b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xe2\x80\xae", b"\xe2\x80\xa8", b"\xf0\x9f\x90\x95"),
    *(b"\r", b"\n", b"\r\n", b"\t", b'"', b'""', b"'", b",", b"#", b"..", b"/", b"\\", b"../../x", b"C:\\x", b"%s"),
    *(b"-1", b"0", b"1e999", b"NaN", b"9" * 30, b"9" * 5000, b"[" * 200, b"{", b"}", b"]", b"null", b"\\ud800"),
    *(b"&a ", b"*a", b"<<: ", b"!!python/name:os.system ", b"0x" + b"f" * 5000, b": ", b"- ", b"? ", b"|\n"),
    *(b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"a" * 70_000),
]
_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, -(2**70), 10**4000, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", " ", "a", "\0", "\ud800", "\u202e", "\u2028", "../../x", "/etc/passwd", "1e-05", "nan", "a" * 70_000),
    *([], {}, [[]], [None], {"": None}, {"kind": []}, {"kind": "merge"}, ["a", 1], [["x"] * 3] * 3),
]

Mutate = Callable[[Random, Sequence[bytes]], bytes]


@dataclass(frozen=True, kw_only=True)
class Parser:
    """A part of captionlab that reads files from users. ``read`` gets an empty folder to work in."""

    name: str
    corpus: Sequence[bytes]  # valid ones first
    read: Callable[[bytes, Path], object]
    mutate: Mutate
    share: float = 1.0  # of the time
    nasty: Sequence[bytes] = ()  # tried as they are


class TooLongError(BaseException):
    """Not an Exception, so that the tested code cannot catch it."""


# ---- mutations


def mutate_bytes(rng: Random, corpus: Sequence[bytes]) -> bytes:
    """One to five changes of a valid file: bits, numbers, words, pieces moved, doubled, dropped, or of another file."""
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        size = len(data)
        at = rng.randrange(size + 1) if rng.random() < 0.6 else rng.randrange(min(size, 120) + 1)
        stop = min(size, at + rng.choice((1, 2, 4, 16, 200)))
        match rng.randrange(9):
            case 0 if at < size:
                data[at] ^= 1 << rng.randrange(8)
            case 1 if at < size:
                data[at] = rng.randrange(256)
            case 2:
                data[at:at] = rng.choice(_WORDS)
            case 3:
                data[at:stop] = rng.choice(_WORDS)
            case 4:
                del data[at:stop]
            case 5:
                data[at:at] = data[at:stop] * rng.choice((1, 2, 50))
            case 6:
                other = rng.choice(corpus)
                start = rng.randrange(len(other) + 1)
                data[at:stop] = other[start : start + rng.choice((4, 30, 300))]
            case 7 if at + 4 <= size:
                number = rng.choice((0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, size, size + 1))
                data[at : at + 4] = struct.pack(rng.choice("<>") + "I", number)
            case 8 if rng.random() < 0.3:
                del data[at:]
    return bytes(data)


def mutate_json(rng: Random, corpus: Sequence[bytes]) -> bytes:
    """One to three values of a JSON file replaced, dropped, renamed or doubled; now and then its bytes are mutated."""
    data = rng.choice(corpus)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):  # of what has grown
        return mutate_bytes(rng, corpus)
    if rng.random() < 0.25:
        return mutate_bytes(rng, corpus)
    for _ in range(rng.choice((1, 1, 2, 3))):
        value = _change(rng, value)
    return json.dumps(value, ensure_ascii=rng.random() < 0.8).encode("utf-8", "surrogatepass")


def _change(rng: Random, value: Any) -> Any:
    if not isinstance(value, dict | list) or not value or rng.random() < 0.15:
        return _value(rng)
    keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = rng.choice(keys)
    match rng.randrange(8):
        case 0:
            del value[key]
        case 1 if isinstance(value, dict):
            value[rng.choice(("", "kind", "x", "\u202e", "../x", key + "x"))] = value.pop(key)
        case 2 if isinstance(value, dict):
            value[rng.choice(("", "kind", "x", "training"))] = _value(rng)
        case 2 if isinstance(value, list):
            value.insert(key, _value(rng))
        case 3:
            value[key] = copy.deepcopy(value[rng.choice(keys)])
        case _:
            value[key] = _change(rng, value[key])
    return value


def _value(rng: Random) -> Any:
    return copy.deepcopy(rng.choice(_VALUES))  # later changes may change it in turn


# ---- running them


def fuzz(parsers: Sequence[Parser], folder: Path, *, seconds: float, most: int | None, seed: int) -> list[Tally]:
    """Run inputs on each parser for its share of the seconds, at most ``most`` of them."""
    total = sum(parser.share for parser in parsers)
    return [_fuzz(parser, folder, seconds * parser.share / total, most or sys.maxsize, seed) for parser in parsers]


def _fuzz(parser: Parser, folder: Path, seconds: float, most: int, seed: int) -> Tally:
    """Run one parser in a child process; if the child dies, the next one continues after that input."""
    # Next input, refused, longest in microseconds, memory in KiB, bytes of the input at hand; then the input.
    shared = mmap.mmap(-1, _HEAD + _ROOM)
    found = folder / f"{parser.name.replace(' ', '-')}.jsonl"
    found.parent.mkdir(parents=True, exist_ok=True)
    found.write_text("")
    deadline = time.monotonic() + seconds
    while True:
        pid = os.fork()
        if not pid:
            _child(parser, folder, shared, found, deadline, most, seed)
        status = _watch(pid, shared)
        number = struct.unpack_from("q", shared, 0)[0]
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            break
        ended = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
        size = struct.unpack_from("q", shared, _HEAD - 8)[0]
        _tell(found, number, f"the process ended by {ended}", shared[_HEAD : _HEAD + size])
        struct.pack_into("q", shared, 0, number + 1)
    tried, refused, longest, kib = struct.unpack_from("qqqq", shared, 0)
    rows = [json.loads(line) for line in found.read_text(encoding="utf-8").splitlines()]
    lost = [f"input {row['number']}: {row['what']}" for row in rows]
    note = f"{refused:,} refused, {tried - refused - len(lost):,} read; longest {longest / 1e6:.2g} s; +{kib >> 10} MiB"
    return Tally(part=PART, fault=parser.name, tried=tried, lost=lost, note=note)


def input_of(parser: Parser, number: int, seed: int, grown: Sequence[bytes]) -> bytes:
    """The input of this number: special cases, valid files, then mutations of these and of the grown corpus."""
    given = [*parser.nasty, *parser.corpus]
    if number < len(given):
        return given[number]
    return parser.mutate(Random(f"{seed} {parser.name} {number}"), [*parser.corpus, *grown])


def _watch(pid: int, shared: mmap.mmap) -> int:
    """Wait for the child; kill it if its own time limit does not interrupt an input."""
    last, since = -1, time.monotonic()
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        number = struct.unpack_from("q", shared, 0)[0]
        if number != last:
            last, since = number, time.monotonic()
        elif time.monotonic() - since > 20 * SECONDS:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _child(
    parser: Parser, folder: Path, shared: mmap.mmap, found: Path, deadline: float, most: int, seed: int
) -> None:  # fmt: skip
    """Run inputs until the time is over. Never returns."""
    code = 99
    try:
        work = folder / f"work-{parser.name.replace(' ', '-')}"
        work.mkdir(exist_ok=True)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        warnings.simplefilter("ignore")
        os.environ["PATH"] = ""  # no Java: METEOR would take seconds to start for each input
        limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGPROF, _too_long)
        _feed(parser, work, shared, found, deadline, most, seed)
        code = 0
    except BaseException:
        _tell(found, -1, f"the fuzzer: {traceback.format_exc()[-600:]}", b"")
    finally:
        os._exit(code)


def _feed(
    parser: Parser, work: Path, shared: mmap.mmap, found: Path, deadline: float, most: int, seed: int
) -> None:  # fmt: skip
    number, refused, longest, kib = struct.unpack_from("qqqq", shared, 0)
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reached: set[tuple[CodeType, int]] = set()
    grown: list[bytes] = []
    while number < most and (time.monotonic() < deadline or number < len(parser.nasty)):
        data = input_of(parser, number, seed, grown)
        struct.pack_into("q", shared, 0, number)
        kept = data[:_ROOM]
        struct.pack_into("q", shared, _HEAD - 8, len(kept))
        shared[_HEAD : _HEAD + len(kept)] = kept
        before = len(reached)
        if number % TRACED == 0:
            sys.settrace(_follow(reached))
        began = time.process_time()
        try:
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                parser.read(data, work)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
                sys.settrace(None)
        except CaptionlabError as error:
            refused += 1
            if "\n" in str(error) or len(str(error)) > 2000:
                _tell(found, number, f"an error of {len(str(error))} characters or several lines", data)
        except TooLongError:
            _tell(found, number, f"takes more than {SECONDS:g} s of processor time", data)
        except BaseException as error:
            _tell(found, number, f"{type(error).__name__}: {str(error)[:120]} {_place(error)}", data)
        longest = max(longest, int(1e6 * (time.process_time() - began)))
        kib = max(kib, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start)
        if len(reached) > before and len(data) <= SMALL:
            grown.append(data)
        number += 1
        struct.pack_into("qqqq", shared, 0, number, refused, longest, kib)


def _follow(reached: set[tuple[CodeType, int]]) -> Callable[[FrameType, str, Any], Any]:
    """A tracer that adds every line of captionlab's own that is run."""

    def line(frame: FrameType, event: str, argument: Any) -> Any:
        reached.add((frame.f_code, frame.f_lineno))
        return line

    def call(frame: FrameType, event: str, argument: Any) -> Any:
        return line if frame.f_code.co_filename.startswith(_OURS) else None

    return call


def _place(error: BaseException) -> str:
    """The last line of captionlab's own that it went through."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/captionlab/" in f.filename]
    return f"({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""


def _tell(found: Path, number: int, what: str, data: bytes) -> None:
    """Store a finding with its input; one per place in the code."""
    digest = hashlib.sha256(what.encode("utf-8", "replace")).hexdigest()[:8]
    sample = found.with_suffix(f".{digest}")
    if not sample.exists():
        sample.write_bytes(data)
    line = json.dumps({"number": number, "what": " ".join(what.split()), "input": sample.name})
    with found.open("a", encoding="utf-8") as out:
        out.write(line + "\n")


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TooLongError
