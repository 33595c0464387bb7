#!/usr/bin/env python3
"""Holds what `puna convert` writes against the libraries that it is written for.

    bench/compare_convert.py [MODEL_FOLDER] [--puna PATH] [--peers gguf,encodings,...]
                             [--record]

MODEL_FOLDER (default: the small Llama 3.1 of the tests) is converted to GGUF and back. Then
  gguf          gguf-py reads the file: keys, types, tensors; --write-golden FILE keeps that as JSON
  encodings     gguf-py's encoders give the same bytes
  llama.cpp     greedy tokens of bf16, f16, f32 and q8_0 files, beside puna's
  tokenizers    Meta's tokenizer.model, converted, beside transformers' own converter: the same
                vocabulary, merges and ids
  torch         shards that torch.save wrote become the tensors they were cut from
  transformers  greedy tokens of the folder that came back, beside puna's
Every peer named must be installed (`make compare` sees to that). Exit status 1 when anything
differs.
--record appends what was printed to bench/RESULTS.md.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROMPTS = ["The GNU General Public", "permissions granted", "a b c", "This License 2007"]
TOKENS = 16
lines, failed = [], []


def say(ok, text):
    lines.append(f"- {'same' if ok else 'DIFFERENT'}: {text}")
    print(lines[-1], flush=True)
    if not ok:
        failed.append(text)


def version(package):
    return f"{package} {importlib.metadata.version(package)}"


def run(args, *argv, text=None):
    p = subprocess.run([args.puna, *argv], input=text, stdout=subprocess.PIPE, text=True)
    if p.returncode:
        sys.exit(f"puna {' '.join(argv)}: exit status {p.returncode}")
    return p.stdout


def puna_tokens(args, model):
    """[(prompt ids, greedy ids)] of PROMPTS; an answer may end early."""
    asked = "".join(
        json.dumps({"prompt": p, "max_tokens": TOKENS, "temperature": 0}) + "\n" for p in PROMPTS
    )
    out = run(args, "run", str(model), "--raw", "--dtype", "f32", "--json", text=asked)
    return [(j["prompt_ids"], j["ids"]) for j in map(json.loads, out.splitlines())]


# ---- gguf-py ----


def gguf_structure(path):
    import gguf

    reader = gguf.GGUFReader(path)
    keys = {
        name: [t.name for t in field.types]
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.")
    }
    tensors = [[t.name, t.tensor_type.name, [int(n) for n in t.shape]] for t in reader.tensors]
    return {"keys": keys, "tensors": tensors}


def check_gguf(args, tmp):
    found = gguf_structure(tmp / "bf16.gguf")
    golden = ROOT / "tests" / "data" / "convert" / "gguf.json"
    if args.write_golden:
        pathlib.Path(args.write_golden).write_text(json.dumps(found, indent=1) + "\n")
    if args.model == str(ROOT / "tests" / "data" / "tiny-llama31") and golden.exists():
        say(
            found == json.loads(golden.read_text()),
            f"{version('gguf')} reads {len(found['keys'])} keys and {len(found['tensors'])} "
            "tensors, as recorded in tests/data/convert",
        )
    else:
        say(len(found["tensors"]) > 0, f"{version('gguf')} reads {len(found['tensors'])} tensors")


def check_encodings(args, tmp):
    """The bytes of every matrix beside gguf-py's own encoders. q4_0 and q5_0 round x / d + 8.5
    down: where x / d lies half-way, a fused multiply-add decides, which gguf-py imitates and
    puna leaves out."""
    import gguf
    import numpy

    source = {t.name: t.data for t in gguf.GGUFReader(tmp / "f32.gguf").tensors}
    for enc in "bf16", "f16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1":
        path = tmp / f"{enc}.gguf"
        if not path.exists():
            run(args, "convert", args.model, str(path), "--outtype", enc)
        good = n = ties = 0
        for t in gguf.GGUFReader(path).tensors:
            if t.tensor_type.name != enc.upper():
                continue
            x, n = source[t.name], n + 1
            want = gguf.quants.quantize(x, t.tensor_type)
            if numpy.array_equal(want.view(numpy.uint8), t.data.view(numpy.uint8)):
                good += 1
                continue
            theirs, ours = (gguf.quants.dequantize(q, t.tensor_type) for q in (want, t.data))
            ties += int((theirs != ours).sum())
            good += numpy.array_equal(abs(theirs - x), abs(ours - x))
        say(
            good == n and n > 0,
            f"{version('gguf')}, {enc}: {good} of {n} matrices"
            + (f", but for {ties} values half-way between two codes" if ties else ", every byte"),
        )


# ---- llama.cpp ----


def check_llama_cpp(args, tmp):
    """bf16 and f32 files: every token. The others: llama.cpp rounds what goes into a matrix
    product, so on these weights, which are random, only the first token is asked for."""
    import llama_cpp

    for enc in "bf16", "f32", "f16", "q8_0":
        path, exact = tmp / f"{enc}.gguf", enc in ("bf16", "f32")
        model = llama_cpp.Llama(str(path), n_ctx=512, n_threads=args.threads, verbose=False)
        same = n = 0
        for prompt, (prompt_ids, ids) in zip(PROMPTS, puna_tokens(args, path)):
            theirs = model.tokenize(prompt.encode(), add_bos=True, special=False)
            model.reset()
            model.eval(theirs)
            out, ids = [], ids if exact else ids[:1]
            while len(out) < len(ids):
                out.append(int(model.sample(temp=0.0)))
                model.eval(out[-1:])
            n += len(ids)
            same += sum(a == b for a, b in zip(out, ids)) if theirs == prompt_ids else 0
        say(
            same == n,
            f"llama.cpp ({version('llama_cpp_python')}), {enc}: {same} of {n} "
            f"{'greedy' if exact else 'first'} tokens of {len(PROMPTS)} prompts",
        )


# ---- transformers ----


def check_transformers(args, tmp):
    import torch
    import transformers

    tok = transformers.AutoTokenizer.from_pretrained(tmp / "back")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp / "back", dtype=torch.float32)
    model.generation_config.eos_token_id = None  # puna's answers say how long
    same = 0
    for prompt, (prompt_ids, ids) in zip(PROMPTS, puna_tokens(args, tmp / "back")):
        theirs = tok(prompt)["input_ids"]
        with torch.no_grad():
            out = model.generate(
                torch.tensor([theirs]), max_new_tokens=len(ids), do_sample=False, pad_token_id=0
            )
        same += theirs == prompt_ids and out[0].tolist()[len(theirs) :] == ids
    say(
        same == len(PROMPTS),
        f"{version('transformers')}, {version('torch')}, folder to GGUF and back: "
        f"greedy tokens of {same} of {len(PROMPTS)} prompts",
    )


# ---- Meta's files ----


def check_torch(args, tmp):
    """Shards that torch.save wrote, and back to the tensors that they were cut from."""
    import torch

    sys.path.insert(0, str(ROOT / "tests" / "format"))
    import make_pth

    types = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}

    def save(path, tensors):
        torch.save(
            {
                name: torch.frombuffer(bytearray(data), dtype=types[dtype]).reshape(shape)
                for name, (dtype, shape, data) in tensors.items()
            },
            path,
        )

    own, make_pth.save = make_pth.save, save
    try:
        make_pth.convert(args.model, str(tmp / "shards"), 4, 2)
    finally:
        make_pth.save = own
    run(args, "convert", str(tmp / "shards"), str(tmp / "joined"))
    ours, theirs = make_pth.load(str(tmp / "joined")), make_pth.load(args.model)
    say(
        ours == theirs,
        f"{version('torch')}: {len(theirs)} tensors from 4 shards of torch.save, heads twice",
    )


def tiny_meta(folder, tokenizer):
    """Meta's folder with its vocabulary and one small layer, so that there is something to
    convert."""
    sys.path.insert(0, str(ROOT / "tests" / "format"))
    import make_pth

    dim, ffn, vocab = 64, 256, 128256

    def ones(*shape):
        n = 1
        for k in shape:
            n *= k
        return "BF16", list(shape), b"\x80\x3c" * n

    p = "layers.0."
    shapes = {
        "tok_embeddings": (vocab, dim),
        "norm": (dim,),
        "output": (vocab, dim),
        p + "attention.wq": (dim, dim),
        p + "attention.wk": (32, dim),
        p + "attention.wv": (32, dim),
        p + "attention.wo": (dim, dim),
        p + "feed_forward.w1": (ffn, dim),
        p + "feed_forward.w2": (dim, ffn),
        p + "feed_forward.w3": (ffn, dim),
        p + "attention_norm": (dim,),
        p + "ffn_norm": (dim,),
    }
    folder.mkdir()
    make_pth.save(
        folder / "consolidated.00.pth", {k + ".weight": ones(*s) for k, s in shapes.items()}
    )
    params = {
        "dim": dim,
        "n_layers": 1,
        "n_heads": 2,
        "n_kv_heads": 1,
        "vocab_size": vocab,
        "multiple_of": 256,
        "norm_eps": 1e-5,
        "rope_theta": 5e5,
        "use_scaled_rope": True,
    }
    (folder / "params.json").write_text(json.dumps(params))
    (folder / "tokenizer.model").symlink_to(tokenizer)


def check_tokenizers(args, tmp):
    import tokenizers
    import transformers.convert_slow_tokenizer as slow

    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    source = cache / "puna" / "tokenizers" / "llama3" / "tokenizer.model"
    tiny_meta(tmp / "meta", source)
    run(args, "convert", str(tmp / "meta"), str(tmp / "meta-hf"))
    ours = json.loads((tmp / "meta-hf" / "tokenizer.json").read_text())
    added = [t["content"] for t in ours["added_tokens"]]
    pattern = ours["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    converter = slow.TikTokenConverter(
        vocab_file=str(source), pattern=pattern, extra_special_tokens=added
    )
    theirs = converter.converted()
    reference = json.loads(theirs.to_str())
    say(
        all(
            ours["model"][k] == reference["model"][k] for k in ("vocab", "merges", "ignore_merges")
        ),
        f"Meta's tokenizer beside {version('transformers')}'s converter: "
        f"{len(ours['model']['vocab'])} "
        f"tokens, {len(ours['model']['merges'])} merges",
    )
    mine, same, n = tokenizers.Tokenizer.from_file(str(tmp / "meta-hf" / "tokenizer.json")), 0, 0
    for line in (ROOT / "tests" / "data" / "golden" / "tokenizer.jsonl").read_text().split("\n"):
        if not line:
            continue
        j = json.loads(line)
        if isinstance(j.get("text"), str) and j["cat"] not in ("special", "longruns"):
            n += 1
            same += mine.encode(j["text"], add_special_tokens=False).ids == j["ids"]
    say(
        same == n and n > 500,
        f"{version('tokenizers')} with that tokenizer.json: recorded ids of {same} of "
        f"{n} texts",
    )


CHECKS = {
    "gguf": check_gguf,
    "encodings": check_encodings,
    "llama.cpp": check_llama_cpp,
    "tokenizers": check_tokenizers,
    "torch": check_torch,
    "transformers": check_transformers,
}


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    p.add_argument("model", nargs="?", default=str(ROOT / "tests" / "data" / "tiny-llama31"))
    p.add_argument("--puna", default=str(ROOT / "build" / "puna"))
    p.add_argument("--peers", default=",".join(CHECKS))
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--write-golden", metavar="FILE")
    p.add_argument("--record", action="store_true", help="append to bench/RESULTS.md")
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        tmp = pathlib.Path(tmp)
        for enc in "bf16", "f16", "f32", "q8_0":
            run(args, "convert", args.model, str(tmp / f"{enc}.gguf"), "--outtype", enc)
        run(args, "convert", str(tmp / "bf16.gguf"), str(tmp / "back"))
        for name in args.peers.split(","):
            CHECKS[name](args, tmp)
    if args.record:
        with open(ROOT / "bench" / "RESULTS.md", "a") as f:
            f.write(
                f"\n## {time.strftime('%Y-%m-%d', time.gmtime())}: what `puna convert` writes, "
                f"{os.path.basename(args.model)}\n\n" + "\n".join(lines) + "\n"
            )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
