//! `send`: plays Alma to a running bridge: the challenge, then signed events.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, Response, StatusCode, Uri};
use indicatif::{ProgressBar, ProgressStyle};
use rustls::pki_types::ServerName;
use tokio::sync::Mutex;

use super::http::Client;
use super::outside::Outside;
use super::{Failure, Listener, block_on, counted, load, pick_source};
use crate::alma::signature::{SIGNATURE_HEADER, SignatureHeader};
use crate::alma::{Event, samples};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{Config, Secret, Source, SourceName};
use crate::ingress::tls;

/// Connections at once; Alma itself was seen with few.
const CONNECTIONS: u64 = 8;

/// More events than this are summed up only.
const MAX_LINES: u64 = 50;

/// The header that says how an event was taken.
pub(super) const OUTCOME_HEADER: &str = "alma-bridge-outcome";

const EXAMPLES: &str = "\
Examples:
  alma-bridge send                          the challenge, then one sample of every action
  alma-bridge send loan job_end             these two
  alma-bridge send event.json               a file, signed as it is
  alma-bridge send --count 10000 loan       ten thousand, as fast as they are taken
  alma-bridge send --rate 50 --count 3000   fifty a second for a minute
  alma-bridge send --same --count 2 loan    the same event twice: stored, then repeat
  alma-bridge send --url https://bridge.example.org/webhooks

Exit code 1 if anything was answered other than 2xx.";

/// Play Alma: send the challenge, then signed samples or files
///
/// The bridge publishes these made-up events like any others, and subscribers will act on them. Secret and address come
/// from the same configuration as the bridge's. Every event gets a fresh id, except with --same and for files, which are
/// sent byte for byte.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Actions in any case (loan, bib, item, user, …) or files; none: one sample of every action
    #[arg(value_name = "ACTION|FILE")]
    what: Vec<String>,

    /// How many events in all, taking the given ones in turn; default: each once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// Events a second; default: as fast as they are taken
    #[arg(long, value_name = "R", value_parser = positive)]
    rate: Option<f64>,

    /// The whole address of the listener, as Alma's profile has it; default: from the configuration
    ///
    /// With TLS, the default expects a host name that the configured certificate has, whatever the listener's address.
    /// `SSL_CERT_FILE` names an authority that the system does not trust.
    #[arg(long, value_name = "URL")]
    url: Option<Uri>,

    /// The source to play; required if there are several
    #[arg(long, value_name = "NAME")]
    source: Option<SourceName>,

    /// Send the very same bytes again instead of giving every event a fresh id
    #[arg(long)]
    same: bool,

    #[command(flatten)]
    outside: Outside,
}

fn positive(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0).ok_or("expected a number above 0".to_owned())
}

pub(super) fn run(file: Option<&Path>, args: Args) -> Result<(), Failure> {
    let config = load(file)?;
    let source = pick_source(&config, args.source.as_ref())?;
    let secret = signing_secret(source)?.clone();
    let (url, listener, certificate_name) = if let Some(url) = args.url {
        (url, None, None)
    } else {
        let certificate_name = config.ingress.tls.as_ref().and_then(tls::name_of);
        (listener_url(&config, source)?, Some(Listener::Ingress), certificate_name)
    };
    let events = args.what.iter().map(|what| Template::find(what)).collect::<Result<Vec<_>, _>>()?;
    let events = if events.is_empty() { Template::all() } else { events };
    let count = args.count.unwrap_or(events.len() as u64);
    let plan = Plan {
        url,
        listener,
        certificate_name,
        secret,
        events,
        count,
        rate: args.rate,
        same: args.same,
        outside: args.outside,
    };
    block_on(play(plan))
}

/// The secret that events are signed with: the first of the source's that is there.
fn signing_secret(source: &Source) -> Result<&Secret, Failure> {
    source.secrets.iter().find_map(|named| named.secret.as_ref()).ok_or_else(|| {
        Failure::failed(format!(
            "source {} has no secret yet: start the bridge, or see alma-bridge secret",
            source.name
        ))
    })
}

/// The address of a source's listener on this machine.
pub(super) fn listener_url(config: &Config, source: &Source) -> Result<Uri, Failure> {
    let address = super::reachable(config, Listener::Ingress)?;
    let scheme = if config.ingress.tls.is_some() { "https" } else { "http" };
    format!("{scheme}://{address}{}", source.path).parse().map_err(Failure::failed)
}

/// What is sent: a sample that gets an id and a time of its own, or the bytes of a file.
#[derive(Clone)]
enum Template {
    Sample(&'static samples::Sample),
    File { name: String, body: Bytes },
}

impl Template {
    fn all() -> Vec<Self> {
        samples::ALL.iter().map(Self::Sample).collect()
    }

