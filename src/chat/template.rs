//! Chat formats that a file brings along: Jinja templates, rendered as transformers renders them.
//!
//! Only models that we have no encoder for need this. A template's own text may name control
//! tokens, and what was said may not: `marks` keeps them apart from the source to the ids. A
//! template is a program of a stranger, so it runs on a thread and a budget of its own, and all
//! that can go wrong in it is an error.

mod context;
mod environment;
mod ledger;
mod marks;
mod program;
#[cfg(test)]
mod tests;
mod tojson;

use std::sync::Arc;

use chrono::NaiveDateTime;
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Error, machinery};
use thiserror::Error;

use self::context::Shapes;
use self::ledger::Ledger;
use self::marks::Marks;
use super::{ChatRequest, ContentChunk};
use crate::contain;
use crate::engine::{ImageSpan, Prompt};
use crate::tokenizer::Tokenizer;
use crate::vision::{Grid, Image, PatchConfig};

/// Longest template.
pub const MAX_TEMPLATE_BYTES: usize = 1 << 20;
/// Longest `{{ … }}` or `{% … %}`: operators in a chain nest in the compiler.
const MAX_TAG_BYTES: usize = 16 << 10;
/// Stack of the thread that compiles and renders.
const STACK_BYTES: usize = 32 << 20;
/// Bytes that any template may make, and as many for each byte of the conversation.
const BASE_BYTES: u64 = 24 << 20;
const BYTES_PER_BYTE: u64 = 24;
/// Bytes and elements that any template may look at, and as many for each byte of the conversation.
const BASE_WORK: u64 = 32 << 20;
const WORK_PER_BYTE: u64 = 256;

/// What is wrong with a template, or with rendering it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TemplateError {
    /// Nothing but white space.
    #[error("the chat template is empty")]
    Empty,
    /// Too long to be a template.
    #[error("the chat template has {n_bytes} bytes; at most {MAX_TEMPLATE_BYTES}")]
    TooLong {
        /// Bytes found.
        n_bytes: usize,
    },
    /// Too complex to be compiled.
    #[error("chat template, line {line}: {problem}")]
    TooComplex {
        /// Counted from 1.
        line: usize,
        /// What is too complex.
        problem: &'static str,
    },
    /// Not Jinja, or not what chat templates may use.
    #[error("chat template{}: {problem}", at_line(.line))]
    Syntax {
        /// Counted from 1.
        line: Option<usize>,
        /// What is wrong there.
        problem: String,
    },
    /// The template refuses the conversation.
    #[error("the chat template refuses the conversation: {0}")]
    Raised(String),
    /// It fails while it runs, or goes beyond its limits.
    #[error("chat template{}: {problem}", at_line(.line))]
    Render {
        /// Counted from 1.
        line: Option<usize>,
        /// What is wrong there.
        problem: String,
    },
    /// Pictures and places for them.
    #[error("the chat template shows {shown} of the conversation's {sent} pictures")]
    Images {
        /// Places in the output.
        shown: usize,
        /// Pictures in the request.
        sent: usize,
    },
    /// The vocabulary has no tokens for pictures.
    #[error("the tokenizer has no control token {name}, so the model cannot be shown pictures")]
    NoImageToken {
        /// The token's name.
        name: &'static str,
    },
    /// The text uses every character that could stand for a control token.
    #[error("the conversation contains all characters for private use; take some of them out")]
    NoMarks,
}

fn at_line(line: &Option<usize>) -> String {
    line.map(|line| format!(", line {line}")).unwrap_or_default()
}

impl TemplateError {
    fn render(error: &Error) -> Self {
        let mut source: Option<&dyn std::error::Error> = Some(error);
        while let Some(inner) = source {
            if inner.is::<environment::Raised>() {
                return TemplateError::Raised(error.detail().unwrap_or("no reason").to_owned());
            }
            source = inner.source();
        }
        TemplateError::Render { line: error.line(), problem: problem(error) }
    }
}

