use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::alma::samples;
use crate::config::{FileSink, SinkKind, Start, TopicPart};

fn sink(actions: &[&str]) -> Sink {
    Sink {
        name: "main".parse().expect("a name"),
        kind: SinkKind::File(FileSink { dir: "topics".into(), rotate: 0, keep: 0 }),
        topic: TopicTemplate { parts: vec![TopicPart::Literal("alma.".into()), TopicPart::Action] },
        format: Format::CloudEvents,
        actions: ActionFilter::new(actions).expect("patterns"),
        sources: Filter::default(),
        jobs: Filter::default(),
        statuses: Filter::default(),
        institutions: Filter::default(),
        start: Start::Next,
        continues: None,
        setup_grace: std::time::Duration::ZERO,
        best_effort: false,
        max_topics: 200,
    }
}

fn source(institution: Option<&str>) -> Source {
    Source {
        name: "alma".parse().expect("a name"),
        path: "/webhooks".into(),
        secrets: Vec::new(),
        institution: institution.map(str::to_owned),
        silence: None,
    }
}

/// 2024-01-02T03:04:06.000Z and half a second later.
fn stored(body: impl Into<Bytes>) -> StoredEvent {
    let received = Timestamp::from_micros(1_704_164_646_000_000);
    let recorded = Timestamp::from_micros(1_704_164_646_500_000);
    StoredEvent { source: "alma".parse().expect("a name"), received, recorded, body: body.into() }
}

fn make(body: impl Into<Bytes>) -> Message {
    let messages = Messages::new(&sink(&["*"]), &[source(None)], &Privacy::default());
    messages.make(&stored(body), None).expect("asked for")
}

fn attribute<'m>(message: &'m Message, name: &str) -> Option<&'m str> {
    message.attributes.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str())
}

#[test]
fn every_sample_has_its_topic_and_attributes() {
    for (name, topic, kind, subject) in [
        ("job_end", "alma.job_end", "job_end", Some("77")),
        ("loan", "alma.loan", "loan.loan_created", Some("2000000000000001")),
        ("request", "alma.request", "request.request_created", Some("83000000000001")),
        ("bib", "alma.bib", "bib.bib_updated", Some("990000000000001")),
        ("item", "alma.item", "item.item_updated", Some("BC000001")),
        ("user", "alma.user", "user.user_updated", None),
        ("notification", "alma.notification", "notification", None),
        ("new_action", "alma.new_action", "new_action.something_new", None),
        ("job_end_xml", "alma.job_end", "job_end", Some("77")),
    ] {
        let body = samples::find(name).expect("a sample").render("77", "2024-01-02T03:04:05.678Z");
        let digest = BodyDigest::of(body.as_bytes());
        let message = make(body.clone());
        let id = format!("77.{}", digest.hex(16));
        assert_eq!((message.topic.as_str(), message.id.as_str()), (topic, id.as_str()), "{name}");
        let kind = format!("com.exlibrisgroup.alma.{kind}");
        for (name, value) in [
            ("specversion", Some("1.0")),
            ("id", Some(id.as_str())),
            ("source", Some("/alma/01TEST_INST")),
            ("type", Some(kind.as_str())),
            ("subject", subject),
            ("time", Some("2024-01-02T03:04:05.678Z")),
            ("recordedtime", Some("2024-01-02T03:04:06.500Z")),
            ("almainstitution", Some("01TEST_INST")),
            ("replayed", None),
        ] {
            assert_eq!(attribute(&message, name), value, "{topic}: {name}");
        }
        // printf patron-0001 | sha256sum | cut -c62-64
        let key = if name == "user" { "u645" } else { subject.unwrap_or(&id) };
        assert_eq!(message.partition_key, key, "{name}");
        assert_eq!(message.data, body);
    }
}

#[test]
fn a_document_carries_the_data_byte_for_byte() {
    let body = "{ \"action\" : \"JOB_END\",\r\n\"progress\":209.0, \"ü\":\"\\u00e9é\",\"id\":\"5\" }";
    let message = make(body);
    let document = String::from_utf8(message.structured().to_vec()).expect("UTF-8");
    assert!(document.ends_with(&format!("\"data\":{body}}}")), "{document}");
    let line = String::from_utf8(message.structured_line().to_vec()).expect("UTF-8");
    assert_eq!(line, document.replace("\r\n", "  "));
    let read: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(read["data"]["progress"].to_string(), "209.0");
    assert_eq!(read["datacontenttype"], "application/json");
}

