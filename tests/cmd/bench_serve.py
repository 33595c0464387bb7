"""`puna bench serve` against `puna serve`. Usage: bench_serve.py PUNA SCRATCH_FOLDER"""
import json
import subprocess
import xml.etree.ElementTree

from server import PUNA, TMP, Server


def bench(*args, want=0, name=("bench", "serve")):
    p = subprocess.run([PUNA, *name, *args], capture_output=True, text=True)
    assert p.returncode == want, f"{args}: {p.returncode}: {p.stdout}{p.stderr}"
    return p


def ordered(d):
    assert 0 <= d["p50"] <= d["p90"] <= d["p99"] <= d["max"] and d["mean"] <= d["max"], d


def check(level, requests, tokens, may_end=False):
    assert level["errors"] == 0 and level["first_error"] is None, level
    most = requests * tokens
    assert level["requests"] == requests and level["output_tokens"] <= most, level
    assert level["output_tokens"] >= (requests if may_end else most), level
    for k in ("ttft_ms", "itl_ms", "tpot_ms", "e2e_ms"):
        ordered(level[k])
    assert level["ttft_ms"]["n"] == level["e2e_ms"]["n"] == requests, level
    assert abs(level["output_tok_per_s"] * level["wall_s"] - level["output_tokens"]) < 1e-3, level


s = Server("--api-key", "k", "-q", "--max-concurrent-requests", "1000")
url = f"http://127.0.0.1:{s.port}"
key = ("--api-key", "k", "--timeout", "100")
for api in ("completions", "chat", "tgi"):
    out = json.loads(bench(url, "--api", api, "-c", "1,4", "-r", "6", "-n", "5", "-p", "40", "--json",
                           "--ttft-target", "0", "--itl-target", "0", *key).stdout)
    assert out["api"] == api and [x["clients"] for x in out["levels"]] == [1, 4], out
    for level, n in zip(out["levels"], (6, 8)):
        check(level, n, 5, may_end=api == "tgi")
        assert level["good"] == n, level
        if api == "completions":  # a chat has its own frame around the prompt
            assert abs(level["prompt_tokens"] / n - 40) < 12, level

# the levels of a run share no prompt: more of them would measure the server's cache. A common word
# or two are less than a block of it.
asked = s.metric("puna_prompt_tokens")
found = s.metric("puna_prompt_tokens_cached")
bench(url, "-c", "1,4", "-r", "6", "-n", "2", "-p", "80", "--seed", "9", *key)
asked = s.metric("puna_prompt_tokens") - asked
found = s.metric("puna_prompt_tokens_cached") - found
assert asked > 14 * 60 and found == 0, (asked, found)

# an open loop, with a target that nothing meets; the plot is XML with a mark for each level
out = json.loads(bench(url + "/v1/", "--rate", "50,100", "-r", "10", "-n", "4", "--json", "--svg",
                       f"{TMP}/load.svg", "--ttft-target", "1e-6", *key).stdout)
assert [x["rate"] for x in out["levels"]] == [50, 100] and "clients" not in out["levels"][0], out
for level in out["levels"]:
    check(level, 10, 4)
    assert level["good"] == 0 and level["good_req_per_s"] == 0, level
svg = xml.etree.ElementTree.parse(f"{TMP}/load.svg").getroot()
assert len(svg.findall("{http://www.w3.org/2000/svg}circle")) == 3 * 3 * 2

# prompts of a file, as many as there are; the table has a line for each level
with open(f"{TMP}/prompts", "w") as f:
    f.write("Once upon a time\n\nA second one, longer than the first\n")
p = bench(url, "--prompts", f"{TMP}/prompts", "-c", "2", "-r", "4", "-n", "3", *key,
          name=["bench_serve"])
rows = p.stdout.splitlines()
assert len(rows) == 2 and "TTFT" in rows[0] and rows[1].split()[-1] == "0", p.stdout

# sampled answers; a temperature that the server refuses comes to it
for api in ("completions", "tgi"):
    out = json.loads(bench(url, "--api", api, "-c", "2", "-r", "4", "-n", "3", "--json",
                           "--temperature", "1", *key).stdout)
    check(out["levels"][0], 4, 3, may_end=api == "tgi")
p = bench(url, "-c", "1", "-r", "2", "--temperature", "3", *key, want=1)
assert "temperature" in p.stderr, p.stderr

# failures: a wrong key, nobody there, lists that are none
p = bench(url, "--prompts", f"{TMP}/prompts", "-c", "1", "-r", "2", want=1)
assert "HTTP 401" in p.stderr and p.stdout.splitlines()[1].split()[-1] == "2", p
s.stop()
p = bench(url, want=5)
assert "refused" in p.stderr, p.stderr
for bad in (("-c", "1,x"), ("--rate", "0"), ("-c", "1.5"), ("-c", ""), ("https://127.0.0.1",)):
    bench(*bad, want=2)
print("ok")
