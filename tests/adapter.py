"""adapter.py SRC KIND OUT - variants of a LoRA adapter, for tests.

KIND: plain | rslora | pattern (q_proj of rank 8 and of its own alpha, the rest as it was) | all (the MLP too,
in bf16), or JSON that is merged into adapter_config.json.
"""
import json
import os
import struct
import sys

from overlay import read, write

PREFIX = "base_model.model.model.layers."


def floats(data):
    return list(struct.unpack(f"<{len(data) // 4}f", data))


def pack(values):
    return struct.pack(f"<{len(values)}f", *values)


def bf16(values):
    return b"".join(struct.pack("<f", v)[2:] for v in values)


def cut(tensors, rank):
    for name, (dtype, (rows, cols), data) in list(tensors.items()):
        if ".q_proj." not in name:
            continue
        x = floats(data)
        if ".lora_A." in name:
            tensors[name] = (dtype, [rank, cols], pack(x[: rank * cols]))
        else:
            kept = [x[r * cols + k] for r in range(rows) for k in range(rank)]
            tensors[name] = (dtype, [rows, rank], pack(kept))


def whole(tensors):
    """An adapter of rank 4 on every linear layer and the head, numbers made up."""
    tensors.clear()
    shapes = {"self_attn.q_proj": (256, 256), "self_attn.k_proj": (64, 256), "self_attn.v_proj": (64, 256),
              "self_attn.o_proj": (256, 256), "mlp.gate_proj": (768, 256), "mlp.up_proj": (768, 256),
              "mlp.down_proj": (256, 768)}
    names = {f"{PREFIX}{n}.{k}": v for n in range(4) for k, v in shapes.items()}
    names["base_model.model.lm_head"] = (1024, 256)
    seed = 1
    for name, (out, inputs) in names.items():
        for tail, dims in (("A", [4, inputs]), ("B", [out, 4])):
            values = []
            for _ in range(dims[0] * dims[1]):
                seed = (seed * 1103515245 + 12345) % 2**31
                values.append((seed / 2**31 - 0.5) * 0.1)
            tensors[f"{name}.lora_{tail}.weight"] = ("BF16", dims, bf16(values))


def main(src, kind, out):
    with open(os.path.join(src, "adapter_config.json")) as f:
        config = json.load(f)
    tensors = read(os.path.join(src, "adapter_model.safetensors"))
    if kind == "rslora":
        config["use_rslora"] = True
    elif kind == "pattern":
        config.update(rank_pattern={"q_proj": 8}, alpha_pattern={r"layers\.[0-9]+\.self_attn\.q_proj": 24})
        cut(tensors, 8)
    elif kind == "all":
        config.update(r=4, lora_alpha=16, target_modules="all-linear")
        whole(tensors)
    elif kind != "plain":
        config.update(json.loads(kind))
    os.makedirs(out, exist_ok=True)
    with open(os.path.join(out, "adapter_config.json"), "w") as f:
        json.dump(config, f)
    write(os.path.join(out, "adapter_model.safetensors"), tensors)


if __name__ == "__main__":
    main(*sys.argv[1:])
