//! The tools of a conversation: what the model is told of them, and which commands answer their calls.
//!
//! A file holds a list of tools as chat requests have them, an object with `tools`, or one tool. A tool may
//! name a shell command in `x-command`; the model never sees it, and it runs only when the user says so.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::escape::escape_controls;
use super::files::read_text;
use crate::chat::{Change, ChatRequest, Message, Tool, Version, tools_from_json, validate};

/// Largest file of tools, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// Tools and the commands behind them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Toolbox {
    tools: Vec<Tool>,
    /// Shell commands by the tool's name.
    commands: HashMap<String, String>,
    /// Tools whose command the user lets run without being asked again.
    trusted: HashSet<String>,
}

/// A tool's name and command, within its `function` or beside it.
#[derive(Default, Deserialize)]
#[serde(expecting = "an object")]
struct WithCommand {
    name: Option<Value>,
    #[serde(rename = "x-command")]
    command: Option<Value>,
    #[serde(alias = "custom")]
    function: Option<Box<WithCommand>>,
}

impl Toolbox {
    /// Tools without commands.
    pub fn new(tools: Vec<Tool>) -> Self {
        Self { tools, ..Self::default() }
    }

    /// Reads a file of tools; also what was altered or left out.
    pub fn read(path: &Path) -> anyhow::Result<(Self, Vec<Change>)> {
        let json = read_text(path, MAX_FILE)?;
        Self::parse(&json).with_context(|| escape_controls(&path.to_string_lossy()).into_owned())
    }

    fn parse(json: &str) -> anyhow::Result<(Self, Vec<Change>)> {
        let list = list(json)?;
        // Within an object, so that errors speak of `tools[0]`.
        let (tools, changes) = tools_from_json(&format!("{{\"tools\":{list}}}"))?;
        let entries: Vec<WithCommand> = serde_json::from_str(&list).context("tools")?;
        let is_nameless = |entry: &WithCommand| {
            entry.name.is_none() && entry.function.as_ref().is_none_or(|f| f.name.is_none())
        };
        if let Some(i) = entries.iter().position(is_nameless) {
            bail!(
                "tools[{i}]: expected a function with a name, such as {{\"type\": \"function\", \
                 \"function\": {{\"name\": …, \"parameters\": {{…}}}}}}"
            );
        }
        let messages = vec![Message::user("x")];
        let request = ChatRequest { messages, tools, ..ChatRequest::default() };
        validate(&request, Version::V15)?;
        let tools = request.tools;
        let mut names = HashSet::new();
        if let Some(twice) = tools.iter().position(|tool| !names.insert(tool.name.as_str())) {
            bail!("tools[{twice}]: a second tool with the name {:?}", tools[twice].name);
        }
        let mut commands = HashMap::new();
        for entry in entries {
            let within = entry.function.map(|function| *function).unwrap_or_default();
            let name = within.name.or(entry.name);
            let name = name.as_ref().and_then(Value::as_str).unwrap_or_default();
            match entry.command.or(within.command) {
                None => {}
                Some(Value::String(command)) => {
                    commands.insert(name.to_owned(), command);
                }
                Some(_) => bail!("x-command of {name:?}: expected a string"),
            }
        }
        Ok((Self { tools, commands, trusted: HashSet::new() }, changes))
    }

    /// What the model is told.
    pub fn tools(&self) -> &[Tool] {
        &self.tools
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tools.is_empty()
    }

    /// Whether a tool has this name.
    pub fn has(&self, name: &str) -> bool {
        self.tools.iter().any(|tool| tool.name == name)
    }

