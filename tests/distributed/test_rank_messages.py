"""Messages between ranks are plain data, and a program that does not know the ranks' secret is turned away."""

import socket
import threading
from pathlib import Path

import pytest

from roseinfer.config import EngineConfig
from roseinfer.distributed.rank_channel import ChannelClosed, Kind, RankChannel
from roseinfer.distributed.rank_messages import decoded, decoded_error, encoded, encoded_error
from roseinfer.distributed.rank_team import _introduced
from roseinfer.errors import ModelError, RoseinferError, UsageError
from roseinfer.weights.resolve import ModelSource


def channels() -> tuple[RankChannel, RankChannel]:
    ours, theirs = socket.socketpair()
    return RankChannel(ours), RankChannel(theirs)


def test_settings_and_paths_arrive_as_they_were_sent() -> None:
    config = EngineConfig(model="a/b", tensor_parallel=2, max_itl_ms=3.5, device="cpu")
    source = ModelSource(name="a/b", format="gguf", path=Path("/m/x.gguf"), weight_files=(Path("/m/x.gguf"),))
    assert decoded(encoded((config, source)), tuple[EngineConfig, ModelSource]) == (config, source)


def test_errors_keep_their_kind_and_name_the_rank() -> None:
    error = decoded_error(encoded_error(ModelError, "no room"), "rank 3")
    assert (type(error), str(error)) == (ModelError, "rank 3: no room")
    assert type(decoded_error(encoded(("SystemExit", "x")), "rank 1")) is RoseinferError
    assert decoded_error(encoded_error(UsageError, "wrong"), "rank 1").exit_code == 2


def test_other_payloads_are_refused() -> None:
    for payload in (b"", b"\xc1", encoded(("name", 1)), encoded([1, 2, 3])):
        with pytest.raises(RoseinferError, match="invalid message"):
            decoded(payload, tuple[int, str])


def test_messages_arrive_whole_and_in_order_however_they_are_cut() -> None:
    ours, theirs = channels()
    for size in (0, 1, 70_000, 3):
        ours.send(Kind.STEP, b"x" * size)
    assert [len(theirs.receive()[1]) for _ in range(4)] == [0, 1, 70_000, 3]
    ours.close()
    with pytest.raises(ChannelClosed):
        theirs.receive()


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (encoded((1, "secret")), 1),
        (encoded((1, "guess")), None),
        (b"anything", None),
        (b"x" * 2000, None),
    ],
    ids=["the secret", "another secret", "no message", "a long message"],
)
def test_only_a_rank_that_knows_the_secret_is_let_in(sent: bytes, expected: int | None) -> None:
    ours, theirs = channels()
    theirs.send(Kind.HELLO, sent)
    assert _introduced(ours, "secret") == expected
    theirs.close()
    assert _introduced(ours, "secret") is None


def test_a_silent_program_is_given_up_after_the_timeout() -> None:
    ours, theirs = channels()
    ours.set_timeout(0.05)
    late = threading.Timer(30, theirs.send, (Kind.ALIVE,))
    late.start()
    with pytest.raises(ChannelClosed):
        ours.receive()
    late.cancel()
