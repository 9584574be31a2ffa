"""The queue of visitors' requests. One thread generates, as many waiting images together as their settings allow."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from PIL import Image

from altdiffusion.errors import InputError
from altdiffusion.generation.draw import GenerateRequest, Step, draw_batch
from altdiffusion.generation.result import GeneratedImage, NotFinite
from altdiffusion.web.model_pool import Models
from altdiffusion.web.translations import Refused

logger = logging.getLogger(__name__)

MAX_ROWS = 8  # images of a batch; more than fill the processor are no faster
PREVIEW_FRACTION = 0.1  # of the time may go into previews


@dataclass(frozen=True)
class Waiting:
    """ahead: the jobs that come first."""

    ahead: int


@dataclass(frozen=True)
class Loading:
    """The model is being loaded, which happens once."""


@dataclass(frozen=True)
class Generating:
    """done, total: steps of the whole job. seconds: that are left, about. preview: the image so far, where it changed."""

    done: int
    total: int
    seconds: float
    preview: Image.Image | None


@dataclass(frozen=True)
class Generated:
    """The images, in the order of the job's requests."""

    images: list[GeneratedImage]


@dataclass(eq=False)
class Job:
    """A visitor's images, of one model and one `batch_key`. model: its label. `cancel` may come from any thread."""

    model: str
    requests: list[GenerateRequest]
    cancelled: bool = False
    images: dict[int, GeneratedImage] = field(default_factory=dict)
    given_out: int = 0  # requests that went to a batch

    def __post_init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Queue[Waiting | Loading | Generating | Generated | Exception] = asyncio.Queue()

    @property
    def key(self) -> tuple[object, ...]:
        """Jobs of equal keys can be generated together."""
        return self.model, self.requests[0].batch_key

    def tell(self, progress: Waiting | Loading | Generating | Generated | Exception) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._news.put_nowait, progress)

    async def progress(self) -> AsyncIterator[Waiting | Loading | Generating | Generated]:
        """What happens to the job, the latest only where the reader is slow; ends with Generated. Raises what went wrong."""
        while True:
            latest = await self._news.get()
            while not self._news.empty() and not isinstance(latest, Generated | Exception):
                newer = self._news.get_nowait()
                if isinstance(newer, Generating) and isinstance(latest, Generating) and newer.preview is None:
                    newer = Generating(newer.done, newer.total, newer.seconds, latest.preview)
                latest = newer
            if isinstance(latest, Exception):
                raise latest
            yield latest
            if isinstance(latest, Generated):
                return


