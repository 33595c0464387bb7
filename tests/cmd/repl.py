"""The chat of `puna run`, driven through a pseudo-terminal. Usage: repl.py PUNA SCRATCH_FOLDER"""
import fcntl
import json
import os
import pty
import re
import select
import signal
import stat
import struct
import sys
import termios
import time

PUNA, TMP = sys.argv[1:]
ENV = {**os.environ, "TERM": "xterm", "XDG_STATE_HOME": TMP + "/state", "LC_ALL": "C.UTF-8",
       "EDITRC": "/dev/null"}
CSI = re.compile(rb"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[()=>][A-B0]?|\r")
WAIT = 300


class Chat:
    """One chat: type, wait for text, leave."""

    def __init__(self, *args, env=ENV):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(PUNA, [PUNA, "run", "--dtype", "f32", *args], env)
        self.raw, self.seen = b"", 0
        self.resize(100)
        self.expect(b">>> ")

    def resize(self, columns):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def read(self, seconds):
        """False when the program has ended."""
        if not select.select([self.fd], [], [], seconds)[0]:
            return True
        try:
            got = os.read(self.fd, 65536)
        except OSError:
            got = b""
        self.raw += got
        return bool(got)

    def expect(self, text):
        """Waits until text comes after what was seen before; gives what came up to it."""
        end = time.monotonic() + WAIT
        while True:
            plain = CSI.sub(b"", self.raw)
            at = plain.find(text, self.seen)
            if at >= 0:
                before = plain[self.seen:at]
                self.seen = at + len(text)
                return before
            alive = time.monotonic() < end and self.read(1)
            assert alive, f"no {text!r} in {plain[max(self.seen - 80, 0):][:2000]!r}"

    def press(self, text):
        os.write(self.fd, text.encode() if isinstance(text, str) else text)

    def send(self, text):
        """At a prompt: libedit shows it a little before it takes the terminal over, and what comes in
        between meets the terminal's own line editor, which makes a zero byte of Ctrl-D."""
        end = time.monotonic() + WAIT
        while termios.tcgetattr(self.fd)[3] & termios.ICANON:
            assert time.monotonic() < end, "the prompt does not take the terminal over"
            time.sleep(0.001)
        self.press(text)

    def type(self, line, prompt=b">>> "):
        """One line; gives what is on the screen up to the next prompt."""
        self.send(line + "\r")
        return self.expect(b"\n" + prompt)

    def save(self, name):
        path = f"{TMP}/{name}.json"
        assert b"saved" in self.type("/save " + path)
        with open(path) as f:
            return json.load(f)

    def leave(self, how="/bye\r"):
        self.send(how)
        end = time.monotonic() + WAIT
        while self.read(1):
            assert time.monotonic() < end, "it does not leave"
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.fd)
        assert status == 0, (status, self.raw[-4000:].decode(errors="replace"))


def contents(saved, role):
    return [m["content"] for m in saved["messages"] if m["role"] == role]


def talking():
    """Turns, blocks of lines, a paste, the system message, a saved chat, and /clear."""
    c = Chat("-n", "6", "-v", "--temperature", "0.9", "--seed", "3")
    banner = CSI.sub(b"", c.raw)
    for word in (b"SmolLM2-135M-Instruct", b"q4_1", b"CPU", b"thread", b"context 8192"):
        assert word in banner, banner
    out = c.type("Name a colour.")
    assert b"answer: 6 tokens" in out and b"0 cached" in out and b"first token after" in out, out
    first = int(re.search(rb"prompt: (\d+) tokens", out)[1])
    out = c.type("And one more.")
    cached = int(re.search(rb"\((\d+) cached\)", out)[1])
    assert cached == first + 5, out  # the first question and its answer are not computed again
    c.type('"""first', b"... ")
    c.type("  second", b"... ")
    c.type('third"""')
    c.send("\x1b[200~pasted one\rpasted\ttwo\rnatürlich ไทย\r\x1b[201~")
    c.type("!")
    assert b"\x1b[?2004h" in c.raw and c.raw.rstrip().endswith(b">>>"), c.raw[-200:]
    saved = c.save("block")
    asked = contents(saved, "user")
    assert asked == ["Name a colour.", "And one more.", "first\n  second\nthird",
                     "pasted one\npasted\ttwo\nnatürlich ไทย!"], asked
    assert len(contents(saved, "assistant")) == 4 and saved["ids"], saved
    c.type("/system Answer in one word.")
    assert b"Answer in one word." in c.type("/show")
    c.type("What is water?")
    before = c.save("before")
    assert before["messages"][0] == {"role": "system", "content": "Answer in one word."}
    c.type("Why?")
    after = c.save("after")
    c.type("/clear")
    assert c.save("cleared")["messages"] == before["messages"][:1]
    c.type('/system ""')
    assert c.save("cleared")["messages"] == []
    c.leave()

    # a loaded chat goes on with the same words and the same ids
    d = Chat("-n", "6", "--temperature", "0.9", "--seed", "3")
    assert b"loaded" in d.type(f"/load {TMP}/before.json")
    d.type("Why?")
    assert {**d.save("again"), "model": ""} == {**after, "model": ""}
    # with another system message the saved ids no longer fit, and are not used
    d.type(f"/load {TMP}/before.json")
    d.type("/system Other.")
    d.type("Why?")
    assert d.save("other")["ids"][:30] != after["ids"][:30]
    d.leave("\x04")


