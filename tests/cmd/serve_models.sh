# `puna serve` with several models: chosen by name, loaded and unloaded while it runs.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
unset PUNA_PORT PUNA_HOSTNAME PUNA_API_KEY PORT API_KEY MODEL_ID
mkdir "$tmp/micro"
python3 tests/micro.py "$tmp/micro"
mkdir -p "$tmp/cache/puna/models"
cp -r "$tmp/micro" "$tmp/cache/puna/models/cached"
XDG_CACHE_HOME=$tmp/cache python3 tests/cmd/serve_models.py "$PUNA" "$tmp"

refused()
{
    word=$1
    shift
    status=0
    timeout 600 "$PUNA" serve --port 0 --template llama3.1 "$@" >"$tmp/out" 2>"$tmp/err" || status=$?
    [ $status -ne 0 ] && [ $status -lt 100 ] && [ ! -s "$tmp/out" ] && grep -q -- "$word" "$tmp/err" ||
        { echo "FAIL: serve $*: status $status"; cat "$tmp/out" "$tmp/err"; exit 1; }
}
refused "two models are called 'micro'" "$tmp/micro" "$tmp/micro"
refused 'models-max is 1' --models-max 1 "$tmp/micro" b="$tmp/micro"
refused nowhere "$tmp/micro" --model b=./nowhere
refused 'GiB are available' "$tmp/micro" b="$tmp/micro" -c 900000000000
echo ok
