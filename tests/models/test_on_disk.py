"""Parameters on a disk: the numbers of a model in memory, in less memory than the model."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

import bszo
from bszo.errors import ModelError
from bszo.models import LanguageModel, load, load_model, weights_fingerprint
from bszo.models.on_disk import DiskTensors, empty_like, move_to_disk_
from bszo.tasks import Example
from experiments import ROOT
from tests.models.conftest import opt_tokenizer, save_any

EXAMPLES = [Example(str(i), f"the film was number {i}", (" good", " bad"), i % 2) for i in range(4)]
METHODS: list[Callable[..., Any]] = [bszo.BSZO, bszo.MeZO, bszo.LOZO]


def trained(model: LanguageModel, method: Callable[..., Any]) -> tuple[list[float], str]:
    """The losses of four steps, and the fingerprint of the parameters after them."""
    optimizer = method(model.module.parameters(), lr=1e-4, eps=1e-3, module=model.module, seed=1)
    batch = model.collate(model.encode(EXAMPLES))
    losses = [optimizer.step(lambda: model.loss(batch)) for _ in range(4)]
    return losses, weights_fingerprint(model.module)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", METHODS)
def test_steps_are_those_in_memory_to_the_bit(tmp_path: Path, dtype: Any, method: Any):
    in_memory = load_model("asset:tiny-opt", dtype=dtype)
    on_disk = load_model("asset:tiny-opt", dtype=dtype, offload=str(tmp_path))
    before = weights_fingerprint(on_disk.module)
    assert before == weights_fingerprint(in_memory.module)
    found = trained(on_disk, method)
    assert found == trained(in_memory, method) and found[1] != before
    assert not list(tmp_path.iterdir())  # the file has no name


@pytest.mark.parametrize("family", ["opt", "llama", "roberta"])
def test_a_model_read_in_its_stored_type_is_the_one_that_is_converted_at_once(
    zoo: dict[str, str], tmp_path: Path, family: str
):
    """Buffers too have the types that transformers gives them in 16 bits."""
    converted = load_model(zoo[family], dtype="bfloat16").module
    moved = load_model(zoo[family], dtype="bfloat16", offload=str(tmp_path)).module
    for mine, other in (
        (dict(moved.named_parameters()), dict(converted.named_parameters())),
        (dict(moved.named_buffers()), dict(converted.named_buffers())),
    ):
        assert mine.keys() == other.keys()
        assert all(mine[k].dtype == other[k].dtype for k in mine)
        assert all(torch.equal(mine[k], other[k]) for k in mine)


def test_a_buffer_that_is_computed_in_the_parameters_type_is_refused(tmp_path: Path):
    """Gemma's embeddings are scaled by sqrt(48), which is another number in bf16."""
    tokenizer = opt_tokenizer()
    config = AutoConfig.for_model(
        "gemma2",
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        dtype="bfloat16",
        pad_token_id=tokenizer.pad_token_id,
    )
    path = str(save_any(tmp_path / "gemma", config, tokenizer, AutoModelForCausalLM))
    load_model(path, dtype="bfloat16", offload=str(tmp_path))
    with pytest.raises(ModelError, match=r"Gemma2ForCausalLM computes .*embed_scale.*bfloat16, is"):
        load_model(path, dtype="float32", offload=str(tmp_path))


def test_tied_parameters_stay_tied_and_copies_lie_beside_their_parameter(tmp_path: Path):
    net = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False), nn.Linear(5, 0))
    net[1].weight = net[0].weight
    before = [p.clone() for p in net.parameters()]
    move_to_disk_(net, tmp_path, torch.float32)
    assert net[1].weight is net[0].weight
    assert all(map(torch.equal, net.parameters(), before))
    weight: Any = net[0].weight
    twin = empty_like(weight)
    assert twin.shape == (5, 3) and not twin.any()
    twin.fill_(1.0)
    assert all(map(torch.equal, net.parameters(), before))
    assert empty_like(before[0]).data_ptr() != before[0].data_ptr()  # in memory, as its parameter


def stepped(folder: Path | None, width: int = 1024) -> str:
    """The fingerprint of 48 MB of parameters after a step, made one layer at a time, on a disk or
    in memory."""
    torch.manual_seed(0)
    net = nn.Sequential()
    for _ in range(12):
        net.append(nn.Linear(width, width, bias=False))
        if folder is not None:
            move_to_disk_(net[-1], folder, torch.float32)
    x = torch.ones(2, width)
    optimizer = bszo.MeZO(net.parameters(), lr=1e-3, eps=1e-3, module=net, seed=0)
    optimizer.step(lambda: net(x).square().mean())
    return weights_fingerprint(net)


HELD = """
import ctypes, resource, sys
from pathlib import Path
from tests.models.test_on_disk import stepped

stepped(None, width=8)  # torch imports more at its first step
ctypes.CDLL("libc.so.6").mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD: what is freed goes back at once
data = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_DATA, (data + (24 << 20),) * 2)  # mapped files do not count
print(stepped(Path(sys.argv[1])), flush=True)
stepped(None)
"""


def test_a_step_takes_a_fraction_of_the_model_in_memory(tmp_path: Path):
    """48 MB of parameters are made and moved in a process that may take 24 MB; in memory that
    fails. It is a process of its own, which has freed nothing that would serve instead."""
    ended = subprocess.run(
        [sys.executable, "-c", HELD, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout.strip() == stepped(None), ended.stderr
    assert ended.returncode == 1 and "Cannot allocate memory" in ended.stderr


def test_a_full_disk_and_a_folder_that_cannot_be_made_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=r"^model.offload=.*file/in: no file can be made there"):
        DiskTensors(tmp_path / "file" / "in")
    store = DiskTensors(tmp_path)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as elsewhere:
        elsewhere.delattr(os, "posix_fallocate")
        assert not store.empty(torch.Size([3, 1 << 19]), torch.float32).any()
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ModelError, match=r"has no room for 4,000 bytes more \(No space left"):
        store.empty(torch.Size([1000]), torch.float32)


@pytest.mark.parametrize(
    "other", [{"device_map": "auto"}, {"quantization": "nf4"}, {"device": "xpu"}]
)
def test_what_it_does_not_go_with_is_one_line(
    tmp_path: Path, other: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(load, "check_placement", lambda *_: None)  # as if there were such a device
    key = next(iter(other))
    with pytest.raises(ModelError, match=rf"does not go with (model\.)?{key}={other[key]}$"):
        load_model("asset:tiny-opt", dtype="float32", offload=str(tmp_path), **other)
