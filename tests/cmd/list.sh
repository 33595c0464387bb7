# `puna list`: what is in the cache, what is broken in it, and no cache at all.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cache=${XDG_CACHE_HOME:-$HOME/.cache}/puna/models

fail()
{
    echo "FAIL: $*"
    exit 1
}

export XDG_CACHE_HOME="$tmp"
[ "$("$PUNA" list --json)" = '{"models":[]}' ] || fail 'no cache'
"$PUNA" list >"$tmp/out" 2>"$tmp/err"
[ ! -s "$tmp/out" ] && grep -q 'script/setup' "$tmp/err" || fail "nothing to list: $(cat "$tmp/err")"

mkdir -p "$tmp/puna/models/org"
ln -s "$cache/SmolLM2-135M-Instruct.Q4_1.gguf" "$tmp/puna/models/"
cp -r tests/data/tiny-llama31 "$tmp/puna/models/org/tiny"
printf 'GGUF' >"$tmp/puna/models/cut.gguf"
: >"$tmp/puna/models/part-00002-of-00002.gguf"
: >"$tmp/puna/models/notes.txt"
"$PUNA" list --json >"$tmp/json" 2>"$tmp/err"
python3 - "$tmp/json" "$tmp" <<'P'
import json, os, sys
models = {m["name"]: m for m in json.load(open(sys.argv[1]))["models"]}
assert set(models) == {"smollm2:135m", "org/tiny", "cut"}, set(models)
m = models["smollm2:135m"]
assert m["default"] and m["ok"] and m["params"] == 134515008 and m["context"] == 8192, m
assert m["bytes"] == os.stat(m["path"]).st_size and m["encoding"].startswith("q4_1"), m
m = models["org/tiny"]
assert m["ok"] and not m["default"] and m["encoding"] == "bf16" and m["params"] == 3541248, m
m = models["cut"]
assert not m["ok"] and m["path"] in m["reason"], m
P
"$PUNA" list >"$tmp/out" 2>"$tmp/err"
[ "$(wc -l <"$tmp/out")" -eq 4 ] && grep -q '^smollm2:135m .* 135M .* 8192 ' "$tmp/out" || fail "$(cat "$tmp/out")"
[ "$(grep -c '^note: cut cannot be used: ' "$tmp/err")" -eq 1 ] || fail "$(cat "$tmp/err")"
# every name that is shown can be typed
for name in smollm2:135m org/tiny; do
    "$PUNA" tokenize "$name" -q hello >"$tmp/out" || fail "$name"
done
echo ok
