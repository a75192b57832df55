"""The metrics of several workers as one: counted in files of a shared folder, summed by the worker that answers.

Files are by worker number, not by process: a restarted worker continues the counts of its predecessor, so that sums
never decrease and files do not accumulate. A gauge belongs to a process, and ends with it.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric, values
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.samples import Sample

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Names the folder. The parent sets it for its workers, before they import ``prometheus_client``."""

_READ_ATTEMPTS = 4
_READ_PAUSE_S = 0.02


def shared_folder() -> Path:
    """The folder, in a worker."""
    return Path(os.environ[FOLDER_VARIABLE])


def share_metrics(worker: int) -> SharedRegistry:
    """From now on this process counts in the shared folder. To be called before any metric is made."""
    values.ValueClass = values.MultiProcessValue(lambda: worker)  # type: ignore[no-untyped-call]
    return SharedRegistry(shared_folder(), worker)


class SharedRegistry(CollectorRegistry):
    """A registry that collects the metrics of all workers.

    Counters, histograms and summaries are sums. A gauge has a label ``worker``, unless its ``multiprocess_mode`` sums
    it up. Metrics that the files cannot hold (info, enum, a plugin's own collectors) are those of the answering
    worker, and have the same label.
    """

    def __init__(self, folder: Path, worker: int) -> None:
        super().__init__(auto_describe=False)
        self._folder = folder
        self._worker = str(worker)

    def collect(self) -> Iterator[Metric]:
        """All metrics. Reads files: call it in a thread."""
        own = {metric.name: metric for metric in super().collect()}
        for metric in self._read():
            known = own.pop(metric.name, None)
            unit = known.unit if known is not None else ""
            is_gauge = metric.type == "gauge"
            yield _metric(metric, unit, map(_with_worker_for_pid, metric.samples) if is_gauge else whole(metric))
        for metric in own.values():
            samples = (item._replace(labels={"worker": self._worker, **item.labels}) for item in metric.samples)
            yield _metric(metric, metric.unit, samples)

    def _read(self) -> Iterable[Metric]:
        for attempts_left in reversed(range(_READ_ATTEMPTS)):
            try:
                merged: Iterable[Metric] = MultiProcessCollector(None, str(self._folder)).collect()  # type: ignore[no-untyped-call]
                return merged
            except (OSError, RuntimeError, struct.error):
                if not attempts_left:
                    raise
                time.sleep(_READ_PAUSE_S)  # a worker that starts or ends is making or removing a file
        return ()


def whole(metric: Metric) -> Iterator[Sample]:
    """Its samples, without histograms that another worker is just making: readers refuse one without its end."""
    made = {_name_of(sample) for sample in metric.samples if sample.labels.get("le") == "+Inf"}
    return (sample for sample in metric.samples if metric.type != "histogram" or _name_of(sample) in made)


def _name_of(sample: Sample) -> frozenset[tuple[str, str]]:
    return frozenset((name, value) for name, value in sample.labels.items() if name != "le")


def _metric(metric: Metric, unit: str, samples: Iterable[Sample]) -> Metric:
    shown = Metric(metric.name, metric.documentation, metric.type, unit)
    shown.samples = list(samples)
    return shown


def _with_worker_for_pid(sample: Sample) -> Sample:
    if "pid" not in sample.labels:
        return sample
    labels = {name: value for name, value in sample.labels.items() if name != "pid"}
    return sample._replace(labels={"worker": sample.labels["pid"], **labels})


def forget_gauges(folder: Path, worker: int) -> None:
    """Remove the gauges of a worker that has died; its counts stay."""
    _remove(folder, f"gauge_*_{worker}.db")


def forget_worker(folder: Path, worker: int) -> None:
    """Remove the files of a worker whose parent has ended; the last worker to end removes the folder."""
    _remove(folder, f"*_{worker}.db")
    with suppress(OSError):
        folder.rmdir()


def _remove(folder: Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        with suppress(OSError):
            path.unlink()
