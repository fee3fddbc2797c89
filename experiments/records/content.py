"""Content of folders and files, as a name that is the same wherever they lie."""

import hashlib
from pathlib import Path

from experiments.records.privacy import folder_name

_WHOLE_FILE_BYTES = 64 << 20
# of a larger file; they are evenly spread, the first at its beginning and the last at its end
_PIECES = 64


ROWS = "*.jsonl"  # of a folder of rows; notes beside them are nobody's data


def content_id(path: Path, only: str = "*") -> str:
    """The name of a folder or file by what it holds: `<name>@<12 hex>`.

    The digits are of the file's SHA-256, or of one over the names, sizes and bytes of the folder's
    files. Rows are read whole. Of another file of a folder, of 64 MiB or more, only 64 pieces of a
    MiB each are read, since reading 26 GB would take longer than loading the model. The pieces are
    spread over the whole file, because a model that was fine-tuned may differ from its base in some
    layers only; a change that lies between them is not seen.

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
            if size < _WHOLE_FILE_BYTES or only == ROWS:
                while part := stream.read(_WHOLE_FILE_BYTES):
                    digest.update(part)
            else:
                piece = _WHOLE_FILE_BYTES // _PIECES
                for i in range(_PIECES):
                    stream.seek(i * (size - piece) // (_PIECES - 1))
                    digest.update(stream.read(piece))
    return f"{folder_name(path)}@{digest.hexdigest()[:12]}"
