//! Log output: lines for people or JSON, on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};

/// Said before the configured filters, which override it: state resolution tells every check that it makes at `info`.
const QUIET: &str = "ruma_state_res=warn";

/// Starts logging as configured, for the life of the process.
///
/// # Errors
/// If logging was started before.
pub fn start(config: &Config) -> anyhow::Result<()> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(format!("{QUIET},{}", config.log))?)
        .with_writer(std::io::stderr)
        // They would be told on standard error, too: a panic in whatever logs, once nobody reads it any more.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match config.log_format {
        LogFormat::Human => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!(error))
}
