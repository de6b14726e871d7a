use super::*;

fn unparsed(body: &[u8]) -> Unparsed {
    let event = Event::parse(body);
    assert_eq!(event.syntax(), None, "{event:?}");
    event.unparsed().unwrap_or_else(|| panic!("{event:?} is parsed"))
}

fn thing(id: &str) -> ObjectId<'_> {
    ObjectId::Thing(id.into())
}

/// Each documented sample, with its action, event, id, institution, time and object.
#[test]
fn reads_every_sample() {
    let user = ObjectId::User("patron-0001".into());
    let institution = Some("01TEST_INST");
    for (name, action, happened, object) in [
        ("job_end", "JOB_END", None, Some(thing("77"))),
        ("loan", "LOAN", Some("LOAN_CREATED"), Some(thing("2000000000000001"))),
        ("request", "REQUEST", Some("REQUEST_CREATED"), Some(thing("83000000000001"))),
        ("bib", "BIB", Some("BIB_UPDATED"), Some(thing("990000000000001"))),
        ("item", "ITEM", Some("ITEM_UPDATED"), Some(thing("BC000001"))),
        ("user", "USER", Some("USER_UPDATED"), Some(user)),
        ("notification", "NOTIFICATION", None, None),
        ("new_action", "NEW_ACTION", Some("SOMETHING_NEW"), None),
        ("job_end_xml", "JOB_END", None, Some(thing("77"))),
    ] {
        let body = crate::alma::samples::find(name).expect("a sample").render("77", "2024-01-02T03:04:05.678Z");
        let event = Event::parse(body.as_bytes());
        assert_eq!(event.unparsed(), None, "{name}");
        assert_eq!((event.action(), event.event(), event.object()), (action, happened, object.as_ref()), "{name}");
        assert_eq!((event.id(), event.institution()), (Some("77"), institution), "{name}");
        assert_eq!(event.time(), Some("2024-01-02T03:04:05.678Z"), "{name}");
        let syntax = if name.ends_with("xml") { Syntax::Xml } else { Syntax::Json };
        assert_eq!(event.syntax(), Some(syntax), "{name}");
    }
}

/// A capture from 2016 has no institution, no event and no milliseconds.
#[test]
fn reads_what_old_alma_sends() {
    let body = br#"{"id":"900000000001234","action":"JOB_END","time":"2016-07-05T15:09:39Z","job_instance":{"id":"900000000001234","progress":100}}"#;
    let event = Event::parse(body);
    assert_eq!((event.action(), event.event(), event.institution()), ("JOB_END", None, None));
    assert_eq!(event.object(), Some(&thing("900000000001234")));
}

