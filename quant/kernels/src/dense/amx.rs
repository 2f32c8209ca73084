//! Products in tiles of bf16 (AMX), each f32 split in two parts: two to three times as fast as f32 with AVX-512.
//!
//! x = h + l + r with h = bf16(x), l = bf16(x - h) and |r| <= 2^-16 |x|. A product is taken as h h' + h l' + l h', summed in f32; what is
//! left out is at most 3 * 2^-16 |x||w| (and 2^-19 is usual), so a result is within `(k * eps + 2^-14) * sum |x||w|` of the exact value.
//! Where every weight of a panel is a bf16 number its second part is zero and costs nothing.
//!
//! The instruction multiplies 16 rows of 32 bf16 by 16 columns of as many, laid out in pairs (Intel 64 and IA-32 Architectures Software
//! Developer's Manual, `TDPBF16PS`). Linux hands out its registers on request, once for a process (`arch_prctl`,
//! Documentation/arch/x86/xstate.rst).

#![expect(
    unsafe_code,
    reason = "instructions that have no intrinsics yet, and the system call that asks for their registers"
)]

use std::arch::asm;
use std::arch::x86_64::{
    __m512i, _mm256_storeu_si256, _mm512_add_epi32, _mm512_and_si512, _mm512_castps_si512, _mm512_castsi512_ps,
    _mm512_cvtepi32_epi16, _mm512_loadu_ps, _mm512_or_si512, _mm512_set1_epi32, _mm512_setzero_si512,
    _mm512_srli_epi32, _mm512_storeu_si512, _mm512_sub_ps, _mm512_test_epi32_mask,
};
use std::cell::RefCell;
use std::sync::LazyLock;

use super::{Lane, PANEL, Rows, RowsMut};

/// Rows, and columns, of a tile of results.
const TILE: usize = 16;
/// Inputs of one step.
const STEP: usize = 32;
/// Inputs that are multiplied before results go back to memory, at most: a panel of so many, in two parts, stays near.
const INPUT_BLOCK: usize = 320;
/// Rows of x that are split together.
const ROW_BLOCK: usize = 512;

/// 16 rows of 32 bf16: of x, 16 rows of 32 inputs; of a panel, 16 pairs of inputs of 16 outputs.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Tile([[u16; STEP]; TILE]);

/// What one step takes of 32 rows of x, or of a panel: the first parts of both halves, then the second parts.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Step([Tile; 4]);

/// 32 rows of 32 results.
#[repr(align(64))]
struct Results([[f32; PANEL]; 2 * TILE]);

/// Buffers of one thread, to be used again.
struct Scratch {
    x: Vec<Step>,
    panel: Vec<Step>,
    results: Results,
}

const ZERO: Step = Step([Tile([[0; STEP]; TILE]); 4]);

thread_local! {
    static SCRATCH: RefCell<Scratch> = const {
        RefCell::new(Scratch { x: Vec::new(), panel: Vec::new(), results: Results([[0.0; PANEL]; 2 * TILE]) })
    };
}

/// Whether the machine has the instructions, and the system lets this process use them.
pub(super) fn is_available() -> bool {
    static AVAILABLE: LazyLock<bool> = LazyLock::new(|| has_instructions() && is_permitted());
    *AVAILABLE
}

fn has_instructions() -> bool {
    let leaf = std::arch::x86_64::__cpuid_count(7, 0);
    // Bits 22 and 24 of EDX: AMX-BF16 and AMX-TILE.
    let amx = leaf.edx & (1 << 22) != 0 && leaf.edx & (1 << 24) != 0;
    amx && std::arch::is_x86_feature_detected!("avx512f")
}

/// Asks Linux for the tile registers, on behalf of every thread.
fn is_permitted() -> bool {
    const ARCH_PRCTL: u64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    let result: i64;
    // SAFETY: the call reads no memory of ours and changes nothing but which registers this process may use.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack)
        );
    }
    result == 0
}

/// out = x * W^T for `n_rows` rows, with the first `outputs` rows and the first `inputs` columns of W: its panels hold `panel_len` inputs each.
///
/// # Panics
/// Unless [`is_available`], and where a slice is too short.
pub(super) fn product(
    x: Rows<'_>,
    n_rows: usize,
    out: &mut RowsMut<'_>,
    (panels, panel_len): (&[Lane], usize),
    (outputs, inputs): (usize, usize),
) {
    assert!(is_available(), "checked by who calls");
    SCRATCH.with_borrow_mut(|scratch| {
        // SAFETY: AVX-512 F, AMX-TILE and AMX-BF16 were detected, above, and the system lets us use their registers.
        unsafe { enter(x, n_rows, out, (panels, panel_len), (outputs, inputs), scratch) };
    });
}

