"""The log's file: what goes in comes out, its size is a law, and no damage passes unseen."""

import io
import itertools
import math
import os
import random
import resource
import signal
import struct
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bszo.errors import TrajectoryError
from bszo.perturb import NOISE_VERSION
from bszo.trajectory import FORMAT_VERSION, Header, Step, Trajectory, TrajectoryWriter, read
from bszo.trajectory.block import MAX_EMPTY_STEPS, MAX_RATES, SHAPE, encode_block
from bszo.trajectory.header import encode_header
from bszo.trajectory.reader import parse
from bszo.trajectory.writer import encode
from tests.killing import kill, profiled

HEADER = Header(
    base="ab" * 32,
    optimizer="BSZO",
    settings={"seed": 3, "k": 2, "betas": [0.9, 0.999], "lr": None},
    parameters="cd" * 32,
    names=None,
    dtype="float32",
    device="cpu",
    noise_version=NOISE_VERSION,
    config={"_target_": "bszo.BSZO"},
)


def step(i: int, k: int = 2, m: int = 3, lr: float = 1e-6, groups: int = 2) -> Step:
    """Losses that float32 holds, coefficients that it does not."""
    losses = tuple(struct.unpack("f", struct.pack("f", 0.7 + math.sin(i + j)))[0] for j in range(m))
    return Step(
        losses,
        tuple(math.cos(i) / (j + 3) for j in range(k)),
        (lr,) * groups,
        (0.1, 0.0)[:groups],
        m,
    )


def write(
    path: Path, steps: list[Step], finish: bool = True, header: Header = HEADER, **more: Any
) -> bytes:
    with TrajectoryWriter(path, header, **more) as writer:
        for i, one in enumerate(steps):
            writer.append(i, one)
        if finish:
            writer.finish()
    return path.read_bytes()


def parsed(data: bytes) -> Trajectory:
    return parse(io.BytesIO(data))


def borders(data: bytes) -> list[int]:
    """Where the header and each block end."""
    ends = [len(encode_header(HEADER))]
    while ends[-1] < len(data):
        _, n, k, m, _, g, r, loss_bytes, moving = SHAPE.unpack_from(data, ends[-1])
        body = 8 * (g + (n if moving else 1) * r + n * k) + n * m * loss_bytes if n else 0
        ends.append(ends[-1] + SHAPE.size + body + 32)
    return ends


def same(ours: list[Step], theirs: list[Step]) -> bool:
    """Equal bit for bit, NaN and signs of zeros included."""

    def bits(steps: list[Step]) -> list[Any]:
        return [
            (
                s.num_forwards,
                *(
                    struct.pack(f"<{len(v)}d", *v)
                    for v in (s.losses, s.coefficients, s.lr, s.weight_decay)
                ),
            )
            for s in steps
        ]

    return bits(ours) == bits(theirs)


# --- round trips and size

numbers = st.floats(allow_nan=True, allow_infinity=True, width=64) | st.floats(width=32)


@st.composite
def step_lists(draw: st.DrawFn) -> list[Step]:
    groups = draw(st.integers(1, 3))
    rates = st.lists(numbers, min_size=groups, max_size=groups).map(tuple)
    sizes = draw(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 4)), max_size=4)
    )
    steps = []
    for k, m, count in sizes:
        decay, lr = draw(rates), draw(rates)
        moving = draw(st.booleans())
        for _ in range(count):
            values = st.lists(numbers, min_size=k, max_size=k).map(tuple)
            losses = st.lists(numbers, min_size=m, max_size=m).map(tuple)
            steps.append(
                Step(
                    draw(losses),
                    draw(values),
                    draw(rates) if moving else lr,
                    decay,
                    draw(st.just(m)),
                )
            )
    return steps


@settings(max_examples=60)
@given(steps=step_lists(), flush_every=st.integers(1, 5))
def test_what_goes_in_comes_out(steps: list[Step], flush_every: int) -> None:
    found = parsed(encode(HEADER, steps, flush_every)[0])
    assert found.header == HEADER and found.problem is None and not found.finished
    assert same(found.steps, steps)


@settings(max_examples=100)
@given(
    st.dictionaries(
        st.text(),
        st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text()
        | st.none()
        | st.booleans(),
    )
)
def test_settings_come_back_as_they_were(plain: dict[str, Any]) -> None:
    header = replace(HEADER, settings=plain)
    assert parsed(encode_header(header)).header == header


def test_appending_one_by_one_equals_writing_at_once(tmp_path: Path) -> None:
    steps = [step(i, k=2 + (i >= 8)) for i in range(11)]
    assert (
        write(tmp_path / "log", steps, finish=False, flush_every=4) == encode(HEADER, steps, 4)[0]
    )


