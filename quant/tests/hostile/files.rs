//! Files that no honest program writes, made here from a fixed seed: a name for each, and its bytes.

#[path = "own.rs"]
mod own;

use std::fs;
use std::path::{Path, PathBuf};

/// A model that should be refused, or read without harm.
pub(crate) struct Hostile {
    pub(crate) name: String,
    files: Vec<(&'static str, Vec<u8>)>,
    open: &'static str,
}

impl Hostile {
    /// Writes its files under `folder`, and returns what to open.
    pub(crate) fn write(&self, folder: &Path) -> PathBuf {
        for (name, bytes) in &self.files {
            fs::write(folder.join(name), bytes).expect("the folder can be written");
        }
        folder.join(self.open)
    }

    /// Bytes of all its files.
    pub(crate) fn bytes(&self) -> usize {
        self.files.iter().map(|(_, bytes)| bytes.len()).sum()
    }
}

/// All of them.
pub(crate) fn all() -> Vec<Hostile> {
    let mut cases = Vec::new();
    let single = |(name, bytes)| Hostile {
        name: format!("safetensors: {name}"),
        files: vec![("m.safetensors", bytes)],
        open: "m.safetensors",
    };
    cases.extend(safetensors_lengths().into_iter().map(single));
    cases.extend(safetensors_headers().into_iter().map(single));
    cases.extend(safetensors_mutated().into_iter().map(single));
    cases.extend(packed().into_iter().map(|(name, bytes)| single((format!("packed: {name}"), bytes))));
    cases.extend(words().into_iter().map(|(name, bytes)| single((format!("words: {name}"), bytes))));
    cases.extend(own::cases().into_iter().map(|(name, bytes)| single((format!("own: {name}"), bytes))));
    cases.extend(folders());
    let gguf =
        |(name, bytes)| Hostile { name: format!("gguf: {name}"), files: vec![("m.gguf", bytes)], open: "m.gguf" };
    cases.extend(gguf_structures().into_iter().map(gguf));
    cases
}

/// Same numbers everywhere (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % bound as u64) as usize
    }
}

type Named = (String, Vec<u8>);

fn file(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header, data].concat()
}

fn tensor(name: &str, dtype: &str, shape: &str, offsets: &str) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
}

