//! How a JSON body may have been rewritten in transit. `explain` uses this to find what a signature was made over.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde::de::IgnoredAny;

/// Levels of nesting beyond which a body is left alone. The walk recurses.
const MAX_DEPTH: usize = 128;

/// Removes the whitespace between the tokens and changes nothing else, which undoes pretty-printing. Returns `None` if
/// the body is not JSON.
pub fn compact(body: &[u8]) -> Option<Vec<u8>> {
    let mut compact = Vec::with_capacity(json(body)?.len());
    let (mut within_string, mut escaped) = (false, false);
    for &byte in body {
        if within_string {
            within_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if is_whitespace(byte) {
            continue;
        } else {
            within_string = byte == b'"';
        }
        compact.push(byte);
    }
    Some(compact)
}

/// The body as `JSON.stringify(JSON.parse(body))` writes it in JavaScript. Returns `None` if it is not JSON.
///
/// Ex Libris's sample listener signs this instead of the raw bytes. The two differ wherever a parser does not keep how
/// something was written: `209.0`, `\/`, `\u00e9`, numbers beyond 2^53, keys that occur twice or are numbers.
pub fn stringified(body: &[u8]) -> Option<Vec<u8>> {
    let mut reader = Reader { rest: json(body)?, depth: 0 };
    reader.value().map(String::into_bytes)
}

fn json(body: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(body).ok()?;
    serde_json::from_str::<IgnoredAny>(text).ok().map(|_| text)
}

const fn is_whitespace(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Walks over text that is known to be JSON.
struct Reader<'a> {
    rest: &'a str,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn skip_whitespace(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    /// Consumes the next token if it is this one. Returns whether it was.
    fn passes(&mut self, token: char) -> bool {
        self.skip_whitespace();
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn value(&mut self) -> Option<String> {
        self.skip_whitespace();
        match self.rest.as_bytes().first()? {
            b'{' => self.nested(Self::object),
            b'[' => self.nested(Self::array),
            b'"' => self.string(),
            _ => {
                let scalar = self.scalar();
                match scalar {
                    "true" | "false" | "null" => Some(scalar.to_owned()),
                    number => Some(js_number(number.parse().ok()?)),
                }
            }
        }
    }

    fn nested(&mut self, read: impl FnOnce(&mut Self) -> Option<String>) -> Option<String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let written = read(self);
        self.depth -= 1;
        written
    }

    fn scalar(&mut self) -> &'a str {
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c));
        let (scalar, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        scalar
    }

    fn array(&mut self) -> Option<String> {
        self.passes('[');
        let mut values = Vec::new();
        while !self.passes(']') {
            values.push(self.value()?);
            self.passes(',');
        }
        Some(format!("[{}]", values.join(",")))
    }

    /// If a key occurs twice, its last value counts, at the position of the first. Keys that are array indices come
    /// first, in numerical order.
    fn object(&mut self) -> Option<String> {
        self.passes('{');
        let mut members = Members::default();
        while !self.passes('}') {
            self.skip_whitespace();
            let key = self.string()?;
            self.passes(':');
            let value = self.value()?;
            members.set(key, value);
            self.passes(',');
        }
        Some(members.written())
    }

    fn string(&mut self) -> Option<String> {
        self.rest = self.rest.strip_prefix('"')?;
        let mut written = String::from('"');
        loop {
            let plain = self.rest.find(['"', '\\'])?;
            written.push_str(&self.rest[..plain]);
            self.rest = &self.rest[plain..];
            if self.passes_exactly("\"") {
                written.push('"');
                return Some(written);
            }
            self.rest = &self.rest[1..];
            let escape = self.rest.chars().next()?;
            self.rest = &self.rest[1..];
            match escape {
                'u' => self.escaped_unit(&mut written)?,
                '/' => written.push('/'),
                // The quote, the backslash and b, f, n, r, t are escaped in the same way again.
                other => written.extend(['\\', other]),
            }
        }
    }

    fn passes_exactly(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// Reads what follows `\u`: one UTF-16 unit, or the first of a pair of surrogates.
    fn escaped_unit(&mut self, written: &mut String) -> Option<()> {
        let unit = self.hex()?;
        let before = self.rest;
        let pair = (0xd800..0xdc00).contains(&unit) && self.passes_exactly("\\u");
        let low = if pair { self.hex()? } else { 0 };
        let point = if (0xdc00..0xe000).contains(&low) {
            0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00)
        } else {
            self.rest = before;
            unit
        };
        match char::from_u32(point) {
            Some('"') => written.push_str("\\\""),
            Some('\\') => written.push_str("\\\\"),
            Some('\u{8}') => written.push_str("\\b"),
            Some('\u{c}') => written.push_str("\\f"),
            Some('\n') => written.push_str("\\n"),
            Some('\r') => written.push_str("\\r"),
            Some('\t') => written.push_str("\\t"),
            Some(c) if c >= ' ' => written.push(c),
            // A control character, or half of a pair.
            // Writing to a String can't fail.
            _ => drop(write!(written, "\\u{point:04x}")),
        }
        Some(())
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.rest.get(..4)?;
        self.rest = &self.rest[4..];
        u32::from_str_radix(digits, 16).ok()
    }
}

/// The members of an object. Keys include their quotes.
#[derive(Default)]
struct Members {
    in_order: Vec<(String, String)>,
    places: HashMap<String, usize>,
}

impl Members {
    fn set(&mut self, key: String, value: String) {
        if let Some(&place) = self.places.get(&key) {
            self.in_order[place].1 = value;
        } else {
            self.places.insert(key.clone(), self.in_order.len());
            self.in_order.push((key, value));
        }
    }

