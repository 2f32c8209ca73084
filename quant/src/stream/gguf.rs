//! One GGUF file: planned whole, written row by row, read back and checked, and then given its name.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use rayon::prelude::*;
use reweight_kernels::{BLOCK_ROWS, Kernels};
use serde::Serialize;

use super::shards::write_all_at;
use super::{Control, Staging, StagingOptions, check_target};
use crate::error::{Error, FileError, PlanError, RunError};
use crate::importance::Importance;
use crate::memory::PIECE_BYTES;
use crate::pack::PackedTensor;
use crate::pack::gguf::{Mix, Place, encode_rows};
use crate::pattern::Pattern;
use crate::plan::Method;
use crate::scheme::Scheme;
use crate::stats::Statistics;
use crate::store::gguf::export::{Export, Exported, export, write_text, write_value};
use crate::store::gguf::{GgmlType, GgufFile, RowOrder, Value, dequantize};
use crate::store::{Bytes, Model, Storage, Weight};
use crate::tensor::Dtype;

/// The name of the file while it grows.
const FILE_NAME: &str = "model.gguf";
/// Alignment of tensor data, the format's own default.
const ALIGNMENT: usize = 32;
/// Values whose squared errors are added in f32 before the sum goes on in f64.
const ERROR_GROUP: usize = 256;

/// What to write.
#[derive(Clone, Debug)]
pub struct GgufOptions {
    /// The type of each tensor.
    pub mix: Mix,
    /// `Rtn` takes the whole range of each block; every other method searches.
    pub method: Method,
    /// Types for tensors by name; the last match counts.
    pub overrides: Vec<(Pattern, GgmlType)>,
    /// Tensors that are stored as floats.
    pub keep: Vec<Pattern>,
    /// Whether quantized weights keep their codes, and floats their type; `mix` counts for nothing then.
    pub repack: bool,
}

/// What becomes of one tensor.
#[derive(Clone, Debug, Serialize)]
pub struct GgufTensor {
    /// Name of the weight it is made from, the first of several experts.
    pub name: String,
    /// Its name in the file.
    pub stored_name: String,
    /// What it is stored as in the source.
    pub from: String,
    /// Its type in the file.
    pub scheme: String,
    /// Its bytes.
    pub bytes: usize,
    /// Its elements.
    #[serde(skip)]
    pub n_elements: usize,
    /// Mean squared error against the source, where quantized.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_mse: Option<f64>,
    /// That of the whole range of each block at the same type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_mse_rtn: Option<f64>,
}

/// The whole plan.
#[derive(Clone, Debug)]
pub struct GgufPlan {
    exported: Vec<Exported>,
    types: Vec<GgmlType>,
    offsets: Vec<usize>,
    rope_factors: Option<(Vec<f32>, usize)>,
    header: Vec<u8>,
    file_bytes: usize,
    method: Method,
    repack: bool,
    /// One entry a tensor of the file, without errors.
    pub tensors: Vec<GgufTensor>,
    /// Bytes of all source tensors.
    pub bytes_in: usize,
}

/// What a run wrote.
#[derive(Clone, Debug)]
pub struct GgufOutcome {
    /// One entry a tensor of the file.
    pub tensors: Vec<GgufTensor>,
    /// Bytes of the file.
    pub bytes_out: usize,
    /// BLAKE3 of the file's tensors, in their order.
    pub target_digest: String,
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
        let mut end = 0_usize;
        let mut place = |bytes: usize| {
            let offset = end;
            end += bytes.next_multiple_of(ALIGNMENT);
            offset
        };
        let sizes: Vec<usize> = exported.iter().zip(&types).map(|(tensor, ty)| bytes_of(&tensor.shape, *ty)).collect();
        let offsets: Vec<usize> = sizes.iter().map(|bytes| place(*bytes)).collect();
        let rope_factors = rope_factors.map(|factors| {
            let offset = place(factors.len() * 4);
            (factors, offset)
        });
        let header = header(&metadata, &exported, &types, &offsets, rope_factors.as_ref());
        let tensors = exported.iter().zip(&types).zip(&sizes).map(|((tensor, ty), bytes)| {
            let weight = &model.weights()[tensor.sources[0]];
            GgufTensor {
                name: weight.name.clone(),
                stored_name: tensor.name.clone(),
                from: weight.stored_as(),
                scheme: ty.to_string(),
                bytes: *bytes,
                n_elements: tensor.shape.iter().product(),
                error_mse: None,
                error_mse_rtn: None,
            }
        });
        Ok(Self {
            tensors: tensors.collect(),
            file_bytes: header.len() + end,
            bytes_in: model.stored_bytes(),
            method: options.method,
            repack: options.repack,
            exported,
            types,
            offsets,
            rope_factors,
            header,
        })
    }

    /// Bytes of the file.
    #[must_use]
    pub const fn bytes_out(&self) -> usize {
        self.file_bytes
    }
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

