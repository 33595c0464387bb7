# `puna serve` when clients and the system misbehave: see serve_faults.py.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
unset PUNA_PORT PUNA_HOSTNAME PUNA_API_KEY PORT API_KEY MODEL_ID
mkdir "$tmp/micro"
python3 tests/micro.py "$tmp/micro"
python3 tests/cmd/serve_faults.py "$PUNA" "$tmp"
