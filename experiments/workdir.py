"""Where results are: a folder of this machine, or of a bucket (`gs://…`, `s3://…`)."""

from pathlib import Path

from experiments.bucket import Bucket
from experiments.bucket_results import BucketResults, read_rows
from experiments.errors import ExperimentError
from experiments.results import Results, ResultsFile, Row, parse


def open_results(workdir: str) -> Results:
    """The results of a workdir, to be entered by the run that writes them.

    Raises `ExperimentError` for an address that no workdir can have.
    """
    return BucketResults(workdir) if "://" in workdir else ResultsFile(Path(workdir))


def read(workdir: str) -> list[Row]:
    """The finished rows of a workdir, or of a `.jsonl` file, while a run may be writing them.

    Raises `ExperimentError` where there are none, or one is damaged.
    """
    if "://" in workdir:
        rows = read_rows(Bucket(workdir))
    else:
        path = Path(workdir)
        path = path / "results.jsonl" if path.is_dir() else path
        data = path.read_bytes() if path.is_file() else b""
        rows = parse(data[: data.rfind(b"\n") + 1], path)
    if not rows:
        raise ExperimentError(f"there are no finished measurements in {workdir}")
    return rows
