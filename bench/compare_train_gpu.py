#!/usr/bin/env python3
"""Compares `puna sft --device cuda` with PyTorch, transformers and PEFT on one GPU, 8B shape.

    bench/compare_train_gpu.py MODEL.gguf [--batch 4] [--seq 2048] [--steps 8] [--checkpointing]

Both train the LoRA adapter of the Llama 3.1 release's recipe (rank 16, alpha 32, q k v o, AdamW) in
bf16 on random tokens; PEFT with attn_implementation sdpa, beside random weights of its own.
A step's time is the median past the first two. Memory is what the GPU had less than before at the
most, in a process of its own each: CUDA's context and what an allocator keeps count.
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
    p.add_argument("model")
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--seq", type=int, default=2048)
    p.add_argument("--steps", type=int, default=8)
    p.add_argument("--checkpointing", action="store_true")
    p.add_argument("--puna", default=str(ROOT / "build" / "puna"))
    p.add_argument("--peer", action="store_true", help="measure PEFT in this process")
    return p.parse_args()


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


def peer(a):
    import peft
    import torch
    import transformers

    m = random_llama()
    if a.checkpointing:
        m.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        m.enable_input_require_grads()
    m = adapted(m)
    m.train()
    learn = [q for q in m.parameters() if q.requires_grad]
    adam = torch.optim.AdamW(learn, lr=1e-4, fused=True)
    took = []
    for _ in range(a.steps + WARM):
        ids = torch.randint(1000, 120000, (a.batch, a.seq), device="cuda")
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
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, "
          f"peft {peft.__version__}: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB allocated "
          "at most", file=sys.stderr)
    print(json.dumps(a.batch * a.seq / statistics.median(took[WARM:])))


def used():
    """MiB of the GPU that are taken."""
    out = subprocess.run(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"],
                         check=True, stdout=subprocess.PIPE, text=True).stdout
    return int(out.split()[0])


def watched(command):
    """The command's output, and MiB at most while it ran."""
    before, most, done = used(), [0], threading.Event()

    def watch():
        while not done.wait(0.1):
            most[0] = max(most[0], used() - before)

    t = threading.Thread(target=watch)
    t.start()
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    done.set()
    t.join()
    return out, most[0]


def ours(a, tmp):
    data, out, r = tmp / "rows.jsonl", tmp / "out", random.Random(1)
    with open(data, "w") as f:
        for _ in range(a.batch * (a.steps + WARM)):
            ids = [r.randrange(1000, 120000) for _ in range(a.seq)]
            f.write(json.dumps({"input_ids": ids, "labels": ids}) + "\n")
    more = ["--gradient-checkpointing"] if a.checkpointing else []
    _, most = watched(sft(a, data, out, "--device", "cuda", *more))
    steps = [json.loads(x) for x in open(out / "metrics.jsonl")]
    return statistics.median([x["tokens_per_s"] for x in steps if "tokens_per_s" in x][WARM:]), most


def main():
    a = arguments()
    if a.peer:
        peer(a)
        return
    with tempfile.TemporaryDirectory() as tmp:
        puna = ours(a, pathlib.Path(tmp))
    text, most = watched([sys.executable, __file__, *sys.argv[1:], "--peer"])
    other = json.loads(text.splitlines()[-1]), most
    print(f"LoRA r 16 of q k v o, bf16, {a.batch} x {a.seq} tokens"
          f"{', checkpointing' if a.checkpointing else ''}\n")
    print("| | puna | PEFT | puna / PEFT |\n| --- | ---: | ---: | ---: |")
    for name, i in (("tok/s", 0), ("MiB of the GPU", 1)):
        print(f"| {name} | {puna[i]:.5g} | {other[i]:.5g} | {puna[i] / other[i]:.2f} |")


main()