def stopping():
    """Ctrl-C stops an answer and drops a line; twice at the prompt it leaves."""
    c = Chat()
    c.send("Write a long story about a cat and a dog and a mouse.\r")
    c.expect(b"mouse.\n")
    end = time.monotonic() + WAIT
    while len(CSI.sub(b"", c.raw)) <= c.seen + 40:
        assert c.read(1) and time.monotonic() < end, "the story does not begin"
    c.press(b"\x03")
    c.expect(b"(stopped)")
    c.expect(b">>> ")
    said = contents(c.save("stopped"), "assistant")
    assert len(said) == 1 and said[0], said
    c.type("/set max_new_tokens 3")
    assert b"stopped after 3 tokens" in c.type("Go on.")
    assert len(contents(c.save("stopped"), "assistant")) == 2
    c.send("half a line\x03")
    c.expect(b"Ctrl-C again")
    c.expect(b">>> ")
    c.type("/show")
    c.send(b"\x03")
    c.expect(b"Ctrl-C again")
    c.leave(b"\x03")
    d = Chat()
    d.send('"""never ended\r')
    d.expect(b"... ")
    d.leave(b"\x04")


def commands():
    """/set and errors; nothing ends the chat."""
    c = Chat("-n", "2")
    assert b"temperature        0\n" in c.type("/set")
    c.type("/set top-p 0.5")
    assert b"temperature        1\ntop_p              0.5\n" in c.type("/set")
    c.type("/set greedy")
    assert b"temperature        0\n" in c.type("/set")
    c.type("/set temp 0.25")
    c.type("/set parameter repeat_penalty 1.1")
    c.type('/set stop "## "')
    out = c.type("/set")
    assert b"temperature        0.25\n" in out and b"repetition_penalty 1.1\n" in out, out
    assert b"stop               ## \n" in out, out
    for line, why in (("/set temperature hot", b"hot"), ("/set temperature 101", b"101"),
                      ("/set temprature 1", b"did you mean temperature"), ("/set ctx 5", b"at the start"),
                      ("/set logit_bias 5", b"ID=BIAS"), ("/sav x", b"did you mean /save"),
                      ("/save", b"needs the name"), (f"/load {TMP}/absent", b"absent"),
                      ("/load /dev/null", b"error"), (f"/save {__file__}", b"no saved chat")):
        out = c.type(line)
        assert b"error: " in out and why in out, (line, out)
    assert b"temperature        0.25\n" in c.type("/set")
    assert b"/system" in c.type("/?")
    # what a file or a model says cannot steer the terminal
    evil = [{"role": "system", "content": "A\x1b[31mB\x9bC\x07D"}]
    with open(TMP + "/evil.json", "w") as f:
        json.dump({"messages": evil}, f)
    c.type(f"/load {TMP}/evil.json")
    assert b"A?[31mB?C?D" in c.type("/show")
    escape = sys.stdin.read().strip()
    c.type("/clear")
    c.type(f"/set logit_bias {escape}=100")
    mark = len(c.raw)
    c.type("/set temperature 0")
    assert b"\n??\n" in c.type("Hi"), c.raw[mark:]
    assert contents(c.save("escape"), "assistant") == ["\x1b\x1b"]
    c.leave()


def terminal():
    """History across chats, a window that shrinks, and TERM=dumb."""
    c = Chat("-n", "2")
    c.type("/set seed 41")
    c.type("/set seed 42")
    c.leave()
    path = TMP + "/state/puna/history"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    c = Chat("-n", "2")
    c.send("\x1b[A\x1b[A\x1b[A\r")  # /bye, 42, 41
    c.expect(b"\n>>> ")
    assert b"seed               41\n" in c.type("/set")
    c.resize(20)
    os.kill(c.pid, signal.SIGWINCH)
    text = "a long line " * 6
    c.send(text + "\r")
    c.expect(b"stopped after 2 tokens")
    c.expect(b">>> ")
    assert contents(c.save("n"), "user") == [text.rstrip() + " "]
    c.leave()
    d = Chat("-n", "2", env={**ENV, "TERM": "dumb", "NO_COLOR": "1"})
    d.send("Hi\r")
    d.expect(b"stopped after")
    d.expect(b">>> ")
    assert b"2004" not in d.raw
    d.leave(b"\x04")


def interrupting_one_answer():
    """Without a chat, Ctrl-C ends the answer and the program says so."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(PUNA, [PUNA, "run", "--dtype", "f32", "Write a long story about a cat."], ENV)
    got = b""
    while len(got) < 30:
        got += os.read(fd, 4096)
    os.write(fd, b"\x03")
    try:
        while os.read(fd, 4096):
            pass
    except OSError:
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130


for part in (talking, stopping, commands, terminal, interrupting_one_answer):
    part()
