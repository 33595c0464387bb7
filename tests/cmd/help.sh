# `puna help`, `puna version` and --help: every command, every option, the same text, and how long it takes.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

fail()
{
    echo "FAIL: $*"
    exit 1
}

version=$(sed -n 's/^VERSION := //p' Makefile)
[ "$("$PUNA" version)" = "puna $version" ] && [ "$("$PUNA" --version)" = "puna $version" ] &&
    [ "$("$PUNA" -V)" = "puna $version" ] || fail 'version'

"$PUNA" help >"$tmp/all"
"$PUNA" --help | diff "$tmp/all" - || fail '--help is not help'
"$PUNA" | diff "$tmp/all" - || fail 'puna alone is not help'
commands=$(sed -n 's/^CMD(\(.*\))/\1/p' src/cmd/cmds.def)
for c in $commands; do
    grep -q "^  $c  *[a-z]" "$tmp/all" || fail "help does not list $c"
    "$PUNA" help "$c" >"$tmp/long"
    "$PUNA" "$c" --help >"$tmp/short"
    [ "$(head -n 1 "$tmp/long")" = "$(head -n 1 "$tmp/short")" ] || fail "$c: two kinds of help"
    [ "$(wc -l <"$tmp/short")" -le 90 ] || fail "$c --help is longer than two screens"
    awk 'length > 120 { bad = 1 } END { exit bad }' "$tmp/long" || fail "$c: a line over 120 columns"
    "$PUNA" "$c" -h | diff "$tmp/short" - || fail "$c -h is not --help"
done

# Every option has a line of help, a variable, and a row on the command's page; no two commands give one
# variable different meanings of type.
"$PUNA" help --json >"$tmp/json"
python3 - "$tmp/json" <<'P'
import json, pathlib, sys
failed = []
for c in json.load(open(sys.argv[1]))["commands"]:
    path = pathlib.Path(f"docs/{c['name']}.md")
    page = path.read_text() if path.exists() else f"puna help {c['name']}" # make check-style misses it
    for o in c["options"]:
        if not o["help"]:
            failed.append(f"{c['name']}: {o['name']} has no help")
        if "flag" in o:
            if o["env"] != "PUNA_" + o["name"].upper():
                failed.append(f"{c['name']}: {o['flag']} has the variable {o['env']}")
            if o["flag"] not in page and "--no" + o["flag"][1:] not in page and f"puna help {c['name']}" not in page:
                failed.append(f"docs/{c['name']}.md: no {o['flag']}")
print("\n".join(failed))
sys.exit(bool(failed))
P

# `-` and `_` are equal, a wrong name is answered with the nearest
"$PUNA" tokenize smollm2 --allow_special -q '<|im_end|>' >"$tmp/a"
"$PUNA" tokenize smollm2 --allow-special -q '<|im_end|>' | diff "$tmp/a" - || fail '_ is not -'
PUNA_ALLOW_SPECIAL=1 "$PUNA" tokenize smollm2 -q '<|im_end|>' | diff "$tmp/a" - || fail 'PUNA_ALLOW_SPECIAL'
PUNA_ALLOW_SPECIAL=1 "$PUNA" tokenize smollm2 --no-allow-special -q '<|im_end|>' | diff -q "$tmp/a" - >"$tmp/out" &&
    fail 'the command line does not win'
for args in 'hlep' 'tokenise' 'help tokenise' 'tokenize --allow-specail'; do
    status=0
    # shellcheck disable=SC2086 # words
    "$PUNA" $args >"$tmp/out" 2>"$tmp/err" || status=$?
    [ $status -eq 2 ] && grep -q 'did you mean' "$tmp/err" && [ "$(wc -l <"$tmp/err")" -eq 1 ] ||
        fail "$args: $(cat "$tmp/err")"
done

# How long the shortest of 30 runs takes: 10 ms, or 500 with sanitizers
python3 - "$PUNA" <<'P'
import subprocess, sys, time
best = {}
for what in ("--help", "--version", "help"):
    for _ in range(30):
        t = time.monotonic()
        subprocess.run([sys.argv[1], what], stdout=subprocess.DEVNULL, check=True)
        best[what] = min(best.get(what, 9), time.monotonic() - t)
print(", ".join(f"puna {k} {v * 1000:.1f} ms" for k, v in best.items()))
limit = 0.5 if b"__asan_init" in open(sys.argv[1], "rb").read() else 0.010
sys.exit(max(best.values()) > limit)
P
echo ok