    /// A sample by its action, or else a file.
    fn find(what: &str) -> Result<Self, Failure> {
        if let Some(sample) = samples::find(what) {
            return Ok(Self::Sample(sample));
        }
        match std::fs::read(what) {
            Ok(body) => Ok(Self::File { name: what.to_owned(), body: body.into() }),
            Err(error) => Err(Failure::Usage(format!(
                "{what} is neither an action ({}) nor a file that can be read ({error})",
                samples::ALL.iter().map(|sample| sample.name).collect::<Vec<_>>().join(", "),
            ))),
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Sample(sample) => sample.name,
            Self::File { name, .. } => name,
        }
    }

    fn body(&self, id: u64) -> Bytes {
        match self {
            Self::Sample(sample) => sample.render(&id.to_string(), &SystemClock.now().to_string()).into(),
            Self::File { body, .. } => body.clone(),
        }
    }
}

/// What is to be done.
struct Plan {
    url: Uri,
    /// Of the configuration's own bridge.
    listener: Option<Listener>,
    certificate_name: Option<ServerName<'static>>,
    secret: Secret,
    events: Vec<Template>,
    count: u64,
    rate: Option<f64>,
    same: bool,
    outside: Outside,
}

impl Plan {
    fn client(&self) -> Result<Client, Failure> {
        let client = Client::new(self.url.clone()).map_err(Failure::Usage)?;
        let client = client.expecting(self.certificate_name.clone());
        Ok(match self.listener {
            Some(listener) => client.of_bridge(listener),
            None => client,
        })
    }
}

async fn play(plan: Plan) -> Result<(), Failure> {
    let mut client = plan.client()?;
    challenge(&mut client, &plan.url).await.map_err(Failure::failed)?;
    errln!("challenge answered by {}", plan.url);
    let bodies: Vec<Bytes> = if plan.same {
        let first = first_id();
        plan.events.iter().zip(first..).map(|(event, id)| event.body(id)).collect()
    } else {
        Vec::new()
    };
    let bar = progress(plan.count);
    let shared = Arc::new(Shared {
        next: AtomicU64::new(0),
        first_id: first_id(),
        started: Instant::now(),
        bar: bar.clone(),
        summary: Mutex::new(Summary::default()),
        bodies,
        plan,
    });
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS.min(shared.plan.count) {
        workers.spawn(work(Arc::clone(&shared)));
    }
    while let Some(done) = workers.join_next().await {
        // The others end with the first that fails: nobody reads what they print.
        done.map_err(Failure::failed)??;
    }
    bar.finish_and_clear();
    let took = shared.started.elapsed();
    let summary = std::mem::take(&mut *shared.summary.lock().await);
    summary.print(took, shared.plan.outside);
    if summary.all_taken() { Ok(()) } else { Err(Failure::Silent) }
}

/// Ids as Alma's: 19 digits, above those of an earlier call.
fn first_id() -> u64 {
    1_000_000_000_000_000_000 + SystemClock.now().as_micros()
}

fn progress(count: u64) -> ProgressBar {
    if count <= MAX_LINES || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} events  {per_sec}  {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(count).with_style(style)
}

/// What the workers share.
struct Shared {
    plan: Plan,
    next: AtomicU64,
    first_id: u64,
    started: Instant,
    bar: ProgressBar,
    bodies: Vec<Bytes>,
    summary: Mutex<Summary>,
}

async fn work(shared: Arc<Shared>) -> Result<(), Failure> {
    let plan = &shared.plan;
    let mut client = plan.client()?;
    let widest = plan.events.iter().map(|event| event.name().chars().count()).max().unwrap_or(0);
    loop {
        let index = shared.next.fetch_add(1, Ordering::Relaxed);
        if index >= plan.count {
            return Ok(());
        }
        if let Some(rate) = plan.rate {
            #[allow(clippy::cast_precision_loss, reason = "an index of events is far below 2^52")]
            let due = shared.started + Duration::from_secs_f64(index as f64 / rate);
            tokio::time::sleep_until(due.into()).await;
        }
        let turn = usize::try_from(index % plan.events.len() as u64).unwrap_or_default();
        let event = &plan.events[turn];
        let body = shared.bodies.get(turn).cloned().unwrap_or_else(|| event.body(shared.first_id + index));
        let id = Event::parse(&body).id().map(str::to_owned);
        let sent = Instant::now();
        let answer = client.send(post(&plan.url, &plan.secret, body)).await;
        let said = answer.map_or_else(
            |message| Said { taken: false, outcome: "no answer".to_owned(), message },
            |answer| Said::by(&answer),
        );
        let answer = Answer { took: sent.elapsed(), said };
        if plan.count <= MAX_LINES {
            outln!("{}", answer.line(event.name(), widest, id.as_deref(), plan.outside))?;
        }
        shared.summary.lock().await.add(&answer);
        shared.bar.inc(1);
    }
}

/// A request as Alma makes it.
pub(super) fn post(url: &Uri, secret: &Secret, body: Bytes) -> Request<Full<Bytes>> {
    let signature = SignatureHeader::sign(secret.expose(), &body).to_base64();
    let mut request = Request::post(path_and_query(url))
        .header(CONTENT_TYPE, if body.starts_with(b"<") { "application/xml" } else { "application/json" })
        .body(Full::new(body))
        .expect("path and query come from a valid URL");
    request.headers_mut().insert(SIGNATURE_HEADER, signature.parse().expect("base64 is a header's value"));
    request
}

fn path_and_query(url: &Uri) -> &str {
    url.path_and_query().map_or("/", |path| path.as_str())
}

/// Sends Alma's challenge and checks that it comes back.
pub(super) async fn challenge(client: &mut Client, url: &Uri) -> Result<(), String> {
    let text = format!("challenge-{:016x}", fastrand::u64(..));
    let uri = format!("{}?challenge={text}", url.path());
    let request = Request::get(uri).body(Full::default()).expect("the path comes from a valid URL");
    let answer = client.send(request).await?;
    let expected = format!(r#"{{"challenge":"{text}"}}"#);
    if answer.status() == StatusCode::OK && *answer.body() == expected.as_bytes() {
        return Ok(());
    }
    Err(format!("{url} answered the challenge with {}, expected 200 and the challenge itself", answer.status()))
}

/// What an answer says.
pub(super) struct Said {
    /// Whether it is a 2xx.
    pub(super) taken: bool,
    /// Status and outcome, such as `204 stored`.
    pub(super) outcome: String,
    /// The message of an error; empty if there is none.
    pub(super) message: String,
}

impl Said {
    pub(super) fn by(answer: &Response<Bytes>) -> Self {
        let status = answer.status();
        let outcome = answer.headers().get(OUTCOME_HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let message = if outcome.is_empty() { error_message(answer.body()).unwrap_or_default() } else { String::new() };
        let outcome = format!("{} {outcome}", status.as_u16()).trim_end().to_owned();
        Self { taken: status.is_success(), outcome, message }
    }

    /// All of it, on one line.
    pub(super) fn whole(&self) -> String {
        format!("{} {}", self.outcome, self.message).trim_end().to_owned()
    }
}

fn error_message(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct ErrorBody {
        error_message: String,
    }
    serde_json::from_slice::<ErrorBody>(body).ok().map(|body| body.error_message)
}

/// What came back for one event.
struct Answer {
    took: Duration,
    said: Said,
}

impl Answer {
    /// What has no bound stands last, so that it breaks no column.
    fn line(&self, name: &str, widest: usize, id: Option<&str>, outside: Outside) -> String {
        let Said { outcome, message, .. } = &self.said;
        let (outcome, name, message) = (outside.line(outcome), outside.line(name), outside.line(message));
        let (took, id) = (milliseconds(self.took), id.unwrap_or("-"));
        format!("{outcome:<12} {took:>9}  {name:<widest$}  {id:<19}  {message}").trim_end().to_owned()
    }
}

#[derive(Default)]
struct Summary {
    outcomes: BTreeMap<String, u64>,
    refused: u64,
    took: Vec<Duration>,
}

impl Summary {
    fn add(&mut self, answer: &Answer) {
        self.took.push(answer.took);
        self.refused += u64::from(!answer.said.taken);
        *self.outcomes.entry(answer.said.whole()).or_default() += 1;
    }

    fn all_taken(&self) -> bool {
        self.refused == 0
    }

    fn print(&self, took: Duration, outside: Outside) {
        if let [only] = self.took.as_slice() {
            errln!("1 event, {}", milliseconds(*only));
            return;
        }
        let mut sorted = self.took.clone();
        sorted.sort_unstable();
        let at = |share: usize| {
            sorted.get((sorted.len() * share / 1_000).min(sorted.len() - 1)).copied().unwrap_or_default()
        };
        #[allow(clippy::cast_precision_loss, reason = "a count of events is far below 2^52")]
        let rate = sorted.len() as f64 / took.as_secs_f64().max(1e-9);
        errln!("{}, {}, {rate:.0}/s", counted(sorted.len() as u64, "event"), lasted(took));
        for (said, count) in &self.outcomes {
            errln!("  {count:>7}  {}", outside.line(said));
        }
        errln!(
            "  answered in: median {}, p99 {}, longest {}",
            milliseconds(at(500)),
            milliseconds(at(990)),
            milliseconds(at(1_000))
        );
    }
}

/// For people: `3.2 ms`, and from a second on `1.5 s`.
fn lasted(took: Duration) -> String {
    if took < Duration::from_secs(1) { milliseconds(took) } else { format!("{:.1} s", took.as_secs_f64()) }
}

/// For people: `3.2 ms`.
pub(super) fn milliseconds(took: Duration) -> String {
    format!("{:.1} ms", took.as_secs_f64() * 1_000.0)
}
