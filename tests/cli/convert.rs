//! Containers: what goes from one to another as it is, what is refused and why, and files of other writers.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use crate::support::{Cmd, Dir, Ran};
use crate::synthetic::{Random, Tensor, tensors, write_folder};

const CONTAINERS: [&str; 4] = ["compressed-tensors", "awq", "gptq", "gptq-v2"];
const UP: &str = "model.layers.0.mlp.up_proj.weight";
const DOWN: &str = "model.layers.0.mlp.down_proj.weight";

fn run(dir: &Dir, words: &str) -> Ran {
    Cmd::new(words).in_dir(dir).run()
}

/// A model whose sizes are multiples of 32 and not of 64.
fn source() -> Dir {
    let dir = Dir::new();
    let random = &mut Random::new(5);
    let weights = [
        Tensor::random("model.embed_tokens.weight", &[32, 288], random),
        Tensor::random(UP, &[352, 288], random),
        Tensor::random(DOWN, &[288, 352], random),
        Tensor::f32("model.norm.weight", &[288], (0..288).map(|_| 1.0)),
    ];
    write_folder(&dir.path().join("source"), &weights, &json!({ "model_type": "llama", "torch_dtype": "bfloat16" }));
    dir
}

fn settings(dir: &Dir, target: &str) -> Value {
    let text = fs::read(dir.path().join(target).join("config.json")).expect("the target has a configuration");
    serde_json::from_slice::<Value>(&text).expect("it is JSON")["quantization_config"].clone()
}

#[test]
fn codes_go_round_all_containers_and_come_back_the_same() {
    // Scheme, container to start in, others that hold it.
    let rows: [(&str, &str, &[&str]); 4] = [
        ("int4-g32", "awq", &["compressed-tensors", "gptq-v2", "awq"]),
        ("int4-g32-sym", "gptq", &["compressed-tensors", "gptq-v2", "gptq"]),
        ("int3-g32-sym", "compressed-tensors", &["gptq", "compressed-tensors"]),
        ("int8-channel", "gptq-v2", &["compressed-tensors", "gptq-v2"]),
    ];
    for (scheme, start, others) in rows {
        let dir = source();
        let options = format!("--scheme {scheme} --scale-dtype f16 --dtype f16");
        run(&dir, &format!("quantize source start --to {start} {options}")).expect_status(0);
        let mut from = "start".to_owned();
        for other in others {
            let target = format!("{from}-{other}");
            let told: Value =
                run(&dir, &format!("convert {from} {target} --to {other} --json")).expect_status(0).document();
            let digest = told["values_digest"].as_str().expect("values are said to be the same");
            assert_eq!(digest.len(), 64, "{scheme} {target}");
            run(&dir, &format!("verify {target}")).expect_status(0);
            let same: Value = run(&dir, &format!("diff start {target} --json")).expect_status(0).document();
            assert_eq!(same["identical"], true, "{scheme} {target}");
            from = target;
        }
        let read = |target: &str| tensors(&dir.path().join(target).join("model.safetensors"));
        assert!(read("start") == read(&from), "{scheme}: {from} differs from where it began");
        assert_eq!(settings(&dir, "start"), settings(&dir, &from), "{scheme}");
    }
}

#[test]
fn what_a_container_cannot_hold_is_refused_with_the_limit() {
    // Scheme, container, what the message says.
    let rows = [
        ("int3-g32", "awq", "AutoAWQ holds 4 bits, not 3"),
        ("int4-g32-sym", "awq", "AutoAWQ stores a zero point for each group"),
        ("int5-g32-sym", "gptq", "GPTQ holds 2, 3, 4 or 8 bits, not 5"),
        ("int4-g32", "gptq", "a zero of 0 would wrap"),
    ];
    for (scheme, to, expected) in rows {
        let dir = source();
        let ran = run(&dir, &format!("quantize source target --to {to} --scheme {scheme}")).expect_status(2);
        assert!(ran.stderr.contains(expected) && ran.stderr.contains("\nhint: "), "{scheme} {to}: {}", ran.stderr);
        run(&dir, &format!("quantize source packed --scheme {scheme}")).expect_status(0);
        let ran = run(&dir, &format!("convert packed target --to {to}"));
        if scheme == "int4-g32-sym" {
            // A stored zero can be the middle one.
            assert_eq!(ran.status, 0, "{}", ran.stderr);
            continue;
        }
        assert_eq!(ran.status, 2, "{scheme} {to}");
        assert!(ran.stderr.contains(expected) && ran.stderr.contains("--requantize"), "{}", ran.stderr);
        run(&dir, &format!("convert packed target --to {to} --requantize")).expect_status(0);
        run(&dir, "verify target").expect_status(0);
    }
    let dir = source();
    let rows = [
        ("quantize source t --to awq --scale-dtype bf16", "AutoAWQ holds scales in F16, not in BF16"),
        ("quantize source t --to gptq --scale-dtype f32", "GPTQ holds scales in F16 or BF16, not in F32"),
        ("quantize source t --to awq --tensor *.up_proj.*=int4-channel", "it states one scheme for all"),
        ("convert source t --to awq", "holds no tensor that is quantized in a container"),
        ("convert source t --to f16 --requantize", "--requantize has nothing to choose"),
        ("convert source t --to awq --scheme int4-g32", "--requantize"),
        ("quantize source model.safetensors --to awq", "but awq needs a folder"),
    ];
    for (words, expected) in rows {
        let ran = run(&dir, words).expect_status(2);
        assert!(ran.stderr.contains(expected), "{words}: {}", ran.stderr);
    }
    run(&dir, "quantize source q").expect_status(0);
    let ran = run(&dir, "convert q t --to compressed-tensors").expect_status(2);
    assert!(ran.stderr.contains("is in compressed-tensors already"), "{}", ran.stderr);
}

