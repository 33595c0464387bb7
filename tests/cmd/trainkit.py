"""What the tests of puna sft, dpo and kto share."""
import array
import json
import struct
import subprocess
import sys

PUNA, MODEL, DATA = sys.argv[1], "tests/data/tiny-llama31", "tests/data/train"
FINAL = "tests/data/adapters/final"


def tensors(path):
    with open(path, "rb") as f:
        raw = f.read()
    n = struct.unpack("<Q", raw[:8])[0]
    out = {}
    for name, t in json.loads(raw[8:8 + n]).items():
        if name != "__metadata__":
            a = array.array({"I32": "i", "F32": "f"}[t["dtype"]])
            a.frombytes(raw[8 + n + t["data_offsets"][0]:8 + n + t["data_offsets"][1]])
            out[name] = a
    return out


def write_rows(path, rows):
    with open(path, "w") as f:
        f.writelines(json.dumps(r) + "\n" for r in rows)
    return path


def puna(*args, fails=None):
    run = subprocess.run([PUNA, *map(str, args)], capture_output=True, text=True, timeout=600)
    if fails is None:
        assert run.returncode == 0, f"puna {args}: {run.stderr}"
    else:
        assert run.returncode != 0 and fails in run.stderr, f"{args}: {fails!r} not in {run.stderr}"
    return run


def metrics(folder):
    with open(f"{folder}/metrics.jsonl") as f:
        rows = [json.loads(line) for line in f]
    for r in rows:
        del r["tokens_per_s"]
    return rows


def far(a, b):
    return (sum((x - y) ** 2 for x, y in zip(a, b)) / sum(y * y for y in b)) ** 0.5


def follows(folder, golden, keys, tolerance=1e-4):
    with open(f"{DATA}/{golden}") as f:
        want = json.load(f)["log"]
    got = metrics(folder)
    assert len(got) == len(want), (golden, len(got))
    for g, w in zip(got, want):
        for theirs, ours in keys.items():
            assert abs(g[ours] - w[theirs]) <= tolerance * max(abs(w[theirs]), 1e-3), \
                f"{golden} step {g['step']}: {ours} {g[ours]}, {w[theirs]} wanted"


PLAIN = {k: k for k in ("loss", "grad_norm", "learning_rate")}
PAIRS = {"loss": "loss", "rewards_chosen": "rewards/chosen", "rewards_rejected": "rewards/rejected",
         "logps_chosen": "logps/chosen", "logps_rejected": "logps/rejected"}
COMMON = ["--dtype", "f32", "--no-shuffle", "--logging-steps", 1, "--quiet", "-t", 2]
FROM = ["--adapter-init", f"{DATA}/lora_init", "--lr-scheduler-type", "constant"]


def same_files(a, b, *names):
    for name in names:
        with open(f"{a}/{name}", "rb") as x, open(f"{b}/{name}", "rb") as y:
            assert x.read() == y.read(), f"{a}/{name} and {b}/{name} differ"


def losses(folder):
    return [r["loss"] for r in metrics(folder)]


def near(a, b, tolerance, what):
    assert len(a) == len(b) and all(abs(x - y) <= tolerance * abs(y) for x, y in zip(a, b)), \
        (what, a, b)


def golden_rows(tmp):
    """The rows that the goldens were trained on."""
    b = tensors(f"{DATA}/batches.safetensors")
    cut = lambda a, i: list(a[i * 64:(i + 1) * 64])
    return write_rows(f"{tmp}/rows.jsonl", [{"input_ids": cut(b["ids"], i),
                                             "labels": cut(b["labels"], i)} for i in range(80)])
