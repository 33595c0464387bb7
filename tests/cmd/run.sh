# `puna run`: one answer, raw text and JSON lines; the chat itself is driven by repl.py.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
tiny=tests/data/tiny-llama31
unset PUNA_MODEL PUNA_PROMPT PUNA_TEMPERATURE
export LC_ALL=C.UTF-8

fail()
{
    echo "FAIL: $*"
    cat "$tmp/out" "$tmp/err" 2>/dev/null || true
    exit 1
}

# run STATUS ARGUMENTS...: $tmp/in is standard input
run()
{
    want=$1
    shift
    status=0
    timeout 600 "$PUNA" run "$@" <"$tmp/in" >"$tmp/out" 2>"$tmp/err" || status=$?
    [ $status -eq "$want" ] || fail "run $*: status $status, not $want"
}

# one prompt, three ways in: argument, standard input, both; greedy by default, so always the same
: >"$tmp/in"
run 0 'Count to three, please.' -n 8 --dtype f32
cp "$tmp/out" "$tmp/answer"
[ -s "$tmp/answer" ] || fail 'no answer'
run 0 smollm2:135m -p 'Count to three, please.' -n 8 --dtype f32
cmp -s "$tmp/out" "$tmp/answer" || fail '-p gives another answer'
printf 'Count to three, please.\n' >"$tmp/in"
run 0 -n 8 --dtype f32 --threads 1
cmp -s "$tmp/out" "$tmp/answer" || fail 'standard input gives another answer'
printf 'three, please.' >"$tmp/in"
run 0 'Count to' -n 8 --dtype f32
cp "$tmp/out" "$tmp/both"
: >"$tmp/in"
run 0 "Count to

three, please." -n 8 --dtype f32
cmp -s "$tmp/out" "$tmp/both" || fail 'standard input does not follow the prompt after a blank line'
grep -q 'stopped after 8 tokens' "$tmp/err" || fail 'no note that the answer was cut'

# the README's first command
run 0 'What is the capital of France?'
[ "$(cat "$tmp/out")" = 'The capital of France is Paris.' ] || fail 'the capital of France'

# refusals: one line, nothing on standard output
refused()
{
    run "$@"
    [ ! -s "$tmp/out" ] && [ "$(wc -l <"$tmp/err")" -eq 1 ] || fail "run $*: not one line"
}
refused 2
grep -q 'prompt is empty' "$tmp/err" || fail 'empty prompt'
refused 2 -p ''
refused 3 Hello
grep -q -- "-p 'Hello'" "$tmp/err" || fail 'no hint at -p for a prompt of one word'
refused 3 what is this
grep -q 'quotation marks' "$tmp/err" || fail 'no hint at quoting'
refused 3 -m no-such-model Hello
refused 2 'a b' --temperature 101
refused 2 'a b' --top-p 0
refused 2 'a b' --logit-bias 5
refused 2 'a b' --logit-bias 999999=1
refused 2 'a b' --ctx 99999999
refused 2 'a b' --chat-template no-such
grep -q chatml "$tmp/err" || fail 'the formats are not listed'
refused 2 'a b' --temperatur 1
refused 2 --json 'a b'
refused 2 "$(yes 'a b' | head -n 300 | tr '\n' ' ')" --ctx 256
grep -q 'context is 256' "$tmp/err" || fail 'a prompt beyond the context'

# bytes that are no UTF-8 become U+FFFD; a reader that leaves is an error, not a hang or a death
printf 'What does \377\376 mean?' >"$tmp/in"
run 0 -n 3
printf '{"prompt": "a", "max_tokens": 3000}\n' >"$tmp/in"
for args in '--raw -p Once -n 3000' '--json'; do
    echo 0 >"$tmp/status"
    # shellcheck disable=SC2086
    { timeout 600 "$PUNA" run $tiny $args <"$tmp/in" 2>"$tmp/err" || echo $? >"$tmp/status"; } | true
    status=$(cat "$tmp/status")
    [ "$status" -eq 1 ] && grep -q 'standard output' "$tmp/err" || fail "closed pipe, $args: $status"
