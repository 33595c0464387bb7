"""The dialects of `puna serve`. Usage: serve_api.py PUNA SCRATCH_FOLDER"""
import json
import re

from server import Server, eventually

CHAT = {"messages": [{"role": "user", "content": "Count to three."}], "max_tokens": 6, "temperature": 0}


def described(s):
    """/openapi.json has every route of the list, and what it says of fields is what the server does."""
    api = s.post_get("/openapi.json")
    listed = {f"{m.upper()} {p.replace('{name}', '*')}" for p, ops in api["paths"].items() for m in ops}
    with open("src/server/route.def") as f:
        assert listed == set(re.findall(r'^ROUTE\("([A-Z]+ [^"]+)"', f.read(), re.M)), listed
    chat = api["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]
    fields = chat["application/json"]["schema"]["properties"]
    assert chat["application/json"]["schema"]["required"] == ["messages"]
    assert fields["temperature"]["type"] == "number" and fields["stop"]["type"] == ["string", "array"]
    inner = api["paths"]["/generate"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert inner["properties"]["parameters"]["properties"]["do_sample"]["type"] == "boolean"
    for op in (o for ops in api["paths"].values() for o in ops.values()):
        assert op["summary"] and op["responses"]["200"], op
    # a required field that is missing is an error, and one that is said to be unused is told so
    s.post("/v1/chat/completions", {"max_tokens": 1}, 400)
    unused = [k for k, v in fields.items() if v["description"] == "accepted, not used"]
    assert "metadata" in unused and "user" not in unused, unused
    value = {"string": "x", "object": {}, "array": [], "boolean": True}
    s.post("/v1/chat/completions", {**CHAT, **{k: value[fields[k]["type"]] for k in unused
                                              if isinstance(fields[k]["type"], str)}})
    told = s.headers["x-puna-ignored"].split(", ")
    assert "metadata" in told and set(told) <= set(unused), told
    # each other field of the schema is read: a value of a wrong type is refused
    read = [k for k in fields if k not in unused and k not in
            ("messages", "add_generation_prompt", "tools_in_user_message")]
    for k in read:
        s.post("/v1/chat/completions", {**CHAT, k: 1.5 if "string" in fields[k]["type"] else "?"}
               if fields[k]["type"] != "number" else {**CHAT, k: "?"}, 400)
    status, headers, page = s.call("GET", "/docs")
    assert status == 200 and headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert b"openapi.json" in page and b"http" not in page.replace(b"httpEquiv", b""), "foreign files"
    assert re.fullmatch(r"\d+\.\d+\.\d+", s.post_get("/version")["version"])


def vllm(s):
    """Fields and routes that vLLM adds."""
    body = {"prompt": "Once upon a time", "max_tokens": 12, "temperature": 0, "logprobs": 0}
    a = s.post("/v1/completions", body)["choices"][0]
    ids = s.post("/tokenize", {"prompt": a["text"], "add_special_tokens": False})["tokens"]
    # further ids that end the answer, and no end before so many tokens
    names = a["logprobs"]["tokens"]
    at = next(i for i in range(2, 12) if names[i] not in names[:i] and "\ufffd" not in names[i])
    end = s.post("/tokenize", {"prompt": names[at], "add_special_tokens": False})["tokens"]
    assert len(end) == 1, (names, end)
    stop = s.post("/v1/completions", {**body, "stop_token_ids": end})["choices"][0]
    assert stop["finish_reason"] == "stop" and stop["text"] == "".join(names[:at]), (stop, names)
    more = s.post("/v1/completions", {**body, "stop_token_ids": end, "min_tokens": 12})["choices"][0]
    assert more["finish_reason"] == "length" and len(more["logprobs"]["tokens"]) == 12, more
    assert more["text"].startswith(stop["text"]) and end[0] not in s.post("/tokenize", {
        "prompt": more["text"], "add_special_tokens": False})["tokens"], more
    kept = s.post("/v1/completions", {**body, "stop": [names[at]], "include_stop_str_in_output": True})
    assert kept["choices"][0]["text"] == "".join(names[:at + 1]), kept
    for bad in ({"stop_token_ids": [-1]}, {"stop_token_ids": ["x"]}, {"stop_token_ids": list(range(100))},
                {"min_tokens": 13}, {"truncate_prompt_tokens": 0}):
        s.post("/v1/completions", {**body, **bad}, 400)
    # the last tokens of a prompt
    whole = s.post("/tokenize", {"prompt": "Once upon a time", "return_token_strs": True})
    assert whole["count"] == len(whole["tokens"]) == len(whole["token_strs"]) > 4, whole
    cut = s.post("/v1/completions", {**body, "truncate_prompt_tokens": 2})
    assert cut["usage"]["prompt_tokens"] == 2
    assert cut["choices"] == s.post("/v1/completions", {**body, "prompt": whole["tokens"][-2:]})["choices"]
    assert s.post("/v1/embeddings", {"input": "Once upon a time",
                                     "truncate_prompt_tokens": 3})["usage"]["prompt_tokens"] == 3
    # text_offset counts characters, as clients do
    e = s.post("/v1/completions", {"prompt": "\u00fcber Stra\u00dfen", "max_tokens": 3, "echo": True,
                                   "logprobs": 0, "temperature": 0})["choices"][0]
    at = [(t, o) for t, o in zip(e["logprobs"]["tokens"], e["logprobs"]["text_offset"]) if "\ufffd" not in t][1:]
    assert at and all(e["text"][o:].startswith(t) for t, o in at), e
    # there and back
    assert s.post("/detokenize", {"tokens": ids})["prompt"] == a["text"]
    assert s.post("/detokenize", {"tokens": whole["tokens"]})["prompt"] == "<|begin_of_text|>Once upon a time"
    chat = s.post("/tokenize", {"messages": CHAT["messages"]})
    assert chat["count"] == s.post("/v1/chat/completions", CHAT)["usage"]["prompt_tokens"]
    for bad in ({"tokens": "x"}, {"tokens": [10 ** 9]}, {}):
        s.post("/detokenize", bad, 400)
    s.post("/tokenize", {"prompt": 5}, 400)
    # an answer that was begun
    some = "One, "
    begun = {**CHAT, "messages": CHAT["messages"] + [{"role": "assistant", "content": some}]}
    go_on = {**begun, "continue_final_message": True, "add_generation_prompt": False}
    plain = s.post("/tokenize", {"messages": CHAT["messages"]})["tokens"]
    text = s.post("/detokenize", {"tokens": s.post("/tokenize", go_on)["tokens"]})["prompt"]
    assert text == s.post("/detokenize", {"tokens": plain})["prompt"] + some, text
    s.post("/v1/chat/completions", {**CHAT, "continue_final_message": True}, 400)
    # counts in each event
    chunks = [json.loads(x) for x in s.stream("/v1/chat/completions", {
        **CHAT, "stream_options": {"include_usage": True, "continuous_usage_stats": True}})[:-1]]
    counts = [c["usage"]["completion_tokens"] for c in chunks]
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] == 6, counts


def azure(s):
    want = s.post("/v1/chat/completions", CHAT)["choices"]
    path = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
    a = s.post(path, CHAT, headers={"api-key": "k"})
    assert a["choices"] == want and a["model"] == "gpt-4o", a
    a = s.post("/openai/deployments/e/embeddings?api-version=1", {"input": "x"})
    assert a["model"] == "e" and len(a["data"]) == 1, a
    assert s.post("/openai/deployments/d/completions", {"prompt": "x"})["model"] == "d"
    for path in ("/openai/v1/chat/completions", "/chat/completions?api-version=2024-05-01-preview"):
        assert s.post(path, CHAT)["choices"] == want
    assert len(s.post("/embeddings", {"input": "x"})["data"]) == 1
    for path in ("/openai/deployments/d", "/openai/deployments/d/other", "/openai/v1/x"):
        s.post(path, CHAT, 404)
    s.post("/openai/deployments/%2e%2e/chat/completions", CHAT, 400)
    # what to do with fields that the model does not have
    s.post("/chat/completions", {**CHAT, "new": 1}, headers={"extra-parameters": "drop"})
    assert s.headers["x-puna-ignored"] == "new"
    e = s.post("/chat/completions", {**CHAT, "new": 1}, 400, headers={"extra-parameters": "error"})
    assert "new" in e["error"]["message"], e


def strict():
    s = Server("--strict", "--served-model-name", "mine", "--api-key", "k")
    h = {"Authorization": "Bearer k"}
    s.post("/v1/chat/completions", {**CHAT, "model": "mine", "metadata": {}, "store": False}, headers=h)
    assert s.headers["x-puna-ignored"] == "metadata, store"
    for path, body in (("/v1/chat/completions", CHAT), ("/v1/completions", {"prompt": "x"}),
                       ("/v1/embeddings", {"input": "x"})):
        e = s.post(path, {**body, "some_field": 1}, 400, headers=h)["error"]
        assert e["message"] == "Unrecognized request argument supplied: some_field", e
        assert e["type"] == "invalid_request_error"
        e = s.post(path, {**body, "model": "gpt-4"}, 404, headers=h)["error"]
        assert e["code"] == "model_not_found", e
    e = s.post("/generate", {"inputs": "x", "parameters": {"odd": 1}}, 422, headers=h)
    assert "odd" in e["error"], e
    # keys as OpenAI's and as Azure's clients send them
    assert s.call("GET", "/v1/models", headers={"api-key": "k"})[0] == 200
    assert s.call("GET", "/v1/models", headers={"api-key": "K"})[0] == 401
    assert s.post_get("/openapi.json")["paths"]["/v1/models"]["get"]["security"] == [{"key": []}]
    s.stop()


def compat_tgi(plain):
    """Where TGI's /v1 is not OpenAI's."""
    s = Server("--compat", "tgi")
    a = s.post("/v1/chat/completions", CHAT)
    assert a["id"] == "" and a["system_fingerprint"].endswith("-native"), a
    assert a["choices"][0]["message"]["content"] == plain
    chunks = [json.loads(x) for x in s.stream("/v1/chat/completions", CHAT)[:-1]]
    assert all(c["choices"][0]["delta"]["role"] == "assistant" for c in chunks), chunks
    assert all(c["usage"] is None for c in chunks)
    chunks = [json.loads(x) for x in s.stream("/v1/completions", {"prompt": "x", "temperature": 0})[:-1]]
    assert {c["choices"][0]["finish_reason"] for c in chunks[:-1]} == {""}, chunks
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    stop = s.post("/v1/completions", {"prompt": "x", "stop": a["choices"][0]["message"]["content"][:1],
                                      "logit_bias": {}, "max_tokens": 200})["choices"][0]
    assert stop["finish_reason"] in ("stop_sequence", "length", "eos_token"), stop
    one = s.post("/chat_tokenize", {"messages": CHAT["messages"]})["templated_text"]
    two = s.post("/chat_tokenize", {"messages": CHAT["messages"] + [
        {"role": "assistant", "content": "One, "}]})["templated_text"]
    assert two == one + "One, ", two
    e = s.post("/v1/chat/completions", {**CHAT, "temperature": -1}, 422)
    assert e["error"].startswith("Input validation error: ") and e["error_type"] == "validation", e
    s.stop()


def metrics(s):
    """vLLM's names and TGI's, in Prometheus' form, beside what the answers say."""
    label = r'engine="0",model_name="tiny-llama31"'

    def read():
        text = s.call("GET", "/metrics")[2].decode()
        seen, got = set(), {}
        for line in text.splitlines():
            kind = re.fullmatch(r"# TYPE (\S+) (counter|gauge|histogram)", line)
            if kind:
                assert kind[1] not in seen, f"{kind[1]} twice"
                seen.add(kind[1])
            elif not line.startswith("# HELP"):
                m = re.fullmatch(r'([a-z_:0-9]+)(\{([a-z_]+="[^"]*",?)+\})? ([-+.e0-9]+)', line)
                assert m, line
                assert re.sub("_(bucket|sum|count)$", "", m[1]) in seen or m[1] in seen, line
                got[m[1] + (m[2] or "")] = float(m[4])
        return got

    a = read()
    u = s.post("/v1/completions", {"prompt": "Once upon", "max_tokens": 9, "ignore_eos": True})["usage"]
    v = "{" + label + "}"
    eventually("the engine rests", lambda: not read()["vllm:num_requests_running" + v])
    b = read()

    def grew(name):
        return b[name] - a[name]

    assert grew("vllm:generation_tokens_total" + v) == grew("puna_answer_tokens") == 9
    assert grew("vllm:prompt_tokens_total" + v) == u["prompt_tokens"]
    for name in ("time_to_first_token", "e2e_request_latency", "request_queue_time", "request_prefill_time",
                 "request_decode_time", "request_inference_time"):
        assert grew(f"vllm:{name}_seconds_count" + v) == 1, name
        assert grew(f'vllm:{name}_seconds_bucket{{{label},le="+Inf"}}') == 1, name
    assert grew("vllm:inter_token_latency_seconds_count" + v) == 8
    assert grew("vllm:request_generation_tokens_sum" + v) == grew("tgi_request_generated_tokens_sum") == 9
    assert grew(f'vllm:request_success_total{{{label},finished_reason="length"}}') == 1
    assert grew(f'vllm:request_generation_tokens_bucket{{{label},le="10"}}') == 1
    assert grew(f'vllm:request_generation_tokens_bucket{{{label},le="5"}}') == 0
    assert b["vllm:num_requests_running" + v] == b["vllm:num_requests_waiting" + v] == 0
    assert b["vllm:kv_cache_usage_perc" + v] == b["vllm:gpu_cache_usage_perc" + v] == 0
    for name in ("inference_count", "inference_success", "inference_duration_count"):
        assert grew(f'tgi_batch_{name}{{method="prefill"}}') >= 1, name
        assert grew(f'tgi_batch_{name}{{method="decode"}}') >= 1, name
    passes = sum(grew(f'tgi_batch_inference_count{{method="{m}"}}') for m in ("prefill", "decode"))
    assert passes == grew("puna_steps") and grew("tgi_request_duration_count") == 1
    assert grew("tgi_request_success") == grew("tgi_request_count") == 1


def traced(s):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    s.post("/v1/completions", {"prompt": "x"}, headers={"traceparent": trace, "x-request-id": "t1"})
    assert s.headers["traceparent"] == trace
    for bad in (trace.upper(), trace[:-1], trace + "0", "00-x"):
        s.post("/v1/completions", {"prompt": "x"}, headers={"traceparent": bad})
        assert s.headers["traceparent"] is None, bad
    lines = [json.loads(x) for x in s.logged().splitlines() if x.startswith("{")]
    one = [x for x in lines if x["id"] == "t1"]
    assert len(one) == 1 and one[0]["trace_id"] == trace[3:35], one
    assert 0 < one[0]["first_token_seconds"] <= one[0]["seconds"] and one[0]["answer_tokens"] > 0
    assert sum("trace_id" in x for x in lines) == 1


s = Server()
metrics(s)
traced(s)
described(s)
azure(s)
vllm(s)
text = s.post("/v1/chat/completions", CHAT)["choices"][0]["message"]["content"]
# fields of TGI that are not used, and of Vertex: parameters beside the instances are those of each
s.post("/generate", {"inputs": "x", "parameters": {"max_new_tokens": 1, "typical_p": 0.5, "odd": 1}})
assert s.headers["x-puna-ignored"] == "typical_p, odd", s.headers["x-puna-ignored"]
v = s.post("/vertex", {"instances": [{"inputs": "Once"}, {"inputs": "Once", "parameters": {
    "max_new_tokens": 5}}], "parameters": {"max_new_tokens": 2}})["predictions"]
assert v[1].startswith(v[0]) and len(v[0]) < len(v[1]), v
s.stop()
strict()
compat_tgi(text)