@pytest.mark.parametrize(
    ("float32", "scheduled", "bytes_a_step"),
    [(True, False, 2 * 8 + 3 * 4), (False, False, 2 * 8 + 3 * 8), (True, True, 8 + 2 * 8 + 3 * 4)],
)
def test_the_size_law(tmp_path: Path, float32: bool, scheduled: bool, bytes_a_step: int) -> None:
    """bytes = header + a cost a step, and 20,000 BSZO steps are less than 1 MB: no term in the
    model's size."""
    steps = [step(i, lr=1e-6 * (1 - i / 20_000) if scheduled else 1e-6) for i in range(20_000)]
    if not float32:
        steps = [replace(s, losses=tuple(loss + 1e-12 for loss in s.losses)) for s in steps]
    data = write(tmp_path / "log", steps, finish=False)
    per_block = SHAPE.size + 32 + 8 * (2 + (not scheduled))  # decays, and a rate where it stays
    assert (
        len(data)
        == len(encode_header(HEADER)) + 20_000 * bytes_a_step + 200 * per_block
        < 1_000_000
    )
    assert same(read(tmp_path / "log").steps, steps)


# --- damage

SMALL = [step(i, k=1 + i // 4, lr=1e-3 * (i // 6)) for i in range(9)]


@pytest.fixture
def small(tmp_path: Path) -> bytes:
    """Nine steps in five blocks and the end."""
    data = write(tmp_path / "small", SMALL, flush_every=2)
    assert len(borders(data)) == 1 + 5 + 1
    return data


def check_cut_back(data: bytes, most: int) -> Trajectory:
    """A prefix of what was written, and a word on what is lost."""
    found = parsed(data)
    assert same(found.steps, SMALL[: len(found.steps)]) and len(found.steps) <= most
    if found.problem:
        lost = len(data) - found.num_bytes
        assert (
            f"the last {lost} of {len(data)} bytes are lost, the {len(found.steps)} steps"
            in found.problem
        )
        assert "\n" not in found.problem
    return found


def test_truncated_at_every_byte(small: bytes) -> None:
    ends = borders(small)
    for length in range(len(small)):
        if length < ends[0]:
            with pytest.raises(TrajectoryError):
                parsed(small[:length])
            continue
        found = check_cut_back(small[:length], 9)
        assert found.num_bytes == max(end for end in ends if end <= length)
        assert (found.problem is None) == (length in ends) and not found.finished


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_every_byte_flipped(small: bytes, mask: int) -> None:
    ends = borders(small)
    for at in range(len(small)):
        damaged = small[:at] + bytes([small[at] ^ mask]) + small[at + 1 :]
        if at < ends[0]:
            with pytest.raises(TrajectoryError) as caught:
                parsed(damaged)
            assert "\n" not in str(caught.value)
            continue
        found = check_cut_back(damaged, 9)
        assert found.num_bytes == max(end for end in ends if end <= at) and found.problem


def test_blocks_swapped_dropped_doubled_or_from_another_log(small: bytes) -> None:
    ends = borders(small)
    head, blocks = small[: ends[0]], [small[a:b] for a, b in itertools.pairwise(ends)]
    for i in range(len(blocks) - 1):
        swapped = [*blocks[:i], blocks[i + 1], blocks[i], *blocks[i + 2 :]]
        assert check_cut_back(head + b"".join(swapped), 9).num_bytes == ends[i]
        dropped = [*blocks[:i], *blocks[i + 1 :]]
        assert check_cut_back(head + b"".join(dropped), 9).num_bytes == ends[i]
        doubled = [*blocks[: i + 1], *blocks[i:]]
        assert check_cut_back(head + b"".join(doubled), 9).num_bytes == ends[i + 1]
    other = encode_header(replace(HEADER, settings={"seed": 4}))
    assert not check_cut_back(other + b"".join(blocks), 0).steps, "blocks are bound to their header"
    lone = encode_block(2, SMALL[2:4], b"\0" * 32)
    assert check_cut_back(head + blocks[0] + lone, 2).problem, (
        "a sound block that is chained to nothing"
    )


def test_garbage_at_the_end(small: bytes) -> None:
    for garbage in (b"\0", b"x" * 500, small):
        found = check_cut_back(small + garbage, 9)
        assert (
            found.finished and found.problem and "bytes follow the end of the run" in found.problem
        )
        unfinished = small[: borders(small)[-2]]
        assert len(check_cut_back(unfinished + garbage, 9).steps) == 9


def test_a_block_may_not_claim_more_than_a_writer_writes() -> None:
    """A checksum can be made by anyone: sizes are bounded before memory is taken."""
    head, chain = encode(HEADER, [], 1)
    for n, k, groups in (
        ((1 << 32) - 1, 0, 1),
        (1, (1 << 32) - 1, 1),
        (1, 0, (1 << 32) - 1),
        (1, 0, 0),
    ):
        shape = SHAPE.pack(0, n, k, 0, 0, groups, min(groups, 1), 8, 0)
        assert (parsed(head + shape + chain * 4).problem or "").startswith("block 0")


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "not a trajectory"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 64, "not a trajectory"),
        (encode_header(HEADER).replace(b"\r\n", b"\n", 1), "not a trajectory"),
        (
            encode_header(HEADER).replace(
                struct.pack("<I", FORMAT_VERSION), struct.pack("<I", 2), 1
            ),
            f"format version 2; this version of bszo reads {FORMAT_VERSION}",
        ),
        (
            encode_header(replace(HEADER, noise_version=NOISE_VERSION + 1)),
            f"noise version {NOISE_VERSION + 1}",
        ),
        (encode_header(HEADER)[:-1], "its header is damaged"),
    ],
)
def test_what_is_no_log_of_ours_is_refused_with_its_name(
    tmp_path: Path, data: bytes, error: str
) -> None:
    (tmp_path / "log").write_bytes(data)
    with pytest.raises(TrajectoryError, match=f"log: {error}") as caught:
        read(tmp_path / "log")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        "[" * 100_000,
        '{"base": 1e999}',
        "\x00",
        '{"base":"x"}',
        "9" * 5000,
        '{"a": 1, "a": 2}',
    ],
)
def test_a_header_of_something_else_is_refused(text: str) -> None:
    whole = (
        encode_header(HEADER)[:8] + struct.pack("<II", FORMAT_VERSION, len(text)) + text.encode()
    )
    from bszo.trajectory.header import digest

    with pytest.raises(TrajectoryError):
        parsed(whole + digest(whole))


