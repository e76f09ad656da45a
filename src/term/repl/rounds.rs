//! Results of tool calls: typed, from a file, or from a command that the user approves.
//!
//! The model's words never run anything: a command comes from the user's keyboard or from the user's file
//! of tools, and of the call it gets only the arguments, as data on its stdin.

use std::sync::Arc;

use super::answer::MAX_INLINE;
use super::{Read, Repl, Sink, Turn};
use crate::chat::{ContentChunk, ToolCall, ToolMessage, Usage};
use crate::term::commands;
use crate::term::editor::Input;
use crate::term::files::{Content, MAX_IMAGES, read_either};
use crate::term::mentions;
use crate::term::tool_command::{self, MAX_OUTPUT};
use crate::term::units::bytes;
use crate::vision::Image;

/// One answer to the question for a result.
enum Typed {
    Result(Vec<ContentChunk>),
    /// It was no result; the reason has been told.
    Again,
    Cancelled,
}

impl<G> Repl<'_, G>
where
    G: FnMut(&Turn<'_>, &mut Sink<'_>) -> anyhow::Result<Usage>,
{
    /// Gets a result for every call; `None` if the user, or nobody, gives one.
    pub(super) fn results(
        &mut self,
        calls: &[ToolCall],
        read: &mut Read<'_>,
    ) -> anyhow::Result<Option<Vec<ToolMessage>>> {
        let tools = &self.conversation.tools;
        if tools.is_empty() {
            self.screen.note("the model calls a tool, but this chat has none; the call is dropped");
            return Ok(None);
        }
        if !self.screen.is_interactive {
            self.screen.note("results cannot be given in a pipe; the calls are dropped");
            return Ok(None);
        }
        let mut results = Vec::with_capacity(calls.len());
        for call in calls {
            let content = match self.result_of_command(call, read)? {
                Typed::Result(content) => content,
                Typed::Cancelled => return Ok(self.cancelled()),
                Typed::Again => match self.typed_result(call, read)? {
                    Some(content) => content,
                    None => return Ok(self.cancelled()),
                },
            };
            results.push(ToolMessage { content, tool_call_id: call.id.clone() });
        }
        Ok(Some(results))
    }

    fn cancelled<T>(&mut self) -> Option<T> {
        self.screen.note("the calls are cancelled");
        None
    }

    /// Runs the command of the tool's file, if there is one and the user lets it.
    fn result_of_command(&mut self, call: &ToolCall, read: &mut Read<'_>) -> anyhow::Result<Typed> {
        let tools = &self.conversation.tools;
        let Some(command) = tools.command(&call.name).map(str::to_owned) else {
            return Ok(Typed::Again);
        };
        if !tools.is_trusted(&call.name) {
            self.screen.note(&format!("{} would run: {command}", call.name));
            let approved = match read("run it? [y]es, [a]lways in this chat, [N]o: ")? {
                Input::Line(line) => line.trim().to_lowercase(),
                Input::Interrupt | Input::End => return Ok(Typed::Cancelled),
            };
            match approved.as_str() {
                "y" | "yes" => {}
                "a" | "always" => self.conversation.tools.trust(&call.name),
                _ => return Ok(Typed::Again),
            }
        }
        Ok(self.run_command(&command, call))
    }

    fn typed_result(
        &mut self,
        call: &ToolCall,
        read: &mut Read<'_>,
    ) -> anyhow::Result<Option<Vec<ContentChunk>>> {
        self.screen.note(&format!(
            "result of {}: a text, @FILE, or !COMMAND, which gets the arguments on stdin; \
             an empty line cancels",
            call.name
        ));
        loop {
            let line = match read("result> ")? {
                Input::Line(line) if line.trim().is_empty() => return Ok(None),
                Input::Line(line) => line,
                Input::Interrupt | Input::End => return Ok(None),
            };
            let typed = match line.trim_start().strip_prefix('!') {
                Some(command) => self.run_command(command.trim(), call),
                None if commands::parse(&line).is_some() => {
                    self.screen.note("commands wait: an empty line cancels the call first");
                    Typed::Again
                }
                None => self.read_result(&line),
            };
            match typed {
                Typed::Result(content) => return Ok(Some(content)),
                Typed::Cancelled => return Ok(None),
                Typed::Again => {}
            }
        }
    }

    fn run_command(&mut self, command: &str, call: &ToolCall) -> Typed {
        let output = match tool_command::run(command, &call.arguments, &self.interrupt) {
            Ok((output, is_cut)) => {
                let cut = if is_cut { ", cut off" } else { "" };
                self.screen.note(&format!("result: {}{cut}", bytes(output.len() as u64)));
                output
            }
            Err(error) => {
                self.screen.note(&format!("{error:#}"));
                return Typed::Again;
            }
        };
        debug_assert!(output.len() <= MAX_OUTPUT);
        match String::from_utf8(output) {
            Ok(text) => Typed::Result(vec![ContentChunk::Text(text)]),
            Err(error) => {
                let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
                match Image::decode(error.into_bytes()) {
                    Ok(image) if self.model.patches.is_some() => {
                        Typed::Result(vec![ContentChunk::Image(Arc::new(image))])
                    }
                    _ => Typed::Result(vec![ContentChunk::Text(text)]),
                }
            }
        }
    }

    /// A typed text and the files it names.
    fn read_result(&mut self, line: &str) -> Typed {
        let found = mentions::find(line);
        let mut content = Vec::new();
        if !found.text.is_empty() {
            content.push(ContentChunk::Text(found.text));
        }
        if found.paths.len() > MAX_IMAGES {
            self.screen.note(&format!("a result has at most {MAX_IMAGES} files"));
            return Typed::Again;
        }
        for path in &found.paths {
            match read_either(path, MAX_INLINE) {
                Ok(Content::Text(text)) => content.push(ContentChunk::Text(text)),
                Ok(Content::Image(image)) if self.model.patches.is_some() => {
                    self.screen.note(&image.label(self.model.patches.as_ref()));
                    content.push(ContentChunk::Image(image.image));
                }
                Ok(Content::Image(_)) => {
                    self.screen.note("this model cannot see; give a text");
                    return Typed::Again;
                }
                Err(error) => {
                    self.screen.note(&format!("{error:#}"));
                    return Typed::Again;
                }
            }
        }
        Typed::Result(content)
    }
}
