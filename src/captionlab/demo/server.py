"""The demo's server: a page, its files, examples and captions as JSON.

Knows HTTP and the line-up of systems; nothing of models. It serves one person on their own computer: requests from
other web pages are refused, and a slow client does not hold up others.
"""

import asyncio
import errno
import ipaddress
import socket
import threading
import webbrowser
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import uvicorn
from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from captionlab.demo.examples import EXAMPLES, example_photo
from captionlab.demo.lineup import Lineup
from captionlab.errors import CaptionlabError

MAX_BYTES = 20_000_000  # of a photo
MAX_BEAM = 10
MAX_PENALTY = 2.0
WAITING = 8  # requests that may wait while one is running
BODY_SECONDS = 30.0  # time for a photo to arrive
_STATIC = Path(__file__).parent / "static"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_Result = TypeVar("_Result")


def serve(root: Path, *, host: str, port: int, open_browser: bool, rows: Sequence[str] = ()) -> list[str]:
    """Serve the page on ``host`` until Ctrl-C; port 0 takes a free port. Returns the closing lines.

    ``rows`` of the comparison are shown beside the trained systems. Raises CaptionlabError when no system is trained, a
    row is missing or the port is not available.
    """
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]
        other = "--port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host"
        raise CaptionlabError(f"cannot listen at {host}, port {port} ({reason}); choose another {other}") from error
    with listener:
        lineup = Lineup.load(root, rows)
        shown = "localhost" if host in ("", "0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listener.getsockname()[1]}/"
        print(f"the demo is at {address} (Ctrl-C stops it)", flush=True)
        if open_browser:  # in a thread: some browsers block the caller
            threading.Thread(target=webbrowser.open, args=[address], daemon=True).start()
        # uvicorn has no timeout for a connection whose first request never comes. Such a connection costs one open file
        # and blocks no other, whereas limit_concurrency would count it and refuse the page to everyone.
        config = uvicorn.Config(
            application(lineup, {host, socket.gethostname()}), http="h11", ws="none", log_level="warning",
            access_log=False, server_header=False, proxy_headers=False, timeout_graceful_shutdown=3,
        )  # fmt: skip
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
    return ["stopped"]


def application(lineup: Lineup, names: set[str]) -> Starlette:
    """The web application; ``names`` are host names of this computer, beside localhost and IP addresses."""
    worker = CapacityLimiter(1)  # the models share the cores, so requests run one at a time
    admitted = 0  # running or waiting; the limiter itself counts a job only some time after it was admitted

    async def work(job: Callable[[], _Result]) -> _Result:
        """Run a job in the worker thread when its turn comes. Raises HTTPException when too many are waiting."""
        nonlocal admitted
        if admitted > WAITING:
            raise HTTPException(503, "too many photos are waiting; try again in a moment", {"Retry-After": "2"})
        admitted += 1
        try:
            return await to_thread.run_sync(job, limiter=worker)
        finally:
            admitted -= 1

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        warming = asyncio.create_task(to_thread.run_sync(lineup.warm_up, limiter=worker))
        yield
        await warming

    async def page(request: Request) -> Response:
        return FileResponse(_STATIC / "index.html")

    async def systems(request: Request) -> Response:
        return JSONResponse({"systems": lineup.about(), "max_bytes": MAX_BYTES})

    async def examples(request: Request) -> Response:
        return JSONResponse({"examples": [{**asdict(one), "source": f"/examples/{one.name}"} for one in EXAMPLES]})

    async def example(request: Request) -> Response:
        photo = await to_thread.run_sync(example_photo, request.path_params["name"])
        if photo is None:
            raise HTTPException(404, "there is no such example")
        return Response(photo, media_type="image/jpeg")

    async def caption(request: Request) -> Response:
        """Captions of the photo in the body, or of the one sent before whose digest is in the query."""
        beam = _number(request, "beam", 1, MAX_BEAM)
        penalty = _number(request, "length_penalty", 0, MAX_PENALTY)
        known = request.query_params.get("photo")
        photo = b"" if known else await _body(request)

        def job() -> dict[str, Any]:
            digest = known or lineup.add(photo)
            captions = lineup.captions(digest, beam=int(beam) if beam else None, length_penalty=penalty)
            return {"photo": digest, "systems": captions}

        try:
            return JSONResponse(await work(job))
        except KeyError:
            raise HTTPException(404, "the server no longer has this photo; send it again") from None
        except CaptionlabError as error:
            raise HTTPException(422, str(error)) from error

    return Starlette(
        routes=[
            Route("/", page),
            Route("/systems", systems),
            Route("/examples", examples),
            Route("/examples/{name}", example),
            Route("/caption", caption, methods=["POST"]),
            Mount("/static", StaticFiles(directory=_STATIC)),
        ],
        middleware=[Middleware(_Guard, names=names)],
        exception_handlers={HTTPException: _refused, Exception: _failed},
        lifespan=lifespan,
    )


def _number(request: Request, name: str, least: float, most: float) -> float | None:
    """A number of the query within its bounds; None if it is not given."""
    if name not in request.query_params:
        return None
    try:
        value = float(request.query_params[name])
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise HTTPException(400, f"{name} must be a number from {least:g} to {most:g}")
    return value


async def _body(request: Request) -> bytes:
    """The whole body. Raises HTTPException as soon as it is too large, too slow or interrupted."""
    too_large = HTTPException(413, f"the photo is too large; the limit is {MAX_BYTES / 1e6:.0f} MB")
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > MAX_BYTES:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise too_large
    except TimeoutError:
        raise HTTPException(408, f"the photo took longer than {BODY_SECONDS:.0f} seconds to arrive") from None
    except ClientDisconnect:
        raise HTTPException(400, "the upload was interrupted") from None
    if not body:
        raise HTTPException(422, "the file is empty; choose a photo")
    return bytes(body)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the server failed; see its terminal for the reason"}, 500)


class _Guard:
    """Refuses requests that come from other web pages, and adds the security headers to each response.

    A web page elsewhere can point its own host name at this computer (DNS rebinding), which shows in the Host header,
    or post to it across origins, which shows in Origin. An IP address cannot be rebound.
    """

    def __init__(self, app: ASGIApp, names: set[str]) -> None:
        self._app = app
        self._names = {name.lower() for name in names} | {"localhost"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        if scope["type"] != "http":  # startup and shutdown
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_ours(host):
            refusal = JSONResponse({"error": "this server is not known by that name; use its address"}, 421)
            await refusal(scope, receive, guarded)
        elif urlsplit(headers.get("origin", f"http://{host}")).netloc.lower() != host.lower():
            await JSONResponse({"error": "requests from other pages are refused"}, 403)(scope, receive, guarded)
        else:
            await self._app(scope, receive, guarded)

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if name not in self._names:
                ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
