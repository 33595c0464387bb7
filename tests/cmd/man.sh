# `puna man`: every page is roff that groff takes without a warning, with the sections a manual has.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

fail()
{
    echo "FAIL: $*"
    exit 1
}

for c in '' $(sed -n 's/^CMD(\(.*\))/\1/p' src/cmd/cmds.def); do
    # shellcheck disable=SC2086 # no argument is puna(1)
    "$PUNA" man $c >"$tmp/page"
    head -n 1 "$tmp/page" | grep -q '^\.TH PUNA' || fail "$c: no title"
    for section in NAME SYNOPSIS DESCRIPTION 'EXIT STATUS'; do
        grep -qx "\.SH $section" "$tmp/page" || fail "$c: no section $section"
    done
    # only requests that man(7) knows stand after a dot
    ! grep -E "^[.']" "$tmp/page" | grep -vE '^\.(TH|SH|TP|PP|B|BR|I|RS|RE|nf|fi|IP)( |$)' || fail "$c: a request"
    if [ -n "$c" ]; then
        "$PUNA" help --json | python3 -c '
import json, sys
page = open(sys.argv[1]).read().replace("\\-", "-")
for c in json.load(sys.stdin)["commands"]:
    if c["name"] == sys.argv[2]:
        for o in c["options"]:
            assert "flag" not in o or o["flag"] in page and o["env"] in page, o
' "$tmp/page" "$c" || fail "$c: an option is missing"
    fi
    if command -v groff >/dev/null; then
        groff -man -ww -z -Tutf8 "$tmp/page" 2>"$tmp/err" || fail "$c: groff fails"
        [ ! -s "$tmp/err" ] || fail "$c: $(cat "$tmp/err")"
    fi
done
command -v groff >/dev/null || echo 'groff is not installed: structure only'
status=0
"$PUNA" man no-such >"$tmp/out" 2>"$tmp/err" || status=$?
[ $status -eq 2 ] && [ ! -s "$tmp/out" ] || fail "a page of no command: $(cat "$tmp/err")"
echo ok
