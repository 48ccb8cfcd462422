"""Who may call the service."""

from pathlib import Path

import pytest

from rayrec.config import ConfigError
from rayrec.serving.http import auth
from rayrec.serving.http.auth import Keys
from rayrec.serving.recommender import Recommender
from tests.serving.http.helpers import Listen, api_of, error


def test_without_keys_only_this_machine_is_answered(recommender: Recommender, listen: Listen) -> None:
    client = listen(api_of(recommender))
    for host in ("localhost", "localhost:8000", "127.0.0.1:9", "[::1]:8000"):
        assert client.get("/healthz", headers={"Host": host}).status_code == 200
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1:8000", ""):
        assert "answers only requests whose Host header is localhost" in error(client.get("/healthz", headers={"Host": host}), 421)


def test_with_keys_every_call_needs_one(recommender: Recommender, listen: Listen) -> None:
    client = listen(api_of(recommender, Keys(["first", "second"])))
    client.headers["Host"] = "service.example"
    for wrong in ({}, {"Authorization": "Bearer third"}, {"Authorization": "first"}, {"Authorization": "Basic first"}):
        response = client.post("/v1/recommend", json={"user_id": "u1"}, headers=wrong)
        assert "Authorization: Bearer KEY" in error(response, 401)
        assert response.headers["www-authenticate"] == "Bearer"
    for key in ("first", "second"):
        assert client.post("/v1/recommend", json={"user_id": "u1"}, headers={"Authorization": f"Bearer {key}"}).status_code == 200
    for method, path in (
        ("GET", "/v1/videos/v6/cover"),
        ("GET", "/v1/dashboard"),
        ("DELETE", "/v1/users/u1"),
        ("PUT", "/v1/nothing"),
    ):
        assert client.request(method, path).status_code == 401
    for path in ("/", "/page/feed.js", "/healthz", "/docs"):
        assert client.get(path).status_code == 200
    assert client.get("/openapi.json").json()["paths"]["/v1/topics"]["get"]["security"] == [{"key": []}]


def test_keys_come_from_the_environment() -> None:
    assert not Keys.of({})
    assert Keys.of({}).fingerprint() == ""
    keys = Keys.of({"RAYREC_API_KEYS": " a, b,,"})
    assert keys
    assert [keys.caller(f"Bearer {key}") is not None for key in ("a", "b", "", "a,b", " a")] == [True, True, False, False, True]
    assert auth.api_keys({"RAYREC_API_KEYS": " a, b,,"}) == ["a", "b"]


def test_keys_of_a_file_rotate_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayrec.serving.http.auth.FILE_CHECK_INTERVAL_S", 0)
    file = tmp_path / "keys"
    file.write_text("old\n\n")
    environment = {"RAYREC_API_KEYS": "fixed", "RAYREC_API_KEYS_FILE": str(file)}
    keys = Keys.of(environment)
    fingerprint = keys.fingerprint()
    assert auth.api_keys(environment) == ["fixed", "old"]

    def known(*names: str) -> list[bool]:
        return [keys.caller(f"Bearer {name}") is not None for name in names]

    assert known("fixed", "old", "new") == [True, True, False]
    file.write_text("old\nnew\n")
    assert known("fixed", "old", "new") == [True, True, True]
    file.write_text("new\n")
    assert known("fixed", "old", "new") == [True, False, True]
    file.unlink()
    assert known("fixed", "old", "new") == [True, False, True]
    file.write_text("")
    assert known("fixed", "old", "new", "") == [True, False, False, False]
    assert keys
    assert keys.fingerprint() == fingerprint
    for content in ("", None):
        file.write_text(content) if content is not None else file.unlink()
        with pytest.raises(ConfigError, match=r"RAYREC_API_KEYS_FILE: .* one per line"):
            Keys.of(environment)
    with pytest.raises(ConfigError, match=r"RAYREC_API_KEYS_FILE: .* can't be read"):
        auth.api_keys(environment)


def test_an_open_service_without_keys_is_refused() -> None:
    auth.check_exposure("127.0.0.1", Keys())
    auth.check_exposure("localhost", Keys())
    auth.check_exposure("0.0.0.0", Keys(["key"]))
    for address in ("0.0.0.0", "192.0.2.1", "::", "example.org"):
        with pytest.raises(ConfigError, match="set RAYREC_API_KEYS"):
            auth.check_exposure(address, Keys())
