//! Files that are read with the configuration, and what must not show: secrets, keys, credentials.

use std::path::PathBuf;

use super::Table;
use crate::config::secrets;
use crate::config::settings::Walk;
use crate::config::{Secret, SecretFrom};

/// In the place of what may be a secret.
const HIDDEN: &str = "…";

impl Table {
    /// A path to a file that must be there and readable.
    pub(in crate::config::settings) fn readable_file(&mut self, name: &str, walk: &mut Walk) -> Option<PathBuf> {
        let path = self.optional_path(name, walk)?;
        if let Err(error) = std::fs::File::open(&path) {
            walk.error(&self.key(name), format!("{} can't be read: {error}", path.display()));
        }
        walk.files.push(path.clone());
        Some(path)
    }

    /// A path to a file that holds a private key or credentials, with what is in it: its mode is that of a secret, and
    /// its path does not show unless it is one.
    pub(in crate::config::settings) fn private_file(
        &mut self,
        name: &str,
        walk: &mut Walk,
    ) -> Option<(PathBuf, Secret)> {
        let path = self.secret_path(name, walk)?;
        let bytes = match secrets::bytes_of(&path) {
            Ok((bytes, warnings)) => {
                for warning in warnings {
                    walk.warn(&self.key(name), warning);
                }
                bytes
            }
            Err(problem) => {
                walk.error(&self.key(name), problem.to_string());
                Vec::new()
            }
        };
        Some((path, Secret::new(bytes)))
    }

    /// The file or the environment variable that a secret is read from.
    pub(in crate::config::settings) fn secret_place(
        &mut self,
        file: &str,
        env: &str,
        walk: &mut Walk,
    ) -> (Option<PathBuf>, Option<String>) {
        let path = self.secret_path(file, walk);
        let variable = self.optional_text(env, walk);
        if variable.as_ref().is_some_and(|variable| !walk.env.contains_key(variable)) {
            walk.note(&self.key(env), HIDDEN, true);
        }
        (path, variable)
    }

    /// The path of a file that holds a secret. What is no file may be the secret itself, and is not shown.
    fn secret_path(&mut self, name: &str, walk: &mut Walk) -> Option<PathBuf> {
        let path = self.optional_path(name, walk)?;
        if !path.exists() {
            walk.note(&self.key(name), HIDDEN, true);
        }
        walk.files.push(path.clone());
        Some(path)
    }

    /// A secret by `{name}_file` or `{name}_env`, at most one of them.
    pub(in crate::config::settings) fn secret(&mut self, name: &str, walk: &mut Walk) -> Option<Secret> {
        self.secret_and_place(name, walk)?.0
    }

    /// As [`Table::secret`], with where it comes from; the place without the secret where that can't be read.
    pub(in crate::config::settings) fn secret_and_place(
        &mut self,
        name: &str,
        walk: &mut Walk,
    ) -> Option<(Option<Secret>, SecretFrom)> {
        let (file_name, env_name) = (format!("{name}_file"), format!("{name}_env"));
        let (key, from, found) = match self.secret_place(&file_name, &env_name, walk) {
            (None, None) => return None,
            (Some(_), Some(_)) => {
                walk.error(&self.key(&file_name), format!("found beside {env_name}, expected one of the two"));
                return None;
            }
            (Some(file), None) => {
                let found = secrets::from_file(&file);
                (self.key(&file_name), SecretFrom::File(file), found)
            }
            (None, Some(variable)) => {
                let found = secrets::from_variable(&variable, &walk.env);
                (self.key(&env_name), SecretFrom::Env(variable), found)
            }
        };
        Some(match found {
            Ok(found) => {
                found.warnings.iter().for_each(|warning| walk.warn(&key, warning));
                (Some(found.secret), from)
            }
            Err(problem) => {
                walk.error(&key, problem.to_string());
                (None, from)
            }
        })
    }
}
