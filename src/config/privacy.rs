//! `[privacy]`: personal data in what is published.

use super::secrets::Secret;
use super::settings::{Table, Walk};

/// Personal data in what is published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Privacy {
    /// The key for pseudonyms. Without it, an event about a user has no subject.
    pub key: Option<Secret>,
}

impl Privacy {
    pub(super) fn read(mut table: Table, walk: &mut Walk) -> Self {
        let key = table.secret("key", walk);
        table.finish(walk, |_| None);
        Self { key }
    }
}
