# `puna convert`: round trips keep every bit, an interrupted conversion goes on, bad requests are
# refused.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
model=tests/data/tiny-llama31

fail()
{
    echo "FAIL: $*"
    exit 1
}

# refused STATUS TEXT COMMAND...: one line on standard error that says TEXT, nothing written
refused()
{
    want=$1 text=$2 status=0
    shift 2
    "$@" >"$tmp/out" 2>"$tmp/err" || status=$?
    [ $status -eq "$want" ] || fail "$*: status $status: $(cat "$tmp/err")"
    grep -q -- "$text" "$tmp/err" || fail "$*: $(cat "$tmp/err")"
}

# ---- there and back ----

"$PUNA" convert $model "$tmp/a.gguf"
"$PUNA" inspect "$tmp/a.gguf" >/dev/null
"$PUNA" convert "$tmp/a.gguf" "$tmp/back" --json >"$tmp/report"
"$PUNA" convert $model "$tmp/shards" --max-shard-size 3MB
"$PUNA" convert "$tmp/shards" "$tmp/b.gguf"
python3 - $model "$tmp" <<'P'
import glob, json, struct, sys

def tensors(folder):
    out = {}
    for path in glob.glob(folder + "/*.safetensors"):
        raw = open(path, "rb").read()
        n = struct.unpack("<Q", raw[:8])[0]
        head = json.loads(raw[8:8 + n])
        assert head.pop("__metadata__")["format"] == "pt", path
        for name, t in head.items():
            begin, end = t["data_offsets"]
            out[name] = t["dtype"], t["shape"], raw[8 + n + begin:8 + n + end]
    return out

def load(path):
    return json.load(open(path))

src, tmp = sys.argv[1:]
want = tensors(src)
assert len(want) == 39
for folder in "back", "shards":
    assert tensors(f"{tmp}/{folder}") == want, folder
index = load(f"{tmp}/shards/model.safetensors.index.json")
assert index["metadata"]["total_size"] == 7082496 and len(set(index["weight_map"].values())) == 3
report = load(f"{tmp}/report")
assert report["container"] == "safetensors" and report["tensors"] == 39, report

ours, theirs = load(f"{tmp}/back/config.json"), load(f"{src}/config.json")
for key, value in theirs.items():
    if key not in ("pad_token_id", "transformers_version"):
        assert ours[key] == value, (key, ours.get(key), value)
ours, theirs = load(f"{tmp}/back/tokenizer.json"), load(f"{src}/tokenizer.json")
for key in theirs:
    if key != "post_processor":  # the same in other words
        assert ours[key] == theirs[key], key
assert load(f"{tmp}/shards/tokenizer.json") == theirs
P
# keys, types and tensors as gguf-py read them when llama.cpp gave the same tokens
"$PUNA" inspect "$tmp/a.gguf" --json >"$tmp/report"
python3 - "$tmp/report" tests/data/convert/gguf.json <<'P'
import json, sys
got, want = (json.load(open(p)) for p in sys.argv[1:])
assert sorted(got["metadata"]) == sorted(want["keys"]), set(got["metadata"]) ^ set(want["keys"])
ours = [[t["name"], t["encoding"].upper(), t["shape"][::-1]] for t in got["tensors"]]
assert sorted(ours) == sorted(want["tensors"]), ours
P
# the two GGUF files differ in nothing but the name of the model
for x in a b; do
    "$PUNA" inspect "$tmp/$x.gguf" | grep -v general.name >"$tmp/$x.txt"
done
sed 1d "$tmp/a.txt" >"$tmp/a1" && sed 1d "$tmp/b.txt" | cmp - "$tmp/a1" || fail 'GGUF from shards'

# the same tokenizer and the same model
printf '%s\n' '{"text": "Hello wörld, 12345 times\n\n  <|eot_id|> ok", "allow_special": true}' >"$tmp/text"
printf '{"prompt": "The GNU General Public", "max_tokens": 16, "temperature": 0}\n' >"$tmp/ask"
for m in $model "$tmp/a.gguf" "$tmp/back"; do
    "$PUNA" tokenize "$m" --json <"$tmp/text" >"$tmp/is"
    "$PUNA" run "$m" --raw --dtype f32 --json <"$tmp/ask" >"$tmp/answer"
    python3 -c 'import json, sys; j = json.load(sys.stdin); print(j["text"], j["ids"], j["prompt_ids"])' \
        <"$tmp/answer" >>"$tmp/is"
    [ -e "$tmp/was" ] || cp "$tmp/is" "$tmp/was"
    cmp "$tmp/is" "$tmp/was" || fail "$m answers otherwise"
done

# ---- other encodings ----

