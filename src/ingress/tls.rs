//! TLS for our own listeners. The process has one crypto provider, and certificates are read again when they change.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

use crate::config::ServerTls;

/// The shortest time between two checks of the files. They are checked only when a client connects.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Makes aws-lc-rs the crypto provider of the whole process. With two providers, the first connection panics.
pub fn install_provider() {
    // Fails only if it is already installed.
    let _ = aws_lc_rs::default_provider().install_default();
}

/// Why a certificate or its key can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct CertificateError {
    /// The key of the configuration that names the file.
    pub key: &'static str,
    /// The file, and what is wrong with it.
    pub problem: String,
}

/// Accepts TLS connections with this certificate, and with those that replace it later.
pub fn acceptor(files: &ServerTls) -> Result<TlsAcceptor, CertificateError> {
    let resolver = Reloading::new(files.clone())?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has cipher suites for these versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The certificate in effect.
struct Reloading {
    files: ServerTls,
    current: Mutex<Current>,
}

struct Current {
    key: Arc<CertifiedKey>,
    changed: [Option<SystemTime>; 2],
    looked: Instant,
}

impl Reloading {
    fn new(files: ServerTls) -> Result<Self, CertificateError> {
        let changed = changed(&files);
        let key = Arc::new(read(&files)?);
        Ok(Self { files, current: Mutex::new(Current { key, changed, looked: Instant::now() }) })
    }

    fn current(&self, now: Instant) -> Arc<CertifiedKey> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(current.looked) >= LOOK_EVERY {
            current.looked = now;
            let changed = changed(&self.files);
            if changed != current.changed {
                current.changed = changed;
                match read(&self.files) {
                    Ok(key) => {
                        tracing::info!("the renewed certificate is in effect");
                        current.key = Arc::new(key);
                    }
                    // Perhaps only one file of the pair is written yet. The other will change the times again.
                    Err(error) => tracing::warn!(%error, "a changed certificate can't be used, the one before stays"),
                }
            }
        }
        Arc::clone(&current.key)
    }
}

impl ResolvesServerCert for Reloading {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current(Instant::now()))
    }
}

impl fmt::Debug for Reloading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reloading({})", self.files.cert_file.display())
    }
}

/// When the files were last written. Follows links, because mounted secrets swap them.
fn changed(files: &ServerTls) -> [Option<SystemTime>; 2] {
    [&files.cert_file, &files.key_file].map(|path| std::fs::metadata(path).and_then(|file| file.modified()).ok())
}

/// Checks that the files hold a certificate and its key.
pub fn check(files: &ServerTls) -> Result<(), CertificateError> {
    read(files).map(drop)
}

fn read(files: &ServerTls) -> Result<CertifiedKey, CertificateError> {
    let bad_certificate = |problem: &dyn fmt::Display| bad_file("ingress.tls.cert_file", &files.cert_file, problem);
    let bad_key = |problem: &dyn fmt::Display| bad_file("ingress.tls.key_file", &files.key_file, problem);
    let chain: Vec<_> = CertificateDer::pem_file_iter(&files.cert_file)
        .and_then(Iterator::collect)
        .map_err(|error| bad_certificate(&error))?;
    if chain.is_empty() {
        return Err(bad_certificate(&"found no certificate, expected PEM"));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key_file).map_err(|error| match error {
        pem::Error::NoItemsFound => bad_key(&"found no private key, expected PEM without a passphrase"),
        error => bad_key(&error),
    })?;
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            bad_key(&format_args!("the key does not belong to the certificate in {}", files.cert_file.display()))
        }
        rustls::Error::InvalidCertificate(_) => bad_certificate(&error),
        error => bad_key(&error),
    })
}

/// A host name that the certificate is valid for. `None` if it has none, or can't be read.
pub fn name_of(files: &ServerTls) -> Option<ServerName<'static>> {
    let certificate = CertificateDer::pem_file_iter(&files.cert_file).ok()?.next()?.ok()?;
    let parsed = webpki::EndEntityCert::try_from(&certificate).ok()?;
    let name = parsed.valid_dns_names().next()?;
    // A certificate for *.example.org is valid for any host there.
    ServerName::try_from(name.replacen('*', "alma-bridge", 1)).ok()
}

fn bad_file(key: &'static str, path: &Path, problem: &dyn fmt::Display) -> CertificateError {
    CertificateError { key, problem: format!("{}: {problem}", path.display()) }
}
