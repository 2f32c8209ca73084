//! How far a long run is: a bar over bytes on a terminal, else a line now and then.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::{Ui, bytes, duration, escape, rate};

/// Time between two lines when there is no bar.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Time between two drawings of the bar, so that the time left moves during a large tensor.
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// What is shown of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    Nothing,
    Bar,
    Lines,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Bytes,
    /// Tokens, each of which is counted so many times until it is done.
    Tokens {
        passes: u64,
    },
}

/// Bytes or tokens done out of a total. Any thread may tell of bytes and names; what is shown ends when this is dropped.
pub(crate) struct Progress<'ui> {
    ui: &'ui Ui,
    total: u64,
    done: AtomicU64,
    unit: Unit,
    started: Instant,
    view: View,
}

enum View {
    Nothing,
    Bar(ProgressBar),
    Lines(Mutex<Lines>),
}

struct Lines {
    name: String,
    next: Instant,
}

impl<'ui> Progress<'ui> {
    pub(super) fn start(ui: &'ui Ui, total: u64, unit: Unit, shown: Shown) -> Self {
        let started = Instant::now();
        let view = match shown {
            Shown::Nothing => View::Nothing,
            Shown::Bar => View::Bar(bar(total, unit)),
            Shown::Lines => View::Lines(Mutex::new(Lines { name: String::new(), next: started + LINE_EVERY })),
        };
        if let View::Bar(bar) = &view {
            *ui.bar.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.clone());
        }
        Self { ui, total, done: AtomicU64::new(0), unit, started, view }
    }

    /// Tells which tensor or block is at hand, and that so many more are done.
    pub(crate) fn step(&self, name: &str, count: u64) {
        self.name(name);
        self.advance(count);
    }

    /// Tells that so many more are done.
    pub(crate) fn advance(&self, count: u64) {
        let done = self.done.fetch_add(count, Ordering::Relaxed) + count;
        match &self.view {
            View::Nothing => {}
            View::Bar(bar) => bar.inc(count),
            View::Lines(lines) => self.line_if_due(lines, done, Instant::now()),
        }
    }

    /// Tells which tensor is at hand. With several threads, the last one that started.
    pub(crate) fn name(&self, name: &str) {
        match &self.view {
            View::Nothing => {}
            View::Bar(bar) => bar.set_message(escape(name).into_owned()),
            View::Lines(lines) => name.clone_into(&mut lines.lock().unwrap_or_else(PoisonError::into_inner).name),
        }
    }

    /// Ends what is shown; the same as dropping it.
    pub(crate) fn finish(self) {
        drop(self);
    }

    /// Says where the run is, when it is time to. A thread that finds another one at it goes on with its work.
    fn line_if_due(&self, lines: &Mutex<Lines>, done: u64, now: Instant) {
        let Ok(mut lines) = lines.try_lock() else { return };
        if now >= lines.next {
            lines.next = now + LINE_EVERY;
            self.ui.note(&line(self.unit, done, self.total, now - self.started, &lines.name));
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if let View::Bar(bar) = &self.view {
            bar.finish_and_clear();
            *self.ui.bar.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

/// A bar on standard error, without color so that `--color` needs no word with it.
fn bar(total: u64, unit: Unit) -> ProgressBar {
    let style = ProgressStyle::with_template("[{bar:10}] {percent:>3}%  {pace}  {wide_msg}")
        .expect("the template is well formed")
        .progress_chars("=> ")
        .with_key("pace", move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let _ = out.write_str(&pace(unit, state.pos(), state.len().unwrap_or(0), state.elapsed()));
        });
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr()).with_style(style);
    bar.enable_steady_tick(DRAW_EVERY);
    bar
}

/// `25%  1.25 GB of 5.00 GB, 125 MB/s, 30 s left  model.embed_tokens.weight`
fn line(unit: Unit, done: u64, total: u64, elapsed: Duration, name: &str) -> String {
    let percent = u128::from(done) * 100 / u128::from(total.max(1));
    let text = format!("{percent}%  {}  {name}", pace(unit, done, total, elapsed));
    text.trim_end().to_owned()
}

/// `1.25 GB of 5.00 GB, 125 MB/s, 30 s left`: the time left at the mean rate so far, once there is one.
fn pace(unit: Unit, done: u64, total: u64, elapsed: Duration) -> String {
    let left = elapsed.as_secs_f64() * total.saturating_sub(done) as f64 / done as f64;
    let done = match unit {
        Unit::Bytes => format!("{} of {}, {}", bytes(done), bytes(total), rate(done, elapsed)),
        Unit::Tokens { passes } => {
            let per_second = done as f64 / passes as f64 / elapsed.as_secs_f64();
            let per_second = if per_second.is_finite() { format!("{per_second:.0}") } else { "-".to_owned() };
            format!("{} of {} tokens, {per_second} tokens/s", done / passes, total / passes)
        }
    };
    match Duration::try_from_secs_f64(left.round()) {
        Ok(left) if left.as_secs() < 60 => format!("{done}, {} s left", left.as_secs()),
        Ok(left) => format!("{done}, {} left", duration(left)),
        Err(_) => done,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::captured;
    use super::*;

    #[test]
    fn a_line_says_how_far_how_fast_and_how_long() {
        assert_eq!(
            line(Unit::Bytes, 1_250_000_000, 5_000_000_000, Duration::from_secs(10), "embed"),
            "25%  1.25 GB of 5.00 GB, 125 MB/s, 30 s left  embed"
        );
        assert_eq!(line(Unit::Bytes, 0, 5_000, Duration::from_secs(10), ""), "0%  0 B of 5.00 kB, 0 B/s");
        assert_eq!(line(Unit::Bytes, 0, 0, Duration::ZERO, "a"), "0%  0 B of 0 B, - MB/s  a");
        let tokens = Unit::Tokens { passes: 30 };
        assert_eq!(
            line(tokens, 30_000, 120_000, Duration::from_secs(10), "layers.7"),
            "25%  1000 of 4000 tokens, 100 tokens/s, 30 s left  layers.7"
        );
        assert_eq!(line(Unit::Bytes, 7, 5, Duration::from_secs(1), ""), "140%  7 B of 5 B, 7 B/s, 0 s left");
    }

    #[test]
    fn a_line_comes_every_ten_seconds() {
        let (ui, streams) = captured(&[]);
        let progress = Progress::start(&ui, 1000, Unit::Bytes, Shown::Lines);
        let View::Lines(lines) = &progress.view else { panic!("lines were asked for") };
        progress.name("a\x1b[2J");
        for (second, done_bytes) in [(9, 90), (10, 100), (11, 110), (19, 190), (21, 210)] {
            progress.line_if_due(lines, done_bytes, progress.started + Duration::from_secs(second));
        }
        progress.finish();
        assert_eq!(
            streams.err(),
            "10%  100 B of 1.00 kB, 10 B/s, 1 min 30 s left  a\\x1b[2J\n\
             21%  210 B of 1.00 kB, 10 B/s, 1 min 19 s left  a\\x1b[2J\n"
        );
    }

    #[test]
    fn threads_add_up() {
        let (ui, streams) = captured(&[]);
        let progress = ui.progress(4000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..100).for_each(|_| progress.advance(10)));
            }
        });
        assert_eq!(progress.done.load(Ordering::Relaxed), 4000);
        progress.finish();
        assert_eq!(streams.err(), "", "ten seconds have not passed");
    }
}
