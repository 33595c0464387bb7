"""Adapters of `puna serve`. Usage: adapters.py PUNA FOLDER; FOLDER holds rslora, pattern and all."""
import atexit
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

PUNA, TMP = sys.argv[1:]
MODEL = "tests/data/tiny-llama31"
WAIT = 300
KINDS = ("rslora", "pattern", "all")


class Server:
    def __init__(self, *args):
        self.p = subprocess.Popen([PUNA, "serve", MODEL, "--port", "0", "-q", *args],
                                  stdout=subprocess.PIPE, text=True)
        atexit.register(self.p.kill)
        self.port = int(re.search(r":(\d+) ", self.p.stdout.readline())[1])

    def call(self, method, path, body=None):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)
        c.request(method, path, None if body is None else json.dumps(body),
                  {"Content-Type": "application/json"})
        r = c.getresponse()
        data = r.read().decode()
        c.close()
        return r.status, data

    def post(self, path, body, want=200):
        status, data = self.call("POST", path, body)
        assert status == want, f"{path} {body}: {status} instead of {want}: {data}"
        return json.loads(data) if data.startswith("{") else data

    def answer(self, model, prompt="the quick", n=24):
        c = self.post("/v1/completions", {"model": model, "prompt": prompt, "max_tokens": n,
                                          "temperature": 0, "logprobs": 1, "ignore_eos": True})
        return c["choices"][0]["text"], c["choices"][0]["logprobs"]["token_logprobs"]

    def models(self):
        return [m["id"] for m in json.loads(self.call("GET", "/v1/models")[1])["data"]]

    def stop(self):
        self.p.send_signal(signal.SIGTERM)
        assert self.p.wait(WAIT) == 0


def eventually(what, fn):
    end = time.monotonic() + WAIT
    while not fn():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def mixed():
    """Three adapters and the model in one batch: each answer equals the one of a server that has
    that adapter alone, to the last bit of its logprobs."""
    want = {}
    for kind in KINDS:
        s = Server("--lora-adapters", f"{kind}={TMP}/{kind}", "--no-prefix-cache")
        want[kind] = s.answer(kind)
        s.stop()
    os.environ["LORA_ADAPTERS"] = ",".join(f"{k}={TMP}/{k}" for k in KINDS)  # as TGI's images
    s = Server()
    del os.environ["LORA_ADAPTERS"]
    want["tgi"] = s.answer("tgi")
    names = list(KINDS) + ["tgi"]
    for a in names:
        for b in names:
            assert a == b or want[a] != want[b], (a, b)
    jobs = names * 6
    got = [None] * len(jobs)

    def one(i):
        got[i] = s.answer(jobs[i])

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(jobs))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    bad = [jobs[i] for i in range(len(jobs)) if got[i] != want[jobs[i]]]
    assert not bad, f"{bad}: other answers in company"
    # by TGI's name for it; a name that nobody has is the model
    for kind in names:
        p = {"max_new_tokens": 24, "adapter_id": kind}
        text = s.post("/generate", {"inputs": "the quick", "parameters": p})["generated_text"]
        assert want[kind][0].startswith(text) and text, (kind, text, want[kind][0])
    assert s.models() == ["tiny-llama31", "all", "pattern", "rslora"], s.models()
    one = json.loads(s.call("GET", "/v1/models/all")[1])
    assert one["parent"] == "tiny-llama31" and one["root"] == TMP + "/all", one
    # nobody may load one unless the operator said so
    e = s.post("/v1/load_lora_adapter", {"lora_name": "x", "lora_path": TMP + "/all"}, 403)
    assert "--allow-runtime-lora-updating" in e["error"]["message"], e
    s.post("/v1/unload_lora_adapter", {"lora_name": "all"}, 403)
    s.stop()
    return want


def changing(want):
    s = Server("--allow-runtime-lora-updating")
    load = lambda name, kind, status=200, **kw: s.post(
        "/v1/load_lora_adapter", {"lora_name": name, "lora_path": f"{TMP}/{kind}", **kw}, status)
    unload = lambda name, status=200: s.post("/v1/unload_lora_adapter", {"lora_name": name}, status)
    base = s.answer("x")
    assert base == want["tgi"]
    assert load("x", "rslora") == "Success: LoRA adapter 'x' added successfully."
    assert s.models() == ["tiny-llama31", "x"] and s.answer("x") == want["rslora"]
    assert "already been loaded" in load("x", "all", 400)["error"]["message"]
    load("x", "all", load_inplace=True)
    assert s.answer("x") == want["all"], "the other adapter's cache was used"
    assert unload("x") == "Success: LoRA adapter 'x' removed successfully."
    assert "cannot be found" in unload("x", 404)["error"]["message"]
    assert s.answer("x") == base
    # again and again: an address that comes back must not bring its cached prefixes along
    for kind in KINDS * 2:
        load("x", kind)
        assert s.answer("x") == want[kind], kind
        unload("x")
    s.post("/v1/load_lora_adapter", {"lora_name": "y"}, 400)
    s.post("/v1/unload_lora_adapter", {}, 400)
    load("y", "no-such-folder", 404)
    load("tiny-llama31", "all", 400)
    load("a\nb", "all", 400)
    assert s.models() == ["tiny-llama31"]

    # unloading waits for who uses it; its name is free at once
    load("x", "rslora")
    body = json.dumps({"model": "x", "prompt": "the", "stream": True, "max_tokens": 100000,
                       "ignore_eos": True}).encode()
    c = socket.create_connection(("127.0.0.1", s.port), WAIT)
    c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
              b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert b" 200 " in c.recv(100)
    reader = threading.Thread(target=lambda: all(iter(lambda: c.recv(1 << 16), b"")))
    reader.start()
    done = []
    t = threading.Thread(target=lambda: done.append(unload("x")))
    t.start()
    eventually("x is no longer listed", lambda: s.models() == ["tiny-llama31"])
    assert not done, "unloaded while a request uses it"
    load("x", "all")
    assert s.answer("x") == want["all"]
    assert not done and reader.is_alive(), "the answer with the old one was cut"
    c.shutdown(socket.SHUT_RDWR)
    reader.join(WAIT)
    t.join(WAIT)
    assert done == ["Success: LoRA adapter 'x' removed successfully."], done
    assert s.answer("x") == want["all"] and s.models() == ["tiny-llama31", "x"]
    s.stop()


changing(mixed())
