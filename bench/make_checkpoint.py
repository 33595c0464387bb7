#!/usr/bin/env python3
"""Writes a model folder as Hugging Face lays it out, of a published shape, quantised, with random
weights, to measure speed and memory with.

    bench/make_checkpoint.py SHAPE ENCODING FOLDER [--tokenizer FILE] [--layers N] [--jobs N]

    SHAPE     1b, 3b, 8b, 70b, or tiny, as bench/make_model.py has them
    ENCODING  bf16            nothing quantised
              fp8             FBGEMM's E4M3, a scale for each output, inputs rounded by token
              awq             gemm layout, 4 bits, groups of 128, zero points
              gptq            4 bits, groups of 128, symmetric, inputs in order
              gptq-actorder   the same with zero points and the inputs of a group scattered
              nf4, nf4-dq     bitsandbytes, blocks of 64; -dq: scales quantised again
              int8            bitsandbytes' LLM.int8, threshold 6

As the libraries do, every matrix of the layers is quantised; embedding and output matrix are bf16
(f16 in awq and gptq). Needs Python 3.9 and nothing else; shards of at most 2 GB are written by as
many processes as there are cores, as fast as the disk takes them. Weights are cut from random
pools: codes are random, scales are drawn within a quarter of what lets weights deviate by about
0.02, so that activations stay finite. What such a model says means nothing.
"""
import argparse
import array
import json
import math
import os
import random
import statistics
import struct
import sys
import zlib

import make_model as gguf

BYTES = {"BF16": 2, "F16": 2, "F32": 4, "F8_E4M3": 1, "I8": 1, "U8": 1, "I32": 4}
SHARD = 2 << 30
POOL = 16 << 20
GROUP, BLOCK, NESTED = 128, 64, 256
DEVIATION = 0.02
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
         r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
# bitsandbytes' create_normal_map
NF4 = (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
       -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
       0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
       0.7229568362236023, 1.0)
CONFIG = {
    "fp8": {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0,
            "modules_to_not_convert": ["lm_head"]},
    "awq": {"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": GROUP,
            "zero_point": True},
    "gptq": {"quant_method": "gptq", "checkpoint_format": "gptq", "bits": 4, "group_size": GROUP,
             "desc_act": False, "sym": True},
    "gptq-actorder": {"quant_method": "gptq", "checkpoint_format": "gptq", "bits": 4,
                      "group_size": GROUP, "desc_act": True, "sym": False},
    "nf4": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_use_double_quant": False},
    "nf4-dq": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
               "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_use_double_quant": True},
    "int8": {"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_threshold": 6.0},
    "bf16": None,
}


# ---- pools of random bytes ----

def normal_quantiles():
    """256 values that stand for a normal distribution, each as likely as the others."""
    normal = statistics.NormalDist()
    return [normal.inv_cdf((i + 0.5) / 256) for i in range(256)]


def e4m3_values():
    """What the codes 0 to 126 mean; 127 is NaN."""
    return [math.ldexp(8 + (c & 7) if c >> 3 else c & 7, max(c >> 3, 1) - 10) for c in range(127)]


def e4m3(x):
    known = e4m3_values()
    code = min(range(127), key=lambda c: abs(known[c] - abs(x)))
    return code | (0x80 if x < 0 else 0)


