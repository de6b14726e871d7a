//! What can be wrong with a configuration.

use std::fmt;
use std::path::Path;

/// Everything that is wrong with a configuration.
#[derive(Debug)]
pub struct ConfigErrors {
    /// At least one, ordered by key.
    pub errors: Vec<ConfigError>,
    /// Often the cause of an error: a variable that was ignored, for instance.
    pub warnings: Vec<String>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// `None` if the error is not about a single key.
    pub key: Option<String>,
    /// The file or the environment variable.
    pub origin: String,
    /// What was found and what was expected. Never shows a secret.
    pub problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{}: {key}: {}", self.origin, self.problem),
            None => write!(f, "{}: {}", self.origin, self.problem),
        }
    }
}

impl ConfigErrors {
    /// One error about a whole file.
    pub(crate) fn of_file(path: &Path, problem: &str) -> Self {
        let error = ConfigError { key: None, origin: path.display().to_string(), problem: problem.to_owned() };
        Self { errors: vec![error], warnings: Vec::new() }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.errors.len() == 1 { "" } else { "s" };
        writeln!(f, "error: {} problem{s} with the configuration", self.errors.len())?;
        self.errors.iter().try_for_each(|error| writeln!(f, "  {error}"))
    }
}

impl std::error::Error for ConfigErrors {}
