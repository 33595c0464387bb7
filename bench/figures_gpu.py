#!/usr/bin/env python3
"""Measures what puna is judged by on one GPU, each figure beside a ceiling of the same run.

    bench/figures_gpu.py [--only NAME,...] [--try LIST]... [--scratch DIR] [--layers N] [--json F]

    NAME   bf16, fp8, awq, gptq, nf4, q4_0   8B: decode alone, after tokens and in batches,
                                             prefill, products
           70b                               70B in FP8: decode
           context                           8B in bf16: decode behind 131072 tokens
           serve                             8B in FP8: 1000 tokens in, 1000 out, 1024 requests

Models of the real shapes with random weights are written into DIR (/dev/shm), one at a time; 70B
takes 70 GB there. --try runs everything once more with PUNA_CUDA_TRY=LIST, by turns with the
default. --layers cuts models short, to see that the script works. Prints a Markdown table.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from compare_serve import ROOT, free_port, wait_ready

# of reading for decode, of the ratio of bytes to bf16 for products, tokens a second for serving
FLOOR = {"decode bf16": 0.90, "decode fp8": 0.85, "decode 70b": 0.85, "decode context": 0.85,
         "decode awq": 0.78, "decode gptq": 0.78, "decode nf4": 0.78, "decode q4_0": 0.78,
         "products": 0.85, "serve": 17700}
EIGHT = ("bf16", "fp8", "awq", "gptq", "nf4", "q4_0")
NAMES = EIGHT + ("70b", "context", "serve")
ROWS = (1, 8, 32)
DEPTHS = "300,1100,4200,7900"  # tokens before an answer's


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    p.add_argument("--only", default=",".join(NAMES))
    p.add_argument("--try", dest="tries", action="append", default=[])
    p.add_argument("--scratch", default="/dev/shm")
    p.add_argument("--puna", default=str(ROOT / "build" / "puna"))
    p.add_argument("--device", default="cuda")
    p.add_argument("--shape", default="8b", help="of the models of 8B")
    p.add_argument("--reps", type=int, default=3)
    p.add_argument("--layers", type=int)
    p.add_argument("--json", metavar="F", help="all that `puna bench` said")
    a = p.parse_args()
    a.only = a.only.split(",")
    for name in a.only:
        if name not in NAMES:
            p.error(f"--only {name}: not one of {', '.join(NAMES)}")
    return a


def make(a, shape, encoding, folder):
    """The model's path."""
    gguf = encoding == "q4_0"
    path = pathlib.Path(folder) / (f"{encoding}.gguf" if gguf else encoding)
    script = ROOT / "bench" / ("make_model.py" if gguf else "make_checkpoint.py")
    cut = ["--layers", str(a.layers)] if a.layers else []
    subprocess.run([sys.executable, str(script), shape, encoding, str(path), *cut], check=True,
                   stdout=subprocess.DEVNULL)
    return str(path)


class Bench:
    def __init__(self, a):
        self.a, self.said = a, []

    def run(self, what, model, *options):
        """One object of `puna bench` for the default and for each --try, in turns."""
        for tries in ("", *self.a.tries):
            done = subprocess.run(
                [self.a.puna, "bench", model, "--device", self.a.device, "--json", "--reps",
                 str(self.a.reps), *options], stdout=subprocess.PIPE, text=True, check=True,
                env={**os.environ, "PUNA_CUDA_TRY": tries})
            j = json.loads(done.stdout)
            self.said.append({"figure": what, "try": tries, **j})
            yield tries, j

    def line(self, figure, tries, value, share=None, floor=None):
        met = "" if share is None or floor is None else "met" if share >= floor else "missed"
        percent = lambda x: "" if x is None else f"{100 * x:.1f} %"
        print(f"| {figure} | {tries or 'default'} | {value} | {percent(share)} | "
              f"{percent(floor)} | {met} |", flush=True)

    def decode(self, figure, tries, j, at=None, floor=None):
        """at: a point of --depths; None: the decode of short answers."""
        d, rates = at or j["decode"], [v for k, v in j["ceilings"].items() if k.startswith("read_")]
        rate, read = d["tok_per_s"]["median"], max(rates)
        self.line(figure, tries, f"{rate:.1f} tok/s of {read / 1e9:.0f} GB/s",
                  rate * d["read_bytes"] / read, floor)