#[target_feature(enable = "avx512f")]
fn enter(
    x: Rows<'_>,
    n_rows: usize,
    out: &mut RowsMut<'_>,
    (panels, panel_len): (&[Lane], usize),
    (outputs, inputs): (usize, usize),
    scratch: &mut Scratch,
) {
    let Scratch { x: x_steps, panel: panel_steps, results } = scratch;
    // Blocks of inputs of nearly the same size, in whole steps.
    let input_block = inputs.div_ceil(inputs.div_ceil(INPUT_BLOCK)).next_multiple_of(STEP);
    configure();
    for first_row in (0..n_rows).step_by(ROW_BLOCK) {
        let rows = ROW_BLOCK.min(n_rows - first_row);
        for first_input in (0..inputs).step_by(input_block) {
            let n_inputs = input_block.min(inputs - first_input);
            let n_steps = n_inputs.div_ceil(STEP);
            // What is left of earlier rows beyond the last one gives results that nobody reads.
            x_steps.resize(rows.div_ceil(2 * TILE) * n_steps, ZERO);
            for row in 0..rows {
                let values = &x.values[(first_row + row) * x.stride + first_input..][..n_inputs];
                let steps = &mut x_steps[row / (2 * TILE) * n_steps..][..n_steps];
                split_row(values, row % (2 * TILE), steps);
            }
            for first in (0..outputs).step_by(PANEL) {
                let start = first / PANEL * panel_len + first_input;
                panel_steps.resize(n_steps, ZERO);
                let has_rest = split_panel(&panels[start..start + n_inputs], panel_steps);
                let n_outputs = PANEL.min(outputs - first);
                for (index, steps) in x_steps.chunks_exact(n_steps).enumerate() {
                    multiply(steps, panel_steps, has_rest, results);
                    let row = index * 2 * TILE;
                    for (i, results) in results.0.iter().enumerate().take(rows - row) {
                        let to = &mut out.values[(first_row + row + i) * out.stride + first..][..n_outputs];
                        if first_input > 0 {
                            to.iter_mut().zip(results).for_each(|(to, result)| *to += result);
                        } else {
                            to.copy_from_slice(&results[..n_outputs]);
                        }
                    }
                }
            }
        }
    }
    release();
}

/// Rounds to bf16, half to even, as the upper halves of the lanes. A NaN whose payload is all ones may become another number.
#[inline]
#[target_feature(enable = "avx512f")]
fn round(bits: __m512i) -> __m512i {
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    _mm512_and_si512(rounded, _mm512_set1_epi32(0xFFFF_0000_u32.cast_signed()))
}

/// The two parts of sixteen values, in the upper halves of the lanes.
#[inline]
#[target_feature(enable = "avx512f")]
fn split(values: &[f32; 16]) -> (__m512i, __m512i) {
    // SAFETY: the reference covers the sixteen values that are read.
    let values = unsafe { _mm512_loadu_ps(values.as_ptr()) };
    let first = round(_mm512_castps_si512(values));
    let rest = _mm512_sub_ps(values, _mm512_castsi512_ps(first));
    (first, round(_mm512_castps_si512(rest)))
}

/// Writes the parts of one row of x to its place in each step.
#[inline]
#[target_feature(enable = "avx512f")]
fn split_row(values: &[f32], row: usize, steps: &mut [Step]) {
    let (whole, short) = values.as_chunks::<STEP>();
    for (step, values) in steps.iter_mut().zip(whole) {
        split_step(values, row, step);
    }
    if !short.is_empty() {
        let mut padded = [0.0; STEP];
        padded[..short.len()].copy_from_slice(short);
        split_step(&padded, row, &mut steps[whole.len()]);
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn split_step(values: &[f32; STEP], row: usize, step: &mut Step) {
    for (half, values) in values.as_chunks::<16>().0.iter().enumerate() {
        let (first, rest) = split(values);
        for (part, bits) in [(0, first), (2, rest)] {
            let to = &mut step.0[part + row / TILE].0[row % TILE].as_chunks_mut::<16>().0[half];
            let narrow = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(bits));
            // SAFETY: the reference covers the sixteen numbers of 16 bits that are written.
            unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), narrow) };
        }
    }
}

