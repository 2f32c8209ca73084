//! Which way to store each unit, for the least loss within a budget of bytes: a multiple-choice knapsack, solved exactly.
//!
//! The lower convex hull of each unit's choices gives the bound of the linear relaxation and its price of a byte (Sinha and Zoltners 1979), and
//! walking down the hulls by steepest descent, filling what is left with later steps, a first answer. What separates the two decides which choices can be in any better answer: those whose
//! loss at that price exceeds the best of their unit by no more. Over these, sums of loss and bytes that no other undercuts are carried from
//! unit to unit (dynamic programming with bounds, as in Pisinger 1995), which leaves the optimum.

/// One way to store a unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// What it takes.
    pub bytes: usize,
    /// What it costs: finite, not negative.
    pub loss: f64,
}

/// What was chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Allocation {
    /// The index of each unit's choice.
    pub chosen: Vec<usize>,
    /// Bytes of all.
    pub bytes: usize,
    /// Loss of all.
    pub loss: f64,
    /// What no choice within the budget can undercut.
    pub bound: f64,
    /// Whether `loss` is the least there is. Otherwise sums grew too many, and some were left out.
    pub exact: bool,
}

/// Sums kept over all units, at most; 12 bytes each.
const SUMS_MAX: usize = 1 << 23;

/// Differences of sums in f64 that are only rounding.
const ROUNDING: f64 = 1e-12;

/// Chooses for every unit; `None` where even the smallest choices exceed the budget, or a unit has none.
#[must_use]
pub fn allocate(units: &[Vec<Choice>], budget: usize) -> Option<Allocation> {
    let smallest: usize = units.iter().map(|unit| unit.iter().map(|choice| choice.bytes).min()).sum::<Option<_>>()?;
    if smallest > budget {
        return None;
    }
    let (first, price) = descend(units, budget);
    let incumbent = sums(units, &first);
    let least: Vec<f64> =
        units.iter().map(|unit| unit.iter().map(|choice| choice.at(price)).fold(f64::INFINITY, f64::min)).collect();
    let bound = least.iter().sum::<f64>() - price * budget as f64;
    let allocation = |chosen: Vec<usize>, exact| {
        let Choice { bytes, loss } = sums(units, &chosen);
        Allocation { chosen, bytes, loss, bound: bound.min(loss), exact }
    };
    let gap = incumbent.loss - bound;
    let scale = incumbent.loss.abs() + price * budget as f64;
    if gap <= ROUNDING * scale {
        return Some(allocation(first, true));
    }
    let search = Search { units, least: &least, budget, price, gap: gap + ROUNDING * scale };
    let (found, exact) = search.run();
    Some(match found {
        Some(found) if sums(units, &found).loss < incumbent.loss => allocation(found, exact),
        _ => allocation(first, exact),
    })
}

impl Choice {
    /// Loss, and bytes at their price.
    fn at(self, price: f64) -> f64 {
        self.loss + price * self.bytes as f64
    }
}

fn sums(units: &[Vec<Choice>], chosen: &[usize]) -> Choice {
    let each = units.iter().zip(chosen).map(|(unit, index)| unit[*index]);
    each.fold(Choice { bytes: 0, loss: 0.0 }, |sum, choice| Choice {
        bytes: sum.bytes + choice.bytes,
        loss: sum.loss + choice.loss,
    })
}

/// The corners of the lower convex hull, from the fewest bytes to the least loss.
fn hull(unit: &[Choice]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..unit.len()).collect();
    order.sort_by(|a, b| unit[*a].bytes.cmp(&unit[*b].bytes).then(unit[*a].loss.total_cmp(&unit[*b].loss)));
    let mut corners: Vec<usize> = Vec::new();
    for index in order {
        let new = unit[index];
        if corners.last().is_some_and(|last| unit[*last].loss <= new.loss) {
            continue;
        }
        while let [.., a, b] = corners[..]
            && slope(unit[a], unit[b]) <= slope(unit[b], new)
        {
            corners.pop();
        }
        corners.push(index);
    }
    corners
}