/// The header up to the data: metadata, then name, dimensions, type and place of each tensor.
fn header(
    metadata: &[(String, Value)],
    exported: &[Exported],
    types: &[GgmlType],
    offsets: &[usize],
    rope_factors: Option<&(Vec<f32>, usize)>,
) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3_u32.to_le_bytes());
    let n_tensors = exported.len() + usize::from(rope_factors.is_some());
    out.extend((n_tensors as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        write_text(key, &mut out);
        write_value(value, &mut out);
    }
    let mut tensor = |name: &str, shape: &[usize], ty: GgmlType, offset: usize| {
        write_text(name, &mut out);
        out.extend((shape.len() as u32).to_le_bytes());
        out.extend(shape.iter().rev().flat_map(|dim| (*dim as u64).to_le_bytes()));
        out.extend(ty.id().to_le_bytes());
        out.extend((offset as u64).to_le_bytes());
    };
    for ((exported, ty), offset) in exported.iter().zip(types).zip(offsets) {
        tensor(&exported.name, &exported.shape, *ty, *offset);
    }
    if let Some((factors, offset)) = rope_factors {
        tensor("rope_freqs.weight", &[factors.len()], GgmlType::F32, *offset);
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    out
}

/// Writes the file, reads it back, checks it, and lets it appear by rename.
///
/// The bytes depend on the model, the plan and the statistics alone.
///
/// Cost: reads each source byte twice; memory of a few rows a thread and a piece of the output.
///
/// # Errors
/// [`Error`]; no target appears then.
pub fn write_gguf(
    model: &Model,
    plan: &GgufPlan,
    statistics: Option<&Statistics>,
    target: &Path,
    options: StagingOptions,
    control: &Control<'_>,
) -> Result<GgufOutcome, Error> {
    check_target(model.path(), target, options.force)?;
    let staging = Staging::open(target, StagingOptions { resume: false, ..options })?;
    let path = staging.partial().join(FILE_NAME);
    let file = File::create(&path).map_err(FileError::io(&path, "create"))?;
    file.set_len(plan.file_bytes as u64).map_err(FileError::io(&path, "write"))?;
    let write = |bytes: &[u8], at: usize| write_all_at(&file, bytes, at as u64).map_err(FileError::io(&path, "write"));
    write(&plan.header, 0)?;
    let mut outcome =
        GgufOutcome { tensors: plan.tensors.clone(), bytes_out: plan.file_bytes, target_digest: String::new() };
    let mut sums = Vec::with_capacity(plan.exported.len());
    for index in 0..plan.exported.len() {
        control.check_stop()?;
        let work = TensorWork::of(model, plan, index, (control.kernels, statistics));
        let sum = work.write(|bytes, at| write(bytes, plan.header.len() + plan.offsets[index] + at))?;
        outcome.tensors[index].record(sum);
        sums.push(sum);
        work.release(control);
    }
    if let Some((factors, offset)) = &plan.rope_factors {
        let bytes: Vec<u8> = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
        write(&bytes, plan.header.len() + offset)?;
    }
    outcome.target_digest = check(model, plan, &path, &sums, control)?;
    staging.commit(Some(FILE_NAME), options.fsync)?;
    Ok(outcome)
}

impl GgufTensor {
    fn record(&mut self, sum: Sums) {
        let mean = |squared: f64| squared / self.n_elements.max(1) as f64;
        let is_blocks = !matches!(self.scheme.as_str(), "F32" | "F16" | "BF16");
        self.error_mse = is_blocks.then(|| mean(sum.squared));
        self.error_mse_rtn = sum.squared_rtn.filter(|_| is_blocks).map(mean);
    }
}

/// Sums of squared error of a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    squared: f64,
    squared_rtn: Option<f64>,
}

