"""quantised.py PUNA - quantised checkpoints with one thing wrong: each is refused in one line that says
what. Then variants that are right: each is accepted and shown as what it is."""
import json
import os
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, "tests")
from overlay import main as overlay, read, write  # noqa: E402

DATA = "tests/data/quantised"
X = "model.layers.1.mlp.down_proj"
Q = "model.layers.1.self_attn.q_proj"


def drop(name):
    return lambda t, c: t.pop(name)


def shape(name, *dims):
    def change(t, c):
        dtype, _, data = t[name]
        size = len(data)
        want = {"F16": 2, "BF16": 2, "F32": 4, "I32": 4}.get(dtype, 1)
        for d in dims:
            want *= d
        t[name] = (dtype, list(dims), (data * (want // max(size, 1) + 1))[:want])

    return change


def add(name, dtype, dims, data):
    return lambda t, c: t.__setitem__(name, (dtype, dims, data))


def retype(name, dtype):
    return lambda t, c: t.__setitem__(name, (dtype, t[name][1], t[name][2]))


def config(**kw):
    return lambda t, c: c["quantization_config"].update(kw)


def group_of_first(value):
    def change(t, c):
        dtype, dims, data = t[X + ".g_idx"]
        t[X + ".g_idx"] = (dtype, dims, value.to_bytes(4, "little") + data[4:])

    return change


def state(**kw):
    def change(t, c):
        name = X + ".weight.quant_state.bitsandbytes__nf4"
        j = json.loads(t[name][2])
        j.update(kw)
        data = json.dumps(j).encode()
        t[name] = ("U8", [len(data)], data)

    return change


def no_config(t, c):
    del c["quantization_config"]


def nan(name):
    def change(t, c):
        dtype, dims, data = t[name]
        t[name] = (dtype, dims, b"\x7f" + data[1:])

    return change


def compressed(act, **tensors):
    """The FP8 fixture as compressed-tensors spells it."""

    def change(t, c):
        for tail, (dims, data) in tensors.items():
            for name in [n[: -len(".weight")] for n in t if t[n][0] == "F8_E4M3"]:
                t[f"{name}.{tail}"] = ("F32", dims, data)
        c["quantization_config"] = {
            "quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"],
            "quantization_status": "compressed", "kv_cache_scheme": None,
            "config_groups": {"group_0": {
                "targets": ["Linear"], "output_activations": None, "input_activations": act,
                "weights": {"num_bits": 8, "type": "float", "symmetric": True,
                            "strategy": "channel", "dynamic": False}}}}

    return change


def bf16_storage(t, c):
    for name, (dtype, dims, data) in t.items():
        if name.endswith("proj.weight") and dtype == "U8":
            t[name] = ("BF16", [len(data) // 2, 1], data)


def repacked(t, c):
    """gptq as compressed-tensors packs it; what matters here is what is there, not the numbers."""
    for name in [n[: -len(".qweight")] for n in t if n.endswith(".qweight")]:
        inputs, out = t[name + ".qweight"][1][0] * 8, t[name + ".qweight"][1][1]
        groups = t[name + ".scales"][1][0]
        t[name + ".weight_packed"] = ("I32", [out, inputs // 8], t.pop(name + ".qweight")[2])
        t[name + ".weight_scale"] = ("F16", [out, groups], t.pop(name + ".scales")[2])
        t[name + ".weight_zero_point"] = ("I32", [out // 8, groups], t.pop(name + ".qzeros")[2])
        t[name + ".weight_shape"] = ("I64", [2], out.to_bytes(8, "little") + inputs.to_bytes(8, "little"))
        del t[name + ".g_idx"]
    c["quantization_config"] = {"quant_method": "compressed-tensors", "format": "pack-quantized",
                                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}}}


def repacked_but(change):
    def both(t, c):
        repacked(t, c)
        change(t, c)

    return both


def int_quantized(act, fixed=None):
    """The LLM.int8 fixture as compressed-tensors spells it."""

    def change(t, c):
        for name in [n[: -len(".SCB")] for n in t if n.endswith(".SCB")]:
            dtype, dims, data = t.pop(name + ".SCB")
            t[name + ".weight_scale"] = (dtype, dims + [1], data)
            t.pop(name + ".weight_format", None)
            if fixed:
                t[name + ".input_scale"] = ("F32", [1], fixed)
        c["quantization_config"] = {
            "quant_method": "compressed-tensors", "format": "int-quantized",
            "config_groups": {"group_0": {"input_activations": act, "weights": {"num_bits": 8, "type": "int"}}}}

    return change


def inputs(act):
    return lambda t, c: c["quantization_config"]["config_groups"]["group_0"].update(input_activations=act)


def mixed(t, c):
    """Formats by group, and what one group does to inputs does not concern the other."""
    q = c["quantization_config"]
    q["format"] = "mixed-precision"
    q["config_groups"]["group_0"]["format"] = "pack-quantized"
    q["config_groups"]["group_1"] = {
        "format": "float-quantized", "weights": {"num_bits": 8, "type": "float"},
        "input_activations": {"num_bits": 8, "type": "float"}}


def torn(t, c):
    q = c["quantization_config"]["config_groups"]
    q["group_1"] = dict(q["group_0"], input_activations={"num_bits": 8, "type": "int"})


ONE = (b"\0\0\0\x3f")  # 0.5
RIGHT = [
    ("gptq", lambda t, c: None, "gptq4", "groups of 128"),
    ("gptq", config(checkpoint_format="gptq_v2"), "gptq4", "groups of 128, v2"),
    ("gptq-actorder", lambda t, c: None, "gptq4", "groups of 128, act-order"),
    ("awq", lambda t, c: None, "awq", "groups of 128"),
    ("gptq", repacked, "packed4", "groups of 128, zero points"),
    ("gptq", repacked_but(lambda t, c: [t.pop(n) for n in list(t) if "zero_point" in n]), "packed4",
     "groups of 128"),
    ("bnb-nf4", bf16_storage, "nf4", "blocks of 64"),
    ("bnb-nf4-dq", lambda t, c: None, "nf4", "blocks of 64, double quantised"),
    ("bnb-int8", lambda t, c: None, "int8", "rows, inputs int8"),
    ("fbgemm-fp8", lambda t, c: None, "fp8", "rows, inputs fp8"),
    ("fbgemm-fp8", no_config, "fp8", "rows"),
    ("fbgemm-fp8", compressed({"num_bits": 8, "dynamic": True}), "fp8", "rows, inputs fp8"),
    ("fbgemm-fp8", compressed(None), "fp8", "rows"),
    ("fbgemm-fp8", compressed({"num_bits": 8, "dynamic": False}, weight_scale=([1], ONE),
                              input_scale=([1], ONE)),
     "fp8", "tensors, inputs fp8 with a fixed scale"),
    ("fbgemm-fp8", config(quant_method="fp8", activation_scheme="dynamic"), "fp8",
     "rows, inputs fp8"),
    ("bnb-int8", int_quantized({"num_bits": 8, "type": "int"}), "int8", "rows, inputs int8"),
    ("bnb-int8", int_quantized({"num_bits": 8, "type": "int"}, b"\0\0\0\x3f"), "int8",
     "rows, inputs int8 with a fixed scale"),
    ("bnb-int8", int_quantized(None), "int8", "rows"),
    ("gptq", repacked_but(inputs({"num_bits": 8, "type": "float"})), "packed4",
     "groups of 128, zero points, inputs fp8"),
    ("gptq", repacked_but(mixed), "packed4", "groups of 128, zero points"),
]

CASES = [
    ("gptq", drop(X + ".scales"), X + ".scales is missing"),
    ("gptq", drop(X + ".qzeros"), X + ".qzeros is missing"),
    ("gptq", drop(X + ".qweight"), X + ".weight is missing"),
    ("gptq", shape(X + ".scales", 5, 256), "is [5, 256], [6, 256] is needed"),
    ("gptq", shape(X + ".qweight", 96, 255), "is [96, 255], [96, 256] is needed"),
    ("gptq", shape(X + ".qzeros", 6, 31), "is [6, 31], [6, 32] is needed"),
    ("gptq", shape(X + ".g_idx", 767), "is [767], [768] is needed"),
    ("gptq", retype(X + ".qweight", "F32"), "is stored as f32, i32 is needed"),
    ("gptq", group_of_first(6), "input 0 is in group 6, there are 6"),
    ("gptq", group_of_first(3), "group 0 has 127 inputs, its size is 128"),
    ("gptq", config(bits=3), "gptq of 3 bits is not supported"),
    ("gptq", config(bits=8), "is [32, 256], [64, 256] is needed"),
    ("gptq", config(group_size=64), "is [2, 32], [4, 32] is needed"),
    ("gptq", config(group_size=0), 'needs "bits" and "group_size"'),
    ("gptq", config(checkpoint_format="marlin"), '"marlin" is not supported'),
    ("gptq", config(quant_method="aqlm"), '"aqlm" is not supported'),
    ("gptq", no_config, None),  # quantize_config.json says the same
    ("gptq", add(X + ".bias", "F16", [256], bytes(512)), None),
    ("gptq", add(X + ".bias", "F16", [256], b"\1" + bytes(511)), "biases are not supported"),
    ("gptq", add(X + ".weight", "BF16", [256, 768], bytes(2 * 256 * 768)), "is stored twice"),
    ("gptq", add(X + ".SCB", "F32", [256], bytes(1024)), "its matrix is stored as gptq4"),
    ("gptq", repacked_but(drop(X + ".weight_shape")), "weight_shape is missing"),
    ("gptq", repacked_but(drop(X + ".weight_scale")), "weight_scale is missing"),
    ("gptq", repacked_but(shape(X + ".weight_packed", 256, 95)), "is [256, 95], [256, 96] is needed"),
    ("gptq", repacked_but(shape(X + ".weight_scale", 256, 5)), "is [256, 5], [256, 1] is needed"),
    ("gptq", repacked_but(shape(X + ".weight_zero_point", 31, 6)), "is [31, 6], [32, 6] is needed"),
    ("gptq", repacked_but(lambda t, c: c["quantization_config"]["config_groups"]["group_0"]["weights"]
                          .update(num_bits=2)), "2 bits in format"),
    ("gptq", repacked_but(torn), "another group stores its matrices alike"),
    ("gptq", repacked_but(inputs({"num_bits": 8, "symmetric": False})), "inputs with zero points"),
    ("gptq", repacked_but(inputs({"num_bits": 4})), "inputs of 4 bits are not supported"),
    ("bnb-int8", int_quantized({"num_bits": 8}, bytes(4)), "a scale is above zero"),
    ("awq", config(version="gemv"), 'version "gemv" is not supported'),
    ("awq", drop(X + ".qzeros"), X + ".qzeros is missing"),
    ("awq", shape(X + ".qweight", 768, 31), "is [768, 31], [768, 32] is needed"),
    ("fbgemm-fp8", drop(X + ".weight_scale"), X + ".weight_scale is missing"),
    ("fbgemm-fp8", shape(X + ".weight_scale", 255, 1), "is [255, 1], [256, 1] is needed"),
    ("fbgemm-fp8", shape(X + ".weight", 256, 767), "is [256, 767], [256, 768] is needed"),
    ("fbgemm-fp8", add(X + ".input_scale", "F32", [1], bytes(4)), "a scale is above zero"),
    ("fbgemm-fp8", add(Q + ".weight_scale", "F32", [256, 1], bytes(1024)), "stored as bf16"),
    ("fbgemm-fp8", config(activation_scale_ub=-1), "activation_scale_ub"),
    ("fbgemm-fp8", nan(X + ".weight"), "value 0 is not a number"),
    ("bnb-nf4", drop(X + ".weight.quant_map"), X + ".weight.quant_map is missing"),
    ("bnb-nf4", shape(X + ".weight.absmax", 3071), "is [3071], [3072] is needed"),
    ("bnb-nf4", shape(X + ".weight", 98303, 1), "has 98303 bytes, 196608 values"),
    ("bnb-nf4", state(shape=[256, 769]), "shape is [256, 769]"),
    ("bnb-nf4", state(blocksize=0), "blocksize"),
    ("bnb-nf4", state(quant_type="int3"), '"int3" is not supported'),
    ("bnb-nf4-dq", drop(X + ".weight.nested_absmax"), "nested_absmax is missing"),
    ("bnb-nf4-dq", shape(X + ".weight.nested_quant_map", 255), "is [255], [256] is needed"),
    ("bnb-int8", drop(X + ".SCB"), "neither " + X + ".SCB"),
    ("bnb-int8", shape(X + ".SCB", 128), "is [128], [256] is needed"),
    ("bnb-int8", add(X + ".weight_format", "U8", [], b"\2"), "only format 0"),
    ("bnb-int8", add("model.layers.4.mlp.up_proj.SCB", "F32", [1], bytes(4)), "belongs to layer 4"),
]


def inspect(tmp, name, good, change):
    tensors, conf = dict(good[0]), json.loads(json.dumps(good[1]))
    change(tensors, conf)
    path = f"{tmp}/case"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(f"{tmp}/{name}", path)
    write(f"{path}/model.safetensors", tensors)
    with open(f"{path}/config.json", "w") as f:
        json.dump(conf, f)
    return subprocess.run([sys.argv[1], "inspect", "--json", path], capture_output=True, text=True)


def main():
    bad = 0
    with tempfile.TemporaryDirectory() as tmp:
        good = {}
        for name in sorted({case[0] for case in CASES + RIGHT}):
            parts = [f"{DATA}/{name}"]
            if name == "bnb-nf4-dq":
                parts.insert(0, f"{DATA}/bnb-nf4")
            overlay("tests/data/tiny-llama31", *parts, out=f"{tmp}/{name}")
            good[name] = (read(f"{tmp}/{name}/model.safetensors"),
                          json.loads(open(f"{tmp}/{name}/config.json").read()))
        for n, (name, change, want) in enumerate(CASES):
            run = inspect(tmp, name, good[name], change)
            said = run.stderr.strip()
            ok = run.returncode == 0 if want is None else \
                run.returncode == 2 and want in said and "\n" not in said
            if not ok:
                bad += 1
                print(f"case {n}, {name}: status {run.returncode}, wanted {want!r}, got: {said}")
        for n, (name, change, encoding, detail) in enumerate(RIGHT):
            said = inspect(tmp, name, good[name], change)
            found = {(x["encoding"], x["detail"]) for x in json.loads(said.stdout).get("encodings", [])}
            if said.returncode or (encoding, detail) not in found:
                bad += 1
                print(f"right {n}, {name}: {said.stderr.strip()} {found}")
    print(f"{len(CASES)} + {len(RIGHT)} cases, {bad} wrong")
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
