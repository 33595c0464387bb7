"""Tools behind a command, an endpoint, a service and the Model Context Protocol, with stand-ins that
behave and stand-ins that hang, flood, die and lie. Run by tests/cmd/tools.sh: kit.py PUNA."""
import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

PUNA = sys.argv[1]
HOME = tempfile.mkdtemp()

BRAVE = {"mixed": {"main": [{"type": "news", "index": 0, "all": False}, {"type": "web", "index": 1},
                            {"type": "web", "index": 0}]},
         "web": {"results": [{"title": "A", "url": "https://a", "description": "first", "age": "x"},
                             {"title": "B", "url": "https://b", "description": "second \"q\""}]},
         "news": {"results": [{"title": "N", "url": "https://n", "description": "new"}]}}
WOLFRAM = {"queryresult": {"success": True, "error": False, "inputstring": "100th digit of pi", "timing": 1.2,
                           "pods": [{"title": "Input", "id": "Input", "subpods": [{"title": "", "plaintext": "100th"}]},
                                    {"title": "Result", "primary": True, "subpods": [{"title": "", "plaintext": "9"}]},
                                    {"title": "More", "subpods": []}]}}


def mcp_answer(request):
    """What an MCP server says to one message; None = nothing."""
    method, params = request["method"], request.get("params", {})
    if "id" not in request:
        return None
    if method == "initialize":
        assert params["protocolVersion"] == "2025-06-18" and params["clientInfo"]["name"] == "puna"
        result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "t", "version": "1"}}
    elif method == "tools/list" and "cursor" not in params:
        result = {"tools": [{"name": "shout", "description": "in capitals", "inputSchema": {
            "type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}}], "nextCursor": "2"}
    elif method == "tools/list":
        result = {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in ("die", "hang", "flood", "junk", "wrong", "image")]}
    elif method == "tools/call" and params["name"] == "shout":
        result = {"content": [{"type": "text", "text": params["arguments"]["text"].upper()}]}
    elif method == "tools/call" and params["name"] == "wrong":
        result = {"content": [{"type": "text", "text": "no such file"}], "isError": True}
    elif method == "tools/call" and params["name"] == "image":
        result = {"content": [{"type": "image", "data": "AA==", "mimeType": "image/png"}]}
    else:
        return {"jsonrpc": "2.0", "id": request["id"], "error": {"code": -32601, "message": "unknown method"}}
    return {"jsonrpc": "2.0", "id": request["id"], "result": result}


MCP_PROCESS = '''
import json, os, sys, time
sys.path.insert(0, sys.argv[1])
from kit_answers import mcp_answer
print("a line for the log", file=sys.stderr)
for line in sys.stdin:
    request = json.loads(line)
    name = request.get("params", {}).get("name")
    if request.get("method") == "tools/call" and name in ("die", "hang", "flood", "junk"):
        if name == "die":
            print("out of luck", file=sys.stderr, flush=True)
            os._exit(7)
        if name == "hang":
            time.sleep(60)
        if name == "junk":
            print("no json", flush=True)
            continue
        while True:
            sys.stdout.write("x" * 65536)
    if "method" not in request:
        assert request == {"jsonrpc": "2.0", "id": "p", "result": {}}
        continue
    print(json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": {}}))
    if "id" in request:
        print(json.dumps({"jsonrpc": "2.0", "id": "p", "method": "ping"}))
        print(json.dumps(mcp_answer(request)))
    sys.stdout.flush()
'''


class Standin(http.server.BaseHTTPRequestHandler):
    sessions = 0

    def log_message(self, *args):
        pass

    def say(self, body, kind="application/json", status=200, headers=()):
        data = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for key, value in headers:
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        url = urllib.parse.urlparse(self.path)
        query = {k: v[0] for k, v in urllib.parse.parse_qs(url.query).items()}
        if url.path == "/brave":
            assert self.headers["Accept"] == "application/json"
            if self.headers["X-Subscription-Token"] != "key-b":
                return self.say({"type": "ErrorResponse"}, status=401)
            return self.say(BRAVE if query["q"] == "gold & silver" else [])
        if url.path == "/wolfram":
            assert query["appid"] == "key-w" and query["output"] == "json" and query["format"] == "plaintext"
            return self.say(WOLFRAM)
        if url.path == "/redirect":
            return self.say("", status=302, headers=[("Location", "/brave")])
        return self.say(query)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/sleep":
            time.sleep(5)
        elif self.path == "/flood":
            self.say(b"y" * (3 << 20), "text/plain")
        elif self.path == "/lie":
            self.say("<html>", "application/json; charset=utf-8")
        elif self.path == "/binary":
            self.say(b"\x89PNG\xff\xfe", "text/plain")
        elif self.path == "/die":
            self.connection.close()
        elif self.path == "/mcp":
            request = json.loads(body)
            if request["method"] == "initialize":
                Standin.sessions += 1
            else:
                assert self.headers["MCP-Protocol-Version"] == "2025-06-18"
                if self.headers["Mcp-Session-Id"] != f"s{Standin.sessions}":
                    return self.say("", status=404)
            answer = mcp_answer(request)
            session = [("Mcp-Session-Id", f"s{Standin.sessions}")]
            if answer is None:
                self.say("", status=202)
            elif request["method"] == "tools/call":
                event = "event: message\ndata: " + json.dumps({"jsonrpc": "2.0", "method": "x"}) + "\n\n"
                self.say(event + "event: message\r\ndata: " + json.dumps(answer) + "\r\n\r\n", "text/event-stream")
            else:
                self.say(answer, headers=session)
        else:
            self.say(json.loads(body))


def puna(*args, text="", env=(), file=None):
    """(status, standard output, standard error) of `puna tools ARGS`."""
    args = list(args)
    if file is not None:
        path = os.path.join(HOME, "tools.json")
        with open(path, "w") as f:
            json.dump(file, f)
        args += ["--tools", path]
    done = subprocess.run([PUNA, "tools", *args], input=text.encode(), capture_output=True, timeout=300,
                          env={**os.environ, **dict(env)})
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def call(tool, arguments, file, **more):
    return puna("exec", tool, "-", text=json.dumps(arguments), file=file, **more)


def want(got, status, part):
    said = got[1] + got[2]
    assert got[0] == status and part in said, f"status {got[0]} (want {status}), '{part}' is not in: {said[:400]}"


def services(base):
    keys = {"BRAVE_SEARCH_API_KEY": "key-b", "BRAVE_SEARCH_URL": base + "/brave",
            "WOLFRAM_ALPHA_API_KEY": "key-w", "WOLFRAM_ALPHA_URL": base + "/wolfram"}
    status, out, _ = puna("exec", "brave_search", "-", text="gold & silver", env=keys)
    assert status == 0 and out == (
        '{"query": "gold & silver", "top_k": [{"title": "N", "url": "https://n", "description": "new", "type": "search_result"}, '
        '{"title": "B", "url": "https://b", "description": "second \\"q\\"", "type": "search_result"}, '
        '{"title": "A", "url": "https://a", "description": "first", "type": "search_result"}]}\n'), out
    status, out, _ = puna("exec", "wolfram_alpha", "-", text="pi", env=keys)
    assert status == 0 and out == (
        '{"queryresult": {"success": true, "inputstring": "100th digit of pi", "pods": [{"title": "Input", "subpods": [{"title": "", '
        '"plaintext": "100th"}]}, {"title": "Result", "primary": true, "subpods": [{"title": "", "plaintext": "9"}]}]}}\n'), out
    want(puna("exec", "brave_search", "-", text="other", env=keys), 8, "not its documented one")
    want(puna("exec", "brave_search", "-", text="x" * 401, env=keys), 2, "1 to 400")
    got = puna("exec", "brave_search", "-", text="q", env={**keys, "BRAVE_SEARCH_API_KEY": "secret"})
    want(got, 4, "refuses the key in BRAVE_SEARCH_API_KEY")
    assert "secret" not in got[2]
    want(puna("exec", "brave_search", "-", text="q", env={"BRAVE_SEARCH_API_KEY": ""}), 4, "needs a key in the environment")
    want(puna("exec", "wolfram_alpha", "-", text="q", env={**keys, "WOLFRAM_ALPHA_URL": base + "/redirect"}), 5, "status 302")


def function(name, **how):
    return {"name": name, "description": name, "parameters": {"type": "object", "properties": {
        "s": {"type": "string"}, "n": {"type": "integer"}, "c": {"enum": ["x", "y"]}}, "required": ["s"]}, **how}


def commands():
    def run(command, arguments=None, **more):
        return call("t", arguments or {"s": "é\n"}, {"tools": [function("t", command=command, **more)]})
    status, out, _ = run(["cat"])
    assert status == 0 and json.loads(out) == {"s": "é\n"}
    want(run("echo $A; exit 0", env={"A": "of the file"}), 0, "of the file")
    want(run("sleep 60", timeout=0.2), 3, "stopped after 0.2 s")
    want(run("sleep 60 & exit 0", timeout=0.3), 3, "stopped after 0.3 s")
    want(run("yes"), 3, "more than 1024 KiB")
    want(run("echo broken >&2; exit 9"), 3, "status 9: broken")
    want(run("kill -SEGV $$"), 3, "signal 11")
    want(run("printf '\\377\\000'"), 3, "no text")
    want(run("echo '{'", output="json"), 3, "is JSON, and it is not")
    want(run(["/nowhere/at-all"]), 3, "cannot be started")
    want(run(["cat"], {"n": 1}), 2, '"s" is missing')
    want(run(["cat"], {"s": "", "n": "1"}), 2, '"n" must be of type "integer"')
    want(run(["cat"], {"s": "", "c": "z"}), 2, '"c" must be one of ["x", "y"]')
    for file, part in [({}, "neither a list of tools"), ({"tools": [{}]}, "a tool's name"),
                       ({"tools": [function("t")]}, '"command" or a "url"'),
                       ({"tools": [function("t", command=[1])]}, "command[0] is no text"),
                       ({"tools": [function("t", command=["a"]), function("t", command=["a"])]}, "a second tool"),
                       ({"tools": [function("t", url="http://x", method="PUT")]}, "neither GET nor POST"),
                       ({"mcpServers": {"m": {"command": "/nowhere/at-all"}}}, "cannot be started")]:
        got = call("t", {"s": ""}, file)
        assert got[0] != 0 and part in got[2], got


def endpoints(base):
    def run(path, **more):
        return call("t", {"s": "a&b é", "n": 2}, {"tools": [function("t", url=base + path, **{"private": True, **more})]})
    assert json.loads(run("/echo")[1]) == {"s": "a&b é", "n": 2}
    assert json.loads(run("/echo?k=1", method="GET")[1]) == {"s": "a&b é", "n": "2", "k": "1"}
    want(run("/sleep", timeout=0.3), 3, "no answer within 0.3 s")
    want(run("/flood"), 3, "more than 1048576 bytes")
    want(run("/lie"), 3, "is JSON, and it is not")
    want(run("/binary"), 3, "no text")
    want(run("/die"), 3, "127.0.0.1: ")
    want(run("/redirect", method="GET"), 3, "status 302")
    want(run("/echo", private=False), 3, "address of a private network")
    want(call("t", {"s": ""}, {"tools": [function("t", url="http://[::ffff:169.254.169.254]/")]}), 3, "address of a private network")
    want(call("t", {"s": ""}, {"tools": [function("t", url="file:///etc/passwd")]}), 3, "")


def protocol(base):
    with open(os.path.join(HOME, "kit_answers.py"), "w") as f:
        import inspect
        f.write(inspect.getsource(mcp_answer))
    with open(os.path.join(HOME, "server.py"), "w") as f:
        f.write(MCP_PROCESS)
    process = {"mcpServers": {"m": {"command": "python3", "args": [os.path.join(HOME, "server.py"), HOME], "timeout": 60}}}
    for file in (process, {"mcpServers": {"m": {"url": base + "/mcp"}}}):
        want(puna("list", file=file), 0, "in capitals")
        want(call("shout", {"text": "loud é"}, file), 0, "LOUD É")
        want(call("shout", {}, file), 2, '"text" is missing')
        want(call("wrong", {}, file), 3, "no such file")
        want(call("image", {}, file), 0, "[image left out]")
    want(call("die", {}, process), 3, "ended with status 7")
    want(call("junk", {}, process), 3, "no JSON")
    want(call("flood", {}, process), 3, "more than 8192 KiB")
    process["mcpServers"]["m"]["timeout"] = 1.5
    want(call("hang", {}, process), 3, "no answer within 1.5 s")


def main():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Standin)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}"
    services(base)
    commands()
    endpoints(base)
    protocol(base)
    print("tools: ok")


main()
