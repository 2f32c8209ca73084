//! Sums that do not depend on the order of what is added: whole multiples of a small unit.
//!
//! Statistics of two halves of a text must be those of the whole, to the byte, whatever the threads did in which order. Sums in
//! floating point are not; sums of integers are.

/// Sums in units of 2^-40, good for magnitudes up to 2^87.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExactSums {
    units: Vec<i128>,
}

const UNIT: f64 = 1.0 / (1_u64 << 40) as f64;

impl ExactSums {
    /// As many zeros.
    #[must_use]
    pub fn zeros(n: usize) -> Self {
        Self { units: vec![0; n] }
    }

    /// How many sums there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.units.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// Adds finite values, each rounded to the unit.
    ///
    /// # Panics
    /// Unless there are as many values as sums.
    pub fn add(&mut self, values: &[f64]) {
        assert_eq!(values.len(), self.units.len(), "a value for each sum");
        for (units, value) in self.units.iter_mut().zip(values) {
            *units = units.saturating_add((value / UNIT).round_ties_even() as i128);
        }
    }

    /// Adds other sums.
    ///
    /// # Panics
    /// Unless there are as many.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!(other.units.len(), self.units.len(), "as many sums on both sides");
        for (units, other) in self.units.iter_mut().zip(&other.units) {
            *units = units.saturating_add(*other);
        }
    }

    /// The sums, each rounded once.
    #[must_use]
    pub fn values(&self) -> Vec<f64> {
        self.units.iter().map(|units| *units as f64 * UNIT).collect()
    }

    /// What rounding took from [`ExactSums::values`], exactly: with both, [`ExactSums::from_parts`] gives the same sums again.
    #[must_use]
    pub fn rests(&self) -> Vec<f64> {
        self.units.iter().map(|units| (units - (*units as f64) as i128) as f64 * UNIT).collect()
    }

    /// Sums from their values and rests.
    ///
    /// # Panics
    /// Unless there are as many of both.
    #[must_use]
    pub fn from_parts(values: &[f64], rests: &[f64]) -> Self {
        let mut sums = Self::zeros(values.len());
        sums.add(values);
        sums.add(rests);
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::ExactSums;

    #[test]
    fn the_order_of_additions_does_not_matter_and_parts_give_the_sums_again() {
        let values: Vec<f64> = (0..2000).map(|i| (f64::from(i) * 0.7).sin() * 10_f64.powi(i % 17 - 5)).collect();
        let (mut forward, mut backward) = (ExactSums::zeros(1), ExactSums::zeros(1));
        for (first, last) in values.iter().zip(values.iter().rev()) {
            forward.add(&[*first]);
            backward.add(&[*last]);
        }
        assert_eq!(forward, backward);
        let again = ExactSums::from_parts(&forward.values(), &forward.rests());
        assert_eq!(again, forward);
        let plain: f64 = values.iter().sum();
        assert!((forward.values()[0] - plain).abs() <= 1e-12 * 1e12);
    }

    #[test]
    fn halves_add_up_to_the_whole() {
        let (mut whole, mut a, mut b) = (ExactSums::zeros(2), ExactSums::zeros(2), ExactSums::zeros(2));
        for i in 0..100 {
            let values = [f64::from(i).sqrt(), 1e9 / f64::from(i + 1)];
            whole.add(&values);
            if i < 37 { a.add(&values) } else { b.add(&values) }
        }
        a.merge(&b);
        assert_eq!(a, whole);
    }
}
