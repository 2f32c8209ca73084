//! Conversations through a model's own chat template, as transformers renders them.
//!
//! A template is a program from a stranger: it gets fuel for so much work and so many bytes, no files, no clock and no network.

mod date;
mod json;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value, ValueKind};
use minijinja::{AutoEscape, Environment, ErrorKind, State, escape_formatter};
use reweight_quant::error::FileError;
use reweight_quant::memory;
use reweight_quant::store::Model;
use serde_json::{Map, Value as Json};

use crate::text::{self, TextError};

pub use date::Date;

/// Work that every conversation may cost: an instruction takes one, and so do 64 bytes.
const FUEL: u64 = 1_000_000;
/// What a byte of the conversation adds.
const FUEL_PER_BYTE: u64 = 4;
/// Bytes of a template.
const TEMPLATE_BYTES: usize = 1 << 20;
/// Stack for rendering: values that a template nests are dropped level by level, and fuel allows some hundred thousand.
const STACK_BYTES: usize = 256 << 20;
/// Seconds that a conversation may take. Fuel ends nearly all within one.
const SECONDS: u64 = 60;
/// Memory that a conversation may take.
const GROWTH_BYTES: usize = 1 << 30;
const TOO_MUCH: &str = "takes too much work or memory on this conversation";
/// Characters of what a template says that are passed on.
const SAID: usize = 300;
/// Names that a message's reasoning goes by; templates read the first.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
/// Special tokens that templates may write.
const SPECIAL: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Why a conversation cannot be rendered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// The model has no template.
    #[error("`{}` has no chat template", path.display())]
    NoTemplate {
        /// The model.
        path: PathBuf,
    },
    /// A tokenizer of a GGUF file that has no counterpart.
    #[error(transparent)]
    File(#[from] FileError),
    /// A template that cannot be read.
    #[error("`{}`, {file}: {what}", path.display())]
    Template {
        /// The model.
        path: PathBuf,
        /// The file with the template.
        file: &'static str,
        /// What is wrong, with expected and found.
        what: String,
    },
    /// A template that refuses a conversation, or fails on it.
    #[error("the chat template of `{}` {what}", path.display())]
    Render {
        /// The model.
        path: PathBuf,
        /// What it says.
        what: String,
        /// Whether it asks for the date, and none was given.
        wants_date: bool,
    },
}

impl ChatError {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoTemplate { .. } => {
                Some("put its chat_template.jinja into the folder, or calibrate on text without `--chat`".into())
            }
            Self::Render { wants_date: true, .. } => Some("say which day it is with `--chat-date YYYY-MM-DD`".into()),
            _ => None,
        }
    }
}

/// Messages, and the tools that the assistant may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversation {
    messages: Vec<Json>,
    tools: Option<Json>,
}

impl Conversation {
    /// A list of objects, and a list of tools or null.
    ///
    /// # Errors
    /// What was expected and found.
    pub fn new(messages: &Json, tools: Option<&Json>) -> Result<Self, String> {
        let Some(list) = messages.as_array().filter(|list| !list.is_empty() && list.iter().all(Json::is_object)) else {
            return Err(format!(
                "expected a list of messages, objects with a role and a content, found {}",
                kind(messages)
            ));
        };
        let tools = tools.filter(|tools| !tools.is_null());
        if let Some(tools) = tools.filter(|tools| !tools.is_array()) {
            return Err(format!("expected a list of tools, found {}", kind(tools)));
        }
        Ok(Self { messages: list.iter().map(normalized).collect(), tools: tools.cloned() })
    }
}

fn kind(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "a truth value",
        Json::Number(_) => "a number",
        Json::String(_) => "a string",
        Json::Array(list) if list.is_empty() => "an empty list",
        Json::Array(_) => "a list of something else",
        Json::Object(_) => "an object",
    }
}

