//! Natural order of tensor names: digits compare as numbers, so `layers.2` comes before `layers.10`.

use std::cmp::Ordering;

/// Compares two names; equal only for equal strings.
#[must_use]
pub fn compare(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a.as_bytes(), b.as_bytes());
    while let (Some(&x), Some(&y)) = (left.first(), right.first()) {
        let order = if x.is_ascii_digit() && y.is_ascii_digit() {
            let (number_x, rest_x) = split_number(left);
            let (number_y, rest_y) = split_number(right);
            (left, right) = (rest_x, rest_y);
            number_x.len().cmp(&number_y.len()).then_with(|| number_x.cmp(number_y))
        } else {
            (left, right) = (&left[1..], &right[1..]);
            x.cmp(&y)
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    left.len().cmp(&right.len()).then_with(|| a.cmp(b))
}

/// Digits without leading zeros, and what follows them.
fn split_number(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let zeros = text[..end].iter().take_while(|&&byte| byte == b'0').count();
    (&text[zeros..end], &text[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_compare_as_numbers() {
        let mut names =
            ["l.10.w", "l.2.w", "l.02.w", "l.2", "l", "k.99999999999999999999.w", "k.100000000000000000000.w"];
        names.sort_by(|a, b| compare(a, b));
        assert_eq!(
            names,
            ["k.99999999999999999999.w", "k.100000000000000000000.w", "l", "l.2", "l.02.w", "l.2.w", "l.10.w"]
        );
    }
}
