//! A day, and Python's `strftime` of its midnight.

use std::fmt;
use std::str::FromStr;

use minijinja::{Error, ErrorKind};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// A day of the Gregorian calendar, from year 1000 to 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    year: u32,
    month: u32,
    day: u32,
}

impl FromStr for Date {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected a day as YYYY-MM-DD, found {text:?}");
        let fields: Vec<&str> = text.split('-').collect();
        let [year, month, day] = fields.as_slice() else { return Err(wrong()) };
        let number = |field: &str, digits: usize| {
            let all = field.len() == digits && field.bytes().all(|byte| byte.is_ascii_digit());
            all.then(|| field.parse().ok()).flatten()
        };
        let (Some(year), Some(month), Some(day)) = (number(year, 4), number(month, 2), number(day, 2)) else {
            return Err(wrong());
        };
        let date = Self { year, month, day };
        let exists = year >= 1000 && (1..=12).contains(&month) && (1..=date.days_of_month(month)).contains(&day);
        if exists { Ok(date) } else { Err(wrong()) }
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl Date {
    fn days_of_month(self, month: u32) -> u32 {
        let leap = self.year.is_multiple_of(4) && (!self.year.is_multiple_of(100) || self.year.is_multiple_of(400));
        match month {
            2 => 28 + u32::from(leap),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    /// Days since the first of January, from 1.
    fn day_of_year(self) -> u32 {
        (1..self.month).map(|month| self.days_of_month(month)).sum::<u32>() + self.day
    }

    /// 0 for Monday. The first of January of year 1 was one.
    fn weekday(self) -> u32 {
        let before = self.year - 1;
        (before * 365 + before / 4 - before / 100 + before / 400 + self.day_of_year() - 1) % 7
    }

    /// Python's `strftime` in the C locale; a `-` after the percent sign leaves out leading zeros.
    ///
    /// # Errors
    /// A directive that is none, or is of more than a day.
    pub(super) fn format(self, format: &str) -> Result<String, Error> {
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut directive = chars.next();
            let padded = directive != Some('-');
            if !padded {
                directive = chars.next();
            }
            let two = |n: u32| if padded { format!("{n:02}") } else { n.to_string() };
            let month = MONTHS[self.month as usize - 1];
            let weekday = DAYS[self.weekday() as usize];
            let text = match directive {
                Some('Y') => self.year.to_string(),
                Some('y') => two(self.year % 100),
                Some('m') => two(self.month),
                Some('d') => two(self.day),
                Some('B') => month.to_owned(),
                Some('b' | 'h') => month[..3].to_owned(),
                Some('A') => weekday.to_owned(),
                Some('a') => weekday[..3].to_owned(),
                Some('j') if padded => format!("{:03}", self.day_of_year()),
                Some('j') => self.day_of_year().to_string(),
                Some('H' | 'M' | 'S') => two(0),
                Some('I') => two(12),
                Some('p') => "AM".to_owned(),
                Some('F') => self.to_string(),
                Some('T') => "00:00:00".to_owned(),
                Some('%') => "%".to_owned(),
                _ => {
                    let what = format!("strftime_now: {format:?} asks for what is not known of a day");
                    return Err(Error::new(ErrorKind::InvalidOperation, what));
                }
            };
            out.push_str(&text);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::Date;

    #[test]
    fn days_are_written_as_python_writes_them() {
        // Python 3.11: datetime.date(...).strftime(...)
        let rows = [
            ("2026-11-24", "%d %b %Y, %A %j", "24 Nov 2026, Tuesday 328"),
            ("2024-02-29", "%-d/%-m/%y %a %B %H:%M:%S%%", "29/2/24 Thu February 00:00:00%"),
            ("2000-03-01", "%F %I %p %j %-j", "2000-03-01 12 AM 061 61"),
            ("1900-01-01", "%A", "Monday"),
        ];
        for (day, format, expected) in rows {
            let date: Date = day.parse().expect("it is a day");
            assert_eq!((date.to_string().as_str(), date.format(format).expect("known").as_str()), (day, expected));
        }
        for wrong in ["2023-02-29", "24-11-24", "2026-13-01", "2026-1-1", "today", "2026-01-01-01", "+026-01-01"] {
            assert!(wrong.parse::<Date>().is_err(), "{wrong}");
        }
        let date: Date = "2026-11-24".parse().expect("it is a day");
        assert!(date.format("%z").is_err() && date.format("%").is_err());
    }
}