/// A message as transformers hands it to templates: what is null is left out, and reasoning under any of its names is
/// given under those that templates read.
fn normalized(message: &Json) -> Json {
    let Json::Object(fields) = message else { return message.clone() };
    let mut fields = fields.clone();
    fields.retain(|_, value| !value.is_null());
    let Some(reasoning) = REASONING.iter().find_map(|name| fields.get(*name).cloned()) else {
        return Json::Object(fields);
    };
    let mut all = Map::new();
    all.insert("thinking".to_owned(), reasoning.clone());
    all.extend(fields);
    all.insert("reasoning_content".to_owned(), reasoning);
    Json::Object(all)
}

/// A model's template, compiled.
pub struct ChatTemplate(Arc<Compiled>);

struct Compiled {
    environment: Environment<'static>,
    special: BTreeMap<&'static str, String>,
    has_tool_use: bool,
    has_date: bool,
    path: PathBuf,
}

const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

impl ChatTemplate {
    /// Reads the model's template: `chat_template.jinja`, else `chat_template` of `tokenizer_config.json`, a text or a list of named
    /// ones. `date` is the day that templates are told; without one they cannot ask.
    ///
    /// # Errors
    /// `ChatError` where there is none, or it cannot be read.
    pub fn of(model: &Model, date: Option<Date>) -> Result<Self, ChatError> {
        let path = model.path().to_owned();
        let config = |file| json_file(model, file);
        let (tokenizer, map) = (config("tokenizer_config.json")?, config("special_tokens_map.json")?);
        let (file, templates) = templates(model, &tokenizer)?;
        let mut special = BTreeMap::new();
        for name in SPECIAL {
            let of = |json: &Json| token(json.get(name)?);
            if let Some(text) = of(&tokenizer).or_else(|| of(&map)) {
                special.insert(name, text);
            }
        }
        let mut environment = environment(date);
        let wrong = |what: String| ChatError::Template { path: path.clone(), file, what };
        for (name, text) in &templates {
            if text.len() > TEMPLATE_BYTES {
                return Err(wrong(format!(
                    "expected a template of at most {TEMPLATE_BYTES} bytes, found {}",
                    text.len()
                )));
            }
            let added = environment.add_template_owned(name.clone(), without_generation(text));
            added.map_err(|error| wrong(format!("the template cannot be read: {}", message(&error))))?;
        }
        let has_tool_use = templates.contains_key(TOOL_USE);
        Ok(Self(Arc::new(Compiled { environment, special, has_tool_use, has_date: date.is_some(), path })))
    }

    /// The conversations as texts, without a prompt to go on, or the first error with the index of its conversation.
    ///
    /// Cost: bounded for each by a million instructions or 64 MB, and as much again for each quarter of a megabyte of it. What
    /// a single instruction makes is paid for afterwards; a watch ends a conversation that takes a minute or a
    /// gigabyte all the same (memory where the system tells it). The thread that it runs on is then left behind until
    /// the process ends.
    ///
    /// # Errors
    /// `ChatError::Render`.
    ///
    /// # Panics
    /// Where the system has no thread to give.
    pub fn render(&self, conversations: &[Conversation]) -> Result<Vec<String>, (usize, ChatError)> {
        let (sender, results) = mpsc::sync_channel(0);
        let (compiled, own) = (Arc::clone(&self.0), conversations.to_vec());
        let work = move || {
            for conversation in own {
                let result = compiled.render_one(&conversation);
                if sender.send(result).is_err() {
                    return;
                }
            }
        };
        let builder = thread::Builder::new().name("chat".to_owned()).stack_size(STACK_BYTES);
        builder.spawn(work).expect("the system has a thread to give");
        let next = |index| match watched(&results) {
            Some(result) => result.map_err(|error| (index, error)),
            None => Err((index, self.0.error(TOO_MUCH.to_owned(), false))),
        };
        (0..conversations.len()).map(next).collect()
    }
}

