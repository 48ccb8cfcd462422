"""The numbers of a replica, handed to Ray's exporter of its node, which Prometheus reads."""

import threading

from ray.util.metrics import Counter, Gauge

from rayrec.serving.metrics import PREFIX, LocalMetrics, exported

FLUSH_S = 1.0


class RayMetrics(LocalMetrics):
    """Numbers that Ray's exporter of this node tells to Prometheus. Must be made in a process of a Ray cluster."""

    def __init__(self) -> None:
        super().__init__()
        self._sent: dict[tuple[str, tuple[str, ...]], float] = {}
        self._exports = {
            name: (tags, kind, (Gauge if kind == "gauge" else Counter)(PREFIX + name, help, tags))
            for name, kind, help, tags in exported()
        }
        threading.Thread(target=self._flush_for_ever, name="metrics", daemon=True).start()

    def flush(self) -> None:
        """Tell Ray what is new."""
        for name, values, value in self.samples():
            tags, kind, export = self._exports[name]
            new = value - self._sent.get((name, values), 0.0)
            if kind == "gauge":
                export.set(value, dict(zip(tags, values, strict=True)))
            elif new > 0:
                export.inc(new, dict(zip(tags, values, strict=True)))
                self._sent[name, values] = value

    def _flush_for_ever(self) -> None:
        pause = threading.Event()
        while not pause.wait(FLUSH_S):
            self.flush()
