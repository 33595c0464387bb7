# `puna tokenize`: every golden line in both directions with Meta's tokenizer, and the plain form.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
golden=tests/data/golden
meta=${XDG_CACHE_HOME:-$HOME/.cache}/puna/tokenizers/llama3/tokenizer.model

fail()
{
    echo "FAIL: $*"
    exit 1
}

# refused STATUS WORD ARGUMENT...: one line on standard error that holds WORD
refused()
{
    want=$1 word=$2
    shift 2
    status=0
    "$PUNA" tokenize "$@" >"$tmp/out" 2>"$tmp/err" || status=$?
    [ $status -eq "$want" ] || fail "$*: exit status $status, not $want: $(cat "$tmp/err")"
    [ "$(wc -l <"$tmp/err")" -eq 1 ] && grep -qF -- "$word" "$tmp/err" || fail "$*: $(cat "$tmp/err")"
}

[ -f "$meta" ] || fail "no $meta: run script/setup test"

# ---- golden lines; with special tokens and on long runs they are Meta's (tests/data/golden) ----

python3 - "$PUNA" "$meta" <<'P'
import json, subprocess, sys, tempfile
puna, meta = sys.argv[1:]

def run(rows, *options):
    p = subprocess.run([puna, "tokenize", meta, "--json", *options], text=True, check=True,
                       input="".join(json.dumps(r) + "\n" for r in rows), stdout=subprocess.PIPE)
    return [json.loads(x) for x in p.stdout.splitlines()]

rows = [json.loads(x) for x in open("tests/data/golden/tokenizer.jsonl")]
groups = {(): [], ("--meta-names",): [], ("--meta-chunking",): []}
for r in rows:
    groups["--meta-chunking",] .append(r) if r["cat"] == "longruns" else \
        groups["--meta-names",].append(r) if r["allow_special"] else groups[()].append(r)
failed = 0
for options, group in groups.items():
    out = run([{"text": r["text"], "allow_special": r["allow_special"]} for r in group], *options)
    assert group and len(out) == len(group), (options, len(out), len(group))
    for r, o in zip(group, out):
        if o != {"ids": r["ids"]}:
            failed += 1
            print("FAIL", r["id"], r["cat"])
raw = [r for r in rows if "bytes_hex" in r]
for r in raw:
    with tempfile.NamedTemporaryFile() as f:
        f.write(bytes.fromhex(r["bytes_hex"]))
        f.flush()
        p = subprocess.run([puna, "tokenize", meta, "-q", "--lossy", "--file", f.name], text=True,
                           check=True, stdout=subprocess.PIPE)
        if [int(x) for x in p.stdout.split()] != r["ids"]:
            failed += 1
            print("FAIL", r["id"], "raw bytes")
backs = [json.loads(x) for x in open("tests/data/golden/decode.jsonl")]
for r, o in zip(backs, run([{"ids": r["ids"]} for r in backs], "--decode"), strict=True):
    if o != {"bytes_hex": r["bytes_hex"], "text": r["text"]}:
        failed += 1
        print("FAIL", r["id"], o)
print(len(rows), "encoded,", len(raw), "as raw bytes,", len(backs), "decoded,", failed, "failed")
sys.exit(failed or len(rows) < 1347 or len(backs) < 101 or not raw)
P

# ---- plain ----

printf '  15339  "hello"\n  24748  " hello"\n    198  "\\n"\n 128009  "<|eot_id|>"  special\n' >"$tmp/want"
"$PUNA" tokenize "$meta" --allow-special "hello hello
<|eot_id|>" >"$tmp/out" 2>"$tmp/err"
diff "$tmp/want" "$tmp/out" && grep -qx '4 tokens' "$tmp/err" || fail "the plain table"
[ "$("$PUNA" tokenize "$meta" -q '<|eot_id|>' | wc -w)" -gt 1 ] || fail 'text became a control token'
[ "$("$PUNA" tokenize "$meta" -q '')" = "" ] || fail 'an empty text has tokens'
printf 'a\0b \342\202\254' >"$tmp/nul"
"$PUNA" tokenize "$meta" -q <"$tmp/nul" | "$PUNA" tokenize "$meta" --decode >"$tmp/back"
cmp "$tmp/nul" "$tmp/back" || fail 'NUL is lost'
"$PUNA" tokenize "$meta" --json --file "$tmp/nul" | "$PUNA" tokenize "$meta" --decode --json >"$tmp/out"
printf '{"bytes_hex": "61006220e282ac", "text": "a\\u0000b \342\202\254"}\n' | diff - "$tmp/out" || fail 'json of a file'
[ "$("$PUNA" tokenize "$meta" --decode --skip-special '[128000, 15339]')" = hello ] || fail 'skip-special'

# the other kinds of tokenizer
for t in smollm2 tests/data/tiny-llama31 tests/data/tiny-llama31/tokenizer.json; do
    "$PUNA" tokenize "$t" -q "Grüße, 1234 ไม่" | "$PUNA" tokenize "$t" --decode >"$tmp/out"
    [ "$(cat "$tmp/out")" = "Grüße, 1234 ไม่" ] || fail "$t"
done

# ---- refusals ----

printf 'ab\355\240\200' >"$tmp/bad"
refused 8 'byte 2 of 5' "$meta" --file "$tmp/bad"
refused 8 'id 128256' "$meta" --decode 128256
refused 8 'byte 3' "$meta" --decode '12 -1'
refused 8 'id 99999999999' "$meta" --decode 99999999999
refused 2 'either TEXT or --file' "$meta" text --file "$tmp/bad"
refused 2 'TOKENIZER is missing'
refused 3 'no-such-model' no-such-model text
refused 8 "$tmp/bad" "$tmp/bad" text
refused 8 'not a regular file' /dev/zero text
printf '{"text": "hello"}\n{"text": 1}\n{"text": "never"}\n' >"$tmp/in"
status=0
"$PUNA" tokenize "$meta" --json <"$tmp/in" >"$tmp/out" 2>"$tmp/err" || status=$?
[ $status -eq 8 ] && grep -q 'line 2: .*"text" must be a string' "$tmp/err" &&
    [ "$(cat "$tmp/out")" = '{"ids": [15339]}' ] || fail "a wrong line: $(cat "$tmp/err")"
for line in '[]' '{}' '{"text": "a", "text": "b"}' '{"text": "a", "allow_special": 1}' '{"text": "\ud800"}' '{'; do
    status=0
    echo "$line" | "$PUNA" tokenize "$meta" --json >"$tmp/out" 2>"$tmp/err" || status=$?
    [ $status -eq 8 ] && [ ! -s "$tmp/out" ] && grep -q 'line 1: ' "$tmp/err" || fail "accepted $line"
done
status=0
echo '{"ids": [1.5]}' | "$PUNA" tokenize "$meta" --decode --json >"$tmp/out" 2>"$tmp/err" || status=$?
[ $status -eq 8 ] || fail 'a fraction is no id'
echo ok