#[test]
fn a_shape_that_does_not_fill_words_is_kept_and_told() {
    let dir = Dir::new();
    let random = &mut Random::new(9);
    let mut weights = vec![Tensor::random(UP, &[36, 64], random), Tensor::random(DOWN, &[64, 36], random)];
    weights.push(Tensor::random("model.layers.0.self_attn.o_proj.weight", &[64, 64], random));
    write_folder(&dir.path().join("source"), &weights, &json!({ "model_type": "llama" }));
    for (to, expected) in [("awq", "awq packs 8 output channels"), ("gptq", "gptq packs 8 output channels")] {
        let told: Value = run(&dir, &format!("quantize source {to} --to {to} --json")).expect_status(0).document();
        let by_name: BTreeMap<&str, &Value> = told["tensors"]
            .as_array()
            .expect("tensors are a list")
            .iter()
            .map(|tensor| (tensor["name"].as_str().expect("it has a name"), tensor))
            .collect();
        assert_eq!(by_name[UP]["scheme"], "F16");
        assert!(by_name[UP]["reason"].as_str().is_some_and(|why| why.starts_with(expected)), "{}", by_name[UP]);
        let kept = settings(&dir, to).to_string();
        assert!(kept.contains("up_proj"), "{kept}");
        let ran = run(&dir, &format!("quantize source strict --to {to} --strict")).expect_status(2);
        assert!(ran.stderr.contains("do not divide") || ran.stderr.contains("packs 8"), "{}", ran.stderr);
    }
}

#[test]
fn the_same_bytes_from_one_thread_and_from_scalar_kernels() {
    for to in CONTAINERS {
        let dir = source();
        for (target, options) in [("a", ""), ("b", "--threads 1"), ("c", "--kernels scalar")] {
            run(&dir, &format!("quantize source {target} --to {to} {options}")).expect_status(0);
        }
        let read = |target: &str| fs::read(dir.path().join(target).join("model.safetensors")).expect("it is written");
        assert!(read("a") == read("b") && read("a") == read("c"), "{to}");
    }
}

#[test]
fn another_writers_awkward_gptq_files_are_read_or_refused() {
    let dir = source();
    run(&dir, "quantize source gptq --to gptq --scheme int4-g32-sym").expect_status(0);
    let read = |to: &str| {
        let target = format!("{to}-f32");
        run(&dir, &format!("convert {to} {target} --to f32")).expect_status(0);
        tensors(&dir.path().join(target).join("model.safetensors"))
    };
    let expected = read("gptq");
    let place = dir.path().join("gptq/model.safetensors");
    let (original, config) = (
        fs::read(&place).expect("it is written"),
        fs::read_to_string(dir.path().join("gptq/config.json")).expect("it is written"),
    );
    // Without a configuration the shapes tell, and it is version 1.
    fs::copy(&place, dir.path().join("alone.safetensors")).expect("it can be copied");
    run(&dir, "convert alone.safetensors alone-f32.safetensors --to f32").expect_status(0);
    assert!(tensors(&dir.path().join("alone-f32.safetensors")) == expected, "one file reads as the folder");
    // A column's group outside the groups there are.
    let range = crate::synthetic::ranges(&original)[&UP.replace("weight", "g_idx")].clone();
    let mut spoilt = original.clone();
    spoilt[range.start] = 99;
    fs::write(&place, &spoilt).expect("it can be written");
    let ran = run(&dir, "inspect gptq").expect_status(2);
    assert!(ran.stderr.contains("g_idx holds 99, and there are 9 groups"), "{}", ran.stderr);
    fs::write(&place, &original).expect("it can be written");
    // The same words as version 2: each zero is then one less.
    fs::write(
        dir.path().join("gptq/config.json"),
        config.replace("\"gptq\",\n    \"bits\"", "\"gptq_v2\",\n    \"bits\""),
    )
    .expect("it can be written");
    let ran = run(&dir, "convert gptq back --to compressed-tensors").expect_status(2);
    assert!(ran.stderr.contains("zero 7 of row 0 is not the middle code 8"), "{}", ran.stderr);
}

