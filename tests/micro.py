"""A model small enough to answer thousands of requests in a test: random float32 weights in the shape of
tests/data/tiny-llama31, with its tokenizer. Usage: micro.py OUT_FOLDER [--tied]: embedding and head are one"""
import json
import os
import random
import shutil
import struct
import sys

FROM, D, F, LAYERS, HEADS, KV, HD, V = "tests/data/tiny-llama31", 64, 64, 1, 2, 1, 32, 1024

out = sys.argv[1]
tied = sys.argv[2:] == ["--tied"]
rng = random.Random(7)
tensors = {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,)}
if not tied:
    tensors["lm_head.weight"] = (V, D)
for i in range(LAYERS):
    for name, shape in (("input_layernorm", (D,)), ("post_attention_layernorm", (D,)),
                        ("self_attn.q_proj", (HEADS * HD, D)), ("self_attn.k_proj", (KV * HD, D)),
                        ("self_attn.v_proj", (KV * HD, D)), ("self_attn.o_proj", (D, HEADS * HD)),
                        ("mlp.gate_proj", (F, D)), ("mlp.up_proj", (F, D)), ("mlp.down_proj", (D, F))):
        tensors[f"model.layers.{i}.{name}.weight"] = shape
header, at, data = {}, 0, []
for name, shape in tensors.items():
    n = shape[0] * (shape[1] if len(shape) > 1 else 1)
    spread = 0.25 if len(shape) > 1 else 0
    values = [rng.gauss(0, spread) if spread else 1.0 for _ in range(n)]
    header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + 4 * n]}
    at += 4 * n
    data.append(struct.pack(f"<{n}f", *values))
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
with open(f"{out}/model.safetensors", "wb") as f:
    f.write(struct.pack("<Q", len(text)) + text + b"".join(data))
with open(f"{FROM}/config.json") as f:
    config = json.load(f)
config.update(hidden_size=D, intermediate_size=F, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
              num_key_value_heads=KV, head_dim=HD, vocab_size=V, torch_dtype="float32",
              tie_word_embeddings=tied)
with open(f"{out}/config.json", "w") as f:
    json.dump(config, f)
for name in ("generation_config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"):
    shutil.copyfile(os.path.join(FROM, name), os.path.join(out, name))