@pytest.mark.parametrize(
    "change",
    [
        {"base": "xyz"},
        {"optimizer": "\x1b[2J"},
        {"dtype": "a b"},
        {"parameters": "A" * 64},
        {"settings": []},
        {"noise_version": "1"},
        {"noise_version": True},
        {"names": 3},
    ],
)
def test_a_header_has_its_types(change: dict[str, Any]) -> None:
    with pytest.raises(TrajectoryError, match=f"trajectory header: {next(iter(change))}"):
        replace(HEADER, **change)


@pytest.mark.parametrize("value", [math.nan, math.inf, object(), b"x"])
def test_a_setting_without_a_json_form_is_refused(value: Any) -> None:
    with pytest.raises(TrajectoryError):
        encode_header(replace(HEADER, settings={"x": value}))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(TrajectoryError, match="none: cannot be read"):
        read(tmp_path / "none")
    with pytest.raises(TrajectoryError, match="cannot be read"):
        read(tmp_path)


# --- writing


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_log_is_begun_once(tmp_path: Path) -> None:
    data = write(tmp_path / "log", SMALL)
    with pytest.raises(TrajectoryError, match="is there already"):
        TrajectoryWriter(tmp_path / "log", HEADER)
    assert (tmp_path / "log").read_bytes() == data and names(tmp_path) == ["log"]


@pytest.mark.parametrize("number", [-1, 0, 2])
def test_steps_come_in_order(tmp_path: Path, number: int) -> None:
    with TrajectoryWriter(tmp_path / "log", HEADER) as writer:
        writer.append(0, SMALL[0])
        with pytest.raises(
            TrajectoryError, match=f"step {number} cannot follow; the next one is 1"
        ):
            writer.append(number, SMALL[1])
        writer.finish()
        writer.finish()
        with pytest.raises(TrajectoryError, match="step 1 cannot follow the end of the run"):
            writer.append(1, SMALL[1])
    found = read(tmp_path / "log")
    assert found.finished and found.problem is None, "one end, however often it is finished"


@pytest.mark.parametrize("rates", [((), ()), ((0.1,), (0.1, 0.2))])
def test_a_step_has_rates_for_each_group(rates: Any) -> None:
    with pytest.raises(TrajectoryError, match="one rate a group"):
        Step((), (), rates[0], rates[1], 0)


def test_many_coefficients_make_smaller_blocks(tmp_path: Path) -> None:
    steps = [step(i, k=20_000, m=40_000) for i in range(5)]
    data = write(tmp_path / "log", steps, flush_every=65_536)
    assert len(borders(data)) == 1 + 3 + 1 and same(read(tmp_path / "log").steps, steps)


