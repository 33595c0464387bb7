# The command line under abuse: the rows of tests/data/hostile/CLI.tsv (arguments, status, why) whose
# command there is. Status 1 stands for any failure that is not the user's spelling (puna help).
set -eu
exec python3 - "$PUNA" <<'P'
import json, os, pathlib, re, subprocess, sys, tempfile, time

PUNA, DIR = sys.argv[1], "tests/data/tiny-llama31"
SANITIZER = re.compile(r"Sanitizer|runtime error:")
tmp = tempfile.mkdtemp()
fifo = os.path.join(tmp, "fifo")
os.mkfifo(fifo)
commands = {c["name"] for c in json.loads(subprocess.check_output([PUNA, "help", "--json"]))["commands"]}


def ansi(word):
    """$'\\xff' as the bytes it stands for."""
    m = re.fullmatch(r"\$'\\x(..)'", word)
    return bytes.fromhex(m[1]) if m else word.encode()


def run(words, env=None, stdout=None, closed=False):
    """Ends with status, standard error and seconds; the prompt comes on standard input."""
    shut = (lambda: os.close(1)) if closed else None
    start = time.monotonic()
    p = subprocess.run([PUNA, *words], input="hi", env={**os.environ, **(env or {})}, timeout=600,
                       stdout=stdout or subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8",
                       errors="replace", preexec_fn=shut)
    return p.returncode, p.stderr, time.monotonic() - start


# Decided otherwise: a context beyond the model's own is refused as usage, before memory is asked about,
# and -n -1 is what llama.cpp's users type for no limit, so -2 stands for a negative count.
DECIDED = {"run -m DIR --ctx 2147483647": "2"}
rows = [x.split("\t") for x in pathlib.Path("tests/data/hostile/CLI.tsv").read_text().splitlines()[1:]]
done, failed, later = 0, 0, []
for args, want, why in rows:
    words, options = args.replace("-n -1", "-n -2").split(), {}
    want = DECIDED.get(args, want)
    if args.startswith("(env PUNA_*"):
        words, options["env"] = ["run", "-m", "DIR"], {"PUNA_TEMPERATURE": "%s%n%n"}
    elif words[0] != "run":
        later.append(words[0])
        continue
    if ">" in words:
        options["stdout"] = open(words[words.index(">") + 1], "wb")
        words = words[:words.index(">")]
    if ">&-" in words:
        options["closed"] = True
        words = words[:words.index("<")]
    words = [{"DIR": DIR, "FIFO": fifo}.get(w, w) for w in words] + ["--raw", "-n", "4"] * ("-n" not in words)
    status, err, seconds = run([ansi(w) for w in words], **options)
    ok = status == 2 if want == "2" else status in (1, 3, 4, 5, 6, 7, 8, 9)
    if not ok or SANITIZER.search(err) or not re.fullmatch(r"(warning: .*\n)*error: [^\n]+\n", err):
        failed += 1
        print(f"FAIL {args}: status {status}, expected {want} ({why}): {err[:300]!r}")
    elif seconds > 30:
        failed += 1
        print(f"FAIL {args}: {seconds:.0f} s")
    done += 1
# Every command, not only run: what is no command, no option, no value, no UTF-8
for c in sorted(commands):
    for words, status in (([c, "--no-such-option"], 2), ([c, b"\xff"], 2), ([c, "--help=\xff".encode("latin-1")], 2)):
        got, err, _ = run(words)
        done += 1
        if got != status or SANITIZER.search(err) or not re.fullmatch(r"error: [^\n]+\n", err):
            failed += 1
            print(f"FAIL {words}: status {got}: {err[:300]!r}")
    with open("/dev/full", "wb") as full:
        got, err, _ = run([c, "--help"], stdout=full)
    done += 1
    if got != 1 or "No space left" not in err:
        failed += 1
        print(f"FAIL {c} --help > /dev/full: status {got}: {err[:300]!r}")
print(f"{done} command lines, {failed} failed; not asked: rows for {', '.join(sorted(set(later)))}")
sys.exit(1 if failed or done < 17 else 0)
P
