# `puna merge`, and --adapter of logits and run: a merged model says what the adapter says unmerged, on
# plain and quantised bases; what PEFT can save and puna cannot apply is refused by name.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
model=tests/data/tiny-llama31 adapter=tests/data/adapters/final ids=tests/data/adapters/lora_after.safetensors

fail()
{
    echo "FAIL: $*"
    exit 1
}

# refused STATUS TEXT COMMAND...
refused()
{
    want=$1 text=$2 status=0
    shift 2
    "$@" >"$tmp/out" 2>"$tmp/err" || status=$?
    [ $status -eq "$want" ] || fail "$*: status $status: $(cat "$tmp/err")"
    grep -qF -- "$text" "$tmp/err" || fail "$*: no \"$text\" in: $(cat "$tmp/err")"
    [ "$(wc -l <"$tmp/err")" -eq 1 ] || fail "more than a line: $(cat "$tmp/err")"
}

# close A B: the logits of two files differ by at most 1e-3
close()
{
    python3 - "$1" "$2" <<'P'
import struct, sys
sys.path.insert(0, "tests")
from overlay import read
a, b = (struct.unpack("<65536f", read(p)["logits"][2]) for p in sys.argv[1:])
err = (sum((x - y) ** 2 for x, y in zip(a, b)) / sum(y * y for y in b)) ** 0.5
assert err < 1e-3, err
P
}

# same BASE KIND: merged equals unmerged
same()
{
    rm -rf "$tmp/merged" "$tmp/kind"
    python3 tests/adapter.py $adapter "$2" "$tmp/kind"
    "$PUNA" merge "$1" "$tmp/kind" -o "$tmp/merged" --outtype f32 2>"$tmp/err" || fail "$(cat "$tmp/err")"
    "$PUNA" logits "$tmp/merged" --ids $ids -o "$tmp/a.safetensors"
    "$PUNA" logits "$1" --adapter "$tmp/kind" --ids $ids -o "$tmp/b.safetensors"
    close "$tmp/a.safetensors" "$tmp/b.safetensors" || fail "$1, $2: merged and unmerged differ"
}
same $model plain
same $model rslora
same $model pattern
same $model all
for base in awq gptq-actorder bnb-nf4 fbgemm-fp8; do
    python3 tests/overlay.py $model tests/data/quantised/$base "$tmp/$base"
    same "$tmp/$base" all
    grep -q 'dequantised weights' "$tmp/err" || fail "$base: $(cat "$tmp/err")"
    ! grep -q quantization_config "$tmp/merged/config.json" || fail "$base: still called quantised"
done

# near FILE KEY: the logits of FILE are PEFT's of that name (tests/record/adapters.py)
more=tests/data/adapters/more.safetensors
near()
{
    python3 - "$1" "$2" <<'P'
import struct, sys
sys.path.insert(0, "tests")
from overlay import read
got, want = read(sys.argv[1])["logits"][2], read("tests/data/adapters/more.safetensors")[sys.argv[2]][2]
a, b = (struct.unpack(f"<{len(x) // 4}f", x) for x in (got, want))
err = (sum((x - y) ** 2 for x, y in zip(a, b)) / sum(y * y for y in b)) ** 0.5
assert len(a) == len(b) and err < 1e-5, (sys.argv[2], err)
P
}

# the same numbers in GGUF's and Meta's order of rows, and a model whose embedding is its head
"$PUNA" convert $model "$tmp/x.gguf" 2>/dev/null
python3 tests/format/make_pth.py $model "$tmp/meta" 2
python3 - $model "$tmp/tied" <<'P'
import json, sys
sys.path.insert(0, "tests")
from overlay import main, read, write
model, out = sys.argv[1:]
main(model, "tests/data/quantised/awq", out=out)  # for its small files
tensors = {}
for i in (1, 2, 3):
    tensors.update(read(f"{model}/model-0000{i}-of-00003.safetensors"))
tensors.pop("lm_head.weight")
write(out + "/model.safetensors", tensors)
config = json.load(open(model + "/config.json"))
config["tie_word_embeddings"] = True
json.dump(config, open(out + "/config.json", "w"))
P
rm -f "$tmp/tied/quantize_config.json"

