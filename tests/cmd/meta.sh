# Meta's own files: inspect, run, logits and convert read them, whole and in shards, with each key and
# value head once or twice.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
model=tests/data/tiny-llama31
make="python3 tests/format/make_pth.py"

fail()
{
    echo "FAIL: $*"
    exit 1
}

"$PUNA" convert $model "$tmp/hf"
"$PUNA" convert $model "$tmp/want.gguf"
$make $model "$tmp/one" 1
$make $model "$tmp/two" 2
$make $model "$tmp/four" 4 --kv-copies 2
$make $model "$tmp/old" 2 --llama12
printf '{"prompt": "The GNU General Public", "max_tokens": 12, "temperature": 0}\n' >"$tmp/ask"
answer()
{
    "$PUNA" run "$1" --raw --dtype f32 --json <"$tmp/ask" >"$tmp/out" 2>"$tmp/err" ||
        fail "$1: $(cat "$tmp/err")"
    python3 -c 'import json, sys; print(json.load(sys.stdin)["ids"])' <"$tmp/out"
}
want=$(answer "$tmp/want.gguf")
for m in one two four old; do
    "$PUNA" inspect "$tmp/$m" --check-tensors >"$tmp/out" 2>"$tmp/err" || fail "$m: $(cat "$tmp/err")"
    grep -q '^.*: model, consolidated' "$tmp/out" || fail "$m: $(head -1 "$tmp/out")"
    grep -q 'kv_heads *2' "$tmp/out" || fail "$m: key and value heads"
    [ "$(answer "$tmp/$m")" = "$want" ] || fail "$m answers otherwise"
    "$PUNA" convert "$tmp/$m" "$tmp/$m-hf" --instruct 2>"$tmp/err"
    cmp "$tmp/$m-hf/model.safetensors" "$tmp/hf/model.safetensors" || fail "$m: other tensors"
    python3 - "$tmp/$m-hf" $model <<'P'
import json, sys
ours, theirs = (json.load(open(f"{d}/config.json")) for d in sys.argv[1:])
for key, value in theirs.items():
    if key not in ("pad_token_id", "transformers_version"):
        assert ours[key] == value, (key, ours.get(key), value)
ours, theirs = (json.load(open(f"{d}/generation_config.json")) for d in sys.argv[1:])
assert ours == theirs, ours
P
done
grep -q 'heads 2 times' "$tmp/err" && fail 'old has no copies'
"$PUNA" convert "$tmp/four" "$tmp/four.gguf" 2>"$tmp/err"
grep -q 'each of the 2 key and value heads 2 times' "$tmp/err" || fail "copies: $(cat "$tmp/err")"
"$PUNA" inspect "$tmp/four.gguf" | grep -v 'general.name\|model, gguf\|eo[st]_token_id\|eom_token_id\|^  eos' >"$tmp/a"
"$PUNA" inspect "$tmp/want.gguf" | grep -v 'general.name\|model, gguf\|eo[st]_token_id\|eom_token_id\|^  eos' >"$tmp/b"
cmp "$tmp/a" "$tmp/b" || fail 'GGUF from shards'

# a release: the same beside nothing else, and under original/
mkdir "$tmp/release"
cp -r "$tmp/one" "$tmp/release/original"
cp $model/tokenizer.json $model/generation_config.json "$tmp/release"
[ "$(answer "$tmp/release")" = "$want" ] || fail 'original/'

# the first upload of the 405B: each key and value head twice in a Hugging Face folder
python3 - "$tmp/hf" "$tmp/twice" <<'P'
import json, os, shutil, struct, sys
src, dst = sys.argv[1:]
shutil.copytree(src, dst)
raw = open(src + "/model.safetensors", "rb").read()
n = struct.unpack("<Q", raw[:8])[0]
head, at, data = json.loads(raw[8:8 + n]), 0, []
for name, t in head.items():
    if name == "__metadata__":
        continue
    begin, end = t["data_offsets"]
    body = raw[8 + n + begin:8 + n + end]
    if "k_proj" in name or "v_proj" in name:
        half = len(body) // 2
        body = body[:half] * 2 + body[half:] * 2
        t["shape"][0] *= 2
    t["data_offsets"] = [at, at + len(body)]
    at += len(body)
    data.append(body)
