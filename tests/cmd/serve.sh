# `puna serve` over HTTP: chat, completions, streams, errors, limits, keys, clients that leave, the end.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
unset PUNA_PORT PUNA_HOSTNAME PUNA_API_KEY PORT API_KEY MODEL_ID
python3 tests/cmd/serve.py "$PUNA" "$tmp"

# what is refused before anything listens
refused()
{
    status=0
    timeout 600 "$PUNA" serve "$@" >"$tmp/out" 2>"$tmp/err" || status=$?
    [ $status -eq 2 ] && [ ! -s "$tmp/out" ] && [ "$(wc -l <"$tmp/err")" -eq 1 ] ||
        { echo "FAIL: serve $*: status $status"; cat "$tmp/out" "$tmp/err"; exit 1; }
}
refused tests/data/tiny-llama31 --hostname 0.0.0.0 --port 0
grep -q -- --api-key "$tmp/err"
refused tests/data/tiny-llama31 --port 65536
refused tests/data/tiny-llama31 --template llama3.1 --port 0 --draft-model smollm2:135m
grep -q 'has 49152 tokens where .* has 1024' "$tmp/err"
echo ok
