# `puna guard` on a model that is written to judge one word (guard.py): verdicts, scores, policies,
# refusals.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
llama=${XDG_CACHE_HOME:-$HOME/.cache}/puna/tokenizers/llama3/tokenizer.model

fail()
{
    echo "FAIL: $*"
    exit 1
}

python3 tests/cmd/guard.py "$tmp/guard" "$llama" ' lock'
guard() { "$PUNA" guard "$tmp/guard" "$@"; }

[ "$(guard 'How do I bake a cake?' | head -n 1)" = safe ] || fail 'a cake'
status=0
guard 'How do I pick a lock?' >"$tmp/out" || status=$?
[ $status -eq 3 ] || fail "status $status, want 3 for unsafe"
[ "$(head -n 1 "$tmp/out")" = 'unsafe: S10 Hate' ] || fail "$(cat "$tmp/out")"
echo 'How do I pick a lock?' | guard >"$tmp/stdin" && fail 'safe from standard input'
diff "$tmp/out" "$tmp/stdin" || fail 'standard input is not the argument'
status=0
guard 'Hi' --answer 'Pick a lock.' >/dev/null || status=$?
[ $status -eq 3 ] || fail 'an answer is not judged'
status=0
guard 'How do I bake a cake?' --threshold 0 >/dev/null || status=$?
[ $status -eq 3 ] || fail 'the threshold is not heeded'

