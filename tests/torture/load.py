"""Load tests of ``captionlab demo`` and ``mlflow models serve``: many clients at once, some of them slow.

Clients and server share the machine. The server's memory is read from /proc, so this needs Linux.
"""

import base64
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

from PIL import Image

from captionlab.core.records import RELEASED, Decoding
from captionlab.serving import registry
from torture.tally import Tally

PART = "Load"
CLIENTS, SLOW = 8, 4  # slow clients send one byte per second
MANY_CLIENTS = 64  # more than the demo queues and MLflow's server accepts
CONNECTIONS = 32
MAX_SECONDS = 30.0  # per caption, with CLIENTS clients
GROWTH = 1.1  # limit of the ratio of memory in the last quarter of the time to that in the second
RELEASED_MODEL = f"models:/{registry.MODEL}@{registry.RELEASED_ALIAS}"
OK, REFUSED = "200", "HTTP Error 503: Service Unavailable"


@dataclass(frozen=True, kw_only=True)
class Service:
    """A server to start, and how to request a caption from it."""

    name: str
    command: tuple[str, ...]
    path: str
    health: str  # path that answers when the server is ready
    body: Callable[[bytes], bytes]  # from a photo's bytes


@dataclass
class Observed:
    """The responses to the clients, and the server's memory over time."""

    answers: list[tuple[str, float]] = field(default_factory=list)  # each with its seconds
    slow_answers: list[str] = field(default_factory=list)  # how the slow requests ended
    megabytes: list[float] = field(default_factory=list)  # one sample per second

    @property
    def waits(self) -> list[float]:
        """Seconds of each caption, sorted."""
        return sorted(seconds for answer, seconds in self.answers if answer == OK)

    def count(self, answer: str) -> int:
        """Number of requests with this answer."""
        return sum(own == answer for own, _ in self.answers)


DEMO = Service(
    name="captionlab demo",
    command=("captionlab.cli", "demo", "--no-open"),
    path="/caption?beam=5&length_penalty=0.7",
    health="/systems",
    body=lambda photo: photo,
)
MLFLOW = Service(
    name="mlflow models serve",
    command=("mlflow", "models", "serve", "--env-manager", "local", "--model-uri", RELEASED_MODEL),
    path="/invocations",
    health="/ping",
    body=lambda photo: json.dumps({
        "dataframe_records": [{"image": base64.b64encode(photo).decode()}], "params": {"beam": 5}
    }).encode(),
)  # fmt: skip


def load(folder: Path, seconds: float, *, short: bool) -> list[Tally]:
    """Test both servers with the released captioner, first with some clients for a while, then with many."""
    photos = [_photo(folder / f"{number}.jpg") for number in range(16)]
    if not short:
        candidate = registry.Candidate(
            name="released", checkpoints=(RELEASED,), decoding=Decoding(), dataset="load", tags={}
        )
        registry.register_released(folder, "load", candidate)
    services = (DEMO,) if short else (DEMO, MLFLOW)
    return [tally for service in services for tally in _test(service, folder, photos, seconds)]


