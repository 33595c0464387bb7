"""guard_head.py OUT - the head of tests/data/deberta trained by transformers 5.24 and torch 2.15 over the frozen encoder,
in float64: loss and gradients of the first step, and the losses of six steps of AdamW with clipping, into
tests/data/deberta/head.json; tests/train/guard_head.c compares."""
import json
import sys

import torch
from safetensors.torch import load_file
from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

FOLDER, STEPS, LR, DECAY, CLIP = "tests/data/deberta", 6, 5e-3, 0.01, 1.0
with open(FOLDER + "/config.json") as f:
    model = DebertaV2ForSequenceClassification(DebertaV2Config(**json.load(f)))
missing, unexpected = model.load_state_dict(load_file(FOLDER + "/model.safetensors"), strict=False)
assert not unexpected and all("position_ids" in m for m in missing), (missing, unexpected)
model.double().eval()  # no dropout
for name, p in model.named_parameters():
    p.requires_grad_(not name.startswith("deberta."))
with open(FOLDER + "/cases.json") as f:
    cases = json.load(f)["cases"]
rows = [[i for i, m in zip(c["ids"], c["mask"]) if m] for c in cases]
labels = [i * 2 % 3 for i in range(len(rows))]
longest = max(map(len, rows))
ids = torch.tensor([r + [0] * (longest - len(r)) for r in rows])
mask = torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in rows])
learns = [p for p in model.parameters() if p.requires_grad]
optim = torch.optim.AdamW([{"params": [p for p in learns if p.ndim > 1], "weight_decay": DECAY},
                           {"params": [p for p in learns if p.ndim == 1], "weight_decay": 0.0}], lr=LR)
out = {"note": "transformers' DebertaV2ForSequenceClassification in float64, encoder frozen; tests/record/guard_head.py",
       "labels": labels, "lr": LR, "weight_decay": DECAY, "max_grad_norm": CLIP, "loss": [], "grad_norm": []}
for step in range(STEPS):
    loss = model(input_ids=ids, attention_mask=mask, labels=torch.tensor(labels)).loss
    loss.backward()
    if step == 0:
        named = dict(model.named_parameters())
        out["gradients"] = {n: [round(v, 9) for v in named[n].grad.flatten().tolist()[:200]]
                            for n in ("pooler.dense.weight", "pooler.dense.bias", "classifier.weight", "classifier.bias")}
    out["loss"].append(loss.item())
    out["grad_norm"].append(torch.nn.utils.clip_grad_norm_(learns, CLIP).item())
    optim.step()
    optim.zero_grad()
with open(sys.argv[1], "w") as f:
    json.dump(out, f)
