"""The hub's data sets in a folder, in which the library `datasets` finds configs and splits as it does online."""

from contextlib import contextmanager

import datasets

from altdiffusion.data import hub_datasets


@contextmanager
def local_hub(folder, monkeypatch):
    """Gives a function that publishes: `publish(name, {config: {split: a datasets.Dataset}}, revision, commit)`.

    commit: by which the library knows the data, as it does online; a revision is the commit that was last published for it.
    """
    load_dataset, root, commits = datasets.load_dataset, folder / "hub", {}
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")

    def load(name, config=None, *, revision, **options):
        return load_dataset(str(commits[name, revision or "main"]), config, **options)

    def publish(name, configs, revision="main", commit="first"):
        there, lines = root / name / f"{revision}-{commit}", ["---", "configs:"]
        commits[name, revision] = there
        for config, splits in configs.items():
            lines += [f"- config_name: {config}", "  data_files:"]
            for split, data in splits.items():
                (there / config).mkdir(parents=True, exist_ok=True)
                data.to_parquet(there / config / f"{split}.parquet")
                lines += [f"  - split: {split}", f"    path: {config}/{split}.parquet"]
        (there / "README.md").write_text("\n".join([*lines, "---"]), encoding="utf-8")
        hub_datasets.load.cache_clear()

    monkeypatch.setattr(datasets, "load_dataset", load)
    yield publish
    hub_datasets.load.cache_clear()
