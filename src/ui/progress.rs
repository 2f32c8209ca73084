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

/// Bytes done out of a total. Any thread may tell of bytes and names; what is shown ends when this is dropped.
pub(crate) struct Progress<'ui> {
    ui: &'ui Ui,
    total_bytes: u64,
    done_bytes: AtomicU64,
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
    pub(super) fn start(ui: &'ui Ui, total_bytes: u64, shown: Shown) -> Self {
        let started = Instant::now();
        let view = match shown {
            Shown::Nothing => View::Nothing,
            Shown::Bar => View::Bar(bar(total_bytes)),
            Shown::Lines => View::Lines(Mutex::new(Lines { name: String::new(), next: started + LINE_EVERY })),
        };
        if let View::Bar(bar) = &view {
            *ui.bar.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.clone());
        }
        Self { ui, total_bytes, done_bytes: AtomicU64::new(0), started, view }
    }

    /// Tells that so many more bytes are done.
    pub(crate) fn advance(&self, bytes: u64) {
        let done_bytes = self.done_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        match &self.view {
            View::Nothing => {}
            View::Bar(bar) => bar.inc(bytes),
            View::Lines(lines) => self.line_if_due(lines, done_bytes, Instant::now()),
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
    fn line_if_due(&self, lines: &Mutex<Lines>, done_bytes: u64, now: Instant) {
        let Ok(mut lines) = lines.try_lock() else { return };
        if now >= lines.next {
            lines.next = now + LINE_EVERY;
            self.ui.note(&line(done_bytes, self.total_bytes, now - self.started, &lines.name));
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
fn bar(total_bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("[{bar:10}] {percent:>3}%  {pace}  {wide_msg}")
        .expect("the template is well formed")
        .progress_chars("=> ")
        .with_key("pace", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let _ = out.write_str(&pace(state.pos(), state.len().unwrap_or(0), state.elapsed()));
        });
    let bar = ProgressBar::with_draw_target(Some(total_bytes), ProgressDrawTarget::stderr()).with_style(style);
    bar.enable_steady_tick(DRAW_EVERY);
    bar
}

/// `25%  1.25 GB of 5.00 GB, 125 MB/s, 30 s left  model.embed_tokens.weight`
fn line(done_bytes: u64, total_bytes: u64, elapsed: Duration, name: &str) -> String {
    let percent = u128::from(done_bytes) * 100 / u128::from(total_bytes.max(1));
    let text = format!("{percent}%  {}  {name}", pace(done_bytes, total_bytes, elapsed));
    text.trim_end().to_owned()
}

/// `1.25 GB of 5.00 GB, 125 MB/s, 30 s left`: the time left at the mean rate so far, once there is one.
fn pace(done_bytes: u64, total_bytes: u64, elapsed: Duration) -> String {
    let done = format!("{} of {}, {}", bytes(done_bytes), bytes(total_bytes), rate(done_bytes, elapsed));
    let left = elapsed.as_secs_f64() * total_bytes.saturating_sub(done_bytes) as f64 / done_bytes as f64;
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
            line(1_250_000_000, 5_000_000_000, Duration::from_secs(10), "embed"),
            "25%  1.25 GB of 5.00 GB, 125 MB/s, 30 s left  embed"
        );
        assert_eq!(line(0, 5_000, Duration::from_secs(10), ""), "0%  0 B of 5.00 kB, 0 B/s");
        assert_eq!(line(0, 0, Duration::ZERO, "a"), "0%  0 B of 0 B, - MB/s  a");
        assert_eq!(line(7, 5, Duration::from_secs(1), ""), "140%  7 B of 5 B, 7 B/s, 0 s left");
    }

    #[test]
    fn a_line_comes_every_ten_seconds() {
        let (ui, streams) = captured(&[]);
        let progress = Progress::start(&ui, 1000, Shown::Lines);
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
        assert_eq!(progress.done_bytes.load(Ordering::Relaxed), 4000);
        progress.finish();
        assert_eq!(streams.err(), "", "ten seconds have not passed");
    }
}
