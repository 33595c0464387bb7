#!/usr/bin/env python3
"""Compares puna with llama.cpp on one GGUF file, taking turns so that both meet the same machine.

    bench/compare.py MODEL.gguf [--rounds 7] [--threads N] [--pp 512] [--tg 64] [--batches 1,8]
                     [--record] [--accuracy IDS.json]
    bench/compare.py MODEL.gguf --peer      llama.cpp alone, once, as JSON

Run it with a Python that has llama-cpp-python (`make compare` sees to that). Both sides print the
same JSON object, with the definitions of llama-bench: random tokens, one warm-up, no sampling.
  prefill   --pp tokens of one sequence into an empty cache, logits of the last one
  decode    --tg single-token steps of one sequence from an empty cache
  batched   steps of B sequences at once after a prompt of 32 tokens in each; rates over all of them
  load      from opening the file to the first token; memory is the peak resident set
A round runs each side in a process of its own, the order turning each time. The table shows medians
over rounds and the median of the per-round ratios, with their range. --record appends it to
bench/RESULTS.md. --accuracy names a JSON list of token ids (or an object with "ids"): the logits of
their first 512 are compared with puna's in float32 on the same file.
"""
import argparse
import json
import os
import pathlib
import platform
import random
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    p.add_argument("model")
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--reps", type=int, default=3, help="repetitions within a round")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--pp", type=int, default=512)
    p.add_argument("--tg", type=int, default=64)
    p.add_argument("--batches", default="1,8")
    p.add_argument("--puna", default=str(ROOT / "build" / "puna"))
    p.add_argument("--record", action="store_true", help="append the table to bench/RESULTS.md")
    p.add_argument("--accuracy", metavar="IDS", help="token ids: compare logits as well")
    p.add_argument("--peer", action="store_true", help="measure llama.cpp and print JSON")
    return p.parse_args()


# ---- the peer, through the C API that llama-cpp-python binds ----

class Peer:
    PROMPT, STEPS, BATCH = 32, 16, 2048

    def __init__(self, path, threads):
        import llama_cpp as api
        self.api, self.threads = api, threads
        self.silence = api.llama_log_callback(lambda level, line, data: None)  # C keeps the pointer
        api.llama_log_set(self.silence, None)
        api.llama_backend_init()
        start = time.perf_counter()
        params = api.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = api.llama_model_load_from_file(os.fsencode(path), params)
        if not self.model:
            sys.exit(f"llama.cpp cannot load {path}")
        self.model_s = time.perf_counter() - start
        self.vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        ctx = self.context(256, 1)
        self.steps(ctx, 0, 1, 1)
        self.first_token_s = time.perf_counter() - start
        api.llama_free(ctx)

    def context(self, length, sequences):
        p = self.api.llama_context_default_params()
        p.n_ctx, p.n_seq_max = length * sequences, sequences
        p.n_batch, p.n_ubatch = self.BATCH, 512
        p.n_threads = p.n_threads_batch = self.threads
        ctx = self.api.llama_init_from_model(self.model, p)
        if not ctx:
            sys.exit(f"llama.cpp cannot make a context of {p.n_ctx} tokens")
        return ctx

    def run(self, ctx, batch):
        rc = self.api.llama_decode(ctx, batch)
        if rc:
            sys.exit(f"llama_decode: {rc}")
        self.api.llama_synchronize(ctx)

    def steps(self, ctx, first, count, sequences, logits=1):
        """Seconds for `count` steps of one token for each sequence."""
        batch = self.api.llama_batch_init(sequences, 0, 1)
        batch.n_tokens = sequences
        start = time.perf_counter()
        for position in range(first, first + count):
            for s in range(sequences):
                batch.token[s], batch.pos[s] = random.randrange(self.vocab), position
                batch.n_seq_id[s], batch.seq_id[s][0], batch.logits[s] = 1, s, logits
            self.run(ctx, batch)
        took = time.perf_counter() - start
        self.api.llama_batch_free(batch)
        return took

    def prefill(self, ctx, n, first=0):
        """Seconds for n tokens from position `first` on; what the cache held from there is gone."""
        self.forget(ctx, first)
        ids = [random.randrange(self.vocab) for _ in range(n)]
        start = time.perf_counter()
        for at in range(0, n, self.BATCH):
            part = ids[at:at + self.BATCH]
            kept = (self.api.llama_token * len(part))(*part)  # the batch only points to it
            self.run(ctx, self.api.llama_batch_get_one(kept, len(part)))
        return time.perf_counter() - start

    def forget(self, ctx, keep):
        self.api.llama_memory_seq_rm(self.api.llama_get_memory(ctx), -1, keep, -1)

    def measure_prefill(self, n, reps):
        ctx = self.context(n, 1)
        seconds = [self.prefill(ctx, n) for _ in range(reps + 1)][1:]
        self.api.llama_free(ctx)
        return {"tokens": n, "tok_per_s": rates(n, seconds)}

    def measure_decode(self, n, reps):
        ctx, seconds = self.context(n, 1), []
        for _ in range(reps + 1):
            self.forget(ctx, 0)
            seconds.append(self.steps(ctx, 0, n, 1))
        self.api.llama_free(ctx)
        return {"tokens": n, "tok_per_s": rates(n, seconds[1:])}

    def measure_batched(self, b, reps):
        ctx, seconds = self.context(self.PROMPT + self.STEPS + 1, b), []
        self.steps(ctx, 0, self.PROMPT, b, logits=0)
        for _ in range(reps + 1):
            self.forget(ctx, self.PROMPT)
            seconds.append(self.steps(ctx, self.PROMPT, self.STEPS, b))
        self.api.llama_free(ctx)
        return {"sequences": b, "prompt": self.PROMPT, "tokens": self.STEPS,
                "tok_per_s": rates(self.STEPS * b, seconds[1:])}


    def logits(self, ids):
        """[len(ids), vocabulary] float32"""
        import numpy
        ctx = self.context(len(ids), 1)
        batch = self.api.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i] = token, i
            batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, 1
        self.run(ctx, batch)
        logits = self.api.llama_get_logits(ctx)
        out = numpy.ctypeslib.as_array(logits, (len(ids), self.vocab)).copy()
        self.api.llama_batch_free(batch)
        self.api.llama_free(ctx)
        return out


