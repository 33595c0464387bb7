# `puna completion`: the scripts parse, and bash's completes commands, options, choices and files.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

fail()
{
    echo "FAIL: $*"
    exit 1
}

for shell in bash zsh fish; do
    "$PUNA" completion $shell >"$tmp/$shell"
    [ "$("$PUNA" help --json | python3 -c '
import json, sys
script = open(sys.argv[1]).read()
for c in json.load(sys.stdin)["commands"]:
    if c["name"] not in script:
        print(c["name"])
    for o in c["options"]:
        if "flag" in o and o["flag"].lstrip("-") not in script:
            print(c["name"], o["flag"])
' "$tmp/$shell")" = "" ] || fail "$shell: options are missing"
    if command -v $shell >/dev/null; then
        $shell -n "$tmp/$shell" || fail "$shell does not parse it"
    else
        echo "$shell is not installed: not parsed"
    fi
done

# complete WORD...: what bash offers for the last word
complete()
{
    bash -c '. "$0"; COMP_WORDS=(puna "$@"); COMP_CWORD=$#; COMPREPLY=(); _puna; printf "%s\n" "${COMPREPLY[@]}"' \
        "$tmp/bash" "$@"
}
[ "$(complete tok)" = tokenize ] || fail "tok: $(complete tok)"
[ "$(complete tokenize --meta-ch)" = --meta-chunking ] || fail "--meta-ch: $(complete tokenize --meta-ch)"
[ "$(complete logits --dtype b)" = bf16 ] || fail "--dtype b: $(complete logits --dtype b)"
[ "$(complete completion z)" = zsh ] || [ "$(complete completion z)" = "" ] || fail 'completion z'
status=0
"$PUNA" completion tcsh >"$tmp/out" 2>"$tmp/err" || status=$?
[ $status -eq 2 ] && grep -q 'bash|zsh|fish' "$tmp/err" || fail "tcsh: $(cat "$tmp/err")"
echo ok
