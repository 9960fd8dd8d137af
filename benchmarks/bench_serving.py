#!/usr/bin/env python
"""Throughput of `mask2former serve` against calling the same model in a loop.

    python benchmarks/bench_serving.py MODEL IMAGE... [--rounds 5] [--requests 40] [--threads 2]

Both decode each image, predict, and make the JSON answer. The server is a process of its own on
this machine, and so are its clients, which share the cores with it. Rounds of the loop and of the
server take turns; the ratio of each pair of rounds is printed, and their median. On a machine that
does other work too, the ratio of CPU times says more than that of throughput.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice

import torch

from mask2former import Mask2Former
from mask2former.data.image import decode_image
from mask2former.serve.answers import as_json


def loop(model: Mask2Former, contents: list[bytes]) -> float:
    """Return the seconds of a loop over the contents of image files."""
    segmenter = model.segmenter()
    start = time.perf_counter()
    for content in contents:
        json.dumps(as_json(segmenter.find(decode_image(content))))
    return time.perf_counter() - start


def served(port: int, contents: list[bytes], clients: int) -> float:
    """Return the seconds that a server takes for the same."""

    def client(mine: list[bytes]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for content in mine:
            connection.request("POST", "/predict", content, {"Content-Type": "image/png"})
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                raise RuntimeError(f"{response.status}: {body[:200]!r}")
        connection.close()

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        list(threads.map(client, [contents[i::clients] for i in range(clients)]))
    return time.perf_counter() - start


def cpu_seconds(port: int) -> float:
    """Return the CPU time that the server has used."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        found = re.search(r"^process_cpu_seconds_total (\S+)", response.read().decode(), re.M)
    assert found is not None
    return float(found[1])


def main() -> None:
    """Run the benchmark and print its results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=40, help="images per round")
    parser.add_argument("--clients", type=int, default=8, help="requests at the same time")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch")
    parser.add_argument("--batch", default="1")
    args = parser.parse_args()
    files = []
    for path in args.images:
        with open(path, "rb") as file:
            files.append(file.read())
    contents = list(islice(cycle(files), args.requests))
    torch.set_num_threads(args.threads)
    model = Mask2Former.from_pretrained(args.model)
    command = [sys.executable, "-m", "mask2former", "serve", args.model, "--port", "0"]
    server = subprocess.Popen(
        [*command, "--batch", args.batch],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(args.threads)},
    )
    try:
        assert server.stdout is not None
        found = re.search(r":(\d+)/", server.stdout.readline())
        if found is None:
            sys.exit("the server did not start")
        port = int(found[1])
        loop(model, contents[:4])
        served(port, contents[:4], args.clients)
        ratios, cpu_ratios = [], []
        for number in range(1, args.rounds + 1):
            before = time.process_time(), cpu_seconds(port)
            alone = loop(model, contents)
            cpu_alone = time.process_time() - before[0]
            through = served(port, contents, args.clients)
            cpu_through = cpu_seconds(port) - before[1]
            ratios.append(alone / through)
            cpu_ratios.append(cpu_alone / cpu_through)
            print(
                f"round {number}: loop {args.requests / alone:.2f} images/s, "
                f"server {args.requests / through:.2f} images/s, ratio {ratios[-1]:.3f}; "
                f"CPU time per image: loop {1000 * cpu_alone / args.requests:.1f} ms, "
                f"server {1000 * cpu_through / args.requests:.1f} ms",
                flush=True,
            )
        print(
            f"median ratio of throughput {statistics.median(ratios):.3f}, "
            f"of CPU time {statistics.median(cpu_ratios):.3f}"
        )
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
