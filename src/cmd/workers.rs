//! From `--worker` and `--worker-key` to devices of other machines.

use anyhow::Result;

use crate::cli::WorkerArgs;
use crate::ggml::Device;

/// Whether this build can do what the flags ask for.
pub(super) fn check(args: &WorkerArgs) -> Result<()> {
    match args.worker.is_empty() || cfg!(feature = "rpc") {
        true => Ok(()),
        false => Err(unsupported()),
    }
}

/// What is said where workers are not compiled in.
pub(super) fn unsupported() -> anyhow::Error {
    let message = "this build has no support for workers: build with --features rpc\n";
    clap::Error::raw(clap::error::ErrorKind::InvalidValue, message).into()
}

/// Connects to the workers that were asked for. From then on, a lost connection ends the process with a line
/// that names the worker.
#[cfg(feature = "rpc")]
pub(super) fn connect(args: &WorkerArgs) -> Result<Vec<Device>> {
    if args.worker.is_empty() {
        return Ok(Vec::new());
    }
    let key = find_key(args.worker_key.as_deref())?;
    say_why_ggml_gave_up();
    Ok(crate::remote::connect(&args.worker, &key)?)
}

/// As above, where there can be none.
#[cfg(not(feature = "rpc"))]
pub(super) fn connect(args: &WorkerArgs) -> Result<Vec<Device>> {
    check(args).map(|()| Vec::new())
}

/// The key, without which nothing is to be had: a mistake in the command line.
#[cfg(feature = "rpc")]
pub(super) fn find_key(file: Option<&std::path::Path>) -> Result<crate::remote::Key> {
    use crate::remote::{Key, KeyError};
    Key::find(file).map_err(|error| match error {
        KeyError::Read { .. } => error.into(),
        _ => {
            let message = format!("{error}\n");
            clap::Error::raw(clap::error::ErrorKind::MissingRequiredArgument, message).into()
        }
    })
}

/// Makes one line of what ggml ends the process for, and no core dump of what a network did.
#[cfg(feature = "rpc")]
fn say_why_ggml_gave_up() {
    use crate::ggml::{last_complaint, on_abort};
    use crate::term::Printer;
    on_abort(|message| {
        let printer = Printer::new();
        match crate::remote::lost() {
            Some(why) => {
                printer.error(&anyhow::anyhow!("{why}"));
                signal_hook::low_level::exit(1);
            }
            None => {
                let before = match last_complaint() {
                    complaint if complaint.is_empty() => complaint,
                    complaint => format!("; the last error was: {complaint}"),
                };
                printer.error(&anyhow::anyhow!("ggml: {message}{before}"));
            }
        }
    });
}

#[cfg(all(test, not(feature = "rpc")))]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_workers_says_how_to_get_them() {
        assert!(check(&WorkerArgs::default()).is_ok());
        let asked = WorkerArgs { worker: vec!["there".to_owned()], worker_key: None };
        let error = connect(&asked).unwrap_err();
        assert!(error.downcast_ref::<clap::Error>().is_some_and(|error| error.exit_code() == 2));
        assert!(error.to_string().contains("--features rpc"));
    }
}
