//! From the tensors of a file to quantized weights: finds those of one module, and checks them against one another. Whatever
//! they are, the answer is weights or an error.

use std::collections::{BTreeMap, HashSet};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::compressed_tensors::{padded_words, stated_bits, states_padding};
use super::rows::{Matrix, packed_bytes};
use super::{Container, PackedTensor};
use super::{gptq, reweight};
use crate::error::FileError;
use crate::grid::fixed_levels;
use crate::scheme::{Group, Scheme};
use crate::store::weight::{PlainTensor, Storage, Weight};
use crate::tensor::{Dtype, shape_text};

/// What each tensor of a quantized module is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Codes,
    Scales,
    Zeros,
    Shape,
    GroupOf,
    Levels,
    Scheme,
}

/// Suffixes of compressed-tensors.
const PACKED: [(&str, Part); 5] = [
    ("weight_packed", Part::Codes),
    ("weight_scale", Part::Scales),
    ("weight_zero_point", Part::Zeros),
    ("weight_shape", Part::Shape),
    ("weight_g_idx", Part::GroupOf),
];

/// Suffixes of `AutoAWQ` and GPTQ.
const WORDS: [(&str, Part); 4] =
    [("qweight", Part::Codes), ("scales", Part::Scales), ("qzeros", Part::Zeros), ("g_idx", Part::GroupOf)];

/// Suffixes of the toolkit's own layout.
const OWN: [(&str, Part); 6] = [
    ("weight_codes", Part::Codes),
    ("weight_scales", Part::Scales),
    ("weight_zeros", Part::Zeros),
    ("weight_levels", Part::Levels),
    ("weight_scheme", Part::Scheme),
    ("weight_shape", Part::Shape),
];

/// Longest name of a scheme.
const SCHEME_LEN_MAX: usize = 64;

/// The layouts that suffixes tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    Packed,
    Words,
    Own,
}

/// Types of scales that can be read.
const SCALES: [Dtype; 3] = [Dtype::Bf16, Dtype::F16, Dtype::F32];

/// Most rows or columns of a stored shape.
const SIZE_MAX: usize = 1 << 40;

/// Whether any of these tensors is a quantized weight's codes.
pub(crate) fn holds_codes(weights: &[Weight]) -> bool {
    let suffixes = [".weight_packed", ".qweight", ".weight_codes"];
    weights.iter().any(|weight| suffixes.iter().any(|suffix| weight.name.ends_with(suffix)))
}

/// Joins the tensors of each quantized weight into one logical weight; everything else stays as it is. `config` is the model's
/// configuration, where there is one.
///
/// # Errors
/// `FileError::Malformed` where tensors of a weight are missing or do not fit one another, `FileError::Unsupported` for
/// layouts that this toolkit does not read.
pub(crate) fn join(weights: Vec<Weight>, config: Option<&Value>) -> Result<Vec<Weight>, FileError> {
    let modules_of = |suffix: &str| -> HashSet<String> {
        weights.iter().filter_map(|weight| weight.name.strip_suffix(suffix).map(ToOwned::to_owned)).collect()
    };
    let (words, own) = (modules_of(".qweight"), modules_of(".weight_codes"));
    let mut modules: BTreeMap<(String, Family), BTreeMap<Part, Weight>> = BTreeMap::new();
    let mut joined = Vec::with_capacity(weights.len());
    for weight in weights {
        let place = weight.name.rsplit_once('.').and_then(|(module, suffix)| {
            let find =
                |suffixes: &[(&str, Part)]| suffixes.iter().find(|(known, _)| *known == suffix).map(|(_, part)| *part);
            // `scales` alone is a name that anything may have, and a shape belongs to what else is there.
            let of_words = words.contains(module).then(|| find(&WORDS)).flatten().map(|part| (Family::Words, part));
            let of_own = || own.contains(module).then(|| find(&OWN)).flatten().map(|part| (Family::Own, part));
            let of_packed = || find(&PACKED).map(|part| (Family::Packed, part));
            of_words.or_else(of_own).or_else(of_packed).map(|(family, part)| ((module.to_owned(), family), part))
        });
        match place {
            Some((module, part)) => drop(modules.entry(module).or_default().insert(part, weight)),
            None => joined.push(weight),
        }
    }
    let plain: HashSet<String> = joined.iter().map(|weight| weight.name.clone()).collect();
    let settings = config.and_then(|config| config.get("quantization_config"));
    let mut last: Option<String> = None;
    for ((module, family), parts) in modules {
        let name = format!("{module}.weight");
        let any = parts.values().next().map_or_else(Default::default, |part| Arc::clone(&part.file));
        let format = match family {
            Family::Words => words_format(settings),
            Family::Packed => "compressed-tensors",
            Family::Own => "reweight",
        };
        let malformed = |what: String| FileError::Malformed {
            path: any.as_ref().clone(),
            format,
            what: format!("module {module:?}: {what}"),
        };
        if plain.contains(&name) || last.as_ref() == Some(&name) {
            return Err(malformed("its weight is there twice".to_owned()));
        }
        let module_parts = ModuleParts { parts: &parts, malformed: &malformed, file: &any };
        let (shape, packed) = match family {
            Family::Words => module_parts.words(settings)?,
            Family::Packed => module_parts.packed(&module, settings)?,
            Family::Own => module_parts.own()?,
        };
        last = Some(name.clone());
        joined.push(Weight {
            name,
            shape,
            file: any.clone(),
            storage: Storage::Packed(Box::new(packed)),
            scaling: None,
        });
    }
    Ok(joined)
}

