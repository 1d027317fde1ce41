"""A fake of the wire protocol that wandb 0.31.0 was seen to speak: it takes runs, and nothing else.

It is not W&B. It answers the operations of an online run and of `wandb sync` in the way that makes
the client send all it has, and keeps what arrives; a test on it says what the client sends, not
what the hosted service makes of it. Whoever uses it checks :data:`SEEN` first.
"""

from __future__ import annotations

import gzip
import http.server
import json
import re
import threading
from dataclasses import dataclass, field

SEEN = "0.31"  # major and minor version of wandb whose protocol this is
KEY = "0" * 40
ENTITY = "somebody"


@dataclass
class Arrived:
    """One run as the server has it."""

    project: str
    told: dict = field(default_factory=dict)  # the last word on each variable of UpsertBucket
    config: dict = field(default_factory=dict)
    lines: dict[int, str] = field(default_factory=dict)  # of wandb-history.jsonl, by their offset
    summary: dict = field(default_factory=dict)
    exit_code: int | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    artifacts: list[dict] = field(default_factory=list)  # name, type, aliases, state, files

    @property
    def rows(self) -> list[dict]:
        """The history without the columns that W&B adds, which begin with ``_``."""
        rows = [json.loads(line) for _, line in sorted(self.lines.items())]
        return [{key: v for key, v in row.items() if not key.startswith("_")} for row in rows]