/// A Llama of one block without a tokenizer.
pub(crate) fn llama() -> Dir {
    let dir = Dir::new();
    let random = &mut Random::new(21);
    let block = |name: &str| format!("model.layers.0.{name}.weight");
    let mut weights = vec![Tensor::random("model.embed_tokens.weight", &[32, 256], random)];
    for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
        weights.push(Tensor::random(&block(&format!("self_attn.{name}")), &[256, 256], random));
    }
    for (name, shape) in [("gate_proj", [512, 256]), ("up_proj", [512, 256]), ("down_proj", [256, 512])] {
        weights.push(Tensor::random(&block(&format!("mlp.{name}")), &shape, random));
    }
    for name in ["input_layernorm", "post_attention_layernorm"] {
        weights.push(Tensor::random(&block(name), &[256], random));
    }
    weights.push(Tensor::random("model.norm.weight", &[256], random));
    let config = json!({
        "model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1, "vocab_size": 32,
        "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": true, "torch_dtype": "bfloat16", "architectures": ["LlamaForCausalLM"],
        "rope_scaling": { "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192 },
    });
    write_folder(&dir.path().join("source"), &weights, &config);
    dir
}

#[test]
fn gguf_files_hold_what_they_say() {
    let dir = llama();
    for scheme in
        ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"]
    {
        let words = format!("quantize source {scheme}.gguf --to gguf --scheme {scheme} --json");
        let told: Value = run(&dir, &words).expect_status(0).document();
        let differences: Value = run(&dir, &format!("diff source {scheme}.gguf --json")).expect_status(0).document();
        let errors = |list: &Value, key: &str| -> BTreeMap<String, f64> {
            let rows = list["tensors"].as_array().expect("tensors are a list").iter();
            rows.filter_map(|row| Some((row["name"].as_str()?.to_owned(), row[key].as_f64()?))).collect()
        };
        let (said, found) = (errors(&told, "error_mse"), errors(&differences, "mse"));
        let of_rtn = errors(&told, "error_mse_rtn");
        for (name, mse) in &said {
            assert!((found[name] - mse).abs() <= 1e-6 * mse, "{scheme} {name}: said {mse:e}, found {:e}", found[name]);
            assert!(*mse <= of_rtn[name], "{scheme} {name}: search {mse:e}, rtn {:e}", of_rtn[name]);
        }
        assert_eq!(said.is_empty(), ["f32", "f16", "bf16"].contains(&scheme), "{scheme}");
        if ["f32", "bf16"].contains(&scheme) {
            assert_eq!(differences["identical"], true, "{scheme}");
        }
        for (target, options) in [("one", "--threads 1"), ("scalar", "--kernels scalar")] {
            let words = format!("quantize source {target}.gguf --force --to gguf --scheme {scheme} {options}");
            run(&dir, &words).expect_status(0);
            let read = |name: &str| fs::read(dir.path().join(name)).expect("it is written");
            assert!(read(&format!("{scheme}.gguf")) == read(&format!("{target}.gguf")), "{scheme} {target}");
        }
    }
    let ran = run(&dir, "convert q4_0.gguf back --to bf16");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let config: Value = serde_json::from_slice(&fs::read(dir.path().join("back/config.json")).expect("it is written"))
        .expect("it is JSON");
    assert_eq!(config["rope_scaling"]["factor"], 8.0);
}

