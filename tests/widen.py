"""widen.py MODEL - turns the bf16 and f16 tensors of a quantised folder into float32, in place, scales and all.

What --dtype auto then computes is the rule of the quantised matrices and nothing else: the rest of the model is in float32,
as in the runs that the goldens come from.
"""
import json
import struct
import sys

from overlay import read, write


def f32(dtype, data):
    if dtype == "BF16":
        return b"".join(b"\0\0" + data[i:i + 2] for i in range(0, len(data), 2))
    return struct.pack(f"<{len(data) // 2}f", *struct.unpack(f"<{len(data) // 2}e", data))


def main(model):
    path = f"{model}/model.safetensors"
    write(path, {name: ("F32", dims, f32(dtype, data)) if dtype in ("BF16", "F16") else (dtype, dims, data)
                 for name, (dtype, dims, data) in read(path).items()})
    with open(f"{model}/config.json") as f:
        config = json.load(f)
    config.pop("torch_dtype", None)
    config["dtype"] = "float32"
    with open(f"{model}/config.json", "w") as f:
        json.dump(config, f)


if __name__ == "__main__":
    main(*sys.argv[1:])