def products(bench, encoding, tries, mine, bf16):
    """Rows of mine beside those of bf16: what of the bytes' ratio is won."""
    for p, q in zip(mine, bf16):
        won = q["layer_us"] / p["layer_us"] / (q["bytes"] / p["bytes"])
        bench.line(f"products of {p['rows']} rows, {encoding}", tries,
                   f"{p['layer_us']:.1f} us a layer, bf16 {q['layer_us']:.1f}", won,
                   FLOOR["products"] if encoding not in ("bf16", "fp8") else None)


def eight(bench, folder):
    a, bf16 = bench.a, None
    for encoding in EIGHT:
        if encoding not in a.only and encoding != "bf16":  # which products are compared with
            continue
        model = make(a, a.shape, encoding, folder)
        for tries, j in bench.run(encoding, model, "--pp", "4096", "--tg", "128", "--batches",
                                  "2,4,8,16,32,64", "--tg-batched", "32", "--depths", DEPTHS,
                                  "--products", ",".join(map(str, ROWS))):
            if bf16 is None:
                bf16 = j["products"]
            bench.decode(f"decode {encoding}", tries, j, floor=FLOOR[f"decode {encoding}"])
            for d in j["depths"]:
                bench.decode(f"decode {encoding} after {d['context']} tokens", tries, j, d)
            bench.line(f"prefill {encoding}, 4096", tries,
                       f"{j['prefill']['tok_per_s']['median']:.0f} tok/s")
            for b in j["batched"]:
                bench.line(f"{b['sequences']} at a time, {encoding}", tries,
                           f"{b['tok_per_s']['median']:.0f} tok/s")
            products(bench, encoding, tries, j["products"], bf16)
        drop(model)


def seventy(bench, folder):
    model = make(bench.a, "70b", "fp8", folder)
    for tries, j in bench.run("70b", model, "--kv-dtype", "fp8", "--pp", "0", "--tg", "32",
                              "--batches", "8", "--tg-batched", "8"):
        bench.decode("decode 70b", tries, j, floor=FLOOR["decode 70b"])
    drop(model)


def context(bench, folder):
    model = make(bench.a, bench.a.shape, "bf16", folder)
    for kv in ("bf16", "fp8"):
        for tries, j in bench.run("context", model, "--kv-dtype", kv, "--pp", "0", "--tg", "0",
                                  "--batches", "", "--depths", "131040"):
            d = j["depths"][-1]
            bench.decode(f"decode behind {d['context']}, cache in {kv}", tries, j, d,
                         FLOOR["decode context"])
    drop(model)


def serve(bench, folder):
    a, model = bench.a, make(bench.a, bench.a.shape, "fp8", folder)
    for tries in ("", *a.tries):
        port = free_port()
        server = subprocess.Popen(
            [a.puna, "serve", model, "--port", str(port), "--device", a.device, "--kv-dtype", "fp8",
             "-q"], stdout=subprocess.DEVNULL, env={**os.environ, "PUNA_CUDA_TRY": tries})
        try:
            wait_ready(server, port)
            done = subprocess.run(
                [a.puna, "bench", "serve", f"http://127.0.0.1:{port}", "--rate", "2000",
                 "--requests", "1024", "-p", "1000", "-n", "1000", "--json"],
                stdout=subprocess.PIPE, text=True, check=True)
        finally:
            server.terminate()
            server.wait()
        level = json.loads(done.stdout)["levels"][0]
        bench.said.append({"figure": "serve", "try": tries, **level})
        rate = level["output_tok_per_s"]
        bench.line("serving fp8, 1000 in, 1000 out", tries,
                   f"{rate:.0f} tok/s, first token {level['ttft_ms']['p50']:.0f} ms",
                   rate / FLOOR["serve"], 1)
    drop(model)


def drop(model):
    shutil.rmtree(model) if os.path.isdir(model) else os.remove(model)


def main():
    a = arguments()
    bench = Bench(a)
    print("| figure | kernels | | share | floor | |\n| --- | --- | --- | ---: | ---: | --- |")
    with tempfile.TemporaryDirectory(dir=a.scratch) as folder:
        if set(a.only) & set(EIGHT):
            eight(bench, folder)
        for name, measure in (("70b", seventy), ("context", context), ("serve", serve)):
            if name in a.only:
                measure(bench, folder)
    if a.json:
        pathlib.Path(a.json).write_text(json.dumps(bench.said, indent=1) + "\n")


main()