#[test]
fn gguf_takes_codes_as_they_are_or_says_why_not() {
    let dir = llama();
    for (scheme, kind) in [("int4-g32-sym", "Q4_0"), ("int5-g64-sym", "Q5_0"), ("int8-g128-sym", "Q8_0")] {
        run(&dir, &format!("quantize source {scheme} --scheme {scheme} --scale-dtype f16")).expect_status(0);
        let told: Value =
            run(&dir, &format!("convert {scheme} {scheme}.gguf --to gguf --json")).expect_status(0).document();
        let kinds = told["tensors"].to_string();
        assert!(kinds.contains(kind), "{kinds}");
        let same: Value = run(&dir, &format!("diff {scheme} {scheme}.gguf --json")).expect_status(0).document();
        assert_eq!(same["identical"], true, "{scheme}");
    }
    for (scheme, why) in
        [("int4-g32", "blocks with a minimum round it"), ("int3-g32-sym", "no block has symmetric codes of 3 bits")]
    {
        run(&dir, &format!("quantize source {scheme} --scheme {scheme}")).expect_status(0);
        let ran = run(&dir, &format!("convert {scheme} t.gguf --to gguf")).expect_status(2);
        assert!(ran.stderr.contains(why) && ran.stderr.contains("--requantize"), "{}", ran.stderr);
        run(&dir, &format!("convert {scheme} {scheme}.gguf --to gguf --requantize --scheme q4_0")).expect_status(0);
    }
    let rows = [
        ("quantize source t.gguf --to gguf --scheme int4-g32", "unknown GGUF type \"int4-g32\""),
        ("quantize source t.gguf --to gguf --tensor *.q_proj.*=q9_z", "unknown GGUF type \"q9_z\""),
        ("quantize source t.gguf --to gguf --method gptq", "chooses codes by rtn, search or awq"),
        ("quantize source t.gguf --to gguf --method awq", "needs to know what goes through the model"),
        ("quantize source t.gguf --to gguf --resume", "takes no --resume"),
        ("convert int4-g32-sym t.gguf --to gguf --resume", "takes no --resume"),
        ("quantize int4-g32 t.gguf --to gguf", "is quantized already"),
        ("convert source t.gguf --to gguf", "is in no container whose codes could be kept"),
    ];
    for (words, expected) in rows {
        let ran = run(&dir, words).expect_status(2);
        assert!(ran.stderr.contains(expected), "{words}: {}", ran.stderr);
        assert!(!dir.path().join("t.gguf").exists(), "{words}");
    }
}

#[test]
fn gguf_models_are_split_and_read_whole() {
    let dir = llama();
    run(&dir, "quantize source one.gguf --to gguf --scheme q4_k").expect_status(0);
    run(&dir, "quantize source several --to gguf --scheme q4_k --max-shard-size 150KB").expect_status(0);
    let names = || -> Vec<String> {
        let folder = fs::read_dir(dir.path().join("several")).expect("a folder");
        let mut names: Vec<String> =
            folder.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    let n = names().len();
    assert!(n > 2, "{:?}", names());
    let expected: Vec<String> = (1..=n).map(|file| format!("model-{file:05}-of-{n:05}.gguf")).collect();
    assert_eq!(names(), expected);
    for first in ["several".to_owned(), format!("several/{}", expected[0])] {
        let same: Value = run(&dir, &format!("diff one.gguf {first} --json")).expect_status(0).document();
        assert_eq!(same["identical"], true, "{first}");
        run(&dir, &format!("verify {first}")).expect_status(0);
    }
    let later = run(&dir, &format!("inspect several/{}", expected[1])).expect_status(2);
    assert!(later.stderr.contains("name the first"), "{}", later.stderr);
    fs::copy(dir.path().join("several").join(&expected[1]), dir.path().join("several").join(&expected[2]))
        .expect("copied");
    let twice = run(&dir, "inspect several").expect_status(2);
    assert!(twice.stderr.contains("split.no"), "{}", twice.stderr);
    fs::remove_file(dir.path().join("several").join(&expected[2])).expect("removed");
    let missing = run(&dir, "inspect several");
    assert!(missing.status >= 2 && missing.stderr.contains(&expected[2]), "{}", missing.stderr);
}

#[test]
fn gguf_files_tell_whether_they_are_whole() {
    let dir = llama();
    run(&dir, "quantize source t.gguf --to gguf --scheme q4_0").expect_status(0);
    let whole: Value = run(&dir, "verify t.gguf --json").expect_status(0).document();
    assert_eq!((&whole["ok"], &whole["n_files"]), (&json!(true), &json!(1)));
    let path = dir.path().join("t.gguf");
    let bytes = fs::read(&path).expect("it is written");
    let key = bytes.windows(12).position(|window| window == b"rms_epsilon\x06").expect("a key") + 15;
    for (place, name) in [(bytes.len() - 1000, "output_norm.weight"), (key, "metadata")] {
        let mut bytes = bytes.clone();
        bytes[place] ^= 1;
        fs::write(&path, bytes).expect("written");
        let ran = run(&dir, "verify t.gguf").expect_status(1);
        assert!(ran.stdout.contains(name) && ran.stdout.contains("do NOT all hold"), "{}", ran.stdout);
    }
}
