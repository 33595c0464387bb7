"""What a run tells: reports, event files, bad rows by number, early ends; and kill -9 at random
points (PUNA_KILLS of them, 6 by default)."""
import glob
import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import tempfile
import time
import zlib

from trainkit import *  # noqa: F403


def test_reports(tmp, rows):
    """Evaluation worsens on rows of other tokens: the run ends, and its result is the best."""
    held = write_rows(f"{tmp}/held.jsonl", [{"input_ids": [900 - i for i in range(40)]}])
    out = f"{tmp}/out"
    err = puna("sft", MODEL, "--train-file", rows, "--eval-file", held, "-o", out, "--use-peft",
               "--batch-size", 2, "--max-steps", 40, "--lr", 3e-2, "--eval-steps", 1,
               "--lr-scheduler-type", "constant", "--early-stopping-patience", 3, "--save-steps", 0,
               "--load-best-model-at-end", "--report-to", "tensorboard").stderr
    assert "stopped at step " in err and "the result is that of step " in err and "MFU" in err, err
    assert "MiB at most with the model" in err, err
    with open(f"{out}/trainer_state.json") as f:
        state = json.load(f)
    best, step = state["best_global_step"], state["global_step"]
    assert step == best + 3 < 40, (best, step)
    assert state["best_metric"] == min(r["eval_loss"] for r in state["log_history"])
    same_files(out, f"{out}/checkpoint-{best}", "adapter_model.safetensors")
    with open(f"{out}/report.html") as f:
        page = f.read()
    assert page.count("<svg") >= 3 and "evaluation" in page and "http" not in page
    with open(glob.glob(f"{out}/runs/events.out.tfevents.*")[0], "rb") as f:
        events = f.read()
    assert events.count(b"train/loss") == step and events.count(b"eval/loss") == step
    puna("sft", MODEL, "--train-file", rows, "-o", out, "--early-stopping-patience", 1,
         fails="need an --eval-file")
    # a share of the rows instead: each is in one part alone, and the file's order stays
    said = puna("sft", MODEL, "--train-file", rows, "-o", out, "--eval-split", 0.25, "--max-steps", 2,
                "--use-peft", "--early-stopping-patience", 1).stderr
    assert "20 examples are held out" in said and "60 examples, 3840 tokens" in said, said
    puna("sft", MODEL, "--train-file", rows, "-o", out, "--eval-split", 0.25, "--eval-file", rows,
         fails="both say what is held out")


def test_memory(tmp):
    """What no machine holds is refused before the first step, with the nearest run that fits."""
    with open(f"{tmp}/many.jsonl", "w") as f:
        f.writelines([json.dumps({"input_ids": [5] * 1000}) + "\n"] * 2000)
    args = ["sft", MODEL, "--train-file", f"{tmp}/many.jsonl", "-o", f"{tmp}/m", "--use-peft",
            "--lora-target-modules", "all-linear", "--batch-size", 2000]
    said = puna(*args, "--lora-r", 8192, fails="are free; --per-device-train-batch-size ").stderr
    words = said.split("are free; ")[1].split()
    batch, steps = int(words[1]), int(words[3])
    assert words[2] == "--gradient-accumulation-steps" and words[4] == "fits", said
    assert 1 <= batch < 2000 and batch * steps >= 2000 > batch * (steps - 1), said
    assert not os.path.exists(f"{tmp}/m/metrics.jsonl")
    puna(*args, "--lora-r", 65536, "--lora-alpha", 1, fails="are free; ")


def test_judged(tmp):
    """What DPO and KTO say of rows held out is the next step's loss where those are the same rows."""
    chat = lambda i: {"prompt": [5, i, 9], "chosen": [i + 40, 7], "rejected": [i + 80, 3, 4]}
    file = write_rows(f"{tmp}/pairs.jsonl", [chat(i) for i in range(6)])
    for command, more in (("dpo", []), ("dpo", ["--loss-type", "orpo"]), ("kto", ["--batch-size", 12])):
        out = f"{tmp}/judged"
        puna(command, MODEL, "--train-file", file, "--eval-file", file, "-o", out, *COMMON, "--use-peft", "--lr", 1e-2,
             "--batch-size", 6, "--max-steps", 4, "--eval-steps", 1, "--lr-scheduler-type", "constant",
             "--load-best-model-at-end", *more)
        log = metrics(out)
        assert [r["step"] for r in log] == [1, 2, 3, 4]
        for now, after in zip(log, log[1:]):
            near([now["eval_loss"]], [after["loss"]], 1e-4, (command, more))
            near([now["eval_rewards/margins"] + 1], [after["rewards/margins"] + 1], 1e-4, (command, more))
            if command == "dpo":
                assert abs(now["eval_rewards/accuracies"] - after["rewards/accuracies"]) < 1e-9, (now, after)
        with open(f"{out}/trainer_state.json") as f:
            assert json.load(f)["best_metric"] == min(r["eval_loss"] for r in log)
        subprocess.run(["rm", "-r", out], check=True)


