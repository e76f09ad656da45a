//! `gust worker`: lends this machine's devices to gust on another one.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Flags of `gust worker`.
#[derive(Debug, clap::Args)]
#[cfg_attr(not(feature = "rpc"), allow(dead_code))] // the flags are known, so that the answer to them is one line
pub struct Args {
    /// Address to listen on; 0.0.0.0 for all of this machine's
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:50052", value_parser = crate::cli::listen_address)]
    listen: SocketAddr,
    /// File with the key that clients must have [default: the key in GUST_WORKER_KEY]
    #[arg(long, value_name = "FILE")]
    worker_key: Option<PathBuf>,
    /// Print a new key and exit
    #[arg(long)]
    new_key: bool,
    /// Devices to lend, by name [default: all GPUs, or the CPU if there are none]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    device: Vec<String>,
    /// CPU threads, where the CPU is lent [default: the machine's physical cores]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=512))]
    threads: Option<u32>,
    /// Folder that keeps received weights [default: gust/weights in the user's cache folder]
    #[arg(long, value_name = "DIR", conflicts_with = "no_cache")]
    cache: Option<PathBuf>,
    /// Most bytes kept there, such as 80G [default: 200G, or what the disk has free but 4G]
    #[arg(long, value_name = "SIZE", value_parser = size, conflicts_with = "no_cache")]
    cache_size: Option<u64>,
    /// Keep no weights: each start of a client sends them all
    #[arg(long)]
    no_cache: bool,
    /// Compute for the client behind stdin, as a worker starts its server
    #[arg(long, hide = true)]
    serve_one: bool,
}

/// A number of bytes, perhaps with K, M, G or T, which are powers of 1024.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" => Some(0),
        "K" => Some(10),
        "M" => Some(20),
        "G" => Some(30),
        "T" => Some(40),
        _ => None,
    };
    let n = digits.parse::<u64>().ok().zip(shift).and_then(|(n, shift)| n.checked_mul(1 << shift));
    n.ok_or_else(|| "expected a number of bytes, such as 500M or 80G".to_owned())
}

/// Runs `gust worker`.
#[cfg(not(feature = "rpc"))]
pub fn run(_args: Args, _printer: &crate::term::Printer) -> anyhow::Result<()> {
    Err(super::workers::unsupported())
}

#[cfg(feature = "rpc")]
pub use with_rpc::run;

#[cfg(feature = "rpc")]
mod with_rpc {
    use std::net::TcpListener;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;

    use anyhow::{Context, Result, anyhow, bail};
    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;

    use super::Args;
    use crate::cmd::workers;
    use crate::engine::default_n_threads;
    use crate::ggml::{Device, devices, on_abort, on_complaint, rpc};
    use crate::remote::{Cache, Key, ServerCommand, Worker, is_readable_by_others};
    use crate::term::Printer;

    /// Runs `gust worker`.
    pub fn run(args: Args, printer: &Printer) -> Result<()> {
        if args.new_key {
            return Ok(printer.out_line(Key::new_text()?)?);
        }
        if args.serve_one {
            return serve_one(&args);
        }
        let lent = args.devices()?;
        let key = workers::find_key(args.worker_key.as_deref())?;
        if let Some(path) = args.worker_key.as_deref().filter(|path| is_readable_by_others(path)) {
            printer.warn(format!("{}: others can read the key; chmod 600 it", path.display()));
        }
        let cache = args.cache(printer)?;
        let described: Vec<_> = lent
            .iter()
            .map(|device| format!("{} ({})", device.name(), device.description()))
            .collect();
        let log = Printer::new();
        let server = args.server(&lent)?;
        let worker = Worker::new(key, described.clone(), server, cache, move |line| log.note(line));
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let listener = TcpListener::bind(args.listen)
            .with_context(|| format!("cannot listen on {}; see --listen", args.listen))?;
        for device in described {
            printer.note(format!("device {device}"));
        }
        printer.note(format!("listening on {}", listener.local_addr()?));
        let listening = worker.clone();
        std::thread::Builder::new()
            .name("listener".to_owned())
            .spawn(move || listening.listen(&listener))?;
        signals.forever().next();
        printer.note("stopping");
        worker.stop();
        Ok(())
    }

