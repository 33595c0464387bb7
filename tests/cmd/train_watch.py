"""What a run tells: reports, event files, bad rows by number, early ends; and kill -9 at random
points (PUNA_KILLS of them, 6 by default)."""
import glob
import json
import os
import random
import signal
import subprocess
import tempfile
import time

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
    test_kills(tmp, golden_rows(tmp))
    test_reports(tmp, f"{tmp}/rows.jsonl")
    test_spike(tmp)
print("ok")
