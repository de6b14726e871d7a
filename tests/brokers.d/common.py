"""What the brokers share: the cache, the run folder, processes, ports, and stopping in time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Callable, Iterable, Iterator, Optional

HOST = "127.0.0.1"
PREFIX = "ALMA_BRIDGE_TEST_"
# The first start of a JVM or of Erlang on a machine that builds something else at the same time.
READY_SECONDS = 120


class Failure(Exception):
    """Something could not be had or started; the text says what and, where there is one, shows the log."""


class Interrupted(Exception):
    """A signal asked to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def say(text: str) -> None:
    """One line to stderr: stdout belongs to the command that `run` runs."""
    sys.stderr.write(f"brokers: {text}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def stage(name: str, what: str) -> Iterator[list]:
    """Prints `what` with its time once it is done; the block may append remarks to the list."""
    begun = time.monotonic()
    remarks: list = []
    yield remarks
    told = f" ({', '.join(remarks)})" if remarks else ""
    say(f"{name:<9} {what:<34} {time.monotonic() - begun:6.1f} s{told}")


# ---------------------------------------------------------------- stopping in time

_stop = threading.Event()
_tools: set = set()
_tools_lock = threading.Lock()


def stop_tools() -> None:
    """Ends every tool (mvn, go, apt-get, …) that runs now, and lets none start after it."""
    _stop.set()
    with _tools_lock:
        for child in _tools:
            # Not yet waited for, so the number is still this child's.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


def check_stop() -> None:
    if _stop.is_set():
        raise Failure("stopped")


def tool(argv: list, *, env: Optional[dict] = None, cwd: Optional[Path] = None, low: bool = False) -> str:
    """Runs a helper program to its end and returns its stdout; a failure shows the end of what it said.

    It gets a session of its own, so that all of it can be ended when we are asked to stop. `low` runs
    it with low priority: downloads and builds give way to what else the machine does.
    """
    argv = [str(part) for part in argv]
    if low:
        argv = ["nice", "-n", "10", *argv]
    with _tools_lock:
        check_stop()
        try:
            child = subprocess.Popen(
                argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True,
            )
        except FileNotFoundError as error:
            raise Failure(f"`{argv[0]}` is not installed") from error
        _tools.add(child)
    try:
        out, err = child.communicate()
    finally:
        with _tools_lock:
            _tools.discard(child)
    check_stop()
    if child.returncode != 0:
        said = "\n".join(f"    {line}" for line in (out + err).splitlines()[-25:])
        raise Failure(f"`{' '.join(argv)}` ended with {child.returncode}:\n{said}")
    return out


def unmount_below(folder: Path) -> None:
    """Takes away the disks that a test mounted within `folder`."""
    rows = [line.split(" ") for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    for row in reversed(rows):
        if row[1].startswith(f"{folder}/"):
            # Lazily: threads of a process that was just killed may still hold it.
            tool(["umount", "--lazy", row[1]])


# ---------------------------------------------------------------- the cache

def cache() -> Path:
    """Where downloads are kept between runs: `${XDG_CACHE_HOME:-~/.cache}/alma-bridge`."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(base).absolute() / "alma-bridge"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock file `path`; another process that wants the same waits."""
    with open(path, "a", encoding="utf-8") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                check_stop()
                time.sleep(0.1)
        yield


def cached(name: str, make: Callable[[Path, Path], None]) -> tuple:
    """The cache's folder `name`, made by `make(folder, final)` if it is not there: (path, was it there).

    It is made beside its final place and moved there when it is complete, so that a folder which exists
    is whole; `final` is for files that must know their own place.
    """
    final = cache() / name
    if final.is_dir():
        return final, True
    with locked(cache() / f"{name}.lock"):
        if final.is_dir():
            return final, True
        folder = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=cache()))
        try:
            folder.chmod(0o755)
            make(folder, final)
            folder.rename(final)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return final, False


_apt_lock = threading.Lock()


