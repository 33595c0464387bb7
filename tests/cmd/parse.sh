# `puna parse`: recorded answers through the command, declared tools, and what it refuses.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

"$PUNA" parse --json <tests/data/golden/toolcalls.jsonl >"$tmp/out"
python3 - "$tmp/out" <<'P'
import json, sys
lines = [json.loads(line) for line in open("tests/data/golden/toolcalls.jsonl")]
outs = [json.loads(line) for line in open(sys.argv[1])]
assert len(lines) == len(outs) == 120, len(outs)
for line, out in zip(lines, outs):
    want = line.get("want") or line.get("meta")
    if want:
        got = {"content": out["content"], "stop_reason": out["stop_reason"], "tool_calls":
               [{"name": c["name"], "arguments": c["arguments"]} for c in out["tool_calls"]]}
        assert got == want, (line["text"], got)
P

cat >"$tmp/tools.json" <<'J'
[{"type": "function", "function": {"name": "f", "parameters":
  {"type": "object", "properties": {"n": {"type": "integer"}}}}}]
J
echo '{"name": "f", "parameters": {"n": "10"}}' | "$PUNA" parse --tools "$tmp/tools.json" >"$tmp/out"
grep -q '"arguments": {"n": 10}}\], "coerced": 1}' "$tmp/out" || { cat "$tmp/out"; exit 1; }
echo '{"name": "f", "parameters": {"n": "10"}}' |
    "$PUNA" parse --tools "$tmp/tools.json" --no-coerce >"$tmp/out"
grep -q '"n": "10"' "$tmp/out" || { cat "$tmp/out"; exit 1; }
echo '{"name": "g", "parameters": {}}' | "$PUNA" parse --tools "$tmp/tools.json" >"$tmp/out"
grep -q '"finish_reason": "stop", "tool_calls": \[\]' "$tmp/out" || { cat "$tmp/out"; exit 1; }
printf '<|python_tag|>print(1)' | "$PUNA" parse >"$tmp/out"
grep -q '"stop_reason": "out_of_tokens"' "$tmp/out" || { cat "$tmp/out"; exit 1; }
printf '<|python_tag|>print(1)<|eom_id|>' | "$PUNA" parse --no-code-interpreter >"$tmp/out"
grep -q '"content": "print(1)"' "$tmp/out" || { cat "$tmp/out"; exit 1; }

printf '{"text": 1}\n\n[]\n{\n{"text": "", "stop_reason_in": "no"}\n{"text": "ok"}\n' >"$tmp/bad"
status=0
"$PUNA" parse --json <"$tmp/bad" >"$tmp/out" || status=$?
[ "$status" -eq 1 ] && [ "$(grep -c '"error"' "$tmp/out")" -eq 4 ] || { cat "$tmp/out"; exit 1; }
tail -n 1 "$tmp/out" | grep -q '"content": "ok"'
echo '{}' >"$tmp/tools.json"
if echo x | "$PUNA" parse --tools "$tmp/tools.json" 2>"$tmp/err"; then exit 1; fi
grep -q 'not a JSON list of tools' "$tmp/err"
