//! What becomes of each tensor of a GGUF file, and its header: decided before a weight is read.

use std::collections::BTreeMap;

use super::{GgufOptions, GgufTensor, digests};
use crate::error::{Error, PlanError};
use crate::pack::gguf::{Mix, Place};
use crate::plan::Method;
use crate::store::gguf::export::{Export, Exported, export, write_text, write_value};
use crate::store::gguf::{GgmlType, SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS, Value};
use crate::store::{Model, Storage, Weight};
use crate::tensor::Dtype;

/// Alignment of tensor data, the format's own default.
const ALIGNMENT: usize = 32;

/// The whole plan.
#[derive(Clone, Debug)]
pub struct GgufPlan {
    pub(super) exported: Vec<Exported>,
    pub(super) types: Vec<GgmlType>,
    pub(super) places: Vec<Placed>,
    pub(super) rope_factors: Option<(Vec<f32>, Placed)>,
    pub(super) files: Vec<PlannedFile>,
    pub(super) metadata_digest: blake3::Hash,
    pub(super) is_folder: bool,
    pub(super) method: Method,
    pub(super) repack: bool,
    pub(super) compare: bool,
    /// One entry a tensor of the file, without errors.
    pub tensors: Vec<GgufTensor>,
    /// Bytes of all source tensors.
    pub bytes_in: usize,
}

/// One file of the target.
#[derive(Clone, Debug)]
pub(super) struct PlannedFile {
    /// Its name while it grows; in a folder, for good.
    pub(super) name: String,
    /// Everything up to the data.
    pub(super) header: Vec<u8>,
    /// Where its keys end in it.
    pub(super) keys_end: usize,
    /// Bytes of the whole file.
    pub(super) bytes: usize,
}

/// Where a tensor goes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Placed {
    /// Which file.
    pub(super) file: usize,
    /// From the start of its data.
    pub(super) offset: usize,
}

impl GgufPlan {
    /// Decides about every tensor. Reads no weight.
    ///
    /// # Errors
    /// `FileError::Unsupported` for models that no file can say; `PlanError` for patterns that match nothing, and for codes that
    /// no block can hold where they are to be kept.
    pub fn new(model: &Model, options: &GgufOptions) -> Result<Self, Error> {
        for pattern in options.keep.iter().chain(options.overrides.iter().map(|(pattern, _)| pattern)) {
            pattern.check(model)?;
        }
        let described = export(model)?;
        let types: Result<Vec<GgmlType>, PlanError> =
            described.tensors.iter().map(|tensor| type_of(model, tensor, &described, options)).collect();
        let types = types?;
        let Export { mut metadata, tensors: exported, rope_factors, .. } = described;
        let file_type = if options.repack { common_file_type(&types) } else { options.mix.file_type() };
        metadata.insert(1, ("general.file_type".to_owned(), Value::U32(file_type)));
        let version = Value::String(env!("CARGO_PKG_VERSION").to_owned());
        metadata.push(("reweight.version".to_owned(), version));
        if !options.repack {
            metadata.push(("reweight.method".to_owned(), Value::String(options.method.to_string())));
        }
        let tensors: Vec<GgufTensor> =
            exported.iter().zip(&types).map(|(tensor, ty)| planned(model.weights(), tensor, *ty)).collect();
        let rope_bytes = rope_factors.as_ref().map(|factors| factors.len() * 4);
        let sizes: Vec<usize> = tensors.iter().map(|tensor| tensor.bytes).chain(rope_bytes).collect();
        let (places, ends) = place(&sizes, options.max_shard_bytes.unwrap_or(usize::MAX));
        let rope_factors = rope_factors.zip(places.get(exported.len()).copied());
        let all = exported.iter().zip(&types).zip(&places);
        let mut all: Vec<Described<'_>> =
            all.map(|((exported, ty), place)| Described::of(exported, *ty, *place)).collect();
        all.extend(rope_factors.as_ref().map(|(factors, place)| Described {
            name: "rope_freqs.weight",
            shape: vec![factors.len()],
            ty: GgmlType::F32,
            place: *place,
        }));
        let files = (0..ends.len()).map(|file| {
            let keys = keys_of(file, ends.len(), all.len(), &metadata);
            let (header, keys_end) = header(&keys, all.iter().filter(|tensor| tensor.place.file == file));
            PlannedFile { name: file_name(file, ends.len()), bytes: header.len() + ends[file], keys_end, header }
        });
        Ok(Self {
            files: files.collect(),
            metadata_digest: digests::of_metadata(
                &metadata,
                all.iter().map(|tensor| (tensor.name, tensor.ty, tensor.shape.as_slice())),
            ),
            is_folder: options.max_shard_bytes.is_some(),
            places,
            rope_factors,
            tensors,
            bytes_in: model.stored_bytes(),
            method: options.method,
            repack: options.repack,
            compare: options.compare,
            exported,
            types,
        })
    }

