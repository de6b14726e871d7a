//! The envelope in JSON: borrowed keys and values, no tree.
//!
//! `serde_json` checks the whole body meanwhile, so whatever passes here can be embedded in a document as it is. Its
//! scan of the values that are skipped does not recurse.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Fields, Job, MAX_DEPTH, OBJECT_IDS, ObjectId, Unparsed};

/// The members of the envelope that are read.
const MEMBERS: [&str; 11] = [
    "action",
    "id",
    "event",
    "institution",
    "time",
    "job_instance",
    "item_loan",
    "user_request",
    "bib",
    "item",
    "webhook_user",
];

pub(super) fn read(text: &str) -> Result<Fields<'_>, Unparsed> {
    // Counting brackets is quick, and few bodies have so many that they could be nested too deeply.
    if brackets(text) > MAX_DEPTH && depth(text) > MAX_DEPTH {
        return Err(Unparsed::NotJson);
    }
    let Members(members) = serde_json::from_str(text).map_err(|_| Unparsed::NotJson)?;
    let once = |name: &str| match MEMBERS.iter().position(|member| *member == name).map(|index| &members[index]) {
        Some(Member::Once(raw)) => Some(*raw),
        _ => None,
    };
    let action = match &members[0] {
        Member::Absent => return Err(Unparsed::ActionMissing),
        Member::Twice => return Err(Unparsed::ActionTwice),
        Member::Once(raw) => string(raw).ok_or(Unparsed::ActionNotText)?,
    };
    let object = OBJECT_IDS.iter().find_map(|path| {
        let (first, rest) = path.split_first()?;
        let id = rest.iter().try_fold(once(first)?, |raw, name| member(raw, name))?;
        ObjectId::at(path, string(id)?)
    });
    Ok(Fields {
        id: once("id").and_then(string),
        action,
        event: once("event").and_then(code),
        institution: once("institution").and_then(code),
        time: once("time").and_then(string),
        object,
        job: once("job_instance").filter(|job| job.get().starts_with('{')).map(|job| Job {
            name: member(job, "name").and_then(string),
            status: member(job, "status").and_then(code),
        }),
    })
}

/// An upper bound on how many objects and arrays begin: brackets in strings count too.
fn brackets(text: &str) -> usize {
    // A portion is as long as a byte can count, so the compiler can count sixteen or more bytes at once.
    let count = |portion: &[u8]| portion.iter().map(|byte| u8::from(matches!(byte, b'{' | b'['))).sum::<u8>();
    text.as_bytes().chunks(usize::from(u8::MAX)).map(|portion| usize::from(count(portion))).sum()
}

/// The depth of nesting. Correct only for well-formed JSON.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// A JSON string.
fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    // Institution and event are usually objects, and constructing an error that nobody reads is expensive.
    if !raw.get().starts_with('"') {
        return None;
    }
    serde_json::from_str::<Text>(raw.get()).ok().map(|Text(text)| text)
}

/// `{"value": "…"}`, or the string itself.
fn code(raw: &RawValue) -> Option<Cow<'_, str>> {
    string(raw).or_else(|| string(member(raw, "value")?))
}

/// The member of that name. Returns `None` unless `object` is an object that has it exactly once.
fn member<'a>(object: &'a RawValue, name: &str) -> Option<&'a RawValue> {
    /// Collects one member's value, and whether it occurs more than once.
    struct Wanted<'n>(&'n str);
    impl<'de> Visitor<'de> for Wanted<'_> {
        type Value = Member<'de>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Member<'de>, A::Error> {
            let mut found = Member::Absent;
            while let Some(Key(key)) = map.next_key()? {
                if key == self.0 {
                    found.add(map.next_value()?);
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok(found)
        }
    }
    let mut deserializer = serde_json::Deserializer::from_str(object.get());
    match deserializer.deserialize_map(Wanted(name)) {
        Ok(Member::Once(raw)) => Some(raw),
        _ => None,
    }
}

/// A key, borrowed unless it has escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// One member of an object.
#[derive(Clone, Copy)]
enum Member<'a> {
    Absent,
    Once(&'a RawValue),
    Twice,
}

impl<'a> Member<'a> {
    fn add(&mut self, raw: &'a RawValue) {
        *self = if matches!(self, Member::Absent) { Member::Once(raw) } else { Member::Twice };
    }
}

/// The values of [`MEMBERS`], in that order.
struct Members<'a>([Member<'a>; MEMBERS.len()]);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Envelope;
        impl<'de> Visitor<'de> for Envelope {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = [Member::Absent; MEMBERS.len()];
                while let Some(Key(key)) = map.next_key()? {
                    match MEMBERS.iter().position(|member| *member == key) {
                        Some(index) => members[index].add(map.next_value()?),
                        None => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Envelope)
    }
}