# copy KIND PATTERN CONFIG: an adapter without the tensors whose names match
copy()
{
    python3 - "$1" "$2" "$3" "$tmp/$1" <<'P'
import json, os, re, sys
sys.path.insert(0, "tests")
from overlay import read, write
kind, pattern, change, out = sys.argv[1:]
src = "tests/data/adapters/" + kind
os.mkdir(out)
config = json.load(open(src + "/adapter_config.json"))
config.update(json.loads(change))
json.dump(config, open(out + "/adapter_config.json", "w"))
write(out + "/adapter_model.safetensors",
      {k: v for k, v in read(src + "/adapter_model.safetensors").items() if not re.search(pattern, k)})
P
}
copy embed 'base_layer' '{}'
copy saved 'bias$' '{"lora_bias": false}'

# "saved" has biases, which a merged model cannot have
refused 8 'cannot be merged: lora_bias' "$PUNA" merge $model tests/data/adapters/saved -o "$tmp/none"
for kind in dora embed tokens saved whole; do
    own=tests/data/adapters/$kind
    for base in $model "$tmp/x.gguf" "$tmp/meta" "$tmp/tied"; do
        tied=
        [ "$base" != "$tmp/tied" ] || tied=tied-
        [ $tied$kind != tied-saved ] || continue
        [ $tied$kind != tied-embed ] || own=$tmp/embed # the file's own head is the other model's
        "$PUNA" logits "$base" --adapter $own --ids $more -o "$tmp/a.safetensors"
        near "$tmp/a.safetensors" $tied$kind || fail "$base: $kind, unmerged"
        [ $kind != saved ] || continue
        rm -rf "$tmp/merged"
        "$PUNA" merge "$base" $own -o "$tmp/merged" --outtype f32 2>"$tmp/err" || fail "$(cat "$tmp/err")"
        "$PUNA" logits "$tmp/merged" --ids $more -o "$tmp/b.safetensors"
        near "$tmp/b.safetensors" $tied$kind || fail "$base: $kind, merged"
        case $base in
        $model) cp "$tmp/merged/model.safetensors" "$tmp/want" ;;
        "$tmp/tied") ;;
        *) cmp "$tmp/merged/model.safetensors" "$tmp/want" || fail "$base: merged otherwise than $model" ;;
        esac
    done
done
for base in $model "$tmp/tied"; do
    rm -rf "$tmp/merged"
    "$PUNA" merge "$base" "$tmp/saved" -o "$tmp/merged" --outtype f32
    "$PUNA" logits "$tmp/merged" --ids $ids -o "$tmp/a.safetensors"
    "$PUNA" logits "$base" --adapter "$tmp/saved" --ids $ids -o "$tmp/b.safetensors"
    close "$tmp/a.safetensors" "$tmp/b.safetensors" || fail "$base: saved modules"
done

