//! Names that the operator chooses: 1 to 64 characters of `[a-z0-9-]`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The text is not a valid name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAName {
    characters: usize,
}

impl fmt::Display for NotAName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected 1 to {LONGEST} of a-z, 0-9 and -")?;
        // A long name is not counted by eye.
        if self.characters > LONGEST { write!(f, ", but it has {} characters", self.characters) } else { Ok(()) }
    }
}

impl std::error::Error for NotAName {}

const LONGEST: usize = 64;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NotAName;

            fn from_str(text: &str) -> Result<Self, NotAName> {
                let fits = (1..=LONGEST).contains(&text.len())
                    && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
                if fits { Ok(Self(text.into())) } else { Err(NotAName { characters: text.chars().count() }) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = NotAName;

            fn try_from(text: String) -> Result<Self, NotAName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// A source: one integration profile of Alma, with its path and its secrets.
    SourceName
}
name! {
    /// A sink: one place where events are published, with a cursor of its own.
    SinkName
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_only_its_alphabet() {
        assert_eq!("main-2".parse::<SinkName>().expect("fits").as_str(), "main-2");
        let long = "a".repeat(65);
        for bad in ["", "Main", "a_b", "a.b", "ä", "../x", long.as_str()] {
            assert!(bad.parse::<SinkName>().is_err(), "{bad:?}");
        }
    }
}
