//! Contenders take turns within one process, so that a neighbour's load falls on all of them.

use std::time::Instant;

/// Work to be timed, over state that all of a group share.
pub(super) type Work<'a, T> = Box<dyn Fn(&mut T) + Sync + Send + 'a>;

/// Median and least seconds of each contender. One sample is `repeats` runs; where `warm`, one run goes before, so that
/// what an earlier contender left in or drove out of the caches does not count.
pub(super) fn take_turns<T>(
    contenders: &[Work<'_, T>],
    state: &mut T,
    rounds: usize,
    repeats: usize,
    warm: bool,
) -> Vec<(f64, f64)> {
    let mut seconds = vec![Vec::with_capacity(rounds); contenders.len()];
    for _ in 0..rounds {
        for (work, seconds) in contenders.iter().zip(&mut seconds) {
            if warm {
                work(state);
            }
            let start = Instant::now();
            for _ in 0..repeats {
                work(state);
            }
            seconds.push(start.elapsed().as_secs_f64() / repeats as f64);
        }
    }
    seconds.iter_mut().map(|seconds| (median(seconds), seconds[0])).collect()
}

/// The middle one, the slice sorted.
pub(super) fn median(seconds: &mut [f64]) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}
