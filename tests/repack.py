"""repack.py MODEL - turns a GPTQ folder of 4 bits (version 1) into compressed-tensors' pack-quantized, in place.

The codes are the same words, transposed; zero points are plain there, one less here.
"""
import json
import struct
import sys

from overlay import read, write


def transposed(data, fmt, rows, cols):
    x = struct.unpack(f"<{rows * cols}{fmt}", data)
    return struct.pack(f"<{rows * cols}{fmt}", *(x[r * cols + c] for c in range(cols) for r in range(rows)))


def plus_one(data):
    out = []
    for (word,) in struct.iter_unpack("<I", data):
        out.append(sum(((word >> 4 * k) + 1 & 15) << 4 * k for k in range(8)))
    return struct.pack(f"<{len(out)}I", *out)


def main(model):
    old, new = read(f"{model}/model.safetensors"), {}
    with open(f"{model}/config.json") as f:
        config = json.load(f)
    was = config["quantization_config"]
    for name, (dtype, dims, data) in old.items():
        stem = name.rsplit(".", 1)[0]
        if name.endswith(".qweight"):
            rows, cols = dims
            new[stem + ".weight_packed"] = ("I32", [cols, rows], transposed(data, "I", rows, cols))
            new[stem + ".weight_shape"] = ("I64", [2], struct.pack("<2q", cols, rows * 8))
        elif name.endswith(".qzeros"):
            if not was["sym"]:
                new[stem + ".weight_zero_point"] = ("I32", dims[::-1], transposed(plus_one(data), "I", *dims))
        elif name.endswith(".scales"):
            new[stem + ".weight_scale"] = (dtype, dims[::-1], transposed(data, "H", *dims))
        elif name.endswith(".g_idx"):
            if was["desc_act"]:
                new[stem + ".weight_g_idx"] = (dtype, dims, data)
        else:
            new[name] = (dtype, dims, data)
    config["quantization_config"] = {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "input_activations": None, "weights": {
            "num_bits": 4, "type": "int", "symmetric": was["sym"], "strategy": "group",
            "group_size": was["group_size"]}}}}
    write(f"{model}/model.safetensors", new)
    with open(f"{model}/config.json", "w") as f:
        json.dump(config, f)


if __name__ == "__main__":
    main(*sys.argv[1:])