/// By how much loss falls a byte.
fn slope(from: Choice, to: Choice) -> f64 {
    (from.loss - to.loss) / (to.bytes - from.bytes) as f64
}

/// Goes down the hulls, steepest step first, as far as the budget allows; returns the choices and the slope of the first step that did not fit.
fn descend(units: &[Vec<Choice>], budget: usize) -> (Vec<usize>, f64) {
    let hulls: Vec<Vec<usize>> = units.iter().map(|unit| hull(unit)).collect();
    let mut chosen: Vec<usize> = hulls.iter().map(|hull| hull[0]).collect();
    let mut left = budget - sums(units, &chosen).bytes;
    let mut steps: Vec<(f64, usize, usize)> = Vec::new();
    for (unit, hull) in hulls.iter().enumerate() {
        let slopes = hull.windows(2).map(|pair| slope(units[unit][pair[0]], units[unit][pair[1]]));
        steps.extend(slopes.enumerate().map(|(step, slope)| (slope, unit, step)));
    }
    steps.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
    let mut price = 0.0;
    for (slope, unit, step) in steps {
        let (from, to) = (hulls[unit][step], hulls[unit][step + 1]);
        let more = units[unit][to].bytes - units[unit][from].bytes;
        if chosen[unit] == from && more <= left {
            chosen[unit] = to;
            left -= more;
        } else if price == 0.0 {
            price = slope;
        }
    }
    (chosen, price)
}

/// Sums over some units, and how they came about.
#[derive(Clone, Copy)]
struct Sum {
    bytes: usize,
    loss: f64,
    parent: u32,
    choice: u32,
}

struct Search<'a> {
    units: &'a [Vec<Choice>],
    /// Of each unit, the least loss with bytes at their price.
    least: &'a [f64],
    budget: usize,
    price: f64,
    /// What an answer that is better than the first may lie above the bound.
    gap: f64,
}

impl Search<'_> {
    /// Carries sums from unit to unit; returns the best choices, if any are within the gap, and whether none were left out.
    fn run(&self) -> (Option<Vec<usize>>, bool) {
        let survivors: Vec<Vec<usize>> = (0..self.units.len()).map(|unit| self.survivors(unit)).collect();
        if survivors.iter().any(Vec::is_empty) {
            return (None, true);
        }
        let mut chosen: Vec<usize> = survivors.iter().map(|choices| choices[0]).collect();
        let open: Vec<usize> = (0..self.units.len()).filter(|unit| survivors[*unit].len() > 1).collect();
        let sizes = |unit: usize| survivors[unit].iter().map(move |choice| self.units[unit][*choice].bytes);
        let (mut fewest, mut most): (usize, usize) = (0..self.units.len())
            .map(|unit| (sizes(unit).min().unwrap_or(0), sizes(unit).max().unwrap_or(0)))
            .fold((0, 0), |sum, size| (sum.0 + size.0, sum.1 + size.1));
        let fixed = (0..self.units.len()).filter(|unit| survivors[*unit].len() == 1);
        let fixed = fixed.map(|unit| self.units[unit][chosen[unit]]).fold(Sum::none(), Sum::with);
        (fewest, most) = (fewest - fixed.bytes, most - fixed.bytes);
        let mut least = self.least.iter().sum::<f64>() - open.iter().map(|unit| self.least[*unit]).sum::<f64>();
        let sums_max = (SUMS_MAX / open.len().max(1)).max(1 << 8);
        let (mut stages, mut exact) = (vec![vec![fixed]], true);
        for unit in &open {
            (fewest, most) = (fewest - sizes(*unit).min().unwrap_or(0), most - sizes(*unit).max().unwrap_or(0));
            least += self.least[*unit];
            let before = stages.last().map_or(&[][..], Vec::as_slice);
            let mut sums = self.extend(before, (*unit, &survivors[*unit]), least, (fewest, most));
            exact &= !thin(&mut sums, sums_max, self.price);
            stages.push(sums);
        }
        let Some(mut at) = stages.last().and_then(|last| best(last)) else { return (None, exact) };
        for (unit, stage) in open.iter().zip(&stages[1..]).rev() {
            chosen[*unit] = stage[at].choice as usize;
            at = stage[at].parent as usize;
        }
        (Some(chosen), exact)
    }

    /// Choices that some better answer may hold.
    fn survivors(&self, unit: usize) -> Vec<usize> {
        let within = |choice: &Choice| choice.at(self.price) - self.least[unit] <= self.gap;
        let choices = self.units[unit].iter().enumerate();
        choices.filter(|(_, choice)| within(choice)).map(|(index, _)| index).collect()
    }

    /// Sums with one more unit that may still lead to a better answer, in the order of bytes, each with less loss than those before.
    fn extend(
        &self,
        before: &[Sum],
        (unit, choices): (usize, &[usize]),
        least: f64,
        (fewest, most): (usize, usize),
    ) -> Vec<Sum> {
        let mut sums = Vec::with_capacity(before.len() * choices.len());
        for (parent, sum) in before.iter().enumerate() {
            for choice in choices {
                let Sum { bytes, loss, .. } = sum.with(self.units[unit][*choice]);
                let above = loss + self.price * bytes as f64 - least;
                let unused = self.budget.saturating_sub(bytes + most) as f64;
                if bytes + fewest <= self.budget && above + self.price * unused <= self.gap {
                    sums.push(Sum { bytes, loss, parent: parent as u32, choice: *choice as u32 });
                }
            }
        }
        sums.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.loss.total_cmp(&b.loss)));
        let mut lowest = f64::INFINITY;
        sums.retain(|sum| {
            let lower = sum.loss < lowest;
            lowest = lowest.min(sum.loss);
            lower
        });
        sums
    }
}

