//! Slash commands: the one table from which parsing, help and completion come.
//!
//! Parsing only says what was asked for; the REPL does it.

use std::path::PathBuf;

use super::files::typed_path;
use crate::chat::ReasoningEffort;

/// What a slash command asks for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Command {
    /// Show the commands.
    Help,
    /// Show the system prompt.
    ShowSystem,
    /// Set the system prompt; `None` removes it.
    SetSystem(Option<String>),
    /// Show the reasoning effort.
    ShowThink,
    /// Set the reasoning effort.
    SetThink(ReasoningEffort),
    /// Show reasoning on the screen, or hide it.
    ShowReasoning(bool),
    /// Show the reasoning budget.
    ShowBudget,
    /// Set the reasoning budget; `None` removes it.
    SetBudget(Option<u32>),
    /// Show the pictures that wait for the next message.
    ShowImages,
    /// Attach a picture to the next message.
    AddImage(PathBuf),
    /// Drop the pictures that wait.
    ClearImages,
    /// Show the tools.
    ShowTools,
    /// Read tools from a file; `None` removes them.
    SetTools(Option<PathBuf>),
    /// Show what answers must look like.
    ShowFormat,
    /// Set what answers must look like.
    SetFormat(Format),
    /// Show the temperature.
    ShowTemperature,
    /// Set the temperature; `None` goes back to the default.
    SetTemperature(Option<f32>),
    /// Take back the last question and answer.
    Undo,
    /// Drop the oldest question and answer.
    Drop,
    /// Answer the last question again.
    Retry,
    /// Begin anew.
    Reset,
    /// Write the conversation to a file.
    Save(PathBuf),
    /// Read a conversation from a file.
    Load(PathBuf),
    /// Show sizes and speeds.
    Stats,
    /// Leave.
    Quit,
}

/// What answers are to look like, as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Format {
    /// Anything.
    Text,
    /// A JSON object.
    Json,
    /// JSON that obeys the schema in this file.
    Schema(PathBuf),
}

/// A row of the table.
pub(super) struct Info {
    pub(super) name: &'static str,
    usage: &'static str,
    help: &'static str,
    pub(super) argument: Argument,
}

/// What completion offers after the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Argument {
    None,
    Text,
    OneOf(&'static [&'static str]),
    /// A file, or one of these words.
    File(&'static [&'static str]),
}

/// Every command.
pub(super) const COMMANDS: &[Info] = &[
    info("/help", "", "show this list", Argument::None),
    info("/system", "[TEXT|-]", "show, set or (-) remove the system prompt", Argument::Text),
    info(
        "/image",
        "[FILE|clear]",
        "attach a picture to the next message",
        Argument::File(&["clear"]),
    ),
    info(
        "/tools",
        "[FILE|off]",
        "let the model call the tools of a JSON file",
        Argument::File(&["off"]),
    ),
    info(
        "/schema",
        "[FILE|json|off]",
        "hold answers to a JSON schema, or to any JSON object",
        Argument::File(&["json", "off"]),
    ),
    info(
        "/think",
        "[high|none|show|hide]",
        "set the reasoning effort; show or hide reasoning",
        Argument::OneOf(&["high", "none", "show", "hide"]),
    ),
    info("/budget", "[N|off]", "end reasoning after N tokens", Argument::OneOf(&["off"])),
    info(
        "/temp",
        "[T|default]",
        "show or set the temperature; 0 is greedy",
        Argument::OneOf(&["default"]),
    ),
    info("/undo", "", "take back the last question and its answer", Argument::None),
    info("/drop", "", "drop the oldest question and its answer, to make room", Argument::None),
    info("/retry", "", "answer the last question again", Argument::None),
    info("/reset", "", "forget the conversation, keep the settings", Argument::None),
    info("/save", "FILE", "write the conversation as JSON", Argument::File(&[])),
    info("/load", "FILE", "read a conversation from JSON", Argument::File(&[])),
    info("/stats", "", "show context, memory of the talk and speeds", Argument::None),
    info("/quit", "", "leave (also Ctrl-D)", Argument::None),
];

const fn info(
    name: &'static str,
    usage: &'static str,
    help: &'static str,
    argument: Argument,
) -> Info {
    Info { name, usage, help, argument }
}

/// The list that `/help` shows.
pub(super) fn help() -> String {
    let mut out = String::new();
    for info in COMMANDS {
        let usage = format!("{} {}", info.name, info.usage);
        out.push_str(&format!("  {usage:<30}{}\n", info.help));
    }
    out.push_str(concat!(
        "  A picture's path, pasted or dropped, attaches it; @FILE puts a text or a picture in.\n",
        "  Several lines: Alt-Enter, a backslash before Enter, or \"\"\" around them.\n",
        "  Ctrl-C stops an answer and keeps what was said; at the prompt it clears the line.\n"
    ));
    out
}

