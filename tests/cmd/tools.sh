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
"$PUNA" tools list --json | python3 -c 'import json, sys; assert json.load(sys.stdin)[0]["usable"] is True'
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
