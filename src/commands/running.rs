//! Finds the running bridge for the commands.
//!
//! A bridge refuses a broken file and keeps running with its previous configuration. The commands that only talk to the
//! bridge must still find it, because that is when they are needed.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use super::http::Client;
use super::{Failure, Listener, environment, load_with_warnings, on_this_machine, reachable};
use crate::bridge::Listeners;
use crate::config::{self, Config, ConfigErrors, Loaded};

/// Time limit for checking whether anything listens.
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

    /// The bridge of a valid configuration.
    pub(super) fn of(config: Config) -> Self {
        Self { config, warnings: Vec::new(), broken: None }
    }

    /// The address of its listener for operators.
    pub(super) fn address(&self) -> Result<SocketAddr, Failure> {
        // The broken file may have lost the address.
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

    /// The error if no bridge is found: the broken configuration, or else `failure`.
    pub(super) fn not_found(&mut self, failure: Failure) -> Failure {
        self.broken.take().map_or(failure, Failure::Config)
    }

    /// What is wrong with the configuration on disk, in one sentence. `None` if it is valid.
    pub(super) fn broken(&self) -> Option<String> {
        let errors: Vec<String> = self.broken.as_ref()?.errors.iter().map(ToString::to_string).collect();
        Some(format!("the configuration on disk is broken: {}", errors.join("; ")))
    }
}