def make_pool(name, rng):
    """Bytes to cut tensors of a kind from. Scales are named after what they multiply."""
    deviation_nf4 = math.sqrt(sum(v * v for v in NF4) / 16)
    scales = {"scale4": ("e", DEVIATION / 4.6), "scale_f8": ("f", DEVIATION / 112),
              "scale_i8": ("f", DEVIATION * 4), "absmax": ("f", DEVIATION / deviation_nf4),
              "nested": ("f", DEVIATION / deviation_nf4 / 4)}
    if name in scales:
        letter, scale = scales[name]
        n = 1 << 16
        return struct.pack(f"<{n}{letter}", *(scale * rng.uniform(0.75, 1.25) for _ in range(n)))
    if name in ("BF16", "F16"):
        n = 1 << 20
        values = [rng.gauss(0, DEVIATION) for _ in range(n)]
        if name == "F16":
            return struct.pack(f"<{n}e", *values)
        pool, wide = bytearray(2 * n), struct.pack(f"<{n}f", *values)
        pool[0::2], pool[1::2] = wide[2::4], wide[3::4]
        return bytes(pool)
    raw = rng.randbytes(POOL)
    if name == "e4m3":
        return raw.translate(bytes(e4m3(112 * z) for z in normal_quantiles()))
    if name == "int8":
        return raw.translate(bytes(max(-127, min(127, round(127 / 4 * z))) & 255
                                   for z in normal_quantiles()))
    if name == "zeros":  # zero points about the middle of the codes: 6 to 9
        return raw[:1 << 20].translate(bytes(6 + i % 4 | 6 + i // 4 % 4 << 4 for i in range(256)))
    assert name == "codes", name
    return raw


class Pools:
    def __init__(self, seed):
        self.seed, self.made = seed, {}

    def parts(self, name, nbytes, turn):
        """Stretches of the pool that add up to nbytes, elsewhere for each turn."""
        if name not in self.made:
            rng = random.Random(self.seed * 31 + zlib.crc32(name.encode()))
            self.made[name] = memoryview(make_pool(name, rng))
        pool, start = self.made[name], turn * 977 * 64
        while nbytes:
            start %= len(self.made[name])
            part = pool[start:start + nbytes]
            yield part
            nbytes -= len(part)
            start += len(part) + 977 * 64


# ---- tensors: (name, dtype, shape, a pool's name or the bytes themselves) ----

def scattered_groups(cols, seed):
    """Which group each input is in, groups of equal size in random order."""
    groups = [i // GROUP for i in range(cols)]
    random.Random(seed).shuffle(groups)
    return array.array("i", groups).tobytes()


def quantised(encoding, stem, rows, cols, seed):
    """The tensors of one matrix of rows outputs and cols inputs; seed: of the inputs' order."""
    groups, blocks = -(-cols // GROUP), rows * cols // BLOCK
    if encoding == "bf16":
        yield f"{stem}.weight", "BF16", (rows, cols), "BF16"
    elif encoding == "fp8":
        yield f"{stem}.weight", "F8_E4M3", (rows, cols), "e4m3"
        yield f"{stem}.weight_scale", "F32", (rows, 1), "scale_f8"
    elif encoding == "int8":
        yield f"{stem}.SCB", "F32", (rows,), "scale_i8"
        yield f"{stem}.weight", "I8", (rows, cols), "int8"
        yield f"{stem}.weight_format", "U8", (), b"\0"
    elif encoding == "awq":
        yield f"{stem}.qweight", "I32", (cols, rows // 8), "codes"
        yield f"{stem}.qzeros", "I32", (groups, rows // 8), "zeros"
        yield f"{stem}.scales", "F16", (groups, rows), "scale4"
    elif encoding in ("gptq", "gptq-actorder"):
        ordered = encoding == "gptq"
        yield f"{stem}.qweight", "I32", (cols // 8, rows), "codes"
        # symmetric: 8, stored as one less
        yield f"{stem}.qzeros", "I32", (groups, rows // 8), (b"\x77" * (groups * rows // 2)
                                                            if ordered else "zeros")
        yield f"{stem}.scales", "F16", (groups, rows), "scale4"
        yield f"{stem}.g_idx", "I32", (cols,), (
            array.array("i", (i // GROUP for i in range(cols))).tobytes()
            if ordered else scattered_groups(cols, seed))
    else:
        yield from bitsandbytes4(f"{stem}.weight", rows, cols, blocks, encoding == "nf4-dq")


def bitsandbytes4(name, rows, cols, blocks, nested):
    state = {"quant_type": "nf4", "blocksize": BLOCK, "dtype": "bfloat16", "shape": [rows, cols]}
    yield name, "U8", (rows * cols // 2, 1), "codes"
    yield f"{name}.quant_map", "F32", (16,), struct.pack("<16f", *NF4)
    if nested:
        # scales are spread around nested_offset
        offset = DEVIATION / math.sqrt(sum(v * v for v in NF4) / 16)
        state.update(nested_blocksize=NESTED, nested_dtype="float32", nested_offset=offset)
        yield f"{name}.absmax", "U8", (blocks,), "codes"
        yield f"{name}.nested_absmax", "F32", (-(-blocks // NESTED),), "nested"
        yield (f"{name}.nested_quant_map", "F32", (256,),
               struct.pack("<256f", *((i - 127.5) / 127.5 for i in range(256))))
    else:
        yield f"{name}.absmax", "F32", (blocks,), "absmax"
    raw = json.dumps(state).encode()
    yield f"{name}.quant_state.bitsandbytes__nf4", "U8", (len(raw),), raw


def ones(name, dtype, n):
    one = {"BF16": b"\x80\x3f", "F16": b"\0\x3c"}[dtype]
    return name, dtype, (n,), one * n


def parts_of(shape, encoding, seed):
    """The model in pieces that stay in one shard: embedding, each layer, the rest."""
    d, ffn, layers, heads, kv_heads, hd, tied, _ = shape
    vocab = gguf.TOKENS + gguf.SPECIAL
    plain = dtype_of(encoding)
    yield [("model.embed_tokens.weight", plain, (vocab, d), plain)]
    for i in range(layers):
        at = f"model.layers.{i}."
        part = [ones(at + "input_layernorm.weight", plain, d),
                ones(at + "post_attention_layernorm.weight", plain, d)]
        # matrices of the same inputs are quantised in the same order
        for order, name, rows, cols in (
                (0, "self_attn.q_proj", heads * hd, d), (0, "self_attn.k_proj", kv_heads * hd, d),
                (0, "self_attn.v_proj", kv_heads * hd, d), (1, "self_attn.o_proj", d, heads * hd),
                (2, "mlp.gate_proj", ffn, d), (2, "mlp.up_proj", ffn, d),
                (3, "mlp.down_proj", d, ffn)):
            part += quantised(encoding, at + name, rows, cols, (seed * 1000 + i) * 4 + order)
        yield part
    yield [ones("model.norm.weight", plain, d)] + (
        [] if tied else [("lm_head.weight", plain, (vocab, d), plain)])


def dtype_of(encoding):
    return "F16" if encoding.startswith(("awq", "gptq")) else "BF16"


def size_of(tensor):
    _, dtype, shape, _ = tensor
    return BYTES[dtype] * math.prod(shape)


# ---- files ----

def write_shard(path, tensors, first, pools):
    head, at = {"__metadata__": {"format": "pt"}}, 0
    for t in tensors:
        head[t[0]] = {"dtype": t[1], "shape": t[2], "data_offsets": [at, at + size_of(t)]}
        at += size_of(t)
    raw = json.dumps(head).encode()
    raw += b" " * (-len(raw) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(raw)) + raw)
        for turn, t in enumerate(tensors, first):
            if isinstance(t[3], bytes):
                assert len(t[3]) == size_of(t), t[:3]
                f.write(t[3])
            else:
                for part in pools.parts(t[3], size_of(t), turn):
                    f.write(part)


def shards_of(shape, encoding, seed):
    shards, filled = [[]], 0
    for part in parts_of(shape, encoding, seed):
        nbytes = sum(map(size_of, part))
        if shards[-1] and filled + nbytes > SHARD:
            shards.append([])
            filled = 0
        shards[-1] += part
        filled += nbytes
    return shards


def write_weights(folder, shards, pools, jobs):
    """Each process takes every jobs-th shard."""
    names = ["model.safetensors"] if len(shards) == 1 else [
        f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    if len(shards) > 1:
        total = sum(size_of(t) for s in shards for t in s)
        save(folder, "model.safetensors.index.json", {
            "metadata": {"total_size": total},
            "weight_map": {t[0]: name for name, s in zip(names, shards) for t in s}})
    jobs, children = min(jobs, len(shards)), []
    for job in range(jobs):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                for i in range(job, len(shards), jobs):
                    first = sum(map(len, shards[:i]))
                    write_shard(os.path.join(folder, names[i]), shards[i], first, pools)
                status = 0
            except OSError as e:
                print(f"{names[i]}: {e.strerror}", file=sys.stderr)
            finally:
                os._exit(status)
        children.append(child)
    if any([os.waitpid(c, 0)[1] for c in children]):
        sys.exit(f"{folder}: not all of it could be written")


def save(folder, name, value):
    with open(os.path.join(folder, name), "w") as f:
        json.dump(value, f, indent=1)


def write_tokenizer(folder, vocabulary):
    tokens, merges = vocabulary
    special = gguf.special_tokens()
    bos, eot = special[0], special[9]
    as_is = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True}
    with open(os.path.join(folder, "tokenizer.json"), "w") as f:
        json.dump({
            "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
            "added_tokens": [{"id": gguf.TOKENS + i, "content": s, **as_is}
                             for i, s in enumerate(special)],
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated",
                 "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                 "use_regex": False}]},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": bos, "type_id": 0}},
                           {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                         {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {bos: {"id": bos, "ids": [gguf.TOKENS], "tokens": [bos]}}},
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                        "use_regex": True},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False,
                      "continuing_subword_prefix": None, "end_of_word_suffix": None,
                      "byte_fallback": False, "ignore_merges": True,
                      "vocab": {t: i for i, t in enumerate(tokens)}, "merges": merges},
        }, f)
    save(folder, "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eot,
        "model_max_length": 131072, "clean_up_tokenization_spaces": True})


def write_config(folder, shape, encoding):
    d, ffn, layers, heads, kv_heads, hd, tied, factor = shape
    ends = {"bos_token_id": gguf.TOKENS, "eos_token_id": [gguf.TOKENS + i for i in (1, 8, 9)]}
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", **ends,
        "attention_bias": False, "mlp_bias": False, "hidden_act": "silu", "hidden_size": d,
        "intermediate_size": ffn, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "head_dim": hd, "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": tied,
        "vocab_size": gguf.TOKENS + gguf.SPECIAL, "rope_theta": 500000.0,
        "rope_scaling": {"rope_type": "llama3", "factor": float(factor), "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
        "torch_dtype": "float16" if dtype_of(encoding) == "F16" else "bfloat16",
    }
    if CONFIG[encoding]:
        config["quantization_config"] = CONFIG[encoding]
    save(folder, "config.json", config)
    save(folder, "generation_config.json", {**ends, "do_sample": True, "temperature": 0.6,
                                            "top_p": 0.9})


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[0])
    p.add_argument("shape", choices=gguf.SHAPES)
    p.add_argument("encoding", choices=sorted(CONFIG))
    p.add_argument("folder")
    p.add_argument("--tokenizer", help="Meta's tokenizer.model; default: a made-up vocabulary")
    p.add_argument("--layers", type=int, help="another number of layers")
    p.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)),
                   help="processes that write (default: %(default)s)")
    p.add_argument("--seed", type=int, default=1)
    args = p.parse_args()
    shape = list(gguf.SHAPES[args.shape])
    shape[2] = args.layers or shape[2]
    vocabulary = (gguf.vocabulary_from(args.tokenizer) if args.tokenizer
                  else gguf.vocabulary_made_up())
    if len(vocabulary[0]) != gguf.TOKENS:
        sys.exit(f"{args.tokenizer}: {len(vocabulary[0])} tokens, the shapes have {gguf.TOKENS}")
    os.makedirs(args.folder, exist_ok=True)
    write_config(args.folder, shape, args.encoding)
    write_tokenizer(args.folder, vocabulary)
    shards = shards_of(shape, args.encoding, args.seed)
    write_weights(args.folder, shards, Pools(args.seed), args.jobs)
    print(f"{args.folder}: {sum(size_of(t) for s in shards for t in s):,} bytes, "
          f"{sum(map(len, shards))} tensors, {len(shards)} files")


if __name__ == "__main__":
    main()
