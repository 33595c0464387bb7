#!/usr/bin/env python3
"""Compares `puna sft` with PyTorch, transformers and PEFT on one GGUF file, taking turns.

    bench/compare_train.py MODEL.gguf [--rounds 3] [--threads N] [--seq 256] [--batch 4] [--steps 6]
    bench/compare_train.py MODEL.gguf --peer FOLDER      PEFT alone, once, as JSON

Both train the LoRA adapter of the Llama 3.1 release's recipe (rank 16, alpha 32, q k v o, AdamW,
bf16 products) on the same rows of random tokens. A round runs each side in a process of its own,
the order turning each time; the first two steps of each are warm-up. Memory is the peak resident
set: PEFT is given the file as a folder in bf16 (`puna convert`), puna trains beside its 4 bits.
"""
import argparse
import json
import os
import pathlib
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
WARM = 2
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj"]


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    p.add_argument("model")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--seq", type=int, default=256)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--steps", type=int, default=6)
    p.add_argument("--puna", default=str(ROOT / "build" / "puna"))
    p.add_argument("--peer", metavar="FOLDER", help="measure PEFT on this and print JSON")
    return p.parse_args()


def adapted(m):
    """m with the adapter that both train."""
    import peft

    return peft.get_peft_model(m, peft.LoraConfig(r=16, lora_alpha=32, target_modules=MODULES,
                                                  task_type="CAUSAL_LM"))


def sft(a, data, out, *more):
    """puna's command line for the same."""
    return [a.puna, "sft", a.model, "--train-file", str(data), "-o", str(out), "--use-peft",
            "--no-shuffle", "--per-device-train-batch-size", str(a.batch), "--max-length",
            str(a.seq), "--max-steps", str(a.steps + WARM), "--learning-rate", "1e-4",
            "--logging-steps", "1", "--dtype", "bf16", "-q", "--lora-target-modules", *MODULES,
            *more]


def rows(a):
    """The same for both: batches of rows of token ids."""
    r = random.Random(1)
    return [[[r.randrange(1000, 40000) for _ in range(a.seq)] for _ in range(a.batch)]
            for _ in range(a.steps + WARM)]


def peer(a):
    import peft
    import torch
    import transformers

    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    m = transformers.AutoModelForCausalLM.from_pretrained(a.peer, dtype=torch.bfloat16)
    m.train()
    m = adapted(m)
    learn = [q for q in m.parameters() if q.requires_grad]
    adam = torch.optim.AdamW(learn, lr=1e-4)
    took = []
    for batch in rows(a):
        t = time.perf_counter()
        ids = torch.tensor(batch)
        loss = m(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learn, 1.0)
        adam.step()
        adam.zero_grad()
        last = loss.item()
        took.append(time.perf_counter() - t)
    name = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return {"name": f"{name}, peft {peft.__version__}",
            "tok_per_s": a.seq * a.batch / statistics.median(took[WARM:]), "loss": last,
            "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def ours(a, tmp):
    data, out = tmp / "rows.jsonl", tmp / "out"
    with open(data, "w") as f:
        for batch in rows(a):
            for ids in batch:
                f.write(json.dumps({"input_ids": ids, "labels": ids}) + "\n")
    p = subprocess.Popen(sft(a, data, out, "--threads", str(a.threads)))
    _, status, usage = os.wait4(p.pid, 0)
    if status:
        sys.exit(f"puna sft ended with status {status}")
    steps = [json.loads(x) for x in open(out / "metrics.jsonl")]
    steps = [x for x in steps if "tokens_per_s" in x]
    for f in out.iterdir():
        f.unlink()
    return {"tok_per_s": statistics.median(x["tokens_per_s"] for x in steps[WARM:]),
            "loss": steps[-1]["loss"], "rss": usage.ru_maxrss / 1024}


def main():
    a = arguments()
    if a.peer:
        print(json.dumps(peer(a)))
        return
    found = {"puna": [], "peer": []}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as tmp:
        folder = str(pathlib.Path(tmp) / "bf16")
        subprocess.run([a.puna, "convert", a.model, folder, "--outtype", "bf16"], check=True,
                       stdout=subprocess.DEVNULL)
        for i in range(a.rounds):
            for side in sorted(found, reverse=i % 2 == 0):
                if side == "puna":
                    found[side].append(ours(a, pathlib.Path(tmp)))
                else:
                    text = subprocess.run(
                        [sys.executable, __file__, *sys.argv[1:], "--peer", folder],
                        check=True, stdout=subprocess.PIPE, text=True).stdout
                    found[side].append(json.loads(text.splitlines()[-1]))
    puna, other = found["puna"], found["peer"]
    print(f"{pathlib.Path(a.model).name}, LoRA r 16 of q k v o, bf16, {a.batch} x {a.seq} tokens, "
          f"{a.threads} threads, {a.rounds} rounds; {other[0]['name']}\n")
    print("| | puna | PEFT | ratio | range of ratios |\n| --- | ---: | ---: | ---: | --- |")
    for name, key, turn in (("tok/s", "tok_per_s", False), ("peak RSS MB", "rss", True)):
        r = [(o[key] / p[key] if turn else p[key] / o[key]) for p, o in zip(puna, other)]
        ours_, theirs = (statistics.median(x[key] for x in side) for side in (puna, other))
        print(f"| {name} | {ours_:.4g} | {theirs:.4g} | {statistics.median(r):.2f} | "
              f"{min(r):.2f} to {max(r):.2f} |")
    print("\nA ratio above 1 means that puna is better. Loss of the last step: "
          f"{puna[0]['loss']:.4f} and {other[0]['loss']:.4f}. Load average before: {load:.2f}.")


if __name__ == "__main__":
    main()