fn problem(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

/// A chat template that was found to be one.
#[derive(Debug, Clone)]
pub struct Template {
    source: Arc<str>,
    shapes: Shapes,
}

impl Template {
    /// Compiles a template and finds out in which shapes it wants messages.
    pub fn parse(source: &str) -> Result<Self, TemplateError> {
        check_source(source)?;
        let unmarked = Marks::default().mark_source(source);
        on_own_stack(|| {
            program::compile(&unmarked, syntax()).map(|_| ()).map_err(|error| {
                TemplateError::Syntax { line: error.line(), problem: problem(&error) }
            })
        })?;
        let shapes = Shapes::of(source)
            .with_arguments(|probe| run(&unmarked, probe, 0, 2, NaiveDateTime::default()).ok());
        Ok(Template { source: source.into(), shapes })
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders a conversation to token ids, up to the place where the model goes on.
    pub fn encode(
        &self,
        request: &ChatRequest,
        tokenizer: &Tokenizer,
        patches: &PatchConfig,
        now: NaiveDateTime,
    ) -> Result<Prompt, TemplateError> {
        let (text, marks) = self.render_marked(request, tokenizer, now)?;
        let mut writer = Writer { tokenizer, prompt: Prompt::default(), text: String::new() };
        let images: Vec<&Arc<Image>> = images(request).collect();
        let mut shown = 0;
        let image_token = tokenizer.control_token("[IMG]");
        for c in text.chars() {
            match marks.id(c) {
                None => writer.text.push(c),
                Some(id) if Some(id) == image_token => {
                    if let Some(image) = images.get(shown) {
                        writer.image(image, patches.grid(image.width(), image.height()))?;
                    }
                    shown += 1;
                }
                Some(id) => writer.control(id),
            }
        }
        writer.flush();
        if shown != images.len() {
            return Err(TemplateError::Images { shown, sent: images.len() });
        }
        // Every model of ours was trained with it; templates that leave it out rely on the
        // tokenizer to add it.
        if writer.prompt.tokens.first() != Some(&tokenizer.bos()) {
            writer.prompt.tokens.insert(0, tokenizer.bos());
            writer.prompt.images.iter_mut().for_each(|span| span.start += 1);
        }
        Ok(writer.prompt)
    }

    /// Renders a conversation to text, with control tokens by name: to compare templates with.
    pub fn render(
        &self,
        request: &ChatRequest,
        tokenizer: &Tokenizer,
        now: NaiveDateTime,
    ) -> Result<String, TemplateError> {
        let (text, marks) = self.render_marked(request, tokenizer, now)?;
        Ok(marks.named(&text))
    }

    fn render_marked(
        &self,
        request: &ChatRequest,
        tokenizer: &Tokenizer,
        now: NaiveDateTime,
    ) -> Result<(String, Marks), TemplateError> {
        let said = context::said(request);
        let marks = Marks::new(&self.source, &said, tokenizer).ok_or(TemplateError::NoMarks)?;
        let source = marks.mark_source(&self.source);
        let n_bytes = said.iter().map(|text| text.len() as u64).sum();
        let n_items = request.messages.len() + request.tools.len();
        let context = context::context(request, self.shapes, &marks, tokenizer);
        let text = run(&source, context, n_bytes, n_items, now)?;
        Ok((text, marks))
    }
}

fn images(request: &ChatRequest) -> impl Iterator<Item = &Arc<Image>> {
    request.messages.iter().flat_map(|message| message.content()).filter_map(|chunk| match chunk {
        ContentChunk::Image(image) => Some(image),
        _ => None,
    })
}

fn syntax() -> SyntaxConfig {
    SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .expect("the delimiters are the default ones")
}

/// Refuses what would nest too deep for the compiler, which recurses.
fn check_source(source: &str) -> Result<(), TemplateError> {
    if source.trim().is_empty() {
        return Err(TemplateError::Empty);
    }
    if source.len() > MAX_TEMPLATE_BYTES {
        return Err(TemplateError::TooLong { n_bytes: source.len() });
    }
    match marks::tags(source).find(|(_, tag)| tag.len() > MAX_TAG_BYTES) {
        Some((at, tag)) if !tag.starts_with("{#") => Err(TemplateError::TooComplex {
            line: source[..at].matches('\n').count() + 1,
            problem: "a tag longer than 16 KiB",
        }),
        _ => Ok(()),
    }
}

fn run(
    source: &str,
    context: minijinja::Value,
    n_bytes: u64,
    n_items: usize,
    now: NaiveDateTime,
) -> Result<String, TemplateError> {
    let ledger = Arc::new(Ledger::new(
        BASE_BYTES + BYTES_PER_BYTE * n_bytes,
        BASE_WORK + WORK_PER_BYTE * n_bytes,
    ));
    on_own_stack(|| {
        let env = environment::environment(&ledger, n_items, now);
        let program =
            program::compile(source, syntax()).map_err(|error| TemplateError::render(&error))?;
        let mut text = String::new();
        let mut out = machinery::make_string_output(&mut text);
        let blocks = program::NO_BLOCKS;
        let found = machinery::eval(&env, &program, context, &blocks, &mut out, AutoEscape::None);
        let found = found.map(|_| ());
        drop(out);
        found.map_err(|error| TemplateError::render(&error)).map(|()| text)
    })
}

/// Runs something that recurses as deep as a stranger's template makes it.
fn on_own_stack<T: Send>(
    work: impl FnOnce() -> Result<T, TemplateError> + Send,
) -> Result<T, TemplateError> {
    let failed = |problem: String| TemplateError::Render { line: None, problem };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
        match thread.spawn_scoped(scope, || contain::panics(work)) {
            Ok(thread) => {
                let done = thread.join().expect("its panics are contained");
                done.unwrap_or_else(|| Err(failed("the template engine gave up".to_owned())))
            }
            Err(error) => Err(failed(format!("cannot start a thread to render on: {error}"))),
        }
    })
}

/// Output as it becomes ids. Text between two control tokens is one text.
struct Writer<'a> {
    tokenizer: &'a Tokenizer,
    prompt: Prompt,
    text: String,
}

impl Writer<'_> {
    fn flush(&mut self) {
        self.tokenizer.encode_into(&self.text, &mut self.prompt.tokens);
        self.text.clear();
    }

    fn control(&mut self, id: crate::tokenizer::TokenId) {
        self.flush();
        self.prompt.tokens.push(id);
    }

    fn image(&mut self, image: &Arc<Image>, grid: Grid) -> Result<(), TemplateError> {
        self.flush();
        let token =
            |name| self.tokenizer.control_token(name).ok_or(TemplateError::NoImageToken { name });
        let [image_token, row_end, image_end] =
            [token("[IMG]")?, token("[IMG_BREAK]")?, token("[IMG_END]")?];
        let start = self.prompt.tokens.len();
        for row in 0..grid.rows {
            self.prompt.tokens.extend((0..grid.cols).map(|_| image_token));
            let is_last = row + 1 == grid.rows;
            self.prompt.tokens.push(if is_last { image_end } else { row_end });
        }
        self.prompt.images.push(ImageSpan { start, grid, image: Arc::clone(image) });
        Ok(())
    }
}
