"""Writes a model that judges as a guard does: guard.py FOLDER TOKENIZER WORD

One layer, whose attention looks at all tokens alike, raises a flag when WORD, one token for $PUNA, is among them. After
the line ends of the prompt comes "unsafe" with the flag and "safe" without; then every token has its successor:
unsafe, a line end, S, 10, the end of the turn."""
import json
import os
import struct
import subprocess
import sys

folder, tokenizer, word = sys.argv[1:]
ids = subprocess.run([os.environ["PUNA"], "tokenize", tokenizer, "--json"], input=json.dumps({"text": word}) + "\n",
                     text=True, check=True, stdout=subprocess.PIPE).stdout
(bad,) = json.loads(ids)["ids"]
V, D = 128256, 32
LINES, SAFE, UNSAFE, LINE, S, TEN, END = 271, 19193, 39257, 198, 50, 605, 128009
AFTER = [(LINES, SAFE, 60), (UNSAFE, LINE, 1000), (LINE, S, 1000), (S, TEN, 1000), (TEN, END, 1000), (SAFE, END, 1000)]
FLAG, OTHER = 6, 7


def bf16(x):
    return struct.pack("<f", x)[2:]


def matrix(rows, cells):
    m = bytearray(rows * D * 2)
    for r, c, x in cells:
        m[(r * D + c) * 2:(r * D + c) * 2 + 2] = bf16(x)
    return bytes(m)


embed = bytearray(bf16(0) * OTHER + bf16(1) + bf16(0) * (D - OTHER - 1)) * V
for axis, (token, _, _) in enumerate(AFTER):
    embed[token * D * 2:(token + 1) * D * 2] = matrix(1, [(0, axis, 1)])
embed[bad * D * 2:(bad + 1) * D * 2] = matrix(1, [(0, FLAG, 1)])
head = matrix(V, [(to, axis, x) for axis, (_, to, x) in enumerate(AFTER)] + [(UNSAFE, FLAG, 20)])

zero, ones = matrix(D, []), bf16(1) * D
tensors = {"model.embed_tokens.weight": (V, bytes(embed)), "lm_head.weight": (V, head), "model.norm.weight": (0, ones)}
layer = "model.layers.0."
for name in ("self_attn.q_proj", "self_attn.k_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"):
    tensors[f"{layer}{name}.weight"] = (D, zero)
tensors[layer + "self_attn.v_proj.weight"] = (D, matrix(D, [(FLAG, FLAG, 1)]))
tensors[layer + "self_attn.o_proj.weight"] = (D, matrix(D, [(FLAG, FLAG, 400)]))
for name in ("input_layernorm", "post_attention_layernorm"):
    tensors[f"{layer}{name}.weight"] = (0, ones)

header, at = {}, 0
for name, (rows, data) in tensors.items():
    header[name] = {"dtype": "BF16", "shape": [rows, D] if rows else [D], "data_offsets": [at, at + len(data)]}
    at += len(data)
text = json.dumps(header).encode()
os.mkdir(folder)
with open(folder + "/model.safetensors", "wb") as f:
    f.write(struct.pack("<Q", len(text)) + text)
    for _, data in tensors.values():
        f.write(data)
with open(folder + "/config.json", "w") as f:
    json.dump({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": D, "vocab_size": V,
               "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": D,
               "intermediate_size": D, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "hidden_act": "silu",
               "max_position_embeddings": 2048, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
               "bos_token_id": 128000, "eos_token_id": [128001, 128009]}, f)
os.symlink(tokenizer, folder + "/tokenizer.model")
