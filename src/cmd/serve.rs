//! `gust serve`: the local server in front of a runner process.
//!
//! Only the header of the model's file is read here, and nothing of the file is kept open: a file that is
//! cut short later takes the runner with it, but not the server.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use clap::ValueEnum;
use clap::builder::NonEmptyStringValueParser;
use clap::error::ErrorKind;

use super::chat_format;
use crate::chat::ChatFormat;
use crate::cli::{FormatArgs, ModelArgs};
use crate::gguf::Gguf;
use crate::model;
use crate::runner::RunnerCommand;
use crate::server::{
    About, Access, Config, Dialect, FetchRule, Keys, Log, Names, Start, WrongUsage, run as serve,
};
use crate::term::Printer;
use crate::term::files::read_text;
use crate::tokenizer::Tokenizer;

/// Most bytes of a file of keys.
const MAX_KEY_FILE: u64 = 1 << 20;

/// Flags of `gust serve`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    format: FormatArgs,
    /// Address to listen on; 0.0.0.0 is every address of this machine
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    host: String,
    /// Port to listen on; 0 takes any that is free
    #[arg(long, value_name = "N", default_value_t = 8080)]
    port: u16,
    /// Further name for the model; may be given again
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    alias: Vec<String>,
    /// Replies that are written side by side
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    slots: u16,
    /// Requests that may wait; beyond, clients are told to try again
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(0..=4096))]
    queue: u16,
    /// Most tokens of one reply, whatever is asked [default: up to the context's end]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: Option<u32>,
    /// How chat completions are written
    #[arg(long, value_enum, value_name = "DIALECT", default_value_t)]
    dialect: DialectArg,
    /// Seconds that running replies get when the server is stopped
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u16).range(0..=3600))]
    drain: u16,
    #[command(flatten)]
    access: AccessArgs,
}

/// Who may ask for what.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Access")]
struct AccessArgs {
    /// Key that clients must show; may be given again. Others on this machine can see it here: prefer
    /// --api-key-file or the variable GUST_API_KEY
    #[arg(long, value_name = "KEY", value_parser = NonEmptyStringValueParser::new())]
    api_key: Vec<String>,
    /// File with one key a line
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Listen to other machines without a key
    #[arg(long)]
    insecure: bool,
    /// Origin whose pages may ask, such as https://ui.example, or * for all; may be given again
    #[arg(long, value_name = "ORIGIN", value_parser = origin)]
    allow_origin: Vec<String>,
    /// Name by which clients may call this server, beside localhost and its address; may be given again
    #[arg(long, value_name = "NAME", value_parser = host_name)]
    allow_host: Vec<String>,
    /// Fetch no pictures from https addresses
    #[arg(long, conflicts_with = "allow_fetch")]
    no_fetch: bool,
    /// Host from which pictures may be fetched although its address is private; may be given again
    #[arg(long, value_name = "HOST", value_parser = host_name)]
    allow_fetch: Vec<String>,
    /// Largest request in MiB
    #[arg(long, value_name = "MIB", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    max_body: u16,
}

/// How chat completions are written.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum DialectArg {
    /// As the client's program and request suggest.
    #[default]
    Auto,
    /// Reasoning beside the content.
    Openai,
    /// Reasoning as chunks of the content.
    Mistral,
}

/// Runs `gust serve`.
pub fn run(args: Args, printer: &Printer) -> anyhow::Result<()> {
    super::workers::check(&args.model.workers)?;
    let address = args.address()?;
    let keys = args.access.keys()?;
    if !address.ip().is_loopback() && keys.is_empty() && !args.access.insecure {
        let message = format!(
            "{} is open to other machines, and without a key to all of them: set GUST_API_KEY or give \
             --api-key-file FILE, or --insecure if that is meant\n",
            address.ip()
        );
        return Err(clap::Error::raw(ErrorKind::MissingRequiredArgument, message).into());
    }
    let (tokenizer, format, about) = args.opened()?;
    let names = Names::new(&args.alias);
    let log_printer = Printer::new();
    let start = Start {
        address,
        access: args.access(keys.iter().map(String::as_str)),
        runner: RunnerCommand::of(&args.model, args.slots.into(), &tokenizer)?,
        log: Log::new(move |line| log_printer.note(line)),
        config: args.config(),
        tokenizer,
        format,
        names: names.clone(),
        about: about.clone(),
    };
    let served = serve(start, |address| {
        printer.note(format!("listening on http://{address}/v1"));
        printer.note(format!("model {} as {}", about.label, names.primary()));
        printer.note(format!("also as {}", names.aliases().join(", ")));
        let keys = match keys.len() {
            0 if address.ip().is_loopback() => "API key off: every program on this machine may ask",
            0 => "API key off: whoever reaches this machine may ask",
            _ => "API key on",
        };
        printer.note(keys);
        if !args.access.allow_host.is_empty() {
            printer.note(format!("also called {}", args.access.allow_host.join(", ")));
        }
        if !args.access.allow_origin.is_empty() {
            let origins = args.access.allow_origin.join(", ");
            printer.note(format!("pages of {origins} may ask"));
        }
    });
    served.map_err(|error| match error.downcast::<WrongUsage>() {
        Ok(WrongUsage(why)) => {
            clap::Error::raw(ErrorKind::ValueValidation, format!("{why}\n")).into()
        }
        Err(error) => error,
    })
}