def need(program: str, package: Optional[str] = None) -> str:
    """The path of `program`, installed from Debian's `package` first where it is missing and we may."""
    found = shutil.which(program)
    if found:
        return found
    if package is None or os.geteuid() != 0 or not shutil.which("apt-get"):
        advice = f"; install it, on Debian with `apt-get install {package}`" if package else ""
        raise Failure(f"`{program}` is not installed{advice}")
    apt_install(package)
    found = shutil.which(program)
    if not found:
        raise Failure(f"`{program}` is not there, though the package {package} was installed")
    return found


def apt_install(package: str) -> None:
    """Installs a Debian package on this machine; only as root."""
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    with _apt_lock, stage("machine", f"apt-get install {package}"):
        tool(["apt-get", "-qq", "update"], env=env, low=True)
        tool(["apt-get", "-qq", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120",
              "install", package], env=env, low=True)


# ---------------------------------------------------------------- ports

def free_ports(names: list) -> dict:
    """A free port of 127.0.0.1 for each name, outside the ephemeral range.

    A client that keeps trying to reach a dead broker can be given the broker's own port as its source
    port where that lies in the ephemeral range, and the broker then never gets it back.
    """
    low, high = (int(part) for part in
                 Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split())
    candidates = list(range(10_000, low)) if low > 11_000 else list(range(high + 1, 65_536))
    random.SystemRandom().shuffle(candidates)
    ports: dict = {}
    for port in candidates:
        if len(ports) == len(names):
            break
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            ports[names[len(ports)]] = port
    if len(ports) < len(names):
        raise Failure("no free ports outside the ephemeral range")
    return ports


def reachable(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=2):
        return True
    return False


def http(url: str, *, headers: Optional[dict] = None, method: str = "GET", body: Optional[bytes] = None) -> int:
    """The status of a request to a broker of ours, 0 where nobody answers."""
    request = urllib.request.Request(url, data=body, method=method, headers=headers or {})
    # No proxy: it is this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


# ---------------------------------------------------------------- processes

