//! The format of `GET /metrics`: OpenMetrics if the client asks for it, else the Prometheus text format.

use std::fmt::Write as _;

use hyper::HeaderMap;
use hyper::header::ACCEPT;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Returns the content type and the text for a client with these headers.
pub(super) fn negotiate(headers: &HeaderMap, open_metrics: String) -> (&'static str, String) {
    if accepts_open_metrics(headers) {
        (OPEN_METRICS, open_metrics)
    } else {
        (PROMETHEUS_TEXT, prometheus_text(&open_metrics))
    }
}

/// Whether the client asks for OpenMetrics by name, as Prometheus does.
fn accepts_open_metrics(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|range| {
        let mut parameters = range.split(';').map(str::trim);
        let is_named = parameters.next().is_some_and(|name| name.eq_ignore_ascii_case("application/openmetrics-text"));
        // A weight of 0 refuses it.
        is_named && !parameters.any(|parameter| matches!(parameter, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

/// Turns OpenMetrics text into the Prometheus text format 0.0.4, which every scraper reads.
///
/// The samples are the same. The older format describes a counter or an info under the name of its sample, knows neither
/// `info` nor `unknown`, and has no unit and no end mark.
fn prometheus_text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    // The help of a metric precedes its type, which decides the name.
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = described.split_once(' ').map(|(_, help)| help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|described| described.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                other => ("", other),
            };
            let help = help.take().unwrap_or_default();
            write!(text, "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n")
                .expect("a String takes any write");
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;
    use crate::telemetry::{Registry, latency_histogram};

    #[test]
    fn the_older_format_names_a_counter_and_an_info_by_their_samples() {
        let mut registry = Registry::default();
        registry.register("events", "Events", Counter::<u64>::default()).inc();
        registry.register("delay_seconds", "Delay", latency_histogram()).observe(0.3);
        let text = prometheus_text(&registry.encode());
        for line in [
            "# HELP alma_bridge_events_total Events.",
            "# TYPE alma_bridge_events_total counter",
            "alma_bridge_events_total 1",
            "# TYPE alma_bridge_build_info gauge",
            "# TYPE alma_bridge_delay_seconds histogram",
            "alma_bridge_delay_seconds_bucket{le=\"0.5\"} 1",
            "# TYPE process_start_time_seconds gauge",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("# EOF") && !text.contains("# UNIT") && !text.contains(" info\n"), "{text}");
        let samples = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(samples(&text), samples(&registry.encode()));
    }

    #[test]
    fn open_metrics_is_for_those_who_ask_for_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, expected) in [
            (None, PROMETHEUS_TEXT),
            (Some("*/*"), PROMETHEUS_TEXT),
            (Some("text/plain"), PROMETHEUS_TEXT),
            (Some("application/openmetrics-text;q=0, text/plain"), PROMETHEUS_TEXT),
            (Some("application/OpenMetrics-text; version=1.0.0"), OPEN_METRICS),
            (Some(prometheus), OPEN_METRICS),
        ] {
            let headers = accept.map(|accept| (ACCEPT, accept.parse().expect("a header")));
            let (found, _) = negotiate(&headers.into_iter().collect(), "# EOF\n".to_owned());
            assert_eq!(found, expected, "{accept:?}");
        }
    }
}
