#!/usr/bin/env python3
"""Compares answers of `puna serve` with those of transformers on one GPU, one at a time.

    bench/compare_gpu.py FOLDER [--prompt 144] [--new 64] [--rounds 5] [--static] [--json FILE]

FOLDER is a model in bf16 as Hugging Face lays it out (bench/make_checkpoint.py SHAPE bf16 FOLDER),
which both hold throughout. A round gives both the same prompt of random tokens, a new one for each
round, the order turning; each takes the likeliest token --new times, past any end of text. Time is
that of the whole call: transformers' `generate` with attention by sdpa, after a warm-up; puna's
request over HTTP. --static has transformers' cache of fixed size too, which it compiles for.
"""
import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import time
import urllib.request

from compare_serve import ROOT, free_port, wait_ready

VOCABULARY = range(1000, 120000)  # of Llama 3: no special token


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    p.add_argument("folder")
    p.add_argument("--puna", default=str(ROOT / "build" / "puna"))
    p.add_argument("--device", default="cuda", help="of both")
    p.add_argument("--prompt", type=int, default=144)
    p.add_argument("--new", type=int, default=64)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--static", action="store_true")
    p.add_argument("--json", metavar="FILE", help="seconds of every round")
    return p.parse_args()


def start_puna(a):
    port = free_port()
    server = subprocess.Popen(
        [a.puna, "serve", a.folder, "--port", str(port), "--device", a.device, "-q",
         "--max-batch-size", "1", "--max-batch-total-tokens", str(a.prompt + a.new + 256)],
        stdout=subprocess.DEVNULL)
    wait_ready(server, port)

    def generate(ids):
        body = {"prompt": ids, "max_tokens": a.new, "temperature": 0, "ignore_eos": True}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions",
                                         json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as r:
            return json.load(r)["usage"]["completion_tokens"]
    return server, generate


def start_transformers(a):
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        a.folder, dtype=torch.bfloat16, attn_implementation="sdpa").to(a.device).eval()

    def generate(ids, **more):
        x = torch.tensor([ids], device=a.device)
        out = model.generate(x, attention_mask=torch.ones_like(x), do_sample=False,
                             min_new_tokens=a.new, max_new_tokens=a.new, pad_token_id=0, **more)
        return len(out[0].tolist()) - len(ids)  # the ids are there when they are on the host
    name = f"torch {torch.__version__}, transformers {transformers.__version__}"
    sides = {"transformers": generate}
    if a.static:
        sides["transformers, static cache"] = lambda ids: generate(
            ids, cache_implementation="static")
    return name, sides


def main():
    a = arguments()
    server, puna = start_puna(a)
    try:
        version, sides = start_transformers(a)
        sides["puna"] = puna
        draw = random.Random(1)
        seconds = {name: [] for name in sides}
        for i in range(a.rounds + 1):  # the first is the warm-up
            ids = [draw.choice(VOCABULARY) for _ in range(a.prompt)]
            for name in sorted(sides, reverse=i % 2 == 1):
                t = time.perf_counter()
                n = sides[name](ids)
                took = time.perf_counter() - t
                if n != a.new:
                    raise SystemExit(f"{name} made {n} tokens of {a.new}")
                if i:
                    seconds[name].append(took)
    finally:
        server.terminate()
        server.wait()
    if a.json:
        pathlib.Path(a.json).write_text(json.dumps(seconds))
    print(f"{pathlib.Path(a.folder).name}, bf16, one at a time, {a.prompt} tokens in, {a.new} out, "
          f"{a.rounds} rounds; {version}\n")
    print("| tok/s | median | rounds | puna by it | rounds |\n| --- | ---: | --- | ---: | --- |")
    for name, took in sorted(seconds.items()):
        rates = [a.new / t for t in took]
        ratios = [t / p for t, p in zip(took, seconds["puna"])]
        print(f"| {name} | {statistics.median(rates):.4g} | {min(rates):.4g} to {max(rates):.4g} | "
              f"{statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |")
    print(f"\nLoad average: {os.getloadavg()[0]:.2f}.")


main()
