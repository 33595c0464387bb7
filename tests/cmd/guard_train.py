"""puna guard train: a head that learns three words, its files, refusals, and runs that go on bit for bit."""
import csv
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile

from trainkit import puna, same_files, tensors, write_rows

NAMES = ["BENIGN", "INJECTION", "JAILBREAK"]
WORDS = "the quick brown fox jumps over the lazy dog and it is late".split()
KEYS = [["hello"] * 3, ["system"] * 3, ["ignore"] * 3]


def make_rows(n):
    """Two rows of three are harmless; labels by name in any case, or by number."""
    rng, rows = random.Random(3), []
    for i in range(n):
        c = i % 6 - 3 if i % 6 > 3 else 0
        text = [rng.choice(WORDS) for _ in range(rng.randint(1, 3))] + KEYS[c]
        rng.shuffle(text)
        rows.append({"text": " ".join(text), "label": [NAMES[c], NAMES[c].lower(), c, str(c)][rng.randrange(4)]})
    return rows


def result(*args):
    return json.loads(puna("guard", "train", *args, "--json", "--quiet").stdout)


def test_learns(tmp, model, rows):
    out = f"{tmp}/out"
    r = result(model, "--train-file", rows, "-o", out, "--epochs", 60, "--lr", 3e-3, "--balance", "--dropout", 0.1)
    assert r["labels"] == NAMES and r["steps"] == 60 * 9, r
    assert r["trained"] == {"BENIGN": 180, "INJECTION": 45, "JAILBREAK": 45}, r["trained"]
    assert r["held_out"] == {"BENIGN": 20, "INJECTION": 5, "JAILBREAK": 5}, r["held_out"]
    a, b = r["before"], r["after"]
    assert a["accuracy"] < 0.75 and b["accuracy"] > 0.85 and b["loss"] < a["loss"] / 2 and b["macro_f1"] > 0.8, (a, b)
    assert sum(map(sum, b["confusion"])) == b["rows"] == 30
    right = sum(b["confusion"][i][i] for i in range(3))
    assert abs(right / 30 - b["accuracy"]) < 1e-5
    # nothing but the head has changed, and puna guard says what was taught
    was, now = tensors(f"{model}/model.safetensors"), tensors(f"{out}/model.safetensors")
    changed = {n for n in was if was[n] != now[n]}
    assert changed == {"pooler.dense.weight", "pooler.dense.bias", "classifier.weight", "classifier.bias"}, changed
    same_files(model, out, "config.json", "tokenizer.json")
    for text, unsafe in (("ignore the lazy ignore ignore", True), ("hello hello the fox hello", False)):
        run = subprocess.run([sys.argv[1], "guard", out, text], capture_output=True, text=True)
        assert run.returncode == 3 * unsafe, (text, run.stdout)
    with open(f"{out}/metrics.jsonl") as f:
        last = json.loads(f.readlines()[-1])
    assert last["step"] == 540 and abs(last["eval_loss"] - b["loss"]) < 1e-5 and "rows_per_s" in last
    table = puna("guard", "train", model, "--train-file", rows, "-o", f"{tmp}/t", "--epochs", 1).stdout
    assert "JAILBREAK       45        5" in table and "rows held out: loss" in table, table


def test_files(tmp, model, rows):
    """CSV and other columns give the same head; without rows held out the rows trained on are measured."""
    with open(rows) as f:
        data = [json.loads(x) for x in f]
    with open(f"{tmp}/rows.csv", "w", newline="") as f:
        w = csv.writer(f)
        w.writerow(["what", "kind"])
        w.writerows([d["text"], d["label"]] for d in data)
    args = ["--eval-split", 0, "--max-steps", 12]
    a = result(model, "--train-file", rows, "-o", f"{tmp}/a", *args, "-t", 1)
    b = result(model, "--train-file", f"{tmp}/rows.csv", "-o", f"{tmp}/b", *args, "-t", 3, "--text-field", "what",
               "--label-field", "kind")
    assert a == b and a["after"]["rows"] == 300 and a["held_out"]["BENIGN"] == 0, a
    same_files(f"{tmp}/a", f"{tmp}/b", "model.safetensors")
    held = result(model, "--train-file", rows, "--eval-file", rows, "-o", f"{tmp}/c", "--max-steps", 12)
    assert held["trained"] == held["held_out"] == a["trained"]
    assert abs(held["after"]["loss"] - a["after"]["loss"]) < 1e-5
    # four rows at a time, eight times, is a batch of 32
    c = result(model, "--train-file", rows, "-o", f"{tmp}/d", *args, "--batch-size", 4, "--gradient-accumulation-steps", 8)
    assert abs(c["after"]["loss"] - a["after"]["loss"]) < 1e-4, (a, c)


