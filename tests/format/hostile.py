"""Runs `PUNA inspect` on every file and folder of tests/data/hostile/files.tar.xz, and `PUNA tokenize` on
the texts in its prompt/, and compares with EXPECT.tsv (path, accept | reject | any, why).

A refusal is exit status 2 (tokenize: 8) and one line on standard error that names the path; inspect gives
the same reason under --json. A text that is accepted becomes no control token and decodes to itself. No
signal, no sanitizer report, at most a CPU's second (ten of a clock) and 64 MiB, and nothing is written."""
import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import time

TOKENIZER = "model_dirs/ok_tiny_llama"
DATA = pathlib.Path(__file__).resolve().parent.parent / "data/hostile"
MAX_SECONDS, MAX_MIB = 1.0, 64
SANITIZER = re.compile(r"Sanitizer|runtime error:")


def run(argv, cwd):
    """Exit status, CPU seconds, peak MiB, standard output, standard error."""
    start = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        p = subprocess.Popen(argv, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        while True:
            pid, status, usage = os.wait4(p.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() - start > 10 * MAX_SECONDS:
                p.kill()
            time.sleep(0.0005)
        p.returncode = os.waitstatus_to_exitcode(status)
        took = usage.ru_utime + usage.ru_stime
        texts = []
        for f in (out, err):
            f.seek(0)
            texts.append(f.read().decode("utf-8", "replace"))
    return p.returncode, took, usage.ru_maxrss / 1024, *texts


def healthy(got, refused, max_mib):
    status, took, mib, _, err = got
    if SANITIZER.search(err):
        return "sanitizer report: " + err[:2000]
    if status not in (0, refused):
        return f"exit status {status}: {err[:300]}"
    if took > MAX_SECONDS or mib > max_mib:
        return f"took {took:.2f} s and {mib:.0f} MiB"
    return None


def verdict(got, path, expected, max_mib):
    status, _, _, out, err = got
    bad = healthy(got, 2, max_mib)
    if bad:
        return bad
    name = "accept" if status == 0 else "reject"
    if expected not in ("any", name):
        return f"expected {expected}, got {name} {err[:300]}"
    try:
        report = json.loads(out)
    except ValueError:
        return f"--json printed {out[:100]!r}"
    if report.get("ok") is not (status == 0):
        return f"\"ok\" is {report.get('ok')}"
    if status == 0:
        return None if all(x.startswith("warning: ") for x in err.splitlines()) else err[:300]
    if not re.fullmatch(r"error: [^\n]+\n", err) or path not in err:
        return f"not one line naming the path: {err[:300]!r}"
    return None if err == f"error: {report['reason']}\n" else "--json gives another reason"


def text_verdict(puna, tmp, path, expected, max_mib):
    """What is wrong with `puna tokenize` on one text, and how long it took."""
    got = run([puna, "tokenize", "--quiet", TOKENIZER, "--file", path], tmp)
    bad = healthy(got, 8, max_mib)
    if bad:
        return bad, got[1]
    status, took, _, out, err = got
    if expected != ("reject" if status else "accept"):
        return f"expected {expected}, got {status} {err[:300]}", took
    if status:
        return None if re.fullmatch(r"error: [^\n]+\n", err) and path in err else repr(err), took
    decode = [puna, "tokenize", "--decode", "--skip-special", TOKENIZER]
    back = subprocess.run(decode, cwd=tmp, input=out.encode(), stdout=subprocess.PIPE).stdout
    same = back == (pathlib.Path(tmp) / path).read_bytes()
    return None if same else f"decodes to {back[:60]!r}", took


def main():
    puna = os.path.abspath(sys.argv[1])
    rows = [x.split("\t") for x in (DATA / "EXPECT.tsv").read_text().splitlines()[1:]]
    sanitized = b"__asan_init" in pathlib.Path(puna).read_bytes()
    failed, slowest = 0, (0, "")
    with tempfile.TemporaryDirectory() as tmp:
        with tarfile.open(DATA / "files.tar.xz") as tar:
            tar.extractall(tmp)
        before = {str(p) for p in pathlib.Path(tmp).rglob("*")}
        base = run([puna, "--version"], tmp)[2]
        for path, expected, why in rows:
            limit = base + (1024 if sanitized else MAX_MIB)
            if path.startswith("prompt/"):
                bad, took = text_verdict(puna, tmp, path, expected, limit)
            else:
                got = run([puna, "inspect", "--json", path], tmp)
                bad, took = verdict(got, path, expected, limit), got[1]
            slowest = max(slowest, (took, path))
            if bad:
                failed += 1
                print(f"FAIL {path}: {bad}  ({why})")
        after = {str(p) for p in pathlib.Path(tmp).rglob("*")}
        if after != before:
            failed += 1
            print("FAIL files appeared:", sorted(after - before))
    print(f"{len(rows)} files, {failed} failed; slowest {slowest[0] * 1000:.0f} ms: {slowest[1]}")
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