@pytest.mark.parametrize("flush_every", [0, -5, 65_537, 1_000_000_000])
def test_a_block_of_so_many_steps_is_refused(
    tmp_path: Path, small: bytes, flush_every: int
) -> None:
    """For a new log and for one that goes on, which stays as it was."""
    error = f"flush_every={flush_every}: 1 to 65536 steps are valid"
    with pytest.raises(TrajectoryError, match=error):
        TrajectoryWriter(tmp_path / "new", HEADER, flush_every=flush_every)
    with pytest.raises(TrajectoryError, match=error):
        TrajectoryWriter.resume(tmp_path / "small", HEADER, flush_every=flush_every)
    assert (tmp_path / "small").read_bytes() == small and names(tmp_path) == ["small"]


def test_going_on_keeps_the_smaller_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of many wide steps, written anew as one block, would be larger than a reader takes."""
    monkeypatch.setattr("bszo.trajectory.writer.BLOCK_BYTES", 1 << 10)
    monkeypatch.setattr("bszo.trajectory.block.MAX_BLOCK_BYTES", 1 << 11)
    steps = [step(i, k=20, m=20) for i in range(40)]
    data = write(tmp_path / "log", steps, finish=False, flush_every=65_536)
    with TrajectoryWriter.resume(tmp_path / "log", HEADER, flush_every=65_536):
        assert same(read(tmp_path / "log").steps, steps)
    assert (tmp_path / "log").read_bytes() == data


def test_steps_without_a_byte_of_their_own_make_smaller_blocks(tmp_path: Path) -> None:
    """Else half a kilobyte could name more steps than memory holds."""
    steps = [Step((), (), (0.1,), (0.0,), 1)] * 300
    data = write(tmp_path / "log", steps, flush_every=65_536)
    assert same(read(tmp_path / "log").steps, steps)
    assert encode(HEADER, steps, 65_536)[0] == data[: borders(data)[-2]]
    start = encode_header(HEADER)
    bomb = start + encode_block(0, steps[: MAX_EMPTY_STEPS + 1], start[-32:])
    found = parsed(bomb)
    assert found.steps == [] and "first bytes are damaged" in (found.problem or "")


def test_a_small_file_takes_little_memory(tmp_path: Path) -> None:
    """A file of 50 kB may name 77,000 empty steps: what they share is kept once."""
    empty = [Step((), (), (0.1,), (0.0,), 1)] * MAX_EMPTY_STEPS
    parts = [encode_header(HEADER)]
    for i in range(600):
        parts.append(encode_block(i * MAX_EMPTY_STEPS, empty, parts[-1][-32:]))
    data = b"".join(parts)
    tracemalloc.start()
    try:
        found = parsed(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found.steps) == 600 * MAX_EMPTY_STEPS and found.problem is None
    assert peak < 30 * len(data)


def test_one_rate_for_very_many_groups_makes_smaller_blocks(tmp_path: Path) -> None:
    """A file holds such a rate once, memory a group: else a megabyte would take tens of them."""
    groups = 1 << 10
    steps = [
        Step((0.5,), (1.0,), (0.1 / (i + 1),) * groups, (0.0,) * groups, 1)
        for i in range(MAX_RATES // groups + 1)
    ]
    data = write(tmp_path / "log", steps, flush_every=65_536)
    assert same(read(tmp_path / "log").steps, steps)
    assert encode(HEADER, steps, 65_536)[0] == data[: borders(data)[-2]]
    start = encode_header(HEADER)
    bomb = start + encode_block(0, steps, start[-32:])
    found = parsed(bomb)
    assert found.steps == [] and "first bytes are damaged" in (found.problem or "")


def test_the_digest_is_of_the_steps_however_they_lie_in_blocks(tmp_path: Path) -> None:
    """As a kill and a resume leave them."""
    steps = [step(i, k=1 + i // 4) for i in range(9)]
    one, other = (parsed(encode(HEADER, steps, size)[0]) for size in (2, 5))
    assert one.chain != other.chain and one.digest == other.digest
    for changed in (
        steps[:-1],
        [*steps[:-2], steps[-1], steps[-2]],
        [*steps[:-1], replace(steps[-1], lr=(1e-6, 2e-6))],
        [*steps[:-1], replace(steps[-1], num_forwards=4)],
    ):
        assert parsed(encode(HEADER, changed, 2)[0]).digest != one.digest
    moved = replace(HEADER, settings={"seed": 4})
    assert parsed(encode(moved, steps, 2)[0]).digest != one.digest


def test_resume_after_any_damage_then_the_same_steps(tmp_path: Path, small: bytes) -> None:
    path, ends = tmp_path / "log", borders(small)
    for length in range(ends[0], len(small), 5):
        path.write_bytes(small[:length] + b"junk" * (length % 3))
        with TrajectoryWriter.resume(path, HEADER, flush_every=3) as writer:
            for i in range(writer.num_steps, 9):
                writer.append(i, SMALL[i])
            writer.finish()
        found = read(path)
        assert found.problem is None and found.finished and same(found.steps, SMALL)


def test_resume_at_an_earlier_step_drops_what_follows(tmp_path: Path, small: bytes) -> None:
    path = tmp_path / "log"
    for kept in range(10):
        path.write_bytes(small)
        writer = TrajectoryWriter.resume(path, HEADER, to_step=kept)
        assert (
            writer.num_steps == kept
            and not read(path).finished
            and same(read(path).steps, SMALL[:kept])
        )
    with pytest.raises(TrajectoryError, match="holds 9 sound steps and cannot go on after 10"):
        TrajectoryWriter.resume(tmp_path / "small", HEADER, to_step=10)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"base": "0" * 64}, "base is 'abab"),
        ({"settings": {"seed": 4}}, "setting betas is"),
        ({"settings": {**HEADER.settings, "seed": 4}}, "setting seed is 3 there and 4 here"),
        ({"device": "cuda"}, "device is 'cpu' there and 'cuda' here"),
    ],
)
def test_resume_of_another_run_is_refused(
    tmp_path: Path, small: bytes, change: dict[str, Any], error: str
) -> None:
    with pytest.raises(TrajectoryError, match=f"is the log of another run: {error}"):
        TrajectoryWriter.resume(tmp_path / "small", replace(HEADER, **change))
    assert (tmp_path / "small").read_bytes() == small


def test_resume_keeps_the_config_that_the_run_began_with(tmp_path: Path, small: bytes) -> None:
    """It may be said otherwise for the same run; another header would be another log's."""
    path = tmp_path / "small"
    with TrajectoryWriter.resume(path, replace(HEADER, config={"x": 1})) as writer:
        writer.finish()
    assert read(path).header == HEADER and read(path).digest == parsed(small).digest


