//! Sentence embeddings of an encoder, a JSON list for each line of standard input.
//!
//! `cargo run --release --example embed -- models/minilm < sentences.txt`
//!
//! The embedding is the mean of the last hidden states over all tokens, those that the tokenizer puts around a sentence among
//! them; not normalized.

#![expect(clippy::print_stdout, reason = "an example prints what it computes")]

use std::io::stdin;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use reweight::eval::embed;
use reweight::model::Network;
use reweight::quant::{kernels, store::Model};
use reweight::text::Tokenizer;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("expected the folder of an encoder")?;
    let model = Model::open(Path::new(&path))?;
    let network = Network::open(&model, kernels::select(None)?)?;
    let tokenizer = Tokenizer::of(&model)?;
    let sentences: Vec<Vec<u32>> = stdin()
        .lines()
        .map(|line| Ok(tokenizer.encode_with_special(&line?)?))
        .collect::<Result<_, Box<dyn std::error::Error>>>()?;
    let sentences: Vec<&[u32]> = sentences.iter().map(Vec::as_slice).collect();
    for embedding in embed(&network, &sentences, &AtomicBool::new(false), &|_, _| {})? {
        println!("{}", serde_json::to_string(&embedding)?);
    }
    Ok(())
}
