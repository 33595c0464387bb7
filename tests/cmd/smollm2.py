"""The chats of tests/data/smollm2/chat.jsonl (recorded with transformers from the same GGUF file)
through `puna run --json`. Usage: smollm2.py PUNA"""
import json
import os
import subprocess
import sys

PUNA, = sys.argv[1:]
# A gap between the two likeliest logits that rounding may turn round: float32 in another order, or
# activations of 8 bits.
TIE = {"f32": 0.01, "auto": 0.5}


def run(requests, *args):
    lines = "".join(json.dumps(r) + "\n" for r in requests)
    out = subprocess.run([PUNA, "run", "--json", *args], input=lines, text=True, check=True, timeout=600,
                         stdout=subprocess.PIPE).stdout
    return [json.loads(x) for x in out.splitlines()]


def chats(dtype, most):
    with open("tests/data/smollm2/chat.jsonl") as f:
        want = [json.loads(x) for x in f]
    for w in want:
        if len(w["greedy_ids"]) > most:
            w.update(greedy_ids=w["greedy_ids"][:most], text=None)
    got = run([{"messages": w["messages"], "max_tokens": len(w["greedy_ids"])} for w in want],
              "--dtype", dtype)
    exact = 0
    for w, g in zip(want, got):
        assert g["prompt_ids"] == w["prompt_ids"], (g["prompt_ids"], w["prompt_ids"])
        same = [a == b for a, b in zip(g["ids"], w["greedy_ids"])]
        if all(same) and len(g["ids"]) == len(w["greedy_ids"]):
            assert w["text"] in (None, g["text"]), (g["text"], w["text"])
            exact += 1
        else:
            at = same.index(False) if not all(same) else len(same)
            assert w["margins"][at] < TIE[dtype], (w["text"], g["text"], at, w["margins"][at])
            print(f"{dtype}: {g['text'][:40]!r} differs from token {at} on, gap {w['margins'][at]}")
    print(f"{dtype}: {exact} of {len(want)} chats to the last token")
    return exact


def cached_equals_fresh():
    """The second turn over the first one's cache, and alone: the same bits in every log probability.
    On AMX an answer in the cache is in another arithmetic than a prompt (docs/reproducibility.md)."""
    same = ("--isa", "avx512_bf16")
    ask = [{"role": "user", "content": "Name three colours."}]
    turn = {"max_tokens": 12, "logprobs": True, "top_logprobs": 5, "temperature": 0.7, "seed": 11}
    first, = run([{"messages": ask, **turn}], *same)
    talk = ask + [{"role": "assistant", "content": first["text"]}, {"role": "user", "content": "Why?"}]
    warm = run([{"messages": ask, **turn}, {"messages": talk, **turn}], *same)[1]
    cold, = run([{"messages": talk, **turn}], *same)
    cached = [x["usage"].pop("prompt_tokens_details")["cached_tokens"] for x in (warm, cold)]
    assert cached[0] >= first["usage"]["prompt_tokens"] - 1 and cached[1] == 0, cached
    assert warm == cold


# under sanitizers (make SAN=1) a few tokens run the same code
assert chats("f32", 8 if os.environ.get("SAN") else 40) >= 7
chats("auto", 4)
cached_equals_fresh()
