"""The queue: who waits together is drawn together, who cancels is gone, nobody is lost."""

import asyncio
import threading
from types import SimpleNamespace

import pytest
from PIL import Image

from altdiffusion.generation.draw import GenerateRequest, Step
from altdiffusion.generation.result import GeneratedImage, NotFinite
from altdiffusion.generation.settings import ImageSettings
from altdiffusion.web import draw_queue
from altdiffusion.web.draw_queue import DrawQueue, Generated, Generating, Job, Loading, Waiting
from altdiffusion.web.translations import Refused


class Machine:
    """In place of `draw_batch`: the batches that it was asked for, a gate before each step, failures on demand."""

    def __init__(self):
        self.batches, self.steps, self.gate, self.fails = [], 0, threading.Semaphore(0), False
        self.overflowing = ()  # prompts whose images are NaN

    def __call__(self, pipe, requests, on_step):
        self.batches.append([request.settings.prompt for request in requests])
        rows, steps = list(range(len(requests))), requests[0].settings.steps
        for done in range(steps):
            self.gate.acquire()
            if self.fails:
                raise RuntimeError("/secret/path")
            self.steps += 1
            previews = [Image.new("RGB", (8, 8))] * len(rows)
            rows = on_step(Step(done + 1, steps, tuple(rows), lambda previews=previews: previews))
            if not rows:
                return [None] * len(requests)
        picture = Image.new("RGB", (8, 8))
        failed = [request.settings for request in requests if request.settings.prompt in self.overflowing]
        images = [
            GeneratedImage(picture, request.settings, False) if row in rows and request.settings not in failed else None
            for row, request in enumerate(requests)
        ]
        if failed:
            raise NotFinite(images, failed)
        return images

    def open(self, steps=10**6):
        for _ in range(min(steps, 1000)):
            self.gate.release()


class NoModels:
    pipe = None

    def is_loaded(self, label):
        return True

    def pipeline(self, label):
        return self.pipe


@pytest.fixture
def machine(monkeypatch):
    machine = Machine()
    monkeypatch.setattr(draw_queue, "draw_batch", machine)
    return machine


@pytest.fixture
def queue(machine):
    queue = DrawQueue(NoModels(), max_waiting=3, pixels=4 * 64 * 64)
    yield queue
    machine.open()
    queue.close()
    assert not queue._thread.is_alive()


def job(*prompts, steps=3, model="mini"):
    size = {"width": 64, "height": 64, "steps": steps}
    every = [ImageSettings(prompt=prompt, seed=seed, **size) for seed, prompt in enumerate(prompts)]
    return Job(model, [GenerateRequest(settings) for settings in every])


async def until(condition):
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came")


async def pictures(waiting):
    async for news in waiting.progress():
        if isinstance(news, Generated):
            return [each.settings.prompt for each in news.images]
    raise AssertionError("no pictures")


def test_equal_settings_that_wait_are_drawn_together(queue, machine):
    async def visit():
        first = job("a")
        queue.submit(first)
        await until(lambda: machine.batches)
        others = [job("b", "c"), job("x", steps=2), job("d")]
        for each in others:
            queue.submit(each)
        machine.open()
        assert [await pictures(each) for each in (first, *others)] == [["a"], ["b", "c"], ["x"], ["d"]]

    asyncio.run(visit())
    assert machine.batches == [["a"], ["b", "c", "d"], ["x"]]


def test_a_full_queue_says_so_and_a_cancelled_one_frees_its_place(queue, machine):
    async def visit():
        queue.submit(job("drawn"))
        await until(lambda: machine.batches)
        waiting = [job(f"waits {number}", model=str(number)) for number in range(3)]
        for each in waiting:
            queue.submit(each)
        with pytest.raises(Refused) as error:
            queue.submit(job("too many"))
        assert error.value.key == "queue_full"
        queue.cancel(waiting[1])
        queue.submit(after := job("has room"))
        machine.open()
        assert await pictures(after) == ["has room"]
        assert ["waits 1"] not in machine.batches

    asyncio.run(visit())


