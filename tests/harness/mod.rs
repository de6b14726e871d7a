//! Starts the real binary in a temporary folder and speaks raw HTTP to it.

pub(crate) mod brokers;
mod client;
mod load;
mod wait;

use std::fs::{self, Permissions};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) use client::{Answer, Client, client_with_secret, request, signature};
pub(crate) use load::{Load, number_of};
pub(crate) use wait::{PATIENCE, ended, wait_for, wait_up_to};

/// The secret that tests share with the bridge.
pub(crate) const SECRET: &str = "made-up-secret";

const BINARY: &str = env!("CARGO_BIN_EXE_alma-bridge");

/// Of a failed test's bridge.
const LOG_LINES: usize = 20;

/// The binary under test, without the environment of whoever runs the tests.
pub(crate) fn binary() -> Command {
    without_environment(Command::new(BINARY))
}

fn without_environment(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ALMA_BRIDGE_") {
            command.env_remove(name);
        }
    }
    // Those of a service manager under which the tests may run, too.
    for name in ["STATE_DIRECTORY", "RUST_BACKTRACE", "NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS"] {
        command.env_remove(name);
    }
    command
}

/// A folder with a configuration file, and what was run in it.
pub(crate) struct Setup {
    folder: TempDir,
    /// Of the bridges that are started.
    environment: Vec<(String, String)>,
}

impl Setup {
    /// One source with [`SECRET`] on `/webhooks`, listeners on free ports, and what `more` adds to the file.
    pub(crate) fn new(more: &str) -> Self {
        let setup = Self::unwritten();
        setup.configure(more);
        setup
    }

    /// The same without a configuration file yet.
    pub(crate) fn unwritten() -> Self {
        let setup = Self { folder: tempfile::tempdir().expect("a folder"), environment: Vec::new() };
        setup.write_secret("secret", SECRET);
        setup
    }

