"""Who may call the service: API keys, the Host header, and whether the service may be reachable from other machines.

Without API keys only this machine may call the service. It then answers only requests whose Host header names the loopback, so that
a web page on another site can't reach it through a DNS name that points here. As every POST must be `application/json` (see
`limits.py`), a browser sends a CORS preflight request before it posts from another site, and the service never consents to one.
"""

import hashlib
import hmac
import ipaddress
import math
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from starlette.types import ASGIApp, Receive, Scope, Send

from rayrec.config import ConfigError
from rayrec.serving.http.refusals import RefusedError

KEYS_VARIABLE = "RAYREC_API_KEYS"  # comma-separated; a caller sends one as "Authorization: Bearer KEY"
FILE_VARIABLE = "RAYREC_API_KEYS_FILE"  # the path of a file with one key per line
FILE_CHECK_INTERVAL_S = 1.0
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
CALLER = "rayrec.caller"  # the entry of a scope that names the caller's key without revealing anything of it
API_PREFIX = "/v1/"  # of the paths that need a key


def api_keys(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Returns the keys that both variables hold now, for a command on this machine that calls the service itself.

    Raises `ConfigError` if the file can't be read.
    """
    listed = [key.strip() for key in environment.get(KEYS_VARIABLE, "").split(",") if key.strip()]
    file = environment.get(FILE_VARIABLE)
    try:
        return [*listed, *(_keys_in(Path(file)) if file else ())]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{FILE_VARIABLE}: {file} must hold API keys, one per line; it can't be read ({error})") from error


class Keys:
    """The API keys that callers may use. If the keys come from a file, a change of the file takes effect within a second."""

    def __init__(self, keys: Iterable[str] = (), file: Path | None = None) -> None:
        """Raises `ConfigError` if the file can't be read or holds no key."""
        self._fixed, self._file = sorted(keys), file
        self._stamp, self._checked_at, self._digests = (0, 0, 0), -math.inf, [_digest(key) for key in self._fixed]
        if file is not None and not self._read():
            raise ConfigError(f"{FILE_VARIABLE}: {file} must hold API keys, one per line; it can't be read or holds none")

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """The keys that an environment names. Raises `ConfigError` if its file of keys can't be read or holds no key."""
        file = environment.get(FILE_VARIABLE)
        return cls(api_keys({**environment, FILE_VARIABLE: ""}), Path(file) if file else None)

    def __bool__(self) -> bool:
        """Whether callers need a key. If the file has become empty, nobody gets in, rather than everybody."""
        return bool(self._fixed) or self._file is not None

    def fingerprint(self) -> str:
        """Changes only when a running service must be restarted to learn of its keys. It is "" if there are no keys."""
        return hashlib.sha256("\n".join([*self._fixed, str(self._file)]).encode()).hexdigest() if self else ""

    def caller(self, authorization: str) -> str | None:
        """Returns a name for the Bearer key in this header, or None if the key is unknown.

        The key is compared with all known keys in constant time.
        """
        if self._file is not None and time.monotonic() - self._checked_at > FILE_CHECK_INTERVAL_S:
            self._read()
        scheme, _, key = authorization.partition(" ")
        given = _digest(key.strip())
        known = sum(hmac.compare_digest(given, digest) for digest in self._digests) > 0
        return given.hex()[:8] if known and scheme.lower() == "bearer" else None

    def _read(self) -> bool:
        """Reads the file if it has changed and returns whether it holds keys. While it can't be read, its last keys stay valid."""
        assert self._file is not None
        self._checked_at = time.monotonic()
        try:
            found = self._file.stat()
            if (stamp := (found.st_ino, found.st_mtime_ns, found.st_size)) != self._stamp:
                self._digests = [_digest(key) for key in [*self._fixed, *_keys_in(self._file)]]
                self._stamp = stamp
        except (OSError, UnicodeDecodeError):
            return False
        return len(self._digests) > len(self._fixed)


def check_exposure(address: str, keys: Keys) -> None:
    """Raises `ConfigError` if other machines could reach the service and it has no API keys."""
    if not keys and not is_loopback(address):
        raise ConfigError(
            f"everyone who can reach {address} could use the service: set {KEYS_VARIABLE} to one or more keys, set "
            f"{FILE_VARIABLE} to a file of keys, or let the service listen on 127.0.0.1 (serving.host)"
        )


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class AuthMiddleware:
    """ASGI middleware that refuses unknown callers and, if there are no keys, Host headers that do not name this machine."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self.app, self.keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._check(scope)
            except RefusedError as refusal:
                return await refusal.answer(send)
        await self.app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        """Raises `RefusedError` for a request that may not pass, and notes the caller in the scope of one that may."""
        headers = dict(scope["headers"])
        if not self.keys:
            if (name := _host_name(headers.get(b"host", b"").decode("latin-1"))) not in LOOPBACK_NAMES:
                sentence = (
                    f"the service has no API keys ({KEYS_VARIABLE}), so it answers only requests whose Host header is localhost "
                    f"or 127.0.0.1, not {name[:80]!r}"
                )
                raise RefusedError(421, sentence)
        elif scope["path"].startswith(API_PREFIX):
            scope[CALLER] = self.keys.caller(headers.get(b"authorization", b"").decode("latin-1"))
            if scope[CALLER] is None:
                sentence = "send one of the service's API keys in the header 'Authorization: Bearer KEY'"
                raise RefusedError(401, sentence, {"www-authenticate": "Bearer"})


def _keys_in(file: Path) -> list[str]:
    return [key for line in file.read_text().splitlines() if (key := line.strip())]


def _digest(key: str) -> bytes:
    """All digests have the same length, so comparing them does not reveal the length of a key either."""
    return hashlib.sha256(key.encode()).digest()


def _host_name(host: str) -> str:
    """`localhost:8000` -> `localhost`, `[::1]:8000` -> `::1`."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0].lower()
