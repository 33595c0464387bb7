# `puna serve` asked as the real client libraries ask it, word for word on the wire; what they read in the answers is there.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
unset PUNA_PORT PUNA_HOSTNAME PUNA_API_KEY PORT API_KEY MODEL_ID
python3 tests/cmd/serve_clients.py "$PUNA" "$tmp"
