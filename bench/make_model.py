#!/usr/bin/env python3
"""Writes a GGUF model of a published shape with random weights, to measure speed and memory with.

    bench/make_model.py SHAPE TYPE OUT.gguf [--tokenizer tokenizer.model] [--layers N] [--seed N]

    SHAPE  1b, 3b, 8b, 70b (Llama 3.2 1B and 3B, Llama 3.1 8B and 70B), or tiny
    TYPE   bf16, q8_0, q4_0, q4_1, q4_k_m; 4-bit types keep the output matrix in q6_k, as is usual,
           and q4_k_m half of attn_v and ffn_down too, as llama.cpp's mix does

Needs Python 3.9 and nothing else; 8b q4_0 (4.7 GB) is written as fast as the disk takes it. Weights
are cut from one random pool: codes are random, scales are fixed so that weights deviate by about
0.02 and activations stay finite. What such a model says means nothing.

The vocabulary has 128,000 tokens and 256 special ones. With --tokenizer they are those of that file
(Meta's, as script/setup puts it into the cache); without, the tokens are made up.
"""
import argparse
import base64
import math
import os
import random
import struct
import sys

# D, F, layers, heads, kv heads, head size, tied, divisor of the lowest rotary frequencies
SHAPES = {
    "1b": (2048, 8192, 16, 32, 8, 64, True, 32),
    "3b": (3072, 8192, 28, 24, 8, 128, True, 32),
    "8b": (4096, 14336, 32, 32, 8, 128, False, 8),
    "70b": (8192, 28672, 80, 64, 8, 128, False, 8),
    "tiny": (512, 1536, 4, 8, 4, 64, True, 8),
}
# values and bytes per block, GGUF's number, {offset in the block: the float16 there}
TYPES = {
    "f32": (1, 4, 0, {}),
    "bf16": (1, 2, 30, {}),
    "q8_0": (32, 34, 8, {0: 0.02 / 74}),
    "q4_0": (32, 18, 2, {0: 0.02 / 4.6}),
    "q4_1": (32, 20, 3, {0: 0.02 / 4.6, 2: -7.5 * 0.02 / 4.6}),
    "q4_k": (256, 144, 12, {0: 0.02 / 258, 2: 7.5 * 0.02 / 258}),
    "q6_k": (256, 210, 14, {208: 0.02 / (18 * 74)}),
}
# llama.cpp's general.file_type
FILE_TYPE = {"bf16": 32, "q8_0": 7, "q4_0": 2, "q4_1": 3, "q4_k_m": 15}
TOKENS, SPECIAL = 128000, 256
POOL = 32 << 20
ALIGN = 32


# ---- vocabulary ----

def byte_letters():
    """GPT-2's printable character for each byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    return {**{b: chr(b) for b in shown}, **{b: chr(256 + i) for i, b in enumerate(hidden)}}


def split_by_lower_ranks(token, ranks):
    """What BPE makes of a token's bytes when it may only use tokens of lower rank."""
    parts, limit = [token[i:i + 1] for i in range(len(token))], ranks[token]
    while len(parts) > 1:
        best = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], limit))
        if ranks.get(parts[best] + parts[best + 1], limit) >= limit:
            break
        parts[best:best + 2] = [parts[best] + parts[best + 1]]
    return parts


def vocabulary_from(path):
    """Tokens in rank order, and the merges that lead to them, from a tiktoken file."""
    with open(path, "rb") as f:
        ranks = {base64.b64decode(t): int(rank) for t, rank in map(bytes.split, f)}
    letters = byte_letters()
    spell = lambda token: "".join(letters[b] for b in token)
    ordered = sorted(ranks, key=ranks.get)
    pairs = (split_by_lower_ranks(t, ranks) for t in ordered if len(t) > 1)
    # a token that does not come down to two parts is found whole, without a merge
    return [spell(t) for t in ordered], [" ".join(map(spell, p)) for p in pairs if len(p) == 2]