    /// ggml's server for the client behind stdin.
    fn serve_one(args: &Args) -> Result<()> {
        #[cfg(target_os = "linux")]
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // The worker reads these lines, and makes one of the last of them.
        on_complaint(|line| Printer::new().note(line));
        on_abort(|message| Printer::new().note(format!("ggml: {message}")));
        let lent = args.devices()?; // drivers may complain as well
        let stream = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
        let (sender, incoming) = mpsc::channel::<Box<dyn rpc::Stream>>();
        sender.send(Box::new(stream)).map_err(|_| anyhow!("nobody serves"))?;
        drop(sender); // one client
        rpc::serve(&lent, args.n_threads(), incoming);
        Ok(())
    }

    impl Args {
        fn n_threads(&self) -> u32 {
            self.threads.unwrap_or_else(default_n_threads)
        }

        /// The devices to lend.
        fn devices(&self) -> Result<Vec<Device>> {
            let there = devices();
            if self.device.is_empty() {
                let gpus: Vec<_> =
                    there.iter().copied().filter(|device| !device.is_cpu()).collect();
                return if gpus.is_empty() { Ok(vec![Device::cpu()?]) } else { Ok(gpus) };
            }
            let find = |name: &String| {
                let found = there.iter().find(|device| device.name().eq_ignore_ascii_case(name));
                found.copied().ok_or_else(|| {
                    let names: Vec<_> = there.iter().map(|device| device.name()).collect();
                    anyhow!("--device {name}: this machine has {}", names.join(", "))
                })
            };
            self.device.iter().map(find).collect()
        }

        /// The cache, unless it is not wanted.
        fn cache(&self, printer: &Printer) -> Result<Option<Cache>> {
            if self.no_cache {
                return Ok(None);
            }
            let folder = match &self.cache {
                Some(folder) => folder.clone(),
                None => default_cache()?,
            };
            let cache = Cache::open(&folder, self.cache_size)?;
            let n_bytes = crate::term::units::bytes(cache.n_bytes());
            printer.note(format!("cache of weights: {}, {n_bytes}", cache.folder().display()));
            Ok(Some(cache))
        }

        /// How this program serves the same devices.
        fn server(&self, lent: &[Device]) -> Result<ServerCommand> {
            let names: Vec<_> = lent.iter().map(|device| device.name()).collect();
            let args = ["worker", "--serve-one"]
                .into_iter()
                .map(str::to_owned)
                .chain([format!("--device={}", names.join(","))])
                .chain([format!("--threads={}", self.n_threads())]);
            Ok(ServerCommand { program: program()?, args: args.map(Into::into).collect() })
        }
    }

    /// This program as it is, also if its file is replaced meanwhile.
    fn program() -> std::io::Result<std::path::PathBuf> {
        match cfg!(target_os = "linux") {
            true => Ok("/proc/self/exe".into()),
            false => std::env::current_exe(),
        }
    }

    /// Where weights are kept if nobody says where.
    fn default_cache() -> Result<std::path::PathBuf> {
        let of = |name| std::env::var_os(name).map(std::path::PathBuf::from);
        let absolute = |path: &std::path::PathBuf| path.is_absolute();
        let folder = of("XDG_CACHE_HOME")
            .filter(absolute)
            .or_else(|| of("HOME").filter(absolute).map(|home| home.join(".cache")));
        match folder {
            Some(folder) => Ok(folder.join("gust").join("weights")),
            None => bail!("no folder for the cache: give --cache DIR, or --no-cache"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!(size("80G"), Ok(80 << 30));
        assert_eq!(size("5m"), Ok(5 << 20));
        assert_eq!(size("17"), Ok(17));
        for bad in ["", "G", "1.5G", "1GB", "-1", "99999999T"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
