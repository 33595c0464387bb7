"""Tools that the server runs (--enable-tools), with the default model; the first call is forced, what comes of it is
the model's. Usage: serve_tools.py PUNA SCRATCH_FOLDER"""
import http.client
import json
import threading

from server import TMP, Server

TOOLS = {"tools": [{"name": "multiply", "description": "multiplies two numbers", "command": [
    "python3", "-c", "import json, sys; j = json.load(sys.stdin); print(j['a'] * j['b'])"], "parameters": {
        "type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]}},
    {"name": "nap", "description": "sleeps", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}, "command": "sleep 20", "timeout": 0.3}]}
MINE = {"type": "function", "function": {"name": "divide", "description": "divides", "parameters": {
    "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}}}


def named(name):
    return {"type": "function", "function": {"name": name}}


def ask(text, run, choice="auto", **more):
    return {"messages": [{"role": "user", "content": text}], "builtin_tools": run, "tool_choice": choice, "temperature": 0,
            "max_tokens": 40, **more}


def check(s):
    path = "/v1/chat/completions"
    a = s.post(path, ask("What is 6 times 7?", ["multiply"], named("multiply")))
    (choice,) = a["choices"]
    (call,) = choice["message"]["server_tool_calls"]
    assert call["name"] == "multiply" and call["result"] == str(json.loads(call["arguments"])["a"] * json.loads(call["arguments"])["b"]), call
    assert choice["message"]["content"] and choice["finish_reason"] in ("stop", "length"), choice
    assert "tool_calls" not in choice["message"] and a["usage"]["completion_tokens"] > 10, a
    events = [json.loads(e) if isinstance(e, str) else e for e in
              s.stream(path, ask("What is 6 times 7?", ["multiply"], named("multiply"))) if e != "[DONE]"]
    deltas = [e["choices"][0]["delta"] for e in events]
    assert "".join(d.get("content") or "" for d in deltas) == choice["message"]["content"], deltas
    assert [d["role"] for d in deltas if "role" in d] == ["assistant"], deltas
    assert [c["result"] for d in deltas for c in d.get("server_tool_calls", [])] == [call["result"]], deltas
    assert events[-1]["choices"][0]["finish_reason"] == choice["finish_reason"]
    # a function of the client's stays the client's
    a = s.post(path, ask("Divide", ["multiply"], named("divide"), tools=[MINE], max_tokens=60))
    (choice,) = a["choices"]
    assert choice["finish_reason"] == "tool_calls" and choice["message"]["tool_calls"][0]["function"]["name"] == "divide", choice
    assert choice["message"]["server_tool_calls"] == [], choice
    # a tool that hangs is ended, and the answer goes on
    a = s.post(path, ask("Sleep", ["nap"], named("nap")))
    (nap,) = a["choices"][0]["message"]["server_tool_calls"]
    assert nap["failed"] and "stopped after 0.3 s" in nap["result"], a
    # names that are not the server's, or without a wish for them: as ever
    a = s.post(path, ask("Hi", ["photogen"], max_tokens=2))
    assert "server_tool_calls" not in a["choices"][0]["message"], a
    a = s.post(path, ask("Hi", ["multiply"], "none", max_tokens=2))
    assert "server_tool_calls" not in a["choices"][0]["message"], a
    s.post(path, ask("Hi", ["multiply"], n=2), 400)
    s.post(path, ask("Hi", ["multiply"], logprobs=True), 400)
    s.post(path, ask("Hi", ["multiply"], messages=[{"role": "nobody", "content": ""}]), 400)
    # many at once, of whom some leave in the middle
    got = []

    def one(i):
        if i == 1:
            c = http.client.HTTPConnection("127.0.0.1", s.port, timeout=300)
            c.request("POST", path, json.dumps(ask("Sleep", ["nap"], named("nap"), stream=True)), {"Content-Type": "application/json"})
            c.getresponse().read(10)
            c.close()
        else:
            a = s.post(path, ask("What is 6 times 7?", ["multiply"], named("multiply")))
            got.append(a["choices"][0]["message"]["server_tool_calls"][0]["result"])
    threads = [threading.Thread(target=one, args=(i,)) for i in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert got == [call["result"]], got


with open(TMP + "/tools.json", "w") as f:
    json.dump(TOOLS, f)
server = Server("--enable-tools", TMP + "/tools.json,code_interpreter", model=None)
check(server)
server.stop()
print("serve tools: ok")
