"""GGUF files (llama.cpp's format, mostly quantised) as fp32 folders that `load_model` reads.

Every block of a quantised tensor becomes the numbers that it stands for, q * scale + offset in
fp32, once, in the cache. What the quantisation lost before is lost; a record of such a model says
so (`origin_of`). The file's architecture must be one that transformers can dequantise, such as
Llama's.
"""

import hashlib
import importlib.util
import json
import shutil
from collections import Counter
from collections.abc import Mapping
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from bszo.errors import ModelError, one_line
from bszo.files import folder_written_whole
from bszo.models.cache import cache_entry
from bszo.models.gguf_header import FACTORS, check_header, check_used, scaled_frequencies
from bszo.models.gguf_text import settle_text
from bszo.models.reading import quiet, reading

ENDING = ".gguf"
ORIGIN = "origin.json"
PLAIN = ("F32", "F16", "BF16", "F64")  # types of tensors that are not quantised


def convert_gguf(file: Path, name: str | None = None) -> Path:
    """The cache's folder with the file's model in fp32 safetensors and its tokenizer.

    The folder is named by the file's SHA-256. Where it is there and sound, nothing is done; where
    it is damaged, it is made again. It appears whole or not at all.

    Args:
        file: a GGUF file.
        name: of the model, by default the file's without its ending.

    Raises:
        ModelError: the package `gguf` is missing, the file cannot be read, transformers does not
            know its architecture or would use a part of it only, or the cache cannot be written.
    """
    if not file.is_file():
        raise ModelError(f"{file}: there is no such file")
    with reading("GGUF", str(file)):
        digest = _sha256(file)
    folder = cache_entry(name or file.stem, digest)
    if is_sound(folder):
        return folder
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(
            f"{file.name}: the package gguf is needed to read it: pip install 'bszo[gguf]'"
        )
    try:
        if folder.exists():
            shutil.rmtree(folder)
        with folder_written_whole(folder) as temporary:
            _write(file, digest, temporary)
    except OSError as error:
        if is_sound(folder):  # another process was faster
            return folder
        raise ModelError(f"{folder}: cannot be written ({one_line(error)})") from error
    return folder


def is_sound(folder: Path) -> bool:
    """Whether every file that the conversion wrote is there and has the SHA-256 that it had. One
    that says nothing of its splitting is not: it was made before text was split as files name it.
    """
    try:
        origin = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
        files = origin["files"].items()
        return "splitting" in origin and all(_sha256(folder / name) == sha for name, sha in files)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def origin_of(path: Path) -> dict[str, Any] | None:
    """What a record says about a converted model: its format, its quantisation, its file and the
    file's SHA-256, and how its tokenizer splits text. None for a model that was not converted.

    Args:
        path: a model's folder, or a GGUF file that was converted.

    Raises:
        ModelError: the folder's origin.json cannot be read, or an earlier version wrote it.
    """
    folder = cache_entry(path.stem, _sha256(path)) if path.is_file() else path
    file = folder / ORIGIN
    if not file.is_file():
        return None
    try:
        origin = json.loads(file.read_text(encoding="utf-8"))
        if "files" in origin and "splitting" not in origin:
            raise ModelError(
                f"model {folder}: an earlier version of bszo converted it, which may split text"
                " otherwise; without this folder it is converted again"
            )
        return {key: origin[key] for key in ("weights", "tensors", "file", "sha256", "splitting")}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ModelError(f"model {folder}: its {ORIGIN} cannot be read ({error})") from error


def _write(file: Path, digest: str, folder: Path) -> None:
    import torch
    from gguf import GGUFReader
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.integrations.gguf.reader import read_gguf_metadata

    source: dict[str, Any] = {
        "pretrained_model_name_or_path": str(file.resolve().parent),
        "gguf_file": file.name,
        "trust_remote_code": False,
    }
    with quiet(), redirect_stderr(StringIO()):  # a bar that transformers' setting does not reach
        with reading("GGUF", str(file)):
            metadata, _ = read_gguf_metadata(str(file))
            check_header(metadata, file)
            reader = GGUFReader(file)
            stored = {tensor.name: tensor for tensor in reader.tensors}
            tokens = reader.get_field("tokenizer.ggml.tokens")
            num_tokens = len(tokens.data) if tokens else 0
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                **source,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
                output_loading_info=True,
            )
            module, info = loaded
            sizes = {name: int(tensor.n_elements) for name, tensor in stored.items()}
            check_used(module, sizes, sorted(info["missing_keys"]), file)
            config = {**module.config.to_dict(), "architectures": [type(module).__name__]}
            if FACTORS in stored:
                factors = torch.tensor(stored[FACTORS].data)
                config["rope_parameters"] = scaled_frequencies(module.config, factors, file)
        with reading("tokenizer", str(file)):
            tokenizer = AutoTokenizer.from_pretrained(**source)
            splitting = settle_text(tokenizer, metadata, num_tokens, file.name)
        tokenizer.save_pretrained(folder)
    # transformers refuses to save what it takes for quantised, so that the parts are written here
    save_file(
        {name: value.contiguous() for name, value in module.named_parameters()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    _write_json(folder / "config.json", _plain_config(config))
    types = Counter(tensor.tensor_type.name for tensor in stored.values())
    origin = {
        "weights": described(types),
        "tensors": dict(sorted(types.items())),
        "splitting": splitting,
        "file": file.name,
        "sha256": digest,
        "files": {part.name: _sha256(part) for part in sorted(folder.iterdir())},
    }
    _write_json(folder / ORIGIN, origin)


def described(types: Mapping[str, int]) -> str:
    """ "Q4_1 dequantised": the quantised type that most tensors have; "F16" where none is
    quantised."""
    quantised = {name: count for name, count in types.items() if name not in PLAIN}
    most = max(quantised or types, key=lambda name: (types[name], name))
    return f"{most} dequantised" if quantised else most


def _plain_config(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without the keys that differ between versions of transformers, and without
    those that call the weights quantised."""
    dropped = (
        "transformers_version",
        "quantization_config",
        "_name_or_path",
        "_model_name_or_path",
    )
    return {key: value for key, value in config.items() if key not in dropped}


def _write_json(file: Path, value: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
