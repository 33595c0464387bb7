"""puna sft, dpo and kto against what torch and PEFT recorded (tests/data/train), and against
themselves: threads, checkpoints."""
import json
import os
import tempfile

from trainkit import *  # noqa: F403

def test_full(tmp, rows):
    puna("inspect", run_full(tmp, rows))


def test_lora(tmp, rows):
    out = run_lora(tmp, rows)
    after = "tests/data/adapters/lora_after.safetensors"
    puna("logits", MODEL, "--ids", after, "-o", f"{tmp}/logits", "--adapter", out, "--dtype", "f32")
    assert far(tensors(f"{tmp}/logits")["logits"], tensors(after)["logits_adapter"]) < 1e-3


def test_preference(tmp, pairs, judged):
    run_preference(tmp, pairs, judged)
    for kind in ("hinge", "robust", "apo_zero", "sigmoid_norm", "orpo", "simpo"):
        out = f"{tmp}/{kind}"
        puna("dpo", MODEL, "--train-file", pairs, "-o", out, *PREFERENCE, "--loss-type", kind,
             "--label-smoothing", 0.1, "--max-steps", 3)
        losses = [r["loss"] for r in metrics(out)]
        assert losses[2] < losses[0], (kind, losses)


def test_again(tmp, rows):
    """Any number of threads, activations kept or made again: the same bits."""
    args = ["sft", MODEL, "--train-file", rows, "--use_peft", "--lora_target_modules", "q_proj",
            "down_proj", "--lora_r", 4, "--bf16", "--logging-steps", 1, "--save-steps", 2,
            "--batch-size", 2, "--gradient_accumulation_steps", 2, "--max-steps", 9, "--lr", 1e-3,
            "--quiet"]
    one, two = f"{tmp}/one", f"{tmp}/two"
    puna(*args, "-o", one, "-t", 1)
    puna(*args, "-o", two, "-t", 3, "--gradient_checkpointing", "--save_total_limit", 2)
    assert metrics(one) == metrics(two)
    same_files(one, two, "adapter_model.safetensors")
    assert sorted(d for d in os.listdir(two) if d.startswith("checkpoint")) == \
        ["checkpoint-6", "checkpoint-8"]
    puna(*args, "-o", two, "--resume-from-checkpoint", f"{one}/checkpoint-4", "--lr", 5,
         fails="learning_rate 0.001, this run has 5")


def test_data(tmp):
    """Text, chats, prompts with completions; packs; every row is found in any format of file."""
    chat = [{"messages": [{"role": "user", "content": f"Question {i}?"},
                          {"role": "assistant", "content": "Yes. " * (i + 1)}]} for i in range(6)]
    plain = [{"prompt": "What is it? ", "completion": "A llama."}, {"text": "Some plain text."}]
    small = ["--use-peft", "--chat-template", "llama3.1", "--max-steps", 2, "--lr", 1e-3, "--quiet"]

    def share(file, *more):
        err = puna("sft", MODEL, "--train-file", file, "-o", f"{tmp}/d", *small, *more).stderr
        return float(err.split("tokens, ")[1].split(" %")[0])

    chats = write_rows(f"{tmp}/chat.jsonl", chat)
    assert share(chats) > 90 > share(chats, "--assistant-only-loss", "--packing") > 5
    mixed = write_rows(f"{tmp}/plain.jsonl", plain)
    assert share(mixed) < share(mixed, "--no-completion-only-loss")
    with open(f"{tmp}/array.json", "w") as f:
        json.dump(chat, f)
    assert share(f"{tmp}/array.json") == share(chats)
    with open(f"{tmp}/rows.csv", "w") as f:
        f.write('prompt,completion\r\n"What, ""now""?",Nothing.\nTwo\n')
    puna("sft", MODEL, "--train-file", f"{tmp}/rows.csv", "-o", f"{tmp}/d", *small,
         fails="record 3 has 1 fields, the header 2")
    bad = [({"a": 1}, "columns a; wanted are"), ({"input_ids": [1, 99999]}, "input_ids[1]"),
           ({"input_ids": [1, 2], "labels": [1]}, "1 labels for 2"),
           ({"input_ids": [5]}, "none of 1 rows has a token to learn: an"),
           ({"text": 3}, "text is no text")]
    for row, message in bad:
        puna("sft", MODEL, "--train-file", write_rows(f"{tmp}/bad.jsonl", [row]), "-o", f"{tmp}/d",
             *small, fails=message)
    long = write_rows(f"{tmp}/long.jsonl", [{"text": "word " * 500}, {"text": "a b"}])
    err = puna("sft", MODEL, "--train-file", long, "-o", f"{tmp}/d", *small,
               "--max-length", 64).stderr
    assert "1 were cut at --max-length" in err, err
    late = write_rows(f"{tmp}/late.jsonl", [{"prompt": "word " * 500, "completion": "No."}])
    puna("sft", MODEL, "--train-file", late, "-o", f"{tmp}/d", *small,
         "--max-length", 64, fails="1 were cut at 64 tokens: raise --max-length")


def test_refusals(tmp, rows, pairs):
    base = ["sft", MODEL, "--train-file", rows, "-o", f"{tmp}/r"]
    puna("sft", MODEL, "-o", f"{tmp}/r", fails="--train-file FILE is needed")
    puna(*base, "--use-peft", "--lora-target-modules", "q_proj", "qq", fails="modules qq")
    puna(*base, "--load_in_4bit", fails="what is quantised is frozen")
    puna(*base, "--use-peft", "--load_in_4bit", "--load_in_8bit", fails="different things")
    puna("sft", MODEL, "-o", f"{tmp}/r", "--dataset_name", "no/such", fails="no/such/")
    puna(*base, "--optim", "lion_8bit", fails="adamw_torch")
    puna(*base, "--report_to", "mlflow", fails="there is none, tensorboard, wandb")
    puna(*base, "--lr-scheduler-type", "zigzag", fails="warmup_stable_decay")
    puna("dpo", MODEL, "--train-file", rows, "-o", f"{tmp}/r", fails="chosen")
    puna("dpo", MODEL, "--train-file", pairs, "-o", f"{tmp}/r", "--loss-type", "x", fails="ipo")
    puna("kto", MODEL, "--train-file", pairs, "-o", f"{tmp}/r", "--batch-size", 1, fails="two at")


def main():
    with tempfile.TemporaryDirectory() as tmp:
        rows = golden_rows(tmp)
        pairs, judged = golden_pairs(tmp)
        test_full(tmp, rows)
        test_lora(tmp, rows)
        test_preference(tmp, pairs, judged)
        test_again(tmp, rows)
        test_data(tmp)
        test_refusals(tmp, rows, pairs)


main()
