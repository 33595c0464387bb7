# `puna serve --lora-adapters`: several at once, one a request, loaded and unloaded while it runs.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
unset PUNA_PORT PUNA_HOSTNAME PUNA_API_KEY PORT API_KEY MODEL_ID LORA_ADAPTERS PUNA_LORA_ADAPTERS
for kind in rslora pattern all; do
    python3 tests/adapter.py tests/data/adapters/final $kind "$tmp/$kind"
done
python3 tests/cmd/adapters.py "$PUNA" "$tmp"

# what is refused before anything listens: one line that says why
refused()
{
    why=$1
    shift
    status=0
    timeout 600 "$PUNA" serve tests/data/tiny-llama31 --template llama3.1 --port 0 "$@" >"$tmp/out" 2>"$tmp/err" || status=$?
    [ $status -ne 0 ] && [ ! -s "$tmp/out" ] && [ "$(wc -l <"$tmp/err")" -eq 1 ] && grep -q -- "$why" "$tmp/err" ||
        { echo "FAIL: serve $*: status $status"; cat "$tmp/out" "$tmp/err"; exit 1; }
}
refused 'two adapters are called' --lora-adapters "a=$tmp/all,a=$tmp/rslora"
refused "model's own" --lora-adapters "tiny-llama31=$tmp/all"
refused 'NAME=FOLDER' --lora-adapters 'a='
refused 'no-such' --lora-adapters "$tmp/all,b=$tmp/no-such"
