//! Makes text from files safe to show. A tensor's name is whatever a stranger wrote: it may hold escape sequences that
//! drive a terminal, line ends that forge another message, or marks that reorder or hide what is around them.

use std::borrow::Cow;
use std::fmt::Write;
use std::path::Path;

/// Shows characters that a terminal would obey, reorder by or hide as `\n`, `\x1b` or `\u{202e}`, and all others as they
/// are. Escaping twice changes nothing more: a backslash stays one.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    text.chars().for_each(|c| push_shown(&mut shown, c));
    Cow::Owned(shown)
}

/// Shows a path as [`escape`] does; a byte that is no text becomes `\xff`.
pub(crate) fn escape_path(path: &Path) -> String {
    let bytes = path.as_os_str().as_encoded_bytes();
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|c| push_shown(&mut shown, c));
        chunk.invalid().iter().for_each(|byte| push_hex(&mut shown, u32::from(*byte)));
    }
    shown
}

/// Writes such characters of a JSON text as `\u202e`, which reads back as the same character. Below U+0020 JSON holds
/// none inside a string, and outside of strings only line ends and spaces.
pub(super) fn escape_json(json: &str) -> Cow<'_, str> {
    let is_hidden = |c| c > '\u{7e}' && is_unsafe(c);
    if !json.contains(is_hidden) {
        return Cow::Borrowed(json);
    }
    let mut shown = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if is_hidden(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(shown, "\\u{unit:04x}").expect("a String takes any text");
            }
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

fn push_shown(shown: &mut String, c: char) {
    match c {
        '\n' => shown.push_str("\\n"),
        '\r' => shown.push_str("\\r"),
        '\t' => shown.push_str("\\t"),
        c if u32::from(c) < 0x80 && is_unsafe(c) => push_hex(shown, u32::from(c)),
        c if is_unsafe(c) => shown.extend(c.escape_unicode()),
        c => shown.push(c),
    }
}

fn push_hex(shown: &mut String, byte: u32) {
    write!(shown, "\\x{byte:02x}").expect("a String takes any text");
}

/// Control characters, and the format characters of Unicode (category Cf, the ones without a shape of their own) together
/// with line separators, Hangul fillers, variation selectors and tags.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown() {
        let rows = [
            ("model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
            ("", ""),
            ("größe 重み 🦀 \\n", "größe 重み 🦀 \\n"),
            ("a\nerror: forged", "a\\nerror: forged"),
            ("a\r\tb", "a\\r\\tb"),
            ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
            ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
            ("\0\x7f", "\\x00\\x7f"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("a\u{202e}b\u{2066}c\u{200f}d\u{61c}", "a\\u{202e}b\\u{2066}c\\u{200f}d\\u{61c}"),
            ("zero\u{200b}width\u{feff}", "zero\\u{200b}width\\u{feff}"),
            ("tag\u{e0041}", "tag\\u{e0041}"),
            ("line\u{2028}end", "line\\u{2028}end"),
        ];
        for (text, expected) in rows {
            assert_eq!(escape(text), expected);
            assert_eq!(escape_path(Path::new(text)), expected);
            assert_eq!(escape(&escape(text)), expected, "escaping twice");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_path_that_is_no_text() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        assert_eq!(escape_path(Path::new(OsStr::from_bytes(b"a\xffb\xc3/\n"))), "a\\xffb\\xc3/\\n");
    }

    #[test]
    fn json_reads_back_as_it_was() {
        let name = "\u{202e}\u{9b}\u{7f}\n\"\\\u{e0041}é重🦀";
        let json = serde_json::to_string_pretty(&[name]).expect("a string is JSON");
        let shown = escape_json(&json);
        assert!(!shown.contains(|c| c != '\n' && is_unsafe(c)), "{shown}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&shown).expect("escaped JSON is JSON"), [name]);
    }
}
