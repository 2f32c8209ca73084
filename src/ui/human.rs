//! Sizes, rates and times as people read them, in three digits. Units are decimal: 1 GB is 10^9 bytes.

use std::time::Duration;

const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];

/// A size, such as `512 B`, `1.24 GB` or `25.0 MB`.
pub(crate) fn bytes(count: u64) -> String {
    scaled(count as f64)
}

/// A rate over a time, such as `350 MB/s`, or `- MB/s` when no time has passed.
pub(crate) fn rate(count: u64, time: Duration) -> String {
    let per_second = count as f64 / time.as_secs_f64();
    if per_second.is_finite() { format!("{}/s", scaled(per_second)) } else { "- MB/s".to_owned() }
}

/// A time, such as `0.43 s`, `12.3 s`, `4 min 05 s` or `2 h 03 min`.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let rounded = seconds.round() as u64;
    let minutes = (seconds / 60.0).round() as u64;
    if seconds < 9.995 {
        format!("{seconds:.2} s")
    } else if seconds < 59.95 {
        format!("{seconds:.1} s")
    } else if rounded < 3600 {
        format!("{} min {:02} s", rounded / 60, rounded % 60)
    } else {
        format!("{} h {:02} min", minutes / 60, minutes % 60)
    }
}

/// The number and its unit. A number that would round to 1000 takes the next unit; below 1 kB bytes are whole.
fn scaled(mut number: f64) -> String {
    let mut unit_index = 0;
    while number >= 999.5 && unit_index + 1 < UNITS.len() {
        number /= 1000.0;
        unit_index += 1;
    }
    let digits = match number {
        _ if unit_index == 0 => 0,
        n if n < 9.995 => 2,
        n if n < 99.95 => 1,
        _ => 0,
    };
    format!("{number:.digits$} {}", UNITS[unit_index])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let rows = [
            (0, "0 B"),
            (1, "1 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (9_994, "9.99 kB"),
            (9_996, "10.0 kB"),
            (99_960, "100 kB"),
            (999_400, "999 kB"),
            (999_600, "1.00 MB"),
            (5_000_000_000, "5.00 GB"),
            (u64::MAX, "18.4 EB"),
        ];
        for (count, expected) in rows {
            assert_eq!(bytes(count), expected);
        }
    }

    #[test]
    fn rates() {
        assert_eq!(rate(700_000_000, Duration::from_secs(2)), "350 MB/s");
        assert_eq!(rate(0, Duration::from_secs(2)), "0 B/s");
        assert_eq!(rate(1, Duration::ZERO), "- MB/s");
        assert_eq!(rate(0, Duration::ZERO), "- MB/s");
    }

    #[test]
    fn times() {
        let rows = [
            (0, "0.00 s"),
            (430, "0.43 s"),
            (9_994, "9.99 s"),
            (9_996, "10.0 s"),
            (12_340, "12.3 s"),
            (59_940, "59.9 s"),
            (59_960, "1 min 00 s"),
            (245_400, "4 min 05 s"),
            (3_599_400, "59 min 59 s"),
            (3_599_600, "1 h 00 min"),
            (7_380_000, "2 h 03 min"),
        ];
        for (milliseconds, expected) in rows {
            assert_eq!(duration(Duration::from_millis(milliseconds)), expected);
        }
    }
}
