# `puna bench`: a short run has every figure that docs/bench.md names, and they agree with one another.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

"$PUNA" bench tests/data/tiny-llama31 --pp 16 --tg 4 --batches 1,2 --pp-batched 8 --tg-batched 2 --depths 5,40,600 --products 1,20 --reps 2 --no-ceilings --json >"$tmp/json"
"$PUNA" bench tests/data/tiny-llama31 --pp 8 --tg 2 --batches '' --depths 20 --products 3 --reps 1 --no-ceilings >"$tmp/plain"
grep -q tok/s "$tmp/plain" || { cat "$tmp/plain"; echo 'FAIL: no rates'; exit 1; }
python3 - "$tmp/json" <<'P'
import json, sys
j = json.load(open(sys.argv[1]))
assert {"load", "model", "prefill", "decode", "batched", "memory"} <= set(j), list(j)
rows = [j["prefill"], j["decode"], *j["batched"], *j["depths"]]
read = [r["read_bytes"] for r in j["depths"]] # the weights, and a cache that grows
assert 0 < j["decode"]["read_bytes"] < read[0] <= read[1] < read[2], (j["decode"], read)
assert [r["context"] for r in j["depths"]] == [5, 40, 600] and all(r["prefill_tok_per_s"] > 0 for r in j["depths"])
assert [p["rows"] for p in j["products"]] == [1, 20], j["products"]
for p in j["products"]:
    parts = [p[k] for k in ("qkv_us", "o_us", "gate_up_us", "down_us")]
    assert min(parts) > 0 and abs(sum(parts) - p["layer_us"]) < 1e-6 * p["layer_us"] and p["bytes"] > 0, p
for r in rows:
    t = r["tok_per_s"]
    assert len(t["samples"]) == 2 and t["best"] == max(t["samples"]) and t["median"] <= t["best"], t
    assert min(t["samples"]) > 0, t
assert [r.get("batch", r.get("n")) for r in j["batched"]] == [1, 2] or len(j["batched"]) == 2, j["batched"]
P

# wherever weights lie, what is computed is the same
"$PUNA" convert tests/data/tiny-llama31 "$tmp/q8.gguf" --outtype q8_0 2>"$tmp/err" || { cat "$tmp/err"; exit 1; }
for how in copy auto map; do
    "$PUNA" run "$tmp/q8.gguf" 'The quick' --raw --greedy -n 24 --weights $how --device cpu >"$tmp/$how" 2>"$tmp/err"
    "$PUNA" bench "$tmp/q8.gguf" --weights $how --pp 0 --tg 2 --batches '' --reps 1 --no-ceilings --json >"$tmp/$how.json"
    grep -q '"settle_s"' "$tmp/$how.json" || { echo "FAIL: --weights $how: no settle_s"; exit 1; }
done
cmp "$tmp/copy" "$tmp/map" && cmp "$tmp/auto" "$tmp/map" || { echo 'FAIL: other words where weights lie elsewhere'; exit 1; }
grep -q '"mode": "copy"' "$tmp/copy.json" || { echo 'FAIL: --weights copy copies nothing'; exit 1; }
# whatever threads are kept on; cores may be claimed by others
for how in none cores; do
    "$PUNA" bench tests/data/tiny-llama31 --pin $how --pp 8 --tg 2 --batches '' --reps 1 --no-ceilings --json >"$tmp/pin.json"
    grep -qE "\"pin\": \"($how|none)\"" "$tmp/pin.json" || { echo "FAIL: --pin $how: $(cat "$tmp/pin.json")"; exit 1; }
done
status=0
"$PUNA" run "$tmp/q8.gguf" x --weights here >"$tmp/out" 2>"$tmp/err" || status=$?
[ $status -eq 2 ] || { echo "FAIL: --weights here ended with $status: $(cat "$tmp/err")"; exit 1; }
status=0
"$PUNA" bench tests/data/tiny-llama31 --batches 1,x --no-ceilings >"$tmp/out" 2>"$tmp/err" || status=$?
[ $status -eq 2 ] || { echo "FAIL: --batches 1,x ended with $status: $(cat "$tmp/err")"; exit 1; }
status=0
"$PUNA" bench tests/data/tiny-llama31 --batches '' --depths 9,8 --no-ceilings >"$tmp/out" 2>"$tmp/err" || status=$?
[ $status -eq 2 ] || { echo "FAIL: --depths 9,8 ended with $status: $(cat "$tmp/err")"; exit 1; }
grep -q '^20 ' "$tmp/plain" || { cat "$tmp/plain"; echo 'FAIL: no row of --depths'; exit 1; }
grep -qE '^3 .*GB/s' "$tmp/plain" || { cat "$tmp/plain"; echo 'FAIL: no row of --products'; exit 1; }
status=0
"$PUNA" bench tests/data/tiny-llama31 --batches '' --products 0 --no-ceilings >"$tmp/out" 2>"$tmp/err" || status=$?
[ $status -eq 2 ] || { echo "FAIL: --products 0 ended with $status: $(cat "$tmp/err")"; exit 1; }
echo ok
