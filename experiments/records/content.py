"""Content of folders and files: what they hold names them, wherever they lie."""

import hashlib
from pathlib import Path

from experiments.records.privacy import folder_name

_WHOLE_FILE_BYTES = 64 << 20
# of a file that is larger, evenly spread, the first at its beginning and the last at its end
_PIECES = 64


def content_id(path: Path) -> str:
    """`<name>@<12 hex>`: a folder or file by what it holds, the same wherever it lies.

    Files of 64 MiB or more count with their size and 64 pieces of a MiB: reading 26 GB to name a
    model would take longer than loading it, and one that was fine-tuned differs from its base in
    layers between the ends, too.
    """
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path).as_posix()}\0{size}\0".encode())
        with file.open("rb") as stream:
            if size < _WHOLE_FILE_BYTES:
                digest.update(stream.read())
            else:
                piece = _WHOLE_FILE_BYTES // _PIECES
                for i in range(_PIECES):
                    stream.seek(i * (size - piece) // (_PIECES - 1))
                    digest.update(stream.read(piece))
    return f"{folder_name(path)}@{digest.hexdigest()[:12]}"
