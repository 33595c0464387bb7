"""DoRA, dropout, noise, other optimisers and roundings: against PEFT, themselves, after kill -9."""
import json
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
    "smooth": ["--use-peft", "--label-smoothing-factor", 0.1],
    "dynamic": ["--use-peft", "--loss-type", "dft"],
    "drops": ["--use-peft", "--use-dora", "--lora-dropout", 0.3, "--lora-target-modules", "v_proj",
              "o_proj", "lm_head"],
    "pairs": ["--use-peft", "--lora-target-modules", "embed_tokens", "lm_head", "q_proj",
              "--lora-dropout", 0.1],
    "adam8": ["--use-peft", "--optim", "paged_adamw_8bit"],
    "factor": ["--optim", "adafactor", "--stochastic-rounding"],
    "bf16": ["--optim", "adamw_8bit", "--stochastic-rounding", "--neftune-noise-alpha", 1],
}


def test_golden(tmp, rows):
    for name in ("dora", "embed"):
        out = f"{tmp}/golden-{name}"
        puna("sft", MODEL, "--train-file", rows, "-o", out, *COMMON, "--adapter-init",
             f"{DATA}/{name}_init", "--lr-scheduler-type", "constant", "--batch-size", 2, "--lr",
             2e-3, "--max-steps", 4)
        follows(out, f"{name}.json", PLAIN)
    with open(f"{tmp}/golden-embed/adapter_config.json") as f:
        assert json.load(f)["target_modules"] == ["q_proj", "embed_tokens", "lm_head"]


def test_new_pairs(tmp, rows):
    """At first the model is as it was; where embedding and head are one, the pairs are two."""
    args = ["--train-file", rows, *COMMON, "--use-peft", "--lora-r", 4, "--batch-size", 2,
            "--max-steps", 4, "--lr", 1e-2]
    pairs = ["--lora-target-modules", "embed_tokens", "lm_head", "q_proj"]
    puna("sft", MODEL, *args, "-o", f"{tmp}/q")
    puna("sft", MODEL, *args, "-o", f"{tmp}/e", *pairs)
    assert losses(f"{tmp}/q")[0] == losses(f"{tmp}/e")[0]
    t = tensors(f"{tmp}/e/adapter_model.safetensors")
    name = "base_model.model.model.embed_tokens.lora_embedding_"
    b = t[name + "B"]
    assert len(t[name + "A"]) == 4 * 1024 and len(b) == 256 * 4 and any(t[name + "A"])
    assert 0.9 < sum(x * x for x in b) / len(b) < 1.1 and abs(sum(b) / len(b)) < 0.1, "not normal"
    os.mkdir(f"{tmp}/tied")
    subprocess.run(["python3", "tests/micro.py", f"{tmp}/tied", "--tied"], check=True)
    puna("sft", f"{tmp}/tied", *args, "-o", f"{tmp}/te", *pairs, "--batch-size", 80)
    assert losses(f"{tmp}/te")[-1] < losses(f"{tmp}/te")[0]
    t = tensors(f"{tmp}/te/adapter_model.safetensors")
    assert "base_model.model.lm_head.lora_B.weight" in t and any(t[name + "A"])
    puna("run", f"{tmp}/tied", "Why?", "--adapter", f"{tmp}/te", "-n", 1, "--template", "llama3")


def test_parts(tmp, rows):
    """Each learns, gives the same bits at any number of threads, whether activations are kept or
    made again, and after a kill."""
    for name, more in PARTS.items():
        args = ["sft", MODEL, "--train-file", rows, "--bf16", "--logging-steps", 1,
                "--batch-size", 2, "--max-steps", 6, "--lr", 5e-3 if "--use-peft" in more else 2e-4, "--quiet",
                "--save-steps", 2, *more]
        one, two, killed = (f"{tmp}/{name}-{k}" for k in ("one", "two", "killed"))
        said = puna(*args, "-o", one, "-t", 1).stderr
        assert ("is adamw_8bit here" in said) == (name == "adam8"), said
        puna(*args, "-o", two, "-t", 3, "--gradient-checkpointing")
        assert metrics(one) == metrics(two), name
        file = "adapter_model.safetensors" if "--use-peft" in more else "model.safetensors"
        same_files(one, two, file)
        assert name == "dynamic" or min(losses(one)[3:]) < losses(one)[0], (name, losses(one))
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
    few = [*args, "--max-steps", 4, "--logging-steps", 1, "--lr", 1e-3, "--quiet", "--lr-scheduler-type"]
    puna(*few, "cosine_with_min_lr", "--lr-scheduler-kwargs", '{"min_lr": 0.00025}')
    near([r["learning_rate"] for r in metrics(f"{tmp}/r")][2:3], [0.000625], 1e-6, "half way")
    puna(*few, "cosine_with_min_lr", fails="needs --lr-scheduler-kwargs")
    puna(*few, "polynomial", "--lr-scheduler-kwargs", '{"pow": 1}', fails="there is num_cycles, power")
    puna(*args, "--loss-type", "dft", "--label-smoothing-factor", 0.1, fails="do not go together")
    puna(*args, "--use-dora", "--lora-target-modules", "embed_tokens", fails="leave embed_tokens out")
    puna(*args, "--lora-target-modules", "lm_head", "--lora-modules-to-save", "lm_head",
         fails="lm_head learns whole")
    puna(*args, "--lora-target-modules", "norm", fails="embed_tokens, lm_head and all-linear")
    puna(*args, "--stochastic-rounding", fails="whole model in bf16")
    puna(*args, "--lora-modules-to-save", "k_proj", fails="post_attention_layernorm")


with tempfile.TemporaryDirectory() as tmp:
    test_golden(tmp, golden_rows(tmp))
    test_new_pairs(tmp, f"{tmp}/rows.jsonl")
    test_parts(tmp, f"{tmp}/rows.jsonl")
print("ok")
