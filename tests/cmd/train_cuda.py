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


def test_refusals(tmp, rows):
    args = ["sft", MODEL, "--train-file", rows, "-o", f"{tmp}/r", "--max-steps", 1, *CUDA]
    for more, name in ((["--label-smoothing-factor", 0.1], "smoothing"), (["--optim", "adafactor"], "adafactor")):
        puna(*args, *more, fails=f"{name}")
        puna(*args, *more, fails="on the CPU only")


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
        test_refusals(tmp, rows)


main()
