"""Coverage-guided fuzzing of every parser with mutated valid files and special cases, in child processes.

A parser may accept its input or raise CaptionlabError with one line. Anything else is a finding, and so is taking more
than ``SECONDS`` or allocating more than ``BYTES``. A small input that reaches new lines of captionlab is added to the
inputs that are mutated.
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
SECONDS = 5.0  # of CPU time, so that a busy machine causes no false findings
BYTES = 2 << 30
TRACED = 16  # one of this many inputs is traced line by line, which is slow
SMALL = 4096  # bytes; larger inputs are not added to those that are mutated, because they are slow to read
_OURS = str(Path(captionlab.__file__).parent)
_HEADER_BYTES = 40
_INPUT_BYTES = 1 << 24  # of an input that are stored, in case the process dies
_TOKENS = [
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
    """A function of captionlab that reads files from users; ``read`` gets the data and a folder to work in."""

    name: str
    corpus: Sequence[bytes]  # inputs to mutate, most of them valid
    read: Callable[[bytes, Path], object]
    mutate: Mutate
    share: float = 1.0  # weight when the time is divided among the parsers
    special: Sequence[bytes] = ()  # tried unchanged


class TooLongError(BaseException):
    """Raised after the time limit. Not an Exception, so that the tested code does not catch it."""


# ---- mutations


def mutate_bytes(rng: Random, corpus: Sequence[bytes]) -> bytes:
    """Change a file one to five times: flip a bit, or set, insert, delete, duplicate or splice bytes."""
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
                data[at:at] = rng.choice(_TOKENS)
            case 3:
                data[at:stop] = rng.choice(_TOKENS)
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
    """Replace, remove, rename or duplicate one to three values of a JSON file, or mutate its bytes."""
    data = rng.choice(corpus)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):  # an earlier mutation is not valid JSON
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
    return copy.deepcopy(rng.choice(_VALUES))  # later mutations change it in place


# ---- running the parsers


def fuzz(parsers: Sequence[Parser], folder: Path, *, seconds: float, limit: int | None, seed: int) -> list[Tally]:
    """Fuzz each parser for its share of the seconds, with at most ``limit`` inputs."""
    total = sum(parser.share for parser in parsers)
    return [_fuzz(parser, folder, seconds * parser.share / total, limit or sys.maxsize, seed) for parser in parsers]


def _fuzz(parser: Parser, folder: Path, seconds: float, limit: int, seed: int) -> Tally:
    """Fuzz one parser in a child process; if it dies, a new one continues with the next input."""
    # Header: number of the next input, refused inputs, longest time in microseconds, memory in KiB, size of the
    # current input. The current input follows.
    shared = mmap.mmap(-1, _HEADER_BYTES + _INPUT_BYTES)
    found = folder / f"{parser.name.replace(' ', '-')}.jsonl"
    found.parent.mkdir(parents=True, exist_ok=True)
    found.write_text("")
    deadline = time.monotonic() + seconds
    while True:
        pid = os.fork()
        if not pid:
            _child(parser, folder, shared, found, deadline, limit, seed)
        status = _watch(pid, shared)
        number = struct.unpack_from("q", shared, 0)[0]
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            break
        ended = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
        size = struct.unpack_from("q", shared, _HEADER_BYTES - 8)[0]
        _record(found, number, f"the process ended by {ended}", shared[_HEADER_BYTES : _HEADER_BYTES + size])
        struct.pack_into("q", shared, 0, number + 1)
    tried, refused, longest, kib = struct.unpack_from("qqqq", shared, 0)
    rows = [json.loads(line) for line in found.read_text(encoding="utf-8").splitlines()]
    lost = [f"input {row['number']}: {row['what']}" for row in rows]
    note = f"{refused:,} refused, {tried - refused - len(lost):,} read; longest {longest / 1e6:.2g} s; +{kib >> 10} MiB"
    return Tally(part=PART, fault=parser.name, tried=tried, lost=lost, note=note)


def input_of(parser: Parser, number: int, seed: int, added: Sequence[bytes]) -> bytes:
    """The input of this number: special cases first, then the corpus, then mutations of it and of added inputs."""
    given = [*parser.special, *parser.corpus]
    if number < len(given):
        return given[number]
    return parser.mutate(Random(f"{seed} {parser.name} {number}"), [*parser.corpus, *added])


def _watch(pid: int, shared: mmap.mmap) -> int:
    """Wait for the child; kill it if it does not enforce the time limit itself."""
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
    parser: Parser, folder: Path, shared: mmap.mmap, found: Path, deadline: float, limit: int, seed: int
) -> None:  # fmt: skip
    """Run inputs until the deadline, then exit the process; it shares nothing else, so it has seven parameters."""
    code = 99
    try:
        work = folder / f"work-{parser.name.replace(' ', '-')}"
        work.mkdir(exist_ok=True)
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        os.dup2(devnull, 2)
        warnings.simplefilter("ignore")
        os.environ["PATH"] = ""  # hides Java: METEOR would take seconds for each input
        memory = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + BYTES
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGPROF, _too_long)
        _run_inputs(parser, work, shared, found, deadline, limit, seed)
        code = 0
    except BaseException:
        _record(found, -1, f"the fuzzer: {traceback.format_exc()[-600:]}", b"")
    finally:
        os._exit(code)


def _run_inputs(
    parser: Parser, work: Path, shared: mmap.mmap, found: Path, deadline: float, limit: int, seed: int
) -> None:  # fmt: skip
    """Mutate and read inputs; the parameters are those of ``_child``."""
    number, refused, longest, kib = struct.unpack_from("qqqq", shared, 0)
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reached: set[tuple[CodeType, int]] = set()
    added: list[bytes] = []
    while number < limit and (time.monotonic() < deadline or number < len(parser.special)):
        data = input_of(parser, number, seed, added)
        struct.pack_into("q", shared, 0, number)
        stored = data[:_INPUT_BYTES]
        struct.pack_into("q", shared, _HEADER_BYTES - 8, len(stored))
        shared[_HEADER_BYTES : _HEADER_BYTES + len(stored)] = stored
        before = len(reached)
        if number % TRACED == 0:
            sys.settrace(_tracer(reached))
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
                _record(found, number, f"an error of {len(str(error))} characters or several lines", data)
        except TooLongError:
            _record(found, number, f"takes more than {SECONDS:g} s of processor time", data)
        except BaseException as error:
            _record(found, number, f"{type(error).__name__}: {str(error)[:120]} {_place(error)}", data)
        longest = max(longest, int(1e6 * (time.process_time() - began)))
        kib = max(kib, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start)
        if len(reached) > before and len(data) <= SMALL:
            added.append(data)
        number += 1
        struct.pack_into("qqqq", shared, 0, number, refused, longest, kib)


def _tracer(reached: set[tuple[CodeType, int]]) -> Callable[[FrameType, str, Any], Any]:
    """A trace function that adds every executed line of captionlab to ``reached``."""

    def line(frame: FrameType, event: str, argument: Any) -> Any:
        reached.add((frame.f_code, frame.f_lineno))
        return line

    def call(frame: FrameType, event: str, argument: Any) -> Any:
        return line if frame.f_code.co_filename.startswith(_OURS) else None

    return call


def _place(error: BaseException) -> str:
    """The last line of captionlab in the traceback."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/captionlab/" in f.filename]
    return f"({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""


def _record(found: Path, number: int, what: str, data: bytes) -> None:
    """Record a finding; its input is stored once for each message."""
    digest = hashlib.sha256(what.encode("utf-8", "replace")).hexdigest()[:8]
    sample = found.with_suffix(f".{digest}")
    if not sample.exists():
        sample.write_bytes(data)
    line = json.dumps({"number": number, "what": " ".join(what.split()), "input": sample.name})
    with found.open("a", encoding="utf-8") as out:
        out.write(line + "\n")


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TooLongError
