#!/usr/bin/env python3
"""Makes tests/fixtures/minilm-embeddings.safetensors: sentences and the embeddings transformers computes for them.

    pip install torch==2.15.0 transformers==5.23.0 safetensors==0.8.0
    tools/make-minilm-embeddings.py FOLDER tests/fixtures/minilm-embeddings.safetensors [--json FILE]

FOLDER is sentence-transformers/all-MiniLM-L6-v2. Each sentence goes through alone, without padding, in f32, with the special
tokens its tokenizer adds; its embedding is the mean of the last hidden state over all tokens, these included, not normalized.

embeddings F32 [sentences, hidden]; lengths I64 [sentences]; input_ids I64 [sum of lengths]; metadata: `provenance`, JSON
with the versions and the list of sentences. --json writes the same for people: a list of {"sentence", "input_ids", "embedding"}.
"""

import argparse
import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

SENTENCES = [
    "The ferry leaves at seven.",
    "Our boat departs from the harbour every morning at seven o'clock.",
    "She repaired the old clock with a hairpin.",
    "A compiler turns source code into machine instructions.",
    "Rust checks at compile time who owns each value.",
    "The borrow checker rejected my program again!",
    "Is there anything better than fresh bread with butter?",
    "No.",
    "Bread, butter, salt: that is all you need for a good breakfast.",
    "In 1969, people first walked on the Moon.",
    "The telescope recorded 3,482 galaxies in a patch of sky no larger than a grain of sand held at arm's length.",
    "Rain is expected in the north tonight, clearing by noon.",
    "He didn't know whether to laugh or cry.",
    "Water boils at 100 °C at sea level, but sooner on a mountain.",
    "The café on Bellevue Street serves crêpes and naïve optimism.",
    "Neural networks are often quantized to four bits per weight.",
    "Storing each parameter in half a byte makes language models eight times smaller than in single precision.",
    "THE LIBRARY IS CLOSED ON SUNDAYS",
    "Tomatoes, although we cook them as vegetables, are fruits; so are cucumbers, pumpkins and aubergines, which surprises "
    "many people who have never stopped to ask what a fruit really is, where its seeds are kept, and why plants make them.",
    "Electroencephalography measures voltage fluctuations (10-100 µV) on the scalp.",
]  # fmt: skip


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)  # sums in one order
    transformers.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.folder)
    model = transformers.AutoModel.from_pretrained(args.folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = [tokenizer(sentence, return_tensors="pt").input_ids[0] for sentence in SENTENCES]
    embeddings = torch.stack([model(one[None]).last_hidden_state[0].mean(0) for one in ids])

    provenance = {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]}
    tensors = {"embeddings": embeddings, "lengths": torch.tensor([len(one) for one in ids]), "input_ids": torch.cat(ids)}
    # One entry holds it all: safetensors writes several in no fixed order.
    save_file(tensors, args.target, metadata={"provenance": json.dumps(provenance | {"sentences": SENTENCES})})
    if args.json:
        rows = zip(SENTENCES, ids, embeddings)
        told = [{"sentence": text, "input_ids": one.tolist(), "embedding": row.tolist()} for text, one, row in rows]
        args.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
