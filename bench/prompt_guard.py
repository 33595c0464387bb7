#!/usr/bin/env python3
"""Prompt Guard's real shape (279M, random weights, float32) beside transformers, windows of 512
tokens: prompt_guard.py PUNA FOLDER [ROUNDS] [THREADS]. Needs torch and transformers; FOLDER gets
the model where it has none. Rounds are interleaved; the ratio is the median of theirs.

puna's time for a window is the difference between a text of some windows and one of a single."""
import json
import os
import shutil
import statistics
import subprocess
import sys
import time

import torch
from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

puna, folder = sys.argv[1:3]
rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 3
threads = int(sys.argv[4]) if len(sys.argv) > 4 else len(os.sched_getaffinity(0))
MANY = 4
STRIDE = 510 - 126

torch.set_num_threads(threads)
if not os.path.exists(folder + "/model.safetensors"):
    torch.manual_seed(1)
    config = DebertaV2Config(
        vocab_size=251000, hidden_size=768, num_hidden_layers=12, num_attention_heads=12,
        intermediate_size=3072, max_position_embeddings=512, type_vocab_size=0,
        relative_attention=True, position_buckets=256, pos_att_type=["p2c", "c2p"],
        share_att_key=True, norm_rel_ebd="layer_norm", position_biased_input=False, num_labels=3)
    DebertaV2ForSequenceClassification(config).save_pretrained(folder)
    shutil.copy(os.path.dirname(__file__) + "/../tests/data/unigram/tokenizer.json", folder)
model = DebertaV2ForSequenceClassification.from_pretrained(folder).eval()
ids = torch.randint(4, 1000, (1, 512))


def ours(n):
    """Seconds and windows of a text of about n windows."""
    text = "\u2603 a " * ((510 + (n - 1) * STRIDE) // 4)
    t = time.perf_counter()
    out = subprocess.run([puna, "guard", folder, "--json", "--threads", str(threads)],
                         input=json.dumps({"text": text}) + "\n", text=True, capture_output=True,
                         check=True)
    return time.perf_counter() - t, json.loads(out.stdout)["windows"]


def theirs():
    t = time.perf_counter()
    with torch.no_grad():
        model(input_ids=ids)
    return time.perf_counter() - t


theirs()
ours(1)
a, b = [], []
for _ in range(rounds):
    (t1, n1), (t2, n2) = ours(1), ours(MANY)
    a.append((t2 - t1) / (n2 - n1))
    b.append((theirs() + theirs()) / 2)
ratios = [y / x for x, y in zip(a, b)]
print(json.dumps({"puna_window_s": round(statistics.median(a), 3),
                  "transformers_window_s": round(statistics.median(b), 3),
                  "ratio": round(statistics.median(ratios), 2), "windows": [n1, n2],
                  "threads": threads, "load": round(os.getloadavg()[0], 1),
                  "puna": [round(x, 3) for x in a], "transformers": [round(x, 3) for x in b]}))
