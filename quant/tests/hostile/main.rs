//! Any bytes give a model or an error: never a panic, never more memory than the files justify.
//!
//! The allocator counts, so everything here is one test: another one beside it would be counted too.

#![expect(unsafe_code, reason = "an allocator that counts is the only way to see what is asked for")]

mod files;

use std::alloc::{GlobalAlloc, Layout, System};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use reweight_quant::diff::diff;
use reweight_quant::error::Error;
use reweight_quant::kernels;
use reweight_quant::plan::{Method, Plan, PlanOptions};
use reweight_quant::scheme::Scheme;
use reweight_quant::store::gguf::{GgufFile, dequantize};
use reweight_quant::store::{Bytes, Model};
use reweight_quant::stream::{Control, StagingOptions, Target, write_model};
use reweight_quant::tensor::Dtype;
use reweight_quant::verify::verify;

/// Most memory for files of less than a megabyte: at once, and in one piece.
const LIMIT_BYTES: usize = 64 << 20;
/// Most memory for a byte of JSON where that is more: a tree of objects with one key each, and the copy that becomes the
/// target's configuration, were measured at 137.
const LIMIT_PER_BYTE: usize = 160;
/// Beyond this an allocation is not even tried: the test ends there and then.
const REFUSED_BYTES: usize = 4 << 30;

static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);
static PEAK_BYTES: AtomicUsize = AtomicUsize::new(0);
static LARGEST_BYTES: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes on to the system's allocator unchanged, or fails as an allocator may; counting touches atomics
// only, and so allocates nothing and cannot unwind.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > REFUSED_BYTES {
            return std::ptr::null_mut();
        }
        let live = LIVE_BYTES.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK_BYTES.fetch_max(live, Ordering::Relaxed);
        LARGEST_BYTES.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's layout, of which the caller promises that its size is not zero.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: `pointer` came from `alloc` above with this layout, and so from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Does with a model all that the program does with one.
fn exercise(path: &Path, out: &Path) -> Result<(), Error> {
    if path.is_dir() && path.join("reweight.json").exists() {
        verify(path)?;
    }
    if path.extension().is_some_and(|extension| extension == "gguf") {
        dequantize_all(&GgufFile::parse(path, Bytes::map(path)?)?);
    }
    let model = Model::open(path)?;
    let kernels = kernels::best();
    for weight in model.weights() {
        let mut row = vec![0.0; if weight.rows() == 0 { 0 } else { weight.columns() }];
        for index in 0..weight.rows().min(if weight.columns() == 0 { 0 } else { usize::MAX }) {
            weight.read_rows(kernels, index..index + 1, &mut row);
        }
        drop(weight.digest().to_string());
    }
    drop(diff(kernels, &model, &model, |_| true));
    let stop = AtomicBool::new(false);
    let control = Control { kernels, stop: &stop, progress: &|_, _| {} };
    let scheme: Scheme = "int4-g128".parse()?;
    let cast = PlanOptions { scheme: None, dtype: Some(Dtype::F16), ..PlanOptions::new(scheme, Method::Search) };
    let mut result = Ok(());
    for (name, options) in [("cast", cast), ("quantized", PlanOptions::new(scheme, Method::Search))] {
        let written = Plan::new(&model, &options).map_err(Error::from).and_then(|plan| {
            let target = out.join(name);
            write_model(
                &model,
                &plan,
                None,
                Target { path: &target, single_file: false },
                StagingOptions::default(),
                &control,
            )?;
            verify(&target)
        });
        result = result.and(written.map(drop));
    }
    result
}

fn dequantize_all(file: &GgufFile) {
    for index in 0..file.tensors().len() {
        let tensor = file.tensor(index).expect("every index below the length has a tensor");
        let n_rows = if tensor.info().row_elements() == 0 { 0 } else { tensor.info().n_rows() };
        for row in 0..n_rows {
            let mut out = vec![0.0; tensor.info().row_elements()];
            dequantize(tensor.info().ty, tensor.row(row).expect("the row is there"), &mut out);
        }
    }
}

#[test]
fn hostile_files_give_errors() {
    let cases = files::all();
    assert!(cases.len() > 300, "{} cases", cases.len());
    // Threads of the pool are started before anything is counted.
    rayon_warm_up();
    let (mut failures, mut n_errors) = (Vec::new(), 0);
    for case in &cases {
        let folder = tempfile::tempdir().expect("the system has a folder for temporary files");
        let out = tempfile::tempdir().expect("the system has a folder for temporary files");
        let path = case.write(folder.path());
        assert!(case.bytes() < 1 << 20, "{}: {} bytes", case.name, case.bytes());
        let before = LIVE_BYTES.load(Ordering::Relaxed);
        PEAK_BYTES.store(before, Ordering::Relaxed);
        LARGEST_BYTES.store(0, Ordering::Relaxed);
        let result = catch_unwind(AssertUnwindSafe(|| exercise(&path, out.path())));
        let peak = PEAK_BYTES.load(Ordering::Relaxed).saturating_sub(before);
        let largest = LARGEST_BYTES.load(Ordering::Relaxed);
        let mut fail = |what: String| failures.push(format!("{}: {what}", case.name));
        if peak > LIMIT_BYTES.max(LIMIT_PER_BYTE * case.bytes()) || largest > LIMIT_BYTES {
            fail(format!("{peak} bytes at the peak, {largest} at once, for {} bytes of files", case.bytes()));
        }
        match result {
            Err(_) => fail("panicked".into()),
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                n_errors += 1;
                let named = folder.path().to_string_lossy();
                let text = error.to_string();
                if !text.contains(named.as_ref()) {
                    fail(format!("no file is named in {text:.300}"));
                }
                if text.contains(&*out.path().to_string_lossy()) {
                    fail(format!("found only after it was written: {text:.300}"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} of {} fail:\n{}", failures.len(), cases.len(), failures.join("\n"));
    assert!(n_errors > cases.len() / 2, "only {n_errors} of {} are errors", cases.len());
}

/// One comparison of nothing, on every thread of the pool.
fn rayon_warm_up() {
    let folder = tempfile::tempdir().expect("the system has a folder for temporary files");
    let path = folder.path().join("m.safetensors");
    std::fs::write(&path, b"\x02\0\0\0\0\0\0\0{}").expect("the folder can be written");
    let model = Model::open(&path).expect("a file without tensors is right");
    drop(diff(kernels::best(), &model, &model, |_| true));
}
