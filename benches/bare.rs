//! The least that the bridge's crates come to, for `benches/sizes`: a server of hyper behind rustls that hands each body to
//! one client, TLS and log-in included, and answers once it is confirmed. It has no journal, no settings and no metrics,
//! and is built to be weighed, not to be run.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn var(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

#[tokio::main]
async fn main() {
    let clients = Arc::new(Clients::connect().await);
    let certificates = CertificateDer::pem_file_iter(var("CERT")).expect("read").map(|pem| pem.expect("a certificate"));
    let tls = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(certificates.collect(), PrivateKeyDer::from_pem_file(var("KEY")).expect("a key"))
        .expect("fits");
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    loop {
        let (stream, _) = listener.accept().await.expect("accepted");
        let (acceptor, clients) = (acceptor.clone(), Arc::clone(&clients));
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(|request| answer(request, &clients));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, clients: &Clients) -> Result<Response<Empty<Bytes>>, Infallible> {
    if let Ok(body) = request.into_body().collect().await {
        clients.publish(body.to_bytes()).await;
    }
    let mut answer = Response::new(Empty::new());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    Ok(answer)
}

/// One of each kind that is built in.
struct Clients {
    #[cfg(feature = "kafka")]
    kafka: rdkafka::producer::FutureProducer,
    #[cfg(feature = "rabbitmq")]
    rabbitmq: lapin::Channel,
    #[cfg(feature = "nats")]
    nats: async_nats::jetstream::Context,
}

impl Clients {
    async fn connect() -> Self {
        Self {
            #[cfg(feature = "kafka")]
            kafka: {
                let mut config = rdkafka::ClientConfig::new();
                config.set("bootstrap.servers", var("KAFKA")).set("security.protocol", "sasl_ssl");
                config.create().expect("a client")
            },
            #[cfg(feature = "rabbitmq")]
            rabbitmq: {
                let runtime = async_rs::Runtime::tokio_current();
                let options = lapin::ConnectionProperties::default();
                let connection = lapin::Connection::connect_with_runtime(&var("RABBITMQ"), options, runtime).await;
                connection.expect("connects").create_channel().await.expect("a channel")
            },
            #[cfg(feature = "nats")]
            nats: {
                let options = async_nats::ConnectOptions::with_user_and_password(var("USER"), var("PASSWORD"));
                let client = options.require_tls(true).connect(var("NATS")).await.expect("connects");
                async_nats::jetstream::new(client)
            },
        }
    }

    async fn publish(&self, body: Bytes) {
        #[cfg(feature = "kafka")]
        {
            let record = rdkafka::producer::FutureRecord::<(), _>::to("topic").payload(body.as_ref());
            self.kafka.send(record, std::time::Duration::from_secs(5)).await.expect("confirmed");
        }
        #[cfg(feature = "rabbitmq")]
        {
            let (options, properties) =
                (lapin::options::BasicPublishOptions::default(), lapin::BasicProperties::default());
            let sent = self.rabbitmq.basic_publish("exchange".into(), "key".into(), options, &body, properties).await;
            sent.expect("sent").await.expect("confirmed");
        }
        #[cfg(feature = "nats")]
        self.nats.publish("subject", body.clone()).await.expect("sent").await.expect("confirmed");
        drop(body);
    }
}