/// The next result, unless it takes too long or too much memory.
fn watched(results: &Receiver<Result<String, ChatError>>) -> Option<Result<String, ChatError>> {
    let (started, before) = (Instant::now(), memory::anonymous_bytes());
    loop {
        match results.recv_timeout(Duration::from_millis(5)) {
            Ok(result) => return Some(result),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return None,
        }
        if started.elapsed() > Duration::from_secs(SECONDS) || memory::anonymous_bytes() > before + GROWTH_BYTES {
            return None;
        }
    }
}

impl Compiled {
    fn error(&self, what: String, wants_date: bool) -> ChatError {
        ChatError::Render { path: self.path.clone(), what, wants_date }
    }

    fn render_one(&self, conversation: &Conversation) -> Result<String, ChatError> {
        let name = if conversation.tools.is_some() && self.has_tool_use { TOOL_USE } else { DEFAULT };
        let bytes = conversation.messages.iter().chain(&conversation.tools).map(|json| json.to_string().len() as u64);
        let mut context: BTreeMap<&str, Value> =
            self.special.iter().map(|(name, text)| (*name, Value::from(text.as_str()))).collect();
        context.insert("messages", Value::from(Serde(&conversation.messages)));
        context.insert("tools", Value::from(Serde(&conversation.tools)));
        context.insert("documents", Value::from(()));
        context.insert("add_generation_prompt", Value::from(false));
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(FUEL + FUEL_PER_BYTE * bytes.sum::<u64>()));
        let rendered = environment.get_template(name).and_then(|template| template.render(context));
        rendered.map_err(|error| {
            let what = match error.kind() {
                ErrorKind::OutOfFuel => TOO_MUCH.to_owned(),
                _ => format!("refuses the conversation: {}", message(&error)),
            };
            let wants_date =
                !self.has_date && error.kind() == ErrorKind::UnknownFunction && what.contains("strftime_now");
            self.error(what, wants_date)
        })
    }
}

/// What an error says, and where: the text that a template raises alone.
fn message(error: &minijinja::Error) -> String {
    let said = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    let what: String = said.chars().take(SAID).collect();
    match error.line() {
        Some(line) => format!("{what} (line {line} of the template)"),
        None => what,
    }
}

fn environment(date: Option<Date>) -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the usual delimiters differ from one another"));
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(methods);
    environment.set_formatter(|out, state, value| {
        if value.kind() == ValueKind::Number && !value.is_integer() {
            return out.write_str(&json::number(value)).map_err(|_| ErrorKind::WriteFailure.into());
        }
        escape_formatter(out, state, value)
    });
    environment.add_filter("tojson", json::to_json);
    environment.add_filter("join", join);
    environment.add_function("raise_exception", |what: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, what))
    });
    if let Some(date) = date {
        environment.add_function("strftime_now", move |format: &str| date.format(format));
    }
    environment
}

/// Methods of Python's strings, lists and maps. `str.format` is left out, because what it makes cannot be bounded beforehand.
fn methods(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, minijinja::Error> {
    match (value.as_str(), method) {
        (Some(_), "format") => Err(minijinja::Error::from(ErrorKind::UnknownMethod)),
        (Some(_), "join") => {
            for item in arguments.first().into_iter().filter_map(|items| items.try_iter().ok()).flatten() {
                state.consume_fuel(1 + item.as_str().map_or(0, str::len) as u64 / 64)?;
            }
            minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments)
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments),
    }
}

/// The filter of that name, paid for before what it makes is there.
#[expect(clippy::needless_pass_by_value, reason = "the engine calls filters so")]
fn join(
    state: &State<'_, '_>,
    values: &Value,
    joiner: Option<&str>,
    attribute: Kwargs,
) -> Result<String, minijinja::Error> {
    let attribute = attribute.get::<Option<String>>("attribute")?;
    let mut out = String::new();
    for (index, item) in values.try_iter()?.enumerate() {
        let item = match &attribute {
            Some(path) => path.split('.').try_fold(item, |item, name| item.get_attr(name))?,
            None => item,
        };
        let joiner = joiner.filter(|_| index > 0).unwrap_or_default();
        state.consume_fuel(1 + (joiner.len() + item.as_str().map_or(0, str::len)) as u64 / 64)?;
        out.push_str(joiner);
        write!(out, "{item}").expect("a string takes everything");
    }
    Ok(out)
}

