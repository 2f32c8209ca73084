#!/usr/bin/env python3
"""Writes tests/fixtures/lora: a LoRA adapter made by PEFT, and what llama.cpp's converter makes of it.

    python tools/make-lora-fixture.py LLAMA_CPP

LLAMA_CPP is the source of llama.cpp. Needs peft, transformers and what convert_lora_to_gguf.py needs.
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

OUT = pathlib.Path(__file__).resolve().parents[1] / "tests/fixtures/lora"
# Two queries a key, and heads of a length that is not the quotient of width and heads.
SIZES = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
             vocab_size=10, max_position_embeddings=32, tie_word_embeddings=False)  # fmt: skip
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj", "embed_tokens"]


def main():
    """Makes the adapter and has it converted."""
    torch.manual_seed(11)
    base = LlamaForCausalLM(LlamaConfig(**SIZES))
    config = LoraConfig(r=3, lora_alpha=5, target_modules=TARGETS)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        base.save_pretrained(scratch / "base")
        tuned = get_peft_model(base, config)
        with torch.no_grad():
            for parameter in tuned.parameters():
                if parameter.requires_grad:
                    parameter.copy_(torch.randn_like(parameter) * 0.1)
        tuned.save_pretrained(scratch / "adapter", save_embedding_layers=False)
        OUT.mkdir(exist_ok=True)
        for kind in ("f32", "q8_0"):
            script = pathlib.Path(sys.argv[1]) / "convert_lora_to_gguf.py"
            words = ["--base", scratch / "base", "--outfile", OUT / f"{kind}.gguf", "--outtype", kind, scratch / "adapter"]
            subprocess.run([sys.executable, script, *words], check=True)
        (OUT / "adapter").mkdir(exist_ok=True)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copyfile(scratch / "adapter" / name, OUT / "adapter" / name)
        shutil.copyfile(scratch / "base/config.json", OUT / "config.json")


if __name__ == "__main__":
    main()