/// Reads a line as a command. `None`: it is no command's name, `Err`: the argument is wrong.
pub(super) fn parse(line: &str) -> Option<Result<Command, String>> {
    let line = line.trim();
    let (typed, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let typed = typed.to_lowercase();
    let name = match typed.as_str() {
        "/exit" | "/q" => "/quit",
        "/?" => "/help",
        name => COMMANDS.iter().find(|info| info.name == name)?.name,
    };
    Some(parse_argument(name, argument.trim()))
}

fn parse_argument(name: &str, argument: &str) -> Result<Command, String> {
    let command = match name {
        "/system" => return Ok(system(argument)),
        "/think" => return think(argument),
        "/budget" => return budget(argument),
        "/image" => return Ok(image(argument)),
        "/tools" => return Ok(tools(argument)),
        "/schema" => return Ok(format(argument)),
        "/temp" => return temperature(argument),
        "/save" | "/load" if argument.is_empty() => {
            return Err(format!("{name} needs a file name"));
        }
        "/save" => return Ok(Command::Save(typed_path(argument))),
        "/load" => return Ok(Command::Load(typed_path(argument))),
        "/help" => Command::Help,
        "/undo" => Command::Undo,
        "/drop" => Command::Drop,
        "/retry" => Command::Retry,
        "/reset" => Command::Reset,
        "/stats" => Command::Stats,
        _ => Command::Quit,
    };
    match argument.is_empty() {
        true => Ok(command),
        false => Err(format!("{name} takes no argument, found {argument:?}")),
    }
}

fn system(argument: &str) -> Command {
    match argument {
        "" => Command::ShowSystem,
        "-" => Command::SetSystem(None),
        text => Command::SetSystem(Some(text.to_owned())),
    }
}

fn image(argument: &str) -> Command {
    match argument {
        "" => Command::ShowImages,
        "clear" => Command::ClearImages,
        path => Command::AddImage(typed_path(path)),
    }
}

fn tools(argument: &str) -> Command {
    match argument {
        "" => Command::ShowTools,
        "off" => Command::SetTools(None),
        path => Command::SetTools(Some(typed_path(path))),
    }
}

fn format(argument: &str) -> Command {
    match argument {
        "" => Command::ShowFormat,
        "off" => Command::SetFormat(Format::Text),
        "json" => Command::SetFormat(Format::Json),
        path => Command::SetFormat(Format::Schema(typed_path(path))),
    }
}

fn budget(argument: &str) -> Result<Command, String> {
    match argument {
        "" => return Ok(Command::ShowBudget),
        "off" => return Ok(Command::SetBudget(None)),
        _ => {}
    }
    match argument.parse() {
        Ok(n_tokens) => Ok(Command::SetBudget(Some(n_tokens))),
        Err(_) => Err(format!("/budget takes a number of tokens, or off; found {argument:?}")),
    }
}

fn think(argument: &str) -> Result<Command, String> {
    let name = match argument.to_lowercase().as_str() {
        "" => return Ok(Command::ShowThink),
        "show" => return Ok(Command::ShowReasoning(true)),
        "hide" => return Ok(Command::ShowReasoning(false)),
        "on" => "high".to_owned(),
        "off" => "none".to_owned(),
        name => name.to_owned(),
    };
    match ReasoningEffort::from_name(&name) {
        Some(effort) => Ok(Command::SetThink(effort)),
        None => Err(format!("/think takes high, none, show or hide; found {argument:?}")),
    }
}

fn temperature(argument: &str) -> Result<Command, String> {
    match argument.to_lowercase().as_str() {
        "" => return Ok(Command::ShowTemperature),
        "default" => return Ok(Command::SetTemperature(None)),
        _ => {}
    }
    match argument.parse::<f32>() {
        Ok(t) if t.is_finite() && t >= 0.0 => Ok(Command::SetTemperature(Some(t))),
        _ => Err(format!("/temp takes a number from 0, or default; found {argument:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: Command) {
        assert_eq!(parse(line), Some(Ok(expected)), "{line}");
    }

    #[test]
    fn commands_are_read() {
        check("/help", Command::Help);
        check("  /QUIT ", Command::Quit);
        check("/exit", Command::Quit);
        check(
            "/system Be brief.\nAnd kind.",
            Command::SetSystem(Some("Be brief.\nAnd kind.".to_owned())),
        );
        check("/system", Command::ShowSystem);
        check("/system -", Command::SetSystem(None));
        check("/think High", Command::SetThink(ReasoningEffort::High));
        check("/think off", Command::SetThink(ReasoningEffort::None));
        check("/think hide", Command::ShowReasoning(false));
        check("/budget 100", Command::SetBudget(Some(100)));
        check("/image", Command::ShowImages);
        check("/image clear", Command::ClearImages);
        check("/image 'a b.png'", Command::AddImage(PathBuf::from("a b.png")));
        check("/tools off", Command::SetTools(None));
        check("/tools t.json", Command::SetTools(Some(PathBuf::from("t.json"))));
        check("/schema json", Command::SetFormat(Format::Json));
        check("/schema s.json", Command::SetFormat(Format::Schema(PathBuf::from("s.json"))));
        check("/temp 0.5", Command::SetTemperature(Some(0.5)));
        check("/temp default", Command::SetTemperature(None));
        check("/save a\\ b.json", Command::Save(PathBuf::from("a b.json")));
    }

    #[test]
    fn mistakes_are_told() {
        let lines = ["/think medium", "/temp warm", "/temp -1", "/temp nan", "/save", "/undo 2"];
        for line in lines.into_iter().chain(["/budget -1", "/budget much"]) {
            assert!(matches!(parse(line), Some(Err(_))), "{line}");
        }
        for line in ["/nope", "/usr/bin/env", "/", "hello", ""] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn every_command_of_the_table_is_read() {
        for info in COMMANDS {
            let line = match info.argument {
                Argument::File(_) => format!("{} x", info.name),
                _ => info.name.to_owned(),
            };
            assert!(matches!(parse(&line), Some(Ok(_))), "{line}");
            assert!(help().contains(info.name));
        }
    }
}
