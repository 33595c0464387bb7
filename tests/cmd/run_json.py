"""`puna run --json`: every field of requests and answers, errors per line, and equal bits at any
number of threads and any chunking. Usage: run_json.py PUNA TINY_MODEL"""
import json
import math
import subprocess
import sys

PUNA, TINY = sys.argv[1:]


def run(requests, *args, model=TINY, status=0):
    lines = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in requests)
    p = subprocess.run([PUNA, "run", model, "--json", *args], input=lines.encode(), timeout=600,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert p.returncode == status, (p.returncode, p.stderr, p.stdout[-500:])
    answers = [json.loads(x) for x in p.stdout.decode().splitlines()]
    assert len(answers) == len([r for r in requests if r != ""]), answers
    return answers


def one(status=0, *args, **request):
    return run([request], *args, status=status)[0]


def errors():
    """A bad line is answered by an error, the rest goes on, and the status is 1."""
    good = {"prompt": [5, 6, 7], "max_tokens": 3, "temperature": 0}
    bad = [("{", "request"), ("[]", "not an object"), ("7", "not an object"), ({}, "messages or prompt"),
           ({"prompt": "a", "messages": []}, "messages or prompt"), ({"prompt": 5}, "neither"),
           ({"prompt": [1, 99999]}, "prompt[1]"), ({"prompt": [1.5]}, "prompt[0]"),
           ({"prompt": ["a", "b"]}, "prompt[0]"), ({"prompt": [5], "temperature": 101}, "temperature"),
           ({"prompt": [5], "temperature": "hot"}, "temperature"), ({"prompt": [5], "top_p": 0}, "top_p"),
           ({"prompt": [5], "top_k": -2}, "top_k"), ({"prompt": [5], "min_p": 2}, "min_p"),
           ({"prompt": [5], "n": 2}, "n"), ({"prompt": [5], "stop": 5}, "stop"),
           ({"prompt": [5], "stop": ["a", 5]}, "stop takes"), ({"prompt": [5], "stop": ["a"] * 17}, "16"),
           ({"prompt": [5], "logit_bias": {"x": 1}}, "logit_bias"),
           ({"prompt": [5], "logit_bias": {"1024": 1}}, "end at 1023"),
           ({"prompt": [5], "logit_bias": {"5": 101}}, "-100..100"),
           ({"prompt": [5], "logprobs": 21}, "logprobs"), ({"prompt": [5], "seed": 1.5}, "seed"),
           ({"prompt": [5] * 5000}, "5000 tokens"), ('{"prompt": [5], "prompt": [6]}', "request"),
           ('{"prompt": "\\ud800"}', "request"), ({"prompt": [5], "max_tokens": 1e99}, "max_tokens")]
    answers = run([x for line, _ in bad for x in (line, good)] + [""], "--ctx", "512", status=1)
    first = answers[1]
    for (line, why), got in zip(bad, answers[::2]):
        assert list(got) == ["error"] and why in got["error"], (line, got)
    for got in answers[1::2]:
        assert got["ids"] == first["ids"] and got["prompt_ids"] == [5, 6, 7], got
    assert b"no prompt" in subprocess.run([PUNA, "run", TINY, "--json", "-p", "x"], input=b"",
                                          stderr=subprocess.PIPE).stderr


def numbers():
    """usage, finish_reason, ids, logprobs."""
    a = one(prompt=[5, 6, 7], max_tokens=10, temperature=0, logprobs=True, top_logprobs=4)
    assert a["finish_reason"] == "length" and len(a["ids"]) == 10 and "seed" not in a, a
    assert a["usage"] == {"prompt_tokens": 3, "completion_tokens": 10, "total_tokens": 13,
                          "prompt_tokens_details": {"cached_tokens": 0}}, a["usage"]
    content = a["logprobs"]["content"]
    assert [t["id"] for t in content] == a["ids"]
    for t in content:
        top = t["top_logprobs"]
        assert len(top) == 4 and top[0]["id"] == t["id"] and top[0]["logprob"] == t["logprob"], t
        assert all(x["logprob"] >= y["logprob"] for x, y in zip(top, top[1:]))
        assert sum(math.exp(x["logprob"]) for x in top) <= 1.0001
        assert bytes(t["bytes"]).decode(errors="replace") == t["token"] or t["token"] == "", t
    assert b"".join(bytes(t["bytes"]) for t in content).decode(errors="replace") == a["text"]
    old = one(prompt=[5, 6, 7], max_tokens=10, temperature=0, logprobs=4)
    assert old["logprobs"] == a["logprobs"]
    again = run([{"prompt": [5, 6, 7], "max_tokens": 10, "temperature": 0}] * 2)
    assert [x["usage"]["prompt_tokens_details"]["cached_tokens"] for x in again] == [0, 2], again
    assert again[0]["ids"] == again[1]["ids"] == a["ids"]
    assert one(prompt=[5], max_tokens=0, temperature=0, **{"stop": None}).keys() >= {"text", "usage"}


def steering():
    """logit_bias, stop strings, penalties, seeds, and what turns sampling on."""
    ask = {"prompt": [5, 6, 7], "max_tokens": 12}
    greedy = one(**ask, temperature=0)
    assert one(**ask, temperature=0, logit_bias={"65": 100})["ids"] == [65] * 12
    banned = one(**ask, temperature=0, logit_bias={str(i): -100 for i in set(greedy["ids"])})
    assert not set(banned["ids"]) & set(greedy["ids"])
    assert one(**ask, temperature=0, logit_bias={"1009": 100})["finish_reason"] == "stop"
    text = one(prompt=[5, 6, 7], max_tokens=12, temperature=0, logit_bias={"65": 100})["text"]
    mark = text[:3]
    cut = one(**ask, temperature=0, logit_bias={"65": 100}, stop=["never there", mark])
    assert cut["text"] == "" and cut["finish_reason"] == "stop" and 1 <= len(cut["ids"]) <= 3, cut
    assert len(set(one(**ask, temperature=0, repetition_penalty=50)["ids"])) == 12
    sampled = [one(**ask, seed=s) for s in (1, 1, 2)]  # generation_config.json: do_sample true
    assert sampled[0] == sampled[1] and sampled[0]["seed"] == 1
    assert sampled[0]["ids"] != sampled[2]["ids"] and sampled[0]["ids"] != greedy["ids"]
    assert "seed" in one(**ask) and "seed" not in one(0, "--greedy", **ask, top_p=0.5)
    assert one(**ask, top_k=1)["ids"] == greedy["ids"]
    assert one(**ask, min_p=1)["ids"] == greedy["ids"]
    gguf = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    a, b, c = run([gguf, {**gguf, "top_p": 0.9}, {**gguf, "temperature": None}], model="smollm2:135m")
    assert "seed" not in a and "seed" in b and "seed" not in c, (a, b, c)
    stop = {**gguf, "max_tokens": 40, "stop": "<|im_end|>"}
    keep, skip = run([{**gguf, "max_tokens": 40, "logit_bias": {"2": 100}, "skip_special_tokens": s}
                      for s in (False, True)], model="smollm2:135m")
    assert keep["ids"] == skip["ids"] == [2] and keep["finish_reason"] == "stop", (keep, skip, stop)


def same_bits():
    """Threads and chunks change nothing, not even the last bit of a log probability."""
    ask = [{"prompt": [(i * 37 + k) % 1000 for i in range(150)], "max_tokens": 8, "seed": 5,
            "logprobs": True, "top_logprobs": 3} for k in range(2)]
    want = run(ask, "--threads", "1")
    for args in (["--threads", "2"], ["--threads", "3", "--batch-size", "7"], ["--batch-size", "64"],
                 ["--batch-size", "1"]):
        assert run(ask, *args) == want, args


for part in (errors, numbers, steering, same_bits):
    part()