    /// Bytes of all files.
    #[must_use]
    pub fn bytes_out(&self) -> usize {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

fn planned(weights: &[Weight], tensor: &Exported, ty: GgmlType) -> GgufTensor {
    let weight = &weights[tensor.sources[0]];
    GgufTensor {
        name: weight.name.clone(),
        stored_name: tensor.name.clone(),
        from: weight.stored_as(),
        scheme: ty.to_string(),
        bytes: bytes_of(&tensor.shape, ty),
        n_elements: tensor.shape.iter().product(),
        bytes_in: tensor.sources.iter().map(|&source| weights[source].stored_bytes()).sum(),
        error_mse: None,
        error_mse_rtn: None,
    }
}

/// Puts tensors one after the other, into a new file where one would grow beyond `most`. Returns their places, and the bytes of each file's data.
fn place(sizes: &[usize], most: usize) -> (Vec<Placed>, Vec<usize>) {
    let mut ends = vec![0_usize];
    let places = sizes.iter().map(|size| {
        if ends.last().is_some_and(|end| *end > 0 && end.saturating_add(*size) > most) {
            ends.push(0);
        }
        let file = ends.len() - 1;
        let offset = ends[file];
        ends[file] += size.next_multiple_of(ALIGNMENT);
        Placed { file, offset }
    });
    (places.collect(), ends)
}

/// Names as llama.cpp looks for them.
fn file_name(file: usize, n_files: usize) -> String {
    if n_files == 1 { "model.gguf".to_owned() } else { format!("model-{:05}-of-{n_files:05}.gguf", file + 1) }
}

/// Keys of one of several files: the first has the model's own, and each its place, as `llama-gguf-split` writes them.
fn keys_of(file: usize, n_files: usize, n_tensors: usize, metadata: &[(String, Value)]) -> Vec<(String, Value)> {
    let mut keys = if file == 0 { metadata.to_vec() } else { Vec::new() };
    if n_files > 1 {
        keys.push((SPLIT_NO.to_owned(), Value::U16(file as u16)));
        keys.push((SPLIT_COUNT.to_owned(), Value::U16(n_files as u16)));
        keys.push((SPLIT_TENSORS.to_owned(), Value::I32(n_tensors as i32)));
    }
    if file == 0 {
        keys.push(digests::room(n_tensors));
    }
    keys
}

/// The file type that says most of the tensors, for files whose codes come from elsewhere.
fn common_file_type(types: &[GgmlType]) -> u32 {
    let mut census: BTreeMap<GgmlType, usize> = BTreeMap::new();
    for ty in types.iter().filter(|ty| ty.block_elements() > 1) {
        *census.entry(*ty).or_default() += 1;
    }
    let most = census.into_iter().max_by_key(|(_, n)| *n).map_or(GgmlType::F16, |(ty, _)| ty);
    Mix::names().filter_map(|name| name.parse::<Mix>().ok()).find(|mix| mix.base() == most).map_or(1, Mix::file_type)
}

fn bytes_of(shape: &[usize], ty: GgmlType) -> usize {
    shape.iter().product::<usize>() / ty.block_elements() * ty.block_bytes()
}

/// The type of a tensor: vectors, norms and routers are f32 everywhere.
fn type_of(model: &Model, tensor: &Exported, all: &Export, options: &GgufOptions) -> Result<GgmlType, PlanError> {
    let weight = &model.weights()[tensor.sources[0]];
    if tensor.shape.contains(&0) {
        let (tensor, scheme, why) = (weight.name.clone(), "gguf".to_owned(), "it has no elements".to_owned());
        return Err(PlanError::CannotQuantize { tensor, scheme, why });
    }
    if tensor.shape.len() < 2 || tensor.stem.ends_with("norm") || tensor.stem.starts_with("ffn_gate_inp") {
        return Ok(GgmlType::F32);
    }
    if options.repack {
        return repacked_type(weight);
    }
    if options.keep.iter().any(|pattern| pattern.matches(&weight.name)) {
        return Ok(float_type(weight));
    }
    let columns = *tensor.shape.last().unwrap_or(&1);
    if let Some((_, ty)) = options.overrides.iter().rev().find(|(pattern, _)| pattern.matches(&weight.name)) {
        if !columns.is_multiple_of(ty.block_elements()) {
            let why = format!("blocks of {} do not fill its rows of {columns}", ty.block_elements());
            let (tensor, scheme) = (weight.name.clone(), ty.to_string());
            return Err(PlanError::CannotQuantize { tensor, scheme, why });
        }
        return Ok(*ty);
    }
    Ok(options.mix.type_of(Place {
        stem: tensor.stem,
        layer: tensor.layer,
        n_layers: all.n_layers,
        queries_per_key: all.queries_per_key,
        is_output: tensor.stem == "output" || (all.tied && tensor.stem == "token_embd"),
        columns,
    }))
}

/// The float type that a weight has, or f16.
fn float_type(weight: &Weight) -> GgmlType {
    match weight.dtype() {
        Some(Dtype::Bf16) => GgmlType::BF16,
        Some(Dtype::F32) => GgmlType::F32,
        _ => GgmlType::F16,
    }
}

/// The block that holds a weight's codes as they are.
fn repacked_type(weight: &Weight) -> Result<GgmlType, PlanError> {
    let refuse = |why: String| Err(PlanError::CannotRepack { tensor: weight.name.clone(), container: "gguf", why });
    let packed = match &weight.storage {
        Storage::Plain(_) => return Ok(float_type(weight)),
        Storage::Ggml(rows) => return Ok(rows.ggml_type()),
        Storage::Packed(packed) => packed,
    };
    let Some(scheme) = packed.scheme().as_affine() else {
        return refuse(format!("the levels of {} are no integers in steps", packed.scheme()));
    };
    if packed.is_reordered() {
        return refuse("its columns are grouped in another order than their own".to_owned());
    }
    if !scheme.group_len(weight.columns()).is_multiple_of(32) {
        return refuse(format!("blocks of 32 do not fill groups of {}", scheme.group_len(weight.columns())));
    }
    match (scheme.bits(), scheme.symmetric()) {
        (4, true) => Ok(GgmlType::Q4_0),
        (5, true) => Ok(GgmlType::Q5_0),
        (8, true) => Ok(GgmlType::Q8_0),
        (bits, true) => refuse(format!("no block has symmetric codes of {bits} bits")),
        (_, false) => refuse("blocks with a minimum round it, and zero points would change".to_owned()),
    }
}

/// What a header says of a tensor.
struct Described<'a> {
    name: &'a str,
    shape: Vec<usize>,
    ty: GgmlType,
    place: Placed,
}

impl<'a> Described<'a> {
    fn of(exported: &'a Exported, ty: GgmlType, place: Placed) -> Self {
        Self { name: &exported.name, shape: exported.shape.clone(), ty, place }
    }
}

/// The header up to the data: metadata, then name, dimensions, type and place of each tensor. And where the metadata ends.
fn header<'a>(
    metadata: &[(String, Value)],
    tensors: impl Iterator<Item = &'a Described<'a>> + Clone,
) -> (Vec<u8>, usize) {
    let mut out = b"GGUF".to_vec();
    out.extend(3_u32.to_le_bytes());
    out.extend((tensors.clone().count() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        write_text(key, &mut out);
        write_value(value, &mut out);
    }
    let keys_end = out.len();
    for Described { name, shape, ty, place } in tensors {
        write_text(name, &mut out);
        out.extend((shape.len() as u32).to_le_bytes());
        out.extend(shape.iter().rev().flat_map(|dim| (*dim as u64).to_le_bytes()));
        out.extend(ty.id().to_le_bytes());
        out.extend((place.offset as u64).to_le_bytes());
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    (out, keys_end)
}
