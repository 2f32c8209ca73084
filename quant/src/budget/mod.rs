//! Mixed schemes within a budget: the ways in which each tensor can be stored, what each of them loses, and the choice of least loss.
//!
//! The options are those of EQ-Net (Xu et al., ICCV 2023): bits, granularity and symmetry of each layer. Losses are taken to add up over tensors,
//! each a weight times the squared error of the layer's outputs, so that the choice is a knapsack and [`allocate()`] solves it exactly. Layers that
//! engines hold as one are stored alike.

pub mod allocate;
mod measure;
mod units;

pub use allocate::{Allocation, Choice, allocate};
pub use measure::{Measure, Shape, measure, rounded};
pub(crate) use measure::{in_memory, sampled};
pub use units::{Member, Unit, Units};

use crate::pattern::Pattern;
use crate::scheme::{Group, Scheme};

/// Every scheme that a plan weighs where nobody says otherwise: 2 to 8 bits, in groups of 32, 64, 128 or a row, with and without a zero point.
#[must_use]
pub fn schemes() -> Vec<Scheme> {
    let sizes = Scheme::GROUP_SIZES.into_iter().filter_map(std::num::NonZeroUsize::new).map(Group::Size);
    let groups: Vec<Group> = sizes.chain([Group::Channel]).collect();
    let every = Scheme::BITS
        .flat_map(|bits| groups.iter().flat_map(move |group| [(bits, *group, false), (bits, *group, true)]));
    every.filter_map(|(bits, group, symmetric)| Scheme::new(bits, group, symmetric).ok()).collect()
}

/// The schemes of a list of names and globs over names (`int*-g64`), in the order of [`schemes`], then those that only a name says.
///
/// # Errors
/// What is no scheme, and a glob that matches none.
pub fn schemes_of(list: &[String]) -> Result<Vec<Scheme>, crate::Error> {
    let all = schemes();
    let mut chosen: Vec<Scheme> = Vec::new();
    for text in list {
        if text.contains(['*', '?', '{', '[']) {
            let pattern = Pattern::new(text)?;
            let before = chosen.len();
            chosen.extend(all.iter().filter(|scheme| pattern.matches(&scheme.to_string())));
            if chosen.len() == before {
                return Err(crate::error::SchemeError::Unknown { text: text.clone() }.into());
            }
        } else {
            chosen.push(text.parse()?);
        }
    }
    let mut seen: Vec<Scheme> = Vec::new();
    chosen.retain(|scheme| {
        let new = !seen.contains(scheme);
        seen.push(*scheme);
        new
    });
    Ok(chosen)
}
