"""adapters.py MODEL OUT - adapters that PEFT writes, beyond plain LoRA, and the logits that it computes with
them. Recorded with torch 2.15, transformers 5.24, PEFT 0.21.2 into tests/data/adapters/; MODEL is
tests/data/tiny-llama31 with all its weights (float32 arithmetic).

dora: use_dora on all linear layers. saved: modules_to_save of embedding, head and every norm, lora_bias.
whole: modules_to_save of linear layers. embed: LoRA of the embedding and the head. tokens: trainable_token_indices. The same four on the model
with tied embeddings (tied-*) only as logits: the adapters' own tensors are equal (but for "saved"). Tensors are stored in bf16,
whose values the logits were computed with.
"""
import os
import sys

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

MODEL, OUT = sys.argv[1:]
TOKENS = [5, 17, 100, 1023]
IDS = torch.tensor([[1, 5, 9, 17, 100, 33, 1023, 5, 400, 2, 17, 800]])
CASES = {
    "dora": dict(r=2, lora_alpha=4, use_dora=True, bias="all", target_modules="all-linear"),
    "saved": dict(r=2, lora_alpha=8, bias="lora_only", lora_bias=True, target_modules=["q_proj", "o_proj", "down_proj"],
                  modules_to_save=["embed_tokens", "lm_head", "norm"]),
    "embed": dict(r=4, lora_alpha=8, use_rslora=True, target_modules=["embed_tokens", "lm_head", "v_proj"]),
    "whole": dict(r=2, lora_alpha=4, target_modules=["q_proj"],
                  modules_to_save=["layers.1.self_attn.k_proj", "layers.2.self_attn.o_proj", "layers.3.mlp.down_proj"]),
    "tokens": dict(r=2, lora_alpha=4, target_modules=["k_proj"], trainable_token_indices={"embed_tokens": TOKENS}),
}


def base(tied):
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    if not tied:
        return model
    config = AutoConfig.from_pretrained(MODEL)
    config.tie_word_embeddings = True
    tied = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    tied.load_state_dict({k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}, strict=False)
    tied.tie_weights()
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    return tied


def adapted(name, tied):
    model = base(tied)
    torch.manual_seed(sum(name.encode()))
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **CASES[name])).eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            if not p.requires_grad:
                continue
            if "magnitude" in key or "modules_to_save" in key or "trainable_tokens" in key:
                p.mul_(1 + 0.3 * torch.randn_like(p))
            else:
                p.copy_(torch.randn_like(p) * (0.02 if "bias" not in key else 0.1))
            p.copy_(p.bfloat16().float())
    return model


def main():
    logits = {"ids": IDS.int()}
    for name in CASES:
        for tied in (False, True) if name != "saved" else (False,):
            model = adapted(name, tied)
            with torch.no_grad():
                logits[("tied-" if tied else "") + name] = model(IDS).logits[0].clone()
            if tied:
                continue
            model.save_pretrained(os.path.join(OUT, name))
            path = os.path.join(OUT, name, "adapter_model.safetensors")
            tensors = {k: v.bfloat16() for k, v in load_file(path).items()}
            save_file(tensors, path, {"format": "pt"})
            os.remove(os.path.join(OUT, name, "README.md"))
            merged = model.merge_and_unload() if "lora_bias" not in CASES[name] else None
            if merged:
                with torch.no_grad():
                    far = (merged(IDS).logits[0] - logits[name]).norm() / logits[name].norm()
                print(name, "merged differs by", far.item())
    save_file(logits, os.path.join(OUT, "more.safetensors"))


main()
