"""`puna serve`, driven with http.client. Usage: serve.py PUNA SCRATCH_FOLDER"""
import base64
import json
import os
import re
import signal
import socket
import struct
import threading

from server import WAIT, Server, eventually


def chats(s):
    a = s.chat()
    choice = a["choices"][0]
    assert a["object"] == "chat.completion" and a["id"].startswith("chatcmpl-"), a
    assert choice["message"]["role"] == "assistant" and choice["finish_reason"] == "length", a
    assert a["usage"]["completion_tokens"] == 12 and a["usage"]["prompt_tokens"] > 4, a
    assert a["usage"]["total_tokens"] == 12 + a["usage"]["prompt_tokens"], a
    assert a["model"] == "tiny-llama31" and s.chat(model="gpt-4")["model"] == "gpt-4"
    text = choice["message"]["content"]
    again = s.chat()
    assert again["choices"][0]["message"]["content"] == text
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0, again
    # a seed repeats a draw; n draws are others, the first the same
    one = s.chat(temperature=1, seed=5)["choices"][0]["message"]["content"]
    many = [c["message"]["content"] for c in s.chat(temperature=1, seed=5, n=3)["choices"]]
    assert len(many) == 3 and many[0] == one and len(set(many)) == 3, many
    # a stop string is cut off, wherever tokens end
    middle = text[len(text) // 2:][:3]
    cut = s.chat(stop=middle)["choices"][0]
    assert cut["message"]["content"] == text[:text.index(middle)] and cut["finish_reason"] == "stop"
    p = s.chat(logprobs=True, top_logprobs=3)["choices"][0]["logprobs"]["content"]
    assert len(p) == 12 and all(len(x["top_logprobs"]) == 3 for x in p), p
    assert all(x["logprob"] == x["top_logprobs"][0]["logprob"] <= 0 for x in p), p
    assert b"".join(bytes(x["bytes"]) for x in p).decode("utf-8", "replace") == text
    free = s.chat(max_tokens=None, guided_choice=["yes", "no"])["choices"][0]  # as long as it likes
    assert free["message"]["content"] in ("yes", "no") and free["finish_reason"] == "stop", free
    assert "max_tokens is 0" in s.chat(400, max_tokens=0)["error"]["message"]
    s.chat(some_future_field=1)
    assert s.headers["x-puna-ignored"] == "some_future_field" and s.headers["x-request-id"]
    a = s.post("/chat_tokenize", {"messages": [{"role": "user", "content": "x"}],
                                  "chat_template_kwargs": {"date_string": "1 Jan 2020"}})
    assert "Today Date: 1 Jan 2020" in a["templated_text"], a
    s.chat(want=400, chat_template_kwargs=5)
    s.chat(chat_template_kwargs={"stream": True, "max_tokens": 5000})
    s.chat(headers={"x-request-id": "mine-1"})
    assert s.headers["x-request-id"] == "mine-1"
    return text


def streams(s, text):
    body = {"messages": [{"role": "user", "content": "Count to three."}], "max_tokens": 12,
            "temperature": 0, "stream_options": {"include_usage": True}}
    events = s.stream("/v1/chat/completions", body)
    assert events[-1] == "[DONE]"
    chunks = [json.loads(x) for x in events[:-1]]
    assert len({x["id"] for x in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}, chunks[0]
    got = "".join(x["choices"][0]["delta"].get("content", "") for x in chunks[:-1])
    assert got == text, (got, text)
    reasons = [x["choices"][0]["finish_reason"] for x in chunks[:-1]]
    assert reasons[-1] == "length" and set(reasons[:-1]) == {None}, reasons
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == 12
    assert all(x["usage"] is None for x in chunks[:-1])


def completions(s):
    body = {"prompt": "Once upon", "max_tokens": 6, "temperature": 0, "logprobs": 2}
    a = s.post("/v1/completions", body)
    text = a["choices"][0]["text"]
    p = a["choices"][0]["logprobs"]
    assert a["object"] == "text_completion" and len(p["tokens"]) == 6, a
    assert len(p["token_logprobs"]) == len(p["top_logprobs"]) == len(p["text_offset"]) == 6
    two = s.post("/v1/completions", {**body, "prompt": ["Once upon", "In the"]})["choices"]
    assert [c["index"] for c in two] == [0, 1] and two[0]["text"] == text
    events = s.stream("/v1/completions", body)
    chunks = [json.loads(x)["choices"][0] for x in events[:-1]]
    assert "".join(x["text"] for x in chunks) == text and chunks[-1]["finish_reason"] == "length"
    assert len(s.post("/v1/completions", {"prompt": [1, 2, 3], "temperature": 0})["choices"][0]["text"]) > 0


def tgi(s):
    """text-generation-inference's own API."""
    p = {"max_new_tokens": 6, "details": True, "top_n_tokens": 2}
    a = s.post("/generate", {"inputs": "Once upon", "parameters": p})
    d = a["details"]
    assert d["finish_reason"] == "length" and d["generated_tokens"] == len(d["tokens"]) == 6, a
    assert d["seed"] is None and d["prefill"] == [] and len(d["top_tokens"][0]) == 2, d
    assert set(d["tokens"][0]) == {"id", "text", "logprob", "special"}, d
    assert "".join(t["text"] for t in d["tokens"] if not t["special"]) == a["generated_text"], a
    for name in ("compute-type", "compute-time", "compute-characters", "total-time", "queue-time",
                 "validation-time", "inference-time", "time-per-token", "prompt-tokens",
                 "generated-tokens"):
        assert s.headers["x-" + name], name
    assert s.headers["x-generated-tokens"] == "6"
    assert s.post("/", {"inputs": "Once upon", "parameters": {"max_new_tokens": 6}}) == \
        [{"generated_text": a["generated_text"]}]
    full = s.post("/generate", {"inputs": "Once upon",
                                "parameters": {**p, "return_full_text": True}})
    assert full["generated_text"] == "Once upon" + a["generated_text"]
    events = [json.loads(x) for x in
              s.stream("/generate_stream", {"inputs": "Once upon", "parameters": p})]
    assert [x["index"] for x in events] == [1, 2, 3, 4, 5, 6]
    assert [x["token"] for x in events] == d["tokens"]
    assert all(x["generated_text"] is x["details"] is None for x in events[:-1])
    assert events[-1]["generated_text"] == a["generated_text"]
    assert events[-1]["details"]["input_length"] > 0, events[-1]
    text = a["generated_text"]
    b = s.post("/generate", {"inputs": "Once upon", "parameters": {**p, "stop": [text[2:4]]}})
    assert b["generated_text"] == text[:text.index(text[2:4]) + 2], b
    assert b["details"]["finish_reason"] == "stop_sequence"
    two = s.post("/generate", {"inputs": "Once", "parameters": {**p, "best_of": 2,
                                                                "do_sample": True}})
    assert len(two["details"]["best_of_sequences"]) == 1
    mean = lambda x: sum(t["logprob"] for t in x["tokens"]) / len(x["tokens"])
    assert mean(two["details"]) >= mean(two["details"]["best_of_sequences"][0])
    for bad, why in ((("temperature", 0), "`temperature` must be strictly positive"),
                     (("top_p", 1.0), "`top_p` must be > 0.0 and < 1.0"),
                     (("top_k", -1), "`top_k` must be strictly positive"),
                     (("max_new_tokens", 0), "`max_new_tokens` must be strictly positive"),
                     (("best_of", 3), "`best_of` must be > 0 and <= 2. Given: 3"),
                     (("stop", list("abcde")), "`stop` supports up to 4 stop sequences. Given: 5"),
                     (("max_new_tokens", 131072), "`inputs` tokens + `max_new_tokens` must be <= ")):
        e = s.post("/generate", {"inputs": "x", "parameters": dict([bad])}, 422)
        assert e["error_type"] == "validation", e
        assert e["error"].startswith("Input validation error: " + why), e
    e = s.post("/generate", {"inputs": ""}, 422)
    assert e["error"] == "Input validation error: `inputs` cannot be empty", e
    t = s.post("/tokenize", {"inputs": "Once upon"})
    assert "".join(x["text"] for x in t) == "Once upon" and t[-1]["stop"] == 9, t
    t = s.post("/chat_tokenize", {"messages": [{"role": "user", "content": "Once upon"}]})
    assert "Once upon" in t["templated_text"] and t["tokenize_response"][-1]["stop"] == \
        len(t["templated_text"]), t
    i = json.loads(s.call("GET", "/info")[2])
    assert i["model_id"] == "tiny-llama31" and i["max_total_tokens"] == 131072, i
    assert s.call("GET", "/")[0] == s.call("GET", "/ping")[0] == 200
    # SageMaker and Vertex
    one = {"inputs": "Once upon", "parameters": {"max_new_tokens": 6}}
    assert s.post("/invocations", one) == [{"generated_text": text}]
    chat = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2, "temperature": 0}
    assert s.post("/invocations", chat)["object"] == "chat.completion"
    assert s.post("/invocations", {"prompt": "x"})["object"] == "text_completion"
    v = s.post("/vertex", {"instances": [one, chat]})["predictions"]
    assert v[0] == text and v[1] == s.post("/invocations", chat)["choices"][0]["message"]["content"]
    s.post("/vertex", {"instances": []}, 422)
    assert s.metric('tgi_request_failure{err="validation"}'.replace("{", r"\{")) > 5
    assert s.metric("tgi_request_generated_tokens_count") > 5
    m = s.post_get("/v1/models")["data"][0]
    assert s.post_get("/v1/models/" + m["id"])["id"] == m["id"]
    assert s.call("GET", "/v1/models/other")[0] == 404


def scores(s):
    """What the model thinks of a prompt, in the three forms."""
    body = {"prompt": "Once upon a time", "max_tokens": 4, "temperature": 0, "logprobs": 2}
    plain = s.post("/v1/completions", body)["choices"][0]
    a = s.post("/v1/completions", {**body, "echo": True, "prompt_logprobs": 3})
    c, p = a["choices"][0], a["choices"][0]["logprobs"]
    n = a["usage"]["prompt_tokens"]
    assert c["text"] == "Once upon a time" + plain["text"], c
    assert len(p["tokens"]) == len(p["text_offset"]) == len(p["top_logprobs"]) == n + 4, p
    assert p["token_logprobs"][0] is p["top_logprobs"][0] is None, p
    assert p["token_logprobs"][n:] == plain["logprobs"]["token_logprobs"], (p, plain)
    assert all(c["text"].encode()[at:].startswith(t.encode()) for t, at in
               zip(p["tokens"][1:], p["text_offset"][1:]) if "\ufffd" not in t), p
    v = c["prompt_logprobs"]
    assert v[0] is None and len(v) == n, v
    for one, logprob in zip(v[1:], p["token_logprobs"][1:]):
        assert 3 <= len(one) <= 4 and logprob in [x["logprob"] for x in one.values()], one
        ranks = sorted((x["rank"], -x["logprob"]) for x in one.values())
        assert [x[0] for x in ranks[:3]] == [1, 2, 3] and ranks == sorted(ranks, key=lambda x: x[1])
    t = s.post("/generate", {"inputs": "Once upon a time", "parameters": {
        "max_new_tokens": 4, "decoder_input_details": True}})["details"]["prefill"]
    assert [x["logprob"] for x in t] == p["token_logprobs"][:n], t
    assert all(set(x) == {"id", "text", "logprob"} for x in t), t
    # a prompt judged alone, as evaluation harnesses ask: ids in, no answer
    ids = [x["id"] for x in t]
    e = s.post("/v1/completions", {"prompt": ids, "max_tokens": 0, "echo": True, "logprobs": 0})
    assert e["choices"][0]["logprobs"]["token_logprobs"] == p["token_logprobs"][:n], e
    assert e["choices"][0]["text"] == "Once upon a time" and e["usage"]["completion_tokens"] == 0, e
    events = [json.loads(e) for e in s.stream("/v1/completions", {**body, "echo": True})[:-1]]
    assert events[0]["choices"][0]["text"] == "Once upon a time", events[0]
    assert "".join(e["choices"][0]["text"] for e in events) == c["text"]
    assert sum(len(e["choices"][0]["logprobs"]["tokens"]) for e in events) == n + 4
    chat = s.chat(prompt_logprobs=0, n=2, temperature=1)
    assert len(chat["prompt_logprobs"]) == chat["usage"]["prompt_tokens"], chat
    for bad in ({"prompt_logprobs": 21}, {"prompt_logprobs": -1},
                {"prompt_logprobs": 1, "stream": True}):
        s.chat(want=400, **bad)
    e = s.post("/v1/completions", {"prompt": [1] * 100000, "prompt_logprobs": 5}, 400)["error"]
    assert "100000" in e["message"], e
    s.post("/v1/completions", {"prompt": "x", "max_tokens": 0}, 400)


def length(v):
    return sum(x * x for x in v) ** 0.5


def embeddings(s):
    def get(x, want=200, **kw):
        return s.post("/v1/embeddings", {"model": "m", "input": x, **kw}, want)

    a = get("Once upon a time")
    one = a["data"][0]["embedding"]
    assert a["object"] == "list" and a["model"] == "m" and a["data"][0]["object"] == "embedding", a
    assert a["usage"]["prompt_tokens"] == a["usage"]["total_tokens"] > 3, a["usage"]
    assert abs(length(one) - 1) < 1e-5 and len(set(one)) > 10
    raw = base64.b64decode(get("Once upon a time", encoding_format="base64")["data"][0]["embedding"])
    assert list(struct.unpack(f"<{len(one)}f", raw)) == one, "base64 is not the same"
    ids = [x["id"] for x in s.post("/tokenize", {"inputs": "Once upon a time"})]
    many = get(["Another text", "Once upon a time", ids, [ids[0]]] + [f"text {i}" for i in range(60)])
    assert [x["index"] for x in many["data"]] == list(range(64))
    if "data" in get(ids):
        assert get(ids)["data"][0]["embedding"] == one
    both = [x["embedding"] for x in many["data"]]
    assert both[1] == both[2] == one and both[0] != one and len({tuple(x) for x in both}) == 63
    short = get("Once upon a time", dimensions=4)["data"][0]["embedding"]
    assert len(short) == 4 and abs(length(short) - 1) < 1e-5
    assert all(abs(x - y / length(one[:4])) < 1e-5 for x, y in zip(short, one)), (short, one)
    for bad in ({"encoding_format": "int8"}, {"dimensions": 0}, {"dimensions": len(one) + 1}):
        get("x", 400, **bad)
    for bad in ([], {}, [["x"]], [1.5], [[-1]], None, ["x"] * 2049):
        get(bad, 400)
    return one


def made_to_write(s, text, body):
    """body with biases that make the model answer with text, whose tokens must differ: a penalty
    follows each use, and the biases are moved until the order is right."""
    ids = [str(t["id"]) for t in s.post("/tokenize", {"inputs": text + "<|eot_id|>"})][1:]
    assert len(set(ids)) == len(ids), ids
    spelt = s.post("/tokenize", {"inputs": text + "<|eot_id|>"})[1:]
    bias = {t: 90 - 0.6 * i for i, t in enumerate(ids)}
    body = {**body, "frequency_penalty": 2, "presence_penalty": 2, "max_tokens": len(ids)}
    for _ in range(400):
        got = s.chat(**body, logit_bias=bias, logprobs=True)["choices"][0]["logprobs"]["content"]
        got = [bytes(t["bytes"]).decode() for t in got]
        wrong = [i for i, t in enumerate(spelt) if got[i:i + 1] != [t["text"]]]
        if not wrong:
            return {**body, "logit_bias": bias}
        i = wrong[0]
        bias[ids[i]] += 0.05
        for t, x in zip(spelt, ids):
            if got[i:i + 1] == [t["text"]]:
                bias[x] -= 0.05
    raise AssertionError(f"{text!r}: the model writes {got}")


def tools(s):
    """Calls as the model writes them."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {
        "type": "object", "properties": {"a": {"type": "integer"}}}}}
    a = s.chat(tools=[tool], tool_choice="none")
    assert a["choices"][0]["message"].get("tool_calls") is None
    plain = s.chat(tools=[tool])["choices"][0]
    assert isinstance(plain["message"]["content"], str) and plain["finish_reason"] == "length"
    body = made_to_write(s, "[f()]", {"tools": [tool], "messages": [
        {"role": "user", "content": "x"}]})
    a = s.chat(**body)["choices"][0]
    call = a["message"]["tool_calls"][0]
    assert a["finish_reason"] == "tool_calls" and a["message"]["content"] is None, a
    assert call["function"]["name"] == "f" and call["type"] == "function" and call["id"], a
    assert json.loads(call["function"]["arguments"]) == {}, a
    events = s.stream("/v1/chat/completions", {"temperature": 0, **body})
    choices = [json.loads(x)["choices"][0] for x in events[:-1]]
    deltas = [d for c in choices for d in c["delta"].get("tool_calls", [])]
    assert [d["index"] for d in deltas] == [0] * len(deltas), deltas
    assert deltas[0]["function"] == {"name": "f", "arguments": ""} and deltas[0]["id"], deltas
    assert not any("id" in d for d in deltas[1:]), deltas
    assert json.loads("".join(d["function"]["arguments"] for d in deltas)) == {}, deltas
    assert choices[-1]["finish_reason"] == "tool_calls", choices[-1]
    assert "".join(c["delta"].get("content", "") for c in choices) == "", choices
    # a call that is forced, from the first token on, whatever the model would say
    args = {"type": "object", "properties": {"unit": {"enum": ["C", "F"]}}, "required": ["unit"],
            "additionalProperties": False}
    two = [{"type": "function", "function": {"name": n, "parameters": args}} for n in "gh"]
    for kw in ({"tool_choice": "required"}, {"tool_choice": "required",
               "parallel_tool_calls": False}, {"tool_choice": {"type": "function", "function": {
                   "name": "h"}}}):
        body = {"tools": two, "temperature": 1, "seed": 3, "max_tokens": 200, **kw}
        c = s.chat(**body)["choices"][0]
        calls = c["message"]["tool_calls"]
        assert c["finish_reason"] == "tool_calls" and c["message"]["content"] is None, c
        assert all(json.loads(x["function"]["arguments"])["unit"] in "CF" for x in calls), c
        assert kw == {"tool_choice": "required"} or len(calls) == 1, c
        assert isinstance(kw["tool_choice"], str) or calls[0]["function"]["name"] == "h", c
        events = s.stream("/v1/chat/completions", {**body, "messages": [
            {"role": "user", "content": "Count to three."}]})
        deltas = [d for x in events[:-1] for d in
                  json.loads(x)["choices"][0]["delta"].get("tool_calls", [])]
        text = "".join(d["function"]["arguments"] for d in deltas if d["index"] == 0)
        assert text == calls[0]["function"]["arguments"], (deltas, calls)
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"const": 7}}}
    for first, called in (("{", True), ("7", False)):  # a call, or the form, as the first token has it
        token = s.post("/tokenize", {"inputs": first})[-1]["id"]
        c = s.chat(tools=two, response_format=form, temperature=1, max_tokens=200,
                   logit_bias={str(token): 60})["choices"][0]["message"]
        assert bool(c.get("tool_calls")) == called and c["content"] == (None if called else "7"), c
        assert all(json.loads(x["function"]["arguments"])["unit"] in "CF" for x in c.get("tool_calls") or []), c
    loose = {"type": "function", "function": {"name": "k", "parameters": {"not": {}}}}
    assert s.chat(tools=[loose], tool_choice="required")
    loose["function"]["strict"] = True
    s.chat(want=400, tools=[loose], tool_choice="required")
    s.chat(want=400, tools=two, tool_choice="required", regex="a")
    s.chat(want=400, tools=[loose])
    # a strict tool that may be called: text, in which no other form than the bound one is a call
    tool["function"]["strict"] = True
    body = made_to_write(s, "[f()]", {"tools": [tool], "messages": [{"role": "user", "content": "x"}]})
    text = "".join(json.loads(x)["choices"][0]["delta"].get("content", "") for x in
                   s.stream("/v1/chat/completions", {"temperature": 0, **body})[:-1])
    c = s.chat(**body)["choices"][0]
    assert c["message"] == {**c["message"], "content": "[f()]"} and text == "[f()]", (c, text)
    assert c["finish_reason"] == "stop" and not c["message"].get("tool_calls"), c
    tool["function"]["strict"] = False
    s.chat(messages=[{"role": "developer", "content": "x"}, {"role": "user", "content": "y"},
                     {"role": "assistant", "content": None, "tool_calls": [
                         {"id": "c", "type": "function",
                          "function": {"name": "f", "arguments": '{"a": 1}'}}]},
                     {"role": "tool", "tool_call_id": "c", "content": "ok"}], tools=[tool])
    for bad in ([{}], [tool, tool], [{"type": "function", "function": {"name": "a b"}}]):
        s.chat(want=400, tools=bad)
    s.chat(want=400, tools=[tool], tool_choice="g")
    s.chat(want=400, tool_choice="required")


def structured(s):
    """Whatever a random model would say, the answer has the form that was asked for."""
    def ask(**kw):
        c = s.chat(**{"max_tokens": 100, "temperature": 1, "seed": 4, **kw})["choices"][0]
        return c["message"]["content"], c["finish_reason"]

    assert ask(guided_choice=["yes", "no"])[0] in ("yes", "no")
    for regex in (r"(0|[1-9]\d{0,3})(\.\d\d)?", "[\u00e9-\u20ac]{2,3}", "a*b|c+d"):
        for kw in ({"guided_regex": regex}, {"structured_outputs": {"regex": regex}},
                   {"response_format": {"type": "regex", "value": regex}}):
            text, why = ask(**kw)
            assert why == "length" or re.fullmatch(regex, text), (regex, text)
    text, why = ask(response_format={"type": "json_object"})
    assert text[0] == "{" and (why == "length" or isinstance(json.loads(text), dict)), text
    rules = 'root ::= word (" " word){1,2} "."\nword ::= [A-Z] [a-z]{2,4} # a name'
    for kw in ({"grammar": rules}, {"guided_grammar": rules}, {"ebnf": rules},
               {"structured_outputs": {"grammar": rules}}):
        text, why = ask(**kw)
        assert re.fullmatch(r"[A-Z][a-z]{2,4}( [A-Z][a-z]{2,4}){1,2}\.", text), text
    schema = {"type": "object", "required": ["unit", "n"], "additionalProperties": False,
              "properties": {"unit": {"enum": ["celsius", "fahrenheit"]},
                             "n": {"type": "integer", "minimum": 8, "maximum": 123},
                             "at": {"type": "string", "format": "date"}}}
    for kw in ({"guided_json": schema}, {"structured_outputs": {"json": json.dumps(schema)}},
               {"response_format": {"type": "json_schema", "json_schema": {
                   "name": "u", "schema": schema, "strict": True}}},
               {"response_format": {"type": "json_object", "value": schema}}):
        text, why = ask(**kw)
        v = json.loads(text)
        assert why == "stop" and v["unit"] in ("celsius", "fahrenheit") and 8 <= v["n"] <= 123, text
        assert set(v) <= {"unit", "n", "at"}, text
    for grammar in ({"type": "json", "value": schema}, {"type": "json_object", "value": schema},
                    {"type": "json", "value": json.dumps(schema)},
                    {"type": "json_schema", "value": {"name": "u", "schema": schema}}):
        a = s.post("/generate", {"inputs": "x", "parameters": {
            "grammar": grammar, "max_new_tokens": 100, "details": True}})
        assert json.loads(a["generated_text"])["unit"], a
        assert a["details"]["finish_reason"] == "eos_token", a
    s.post("/generate", {"inputs": "x", "parameters": {"grammar": {
        "type": "regex", "value": "(?=a)"}}}, 422)
    # alone or beside others, guessed ahead or not, whole or in a stream: the same
    one = ask(regex="(alpha|beta)-(one|two)-[a-z]{8}")
    assert ask(regex="(alpha|beta)-(one|two)-[a-z]{8}") == one and one[1] == "stop", one
    got = [json.loads(x) for x in s.stream("/v1/chat/completions", {
        "messages": [{"role": "user", "content": "Count to three."}], "max_tokens": 100,
        "temperature": 1, "seed": 4, "regex": "(alpha|beta)-(one|two)-[a-z]{8}"})[:-1]]
    assert "".join(x["choices"][0]["delta"].get("content", "") for x in got) == one[0], got
    # text that the form forces is guessed ahead, which changes nothing
    quick = Server("--speculate", "6")
    asked = dict(max_tokens=100, temperature=1, seed=4)
    for kw in ({"regex": "(alpha|beta)-(one|two)-[a-z]{8}"}, {"guided_json": schema}):
        assert quick.chat(**asked, **kw)["choices"] == s.chat(**asked, **kw)["choices"], kw
    quick.stop()
    # so does a draft model
    quick = Server("--draft-model", "tests/data/tiny-llama31", "--draft-min", "3")
    for kw in ({"temperature": 0}, {"n": 3}, {"guided_json": schema}):
        kw = {**asked, "logprobs": True, "top_logprobs": 3, **kw}
        assert quick.chat(**kw)["choices"] == s.chat(**kw)["choices"], kw
    assert quick.metric("puna_guessed_tokens") >= quick.metric("puna_guessed_tokens_right") > 50
    assert quick.metric("puna_draft_failures") == 0
    quick.stop()


def errors(s):
    for bad in ({"temperature": -1}, {"top_p": 0}, {"n": 0}, {"messages": []}, {"stop": [1]},
                {"model": "../x"}, {"model": ""}, {"top_logprobs": 2}, {"max_tokens": 0},
                {"logit_bias": {"x": 1}}, {"messages": [{"role": "nobody", "content": ""}]}):
        e = s.chat(want=400, **bad)["error"]
        assert e["type"] == "invalid_request_error" and e["message"], e
    assert s.chat(want=400, temperature=9999)["error"]["param"] == "temperature"
    e = s.post("/v1/completions", {"prompt": [1] * 140000}, 400)["error"]
    assert e["code"] == "context_length_exceeded" and "140000" in e["message"], e
    for raw in (b"", b"{", b"[]", b'{"a":1,"a":2}', b"\xff", b"[" * 100000):
        assert s.call("POST", "/v1/chat/completions", raw=raw)[0] == 400, raw[:10]
    assert s.call("POST", "/v1/chat/completions", raw=b"{}",
                  headers={"Content-Type": "text/plain"})[0] == 415
    assert s.call("GET", "/nowhere")[0] == 404
    assert s.call("GET", "/v1/completions")[0] == 405
    assert s.call("GET", "/v1/models", headers={"Host": "evil.example"})[0] == 403
    for bad in ({"cache_salt": ""}, {"user": 5}, {"chat_template": "{{ x }}"}, {"grammar": "root"},
                {"structured_outputs": {"structural_tag": "x"}}, {"ebnf": "root ::= a"},
                {"messages": [{"role": "user", "content": None}]}, {"best_of": 2}):
        s.chat(want=400, **bad)
    # what cannot be kept is refused, not left out
    for bad in ({"response_format": {"type": "xml"}}, {"response_format": {"type": 5}},
                {"guided_choice": []}, {"regex": "a*("}, {"structured_outputs": {"regex": "(?=a)"}},
                {"json_schema": {"not": {}}}, {"guided_json": "{"}, {"guided_json": 7},
                {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
                {"guided_regex": "a", "guided_choice": ["a"]}, {"regex": 5}):
        s.chat(want=400, **bad)
        s.post("/v1/completions", {"prompt": "x", **bad}, 400)
        s.post("/vertex", {"instances": [{"messages": [{"role": "user", "content": "x"}],
                                          **bad}]}, 422)
    s.chat(cache_salt="mine", response_format={"type": "text"})
    # what a proxy may read otherwise than we do
    for head in ("Content-Length: +2", "Transfer-Encoding: gzip, chunked", "Host: localhost",
                 "Transfer-Encoding: chunked\r\nContent-Length: 2", "X y: 1", "X-Request-Id: a b",
                 "Range: bytes=0-,0-", "Origin: https://evil.example"):
        c = socket.create_connection(("127.0.0.1", s.port), WAIT)
        # older libevents judge a chunked request when its body has come
        body = "2\r\n{}\r\n0\r\n\r\n" if head.startswith("Transfer-Encoding: c") else "{}"
        c.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n{head}\r\nContent-Type: "
                  f"application/json\r\nContent-Length: 2\r\n\r\n{body}".encode())
        got = c.recv(100)
        assert re.match(rb"HTTP/1.1 4(00|03|16) ", got), (head, got)
        c.close()
    # browsers: no page may call unless it is listed
    h = s.call("GET", "/v1/models", headers={"Origin": "https://evil.example"})[1]
    assert h["Access-Control-Allow-Origin"] is None
    h = s.call("GET", "/v1/models", headers={"Origin": "https://good.example"})[1]
    assert h["Access-Control-Allow-Origin"] == "https://good.example"
    assert s.call("OPTIONS", "/v1/models", headers={"Origin": "https://good.example"})[0] == 204


def many(s):
    """64 streams at once, each equal to the same request alone."""
    bodies = [{"messages": [{"role": "user", "content": f"Number {i}."}], "max_tokens": 4 + i % 9,
               "temperature": i % 3 / 2, "seed": i} for i in range(64)]
    alone = [s.chat(**b)["choices"][0]["message"]["content"] for b in bodies]
    got = [None] * 64

    def one(i):
        events = s.stream("/v1/chat/completions", bodies[i])[:-1]
        got[i] = "".join(json.loads(x)["choices"][0]["delta"].get("content", "") for x in events)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(64)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    bad = [i for i in range(64) if got[i] != alone[i]]
    assert not bad, f"streams {bad} differ from single runs: {got[bad[0]]!r} {alone[bad[0]]!r}"


def open_stream(s, n=100000, key="-"):
    body = json.dumps({"messages": [{"role": "user", "content": "x"}], "stream": True,
                       "max_tokens": n, "ignore_eos": True}).encode()
    c = socket.create_connection(("127.0.0.1", s.port), WAIT)
    c.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
              b"application/json\r\nContent-Length: %d\r\nAuthorization: Bearer %s\r\n\r\n" %
              (len(body), key.encode()) + body)
    assert b" 200 " in c.recv(100)
    return c


def leavers(s):
    before = s.metric("puna_requests_cancelled")
    held = [open_stream(s) for _ in range(4)]
    eventually("four answers run", lambda: s.metric("tgi_batch_current_size") == 4)
    for c in held:
        c.close()
    eventually("clients that left are noticed",
               lambda: s.metric("puna_requests_cancelled") == before + 4)
    eventually("no call is left", lambda: s.metric("puna_http_calls") == 1)
    free = s.metric("puna_kv_blocks_free") + s.metric("puna_kv_blocks_cached")
    assert free == s.metric("puna_kv_blocks"), "blocks are lost"


def environment():
    """Variables of TGI's images and of Vertex AI; an option wins."""
    os.environ.update(MAX_BEST_OF="1", MAX_TOTAL_TOKENS="64", MAX_STOP_SEQUENCES="3", PORT="1",
                      AIP_PREDICT_ROUTE="/mine/predict", AIP_HEALTH_ROUTE="/mine/health")
    s = Server("--max-best-of", "3", "--pooling", "last")
    for name in ("MAX_BEST_OF", "MAX_TOTAL_TOKENS", "MAX_STOP_SEQUENCES", "PORT",
                 "AIP_PREDICT_ROUTE", "AIP_HEALTH_ROUTE"):
        del os.environ[name]
    i = s.post_get("/info")
    assert i["max_best_of"] == 3 and i["max_total_tokens"] == 64, i
    assert i["max_stop_sequences"] == 3, i
    assert s.call("GET", "/mine/health")[0] == 200
    last = s.post("/v1/embeddings", {"input": "Once upon a time"})["data"][0]["embedding"]
    assert len(last) == len(mean) and last != mean, "--pooling last is the mean"
    one = {"inputs": "x", "parameters": {"max_new_tokens": 2}}
    assert len(s.post("/mine/predict", {"instances": [one]})["predictions"]) == 1
    e = s.post("/v1/completions", {"prompt": "x", "max_tokens": 65}, 400)["error"]
    assert e["code"] == "context_length_exceeded" and "64" in e["message"], e
    assert s.post("/v1/completions", {"prompt": "x", "max_tokens": 60,
                                      "ignore_eos": True})["usage"]["completion_tokens"] == 60
    s.stop()


def limits():
    s = Server("--api-key", "one", "--api-key", "two", "--payload-limit", "4096",
               "--max-concurrent-requests", "2")
    key = {"Authorization": "Bearer two"}
    assert s.call("GET", "/v1/models")[0] == 401
    assert s.call("POST", "/v1/completions", {"prompt": "x"})[0] == 401
    for wrong in ("Bearer ", "Bearer tw", "Bearer TWO", "Basic two", "two"):
        assert s.call("GET", "/v1/models", headers={"Authorization": wrong})[0] == 401, wrong
    assert s.call("GET", "/v1/models", headers=key)[0] == 200
    assert s.call("GET", "/health")[0] == s.call("GET", "/livez")[0] == 200
    assert s.call("POST", "/v1/completions", {"prompt": "x" * 5000}, key)[0] == 413
    held = [open_stream(s, key="two") for _ in range(2)]
    status, headers, data = s.call("POST", "/v1/completions", {"prompt": "x"}, key)
    assert status == 429 and headers["Retry-After"], (status, data)
    for c in held:
        c.close()
    eventually("a place is free again",
               lambda: s.call("POST", "/v1/completions", {"prompt": "x"}, key)[0] == 200)
    assert "one" not in s.stop() and s.p.returncode == 0


def answers_score_as_prompts():
    """A generated token scores as the same token of a prompt, where one arithmetic has both
    (docs/reproducibility.md)."""
    s = Server("--isa", "avx512_bf16")
    longer = s.post("/v1/completions", {"prompt": "x", "max_tokens": 8, "ignore_eos": True,
                                        "temperature": 1, "seed": 3, "logprobs": 0, "echo": True})
    toks = [x["id"] for x in s.post("/tokenize", {"inputs": longer["choices"][0]["text"]})]
    again = s.post("/v1/completions", {"prompt": toks, "max_tokens": 0, "echo": True, "logprobs": 0})
    x, y = longer["choices"][0]["logprobs"], again["choices"][0]["logprobs"]
    same = 0
    for u, v in zip(x["tokens"], y["tokens"]):
        if u != v or "\ufffd" in u:
            break
        same += 1  # text may be cut into other tokens than it was made of
    assert same >= 2 and x["token_logprobs"][:same] == y["token_logprobs"][:same], (x, y)
    s.stop()


def drain():
    s = Server()
    c = open_stream(s, 3000)
    s.p.send_signal(signal.SIGTERM)
    data = b""
    while not data.endswith(b"0\r\n\r\n"):
        more = c.recv(65536)
        assert more, "the stream was cut"
        data += more
    assert b"[DONE]" in data
    log = s.stop()
    lines = [json.loads(x) for x in log.splitlines() if x.startswith("{")]
    assert any(x["route"] == "POST /v1/chat/completions" and x["answer_tokens"] == 3000
               for x in lines), log[-500:]


s = Server("--cors-allow-origin", "https://good.example")
text = chats(s)
streams(s, text)
completions(s)
tgi(s)
scores(s)
mean = embeddings(s)
tools(s)
structured(s)
errors(s)
many(s)
leavers(s)
assert s.call("GET", "/health")[0] == 200
assert "Count to three" not in s.stop(), "a prompt is in the log"
environment()
limits()
answers_score_as_prompts()
drain()
