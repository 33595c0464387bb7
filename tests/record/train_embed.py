"""train_embed.py INIT LOG - LoRA of embedding, head and q_proj on the tiny model in float32: the adapter before and four
steps of PEFT 0.21.2 (torch 2.15, transformers 5.24) into tests/data/train/embed_init and embed.json."""
import json
import sys

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

torch.manual_seed(4)
torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained("tests/data/tiny-llama31", dtype=torch.float32)
data = load_file("tests/data/train/batches.safetensors")
ids, labels = (data[k].reshape(-1, 64)[:8].long() for k in ("ids", "labels"))
model = get_peft_model(model, LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "embed_tokens", "lm_head"],
                                         task_type="CAUSAL_LM"))
with torch.no_grad():
    for name, p in model.named_parameters():
        if "lora_B" in name or "lora_embedding_A" in name:
            p.copy_((torch.randn_like(p) * 0.02).bfloat16().float())
        elif "lora_" in name:
            p.copy_((p * (0.1 if "embedding" in name else 1)).bfloat16().float())
model.save_pretrained(sys.argv[1], save_embedding_layers=False)
learn = [p for p in model.parameters() if p.requires_grad]
optim = torch.optim.AdamW(learn, lr=2e-3, weight_decay=0)
log = []
for step in range(4):
    rows = slice(2 * step, 2 * step + 2)
    loss = model(input_ids=ids[rows], labels=labels[rows]).loss
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(learn, 1.0)
    optim.step()
    optim.zero_grad()
    log.append({"step": step + 1, "loss": loss.item(), "grad_norm": norm.item(), "learning_rate": 2e-3})
with open(sys.argv[2], "w") as f:
    json.dump({"config": {"r": 2, "lora_alpha": 4}, "log": log}, f, indent=1)