/// A JSON file of the model, null where it is not there.
fn json_file(model: &Model, file: &'static str) -> Result<Json, ChatError> {
    let Some(found) = model.side_files()?.iter().find(|side| side.name == file) else { return Ok(Json::Null) };
    serde_json::from_slice(&found.bytes).map_err(|error| ChatError::Template {
        path: model.path().to_owned(),
        file,
        what: error.to_string(),
    })
}

/// A special token: a text, or an object with it.
fn token(json: &Json) -> Option<String> {
    json.as_str().or_else(|| json.get("content")?.as_str()).map(str::to_owned)
}

type Templates = BTreeMap<String, String>;

/// The templates by name, and the file that they are in.
fn templates(model: &Model, tokenizer: &Json) -> Result<(&'static str, Templates), ChatError> {
    const FILE: &str = "chat_template.jinja";
    let path = || model.path().to_owned();
    let (file, wrong) = if let Some(found) = model.side_files()?.iter().find(|side| side.name == FILE) {
        match std::str::from_utf8(&found.bytes) {
            Ok(text) => return Ok((FILE, BTreeMap::from([(DEFAULT.to_owned(), text.to_owned())]))),
            Err(error) => (FILE, error.to_string()),
        }
    } else {
        let file = "tokenizer_config.json";
        match tokenizer.get("chat_template") {
            None | Some(Json::Null) => return Err(ChatError::NoTemplate { path: path() }),
            Some(Json::String(text)) => return Ok((file, BTreeMap::from([(DEFAULT.to_owned(), text.clone())]))),
            Some(Json::Array(list)) => match named(list) {
                Some(templates) if templates.contains_key(DEFAULT) => return Ok((file, templates)),
                Some(templates) => {
                    let names: Vec<&str> = templates.keys().map(String::as_str).collect();
                    (file, format!("expected a template named {DEFAULT:?}, found {names:?}"))
                }
                None => (file, "expected a list of objects with a name and a template".to_owned()),
            },
            Some(other) => (file, format!("expected a template or a list of them, found {}", kind(other))),
        }
    };
    Err(ChatError::Template { path: path(), file, what: wrong })
}

fn named(list: &[Json]) -> Option<Templates> {
    let text = |json: &Json, key: &str| Some(json.get(key)?.as_str()?.to_owned());
    list.iter().map(|json| Some((text(json, "name")?, text(json, "template")?))).collect()
}

/// `{% generation %}` marks what the assistant says, for training. Nothing is written for it, but it is a scope of its own,
/// which `{% with %}` is too.
fn without_generation(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        let end = tag.find("%}").unwrap_or(tag.len());
        let (inner, after) = tag.split_at(end);
        match inner.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+') {
            "generation" => out.push_str(&inner.replace("generation", "with")),
            "endgeneration" => out.push_str(&inner.replace("endgeneration", "endwith")),
            _ => out.push_str(inner),
        }
        rest = after;
    }
    out + rest
}

/// The conversations of a JSON Lines file (`.jsonl`): every line's `field`, and its `tools` where it has them. With each, its line.
///
/// # Errors
/// `TextError` where the file is another, cannot be read as UTF-8, or a line holds no conversation.
pub fn conversations(path: &Path, field: &str) -> Result<Vec<(usize, Conversation)>, TextError> {
    if !text::is_json_lines(path) {
        return Err(TextError::NoConversations { path: path.to_owned() });
    }
    text::json_lines(path, &text::read(path)?, |value| {
        let messages = value.get(field).ok_or_else(|| format!("expected a field {field:?}, found none"))?;
        Conversation::new(messages, value.get("tools")).map_err(|what| format!("field {field:?}: {what}"))
    })
}

#[cfg(test)]
mod tests;
