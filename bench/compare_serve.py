#!/usr/bin/env python3
"""Compares `puna serve` with llama.cpp's `llama-server` on one GGUF file, taking turns.

    bench/compare_serve.py MODEL.gguf [--llama-server PATH] [--rounds 3] [--threads 2]
                           [--clients 1,4,8,16] [--requests 24] [--cpus 0,1] [--json FILE]

A round starts each server afresh, the order turning each time, and loads it by `puna bench serve`:
a closed loop of clients, prompts of 128 distinct tokens, 64 new tokens past any end of text. The
settings are those of llama.cpp's own serving figures: 8 slots over 4096 tokens, flash attention
as it chooses. puna has the same cache and as many sequences at a time as its default allows.
`--cpus` binds both servers to these cores; the load generator is left where the system puts it.
"""
import argparse
import json
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    p.add_argument("model")
    p.add_argument("--llama-server", default=shutil.which("llama-server"))
    p.add_argument("--puna", default=str(ROOT / "build" / "puna"))
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--clients", default="1,4,8,16")
    p.add_argument("--requests", type=int, default=24)
    p.add_argument("--cpus", help="cores of both servers, comma separated")
    p.add_argument("--json", metavar="FILE", help="every figure of every round")
    a = p.parse_args()
    if not a.llama_server:
        p.error("no llama-server on PATH: build llama.cpp's target of that name and give its path")
    return a


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def command(a, side, port):
    if side == "puna":
        return [a.puna, "serve", a.model, "--port", str(port), "--threads", str(a.threads), "-q",
                "--device", "cpu", "--max-batch-total-tokens", "4096"]
    return [a.llama_server, "-m", a.model, "--port", str(port), "--threads", str(a.threads),
            "--threads-batch", str(a.threads), "-np", "8", "-c", "4096", "--cache-ram", "0"]


def wait_ready(server, port):
    start = time.monotonic()
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as r:
                if r.status == 200:
                    return time.monotonic() - start
        except (urllib.error.URLError, OSError):
            pass
        if server.poll() is not None or time.monotonic() - start > 120:
            sys.exit(f"{server.args[0]} did not come up: run {' '.join(server.args)}")
        time.sleep(0.02)


def peak_rss_mib(pid):
    with open(f"/proc/{pid}/status") as f:
        return next(int(x.split()[1]) / 1024 for x in f if x.startswith("VmHWM"))


def measure(a, side):
    port = free_port()
    cpus = {int(c) for c in a.cpus.split(",")} if a.cpus else os.sched_getaffinity(0)
    server = subprocess.Popen(command(a, side, port), stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL,
                              preexec_fn=lambda: os.sched_setaffinity(0, cpus))
    try:
        ready = wait_ready(server, port)
        load = subprocess.run(
            [a.puna, "bench", "serve", f"http://127.0.0.1:{port}", "--clients", a.clients,
             "--requests", str(a.requests), "--json"], stdout=subprocess.PIPE, text=True)
        if load.returncode:
            sys.exit(f"puna bench serve ended with status {load.returncode} on {side}")
        return {"ready_s": ready, "rss_mib": peak_rss_mib(server.pid),
                "levels": json.loads(load.stdout)["levels"]}
    finally:
        server.terminate()
        server.wait()


FIGURES = (  # name, its value in a level, whether less is better
    ("output tok/s", lambda x: x["output_tok_per_s"], False),
    ("first token p50 ms", lambda x: x["ttft_ms"]["p50"], True),
    ("first token p99 ms", lambda x: x["ttft_ms"]["p99"], True),
    ("between tokens p50 ms", lambda x: x["itl_ms"]["p50"], True),
    ("between tokens p99 ms", lambda x: x["itl_ms"]["p99"], True),
)


def row(name, ours, theirs, less):
    ratios = [t / o if less else o / t for o, t in zip(ours, theirs)]
    print(f"| {name} | {statistics.median(ours):.4g} | {statistics.median(theirs):.4g} | "
          f"{statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |")


def main():
    a = arguments()
    load = os.getloadavg()[0]
    found = {"puna": [], "llama-server": []}
    for i in range(a.rounds):
        for side in sorted(found, reverse=i % 2 == 0):
            print(f"round {i + 1} of {a.rounds}: {side}", file=sys.stderr)
            found[side].append(measure(a, side))
    if a.json:
        pathlib.Path(a.json).write_text(json.dumps(found))
    puna, peer = found["puna"], found["llama-server"]
    version = subprocess.run([a.llama_server, "--version"], capture_output=True, text=True)
    print(f"{pathlib.Path(a.model).name}, {a.threads} threads, {a.rounds} rounds, "
          f"{a.requests} requests a level; llama-server "
          f"{(version.stderr + version.stdout).strip().splitlines()[0]}\n")
    print("| | puna | llama-server | ratio | range of ratios |\n| --- | ---: | ---: | ---: | --- |")
    for n, level in enumerate(puna[0]["levels"]):
        for name, value, less in FIGURES:
            row(f"{level['clients']} clients: {name}", [value(r["levels"][n]) for r in puna],
                [value(r["levels"][n]) for r in peer], less)
    row("peak RSS MiB", [r["rss_mib"] for r in puna], [r["rss_mib"] for r in peer], True)
    row("ready after s", [r["ready_s"] for r in puna], [r["ready_s"] for r in peer], True)
    print(f"\nA ratio above 1 means that puna is better. Load average before: {load:.2f}.")


if __name__ == "__main__":
    main()
