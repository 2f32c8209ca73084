//! Patterns over tensor names: `*` and `?` match any characters, `{a,b}` either. A pattern must match something.

use globset::{GlobBuilder, GlobMatcher};

use crate::error::PlanError;
use crate::store::Model;

/// A compiled pattern that remembers its text.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    matcher: GlobMatcher,
}

impl Pattern {
    /// Compiles a pattern; a plain name matches itself.
    ///
    /// # Errors
    /// `PlanError::Pattern` where braces or brackets do not close.
    pub fn new(text: &str) -> Result<Self, PlanError> {
        let glob = GlobBuilder::new(text).literal_separator(false).build();
        let glob =
            glob.map_err(|error| PlanError::Pattern { pattern: text.to_owned(), what: error.kind().to_string() })?;
        Ok(Self { text: text.to_owned(), matcher: glob.compile_matcher() })
    }

    /// The text it was made from.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it matches the whole name.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        name == self.text || self.matcher.is_match(name)
    }

    /// Requires that it matches a weight of the model.
    ///
    /// # Errors
    /// `PlanError::MatchesNothing`, with the names that share most with it.
    pub fn check(&self, model: &Model) -> Result<(), PlanError> {
        if model.weights().iter().any(|weight| self.matches(&weight.name)) {
            return Ok(());
        }
        let mut near: Vec<(usize, &str)> =
            model.weights().iter().map(|weight| (likeness(&self.text, &weight.name), weight.name.as_str())).collect();
        near.sort_by_key(|&(likeness, _)| std::cmp::Reverse(likeness));
        let near =
            near.into_iter().take(3).filter(|&(likeness, _)| likeness > 0).map(|(_, name)| name.to_owned()).collect();
        Err(PlanError::MatchesNothing { pattern: self.text.clone(), model: model.path().to_owned(), near })
    }
}

/// How many three-letter runs of the pattern occur in the name.
fn likeness(pattern: &str, name: &str) -> usize {
    let letters: Vec<char> = pattern.chars().collect();
    letters.windows(3).filter(|run| !run.contains(&'*') && name.contains(&run.iter().collect::<String>())).count()
}
