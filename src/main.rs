//! The `haima` binary: parse, wire, run, drain.

mod commands;
mod commands_execute;
#[cfg(unix)]
mod commands_socket;
mod config;
mod config_file;
mod config_generate;
#[cfg(test)]
mod config_tests;
mod descriptors;
mod lag;
mod logging;
mod private;
mod wire;

use std::{
    io::{BufRead, IsTerminal},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use crate::config_file::Loaded;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Where the configuration is if neither `--config` nor `CONDUIT_CONFIG` says.
const CONFIG_FILE_DEFAULT: &str = "conduit.toml";

/// Haima, a Matrix homeserver.
#[derive(Parser)]
#[command(version, about, long_about = None)]
struct Cli {
    /// The configuration file.
    #[arg(long, value_name = "FILE", global = true, env = "CONDUIT_CONFIG", default_value = CONFIG_FILE_DEFAULT)]
    config: PathBuf,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server (what happens without a command).
    Serve,
    /// Say whether the configuration can be used, and if not why.
    CheckConfig,
    /// Print the commented default configuration.
    GenerateConfig,
    #[command(flatten)]
    Do(commands::Command),
    /// Say that the database was put back from an older copy. Clients then sync afresh, and nothing that was handed out
    /// since the copy was made is handed out again. The server must not be running.
    Restore,
}

fn main() -> ExitCode {
    private::begin();
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("haima: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    if let Some(Command::GenerateConfig) = cli.command {
        print!("{}", config_generate::generate());
        return Ok(());
    }
    let Loaded { config, ignored } = config_file::load(&cli.config, std::env::vars())?;
    match cli.command {
        Some(Command::GenerateConfig) => Ok(()),
        Some(Command::CheckConfig) => {
            for key in &ignored {
                println!("{key}");
            }
            println!("{} can be used.", cli.config.display());
            Ok(())
        }
        Some(Command::Do(command)) => {
            let password = command.needs_password().then(read_password).transpose()?;
            runtime()?.block_on(commands::perform(&config, commands::Request { command, password }))
        }
        Some(Command::Restore) => runtime()?.block_on(wire::restore(&config)),
        Some(Command::Serve) | None => {
            logging::start(&config.server)?;
            for key in &ignored {
                tracing::warn!("{key}");
            }
            private::warn_of_open_files(&config, &cli.config);
            runtime()?.block_on(wire::serve(config))
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// A password from the terminal without showing it, or the first line of standard input.
fn read_password() -> anyhow::Result<String> {
    if std::io::stdin().is_terminal() {
        let password = rpassword::prompt_password("Password: ")?;
        anyhow::ensure!(password == rpassword::prompt_password("Again: ")?, "the two are not the same");
        return Ok(password);
    }
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
