# Guards in `puna serve` (serve_guard.py), with the models of guard.py and guard_prompt.py.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
unset PUNA_PORT PUNA_HOSTNAME PUNA_API_KEY PORT API_KEY MODEL_ID
llama=${XDG_CACHE_HOME:-$HOME/.cache}/puna/tokenizers/llama3/tokenizer.model

python3 tests/cmd/guard.py "$tmp/guard" "$llama" ' lock'
python3 tests/cmd/guard_prompt.py "$tmp/prompt-guard"
python3 tests/cmd/serve_guard.py "$PUNA" "$tmp" || { cat "$tmp/log"; exit 1; }
