"""DoRA, dropout, noise, other optimisers and roundings: against PEFT, themselves, after kill -9."""
import os
import signal
import subprocess
import tempfile
import time

from trainkit import *  # noqa: F403

PARTS = {
    "dropout": ["--use-peft", "--lora-dropout", 0.2, "--neftune-noise-alpha", 5],
    "dora": ["--use-peft", "--use-dora", "--lora-target-modules", "q_proj", "down_proj",
             "--lora-modules-to-save", "norm", "embed_tokens"],
    "adam8": ["--use-peft", "--optim", "paged_adamw_8bit"],
    "factor": ["--optim", "adafactor", "--stochastic-rounding"],
    "bf16": ["--optim", "adamw_8bit", "--stochastic-rounding", "--neftune-noise-alpha", 1],
}


def test_dora(tmp, rows):
    out = f"{tmp}/golden"
    puna("sft", MODEL, "--train-file", rows, "-o", out, *COMMON, "--adapter-init",
         f"{DATA}/dora_init", "--lr-scheduler-type", "constant", "--batch-size", 2, "--lr", 2e-3,
         "--max-steps", 4)
    follows(out, "dora.json", PLAIN)


def test_parts(tmp, rows):
    """Each learns, gives the same bits at any number of threads, whether activations are kept or
    made again, and after a kill."""
    for name, more in PARTS.items():
        args = ["sft", MODEL, "--train-file", rows, "--bf16", "--logging-steps", 1,
                "--batch-size", 2, "--max-steps", 6, "--lr", 5e-3 if "--use-peft" in more else 2e-4, "--quiet",
                "--save-steps", 2, *more]
        one, two, killed = (f"{tmp}/{name}-{k}" for k in ("one", "two", "killed"))
        puna(*args, "-o", one, "-t", 1)
        puna(*args, "-o", two, "-t", 3, "--gradient-checkpointing")
        assert metrics(one) == metrics(two), name
        file = "adapter_model.safetensors" if "--use-peft" in more else "model.safetensors"
        same_files(one, two, file)
        assert min(losses(one)[3:]) < losses(one)[0], (name, losses(one))
        run = subprocess.Popen([PUNA, *map(str, args), "-o", killed], stderr=subprocess.DEVNULL)
        for _ in range(2000):
            if os.path.isdir(f"{killed}/checkpoint-2") or run.poll() is not None:
                break
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
        run.wait()
        puna(*args, "-o", killed, "--resume-from-checkpoint", "last")
        same_files(one, killed, file, "checkpoint-6/optimizer.safetensors")
        if "--use-peft" in more:
            puna("run", MODEL, "Why?", "--adapter", one, "-n", 1, "--template", "llama3")
        else:
            puna("inspect", one)
    args = ["sft", MODEL, "--train-file", rows, "-o", f"{tmp}/r", "--use-peft"]
    puna(*args, "--use-dora", "--lora-dropout", 0.1, fails="do not go together")
    puna(*args, "--stochastic-rounding", fails="whole model in bf16")
    puna(*args, "--lora-modules-to-save", "k_proj", fails="post_attention_layernorm")


with tempfile.TemporaryDirectory() as tmp:
    test_dora(tmp, golden_rows(tmp))
    test_parts(tmp, f"{tmp}/rows.jsonl")
print("ok")
