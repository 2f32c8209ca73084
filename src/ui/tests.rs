//! What reaches the two streams.

use std::sync::Arc;

use super::*;
use crate::args::{Args, Verb};

/// The two streams of a [`Ui`], kept in memory.
#[derive(Clone, Default)]
pub(crate) struct Streams {
    out: Memory,
    err: Memory,
}

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Streams {
    pub(crate) fn out(&self) -> String {
        self.out.text()
    }

    pub(crate) fn err(&self) -> String {
        self.err.text()
    }
}

impl Memory {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("no test panics while it writes").clone())
            .expect("all that is printed is text")
    }
}

impl Write for Memory {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no test panics while it writes").write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A stream on which every write fails in one way.
struct Failing(io::ErrorKind);

impl Write for Failing {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A [`Ui`] that writes to memory, with these global options and no terminal.
pub(crate) fn captured(options: &[&str]) -> (Ui, Streams) {
    let streams = Streams::default();
    let ui = with_streams(options, Box::new(streams.out.clone()), Box::new(streams.err.clone()));
    (ui, streams)
}

fn with_streams(options: &[&str], out: Box<dyn Write + Send>, err: Box<dyn Write + Send>) -> Ui {
    let argv: Vec<OsString> = ["reweight", "verify", "target"].iter().chain(options).map(OsString::from).collect();
    let args = Args::read(&argv).expect("the test's options are valid");
    assert!(matches!(args.verb, Verb::Verify(_)));
    let colored = args.global.color == ColorChoice::Always;
    Ui {
        json: args.global.json,
        level: Level::of(&args.global),
        out: Sink { stream: Mutex::new(out), colored },
        err: Sink { stream: Mutex::new(err), colored },
        err_is_terminal: false,
        bar: Mutex::new(None),
        interrupted: AtomicBool::new(false),
    }
}

/// Says one thing of each kind and returns standard error.
fn talk(options: &[&str]) -> String {
    let (ui, streams) = captured(options);
    ui.error("e");
    ui.hint("h");
    ui.warn("w");
    ui.note("n");
    ui.detail("d");
    ui.trace("t");
    assert_eq!(streams.out(), "", "talk is not data");
    streams.err()
}

#[test]
fn how_much_is_said() {
    assert_eq!(talk(&["-q"]), "error: e\nhint: h\n");
    assert_eq!(talk(&[]), "error: e\nhint: h\nwarning: w\nn\n");
    assert_eq!(talk(&["-v"]), "error: e\nhint: h\nwarning: w\nn\nd\n");
    assert_eq!(talk(&["-vv"]), "error: e\nhint: h\nwarning: w\nn\nd\nt\n");
}

#[test]
fn labels_are_words_in_color() {
    let expected = "\x1b[1;31merror:\x1b[0m e\n\x1b[1;36mhint:\x1b[0m h\n\x1b[1;33mwarning:\x1b[0m w\nn\n";
    assert_eq!(talk(&["--color=always"]), expected);
}

#[test]
fn nothing_printed_can_drive_a_terminal() -> anyhow::Result<()> {
    let (ui, streams) = captured(&[]);
    ui.print("one\ntwo\x1b[2J")?;
    ui.warn("`a\nerror: forged`");
    let mut table = Table::new([("name", Align::Left)]);
    table.row(["\u{202e}x".to_owned()]);
    ui.table(&table)?;
    assert_eq!(streams.out(), "one\ntwo\\x1b[2J\nname\n\\u{202e}x\n");
    assert_eq!(streams.err(), "warning: `a\\nerror: forged`\n");
    Ok(())
}

#[test]
fn a_document_starts_with_its_schema() -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Body {
        name: &'static str,
    }
    let (ui, streams) = captured(&["--json"]);
    assert!(ui.json());
    ui.document(&Body { name: "\u{202e}x" })?;
    assert_eq!(streams.out(), "{\n  \"schema\": 1,\n  \"name\": \"\\u202ex\"\n}\n");
    Ok(())
}

#[test]
fn a_reader_that_goes_away_is_no_error_and_a_full_disk_is() {
    let print = |kind| {
        let ui = with_streams(&[], Box::new(Failing(kind)), Box::new(io::sink()));
        ui.print("text").map_err(|error| format!("{error:#}"))
    };
    assert_eq!(print(io::ErrorKind::BrokenPipe), Ok(()));
    assert_eq!(print(io::ErrorKind::StorageFull), Err("cannot write to standard output: no storage space".to_owned()));
}

#[test]
fn a_closed_standard_error_stops_no_work() {
    let ui = with_streams(&[], Box::new(io::sink()), Box::new(Failing(io::ErrorKind::BrokenPipe)));
    ui.error("nobody reads this");
}

#[test]
fn the_first_interrupt_is_noted() {
    let (ui, streams) = captured(&[]);
    assert!(!ui.interrupted().load(Ordering::Relaxed));
    ui.interrupt();
    assert!(ui.interrupted().load(Ordering::Relaxed));
    assert_eq!(streams.err(), "stopping at the next tensor; press Ctrl-C again to stop at once\n");
}