def vocabulary_made_up():
    """The 256 bytes, then words of growing length: each a shorter one and a letter."""
    letters = byte_letters()
    tokens, merges = [letters[b] for b in range(256)], []
    alphabet = [letters[b] for b in b" abcdefghijklmnopqrstuvwxyz"]
    stems = alphabet
    while len(tokens) < TOKENS:
        pairs = [(s, c) for s in stems for c in alphabet[1:]][:TOKENS - len(tokens)]
        merges += [f"{s} {c}" for s, c in pairs]
        stems = [s + c for s, c in pairs]
        tokens += stems
    return tokens, merges


def special_tokens():
    names = {0: "begin_of_text", 1: "end_of_text", 4: "finetune_right_pad_id", 6: "start_header_id",
             7: "end_header_id", 8: "eom_id", 9: "eot_id", 10: "python_tag"}
    spare = iter(range(SPECIAL))
    return [f"<|{names[i]}|>" if i in names else f"<|reserved_special_token_{next(spare)}|>"
            for i in range(SPECIAL)]


# ---- the container (github.com/ggml-org/ggml, docs/gguf.md) ----

def text(s):
    raw = s.encode()
    return struct.pack("<Q", len(raw)) + raw


def field(key, value):
    """One metadata entry: a string, bool, float, int (u32), or a list of strings or of i32."""
    if isinstance(value, str):
        return text(key) + struct.pack("<I", 8) + text(value)
    if isinstance(value, float):
        return text(key) + struct.pack("<If", 6, value)
    if isinstance(value, int):
        return text(key) + struct.pack("<II", 4, value)
    if isinstance(value[0], str):
        return text(key) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    return text(key) + struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)


def size_of(shape, kind):
    values, nbytes, _, _ = TYPES[kind]
    return math.prod(shape) // values * nbytes


# ---- weights ----

