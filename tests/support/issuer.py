"""An issuer of tokens: its keys, its tokens, its server of public keys, and forgers of all kinds."""

import base64
import hashlib
import hmac
import http.server
import json
import threading
import time

from cryptography.hazmat.primitives import serialization
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

ISSUER = "https://issuer.example"
AUDIENCE = "penstock"


def encoded(data):
    """Base64 as tokens have it."""
    if not isinstance(data, bytes):
        data = json.dumps(data).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class SigningKey:
    """A key pair of an issuer."""

    def __init__(self, kind="RSA", size=2048, name="key-1", algorithm="RS256"):
        make = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}[kind].generate_key
        self.key = make(size, {"kid": name})
        self.name = name
        self.algorithm = algorithm

    def public(self, **changes):
        """As a JWKS document has it; None takes a member out."""
        found = self.key.as_dict(private=False) | {"use": "sig", "alg": self.algorithm} | changes
        return {name: value for name, value in found.items() if value is not None}

    @property
    def pem(self):
        """The public key as text."""
        return self.key.public_key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, header, claims):
        """A token with exactly this header."""
        payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
        registry = JWSRegistry(algorithms=[header["alg"]], strict_check_header=False)
        registry.max_header_length = 100_000
        algorithm = JWSRegistry.algorithms[header["alg"]]
        text = f"{encoded(header)}.{encoded(payload)}"
        return f"{text}.{encoded(algorithm.sign(text.encode(), self.key))}"


def claims(now=None, **changes):
    """Claims of a good token; None takes a claim out."""
    now = int(time.time()) if now is None else now
    found = {"iss": ISSUER, "aud": AUDIENCE, "sub": "team-a", "iat": now, "exp": now + 600} | changes
    return {name: value for name, value in found.items() if value is not None}


def token(key, now=None, header=None, **changes):
    """A good token, but for what is changed."""
    named = {"alg": key.algorithm, "kid": key.name, "typ": "JWT"} | (header or {})
    return key.sign({name: value for name, value in named.items() if value is not None}, claims(now, **changes))


def document(*keys):
    """A JWKS document."""
    return json.dumps({"keys": [one.public() if isinstance(one, SigningKey) else one for one in keys]}).encode()


def forged_with_secret(secret, key, digest="sha256", algorithm="HS256"):
    """A token whose shared secret is what everybody knows."""
    text = f"{encoded({'alg': algorithm, 'kid': key.name, 'typ': 'JWT'})}.{encoded(claims())}"
    return f"{text}.{encoded(hmac.new(secret, text.encode(), digest).digest())}"


def bad_tokens(key, stranger):
    """Pairs of a reason and a token that must not count; ``key`` is the issuer's (RSA, RS256), ``stranger`` has nothing to do with it."""
    good = token(key)
    head, body, signature = good.split(".")
    now = int(time.time())
    for name in ("none", "None", "NONE", "nOnE", "", "HS", "RS0"):
        forged = f"{encoded({'alg': name, 'kid': key.name})}.{body}."
        yield f"alg {name!r}", forged
        yield f"alg {name!r} with a signature", forged + signature
    yield from _confused(key)
    for name in ("RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519", "ES256K"):
        yield f"another algorithm, {name}", f"{encoded({'alg': name, 'kid': key.name})}.{body}.{signature}"
    for name in ("RS384", "RS512", "PS256"):
        yield f"signed, as the key does not, with {name}", key.sign({"alg": name, "kid": key.name}, claims())
    yield from _of_wrong_times(key, now)
    yield from _for_others(key)
    yield from _of_unknown_keys(key, stranger)
    yield from _tampered(head, body, signature)
    yield from _pointing_elsewhere(stranger)
    yield from _with_extensions(key)
    for size in (9_000, 20_000, 40_000):
        yield f"{size} bytes", token(key, padding="x" * size)
    yield "giant without dots", "x" * 30_000
    yield "giant header", token(key, header={"more": "x" * 5_000})
    yield "deep claims", key.sign({"alg": "RS256", "kid": key.name}, b"[" * 5_000)
    yield "deep header", f"{encoded(b'[' * 3_000)}.{body}.{signature}"
    for text in (b"", b"null", b"[]", b'"text"', b"1", b"{", b"\xff\xfe", b'{"exp": 1e999}', b"NaN"):
        yield f"claims {text!r}", key.sign({"alg": "RS256", "kid": key.name}, text)
    for text in (
        b"",
        b"null",
        b"[]",
        b"{}",
        b"1",
        b"{",
        b"\xff",
        b'{"alg": 1}',
        b'{"alg": null}',
        b'{"alg": ["RS256"]}',
    ):
        yield f"header {text!r}", f"{encoded(text)}.{body}.{signature}"
    for text in (".", "..", "...", "a.b.c", "a.b", f"{head}.{body}", f"{good}.{signature}", f".{body}.{signature}",
                 f"{head}..{signature}", "=.=.=", "é.é.é", "%00.%00.%00", "null", "undefined", "Bearer"):  # fmt: skip
        yield f"shape {text[:20]!r}", text


def _confused(key):
    """A public key taken for a shared secret."""
    modulus = key.public()["n"].encode()
    for secret in (key.pem, key.pem.strip(), modulus, json.dumps(key.public()).encode(), b"", b"secret"):
        for digest, algorithm in (("sha256", "HS256"), ("sha384", "HS384"), ("sha512", "HS512")):
            yield f"{algorithm} with {secret[:12]!r}", forged_with_secret(secret, key, digest, algorithm)
    yield "HS256 that says RS256", forged_with_secret(key.pem, key, algorithm="RS256")


