"""Content of folders and files, as a name that is the same wherever they lie."""

import hashlib
from pathlib import Path

from experiments.records.privacy import folder_name

_PART_BYTES = 64 << 20  # read at a time

ROWS = "*.jsonl"  # of a folder of rows; notes beside them are nobody's data


def content_id(path: Path, only: str = "*") -> str:
    """The name of a folder or file by what it holds: `<name>@<12 hex>`.

    The digits are of the file's SHA-256, or of one over the names, sizes and bytes of the folder's
    files. Every byte counts, for a model that was fine-tuned may differ from its base in a few
    vectors only. That takes about two seconds a GB, as loading does.

    Args:
        only: the names of the folder's files that count, with * for any letters.
    """
    if path.is_file():
        with path.open("rb") as stream:
            digits = hashlib.file_digest(stream, "sha256").hexdigest()
        return f"{folder_name(path)}@{digits[:12]}"
    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob(only) if file.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path).as_posix()}\0{size}\0".encode())
        with file.open("rb") as stream:
            while part := stream.read(_PART_BYTES):
                digest.update(part)
    return f"{folder_name(path)}@{digest.hexdigest()[:12]}"
