"""quantised.py OUT - checkpoints as the libraries write them, of a model of two layers, and what the libraries compute with
them. Recorded with torch 2.15, transformers 5.24, compressed-tensors 0.20.1, GPTQModel 7.7 and bitsandbytes 0.50.2 into
tests/data/quantised/.

small: the model in bf16. small/gptq8, gptq8-actorder: GPTQModel, 8 bits. small/w8a8, w8a16, w4a16-asym, fp8-dynamic:
compressed-tensors. small/fp8-blocks: transformers' Fp8Quantize, 128 x 128; its kernels need a GPU, so that the inputs'
rule is written out here. exact.safetensors beside the older fixtures: FBGEMM's rule and LLM.int8 token by token.

Everything but the rule runs in float32, matrix products with sums in double precision: rounding inputs to 8 bits turns a
difference in the last bit of a sum into one of half a step, and torch's float32 sums are 4e-3 away from the same in
double precision (fbgemm-fp8, logits_dynamic_act_f32). Of the logits every fourth row is kept (eighth in exact.safetensors).
"""
import json
import os
import shutil
import subprocess
import sys

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig

OUT = sys.argv[1]
TINY, OLD = "tests/data/tiny-llama31", "tests/data/quantised"
T = 32
torch.set_grad_enabled(False)
linear32 = torch.nn.functional.linear


def linear64(x, w, b=None):
    return linear32(x.double(), w.double(), None if b is None else b.double()).to(x.dtype)


torch.nn.functional.linear = linear64


