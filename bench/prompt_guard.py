#!/usr/bin/env python3
"""Prompt Guard's real shape (279M, random weights, float32) beside transformers, windows of 512
tokens: prompt_guard.py PUNA FOLDER [ROUNDS] [THREADS]. Needs torch and transformers; FOLDER gets
the model where it has none. Rounds are interleaved; a ratio is the median of the rounds'. That of
CPU time is the one to read with one thread on a machine that does other work too.

puna's time for a window is the difference between a text of some windows and one of a single."""
import json
import os
import resource
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
    """Seconds, CPU seconds and windows of a text of about n windows."""
    text = "\u2603 a " * ((510 + (n - 1) * STRIDE) // 4)
    u, t = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    out = subprocess.run([puna, "guard", folder, "--json", "--threads", str(threads)],
                         input=json.dumps({"text": text}) + "\n", text=True, capture_output=True,
                         check=True)
    t, v = time.perf_counter() - t, resource.getrusage(resource.RUSAGE_CHILDREN)
    return (t, v.ru_utime - u.ru_utime + v.ru_stime - u.ru_stime,
            json.loads(out.stdout)["windows"])


def theirs():
    """Seconds and CPU seconds of a window, mean of two."""
    u, t = time.process_time(), time.perf_counter()
    with torch.no_grad():
        model(input_ids=ids)
        model(input_ids=ids)
    return (time.perf_counter() - t) / 2, (time.process_time() - u) / 2


theirs()
ours(1)
rows = []
for _ in range(rounds):
    (t1, u1, n1), (t2, u2, n2), (t3, u3) = ours(1), ours(MANY), theirs()
    rows.append(((t2 - t1) / (n2 - n1), (u2 - u1) / (n2 - n1), t3, u3))


def median(of):
    return round(statistics.median(of(r) for r in rows), 3)


print(json.dumps({"puna_window_s": median(lambda r: r[0]), "puna_cpu_s": median(lambda r: r[1]),
                  "transformers_window_s": median(lambda r: r[2]),
                  "transformers_cpu_s": median(lambda r: r[3]),
                  "ratio": median(lambda r: r[2] / r[0]),
                  "cpu_ratio": median(lambda r: r[3] / r[1]),
                  "windows": [n1, n2], "threads": threads, "load": round(os.getloadavg()[0], 1),
                  "rounds": [[round(x, 3) for x in r] for r in rows]}))