impl Sum {
    const fn none() -> Self {
        Self { bytes: 0, loss: 0.0, parent: 0, choice: 0 }
    }

    fn with(self, choice: Choice) -> Self {
        Self { bytes: self.bytes + choice.bytes, loss: self.loss + choice.loss, ..self }
    }
}

/// The sum of least loss.
fn best(sums: &[Sum]) -> Option<usize> {
    (0..sums.len()).min_by(|a, b| sums[*a].loss.total_cmp(&sums[*b].loss))
}

/// Keeps about `n_max` sums, the best of each range of bytes; tells whether any went.
fn thin(sums: &mut Vec<Sum>, n_max: usize, price: f64) -> bool {
    let (Some(first), Some(last)) = (sums.first(), sums.last()) else { return false };
    if sums.len() <= n_max {
        return false;
    }
    let (start, width) = (first.bytes, (last.bytes - first.bytes) / n_max + 1);
    let at = |sum: &Sum| sum.loss + price * sum.bytes as f64;
    let mut kept: Vec<Sum> = Vec::with_capacity(n_max);
    for sum in sums.iter() {
        match kept.last_mut() {
            Some(last) if (last.bytes - start) / width == (sum.bytes - start) / width => {
                if at(sum) < at(last) {
                    *last = *sum;
                }
            }
            _ => kept.push(*sum),
        }
    }
    *sums = kept;
    true
}

#[cfg(test)]
mod tests {
    use super::{Choice, allocate};

    /// `SplitMix64`.
    struct Random(u64);

    impl Random {
        fn below(&mut self, n: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            (z ^ (z >> 31)) % n
        }
    }

