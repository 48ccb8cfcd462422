"""Opens the state store that a config names."""

from pathlib import Path

from rayrec.config import Config, ConfigError, Serving, need_package
from rayrec.serving.state.store import Exposure, StateStore

REDIS_SCHEMES = ("redis://", "rediss://", "unix://")


def open_store(config: Config) -> StateStore:
    """The store that `serving.state` names. Raises `ConfigError` if it can't be used, `StoreError` if it can't be reached now."""
    check_installed(config)
    exposure = exposure_of(config.serving)
    if is_redis(config):
        from rayrec.serving.state.redis import RedisStore  # only those who use Redis need the package

        return RedisStore(str(config.serving.state), exposure)
    from rayrec.serving.state.sqlite import SqliteStore

    return SqliteStore(state_path(config), exposure)


def exposure_of(serving: Serving) -> Exposure:
    """The kind of event that says that a video was seen."""
    return "view" if serving.views == "reported" else "impression"


def check_installed(config: Config) -> None:
    """Raises `ConfigError` if the store needs a package that is not installed."""
    if is_redis(config):
        need_package("redis", "redis", "serving.state: a Redis")


def is_redis(config: Config) -> bool:
    return (config.serving.state or "").startswith(REDIS_SCHEMES)


def state_path(config: Config) -> Path:
    """The SQLite file of a config. Raises `ConfigError` if the events are kept elsewhere, or if the config must name a file."""
    state = config.serving.state
    if state and "://" in state:
        known = "the events are in Redis" if is_redis(config) else "it is neither a file nor redis://HOST:PORT/DATABASE"
        raise ConfigError(f"serving.state is not a SQLite file: {known}")
    if state:
        return Path(state).expanduser().resolve()
    if "://" in config.workspace:
        raise ConfigError(
            f"the events can't be kept in {config.workspace}: set serving.state to a local file, such as events.db, or to a Redis"
        )
    return Path(config.workspace).expanduser().resolve() / "state" / "events.db"
