"""Writes Meta's folder (params.json, consolidated.NN.pth) out of a Hugging Face one, as torch.save would:

    make_pth.py SRC DST SHARDS [--kv-copies N] [--llama12]

--kv-copies: each key and value head is in N neighbouring shards. --llama12: the embedding is cut along
its columns, as before Llama 3. Or, as a module: save() and the parts that hostile files are made of."""
import collections
import glob
import io
import json
import os
import pickle
import shutil
import struct
import sys
import types
import zipfile

DTYPES = {"BF16": ("BFloat16Storage", 2), "F16": ("HalfStorage", 2), "F32": ("FloatStorage", 4),
          "I64": ("LongStorage", 8)}


def fake(module, name):
    """A global that pickles by name; the torch it belongs to need not be here."""
    made = type(name, (), {"__module__": module, "__qualname__": name})
    FAKES.append(made)
    return made


FAKES = []
REBUILD = fake("torch._utils", "_rebuild_tensor_v2")
STORAGES = {name: fake("torch", name) for name, _ in DTYPES.values()}


class Storage:
    def __init__(self, dtype, key, values):
        self.pid = ("storage", STORAGES[DTYPES[dtype][0]], str(key), "cpu", values)


class Tensor:
    def __init__(self, storage, offset, size, stride):
        self.args = (storage, offset, tuple(size), tuple(stride), False, collections.OrderedDict())


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, Storage) else None

    def reducer_override(self, obj):
        return (REBUILD, obj.args) if isinstance(obj, Tensor) else NotImplemented


def dump(state):
    """The pickle of state. pickle looks names up, so modules of these names are there meanwhile."""
    names = ("torch", "torch._utils")
    real = {name: sys.modules.pop(name, None) for name in names}
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    for made in FAKES:
        setattr(sys.modules[made.__module__], made.__name__, made)
    text = io.BytesIO()
    Pickler(text, 2).dump(state)
    for name in names:
        del sys.modules[name]
        if real[name]:
            sys.modules[name] = real[name]
    return text.getvalue()


def strides(shape):
    out, step = [], 1
    for n in reversed(shape):
        out.insert(0, step)
        step *= n
    return out


def save(path, tensors, top="consolidated"):
    """tensors: {name: (dtype, shape, bytes)}; each in a storage of its own."""
    state, raw = {}, {}
    for key, (name, (dtype, shape, data)) in enumerate(tensors.items()):
        raw[key] = data
        storage = Storage(dtype, key, len(data) // DTYPES[dtype][1])
        state[name] = Tensor(storage, 0, shape, strides(shape))
    write_zip(path, top, dump(state), raw)


def write_zip(path, top, text, raw):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as z:
        def put(name, data):
            z.writestr(zipfile.ZipInfo(f"{top}/{name}", (1980, 1, 1, 0, 0, 0)), data)
        put("data.pkl", text)
        put("byteorder", b"little")
        for key, data in raw.items():
            put(f"data/{key}", data)
        put("version", b"3\n")


# ---- from Hugging Face's names and order of rows ----

def load(folder):
    out = {}
    for path in sorted(glob.glob(folder + "/*.safetensors")):
        raw = open(path, "rb").read()
        n = struct.unpack("<Q", raw[:8])[0]
        for name, t in json.loads(raw[8:8 + n]).items():
            if name != "__metadata__":
                begin, end = t["data_offsets"]
                out[name] = t["dtype"], t["shape"], raw[8 + n + begin:8 + n + end]
    return out


def rows(t):
    dtype, shape, data = t
    n = len(data) // shape[0]
    return [data[i * n:(i + 1) * n] for i in range(shape[0])]


def to_pairs(t, hd):
    """Row 2i + j of a head is row j * hd/2 + i of Hugging Face's."""
    r = rows(t)
    order = [h + j * (hd // 2) + i for h in range(0, len(r), hd) for i in range(hd // 2) for j in (0, 1)]
    return t[0], t[1], b"".join(r[i] for i in order)


def cut(t, axis, n, k):
    dtype, shape, data = t
    if axis == 0:
        part = len(data) // n
        return dtype, [shape[0] // n, *shape[1:]], data[k * part:(k + 1) * part]
    part = len(data) // shape[0] // n
    return dtype, [shape[0], shape[1] // n], b"".join(r[k * part:(k + 1) * part] for r in rows(t))


NAMES = {"self_attn.q_proj": ("attention.wq", 0), "self_attn.k_proj": ("attention.wk", 0),
         "self_attn.v_proj": ("attention.wv", 0), "self_attn.o_proj": ("attention.wo", 1),
         "mlp.gate_proj": ("feed_forward.w1", 0), "mlp.down_proj": ("feed_forward.w2", 1),
         "mlp.up_proj": ("feed_forward.w3", 0), "input_layernorm": ("attention_norm", None),
         "post_attention_layernorm": ("ffn_norm", None)}


def meta_name(name):
    whole = {"model.embed_tokens.weight": ("tok_embeddings.weight", 0),
             "model.norm.weight": ("norm.weight", None), "lm_head.weight": ("output.weight", 0)}
    if name in whole:
        return whole[name]
    _, _, layer, rest = name.split(".", 3)
    stem, axis = NAMES[rest.removesuffix(".weight")]
    return f"layers.{layer}.{stem}.weight", axis


def convert(src, dst, shards, kv_copies=1, llama12=False):
    config = json.load(open(src + "/config.json"))
    hd = config["head_dim"]
    os.makedirs(dst)
    tensors = load(src)
    for k in range(shards):
        part = {}
        for name, t in tensors.items():
            meta, axis = meta_name(name)
            if "q_proj" in name or "k_proj" in name:
                t = to_pairs(t, hd)
            if llama12 and meta.startswith("tok_embeddings"):
                axis = 1
            copies = kv_copies if ".wk." in meta or ".wv." in meta else 1
            part[meta] = t if axis is None else cut(t, axis, shards // copies, k // copies)
        part["rope.freqs"] = "F32", [hd // 2], bytes(2 * hd)
        save(f"{dst}/consolidated.{k:02d}.pth", part)
    params = {"dim": config["hidden_size"], "n_layers": config["num_hidden_layers"],
              "n_heads": config["num_attention_heads"], "n_kv_heads": config["num_key_value_heads"],
              "vocab_size": config["vocab_size"], "multiple_of": 256, "norm_eps": config["rms_norm_eps"],
              "rope_theta": config["rope_theta"], "use_scaled_rope": True}
    json.dump(params, open(dst + "/params.json", "w"))
    if os.path.exists(src + "/tokenizer.json"):
        shutil.copy(src + "/tokenizer.json", dst)


if __name__ == "__main__":
    args = sys.argv[1:]
    flags = [a for a in args if a.startswith("--")]
    copies = int(args.pop(args.index("--kv-copies") + 1)) if "--kv-copies" in flags else 1
    src, dst, n = [a for a in args if not a.startswith("--")]
    convert(src, dst, int(n), copies, "--llama12" in flags)
