"""Who may use the server."""

from __future__ import annotations

import base64

import pytest
from servers import photo, png, running
from starlette.datastructures import Headers

from mask2former.serve.errors import RequestError
from mask2former.serve.security import Guard, check_token, is_loopback

TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="module")
def locked(run_config, tmp_path_factory):
    log = tmp_path_factory.mktemp("locked") / "log.txt"
    with running(run_config, log, token=TOKEN, host="0.0.0.0") as server:
        yield server


def basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


@pytest.mark.parametrize(
    "sent",
    [
        "", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", TOKEN, "Basic ?!",
        basic(TOKEN, ""), basic("user", "wrong"), f"Token {TOKEN}", "Bearer \xfc",
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/predict", "/info", "/metrics", "/setup", "/nowhere"])
def test_nothing_works_without_the_token(locked, sent, path):
    method = "POST" if path in ("/predict", "/setup") else "GET"
    reply = locked.request(method, path, png(photo()), {"Authorization": sent})
    assert reply.status == 401
    assert reply.headers["www-authenticate"] == "Bearer"
    assert TOKEN not in str(reply)


@pytest.mark.parametrize("sent", [f"Bearer {TOKEN}", f"bearer  {TOKEN}", basic("anyone", TOKEN)])
def test_the_token_opens(locked, sent):
    assert locked.predict(png(photo()), Authorization=sent).status == 200
    assert locked.get("/info", Authorization=sent).status == 200


def test_what_is_open_says_nothing(locked):
    for path in ("/", "/healthz", "/health", "/openapi.json"):
        reply = locked.get(path, Authorization="")
        assert reply.status == 200
        assert b"person" not in reply.body  # a class of the model


def test_a_request_without_the_token_does_not_reach_the_model(locked):
    before = locked.metric("mask2former_model_seconds_count")
    locked.predict(png(photo()), Authorization="Bearer wrong")
    assert locked.metric("mask2former_model_seconds_count") == before


@pytest.mark.parametrize(
    ("token", "host", "words"),
    [
        (None, "0.0.0.0", "needs --token"),
        (None, "::", "needs --token"),
        (None, "192.168.1.2", "needs --token"),
        (None, "my-machine", "needs --token"),
        ("short", "127.0.0.1", "at least 16"),
        ("with spaces in between", "0.0.0.0", "without spaces"),
        ("ünïcödé-and-long-enough", "0.0.0.0", "ASCII"),
    ],
)
def test_addresses_that_others_reach_need_a_good_token(token, host, words):
    with pytest.raises(ValueError, match=words):
        check_token(token, host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine_needs_none(host):
    assert is_loopback(host)
    check_token(None, host)


def status(guard: Guard, **headers: str) -> int:
    try:
        guard.check("/predict", Headers(headers))
    except RequestError as error:
        return error.status
    return 200


def test_pages_of_other_sites_cannot_use_a_local_server():
    """Neither by a request to 127.0.0.1, nor by a name of theirs that leads there."""
    guard = Guard(None, local_only=True)
    assert status(guard, host="127.0.0.1:8000") == 200
    assert status(guard, host="[::1]:8000") == 200
    assert status(guard, host="localhost", origin="http://localhost") == 200
    assert status(guard, host="evil.example:8000") == 403
    assert status(guard, host="127.0.0.1.evil.example") == 403
    assert status(guard, host="127.0.0.1:8000", origin="https://evil.example") == 403
    assert status(guard, host="127.0.0.1:8000", origin="null") == 403
    assert status(guard) == 403
    public = Guard(TOKEN, local_only=False)
    assert status(public, host="gpu.example", authorization=f"Bearer {TOKEN}") == 200


def test_other_sites_over_http(server):
    content = png(photo())
    assert server.predict(content, Host="evil.example").status == 403
    assert server.predict(content, Origin="https://evil.example").status == 403
    assert server.predict(content, Origin=f"http://127.0.0.1:{server.port}").status == 200


def test_headers_for_browsers(server):
    for path in ("/", "/info", "/nowhere"):
        headers = server.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers
    policy = server.get("/").headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
