"""Stage ``index``: bringing the rows of the photo files up to date."""

from __future__ import annotations

import pyarrow as pa

from maskprep.photos import index
from maskprep.pipeline.job import Job, Wanted, close, fill
from maskprep.store.shards import live_rows, read_rows, shard_path


def index_rows(job: Job, wanted: Wanted) -> pa.Table:
    """A row for every photo, sorted by image. Those that could not be read this time are in no shard: the next run
    tries again."""
    stage = index.IndexStage(job.config.index.max_megapixels)
    fill(job, wanted, stage, index.ROWS_PER_SHARD)
    live = live_rows(wanted.folder, wanted.pairs)
    rows = read_rows(wanted.folder, live)
    broken = {image for (image, _), row in zip(wanted.pairs, wanted.rows, strict=True) if row["broken"]}
    if rows is not None and (old := index.remembered(rows, broken)):
        for shard in sorted(set(live["shard"].iloc[old])):
            shard_path(wanted.folder, int(shard)).unlink()
        fill(job, wanted, stage, index.ROWS_PER_SHARD)
        rows = read_rows(wanted.folder, live_rows(wanted.folder, wanted.pairs))
    close(wanted)
    lost = index.not_read({image: job.failed[image] for image, _ in wanted.pairs if image in job.failed})
    return lost if rows is None else pa.concat_tables([rows, lost]).sort_by("image")