#[test]
fn xml_is_a_string_and_the_rest_base64() {
    let xml = "<webhook>\n<action>BIB</action><t>\"é\u{1F600}\"</t></webhook>";
    let read: Value = serde_json::from_slice(&make(xml).structured_line()).expect("JSON");
    assert_eq!((read["data"].as_str(), &read["datacontenttype"]), (Some(xml), &"application/xml".into()));
    let message = make(&b"\xFF\x00no event"[..]);
    assert_eq!(message.topic.as_str(), "alma.unparsed");
    assert_eq!(message.id.as_str().len(), 32);
    let read: Value = serde_json::from_slice(&message.structured()).expect("JSON");
    assert_eq!(read["data_base64"], "/wBubyBldmVudA==");
    assert_eq!(read["datacontenttype"], "application/octet-stream");
    assert_eq!(read["type"], "com.exlibrisgroup.alma.unparsed");
    assert_eq!((read.get("almaaction"), read.get("subject"), read.get("data")), (None, None, None));
}

#[test]
fn an_event_of_another_institution_is_misdirected_but_keeps_its_type() {
    let messages = Messages::new(&sink(&["*"]), &[source(Some("01OTHER_INST"))], &Privacy::default());
    let body = samples::find("loan").expect("a sample").render("77", "2024-01-02T03:04:05Z");
    let message = messages.make(&stored(body), None).expect("asked for");
    assert_eq!(message.topic.as_str(), "alma.misdirected");
    assert_eq!(attribute(&message, "type"), Some("com.exlibrisgroup.alma.loan.loan_created"));
    let unnamed = messages.make(&stored(r#"{"action":"LOAN"}"#), None).expect("asked for");
    assert_eq!(unnamed.topic.as_str(), "alma.loan", "an event that names no institution passes");
    assert_eq!(attribute(&unnamed, "source"), Some("/alma"));
}

#[test]
fn a_sink_gets_only_the_events_that_it_asks_for() {
    let loan = r#"{"action":"LOAN","event":{"value":"LOAN_RETURNED"}}"#;
    let job = r#"{"action":"JOB_END"}"#;
    let broken = "broken";
    for (actions, expected) in [
        (&["*"][..], [true, true, true]),
        (&["loan"], [true, false, false]),
        (&["loan.loan_returned"], [true, false, false]),
        (&["loan.loan_created", "job_end"], [false, true, false]),
        (&["unparsed"], [false, false, true]),
        (&["unparsed.x", "nothing"], [false, false, false]),
        (&["lo*", "!loan.loan_created"], [true, false, false]),
        (&["!unparsed"], [true, true, false]),
    ] {
        let messages = Messages::new(&sink(actions), &[source(None)], &Privacy::default());
        let made = [loan, job, broken].map(|body| messages.make(&stored(body), None).is_some());
        assert_eq!(made, expected, "{actions:?}");
    }
    let other = Sink { sources: filter("sandbox"), ..sink(&["*"]) };
    assert!(Messages::new(&other, &[source(None)], &Privacy::default()).make(&stored(job), None).is_none());
}

fn filter(pattern: &str) -> Filter {
    Filter::new(&[pattern]).expect("a pattern")
}

#[test]
fn a_filter_that_keeps_an_event_out_is_named() {
    let job = |name: &str, status: &str| {
        format!(
            r#"{{"action":"JOB_END","institution":{{"value":"01A"}},"job_instance":{{"name":"{name}","status":{{"value":"{status}"}}}}}}"#
        )
    };
    let xml = "<webhook><action>JOB_END</action><institution>01A</institution><job_instance><name>Export Bibs</name>\
               <status desc=\"x\">COMPLETED_FAILED</status></job_instance></webhook>";
    let loan = r#"{"action":"LOAN","institution":{"value":"01B"},"job_instance":null}"#;
    let nameless = r#"{"action":"JOB_END","institution":{"value":"01A"},"job_instance":{}}"#;
    let unused_slot = "<webhook><action>LOAN</action><institution>01A</institution><job_instance/></webhook>";
    let all = sink(&["*"]);
    let exports = Sink { jobs: filter("export*"), ..all.clone() };
    let failed = Sink { statuses: filter("*_failed"), ..all.clone() };
    let unless_tests = Sink { jobs: filter("!*test*"), ..all.clone() };
    let of_a = Sink { institutions: filter("01a"), ..all };
    for (sink, body, expected) in [
        (&exports, job("Export Bibs", "COMPLETED_FAILED"), None),
        (&exports, job("Import", "COMPLETED_FAILED"), Some("jobs")),
        (&exports, xml.to_owned(), None),
        (&exports, loan.to_owned(), None),
        (&exports, nameless.to_owned(), Some("jobs")),
        (&exports, unused_slot.to_owned(), None),
        (&exports, "unparsed".to_owned(), None),
        (&failed, job("Import", "COMPLETED_FAILED"), None),
        (&failed, job("Import", "COMPLETED_SUCCESS"), Some("statuses")),
        (&failed, xml.to_owned(), None),
        (&unless_tests, job("A Test job", ""), Some("jobs")),
        (&unless_tests, nameless.to_owned(), None),
        (&of_a, xml.to_owned(), None),
        (&of_a, loan.to_owned(), Some("institutions")),
        (&of_a, "unparsed".to_owned(), Some("institutions")),
    ] {
        let messages = Messages::new(sink, &[source(None)], &Privacy::default());
        let stored = stored(body.clone());
        assert_eq!(messages.unwanted_by(&stored), expected, "{body}");
        assert_eq!(messages.make(&stored, None).is_some(), expected.is_none(), "{body}");
    }
    let sandbox = Sink { sources: filter("!alma"), ..sink(&["*"]) };
    let messages = Messages::new(&sandbox, &[source(None)], &Privacy::default());
    assert_eq!(messages.unwanted_by(&stored(loan)), Some("sources"));
}

#[test]
fn a_job_is_named_in_attributes_and_topic() {
    let parts = [TopicPart::Literal("alma.".into()), TopicPart::Action, TopicPart::Literal(".".into()), TopicPart::Job];
    let template = TopicTemplate { parts: [&parts[..], &[TopicPart::Literal(".".into()), TopicPart::Status]].concat() };
    let by_job = Sink { topic: template, ..sink(&["*"]) };
    let messages = Messages::new(&by_job, &[], &Privacy::default());
    let make = |name: &str| {
        let body = samples::find(name).expect("a sample").render("77", "2024-01-02T03:04:05Z");
        messages.make(&stored(body), None).expect("asked for")
    };
    let json = make("job_end");
    assert_eq!(json.topic.as_str(), "alma.job_end.publishing_platform_job_example_profile.completed_failed");
    assert_eq!(attribute(&json, "almajob"), Some("Publishing Platform Job Example Profile"));
    assert_eq!(attribute(&json, "almastatus"), Some("COMPLETED_FAILED"));
    let xml = make("job_end_xml");
    assert_eq!(xml.topic.as_str(), "alma.job_end.none.completed_success");
    assert_eq!((attribute(&xml, "almajob"), attribute(&xml, "almastatus")), (None, Some("COMPLETED_SUCCESS")));
    let loan = make("loan");
    assert_eq!(loan.topic.as_str(), "alma.loan.none");
    assert_eq!((attribute(&loan, "almajob"), attribute(&loan, "almastatus")), (None, None));
    let body = r#"{"action":"OTHER","job_instance":{"name":"A job","status":"DONE"}}"#;
    let other = messages.make(&stored(body), None).expect("asked for");
    assert_eq!(other.topic.as_str(), "alma.other.a_job.done");
    assert_eq!(attribute(&other, "almajob"), None);
}

#[test]
fn a_user_is_identified_by_a_pseudonym_or_not_at_all() {
    let body = samples::find("user").expect("a sample").render("77", "2024-01-02T03:04:05Z");
    let without = make(body.clone());
    assert_eq!(attribute(&without, "subject"), None);
    // printf patron-0001 | sha256sum | cut -c62-64
    assert_eq!(without.partition_key, "u645");
    let privacy = Privacy { key: Some(Secret::new(*b"key")) };
    let with = Messages::new(&sink(&["*"]), &[source(None)], &privacy).make(&stored(body), None).expect("asked for");
    // printf patron-0001 | openssl dgst -sha256 -hmac key | cut -d' ' -f2 | cut -c-32
    let pseudonym = "ad5d48adae33e369fe379d9a339ad252";
    assert_eq!(attribute(&with, "subject"), Some(pseudonym));
    assert_eq!(with.partition_key, pseudonym);
    for message in [without, with] {
        let attributes = format!("{:?}", message.attributes);
        assert!(!attributes.contains("patron-0001"), "{attributes}");
    }
}

#[test]
fn time_is_almas_in_utc_or_that_of_receipt() {
    for (written, expected) in [
        ("2024-01-02T03:04:05.670Z", "2024-01-02T03:04:05.670Z"),
        ("2016-07-05T15:09:39Z", "2016-07-05T15:09:39Z"),
        ("2024-01-02T03:04:05+02:00", "2024-01-02T01:04:05Z"),
        ("2024-01-02Z", "2024-01-02T03:04:06.000Z"),
        ("yesterday", "2024-01-02T03:04:06.000Z"),
        ("", "2024-01-02T03:04:06.000Z"),
        ("2024-13-02T03:04:05Z", "2024-01-02T03:04:06.000Z"),
    ] {
        let body = format!(r#"{{"action":"BIB","time":"{written}"}}"#);
        assert_eq!(attribute(&make(body), "time"), Some(expected), "{written}");
    }
    assert_eq!(attribute(&make(r#"{"action":"BIB","time":7}"#), "time"), Some("2024-01-02T03:04:06.000Z"));
}

#[test]
fn what_does_not_fit_an_attribute_is_left_out() {
    let long = "x".repeat(257);
    let body = serde_json::json!({
        "action": "a\u{7}b", "event": long, "institution": { "value": "A/B\u{1}" }, "bib": { "mms_id": long },
    });
    let message = make(body.to_string());
    assert_eq!(message.topic.as_str(), "alma.a_b");
    for name in ["almaaction", "almaevent", "almainstitution", "subject"] {
        assert_eq!(attribute(&message, name), None, "{name}");
    }
    assert_eq!(attribute(&message, "source"), Some("/alma"));
    assert_eq!(message.partition_key, message.id.as_str());
    let body = r#"{"action":"BIB","institution":{"value":"01 Ä/%"}}"#;
    assert_eq!(attribute(&make(body), "source"), Some("/alma/01%20%C3%84%2F%25"));
}

#[test]
fn a_replayed_message_says_when_it_was_replayed() {
    let messages = Messages::new(&sink(&["*"]), &[], &Privacy::default());
    let at = Timestamp::from_micros(1_704_200_000_000_000);
    let message = messages.make(&stored(r#"{"action":"BIB"}"#), Some(at)).expect("asked for");
    assert_eq!(attribute(&message, "replayed"), Some(at.to_string().as_str()));
    assert_eq!(message.id, make(r#"{"action":"BIB"}"#).id);
}

proptest! {
    #[test]
    fn any_bytes_make_a_good_message(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        check(&body);
    }

    #[test]
    fn any_strings_make_a_good_message(action: String, event: String, id: String, institution: String, mms: String) {
        let body = serde_json::json!({
            "action": action, "event": { "value": event }, "id": id,
            "institution": { "value": institution }, "bib": { "mms_id": mms },
        });
        check(body.to_string().as_bytes());
    }
}

fn check(body: &[u8]) {
    let message = make(body.to_vec());
    let topic = message.topic.as_str();
    assert!(topic.len() <= 249 && topic.starts_with("alma."), "{topic:?}");
    assert!(topic.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-.".contains(&b)), "{topic:?}");
    assert!(!topic.ends_with('.') && !topic.contains(".."), "{topic:?}");
    assert!(message.id.as_str().len() <= 81);
    let line = message.structured_line();
    assert!(!line.contains(&b'\n') && !line.contains(&b'\r'));
    let read: Value = serde_json::from_slice(&message.structured()).expect("JSON");
    assert_eq!(read["id"], message.id.as_str());
    match message.content_type {
        ContentType::Json => assert_eq!(read["data"], serde_json::from_slice::<Value>(body).expect("JSON")),
        ContentType::Xml => assert_eq!(read["data"].as_str().map(str::as_bytes), Some(body)),
        ContentType::Opaque => assert!(read["data_base64"].is_string()),
    }
    assert_eq!(message.data, body);
}
