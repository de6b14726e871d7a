//! The bridge that runs, as the commands find it.
//!
//! A bridge refuses a broken file and runs on with the configuration that it has. The commands that only talk to it must
//! find it then, too: that is when they are needed.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use super::http::Client;
use super::{Failure, Listener, environment, load_with_warnings, on_this_machine, reachable};
use crate::bridge::Listeners;
use crate::config::{self, Config, ConfigErrors, Loaded};

/// For a look at whether anything listens.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a running bridge is found.
pub(super) struct RunningBridge {
    /// If the file on disk is broken, only `data_dir`, `admin` and `journal.storage` are to be used.
    pub(super) config: Config,
    /// The configuration's warnings, which are printed.
    pub(super) warnings: Vec<String>,
    /// What is wrong with the configuration on disk.
    broken: Option<ConfigErrors>,
}

impl RunningBridge {
    /// As [`super::load`]; but a configuration that is broken is read as far as it can be.
    pub(super) fn find(file: Option<&Path>) -> Result<Self, Failure> {
        match load_with_warnings(file) {
            Ok(Loaded { config, warnings, .. }) => Ok(Self { config, warnings, broken: None }),
            Err(Failure::Config(errors)) => {
                let config = config::salvage(file, &environment());
                Ok(Self { config, warnings: Vec::new(), broken: Some(errors) })
            }
            Err(failure) => Err(failure),
        }
    }

    /// With a configuration that is whole.
    pub(super) fn of(config: Config) -> Self {
        Self { config, warnings: Vec::new(), broken: None }
    }

    /// The address of its listener for operators.
    pub(super) fn address(&self) -> Result<SocketAddr, Failure> {
        // What the broken file says about it may not be all that it is meant to say.
        let written = self.broken.as_ref().and_then(|_| Listeners::read(&self.config.data_dir).ok());
        match written {
            Some(listeners) => Ok(on_this_machine(listeners.admin)),
            None => reachable(&self.config, Listener::Admin),
        }
    }

    /// Whether anything listens there.
    pub(super) fn is_listening(&self) -> bool {
        let refused = |error: io::Error| error.kind() == ErrorKind::ConnectionRefused;
        self.address().is_ok_and(|address| !TcpStream::connect_timeout(&address, PATIENCE).is_err_and(refused))
    }

    /// A client of its listener for operators.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        let url = format!("http://{}", self.address()?).parse().map_err(Failure::failed)?;
        Ok(Client::new(url).map_err(Failure::failed)?.of_bridge(Listener::Admin))
    }

    /// Why a bridge is not found: the broken configuration, if it is.
    pub(super) fn not_found(&mut self, failure: Failure) -> Failure {
        self.broken.take().map_or(failure, Failure::Config)
    }

    /// What is wrong with the configuration on disk, one sentence; `None` if it is whole.
    pub(super) fn broken(&self) -> Option<String> {
        let errors: Vec<String> = self.broken.as_ref()?.errors.iter().map(ToString::to_string).collect();
        Some(format!("the configuration on disk is broken: {}", errors.join("; ")))
    }
}