done
: >"$tmp/in"
status=0
"$PUNA" run $tiny --raw -p Once -n 20 </dev/null >/dev/full 2>"$tmp/err" || status=$?
[ $status -eq 1 ] || fail "full disk: $status"

# generation_config.json says do_sample true: two fresh seeds differ, one seed repeats, greedy repeats
sample()
{
    run 0 $tiny --raw -p 'Once upon a time' -n 24 "$@"
    cat "$tmp/out"
}
[ "$(sample --seed 7)" = "$(sample --seed 7 --threads 2)" ] || fail 'one seed, two answers'
[ "$(sample --seed 7)" != "$(sample --seed 8)" ] || fail 'two seeds, one answer'
[ "$(sample)" != "$(sample)" ] || fail 'no fresh seed'
[ "$(sample --greedy)" = "$(sample --temperature 0)" ] || fail 'greedy is not temperature 0'
[ "$(sample --greedy)" != "$(sample --seed 7)" ] || fail 'do_sample true was not heeded'

# answers of a form, whatever the model would say
bound()
{
    run 0 $tiny --raw -p 'Once upon a time' -n 200 --temperature 1 --seed 5 "$@"
    cat "$tmp/out"
}
bound --grammar 'root ::= ("yes" | "no") "!"{2}' | grep -Eqx '(yes|no)!!' || fail '--grammar'
printf '%s' '{"properties":{"n":{"type":"integer","minimum":5,"maximum":7}},"required":["n"]}' >"$tmp/schema"
bound --json-schema "$tmp/schema" | tr -d ' \n' | grep -Eqx '\{"n":[567]\}' || fail '--json-schema'
bound --json-schema "$(cat "$tmp/schema")" | grep -q n || fail '--json-schema as a text'
refused 2 $tiny --raw -p x --grammar 'root ::= root'
refused 2 $tiny --raw -p x --json-schema '{"not": {}}'
refused 2 $tiny --raw -p x --json-schema '{}' --grammar 'root ::= "a"'
for how in '"regex": "[ab]{3}-\\d"' '"response_format": {"type": "regex", "value": "[ab]{3}-\\d"}'; do
    printf '{"prompt": "x", "temperature": 1, "seed": 3, %s}\n' "$how" >"$tmp/in"
    "$PUNA" run $tiny --json <"$tmp/in" | grep -Eq '"text":"[ab]{3}-[0-9]"' || fail "--json $how"
done

# a draft model guesses ahead; answers stay what they are
mkdir "$tmp/micro"
python3 tests/micro.py "$tmp/micro"
for draft in $tiny "$tmp/micro"; do
    for how in '--greedy' '--seed 7'; do
        run 0 $tiny --raw -p 'Once upon a time' -n 40 $how --logprobs
        cp "$tmp/out" "$tmp/plain"
        grep -v '^note' "$tmp/err" >"$tmp/plain.err"
        run 0 $tiny --raw -p 'Once upon a time' -n 40 $how --logprobs --draft-model "$draft" --draft-min 4
        cmp -s "$tmp/out" "$tmp/plain" || fail "--draft-model $draft $how: another answer"
        grep -v '^note' "$tmp/err" | cmp -s - "$tmp/plain.err" || fail "--draft-model $draft $how: other numbers"
    done
done
run 0 $tiny --raw -p 'Once upon a time' -n 40 --greedy -md $tiny --draft-min 4 -v
grep -Eq '; [1-9][0-9]* of [1-9][0-9]* guesses right' "$tmp/err" || fail 'guesses are not told of'
refused 2 $tiny --raw -p x --speculate 3
refused 2 $tiny --raw -p x --draft-model $tiny --draft-min 5

python3 tests/cmd/run_json.py "$PUNA" $tiny
