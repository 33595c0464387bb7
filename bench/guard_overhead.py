#!/usr/bin/env python3
"""What a Llama Guard costs a chat in puna serve: time to first token with and without one, beside
the guard's own time for such a text (/v1/moderations). guard_overhead.py PUNA FOLDER TOKENIZER
[ROUNDS] [WORDS] [SHAPE]. FOLDER gets a model where it has none, which is both chat and guard: SHAPE
8b (16 GB of page cache, no disk) or 1b-8, eight layers of the 1B's, in bf16, its matrices zero, and
a head that says "safe". Rounds are interleaved.
"""
import http.client
import json
import os
import random
import re
import statistics
import struct
import subprocess
import sys
import time

puna, folder, tokenizer = sys.argv[1:4]
rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 7
words = int(sys.argv[5]) if len(sys.argv) > 5 else 100
shape = sys.argv[6] if len(sys.argv) > 6 else "1b-8"
V, HEADS, KV_HEADS = 128256, 32, 8
D, F, LAYERS = {"1b-8": (2048, 8192, 8), "8b": (4096, 14336, 32)}[shape]
KV = D // HEADS * KV_HEADS
SAFE, END = 19193, 128009


def write_model():
    shapes = {"model.embed_tokens": [V, D], "lm_head": [V, D], "model.norm": [D]}
    for i in range(LAYERS):
        for name, shape in {"input_layernorm": [D], "post_attention_layernorm": [D],
                            "self_attn.q_proj": [D, D], "self_attn.k_proj": [KV, D],
                            "self_attn.v_proj": [KV, D], "self_attn.o_proj": [D, D],
                            "mlp.gate_proj": [F, D], "mlp.up_proj": [F, D],
                            "mlp.down_proj": [D, F]}.items():
            shapes[f"model.layers.{i}.{name}"] = shape
    header, at = {}, 0
    for name, shape in shapes.items():
        n = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name + ".weight"] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(header).encode()
    one = b"\x80\x3f"
    os.makedirs(folder, exist_ok=True)
    with open(folder + "/model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        base = f.tell()
        f.truncate(base + at)  # zeros take no disk

        def put(name, row, column, value):
            d = header[name + ".weight"]
            f.seek(base + d["data_offsets"][0] + 2 * (row * D + column))
            f.write(value)

        for name, shape in shapes.items():
            if len(shape) == 1:
                put(name, 0, 0, one * D)
        for token in range(V):  # all tokens say "safe", and that says the end
            put("model.embed_tokens", token, 1 if token == SAFE else 0, one)
        put("lm_head", SAFE, 0, one)
        put("lm_head", END, 1, one)
    with open(folder + "/config.json", "w") as f:
        json.dump({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": D,
                   "vocab_size": V, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
                   "num_key_value_heads": KV_HEADS, "head_dim": D // HEADS, "intermediate_size": F,
                   "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "hidden_act": "silu",
                   "max_position_embeddings": 8192, "tie_word_embeddings": False,
                   "torch_dtype": "bfloat16", "bos_token_id": 128000, "eos_token_id": [END]}, f)
    os.symlink(os.path.abspath(tokenizer), folder + "/tokenizer.model")


def serve(*args):
    """A server's process and port."""
    p = subprocess.Popen([puna, "serve", folder, "--template", "llama3.1", "--ctx-size", "4096",
                          "--port", "0", *args],
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return p, int(re.search(r":(\d+) ", p.stdout.readline())[1])


def text():
    """Words that no cache has seen."""
    return " ".join(random.choice(("river", "house", "green", "seven", "walk", "stone", "light"))
                    for _ in range(words))


def seconds(port, path, body):
    """Until the first text of a stream, or the whole answer."""
    c = http.client.HTTPConnection("127.0.0.1", port)
    t = time.perf_counter()
    c.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    r = c.getresponse()
    line = r.readline()
    while line and body.get("stream") and not re.search(rb'"content": ?"[^"]', line):
        line = r.readline()
    t = time.perf_counter() - t
    assert r.status == 200 and line, (r.status, line)
    r.read()
    c.close()
    return t


def first(port):
    return seconds(port, "/v1/chat/completions", {
        "messages": [{"role": "user", "content": text()}], "max_tokens": 2, "stream": True})


if not os.path.exists(folder + "/config.json"):
    write_model()
plain, guarded = serve(), serve("--guard", folder, "--guard-input")
rows = []
try:
    for i in range(rounds + 1):
        row = (first(plain[1]), first(guarded[1]),
               seconds(guarded[1], "/v1/moderations", {"input": text()}))
        if i:  # the guard's policy is computed once
            rows.append(row)
finally:
    plain[0].kill()
    guarded[0].kill()
ms = [round(1000 * statistics.median(c)) for c in zip(*rows)]
grown = [(g - p) / a for p, g, a in rows]
print(json.dumps({"ttft_ms": ms[0], "ttft_guarded_ms": ms[1], "guard_ms": ms[2],
                  "growth_by_guard": round(statistics.median(grown), 2), "words": words,
                  "shape": shape,
                  "load": round(os.getloadavg()[0], 1),
                  "rounds_ms": [[round(1000 * x) for x in r] for r in rows]}))
