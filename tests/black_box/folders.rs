//! A folder of topic files belongs to one sink. Two sinks would cut off each other's lines.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;

use crate::harness::{Setup, landed, loan, number_of, text, wait_for};

#[test]
fn two_sinks_with_one_folder_are_a_configuration_error() {
    let setup = Setup::new("");
    fs::create_dir(setup.path("real")).expect("made");
    symlink(setup.path("real"), setup.path("link")).expect("linked");
    for (first, second) in [("real", "real/"), ("real/x", "real/y/../x"), ("real/x", "link/x")] {
        setup.configure(&format!(
            "[sinks.first]\ntype = \"file\"\ndir = \"DIR/{first}\"\n[sinks.second]\ntype = \"file\"\ndir = \"DIR/{second}\"\n"
        ));
        let said = setup.fails(78, &["run"]);
        assert!(said.contains("sinks.second.dir") && said.contains("sink first"), "{said}");
    }
}

#[test]
fn another_bridge_waits_until_the_folder_is_free() {
    let [first, second] = [Setup::new(""), Setup::unwritten()];
    let bridge = first.start();
    let topics = first.data().join("topics");
    second.configure(&format!("[sinks.main]\ntype = \"file\"\ndir = \"{}\"\n", topics.display()));
    let other = second.start();
    let why = wait_for("the second to say why it waits", || {
        let status = other.status();
        status["sinks"][0]["why"].as_str().map(str::to_owned)
    });
    assert!(why.contains("topics") && why.contains("one sink"), "{why}");
    assert_eq!((bridge.post(&loan(1)).status, other.post(&loan(2)).status), (204, 204));
    wait_for("the first one's event", || (first.landed("alma.loan").len() == 1).then_some(()));
    let seen = first.done(&["tail", "--from-start", "--count", "1"]);
    assert!(seen.contains("loan"), "reading needs no lock: {seen}");
    assert!(bridge.stop().success());
    wait_for("the second one's event", || (first.landed("alma.loan").len() == 2).then_some(()));
    let numbers: BTreeSet<u64> = landed(&topics, "alma.loan").iter().map(number_of).collect();
    assert_eq!(numbers, BTreeSet::from([1, 2]));
}

#[test]
fn the_demo_leaves_the_folder_of_a_running_bridge_alone() {
    let setup = Setup::new("[sinks.main]\ntype = \"file\"\n");
    let bridge = setup.start();
    assert_eq!(bridge.post(&loan(1)).status, 204);
    wait_for("the event to land", || (setup.landed("alma.loan").len() == 1).then_some(()));
    let output = setup.command(&["demo"]);
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output.stdout).contains("alma.job_end"), "{output:?}");
    let files: Vec<_> = fs::read_dir(setup.data().join("topics")).expect("a folder").collect();
    assert_eq!((files.len(), setup.landed("alma.loan").len()), (1, 1), "{files:?}");
}
