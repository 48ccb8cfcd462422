"""Passes the metrics of a replica to Ray's exporter on its node, which Prometheus scrapes."""

import threading

from ray.util.metrics import Counter, Gauge

from rayrec.serving.metrics import PREFIX, LocalMetrics, exported

FLUSH_INTERVAL_S = 1.0


class RayMetrics(LocalMetrics):
    """Metrics that Ray's exporter on this node offers to Prometheus. Works only in a process of a Ray cluster."""

    def __init__(self) -> None:
        super().__init__()
        self._sent: dict[tuple[str, tuple[str, ...]], float] = {}
        self._exports = {
            name: (tags, kind, (Gauge if kind == "gauge" else Counter)(PREFIX + name, help, tags))
            for name, kind, help, tags in exported()
        }
        threading.Thread(target=self._flush_for_ever, name="metrics", daemon=True).start()

    def flush(self) -> None:
        """Tells Ray what has changed since the last flush."""
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
        while not pause.wait(FLUSH_INTERVAL_S):
            self.flush()