def test_each_block_is_synced_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call sees the whole blocks so far in the file."""
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", lambda number: synced.append(os.fstat(number).st_size))
    data = write(tmp_path / "log", SMALL, flush_every=2)
    assert synced[-6:] == borders(data)[1:]


@pytest.fixture
def most_bytes() -> Iterator[Any]:
    """A disk that is full: no file may grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(
        resource.RLIMIT_FSIZE, (soft if size is None else size, hard)
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, before)


def test_a_full_disk_is_said_and_what_was_half_written_is_written_over(
    tmp_path: Path, most_bytes: Any
) -> None:
    path = tmp_path / "log"
    writer = TrajectoryWriter(path, HEADER, flush_every=100)
    for i, one in enumerate(SMALL[:4]):
        writer.append(i, one)
    sound = path.stat().st_size
    most_bytes(sound + 20)
    for _ in range(2):
        with pytest.raises(TrajectoryError, match="log: cannot be written"):
            writer.flush()
    most_bytes(None)
    assert read(path).num_bytes == sound
    writer.flush()
    assert read(path).problem is None and same(read(path).steps, SMALL[:4])
    most_bytes(10)
    with pytest.raises(TrajectoryError, match="other: cannot be written"):
        TrajectoryWriter(tmp_path / "other", HEADER)
    most_bytes(None)
    assert names(tmp_path) == ["log"], "no half header, no temporary file"


def _write_on(path: Path) -> None:
    """What the killed process does."""
    with TrajectoryWriter.resume(path, HEADER, flush_every=3) as writer:
        for _ in range(30):
            writer.append(
                writer.num_steps, step(writer.num_steps, k=1 + writer.num_steps // 10 % 3)
            )


def test_killed_at_twenty_moments_and_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for name in ("tried", "log"):
        write(tmp_path / name, [], finish=False)
    calls = profiled(lambda: _write_on(tmp_path / "tried"))
    moments, count = random.Random(0), 0
    for _ in range(20):
        kill(lambda: _write_on(path), at=moments.randrange(1, calls))
        found = read(path)
        assert len(found.steps) >= count and same(
            found.steps, [step(j, k=1 + j // 10 % 3) for j in range(len(found.steps))]
        )
        count = len(found.steps)
    assert count > 20
