//! Parsers of single values. An error says only what was expected: whoever reads the key adds what was found.

use std::net::SocketAddr;
use std::time::Duration;

use bytesize::ByteSize;

/// What was expected, such as `expected true or false`.
pub(crate) type Expected = String;

pub(crate) fn address(text: &str) -> Result<SocketAddr, Expected> {
    text.parse().map_err(|_| "expected an address with a port, such as \"0.0.0.0:2562\" or \"[::1]:0\"".to_owned())
}

pub(crate) fn size(text: &str) -> Result<u64, Expected> {
    text.parse().map(|ByteSize(bytes)| bytes).map_err(|_| "expected a size, such as \"8MiB\" or \"1GiB\"".to_owned())
}

pub(crate) fn duration(text: &str) -> Result<Duration, Expected> {
    humantime::parse_duration(text)
        .map_err(|_| "expected a time, such as \"500ms\", \"4s\", \"24h\" or \"7d\"".to_owned())
}

pub(crate) fn boolean(text: &str) -> Result<bool, Expected> {
    text.to_ascii_lowercase().parse().map_err(|_| "expected true or false".to_owned())
}

/// `, did you mean …?`, if one of the known words is close to what was found; else nothing.
pub(crate) fn suggestion<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let near = known.into_iter().map(|word| (strsim::damerau_levenshtein(found, word), word)).min();
    match near {
        Some((distance, word)) if distance <= 1 + word.len() / 4 => format!(", did you mean `{word}`?"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_only_what_is_near() {
        let keys = ["max_body", "listen"];
        assert_eq!(suggestion("max_boddy", keys), ", did you mean `max_body`?");
        assert_eq!(suggestion("something", keys), "");
    }
}
