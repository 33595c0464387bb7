"""A `puna serve` of the tiny model, for the tests that drive it over HTTP."""
import atexit
import http.client
import json
import re
import signal
import subprocess
import sys
import threading
import time

PUNA, TMP = sys.argv[1:3]
MODEL = "tests/data/tiny-llama31"
WAIT = 300


class Server:
    def __init__(self, *args, model=MODEL, scheme="http"):
        self.tls = None
        self.log = open(TMP + "/log", "ab+")
        self.log.seek(0, 2)
        self.at = self.log.tell()
        self.p = subprocess.Popen(
            [PUNA, "serve", *([model, "--template", "llama3.1"] if model else []), "--port", "0",
             *args], stdout=subprocess.PIPE, stderr=self.log, text=True)
        atexit.register(self.p.kill)
        line = self.p.stdout.readline()
        found = re.search(rf"listening on {scheme}://127\.0\.0\.1:(\d+) ", line)
        assert found, f"no port in {line!r}; {self.logged()}"
        self.port = int(found[1])

    def logged(self):
        self.log.seek(self.at)
        return self.log.read().decode()

    def call(self, method, path, body=None, headers=None, raw=None, begun=None):
        """(status, headers, bytes); begun() is called when the answer's first byte has come."""
        if self.tls:
            c = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=WAIT, context=self.tls)
        else:
            c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)
        h = dict(headers or {})
        if body is not None:
            raw = json.dumps(body).encode()
        if raw is not None:
            h.setdefault("Content-Type", "application/json")
        c.request(method, path, raw, h)
        r = c.getresponse()
        data = r.read(1)
        if begun:
            begun()
        data += r.read()
        c.close()
        return r.status, r.headers, data

    def post(self, path, body, want=200, **kw):
        status, headers, data = self.call("POST", path, body, **kw)
        assert status == want, f"{path} {body}: {status} instead of {want}: {data[:300]}"
        self.headers = headers
        return json.loads(data)

    def stream(self, path, body, begun=None):
        status, headers, data = self.call("POST", path, {**body, "stream": True}, begun=begun)
        assert status == 200 and headers["Content-Type"] == "text/event-stream", (status, data)
        events = [x[6:] for x in data.decode().split("\n\n") if x.startswith("data: ")]
        assert all(x.startswith("data: ") or x in ("", ":") for x in data.decode().split("\n\n"))
        return events

    def streams(self, path, bodies):
        """Begins one stream for each body. Returns, when all have sent something, a function that waits
        for their ends and gives the events of each."""
        got = [None] * len(bodies)
        flags = [threading.Event() for _ in bodies]

        def one(i):
            got[i] = self.stream(path, bodies[i], flags[i].set)

        threads = [threading.Thread(target=one, args=(i,)) for i in range(len(bodies))]
        for t in threads:
            t.start()
        for f in flags:
            assert f.wait(WAIT), "a stream does not begin"

        def ends():
            for t in threads:
                t.join()
            return got

        return ends

    def chat(self, want=200, headers=None, **kw):
        kw.setdefault("messages", [{"role": "user", "content": "Count to three."}])
        kw.setdefault("max_tokens", 12)
        kw.setdefault("temperature", 0)
        return self.post("/v1/chat/completions", kw, want, headers=headers)

    def post_get(self, path):
        status, _, data = self.call("GET", path)
        assert status == 200, (path, data)
        return json.loads(data)

    def metric(self, name):
        text = self.call("GET", "/metrics")[2].decode()
        return float(re.search(rf"^{name} (\S+)$", text, re.M)[1])

    def stop(self):
        if self.p.poll() is None:
            self.p.send_signal(signal.SIGTERM)
        status = self.p.wait(WAIT)
        assert status == 0, f"status {status}: {self.logged()[-600:]}"
        return self.logged()


def eventually(what, fn):
    end = time.monotonic() + WAIT
    while not fn():
        assert time.monotonic() < end, what
        time.sleep(0.02)