def _test(service: Service, folder: Path, photos: list[bytes], seconds: float) -> list[Tally]:
    bodies = [service.body(photo) for photo in photos]
    with _serving(service, folder) as (server, port):
        for body in bodies[:8]:
            _ask(port, service, body)
        seen = _run_clients(server, port, service, bodies, CLIENTS, SLOW, seconds)
        many = _run_clients(server, port, service, bodies, MANY_CLIENTS, 0, min(seconds, 30.0))
        after = _ask(port, service, bodies[0])

    waits, slow_answers = seen.waits, Counter(seen.slow_answers)
    answered = Tally(part=PART, fault=f"{service.name}: {CLIENTS} clients for {seconds:.0f} s")
    for answer, waited in seen.answers:
        answered.check(answer == OK and waited < MAX_SECONDS, f"{answer} after {waited:.1f} s")
    answered.note = (
        f"{len(waits) / seconds:.1f} captions per second; median {statistics.median(waits):.2f} s, longest "
        f"{waits[-1]:.2f} s, with {SLOW} more clients that send one byte per second ({_counts(slow_answers)})"
    )

    quarter = len(seen.megabytes) // 4
    parts = [statistics.median(seen.megabytes[i * quarter : (i + 1) * quarter or 1]) for i in range(4)]
    memory = Tally(part=PART, fault=f"{service.name}: memory during that time")
    memory.note = f"by quarter: {', '.join(f'{part:.0f}' for part in parts)} MB"
    memory.check(parts[3] <= GROWTH * parts[1], memory.note)

    overload = Tally(part=PART, fault=f"{service.name}: {MANY_CLIENTS} clients")
    for answer, _ in many.answers:
        overload.check(answer in (OK, REFUSED), answer)
    overload.check(after == OK, f"after the overload: {after}")
    overload.note = f"{many.count(OK)} captions, {many.count(REFUSED)} refused with 503; normal operation afterwards"
    return [answered, memory, overload]


def _run_clients(
    server: int, port: int, service: Service, bodies: list[bytes], clients: int, slow: int, seconds: float
) -> Observed:
    """Let every client send one photo after another; it waits a second after a refusal.

    The parameters are the server, its service and the load; together they are one setting of the measurement.
    """
    seen, ends = Observed(), time.perf_counter() + seconds

    def client(number: int) -> None:
        for body in cycle(bodies[number % len(bodies) :] + bodies[: number % len(bodies)]):
            began = time.perf_counter()
            if began >= ends:
                return
            answer = _ask(port, service, body)
            seen.answers.append((answer, time.perf_counter() - began))
            if answer == REFUSED:
                time.sleep(1)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    threads += [
        threading.Thread(target=lambda: seen.slow_answers.append(_send_slowly(port, service, ends)))
        for _ in range(slow)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        seen.megabytes.append(_resident_megabytes(server))
        time.sleep(1)
    return seen


def _ask(port: int, service: Service, body: bytes) -> str:
    """Send one request; returns OK or the error."""
    url = f"http://127.0.0.1:{port}{service.path}"
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=90) as reply:
            reply.read()
            return str(reply.status)
    except OSError as error:  # HTTPError too
        return str(error)


def _send_slowly(port: int, service: Service, ends: float) -> str:
    """Send a request at one byte per second; returns the server's answer or how it ended."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as slow:
            slow.sendall(f"POST {service.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999\r\n\r\n".encode())
            while time.perf_counter() < ends:
                slow.sendall(b"x")
                try:
                    return slow.recv(100).decode(errors="replace").split("\r\n")[0] or "cut off"
                except TimeoutError:
                    continue
    except OSError as error:
        return str(error)
    return "let wait"


@contextmanager
def _serving(service: Service, folder: Path) -> Iterator[tuple[int, int]]:
    """Start the server; yields its process group and port once it answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "UVICORN_LIMIT_CONCURRENCY": str(CONNECTIONS),  # MLflow's command has no option for it
    }
    server = subprocess.Popen(
        [sys.executable, "-m", *service.command, "--port", str(port)],
        cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        while not _answers(port, service):
            if server.poll() is not None:
                raise RuntimeError(f"{service.name} stopped with exit code {server.returncode}")
            time.sleep(0.1)
        yield server.pid, port
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _answers(port: int, service: Service) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}{service.health}", timeout=1).close()
    except OSError:
        return False
    return True


def _resident_megabytes(group: int) -> float:
    """Resident memory of all processes of a group."""
    total = 0.0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(folder.name)) == group:
                pages = int((folder / "statm").read_text().split()[1])
                total += pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        except (OSError, ValueError):  # the process has ended
            continue
    return total


def _photo(path: Path) -> bytes:
    Image.effect_noise((500, 375), 30).convert("RGB").save(path, quality=90)
    return path.read_bytes()


def _counts(counted: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counted.items())
