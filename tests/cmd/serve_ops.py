"""TLS, keys, rates, origins and files of options. Usage: serve_ops.py PUNA SCRATCH_FOLDER"""
import http.client
import json
import os
import socket
import ssl
import threading

from server import MODEL, TMP, WAIT, Server

CHAT = {"messages": [{"role": "user", "content": "Count to three."}], "max_tokens": 6, "temperature": 0}


def tls():
    s = Server("--ssl-certfile", TMP + "/a.pem", "--ssl-keyfile", TMP + "/a.key", scheme="https")
    s.tls = ssl.create_default_context(cafile=TMP + "/a.pem")
    text = s.chat()["choices"][0]["message"]["content"]
    assert s.call("GET", "/health")[0] == 200
    events = s.stream("/v1/chat/completions", {**CHAT, "max_tokens": 300, "ignore_eos": True})
    assert events[-1] == "[DONE]" and len(events) > 100
    big = s.post("/v1/completions", {"prompt": [1] * 60000, "max_tokens": 200000}, 400)  # > one record
    assert big["error"]["code"] == "context_length_exceeded"
    # many at once, some of whom leave
    got = []

    def one(i):
        if i % 4 == 3:
            c = s.tls.wrap_socket(socket.create_connection(("127.0.0.1", s.port), WAIT),
                                  server_hostname="127.0.0.1")
            c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Le")
            c.close()
        else:
            got.append(s.chat()["choices"][0]["message"]["content"])

    threads = [threading.Thread(target=one, args=(i,)) for i in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert got == [text] * 12, got
    # who does not speak TLS, or does not trust, gets nothing and breaks nothing
    c = socket.create_connection(("127.0.0.1", s.port), WAIT)
    c.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"200" not in c.recv(100)
    c.close()
    for other in (ssl.create_default_context(), ssl.create_default_context(cafile=TMP + "/b.pem")):
        h = http.client.HTTPSConnection("127.0.0.1", s.port, timeout=WAIT, context=other)
        try:
            h.request("GET", "/health")
            raise AssertionError("a certificate that nobody vouches for was taken")
        except ssl.SSLError:
            pass
    assert s.call("GET", "/health")[0] == 200
    s.stop()


def keys():
    with open(TMP + "/keys", "w", opener=lambda p, f: os.open(p, f, 0o600)) as f:
        f.write("# ours\n\nsesame\n  second\n")
    s = Server("--api-key-file", TMP + "/keys", "--api-key", "third", "--requests-per-minute", "5")
    bearer = [{"Authorization": "Bearer " + k} for k in ("sesame", "second", "third")]
    for h in bearer:
        assert s.chat(headers=h)["choices"][0]["message"]["content"]
    for wrong in ("# ours", "", "sesam", "sesame\u00a0"):
        status, _, _ = s.call("GET", "/v1/models", headers={"Authorization": ("Bearer " + wrong).encode()})
        assert status in (400, 401), wrong
    # no key shares a prefix with another one
    long = {"messages": [{"role": "user", "content": "count " * 200}], "max_tokens": 1}
    assert s.chat(headers=bearer[0], **long)["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert s.chat(headers=bearer[0], **long)["usage"]["prompt_tokens_details"]["cached_tokens"] > 100
    assert s.chat(headers=bearer[1], **long)["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    # five at once, and no more for a while: the next within 12 s
    left = []
    while True:
        status, headers, data = s.call("POST", "/v1/chat/completions", {**CHAT, "max_tokens": 1}, bearer[0])
        left.append(headers["x-ratelimit-remaining-requests"])
        if status == 429:
            break
        assert status == 200 and len(left) < 60, (status, left)
    assert 1 <= int(headers["Retry-After"]) <= 12, headers["Retry-After"]
    assert b"rate_limit_exceeded" in data and headers["x-ratelimit-limit-requests"] == "5"
    assert left[-2:] == ["0", "0"], left
    assert s.call("POST", "/generate", {"inputs": "x"}, bearer[0])[0] == 429
    assert s.call("GET", "/v1/models", headers=bearer[0])[0] == 200
    s.chat(headers=bearer[2])  # another key has its own
    assert "sesame" not in s.stop()


def origins():
    s = Server("--cors-allow-origin", "https://good.example", "--cors-allow-origin", "http://two.example:3000")
    ask = {"Access-Control-Request-Method": "POST",
           "Access-Control-Request-Headers": "authorization, x-stainless-lang"}
    for origin in ("https://good.example", "http://two.example:3000"):
        status, h, _ = s.call("OPTIONS", "/v1/chat/completions", headers={"Origin": origin, **ask})
        assert status == 204 and h["Access-Control-Allow-Origin"] == origin
        assert h["Access-Control-Allow-Headers"] == ask["Access-Control-Request-Headers"]
        assert "POST" in h["Access-Control-Allow-Methods"]
        s.post("/v1/chat/completions", CHAT, headers={"Origin": origin})
        assert s.headers["Access-Control-Allow-Origin"] == origin
        assert "x-request-id" in s.headers["Access-Control-Expose-Headers"]
    for origin in ("https://evil.example", "null", "https://good.example.evil.example", "http://good.example",
                   "https://good.example:1"):
        status, h, _ = s.call("OPTIONS", "/v1/chat/completions", headers={"Origin": origin, **ask})
        assert status == 403 and h["Access-Control-Allow-Origin"] is None, origin
        assert s.call("POST", "/v1/completions", {"prompt": "x"}, {"Origin": origin})[0] == 403, origin
    s.call("OPTIONS", "/", headers={"Origin": "https://good.example", "Host": "evil.example"})
    # names, not addresses, can be made to mean this machine
    for host, want in (("10.1.2.3", 200), ("[fe80::1]:80", 200), ("LOCALHOST", 200), ("10.1.2.3.evil.example", 403),
                       ("[::1", 403), ("[]", 403), ("1.2.3", 403), ("evil.example", 403), ("localhost.evil.example", 403)):
        assert s.call("GET", "/v1/models", headers={"Host": host})[0] == want, host
    # a page that this server gave may call it
    own = {"Origin": f"http://127.0.0.1:{s.port}"}
    assert s.call("POST", "/v1/completions", {"prompt": "x"}, own)[0] == 200
    s.stop()


def config():
    with open(TMP + "/serve.yaml", "w") as f:
        f.write("# options as in vLLM's file\nserved-model-name: \"the model\"  \nmax_best_of = 7 # more\n"
                "max-stop-sequences: 2\nmax-top-n-tokens: 3\napi-key:\n  - a\n  - b\nstrict: true\n"
                "cors-allow-origin: https://one.example\ncors-allow-origin: https://two.example\n")
    os.environ["MAX_STOP_SEQUENCES"] = "4"
    os.environ["PUNA_MAX_TOP_N_TOKENS"] = "5"
    s = Server("--config", TMP + "/serve.yaml", "--max-best-of", "8")
    del os.environ["MAX_STOP_SEQUENCES"], os.environ["PUNA_MAX_TOP_N_TOKENS"]
    i = s.post_get("/info")
    # the command line, then the environment, then the file
    assert (i["model_id"], i["max_best_of"], i["max_stop_sequences"]) == ("the model", 8, 4), i
    p = {"inputs": "x", "parameters": {"top_n_tokens": 5, "max_new_tokens": 1}}
    for key in ("a", "b"):
        s.post("/generate", p, headers={"Authorization": "Bearer " + key})
        assert s.call("GET", "/v1/models", headers={"Authorization": "Bearer " + key, "Origin":
                      "https://two.example"})[1]["Access-Control-Allow-Origin"] == "https://two.example"
    s.post("/v1/completions", {"prompt": "x", "odd": 1}, 400, headers={"Authorization": "Bearer a"})
    s.stop()
    # the model, as every other option
    with open(TMP + "/serve.toml", "w") as f:
        f.write("model = 'tests/data/tiny-llama31'\ntemplate = llama3.1\n")
    s = Server("--config", TMP + "/serve.toml", model=None)
    assert s.chat()["model"] == "tiny-llama31"
    s.stop()
    s = Server("--model-id", "tests/data/tiny-llama31", "--num-shard", "1", model=None)
    assert s.post_get("/info")["model_id"] == "tiny-llama31"
    s.stop()


def framing():
    """Heads that servers read in more than one way are refused, and what the standard allows is taken."""
    s = Server("--api-key", "k")

    def raw(data, more_to_come=False):
        with socket.create_connection(("127.0.0.1", s.port), WAIT) as c:
            c.sendall(data)
            if not more_to_come:
                c.shutdown(socket.SHUT_WR)
            got = b""
            while True:
                more = c.recv(65536)
                if not more:
                    return [int(x[:3]) for x in got.split(b"HTTP/1.1 ")[1:]]
                got += more

    get = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
    post = (b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Authorization: Bearer k\r\n")
    body = b'{"prompt": "x",\n "max_tokens": 1}'
    whole = post + b"Content-Length: %d\r\n\r\n" % len(body) + body
    chunks = post + b"Transfer-Encoding: chunked\r\n\r\n%x;a=b\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
    for good, codes in ((get + b"\r\n", [200]), (b"\r\n" + get + b"\r\n", [200]), (whole, [200]), (chunks, [200])):
        assert raw(good) == codes, (good, raw(good))
    last = get + b"Connection: close\r\n\r\n"
    assert raw(whole + get + b"\r\n" + chunks + last, True) == [200] * 4
    for bad in (get.replace(b"\r", b"") + b"\n", get + b"X: a\nY: b\r\n\r\n", get + b"\n", get + b"X: a\0b\r\n\r\n",
                whole.replace(b" k\r", b" k\0\r"), whole.replace(b"HTTP/1.1\r", b"HTTP/1.1"),
                get.replace(b"health", b"health\0"), get + b"Content-Length: 5\r\n\r\nGET /"):
        codes = raw(bad + get + b"\r\n")
        assert codes in ([], [400]), (bad, codes)
    assert s.call("GET", "/health")[0] == 200
    s.stop()


def launcher():
    """A command line that was written for TGI's launcher."""
    with open(TMP + "/tokenizer_config.json", "w") as f:
        json.dump({"chat_template": "{{ mood }}{% for m in messages %}[{{ m['content'] }}]{% endfor %}"}, f)
    s = Server("--model-id", MODEL, "--num-shard", "1", "--sharded", "false", "--dtype", "float16",
               "--max-batch-prefill-tokens", "128", "--json-output", "--cuda-graphs", "1,2,4", "--trust-remote-code",
               "--validation-workers", "2", "--waiting-served-ratio", "0.3", "--disable-grammar-support",
               "--tokenizer-config-path", TMP + "/tokenizer_config.json", model=None)
    a = s.post("/chat_tokenize", {"messages": [{"role": "user", "content": "hello"}]})
    assert a["templated_text"].endswith("[hello]"), a
    a = s.post("/chat_tokenize", {"messages": [{"role": "user", "content": "hello"}],
                                  "chat_template_kwargs": {"mood": "glad", "messages": [], "tokenize": True}})
    assert a["templated_text"].endswith("glad[hello]"), a
    assert "grammar" in s.chat(400, response_format={"type": "json_object"})["error"]["message"]
    e = s.post("/generate", {"inputs": "x", "parameters": {"grammar": {"type": "regex", "value": "a"}}}, 422)
    assert "grammar is not supported" in e["error"], e
    log = s.stop()
    assert "--cuda-graphs has no effect: " in log and "--json-output has no effect: " in log, log


tls()
launcher()
framing()
keys()
origins()
config()
