//! Starts a real proxy on a free port of loopback, with a configuration from `deploy/proxies`.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;

use crate::harness::{Bridge, Client, wait_for};

const NGINX: &str = include_str!("../../deploy/proxies/nginx.conf");
const HAPROXY: &str = include_str!("../../deploy/proxies/haproxy.cfg");
const CADDY: &str = include_str!("../../deploy/proxies/Caddyfile");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Nginx,
    HaProxy,
    Caddy,
}

impl Kind {
    /// The program's name, and that of its Debian package.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::HaProxy => "haproxy",
            Self::Caddy => "caddy",
        }
    }

    /// The configuration that the documentation shows, in front of these bridges. Only addresses and paths of files differ.
    fn documented(self, bridges: &[Backend], address: SocketAddr, folder: &Path) -> String {
        let file = |name: &str| folder.join(name).display().to_string();
        let (certificate, key, both) = (file("tls.crt"), file("tls.key"), file("tls.pem"));
        let ingress = |index: usize| bridges[index].ingress.to_string();
        let admin_port = bridges[0].admin.port();
        let mut text = Text(match self {
            Self::Nginx => NGINX.to_owned(),
            Self::HaProxy => HAPROXY.to_owned(),
            Self::Caddy => CADDY.to_owned(),
        });
        match self {
            Self::Nginx => {
                text.replace("listen 443 ssl", &format!("listen {address} ssl"));
                text.replace("/etc/ssl/alma.example.org.pem", &certificate);
                text.replace("/etc/ssl/alma.example.org.key", &key);
                text.replace("127.0.0.1:2562", &ingress(0));
                if bridges.len() > 1 {
                    text.replace("#server 10.0.0.2:2562", &format!("server {}", ingress(1)));
                }
            }
            Self::HaProxy => {
                text.replace("bind :443", &format!("bind {address}"));
                text.replace("/etc/ssl/alma.example.org.pem", &both);
                if bridges.len() > 1 {
                    text.replace("    server bridge 127.0.0.1:2562\n", "");
                    text.replace("#option httpchk", "option httpchk");
                    text.replace("#default-server check port 2563", &format!("default-server check port {admin_port}"));
                    text.replace("#server bridge-0 10.0.0.1:2562", &format!("server bridge-0 {}", ingress(0)));
                    text.replace("#server bridge-1 10.0.0.2:2562", &format!("server bridge-1 {}", ingress(1)));
                } else {
                    text.replace("127.0.0.1:2562", &ingress(0));
                }
            }
            Self::Caddy => {
                // Any host: the tests' requests name another one than this address.
                text.replace("alma.example.org {", &format!("https://:{} {{", address.port()));
                text.replace(
                    "#tls /etc/ssl/alma.example.org.pem /etc/ssl/alma.example.org.key",
                    &format!("tls {certificate} {key}"),
                );
                text.replace("health_port 2563", &format!("health_port {admin_port}"));
                let all: Vec<String> = bridges.iter().map(|bridge| bridge.ingress.to_string()).collect();
                text.replace("127.0.0.1:2562", &all.join(" "));
            }
        }
        text.0
    }

    /// What stands around that file on a machine, and the command that runs it all in the foreground.
    fn command(self, text: &str, folder: &Path) -> Command {
        let file = |name: &str| folder.join(name).display().to_string();
        let mut main = String::new();
        match self {
            Self::Nginx => {
                main += "daemon off; worker_processes 1; user root;\nevents {}\nhttp {\naccess_log off;\n";
                for part in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
                    writeln!(main, "{part}_temp_path {};", file(part)).expect("written");
                }
                main += text;
                main += "}\n";
            }
            Self::HaProxy => main += text,
            Self::Caddy => {
                // Caddy's certificates and settings stay in this folder, and it opens no port 80.
                let global = "admin off\nauto_https disable_redirects\ndefault_bind 127.0.0.1";
                write!(main, "{{\n{global}\nstorage file_system {}\n}}\n{text}", file("caddy")).expect("written");
            }
        }
        fs::write(folder.join("conf"), main).expect("written");
        let given = std::env::var_os(format!("ALMA_BRIDGE_TEST_{}", self.name().to_uppercase()));
        let mut command = Command::new(given.unwrap_or_else(|| self.name().into()));
        let conf = file("conf");
        match self {
            Self::Nginx => command.args(["-e", "stderr", "-p", &file(""), "-c", &conf]),
            Self::HaProxy => command.args(["-db", "-f", &conf]),
            Self::Caddy => command.args(["run", "--adapter", "caddyfile", "--config", &conf]).env("HOME", folder),
        };
        command
    }
}

