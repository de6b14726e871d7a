//! Every document of Alma's, in every format, as the CloudEvents project's own SDK reads it.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::harness::{Bridge, Setup, client_with_secret};
use crate::places::{Broker, Landed, Place, wait_until_delivered, wait_until_up};

/// A body as Alma sends it, and what must become of it.
struct Sample {
    body: &'static [u8],
    secret: &'static str,
    action: &'static str,
    /// Behind `com.exlibrisgroup.alma.`.
    kind: &'static str,
    alma_id: Option<&'static str>,
    source: &'static str,
    subject: Option<&'static str>,
    /// None: another for each receipt.
    time: Option<&'static str>,
    /// None: the subject, else the id.
    partition_key: Option<&'static str>,
    content_type: &'static str,
    alma_event: Option<&'static str>,
}

const TIME: &str = "2024-01-02T03:04:05.678Z";

const LOAN: Sample = Sample {
    body: include_bytes!("samples/loan.json"),
    secret: crate::harness::SECRET,
    action: "loan",
    kind: "loan.loan_created",
    alma_id: Some("1000000000000000001"),
    source: "/alma/01TEST_INST",
    subject: Some("2000000000000001"),
    time: Some(TIME),
    partition_key: None,
    content_type: "application/json",
    alma_event: Some("LOAN_CREATED"),
};

const JOB: Sample = Sample {
    body: include_bytes!("samples/job_end_2024.json"),
    action: "job_end",
    kind: "job_end",
    alma_id: Some("900000000001235"),
    subject: Some("900000000001235"),
    alma_event: None,
    ..LOAN
};

const SAMPLES: [Sample; 12] = [
    LOAN,
    JOB,
    Sample {
        body: include_bytes!("samples/job_end_2016.json"),
        alma_id: Some("900000000001234"),
        subject: Some("900000000001234"),
        source: "/alma",
        time: Some("2016-07-05T15:09:39Z"),
        ..JOB
    },
    Sample {
        body: include_bytes!("samples/request.json"),
        action: "request",
        kind: "request.request_created",
        alma_id: Some("1000000000000000002"),
        subject: Some("83000000000001"),
        alma_event: Some("REQUEST_CREATED"),
        ..LOAN
    },
    Sample {
        body: include_bytes!("samples/bib.json"),
        action: "bib",
        kind: "bib.bib_updated",
        alma_id: Some("1000000000000000003"),
        subject: Some("990000000000001"),
        alma_event: Some("BIB_UPDATED"),
        ..LOAN
    },
    Sample {
        body: include_bytes!("samples/item.json"),
        action: "item",
        kind: "item.item_updated",
        alma_id: Some("1000000000000000004"),
        subject: Some("BC000001"),
        alma_event: Some("ITEM_UPDATED"),
        ..LOAN
    },
    // Names nobody: no subject without a key for pseudonyms; printf patron-0001 | sha256sum ends in 645.
    Sample {
        body: include_bytes!("samples/user.json"),
        action: "user",
        kind: "user.user_updated",
        alma_id: Some("1000000000000000005"),
        subject: None,
        partition_key: Some("u645"),
        alma_event: Some("USER_UPDATED"),
        ..LOAN
    },
    Sample {
        body: include_bytes!("samples/job_end.xml"),
        alma_id: Some("900000000001234"),
        subject: Some("900000000001234"),
        content_type: "application/xml",
        ..JOB
    },
    Sample { body: include_bytes!("samples/vector_loan.json"), subject: None, ..LOAN },
    Sample {
        body: include_bytes!("samples/vector_job_end.json"),
        alma_id: Some("900000000001234"),
        subject: Some("900000000001234"),
        ..JOB
    },
    Sample {
        body: include_bytes!("samples/vector.xml"),
        alma_id: None,
        subject: None,
        source: "/alma",
        time: None,
        content_type: "application/xml",
        ..JOB
    },
    Sample {
        body: include_bytes!("samples/vector_bib.json"),
        secret: "clé-secrète",
        action: "bib",
        kind: "bib",
        alma_id: None,
        source: "/alma",
        subject: None,
        time: None,
        alma_event: None,
        ..LOAN
    },
];

impl Sample {
    fn id(&self) -> String {
        let digest = Sha256::digest(self.body);
        let digest: String = digest[..16].iter().flat_map(|byte| [byte >> 4, byte & 15]).map(hex_digit).collect();
        self.alma_id.map_or_else(|| digest.clone(), |id| format!("{id}.{}", &digest[..16]))
    }

    /// Text of XML, a document of JSON.
    fn data(&self) -> Value {
        if self.content_type == "application/xml" {
            json!(std::str::from_utf8(self.body).expect("UTF-8"))
        } else {
            serde_json::from_slice(self.body).expect("JSON")
        }
    }

