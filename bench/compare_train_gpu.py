#!/usr/bin/env python3
"""Compares `puna sft --device cuda` with PyTorch, transformers and PEFT on one GPU, 8B shape.

    bench/compare_train_gpu.py MODEL... [--shapes 1x1024 4x2048] [--steps 8] [--checkpointing]

Both train the LoRA adapter of the Llama 3.1 release's recipe (rank 16, alpha 32, q k v o, AdamW) in
bf16 on random tokens: puna beside each MODEL, PEFT with attn_implementation sdpa beside random
weights of its own, in one process for all shapes, which imports its libraries while puna computes.
A step's time is the median past the first two. Memory is what the GPU had less than before at the
most: CUDA's context and what an allocator keeps count.
"""
import argparse
import json
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from compare_train import ROOT, WARM, adapted, sft


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    p.add_argument("models", nargs="+")
    p.add_argument("--shapes", nargs="+", default=["1x1024", "4x2048"],
                   help="rows x tokens, the smallest first")
    p.add_argument("--steps", type=int, default=8)
    p.add_argument("--checkpointing", action="store_true")
    p.add_argument("--puna", default=str(ROOT / "build" / "puna"))
    p.add_argument("--peer", action="store_true",
                   help="measure PEFT in this process, when a line comes")
    return p.parse_args()


def shapes(a):
    return [tuple(map(int, s.split("x"))) for s in a.shapes]


def random_llama():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    c = LlamaConfig(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                    num_attention_heads=32, num_key_value_heads=8, vocab_size=128256,
                    rope_theta=5e5, rms_norm_eps=1e-5, attn_implementation="sdpa")
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        m = LlamaForCausalLM(c)
    m = m.to_empty(device="cuda")
    torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        for name, p in m.named_parameters():
            p.fill_(1) if "norm" in name else p.normal_(0, 0.02)
        i = torch.arange(0, 128, 2, device="cuda", dtype=torch.float32)
        m.model.rotary_emb.inv_freq.copy_(1 / 5e5 ** (i / 128))
    return m


def peer_steps(a, m, learn, batch, seq):
    """Tokens a second and MiB of this device, context and all."""
    import torch

    adam = torch.optim.AdamW(learn, lr=1e-4, fused=True)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    took = []
    for _ in range(a.steps + WARM):
        ids = torch.randint(1000, 120000, (batch, seq), device="cuda")
        torch.cuda.synchronize()
        t = time.perf_counter()
        loss = m(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learn, 1.0)
        adam.step()
        adam.zero_grad()
        loss.item()
        torch.cuda.synchronize()
        took.append(time.perf_counter() - t)
    free, total = torch.cuda.mem_get_info()
    print(f"{batch} x {seq}: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB allocated at "
          f"most, {torch.cuda.max_memory_reserved() / 2**30:.1f} reserved", file=sys.stderr)
    return batch * seq / statistics.median(took[WARM:]), (total - free) / 2**20


def peer(a):
    import peft
    import torch
    import transformers

    print(f"torch {torch.__version__}, transformers {transformers.__version__}, "
          f"peft {peft.__version__}", file=sys.stderr)
    sys.stdin.readline()
    m = random_llama()
    if a.checkpointing:
        m.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        m.enable_input_require_grads()
    m = adapted(m)
    m.train()
    learn = [q for q in m.parameters() if q.requires_grad]
    for batch, seq in shapes(a):
        print(json.dumps(peer_steps(a, m, learn, batch, seq)), flush=True)


def used():
    """MiB of the GPU that are taken."""
    out = subprocess.run(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"],
                         check=True, stdout=subprocess.PIPE, text=True).stdout
    return int(out.split()[0])


def watched(command):
    """Runs it; MiB at most meanwhile."""
    before, most, done = used(), [0], threading.Event()

    def watch():
        while not done.wait(0.1):
            most[0] = max(most[0], used() - before)

    t = threading.Thread(target=watch)
    t.start()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    done.set()
    t.join()
    return most[0]


def ours(a, tmp, model, batch, seq):
    data, out, r = tmp / "rows.jsonl", tmp / "out", random.Random(1)
    with open(data, "w") as f:
        for _ in range(batch * (a.steps + WARM)):
            ids = [r.randrange(1000, 120000) for _ in range(seq)]
            f.write(json.dumps({"input_ids": ids, "labels": ids}) + "\n")
    more = ["--gradient-checkpointing"] if a.checkpointing else []
    a.model, a.batch, a.seq = model, batch, seq
    most = watched(sft(a, data, out, "--device", "cuda", *more))
    steps = [json.loads(x) for x in open(out / "metrics.jsonl")]
    return statistics.median([x["tokens_per_s"] for x in steps if "tokens_per_s" in x][WARM:]), most


def main():
    a = arguments()
    if a.peer:
        peer(a)
        return
    other = subprocess.Popen([sys.executable, __file__, *sys.argv[1:], "--peer"], text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    got = {}
    for batch, seq in shapes(a):
        for model in a.models:
            with tempfile.TemporaryDirectory() as tmp:
                got[batch, seq, model] = ours(a, pathlib.Path(tmp), model, batch, seq)
    before = used()
    text, _ = other.communicate("go\n")
    peers = [json.loads(line) for line in text.splitlines()]
    if other.returncode or len(peers) != len(shapes(a)):
        sys.exit("PEFT failed")
    print(f"LoRA r 16 of q k v o, bf16{', checkpointing' if a.checkpointing else ''}\n")
    print("| rows | base | tok/s | PEFT | puna / PEFT | MiB | PEFT | puna / PEFT |\n"
          "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for (batch, seq), (speed, most) in zip(shapes(a), peers):
        for model in a.models:
            s, m = got[batch, seq, model]
            print(f"| {batch} x {seq} | {pathlib.Path(model).name} | {s:.0f} | {speed:.0f} "
                  f"| {s / speed:.2f} | {m} | {most - before:.0f} | {m / (most - before):.2f} |")


main()