/// A text in which each replacement must find what it replaces.
struct Text(String);

impl Text {
    fn replace(&mut self, from: &str, to: &str) {
        assert!(self.0.contains(from), "`{from}` is not in\n{}", self.0);
        self.0 = self.0.replace(from, to);
    }
}

/// Where a bridge listens.
#[derive(Clone, Copy)]
pub(crate) struct Backend {
    pub(crate) ingress: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl From<&Bridge> for Backend {
    fn from(bridge: &Bridge) -> Self {
        Self { ingress: bridge.ingress, admin: bridge.admin }
    }
}

impl Backend {
    /// Of so many bridges, at addresses where they can restart: each on a loopback address of its own, all on the same ports.
    pub(crate) fn reserved<const COUNT: usize>() -> [Self; COUNT] {
        let (ingress, admin) = (free_address().port(), free_address().port());
        std::array::from_fn(|index| {
            let host = [127, 0, 0, u8::try_from(index + 1).expect("a few")];
            Self { ingress: (host, ingress).into(), admin: (host, admin).into() }
        })
    }

    /// These addresses in a bridge's configuration.
    pub(crate) fn listeners(self) -> String {
        format!("[ingress]\nlisten = \"{}\"\n[admin]\nlisten = \"{}\"\n", self.ingress, self.admin)
    }
}

/// Where a client knocks.
#[derive(Clone)]
pub(crate) struct Door {
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
}

impl Door {
    pub(crate) fn try_client(&self) -> Option<Client> {
        match &self.tls {
            Some(config) => Client::try_connect_tls(self.address, Arc::clone(config)),
            None => Client::try_connect(self.address),
        }
    }

    pub(crate) fn client(&self) -> Client {
        self.try_client().expect("connects")
    }
}

/// A running proxy; ended when dropped.
pub(crate) struct Proxy {
    pub(crate) door: Door,
    pub(crate) kind: Kind,
    child: Child,
    folder: TempDir,
}

impl Proxy {
    /// With the configuration that the documentation shows, over TLS.
    pub(crate) fn start(kind: Kind, bridges: &[Backend]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("made");
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        for (name, content) in
            [("tls.crt", &certificate), ("tls.key", &key), ("tls.pem", &(certificate.clone() + &key))]
        {
            fs::write(folder.path().join(name), content).expect("written");
        }
        let address = free_address();
        let text = kind.documented(bridges, address, folder.path());
        Self::run(kind, &text, Door { address, tls: Some(trusting(made.cert.der().clone())) }, folder)
    }

    /// With a configuration of the test's own, without TLS. In it, `ADDRESS` and `PORT` are where the proxy listens.
    pub(crate) fn start_with(kind: Kind, text: &str) -> Self {
        let address = free_address();
        let folder = tempfile::tempdir().expect("a folder");
        let text = text.replace("ADDRESS", &address.to_string()).replace("PORT", &address.port().to_string());
        Self::run(kind, &text, Door { address, tls: None }, folder)
    }

    fn run(kind: Kind, text: &str, door: Door, folder: TempDir) -> Self {
        let log = File::create(folder.path().join("log")).expect("a log");
        let mut command = kind.command(text, folder.path());
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| {
            let name = kind.name();
            panic!("can't start {name}: {error}; install it (apt-get install {name}), or run me by `tests/brokers run`")
        });
        let mut proxy = Self { door, kind, child, folder };
        wait_for("the proxy to listen", || {
            let ended = proxy.child.try_wait().expect("waits");
            assert!(ended.is_none(), "{kind:?} ended: {ended:?}");
            TcpStream::connect(proxy.door.address).ok()
        });
        proxy
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Not killed at once: nginx's workers would stay.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- the end of {}'s log\n{}",
                self.kind.name(),
                lines[lines.len().saturating_sub(20)..].join("\n")
            );
        }
    }
}

/// A client's TLS that trusts this certificate alone.
fn trusting(certificate: CertificateDer<'static>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("a certificate");
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let versions = ClientConfig::builder_with_provider(provider.into()).with_safe_default_protocol_versions();
    Arc::new(versions.expect("a provider").with_root_certificates(roots).with_no_client_auth())
}

/// A free port of loopback outside the range from which clients get theirs: one that is free stays so while a server restarts.
fn free_address() -> SocketAddr {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").expect("Linux");
    let low: u16 = range.split_whitespace().next().expect("two ports").parse().expect("a port");
    let candidates = if low > 11_000 { 10_000..low } else { 61_000..u16::MAX };
    wait_for("a free port", || {
        let address = SocketAddr::from(([127, 0, 0, 1], fastrand::u16(candidates.clone())));
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).is_ok().then_some(address)
    })
}