    /// Losses that fall with bytes as those of more bits do, with noise, or any losses at all.
    fn instance(random: &mut Random) -> (Vec<Vec<Choice>>, usize) {
        let shaped = random.below(4) > 0;
        let units: Vec<Vec<Choice>> = (0..=random.below(6))
            .map(|_| {
                let (size, weight) = (1 + random.below(9) as usize, 1 + random.below(50));
                let mut choice = |bits: u64| Choice {
                    bytes: size * bits as usize + random.below(3) as usize,
                    loss: if shaped {
                        (weight << (16 - 2 * bits)) as f64 + random.below(40) as f64
                    } else {
                        random.below(100) as f64
                    },
                };
                (2..=6).map(&mut choice).collect()
            })
            .collect();
        let most: usize = units.iter().flatten().map(|choice| choice.bytes).sum();
        let budget = random.below(most as u64 / 3 + 2) as usize;
        (units, budget)
    }

    /// The least loss of all combinations.
    fn brute_force(units: &[Vec<Choice>], budget: usize) -> Option<f64> {
        let Some((first, rest)) = units.split_first() else { return Some(0.0) };
        let tried = first.iter().filter(|choice| choice.bytes <= budget);
        let sums = tried.filter_map(|choice| Some(choice.loss + brute_force(rest, budget - choice.bytes)?));
        sums.reduce(f64::min)
    }

    #[test]
    fn no_combination_is_better() {
        let (mut failed, mut n_possible, mut n_filled) = (Vec::new(), 0, 0);
        for seed in 0..1000 {
            let (units, budget) = instance(&mut Random(seed));
            let (found, best) = (allocate(&units, budget), brute_force(&units, budget));
            let loss = found.as_ref().map(|found| found.loss);
            n_possible += usize::from(best.is_some());
            if let Some(found) = &found {
                n_filled += usize::from(found.loss > found.bound * (1.0 + 1e-9));
                let sum = |value: fn(&Choice) -> f64| -> f64 {
                    units.iter().zip(&found.chosen).map(|(unit, index)| value(&unit[*index])).sum()
                };
                let holds = found.bytes <= budget
                    && found.exact
                    && found.bound <= found.loss
                    && sum(|choice| choice.loss).total_cmp(&found.loss).is_eq()
                    && sum(|choice| choice.bytes as f64).total_cmp(&(found.bytes as f64)).is_eq();
                if !holds {
                    failed.push(format!("seed {seed}: {found:?} within {budget}"));
                }
            }
            // Losses are whole numbers, so sums in any order are the same.
            if loss != best {
                failed.push(format!("seed {seed}: expected {best:?}, found {loss:?}"));
            }
        }
        assert!(failed.is_empty(), "{}", failed.join("\n"));
        // Both kinds of instance are there, and those whose hull alone does not give the answer.
        assert!((200..1000).contains(&n_possible) && n_filled > 100, "{n_possible} {n_filled}");
    }

    #[test]
    fn what_cannot_be_is_none() {
        assert_eq!(allocate(&[vec![Choice { bytes: 5, loss: 1.0 }]], 4), None);
        assert_eq!(allocate(&[Vec::new()], 4), None);
        assert_eq!(allocate(&[], 4).map(|found| found.bytes), Some(0));
    }

    #[test]
    fn a_model_of_many_layers_is_solved_exactly_and_fills_its_budget() {
        let mut random = Random(7);
        let units: Vec<Vec<Choice>> = (0..240)
            .map(|_| {
                let (rows, weight) = (64 * (1 + random.below(24)), 1.0 + random.below(1000) as f64);
                let of = |bits: u64, group: u64, error: f64| Choice {
                    bytes: (rows * (576 * bits / 8 + 576 / group * 2)) as usize,
                    loss: weight * error * 0.25_f64.powi(bits as i32),
                };
                (2..=8).flat_map(|bits| [of(bits, 32, 1.0), of(bits, 64, 1.2), of(bits, 576, 2.0)]).collect()
            })
            .collect();
        let n: usize = units.iter().map(|unit| unit[20].bytes).sum();
        let found = allocate(&units, n / 2).expect("half of all is enough");
        assert!(found.exact && found.bytes <= n / 2 && n / 2 - found.bytes < n / 10_000, "{found:?}");
        assert!(found.loss < found.bound * 1.001, "{} {}", found.loss, found.bound);
    }
}
