//! `username` with a password, for the types of sinks that log in.

use crate::config::secrets::Secret;
use crate::config::settings::{Table, Walk};

/// User and password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// From `username`.
    pub username: String,
    /// From `password_file` or `password_env`.
    pub password: Secret,
}

impl Login {
    /// Both keys or neither.
    pub(super) fn read(table: &mut Table, walk: &mut Walk) -> Option<Self> {
        let username = table.optional_text("username", walk);
        let password = table.secret_and_place("password", walk);
        match (username, password) {
            (Some(username), Some((password, _))) => Some(Self { username, password: password? }),
            (Some(_), None) => {
                let problem = "missing, but username is set: expected password_file or password_env";
                walk.error(&table.key("password_file"), problem);
                None
            }
            (None, Some(_)) => {
                walk.error(&table.key("username"), "missing, but a password is set");
                None
            }
            (None, None) => None,
        }
    }
}
