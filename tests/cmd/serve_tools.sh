# Tools that `puna serve` runs (serve_tools.py).
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
unset PUNA_PORT PUNA_HOSTNAME PUNA_API_KEY PUNA_MODEL PORT API_KEY MODEL_ID

python3 tests/cmd/serve_tools.py "$PUNA" "$tmp" || { cat "$tmp/log"; exit 1; }
status=0
timeout 600 "$PUNA" serve --port 0 --enable-tools nothing >/dev/null 2>"$tmp/err" || status=$?
[ $status -eq 2 ] && grep -q "no tool and no file 'nothing'" "$tmp/err" || { cat "$tmp/err"; exit 1; }
