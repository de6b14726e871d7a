//! `completions`: a script that lets a shell complete this program's command line.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, Failure, output};

const EXAMPLES: &str = "\
Examples:
  alma-bridge completions bash > /etc/bash_completion.d/alma-bridge
  alma-bridge completions zsh > /usr/local/share/zsh/site-functions/_alma-bridge
  alma-bridge completions fish > ~/.config/fish/completions/alma-bridge.fish

The Debian package installs them.";

/// Print a script that makes a shell complete the command line
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// bash, zsh, fish, elvish or powershell
    #[arg(hide_possible_values = true)]
    shell: Shell,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "alma-bridge", &mut script);
    output::bytes(&script)
}