for enc in f32 f16 q8_0 q4_0 q4_1 q5_0 q5_1; do
    "$PUNA" convert $model "$tmp/$enc.gguf" --outtype $enc
    "$PUNA" inspect "$tmp/$enc.gguf" >"$tmp/out"
    grep -q "blk.0.attn_q.weight *$enc " "$tmp/out" || fail $enc
done
refused 2 'not quantised again' "$PUNA" convert "$tmp/q8_0.gguf" "$tmp/x.gguf" --outtype q4_0
"$PUNA" convert "$tmp/q8_0.gguf" "$tmp/decoded" --outtype f32
"$PUNA" inspect "$tmp/decoded" >"$tmp/out"
grep -q 'self_attn.q_proj.weight *f32' "$tmp/out" || fail 'decoded'

# matrices whose scales lie in tensors of their own are decoded
for q in awq bnb-int8 bnb-nf4 fbgemm-fp8 gptq-actorder; do
    python3 tests/overlay.py $model tests/data/quantised/$q "$tmp/$q"
    "$PUNA" convert "$tmp/$q" "$tmp/$q-f32.gguf" --outtype f32
    "$PUNA" convert "$tmp/$q-f32.gguf" "$tmp/$q-back"
    for m in "$q" $q-f32.gguf $q-back; do
        "$PUNA" run "$tmp/$m" --raw --dtype f32 --json <"$tmp/ask" >"$tmp/$m.answer"
    done
    cmp "$tmp/$q.answer" "$tmp/$q-back.answer" || fail "$q decoded answers otherwise"
    cmp "$tmp/$q.answer" "$tmp/$q-f32.gguf.answer" || fail "$q in GGUF answers otherwise"
done

# a value that f16 cannot hold
cp -r "$tmp/back" "$tmp/large"
python3 - "$tmp/large/model.safetensors" <<'P'
import json, struct, sys
f = open(sys.argv[1], "r+b")
n = struct.unpack("<Q", f.read(8))[0]
at = json.loads(f.read(n))["model.layers.1.mlp.up_proj.weight"]["data_offsets"][0]
f.seek(8 + n + at + 2 * (256 * 3 + 5))
f.write(b"\x90\x47")  # 73728 in bf16
P
refused 8 'row 3, value 5 is 73728' "$PUNA" convert "$tmp/large" "$tmp/x.gguf" --outtype f16
rm -r "$tmp/x.gguf.partial"
"$PUNA" convert "$tmp/large" "$tmp/x.gguf" --outtype f32 && rm "$tmp/x.gguf"

# ---- killed by the kernel at many places, and continued ----

for blocks in 1 40 1000 6000 9000 13000; do
    rm -rf "$tmp/k.gguf" "$tmp/k.gguf.partial"
    (ulimit -c 0; ulimit -f $blocks; "$PUNA" convert $model "$tmp/k.gguf") >"$tmp/out" 2>&1 &&
        fail "not interrupted at $blocks"
    [ ! -e "$tmp/k.gguf" ] && [ -d "$tmp/k.gguf.partial" ] || fail "$blocks: no partial folder"
    [ $blocks -ne 9000 ] || refused 2 'left by another conversion' \
        "$PUNA" convert $model "$tmp/k.gguf" --outtype f32
    "$PUNA" convert $model "$tmp/k.gguf" --json >"$tmp/report" 2>"$tmp/err"
    [ $blocks -lt 6000 ] || grep -q 'going on after' "$tmp/err" || fail "$blocks: started over"
    cmp "$tmp/k.gguf" "$tmp/a.gguf" || fail "other bytes after an interruption at $blocks"
    [ ! -e "$tmp/k.gguf.partial" ] || fail "$blocks: partial folder left"
done
(ulimit -c 0; ulimit -f 5000; "$PUNA" convert $model "$tmp/k" --max-shard-size 3MB) >"$tmp/out" 2>&1 &&
    fail 'shards: not interrupted'
"$PUNA" convert $model "$tmp/k" --max-shard-size 3MB 2>/dev/null
diff -r "$tmp/k" "$tmp/shards" || fail 'other shards after an interruption'

# ---- refused ----

refused 2 'exists already' "$PUNA" convert $model "$tmp/a.gguf"
refused 2 'exists already' "$PUNA" convert $model "$tmp/shards/"
refused 2 'is for GGUF files' "$PUNA" convert $model "$tmp/x" --outtype q8_0
refused 2 'max-shard-size' "$PUNA" convert $model "$tmp/x" --max-shard-size 3XB
mkdir "$tmp/x.partial" && : >"$tmp/x.partial/mine"
refused 2 'no unfinished work' "$PUNA" convert $model "$tmp/x"
[ -e "$tmp/x.partial/mine" ] && [ ! -e "$tmp/x" ] || fail 'touched what is not its own'
echo ok