class FakeServer:
    """``with FakeServer() as server:`` listens on a free port of the loopback.

    Args:
        refuse: an HTTP status; every request of the API is then answered with it.
    """

    def __init__(self, refuse: int | None = None):
        self.refuse = refuse
        self.runs: dict[str, Arrived] = {}
        self.operations: list[str] = []
        self._lock = threading.Lock()

    def __enter__(self) -> FakeServer:
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                with fake._lock:
                    status, answer = fake._answer(self.path, body)
                self._send(status, json.dumps(answer).encode())

            def do_PUT(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with fake._lock:
                    fake._keep(self.path, body)
                self._send(200, b"")

            def do_GET(self):
                self._send(404, b"")

            def _send(self, status, body):
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, client_address):  # a client that went away
                pass

        self._http = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self.die()

    def die(self) -> None:
        """From now on nobody listens on the port."""
        self._http.shutdown()
        self._http.server_close()

    # ---- What it answers -------------------------------------------------------------------------

    def _answer(self, path: str, body: bytes) -> tuple[int, dict]:
        if match := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", path):
            return (self.refuse, {}) if self.refuse else (200, self._stream(match[1], body))
        if path != "/graphql":  # telemetry
            return 404, {}
        if self.refuse:
            return self.refuse, {"errors": [{"message": "refused"}]}
        asked = json.loads(body)
        operation = re.search(r"(?:query|mutation) (\w+)", asked["query"])[1]
        self.operations.append(operation)
        given = asked.get("variables") or {}
        answer = getattr(self, f"_{operation}", None)
        if answer is None:
            return 200, {"data": {}}
        return 200, {"data": answer(given.get("input", given))}

    def _stream(self, run: str, body: bytes) -> dict:
        sent = json.loads(body)
        arrived = self.runs[run]
        for name, chunk in (sent.get("files") or {}).items():
            if name == "wandb-history.jsonl":
                arrived.lines |= dict(enumerate(chunk["content"], chunk["offset"]))
            elif name == "wandb-summary.json":
                arrived.summary = json.loads(chunk["content"][-1])
        if sent.get("complete"):
            arrived.exit_code = sent["exitcode"]
        return {}

    def _keep(self, path: str, body: bytes) -> None:
        _, kind, run, name = path.split("/", 3)
        if kind == "run":
            self.runs[run].files[name] = body
        else:
            number, name = name.split("/", 1)
            self.runs[run].artifacts[int(number)]["files"][name] = body

    def _Viewer(self, given: dict) -> dict:
        return {
            "viewer": {
                "id": "u",
                "entity": ENTITY,
                "username": ENTITY,
                "email": "",
                "flags": "{}",
                "teams": {"edges": []},
            }
        }

    def _ServerFeaturesQuery(self, given: dict) -> dict:
        return {"serverInfo": {"features": []}}

    def _RunResumeStatus(self, given: dict) -> dict:
        run = self.runs.get(given["name"])
        if run is None:
            return {"model": None}
        return {
            "model": {
                "id": "p",
                "name": run.project,
                "entity": {"id": "e", "name": ENTITY},
                "bucket": {
                    "id": given["name"],
                    "name": given["name"],
                    "displayName": "",
                    "summaryMetrics": json.dumps(run.summary),
                    "config": json.dumps(run.config),
                    "logLineCount": 0,
                    "historyLineCount": len(run.lines),
                    "eventsLineCount": 0,
                    "historyTail": json.dumps([line for _, line in sorted(run.lines.items())][-1:]),
                    "eventsTail": "[]",
                    "tags": [],
                    "notes": None,
                    "wandbConfig": "{}",
                },
            }
        }

    def _UpsertBucket(self, given: dict) -> dict:
        new = given["name"] not in self.runs
        run = self.runs.setdefault(given["name"], Arrived(given.get("project") or ""))
        run.told |= {key: value for key, value in given.items() if value is not None}
        run.config |= json.loads(given.get("config") or "{}")
        project = {"id": "p", "name": run.project, "entity": {"id": "e", "name": ENTITY}}
        bucket = {
            "id": given["name"],
            "name": given["name"],
            "displayName": "",
            "description": "",
            "config": "{}",
            "sweepName": None,
            "project": project,
            "historyLineCount": len(run.lines),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": new}}

    def _CreateRunFiles(self, given: dict) -> dict:
        files = [
            {"name": name, "uploadUrl": f"{self.url}/run/{given['run']}/{name}"}
            for name in given["files"]
        ]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}

    def _ArtifactType(self, given: dict) -> dict:
        return {"project": None}

    def _GetViewer(self, given: dict) -> dict:
        return {
            "viewer": {
                "id": "u",
                "name": ENTITY,
                "username": ENTITY,
                "email": "",
                "admin": False,
                "flags": "{}",
                "entity": ENTITY,
                "deletedAt": None,
                "apiKeys": None,
                "teams": None,
            }
        }

    _FetchArtifactDigestAlgorithm = _ArtifactType

    def _CreateArtifact(self, given: dict) -> dict:
        run = self.runs[given["runName"]]
        identity = f"{given['runName']}:{len(run.artifacts)}"
        run.artifacts.append(
            {
                "name": given["artifactCollectionName"],
                "type": given["artifactTypeName"],
                "aliases": [alias["alias"] for alias in given.get("aliases") or []],
                "state": "PENDING",
                "files": {},
            }
        )
        return {
            "createArtifact": {
                "artifact": {
                    "id": identity,
                    "state": "PENDING",
                    "artifactSequence": {"latestArtifact": None},
                }
            }
        }

    def _CreateArtifactManifest(self, given: dict) -> dict:
        run, number = given["artifactID"].split(":")
        url = f"{self.url}/artifact/{run}/{number}/{given['name']}"
        return {
            "createArtifactManifest": {
                "artifactManifest": {
                    "id": given["artifactID"],
                    "file": {"id": "f", "uploadUrl": url, "uploadHeaders": []},
                }
            }
        }

    _UpdateArtifactManifest = _CreateArtifactManifest

    def _CreateArtifactFiles(self, given: dict) -> dict:
        edges = []
        for file in given["artifactFiles"]:
            run, number = file["artifactID"].split(":")
            edges.append(
                {
                    "node": {
                        "storagePath": file["name"],
                        "uploadHeaders": [],
                        "uploadMultipartUrls": None,
                        "uploadUrl": f"{self.url}/artifact/{run}/{number}/{file['name']}",
                        "artifact": {"id": file["artifactID"]},
                    }
                }
            )
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _CommitArtifact(self, given: dict) -> dict:
        run, number = given["artifactID"].split(":")
        self.runs[run].artifacts[int(number)]["state"] = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": ""}}}

    def _ArtifactByID(self, given: dict) -> dict:
        run, number = given["id"].split(":")
        artifact = self.runs[run].artifacts[int(number)]
        return {
            "artifact": {
                "id": given["id"],
                "artifactSequence": {"name": artifact["name"], "project": None},
                "versionIndex": 0,
                "artifactType": {"name": artifact["type"]},
                "description": None,
                "metadata": None,
                "ttlDurationSeconds": -2,
                "ttlIsInherited": False,
                "tags": [],
                "historyStep": None,
                "state": artifact["state"],
                "size": 0,
                "digest": "",
                "commitHash": None,
                "fileCount": 1,
                "createdAt": "2026-01-01T00:00:00Z",
                "updatedAt": None,
                "aliases": [],
            }
        }
