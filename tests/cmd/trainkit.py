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


def run_full(tmp, rows, *more):
    """A whole model as torch trained it."""
    out = f"{tmp}/full"
    puna("sft", MODEL, "--train-file", rows, "-o", out, *COMMON, "--batch-size", 4, "--lr", 1e-3,
         "--weight-decay", 0.01, "--decay-norms", "--lr_scheduler_type=cosine", "--warmup_steps", 2,
         "--max_steps", 20, "--dump-gradients", f"{tmp}/grad.safetensors", "--save-steps", 0, *more)
    follows(out, "full.json", PLAIN)
    want, got = tensors(f"{DATA}/gradients.safetensors"), tensors(f"{tmp}/grad.safetensors")
    for name, g in want.items():
        assert far(got[name[len("grad."):]], g) < 1e-4, name
    return out


def run_lora(tmp, rows, *more):
    """An adapter as PEFT trained it."""
    out = f"{tmp}/lora"
    puna("sft", MODEL, "--train-file", rows, "-o", out, *COMMON, *FROM, "--batch-size", 4,
         "--lr", 2e-3, "--max-steps", 20, *more)
    follows(out, "lora.json", PLAIN)
    want, got = (tensors(f"{d}/adapter_model.safetensors") for d in (FINAL, out))
    assert want.keys() == got.keys()
    for name in want:
        assert far(got[name], want[name]) < 1e-3, name
    return out


PREFERENCE = [*COMMON, *FROM, "--lr", 5e-4, "--max-steps", 10, "--max-grad-norm", 0]


def run_preference(tmp, pairs, judged, *more):
    """DPO, IPO and KTO as torch has them."""
    args = [*PREFERENCE, *more]
    puna("dpo", MODEL, "--train-file", pairs, "-o", f"{tmp}/dpo", *args)
    follows(f"{tmp}/dpo", "dpo.json", PAIRS)
    puna("dpo", MODEL, "--train-file", pairs, "-o", f"{tmp}/ipo", *args, "--loss-type", "ipo")
    follows(f"{tmp}/ipo", "ipo.json", PAIRS)
    puna("kto", MODEL, "--train-file", judged, "-o", f"{tmp}/kto", *args, "--batch-size", 16)
    follows(f"{tmp}/kto", "kto.json", PAIRS)


def golden_pairs(tmp):
    """Pairs and judged rows that the goldens were trained on: two files."""
    p = tensors(f"{DATA}/pref.safetensors")
    cut = lambda a, n, i: list(a[i * n:(i + 1) * n])
    pairs = [{"prompt": cut(p["prompt"], 16, i), "chosen": cut(p["chosen"], 24, i),
              "rejected": cut(p["rejected"], 24, i)} for i in range(8)]
    judged = write_rows(f"{tmp}/judged.jsonl",
                        [{"prompt": r["prompt"], "completion": r[k], "label": k == "chosen"}
                         for k in ("chosen", "rejected") for r in pairs])
    return write_rows(f"{tmp}/pairs.jsonl", pairs), judged
