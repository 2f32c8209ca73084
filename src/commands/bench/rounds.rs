//! Contenders take turns within one process, so that a neighbour's load falls on all of them.

use std::time::Instant;

/// Work to be timed, over state that all of a group share.
pub(super) type Work<'a, T> = Box<dyn Fn(&mut T) + Sync + Send + 'a>;

/// Median and least seconds of each contender. The order is drawn anew each round, so that none always follows one that
/// leaves the caches empty; a mere rotation would keep the neighbours. One sample is `repeats` runs; where `warm`, one run goes before, so that
/// what an earlier contender left in or drove out of the caches does not count.
pub(super) fn take_turns<T>(
    contenders: &[Work<'_, T>],
    state: &mut T,
    rounds: usize,
    repeats: usize,
    warm: bool,
) -> Vec<(f64, f64)> {
    let mut seconds = vec![Vec::with_capacity(rounds); contenders.len()];
    let mut order: Vec<usize> = (0..contenders.len()).collect();
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    for _ in 0..rounds {
        shuffle(&mut order, &mut random);
        for &i in &order {
            let (work, seconds) = (&contenders[i], &mut seconds[i]);
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

/// Any order, each as likely as another (Fisher & Yates).
fn shuffle(order: &mut [usize], state: &mut u64) {
    for i in (1..order.len()).rev() {
        // xorshift64 (Marsaglia, 2003)
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        order.swap(i, (*state % (i as u64 + 1)) as usize);
    }
}

/// The middle one, the slice sorted.
pub(super) fn median(seconds: &mut [f64]) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}
