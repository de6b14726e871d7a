//! The status page: one HTML document without scripts, that renews itself.

use std::fmt::Write as _;

use super::Status;
use super::status::SinkStatus;

const HEAD: &str = r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="5">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>alma-bridge</title>
<style>
body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#222;background:#fff}
table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}th,td{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid #ddd;vertical-align:top}
.good{color:#136c2e}.bad{color:#a3141b;font-weight:600}small{color:#666}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}th,td{border-color:#444}.good{color:#6fcf8a}.bad{color:#ff8a8a}small{color:#999}}
</style></head><body><main>
"#;

/// The page of a status.
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
    writeln!(page, "<p><small>version {}, since {}, ", escape(&status.version), escape(&status.started))?;
    let file = status.config.file.as_deref().unwrap_or("built-in defaults");
    writeln!(page, "configuration: {} of {}</small></p>", escape(file), escape(&status.config.loaded))?;
    if let Some(why) = &status.unready_reason {
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
            "<h2>Journal</h2><p>{} of {} waiting, {} delivered and kept, {} free on the disk (503 under {})</p>",
            bytes(journal.waiting_bytes),
            bytes(journal.max_size),
            bytes(journal.delivered_bytes),
            bytes(journal.free_bytes),
            bytes(journal.min_free),
        )?;
    }
    Ok(())
}

fn sources(page: &mut String, status: &Status) -> std::fmt::Result {
    page.push_str("<h2>Sources</h2><table><tr><th>name<th>path<th>secrets<th>last event\n");
    for source in &status.sources {
        let last = source.last_event.as_deref().unwrap_or("none since the start");
        let secrets = source.secrets.join(", ");
        let cells = [source.name.as_str(), &source.path, &secrets, last].map(escape);
        writeln!(page, "<tr><td>{}", cells.join("<td>"))?;
    }
    page.push_str("</table>\n");
    Ok(())
}

fn sinks(page: &mut String, status: &Status) -> std::fmt::Result {
    page.push_str("<h2>Sinks</h2><table><tr><th>name<th>type<th>state<th>waiting<th>oldest<th>dead letters\n");
    for sink in &status.sinks {
        let class = if sink.state == "up" { "good" } else { "bad" };
        writeln!(
            page,
            "<tr><td>{}<td>{}<td><span class=\"{class}\">{}</span> <small>since {}</small>{}<td>{}<td>{:.0} s<td>{}",
            escape(&sink.name),
            escape(sink.kind.as_deref().unwrap_or("")),
            escape(&sink.state),
            escape(&sink.since),
            remarks(sink),
            sink.waiting_events,
            sink.oldest_waiting_seconds,
            sink.dead_letters.values().sum::<u64>(),
        )?;
    }
    page.push_str("</table>\n");
    Ok(())
}

fn remarks(sink: &SinkStatus) -> String {
    let mut remarks = String::new();
    if let Some(why) = &sink.why {
        let _ = write!(remarks, "<br>{}", escape(why));
    }
    for parked in &sink.parked_topics {
        let _ =
            write!(remarks, "<br>{} is parked: {} {}", escape(&parked.topic), parked.reason, escape(&parked.detail));
    }
    remarks
}

fn bytes(count: u64) -> String {
    bytesize::ByteSize(count).display().iec().to_string()
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
}