    /// The names, for messages: `a, b, c`.
    pub fn names(&self) -> String {
        self.tools.iter().map(|tool| tool.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// The command that answers calls of a tool.
    pub(super) fn command(&self, name: &str) -> Option<&str> {
        self.commands.get(name).map(String::as_str)
    }

    /// Whether the tool's command may run without a question.
    pub(super) fn is_trusted(&self, name: &str) -> bool {
        self.trusted.contains(name)
    }

    /// Lets the tool's command run from now on.
    pub(super) fn trust(&mut self, name: &str) {
        self.trusted.insert(name.to_owned());
    }

    /// A line for each tool.
    pub(super) fn list(&self) -> String {
        let mut lines = Vec::new();
        for tool in &self.tools {
            let mut line = format!("  {}", tool.name);
            if let Some(first) = tool.description.lines().next() {
                line.push_str(&format!(" · {first}"));
            }
            if let Some(command) = self.command(&tool.name) {
                line.push_str(&format!(" · runs `{command}`"));
            }
            lines.push(escape_controls(&line).into_owned());
        }
        lines.join("\n")
    }
}

/// The list of tools in any of the three forms, as JSON text.
fn list(json: &str) -> anyhow::Result<String> {
    let value: &RawValue = serde_json::from_str(json).context("not JSON")?;
    let text = value.get();
    if text.starts_with('[') {
        return Ok(text.to_owned());
    }
    if !text.starts_with('{') {
        bail!("expected a list of tools, an object with \"tools\", or one tool");
    }
    let fields: BTreeMap<String, &RawValue> = serde_json::from_str(text)?;
    Ok(match fields.get("tools") {
        Some(tools) if tools.get().starts_with('[') => tools.get().to_owned(),
        Some(_) => bail!("tools: expected a list"),
        None => format!("[{text}]"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEATHER: &str = r#"{"type": "function", "x-command": "cat", "function": {"name": "weather",
        "description": "Weather\nof a city", "parameters": {"type": "object", "properties": {}}}}"#;

    #[test]
    fn three_forms_are_the_same() {
        for json in [format!("[{WEATHER}]"), format!("{{\"tools\": [{WEATHER}]}}"), WEATHER.into()]
        {
            let (toolbox, changes) = Toolbox::parse(&json).unwrap();
            assert_eq!(changes, []);
            assert_eq!(toolbox.names(), "weather");
            assert_eq!(toolbox.command("weather"), Some("cat"));
            assert_eq!(toolbox.list(), "  weather · Weather · runs `cat`");
        }
        let within = r#"[{"function": {"name": "f", "parameters": {}, "x-command": "date"}}]"#;
        assert_eq!(Toolbox::parse(within).unwrap().0.command("f"), Some("date"));
        assert!(Toolbox::parse("[]").unwrap().0.is_empty());
    }

    #[test]
    fn faults_are_named() {
        let tool =
            |name: &str| format!("{{\"function\":{{\"name\":\"{name}\",\"parameters\":{{}}}}}}");
        let many: Vec<String> = (0..129).map(|i| tool(&format!("f{i}"))).collect();
        let long = tool(&"x".repeat(65));
        for (json, expected) in [
            ("", "not JSON"),
            ("[{]", "line 1 column 3"),
            ("3", "expected a list"),
            ("{\"tools\": 3}", "tools: expected a list"),
            ("{\"tools\": null}", "tools: expected a list"),
            ("[3]", "tools[0]"),
            ("[[]]", "tools[0]"),
            ("{}", "tools[0]"),
            ("[{\"function\": 3}]", "tools[0].function"),
            ("[{\"type\": \"magic\", \"function\": {\"name\": \"f\"}}]", "tools[0].type"),
            (&format!("[{},{}]", tool("f"), tool("f")), "tools[1]: a second tool"),
            (&format!("[{}]", tool("a b")), "a b"),
            (&format!("[{}]", tool("")), "name"),
            (&format!("[{long}]"), "xxx"),
            (&format!("[{}]", many.join(",")), "129 tools"),
            ("[{\"function\": {\"name\": \"f\", \"parameters\": []}}]", "\"f\""),
            (
                "[{\"x-command\": 3, \"function\": {\"name\": \"f\", \"parameters\": {}}}]",
                "x-command",
            ),
        ] {
            let error = format!("{:#}", Toolbox::parse(json).unwrap_err());
            assert!(error.contains(expected), "{expected}: {error}");
            assert!(!error.contains("struct"), "{error}");
        }
    }

    #[test]
    fn what_is_left_out_is_told() {
        let json = format!(
            r#"[{{"type": "web_search_20250305", "name": "web_search"}}, {WEATHER},
                {{"type": "custom", "x-command": "cat", "custom": {{"name": "free"}}}}]"#
        );
        let (toolbox, changes) = Toolbox::parse(&json).unwrap();
        assert_eq!(toolbox.names(), "weather, free");
        assert_eq!(toolbox.command("free"), Some("cat"));
        let changes: Vec<_> = changes.iter().map(ToString::to_string).collect();
        assert!(changes[0].starts_with("tools[0]") && changes[0].contains("web_search"));
        assert!(changes[1].starts_with("tools[2]"), "{changes:?}");
    }
}
