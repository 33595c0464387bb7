# `puna perplexity`: the recorded figure of the default model, both forms, and refusals. (`puna bench`
# is in bench.sh.)
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

fail()
{
    echo "FAIL: $*"
    exit 1
}

# The first 96 of the recorded ids keep this short; tests/model/llama.c holds all 2048 to the recorded
# figure.
python3 - "$tmp" <<'P'
import json, sys
ids = json.load(open("tests/data/smollm2/perplexity.json"))["ids"]
json.dump(ids[:96], open(sys.argv[1] + "/ids.json", "w"))
P
"$PUNA" perplexity smollm2 --ids "$tmp/ids.json" --json >"$tmp/a"
"$PUNA" perplexity smollm2 --ids "$tmp/ids.json" --json --threads 1 | diff "$tmp/a" - || fail 'threads change it'
"$PUNA" tokenize smollm2 --decode --file "$tmp/ids.json" >"$tmp/text"
"$PUNA" perplexity smollm2 --text "$tmp/text" --json | diff "$tmp/a" - || fail '--text is not --ids'
"$PUNA" perplexity smollm2 --ids "$tmp/ids.json" --ctx 48 --json >"$tmp/windows"
"$PUNA" perplexity smollm2 --ids "$tmp/ids.json" >"$tmp/plain"
"$PUNA" perplexity smollm2 --ids "$tmp/ids.json" --kv-dtype q8_0 --json >"$tmp/q8"
"$PUNA" perplexity smollm2 --ids "$tmp/ids.json" --kv-dtype fp8 2>"$tmp/err" && fail 'an fp8 cache on the CPU'
grep -q 'an fp8 cache is for the GPU alone: choose q8_0' "$tmp/err" || fail "$(cat "$tmp/err")"
python3 - "$tmp" <<'P'
import json, math, re, sys
read = lambda name: open(f"{sys.argv[1]}/{name}").read()
a, w = json.loads(read("a")), json.loads(read("windows"))
assert (a["tokens"], a["scored"]) == (96, 95), a
assert abs(math.exp(a["mean_nll"]) / a["perplexity"] - 1) < 1e-6 and 2 < a["perplexity"] < 60, a
assert (w["tokens"], w["scored"]) == (96, 94) and w["mean_nll"] > a["mean_nll"], (w, a)
q8 = json.loads(read("q8"))
assert q8["mean_nll"] != a["mean_nll"] and abs(q8["mean_nll"] - a["mean_nll"]) < 3e-2, (q8, a)
m = re.fullmatch(r"perplexity ([\d.]+) over 95 tokens .*\n", read("plain"))
assert abs(float(m[1]) - a["perplexity"]) < 1e-3, read("plain")
P

# refused STATUS WORD ARGUMENT...
refused()
{
    want=$1 word=$2
    shift 2
    status=0
    "$PUNA" perplexity "$@" >"$tmp/out" 2>"$tmp/err" || status=$?
    [ $status -eq "$want" ] && grep -qF -- "$word" "$tmp/err" && [ ! -s "$tmp/out" ] ||
        fail "$*: exit status $status: $(cat "$tmp/err")"
}
refused 2 'either --ids' smollm2
refused 2 'either --ids' smollm2 --ids a --text b
echo '[1]' >"$tmp/one.json"
refused 2 'two tokens' smollm2 --ids "$tmp/one.json"
echo '{"ids": [1, 2]}' >"$tmp/object.json"
refused 8 'JSON list' smollm2 --ids "$tmp/object.json"
echo '[1, "a"]' >"$tmp/text.json"
refused 8 'element 1' smollm2 --ids "$tmp/text.json"
echo '[1, 49152]' >"$tmp/large.json"
refused 8 'id 49152' smollm2 --ids "$tmp/large.json"
refused 3 'nowhere' smollm2 --ids "$tmp/nowhere"
echo ok