text = json.dumps(head).encode()
open(dst + "/model.safetensors", "wb").write(struct.pack("<Q", len(text)) + text + b"".join(data))
config = json.load(open(dst + "/config.json"))
config["num_key_value_heads"] = 4
json.dump(config, open(dst + "/config.json", "w"))
P
"$PUNA" inspect "$tmp/twice" >"$tmp/out" 2>&1
grep -q 'kv_heads *2$' "$tmp/out" && grep -q 'copies are left out' "$tmp/out" || fail "$(head -20 "$tmp/out")"
[ "$(answer "$tmp/twice")" = "$(answer "$tmp/hf")" ] || fail 'twice answers otherwise'
"$PUNA" convert "$tmp/twice" "$tmp/once" 2>/dev/null
cmp "$tmp/once/model.safetensors" "$tmp/hf/model.safetensors" || fail 'twice: other tensors'
grep -q '"num_key_value_heads": 2' "$tmp/once/config.json" || fail 'twice: config'

# refused
refused()
{
    text=$1
    shift
    "$@" >"$tmp/out" 2>"$tmp/err" && fail "$*: accepted"
    grep -q -- "$text" "$tmp/err" || fail "$*: $(cat "$tmp/err")"
}
mv "$tmp/two/consolidated.01.pth" "$tmp/keep"
refused 'configuration asks for' "$PUNA" inspect "$tmp/two"
cp "$tmp/four/consolidated.01.pth" "$tmp/two"
refused 'in one shard' "$PUNA" inspect "$tmp/two"
head -c 100000 "$tmp/keep" >"$tmp/two/consolidated.01.pth"
refused 'not a zip archive, or cut' "$PUNA" inspect "$tmp/two"
refused 'is for Meta' "$PUNA" convert $model "$tmp/x" --instruct

# Meta's tokenizer becomes a tokenizer.json and a GGUF vocabulary that give the same ids
tok=${XDG_CACHE_HOME:-$HOME/.cache}/puna/tokenizers/llama3/tokenizer.model
[ -e "$tok" ] || fail "no $tok: run script/setup"
python3 - "$tmp/big" <<'P'
import json, os, sys
sys.path.insert(0, "tests/format")
import make_pth
dst = sys.argv[1]
os.makedirs(dst)
D, F, V = 64, 256, 128256
def ones(*shape):
    n = 2
    for k in shape:
        n *= k
    return "BF16", list(shape), b"\x80\x3c" * (n // 2)  # 2^-6
p = "layers.0."
make_pth.save(dst + "/consolidated.00.pth", {
    "tok_embeddings.weight": ones(V, D), "norm.weight": ones(D), "output.weight": ones(V, D),
    p + "attention.wq.weight": ones(D, D), p + "attention.wk.weight": ones(32, D),
    p + "attention.wv.weight": ones(32, D), p + "attention.wo.weight": ones(D, D),
    p + "feed_forward.w1.weight": ones(F, D), p + "feed_forward.w2.weight": ones(D, F),
    p + "feed_forward.w3.weight": ones(F, D), p + "attention_norm.weight": ones(D),
    p + "ffn_norm.weight": ones(D)})
json.dump({"dim": D, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "vocab_size": V, "multiple_of": 256,
           "norm_eps": 1e-5, "rope_theta": 500000.0, "use_scaled_rope": True}, open(dst + "/params.json", "w"))
P
cp "$tok" "$tmp/big"
"$PUNA" convert "$tmp/big" "$tmp/big-hf" --instruct
"$PUNA" convert "$tmp/big-hf" "$tmp/big.gguf" --outtype q8_0
python3 - "$tmp/big-hf" <<'P'
import json, sys
j = json.load(open(sys.argv[1] + "/tokenizer.json"))
assert len(j["model"]["vocab"]) == 128000 and len(j["model"]["merges"]) == 280147, "vocabulary"
assert len(j["added_tokens"]) == 256 and j["model"]["ignore_merges"] is True
assert json.load(open(sys.argv[1] + "/config.json"))["eos_token_id"] == [128001, 128008, 128009]
P
sed 500q tests/data/golden/tokenizer.jsonl >"$tmp/lines"
for t in "$tok" "$tmp/big-hf/tokenizer.json" "$tmp/big.gguf"; do
    python3 - "$tmp/lines" <<'P' >"$tmp/text"
import json, sys
for line in open(sys.argv[1]):
    j = json.loads(line)
    if isinstance(j.get("text"), str):
        print(json.dumps({"text": j["text"], "allow_special": bool(j.get("allow_special"))}))
P
    "$PUNA" tokenize "$t" --json <"$tmp/text" >"$tmp/ids"
    [ -e "$tmp/ids0" ] || cp "$tmp/ids" "$tmp/ids0"
    cmp "$tmp/ids" "$tmp/ids0" || fail "$t: other ids"
done
[ "$(wc -l <"$tmp/ids0")" -gt 100 ] || fail 'too few lines'
echo ok