def started_at(pid: int) -> Optional[str]:
    """When the process started, in clock ticks since boot; None where it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name in brackets may hold blanks and brackets; field 3 (state) is behind the last one.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def descendants(pid: int) -> list:
    """(pid, start) of every process below `pid`. Erlang's helpers have sessions of their own."""
    children: dict = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
                parent = int(stat.rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        for child in children.get(queue.pop(), []):
            start = started_at(child)
            if start is not None:
                found.append((child, start))
                queue.append(child)
    return found


def signal_if(pid: int, start: str, number: int) -> bool:
    """Sends a signal, but only to the process that started at `start`: numbers are used again."""
    if started_at(pid) != start:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False


class Run:
    """A run folder: the brokers' data, settings, certificates, logs and pid files. Nobody else may read it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self) -> None:
        """Makes the folder; refuses one that another user made under the same name."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        seen = os.lstat(self.folder)
        if seen.st_uid != os.geteuid() or self.folder.is_symlink():
            raise Failure(f"{self.folder} is not a folder of this user")
        self.folder.chmod(0o700)

    def path(self, *parts: str) -> Path:
        return self.folder.joinpath(*parts)

    def settings(self, name: str, make: Optional[Callable[[], dict]] = None) -> Optional[dict]:
        """The settings (ports, passwords) kept for a broker; made the first time."""
        file = self.path(f"{name}.json")
        if file.exists():
            return json.loads(file.read_text(encoding="utf-8"))
        if make is None:
            return None
        settings = make()
        self.write(file, json.dumps(settings, indent=1))
        return settings

    def write(self, path: Path, text: str) -> Path:
        """Writes a file whole or not at all, readable by this user alone."""
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(path.name + ".new")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        draft.rename(path)
        return path

    def lock(self) -> contextlib.AbstractContextManager:
        """Held while processes of the run are started or ended."""
        return locked(self.path("lock"))


class Daemon:
    """One server process of a run, known by its pid file: pid and start time."""

    def __init__(self, run: Run, name: str, argv: Iterable = (), ready: Callable[[int], bool] = lambda _: True,
                 env: Optional[dict] = None) -> None:
        self.run = run
        self.name = name
        # Empty for one that is only to be ended.
        self.argv = [str(part) for part in argv]
        self.env = env
        # Told where in the log this start begins.
        self.ready = ready
        self.log = run.path("logs", f"{name}.log")
        self.pid_file = run.path("pids", name)

    def who(self) -> Optional[tuple]:
        """(pid, start) of the living process, if any."""
        with contextlib.suppress(OSError, ValueError):
            pid, start, _ = self.pid_file.read_text(encoding="ascii").split()
            if started_at(int(pid)) == start:
                return int(pid), start
        return None

    def start(self) -> bool:
        """Starts the process unless it lives; True if it was started. Does not wait for it."""
        if self.who():
            return False
        check_stop()
        self.log.parent.mkdir(exist_ok=True)
        with open(self.log, "ab") as log:
            begins = log.tell()
            # A session of its own: a Ctrl-C at the terminal is for the command, not for the brokers.
            child = subprocess.Popen(self.argv, env=self.env, cwd=self.run.folder, stdin=subprocess.DEVNULL,
                                     stdout=log, stderr=log, start_new_session=True)
        self.run.write(self.pid_file, f"{child.pid} {started_at(child.pid)} {begins}")
        # Collects the exit status, so that no zombie of a killed broker stays while `run` waits.
        threading.Thread(target=child.wait, daemon=True).start()
        return True

    def wait_ready(self) -> None:
        """Returns once the server answers; a failure shows the end of its log."""
        begins = int(self.pid_file.read_text(encoding="ascii").split()[2])
        deadline = time.monotonic() + READY_SECONDS
        while not self.ready(begins):
            check_stop()
            if self.who() is None:
                raise Failure(f"{self.name} ended before it was ready\n{self.tail()}")
            if time.monotonic() > deadline:
                raise Failure(f"{self.name} was not ready within {READY_SECONDS} s\n{self.tail()}")
            time.sleep(0.1)

    def said(self, text: str, begins: int) -> bool:
        """Whether the log holds `text` behind the offset `begins`."""
        with open(self.log, "rb") as file:
            file.seek(begins)
            return text.encode() in file.read()

    def tail(self, lines: int = 30) -> str:
        """The end of what the last start logged, for a message."""
        try:
            begins = int(self.pid_file.read_text(encoding="ascii").split()[2])
            with open(self.log, "rb") as file:
                file.seek(begins)
                text = file.read().decode("utf-8", errors="replace")
        except (OSError, ValueError, IndexError):
            return f"  {self.log}: no log"
        return "\n".join([f"  the end of {self.log}:", *(f"    {line}" for line in text.splitlines()[-lines:])])

    def signal(self, number: int) -> None:
        """Sends a signal to the living process; a failure where there is none."""
        who = self.who()
        if who is None or not signal_if(*who, number):
            raise Failure(f"{self.name} is not running")

    def end(self, graceful: bool) -> bool:
        """Ends the process and all below it; True if there was one. `graceful` asks first, for 20 s."""
        who = self.who()
        if who is None:
            self.pid_file.unlink(missing_ok=True)
            return False
        below = descendants(who[0])
        if graceful:
            signal_if(*who, signal.SIGTERM)
            # A stopped process takes no other signal.
            signal_if(*who, signal.SIGCONT)
            self._wait_gone([who], 20)
        signal_if(*who, signal.SIGKILL)
        # Erlang's helpers end by themselves when their pipe closes.
        if not self._wait_gone([who, *below], 3):
            for pid, start in below:
                signal_if(pid, start, signal.SIGKILL)
            if not self._wait_gone([who, *below], 10):
                raise Failure(f"{self.name} (pid {who[0]}) does not end")
        self.pid_file.unlink(missing_ok=True)
        return True

    @staticmethod
    def _wait_gone(processes: list, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while any(started_at(pid) == start for pid, start in processes):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True
