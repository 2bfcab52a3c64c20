"""A local server with the part of the Hugging Face Hub's API that uploads use, its store for large files included."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ruamel.yaml import YAML


@dataclass
class Hub:
    """The uploaded repositories and files, by repository and name, and the tokens of the requests."""

    address: str = ""
    created: list[str] = field(default_factory=list)
    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)  # in the store for large files (LFS), by digest
    tokens: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)


def _errors(card: str) -> list[dict[str, str]]:
    """What the Hub's documentation asks of a licence of one's own."""
    about = YAML(typ="safe").load(card.split("---\n")[1])
    link = about.get("license_link", "")
    if about["license"] != "other" or link in ("LICENSE", "LICENSE.md") or link.startswith("https://"):
        return []
    return [{"message": f'"license_link" must be a URL, LICENSE or LICENSE.md, not {link}'}]


@contextmanager
def hub() -> Iterator[Hub]:
    kept = Hub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            kept.requests.append(self.path)
            kept.tokens.add(self.headers.get("Authorization", ""))
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked.get('organization') or 'me'}/{asked['name']}"
                kept.created.append(name)
                kept.private = asked.get("private") or asked.get("visibility") == "private"
                self._answer({"url": f"{kept.address}/{name}", "name": name})
            elif self.path == "/api/validate-yaml":
                self._answer({"errors": _errors(json.loads(body)["content"]), "warnings": []})
            elif "/preupload/" in self.path:
                self._answer({"files": [
                    {"path": path, "uploadMode": "lfs" if path.endswith(".safetensors") else "regular",
                     "shouldIgnore": False}
                    for path in (file["path"] for file in json.loads(body)["files"])
                ]})  # fmt: skip
            elif self.path.endswith(".git/info/lfs/objects/batch"):
                self._answer({"transfer": "basic", "objects": [
                    {**own, "actions": {"upload": {"href": f"{kept.address}/large/{own['oid']}"}}}
                    for own in json.loads(body)["objects"]
                ]})  # fmt: skip
            elif "/commit/" in self.path:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        kept.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                    elif line["key"] == "lfsFile":
                        kept.files[line["value"]["path"]] = kept.large[line["value"]["oid"]]
                repository = self.path.removeprefix("/api/models/").partition("/commit/")[0]
                self._answer({"commitUrl": f"{kept.address}/{repository}/commit/1", "commitOid": "1", "success": True})
            else:
                self.send_error(404)

        def do_PUT(self) -> None:
            kept.requests.append(self.path)
            kept.large[self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["Content-Length"]))
            self._answer({})

        def _answer(self, value: Any) -> None:
            content = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        kept.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield kept
        server.shutdown()