/// One tensor on its way into the file.
struct TensorWork<'a> {
    kernels: &'static Kernels,
    exported: &'a Exported,
    ty: GgmlType,
    method: Method,
    repack: bool,
    sources: Vec<&'a Weight>,
    /// How much each column matters, for each source.
    importance: Vec<Vec<f32>>,
    columns: usize,
}

impl<'a> TensorWork<'a> {
    fn of(
        model: &'a Model,
        plan: &'a GgufPlan,
        index: usize,
        (kernels, statistics): (&'static Kernels, Option<&Statistics>),
    ) -> Self {
        let exported = &plan.exported[index];
        let columns = exported.shape.last().copied().unwrap_or(1);
        let sources: Vec<&Weight> = exported.sources.iter().map(|&source| &model.weights()[source]).collect();
        let importance = sources.iter().map(|weight| {
            let input = statistics.and_then(|statistics| statistics.of_layer(&weight.name));
            let found = input.and_then(|input| Importance::of(kernels, input, weight, false));
            let moments = found.map(|importance| importance.scaled_moments);
            moments.filter(|moments| moments.iter().any(|moment| *moment > 0.0)).unwrap_or_else(|| vec![1.0; columns])
        });
        let (ty, method, repack) = (plan.types[index], plan.method, plan.repack);
        Self { kernels, exported, ty, method, repack, importance: importance.collect(), sources, columns }
    }

    fn n_rows(&self) -> usize {
        self.exported.shape.iter().product::<usize>() / self.columns.max(1)
    }

    fn row_bytes(&self) -> usize {
        self.columns / self.ty.block_elements() * self.ty.block_bytes()
    }

    /// The source of a row of the file, and the row there.
    fn place(&self, row: usize) -> (usize, usize) {
        let of_each = (self.n_rows() / self.sources.len()).max(1);
        let order = if self.exported.shape.len() < 2 { RowOrder::Natural } else { self.exported.row_order };
        (row / of_each, order.hf_row(row % of_each))
    }

    /// The values of a row of the file.
    fn values(&self, row: usize, out: &mut [f32]) -> Result<(), RunError> {
        let (source, source_row) = self.place(row);
        let weight = self.sources[source];
        if self.exported.shape.len() < 2 {
            // A vector is one row, whatever its source's shape: [1, n] becomes [n].
            weight.read_rows(self.kernels, 0..weight.rows(), out);
            if self.exported.row_order != RowOrder::Natural {
                let stored = out.to_vec();
                out.iter_mut().enumerate().for_each(|(j, value)| *value = stored[self.exported.row_order.hf_row(j)]);
            }
        } else {
            weight.read_rows(self.kernels, source_row..source_row + 1, out);
        }
        if let Some(index) = self.kernels.first_non_finite(out) {
            let (file, tensor) = (weight.file().to_owned(), weight.name.clone());
            return Err(RunError::NonFinite {
                file,
                tensor,
                index: source_row * self.columns + index,
                value: out[index],
            });
        }
        if self.exported.plus_one {
            for value in out {
                *value += 1.0;
            }
        }
        Ok(())
    }

    /// Stores all rows, a piece at a time.
    fn write(&self, mut write: impl FnMut(&[u8], usize) -> Result<(), FileError>) -> Result<Sums, Error> {
        let (n_rows, row_bytes) = (self.n_rows(), self.row_bytes());
        let step = (PIECE_BYTES / row_bytes.max(1)).next_multiple_of(BLOCK_ROWS).max(BLOCK_ROWS);
        let mut piece = vec![0; step.min(n_rows) * row_bytes];
        let mut total = Sums { squared: 0.0, squared_rtn: (self.method != Method::Rtn && !self.repack).then_some(0.0) };
        for start in (0..n_rows).step_by(step) {
            let bytes = &mut piece[..step.min(n_rows - start) * row_bytes];
            let sums: Result<Vec<Sums>, RunError> = bytes
                .par_chunks_mut(BLOCK_ROWS * row_bytes)
                .enumerate()
                .map_init(|| self.room(), |room, (index, bytes)| self.rows(start + index * BLOCK_ROWS, room, bytes))
                .collect();
            for sum in sums? {
                total.squared += sum.squared;
                total.squared_rtn = total.squared_rtn.zip(sum.squared_rtn).map(|(a, b)| a + b);
            }
            write(bytes, start * row_bytes)?;
        }
        Ok(total)
    }

    /// For the values of some rows, and for what is read back of them.
    fn room(&self) -> [Vec<f32>; 2] {
        [(); 2].map(|()| vec![0.0; BLOCK_ROWS.min(self.n_rows()) * self.columns])
    }

    /// Stores the rows that `bytes` has room for, from `start` on.
    fn rows(&self, start: usize, [values, back]: &mut [Vec<f32>; 2], bytes: &mut [u8]) -> Result<Sums, RunError> {
        let n_rows = bytes.len() / self.row_bytes();
        let (values, back) = (&mut values[..n_rows * self.columns], &mut back[..n_rows * self.columns]);
        for (index, values) in values.chunks_exact_mut(self.columns).enumerate() {
            self.values(start + index, values)?;
        }
        let mut sums = Sums { squared: 0.0, squared_rtn: Some(0.0) };
        if self.repack
            && self.ty.block_elements() > 1
            && let Storage::Packed(_) = &self.sources[0].storage
        {
            for (index, bytes) in bytes.chunks_exact_mut(self.row_bytes()).enumerate() {
                self.repack_row(start + index, bytes)?;
            }
        } else {
            if self.method != Method::Rtn && self.ty.block_elements() > 1 {
                self.encode(Method::Rtn, start, values, bytes);
                dequantize(self.ty, bytes, back);
                sums.squared_rtn = Some(self.squared(back, values));
            }
            self.encode(self.method, start, values, bytes);
        }
        dequantize(self.ty, bytes, back);
        sums.squared = self.squared(back, values);
        Ok(sums)
    }

    /// Stores rows, those of each source by its own weights.
    fn encode(&self, method: Method, start: usize, values: &[f32], bytes: &mut [u8]) {
        let (mut row, end) = (start, start + values.len() / self.columns);
        while row < end {
            let (source, _) = self.place(row);
            let next = (row + 1..end).find(|next| self.place(*next).0 != source).unwrap_or(end);
            let of = |size: usize| (row - start) * size..(next - start) * size;
            let (values, bytes) = (&values[of(self.columns)], &mut bytes[of(self.row_bytes())]);
            encode_rows(self.kernels, self.ty, method, values, &self.importance[source], bytes);
            row = next;
        }
    }

    /// The squared error of the rows that are written together with that at `start`, as they stand in a file.
    fn error_of(&self, start: usize, [values, back]: &mut [Vec<f32>; 2], stored: &[u8]) -> Result<f64, RunError> {
        let n_rows = BLOCK_ROWS.min(self.n_rows() - start);
        let (values, back) = (&mut values[..n_rows * self.columns], &mut back[..n_rows * self.columns]);
        for (index, values) in values.chunks_exact_mut(self.columns).enumerate() {
            self.values(start + index, values)?;
        }
        dequantize(self.ty, &stored[start * self.row_bytes()..][..n_rows * self.row_bytes()], back);
        Ok(self.squared(back, values))
    }

    /// The squared error of some rows, in the order of the kernels.
    fn squared(&self, back: &[f32], values: &[f32]) -> f64 {
        self.kernels.squared_error(ERROR_GROUP.min(self.columns), back, values, None)
    }

    /// A row's codes as they are.
    fn repack_row(&self, row: usize, bytes: &mut [u8]) -> Result<(), RunError> {
        let (source, source_row) = self.place(row);
        let weight = self.sources[source];
        let refuse = |why| {
            let (file, tensor) = (weight.file().to_owned(), weight.name.clone());
            RunError::CannotHold { file, tensor, container: "gguf", why }
        };
        match &weight.storage {
            Storage::Packed(packed) => self.repack(packed, source_row, bytes).map_err(refuse),
            Storage::Plain(_) | Storage::Ggml(_) => {
                Err(refuse("one of the tensors it is made of is not packed".to_owned()))
            }
        }
    }

    fn repack(&self, packed: &PackedTensor, row: usize, bytes: &mut [u8]) -> Result<(), String> {
        let group = packed.scheme().group_len(self.columns);
        let (mut codes, groups) = (vec![0; self.columns], self.columns / group);
        let (mut scales, mut zeros) = (vec![0.0; groups], vec![0; groups]);
        packed.read_as_affine(self.kernels, row, (&mut codes, &mut scales, &mut zeros));
        let bits = packed.scheme().as_affine().map_or(8, Scheme::bits);
        let middle = 1_u8 << (bits - 1);
        if let Some(zero) = zeros.iter().find(|zero| **zero != middle) {
            return Err(format!("zero {zero} of row {row} is not the middle code {middle} of a symmetric scheme"));
        }
        for (index, (block, codes)) in
            bytes.chunks_exact_mut(self.ty.block_bytes()).zip(codes.chunks_exact(32)).enumerate()
        {
            let scale = scales[index * 32 / group];
            let stored = half::f16::from_f32(scale);
            if stored.to_f32().to_bits() != scale.to_bits() {
                return Err(format!("scale {scale:e} of row {row} cannot be held in F16 exactly"));
            }
            block[..2].copy_from_slice(&stored.to_le_bytes());
            match self.ty {
                GgmlType::Q8_0 => {
                    block[2..].iter_mut().zip(codes).for_each(|(byte, code)| *byte = code.wrapping_sub(middle));
                }
                GgmlType::Q5_0 => {
                    let high = codes.iter().enumerate().fold(0_u32, |high, (j, code)| high | u32::from(code >> 4) << j);
                    block[2..6].copy_from_slice(&high.to_le_bytes());
                    nibbles(&mut block[6..], codes);
                }
                _ => nibbles(&mut block[2..], codes),
            }
        }
        Ok(())
    }

    fn release(&self, control: &Control<'_>) {
        for weight in &self.sources {
            weight.release_rows(0..weight.rows());
            (control.progress)(&weight.name, weight.stored_bytes() as u64);
        }
    }
}

fn nibbles(out: &mut [u8], codes: &[u8]) {
    for (j, byte) in out.iter_mut().enumerate() {
        *byte = codes[j] & 15 | (codes[j + 16] & 15) << 4;
    }
}

/// Opens the file as any reader would: names, places, and the error of every tensor. Returns a digest of its tensors.
fn check(model: &Model, plan: &GgufPlan, path: &Path, sums: &[Sums], control: &Control<'_>) -> Result<String, Error> {
    let mismatch = |name: &str, what, expected: String, found: String| {
        Error::from(RunError::Mismatch { file: path.to_owned(), tensor: name.to_owned(), what, expected, found })
    };
    let file = GgufFile::parse(path, Bytes::map(path)?)?;
    let n_written = Model::open(path)?.weights().len();
    let n_expected: usize = plan.exported.iter().map(|tensor| tensor.sources.len()).sum();
    if n_written != n_expected {
        return Err(mismatch("", "number of tensors", n_expected.to_string(), n_written.to_string()));
    }
    let mut hasher = blake3::Hasher::new();
    for (index, exported) in plan.exported.iter().enumerate() {
        control.check_stop()?;
        let stored = file.tensor(index).filter(|stored| stored.info().name == exported.name);
        let Some(stored) = stored else {
            return Err(mismatch(&exported.name, "name", exported.name.clone(), "another".to_owned()));
        };
        let work = TensorWork::of(model, plan, index, (control.kernels, None));
        let rows: Result<Vec<f64>, RunError> = (0..work.n_rows().div_ceil(BLOCK_ROWS))
            .into_par_iter()
            .map_init(|| work.room(), |room, index| work.error_of(index * BLOCK_ROWS, room, stored.bytes()))
            .collect();
        let found = rows?.into_iter().fold(0.0, |sum, row| sum + row);
        if found.to_bits() != sums[index].squared.to_bits() {
            return Err(mismatch(&exported.name, "squared error", sums[index].squared.to_string(), found.to_string()));
        }
        hasher.update(exported.name.as_bytes()).update_rayon(stored.bytes());
        work.release(control);
    }
    Ok(hasher.finalize().to_string())
}
