"""puna sft, dpo and kto with --device cuda: what torch and PEFT recorded, the CPU beside it, the same
bits twice, and what is refused. Says that it was not run where there is no GPU."""
import subprocess
import sys
import tempfile

from trainkit import *  # noqa: F403

CUDA = ["--device", "cuda"]


def test_beside_cpu(tmp, rows):
    """LoRA in bf16, beside every matrix, with and without a quantised base: near the CPU's, and twice
    the same, activations kept or made again."""
    args = ["sft", MODEL, "--train-file", rows, "--use-peft", "--lora-target-modules", "all-linear",
            "--lora-r", 4, "--lora-dropout", 0.1, "--neftune-noise-alpha", 2, "--max-steps", 6,
            "--batch-size", 3, "--gradient-accumulation-steps", 2, "--lr", 1e-3, "--save-steps", 3,
            "--logging-steps", 1, "--quiet"]
    for i, more in enumerate(([], ["--load-in-4bit"], ["--use-dora"])):
        cpu, one, two = (f"{tmp}/{name}{i}" for name in ("cpu", "one", "two"))
        puna(*args, *more, "-o", cpu)
        puna(*args, *more, "-o", one, *CUDA)
        puna(*args, *more, "-o", two, *CUDA, "--gradient-checkpointing")
        near(losses(one), losses(cpu), 5e-3, more)
        assert metrics(one) == metrics(two)
        same_files(one, two, "adapter_model.safetensors")
        puna(*args, *more, "-o", two, *CUDA, "--resume-from-checkpoint", f"{two}/checkpoint-3")
        same_files(one, two, "adapter_model.safetensors")


def test_parts(tmp, rows):
    """Losses, optimisers and pairs that are asked for seldom: near the CPU's, twice the same, and after
    resuming."""
    pairs = ["--lora-target-modules", "embed_tokens", "lm_head", "q_proj", "--lora-r", 4]
    parts = (["--use-peft", "--label-smoothing-factor", 0.1], ["--use-peft", "--loss-type", "dft"],
             ["--use-peft", *pairs], ["--use-peft", *pairs, "--optim", "adafactor"], ["--optim", "adafactor"],
             ["--optim", "adafactor", "--stochastic-rounding"], ["--use-peft", "--optim", "adamw_8bit"])
    for i, more in enumerate(parts):
        peft = "--use-peft" in more
        args = ["sft", MODEL, "--train-file", rows, "--bf16", "--logging-steps", 1, "--batch-size", 2,
                "--max-steps", 6, "--lr", 5e-3 if peft else 2e-4, "--quiet", "--save-steps", 3, *more]
        cpu, one, two = (f"{tmp}/{name}-part{i}" for name in ("cpu", "one", "two"))
        puna(*args, "-o", cpu)
        puna(*args, "-o", one, *CUDA)
        near(losses(one), losses(cpu), 5e-2 if "dft" in more else 1e-2, more) # of exp(-loss)
        puna(*args, "-o", two, *CUDA, "--gradient-checkpointing")
        puna(*args, "-o", two, *CUDA, "--resume-from-checkpoint", f"{two}/checkpoint-3")
        assert metrics(one)[-1] == metrics(two)[-1]
        same_files(one, two, "adapter_model.safetensors" if peft else "model.safetensors")


def main():
    why = subprocess.run([PUNA, "run", MODEL, "--device", "cuda", "x"], capture_output=True, text=True)
    for reason in ("there is no NVIDIA driver", "sees no device", "built without nvcc", "does not start"):
        if reason in why.stderr:
            print(f"not run: {why.stderr.strip()}")
            print("[  SKIPPED ] 1 test(s)")
            return
    with tempfile.TemporaryDirectory() as tmp:
        rows = golden_rows(tmp)
        run_full(tmp, rows, *CUDA)
        run_lora(tmp, rows, *CUDA)
        run_preference(tmp, *golden_pairs(tmp), *CUDA)
        test_beside_cpu(tmp, rows)
        test_parts(tmp, rows)


main()
