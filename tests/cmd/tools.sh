# `puna tools`: what can be used, a call by hand, and the walls around code (tests/tools/escapes.py).
set -eu

fail()
{
    echo "FAIL: $*"
    exit 1
}

# Inside a chroot or a container the kernel may refuse the namespaces that the walls are made of.
drop=
[ "$(id -u)" -ne 0 ] || drop='setpriv --reuid 65534 --clear-groups'
if ! $drop unshare --user true 2>/dev/null; then
    "$PUNA" tools | grep -q '^code_interpreter .*not usable: the sandbox cannot be set up' || fail "$("$PUNA" tools)"
    echo print | "$PUNA" tools exec code_interpreter - 2>/dev/null && fail 'code without a sandbox'
    echo 'not run: no user namespaces here, so no sandbox'
    echo '[  SKIPPED ] 1 test(s)'
    exit 0
fi

"$PUNA" tools | grep -q '^code_interpreter *Python in a sandbox, .* for the chat$' || fail "$("$PUNA" tools)"
"$PUNA" tools list --json | python3 -c 'import json, sys; assert {t["name"]: t["usable"] for t in json.load(sys.stdin)}["code_interpreter"]'
[ "$(echo 'print("hi"); 6 * 7' | "$PUNA" tools exec code_interpreter -)" = 'completed
[stdout]hi
42
[/stdout]' ] || fail 'code that prints'
status=0
echo 1/0 | "$PUNA" tools exec code_interpreter - | grep -q '^ZeroDivisionError' || fail 'no traceback'
echo 1/0 | "$PUNA" tools exec code_interpreter - >/dev/null || status=$?
[ $status -eq 3 ] || fail "status $status, want 3 for a call that failed"
"$PUNA" tools exec nothing - </dev/null 2>/dev/null && fail 'a tool that does not exist'
"$PUNA" tools exec code_interpreter 'print(1)' </dev/null 2>/dev/null && fail 'code as an argument'
python3 tests/tools/escapes.py "$PUNA"
python3 tests/tools/kit.py "$PUNA"

# a chat with the default model: the call is forced, what comes of it is not
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cat >"$tmp/tools.json" <<'END'
{"tools": [{"type": "function", "function": {"name": "multiply", "description": "multiplies two numbers",
  "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]}},
  "command": ["python3", "-c", "import json, sys; j = json.load(sys.stdin); print(j['a'] * j['b'])"]}]}
END
ask()
{
    timeout 600 "$PUNA" run --tools "$tmp/tools.json" --tool-choice multiply -n 32 --dtype f32 "$@" </dev/null >"$tmp/out" 2>"$tmp/err"
}
ask --approve auto 'What is 6 times 7?' || fail "$(cat "$tmp/err")"
grep -q '^\[multiply\] {"a": 6, "b": 7}$' "$tmp/err" && grep -q '^\[multiply: done after .* s\] 42$' "$tmp/err" ||
    fail "the call: $(cat "$tmp/err")"
[ -s "$tmp/out" ] || fail 'no answer after the call'
grep -q '"name"' "$tmp/out" && fail 'the call is shown as an answer'
ask --approve never 'What is 6 times 7?' || fail "$(cat "$tmp/err")"
grep -q 'multiply: failed .* error: the user does not allow this call' "$tmp/err" || fail 'a call that is not allowed'
echo '{"messages": [{"role": "user", "content": "What is 6 times 7?"}]}' | timeout 600 "$PUNA" run --json \
    --tools "$tmp/tools.json" --tool-choice required --approve auto -n 32 --dtype f32 >"$tmp/out"
python3 - "$tmp/out" <<'END'
import json, sys
answer = json.load(open(sys.argv[1]))
call = answer["tool_calls"][0]
assert call["name"] == "multiply" and call["result"] == "42" and not call["failed"], answer
assert [m["role"] for m in answer["messages"]] == ["assistant", "tool", "assistant"], answer
assert answer["text"] == answer["messages"][2]["content"] and answer["text"], answer
END
for bad in '--tools /nowhere/tools.json' '--tools brave_search' '--tool-choice nothing' '--approve maybe'; do
    # shellcheck disable=SC2086
    BRAVE_SEARCH_API_KEY='' "$PUNA" run --tools "$tmp/tools.json" $bad -p hi </dev/null 2>/dev/null && fail "accepted: $bad"
done
echo 'ok'
