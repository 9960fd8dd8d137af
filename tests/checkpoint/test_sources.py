"""Downloads and hashes of weights, with a server on this machine in place of those on the web."""

import hashlib
import logging
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from detectron2.utils.file_io import Detectron2Handler, PathManager

from mask2former.checkpoint import WeightsError, downloads, sources
from mask2former.checkpoint.downloads import cached_path
from mask2former.checkpoint.sources import SWIN_RELEASES, local_weights

CONTENT = bytes(range(256)) * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
WRONG = "0" * 64


@dataclass
class Answer:
    """What the server answers for a path."""

    body: bytes = CONTENT
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    stop_after: int | None = None
    """Number of bytes after which the server closes the connection."""
    chunked: bool = False
    pause: float = 0.0
    """Seconds before each hundredth of the body."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, certificate: Path | None = None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Answer] = {}
        self.requests: list[str] = []
        self.scheme = "https" if certificate else "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}"

    def handle_error(self, *_):
        pass  # clients that give up


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def answer(self):
        self.server.requests.append(f"{self.command} {self.path}")
        answer = self.server.answers.get(self.path, Answer(b"", 404))
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "GET":
            if answer.chunked:
                self.wfile.write(f"{len(answer.body):x}\r\n".encode())
            body = answer.body[: answer.stop_after]
            step = len(body) // 100 + 1 if answer.pause else len(body) + 1
            for start in range(0, len(body), step):
                time.sleep(answer.pause)
                self.wfile.write(body[start : start + step])

    do_GET = do_HEAD = answer  # noqa: N815  # names that http.server asks for

    def log_message(self, *_):
        pass


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory) -> Path:
    """A key and a certificate for 127.0.0.1 in one file."""
    if not shutil.which("openssl"):
        pytest.skip("needs the command openssl")
    path = tmp_path_factory.mktemp("certificate") / "server.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-keyout", path, "-out", path.with_suffix(".crt"), "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    with path.open("a") as file:
        file.write(path.with_suffix(".crt").read_text())
    return path


@pytest.fixture
def plain_server(cache):
    """A server without encryption."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def server(cache, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with Server(certificate) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setattr(sources, "PYTORCH_URL", f"{server.url}/pytorch/")
        monkeypatch.setattr(sources, "SWIN_URL", f"{server.url}/swin/")
        monkeypatch.setattr(sources, "HUGGING_FACE_URL", f"{server.url}/hub/")
        monkeypatch.setattr(Detectron2Handler, "S3_DETECTRON2_PREFIX", f"{server.url}/d2/")
        yield server
        server.shutdown()
        thread.join()


def files(cache: Path) -> list[str]:
    """List the names of the files in the cache, except locks and hashes."""
    found = (path for path in cache.rglob("*") if path.is_file())
    return sorted(path.name for path in found if path.suffix not in (".lock", ".sha256"))


# --- Downloads ---


def test_a_file_is_downloaded_once_and_its_hash_is_logged(server, cache, caplog):
    server.answers["/some/model.pth"] = Answer()
    address = f"{server.url}/some/model.pth"
    with caplog.at_level(logging.INFO, downloads.__name__):
        path = local_weights(address)
    assert Path(path) == cached_path(address, address)
    assert Path(path).parent.parent == cache / "weights"
    assert Path(path).read_bytes() == CONTENT
    assert f"{address}#sha256={SHA256}" in caplog.text
    assert files(cache) == ["model.pth"]
    server.answers.clear()
    assert local_weights(address) == path
    assert server.requests == ["GET /some/model.pth"]


def test_each_url_has_a_file_of_its_own(server, plain_server, cache):
    """What one server sent is never used for another, another path or another query."""
    body = {f"/{name}": name.encode() for name in ("a/x.pth", "b/x.pth", "a/x.pth?v=2")}
    server.answers = {path: Answer(content) for path, content in body.items()}
    for path, content in body.items():
        assert Path(local_weights(server.url + path)).read_bytes() == content
    assert files(cache) == ["x.pth"] * 3
    plain_server.answers["/a/x.pth"] = Answer()
    assert Path(local_weights(f"{plain_server.url}/a/x.pth#sha256={SHA256}")).read_bytes() == (
        CONTENT
    )
    # What Detectron2's cache holds under the path alone is not used.
    (cache / "c").mkdir()
    (cache / "c/x.pth").write_bytes(CONTENT)
    with pytest.raises(WeightsError, match="HTTP 404"):
        local_weights(f"{server.url}/c/x.pth")


