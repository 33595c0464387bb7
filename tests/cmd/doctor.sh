# `puna doctor`: every row is there, nothing is wrong on this machine, and what is broken is found.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
model=${XDG_CACHE_HOME:-$HOME/.cache}/puna/models/SmolLM2-135M-Instruct.Q4_1.gguf

fail()
{
    echo "FAIL: $*"
    exit 1
}

# doctor STATUS: runs it in both forms
doctor()
{
    status=0
    "$PUNA" doctor >"$tmp/out" 2>"$tmp/err" || status=$?
    [ $status -eq "$1" ] && [ ! -s "$tmp/err" ] || fail "exit status $status: $(cat "$tmp/out" "$tmp/err")"
    status=0
    "$PUNA" doctor --json >"$tmp/json" || status=$?
    [ $status -eq "$1" ] || fail "--json: exit status $status"
}

has()
{
    grep -qE -- "$1" "$tmp/out" || { cat "$tmp/out"; fail "no row \"$1\""; }
}

# a cache of its own: what lies in the user's is no matter of this test
export XDG_CACHE_HOME="$tmp/good"
mkdir -p "$tmp/good/puna/models"
ln -s "$model" "$tmp/good/puna/models/"
doctor 0
python3 - "$tmp/json" <<'P'
import json, os, re, sys
j = json.load(open(sys.argv[1]))
assert j["ok"] is True, j
rows = {r["name"]: r for r in j["checks"]}
assert len(rows) == len(j["checks"]), "a row twice"
want = {"cpu", "avx2", "avx512", "avx512_bf16", "amx", "kernels", "threads", "memory", "cgroup", "numa", "pinning", "huge pages",
        "gpu", "cache", "models", "default model", "sandbox", "locale", "terminal", "environment"}
assert set(rows) == want, want ^ set(rows)
assert all(r["status"] in ("ok", "off", "problem") and r["text"] for r in rows.values())
assert rows["sandbox"]["status"] == "ok", rows["sandbox"]
assert rows["threads"]["allowed"] == len(os.sched_getaffinity(0)), rows["threads"]
total = int(re.search(r"MemTotal: *(\d+) kB", open("/proc/meminfo").read())[1]) * 1024
assert rows["memory"]["total"] == total and 0 < rows["memory"]["available"] <= total, rows["memory"]
cpu = re.search(r"^flags\s*:(.*)$", open("/proc/cpuinfo").read(), re.M)
flags = set(cpu[1].split()) if cpu else set()
need = {"avx2": {"avx2", "fma", "f16c", "bmi2"},
        "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"},
        "avx512_bf16": {"avx512_bf16"}, "amx": {"amx_tile", "amx_bf16", "amx_int8"}}
by = rows["kernels"]["text"].split(":")[0] # the highest of those that are there, and what runs
assert by == j["isa"] == ([n for n in need if rows[n]["status"] == "ok"] or ["generic"])[-1], rows["kernels"]
so_far = set()
for name, words in need.items(): # Linux lists what it allows
    so_far |= words
    if name != "amx" or not so_far <= flags: # AMX asks for permission besides
        assert (rows[name]["status"] == "ok") == (so_far <= flags), rows[name]
P
grep -q "$(sed -n 's/.*HUB_DEFAULT_SHA256 "\(.*\)"/\1/p' src/hub/models.h)" script/assets.txt ||
    fail 'src/hub/models.h has another digest than script/assets.txt'

# a machine of two nodes, as hwloc describes it: threads stay on their node
export HWLOC_SYNTHETIC="node:2 core:4 pu:2"
doctor 0
unset HWLOC_SYNTHETIC
has '^ok       numa           2 nodes that may be used, 4[+]4 cores, 16 CPUs'
has '^ok       pinning        threads stay on their node'

# a variable that is misspelt, one that is none of ours, a locale of seven bits
export PUNA_THREDS=3 PUNA_QQQQQQQQQQQQ=1 PUNA_SEED=1
LC_ALL=C doctor 1
has '^problem  environment .*PUNA_THREDS.*PUNA_THREADS'
has '^off      environment .*PUNA_QQQQQQQQQQQQ'
has '^ok       environment    1 options'
has '^off      locale'
unset PUNA_THREDS PUNA_QQQQQQQQQQQQ PUNA_SEED

# an empty cache, a damaged default model, a broken file beside it, a cache that cannot be made
export XDG_CACHE_HOME="$tmp"
doctor 1
has '^problem  default model'
has 'fix: script/setup'
mkdir -p "$tmp/puna/models"
cp "$model" "$tmp/puna/models/"
printf 'x' | dd of="$tmp/puna/models/${model##*/}" bs=1 seek=50000000 conv=notrunc 2>"$tmp/dd"
printf 'GGUF' >"$tmp/puna/models/cut.gguf"
doctor 1
has '^problem  default model  .*is damaged'
has '^problem  model .*cut.gguf'
has '^ok       models         1 usable of 2'
rm -r "$tmp/puna"
export XDG_CACHE_HOME=/dev/null/nowhere
doctor 1
has '^problem  cache .*cannot be written'
echo ok
