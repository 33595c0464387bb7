# The chat of `puna run` through a pseudo-terminal.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
unset PUNA_MODEL PUNA_PROMPT PUNA_TEMPERATURE
# the token of the byte ESC, which the model is then made to say
echo '{"prompt": "\u001b", "max_tokens": 1}' | "$PUNA" run --json |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["prompt_ids"][-1])' >"$tmp/escape"
python3 tests/cmd/repl.py "$PUNA" "$tmp" <"$tmp/escape"