/// Lays out a panel in pairs of inputs. Whether any second part is not zero.
#[inline]
#[target_feature(enable = "avx512f")]
fn split_panel(panel: &[Lane], steps: &mut [Step]) -> bool {
    let mut any = _mm512_setzero_si512();
    let zero = Lane([0.0; PANEL]);
    for (step, lanes) in steps.iter_mut().zip(panel.chunks(STEP)) {
        for pair in 0..TILE {
            let (Lane(even), Lane(odd)) =
                (lanes.get(2 * pair).unwrap_or(&zero), lanes.get(2 * pair + 1).unwrap_or(&zero));
            let halves = even.as_chunks::<16>().0.iter().zip(odd.as_chunks::<16>().0);
            for (half, (even, odd)) in halves.enumerate() {
                let ((even, even_rest), (odd, odd_rest)) = (split(even), split(odd));
                for (part, even, odd) in [(0, even, odd), (2, even_rest, odd_rest)] {
                    let both = _mm512_or_si512(_mm512_srli_epi32::<16>(even), odd);
                    let to = &mut step.0[part + half].0[pair];
                    // SAFETY: the reference covers the 64 bytes that are written.
                    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), both) };
                }
                any = _mm512_or_si512(any, _mm512_or_si512(even_rest, odd_rest));
            }
        }
    }
    // The sign of a zero does not count.
    _mm512_test_epi32_mask(any, _mm512_set1_epi32(i32::MAX)) != 0
}

/// Eight tiles of 16 rows of 64 bytes.
#[inline]
fn configure() {
    #[repr(align(64))]
    struct Configuration([u8; 64]);
    let mut configuration = Configuration([0; 64]);
    configuration.0[0] = 1;
    for tile in 0..8 {
        configuration.0[16 + 2 * tile] = 64;
        configuration.0[48 + tile] = 16;
    }
    // SAFETY: called only with AMX at hand; reads the 64 bytes of a configuration that the manual allows.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly, preserves_flags)) };
}

/// Gives the registers back to their first state, which the system need not save.
#[inline]
fn release() {
    // SAFETY: called only with AMX at hand, and nothing is kept in tiles.
    unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
}

/// 32 rows times a panel. Without `has_rest` the second parts of the panel are taken to be zero.
#[inline]
fn multiply(x: &[Step], panel: &[Step], has_rest: bool, results: &mut Results) {
    assert!(x.len() == panel.len() && !x.is_empty(), "as many steps on both sides");
    macro_rules! steps {
        ($($rest:literal),*) => {
            // SAFETY: tiles are configured; each of `x.len()` steps reads a `Step` of x and one of the panel, and then 32 rows
            // of 128 bytes are written to `results`, which holds as many. No register that the compiler uses is changed but those named.
            unsafe {
                asm!(
                    "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                    "2:",
                    "tileloadd tmm6, [{b} + {s}*1]",
                    "tileloadd tmm7, [{b} + {s}*1 + 1024]",
                    "tileloadd tmm4, [{a} + {s}*1 + 2048]",
                    "tileloadd tmm5, [{a} + {s}*1 + 3072]",
                    "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7",
                    "tileloadd tmm4, [{a} + {s}*1]",
                    "tileloadd tmm5, [{a} + {s}*1 + 1024]",
                    "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7",
                    $($rest,)*
                    "add {a}, 4096", "add {b}, 4096", "dec {n}", "jnz 2b",
                    "tilestored [{c} + {t}*1], tmm0", "tilestored [{c} + {t}*1 + 64], tmm1",
                    "tilestored [{c} + {t}*1 + 2048], tmm2", "tilestored [{c} + {t}*1 + 2112], tmm3",
                    a = inout(reg) x.as_ptr() => _,
                    b = inout(reg) panel.as_ptr() => _,
                    n = inout(reg) x.len() => _,
                    c = in(reg) &raw mut results.0,
                    s = in(reg) 64_usize,
                    t = in(reg) 128_usize,
                    options(nostack)
                );
            }
        };
    }
    if has_rest {
        steps!(
            "tileloadd tmm6, [{b} + {s}*1 + 2048]",
            "tileloadd tmm7, [{b} + {s}*1 + 3072]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7"
        );
    } else {
        steps!();
    }
}