    /// A variable in the environment of the bridges that are started from now on.
    pub(crate) fn environment(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Writes a file that the owner alone can read, replaced at once.
    pub(crate) fn write_secret(&self, name: &str, secret: &str) {
        let new = self.path("secret.new");
        fs::write(&new, secret).expect("written");
        fs::set_permissions(&new, Permissions::from_mode(0o600)).expect("set");
        fs::rename(new, self.path(name)).expect("renamed");
    }

    /// Writes the configuration file anew. `more` may open its own tables; keys before the first table are at the top.
    pub(crate) fn configure(&self, more: &str) {
        let mut text = String::new();
        if !more.contains("data_dir") {
            text += "data_dir = \"DIR/data\"\n";
        }
        for (table, content) in [
            ("[ingress]", "listen = \"127.0.0.1:0\""),
            ("[admin]", "listen = \"127.0.0.1:0\""),
            ("[sources.alma]", "path = \"/webhooks\"\nsecret_file = \"DIR/secret\""),
        ] {
            if !more.contains(table) {
                text += &[table, content, ""].join("\n");
            }
        }
        let text = (text + more).replace("DIR", &self.folder.path().display().to_string());
        // Replaced at once, as configuration management does.
        fs::write(self.path("config.new"), text).expect("written");
        fs::rename(self.path("config.new"), self.path("config.toml")).expect("renamed");
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// A command of the program on this configuration.
    pub(crate) fn prepared(&self, arguments: &[&str]) -> Command {
        let mut command = binary();
        command.args(arguments).arg("--config").arg(self.path("config.toml")).current_dir(self.folder.path());
        command
    }

    /// The same, to its end.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        self.prepared(arguments).output().expect("runs")
    }

    /// The same, which is to end well: what it printed.
    pub(crate) fn done(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        text(&output.stdout)
    }

    /// The same, which is to end with this code: what it said.
    pub(crate) fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.command(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        text(&[output.stdout, output.stderr].concat())
    }

    /// Starts the bridge and waits until it is ready.
    pub(crate) fn start(&self) -> Bridge {
        let bridge = self.start_unready(&[]);
        wait_for("the bridge to be ready", || (bridge.admin_get("/readyz").status == 200).then_some(()));
        bridge
    }

    /// Starts the bridge and waits until it is alive.
    pub(crate) fn start_unready(&self, arguments: &[&str]) -> Bridge {
        self.start_as(binary(), self.log_file(), arguments)
    }

    /// The same under strace, which writes what these system calls do to `trace` in this folder.
    pub(crate) fn start_traced(&self, calls: &str, trace: &str) -> Bridge {
        let strace = std::env::var_os("ALMA_BRIDGE_TEST_STRACE").unwrap_or_else(|| "strace".into());
        let found = Command::new(&strace).arg("-V").output();
        assert!(found.is_ok(), "no strace: install it (apt-get install strace), or run me by `tests/brokers run`");
        let mut command = Command::new(strace);
        // -D: the bridge, and not strace, is the process that this one starts. -y: the path behind each descriptor.
        command.args(["-D", "-f", "-y", "-q", "-s", "4096", "-e", "signal=none", "-e", calls, "-o"]);
        command.arg(self.path(trace)).arg(BINARY);
        self.start_as(without_environment(command), self.log_file(), &[])
    }

    /// Starts the bridge with a stderr that is a pipe, and waits until it is alive. See [`Bridge::stderr`].
    pub(crate) fn start_with_piped_stderr(&self) -> Bridge {
        self.start_as(binary(), Stdio::piped(), &[])
    }

    fn log_file(&self) -> Stdio {
        fs::OpenOptions::new().create(true).append(true).open(self.path("log")).expect("a log").into()
    }

    /// Starts the bridge as a service manager does that hands over sockets, and waits until it is alive.
    pub(crate) fn start_with_sockets(&self, ingress: &TcpListener, admin: &TcpListener) -> Bridge {
        // Only the process itself knows the number that it will have, and a child inherits the standard streams alone.
        const HAND_OVER: &str = "exec 3<&0 4<&1 0</dev/null 1>/dev/null; \
             export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=ingress:admin; exec \"$@\"";
        let stream = |socket: &TcpListener| Stdio::from(OwnedFd::from(socket.try_clone().expect("cloned")));
        let mut command = Command::new("sh");
        command.args(["-c", HAND_OVER, "sh", BINARY]).stdin(stream(ingress)).stdout(stream(admin));
        self.start_and_find(without_environment(command), self.log_file(), &[])
    }

    fn start_as(&self, mut command: Command, stderr: Stdio, arguments: &[&str]) -> Bridge {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        self.start_and_find(command, stderr, arguments)
    }

    fn start_and_find(&self, command: Command, stderr: Stdio, arguments: &[&str]) -> Bridge {
        let listeners = self.data().join("listeners.json");
        let _ = fs::remove_file(&listeners);
        self.spawn(command, stderr, "log", arguments, || serde_json::from_slice(&fs::read(&listeners).ok()?).ok())
    }

    /// Starts a bridge that can't write its addresses down, and waits until its log names them.
    pub(crate) fn start_by_log(&self) -> Bridge {
        self.start_with_log("log")
    }

    /// Starts a bridge beside another one on the same folder, and waits until its own log names its addresses.
    pub(crate) fn start_beside(&self) -> Bridge {
        let _ = fs::remove_file(self.path("log.beside"));
        self.start_with_log("log.beside")
    }

    fn start_with_log(&self, name: &str) -> Bridge {
        let path = self.path(name);
        let file = fs::OpenOptions::new().create(true).append(true).open(&path).expect("a log");
        let mut command = binary();
        command.stdin(Stdio::null()).stdout(Stdio::null());
        self.spawn(command, file.into(), name, &[], || {
            let log = fs::read_to_string(&path).ok()?;
            let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            let line = |what: &str| lines.iter().rfind(|line| line["message"] == what);
            // http://127.0.0.1:1234/webhooks
            let ingress = line("listening for Alma")?["url"].as_str()?.split('/').nth(2)?;
            let admin = &line("listening for operators")?["address"];
            Some(serde_json::json!({ "ingress": ingress, "admin": admin }))
        })
    }

    /// Starts the bridge and waits until `look` finds the addresses of its listeners.
    fn spawn(
        &self,
        mut command: Command,
        stderr: Stdio,
        log: &str,
        arguments: &[&str],
        look: impl Fn() -> Option<Value>,
    ) -> Bridge {
        let log = self.path(log);
        let mut child = command
            .arg("run")
            .args(arguments)
            .arg("--config")
            .arg(self.path("config.toml"))
            .current_dir(self.folder.path())
            .envs(self.environment.iter().cloned())
            .stderr(stderr)
            .spawn()
            .expect("starts");
        let found = wait_for("the listeners' addresses", || {
            let ended = child.try_wait().expect("waits");
            assert!(ended.is_none(), "the bridge ended: {ended:?}\n{}", fs::read_to_string(&log).unwrap_or_default());
            look()
        });
        let address = |name: &str| found[name].as_str().expect("an address").parse().expect("an address");
        Bridge { ingress: address("ingress"), admin: address("admin"), child, log }
    }

    /// All events that landed on a topic of the file sink, rotated files included, in order.
    pub(crate) fn landed(&self, topic: &str) -> Vec<Value> {
        landed(&self.data().join("topics"), topic)
    }
}

/// All events of a topic's files, in order.
pub(crate) fn landed(dir: &Path, topic: &str) -> Vec<Value> {
    let rotated = fs::read_dir(dir.join("rotated").join(topic)).into_iter().flatten();
    let mut files: Vec<PathBuf> = rotated.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files.push(dir.join(format!("{topic}.jsonl")));
    let mut events = Vec::new();
    for file in files {
        for line in fs::read_to_string(file).unwrap_or_default().split_inclusive('\n') {
            // A line that is still being written has no end yet.
            if let Some(line) = line.strip_suffix('\n') {
                events.push(serde_json::from_str(line).expect("a document"));
            }
        }
    }
    events
}

/// A running bridge; killed when dropped.
pub(crate) struct Bridge {
    pub(crate) ingress: SocketAddr,
    pub(crate) admin: SocketAddr,
    child: Child,
    log: PathBuf,
}

impl Bridge {
    /// A connection to Alma's listener.
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.ingress)
    }

    /// Sends a signed event on a connection of its own.
    pub(crate) fn post(&self, body: &[u8]) -> Answer {
        self.client().post("/webhooks", body)
    }

    pub(crate) fn admin_get(&self, path: &str) -> Answer {
        Client::connect(self.admin).send(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes())
    }

    /// `POST /reload`: its answer, once the reload is done.
    pub(crate) fn post_reload(&self, setup: &Setup) -> Answer {
        let token = fs::read_to_string(setup.data().join("admin.token")).expect("a token");
        let head = format!("Authorization: Bearer {}\r\nContent-Length: 0", token.trim());
        Client::connect(self.admin).send(format!("POST /reload HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n").as_bytes())
    }

    pub(crate) fn status(&self) -> Value {
        serde_json::from_slice(&self.admin_get("/status").body).expect("a JSON document")
    }

    /// The value of a metric, labels included in its name as they are printed.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let text = String::from_utf8(self.admin_get("/metrics").body).expect("text");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
        value.map(|value| value.parse().expect("a number"))
    }

    /// The sum of all counts whose printed lines begin so.
    pub(crate) fn metric_sum(&self, beginning: &str) -> u64 {
        let text = String::from_utf8(self.admin_get("/metrics").body).expect("text");
        let values = text.lines().filter(|line| line.starts_with(beginning)).filter_map(|line| line.rsplit(' ').next());
        values.map(|value| value.parse::<u64>().expect("a whole number")).sum()
    }

    /// The read end of the bridge's stderr, if that is a pipe.
    pub(crate) fn stderr(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("a log")
    }

    /// Waits until all of these stand in the log, which is written a moment after what it tells of.
    pub(crate) fn wait_for_log(&self, words: &[&str]) {
        wait_for(&format!("{words:?} in the log"), || {
            let log = self.log();
            words.iter().all(|word| log.contains(word)).then_some(())
        });
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signalled");
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`, and gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("reaped");
    }

    /// SIGTERM, and how it ended.
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended()
    }

    /// Waits for the process to end by itself.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        wait_for("the bridge to end", || child.try_wait().expect("waits"))
    }

    /// A size of `/proc/PID/status` in KiB: `VmRSS` is what is resident now, `VmHWM` the most that was.
    pub(crate) fn memory_kib(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect("a size");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().expect("waits").is_none()
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- the end of the bridge's log\n{}", lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"));
        }
    }
}

/// A LOAN event with this number in its id; unique bodies.
pub(crate) fn loan(number: u64) -> Vec<u8> {
    format!(
        r#"{{"id":"1{number:018}","action":"LOAN","institution":{{"value":"01TEST_INST","desc":"Universität"}},"time":"2024-01-02T03:04:05.678Z","event":{{"value":"LOAN_CREATED","desc":"Loan created"}},"item_loan":{{"loan_id":"{number}","user_id":"patron-0001","title":"Éxample title"}}}}"#
    )
    .into_bytes()
}

pub(crate) fn text(output: &[u8]) -> String {
    String::from_utf8(output.to_vec()).expect("UTF-8")
}
