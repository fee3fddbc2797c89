"""Content of folders and files, as a name that is the same wherever they lie."""

import hashlib
from pathlib import Path

from experiments.records.privacy import folder_name

_WHOLE_FILE_BYTES = 64 << 20
# of a larger file; they are evenly spread, the first at its beginning and the last at its end
_PIECES = 64


def content_id(path: Path) -> str:
    """The name of a folder or file by what it holds: `<name>@<12 hex>`.

    The digits are of a SHA-256 over names, sizes and bytes. Of a file of 64 MiB or more only 64
    pieces of a MiB each are read, since reading 26 GB would take longer than loading the model. The
    pieces are spread over the whole file, because a model that was fine-tuned may differ from its
    base in some layers only.
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
