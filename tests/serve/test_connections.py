"""Clients that are slow or go away, and servers that are told to stop while they are busy."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from servers import photo, png, running

HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"


def connect(server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


def seconds_until_closed(client: socket.socket) -> float:
    start = time.monotonic()
    try:
        while client.recv(2**16):
            pass
    except ConnectionResetError:
        pass
    return time.monotonic() - start


@pytest.fixture(scope="module")
def hasty(run_config, tmp_path_factory):
    """A server that waits for nobody."""
    log = tmp_path_factory.mktemp("hasty") / "log.txt"
    limits = {"header_seconds": 1, "upload_seconds": 1, "stall_seconds": 1}
    with running(run_config, log, **limits) as server:
        yield server
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("beginning", [b"", b"POST /pre", HEAD])
def test_slow_headers(hasty, beginning):
    """A byte now and then does not help."""
    with connect(hasty) as client:
        client.sendall(beginning)

        def drip():
            try:
                for _ in range(20):
                    time.sleep(0.2)
                    client.sendall(b"x")
            except OSError:
                pass

        thread = threading.Thread(target=drip)
        if beginning:
            thread.start()
        assert 0.5 < seconds_until_closed(client) < 3
    if beginning:
        thread.join()


def test_slow_headers_of_a_second_request(hasty):
    with connect(hasty) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
        client.sendall(b"GET /heal")
        assert 0.5 < seconds_until_closed(client) < 3


def test_slow_bodies(hasty):
    with connect(hasty) as client:
        client.sendall(HEAD + b"Content-Length: 100\r\n\r\nabc")
        start = time.monotonic()
        reply = client.recv(4096)
        assert 0.5 < time.monotonic() - start < 3
        assert reply.startswith(b"HTTP/1.1 408")
    assert hasty.metric("mask2former_queue_depth") == 0


def test_clients_that_do_not_read_their_answers(hasty):
    """The connection ends, and with it the memory of the answer."""
    # The answer is so large that the system does not take it at once.
    noise = np.random.default_rng(0).integers(0, 256, (1600, 1600, 3), dtype=np.uint8)
    content = png(noise)
    before = hasty.metric("process_open_fds")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", hasty.port))
    with client:
        length = f"Content-Length: {len(content)}\r\n\r\n".encode()
        head = HEAD.replace(b"/predict", b"/predict?format=overlay&task=instance&threshold=1")
        client.sendall(head + length + content)
        end = time.monotonic() + 30
        while hasty.metric("mask2former_queue_depth") and time.monotonic() < end:
            time.sleep(0.1)
        while hasty.metric("process_open_fds") > before and time.monotonic() < end:
            time.sleep(0.1)
        assert time.monotonic() < end


def test_many_slow_clients_do_not_stop_others(hasty):
    clients = [connect(hasty) for _ in range(50)]
    for client in clients:
        client.sendall(b"GET / HT")
    start = time.monotonic()
    assert hasty.predict(png(photo())).status == 200
    assert time.monotonic() - start < 5
    for client in clients:
        client.close()


def test_the_work_of_clients_that_went_away_is_dropped(server):
    content = png(photo(0, 800, 800))
    before = server.metric("mask2former_model_seconds_count")
    clients = [connect(server) for _ in range(20)]
    for client in clients:
        client.sendall(HEAD + f"Content-Length: {len(content)}\r\n\r\n".encode() + content)
    while server.metric("mask2former_queue_depth") < 10:
        time.sleep(0.01)
    for client in clients:
        client.close()
    end = time.monotonic() + 30
    while server.metric("mask2former_queue_depth") and time.monotonic() < end:
        time.sleep(0.02)
    assert server.metric("mask2former_queue_depth") == 0
    assert server.metric("mask2former_model_seconds_count") - before < 15


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_clients_that_only_close_their_half_are_answered(server, version):
    """As ``nc -N`` does; 100 is no answer, and clients skip it."""
    content = png(photo(0, 800, 800))
    head = HEAD.replace(b"1.1", version.encode())
    sent = head + f"Content-Length: {len(content)}\r\n\r\n".encode() + content
    pipelined = sent + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for request, statuses in ((sent, [200]), (pipelined, [200, 200])):
        with connect(server) as client:
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
            found, answered = b"", 0.0
            while part := client.recv(2**16):
                found, answered = found + part, time.monotonic()
            assert time.monotonic() - answered < 4  # before uvicorn ends idle connections
        lines = re.findall(rb"HTTP/1\.1 (\d+)", found)
        answers = [int(status) for status in lines if status != b"100"]
        assert answers == (statuses if version == "1.1" else [200])
        assert (b"100" in lines) == (version == "1.1")
    with connect(server) as client:
        client.sendall(sent[:-1])
        client.shutdown(socket.SHUT_WR)
        assert seconds_until_closed(client) < 2
    assert server.metric("mask2former_queue_depth") == 0


def test_clients_of_the_standard_library_skip_what_is_no_answer(server):
    """Those that read on while their half is closed."""
    content = png(photo(0, 800, 800))
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("POST", "/predict", content, {"Content-Type": "image/png"})
    connection.sock.shutdown(socket.SHUT_WR)
    with connection.getresponse() as response:
        assert response.status == 200
        assert json.loads(response.read())["width"] == 800
    connection.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_shutdown_while_busy(run_config, tmp_path, number):
    """What was accepted is answered; the rest is refused, and tells so."""
    content = png(photo(0, 300, 300))
    log = tmp_path / "log"
    with running(run_config, log) as server:

        def send(_):
            try:
                reply = server.predict(content, "?task=semantic")
            except (ConnectionError, http.client.HTTPException):
                return None
            return reply.status, reply.json()["objects"]

        with ThreadPoolExecutor(32) as threads:
            sent = [threads.submit(send, i) for i in range(32)]
            while server.metric("mask2former_queue_depth") < 20:
                time.sleep(0.005)
            inside = server.metric("mask2former_queue_depth")
            os.kill(server.process.pid, number)
            time.sleep(0.3)
            with pytest.raises(ConnectionRefusedError):
                connect(server)
            answers = [future.result() for future in sent]
        server.process.join(30)
        assert server.process.exitcode == 0
    answered = [answer for answer in answers if answer is not None]
    assert len(answered) >= inside
    assert all(answer == answered[0] and answer[0] == 200 for answer in answered)
    assert log.read_text().endswith("Stopped.\n")
    assert "Traceback" not in log.read_text()


def test_shutdown_does_not_wait_for_idle_clients(run_config, tmp_path):
    with running(run_config, tmp_path / "log") as server:
        clients = [connect(server) for _ in range(5)]
        clients[0].sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        clients[1].sendall(b"GET /heal")
        clients[0].recv(4096)
        start = time.monotonic()
        os.kill(server.process.pid, signal.SIGTERM)
        server.process.join(30)
        assert time.monotonic() - start < 5
        assert server.process.exitcode == 0
        for client in clients:
            client.close()


@pytest.mark.slow
def test_memory_is_flat(run_config, tmp_path):
    """1,000 requests, of which some are broken and some are given up."""
    contents = [png(photo(seed, 200 + 10 * (seed % 5), 300)) for seed in range(20)]
    queries = ("?task=instance&threshold=0", "?task=semantic", "?format=overlay", "?format=labels")
    with running(run_config, tmp_path / "log") as server:

        def send(i):
            content = contents[i % 20]
            if i % 10 == 9:
                content = content[: len(content) // 2]
            if i % 25 == 24:
                with connect(server) as client:
                    client.sendall(HEAD + b"Content-Length: 5000\r\n\r\n" + content[:1000])
                return 0
            return server.predict(content, queries[i % 4]).status

        measured = []
        with ThreadPoolExecutor(8) as threads:
            for start in range(0, 1200, 200):
                statuses = list(threads.map(send, range(start, start + 200)))
                assert statuses.count(200) == 176 and statuses.count(422) == 16
                kinds = ("process_resident_memory_bytes", "process_open_fds")
                measured.append([server.metric(kind) for kind in kinds])
        memory = [value / 2**20 for value, _ in measured]
        print("MiB after each 200 requests:", [round(value) for value in memory])
        # The first 200 requests fill caches.
        assert memory[-1] - memory[0] < 30
        assert max(files for _, files in measured) - measured[0][1] <= 4
        assert server.metric("mask2former_queue_depth") == 0
