# `puna serve` as it is operated: TLS, keys, rates, pages of other origins, options from a file.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
unset PUNA_PORT PUNA_HOSTNAME PUNA_API_KEY PORT API_KEY MODEL_ID

for name in a b; do
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
        -addext subjectAltName=IP:127.0.0.1 -keyout "$tmp/$name.key" -out "$tmp/$name.pem" 2>"$tmp/err" ||
        { cat "$tmp/err"; exit 1; }
    chmod 600 "$tmp/$name.key"
done
python3 tests/cmd/serve_ops.py "$PUNA" "$tmp"

# what is refused before anything listens; the word is in the message
refused()
{
    word=$1
    shift
    status=0
    timeout 600 "$PUNA" serve tests/data/tiny-llama31 --port 0 "$@" >"$tmp/out" 2>"$tmp/err" || status=$?
    [ $status -ne 0 ] && [ $status -lt 100 ] && [ ! -s "$tmp/out" ] && [ "$(grep -vc '^no chat' "$tmp/err")" -eq 1 ] &&
        grep -q -- "$word" "$tmp/err" ||
        { echo "FAIL: serve $*: status $status"; cat "$tmp/out" "$tmp/err"; exit 1; }
}
tls() { refused "$1" --ssl-certfile "$2" --ssl-keyfile "$3"; }
refused 'go together' --ssl-certfile "$tmp/a.pem"
tls 'not the key' "$tmp/a.pem" "$tmp/b.key"
tls 'no certificate' "$tmp/a.key" "$tmp/a.key"
chmod 600 "$tmp/a.pem"
tls 'no private key' "$tmp/a.pem" "$tmp/a.pem"
tls nowhere "$tmp/a.pem" "$tmp/nowhere"
chmod 644 "$tmp/a.key"
tls 'others can read' "$tmp/a.pem" "$tmp/a.key"

echo sesame >"$tmp/sesame"
refused 'others can read' --api-key-file "$tmp/sesame" # mode 644
chmod 600 "$tmp/sesame"
: >"$tmp/none"
chmod 600 "$tmp/none"
refused 'no key' --api-key-file "$tmp/none"

config()
{
    printf "$2" >"$tmp/config"
    refused "$1" --config "$tmp/config"
}
config 'config:1: .*prot' 'prot: 1\n'
config 'config:3' '# a comment\n\nmax-batch-size: many\n'
config 'no value' 'port 8000\n'
config 'is not' ': 1\n'
config 'no text' 'port: 80\0\n'
config max.queue 'max-queue: 5000000 # too large\n'
refused nowhere --config "$tmp/nowhere"
refused 'num-shard 2' --num-shard 2
refused 'rope-factor' --rope-factor 2
refused 'no "chat_template"' --tokenizer-config-path tests/data/tiny-llama31/config.json
refused 'quantize awq' --quantize awq
(export AIP_HTTP_PORT=0 && refused api-key) # from outside, so with a key
refused 'requests-per-minute' --requests-per-minute -1
