"""train_dora.py INIT LOG - DoRA with the norms saved whole on the tiny model in float32: the adapter before and four
steps of PEFT 0.21.2 (torch 2.15, transformers 5.24) into tests/data/train/dora_init and dora.json."""
import json, sys, torch
from safetensors.torch import load_file, save_file
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
torch.manual_seed(3); torch.set_num_threads(1)
m=AutoModelForCausalLM.from_pretrained("tests/data/tiny-llama31",dtype=torch.float32)
d=load_file("tests/data/train/batches.safetensors")
ids,lab=d["ids"].reshape(-1,64)[:8].long(),d["labels"].reshape(-1,64)[:8].long()
m=get_peft_model(m,LoraConfig(r=2,lora_alpha=8,use_dora=True,target_modules=["k_proj","o_proj","down_proj"],modules_to_save=["norm"],task_type="CAUSAL_LM"))
with torch.no_grad():
    for n,p in m.named_parameters():
        if "lora_B" in n: p.copy_((torch.randn_like(p)*0.02).bfloat16().float())
        if "lora_A" in n: p.copy_(p.bfloat16().float())
m.save_pretrained(sys.argv[1])
learn=[p for p in m.parameters() if p.requires_grad]
opt=torch.optim.AdamW(learn,lr=2e-3,weight_decay=0)
log=[]
for s in range(4):
    b=slice(2*s,2*s+2)
    loss=m(input_ids=ids[b],labels=lab[b]).loss
    loss.backward()
    g=torch.nn.utils.clip_grad_norm_(learn,1.0)
    opt.step(); opt.zero_grad()
    log.append({"step":s+1,"loss":loss.item(),"grad_norm":g.item(),"learning_rate":2e-3})
json.dump({"config":{"dora":True,"r":2,"lora_alpha":8},"log":log},open(sys.argv[2],"w"),indent=1)
