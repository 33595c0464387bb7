"""overlay.py BASE OVERLAY... OUT - a model folder out of a base model and the tensors that differ.

BASE is a model folder; an OVERLAY is one with a `model.safetensors` of its own and a config.json. OUT gets
one model.safetensors with every tensor of the overlays (the last wins) and, of BASE, what they do not replace,
and the last OVERLAY's JSON files.
"""
import json
import os
import shutil
import struct
import sys

TOKENIZER = "tests/data/tiny-llama31"  # every BASE has its vocabulary


def read(path):
    with open(path, "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        data = f.read()
    header.pop("__metadata__", None)
    return {k: (v["dtype"], v["shape"], data[slice(*v["data_offsets"])]) for k, v in header.items()}


def stem(name):
    for tail in (".qweight", ".weight"):
        if name.endswith(tail):
            return name[: -len(tail)]
    return name


def write(path, tensors):
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(head)) + head + b"".join(d for _, _, d in tensors.values()))


def main(base, *overlays, out):
    tensors = {}
    for overlay in overlays:
        tensors.update(read(os.path.join(overlay, "model.safetensors")))
    replaced = {stem(name) for name in tensors}
    for file in sorted(os.listdir(base)):
        if file.endswith(".safetensors"):
            for name, t in read(os.path.join(base, file)).items():
                if stem(name) not in replaced:
                    tensors[name] = t
    os.makedirs(out, exist_ok=True)
    write(os.path.join(out, "model.safetensors"), tensors)
    for file in os.listdir(overlays[-1]):
        if file.endswith(".json"):
            shutil.copyfile(os.path.join(overlays[-1], file), os.path.join(out, file))
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if not os.path.exists(os.path.join(out, file)):
            shutil.copyfile(os.path.join(TOKENIZER, file), os.path.join(out, file))


if __name__ == "__main__":
    main(*sys.argv[1:-1], out=sys.argv[-1])