# ---- accuracy: logits of one text against puna's in float32 ----

def puna_logits(args, ids, dtype):
    """What `puna logits` writes for ids: one safetensors file in, one out."""
    import numpy
    with tempfile.TemporaryDirectory() as folder:
        source, target = os.path.join(folder, "ids"), os.path.join(folder, "logits")
        head = json.dumps({"ids": {"dtype": "I32", "shape": [1, len(ids)],
                                   "data_offsets": [0, 4 * len(ids)]}}).encode()
        with open(source, "wb") as f:
            f.write(struct.pack("<Q", len(head)) + head + numpy.array(ids, "<i4").tobytes())
        subprocess.run([args.puna, "logits", args.model, "--ids", source, "-o", target, "--dtype",
                        dtype, "--threads", str(args.threads)], check=True)
        with open(target, "rb") as f:
            info = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))["logits"]
            return numpy.frombuffer(f.read(), "<f4").reshape(info["shape"][1:])


def log_softmax(x):
    import numpy
    x = x.astype("float64")
    x -= x.max(axis=1, keepdims=True)
    return x - numpy.log(numpy.exp(x).sum(axis=1, keepdims=True))


def accuracy(args):
    """Relative error of the logits, mean KL divergence from float32, and perplexity."""
    import numpy
    with open(args.accuracy) as f:
        ids = json.load(f)
    ids = (ids["ids"] if isinstance(ids, dict) else ids)[:512]
    exact = puna_logits(args, ids, "f32")
    want = log_softmax(exact)
    sides = {"puna": puna_logits(args, ids, "auto"),
             "llama.cpp": Peer(args.model, args.threads).logits(ids)}
    lines = [f"First {len(ids)} tokens of {os.path.basename(args.accuracy)}:", "",
             "| | relative error of the logits | KL divergence from float32 | perplexity |",
             "| --- | ---: | ---: | ---: |"]

    def perplexity(logp):
        return numpy.exp(-logp[numpy.arange(len(ids) - 1), ids[1:]].mean())

    lines.append(f"| float32 | 0 | 0 | {perplexity(want):.4f} |")
    for name, got in sides.items():
        logp = log_softmax(got)
        error = numpy.linalg.norm(got - exact) / numpy.linalg.norm(exact)
        kl = (numpy.exp(want) * (want - logp)).sum(axis=1).mean()
        lines.append(f"| {name} | {error:.2e} | {kl:.2e} | {perplexity(logp):.4f} |")
    return "\n".join(lines)


def rates(tokens, seconds):
    r = [round(tokens / s, 3) for s in seconds]
    return {"median": statistics.median(r), "best": max(r), "samples": r}


