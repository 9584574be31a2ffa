"""Records that can't be used: counted once, named, fatal beyond a limit."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers.tables import tsv

from altdiffusion import InputError
from altdiffusion.data.open_tables import open_tables
from altdiffusion.data.table import SkipLog


@pytest.mark.parametrize(("bad", "stops"), [(1, False), (2, True)])
def test_more_than_one_percent_stops_by_default(tmp_path, bad, stops):
    path = tsv(tmp_path / "x.tsv", ("en",), *[("cat",)] * (100 - bad), *[("a", "b")] * bad)
    if stops:
        with pytest.raises(InputError, match=r"2 of 100 .* 1 %.*2 fields.*x\.tsv:100.*--max-skipped"):
            open_tables([path], [], images=False, skipped=SkipLog())
    else:
        (table,) = open_tables([path], [], images=False, skipped=SkipLog())
        assert len(table) == 99


def test_the_fraction_is_of_all_tables_together(tmp_path):
    good = tsv(tmp_path / "good.tsv", ("en",), *[("cat",)] * 97)
    bad = tsv(tmp_path / "bad.tsv", ("en",), ("cat",), ("cat",), ("a", "b"))
    assert len(open_tables([good, bad], [], images=False, skipped=SkipLog())) == 2


def test_a_record_counts_once_however_many_threads_meet_it(capsys):
    skipped = SkipLog(show=3)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: skipped.add(f"x.tsv:{i % 20}", "bad"), range(400)))
    assert skipped.counts == {"bad": 20}
    assert len(capsys.readouterr().err.splitlines()) == 4  # three, and that there are more


def test_the_commonest_reason_is_named():
    skipped = SkipLog(0.5, show=0)
    for where, reason in [("x:1", "odd"), ("x:2", "usual"), ("x:3", "usual")]:
        skipped.add(where, reason)
    skipped.check(6)
    with pytest.raises(InputError, match=r"3 of 5 .*usual \(x:2\)"):
        skipped.check(5)
