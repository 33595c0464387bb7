"""Faults of clients and of the system, injected into `puna serve` of a model so small that all time goes
into serving (tests/micro.py). Usage: serve_faults.py PUNA SCRATCH_FOLDER

PUNA_SOAK=1: ten thousand connections in place of a few hundred."""
import json
import os
import random
import re
import resource
import selectors
import signal
import socket
import struct
import time

from server import TMP, WAIT, Server, eventually

MICRO = TMP + "/micro"
FULL = os.environ.get("PUNA_SOAK")
CHAT = {"messages": [{"role": "user", "content": "x"}], "ignore_eos": True, "stream": True}


def server(*args):
    return Server("-q", "--threads", "1", *args, model=MICRO)


def request(path, body):
    data = json.dumps(body).encode()
    return (f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n").encode() + data


def chat(tokens, **kw):
    return request("/v1/chat/completions", {**CHAT, "max_tokens": tokens, **kw})


def connect(s, rcvbuf=None):
    c = socket.socket()
    c.settimeout(WAIT)
    if rcvbuf:
        c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    c.connect(("127.0.0.1", s.port))
    return c


def rest(c):
    """All until the other side closes, or a chunked body ends."""
    data = b""
    while not data.endswith(b"0\r\n\r\n"):
        more = c.recv(1 << 16)
        if not more:
            break
        data += more
    return data


def nothing_left(s):
    eventually("no call is left", lambda: s.metric("puna_http_calls") == 1)
    eventually("nothing runs", lambda: s.metric("tgi_batch_current_size") == s.metric("tgi_queue_size") == 0)
    assert s.metric("puna_kv_blocks_free") + s.metric("puna_kv_blocks_cached") == s.metric("puna_kv_blocks")


def files(s):
    return len(os.listdir(f"/proc/{s.p.pid}/fd"))


def events(data):
    """What an event stream said, and whether it ended as it should."""
    chunks = data.decode().partition("\r\n\r\n")[2].split("\n\n")
    said = [x[x.index("data: ") + 6:] for x in chunks if "data: " in x]
    return said, bool(said) and said[-1] == "[DONE]"


def leavers(s):
    """Clients that go after the k-th byte of their request, or of the answer, politely or by a reset."""
    before, whole = files(s), chat(50)
    for k in range(0, len(whole), 7):
        c = connect(s)
        c.sendall(whole[:k])
        c.close()
    for k in range(40):
        c = connect(s)
        c.sendall(chat(100000))
        data = b""
        while data.count(b"data: ") < k:
            data += c.recv(4096)
        if k % 2:
            c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        c.close()
    nothing_left(s)
    eventually("descriptors are closed", lambda: files(s) <= before)


def silent_leavers(s):
    """Whoever leaves before the first byte of an answer is noticed too."""
    before = s.metric("puna_requests_cancelled")
    held = [connect(s) for _ in range(4)]
    for c in held:
        c.sendall(chat(100000, stream=False))
    eventually("they run", lambda: s.metric("tgi_batch_current_size") == 4)
    for c in held:
        c.close()
    eventually("they are cancelled", lambda: s.metric("puna_requests_cancelled") == before + 4)
    nothing_left(s)


def half_closed(s):
    """Who closes its own side after the request still gets a whole answer, larger than any buffer."""
    c = connect(s, 4096)
    c.sendall(chat(400, stream=False, logprobs=True, top_logprobs=20, ignore_eos=True))
    c.shutdown(socket.SHUT_WR)
    answer = rest(c)
    head, _, body = answer[answer.rindex(b"HTTP/1.1 200"):].partition(b"\r\n\r\n")
    assert len(body) == int(re.search(rb"(?i)content-length: (\d+)", head)[1]) > 100000, (len(body), head)
    c.close()
    nothing_left(s)


def slow_readers(s):
    """They are dropped when too much waits for them; nobody else waits."""
    before = s.metric("puna_requests_cancelled")
    held = [connect(s, 4096) for _ in range(2)]
    for c in held:
        c.sendall(chat(8000, n=8, logprobs=True, top_logprobs=20))
    c = connect(s)
    c.sendall(chat(30))
    assert events(rest(c))[1]
    c.close()
    eventually("they are dropped", lambda: s.metric("puna_requests_cancelled") >= before + 16)
    for c in held:
        c.close()
    nothing_left(s)


def slowloris():
    """Heads and bodies that come a byte at a time are cut off with 408, answers are not."""
    s = server("--request-timeout", "0.5")
    begun = [chat(5)[:k] for k in (1, 10, 30, 80, 120)] * 8
    slow = [connect(s) for _ in begun]
    quiet = connect(s)
    stream = connect(s)
    stream.sendall(chat(400))
    for c, part in zip(slow, begun):
        c.sendall(part)
    poll = selectors.DefaultSelector()
    for c in slow:
        poll.register(c, selectors.EVENT_READ)
    left = len(slow)
    while left:
        ready = poll.select(0.05)
        for c in {k.fileobj for k, _ in ready}:
            data = c.recv(1000)
            assert data == b"" or data.startswith(b"HTTP/1.1 408 "), data
            poll.unregister(c)
            c.close()
            left -= 1
        for key in list(poll.get_map().values()):
            try:
                key.fileobj.sendall(b"x")  # never a line's end
            except OSError:
                pass
    quiet.sendall(chat(5))  # had nothing to say until now, and may
    assert events(rest(quiet))[1]
    assert events(rest(stream))[1]
    stream.close()
    quiet.close()
    nothing_left(s)
    s.stop()


def exhaustion():
    """More answers than the cache holds, with room for two at a time: all are given, and the same."""
    s = server("--max-batch-total-tokens", "512", "--max-concurrent-requests", "300")
    alone = {}
    for i in range(5):
        c = connect(s)
        c.sendall(chat(120 + i, temperature=1, seed=i))
        said, whole = events(rest(c))
        assert whole
        alone[i] = "".join(text_of(x) for x in said[:-1])
        c.close()
    many = [connect(s) for _ in range(60)]
    for i, c in enumerate(many):
        c.sendall(chat(120 + i % 5, temperature=1, seed=i % 5))
    for i, c in enumerate(many):
        said, whole = events(rest(c))
        assert whole and "".join(text_of(x) for x in said[:-1]) == alone[i % 5], i
        c.close()
    assert s.metric("puna_preemptions") > 0
    nothing_left(s)
    s.stop()


def too_late():
    """With --max-queue-time, whoever would wait too long for a first token is told when to come again."""
    s = server("--max-queue-time", "0.000001")
    c = connect(s)
    c.sendall(chat(20))
    assert events(rest(c))[1]
    c.close()
    for _ in range(20):  # where this process does not come to run for long, the answer has ended
        c = connect(s)
        c.sendall(chat(100000))
        c.recv(100)
        status, headers, data = s.call("POST", "/v1/completions", {"prompt": "x", "max_tokens": 1})
        c.close()
        if status != 200:
            break
    assert status == 429 and int(headers["Retry-After"]) >= 1, (status, data)
    assert "first token" in json.loads(data)["error"]["message"], data
    nothing_left(s)
    s.stop()


def text_of(event):
    choices = json.loads(event)["choices"]
    return choices[0]["delta"].get("content") or "" if choices else ""


def shared_prefix(s):
    """64 prompts that begin with the same 2,000 tokens: an eighth of the work at most."""
    rng = random.Random(3)
    prefix = [rng.randrange(1000) for _ in range(2000)]
    before = s.metric("puna_prompt_tokens_computed")
    held = [connect(s) for _ in range(64)]
    total = 0
    for i, c in enumerate(held):
        prompt = prefix + [(i * 31 + k) % 1000 for k in range(10)]
        total += len(prompt)
        c.sendall(request("/v1/completions", {"prompt": prompt, "max_tokens": 3, "stream": True}))
    for c in held:
        assert events(rest(c))[1]
        c.close()
    computed = s.metric("puna_prompt_tokens_computed") - before
    assert computed * 8 <= total, f"{computed} rows computed of {total}"


def many_connections():
    """Idle ones and streams, all at once; /health answers among them."""
    n = 10000 if FULL else 300
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    n = min(n, (hard - 200) // 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    s = server("--max-concurrent-requests", str(n + 10), "--max-queue", str(n + 10), "--max-batch-size",
               "512", "--request-timeout", "0")
    before = files(s)
    idle = [connect(s) for _ in range(n)]
    eventually("all idle ones are accepted", lambda: files(s) >= before + n)
    assert s.call("GET", "/health")[0] == 200
    streams = []
    poll = selectors.DefaultSelector()
    got = {}
    for _ in range(n):
        c = connect(s)
        streams.append(c)
        c.sendall(chat(8))
        got[c] = b""
        poll.register(c, selectors.EVENT_READ)
    done, slowest, asked = 0, 0, 0
    while done < n:
        for key, _ in poll.select(WAIT):
            c = key.fileobj
            data = c.recv(1 << 16)
            got[c] += data
            if not data or got[c].endswith(b"0\r\n\r\n"):
                assert events(got[c])[1], got[c][-200:]
                poll.unregister(c)
                done += 1
        t = time.monotonic()
        if t > asked + 0.1:
            assert s.call("GET", "/health")[0] == 200
            asked = time.monotonic()
            slowest = max(slowest, asked - t)
    with open(f"/proc/{s.p.pid}/status") as f:
        peak = next(int(x.split()[1]) for x in f if x.startswith("VmHWM")) / 1024
    print(f"{n} idle and {n} streaming: {peak:.0f} MiB at most, /health {1000 * slowest:.1f} ms at most")
    if FULL:
        assert peak < 300, peak
    for c in idle + streams:
        c.close()
    eventually("descriptors are closed", lambda: files(s) <= before)
    nothing_left(s)
    s.stop()


def no_descriptors():
    """Without descriptors new clients wait; those that are there go on; then all is well again."""
    s = server()
    c = connect(s)
    c.sendall(chat(400))
    head = c.recv(100)
    resource.prlimit(s.p.pid, resource.RLIMIT_NOFILE, (files(s) + 3, files(s) + 3))
    waiting = [connect(s) for _ in range(20)]  # the kernel's queue takes them
    for w in waiting:
        w.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    for w in waiting:
        assert w.recv(100).startswith(b"HTTP/1.1 200")
        w.close()
    assert events(head + rest(c))[1]
    c.close()
    nothing_left(s)
    s.stop()


def drain_under_load():
    """SIGTERM with streams that run and wait: none is cut."""
    s = server("--max-batch-size", "8", "--max-concurrent-requests", "100")
    streams = [connect(s) for _ in range(50)]
    for i, c in enumerate(streams):
        c.sendall(chat(50 + i))
    eventually("all are taken", lambda: s.metric("tgi_request_count") == 50)
    s.p.send_signal(signal.SIGTERM)
    for c in streams:
        assert events(rest(c))[1]
        c.close()
    s.stop()


def crash():
    """SIGKILL under load; the next start is as any other."""
    s = server()
    c = connect(s)
    c.sendall(chat(100000))
    c.recv(100)
    s.p.kill()
    assert s.p.wait(WAIT) == -signal.SIGKILL
    began = time.monotonic()
    s = server("--port", str(s.port))
    listening = time.monotonic() - began
    c = connect(s)
    c.sendall(chat(5))
    assert events(rest(c))[1]
    print(f"restart: listening after {1000 * listening:.0f} ms, answered after "
          f"{1000 * (time.monotonic() - began):.0f} ms")
    s.stop()


s = server("--max-concurrent-requests", "200", "--max-batch-size", "64")
leavers(s)
silent_leavers(s)
half_closed(s)
print("leavers")
slow_readers(s)
shared_prefix(s)
s.stop()
print("slow readers, prefix")
slowloris()
print("slowloris")
exhaustion()
too_late()
print("exhaustion")
many_connections()
no_descriptors()
print("descriptors")
drain_under_load()
print("drain")
crash()
