//! `man`: the manual pages, made from the help texts.

use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use clap_mangen::Man;

use super::{Cli, Failure, output};

const EXAMPLES: &str = "\
Examples:
  alma-bridge man | man -l -                   read the page of the program
  alma-bridge man --dir /usr/local/share/man/man1   install a page for every command

The Debian package installs them.";

/// Of the pages: when the help texts last changed much. A page without a date is malformed.
const DATE: &str = "2026-11-28";

/// Print the manual page of the program, or write one page for each command into a folder
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Write the pages of all commands here, instead of printing that of the program
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    // `help` has no page of its own: it shows the other pages.
    let program = Cli::command().disable_help_subcommand(true);
    match &args.dir {
        None => output::bytes(&page(program)?),
        Some(dir) => {
            std::fs::create_dir_all(dir).map_err(|error| Failure::failed(format!("{}: {error}", dir.display())))?;
            let mut program = program;
            program.build();
            write_pages(program, dir)
        }
    }
}

/// Writes the page of this command and those of its subcommands.
fn write_pages(command: clap::Command, dir: &Path) -> Result<(), Failure> {
    for subcommand in command.get_subcommands() {
        write_pages(subcommand.clone(), dir)?;
    }
    let file = dir.join(Man::new(command.clone()).get_filename());
    std::fs::write(&file, page(command)?).map_err(|error| Failure::failed(format!("{}: {error}", file.display())))
}

fn page(command: clap::Command) -> Result<Vec<u8>, Failure> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let man = Man::new(command)
        .title(name.to_uppercase())
        .date(DATE)
        .source(concat!("alma-bridge ", env!("CARGO_PKG_VERSION")));
    let mut page = Vec::new();
    man.render(&mut page).map_err(Failure::failed)?;
    Ok(page)
}
