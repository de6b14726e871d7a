"""A certificate authority for one run, with what it signed: servers' and clients' certificates.

    ca.pem                    the authority
    server.pem, .key          127.0.0.1, ::1 and localhost
    client.pem, .key          CN=alma-bridge: a client that the brokers know
    stranger.pem, .key        CN=stranger: a client that they do not know
    other-ca.pem              an authority that signed none of them
"""

from __future__ import annotations

import shutil

from common import Run, need, stage, tool

CLIENT = "alma-bridge"
STRANGER = "stranger"


def make(run: Run) -> None:
    """Makes the certificates once; they live for a month."""
    folder = run.path("certs")
    if folder.is_dir():
        return
    openssl = need("openssl", "openssl")
    draft = run.path("certs.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)

    def authority(name: str, subject: str) -> None:
        tool([openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
              "-days", "30", "-subj", f"/CN={subject}", "-keyout", draft / f"{name}.key",
              "-out", draft / f"{name}.pem", "-addext", "keyUsage=critical,keyCertSign,cRLSign"])

    def signed(name: str, subject: str, extensions: str) -> None:
        # `req -newkey` writes PKCS#8, the only form of key that Kafka reads from PEM.
        tool([openssl, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
              "-subj", f"/CN={subject}", "-keyout", draft / f"{name}.key", "-out", draft / f"{name}.csr"])
        (draft / f"{name}.ext").write_text(
            "basicConstraints=CA:FALSE\nkeyUsage=critical,digitalSignature\n" + extensions, encoding="ascii")
        tool([openssl, "x509", "-req", "-days", "30", "-in", draft / f"{name}.csr", "-CA", draft / "ca.pem",
              "-CAkey", draft / "ca.key", "-CAcreateserial", "-extfile", draft / f"{name}.ext",
              "-out", draft / f"{name}.pem"])
        for ending in ("csr", "ext"):
            (draft / f"{name}.{ending}").unlink()

    with stage("machine", "certificates"):
        authority("ca", "alma-bridge test CA")
        authority("other-ca", "alma-bridge other CA")
        signed("server", "localhost",
               "extendedKeyUsage=serverAuth\nsubjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1\n")
        signed("client", CLIENT, "extendedKeyUsage=clientAuth\n")
        signed("stranger", STRANGER, "extendedKeyUsage=clientAuth\n")
        draft.rename(folder)


def variables(run: Run) -> dict:
    folder = run.path("certs")
    return {
        "CA": folder / "ca.pem",
        "OTHER_CA": folder / "other-ca.pem",
        "CLIENT_CERT": folder / "client.pem",
        "CLIENT_KEY": folder / "client.key",
        "STRANGER_CERT": folder / "stranger.pem",
        "STRANGER_KEY": folder / "stranger.key",
    }