/// A file that is right: a matrix and a vector.
fn right() -> Vec<u8> {
    let matrix = tensor("model.layers.0.mlp.up_proj.weight", "BF16", "[2,64]", "[0,256]");
    let vector = tensor("model.norm.weight", "F32", "[64]", "[256,512]");
    file(format!(r#"{{"__metadata__":{{"format":"pt"}},{matrix},{vector}}}"#).as_bytes(), &[0; 512])
}

fn safetensors_lengths() -> Vec<Named> {
    let right = right();
    let cuts = (0..right.len()).filter(|n| *n < 24 || n % 37 == 0);
    let mut cases: Vec<Named> = cuts.map(|n| (format!("cut after {n} bytes"), right[..n].to_vec())).collect();
    cases.push(("one byte more".into(), [&right[..], &[0]].concat()));
    for length in [0, 1, 2, 99_999_999, 100_000_000, 100_000_001, 1 << 32, 1 << 40, i64::MAX as u64, u64::MAX] {
        cases.push((format!("header of {length} bytes"), [&length.to_le_bytes()[..], &right[8..]].concat()));
    }
    cases
}

#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn safetensors_headers() -> Vec<Named> {
    let mut cases: Vec<Named> = Vec::new();
    let mut add = |name: &str, header: String, data: usize| {
        cases.push((name.into(), file(header.as_bytes(), &vec![0; data])));
    };
    for shape in [
        "[18446744073709551615]",
        "[4294967296,4294967296]",
        "[9223372036854775808,2,0]",
        "[0,9223372036854775808]",
        "[1099511627776,0]",
        "[1152921504606846976,0]",
        "[0,1152921504606846976]",
        "[0,1099511627776,1099511627776,1099511627776]",
        "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]",
        "[1e30]",
        "[-1]",
        "[1.5]",
        "[\"4\"]",
        "null",
        "{}",
        "[[4]]",
        "[]",
    ] {
        let what = format!("shape {shape}");
        add(&what, format!("{{{}}}", tensor("a.weight", "F32", shape, "[0,0]")), 0);
        add(&format!("{what}, four bytes"), format!("{{{}}}", tensor("a.weight", "F32", shape, "[0,4]")), 4);
    }
    add(
        "a shape of 300000 ones",
        format!("{{{}}}", tensor("a", "U8", &format!("[1{}]", ",1".repeat(300_000)), "[0,1]")),
        1,
    );
    for offsets in [
        "[1,5]",
        "[4,0]",
        "[0,5]",
        "[0,3]",
        "[0]",
        "[0,4,8]",
        "[-4,0]",
        "[18446744073709551612,18446744073709551615]",
        "[18446744073709551615,3]",
        "{\"0\":4}",
    ] {
        add(&format!("offsets {offsets}"), format!("{{{}}}", tensor("a", "F32", "[1]", offsets)), 4);
    }
    let pair = |a: &str, b: &str| format!("{{{},{}}}", tensor("a", "F32", "[2]", a), tensor("b", "F32", "[2]", b));
    for (a, b) in
        [("[0,8]", "[4,12]"), ("[0,8]", "[0,8]"), ("[0,8]", "[12,20]"), ("[8,16]", "[16,24]"), ("[8,16]", "[4,12]")]
    {
        add(&format!("offsets {a} and {b}"), pair(a, b), 24);
        add(&format!("offsets {a} and {b} of 16"), pair(a, b), 16);
    }
    for dtype in ["bf16", "", "F4", "F8_E8M0", "I4", "U128", "BF16 ", "F32\\u0000", "\\u001b[31m"] {
        add(&format!("dtype {dtype:?}"), format!("{{{}}}", tensor("a", dtype, "[1]", "[0,4]")), 4);
    }
    let one = tensor("a", "F32", "[1]", "[0,4]");
    add("a name twice", format!("{{{one},{one}}}"), 4);
    add("a field twice", r#"{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#.into(), 4);
    add("an unknown field", r#"{"a":{"dtype":"F32","x":0,"shape":[1],"data_offsets":[0,4]}}"#.into(), 4);
    add("metadata of numbers", format!(r#"{{"__metadata__":{{"a":1}},{one}}}"#), 4);
    add("metadata as a list", format!(r#"{{"__metadata__":[],{one}}}"#), 4);
    add("metadata as a tensor", format!("{{{}}}", tensor("__metadata__", "F32", "[1]", "[0,4]")), 4);
    add("metadata twice", format!(r#"{{"__metadata__":{{}},"__metadata__":{{}},{one}}}"#), 4);
    add("no tensor", "{}".into(), 0);
    add("a list", "[]".into(), 0);
    add("text after the end", format!("{{{one}}}x"), 4);
    add("a header that stops", format!("{{{one}"), 4);
    add("a space first", format!(" {{{one}}}"), 4);
    add("lists in lists", format!(r#"{{"a":{}{}}}"#, "[".repeat(200_000), "]".repeat(200_000)), 4);
    add("objects in objects", format!(r#"{{"a":{}"#, r#"{"a":"#.repeat(100_000)), 4);
    add("metadata in metadata", format!(r#"{{"__metadata__":{}"#, r#"{"a":"#.repeat(100_000)), 4);
    for name in [
        "\\u001b[2J\\u001b[31mred",
        "a\\nerror: forged",
        "\\u202egnp.exe",
        "\\u0000",
        "",
        "../../a",
        "\\ud800",
        "\\u009b31m",
        "a\\rb\\u0007",
    ] {
        // A matrix whose packed parts would have that name, and one that cannot be quantized.
        let matrix = format!("{name}.weight");
        add(&format!("name {name:?}"), format!("{{{}}}", tensor(&matrix, "F32", "[1,64]", "[0,256]")), 256);
        add(&format!("name {name:?}, wrong size"), format!("{{{}}}", tensor(name, "F32", "[1,64]", "[0,255]")), 255);
        add(&format!("name {name:?}, unknown dtype"), format!("{{{}}}", tensor(name, "X", "[1]", "[0,1]")), 1);
    }
    add("a name of 400 kB", format!("{{{}}}", tensor(&"n".repeat(400_000), "F32", "[1]", "[0,3]")), 3);
    let many: Vec<String> = (0..12_000).map(|i| tensor(&format!("t{i}"), "U8", "[0]", "[0,0]")).collect();
    add("12000 empty tensors", format!("{{{}}}", many.join(",")), 0);
    let entries: Vec<String> = (0..60_000).map(|i| format!(r#""{i}":"""#)).collect();
    add("60000 metadata entries", format!(r#"{{"__metadata__":{{{}}},{one}}}"#, entries.join(",")), 4);
    cases.push(("bytes that are no text".into(), file(b"{\"\xFF\xFE\":{}}", &[0; 4])));
    // A narrow matrix: several bit widths take the same number of words.
    let narrow = tensor("model.layers.0.mlp.up_proj.weight", "F32", "[4,8]", "[0,128]");
    cases.push(("a narrow matrix".into(), file(format!("{{{narrow}}}").as_bytes(), &[0x3C; 128])));
    cases
}

fn safetensors_mutated() -> Vec<Named> {
    let right = right();
    let mut random = Random(0x0DD_5EED);
    let mut cases = Vec::new();
    for index in 0..120 {
        let mut bytes = right.clone();
        let header_end = bytes.len() - 512;
        for _ in 0..=random.below(3) {
            let at = random.below(header_end.min(bytes.len()));
            match random.below(4) {
                0 => bytes[at] ^= 1 << random.below(8),
                1 => bytes[at] = b"0123456789{}[],:\"\\\0"[random.below(19)],
                2 => bytes.insert(at, b"09{}[],:\"-.e"[random.below(12)]),
                _ => drop(bytes.remove(at)),
            }
        }
        // The length is put right half of the time, so that the JSON is reached.
        if index % 2 == 0 && bytes.len() > 520 {
            let length = (bytes.len() - 8 - 512) as u64;
            bytes[..8].copy_from_slice(&length.to_le_bytes());
        }
        cases.push((format!("mutation {index}"), bytes));
    }
    cases
}

/// The tensors of one quantized weight: dtype, shape, bytes.
struct Parts(Vec<(String, &'static str, Vec<usize>, Vec<u8>)>);

impl Parts {
    /// Four rows of 128 columns in 4 bits, one group.
    fn right() -> Self {
        let shape = [4_i64, 128].into_iter().flat_map(i64::to_le_bytes).collect();
        Self(vec![
            ("m.weight_packed".into(), "I32", vec![4, 16], vec![0x5A; 256]),
            ("m.weight_scale".into(), "BF16", vec![4, 1], vec![0x3C; 8]),
            ("m.weight_zero_point".into(), "I32", vec![1, 1], vec![0x77; 4]),
            ("m.weight_shape".into(), "I64", vec![2], shape),
        ])
    }

    fn sizes(mut self, rows: i64, columns: i64) -> Self {
        self.0[3].3 = [rows, columns].into_iter().flat_map(i64::to_le_bytes).collect();
        self
    }

    fn part(mut self, index: usize, dtype: &'static str, shape: &[usize], n_bytes: usize) -> Self {
        let name = self.0[index].0.clone();
        self.0[index] = (name, dtype, shape.to_vec(), vec![1; n_bytes]);
        self
    }

    fn without(mut self, indices: &[usize]) -> Self {
        let mut index = 0;
        self.0.retain(|_| {
            index += 1;
            !indices.contains(&(index - 1))
        });
        self
    }

    fn renamed(mut self, index: usize, name: &str) -> Self {
        name.clone_into(&mut self.0[index].0);
        self
    }

    fn and(mut self, name: &str, dtype: &'static str, shape: &[usize], n_bytes: usize) -> Self {
        self.0.push((name.to_owned(), dtype, shape.to_vec(), vec![0; n_bytes]));
        self
    }

    fn and_bytes(self, name: &str, dtype: &'static str, shape: &[usize], byte: u8, n_bytes: usize) -> Self {
        let mut parts = self.and(name, dtype, shape, n_bytes);
        parts.0.iter_mut().rev().take(1).for_each(|part| part.3.fill(byte));
        parts
    }

    fn file(self) -> Vec<u8> {
        let (mut entries, mut data) = (Vec::new(), Vec::new());
        for (name, dtype, shape, bytes) in self.0 {
            let begin = data.len();
            data.extend(bytes);
            entries.push(tensor(&name, dtype, &format!("{shape:?}"), &format!("[{begin},{}]", data.len())));
        }
        file(format!("{{{}}}", entries.join(",")).as_bytes(), &data)
    }
}

fn packed() -> Vec<Named> {
    let right = Parts::right;
    let mut cases = vec![
        ("codes of bytes", right().part(0, "U8", &[4, 64], 256)),
        ("codes of one dimension", right().part(0, "I32", &[64], 256)),
        ("codes of no columns", right().part(0, "I32", &[4, 0], 0)),
        ("codes of too few rows", right().part(0, "I32", &[3, 16], 192)),
        ("codes of too many columns", right().part(0, "I32", &[4, 33], 528)),
        ("codes of one column", right().part(0, "I32", &[4, 1], 16)),
        ("scales of no groups", right().part(1, "BF16", &[4, 0], 0)),
        ("scales of three groups", right().part(1, "BF16", &[4, 3], 24)),
        ("scales of 256 groups", right().part(1, "BF16", &[4, 256], 2048).part(2, "I32", &[1, 256], 1024)),
        ("scales of integers", right().part(1, "I16", &[4, 1], 8)),
        ("scales of other rows", right().part(1, "BF16", &[5, 1], 10)),
        ("scales of one dimension", right().part(1, "BF16", &[4], 8)),
        ("scales of no number", right().part(1, "F32", &[4, 1], 16)),
        ("zeros of other groups", right().part(2, "I32", &[1, 2], 8)),
        ("zeros of other rows", right().part(2, "I32", &[2, 1], 8)),
        ("zeros of no rows", right().part(2, "I32", &[0, 1], 0)),
        ("zeros of bytes", right().part(2, "U8", &[4, 1], 4)),
        ("a shape of three sizes", right().part(3, "I64", &[3], 24)),
        ("a shape of one size", right().part(3, "I64", &[1], 8)),
        ("a shape of i32", right().part(3, "I32", &[2], 8)),
        ("a shape of no dimension", right().part(3, "I64", &[], 8)),
        ("an order of groups", right().and("m.weight_g_idx", "I32", &[128], 512)),
        ("an order of other columns", right().and("m.weight_g_idx", "I32", &[127], 508)),
        ("an order of bytes", right().and("m.weight_g_idx", "U8", &[128], 128)),
        ("an order of groups that are not there", right().and_bytes("m.weight_g_idx", "I32", &[128], 0x7F, 512)),
        ("an order never set", right().and_bytes("m.weight_g_idx", "I32", &[128], 0xFF, 512)),
        ("padded codes", right().part(0, "I32", &[4, 13], 208).without(&[2])),
        ("padded codes and dense zeros", right().part(0, "I32", &[4, 26], 416).part(2, "I32", &[3, 1], 12)),
        ("the weight as well", right().and("m.weight", "BF16", &[4, 128], 1024)),
        ("no module", right().renamed(0, ".weight_packed")),
        ("parts of other modules", right().renamed(0, "n.weight_packed")),
        ("a name that drives a terminal", right().renamed(0, "\\u001b[31m.weight_packed")),
    ];
    for indices in [&[0][..], &[1], &[2], &[3], &[1, 2, 3], &[1, 3], &[0, 2, 3]] {
        cases.push(("parts absent", right().without(indices)));
    }
    let sizes = [
        (-1, 128),
        (4, -128),
        (0, 0),
        (4, 0),
        (0, 128),
        (i64::MAX, i64::MAX),
        (1 << 39, 128),
        (4, 1 << 39),
        (1 << 62, 1 << 62),
        (4, 127),
        (4, 129),
        (4, 64),
        (5, 128),
        (4, 512),
    ];
    cases.extend(sizes.map(|(rows, columns)| ("sizes", right().sizes(rows, columns))));
    cases.into_iter().enumerate().map(|(index, (name, parts))| (format!("{name} ({index})"), parts.file())).collect()
}

/// Parts of `AutoAWQ` and GPTQ weights that do not fit one another, and such files with bytes changed.
fn words() -> Vec<Named> {
    let file_of = |parts: &[(&str, &str, &str, usize)]| {
        let (mut entries, mut end) = (Vec::new(), 0);
        for (name, dtype, shape, bytes) in parts {
            entries.push(tensor(&format!("m.{name}"), dtype, shape, &format!("[{end},{}]", end + bytes)));
            end += bytes;
        }
        file(format!("{{{}}}", entries.join(",")).as_bytes(), &vec![1; end])
    };
    let awq = [("qweight", "I32", "[64,2]", 512), ("scales", "F16", "[2,16]", 64), ("qzeros", "I32", "[2,2]", 16)];
    let gptq = [
        ("qweight", "I32", "[8,32]", 1024),
        ("scales", "F16", "[2,32]", 128),
        ("qzeros", "I32", "[2,4]", 32),
        ("g_idx", "I32", "[64]", 256),
    ];
    let changes = [
        ("qweight", "I32", "[0,32]", 0),
        ("qweight", "I32", "[8,0]", 0),
        ("qweight", "I32", "[256]", 1024),
        ("qweight", "U8", "[8,32]", 256),
        ("qweight", "I32", "[7,32]", 896),
        ("scales", "F16", "[0,32]", 0),
        ("scales", "F16", "[2,0]", 0),
        ("scales", "F16", "[3,32]", 192),
        ("scales", "F16", "[64]", 128),
        ("scales", "I16", "[2,32]", 128),
        ("qzeros", "I32", "[2,0]", 0),
        ("qzeros", "I32", "[2,5]", 40),
        ("qzeros", "I32", "[3,4]", 48),
        ("g_idx", "I32", "[63]", 252),
        ("g_idx", "I64", "[64]", 512),
        ("g_idx", "I32", "[64]", 256),
        ("weight", "F16", "[32,64]", 4096),
        ("weight_packed", "I32", "[32,8]", 1024),
    ];
    let mut cases =
        vec![("awq".to_owned(), file_of(&awq)), ("gptq, groups of wrong numbers".to_owned(), file_of(&gptq))];
    for (kind, right) in [("awq", &awq[..]), ("gptq", &gptq[..])] {
        for change in changes {
            let mut parts: Vec<_> = right.iter().copied().filter(|part| part.0 != change.0).collect();
            parts.push(change);
            cases.push((format!("{kind}: {} {} {}", change.0, change.1, change.2), file_of(&parts)));
        }
        for absent in 0..right.len() {
            let mut parts = right.to_vec();
            let (name, ..) = parts.remove(absent);
            cases.push((format!("{kind} without {name}"), file_of(&parts)));
        }
        let whole = file_of(right);
        let random = &mut Random(0x5EED);
        for round in 0..200 {
            let mut bytes = whole.clone();
            let at = random.below(bytes.len());
            bytes[at] = random.below(256) as u8;
            cases.push((format!("{kind}, a byte changed ({round})"), bytes));
        }
    }
    cases
}

const INDEX: &str = "model.safetensors.index.json";
const NORM: &str = "model.norm.weight";
const UP: &str = "model.layers.0.mlp.up_proj.weight";

fn folders() -> Vec<Hostile> {
    let mut cases = Vec::new();
    let mut add = |name: &str, files: Vec<(&'static str, Vec<u8>)>| {
        cases.push(Hostile { name: format!("folder: {name}"), files, open: "" });
    };
    for shard in [
        "../m.safetensors",
        "/etc/passwd",
        "",
        ".",
        "..",
        "absent.safetensors",
        "a/../m.safetensors",
        "\\u001b[31m",
        "\\u0000",
        "a\\\\b",
    ] {
        let index = format!(r#"{{"weight_map":{{"{NORM}":"{shard}","{UP}":"m.safetensors"}}}}"#);
        add(&format!("index of shard {shard:?}"), vec![(INDEX, index.into()), ("m.safetensors", right())]);
    }
    for index in [
        String::new(),
        "[]".into(),
        "{}".into(),
        "nonsense".into(),
        r#"{"weight_map":[]}"#.into(),
        r#"{"weight_map":{"a":1}}"#.into(),
        r#"{"weight_map":{}}"#.into(),
        format!(r#"{{"weight_map":{{"{UP}":"m.safetensors"}}}}"#),
        format!(r#"{{"weight_map":{{"{UP}":"m.safetensors","{NORM}":"m.safetensors","\u001b[2J":"m.safetensors"}}}}"#),
        "[".repeat(300_000),
        format!("[{}0]", "[],".repeat(120_000)),
    ] {
        add(&format!("index {index:.60}"), vec![(INDEX, index.into()), ("m.safetensors", right())]);
    }
    for config in [
        String::new(),
        "[]".into(),
        "1".into(),
        "null".into(),
        r#"{"quantization_config":1}"#.into(),
        r#"{"quantization_config":{"quant_method":1}}"#.into(),
        r#"{"quantization_config":{"quant_method":"\u001b[31m"}}"#.into(),
        r#"{"model_type":[],"tie_word_embeddings":"yes","torch_dtype":{},"dtype":[]}"#.into(),
        r#"{"model_type":"\u001b[31mllama"}"#.into(),
        "{\"a\":".repeat(100_000),
        format!(r#"{{"a":[{}0]}}"#, "[],".repeat(100_000)),
        format!(r#"{{"a":[{}0]}}"#, r#"{"":0},"#.repeat(100_000)),
        format!(r#"{{"a":{}}}"#, "9".repeat(300_000)),
    ] {
        add(&format!("config {config:.60}"), vec![("config.json", config.into()), ("model.safetensors", right())]);
    }
    add("nothing", Vec::new());
    add("two files", vec![("a.safetensors", right()), ("b.safetensors", right())]);
    add("an empty file", vec![("model.safetensors", Vec::new())]);
    for manifest in [
        "",
        "{}",
        r#"{"schema":2}"#,
        r#"{"schema":1}"#,
        r#"{"schema":1,"tool":"","source_digest":"","target_digest":"","bits_per_weight":1e999,"bytes_in":0,"bytes_out":0,"tensors":[],"files":[]}"#,
        r#"{"schema":1,"tool":"","source_digest":"","target_digest":"\u001b[31m","bits_per_weight":1,"bytes_in":-1,"bytes_out":0,"tensors":[],"files":[]}"#,
        r#"{"schema":1,"tool":"","source_digest":"","target_digest":"\u001b[31m","bits_per_weight":1,"bytes_in":0,"bytes_out":0,"tensors":[],"files":[{"name":"\u001b[31m/../../absent","blake3":"\u001b[31m"}]}"#,
    ] {
        add(
            &format!("manifest {manifest:.60}"),
            vec![("reweight.json", manifest.into()), ("model.safetensors", right())],
        );
    }
    cases
}

/// A GGUF file in the making.
#[derive(Clone, Default)]
struct Gguf(Vec<u8>);

impl Gguf {
    fn new(n_tensors: u64, n_keys: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(3).u64(n_tensors).u64(n_keys)
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn string(self, text: &str) -> Self {
        self.u64(text.len() as u64).bytes(text.as_bytes())
    }

    fn tensor(self, name: &str, dims: &[u64], ty: u32, offset: u64) -> Self {
        let described = dims.iter().fold(self.string(name).u32(dims.len() as u32), |file, dim| file.u64(*dim));
        described.u32(ty).u64(offset)
    }

    /// Pads to the alignment and adds data.
    fn data(mut self, n_bytes: usize) -> Vec<u8> {
        self.0.resize(self.0.len().next_multiple_of(32) + n_bytes, 0);
        self.0
    }
}

fn gguf_structures() -> Vec<Named> {
    let right = Gguf::new(1, 1).string("general.architecture").u32(8).string("llama");
    let right = right.tensor("blk.0.ffn_up.weight", &[64, 2], 0, 0).data(512);
    let cuts = (0..right.len()).filter(|n| n % 7 == 0 || *n < 8);
    let mut cases: Vec<Named> = cuts.map(|n| (format!("cut after {n} bytes"), right[..n].to_vec())).collect();
    let mut add = |name: String, bytes: Vec<u8>| cases.push((name, bytes));
    for version in [0, 1, 4, 3 << 24, u32::MAX] {
        add(format!("version {version}"), [&right[..4], &version.to_le_bytes(), &right[8..]].concat());
    }
    for count in [2, 1 << 16, 1 << 20, 1 << 32, i64::MAX as u64, u64::MAX] {
        add(format!("{count} tensors"), [&right[..8], &count.to_le_bytes(), &right[16..]].concat());
        add(format!("{count} keys"), [&right[..16], &count.to_le_bytes(), &right[24..]].concat());
        add(format!("a key of {count} bytes"), Gguf::new(0, 1).u64(count).bytes(&[b'k'; 64]).data(32));
        add(format!("a string of {count} bytes"), Gguf::new(0, 1).string("k").u32(8).u64(count).data(64));
        for ty in [0, 7, 8, 10, 12] {
            add(
                format!("an array of {count} of type {ty}"),
                Gguf::new(0, 1).string("k").u32(9).u32(ty).u64(count).data(64),
            );
        }
        add(format!("a dimension of {count}"), Gguf::new(1, 0).tensor("t", &[32, count], 0, 0).data(64));
        add(format!("a row of {count}"), Gguf::new(1, 0).tensor("t", &[count], 0, 0).data(64));
        add(format!("a row of {count} and none"), Gguf::new(1, 0).tensor("t", &[count, 0], 0, 0).data(64));
        add(format!("none of {count} rows"), Gguf::new(1, 0).tensor("t", &[0, count], 0, 0).data(64));
        add(format!("offset {count}"), Gguf::new(1, 0).tensor("t", &[32], 0, count).data(256));
    }
    for rank in [5, 64, u32::MAX] {
        add(format!("rank {rank}"), Gguf::new(1, 0).string("t").u32(rank).bytes(&[0; 64]).data(64));
    }
    for ty in (0..45).chain([255, u32::MAX]) {
        add(format!("tensor type {ty}, a row of 33"), Gguf::new(1, 0).tensor("t", &[33], ty, 0).data(512));
        add(
            format!("tensor type {ty}, a row of 256"),
            Gguf::new(1, 0).tensor("blk.0.ffn_up.weight", &[256], ty, 0).data(2048),
        );
    }
    for value in (0..14).chain([u32::MAX]) {
        add(format!("a value of type {value}"), Gguf::new(0, 1).string("k").u32(value).bytes(&[0xFF; 64]).data(0));
    }
    for alignment in [0, 3, 1 << 31, u32::MAX] {
        let file = Gguf::new(1, 1).string("general.alignment").u32(4).u32(alignment);
        add(format!("alignment {alignment}"), file.tensor("t", &[8], 0, 0).data(64));
    }
    add("an alignment of text".into(), Gguf::new(0, 1).string("general.alignment").u32(8).string("32").data(0));
    let nested = (0..10_000).fold(Gguf::new(0, 1).string("k").u32(9), |file, _| file.u32(9).u64(1));
    add("arrays in arrays".into(), nested.data(0));
    add("a key twice".into(), Gguf::new(0, 2).string("k").u32(4).u32(1).string("k").u32(4).u32(1).data(0));
    let two = |a, b| Gguf::new(2, 0).tensor(a, &[16], 0, 0).tensor(b, &[16], 0, 32).data(128);
    add("a name twice".into(), two("t", "t"));
    add("tensors that overlap".into(), two("t", "u"));
    add("a name that drives a terminal".into(), two("\x1b[31m", "\x1b[2J"));
    add("a key that drives a terminal".into(), Gguf::new(0, 1).string("\x1b[31m\n").u32(99).data(0));
    add("a key that is no text".into(), Gguf::new(0, 1).u64(2).bytes(&[0xFF, 0xFE]).u32(4).u32(1).data(0));
    let strings = (0..60_000).fold(Gguf::new(0, 1).string("k").u32(9).u32(8).u64(60_000), |file, _| file.string("a"));
    add("60000 strings".into(), strings.data(0));
    cases
}