def rope_divisors(head_dim, factor):
    """Llama 3.1's: low_freq_factor 1, high_freq_factor 4, original context 8192."""
    for i in range(head_dim // 2):
        wavelength = 2 * math.pi * 500000.0 ** (2 * i / head_dim)
        smooth = min(1.0, max(0.0, (8192 / wavelength - 1) / 3))
        yield 1 / ((1 - smooth) / factor + smooth)


class Pool:
    """Random blocks of each type, made once; tensors are stretches of them, turned each time."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.made, self.turn = {}, 0

    def blocks(self, kind):
        if kind not in self.made:
            _, nbytes, _, scales = TYPES[kind]
            n = POOL // nbytes
            if kind == "bf16":
                n = 1 << 20
                values = struct.pack(f"<{n}f", *(self.random.gauss(0, 0.02) for _ in range(n)))
                pool = bytearray(2 * n)
                pool[0::2], pool[1::2] = values[2::4], values[3::4]
            else:
                pool = bytearray(self.random.randbytes(n * nbytes))
            for at, scale in scales.items():
                low, high = struct.pack("<e", scale)
                pool[at::nbytes], pool[at + 1::nbytes] = bytes([low]) * n, bytes([high]) * n
            self.made[kind] = memoryview(pool)
        return self.made[kind]

    def write(self, f, nbytes, kind):
        pool, block = self.blocks(kind), TYPES[kind][1]
        while nbytes:
            self.turn += 1
            start = 977 * self.turn * block % len(pool)
            part = pool[start:start + nbytes]
            f.write(part)
            nbytes -= len(part)


def with_more_bits(layer, layers):
    """Whether a mix keeps attn_v and ffn_down of this layer in its larger type (llama.cpp)."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def tensors(shape, kind):
    """(name, shape with the outer axis first, type) in file order."""
    d, ffn, layers, heads, kv_heads, hd, tied, _ = shape
    output = "q6_k" if kind in ("q4_0", "q4_1", "q4_k_m") else kind
    mix = kind == "q4_k_m"
    kind = "q4_k" if mix else kind
    yield "token_embd.weight", (TOKENS + SPECIAL, d), output if tied else kind
    yield "rope_freqs.weight", (hd // 2,), "f32"
    for i in range(layers):
        for name, size in (("attn_norm", (d,)), ("attn_q", (heads * hd, d)),
                           ("attn_k", (kv_heads * hd, d)), ("attn_v", (kv_heads * hd, d)),
                           ("attn_output", (d, heads * hd)), ("ffn_norm", (d,)),
                           ("ffn_gate", (ffn, d)), ("ffn_up", (ffn, d)), ("ffn_down", (d, ffn))):
            more = mix and name in ("attn_v", "ffn_down") and with_more_bits(i, layers)
            yield f"blk.{i}.{name}.weight", size, ("f32" if len(size) == 1 else
                                                   "q6_k" if more else kind)
    yield "output_norm.weight", (d,), "f32"
    if not tied:
        yield "output.weight", (TOKENS + SPECIAL, d), output


def metadata(name, shape, kind, vocabulary):
    d, ffn, layers, heads, kv_heads, hd, _, _ = shape
    tokens, merges = vocabulary
    sizes = {"context_length": 131072, "block_count": layers, "embedding_length": d,
             "feed_forward_length": ffn, "attention.head_count": heads,
             "attention.head_count_kv": kv_heads, "attention.key_length": hd,
             "attention.value_length": hd, "rope.dimension_count": hd, "rope.freq_base": 500000.0,
             "attention.layer_norm_rms_epsilon": 1e-5, "vocab_size": TOKENS + SPECIAL}
    return {
        "general.architecture": "llama", "general.name": name, "general.file_type": FILE_TYPE[kind],
        **{f"llama.{k}": v for k, v in sizes.items()},
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": tokens + special_tokens(),
        "tokenizer.ggml.token_type": [1] * TOKENS + [3] * SPECIAL,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": TOKENS, "tokenizer.ggml.eos_token_id": TOKENS + 9,
    }


def write_model(path, shape, kind, meta, pool):
    layout, offset, infos = list(tensors(shape, kind)), 0, []
    for name, size, type_ in layout:
        # GGUF counts the fastest axis first
        infos.append(text(name) + struct.pack(f"<I{len(size)}QIQ", len(size), *reversed(size),
                                              TYPES[type_][2], offset))
        offset += -(-size_of(size, type_) // ALIGN) * ALIGN
    with open(path, "wb") as f:
        f.write(b"GGUF" + struct.pack("<IQQ", 3, len(layout), len(meta)))
        f.write(b"".join(field(k, v) for k, v in meta.items()) + b"".join(infos))
        for name, size, type_ in layout:
            f.write(bytes(-f.tell() % ALIGN))
            if name == "rope_freqs.weight":
                f.write(struct.pack(f"<{size[0]}f", *rope_divisors(shape[5], shape[7])))
            elif type_ == "f32":
                f.write(struct.pack("<f", 1) * size[0])
            else:
                pool.write(f, size_of(size, type_), type_)
    return len(layout)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    p.add_argument("shape", choices=SHAPES)
    p.add_argument("type", choices=FILE_TYPE)
    p.add_argument("out")
    p.add_argument("--tokenizer", help="Meta's tokenizer.model; default: a made-up vocabulary")
    p.add_argument("--layers", type=int, help="another number of layers")
    p.add_argument("--seed", type=int, default=1)
    args = p.parse_args()
    shape = list(SHAPES[args.shape])
    shape[2] = args.layers or shape[2]
    vocabulary = vocabulary_from(args.tokenizer) if args.tokenizer else vocabulary_made_up()
    if len(vocabulary[0]) != TOKENS:
        sys.exit(f"{args.tokenizer}: {len(vocabulary[0])} tokens, the shapes have {TOKENS}")
    meta = metadata(f"random-{args.shape}-{args.type}", shape, args.type, vocabulary)
    n = write_model(args.out + ".part", shape, args.type, meta, Pool(args.seed))
    os.replace(args.out + ".part", args.out)
    print(f"{args.out}: {os.path.getsize(args.out):,} bytes, {n} tensors")


if __name__ == "__main__":
    main()