def wandb_records(path):
    """The records of a .wandb file, each as fields {number: [values]}; pieces and checksums are checked."""
    with open(path, "rb") as f:
        raw = f.read()
    assert raw[:7] == b":W&B\xe1\xbe\0", raw[:7]
    at, out, data, kinds = 7, [], b"", set()
    while at < len(raw):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        crc, n, kind = struct.unpack("<IHB", raw[at:at + 7])
        part = raw[at + 7:at + 7 + n]
        assert len(part) == n and crc == zlib.crc32(part, zlib.crc32(bytes([kind]))), at
        at, data = at + 7 + n, part if kind in (1, 2) else data + part
        kinds.add(kind)
        if kind in (1, 4):
            out.append(fields(data))
    assert [r[1][0] for r in out] == list(range(1, len(out) + 1)), "numbers of records"
    return out, kinds


def fields(b):
    """A message of protocol buffers: numbers as they are, the rest as bytes."""
    out, at = {}, 0

    def varint():
        nonlocal at
        v = shift = 0
        while True:
            byte, at = b[at], at + 1
            v, shift = v | (byte & 127) << shift, shift + 7
            if byte < 128:
                return v

    while at < len(b):
        key = varint()
        v = varint()
        if key & 7 == 2:
            v, at = b[at:at + v], at + v
        out.setdefault(key >> 3, []).append(v)
    return out


def items(message):
    return {i[1][0].decode(): json.loads(i[16][0]) for i in map(fields, message[1])}


def test_wandb(tmp):
    rows = write_rows(f"{tmp}/short.jsonl", [{"input_ids": [i, 7, i + 3, 9]} for i in range(80)])
    args = ["sft", MODEL, "--train-file", rows, "-o", f"{tmp}/w", "--use-peft", "--batch-size", 1, "--lora-r", 1,
            "--logging-steps", 1, "--quiet", "--report-to", "wandb", "--run-name", "a try",
            "--max-steps", 80, "--save-steps", 40]
    puna(*args)
    path, = glob.glob(f"{tmp}/w/wandb/offline-run-*/run-*.wandb")
    records, kinds = wandb_records(path)
    name = os.path.basename(path)[4:-6]
    assert os.path.dirname(path).endswith("-" + name) and len(name) == 8, path
    # a record lies across the end of a block, unless one just ends there: times are of any length
    assert os.path.getsize(path) > 32768 and kinds in ({1, 2, 4}, {1}), kinds
    run = fields(records[1][17][0])
    assert run[1] == [name.encode()] and run[3] == [b"puna"] and run[8] == [b"a try"], run
    assert items(fields(run[4][0]))["steps"] == 80
    history = [fields(r[2][0]) for r in records if 2 in r]
    assert [fields(h[2][0])[1][0] for h in history] == list(range(1, 81))
    assert [items(h)["train/loss"] for h in history] == losses(f"{tmp}/w")
    assert items(history[-1])["_step"] == 80 and items(fields(records[-2][2][0])) == items(history[-1])
    assert fields(records[-1][18][0])[1] == [0], "the run ended by itself"
    # a run that goes on is the same run
    puna(*args, "--resume-from-checkpoint", f"{tmp}/w/checkpoint-40")
    assert glob.glob(f"{tmp}/w/wandb/offline-run-*/run-*.wandb") == [path]
    again = [items(fields(r[2][0]))["train/loss"] for r in wandb_records(path)[0] if 2 in r]
    assert again == losses(f"{tmp}/w") and len(again) == 80
    puna(*args, fails=None)
    assert len(glob.glob(f"{tmp}/w/wandb/offline-run-*")) == 2, "a new run is another"