impl Args {
    fn address(&self) -> anyhow::Result<SocketAddr> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(SocketAddr::new(ip, self.port));
        }
        let mut found = (host, self.port)
            .to_socket_addrs()
            .with_context(|| format!("--host {host}: no address of that name"))?;
        found.next().with_context(|| format!("--host {host}: no address of that name"))
    }

    /// Reads what the front needs of the model.
    fn opened(&self) -> anyhow::Result<(Tokenizer, ChatFormat, About)> {
        let chosen = chat_format::of_flags(&self.format)?;
        // The runner opens it too, and is the one to say so.
        let gguf = match &self.model.model {
            Some(path) => Gguf::open(path)?,
            None => model::builtin(),
        };
        let tokenizer = Tokenizer::from_gguf(&gguf)?;
        let label = gguf.label().to_string();
        let metadata = gguf.metadata();
        let format = match chosen {
            Some(format) => format,
            None => chat_format::of_model(&tokenizer, metadata.str("tokenizer.chat_template")?)?,
        };
        let name = metadata.str("general.name")?.map_or_else(|| label.clone(), str::to_owned);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let described = match &format {
            ChatFormat::Mistral(version) => version.name().to_owned(),
            ChatFormat::Template(_) => "template".to_owned(),
        };
        let created = i64::try_from(now.as_secs()).unwrap_or_default();
        Ok((tokenizer, format, About { name, label, format: described, created }))
    }

    fn config(&self) -> Config {
        Config {
            n_slots: self.slots.into(),
            n_queue: self.queue.into(),
            n_max: self.max_tokens,
            n_body: usize::from(self.access.max_body) << 20,
            dialect: match self.dialect {
                DialectArg::Auto => None,
                DialectArg::Openai => Some(Dialect::OpenAi),
                DialectArg::Mistral => Some(Dialect::Mistral),
            },
            fetch: FetchRule {
                is_off: self.access.no_fetch,
                trusted: self.access.allow_fetch.clone(),
            },
            drain: Duration::from_secs(self.drain.into()),
        }
    }

    fn access<'a>(&self, keys: impl Iterator<Item = &'a str>) -> Access {
        let mut hosts = self.access.allow_host.clone();
        // A name to listen on is one to be called by.
        if self.host.parse::<IpAddr>().is_err() {
            hosts.push(self.host.to_ascii_lowercase());
        }
        Access { hosts, origins: self.access.allow_origin.clone(), keys: Keys::new(keys) }
    }
}

impl AccessArgs {
    /// All keys, from wherever they are given.
    fn keys(&self) -> anyhow::Result<Vec<String>> {
        let mut keys = self.api_key.clone();
        if let Some(path) = &self.api_key_file {
            let text = read_text(path, MAX_KEY_FILE)?;
            let n = keys.len();
            keys.extend(text.lines().map(str::to_owned).filter(|line| !line.trim().is_empty()));
            if keys.len() == n {
                bail!("{}: no key in it, expected one a line", path.display());
            }
        }
        if let Ok(key) = std::env::var("GUST_API_KEY") {
            keys.push(key);
        }
        for key in &mut keys {
            *key = key.trim().to_owned();
            if key.is_empty() || !key.chars().all(|c| c.is_ascii_graphic()) {
                bail!("an API key is empty or has characters that no header can carry");
            }
        }
        Ok(keys)
    }
}

/// Reads an origin as browsers write it.
fn origin(text: &str) -> Result<String, String> {
    let text = text.to_ascii_lowercase();
    let host = ["http://", "https://"].into_iter().find_map(|scheme| text.strip_prefix(scheme));
    match host {
        Some(host) if !host.is_empty() && !host.contains(['/', '?', '#', '@', ' ']) => Ok(text),
        _ if text == "*" => Ok(text),
        _ => {
            Err("expected an origin such as https://ui.example:8443, without a path, or *"
                .to_owned())
        }
    }
}

/// Reads a host's name, without a port.
fn host_name(text: &str) -> Result<String, String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
    let has_port = text.matches(':').count() == 1;
    match !text.is_empty() && text.chars().all(is_name) && !has_port {
        true => Ok(text.to_ascii_lowercase()),
        false => Err("expected the name of a host, without a port".to_owned()),
    }
}