# an adapter with tokens of its own: refused beside the model, merged into one that has them
python3 - "$tmp/saved" "$tmp/longer" tests/data/tiny-llama31 <<'P'
import json, os, shutil, sys
sys.path.insert(0, "tests")
from overlay import read, write
src, out, base = sys.argv[1:]
shutil.copytree(src, out)
t = read(src + "/adapter_model.safetensors")
for name in [n for n in t if n.endswith("embed_tokens.weight") or n.endswith("lm_head.weight")]:
    dtype, (rows, cols), data = t[name]
    t[name] = (dtype, [rows + 2, cols], data + data[: len(data) // rows * 2])
write(out + "/adapter_model.safetensors", t)
j = json.load(open(base + "/tokenizer.json"))
j["added_tokens"] += [dict(j["added_tokens"][-1], id=1024 + i, content=f"<|new_{i}|>") for i in (0, 1)]
json.dump(j, open(out + "/tokenizer.json", "w"))
P
refused 8 'has 1026 tokens, the model 1024: puna merge' "$PUNA" logits $model --adapter "$tmp/longer" --ids $ids -o "$tmp/x.safetensors"
for base in $model "$tmp/x.gguf"; do
    rm -rf "$tmp/merged" "$tmp/short"
    "$PUNA" merge "$base" "$tmp/longer" -o "$tmp/merged" --outtype f32
    "$PUNA" merge "$base" "$tmp/saved" -o "$tmp/short" --outtype f32
    for kind in merged short; do "$PUNA" logits "$tmp/$kind" --ids $ids -o "$tmp/$kind.safetensors"; done
    grep -q '"vocab_size": *1026' "$tmp/merged/config.json" || fail "$base: vocab_size"
    [ "$("$PUNA" tokenize "$tmp/merged" --allow-special '<|new_1|>' 2>&1 | grep -c 1025)" -ge 1 ] || fail "$base: tokenizer"
    python3 - "$tmp/merged.safetensors" "$tmp/short.safetensors" <<'P'
import sys
sys.path.insert(0, "tests")
from overlay import read
(_, a, x), (_, b, y) = (read(p)["logits"] for p in sys.argv[1:])
assert a[-1] == 1026 and b[-1] == 1024, (a, b)
rows = len(y) // 4096
for r in range(rows):
    row = x[r * 4104:(r + 1) * 4104]
    assert row[:4096] == y[r * 4096:(r + 1) * 4096] and row[4096:] == row[:8], r
P
done
python3 - "$tmp/longer" <<'P'
import sys
sys.path.insert(0, "tests")
from overlay import read, write
path = sys.argv[1] + "/adapter_model.safetensors"
t = read(path)
dtype, (rows, cols), data = t["base_model.model.lm_head.weight"]
t["base_model.model.lm_head.weight"] = (dtype, [1024, cols], data[: 1024 * (len(data) // rows)])
write(path, t)
P
refused 8 'for 1026 tokens and the head for 1024, the model has 1024' "$PUNA" merge $model "$tmp/longer" -o "$tmp/none"

# rounded once to the base's own type
"$PUNA" merge $model $adapter -o "$tmp/bf16" --json | grep -q '"container":"safetensors"' || fail json
"$PUNA" inspect "$tmp/bf16" | grep -q 'bf16 *30' || fail 'type of the merged model'

# an adapter answers otherwise than its base
ask="--raw --greedy --max-new-tokens 12 --ctx 128 --dtype f32"
"$PUNA" run -m $model $ask 'the quick' >"$tmp/base" 2>"$tmp/err" || fail "$(cat "$tmp/err")"
"$PUNA" run -m $model --adapter $adapter $ask 'the quick' >"$tmp/adapted" 2>"$tmp/err" || fail "$(cat "$tmp/err")"
! cmp -s "$tmp/base" "$tmp/adapted" || fail '--adapter changes nothing'

# config JSON TEXT
config()
{
    rm -rf "$tmp/bad"
    python3 tests/adapter.py $adapter "$1" "$tmp/bad"
    refused 8 "$2" "$PUNA" logits $model --adapter "$tmp/bad" --ids $ids -o "$tmp/x.safetensors"
}
config '{"use_dora": true}' '"use_dora" is set, and model.layers.0'
config '{"lora_bias": true}' '"lora_bias" is set, and model.layers.0'
config '{"peft_type": "IA3"}' '"IA3" is not supported'
config '{"bias": "some"}' 'bias "some"'
config '{"modules_to_save": ["lm_head"]}' 'modules_to_save has "lm_head", the file does not'
config '{"layer_replication": [[0, 4]]}' '"layer_replication" is set'
config '{"r": 8}' 'rank 8 in the configuration, 16 in its tensors'
config '{"rank_pattern": {"k_proj": 4}}' 'k_proj has rank 4'
config '{"alpha_pattern": {"(": 4}}' 'is no regular expression'
config '{"r": 0}' '"r"'

# tensors PYTHON TEXT: t is the dictionary of the adapter's tensors
tensors()
{
    rm -rf "$tmp/bad"
    python3 - "$tmp/bad" "$1" <<'P'
import shutil, sys
sys.path.insert(0, "tests")
from overlay import read, write
shutil.copytree("tests/data/adapters/final", sys.argv[1])
path = sys.argv[1] + "/adapter_model.safetensors"
t, q = read(path), "base_model.model.model.layers.0.self_attn.q_proj"
exec(sys.argv[2])
write(path, t)
P
    refused 8 "$2" "$PUNA" logits $model --adapter "$tmp/bad" --ids $ids -o "$tmp/x.safetensors"
}
tensors 't.pop(q + ".lora_B.weight")' 'q_proj has no lora_B'
tensors 't[q + ".lora_A.weight"] = ("F32", [16, 128], bytes(8192))' 'the adapter belongs to another model'
tensors 't[q + ".lora_A.weight"] = ("F32", [15, 256], bytes(15360))' 'lora_A is [15, 256] and lora_B [256, 16]'
tensors 't[q + ".lora_magnitude_vector"] = ("F32", [256], bytes(1024))' 'belongs to use_dora'
tensors 't["base_model.model.lm_head.weight"] = ("F32", [1, 1], bytes(4))' 'is for a matrix of [1, 1], the model has [1024, 256]'
tensors 't[q + ".weight"] = ("BF16", [256, 255], bytes(130560))' 'is for a matrix of [256, 255], the model has [256, 256]'
tensors 't[q + ".lora_C.weight"] = ("F32", [1, 1], bytes(4))' 'q_proj.lora_C, which this model does not have'
tensors 't["base_model.model.model.norm.weight"] = ("F32", [255], bytes(1020))' '[1, 255], the model has [1, 256]'
tensors 't["base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"] = ("F32", [1, 256], bytes(1024))' 'has 0 ids for model.embed_tokens, the file 1 rows'
tensors 't[q.replace("layers.0", "layers.9") + ".lora_A.weight"] = t[q + ".lora_A.weight"]; t[q.replace("layers.0", "layers.9") + ".lora_B.weight"] = t[q + ".lora_B.weight"]' 'is no linear layer of this model'

# adapter_model.bin, as PEFT wrote it before safetensors: the same tensors, the same logits; nothing else is read
mkdir "$tmp/pickle"
cp $adapter/adapter_config.json "$tmp/pickle"
python3 - $adapter "$tmp/pickle" <<'P'
import sys
sys.path[:0] = ["tests", "tests/format"]
import make_pth
from overlay import read
make_pth.save(sys.argv[2] + "/adapter_model.bin", read(sys.argv[1] + "/adapter_model.safetensors"), "adapter_model")
P
for from in $adapter "$tmp/pickle"; do
    "$PUNA" logits $model --adapter "$from" --ids $ids -o "$tmp/${from##*/}.safetensors"
done
cmp "$tmp/final.safetensors" "$tmp/pickle.safetensors" || fail 'adapter_model.bin'
sed -i 's/_rebuild_tensor_v2/_rebuild_tensor_v9/' "$tmp/pickle/adapter_model.bin"
refused 8 'adapter_model.bin' "$PUNA" merge $model "$tmp/pickle" -o "$tmp/none"
: >"$tmp/pickle/adapter_model.bin"
refused 8 'adapter_model.bin' "$PUNA" merge $model "$tmp/pickle" -o "$tmp/none"
refused 2 '-o DIR is needed' "$PUNA" merge $model $adapter
[ ! -e "$tmp/none" ] || fail 'something was written'

# inspect refuses the same, without a model to compare with
"$PUNA" inspect $adapter --json | grep -q '"modules":16,"largest_rank":16,"values":106496' || fail inspect
config '{"use_dora": true}' '"use_dora" is set'
refused 2 '"use_dora" is set' "$PUNA" inspect "$tmp/bad"

# keys of the future are named
python3 tests/adapter.py $adapter '{"use_tomorrow": 1}' "$tmp/new"
"$PUNA" logits $model --adapter "$tmp/new" --ids $ids -o "$tmp/x.safetensors" 2>"$tmp/err"
grep -q 'unknown keys are ignored: use_tomorrow' "$tmp/err" || fail "$(cat "$tmp/err")"
echo ok
