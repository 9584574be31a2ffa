"""Features on disk: computed once, gone on with, refused where they are of something else."""

import json

import pytest
import torch
from accelerate import Accelerator

from altdiffusion import InputError
from altdiffusion.data.open_tables import open_tables
from altdiffusion.data.table import SkipLog
from altdiffusion.errors import TrainingStopped
from altdiffusion.training.inputs import feature_cache as module
from altdiffusion.training.inputs.feature_cache import FeatureCache, about_data, checksum, describe_tables


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(FeatureCache, "SHARD", 10)


class Computing:
    """Record n has n % 3 rows of the number n."""

    def __init__(self, stop=None):
        self.seen, self.stop = [], stop

    def __call__(self, records):
        if self.stop in records:
            raise KeyboardInterrupt
        self.seen += records
        return [torch.full((record % 3, 4), float(record)) for record in records]


def written(path, text):
    """A table of numbers, a line each."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"number\n{text}\n")
    skipped = SkipLog(1)
    return open_tables([path], ["number"], images=False, skipped=skipped)[0]


def make(folder, compute, count=35, **about):
    return FeatureCache(folder, count, compute, {"what": "numbers", **about}, Accelerator(cpu=True), batch=4)


def test_every_record_has_its_rows(tmp_path):
    compute = Computing()
    cache = make(tmp_path / "cache", compute)
    assert compute.seen == list(range(35))
    for record in (34, 0, 9, 10, 11, 20, 1):
        assert cache[record].shape == (record % 3, 4)
        assert cache[record].dtype == torch.float16
        assert (cache[record] == record).all()


def test_an_interrupted_one_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "cache", Computing(stop=23))
    compute = Computing()
    assert (make(tmp_path / "cache", compute)[22] == 22).all()
    assert compute.seen == list(range(20, 35))


def test_another_one_is_refused_and_nothing_is_lost(tmp_path):
    make(tmp_path / "cache", Computing(), model=1)
    with pytest.raises(
        InputError, match="was made with model = 1, this training has 2: give another folder or remove it"
    ):
        make(tmp_path / "cache", Computing(), model=2)
    with pytest.raises(InputError, match="was made with records = 35, this training has 36"):
        make(tmp_path / "cache", Computing(), count=36, model=1)
    compute = Computing()
    make(tmp_path / "cache", compute, model=1)
    assert not compute.seen


@pytest.mark.parametrize("place", ["moved/a.tsv", "renamed.tsv", "a.tsv"])
def test_the_same_data_under_another_path_is_the_same(tmp_path, place):
    make(tmp_path / "cache", Computing(), **about_data([written(tmp_path / "a.tsv", "1\n2\n3")]))
    compute = Computing()
    make(tmp_path / "cache", compute, **about_data([written(tmp_path / place, "1\n2\n3")]))
    assert not compute.seen


@pytest.mark.parametrize("other", ["1\n2\n4", "1\n2\n3 ", "1\n23"])
def test_other_data_is_refused_under_the_same_name_too(tmp_path, other):
    make(tmp_path / "cache", Computing(), **about_data([written(tmp_path / "a.tsv", "1\n2\n3")]))
    with pytest.raises(InputError, match="was made with data"):
        make(tmp_path / "cache", Computing(), **about_data([written(tmp_path / "a.tsv", other)]))


def test_a_cache_made_before_data_had_checksums_is_taken(tmp_path):
    about = about_data([written(tmp_path / "a.tsv", "1\n2\n3")])
    make(tmp_path / "cache", Computing(), data=about["data"])
    compute = Computing()
    make(tmp_path / "cache", compute, **about)
    assert not compute.seen


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(InputError, match="not empty and no cache"):
        make(tmp_path, Computing())
    with pytest.raises(InputError, match="can't be written"):
        make(tmp_path / "precious.txt/cache", Computing())


def test_a_damaged_shard_is_named(tmp_path):
    make(tmp_path / "cache", Computing())
    shard = tmp_path / "cache/records-000000010.safetensors"
    shard.write_bytes(shard.read_bytes()[:50])
    with pytest.raises(InputError, match=r"records-000000010.safetensors is damaged .*: remove it"):
        make(tmp_path / "cache", Computing())
    shard.unlink()
    assert (make(tmp_path / "cache", Computing())[11] == 11).all()


def test_a_full_disk_is_said_and_leaves_no_half_shard(tmp_path, monkeypatch):
    def full(tensors, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(TrainingStopped, match=r"No space left on device.*: make room and start again, it goes on"):
        make(tmp_path / "cache", Computing())
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["about.json"]


def test_checksum_sees_every_weight():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3)
    )  # which counts in a tensor without dimensions
    before = checksum(model)
    assert before == checksum(model)
    with torch.no_grad():
        model[1].bias[2] += 1e-6
    assert checksum(model) != before


def test_tables_are_described_wherever_they_lie(tmp_path):
    class Table:
        def __init__(self, path):
            self.path = path

        def __len__(self):
            return 3

    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "a.tsv").write_text("en\n1\n2\n3\n")
    described = [describe_tables([Table(tmp_path / place / "a.tsv")]) for place in ("here", "there")]
    assert described[0] == described[1] == json.loads(json.dumps(described[0])) == [["a.tsv", 3, 9]]
    assert describe_tables([Table(tmp_path / "here")]) == [["here", 3, 9]]
