"""train_parts.py OUT - parts of training as the libraries compute them, recorded with torch 2.15, transformers 5.24,
bitsandbytes 0.50.2 on the CPU into tests/data/train/parts.safetensors; tests/format/bnb_encode.c and tests/train/optim.c
compare.

Values that go in are bf16, so that they are stored exactly."""
import sys

import bitsandbytes as bnb
import bitsandbytes.backends.cpu.ops as cpu
import bitsandbytes.functional as F
import torch
from safetensors.torch import save_file
from transformers.optimization import Adafactor



def nearest(a, code, absmax, codes, block):
    """What the CUDA kernels do; the library's CPU code looks small values up in a coarse table."""
    n, blocks = a.numel(), absmax.numel()
    x = torch.nn.functional.pad(a.flatten(), (0, blocks * block - n)).reshape(blocks, block)
    absmax.copy_(x.abs().max(1)[0])
    x = x * (1.0 / absmax.clamp(min=1e-38))[:, None]
    codes.copy_(torch.bucketize(x.flatten()[:n], (code[:-1] + code[1:]) / 2).to(torch.uint8).reshape(codes.shape))


cpu._quant_blockwise_fp32_direct = nearest
torch.manual_seed(5)
out = {}
bf16 = lambda *shape, by=1.0: (torch.randn(*shape) * by).to(torch.bfloat16)

out["map.signed"] = F.create_dynamic_map(signed=True)
out["map.unsigned"] = F.create_dynamic_map(signed=False)
w = bf16(36, 500, by=0.05)
for kind in ("nf4", "fp4"):
    codes, s = F.quantize_4bit(w, blocksize=64, quant_type=kind, compress_statistics=True)
    out |= {f"{kind}.codes": codes.flatten(), f"{kind}.absmax": s.absmax, f"{kind}.nested": s.state2.absmax,
            f"{kind}.offset": s.offset.reshape(1)}
out["w"] = w


def steps(name, make, shape, n):
    """n steps of an optimiser from the same start, gradients in different sizes."""
    p = torch.nn.Parameter(bf16(*shape).float())
    opt = make([p])
    out[f"{name}.start"] = p.detach().to(torch.bfloat16)
    for i in range(n):
        g = bf16(*shape, by=0.1 * (i + 1)) * torch.linspace(0.01, 1, shape[-1]).to(torch.bfloat16)
        out[f"{name}.g{i}"] = g
        p.grad = g.float()
        opt.step()
    out[f"{name}.end"] = p.detach().clone()
    return opt.state[p]


s = steps("adam8", lambda p: bnb.optim.AdamW8bit(p, lr=1e-2, weight_decay=0.1), (30, 137), 3)
out |= {"adam8.m": s["state1"].flatten(), "adam8.v": s["state2"].flatten(), "adam8.absmax_m": s["absmax1"],
        "adam8.absmax_v": s["absmax2"]}
factor = lambda p: Adafactor(p, lr=1e-2, weight_decay=0.1, scale_parameter=False, relative_step=False)
steps("factor2", factor, (12, 20), 4)
steps("factor1", factor, (33,), 4)
save_file({k: v.contiguous() for k, v in out.items()}, sys.argv[1])
