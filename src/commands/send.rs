//! `send`: plays Alma to a running bridge. It sends the challenge and then signed events.

mod answer;

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode, Uri};
use indicatif::{ProgressBar, ProgressStyle};
use rustls::pki_types::ServerName;
use tokio::sync::Mutex;

use super::http::Client;
use super::outside::Outside;
use super::{Failure, Listener, block_on, load, pick_source};
use crate::alma::signature::{SIGNATURE_HEADER, SignatureHeader};
use crate::alma::{Event, samples};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{Config, Secret, Source, SourceName};
use crate::ingress::tls;
use answer::{Answer, Summary};

pub(super) use answer::{Said, milliseconds};

/// Concurrent connections. Alma itself opens only a few.
const CONNECTIONS: u64 = 8;

/// Up to this many events get a line each. More are only summed up.
const MAX_LINES: u64 = 50;

const EXAMPLES: &str = "\
Examples:
  alma-bridge send                          the challenge, then one sample of every action
  alma-bridge send loan job_end             these two
  alma-bridge send event.json               a file, byte for byte
  alma-bridge send --count 10000 loan       ten thousand, as fast as the bridge takes them
  alma-bridge send --rate 50 --count 3000   fifty a second for a minute
  alma-bridge send --same --count 2 loan    the same event twice: stored, then repeat
  alma-bridge send --url https://bridge.example.org/webhooks

Exits with 1 if any answer is not a 2xx.";

/// Play Alma: send the challenge, then signed samples or files
///
/// The bridge publishes these made-up events like any others, and subscribers will act on them. The secret and the
/// address come from the bridge's configuration. Every event gets a fresh id, except with --same. Files are sent byte
/// for byte.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Actions in any case (loan, bib, item, user, …) or files; default: one sample of every action
    #[arg(value_name = "ACTION|FILE")]
    what: Vec<String>,

    /// How many events to send in all, in turn; default: each once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// Events per second; default: as fast as the bridge takes them
    #[arg(long, value_name = "R", value_parser = positive)]
    rate: Option<f64>,

    /// The URL of the listener, as in Alma's profile; default: from the configuration
    ///
    /// With TLS and without --url, the certificate must have one of its own host names instead of the listener's
    /// address. `SSL_CERT_FILE` names a file with authorities that the system does not know.
    #[arg(long, value_name = "URL")]
    url: Option<Uri>,

    /// The source to play; required if there are several
    #[arg(long, value_name = "NAME")]
    source: Option<SourceName>,

    /// Send the same bytes again instead of giving every event a fresh id
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

/// The secret that events are signed with: the first secret of the source that exists.
fn signing_secret(source: &Source) -> Result<&Secret, Failure> {
    source.secrets.iter().find_map(|named| named.secret.as_ref()).ok_or_else(|| {
        Failure::failed(format!(
            "source {} has no secret yet: start the bridge, or run \"alma-bridge secret\"",
            source.name
        ))
    })
}

/// The URL of a source's listener on this machine.
pub(super) fn listener_url(config: &Config, source: &Source) -> Result<Uri, Failure> {
    let address = super::reachable(config, Listener::Ingress)?;
    let scheme = if config.ingress.tls.is_some() { "https" } else { "http" };
    format!("{scheme}://{address}{}", source.path).parse().map_err(Failure::failed)
}

/// What to send: a sample that gets its own id and time, or the bytes of a file.
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

/// What to send, and where.
struct Plan {
    url: Uri,
    /// The listener, if the URL is from the configuration.
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
        // The first failure ends the others too, because nobody reads their output any more.
        done.map_err(Failure::failed)??;
    }
    bar.finish_and_clear();
    let took = shared.started.elapsed();
    let summary = std::mem::take(&mut *shared.summary.lock().await);
    summary.print(took, shared.plan.outside);
    if summary.all_taken() { Ok(()) } else { Err(Failure::Silent) }
}

/// An id like Alma's: 19 digits, and higher than those of earlier calls.
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
