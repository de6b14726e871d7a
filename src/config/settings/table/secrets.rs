//! Keys that name a file or hold a secret. The bridge watches every file that is read here.

use std::path::PathBuf;

use super::Table;
use crate::config::secrets::{self, Secret, SecretFrom};
use crate::config::settings::walk::Walk;

/// Shown instead of what may be a secret.
const HIDDEN: &str = "…";

impl Table {
    /// The path of a file that must be readable.
    pub(crate) fn readable_file(&mut self, name: &str, walk: &mut Walk) -> Option<PathBuf> {
        let path = self.optional_path(name, walk)?;
        if let Err(error) = std::fs::File::open(&path) {
            walk.error(&self.key(name), format!("{} can't be read: {error}", path.display()));
        }
        walk.files.push(path.clone());
        Some(path)
    }

    /// The path of a file with a private key or credentials, and its content. The file must have the mode of a secret, and
    /// the path shows only if it exists.
    pub(crate) fn private_file(&mut self, name: &str, walk: &mut Walk) -> Option<(PathBuf, Secret)> {
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
    pub(crate) fn secret_place(&mut self, file: &str, env: &str, walk: &mut Walk) -> (Option<PathBuf>, Option<String>) {
        let path = self.secret_path(file, walk);
        let variable = self.optional_text(env, walk);
        if variable.as_ref().is_some_and(|variable| !walk.env.contains_key(variable)) {
            walk.note(&self.key(env), HIDDEN, true);
        }
        (path, variable)
    }

    /// The path of a file that holds a secret. If there is no such file, the value may be the secret itself and is not
    /// shown.
    fn secret_path(&mut self, name: &str, walk: &mut Walk) -> Option<PathBuf> {
        let path = self.optional_path(name, walk)?;
        if !path.exists() {
            walk.note(&self.key(name), HIDDEN, true);
        }
        walk.files.push(path.clone());
        Some(path)
    }

    /// A secret from `{name}_file` or `{name}_env`. Having both is an error.
    pub(crate) fn secret(&mut self, name: &str, walk: &mut Walk) -> Option<Secret> {
        self.secret_and_place(name, walk)?.0
    }

    /// Like [`Table::secret`], with the place where it comes from. The secret is `None` if it can't be read.
    pub(crate) fn secret_and_place(&mut self, name: &str, walk: &mut Walk) -> Option<(Option<Secret>, SecretFrom)> {
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
