//! Keys that name a file or hold a secret. The bridge watches every file that is read here.

use std::path::PathBuf;

use super::Table;
use crate::config::secrets::{self, BadSecret, Found, Secret, SecretFrom};
use crate::config::settings::walk::Walk;

/// Shown instead of what may be a secret.
const HIDDEN: &str = "…";

impl Table {
    /// The path of a file that must be readable.
    pub(crate) fn readable_file(&mut self, name: &str, walk: &mut Walk) -> Option<PathBuf> {
        let path = self.optional_path(name, walk)?;
        if let Err(error) = std::fs::File::open(&path) {
            walk.error(&self.key(name), format!("{} cannot be read: {error}", path.display()));
        }
        walk.files.push(path.clone());
        Some(path)
    }

    /// The path of a file with a private key or credentials, and its content. The file must have the mode of a secret,
    /// and the path shows only if it exists.
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

    /// Looks for a secret in the file and in the environment variable that these two keys name.
    pub(crate) fn find_secrets(&mut self, file: &str, env: &str, walk: &mut Walk) -> Vec<FoundSecret> {
        let in_file = self.secret_path(file, walk).map(|path| {
            let found = secrets::from_file(&path);
            FoundSecret { key: self.key(file), from: SecretFrom::File(path), found }
        });
        let in_variable = self.optional_text(env, walk).map(|variable| {
            if !walk.env.contains_key(&variable) {
                walk.note(&self.key(env), HIDDEN, true);
            }
            let found = secrets::from_variable(&variable, &walk.env);
            FoundSecret { key: self.key(env), from: SecretFrom::Env(variable), found }
        });
        in_file.into_iter().chain(in_variable).collect()
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
        let (file, env) = (format!("{name}_file"), format!("{name}_env"));
        let mut found = self.find_secrets(&file, &env, walk);
        if found.len() > 1 {
            walk.error(&self.key(&file), format!("found in addition to {env}, expected only one of them"));
            return None;
        }
        Some(found.pop()?.read(false, walk))
    }
}

/// A place where a secret was looked for.
pub(crate) struct FoundSecret {
    key: String,
    from: SecretFrom,
    found: Result<Found, BadSecret>,
}

impl FoundSecret {
    /// The secret and its place. Notes an error if the secret can't be read, unless it is optional and does not exist.
    pub(crate) fn read(self, optional: bool, walk: &mut Walk) -> (Option<Secret>, SecretFrom) {
        match self.found {
            Ok(found) => {
                found.warnings.iter().for_each(|warning| walk.warn(&self.key, warning));
                (Some(found.secret), self.from)
            }
            Err(problem) => {
                if !(optional && problem.is_absent()) {
                    walk.error(&self.key, problem.to_string());
                }
                (None, self.from)
            }
        }
    }
}