def peak_rss():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_peer(args):
    random.seed(1)
    peer = Peer(args.model, args.threads)
    loaded = peak_rss()
    return {
        "peer": f"llama.cpp (llama-cpp-python {sys.modules['llama_cpp'].__version__})",
        "threads": args.threads,
        "load": {"model_s": round(peer.model_s, 4), "first_token_s": round(peer.first_token_s, 4)},
        "prefill": peer.measure_prefill(args.pp, args.reps),
        "decode": peer.measure_decode(args.tg, args.reps),
        "batched": [peer.measure_batched(b, args.reps) for b in batches(args)],
        "memory": {"loaded_peak_rss_bytes": loaded, "peak_rss_bytes": peak_rss()},
    }


# ---- the comparison ----

def batches(args):
    return [int(b) for b in args.batches.split(",") if b]


def one_run(command):
    p = subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    if p.returncode:
        sys.exit(f"{' '.join(command)}: exit status {p.returncode}")
    return json.loads(p.stdout)


def figures(result):
    """{name: (value, True where more is better)}"""
    out = {
        "prefill tok/s": (result["prefill"]["tok_per_s"]["median"], True),
        "decode tok/s": (result["decode"]["tok_per_s"]["median"], True),
        "first token s": (result["load"]["first_token_s"], False),
        "peak RSS MB": (result["memory"]["peak_rss_bytes"] / 1e6, False),
    }
    for b in result.get("batched", []):
        out[f"batch of {b['sequences']} tok/s"] = (b["tok_per_s"]["median"], True)
    return out


def steal_seconds():
    with open("/proc/stat") as f:
        return int(f.readline().split()[8]) / os.sysconf("SC_CLK_TCK")


def cpu_name():
    with open("/proc/cpuinfo") as f:
        names = [line.split(":", 1)[1].strip() for line in f if line.startswith("model name")]
    return names[0] if names else platform.machine()


def table(args, rounds, noise):
    head = (f"{os.path.basename(args.model)}, {args.threads} threads, {len(rounds)} rounds, "
            f"{cpu_name()}; {rounds[0]['peer']['peer']}")
    lines = [head, "", "| | puna | llama.cpp | ratio | range of ratios |",
             "| --- | ---: | ---: | ---: | --- |"]
    names = [n for n in figures(rounds[0]["puna"]) if n in figures(rounds[0]["peer"])]
    for name in names:
        ours, theirs = ([figures(r[side])[name][0] for r in rounds] for side in ("puna", "peer"))
        more = figures(rounds[0]["puna"])[name][1]
        ratio = [a / b if more else b / a for a, b in zip(ours, theirs)]
        mid = [statistics.median(v) for v in (ours, theirs, ratio)]
        lines.append(f"| {name} | {mid[0]:.4g} | {mid[1]:.4g} | {mid[2]:.2f} | "
                     f"{min(ratio):.2f} to {max(ratio):.2f} |")
    return "\n".join([*lines, "", f"A ratio above 1 means that puna is better. {noise}"])


def main():
    args = arguments()
    if args.peer:
        print(json.dumps(measure_peer(args), indent=1))
        return
    shared = ["--threads", str(args.threads), "--pp", str(args.pp), "--tg", str(args.tg),
              "--batches", args.batches, "--reps", str(args.reps)]
    commands = {"puna": [args.puna, "bench", args.model, "--json", "--no-ceilings", *shared],
                "peer": [sys.executable, __file__, args.model, "--peer", *shared]}
    load, steal, rounds = os.getloadavg()[0], steal_seconds(), []
    for i in range(args.rounds):
        sides = sorted(commands, reverse=i % 2 == 0)
        rounds.append({side: one_run(commands[side]) for side in sides})
        pair = [rounds[-1][s]["decode"]["tok_per_s"]["median"] for s in ("puna", "peer")]
        print(f"round {i + 1}: decode {pair[0]:.1f} and {pair[1]:.1f} tok/s", file=sys.stderr)
    noise = (f"Load average before: {load:.2f}; CPU time taken by other guests: "
             f"{steal_seconds() - steal:.1f} s.")
    text = table(args, rounds, noise)
    if args.accuracy:
        text += "\n\n" + accuracy(args)
    print(text)
    if args.record:
        with open(ROOT / "bench" / "RESULTS.md", "a") as f:
            f.write(f"\n## {time.strftime('%Y-%m-%d', time.gmtime())}\n\n"
                    f"    bench/compare.py {' '.join(sys.argv[1:])}\n\n{text}\n")


if __name__ == "__main__":
    main()
