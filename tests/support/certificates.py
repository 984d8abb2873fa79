"""Certificates for engines that speak TLS, made with the `openssl` program."""

import shutil
import ssl
import subprocess

import pytest

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")


class Authority:
    """An authority of its own, in files of ``directory``; ``file`` is its certificate. Skips the test where `openssl` is missing."""

    def __init__(self, directory, name="authority"):
        if shutil.which("openssl") is None:
            pytest.skip("there is no `openssl` program to make certificates with")
        self._directory = directory
        self._name = name
        self.file = directory / f"{name}.pem"
        extensions = ["-addext", "keyUsage=critical,keyCertSign"]
        _openssl(
            "req", "-x509", *_NEW_KEY, "-keyout", self._key, "-out", self.file, "-subj", f"/CN={name}", *extensions
        )

    @property
    def _key(self):
        return self.file.with_suffix(".key")

    def server(self, *names):
        """A server's TLS context whose certificate is for these names, as OpenSSL writes them: ``IP:127.0.0.1``."""
        stem = f"{self._name}-{'-'.join(names)}".replace(":", "-")
        request, key, certificate = (self._directory / f"{stem}.{suffix}" for suffix in ("request", "key", "pem"))
        extensions = self._directory / f"{stem}.extensions"
        extensions.write_text(
            f"subjectAltName={','.join(names)}\nauthorityKeyIdentifier=keyid\nbasicConstraints=CA:FALSE\n"
        )
        _openssl("req", "-new", *_NEW_KEY, "-keyout", key, "-out", request, "-subj", "/CN=engine")
        signed_by = ["-CA", self.file, "-CAkey", self._key, "-CAcreateserial", "-extfile", extensions]
        _openssl("x509", "-req", "-in", request, "-out", certificate, "-days", "2", *signed_by)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        return context


def _openssl(*words):
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