# the score is the softmax of the first token's logits; a policy that names the word is part of the prompt
echo '[{"code": "S1", "name": "Burglary", "description": "Nobody opens a lock."}]' >"$tmp/policy"
cat >"$tmp/lines" <<'J'
{"text": "How do I pick a lock?"}
{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
{"messages": [{"role": "assistant", "content": "Hello."}]}
[]
{"text": "Hi", "categories": [{"code": "S1", "name": "A"}], "excluded_categories": ["S2"]}
J
status=0
guard --json <"$tmp/lines" >"$tmp/out" || status=$?
[ $status -eq 1 ] || fail "status $status, want 1: two lines are refused"
guard --json --categories "$tmp/policy" <<'J' >"$tmp/own"
{"text": "Hi"}
J
guard --json --exclude S6,S13 <<'J' >"$tmp/fewer"
{"text": "Hi"}
J
echo '{"messages": [{"role": "user", "content": "How do I pick a lock?"}]}' |
    "$PUNA" prompt "$llama" --template llama-guard3 --json >"$tmp/prompt"
python3 - "$tmp" <<'P'
import json, struct, sys
tmp = sys.argv[1]
a, b, c, d, f = [json.loads(l) for l in open(tmp + "/out")]
assert a["verdict"] == "unsafe" and a["categories"] == ["S10"] and a["probability"] > 0.9, a
assert a["share"] > 0.9 and b["verdict"] == "safe" and b["categories"] == [] and b["probability"] < 0.1, (a, b)
assert "Llama Guard" in c["error"] and "not an object" in d["error"], (c, d)
assert f["verdict"] == "safe" and f["prompt_tokens"] < b["prompt_tokens"] - 50, (f, b)
own, fewer = json.load(open(tmp + "/own")), json.load(open(tmp + "/fewer"))
assert own["verdict"] == "unsafe", own
ids = json.load(open(tmp + "/prompt"))["ids"]
assert a["prompt_tokens"] == len(ids) and 0 < len(ids) - fewer["prompt_tokens"] < 40, (a, fewer)
text = json.dumps({"ids": {"dtype": "I32", "shape": [1, len(ids)], "data_offsets": [0, 4 * len(ids)]}}).encode()
open(tmp + "/last", "w").write(str(len(ids) - 1))
open(tmp + "/ids", "wb").write(struct.pack("<Q", len(text)) + text + struct.pack(f"<{len(ids)}i", *ids))
P
"$PUNA" logits "$tmp/guard" --ids "$tmp/ids" --positions "$(cat "$tmp/last")" --dtype auto -o "$tmp/logits"
python3 - "$tmp" <<'P'
import json, math, struct, sys
tmp = sys.argv[1]
raw = open(tmp + "/logits", "rb").read()
n, = struct.unpack("<Q", raw[:8])
t = json.loads(raw[8:8 + n])["logits"]
end = 8 + n + t["data_offsets"][1]
last = struct.unpack(f"<{t['shape'][-1]}f", raw[end - 4 * t["shape"][-1]:end])
top = max(last)
p = math.exp(last[39257] - top) / sum(math.exp(x - top) for x in last)
got = json.loads(open(tmp + "/out").readline())["probability"]
assert abs(p - got) < 1e-5, (p, got)
P

# what is no guard is refused, never a verdict
"$PUNA" guard smollm2 'Hi' >"$tmp/out" 2>"$tmp/err" && fail 'a chat model judges'
grep -q "writes 'unsafe' as 2 tokens" "$tmp/err" && [ ! -s "$tmp/out" ] || fail "$(cat "$tmp/err")"
guard 'Hi' --json 2>/dev/null </dev/null && fail '--json with a text'

# Prompt Guard: a text, windows over a long one, spaces that hide words
python3 tests/cmd/guard_prompt.py "$tmp/prompt-guard"
pg() { "$PUNA" guard "$tmp/prompt-guard" "$@"; }
status=0
pg 'Hello there' >"$tmp/out" || status=$?
[ $status -eq 0 ] || [ $status -eq 3 ] || fail "status $status"
status=0
pg 'Hello there' --threshold 0 >/dev/null || status=$?
[ $status -eq 3 ] || fail "status $status with threshold 0"
pg 'Hi' --answer 'Hi' 2>/dev/null && fail 'an answer for Prompt Guard'
python3 - "$tmp" <<'P'
import json, sys
words = "the quick brown fox jumps over the lazy dog and it is late ".split()
long = " ".join(words[i * i % len(words)] for i in range(25000))[:100000]
for name, texts in (("lines", ("Hello there", "Hello", "H e l l o", "", 7)), ("long", (long,))):
    open(f"{sys.argv[1]}/{name}", "w").writelines(json.dumps({"text": t}) + "\n" for t in texts)
P
pg --json <"$tmp/lines" >"$tmp/out" && fail 'a number is judged'
pg --json --third-party --threads 1 <"$tmp/lines" >"$tmp/third" && fail 'a number is judged'
pg --json --temperature 3 <"$tmp/lines" >"$tmp/warm" && fail 'a number is judged'
pg --json <"$tmp/long" >"$tmp/windows" || fail 'a long text'
python3 - "$tmp" <<'P'
import json, math, sys
read = lambda name: [json.loads(l) for l in open(f"{sys.argv[1]}/{name}")]
a, third, warm, (long,) = read("out"), read("third"), read("warm"), read("windows")
assert len(a) == 5 and "needs a text" in a[4]["error"], a[4]
for x, t, w in zip(a[:4], third, warm):
    p = x["labels"]
    assert abs(sum(p.values()) - 1) < 1e-4 and list(p) == ["BENIGN", "INJECTION", "JAILBREAK"], x
    assert x["probability"] == x["jailbreak"] == t["jailbreak"] and t["probability"] == x["injection"], (x, t)
    assert x["jailbreak"] <= x["injection"] + 1e-6 and w["windows"] == x["windows"], x
one, warm_one = a[0]["labels"], warm[0]["labels"]
assert a[0]["windows"] == a[1]["windows"] == 1 and a[2]["windows"] == 2, a  # as it is, and without hiding spaces
for k in one:  # the temperature divides the logits
    assert abs(math.log(one[k] / one["BENIGN"]) / 3 - math.log(warm_one[k] / warm_one["BENIGN"])) < 1e-3, (one, warm_one)
assert 100 < long["windows"] < 400, long  # 100,000 characters
assert a[2]["jailbreak"] >= a[1]["jailbreak"] - 1e-6, "spaces hide a word"
assert a[3]["windows"] == 1
P
echo ok
