# `puna prompt`: bytes of one request, JSON lines, options, and refusals.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
llama=${XDG_CACHE_HOME:-$HOME/.cache}/puna/tokenizers/llama3/tokenizer.model

fail()
{
    echo "FAIL: $*"
    exit 1
}

hi='{"messages": [{"role": "user", "content": "Hi"}]}'

# one request: the bytes of its prompt, nothing else
echo "$hi" | "$PUNA" prompt smollm2:135m >"$tmp/out"
cat >"$tmp/want" <<'P'
<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
<|im_start|>user
Hi<|im_end|>
<|im_start|>assistant
P
cmp "$tmp/out" "$tmp/want" || fail 'the bytes of a ChatML prompt'

# a format by name, and the date: the template's own, another, today's, none
for date in '' '1 Apr 2030' today none; do
    echo "$hi" | "$PUNA" prompt "$llama" --template llama3.1 ${date:+--date "$date"} >"$tmp/out"
    case $date in
    '') want='Today Date: 26 Jul 2024' ;;
    today) want="Today Date: $(LC_ALL=C date '+%d %b %Y')" ;;
    none) want='' ;;
    *) want="Today Date: $date" ;;
    esac
    if [ "$date" = none ]; then
        ! grep -q Date "$tmp/out" || fail 'a date line with --date none'
    else
        grep -qxF "$want" "$tmp/out" || { cat "$tmp/out"; fail "--date $date"; }
    fi
done

# recorded lines, through the command: the same bytes and ids
status=0
"$PUNA" prompt "$llama" --json <tests/data/golden/prompts.jsonl >"$tmp/out" || status=$?
[ $status -eq 1 ] || fail "status $status, want 1: some lines are refused"
python3 - "$tmp/out" <<'P'
import json, sys
want = [json.loads(l) for l in open("tests/data/golden/prompts.jsonl")]
got = [json.loads(l) for l in open(sys.argv[1])]
assert len(want) == len(got), (len(want), len(got))
n = 0
for w, g in zip(want, got):
    if "error" in w:
        assert list(g) == ["error"], (w["id"], g)
    else:
        assert g == {"prompt": w["prompt"], "ids": w["ids"]}, (w["id"], g)
        n += 1
assert n == 111, n
P

# a model folder: the template named default counts, and chat_template.jinja wins over it
mkdir "$tmp/model"
ln -s "$llama" "$tmp/model/tokenizer.model"
python3 - "$tmp/model/tokenizer_config.json" <<'P'
import json, sys
turn = "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>'"
llama3 = ("{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = " + turn + " %}"
          "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}")
json.dump({"chat_template": [{"name": "tool_use", "template": "{{ 'no' }}"}, {"name": "default", "template": llama3}]},
          open(sys.argv[1], "w"))
P
echo "$hi" | "$PUNA" prompt "$tmp/model" >"$tmp/out"
head -n 1 "$tmp/out" | grep -qxF '<|begin_of_text|><|start_header_id|>user<|end_header_id|>' || fail 'a template of a list'
# a template that no format knows is run
echo "{{ 'foreign ' ~ messages|length }}" >"$tmp/model/chat_template.jinja"
[ "$(echo "$hi" | "$PUNA" prompt "$tmp/model")" = 'foreign 1' ] || fail 'a foreign template is not run'

# refused: one line that says why, nothing on standard output
refused()
{
    status=0
    printf '%s' "$2" | "$PUNA" prompt $3 >"$tmp/out" 2>"$tmp/err" || status=$?
    [ $status -ne 0 ] && [ ! -s "$tmp/out" ] && [ "$(wc -l <"$tmp/err")" -eq 1 ] ||
        fail "$2: status $status, $(cat "$tmp/out" "$tmp/err")"
    grep -qF -- "$1" "$tmp/err" || { cat "$tmp/err"; fail "no \"$1\""; }
}

refused 'no chat template' "$hi" "$llama"
printf 'x\n{%% include "y" %%}' >"$tmp/model/chat_template.jinja"
refused 'cannot be run (chat template, line 2: the tag include' "$hi" "$tmp/model"
refused 'no chat format' "$hi" "$llama --template alpaca"
refused 'messages' '{}' "$llama --template llama3.1"
refused 'not valid JSON' '{"messages": ' smollm2:135m
refused "'image_url'" '{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}' smollm2:135m
refused "'root'" '{"messages": [{"role": "root", "content": "x"}]}' smollm2:135m
echo ok
