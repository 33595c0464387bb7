"""Writes a small DeBERTa classifier with random weights over the tokenizer of tests/data/unigram, in the real
Prompt Guard's shape of positions: guard_prompt.py FOLDER"""
import json
import os
import random
import shutil
import struct
import sys

folder = sys.argv[1]
V, D, L, H, F, POS, BUCKETS = 1098, 32, 1, 1, 64, 512, 256
rng = random.Random(5)
shapes = {"deberta.embeddings.word_embeddings.weight": [V, D], "deberta.encoder.rel_embeddings.weight": [2 * BUCKETS, D],
          "pooler.dense.weight": [D, D], "pooler.dense.bias": [D], "classifier.weight": [3, D], "classifier.bias": [3]}
norms = ["deberta.embeddings.LayerNorm", "deberta.encoder.LayerNorm"]
for i in range(L):
    p = f"deberta.encoder.layer.{i}."
    for name, out, inp in (("attention.self.query_proj", D, D), ("attention.self.key_proj", D, D), ("attention.self.value_proj", D, D),
                           ("attention.output.dense", D, D), ("intermediate.dense", F, D), ("output.dense", D, F)):
        shapes[p + name + ".weight"], shapes[p + name + ".bias"] = [out, inp], [out]
    norms += [p + "attention.output.LayerNorm", p + "output.LayerNorm"]
for n in norms:
    shapes[n + ".weight"] = shapes[n + ".bias"] = [D]
header, data = {}, bytearray()
for name, shape in shapes.items():
    n = shape[0] * (shape[1] if len(shape) > 1 else 1)
    one = name.endswith("LayerNorm.weight")
    values = [1.0 if one else rng.uniform(-0.6, 0.6) for _ in range(n)]
    header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + 4 * n]}
    data += struct.pack(f"<{n}f", *values)
text = json.dumps(header).encode()
os.mkdir(folder)
with open(folder + "/model.safetensors", "wb") as f:
    f.write(struct.pack("<Q", len(text)) + text + data)
with open(folder + "/config.json", "w") as f:
    json.dump({"model_type": "deberta-v2", "vocab_size": V, "hidden_size": D, "num_hidden_layers": L, "num_attention_heads": H,
               "intermediate_size": F, "hidden_act": "gelu", "max_position_embeddings": POS, "type_vocab_size": 0,
               "layer_norm_eps": 1e-7, "relative_attention": True, "max_relative_positions": -1, "position_buckets": BUCKETS,
               "position_biased_input": False, "pos_att_type": "p2c|c2p", "share_att_key": True, "norm_rel_ebd": "layer_norm",
               "id2label": {"0": "BENIGN", "1": "INJECTION", "2": "JAILBREAK"}}, f)
shutil.copy("tests/data/unigram/tokenizer.json", folder)