/// The name of a format of `qweight` tensors, for messages.
fn words_format(settings: Option<&Value>) -> &'static str {
    match settings.and_then(|settings| settings.get("quant_method")).and_then(Value::as_str) {
        Some("awq") => "AWQ",
        _ => "GPTQ",
    }
}

/// `g_idx` as stored, and its numbers where columns are in another order than their own.
#[derive(Default)]
struct GroupOf {
    stored: Option<PlainTensor>,
    numbers: Option<Arc<[u32]>>,
}

/// Levels and the tensor that states them.
type OwnLevels = (Arc<[f32]>, PlainTensor);

/// The tensors of one module, and how to speak of them.
struct ModuleParts<'a> {
    parts: &'a BTreeMap<Part, Weight>,
    malformed: &'a dyn Fn(String) -> FileError,
    file: &'a Path,
}

impl ModuleParts<'_> {
    /// A tensor of one of some types and of a number of dimensions, if it is there.
    fn find(&self, part: Part, allowed: &[Dtype], rank: usize) -> Result<Option<(PlainTensor, &[usize])>, FileError> {
        let Some(weight) = self.parts.get(&part) else { return Ok(None) };
        match &weight.storage {
            Storage::Plain(plain) if allowed.contains(&plain.dtype) && weight.shape.len() == rank => {
                Ok(Some((plain.clone(), &weight.shape)))
            }
            _ => Err((self.malformed)(format!(
                "tensor {:?} is {} {}, expected {rank} dimensions of {allowed:?}",
                weight.name,
                weight.stored_as(),
                shape_text(&weight.shape)
            ))),
        }
    }

    /// As [`ModuleParts::find`], or an error that names what is there.
    fn need(
        &self,
        part: Part,
        expected: &str,
        allowed: &[Dtype],
        rank: usize,
    ) -> Result<(PlainTensor, &[usize]), FileError> {
        self.find(part, allowed, rank)?.ok_or_else(|| {
            let found: Vec<&str> = self.parts.values().map(|part| part.name.as_str()).collect();
            (self.malformed)(format!("expected {expected}, found {found:?}"))
        })
    }

    /// The scheme of a matrix in so many groups.
    fn scheme(&self, bits: u8, columns: usize, groups: usize, symmetric: bool) -> Result<Scheme, FileError> {
        if groups == 0 || columns == 0 || !columns.is_multiple_of(groups) {
            return Err((self.malformed)(format!("{groups} groups do not divide {columns} input channels")));
        }
        let group = match NonZeroUsize::new(columns / groups) {
            Some(size) if groups > 1 => Group::Size(size),
            _ => Group::Channel,
        };
        Scheme::new(bits, group, symmetric).map_err(|error| (self.malformed)(error.to_string()))
    }

    fn packed(&self, module: &str, settings: Option<&Value>) -> Result<(Vec<usize>, PackedTensor), FileError> {
        const EXPECTED: &str = "weight_packed, weight_scale and weight_shape";
        let (codes, packed) = self.need(Part::Codes, EXPECTED, &[Dtype::I32], 2)?;
        let (scales, scale) = self.need(Part::Scales, EXPECTED, &SCALES, 2)?;
        let (shape, _) = self.need(Part::Shape, EXPECTED, &[Dtype::I64], 1)?;
        let [rows, columns] =
            read_shape(&shape).ok_or_else(|| (self.malformed)("weight_shape holds no two sizes".into()))?;
        let (bits, padded) = self.bits(module, settings, columns, packed)?;
        if packed[0] != rows || scale[0] != rows || scale[1] == 0 || !columns.is_multiple_of(scale[1]) {
            return Err((self.malformed)(format!(
                "weight {}, weight_packed {} and weight_scale {} do not fit one another",
                shape_text(&[rows, columns]),
                shape_text(packed),
                shape_text(scale)
            )));
        }
        let zeros = self.find(Part::Zeros, &[Dtype::I32], 2)?;
        let scheme = self.scheme(bits, columns, scale[1], zeros.is_none())?;
        let zeros = match zeros {
            None => None,
            Some((zeros, found)) => {
                let words = if padded { padded_words(rows, bits) } else { packed_bytes(rows, bits) / 4 };
                self.fits("weight_zero_point", &[words, scale[1]], found)?;
                Some(zeros)
            }
        };
        let (matrix, container) = (Matrix { rows, columns, scheme }, Container::CompressedTensors);
        let GroupOf { stored, numbers: group_of } = self.group_of("weight_g_idx", matrix)?;
        let extra = [Some(shape), stored].into_iter().flatten().collect();
        let packed = PackedTensor { container, matrix, codes, scales, zeros, levels: None, extra, group_of, padded };
        Ok((vec![rows, columns], packed))
    }

    /// The bit width of `weight_packed`, and whether it is padded: what the configuration says where it says something, else the
    /// one width whose words these are.
    fn bits(
        &self,
        module: &str,
        settings: Option<&Value>,
        columns: usize,
        packed: &[usize],
    ) -> Result<(u8, bool), FileError> {
        let stated = settings.and_then(|settings| stated_bits(settings, module));
        let dense = |bits: u8| packed_bytes(columns, bits) == packed[1] * 4;
        let padded = |bits: u8| 32 % u32::from(bits) != 0 && padded_words(columns, bits) == packed[1];
        if let Some(bits) = stated.filter(|&bits| Scheme::BITS.contains(&bits)) {
            match (dense(bits), padded(bits)) {
                (true, true) => return Ok((bits, settings.is_some_and(states_padding))),
                (true, false) | (false, true) => return Ok((bits, padded(bits))),
                (false, false) => {}
            }
        }
        let only = |fits: &dyn Fn(u8) -> bool| -> Option<u8> {
            let mut bits = Scheme::BITS.filter(|&bits| fits(bits));
            bits.next().filter(|_| bits.next().is_none())
        };
        let found = only(&dense).map(|bits| (bits, false)).or_else(|| only(&padded).map(|bits| (bits, true)));
        found.ok_or_else(|| {
            let shape = shape_text(packed);
            (self.malformed)(format!("weight_packed {shape} fits no bit width for {columns} columns"))
        })
    }

    /// The toolkit's own layout.
    fn own(&self) -> Result<(Vec<usize>, PackedTensor), FileError> {
        const EXPECTED: &str = "weight_codes, weight_scales, weight_scheme and weight_shape";
        let (codes, packed) = self.need(Part::Codes, EXPECTED, &[Dtype::U8], 2)?;
        let (scales, scale) = self.need(Part::Scales, EXPECTED, &SCALES, 2)?;
        let (name, length) = self.need(Part::Scheme, EXPECTED, &[Dtype::U8], 1)?;
        let (shape, _) = self.need(Part::Shape, EXPECTED, &[Dtype::I64], 1)?;
        let [rows, columns] =
            read_shape(&shape).ok_or_else(|| (self.malformed)("weight_shape holds no two sizes".into()))?;
        let text = (length[0] <= SCHEME_LEN_MAX).then(|| std::str::from_utf8(name.data()).ok()).flatten();
        let text = text.ok_or_else(|| (self.malformed)("weight_scheme holds no short text".into()))?;
        let scheme = Scheme::parse_stored(text).map_err(|error| (self.malformed)(error.to_string()))?;
        let group = scheme.group_len(columns);
        if !columns.is_multiple_of(group) {
            return Err((self.malformed)(format!("groups of {group} do not divide {columns} input channels")));
        }
        let matrix = Matrix { rows, columns, scheme };
        self.fits("weight_codes", &[rows, matrix.row_bytes()], packed)?;
        self.fits("weight_scales", &[rows, matrix.groups()], scale)?;
        let zeros = self.find(Part::Zeros, &[Dtype::U8], 2)?;
        let zeros = match (zeros, scheme.symmetric()) {
            (None, true) => None,
            (Some((zeros, found)), false) => {
                self.fits("weight_zeros", &[rows, reweight::zero_bytes(matrix)], found)?;
                Some(zeros)
            }
            (found, _) => {
                let (expected, found) = (if found.is_some() { "no" } else { "a" }, found.is_some());
                let what =
                    format!("{scheme} has {expected} weight_zeros, and one is {}", if found { "there" } else { "not" });
                return Err((self.malformed)(what));
            }
        };
        let (levels, stored_levels) = self.levels(scheme)?.unzip();
        let extra = stored_levels.into_iter().chain([name, shape]).collect();
        let container = Container::Reweight;
        let packed =
            PackedTensor { container, matrix, codes, scales, zeros, levels, extra, group_of: None, padded: false };
        Ok((vec![rows, columns], packed))
    }

    /// The levels of a scheme, which must be its own where it has them; `None` of integers.
    fn levels(&self, scheme: Scheme) -> Result<Option<OwnLevels>, FileError> {
        let found = self.find(Part::Levels, &[Dtype::F32], 1)?;
        if scheme.is_affine() {
            return match found {
                None => Ok(None),
                Some(_) => Err((self.malformed)(format!("{scheme} has no weight_levels, and some are there"))),
            };
        }
        let Some((stored, shape)) = found else {
            return Err((self.malformed)(format!("expected weight_levels of {scheme}, found none")));
        };
        self.fits("weight_levels", &[reweight::n_levels(scheme)], shape)?;
        let levels: Arc<[f32]> =
            stored.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let known = fixed_levels(scheme.levels());
        if known.is_some_and(|known| known != *levels) {
            return Err((self.malformed)(format!("weight_levels are not those of {scheme}")));
        }
        if let Some(level) = levels.iter().find(|level| !level.is_finite()) {
            return Err((self.malformed)(format!("weight_levels holds {level}")));
        }
        Ok(Some((levels, stored)))
    }

    fn fits(&self, what: &str, expected: &[usize], found: &[usize]) -> Result<(), FileError> {
        if expected == found {
            return Ok(());
        }
        Err((self.malformed)(format!("{what}: expected {}, found {}", shape_text(expected), shape_text(found))))
    }

    /// `AutoAWQ` packs along N, GPTQ along K: the shapes tell.
    fn words(&self, settings: Option<&Value>) -> Result<(Vec<usize>, PackedTensor), FileError> {
        const EXPECTED: &str = "qweight, scales and qzeros";
        let setting = |key: &str| settings.and_then(|settings| settings.get(key));
        let (codes, words) = self.need(Part::Codes, EXPECTED, &[Dtype::I32], 2)?;
        let (scales, scale) = self.need(Part::Scales, EXPECTED, &SCALES, 2)?;
        let (zeros, zero) = self.need(Part::Zeros, EXPECTED, &[Dtype::I32], 2)?;
        let [groups, rows] = *scale else { return Err((self.malformed)("scales of another rank".into())) };
        if rows == 0 || groups == 0 || rows > SIZE_MAX || words[0] > SIZE_MAX {
            return Err((self.malformed)(format!("scales {} hold no group", shape_text(scale))));
        }
        if words[1] * 8 == rows {
            if setting("version").and_then(Value::as_str).is_some_and(|version| !version.eq_ignore_ascii_case("gemm")) {
                let what = format!("AWQ version {}", setting("version").unwrap_or(&Value::Null));
                return Err(FileError::Unsupported { path: self.file.to_owned(), what });
            }
            self.fits("qzeros", &[groups, words[1]], zero)?;
            let (columns, container) = (words[0], Container::Awq);
            let matrix = Matrix { rows, columns, scheme: self.scheme(4, columns, groups, false)? };
            let packed = PackedTensor {
                container,
                matrix,
                codes,
                scales,
                zeros: Some(zeros),
                levels: None,
                extra: Vec::new(),
                group_of: None,
                padded: false,
            };
            return Ok((vec![rows, columns], packed));
        }
        let bits = gptq::BITS.into_iter().find(|&bits| rows * usize::from(bits) == zero[1] * 32);
        let (Some(bits), true) = (bits, words[1] == rows) else {
            return Err((self.malformed)(format!(
                "qweight {}, qzeros {} and scales {} fit no bit width",
                shape_text(words),
                shape_text(zero),
                shape_text(scale)
            )));
        };
        self.fits("qzeros", &[groups, zero[1]], zero)?;
        if !(words[0] * 32).is_multiple_of(usize::from(bits)) {
            return Err((self.malformed)(format!("qweight {} holds no whole rows of {bits} bits", shape_text(words))));
        }
        let columns = words[0] * 32 / usize::from(bits);
        let second = setting("checkpoint_format").or(setting("format")).and_then(Value::as_str) == Some("gptq_v2");
        let container = if second { Container::GptqV2 } else { Container::Gptq };
        let symmetric = setting("sym").and_then(Value::as_bool).unwrap_or(!second);
        let matrix = Matrix { rows, columns, scheme: self.scheme(bits, columns, groups, symmetric)? };
        let GroupOf { stored, numbers: group_of } = self.group_of("g_idx", matrix)?;
        let extra = stored.into_iter().collect();
        let packed = PackedTensor {
            container,
            matrix,
            codes,
            scales,
            zeros: Some(zeros),
            levels: None,
            extra,
            group_of,
            padded: false,
        };
        Ok((vec![rows, columns], packed))
    }

    /// Reads and checks `g_idx`, by the name that the container has for it.
    fn group_of(&self, what: &str, matrix: Matrix) -> Result<GroupOf, FileError> {
        let Some((stored, shape)) = self.find(Part::GroupOf, &[Dtype::I32], 1)? else { return Ok(GroupOf::default()) };
        self.fits(what, &[matrix.columns], shape)?;
        let numbers: Arc<[u32]> =
            stored.data().as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
        if what == "weight_g_idx" && numbers.contains(&u32::MAX) {
            // compressed-tensors fills it with -1, and takes columns in order while any is left.
            return Ok(GroupOf { stored: Some(stored), numbers: None });
        }
        if let Some(wrong) = numbers.iter().find(|&&group| group as usize >= matrix.groups()) {
            return Err((self.malformed)(format!("{what} holds {wrong}, and there are {} groups", matrix.groups())));
        }
        let group_len = matrix.scheme.group_len(matrix.columns);
        let in_order = numbers.iter().enumerate().all(|(column, &group)| column / group_len == group as usize);
        Ok(GroupOf { stored: Some(stored), numbers: (!in_order).then_some(numbers) })
    }
}

fn read_shape(plain: &PlainTensor) -> Option<[usize; 2]> {
    let (sizes, rest) = plain.data().as_chunks::<8>();
    let [rows, columns] = sizes else { return None };
    let size =
        |bytes: &[u8; 8]| usize::try_from(i64::from_le_bytes(*bytes)).ok().filter(|&size| size > 0 && size < SIZE_MAX);
    rest.is_empty().then_some([size(rows)?, size(columns)?])
}
