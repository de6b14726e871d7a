//! The status page: one HTML document without scripts that refreshes itself.

use std::fmt::Write as _;
use std::time::Duration;

use super::Status;
use super::status::{SinkStatus, SourceStatus};
use crate::units;

const HEAD: &str = r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="5">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>alma-bridge</title>
<style>
body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#222;background:#fff;overflow-wrap:break-word}.why{overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}th,td{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid #ddd;vertical-align:top}
.good{color:#136c2e}.bad{color:#a3141b;font-weight:600}small{color:#666}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}th,td{border-color:#444}.good{color:#6fcf8a}.bad{color:#ff8a8a}small{color:#999}}
@media(max-width:45rem){body{overflow-wrap:anywhere}table,tbody,tr,td{display:block}tr:first-child{display:none}tr{border-bottom:1px solid #ddd;padding:.3rem 0}td{border:0;padding:.1rem 0}td::before{content:attr(data-label) ": ";color:#666}}
</style></head><body><main>
"#;

/// Renders the page.
pub(super) fn render(status: &Status) -> String {
    let mut page = String::from(HEAD);
    // Writing to a String can't fail.
    let _ = body(&mut page, status);
    page.push_str("</main></body></html>\n");
    page
}

fn body(page: &mut String, status: &Status) -> std::fmt::Result {
    let (class, word) = match (status.ready, status.attention.is_empty()) {
        (true, true) => ("good", "all is well"),
        (true, false) => ("bad", "needs a person"),
        (false, _) => ("bad", "not ready"),
    };
    writeln!(page, "<h1>alma-bridge <span class=\"{class}\">{word}</span></h1>")?;
    let aged = |moment: &str| escape(&units::with_age(moment, &status.now));
    writeln!(page, "<p><small>version {}, since {}, ", escape(&status.version), aged(&status.started))?;
    let file = status.config.file.as_deref().unwrap_or("built-in defaults");
    writeln!(page, "configuration: {} of {}</small></p>", escape(file), aged(&status.config.loaded))?;
    if let Some(why) = status.unready_reason.as_deref().filter(|why| !status.has_said(why)) {
        writeln!(page, "<p class=\"bad\">{}</p>", escape(why))?;
    }
    if !status.attention.is_empty() {
        page.push_str("<ul>\n");
        for line in &status.attention {
            writeln!(page, "<li class=\"bad\">{}</li>", escape(line))?;
        }
        page.push_str("</ul>\n");
    }
    sources(page, status)?;
    sinks(page, status)?;
    if let Some(journal) = &status.journal {
        writeln!(
            page,
            "<h2>Journal</h2><p>{} of {} waiting, {} kept for replay, {} free on the disk (503 under {})</p>",
            units::size(journal.waiting_bytes),
            units::size(journal.max_size),
            units::size(journal.delivered_bytes),
            units::size(journal.free_bytes),
            units::size(journal.min_free),
        )?;
    }
    Ok(())
}

fn sources(page: &mut String, status: &Status) -> std::fmt::Result {
    page.push_str("<h2>Sources</h2>");
    table(page, &["name", "path", "secrets", "last event", "refused"], &status.sources, |source| {
        let last = match &source.last_event {
            Some(last) => units::with_age(last, &status.now),
            None => "none yet".to_owned(),
        };
        [escape(&source.name), escape(&source.path), escape(&source.secrets.join(", ")), escape(&last), refused(source)]
    })
}

/// How many requests of a source were refused, in red if that needs a person.
fn refused(source: &SourceStatus) -> String {
    let count = source.refused.as_ref().map_or(0, |refused| refused.events);
    format!("<span class=\"{}\">{count}</span>", if count > 0 && source.needs_person { "bad" } else { "" })
}

fn sinks(page: &mut String, status: &Status) -> std::fmt::Result {
    if status.sinks.is_empty() {
        return Ok(());
    }
    page.push_str("<h2>Sinks</h2>");
    table(page, &["name", "type", "state", "waiting", "oldest", "dead letters"], &status.sinks, |sink| {
        let oldest = units::age(Duration::try_from_secs_f64(sink.oldest_waiting_seconds).unwrap_or_default());
        [
            escape(&sink.name),
            escape(sink.kind.as_deref().unwrap_or("")),
            state(sink, status),
            sink.waiting_events.to_string(),
            oldest,
            sink.dead_letters.values().sum::<u64>().to_string(),
        ]
    })
}

/// The state of a sink, since when, and the reason unless the list at the top already gives it.
fn state(sink: &SinkStatus, status: &Status) -> String {
    let class = match (sink.state.as_str(), sink.needs_person) {
        ("up", _) => "good",
        (_, true) => "bad",
        (_, false) => "",
    };
    let mut state = format!("<span class=\"{class}\">{}</span>", escape(&sink.state));
    // Nobody knows when a sink left the configuration.
    if !sink.since.is_empty() {
        let since = escape(&units::with_age(&sink.since, &status.now));
        // Writing to a String can't fail.
        let _ = write!(state, " <small>since {since}</small>");
    }
    if let Some(why) = sink.why.as_deref().filter(|why| !status.has_said(why)) {
        let _ = write!(state, "<br><span class=\"why\">{}</span>", escape(why));
    }
    match sink.parked_topics.len() {
        0 => {}
        1 => state.push_str("<br>1 topic is parked"),
        parked => {
            let _ = write!(state, "<br>{parked} topics are parked");
        }
    }
    state
}

/// Writes a table whose cells are HTML. On a narrow screen, each row becomes a list, and each cell names its column.
fn table<T, const COLUMNS: usize>(
    page: &mut String,
    names: &[&str; COLUMNS],
    rows: &[T],
    cells: impl Fn(&T) -> [String; COLUMNS],
) -> std::fmt::Result {
    writeln!(page, "<table><tr><th>{}", names.join("<th>"))?;
    for row in rows {
        page.push_str("<tr>");
        for (name, cell) in names.iter().zip(cells(row)) {
            write!(page, "<td data-label=\"{name}\">{cell}")?;
        }
        page.push('\n');
    }
    page.push_str("</table>\n");
    Ok(())
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::SinkStatus;

    #[test]
    fn what_a_broker_says_can_not_become_markup() {
        let sink =
            SinkStatus { why: Some("<script>x</script>".into()), state: "waiting".into(), ..SinkStatus::default() };
        let page = render(&Status { sinks: vec![sink], ..Status::default() });
        assert!(page.contains("&lt;script&gt;x"), "{page}");
        assert!(!page.contains("<script>"), "{page}");
    }

    #[test]
    fn says_at_the_top_what_is_wrong() {
        let status = Status { ready: true, attention: vec!["sink main: 3 dead letters".into()], ..Status::default() };
        let page = render(&status);
        assert!(page.contains("needs a person") && page.contains("3 dead letters"), "{page}");
        let page = render(&Status { unready_reason: Some("journal full".into()), ..Status::default() });
        assert!(page.contains("not ready") && page.contains("journal full"), "{page}");
    }

    #[test]
    fn lists_no_fault_twice_and_shows_ages() {
        let sink = SinkStatus {
            why: Some("unreachable: refused".into()),
            state: "retrying".into(),
            since: "2024-01-02T03:04:05.678Z".into(),
            ..SinkStatus::default()
        };
        let source = SourceStatus { last_event: Some("2024-01-02T03:04:00.000Z".into()), ..SourceStatus::default() };
        let mut status = Status {
            now: "2024-01-02T03:04:46.678Z".into(),
            unready_reason: Some("journal full".into()),
            sources: vec![source],
            sinks: vec![sink],
            ..Status::default()
        };
        let page = render(&status);
        assert!(page.contains("(41 s ago)") && page.contains("(46 s ago)"), "{page}");
        status.attention = vec!["no event can be taken: journal full".into(), "sink main: unreachable: refused".into()];
        for page in [page, render(&status)] {
            for fault in ["unreachable: refused", "journal full"] {
                assert_eq!(page.matches(fault).count(), 1, "{page}");
            }
            assert_eq!(
                page.matches("<td").count(),
                page.matches("<td data-label=").count(),
                "cells name their columns"
            );
        }
    }
}
