"""Adapters beside bases of few bits, and the command line of the Llama 3.1 release."""
import os
import subprocess
import sys
import tempfile

from trainkit import *  # noqa: F403

sys.path.insert(0, "tests")
from overlay import main as overlay  # noqa: E402


def test_qlora(tmp, rows):
    """An adapter learns beside any encoding what it learns beside the same values in float32;
    what is quantised on load is what bitsandbytes makes."""
    args = ["--train-file", rows, "--use-peft", *COMMON, "--batch-size", 2, "--max-steps", 3,
            "--lr", 2e-3, "--lora_target_modules", "all-linear"]
    made = {}

    def run(name, model, *more):
        puna("sft", model, *args, "-o", f"{tmp}/{name}", *more)
        made[name] = losses(f"{tmp}/{name}")
        assert made[name][2] < made[name][0], (name, made[name])

    def whole(name):
        out = f"{tmp}/{name}-whole"
        if not os.path.isdir(out):
            parts = ["bnb-nf4", name] if name == "bnb-nf4-dq" else [name]
            overlay(MODEL, *(f"tests/data/quantised/{p}" for p in parts), out=out)
        return out

    for name in ("awq", "bnb-int8", "bnb-nf4-dq", "fbgemm-fp8", "gptq-actorder", "gptq-asym"):
        run(name, whole(name))
        puna("convert", whole(name), f"{tmp}/{name}-f32", "--outtype", "f32")
        run("plain", f"{tmp}/{name}-f32")
        near(made[name], made["plain"], 2e-5, name)
    for name in ("q8_0", "q4_0"):
        puna("convert", MODEL, f"{tmp}/{name}.gguf", "--outtype", name)
        run(name, f"{tmp}/{name}.gguf")
    for ours, theirs, more in (("4", "bnb-nf4", []),
                               ("4dq", "bnb-nf4-dq", ["--use_bnb_nested_quant"])):
        run(ours, MODEL, "--load_in_4bit", *more)
        run(theirs, whole(theirs))
        # the mean that double quantisation takes off has another last bit: a few scales move
        near(made[ours], made[theirs], 1e-4 if more else 1e-5, theirs)
    run("8", MODEL, "--load_in_8bit")
    near(made["8"], made["bnb-int8"], 1e-4, "8 bits")  # bitsandbytes rounds in float16 here
    run("fp4", MODEL, "--load_in_4bit", "--bnb_4bit_quant_type", "fp4")
    assert made["fp4"] != made["4"]


def test_command_line(tmp):
    """The command of the Llama 3.1 release's post as it stands, for a model of this machine."""
    data = f"{tmp}/OpenAssistant/oasst_top1_2023-08-25"
    os.makedirs(f"{data}/data")
    write_rows(f"{data}/data/train.jsonl", 4 * [{"text": "<|im_start|>user\nWhy?<|im_end|>\n"}])
    line = """sft --model_name MODEL --dataset_name OpenAssistant/oasst_top1_2023-08-25
        --dataset_text_field="text" --per_device_train_batch_size 1 --per_device_eval_batch_size 1
        --gradient_accumulation_steps 4 --learning_rate 2e-4 --report_to "none" --bf16
        --max_seq_length 1024 --lora_r 16 --lora_alpha 32
        --lora_target_modules q_proj k_proj v_proj o_proj --load_in_4bit --use_peft
        --attn_implementation "flash_attention_2" --logging_steps=10 --gradient_checkpointing
        --output_dir llama31""".replace("MODEL", os.path.abspath(MODEL))
    run = subprocess.run(f"{os.path.abspath(PUNA)} {' '.join(line.split())}", shell=True, cwd=tmp,
                         capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    for said in ("--attn-implementation has no effect: ", "matrices quantised to NF4: ",
                 "unlike TRL 0.9: no LoRA dropout", "4 texts have ChatML's"):
        assert run.stderr.count(said) == 1, (said, run.stderr)
    assert "there 500" not in run.stderr
    puna("run", MODEL, "Why?", "--adapter", f"{tmp}/llama31", "-n", 1,
         "--template", "llama3")


with tempfile.TemporaryDirectory() as tmp:
    test_qlora(tmp, golden_rows(tmp))
    test_command_line(tmp)
print("ok")
