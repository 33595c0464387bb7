"""Requests as openai, huggingface_hub, langchain-openai, llama-index and text_generation send them.
Usage: serve_clients.py PUNA SCRATCH_FOLDER"""
import json

from server import Server

USER = [{"role": "user", "content": "Say hello."}]
TOOL = {"type": "function", "function": {"name": "set_unit", "description": "Sets the unit.", "parameters": {
    "type": "object", "properties": {"unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
    "required": ["unit"], "additionalProperties": False}}}
SCHEMA = TOOL["function"]["parameters"]
OPENAI = {"Authorization": "Bearer x", "X-Stainless-Lang": "python", "x-stainless-retry-count": "0",
          "Accept": "application/json", "User-Agent": "OpenAI/Python 2.54.0"}
CHAT = "/v1/chat/completions"


def unit(text):
    assert json.loads(text)["unit"] in ("celsius", "fahrenheit") and len(json.loads(text)) == 1, text


def choice(s, path=CHAT, **body):
    body.setdefault("temperature", 0)  # a tiny model may draw digits of one string for ever
    a = s.post(path, body, headers=OPENAI)
    assert a["usage"]["total_tokens"] == a["usage"]["prompt_tokens"] + a["usage"]["completion_tokens"], a
    assert isinstance(a["created"], int) and a["choices"][0]["index"] == 0, a
    return a["choices"][0]


def whole_calls(calls, want="set_unit"):
    assert [c["function"]["name"] for c in calls] == [want] and calls[0]["type"] == "function", calls
    assert isinstance(calls[0]["function"]["arguments"], str) and calls[0]["id"], calls
    unit(calls[0]["function"]["arguments"])


def openai(s):
    c = choice(s, model="tiny", messages=USER, max_tokens=4)
    assert set(c["message"]) >= {"role", "content", "refusal"} and c["logprobs"] is None, c
    # .parse() of a pydantic model
    c = choice(s, model="tiny", messages=USER, max_tokens=256, temperature=0, response_format={
        "type": "json_schema", "json_schema": {"name": "Unit", "strict": True, "schema": SCHEMA}})
    unit(c["message"]["content"])
    c = choice(s, model="tiny", messages=USER, tools=[TOOL], tool_choice="required", max_tokens=256)
    whole_calls(c["message"]["tool_calls"])
    assert c["finish_reason"] == "tool_calls" and not c["message"]["content"], c
    other = {"type": "function", "function": {"name": "other", "parameters": {"type": "object", "properties": {}}}}
    c = choice(s, model="tiny", messages=USER, tools=[other, TOOL], max_tokens=256,
               tool_choice={"type": "function", "function": {"name": "set_unit"}})
    whole_calls(c["message"]["tool_calls"])
    # the accumulator of its stream helper joins what has the same index, id and name included
    calls = {}
    for e in s.stream(CHAT, {"model": "tiny", "messages": USER, "tools": [TOOL], "tool_choice": "required",
                             "max_tokens": 256, "temperature": 0})[:-1]:
        for d in json.loads(e)["choices"][0]["delta"].get("tool_calls", []):
            to = calls.setdefault(d["index"], {"id": "", "type": "", "function": {"name": "", "arguments": ""}})
            to["id"] += d.get("id", "")
            to["type"] += d.get("type", "")
            for k, v in d["function"].items():
                to["function"][k] += v
    whole_calls(list(calls.values()))
    # a turn with a tool's result
    choice(s, model="tiny", tools=[TOOL], tool_choice="none", max_tokens=4, messages=USER + [
        {"role": "assistant", "content": None, "tool_calls": [{"id": "call_a", "type": "function", "function": {
            "name": "set_unit", "arguments": '{"unit":"celsius"}'}}]},
        {"role": "tool", "tool_call_id": "call_a", "content": "ok"}])
    choice(s, model="tiny", messages=USER, max_tokens=2, user="u1", metadata={"a": "b"}, store=False,
           service_tier="auto", top_p=1.0, temperature=1.0)
    for status, body in ((400, {"temperature": 9}), (400, {"messages": []})):
        e = s.post(CHAT, {"model": "tiny", "messages": USER, **body}, status, headers=OPENAI)["error"]
        assert set(e) == {"message", "type", "param", "code"} and e["type"] == "invalid_request_error", e
    assert s.post("/v1/no/such/route", {}, 404, headers=OPENAI)["error"]["message"]


def hugging_face(s):
    for path in (CHAT,):  # with and without /v1 in the base URL it is the same
        c = choice(s, path, model="dummy", messages=USER, max_tokens=5, stream=False)
        assert isinstance(c["message"]["content"], str)
    # the client rewrites a schema to this
    c = choice(s, model="dummy", messages=USER, max_tokens=256, stream=False,
               response_format={"type": "json_object", "value": SCHEMA})
    unit(c["message"]["content"])
    c = choice(s, model="dummy", messages=USER, max_tokens=256, stream=False,
               response_format={"type": "json", "value": SCHEMA})
    unit(c["message"]["content"])
    events = s.stream(CHAT, {"model": "dummy", "messages": USER, "max_tokens": 5, "temperature": 0,
                             "stream_options": {"include_usage": True}})
    assert events[-1] == "[DONE]" and json.loads(events[-2])["usage"]["completion_tokens"] == 5
    # text_generation goes to / and takes the first of a list
    a = s.post("/", {"inputs": "Once upon", "parameters": {"max_new_tokens": 6}, "stream": False})
    assert list(a[0]) == ["generated_text"]
    got = [json.loads(e) for e in s.stream("/", {"inputs": "Once upon", "parameters": {"max_new_tokens": 6}})]
    text = "".join(e["token"]["text"] for e in got if not e["token"]["special"])
    assert text == a[0]["generated_text"] == got[-1]["generated_text"], (text, a)
    e = s.post("/", {"inputs": "x", "parameters": {"max_new_tokens": 4, "temperature": -1.0}}, 422)
    assert e["error_type"] == "validation", e
    i = s.post_get("/info")
    assert isinstance(i["max_total_tokens"], int) and "model_id" in i and "router" in i, i


def text_generation(s):
    """Its pydantic models take no field amiss."""
    a = s.post("/", {"inputs": "Once", "stream": False, "parameters": {
        "do_sample": False, "max_new_tokens": 4, "repetition_penalty": None, "frequency_penalty": None,
        "return_full_text": False, "stop": [], "seed": None, "temperature": None, "top_k": None, "top_p": None,
        "truncate": None, "typical_p": None, "best_of": None, "watermark": False, "details": True,
        "decoder_input_details": True, "top_n_tokens": None, "grammar": None}})[0]
    d = a["details"]
    assert d["finish_reason"] in ("length", "eos_token", "stop_sequence") and len(d["tokens"]) == 4, d
    assert len(d["prefill"]) > 1 and d["prefill"][0]["logprob"] is None, d


def langchain(s):
    c = choice(s, model="tiny", messages=USER, max_completion_tokens=8, stream=False, temperature=0.7, n=1)
    assert isinstance(c["message"]["content"], str)
    # bind_tools(tool_choice="any"), and a structured answer by a named tool
    c = choice(s, model="tiny", messages=USER, max_completion_tokens=256, stream=False, tools=[TOOL],
               tool_choice="required")
    whole_calls(c["message"]["tool_calls"])
    c = choice(s, model="tiny", messages=USER, max_completion_tokens=256, stream=False, tools=[TOOL],
               parallel_tool_calls=False, tool_choice={"type": "function", "function": {"name": "set_unit"}})
    whole_calls(c["message"]["tool_calls"])
    ids = [[5, 6, 7], [8, 9]]  # embeddings of token ids, in base64
    data = s.post("/v1/embeddings", {"input": ids, "model": "tiny", "encoding_format": "base64"})["data"]
    assert [d["index"] for d in data] == [0, 1] and all(isinstance(d["embedding"], str) for d in data)


def llama_index(s):
    c = choice(s, "/v1/completions", model="tiny", prompt="Once upon", temperature=0.1, stream=False, max_tokens=4)
    assert c["finish_reason"] in ("stop", "length") and isinstance(c["text"], str)
    strict = {**TOOL, "function": {**TOOL["function"], "strict": False}}
    c = choice(s, model="tiny", messages=USER, temperature=0.1, stream=False, tools=[strict], max_tokens=256,
               tool_choice="required", parallel_tool_calls=False)
    whole_calls(c["message"]["tool_calls"])


s = Server()
openai(s)
hugging_face(s)
text_generation(s)
langchain(s)
llama_index(s)
s.stop()