def test_addresses_with_prefixes(server, monkeypatch):
    name = SWIN_RELEASES[0]
    monkeypatch.setattr(
        sources.ModelCatalog, "get", lambda name: f"{server.url}/catalog/{name}.pkl"
    )
    for address, path in {
        "catalog://R-50": "catalog/R-50.pkl",
        f"swin://{name}": f"swin/{name}.pth",
        "timm://some.model_1k": "hub/timm/some.model_1k/resolve/main/model.safetensors",
        "detectron2://a/R-50.pkl": "d2/a/R-50.pkl",
    }.items():
        server.answers[f"/{path}"] = Answer()
        expected = cached_path(f"{server.url}/{path}", "")
        assert Path(local_weights(address)) == expected
        assert Path(local_weights(f"{address}#sha256={SHA256.upper()}")) == expected


def test_the_licence_of_the_published_weights_is_stated_once(server, monkeypatch, caplog):
    monkeypatch.setattr(sources, "PUBLISHED_URL", f"{server.url}/published/")
    sources._state_once.cache_clear()
    server.answers.update(
        {f"/{name}.pkl": Answer() for name in ("published/a", "published/b", "c")}
    )
    local_weights(f"{server.url}/c.pkl")
    assert "CC BY-NC" not in caplog.text
    local_weights(f"{server.url}/published/a.pkl")
    local_weights(f"{server.url}/published/b.pkl")
    assert caplog.text.count("licensed CC BY-NC 4.0") == 1


def test_detectron2_opens_our_addresses(server):
    server.answers[f"/swin/{SWIN_RELEASES[1]}.pth"] = Answer()
    address = f"swin://{SWIN_RELEASES[1]}"
    with PathManager.open(address, "rb") as file:
        assert file.read() == CONTENT
    assert Path(PathManager.get_local_path(address)).read_bytes() == CONTENT
    with pytest.raises(ValueError, match="to be read only, not opened as 'wb'"):
        PathManager.open(address, "wb")


def test_processes_that_ask_together_download_once(server):
    server.answers["/model.pth"] = Answer()
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(local_weights, [f"{server.url}/model.pth"] * 4))
    assert len(paths) == 1
    assert len(server.requests) == 1


@pytest.mark.parametrize("chunked", [False, True])
def test_an_interrupted_download_leaves_nothing(server, cache, chunked):
    server.answers["/model.pth"] = Answer(stop_after=300_000, chunked=chunked)
    address = f"{server.url}/model.pth"
    with pytest.raises(WeightsError, match="cannot be downloaded from") as error:
        local_weights(address)
    assert address in str(error.value)
    assert str(cached_path(address, "")) in str(error.value)
    assert files(cache) == []
    server.answers["/model.pth"] = Answer()
    assert Path(local_weights(address)).read_bytes() == CONTENT


def test_no_connection(server, cache):
    server.answers.clear()
    server.shutdown()
    server.server_close()
    with pytest.raises(WeightsError, match="Connection refused") as error:
        local_weights("swin://swin_tiny_patch4_window7_224")
    for part in (
        "swin://swin_tiny_patch4_window7_224",
        f"{server.url}/swin/swin_tiny_patch4_window7_224.pth",
        f"put the file at {cache}/weights/",
        "/swin_tiny_patch4_window7_224.pth, or",
        "MODEL.WEIGHTS",
    ):
        assert part in str(error.value)
    cached_path(f"{server.url}/swin/swin_tiny_patch4_window7_224.pth", "").write_bytes(CONTENT)
    assert local_weights("swin://swin_tiny_patch4_window7_224").startswith(str(cache))


def test_a_file_that_the_server_does_not_have(server, cache):
    server.answers["/hub/timm/resnet5/resolve/main/model.safetensors"] = Answer(b"", 401)
    with pytest.raises(WeightsError, match=r"timm://resnet5: there is no .*HTTP 401.*the name"):
        local_weights("timm://resnet5")
    with pytest.raises(WeightsError, match="HTTP 404"):
        local_weights(f"{server.url}/nothing.pth")
    assert files(cache) == []


