"""Several models in one server. Usage: serve_models.py PUNA SCRATCH_FOLDER"""
import json
import threading

from server import MODEL, TMP, Server

SMALL = f"small={TMP}/micro"


def text(s, **kw):
    kw.setdefault("max_tokens", 16)
    return s.chat(logprobs=True, **kw)["choices"][0]


def names(s):
    return [m["id"] for m in s.post_get("/v1/models")["data"]]


def chosen_by_name():
    alone = [Server(model=MODEL), Server(model=SMALL)]
    want = [text(x) for x in alone]
    for x in alone:
        x.stop()
    assert want[0] != want[1]
    s = Server(SMALL, "--lora-adapters", "final=tests/data/adapters/final")
    assert names(s) == ["tiny-llama31", "final", "small"], names(s)
    assert s.post_get("/v1/models/small")["root"] == "small"
    assert s.post_get("/models")["data"][2]["status"] == {"value": "loaded"}
    assert text(s) == text(s, model="tiny-llama31") == text(s, model="gpt-4") == want[0]
    assert text(s, model="small") == want[1] and text(s, model="final") != want[0]
    assert s.chat(model="small")["model"] == "small"
    # TGI's, Azure's and the token routes too
    a = s.post("/generate", {"inputs": "x", "model": "small", "parameters": {"max_new_tokens": 5}})
    assert "x-puna-ignored" not in s.headers
    assert a != s.post("/generate", {"inputs": "x", "parameters": {"max_new_tokens": 5}})
    b = s.post("/openai/deployments/small/chat/completions", {
        "messages": [{"role": "user", "content": "Count to three."}], "max_tokens": 16, "temperature": 0,
        "logprobs": True})
    assert b["choices"][0] == want[1], b
    # at the same time
    got = [None] * 24

    def one(i):
        got[i] = text(s, model=["tiny-llama31", "small"][i % 2])

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(got))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert got == want * (len(got) // 2)
    metrics = s.call("GET", "/metrics")[2].decode()
    assert 'vllm:generation_tokens_total{engine="1",model_name="small"} ' in metrics
    assert metrics.count("# TYPE vllm:generation_tokens_total ") == 1
    assert s.post("/models/load", {"model": "cached"}, 403) and s.post("/models/unload", {"model": "small"}, 403)
    assert '"route":"POST /v1/chat/completions"' in s.stop()
    return want


def come_and_go(want):
    s = Server(SMALL, "--allow-runtime-model-loading", "--models-max", "3")
    for body, status in (({}, 400), ({"model": 5}, 400), ({"model": "nobody"}, 404), ({"model": "small"}, 400),
                         ({"model": "../cache"}, 404), ({"model": TMP + "/micro"}, 404)):
        assert s.post("/models/load", body, status)["error"]["message"], body
    assert s.post("/models/load", {"model": "cached"}) == {"success": True}
    assert names(s) == ["tiny-llama31", "small", "cached"]
    assert text(s, model="cached") == want[1]
    # one that is in use goes when its answers have ended, and takes no more
    body = {"model": "small", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2000,
            "ignore_eos": True, "temperature": 0}
    ends = s.streams("/v1/chat/completions", [body] * 3)
    assert s.post("/models/unload", {"model": "small"}) == {"success": True}
    assert all(x[-1] == "[DONE]" and json.loads(x[-2])["choices"][0]["finish_reason"] == "length"
               for x in ends())
    assert names(s) == ["tiny-llama31", "cached"]
    assert text(s, model="small") == want[0]  # a name that no model has
    assert s.post("/models/unload", {"model": "small"}, 404)
    assert "it stays" in s.post("/models/unload", {"model": "tiny-llama31"}, 400)["error"]["message"]
    assert s.post("/models/load", {"model": "small"})  # the command line's, again
    assert text(s, model="small") == want[1]
    assert "models-max" in s.post("/models/load", {"model": "SmolLM2"}, 400)["error"]["message"]
    for _ in range(5):
        s.post("/models/unload", {"model": "cached"})
        s.post("/models/load", {"model": "cached"})
    # the end waits for the answers of all
    ends = s.streams("/v1/chat/completions", [{**body, "model": m} for m in ("small", "cached", "tiny-llama31")])
    s.stop()
    assert all(x[-1] == "[DONE]" for x in ends())
    strict = Server(SMALL, "--strict")
    assert strict.chat(want=404, model="nobody")["error"]["code"] == "model_not_found"
    assert text(strict, model="small") == want[1]
    strict.stop()


come_and_go(chosen_by_name())
print("serve models: ok")