    fn written(mut self) -> String {
        // The sort is stable, so the keys that are not indices keep their order, after those that are.
        self.in_order.sort_by_key(|(key, _)| index(key).unwrap_or(u32::MAX));
        let members: Vec<String> = self.in_order.into_iter().map(|(key, value)| key + ":" + &value).collect();
        format!("{{{}}}", members.join(","))
    }
}

/// The array index that JavaScript reads from a key: digits without a leading zero, below 2^32 - 1.
fn index(key: &str) -> Option<u32> {
    let digits = key.trim_matches('"');
    let index: u32 = digits.parse().ok().filter(|index| *index < u32::MAX)?;
    (index.to_string() == digits).then_some(index)
}

/// Writes a number as JavaScript does: ECMAScript, `Number::toString`.
fn js_number(number: f64) -> String {
    if !number.is_finite() {
        return "null".to_owned();
    }
    if number == 0.0 {
        return "0".to_owned();
    }
    // Rust's shortest digits are JavaScript's: `2.09e2`.
    let shortest = format!("{:e}", number.abs());
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let digits = mantissa.replace('.', "");
    let exponent: i32 = exponent.parse().unwrap_or(0);
    // How many digits precede the decimal point. If 0 or negative, zeros follow the point.
    let (count, point) = (i32::try_from(digits.len()).unwrap_or(i32::MAX), exponent + 1);
    let zeros = |count: i32| "0".repeat(usize::try_from(count).unwrap_or(0));
    let (head, tail) = digits.split_at(usize::try_from(point).unwrap_or(0).min(digits.len()));
    let written = match point {
        _ if count <= point && point <= 21 => digits.clone() + &zeros(point - count),
        1..=21 => format!("{head}.{tail}"),
        -5..=0 => format!("0.{}{digits}", zeros(-point)),
        _ => {
            let (first, more) = digits.split_at(1);
            let dot = if more.is_empty() { "" } else { "." };
            format!("{first}{dot}{more}e{exponent:+}")
        }
    };
    if number < 0.0 { format!("-{written}") } else { written }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(form: Option<Vec<u8>>) -> String {
        String::from_utf8(form.expect("JSON")).expect("UTF-8")
    }

    #[test]
    fn compact_removes_only_the_whitespace_between_tokens() {
        let pretty = "{\n  \"a b\" : [ 209.0,\t\"x \\\" y\\\\\" , { } ],\r\n \"\\u00e9\" : null\n}\n";
        assert_eq!(text(compact(pretty.as_bytes())), r#"{"a b":[209.0,"x \" y\\",{}],"\u00e9":null}"#);
        assert_eq!(compact(b"{ \"a\""), None);
        assert_eq!(compact(b"<a> </a>"), None);
        assert_eq!(compact(b"{\"a\":\"\xff\"}"), None);
    }

    /// The expected texts are the output of Node.js v20.20.2.
    #[test]
    fn stringified_is_what_javascript_writes() {
        for (body, expected) in [
            (
                r#"{"id":"1","progress":209.0,"big":1000000000000000001,"neg":-0,"e":1e3,"E":1.5E-7,"t":1e21,"u":123456789012345680000,"v":0.000001,"w":1e-7,"x":5e-324,"y":1.7976931348623157e308,"z":1e999,"q":-12.50}"#,
                r#"{"id":"1","progress":209,"big":1000000000000000000,"neg":0,"e":1000,"E":1.5e-7,"t":1e+21,"u":123456789012345680000,"v":0.000001,"w":1e-7,"x":5e-324,"y":1.7976931348623157e+308,"z":null,"q":-12.5}"#,
            ),
            (
                r#" {"b" : 1 , "10": 2, "a":3, "2":4, "b":5, "01":6, "4294967294":7, "4294967295":8,"-1":9, "":10 } "#,
                r#"{"2":4,"10":2,"4294967294":7,"b":5,"a":3,"01":6,"4294967295":8,"-1":9,"":10}"#,
            ),
            (
                r#"["\/","\u00e9","\u0041","\u0000\u001f\u007f","\ud83d\ude00","\ud83d","\ude00x","\ud83d\u0041","\b\f\n\r\t\"\\","\u0022\u005c\u000a","\u2028\u2029","é😀"]"#,
                "[\"/\",\"é\",\"A\",\"\\u0000\\u001f\u{7f}\",\"😀\",\"\\ud83d\",\"\\ude00x\",\"\\ud83dA\",\"\\b\\f\\n\\r\\t\\\"\\\\\",\"\\\"\\\\\\n\",\"\u{2028}\u{2029}\",\"é😀\"]",
            ),
            (
                r#"[true,false,null,[],{},[[]],{"a":{}},0,0.1,0.30000000000000004,1.0,100,123456789.123,9007199254740993]"#,
                r#"[true,false,null,[],{},[[]],{"a":{}},0,0.1,0.30000000000000004,1,100,123456789.123,9007199254740992]"#,
            ),
            (r#"{"__proto__":1,"a":{"1":{"0":[ ]}},"\u0031":2,"\u0061":3}"#, r#"{"1":2,"__proto__":1,"a":3}"#),
        ] {
            assert_eq!(text(stringified(body.as_bytes())), expected);
        }
        assert_eq!(stringified(b"{\"a\":}"), None);
        let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
        assert_eq!(stringified(&deep), None, "too deep, and the stack does not overflow");
    }
}