@pytest.mark.parametrize("path", ["/a/..", "/", "", "/a/.", "/a/?b=c.pth"])
def test_a_url_names_a_file(server, path):
    with pytest.raises(WeightsError, match="names no file"):
        local_weights(server.url + path)
    assert server.requests == []


@pytest.mark.parametrize("name", ["/../../escape.pth", "/a%2f..%2fb.pth", f"/{'a' * 5000}.pth"])
def test_no_url_leaves_the_cache(server, cache, name):
    server.answers[name] = Answer()
    path = Path(local_weights(server.url + name))
    assert path.parent.parent == cache / "weights" and path.suffix == ".pth"


@pytest.mark.parametrize(
    "address", ["https://[::1/a.pth", "https://a b/c.pth", "https://h:x/a.pth", "https://\ud800/a"]
)
def test_malformed_urls_are_one_line(cache, address):
    with pytest.raises(WeightsError) as error:
        local_weights(address)
    assert "\n" not in str(error.value)


# --- Encryption and time ---


def test_plain_http_needs_a_pin(plain_server, cache):
    plain_server.answers["/model.pth"] = Answer()
    address = f"{plain_server.url}/model.pth"
    with pytest.raises(WeightsError, match=r"anyone on the way .* append #sha256="):
        local_weights(address)
    with pytest.raises(WeightsError, match="anyone on the way"):
        local_weights(f"ftp://127.0.0.1/model.pth#sha256={SHA256}")
    assert plain_server.requests == []
    assert Path(local_weights(f"{address}#sha256={SHA256}")).read_bytes() == CONTENT
    with pytest.raises(WeightsError, match="anyone on the way"):
        local_weights(address)  # in the cache too


@pytest.mark.parametrize("target", ["{plain}/model.pth", "ftp://127.0.0.1/a", "file:///etc/passwd"])
def test_redirects_stay_encrypted(server, plain_server, cache, target):
    plain_server.answers["/model.pth"] = Answer()
    location = {"Location": target.format(plain=plain_server.url)}
    server.answers["/model.pth"] = Answer(b"", 302, location)
    for pin in ("", f"#sha256={SHA256}"):
        with pytest.raises(WeightsError, match="cannot be downloaded"):
            local_weights(f"{server.url}/model.pth{pin}")
    assert plain_server.requests == []
    assert files(cache) == []


def test_a_certificate_of_strangers_is_refused(server, monkeypatch):
    server.answers["/model.pth"] = Answer()
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(WeightsError, match="CERTIFICATE_VERIFY_FAILED"):
        local_weights(f"{server.url}/model.pth")


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(downloads, "STALL_SECONDS", 0.5)


@pytest.mark.parametrize("pause", [0.1, 5], ids=["trickles", "is silent"])
def test_a_server_that_sends_hardly_anything_is_given_up(server, cache, impatient, pause):
    server.answers["/model.pth"] = Answer(b"a" * 10_000, pause=pause)
    before = time.monotonic()
    with pytest.raises(WeightsError, match=r"silent or very slow for 0\.5 s"):
        local_weights(f"{server.url}/model.pth")
    assert time.monotonic() - before < 4
    assert files(cache) == []


