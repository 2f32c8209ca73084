//! Random sequences of add, remove and scale: after each step the weights are those computed directly from the base,
//! and when nothing is left the base itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use reweight_patches::rewrite::Destination;
use reweight_patches::{Applied, Control, Patch, State, open, patch, rewrite};
use reweight_quant::store::safetensors::{NewTensor, SafetensorsFile, layout};
use reweight_quant::tensor::Dtype;

/// Sequences of each run; `REWEIGHT_SEQUENCES` asks for more.
const SEQUENCES: usize = 20;
/// Steps of a sequence.
const STEPS: usize = 12;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }

    fn value(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }
}

fn element(dtype: Dtype, value: f64) -> Vec<u8> {
    match dtype {
        Dtype::F64 => value.to_le_bytes().to_vec(),
        Dtype::F32 => (value as f32).to_le_bytes().to_vec(),
        Dtype::F16 => half::f16::from_f32(value as f32).to_le_bytes().to_vec(),
        _ => half::bf16::from_f32(value as f32).to_le_bytes().to_vec(),
    }
}

fn value(dtype: Dtype, bytes: &[u8]) -> f64 {
    match dtype {
        Dtype::F64 => f64::from_le_bytes(bytes.try_into().expect("eight bytes")),
        Dtype::F32 => f32::from_le_bytes(bytes.try_into().expect("four bytes")).into(),
        Dtype::F16 => half::f16::from_le_bytes(bytes.try_into().expect("two bytes")).to_f64(),
        _ => half::bf16::from_le_bytes(bytes.try_into().expect("two bytes")).to_f64(),
    }
}

/// The nearest value of a type, by looking at the two beside it: no code of the library is used.
fn rounded(dtype: Dtype, exact: f64) -> Vec<u8> {
    if matches!(dtype, Dtype::F64 | Dtype::F32) {
        return element(dtype, exact);
    }
    let near = element(dtype, exact);
    let bits = u16::from_le_bytes([near[0], near[1]]);
    let around = [bits.wrapping_sub(1), bits, bits.wrapping_add(1)].map(u16::to_le_bytes);
    let best = around.into_iter().filter(|bytes| value(dtype, bytes).is_finite()).min_by(|a, b| {
        let distance = |bytes: &[u8; 2]| (value(dtype, bytes) - exact).abs();
        distance(a).total_cmp(&distance(b)).then((a[0] & 1).cmp(&(b[0] & 1)))
    });
    let best = best.expect("one of them is a number").to_vec();
    // Zero has two signs, and the sum of opposite numbers the positive one.
    if value(dtype, &best) == 0.0 { element(dtype, 0.0_f64.copysign(exact)) } else { best }
}

const SHAPES: [(&str, &[usize], Dtype); 5] = [
    ("a.weight", &[9, 33], Dtype::F32),
    ("b.weight", &[8, 130], Dtype::Bf16),
    ("c.weight", &[5, 7, 3, 3], Dtype::F16),
    ("d.bias", &[70], Dtype::F64),
    ("e.weight", &[3, 3], Dtype::Bf16),
];

type Values = BTreeMap<&'static str, Vec<f64>>;

/// A model with values over many orders of magnitude, among them zeros of both signs.
fn write_model(path: &Path, random: &mut Random) -> Values {
    let tensors: Vec<NewTensor> =
        SHAPES.map(|(name, shape, dtype)| NewTensor { name: name.to_owned(), dtype, shape: shape.to_vec() }).into();
    let layout = layout(&tensors, &BTreeMap::new());
    let mut file = layout.header.clone();
    file.resize(layout.file_bytes, 0);
    let mut values = Values::new();
    for ((name, shape, dtype), range) in SHAPES.into_iter().zip(layout.ranges) {
        let bytes: Vec<u8> = (0..shape.iter().product::<usize>())
            .flat_map(|_| {
                let scale = [1.0, 0.02, 1e-4, 0.0, -0.0][random.below(5)];
                element(dtype, random.value() * scale)
            })
            .collect();
        values.insert(name, bytes.chunks(dtype.bytes()).map(|bytes| value(dtype, bytes)).collect());
        file[range].copy_from_slice(&bytes);
    }
    fs::write(path, file).expect("the folder can be written");
    values
}

