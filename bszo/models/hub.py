"""Hub: the files of a model there, as a folder of the cache that is checked like any other
(docs/threats.md, "Weights that would run code")."""

from pathlib import Path

from bszo.errors import needs

# What a model is loaded from. Weights in other formats or of other variants stay on the hub.
FILES = (
    "*.json",
    "*.txt",
    "*.model",
    "*.jinja",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors-*-of-*.safetensors",
)


def download(name: str, revision: str | None) -> Path:
    """The folder of the hub's cache with a model's configuration, tokenizer and weights.

    Files that the cache has are not asked for again. Where the hub cannot be reached, what the
    cache has of that revision is taken.

    Args:
        name: on the hub, such as "facebook/opt-125m".
        revision: a branch, a tag or a commit; None for the main branch.

    Raises:
        Exception: whatever huggingface_hub raises for a name or a revision that it cannot have.
    """
    with needs("lm"):
        from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            name, revision=revision, allow_patterns=list(FILES), ignore_patterns=["*/*"]
        )
    )
