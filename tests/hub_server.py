"""A hub on this machine: the addresses of huggingface.co that an upload asks, with repositories in memory.

Large files are stored first, by their digest, and a commit names them; a commit on another parent than the newest is
refused; whoever has no token learns nothing. Faults are planted by the name of what is asked.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.loopback import serving

TOKEN = "hf_" + "secretOfThisTest" * 2
LARGE = 1000
"""Files from this size on are stored apart."""


@dataclass
class Repository:
    """One repository."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[dict[str, bytes]] = field(default_factory=list)

    def commit(self) -> str:
        """Keep what the files are now; returns the id."""
        self.commits.append(dict(self.files))
        return self.sha

    @property
    def sha(self) -> str:
        """The newest commit."""
        return sha1(str(len(self.commits)).encode()).hexdigest()


@dataclass
class Hub:
    """What a server holds, and what it is asked."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, Any] = field(default_factory=dict)
    """By name of what is asked: a status, "cut" for a connection that ends without an answer, "lost" for one that ends
    after the work was done. Of `store` those of one file: (number of the file, fault)."""
    asked: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Cut(Exception):
    """The connection ends here."""


class _Handler(BaseHTTPRequestHandler):
    server: Any
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answered()

    do_POST = do_PUT = do_GET

    def _answered(self) -> None:
        body, path = self._body(), urllib.parse.unquote(self.path.partition("?")[0])
        hub: Hub = self.server.hub
        with hub.lock:
            name, groups = next(
                ((name, match.groups()) for name, pattern in _ROUTES if (match := re.fullmatch(pattern, path))),
                ("", ()),
            )
            hub.asked.append(name)
            fault = hub.faults.get(name)
            if isinstance(fault, tuple):
                fault = fault[1] if hub.asked.count(name) == fault[0] else None
            if fault == "cut":
                self._cut()
            elif isinstance(fault, int):
                self._send(fault, {"error": f"it says {fault}"}, {"X-Error-Message": f"it says {fault}"})
            elif not name:
                self._send(404, {"error": "no such address"}, {})
            elif name != "store" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._send(401, {"error": "no"}, {"X-Error-Message": "Invalid credentials in Authorization header"})
            else:
                status, answer, headers = getattr(self, f"_{name}")(hub, body, *groups)
                self._cut() if fault == "lost" else self._send(status, answer, headers)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _send(self, status: int, answer: Any, headers: dict[str, str]) -> None:
        payload = json.dumps(answer).encode()
        self.send_response(status)
        own = {"Content-Type": "application/json", "Content-Length": str(len(payload))}
        for name, value in {**own, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(payload)

    def _whoami(self, hub: Hub, body: bytes) -> tuple[int, Any, dict[str, str]]:
        return 200, {"type": "user", "name": "anna", "orgs": []}, {}

    def _info(self, hub: Hub, body: bytes, name: str, revision: str | None) -> tuple[int, Any, dict[str, str]]:
        if (found := hub.repositories.get(name)) is None:
            return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        siblings = [{"rfilename": each} for each in found.files]
        about = {"id": name, "modelId": name, "sha": found.sha, "private": found.private, "tags": []}
        return 200, {**about, "siblings": siblings}, {}

    def _create(self, hub: Hub, body: bytes) -> tuple[int, Any, dict[str, str]]:
        wanted = json.loads(body)
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in hub.repositories:
            return 409, {"error": "You already created this model repo"}, {}
        made = hub.repositories[name] = Repository(wanted.get("visibility") == "private" or bool(wanted.get("private")))
        made.files[".gitattributes"] = b"*.safetensors filter=lfs\n"
        made.commit()
        return 200, {"url": f"{hub.address}/{name}", "name": name}, {}

    def _card(self, hub: Hub, body: bytes) -> tuple[int, Any, dict[str, str]]:
        assert json.loads(body)["content"].startswith("---\n")
        return 200, {"errors": [], "warnings": []}, {}

    def _modes(self, hub: Hub, body: bytes, name: str) -> tuple[int, Any, dict[str, str]]:
        wanted = json.loads(body)
        assert wanted.get("gitIgnore") == ""
        files = [
            {"path": each["path"], "uploadMode": "lfs" if each["size"] >= LARGE else "regular", "shouldIgnore": False}
            for each in wanted["files"]
        ]
        return 200, {"files": files}, {}

    def _batch(self, hub: Hub, body: bytes, name: str) -> tuple[int, Any, dict[str, str]]:
        objects = []
        for each in json.loads(body)["objects"]:
            entry = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in hub.stored:
                entry["actions"] = {"upload": {"href": f"{hub.address}/store/{each['oid']}?signature=OfTheStore"}}
            objects.append(entry)
        return 200, {"transfer": "basic", "objects": objects}, {}

    def _store(self, hub: Hub, body: bytes, digest: str) -> tuple[int, Any, dict[str, str]]:
        assert sha256(body).hexdigest() == digest
        hub.stored[digest] = body
        return 200, {}, {}

    def _commit(self, hub: Hub, body: bytes, name: str) -> tuple[int, Any, dict[str, str]]:
        found = hub.repositories[name]
        head, *lines = [json.loads(line) for line in body.splitlines()]
        if head["value"].get("parentCommit") != found.sha:
            return 412, {"error": "A commit has happened since"}, {}
        for line in lines:
            match line["key"], line["value"]:
                case "file", value:
                    found.files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile", value:
                    found.files[value["path"]] = hub.stored[value["oid"]]
                case "deletedFile", value:
                    del found.files[value["path"]]
        oid = found.commit()
        return 200, {"commitUrl": f"{hub.address}/{name}/commit/{oid}", "commitOid": oid}, {}

    def _paths(self, hub: Hub, body: bytes, name: str, revision: str) -> tuple[int, Any, dict[str, str]]:
        files = hub.repositories[name].files
        found = []
        for path in urllib.parse.parse_qs(body.decode())["paths"]:
            if (content := files.get(path)) is not None:
                oid = sha1(b"blob %d\0" % len(content) + content).hexdigest()
                entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": oid}
                if len(content) >= LARGE:
                    entry["lfs"] = {"size": len(content), "oid": sha256(content).hexdigest(), "pointerSize": 130}
                found.append(entry)
        return 200, found, {}

    def log_message(self, *_: Any) -> None:
        """Quiet."""


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES = (
    ("whoami", "/api/whoami-v2"),
    ("create", "/api/repos/create"),
    ("card", "/api/validate-yaml"),
    ("modes", f"/api/models/{_NAME}/preupload/main"),
    ("commit", f"/api/models/{_NAME}/commit/main"),
    ("paths", rf"/api/models/{_NAME}/paths-info/(\w+)"),
    ("batch", rf"/{_NAME}\.git/info/lfs/objects/batch"),
    ("store", r"/store/(\w+)"),
    ("info", rf"/api/models/{_NAME}(?:/revision/(\w+))?"),
)


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A hub that answers until the block is left."""
    hub = Hub()
    with serving(_Handler, hub=hub) as server:
        hub.address = f"http://127.0.0.1:{server.server_address[1]}"
        yield hub