def test_cancelling_ends_the_drawing_at_the_next_step(queue, machine):
    async def visit():
        gone, next_one = job("gone", steps=50), job("next")
        queue.submit(gone)
        queue.submit(next_one)
        machine.open(2)
        await until(lambda: machine.steps == 2)
        queue.cancel(gone)
        machine.open(1)
        await until(lambda: len(machine.batches) == 2)
        assert machine.steps == 3
        machine.open()
        assert await pictures(next_one) == ["next"]

    asyncio.run(visit())


def test_a_large_request_lets_others_in_between(queue, machine):
    async def visit():
        large, small = job(*"abcdefgh"), job("x", steps=2)
        queue.submit(large)
        await until(lambda: machine.batches)
        queue.submit(small)
        machine.open()
        assert await pictures(small) == ["x"]
        assert await pictures(large) == list("abcdefgh")

    asyncio.run(visit())
    assert machine.batches == [list("abcd"), ["x"], list("efgh")]


def test_progress_counts_all_batches_of_a_request(queue, machine):
    async def visit():
        queue.submit(large := job(*"abcdefgh"))
        machine.open()
        seen = [news async for news in large.progress()]
        steps = [(each.done, each.total) for each in seen if isinstance(each, Generating)]
        assert all(total == 6 for _, total in steps)
        assert [done for done, _ in steps] == sorted(done for done, _ in steps)
        assert isinstance(seen[-1], Generated)

    asyncio.run(visit())


def test_a_failure_reaches_everybody_without_its_path_and_the_queue_lives(queue, machine):
    async def visit():
        queue.submit(first := job("a"))
        await until(lambda: machine.batches)
        queue.submit(second := job("b"))
        machine.fails = True
        machine.open(2)
        for each in (first, second):
            with pytest.raises(Refused) as error:
                await pictures(each)
            assert "secret" not in str(error.value)
        machine.fails = False
        machine.open()
        queue.submit(third := job("c"))
        assert await pictures(third) == ["c"]

    asyncio.run(visit())


def test_an_image_out_of_nan_is_refused_and_the_others_of_its_batch_are_kept(queue, machine):
    async def visit():
        queue.submit(first := job("a"))
        await until(lambda: machine.batches)
        queue.submit(good := job("b"))
        queue.submit(bad := job("c", "d"))
        machine.overflowing = ("d",)
        machine.open()
        assert await pictures(first) == ["a"]
        assert await pictures(good) == ["b"]
        with pytest.raises(Refused, match="numbers overflowed"):
            await pictures(bad)
        assert machine.batches[1] == ["b", "c", "d"]

    asyncio.run(visit())


def test_a_visitor_whose_loop_is_gone_stops_nobody(queue, machine):
    async def leave():
        queue.submit(job("gone"))
        await until(lambda: machine.batches)

    asyncio.run(leave())
    machine.open()

    async def visit():
        queue.submit(next_one := job("next"))
        assert await pictures(next_one) == ["next"]

    asyncio.run(visit())


@pytest.mark.parametrize("checked", [True, False])
def test_what_no_safety_checker_has_seen_is_not_shown(machine, checked):
    models = NoModels()
    models.pipe = SimpleNamespace(safety_checker=object() if checked else None)
    queue = DrawQueue(models, max_waiting=3, pixels=64 * 64)

    async def visit():
        queue.submit(one := job("a"))
        machine.open(1)
        async for news in one.progress():
            if isinstance(news, Generating):
                machine.open()
                return news.preview

    assert (asyncio.run(visit()) is None) == checked
    queue.close()


def test_slow_readers_get_the_latest_and_the_last_preview():
    async def visit():
        slow, preview = job("a"), Image.new("RGB", (8, 8))
        for news in (Waiting(3), Loading(), Generating(1, 9, 1.0, preview), Generating(2, 9, 1.0, None)):
            slow.tell(news)
        await asyncio.sleep(0.01)
        async for news in slow.progress():
            assert news == Generating(2, 9, 1.0, preview)
            break

    asyncio.run(visit())
