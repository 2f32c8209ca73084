#!/usr/bin/env python3
"""Peak memory of `reweight calibrate` and `eval`: of a model given, or of a synthetic one of three billion parameters.

    tools/measure-forward-memory.py REWEIGHT [--model FOLDER] [--tokens 2048] [--context 512] [--scratch FOLDER]

The synthetic model is a Llama of bf16 values that repeat every 1 MiB, with the bundled model's tokenizer (standard library only; 6 GB of disk
while it runs). The figure is the largest `RssAnon` of the process, read every few milliseconds from outside, beside what one block takes in f32.
"""
import argparse, json, pathlib, random, shutil, struct, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIG = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_act="silu", hidden_size=3072, intermediate_size=8192,
              num_hidden_layers=28, num_attention_heads=24, num_key_value_heads=8, vocab_size=32000, rms_norm_eps=1e-5, rope_theta=1e4,
              max_position_embeddings=4096, tie_word_embeddings=True, torch_dtype="bfloat16")


def shapes(config):
    width, inner = config["hidden_size"], config["intermediate_size"]
    keys = width // config["num_attention_heads"] * config["num_key_value_heads"]
    block = {"input_layernorm": [width], "post_attention_layernorm": [width], "self_attn.q_proj": [width, width],
             "self_attn.k_proj": [keys, width], "self_attn.v_proj": [keys, width], "self_attn.o_proj": [width, width],
             "mlp.gate_proj": [inner, width], "mlp.up_proj": [inner, width], "mlp.down_proj": [width, inner]}
    yield "model.embed_tokens.weight", [config["vocab_size"], width]
    for layer in range(config["num_hidden_layers"]):
        for name, shape in block.items():
            yield f"model.layers.{layer}.{name}.weight", shape
    yield "model.norm.weight", [width]


def write_model(folder):
    rng = random.Random(7)
    # Sign and exponent bits of numbers between 2^-10 and 2^-6: sums over some thousand inputs stay tame.
    words = [rng.getrandbits(7) | rng.randrange(117, 121) << 7 | rng.getrandbits(1) << 15 for _ in range(1 << 19)]
    noise = struct.pack(f"<{len(words)}H", *words)
    one = struct.pack("<H", 0x3F80)
    header, end = {}, 0
    tensors = list(shapes(CONFIG))
    for name, shape in tensors:
        n_bytes = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + n_bytes]}
        end += n_bytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name, shape in tensors:
            begin, stop = header[name]["data_offsets"]
            if len(shape) == 1:
                out.write(one * shape[0])
                continue
            for start in range(begin, stop, len(noise)):
                out.write(noise[: min(len(noise), stop - start)])
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for name in ["tokenizer.json", "tokenizer_config.json"]:
        shutil.copy(ROOT / "assets/demo" / name, folder)
    return sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for _, shape in tensors)


def peak(command):
    with subprocess.Popen([*map(str, command), "--json", "-q"], stdout=subprocess.PIPE) as process:
        most = 0
        while process.poll() is None:
            try:
                status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                break
            most = max(most, *(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0)
            time.sleep(0.005)
        document = json.loads(process.stdout.read())
    return most, document


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("reweight")
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--scratch")
    options = parser.parse_args()
    texts = [ROOT / "assets/demo/text/calibration.txt", ROOT / "assets/demo/text/heldout.txt"]
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        folder = pathlib.Path(folder)
        model = options.model
        if model is None:
            model = folder / "model"
            model.mkdir()
            print(f"{write_model(model) / 1e9:.2f} billion parameters in bf16", flush=True)
        config = json.loads((model / "config.json").read_text())
        block = sum(s[0] * (s[1] if len(s) > 1 else 1) for n, s in shapes(config) if n.startswith("model.layers.0."))
        common = ["--text", *texts, "--context", options.context]
        for words in [["calibrate", model, folder / "stats.safetensors", *common, "--tokens", options.tokens],
                      ["eval", model, *common, "--max-tokens", options.tokens]]:
            most, document = peak([options.reweight, *words])
            print(f"{words[0]}: {document['tokens']} tokens in {document['seconds']:.1f} s, anonymous memory {most / 1e6:.0f} MB, "
                  f"one block in f32 {4 * block / 1e6:.0f} MB", flush=True)


if __name__ == "__main__":
    sys.exit(main())
