//! Parts of the toolkit's own layout that do not fit one another, and such files with bytes changed.

use super::{Named, Random, file, tensor};

type Part = (&'static str, &'static str, String, Vec<u8>);

fn part(name: &'static str, dtype: &'static str, shape: &[usize], bytes: Vec<u8>) -> Part {
    (name, dtype, format!("{shape:?}"), bytes)
}

fn shape(rows: i64, columns: i64) -> Part {
    part("weight_shape", "I64", &[2], [rows, columns].into_iter().flat_map(i64::to_le_bytes).collect())
}

fn levels(values: &[f32]) -> Part {
    part("weight_levels", "F32", &[values.len()], values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

fn scheme(name: &str) -> Part {
    part("weight_scheme", "U8", &[name.len()], name.as_bytes().to_vec())
}

/// Four rows of 64 columns.
fn right(name: &str, row_bytes: usize, of_levels: &[f32]) -> Vec<Part> {
    vec![
        part("weight_codes", "U8", &[4, row_bytes], vec![0xE4; 4 * row_bytes]),
        part("weight_scales", "BF16", &[4, 2], vec![0x3C; 16]),
        levels(of_levels),
        scheme(name),
        shape(4, 64),
    ]
}

fn file_of(parts: &[Part]) -> Vec<u8> {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for (name, dtype, shape, bytes) in parts {
        let start = data.len();
        data.extend(bytes);
        entries.push(tensor(&format!("m.{name}"), dtype, shape, &format!("[{start},{}]", data.len())));
    }
    file(format!("{{{}}}", entries.join(",")).as_bytes(), &data)
}

/// Files that say how they are wrong by their names.
pub(super) fn cases() -> Vec<Named> {
    let lloyd = right("lloyd2-g32", 16, &[-1.0, -0.25, 0.25, 1.0]);
    let ternary = right("ternary-g32", 16, &[-1.0, 0.0, 1.0]);
    let changes = [
        part("weight_codes", "U8", &[4, 15], vec![1; 60]),
        part("weight_codes", "U8", &[0, 16], vec![]),
        part("weight_codes", "U8", &[64], vec![1; 64]),
        part("weight_codes", "I8", &[4, 16], vec![1; 64]),
        part("weight_scales", "BF16", &[4, 1], vec![1; 8]),
        part("weight_scales", "BF16", &[4, 0], vec![]),
        part("weight_scales", "F64", &[4, 2], vec![1; 64]),
        part("weight_scales", "F32", &[4, 2], vec![0xFF; 32]),
        part("weight_zeros", "U8", &[4, 4], vec![1; 16]),
        part("weight_zeros", "U8", &[4], vec![1; 4]),
        levels(&[]),
        levels(&[-1.0, 1.0]),
        levels(&[f32::NAN, 0.0, 0.0, 1.0]),
        levels(&[-1.0, 0.0, 0.5]),
        levels(&[0.0; 256]),
        scheme(""),
        scheme("lloyd3-g32"),
        scheme("statsq2-g32"),
        scheme("nf4-g32"),
        scheme("ternary"),
        scheme("int2-g32"),
        scheme("int2-g32-sym"),
        scheme("lloyd2-g0"),
        scheme("lloyd2-g48"),
        scheme("lloyd2-g18446744073709551615"),
        scheme("lloyd2-g99999999999999999999999"),
        scheme("\u{1b}[31m"),
        scheme(&"x".repeat(5000)),
        part("weight_scheme", "U8", &[3], vec![0xFF, 0xFE, 0x80]),
        part("weight_scheme", "U8", &[2, 5], b"lloyd2-g32".to_vec()),
        shape(4, 32),
        shape(4, 0),
        shape(0, 64),
        shape(-4, 64),
        shape(5, 64),
        shape(i64::MAX, i64::MAX),
        shape(4, 1 << 39),
        part("weight_shape", "I64", &[3], vec![1; 24]),
        part("weight_packed", "I32", &[4, 4], vec![1; 64]),
        part("qweight", "I32", &[8, 4], vec![1; 128]),
        part("weight", "BF16", &[4, 64], vec![1; 512]),
    ];
    let mut cases = Vec::new();
    for (kind, right) in [("lloyd", &lloyd), ("ternary", &ternary)] {
        cases.push((kind.to_owned(), file_of(right)));
        for change in &changes {
            let mut parts: Vec<Part> = right.iter().filter(|part| part.0 != change.0).cloned().collect();
            parts.push(change.clone());
            let text: String = String::from_utf8_lossy(&change.3).chars().take(20).collect();
            cases.push((format!("{kind}: {} {} {} {text:?}", change.0, change.1, change.2), file_of(&parts)));
        }
        for absent in 0..right.len() {
            let mut parts = right.clone();
            let (name, ..) = parts.remove(absent);
            cases.push((format!("{kind} without {name}"), file_of(&parts)));
        }
        let (whole, random) = (file_of(right), &mut Random(0x60D));
        for round in 0..100 {
            let mut bytes = whole.clone();
            let at = random.below(bytes.len());
            bytes[at] = random.below(256) as u8;
            cases.push((format!("{kind}, a byte changed ({round})"), bytes));
        }
    }
    cases
}
