"""A Hugging Face Hub with one model, for `huggingface_hub` to talk to on this machine."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class SmallHub:
    """A server that keeps the files that are uploaded to it.

    Args:
        licence: of the model, as its card states it.

    Attributes:
        url: for ``HF_ENDPOINT``.
        files: the content of the model's files by name.
        requests: the requests so far.
    """

    def __init__(self, licence: str):
        self.licence = licence
        self.repository = ""
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_error):
        self._server.shutdown()
        self._server.server_close()


def _handler(hub: SmallHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, content: object, status: int = 200, **headers: str) -> None:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self):
            hub.requests.append(f"{self.command} {self.path}")
            path = self.path.partition("?")[0]
            info = {
                "id": hub.repository,
                "sha": COMMIT,
                "cardData": {"license": hub.licence},
                "siblings": [{"rfilename": name} for name in hub.files],
                "tags": [],
            }
            name = path.rpartition("/")[2]
            if path.startswith(f"/api/models/{hub.repository}/tree/"):
                self.answer(
                    [
                        {"type": "file", "path": n, "size": len(c), "oid": "0"}
                        for n, c in hub.files.items()
                    ]
                )
            elif path.startswith(f"/api/models/{hub.repository}"):
                self.answer(info)
            elif path.startswith(f"/{hub.repository}/resolve/") and name in hub.files:
                tag = hashlib.sha256(hub.files[name]).hexdigest()
                self.answer(hub.files[name], ETag=f'"{tag}"', X_Repo_Commit=COMMIT)
            else:
                self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")

        do_HEAD = do_GET  # noqa: N815

        def do_POST(self):
            hub.requests.append(f"{self.command} {self.path}")
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path == "/api/repos/create":
                asked = json.loads(content)
                hub.repository = "/".join(filter(None, (asked.get("organization"), asked["name"])))
                self.answer({"url": f"{hub.url}/{hub.repository}", "id": hub.repository})
            elif "/preupload/" in self.path:
                names = [file["path"] for file in json.loads(content)["files"]]
                self.answer(
                    {
                        "files": [
                            {"path": n, "uploadMode": "regular", "shouldIgnore": False}
                            for n in names
                        ]
                    }
                )
            elif "/commit/" in self.path:
                for line in map(json.loads, content.splitlines()):
                    if line["key"] == "file":
                        value = line["value"]
                        hub.files[value["path"]] = base64.b64decode(value["content"])
                self.answer(
                    {
                        "commitUrl": f"{hub.url}/{hub.repository}/commit/{COMMIT}",
                        "commitOid": COMMIT,
                    }
                )
            elif self.path == "/api/validate-yaml":
                self.answer({"errors": [], "warnings": []})
            else:
                self.answer({"error": self.path}, 404)

        def log_message(self, *_arguments):
            pass

    return Handler