#[test]
fn key_order_blanks_and_unused_members_do_not_matter() {
    let event = Event::parse(
        b" \r\n\t{ \"event\" : { \"desc\":\"x\", \"value\" : \"LOAN_LOST\" } , \"bib\":null,\"item\":null,\n\"item_loan\":{\"x\":[{}],\"loan_id\":\"9\"},\"action\":\"LOAN\" }\n",
    );
    assert_eq!((event.action(), event.event(), event.object()), ("LOAN", Some("LOAN_LOST"), Some(&thing("9"))));
    let event = Event::parse(br#"{"action":"LOAN","event":"LOAN_LOST"}"#);
    assert_eq!(event.event(), Some("LOAN_LOST"), "an event that is a string");
    for none in ["null", "7", "[]", "{}", r#"{"value":null}"#, r#"{"value":7}"#, r#""""#] {
        let body = format!(r#"{{"action":"LOAN","event":{none},"institution":{none}}}"#);
        let event = Event::parse(body.as_bytes());
        assert_eq!((event.event(), event.institution(), event.unparsed()), (None, None, None), "{none}");
    }
}

#[test]
fn says_why_a_body_is_unparsed() {
    use Unparsed::*;
    for (body, why) in [
        (&b""[..], NeitherJsonNorXml),
        (b"  ", NeitherJsonNorXml),
        (b"[]", NeitherJsonNorXml),
        (b"\"JOB_END\"", NeitherJsonNorXml),
        (b"\xEF\xBB\xBF{\"action\":\"BIB\"}", ByteOrderMark),
        (b"{\"action\":\"BIB\",\"x\":\"\xFF\"}", NotUtf8),
        (b"{", NotJson),
        (b"{\"action\":\"BIB\"", NotJson),
        (b"{\"action\":\"BIB\"} {}", NotJson),
        (b"{\"action\":\"BIB\",}", NotJson),
        (b"{\"action\":\"BIB\",\"x\":01}", NotJson),
        (b"{\"action\":\"BIB\",\"x\":\"a\nb\"}", NotJson),
        (b"{}", ActionMissing),
        (b"{\"Action\":\"BIB\"}", ActionMissing),
        (b"{\"x\":{\"action\":\"BIB\"}}", ActionMissing),
        (b"{\"action\":\"BIB\",\"action\":\"BIB\"}", ActionTwice),
        (b"{\"action\":\"BIB\",\"\\u0061ction\":\"BIB\"}", ActionTwice),
        (b"{\"action\":\"\"}", ActionNotText),
        (b"{\"action\":null}", ActionNotText),
        (b"{\"action\":7}", ActionNotText),
        (b"{\"action\":\"\\ud800\"}", ActionNotText),
        (b"<", NotXml),
        (b"<webhook>", NotXml),
        (b"<webhook></other>", NotXml),
        (b"<webhook><action>A</action></webhook>x", NotXml),
        (b"<webhook><action>A</action></webhook><webhook/>", NotXml),
        (b"<!DOCTYPE x [<!ENTITY a \"b\">]><webhook><action>&a;</action></webhook>", NotXml),
        (b"<webhook><action>&a;</action></webhook>", NotXml),
        (b"<webhook/>", ActionMissing),
        (b"<webhook><x><action>A</action></x></webhook>", ActionMissing),
        (b"<webhook><action>A</action><action>A</action></webhook>", ActionTwice),
        (b"<webhook><action/></webhook>", ActionNotText),
        (b"<webhook><action> </action></webhook>", ActionNotText),
    ] {
        assert_eq!(unparsed(body), why, "{}", String::from_utf8_lossy(body));
    }
}

#[test]
fn a_field_that_occurs_twice_counts_as_absent() {
    let event = Event::parse(
        br#"{"action":"BIB","id":"1","id":"2","event":{"value":"A","value":"B"},"bib":{"mms_id":"1"},"bib":{"mms_id":"2"}}"#,
    );
    assert_eq!((event.unparsed(), event.id(), event.event(), event.object()), (None, None, None, None));
    let event = Event::parse(b"<w><action>BIB</action><id>1</id><id>2</id></w>");
    assert_eq!((event.unparsed(), event.id()), (None, None));
}

#[test]
fn accepts_only_ids_that_fit_into_a_header() {
    for (id, fits) in [("9", true), ("A_b.c-1", true), ("", false), ("a b", false), ("../x", false), ("ä", false)] {
        let body = serde_json::json!({ "action": "BIB", "id": id }).to_string();
        assert_eq!(Event::parse(body.as_bytes()).id(), fits.then_some(id), "{id:?}");
    }
    for length in [64, 65, 5_000] {
        let body = serde_json::json!({ "action": "BIB", "id": "1".repeat(length) }).to_string();
        assert_eq!(Event::parse(body.as_bytes()).id().is_some(), length == 64, "{length}");
    }
    assert_eq!(Event::parse(br#"{"action":"BIB","id":7}"#).id(), None, "a number is not an id");
}

#[test]
fn deep_nesting_is_unparsed_and_overflows_no_stack() {
    let json = |depth: usize| format!(r#"{{"x":{}"[[\"[[{{"{},"action":"BIB"}}"#, "[".repeat(depth), "]".repeat(depth));
    let xml = |depth: usize| format!("<w><action>BIB</action>{}{}</w>", "<x>".repeat(depth), "</x>".repeat(depth));
    for (depth, parsed) in [(99, true), (100, false), (100_000, false)] {
        for body in [json(depth), xml(depth)] {
            assert_eq!(Event::parse(body.as_bytes()).unparsed().is_none(), parsed, "{depth} in {}", &body[..9]);
        }
    }
    let unclosed = format!(r#"{{"action":"BIB","x":{}"#, "[".repeat(100_000));
    assert_eq!(unparsed(unclosed.as_bytes()), Unparsed::NotJson);
}

#[test]
fn xml_is_read_by_path_and_its_entities_are_resolved() {
    let event = Event::parse(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><!-- x --><a:webhook xmlns:a=\"urn:x\"><a:action>LO&#65;N</a:action><event desc=\"x\"><value><![CDATA[LOAN_LOST]]></value></event><institution>A&amp;B</institution><item_loan><loan_id> 9 </loan_id></item_loan></a:webhook>\n"
            .as_bytes(),
    );
    assert_eq!((event.action(), event.event(), event.institution()), ("LOAN", Some("LOAN_LOST"), Some("A&B")));
    assert_eq!(event.object(), Some(&thing("9")));
}