def base(path):
    torch.manual_seed(11)
    config = LlamaConfig.from_pretrained(TINY)
    config.update(dict(hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
                       num_key_value_heads=2, head_dim=32, tie_word_embeddings=True, dtype="bfloat16"))
    model = AutoModelForCausalLM.from_config(config)
    for name, p in model.named_parameters():
        # wide enough that every stage matters, and a few columns that are larger than the rest
        p.copy_(1 + 0.2 * torch.randn_like(p) if p.ndim == 1 else torch.randn_like(p) * 0.12)
        if p.ndim == 2 and "proj" in name:
            p[:, ::37] *= 3
    model.bfloat16().save_pretrained(path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(f"{TINY}/{file}", f"{path}/{file}")


def finish(path, model, name):
    """Keeps what the base does not have, and records the logits."""
    ids = torch.randint(0, 1000, (1, T), generator=torch.Generator().manual_seed(5))
    logits = model(ids).logits[0, 3::4].contiguous().float()
    out = f"{OUT}/small/{name}"
    os.makedirs(out, exist_ok=True)
    old = {k: v for k, v in load_file(f"{OUT}/small/model.safetensors").items() if "proj" not in k}
    new = {}
    for file in os.listdir(path):
        if file.endswith(".safetensors"):
            new.update(load_file(f"{path}/{file}"))
    save_file({k: v.contiguous() for k, v in new.items() if k not in old or old[k].shape != v.shape or v.dtype != old[k].dtype
               or not torch.equal(v, old[k])}, f"{out}/model.safetensors")
    shutil.copyfile(f"{path}/config.json", f"{out}/config.json")
    save_file({"ids": ids.int(), "logits": logits}, f"{out}/golden.safetensors")
    print(name, logits.std().item())


def gptq(name, tmp, **kw):
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

    torch.nn.functional.linear = linear32
    torch.manual_seed(3)
    with torch.enable_grad():
        model = GPTQModel.load(f"{OUT}/small", QuantizeConfig(bits=8, group_size=64, **kw), device="cpu")
        model.quantize([{"input_ids": torch.randint(0, 1000, (1, 64)), "attention_mask": torch.ones(1, 64, dtype=torch.long)}
                        for _ in range(16)], batch_size=1)
        model.save(f"{tmp}/{name}")
    loaded = GPTQModel.load(f"{tmp}/{name}", backend=BACKEND.GPTQ_TORCH, device="cpu", dtype=torch.float16)
    torch.nn.functional.linear = linear64
    plain = AutoModelForCausalLM.from_pretrained(f"{OUT}/small", dtype=torch.float32).eval()
    n = 0
    for key, module in loaded.model.named_modules():
        if hasattr(module, "dequantize_weight"):
            module.scales = module.scales.float()  # else the product is rounded to 16 bits
            plain.get_submodule(key).weight.copy_(module.dequantize_weight().T.float())
            n += 1
    assert n == 14
    finish(f"{tmp}/{name}", plain, name)


def compressed(name, tmp, weights, inputs=None):
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (QuantizationArgs, QuantizationConfig, QuantizationScheme, QuantizationStatus,
                                                 apply_quantization_config)
    from compressed_tensors.quantization.utils import calculate_qparams

    model = AutoModelForCausalLM.from_pretrained(f"{OUT}/small", dtype=torch.bfloat16).eval()
    args = QuantizationArgs(**weights)
    config = QuantizationConfig(
        config_groups={"group_0": QuantizationScheme(targets=["Linear"], weights=args,
                                                     input_activations=inputs and QuantizationArgs(**inputs))},
        ignore=["lm_head"], quantization_status=QuantizationStatus.INITIALIZED)
    apply_quantization_config(model, config)
    for module in model.modules():
        if not hasattr(module, "weight_scale"):
            continue
        w = module.weight
        g = args.group_size or w.shape[1]
        rows = w.reshape(w.shape[0], -1, g)
        scale, zero = calculate_qparams(rows.amin(-1), rows.amax(-1), args)
        module.weight_scale.data.copy_(scale.reshape(module.weight_scale.shape))
        if hasattr(module, "weight_zero_point"):
            module.weight_zero_point.data.copy_(zero.reshape(module.weight_zero_point.shape))
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(f"{tmp}/{name}")
    compressor.update_config(f"{tmp}/{name}")
    if args.symmetric:
        model = AutoModelForCausalLM.from_pretrained(f"{tmp}/{name}", dtype=torch.float32).eval()
    else:  # transformers 5.24 expects zero points unpacked; compressed-tensors itself does not
        model = model.float()
        compressor.decompress_model(model)
    finish(f"{tmp}/{name}", model, name)


def fp8_blocks(name, tmp):
    from transformers import FineGrainedFP8Config
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize, Fp8Quantize

    class Quantizer:
        quantization_config = FineGrainedFP8Config(weight_block_size=(128, 128))

    model = AutoModelForCausalLM.from_pretrained(f"{OUT}/small", dtype=torch.float32).eval()
    path = f"{tmp}/{name}"
    os.makedirs(path, exist_ok=True)
    tensors = {}

    def rule(module, args):
        x = args[0].unflatten(-1, (-1, 128))
        s = x.abs().amax(-1, keepdim=True) / 448
        return ((x / s).to(torch.float8_e4m3fn).float() * s).flatten(-2)

    for key, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and key != "lm_head":
            if module.weight.shape[0] % 128:
                tensors[f"{key}.weight"] = module.weight.bfloat16()
                continue
            two = Fp8Quantize(Quantizer).convert({f"{key}.weight": module.weight})
            tensors.update(two)
            module.weight.copy_(Fp8Dequantize(Quantizer)._dequantize_one(two[f"{key}.weight"],
                                                                         two[f"{key}.weight_scale_inv"], torch.float32))
            module.register_forward_pre_hook(rule)
    assert len(tensors) == 24
    save_file(tensors, f"{path}/model.safetensors")
    config = json.load(open(f"{OUT}/small/config.json"))
    config["quantization_config"] = Quantizer.quantization_config.to_dict()
    with open(f"{path}/config.json", "w") as f:
        json.dump(config, f, indent=1, default=str)
    finish(path, model, name)


def overlaid(name, tmp):
    subprocess.run([sys.executable, "tests/overlay.py", TINY, f"{OLD}/{name}", f"{tmp}/{name}"], check=True)
    return f"{tmp}/{name}", load_file(f"{OLD}/{name}/golden.safetensors")["ids"][:1].long()


def exact(name, ids, logits):
    os.makedirs(f"{OUT}/{name}", exist_ok=True)
    save_file({"ids": ids.int(), "logits": logits[0, 7::8].contiguous()}, f"{OUT}/{name}/exact.safetensors")


def fbgemm(tmp):
    path, ids = overlaid("fbgemm-fp8", tmp)
    t = load_file(f"{path}/model.safetensors")
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(TINY)).float().eval()
    scale = {k: t.pop(k + "_scale") for k in list(t) if k + "_scale" in t}
    model.load_state_dict({k: v.float() * scale[k] if k in scale else v.float() for k, v in t.items()})

    def rule(module, args):
        s = (args[0].abs().amax(-1, keepdim=True).clamp(max=1200) / 448).clamp(min=1 / (448 * 512))
        return (args[0] / s).clamp(-448, 448).to(torch.float8_e4m3fn).float() * s

    for key, module in model.named_modules():
        if f"{key}.weight" in scale:
            module.register_forward_pre_hook(rule)
    exact("fbgemm-fp8", ids, model(ids).logits)


