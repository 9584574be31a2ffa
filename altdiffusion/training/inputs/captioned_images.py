"""Images to train on, with captions or without; a bad image's place is taken by the next one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from itertools import chain

from torch import Tensor

from altdiffusion.data.open_tables import open_tables
from altdiffusion.data.table import SkipLog, Table
from altdiffusion.errors import InputError
from altdiffusion.images import BadImage, ImageSource, image_key
from altdiffusion.training.inputs.sampling import Records, language_weights, say_columns


class ImageRecords:
    """The records of tables that have images; bad images are counted when their turn comes.

    skipped: what it counted when the tables were opened goes on counting.
    """

    def __init__(self, tables: Sequence[Table], skipped: SkipLog) -> None:
        self.records = Records(tables)
        self._skipped = skipped
        self._total = len(self.records) + skipped.count  # good and bad together

    def __len__(self) -> int:
        return len(self.records)

    def source(self, record: int) -> ImageSource:
        """The image, not read yet."""
        image: ImageSource = self.records[record]["image"]
        return image

    def identity(self, record: int) -> int:
        """Equal for two records of the same image: 64 bits of a hash."""
        key = image_key(self.source(record)).encode()
        return int.from_bytes(blake2b(key, digest_size=8).digest(), "little", signed=True)

    def image(self, record: int, read: Callable[[ImageSource], Tensor]) -> tuple[int, Tensor]:
        """(its record, the image): this record's, or the next one's whose image can be read.

        Raises InputError when there are more bad images than the user puts up with.
        """
        return self.first_good(record, lambda candidate: read(self.source(candidate)))

    def first_good(
        self, record: int, get: Callable[[int], Tensor], alike: Callable[[int], bool] = lambda record: True
    ) -> tuple[int, Tensor]:
        """(record, what `get` makes of it): of this record, or of the next one for which it raises no BadImage.

        The next one is of the same table, so that it has the same columns, and one for which `alike` is true; the table's
        end is followed by its beginning. Raises InputError as `skip`, and where there is no such record.
        """
        table, _ = self.records.find(record)
        indices = self.records.spans[table]
        for candidate in filter(alike, chain(range(record, indices.stop), range(indices.start, record))):
            try:
                return candidate, get(candidate)
            except BadImage as error:
                self.skip(candidate, str(error))
        raise InputError(f"none can be used of the images like {self.records.where(record)}: mend or remove them")

    def all_good(self, records: Iterable[int], get: Callable[[int], Tensor]) -> dict[int, Tensor]:
        """What `get` makes of these records, without those for which it raises BadImage, which are counted, see `skip`."""
        images = {}
        for record in records:
            try:
                images[record] = get(record)
            except BadImage as error:
                self.skip(record, str(error))
        return images

    def skip(self, record: int, reason: str) -> None:
        """Count a record whose image is bad, under its place and its file. Raises InputError beyond the limit."""
        where, source = self.records.where(record), self.source(record)
        if not source.member and str(source.path) != where:
            where += f" ({source.path.name})"
        self._skipped.add(where, reason)
        self._skipped.check(self._total)


class CaptionedImages(ImageRecords):
    """Images with texts in some languages, from files.

    languages: as `language_weights` takes them; None: images alone, with or without texts.
    """

    def __init__(self, paths: Sequence[str], languages: Sequence[str] | None, max_skipped: float) -> None:
        skipped = SkipLog(max_skipped)
        columns = None if languages is None else [language.partition("=")[0] for language in languages]
        super().__init__(open_tables(paths, columns, images=True, skipped=skipped), skipped)
        self.languages = {} if languages is None else language_weights(self.records.parts, languages)
        if languages is not None:
            say_columns(self.records.parts, self.languages)

    def caption(self, record: int, language: str) -> str:
        return str(self.records[record][language])
