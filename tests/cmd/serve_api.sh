# `puna serve` as the clients of other servers know it: OpenAI strictly, TGI's oddities, Azure, the description of the API.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
unset PUNA_PORT PUNA_HOSTNAME PUNA_API_KEY PORT API_KEY MODEL_ID
python3 tests/cmd/serve_api.py "$PUNA" "$tmp"