def int8(tmp):
    import bitsandbytes as bnb

    path, ids = overlaid("bnb-int8", tmp)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, device_map="cpu").eval()
    for p in model.parameters():
        p.data = p.data.float() if p.dtype == torch.bfloat16 else p.data
    @bnb.backends.default.ops.register_kernel("bitsandbytes::int8_mm_dequant", "cpu")
    def dequant(a, rows, cols, dtype=None, bias=None):
        # the kernel for CUDA has 1 / 127^2; the one for CPUs 6.200124e-05, another digit short
        return (a.double() * rows[:, None] * cols / 127**2).to(dtype or torch.float16)

    whole, n = bnb.nn.Linear8bitLt.forward, 0

    def each(self, x):
        return torch.cat([whole(self, row[None]) for row in x.flatten(0, -2)]).reshape(*x.shape[:-1], -1)

    bnb.nn.Linear8bitLt.forward = each
    for module in model.modules():
        n += isinstance(module, bnb.nn.Linear8bitLt)
    assert n == 28
    # each token a sequence of its own: else one that differs changes all after it
    exact("bnb-int8", ids, model(ids.T).logits.transpose(0, 1))


def main():
    tmp = f"{OUT}/tmp"
    shutil.rmtree(tmp, ignore_errors=True)
    os.makedirs(tmp)
    only = sys.argv[2:]
    base(f"{OUT}/small")
    channel = dict(num_bits=8, type="int", symmetric=True, strategy="channel")
    token = dict(num_bits=8, symmetric=True, strategy="token", dynamic=True)
    for name, run in {
        "fbgemm": lambda: fbgemm(tmp),
        "int8": lambda: int8(tmp),
        "w8a8": lambda: compressed("w8a8", tmp, channel, dict(token, type="int")),
        "w8a16": lambda: compressed("w8a16", tmp, channel),
        "w4a16": lambda: compressed("w4a16-asym", tmp, dict(num_bits=4, type="int", symmetric=False, strategy="group",
                                                            group_size=64)),
        "fp8": lambda: compressed("fp8-dynamic", tmp, dict(channel, type="float"), dict(token, type="float")),
        "blocks": lambda: fp8_blocks("fp8-blocks", tmp),
        "gptq8": lambda: gptq("gptq8", tmp, desc_act=False, sym=True),
        "gptq8-actorder": lambda: gptq("gptq8-actorder", tmp, desc_act=True, sym=False),
    }.items():
        if not only or name in only:
            run()
    shutil.rmtree(tmp)
    save_file({k: v for k, v in load_file(f"{OUT}/small/model.safetensors").items() if "proj" not in k},
              f"{OUT}/small/model.safetensors")


if __name__ == "__main__":
    main()