def _of_wrong_times(key, now):
    for seconds in (31, 60, 3600, 10**6, 10**9):
        yield f"expired {seconds} s ago", token(key, iat=0, exp=now - seconds)
    for name in ("nbf", "iat"):
        for seconds in (45, 3600, 10**9):
            yield f"{name} in {seconds} s", token(key, **{name: now + seconds, "exp": now + 2 * 10**9})
    yield "no exp", token(key, exp=None)
    for value in ("tomorrow", str(now + 600), True, [now + 600], {"a": 1}, -1, 1e300, 10**400, 0, float("nan")):
        yield f"exp {str(value)[:20]!r}", token(key, exp=value)
    for value in ("now", True, [], -5, 1e300):
        yield f"nbf {value!r}", token(key, nbf=value)


def _for_others(key):
    for issuer in (None, "", "https://issuer.example/", "https://issuer.exampl", "https://issuer.example.evil.com",
                   "http://issuer.example", "HTTPS://ISSUER.EXAMPLE", ["https://issuer.example"], 1, True):  # fmt: skip
        yield f"iss {issuer!r}", token(key, iss=issuer)
    for audience in (None, "", "penstoc", "penstock2", "Penstock", [], ["other"], {"penstock": 1}, 1, [["penstock"]],
                     "penstock ", "other penstock", [None]):  # fmt: skip
        yield f"aud {audience!r}", token(key, aud=audience)
    for subject in (None, "", 1, ["team-a"], {}, "x" * 300, "a\nb", "a\x00b", "\ud800", True):
        yield f"sub {str(subject)[:10]!r}", token(key, sub=subject)


def _of_unknown_keys(key, stranger):
    for name in (
        "key-2",
        "",
        "KEY-1",
        "key-1 ",
        "../../etc/passwd",
        "' OR 1=1 --",
        "x" * 900,
        "key-1\x00",
        "/dev/null",
    ):
        yield f"kid {name[:20]!r}", stranger.sign({"alg": "RS256", "kid": name}, claims())
    for name in (1, True, ["key-1"], {"kid": "key-1"}):
        yield f"kid {name!r}", f"{encoded({'alg': 'RS256', 'kid': name})}.{encoded(claims())}.{encoded(b'x' * 256)}"
    yield "another's signature under our key's name", stranger.sign({"alg": "RS256", "kid": key.name}, claims())
    yield "another's signature without a name", stranger.sign({"alg": "RS256"}, claims())
    for number in range(20):
        yield f"unknown key {number}", stranger.sign({"alg": "RS256", "kid": f"flood-{number}"}, claims())


def _tampered(head, body, signature):
    other = encoded(claims(sub="admin"))
    yield "other claims", f"{head}.{other}.{signature}"
    yield "other header", f"{encoded({'alg': 'RS256', 'kid': 'key-1', 'more': 1})}.{body}.{signature}"
    yield "no signature", f"{head}.{body}."
    for cut in (1, 2, 10, 100, 200):
        yield f"signature cut by {cut}", f"{head}.{body}.{signature[:-cut]}"
    raw = bytearray(base64.urlsafe_b64decode(signature + "=="))
    for position in (0, 1, 100, 254, 255):
        spoiled = bytes(one ^ (0x10 if place == position else 0) for place, one in enumerate(raw))
        yield f"byte {position} of the signature", f"{head}.{body}.{encoded(spoiled)}"
    yield "signature twice", f"{head}.{body}.{encoded(bytes(raw) * 2)}"
    yield "signature of zeros", f"{head}.{body}.{encoded(bytes(256))}"
    yield "a digest for a signature", f"{head}.{body}.{encoded(hashlib.sha256(f'{head}.{body}'.encode()).digest())}"


def _pointing_elsewhere(stranger):
    """Where the key should be fetched, or the key itself, in the token's own header."""
    public = stranger.public()
    for name, value in (("jku", "http://127.0.0.1:1/jwks"), ("x5u", "http://127.0.0.1:1/x"), ("jwk", public),
                        ("x5c", ["MIIB"]), ("x5t", "a"), ("jku", "file:///etc/passwd")):  # fmt: skip
        yield f"{name} {str(value)[:20]}", stranger.sign({"alg": "RS256", "kid": "key-1", name: value}, claims())
        yield f"{name} alone {str(value)[:20]}", stranger.sign({"alg": "RS256", name: value}, claims())


def _with_extensions(key):
    for more in ({"crit": ["exp"]}, {"crit": ["b64"], "b64": False}, {"crit": []}, {"crit": "b64"}, {"b64": False},
                 {"b64": True}, {"crit": ["x"], "x": 1}, {"crit": None}):  # fmt: skip
        yield f"extension {more}", key.sign({"alg": "RS256", "kid": key.name} | more, claims())


class KeyServer:
    """Serves a JWKS document on loopback; can die, and come back on the same port with other keys."""

    def __init__(self, text):
        self.text = text
        self.status = 200
        self.fetches = 0
        self.port = 0
        self._server = None
        self._thread = None

    @property
    def address(self):
        """Where the document is."""
        return f"http://127.0.0.1:{self.port}/keys"

    def start(self):
        """Serve, on the port of before."""
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.fetches += 1
                self.send_response(outer.status)
                self.send_header("content-length", str(len(outer.text)))
                self.end_headers()
                self.wfile.write(outer.text)

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self):
        """Refuse connections."""
        if self._server is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()
