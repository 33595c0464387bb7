# `puna bench serve` (bench_serve): both loops, all streams, the table, the object and the plot; what fails is said.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
unset PUNA_PORT PUNA_HOSTNAME PUNA_API_KEY PORT API_KEY MODEL_ID
python3 tests/cmd/bench_serve.py "$PUNA" "$tmp"
