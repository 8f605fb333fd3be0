"""What becomes of objects, told as it happens: a list, then a watch from there on, for each kind in a thread of its own.

Nothing is lost: a connection that is cut is taken up again where it was, by the last resource version that was heard of. Where
the server has forgotten that one (410 Gone), all is listed anew and compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Condition, Event, Thread
from time import monotonic
from typing import TYPE_CHECKING

from pytest_llmperf.deploy.kubernetes.api.kinds import Kind, Manifest
from pytest_llmperf.deploy.kubernetes.api.refusals import (
    Asked,
    ExpiredError,
    ForbiddenError,
    NotFoundError,
    RefusedError,
    UnreachableError,
    refusal,
    status_of,
)
from pytest_llmperf.deploy.kubernetes.api.transport import Stream
from pytest_llmperf.errors import DeployError, LlmperfError

if TYPE_CHECKING:
    from pytest_llmperf.deploy.kubernetes.api.client import KubeApi

WATCH_S = 60
"""How long the server keeps one watch open. A connection that has died without a word is noticed soon after."""
ASK_S = 3.0
"""How often the server is asked besides: a watch that is open hears of no expired credentials and of no network that has gone."""
ANSWER_S = 5.0
"""How long it may take to answer that."""
_PAUSE_S = 0.1
_JOIN_S = 2.0


@dataclass(frozen=True)
class Watched:
    """Objects of one kind: of a namespace, or of all where it is None, as far as selectors choose them."""

    kind: Kind
    namespace: str | None
    labels: str = ""
    fields: str = ""


@dataclass(frozen=True)
class Snapshot:
    """All watched objects as they were when the last change had arrived, at ``at`` (monotonic seconds)."""

    objects: Mapping[Kind, Mapping[str, Manifest]]
    at: float

    def of(self, kind: Kind) -> Mapping[str, Manifest]:
        """Those of a kind by name; by ``NAMESPACE/NAME`` where they are watched in all namespaces."""
        return self.objects[kind]


@contextmanager
def watching(api: KubeApi, watched: Sequence[Watched]) -> Iterator[Watch]:
    """A watch that ends with the block."""
    watch = Watch(api, watched)
    try:
        yield watch
    finally:
        watch.close()


class Watch:
    """Several kinds of objects, and whoever waits for their next change."""

    def __init__(self, api: KubeApi, watched: Sequence[Watched]) -> None:
        self._on_trouble = api.on_trouble
        self._news = Condition()
        self._changes = 0
        self._seen = 0
        self._at = 0.0
        self._error: DeployError | None = None
        self._troubles: list[str] = []
        self._followers = [_Follower(self, api, each) for each in watched]
        self._helpers: tuple[_Follower | _Asker, ...] = (*self._followers, _Asker(self, api))
        for helper in self._helpers:
            helper.thread.start()

    def next(self, timeout_s: float) -> Snapshot | None:
        """What there is, as soon as something has changed since the last call; None where nothing does in time.

        The first call waits until everything has been listed once. Raises what the API server refuses with, and
        ``UnreachableError`` when it has been away for too long.
        """
        give_up = monotonic() + timeout_s
        while True:
            with self._news:
                self._news.wait_for(self._has_news, max(0.0, give_up - monotonic()))
                troubles, self._troubles = self._troubles, []
                if self._error is not None:
                    raise self._error
                snapshot = self._snapshot() if self._is_changed() else None
            for trouble in troubles:
                self._on_trouble(trouble)
            if snapshot is not None or not troubles:
                return snapshot

    def close(self) -> None:
        """End its threads and connections."""
        for helper in self._helpers:
            helper.stop()
        for helper in self._helpers:
            helper.thread.join(_JOIN_S)

    def _is_changed(self) -> bool:
        return self._changes != self._seen and all(follower.is_listed for follower in self._followers)

    def _has_news(self) -> bool:
        return self._error is not None or bool(self._troubles) or self._is_changed()

    def _snapshot(self) -> Snapshot:
        self._seen = self._changes
        objects: dict[Kind, dict[str, Manifest]] = {}
        for follower in self._followers:
            objects.setdefault(follower.watched.kind, {}).update(follower.objects)
        return Snapshot(objects, self._at)

    def changed(self, follower: _Follower, objects: dict[str, Manifest]) -> None:
        """A follower has other objects now."""
        at = monotonic()
        with self._news:
            follower.objects, follower.is_listed = objects, True
            self._changes, self._at = self._changes + 1, at
            self._news.notify_all()

    def failed(self, error: DeployError) -> None:
        """A follower cannot go on, or need not."""
        with self._news:
            self._error = self._error or error
            self._news.notify_all()

    def troubled(self, trouble: str) -> None:
        """What the thread that waits is to tell."""
        with self._news:
            self._troubles.append(trouble)
            self._news.notify_all()


@dataclass(frozen=True)
class _Line:
    """One event of a watch."""

    type: str
    thing: Manifest

    @classmethod
    def read(cls, text: bytes, server: str) -> _Line:
        """Raises ``UnreachableError`` for what no API server says."""
        try:
            found = json.loads(text)
            return cls(found["type"], found["object"])
        except (ValueError, KeyError, TypeError):
            raise UnreachableError(f"{server} tells of changes as no API server does: {text[:80]!r}") from None

    @property
    def version(self) -> str:
        """The resource version that it brings the watch to; empty where it says none."""
        return str(self.thing.get("metadata", {}).get("resourceVersion", ""))


@dataclass(eq=False)
class _Follower:
    """One kind, and the thread that follows it."""

    watch: Watch
    shared: KubeApi
    watched: Watched
    objects: dict[str, Manifest] = field(default_factory=dict)
    is_listed: bool = False

    def __post_init__(self) -> None:
        self._api = self.shared.new(self.watch.troubled)
        self._closing = Event()
        self.thread = Thread(target=self._run, name=f"llmperf-watch-{self.watched.kind.plural}", daemon=True)

    def stop(self) -> None:
        """Have the thread end, whatever it waits for."""
        self._closing.set()
        self._api.close()

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                self._follow(self._listed())
                # A server that forgets at once is not to be asked without end.
                self._closing.wait(_PAUSE_S)
        except DeployError as error:
            self.watch.failed(error)
        finally:
            self.watch.failed(DeployError(f"nobody watches {self.watched.kind.plural} any more"))
            self._api.close()

    def _listed(self) -> str:
        """List all, tell what is different, and return from where on to watch."""
        each = self.watched
        found, version = self._api.listed(each.kind, each.namespace, each.labels, each.fields)
        objects = {self._key(one): one for one in found}
        if not self.is_listed or _versions(objects) != _versions(self.objects):
            self.watch.changed(self, objects)
        return version

    def _follow(self, version: str) -> None:
        """Watch from ``version`` on; it returns when that is too old for the server, and when it is to end."""
        attempts = self._api.attempts()
        while not self._closing.is_set():
            try:
                with self._opened(version) as stream:
                    attempts.over()
                    for text in stream.lines():
                        line = _Line.read(text, self._api.server)
                        self._take(line)
                        version = line.version or version
                # Nor one that ends every watch at once.
                self._closing.wait(_PAUSE_S)
            except ExpiredError:
                return
            except (UnreachableError, RefusedError) as error:
                if not _is_passing(error):
                    raise
                attempts.wait(error)

    def _opened(self, version: str) -> Stream:
        each = self.watched
        return self._api.open_watch(each.kind, each.namespace, each.labels, each.fields, version, WATCH_S)

    def _take(self, line: _Line) -> None:
        """One event. Raises what the server ends the watch with."""
        match line.type:
            case "ERROR":
                raise refusal(status_of(line.thing), Asked("watch", self.watched.kind.plural, namespace=self.watched.namespace))
            case "ADDED" | "MODIFIED":
                self.watch.changed(self, {**self.objects, self._key(line.thing): line.thing})
            case "DELETED":
                gone = self._key(line.thing)
                self.watch.changed(self, {key: one for key, one in self.objects.items() if key != gone})
            case _:  # a bookmark: only its resource version counts
                pass

    def _key(self, thing: Manifest) -> str:
        metadata = thing["metadata"]
        is_everywhere = self.watched.kind.namespaced and self.watched.namespace is None
        return f"{metadata['namespace']}/{metadata['name']}" if is_everywhere else str(metadata["name"])


class _Asker:
    """Whether the server still is there and takes these credentials, asked from a thread of its own as long as all is watched."""

    def __init__(self, watch: Watch, shared: KubeApi) -> None:
        self._watch = watch
        self._api = shared.new(watch.troubled)
        self._closing = Event()
        self.thread = Thread(target=self._run, name="llmperf-watch-server", daemon=True)

    def stop(self) -> None:
        """Have the thread end, whatever it waits for."""
        self._closing.set()
        self._api.close()

    def _run(self) -> None:
        try:
            while not self._closing.wait(ASK_S):
                # Who keeps the question from people is there all the same.
                with suppress(ForbiddenError, NotFoundError):
                    self._api.answers(ANSWER_S)
        except DeployError as error:
            self._watch.failed(error)
        except LlmperfError as error:  # where the credentials are to be read anew, there is nothing to read
            self._watch.failed(DeployError(error.what, where=error.where, hint=error.hint))
        finally:
            self._api.close()


def _is_passing(error: DeployError) -> bool:
    """Whether it is worth another try."""
    if isinstance(error, UnreachableError):
        return not error.is_final
    return isinstance(error, RefusedError) and (error.status == 429 or error.status >= 500)


def _versions(objects: Mapping[str, Manifest]) -> dict[str, tuple[str, str]]:
    """What tells two states of objects apart; who was deleted and made anew has another uid."""
    return {key: (one["metadata"]["uid"], one["metadata"]["resourceVersion"]) for key, one in objects.items()}
