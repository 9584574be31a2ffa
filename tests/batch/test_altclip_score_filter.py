"""The operator for data-juicer, run by its own executor's way of applying operators to a data set."""

import importlib.util
from pathlib import Path

import pytest
from helpers.batch_data import CAPTIONS
from PIL import ImageFile

import altdiffusion.batch
from altdiffusion import PromptScorer
from altdiffusion.images import image_files

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("data_juicer") is None,
    reason="py-data-juicer, which has a hundred dependencies, isn't installed",
)


@pytest.fixture(scope="module")
def operator():
    """Loaded as data-juicer loads a file that custom_operator_paths names. It lets Pillow read images that are cut off."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    from data_juicer.config.config import load_custom_operators
    from data_juicer.ops.base_op import OPERATORS

    load_custom_operators([str(Path(altdiffusion.batch.__path__[0]) / "altclip_score_filter.py")])
    yield OPERATORS.modules["altclip_score_filter"]
    ImageFile.LOAD_TRUNCATED_IMAGES = before


def test_scores_are_the_scorers_and_samples_are_kept_by_them(batch_source, small_altclip, operator):
    from data_juicer.core.data import NestedDataset
    from data_juicer.utils.constant import Fields
    from data_juicer.utils.mm_utils import SpecialTokens

    images = [str(path) for path in image_files(batch_source / "images")]
    expected = PromptScorer.from_pretrained(small_altclip, device="cpu").score(images, CAPTIONS).diagonal().tolist()
    middle = sum(sorted(expected)[4:6]) / 2
    filtering = operator(model=str(small_altclip), min_score=middle, num_proc=1)
    texts = [f"{SpecialTokens.image}{caption}{SpecialTokens.eoc}" for caption in CAPTIONS]
    data = NestedDataset.from_dict({"text": texts, "images": [[path] for path in images], Fields.stats: [{}] * 10})
    stats = data.map(filtering.compute_stats, batched=True, batch_size=4)
    assert [row[Fields.stats]["altclip_score"][0] for row in stats] == pytest.approx(expected, abs=2e-6)
    kept = stats.filter(filtering.process, batched=True, batch_size=4)
    assert [row["images"][0] for row in kept] == [
        path for path, score in zip(images, expected, strict=True) if score > middle
    ]


def test_images_that_cannot_be_read_are_in_no_range(batch_source, small_altclip, operator, tmp_path):
    from data_juicer.utils.constant import Fields
    from data_juicer.utils.mm_utils import SpecialTokens

    (tmp_path / "bad.png").write_bytes(b"nonsense")
    good = str(batch_source / "images/000.png")
    filtering = operator(model=str(small_altclip), min_score=-1, any_or_all="all")
    samples = {
        "text": [f"{SpecialTokens.image}a cat", "no image", f"{SpecialTokens.image}{SpecialTokens.image}a dog"],
        "images": [[good], [], [good, str(tmp_path / "bad.png")]],
        Fields.stats: [{}, {}, {}],
    }
    assert list(filtering.process_batched(filtering.compute_stats_batched(samples))) == [True, True, False]


def test_a_kind_that_there_is_not_is_refused(operator):
    with pytest.raises(ValueError, match="expected any or all"):
        operator(any_or_all="some")
