# Guards in `puna run`: a guard that is written to flag one word (guard.py), a Prompt Guard with random
# weights whose threshold decides.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
llama=${XDG_CACHE_HOME:-$HOME/.cache}/puna/tokenizers/llama3/tokenizer.model

fail()
{
    echo "FAIL: $*"
    cat "$tmp/out" "$tmp/err" 2>/dev/null || true
    exit 1
}

python3 tests/cmd/guard.py "$tmp/guard" "$llama" ' lock'
python3 tests/cmd/guard_prompt.py "$tmp/prompt-guard"

# ask STATUS ARGUMENTS...
ask()
{
    want=$1
    shift
    status=0
    timeout 600 "$PUNA" run -m "$tmp/guard" --template llama3.1 -n 200 --greedy "$@" </dev/null >"$tmp/out" 2>"$tmp/err" || status=$?
    [ $status -eq "$want" ] || fail "run $*: status $status, not $want"
}

# a harmless chat is the one without guards
ask 0 'What is the capital of France?' -n 20
cp "$tmp/out" "$tmp/plain"
ask 0 'What is the capital of France?' -n 20 --guard "$tmp/guard"
cmp -s "$tmp/out" "$tmp/plain" || fail 'a guard changes a harmless answer'

# an input is refused before the model sees it, unless answers alone are judged
ask 3 'How do I pick a lock?' --guard "$tmp/guard"
[ ! -s "$tmp/out" ] && grep -q 'the question is refused; Llama Guard: S10 Hate (probability ' "$tmp/err" || fail 'input'

# an answer is cut before the sentence that violates
says='root ::= "The capital of France is Paris, which is a large city on a river. You pick a lock there with a wrench. Nice!"'
ask 3 'Tell me' --guard "$tmp/guard" --grammar "$says"
[ "$(cat "$tmp/out")" = 'The capital of France is Paris, which is a large city on a river.' ] || fail 'an answer that is cut'
grep -q 'the answer is cut; Llama Guard: S10 Hate' "$tmp/err" || fail 'no note'
ask 0 'Tell me' --guard "$tmp/guard" --guard-input --grammar "$says"
grep -q 'lock there' "$tmp/out" || fail 'inputs alone'
echo '{"messages": [{"role": "user", "content": "Tell me"}], "max_tokens": 200}
{"messages": [{"role": "user", "content": "How do I pick a lock?"}]}
{"prompt": "How do I pick a lock?"}' | "$PUNA" run -m "$tmp/guard" --template llama3.1 --json --greedy --guard "$tmp/guard" --grammar "$says" >"$tmp/out" 2>"$tmp/err"
python3 - "$tmp/out" <<'P'
import json, sys
cut, refused, raw = map(json.loads, open(sys.argv[1]))
assert cut["finish_reason"] == "content_filter", cut
assert cut["text"] == "The capital of France is Paris, which is a large city on a river.", cut
for a in refused, raw:
    assert a["finish_reason"] == "content_filter" and a["text"] == "" and a["ids"] == [], a
P

# Prompt Guard on questions and on what tools bring
ask 3 'Hello there' --prompt-guard "$tmp/prompt-guard" --prompt-guard-threshold 0
grep -q 'the question is refused; Prompt Guard: unsafe (probability' "$tmp/err" || fail 'Prompt Guard'
ask 0 'Hello there' -n 4 --prompt-guard "$tmp/prompt-guard" --prompt-guard-threshold 1
jailbreak=$("$PUNA" guard "$tmp/prompt-guard" 'Hello there' | sed -n 's/^probability //p')
page='Hello there' # as an attack it is likelier, for the label INJECTION counts too
cat >"$tmp/tools.json" <<J
{"tools": [{"name": "look", "parameters": {"type": "object", "properties": {"at": {"enum": ["it"]}}, "required": ["at"],
            "additionalProperties": false}, "command": "echo $page"},
           {"name": "lock", "parameters": {"type": "object", "properties": {"what": {"enum": ["a lock"]}}, "required": ["what"],
            "additionalProperties": false}, "command": "echo open"}]}
J
between=$(python3 -c "print($jailbreak + 0.02)")
ask 0 'Hello there' --tools "$tmp/tools.json" --tool-choice look --approve auto \
    --prompt-guard "$tmp/prompt-guard" --prompt-guard-threshold "$between"
grep -q 'what the tool brought is withheld; Prompt Guard' "$tmp/err" || fail 'a result that attacks'
grep -q 'failed .* error: withheld' "$tmp/err" || fail 'the model sees what attacks it'

# a call is the assistant's turn; the toy guard sees its word in the turns after it too
ask 3 'Hello there' --tools "$tmp/tools.json" --tool-choice lock --approve auto --guard "$tmp/guard" --guard-output
grep -q 'the call is refused; Llama Guard: S10' "$tmp/err" && ! grep -q 'done after' "$tmp/err" || fail 'a call that violates'

# fail closed
ask 2 'Hi there' --guard-output
ask 2 'Hi there' --raw --guard "$tmp/guard"
ask 8 'Hi there' --guard smollm2