def test_spike(tmp):
    """A row unlike all others is named by its number in the file."""
    same = [{"input_ids": [5 + i % 3 for i in range(32)]}] * 40
    file = write_rows(f"{tmp}/spike.jsonl", same[:30] + [{"input_ids": list(range(700, 732))}] + same)
    err = puna("sft", MODEL, "--train-file", file, "-o", f"{tmp}/s", "--use-peft", "--batch-size", 1,
               "--no-shuffle", "--max-steps", 34, "--lr", 1e-2, "--quiet").stderr
    assert "step 31: loss" in err and f"{file}: 31" in err, err
    # without epsilon the embeddings of tokens that were not seen become 0 / 0
    puna("sft", MODEL, "--train-file", file, "-o", f"{tmp}/n", "--batch-size", 1, "--no-shuffle",
         "--max-steps", 34, "--adam-epsilon", 0, "--quiet", fails="the step's rows (31)")


def test_disk_full(tmp, rows):
    """A checkpoint that there is no room for ends the run with a message; those before it stay whole,
    and the run goes on from there to the same bits."""
    args = ["sft", MODEL, "--train-file", rows, "--use-peft", "--batch-size", 2, "--logging-steps", 1,
            "--save-steps", 1, "--max-steps", 5, "--lr", 1e-3, "--quiet"]
    whole, cut = f"{tmp}/roomy", f"{tmp}/cut"
    puna(*args, "-o", whole)
    shutil.copytree(whole, cut)
    for i in range(3, 6):
        shutil.rmtree(f"{cut}/checkpoint-{i}")
    os.unlink(f"{cut}/adapter_model.safetensors")
    state = f"{cut}/checkpoint-2/optimizer.safetensors"
    most = os.path.getsize(state) // 2
    run = subprocess.run([PUNA, *map(str, args), "-o", cut, "--resume-from-checkpoint", "last"],
                         capture_output=True, text=True, timeout=600, restore_signals=False,
                         preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)))
    assert run.returncode == 1 and "File too large" in run.stderr and cut in run.stderr, run.stderr
    assert sorted(glob.glob(f"{cut}/checkpoint-*")) == [f"{cut}/checkpoint-1", f"{cut}/checkpoint-2"]
    same_files(whole, cut, "checkpoint-2/adapter_model.safetensors", "checkpoint-2/optimizer.safetensors")
    puna(*args, "-o", cut, "--resume-from-checkpoint", "last")
    same_files(whole, cut, "adapter_model.safetensors", "checkpoint-5/optimizer.safetensors")
    assert metrics(whole) == metrics(cut)


def test_kills(tmp, rows):
    """No checkpoint is lost or torn, and the run that goes on ends with the same bits."""
    args = ["sft", MODEL, "--train-file", rows, "--use-peft", "--lora_r", 4, "--batch-size", 2,
            "--logging-steps", 1, "--save-steps", 1, "--save-total-limit", 2, "--max-steps", 8, "--lr",
            1e-3, "--quiet"]
    whole, killed = f"{tmp}/whole", f"{tmp}/killed"
    from_ = time.monotonic()
    puna(*args, "-o", whole)
    took = time.monotonic() - from_
    r = random.Random(7)
    alive = finished = 0
    for _ in range(int(os.environ.get("PUNA_KILLS", 6))):
        run = subprocess.Popen([PUNA, *map(str, args), "-o", killed, "--resume-from-checkpoint",
                                "last"], stderr=subprocess.PIPE, text=True)
        time.sleep(r.uniform(0, took))
        run.send_signal(signal.SIGKILL)
        err = run.communicate()[1]
        assert run.returncode in (0, -signal.SIGKILL), err
        for folder in glob.glob(f"{killed}/checkpoint-?"):
            for name in ("adapter_model.safetensors", "adapter_config.json",
                         "optimizer.safetensors", "trainer_state.json"):
                assert os.path.getsize(f"{folder}/{name}") > 0, (folder, name)
        if glob.glob(f"{killed}/checkpoint-8"):
            finished += 1
            puna(*args, "-o", killed, "--resume-from-checkpoint", "last")
            same_files(whole, killed, "adapter_model.safetensors")
            assert metrics(whole) == metrics(killed)
            subprocess.run(["rm", "-r", killed], check=True)
        else:
            alive += 1
    puna(*args, "-o", killed, "--resume-from-checkpoint", "last")
    same_files(whole, killed, "adapter_model.safetensors", "checkpoint-8/optimizer.safetensors")
    print(f"{alive + finished} kills, {finished} of them after the last checkpoint")


with tempfile.TemporaryDirectory() as tmp:
    test_disk_full(tmp, golden_rows(tmp))
    test_kills(tmp, f"{tmp}/rows.jsonl")
    test_reports(tmp, f"{tmp}/rows.jsonl")
    test_memory(tmp)
    test_judged(tmp)
    test_wandb(tmp)
    test_spike(tmp)
print("ok")