class DrawQueue:
    """max_waiting: jobs that may wait; one more is refused. pixels: of all images of a batch, at most."""

    def __init__(self, models: Models, max_waiting: int, pixels: int) -> None:
        self.max_waiting = max_waiting
        self._models, self._pixels = models, pixels
        self._jobs: deque[Job] = deque()  # with requests that no batch has yet
        self._busy: list[Job] = []  # the jobs whose images are being generated
        self._last: Job | None = None  # the one that began the batch before
        self._change = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="generating", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Raises Refused when too many wait."""
        with self._change:
            waiting = sum(job.given_out == 0 for job in self._jobs)
            if waiting >= self.max_waiting and (self._busy or waiting):
                raise Refused("queue_full", most=self.max_waiting)
            self._jobs.append(job)
            job.tell(Waiting(waiting + len(self._busy)))
            self._change.notify()

    def cancel(self, job: Job) -> None:
        """Its place is free at once; what is being generated of it ends with the step."""
        with self._change:
            job.cancelled = True
            if job in self._jobs:
                self._jobs.remove(job)

    def close(self) -> None:
        with self._change:
            self._closed = True
            for job in (*self._jobs, *self._busy):
                job.cancelled = True
            self._jobs.clear()
            self._change.notify()
        self._thread.join(timeout=30)

    def _work(self) -> None:
        while True:
            with self._change:
                while not self._jobs and not self._closed:
                    self._change.wait()
                if self._closed:
                    return
                batch = self._next_batch()
            try:
                self._generate(batch)
            except Exception as error:  # whatever it is, it must not end the thread that everybody waits for
                if not isinstance(error, InputError):
                    logger.exception("generating failed")
                known = error if isinstance(error, Refused) else Refused("failed")
                with self._change:
                    for job in dict.fromkeys(job for job, _ in batch):
                        if job in self._jobs:
                            self._jobs.remove(job)
                        job.tell(known)
            finally:
                with self._change:
                    self._busy = []

    def _next_batch(self) -> list[tuple[Job, int]]:
        """(job, index of its request): those of the first job, and of others like it while there is room."""
        if self._jobs[0] is self._last:  # a large job lets the others in between its batches
            self._jobs.rotate(-1)
        self._last = first = self._jobs[0]
        room = max(1, min(MAX_ROWS, self._pixels // _pixels(first)))
        batch: list[tuple[Job, int]] = []
        for job in [job for job in self._jobs if job.key == first.key]:
            while job.given_out < len(job.requests) and len(batch) < room:
                batch.append((job, job.given_out))
                job.given_out += 1
            if job.given_out == len(job.requests):
                self._jobs.remove(job)
        self._busy = list(dict.fromkeys(job for job, _ in batch))
        for ahead, job in enumerate(job for job in self._jobs if job.given_out == 0):
            job.tell(Waiting(ahead + len(self._busy)))
        return batch

    def _generate(self, batch: list[tuple[Job, int]]) -> None:
        first = batch[0][0]
        if not self._models.is_loaded(first.model):
            for job in self._busy:
                job.tell(Loading())
        pipe = self._models.pipeline(first.model)
        # a preview has not passed the safety checker: where there is one, none is shown
        progress = _Progress(batch, with_previews=getattr(pipe, "safety_checker", None) is None)
        try:
            images = draw_batch(pipe, [job.requests[index] for job, index in batch], progress.after_step)
        except NotFinite as error:
            logger.error("%s", error)
            images = error.images
        for (job, index), image in zip(batch, images, strict=True):
            if image is not None:
                job.images[index] = image
        for job in self._busy:
            if job.cancelled:
                continue
            if any(index not in job.images for other, index in batch if other is job):
                job.tell(Refused("not_finite"))
                self.cancel(job)
            elif len(job.images) == len(job.requests):
                job.tell(Generated([job.images[index] for index in range(len(job.requests))]))


def _pixels(job: Job) -> int:
    width, height = job.requests[0].settings.hires_size or job.requests[0].known_size
    return max(1, width * height)


class _Progress:
    """Tells the jobs of a batch how far they are, and the batch which of them are still wanted."""

    def __init__(self, batch: list[tuple[Job, int]], with_previews: bool) -> None:
        self._batch, self._started = batch, time.monotonic()
        self._with_previews = with_previews
        self._spent = 0.0  # seconds, on previews

    def after_step(self, step: Step) -> list[int]:
        wanted = [row for row in step.rows if not self._batch[row][0].cancelled]
        previews = self._previews(step) if wanted else {}
        seconds = (time.monotonic() - self._started) / step.done  # of one step
        told: set[Job] = set()
        for row in wanted:
            job, _ = self._batch[row]
            if job in told:
                continue
            told.add(job)
            now = sum(other is job for other, _ in self._batch)  # of its images in this batch
            batches = -(-(len(job.requests) - len(job.images)) // now)  # this one included
            before = len(job.images) // now
            total = step.total * (before + batches)
            done = step.total * before + step.done
            job.tell(Generating(done, total, seconds * (total - done), previews.get(row)))
        return wanted

    def _previews(self, step: Step) -> dict[int, Image.Image]:
        started = time.monotonic()
        late = self._spent > PREVIEW_FRACTION * (started - self._started)
        if not self._with_previews or late or step.done == step.total:
            return {}
        previews = dict(zip(step.rows, step.previews(), strict=True))
        self._spent += time.monotonic() - started
        return previews