@pytest.mark.parametrize("header", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nA: "])
def test_a_server_that_never_answers_is_given_up(cache, impatient, header):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def trickle():
            connection, _ = listening.accept()
            with connection:
                connection.sendall(header)
                for _ in range(40):
                    time.sleep(0.1)
                    if header.endswith(b": "):
                        connection.sendall(b"a")

        threading.Thread(target=trickle, daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/model.pth#sha256={SHA256}"
        before = time.monotonic()
        with pytest.raises(WeightsError, match="silent or very slow"):
            local_weights(url)
        assert time.monotonic() - before < 4


def test_leftovers_of_a_killed_download_are_removed(server, cache):
    address = f"{server.url}/model.pth"
    path = cached_path(address, address)
    path.parent.mkdir(parents=True)
    path.with_name(".model.pth.0123456789abcdef").write_bytes(CONTENT[:100])
    server.answers["/model.pth"] = Answer()
    assert local_weights(address) == str(path)
    assert files(cache) == ["model.pth"]


# --- Hashes ---


def test_wrong_pin(server, cache):
    server.answers["/model.pth"] = Answer()
    address = f"{server.url}/model.pth"
    for _ in ("when downloaded", "when downloaded again"):
        with pytest.raises(WeightsError) as error:
            local_weights(f"{address}#sha256={WRONG}")
        for part in (f"{address}#sha256={WRONG}", f"SHA-256 {SHA256}", f"expected {WRONG}"):
            assert part in str(error.value)
        assert files(cache) == []
    assert len(server.requests) == 2


def test_a_damaged_file_in_the_cache_is_found_by_its_hash(server, cache):
    name = f"pytorch/tiny-{SHA256[:8]}.pth"
    server.answers[f"/{name}"] = Answer()
    address = f"{server.url}/{name}"
    path = Path(local_weights(address))
    for wanted in (address, f"{address}#sha256={SHA256}"):
        path.write_bytes(CONTENT[:-1])
        with pytest.raises(WeightsError, match="removed from the cache"):
            local_weights(wanted)
        assert files(cache) == []
        assert Path(local_weights(wanted)).read_bytes() == CONTENT


def test_a_file_without_published_hash_is_verified_by_that_of_its_download(server, cache):
    server.answers["/model.pth"] = Answer()
    address = f"{server.url}/model.pth"
    Path(local_weights(address)).write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(WeightsError, match=f"expected {SHA256}.*removed from the cache"):
        local_weights(address)
    assert Path(local_weights(address)).read_bytes() == CONTENT


def test_hash_in_the_name_of_pytorchs_files(server, cache, caplog):
    for folder in ("pytorch", "elsewhere"):
        for digits in (SHA256[:8], "01234567"):
            server.answers[f"/{folder}/tiny-{digits}.pth"] = Answer()
    with caplog.at_level(logging.INFO, downloads.__name__):
        local_weights(f"{server.url}/pytorch/tiny-{SHA256[:8]}.pth")
    assert "No hash" not in caplog.text
    with pytest.raises(WeightsError, match="expected 01234567"):
        local_weights(f"{server.url}/pytorch/tiny-01234567.pth")
    local_weights(f"{server.url}/elsewhere/tiny-01234567.pth")  # digits may be a date there
    assert files(cache) == sorted(["tiny-01234567.pth", f"tiny-{SHA256[:8]}.pth"])


def hub(server, sha256):
    """Serve a file as the Hugging Face Hub does after a model was renamed."""
    old, new = (f"/hub/timm/{name}/resolve/main/model.safetensors" for name in ("old", "new"))
    location = {"Location": f"{server.url}/storage/file", "X-Linked-Etag": f'"{sha256}"'}
    server.answers[old] = Answer(b"", 307, {"Location": new})
    server.answers[new] = Answer(b"", 302, location)
    server.answers["/storage/file"] = Answer(headers={"ETag": '"of another kind"'})


def test_hash_on_the_hub(server, cache, caplog):
    hub(server, SHA256)
    with caplog.at_level(logging.INFO, downloads.__name__):
        path = local_weights("timm://old")
    assert Path(path).read_bytes() == CONTENT
    assert "No hash" not in caplog.text
    assert [request for request in server.requests if "storage" in request] == ["GET /storage/file"]
    asked = len(server.requests)
    assert local_weights("timm://old") == path
    assert len(server.requests) == asked


def test_wrong_hash_on_the_hub(server, cache):
    hub(server, WRONG)
    with pytest.raises(WeightsError, match=f"timm://old: .* {SHA256}, expected {WRONG}"):
        local_weights("timm://old")
    assert files(cache) == []


def test_malformed_pin():
    for pin in ("", "12ab", WRONG[1:], "g" * 64):
        with pytest.raises(WeightsError, match="must be followed by 64 hexadecimal digits"):
            local_weights(f"timm://resnet50#sha256={pin}")


# --- Local files ---


def test_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"weights\.pth are not a regular file"):
        local_weights(str(tmp_path / "weights.pth"))


def test_local_files_and_folders(tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(CONTENT)
    assert local_weights(str(path)) == str(path)
    assert local_weights(str(tmp_path)) == str(tmp_path)
    assert local_weights(f"{path}#sha256={SHA256}") == str(path)
    with pytest.raises(WeightsError, match=f"SHA-256 {SHA256}, not the requested {WRONG}"):
        local_weights(f"{path}#sha256={WRONG}")
    assert path.exists()  # a user's own file is not the cache's
