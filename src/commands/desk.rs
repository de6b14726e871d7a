//! Where the tools for the bad day are used: at the running bridge, by its admin listener, or on the journal of one that
//! does not run, under its lock.

use std::io::{self, IsTerminal as _, Write as _};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::http::Client;
use super::{Failure, Listener, reachable};
use crate::admin::tools::{Order, Place};
use crate::bridge::Stopped;
use crate::config::{Config, Log, LogFormat, SinkName, Storage};
use crate::telemetry::logs;
use crate::tls;

/// Takes orders.
pub(super) struct Desk(Where);

enum Where {
    Running {
        client: Client,
        authorization: HeaderValue,
        /// It has answered once.
        met: bool,
    },
    Stopped(Box<Stopped>),
}

impl Desk {
    /// At whoever holds the journal: the bridge, where one runs, else this process. Blocks, on tokio's runtime.
    pub(super) fn open(config: &Config) -> Result<Self, Failure> {
        let dir = config.journal_dir();
        if config.journal.storage == Storage::None {
            return Err(Failure::failed(
                "storage = \"none\" keeps no journal: nothing to replay, no dead letters, no places of sinks",
            ));
        }
        if !dir.exists() {
            return Err(Failure::failed(format!(
                "there is no journal in {}: no bridge has run with this configuration (see data_dir)",
                dir.display()
            )));
        }
        // A sink that is started here speaks TLS, and what is wrong with the journal or the sink is to be seen.
        tls::install_provider();
        let log = Log { level: "warn".to_owned(), format: Some(LogFormat::Text) };
        logs::init(&log).map_err(Failure::failed)?;
        if let Some(stopped) = Stopped::open(config).map_err(Failure::failed)? {
            errln!("no bridge runs: working on the journal in {} (a bridge that starts now waits)", dir.display());
            return Ok(Self(Where::Stopped(Box::new(stopped))));
        }
        let address = reachable(config, Listener::Admin)?;
        let token = config.admin_token().map_err(|error| {
            Failure::failed(format!("can't read the admin token {}: {error}", config.admin.token_file.display()))
        })?;
        let mut authorization = HeaderValue::from_bytes(&[b"Bearer ".as_slice(), token.expose()].concat())
            .map_err(|_| Failure::failed("the admin token has characters that no header can hold"))?;
        authorization.set_sensitive(true);
        let url = format!("http://{address}/tools").parse().map_err(Failure::failed)?;
        let client = Client::new(url).map_err(Failure::failed)?;
        Ok(Self(Where::Running { client, authorization, met: false }))
    }

    /// Has an order carried out. `T` is the shape that stands beside the order.
    pub(super) async fn ask<T: DeserializeOwned>(&mut self, order: &Order) -> Result<T, Failure> {
        let answer = match &mut self.0 {
            Where::Stopped(stopped) => stopped.operate(order.clone()).await.map_err(Failure::Failed)?,
            Where::Running { client, authorization, met } => {
                let body = serde_json::to_vec(order).map_err(Failure::failed)?;
                let request = Request::post("/tools")
                    .header(CONTENT_TYPE, "application/json")
                    .header(AUTHORIZATION, authorization.clone())
                    .body(Full::<Bytes>::from(body))
                    .expect("a constant path and valid headers");
                let lost = if *met {
                    "the bridge went away, what became of the last order is not known"
                } else {
                    "another process holds the journal, and no bridge answers"
                };
                let answer = client.send(request).await.map_err(|why| Failure::failed(format!("{lost}: {why}")))?;
                *met = true;
                read(&answer)?
            }
        };
        serde_json::from_value(answer).map_err(|error| {
            Failure::failed(format!("the answer was not understood, is the bridge of another version? {error}"))
        })
    }

    /// Lets go of a stopped bridge's journal.
    pub(super) async fn close(self) {
        if let Where::Stopped(stopped) = self.0 {
            stopped.close().await;
        }
    }
}

fn read(answer: &Response<Bytes>) -> Result<Value, Failure> {
    let document: Option<Value> = serde_json::from_slice(answer.body()).ok();
    let said = document.as_ref().and_then(|document| document.get("errorMessage")?.as_str()).unwrap_or_default();
    match (answer.status(), document.as_ref()) {
        (StatusCode::OK, Some(document)) => Ok(document.clone()),
        (StatusCode::CONFLICT, _) => Err(Failure::failed(said)),
        (StatusCode::UNAUTHORIZED, _) => {
            Err(Failure::failed("the bridge refused the admin token: is it another bridge's data_dir?"))
        }
        (status, _) => Err(Failure::failed(format!("the admin listener answered {status} {said}"))),
    }
}

/// The sink of that name, which need not be configured, or the only one there is.
pub(super) async fn pick_sink(desk: &mut Desk, name: Option<&SinkName>) -> Result<SinkName, Failure> {
    if let Some(name) = name {
        return Ok(name.clone());
    }
    let places: Vec<Place> = desk.ask(&Order::Sinks {}).await?;
    if let [only] = places.as_slice() {
        Ok(only.name.clone())
    } else {
        let names: Vec<&str> = places.iter().map(|place| place.name.as_str()).collect();
        Err(Failure::Usage(format!("there are several sinks, name one by --sink: {}", names.join(", "))))
    }
}

/// Asks whether to go on with what can't be undone; `--yes` has said so already.
pub(super) fn confirmed(what: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        errln!("{what}");
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage(format!("{what}\nthis can't be undone: --yes says that it is meant")));
    }
    // A prompt that can't be shown can't be answered either.
    write!(io::stderr(), "{what}\nThis can't be undone. Go on? [y/N] ").map_err(Failure::failed)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(Failure::failed)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::failed("nothing was done")),
    }
}
