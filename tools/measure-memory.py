#!/usr/bin/env python3
"""Peak memory of `reweight quantize` on a synthetic sharded model, beside what its plan states.

    tools/measure-memory.py REWEIGHT FOLDER [--gigabytes 4] [--shards 4]

Makes a folder of 100 MB bf16 matrices (standard library only; values repeat every 1 MiB), quantizes it, and prints the
planned and the measured peak of anonymous memory. Fails where anonymous memory reaches 600 MB, or the plan is more than 20 % off.
The measured figure is the largest `RssAnon` of the process, read every millisecond from outside.
"""
import argparse, json, pathlib, random, shutil, struct, subprocess, sys, time

ROWS, COLUMNS = 8192, 6400


def write_model(folder, gigabytes, shards):
    rng = random.Random(7)
    # Sign and exponent bits of numbers between 2^-8 and 2^-4, so that none is infinite.
    words = [rng.getrandbits(7) | rng.randrange(119, 123) << 7 | rng.getrandbits(1) << 15 for _ in range(1 << 19)]
    megabyte = struct.pack(f"<{len(words)}H", *words)
    tensor_bytes = ROWS * COLUMNS * 2
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(round(gigabytes * 1e9 / tensor_bytes))]
    weight_map = {}
    for shard in range(shards):
        members = names[shard::shards]
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        header = {
            name: {"dtype": "BF16", "shape": [ROWS, COLUMNS], "data_offsets": [i * tensor_bytes, (i + 1) * tensor_bytes]}
            for i, name in enumerate(members)
        }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(folder / file, "wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            for _ in members:
                for _ in range(tensor_bytes // len(megabyte)):
                    out.write(megabyte)
        weight_map |= dict.fromkeys(members, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "torch_dtype": "bfloat16"}))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reweight")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--gigabytes", type=float, default=4)
    parser.add_argument("--shards", type=int, default=4)
    options = parser.parse_args()
    source, target = options.folder / "source", options.folder / "target"
    source.mkdir(parents=True)
    write_model(source, options.gigabytes, options.shards)
    command = [options.reweight, "quantize", source, target, "--scheme", "int4-g128", "--method", "rtn", "--json", "-q"]
    plan = json.loads(subprocess.run([*command, "--dry-run"], check=True, capture_output=True).stdout)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        peak = 0
        while process.poll() is None:
            try:
                status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                break
            peak = max(peak, *(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0)
            time.sleep(0.001)
            if process.stdout in __import__("select").select([process.stdout], [], [], 0)[0]:
                break
        document = json.loads(process.stdout.read())
    shutil.rmtree(options.folder)
    planned = plan["peak_anonymous_bytes"]
    print(
        f"{document['bytes_in'] / 1e9:.2f} GB in {document['seconds']:.2f} s: anonymous memory planned {planned / 1e6:.1f} MB,"
        f" measured {peak / 1e6:.1f} MB (ratio {peak / planned:.3f}); resident with mapped files {document['peak_rss_bytes'] / 1e6:.0f} MB"
    )
    return 0 if peak < 600e6 and abs(peak / planned - 1) <= 0.2 else 1


if __name__ == "__main__":
    sys.exit(main())
