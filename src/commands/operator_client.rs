//! Sends operators' requests to the running bridge, by its admin listener, or carries them out on the journal of a
//! stopped bridge, under its lock.

use std::io::{self, IsTerminal as _, Write as _};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Failure;
use super::http::Client;
use super::running::RunningBridge;
use crate::config::{Config, Log, LogFormat, SinkName, Storage};
use crate::ingress::tls;
use crate::journal::JournalLock;
use crate::operator::OfflineJournal;
use crate::operator::{ListedSink, OperatorRequest};
use crate::printable::Printable;
use crate::telemetry::logs;

/// Carries out operators' requests.
pub(super) struct OperatorClient(Where);

enum Where {
    Running {
        client: Client,
        authorization: HeaderValue,
        /// The bridge has answered before.
        met: bool,
    },
    Offline(Box<OfflineJournal>),
}

impl OperatorClient {
    /// At whoever holds the journal: the bridge, where one runs, else this process. Blocks, on tokio's runtime.
    pub(super) fn open(bridge: &mut RunningBridge) -> Result<Self, Failure> {
        if let Some(broken) = bridge.broken() {
            let dir = bridge.config.journal_dir();
            // Only the bridge knows the configuration that it runs with.
            let runs = dir.exists() && JournalLock::acquire(&dir).is_ok_and(|lock| lock.is_none());
            if !runs {
                return Err(bridge.not_found(Failure::Silent));
            }
            errln!("warning: {}; the bridge keeps running with the previous one", Printable::line(&broken));
        }
        let config = &bridge.config;
        let dir = config.journal_dir();
        if config.journal.storage == Storage::None {
            return Err(Failure::failed(
                "with storage = \"none\" there is no journal: nothing to replay, no dead letters, no places of sinks",
            ));
        }
        if !dir.exists() {
            return Err(Failure::failed(format!(
                "there is no journal in {}: no bridge has run with this configuration (see data_dir)",
                dir.display()
            )));
        }
        // A sink that is started here may use TLS, and warnings about the journal or the sink should be visible.
        tls::install_provider();
        let log = Log { level: "warn".to_owned(), format: Some(LogFormat::Text) };
        logs::init(&log).map_err(Failure::failed)?;
        if let Some(journal) = OfflineJournal::open(config).map_err(Failure::failed)? {
            errln!("no bridge runs: working on the journal in {} (a bridge that starts now waits)", dir.display());
            return Ok(Self(Where::Offline(Box::new(journal))));
        }
        let client = bridge.client()?;
        let authorization = authorization(config)?;
        Ok(Self(Where::Running { client, authorization, met: false }))
    }

    /// Has a request carried out. `T` is the type that is documented with the request.
    pub(super) async fn ask<T: DeserializeOwned>(&mut self, request: &OperatorRequest) -> Result<T, Failure> {
        let answer = match &mut self.0 {
            Where::Offline(journal) => journal.operate(request.clone()).await.map_err(Failure::failed)?,
            Where::Running { client, authorization, met } => {
                let body = serde_json::to_vec(request).map_err(Failure::failed)?;
                let request = Request::post("/tools")
                    .header(CONTENT_TYPE, "application/json")
                    .header(AUTHORIZATION, authorization.clone())
                    .body(Full::<Bytes>::from(body))
                    .expect("a constant path and valid headers");
                let lost = if *met {
                    "the bridge stopped answering, and it is not known whether it carried out the last request"
                } else {
                    "another process holds the journal, and no bridge answers"
                };
                let answer = client.send(request).await.map_err(|why| Failure::failed(format!("{lost}: {why}")))?;
                *met = true;
                read(&answer)?
            }
        };
        serde_json::from_value(answer).map_err(|error| {
            Failure::failed(format!("the answer cannot be read: does the bridge have another version? {error}"))
        })
    }

    /// Closes a stopped bridge's journal.
    pub(super) async fn close(self) {
        if let Where::Offline(journal) = self.0 {
            journal.close().await;
        }
    }
}

/// The Authorization header that a running bridge requires for a request that changes something.
pub(super) fn authorization(config: &Config) -> Result<HeaderValue, Failure> {
    let token = config.admin_token().map_err(|error| {
        Failure::failed(format!("cannot read the admin token {}: {error}", config.admin.token_file.display()))
    })?;
    let mut authorization = HeaderValue::from_bytes(&[b"Bearer ".as_slice(), token.expose()].concat())
        .map_err(|_| Failure::failed("the admin token has characters that are not allowed in a header"))?;
    authorization.set_sensitive(true);
    Ok(authorization)
}

fn read(answer: &Response<Bytes>) -> Result<Value, Failure> {
    let document = (answer.status() == StatusCode::OK).then(|| serde_json::from_slice(answer.body()).ok()).flatten();
    document.ok_or_else(|| refusal(answer))
}

/// The error that a running bridge answered with.
pub(super) fn refusal(answer: &Response<Bytes>) -> Failure {
    let document: Option<Value> = serde_json::from_slice(answer.body()).ok();
    let said = document.as_ref().and_then(|document| document.get("errorMessage")?.as_str()).unwrap_or_default();
    match answer.status() {
        StatusCode::CONFLICT => Failure::failed(said),
        StatusCode::UNAUTHORIZED => {
            Failure::failed("the bridge refused the admin token: does data_dir belong to another bridge?")
        }
        status => Failure::failed(format!("the admin listener answered {status} {said}")),
    }
}

/// The sink of this name, which need not be configured, or the only sink.
pub(super) async fn pick_sink(operator: &mut OperatorClient, name: Option<&SinkName>) -> Result<SinkName, Failure> {
    if let Some(name) = name {
        return Ok(name.clone());
    }
    let places: Vec<ListedSink> = operator.ask(&OperatorRequest::Sinks {}).await?;
    if let [only] = places.as_slice() {
        Ok(only.name.clone())
    } else {
        let names: Vec<&str> = places.iter().map(|place| place.name.as_str()).collect();
        Err(Failure::Usage(format!("there are several sinks, choose one with --sink: {}", names.join(", "))))
    }
}

/// Asks whether to do something that can't be undone, unless `--yes` was given.
pub(super) fn confirmed(what: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        errln!("{what}");
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage(format!("{what}\nthis cannot be undone; add --yes to confirm")));
    }
    // Without a prompt there would be no answer.
    write!(io::stderr(), "{what}\nThis cannot be undone. Go on? [y/N] ").map_err(Failure::failed)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(Failure::failed)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::failed("nothing was done")),
    }
}
