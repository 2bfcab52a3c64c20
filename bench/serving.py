"""The registered model or the demo page under many clients: captions a second, errors, refusals, waiting, memory.

    python bench/serving.py [--model models:/captionlab@best | --demo] [--clients 16] [--slow 4] [--limit 32]

Starts ``mlflow models serve`` or ``captionlab demo`` on this machine, warms it up, lets every client send one photo
after another, and slow clients a byte a second, and prints what happened. MLflow's server refuses what is beyond
``--limit`` connections, the demo what is beyond its queue: more clients than that show what overload does. The
server's memory is read from /proc, so it is told on Linux only. Clients and server share the machine.
"""

import argparse
import base64
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from contextlib import closing
from itertools import cycle
from pathlib import Path

from captionlab.registry import BEST_MODEL
from captionlab.tracking import tracking_uri
from common import machine
from extraction import draw_photos

PING = {"mlflow": "/ping", "captionlab.cli": "/systems"}  # by what serves
REFUSED = "HTTP Error 503: Service Unavailable"


def request_of(photo: Path, beam: int) -> bytes:
    """The body of a request for one photo's caption."""
    image = base64.b64encode(photo.read_bytes()).decode()
    return json.dumps({"dataframe_records": [{"image": image}], "params": {"beam": beam}}).encode()


def ask(url: str, body: bytes) -> str:
    """Send one request; "200", or what went wrong."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=90) as reply:
            reply.read()
            return str(reply.status)
    except OSError as error:  # HTTPError too
        return str(error)


def resident_megabytes(group: int) -> float:
    """What the processes of a process group hold in memory."""
    total = 0.0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(folder.name)) == group:
                pages = int((folder / "statm").read_text().split()[1])
                total += pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        except (OSError, ValueError):  # it has ended
            continue
    return total


def dawdle(port: int, path: str, ends: float) -> str:
    """Send a request a byte a second; the server's answer, or how it ended."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as slow:
            slow.sendall(f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999\r\n\r\n".encode())
            while time.perf_counter() < ends:
                slow.sendall(b"x")
                try:
                    return slow.recv(100).decode(errors="replace").split("\r\n")[0] or "cut off"
                except TimeoutError:
                    continue
    except OSError as error:
        return str(error)
    return "let wait"


def start(command: list[str], port: int, limit: int) -> subprocess.Popen[bytes]:
    """A server in a process group of its own, once it answers."""
    began = time.perf_counter()
    environment = {**os.environ, "MLFLOW_TRACKING_URI": tracking_uri(Path.cwd()), "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment["UVICORN_LIMIT_CONCURRENCY"] = str(limit)  # of MLflow's server; it has no option for it
    server = subprocess.Popen(
        [sys.executable, "-m", *command, "--port", str(port)],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    while server.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}{PING[command[0]]}", timeout=1).close()
        except OSError:
            time.sleep(0.1)
            continue
        print(f"the server answers after {time.perf_counter() - began:.1f} s")
        return server
    raise SystemExit(f"{' '.join(command)} stopped with exit code {server.returncode}; start it by hand to see why")


def main() -> None:
    """Run the clients and print what they saw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default=BEST_MODEL)
    parser.add_argument("--demo", action="store_true", help="captionlab demo instead of a model in MLflow")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--slow", type=int, default=4, help="clients that send a byte a second")
    parser.add_argument("--limit", type=int, default=32, help="connections of MLflow's server; beyond it refuses")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs; drawn where none is given")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = sorted(arguments.photos.glob("*.jpg"))[:32] if arguments.photos else draw_photos(Path(folder), 32)
        bodies = [path.read_bytes() if arguments.demo else request_of(path, arguments.beam) for path in paths]
    if not bodies:
        raise SystemExit(f"no .jpg in {arguments.photos}")
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    path, command = "/invocations", ["mlflow", "models", "serve", "--env-manager", "local"]
    command += ["--model-uri", arguments.model]
    if arguments.demo:
        path, command = f"/caption?beam={arguments.beam}&length_penalty=0.7", ["captionlab.cli", "demo", "--no-open"]
    url = f"http://127.0.0.1:{port}{path}"
    server = start(command, port, arguments.limit)
    try:
        for body in bodies[:8]:
            ask(url, body)
        seen: list[tuple[str, float]] = []
        dawdled: list[str] = []
        memory = [resident_megabytes(server.pid)]
        ends = time.perf_counter() + arguments.seconds

        def client(number: int) -> None:
            for body in cycle(bodies[number % len(bodies) :] + bodies[: number % len(bodies)]):
                began = time.perf_counter()
                if began >= ends:
                    return
                answer = ask(url, body)
                seen.append((answer, time.perf_counter() - began))
                if answer == REFUSED:
                    time.sleep(1)

        clients = [threading.Thread(target=client, args=(number,)) for number in range(arguments.clients)]
        for _ in range(arguments.slow):
            clients.append(threading.Thread(target=lambda: dawdled.append(dawdle(port, path, ends))))
        began = time.perf_counter()
        for each in clients:
            each.start()
        while any(each.is_alive() for each in clients):
            time.sleep(1)
            memory.append(resident_megabytes(server.pid))
        took = time.perf_counter() - began
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    print(machine())
    waits = sorted(wait for answer, wait in seen if answer == "200")
    refused = sum(answer == REFUSED for answer, _ in seen)
    errors = Counter(answer for answer, _ in seen if answer not in ("200", REFUSED))
    print(f"{arguments.clients} clients for {took:.0f} s, beam {arguments.beam}: {len(waits)} captions, ", end="")
    print(f"{len(waits) / took:.1f} a second; refused with 503: {refused}; errors: {dict(errors) or 'none'}")
    print(f"slow clients: {dict(Counter(dawdled)) or 'none'}")
    if len(waits) > 1:
        p95 = statistics.quantiles(waits, n=20)[-1]
        print(f"waiting: median {statistics.median(waits):.2f} s, p95 {p95:.2f} s, longest {waits[-1]:.2f} s")
    quarters = [statistics.median(memory[i * len(memory) // 4 : (i + 1) * len(memory) // 4 or 1]) for i in range(4)]
    print(f"memory: {memory[0]:.0f} MB before, by quarters {', '.join(f'{each:.0f}' for each in quarters)} MB")


if __name__ == "__main__":
    main()
