"""Records tests/data/unigram: a tokenizer.json made of tests/data/golden/spm_tiny.model as transformers'
DebertaV2Converter makes one, and what the tokenizers library answers for the texts of spm_tiny.jsonl and some more.

pip install tokenizers==0.23.3 sentencepiece==0.2.3 protobuf; then: unigram.py"""
import json
import os

import sentencepiece.sentencepiece_model_pb2 as pb
import tokenizers
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

DATA = os.path.join(os.path.dirname(__file__), "../data")
model = pb.ModelProto.FromString(open(DATA + "/golden/spm_tiny.model", "rb").read())
tok = Tokenizer(models.Unigram([(p.piece, p.score) for p in model.pieces], unk_id=3, byte_fallback=False))
tok.normalizer = normalizers.Sequence([
    normalizers.Strip(), normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap),
    normalizers.Replace(Regex(" {2,}"), " ")])
tok.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")
tok.post_processor = processors.TemplateProcessing(single="[CLS]:0 $A:0 [SEP]:0", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
os.makedirs(DATA + "/unigram", exist_ok=True)
tok.save(DATA + "/unigram/tokenizer.json", pretty=False)

texts = [json.loads(l)["text"] for l in open(DATA + "/golden/spm_tiny.jsonl")]
texts += ["A\u0302\u0300", "e\u0301", "\uac00\u11a8", "\u1100\u1161\u11a8", "\ufb01x", "\u2460\u2461", "\u3000\u3000a\u3000b", "a\u200bb",
          "\u0915\u094d\u0937\u093f", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\r\n a\t b\n\n", "\u00a0x\u00a0",
          "\u2581\u2581a", " \u2581a", "\u0e01\u0e33", "a\u0300\u0301\u0302\u0303b", "\u1e9b\u0323", "\uff76\uff9e", "x" * 300, "", " ", "\u3000"]
with open(DATA + "/unigram/cases.jsonl", "w") as f:
    for i, text in enumerate(texts):
        ids = tok.encode(text, add_special_tokens=False).ids
        f.write(json.dumps({"id": f"t{i:03}", "text": text, "ids": ids, "tokenizers": tokenizers.__version__} if i == 0 else
                           {"id": f"t{i:03}", "text": text, "ids": ids}, ensure_ascii=False) + "\n")