/// What a patch adds, as the test knows it.
struct Known {
    patch: Arc<Patch>,
    changes: Values,
    replaced: Values,
}

/// Five patches: plain in three types, one of low rank, one that replaces a tensor.
fn patches(folder: &Path, random: &mut Random) -> Vec<Known> {
    (0..5).map(|index| known(folder, index, random)).collect()
}

fn known(folder: &Path, index: usize, random: &mut Random) -> Known {
    let path = folder.join(format!("p{index}.patch"));
    let (mut parts, mut bytes, mut entries) = (Vec::new(), Vec::<Vec<u8>>::new(), Vec::new());
    let (mut changes, mut replaced) = (Values::new(), Values::new());
    let mut take = |part: NewTensor, random: &mut Random| -> Vec<f64> {
        let data: Vec<u8> =
            (0..part.shape.iter().product()).flat_map(|_| element(part.dtype, random.value() * 0.01)).collect();
        let values = data.chunks(part.dtype.bytes()).map(|bytes| value(part.dtype, bytes)).collect();
        parts.push(part);
        bytes.push(data);
        values
    };
    for (place, (name, shape, _)) in SHAPES.into_iter().enumerate() {
        if (place + index).is_multiple_of(3) {
            continue;
        }
        let dtype = [Dtype::F32, Dtype::F16, Dtype::Bf16][(place + index) % 3];
        let change = if index == 3 && shape.len() == 2 {
            let rank = 2;
            let a = take(patch::part(name, "a", dtype, &[rank, shape[1]]), random);
            let b = take(patch::part(name, "b", dtype, &[shape[0], rank]), random);
            let scale = 40.0;
            let product = |place: usize| {
                let (row, column) = (place / shape[1], place % shape[1]);
                let term = |k: usize| (b[row * rank + k] * scale) * a[k * shape[1] + column];
                term(0) + term(1)
            };
            changes.insert(name, (0..shape[0] * shape[1]).map(product).collect());
            patch::Change::LowRank { rank, scale, transposed: false, magnitude: false }
        } else if index == 4 && place == 3 {
            replaced.insert(name, take(patch::part(name, "value", dtype, shape), random));
            patch::Change::Replace
        } else {
            changes.insert(name, take(patch::part(name, "delta", dtype, shape), random));
            patch::Change::Plain { scale: 1.0 }
        };
        entries.push(patch::Entry { name: name.to_owned(), shape: shape.to_vec(), base_blake3: None, change });
    }
    let (kind, name) = (patch::Kind::Difference, format!("p{index}"));
    let header = patch::Header { kind, name, notes: BTreeMap::new(), tensors: entries };
    patch::write(&path, &header, &parts, |part| Ok(bytes[part].clone().into())).expect("the patch is written");
    Known { patch: Arc::new(Patch::open(&path).expect("the patch opens")), changes, replaced }
}

/// The weights that a set of patches must give, computed from the definition.
fn direct(base: &Values, known: &[Known], set: &BTreeMap<usize, f64>, name: &str, dtype: Dtype) -> Vec<u8> {
    let mut order: Vec<(&Known, f64)> = set.iter().map(|(&index, &strength)| (&known[index], strength)).collect();
    order.sort_by(|(a, _), (b, _)| a.patch.digest().cmp(b.patch.digest()));
    let touched = order.iter().any(|(known, _)| known.patch.entry(name).is_some());
    let base = &base[name];
    (0..base.len())
        .flat_map(|index| {
            if !touched {
                return element(dtype, base[index]);
            }
            let mut sum = base[index];
            for (known, strength) in &order {
                if let Some(values) = known.replaced.get(name) {
                    // Only one patch of these replaces anything.
                    let whole = strength.max(1.0);
                    sum = sum * (1.0 - strength / whole) + strength / whole * values[index];
                }
            }
            let mut changes = 0.0;
            for (known, strength) in &order {
                if let Some(change) = known.changes.get(name) {
                    changes += strength * change[index];
                }
            }
            rounded(dtype, sum + changes)
        })
        .collect()
}