def test_ends(tmp, model, rows):
    r = result(model, "--train-file", rows, "-o", f"{tmp}/e", "--lr", 0.3, "--epochs", 30, "--lr-scheduler-type",
               "constant", "--early-stopping-patience", 2, "--load-best-model-at-end", "--report-to", "tensorboard")
    with open(f"{tmp}/e/trainer_state.json") as f:
        state = json.load(f)
    assert r["steps"] == state["global_step"] < 270 and r["best_step"] == state["best_global_step"] < r["steps"]
    assert abs(r["after"]["loss"] - state["best_metric"]) < 1e-5
    assert os.listdir(f"{tmp}/e/runs") and os.path.exists(f"{tmp}/e/report.html")


def test_resume(tmp, model, rows):
    args = ["--train-file", rows, "--epochs", 4, "--dropout", 0.2, "--save-steps", 5, "--save-total-limit", 0]
    whole, half = f"{tmp}/whole", f"{tmp}/half"
    a = result(model, *args, "-o", whole)
    shutil.copytree(f"{whole}/checkpoint-15", f"{half}/checkpoint-15")
    b = result(model, *args, "-o", half, "--resume-from-checkpoint", "last")
    assert a == b
    same_files(whole, half, "model.safetensors")
    keys = ("step", "loss", "grad_norm", "eval_loss")
    read = lambda d: [[json.loads(x).get(k) for k in keys] for x in open(f"{d}/metrics.jsonl")]
    assert read(whole) == read(half)
    puna("guard", "train", model, *args, "-o", half, "--resume-from-checkpoint", "last", "--lr", 1, fails="learning_rate")


def test_refusals(tmp, model, rows):
    def bad(row, why):
        file = write_rows(f"{tmp}/bad.jsonl", [{"text": "a", "label": 0}, row])
        puna("guard", "train", model, "--train-file", file, "-o", f"{tmp}/x", fails=why)

    bad({"text": "a", "label": "EVIL"}, 'row 2: label "EVIL"; the model has 0 BENIGN, 1 INJECTION, 2 JAILBREAK')
    bad({"text": "a", "label": 3}, "label 3")
    bad({"text": "a", "label": 0.5}, "label 0.5")
    bad({"text": "a", "label": True}, "label true")
    bad({"text": "a"}, "no 'label'")
    bad({"text": 7, "label": 0}, "no text 'text'")
    puna("guard", "train", "tests/data/tiny-llama31", "--train-file", rows, "-o", f"{tmp}/x", fails="no Prompt Guard")
    puna("guard", "train", model, "-o", f"{tmp}/x", fails="--train-file FILE is needed")
    puna("guard", "train", model, "--train-file", rows, "-o", f"{tmp}/x", "--eval-split", 0,
         "--load-best-model-at-end", fails="need rows held out")
    puna("guard", "train", model, "--train-file", rows, "-o", f"{tmp}/x", "--lr-scheduler-type", "x", fails="linear, cosine")
    long = write_rows(f"{tmp}/long.jsonl", [{"text": "fox " * 2000, "label": 0}, {"text": "ignore", "label": 2}])
    err = puna("guard", "train", model, "--train-file", long, "-o", f"{tmp}/l", "--epochs", 1, "--eval-split", 0).stderr
    assert "1 texts were cut at 512 tokens" in err and "no text is INJECTION" in err, err


with tempfile.TemporaryDirectory() as TMP:
    subprocess.run([sys.executable, "tests/cmd/guard_prompt.py", f"{TMP}/model"], check=True)
    ROWS = write_rows(f"{TMP}/rows.jsonl", make_rows(300))
    test_learns(TMP, f"{TMP}/model", ROWS)
    test_files(TMP, f"{TMP}/model", ROWS)
    test_ends(TMP, f"{TMP}/model", ROWS)
    test_resume(TMP, f"{TMP}/model", ROWS)
    test_refusals(TMP, f"{TMP}/model", ROWS)
print("ok")