    fn assert(&self, landed: &Landed, place: &Place) {
        let id = self.id();
        let attribute = |name| landed.attribute(name);
        assert_eq!(landed.topic, place.topic(self.action));
        assert_eq!(attribute("specversion"), Some("1.0"));
        assert_eq!(attribute("type"), Some(&*format!("com.exlibrisgroup.alma.{}", self.kind)), "{id}");
        assert_eq!(attribute("source"), Some(self.source), "{id}");
        assert_eq!(attribute("subject"), self.subject, "{id}");
        assert_eq!(attribute("datacontenttype"), Some(self.content_type), "{id}");
        assert_eq!(attribute("almaaction"), Some(&*self.action.to_uppercase()), "{id}");
        assert_eq!(attribute("almaevent"), self.alma_event, "{id}");
        assert_eq!(attribute("almainstitution"), self.source.strip_prefix("/alma/"), "{id}");
        let key = self.partition_key.or(self.subject).unwrap_or(&id);
        assert_eq!(attribute("partitionkey"), Some(key), "{id}");
        // The SDK has read it, and writes its own form of it.
        let time: jiff::Timestamp = attribute("time").expect("a time").parse().expect("RFC 3339");
        let recorded: jiff::Timestamp = attribute("recordedtime").expect("a time").parse().expect("RFC 3339");
        assert_eq!(time, self.time.map_or(time, |time| time.parse().expect("RFC 3339")), "{id}");
        assert!(recorded.duration_since(time) >= jiff::SignedDuration::ZERO && jiff::Timestamp::now() > recorded);
        assert_eq!(landed.data, self.data(), "{id}");
        if landed.mode == "binary" {
            assert_eq!(landed.body(), self.body, "{id}");
        } else if self.content_type == "application/json" {
            let document = landed.body();
            assert!(document.windows(self.body.len()).any(|window| window == self.body), "{id}: byte for byte");
        }
        self.assert_envelope(landed, place, &id, key, recorded);
    }

    /// What the broker itself sees of it.
    fn assert_envelope(&self, landed: &Landed, place: &Place, id: &str, key: &str, recorded: jiff::Timestamp) {
        let structured = landed.mode == "structured";
        let header = |name: &str| landed.headers.get(name).and_then(Value::as_str);
        let content_type = if structured { "application/cloudevents+json" } else { self.content_type };
        match place.broker {
            Broker::Kafka => {
                assert_eq!(landed.key.as_deref(), Some(key));
                assert_eq!(landed.millis, Some(recorded.as_millisecond()));
                assert!(header("content-type").is_some_and(|found| found.starts_with(content_type)));
                assert_eq!(header("ce_id"), (!structured).then_some(id));
            }
            Broker::RabbitMq => {
                assert_eq!(landed.id.as_deref(), Some(id));
                assert_eq!(landed.persistent, Some(true));
                assert_eq!(landed.millis, Some(recorded.as_second() * 1_000));
                assert!(header("content_type").is_some_and(|found| found.starts_with(content_type)));
                assert_eq!(header("cloudEvents_id"), (!structured).then_some(id));
            }
            Broker::Nats => {
                let sink = if structured { "main" } else { "binary" };
                assert_eq!(landed.id.as_deref(), Some(&*format!("{sink}/alma/{id}")));
                assert_eq!(header("Content-Type").is_some(), structured);
                assert_eq!(header("ce-id"), (!structured).then_some(id));
                assert_eq!(header("ce-datacontenttype"), (!structured).then_some(self.content_type));
            }
        }
    }
}

fn hex_digit(value: u8) -> char {
    char::from_digit(value.into(), 16).expect("under 16")
}

fn assert_all(bridge: &Bridge, sink: &str, place: &Place) {
    wait_until_delivered(bridge, sink);
    let landed = place.read();
    assert_eq!(landed.len(), SAMPLES.len());
    for sample in &SAMPLES {
        let id = sample.id();
        let found = landed.iter().find(|landed| landed.attribute("id") == Some(&id)).expect("each sample lands");
        assert_eq!(found.mode, if sink == "main" { "structured" } else { "binary" });
        sample.assert(found, place);
    }
}

fn every_sample_in_both_formats_is_read_by_the_cloudevents_sdk(broker: Broker) {
    let _shared = broker.shared();
    let (structured, binary) = (Place::new(broker), Place::new(broker));
    let setup = Setup::unwritten();
    setup.write_secret("secret2", "clé-secrète");
    setup.configure(&format!(
        "[sources.alma]\npath = \"/webhooks\"\nsecrets = [{{ name = \"current\", file = \"DIR/secret\" }}, \
         {{ name = \"other\", file = \"DIR/secret2\" }}]\n{}{}format = \"cloudevents-binary\"\n",
        structured.sink("main"),
        binary.sink("binary"),
    ));
    let bridge = setup.start();
    for (sink, place) in [("main", &structured), ("binary", &binary)] {
        wait_until_up(&bridge, sink, broker);
        place.subscribe();
    }
    for sample in &SAMPLES {
        let answer = client_with_secret(bridge.ingress, sample.secret, sample.body);
        assert_eq!(answer.status, 204, "{}", answer.text());
    }
    assert_all(&bridge, "main", &structured);
    assert_all(&bridge, "binary", &binary);
}

crate::on_each_broker!(every_sample_in_both_formats_is_read_by_the_cloudevents_sdk);
