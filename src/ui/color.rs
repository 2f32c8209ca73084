//! Whether a stream is colored, and the labels that are.

use std::ffi::OsString;

use crate::args::ColorChoice;

/// What a label says, in a word and in a color.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Error,
    Warning,
    Hint,
}

/// Starts bold text.
pub(super) const BOLD: &str = "\x1b[1m";
/// Ends whatever was started.
pub(super) const RESET: &str = "\x1b[0m";

impl Tone {
    /// The word that starts a line, with a space after it.
    pub(super) fn label(self, colored: bool) -> String {
        let (word, code) = match self {
            Self::Error => ("error:", "\x1b[1;31m"),
            Self::Warning => ("warning:", "\x1b[1;33m"),
            Self::Hint => ("hint:", "\x1b[1;36m"),
        };
        if colored { format!("{code}{word}{RESET} ") } else { format!("{word} ") }
    }
}

/// Whether a stream is colored. The option decides; then `NO_COLOR` (no-color.org: any value but the empty one), then
/// `CLICOLOR_FORCE` (any value but `0`), then whether a terminal that is not `dumb` is there to show it.
pub(super) fn wanted(
    choice: ColorChoice,
    environment: impl Fn(&str) -> Option<OsString>,
    stream_is_terminal: bool,
) -> bool {
    let set = |name| environment(name).filter(|value| !value.is_empty());
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto if set("NO_COLOR").is_some() => false,
        ColorChoice::Auto if set("CLICOLOR_FORCE").is_some_and(|value| value != "0") => true,
        ColorChoice::Auto => stream_is_terminal && set("TERM").is_none_or(|value| value != "dumb"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_then_the_environment_then_the_terminal() {
        use ColorChoice::{Always, Auto, Never};

        type Row<'a> = (ColorChoice, &'a [(&'a str, &'a str)], bool, bool);
        let rows: [Row<'_>; 14] = [
            (Auto, &[], true, true),
            (Auto, &[], false, false),
            (Auto, &[("TERM", "xterm")], true, true),
            (Auto, &[("TERM", "dumb")], true, false),
            (Auto, &[("NO_COLOR", "1")], true, false),
            (Auto, &[("NO_COLOR", "")], true, true),
            (Auto, &[("CLICOLOR_FORCE", "1")], false, true),
            (Auto, &[("CLICOLOR_FORCE", "0")], false, false),
            (Auto, &[("CLICOLOR_FORCE", "0")], true, true),
            (Auto, &[("CLICOLOR_FORCE", "1"), ("TERM", "dumb")], true, true),
            (Auto, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], true, false),
            (Always, &[("NO_COLOR", "1"), ("TERM", "dumb")], false, true),
            (Never, &[("CLICOLOR_FORCE", "1")], true, false),
            (Never, &[], true, false),
        ];
        for (choice, environment, is_terminal, expected) in rows {
            let look_up =
                |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
            assert_eq!(wanted(choice, look_up, is_terminal), expected, "{choice:?} {environment:?} {is_terminal}");
        }
    }

    #[test]
    fn a_label_says_it_in_a_word() {
        assert_eq!(Tone::Error.label(false), "error: ");
        assert_eq!(Tone::Warning.label(true), "\x1b[1;33mwarning:\x1b[0m ");
    }
}
