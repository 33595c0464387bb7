# `puna inspect` on good models: tables, JSON, exit statuses, and names that try to paint the terminal.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
model=tests/data/tiny-llama31

fail()
{
    echo "FAIL: $*"
    exit 1
}

# has TEXT: the last output shows it
has()
{
    grep -qF -- "$1" "$tmp/out" || { cat "$tmp/out"; fail "no \"$1\""; }
}

"$PUNA" inspect $model >"$tmp/out" 2>"$tmp/err"
[ ! -s "$tmp/err" ] || fail "$(cat "$tmp/err")"
has 'model, safetensors'
has 'kv_heads      2'
has 'tokenizer.json'
has '768 x 256'
has '39 tensors, 3541248 values, 7082496 bytes'

"$PUNA" inspect $model --json >"$tmp/out"
python3 - "$tmp/out" <<'P'
import json, sys
j = json.load(open(sys.argv[1]))
assert j["ok"] and j["kind"] == "model" and j["container"] == "safetensors", j
assert j["hparams"]["rope"]["type"] == "llama3" and j["hparams"]["eos"] == [1009, 1010, 1011]
assert j["totals"] == {"tensors": 39, "values": 3541248, "bytes": 7082496}
assert {"name": "model.norm.weight", "encoding": "bf16", "shape": [256], "bytes": 512} in j["tensors"]
P

for file in config.json generation_config.json tokenizer.json model-00001-of-00003.safetensors; do
    "$PUNA" inspect $model/$file >"$tmp/out" || fail "$file"
done
"$PUNA" inspect --check-tensors $model/model-00002-of-00003.safetensors >"$tmp/out" || fail 'values'

# refused: status 2, one line, nothing on standard output
for path in "$tmp" "$tmp/absent" tests/support.c /dev/null /dev/zero; do
    status=0
    "$PUNA" inspect "$path" >"$tmp/out" 2>"$tmp/err" || status=$?
    [ $status -eq 2 ] || fail "$path: status $status"
    [ ! -s "$tmp/out" ] && [ "$(wc -l <"$tmp/err")" -eq 1 ] || fail "$path: $(cat "$tmp/err")"
done

# a value that is no number is found on request; names cannot steer the terminal
python3 - "$tmp/x.safetensors" <<'P'
import json, struct, sys
h = json.dumps({"w\x1b[31mred": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]}}).encode()
open(sys.argv[1], "wb").write(struct.pack("<Q", len(h)) + h + struct.pack("<ff", 1, float("nan")))
P
"$PUNA" inspect "$tmp/x.safetensors" >"$tmp/out"
has 'w?[31mred'
status=0
"$PUNA" inspect --check-tensors "$tmp/x.safetensors" >"$tmp/out" 2>"$tmp/err" || status=$?
[ $status -eq 2 ] && grep -q 'value 1 is not a number' "$tmp/err" || fail "NaN: $(cat "$tmp/err")"
! grep -q "$(printf '\033')" "$tmp/err" || fail 'an escape sequence on the terminal'
echo ok
