"""The tools of deploy/check-manifests, each from its package registry and kept in ${XDG_CACHE_HOME:-~/.cache}/alma-bridge."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alma-bridge"

GO = {
    "helm": "helm.sh/helm/v4/cmd/helm@v4.3.1",
    "helm-docs": "github.com/norwoodj/helm-docs/cmd/helm-docs@v1.14.2",
    "helm-unittest": "github.com/helm-unittest/helm-unittest/cmd/helm-unittest@v1.1.2",
    "kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0",
    "kube-score": "github.com/zegl/kube-score/cmd/kube-score@v1.20.0",
    "compose-spec": "github.com/compose-spec/compose-go/v2/cmd@v2.16.2",
}
# Its strict schemas of each Kubernetes version are what kubeconform reads. It brings PyYAML.
PYTHON = "kubernetes-validate==1.37.0"
# Schemas of custom resources, and the grammar of PromQL.
NPM = ["@kubernetes-models/prometheus-operator@6.0.0", "@kubernetes-models/gateway-api@2.0.0",
       "@prometheus-io/lezer-promql@0.315.0"]


class Wrong(Exception):
    """A manifest is not what it should be."""


def expect(holds: bool, message: str) -> None:
    if not holds:
        raise Wrong(message)


def call(*command: object, **options: object) -> str:
    """Runs a program and returns its output. Its errors go to stderr."""
    words = [str(word) for word in command]
    done = subprocess.run(words, check=False, text=True, stdout=subprocess.PIPE, **options)
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        raise Wrong(f"{' '.join(words[:3])} …: exit code {done.returncode}")
    return done.stdout


def go_tool(name: str) -> Path:
    source = GO[name]
    package, _, version = source.partition("@")
    binary = CACHE / "bin" / f"{name}-{version}"
    if not binary.exists():
        print(f"--- building {source}", flush=True)
        binary.parent.mkdir(parents=True, exist_ok=True)
        # Not `go install`: it refuses a module with `replace` lines, such as that of helm-unittest.
        module = package.partition("/cmd")[0]
        folder = json.loads(call("go", "mod", "download", "-json", f"{module}@{version}", cwd=CACHE))["Dir"]
        call("go", "build", "-o", f"{binary}.new", f".{package.removeprefix(module)}", cwd=folder)
        os.replace(f"{binary}.new", binary)
    return binary


def python_environment() -> Path:
    """Returns the environment with PYTHON, the one that this script runs in after its start."""
    folder = CACHE / PYTHON.replace("==", "-")
    if not (folder / "complete").exists():
        print(f"--- installing {PYTHON}", flush=True)
        try:
            venv.create(folder, with_pip=True, clear=True)
        except subprocess.CalledProcessError:
            # Debian's own Python comes without venv.
            call("apt-get", "install", "-qq", "-y", "python3-venv")
            venv.create(folder, with_pip=True, clear=True)
        call(folder / "bin/pip", "install", "--quiet", "--disable-pip-version-check", PYTHON)
        (folder / "complete").touch()
    return folder


def node_modules() -> Path:
    folder = CACHE / "manifest-schemas"
    complete = folder / "complete"
    wanted = "\n".join(NPM)
    if not complete.exists() or complete.read_text(encoding="utf-8") != wanted:
        print("--- installing the schemas of custom resources", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "package.json").write_text("{}", encoding="utf-8")
        call("npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", *NPM, cwd=folder)
        complete.write_text(wanted, encoding="utf-8")
    return folder


def node(program: str, given: object) -> str:
    return call("node", "--input-type=module", "-e", program, cwd=node_modules(), input=json.dumps(given))
