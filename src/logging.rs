//! Log output: lines for people or JSON, on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, ServerConfig};

/// Said before the configured filters, which override it: state resolution tells every check that it makes at `info`, and requests have a
/// level of their own, at which only those are told that the server failed at.
const QUIET: &str = "ruma_state_res=warn,requests=warn";

/// What is logged.
///
/// # Errors
/// If `log` can't be understood.
pub(crate) fn filter(config: &ServerConfig) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    EnvFilter::try_new(format!("{QUIET},{}", config.log))
}

/// Whether lines are JSON objects.
pub(crate) fn is_json(config: &ServerConfig) -> bool {
    match config.log_format {
        LogFormat::Human => false,
        LogFormat::Json => true,
    }
}

/// Starts logging as configured, for the life of the process.
///
/// # Errors
/// If logging was started before.
pub fn start(config: &ServerConfig) -> anyhow::Result<()> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(config)?)
        .with_writer(std::io::stderr)
        // They would be told on standard error, too: a panic in whatever logs, once nobody reads it any more.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    let started = if is_json(config) { builder.json().flatten_event(true).try_init() } else { builder.try_init() };
    started.map_err(|error| anyhow::anyhow!(error))
}