fn control() -> Control<'static> {
    static STOP: AtomicBool = AtomicBool::new(false);
    Control { stop: &STOP, progress: &|_, _| {} }
}

/// One step: another set of patches. Returns which and with which strengths.
fn step(state: &State, known: &[Known], set: &mut BTreeMap<usize, f64>, random: &mut Random) -> Vec<Applied> {
    let strengths = [1.0, 0.5, -1.0, 0.0, 1.75, 3e-3];
    let index = random.below(known.len());
    match (set.contains_key(&index), random.below(3)) {
        (true, 0) => drop(set.remove(&index)),
        _ => drop(set.insert(index, strengths[random.below(strengths.len())])),
    }
    let mut applied = state.patches().to_vec();
    applied.retain_mut(|applied| {
        let index = known.iter().position(|known| known.patch.digest() == applied.patch.digest());
        let strength = index.and_then(|index| set.get(&index));
        applied.strength = strength.copied().unwrap_or_default();
        strength.is_some()
    });
    let on = |known: &Known| applied.iter().any(|applied| applied.patch.digest() == known.patch.digest());
    let new: Vec<(usize, f64)> =
        set.iter().map(|(&index, &strength)| (index, strength)).filter(|&(index, _)| !on(&known[index])).collect();
    for (index, strength) in new {
        let (name, patch) = (format!("p{index}"), Arc::clone(&known[index].patch));
        applied = state
            .with(applied, Applied { name, patch, strength, transfer: false, side: false })
            .expect("it is not on yet");
    }
    applied
}

fn read(path: &Path, name: &str) -> Vec<u8> {
    let file = SafetensorsFile::open(path).expect("the model opens");
    let entry = file.tensors().iter().find(|entry| entry.name == name).expect("the tensor is there");
    file.bytes()[entry.range.clone()].to_vec()
}

#[test]
fn any_sequence_gives_the_function_of_the_set_and_the_base_comes_back() {
    let n = std::env::var("REWEIGHT_SEQUENCES").ok().and_then(|n| n.parse().ok()).unwrap_or(SEQUENCES);
    for seed in 1..=n as u64 {
        sequence(seed);
    }
}

fn sequence(seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let folder = tempfile::tempdir().expect("the system has a folder for temporary files");
    let mut path = folder.path().join("m.safetensors");
    let base = write_model(&path, &mut random);
    let original = fs::read(&path).expect("the model is there");
    let known = patches(folder.path(), &mut random);
    let mut set = BTreeMap::new();
    for count in 0..STEPS {
        let state = open(&path).expect("the model opens");
        let applied = step(&state, &known, &mut set, &mut random);
        let target: PathBuf = folder.path().join(format!("{count}.safetensors"));
        let destination = if random.below(2) == 0 {
            Destination::InPlace
        } else {
            Destination::Target { path: &target, force: false, fsync: false }
        };
        rewrite(&state, &applied, destination, &control()).expect("the set is applied");
        if matches!(destination, Destination::Target { .. }) {
            path = target;
        }
        for (name, _, dtype) in SHAPES {
            let expected = direct(&base, &known, &set, name, dtype);
            assert!(read(&path, name) == expected, "seed {seed}, step {count}, {name}: {set:?}");
        }
    }
    let state = open(&path).expect("the model opens");
    rewrite(&state, &[], Destination::InPlace, &control()).expect("all is taken off");
    assert!(fs::read(&path).expect("the model is there") == original, "seed {seed}: the base comes back");
    assert!(open(&path).expect("the model opens").ledger().is_none());
}
