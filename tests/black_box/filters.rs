//! Which events a sink gets: `actions`, `sources`, `jobs`, `statuses`, `institutions`.

use crate::harness::{Setup, landed, loan, wait_for};

const CONFIG: &str = r#"
[sinks.failures]
type = "file"
dir = "DIR/failures"
topic = "alma.{action}.{job}.{status}"
actions = ["job_end"]
jobs = ["!*test*"]
statuses = ["*_failed"]
"#;

fn job(id: u64, name: &str, status: &str) -> String {
    format!(
        r#"{{"id":"{id}","action":"JOB_END","job_instance":{{"id":"{id}","name":"{name}","status":{{"value":"{status}"}}}}}}"#
    )
}

#[test]
fn a_sink_gets_the_jobs_that_failed_and_nothing_else() {
    let setup = Setup::new(CONFIG);
    let bridge = setup.start();
    let wanted = job(1, "Export Bibs", "COMPLETED_FAILED");
    for body in [job(2, "Export Bibs", "COMPLETED_SUCCESS"), job(3, "A Test job", "COMPLETED_FAILED"), wanted.clone()] {
        assert_eq!(bridge.post(body.as_bytes()).outcome(), Some("stored"), "{body}");
    }
    assert_eq!(bridge.post(&loan(4)).outcome(), Some("stored"));
    let topic = "alma.job_end.export_bibs.completed_failed";
    let events = wait_for("the job that failed", || {
        let events = landed(&setup.path("failures"), topic);
        (!events.is_empty()).then_some(events)
    });
    assert_eq!((&events[0]["almajob"], &events[0]["almastatus"]), (&"Export Bibs".into(), &"COMPLETED_FAILED".into()));
    wait_for("three unwanted events", || {
        (bridge.metric("alma_bridge_unwanted_events_total") == Some(3.0)).then_some(())
    });
    let files = std::fs::read_dir(setup.path("failures")).expect("a folder").filter_map(Result::ok);
    let topics: Vec<_> = files.map(|file| file.file_name()).filter(|name| name != "rotated").collect();
    assert!(topics.iter().filter(|name| name.to_string_lossy().ends_with(".jsonl")).count() == 1, "{topics:?}");

    // `explain` says which list keeps an event out.
    for (body, list) in [
        (job(2, "Export Bibs", "COMPLETED_SUCCESS"), "statuses"),
        (job(3, "A Test job", "COMPLETED_FAILED"), "jobs"),
        (String::from_utf8(loan(4)).expect("a text"), "actions"),
    ] {
        std::fs::write(setup.path("body"), body).expect("written");
        let shown = setup.done(&["explain", "body"]);
        assert!(shown.contains(&format!("does not ask for it ({list})")), "{shown}");
    }
    std::fs::write(setup.path("body"), wanted).expect("written");
    let shown = setup.done(&["explain", "body"]);
    assert!(shown.contains(topic) && shown.contains("almajob"), "{shown}");
    assert!(bridge.stop().success());
}
