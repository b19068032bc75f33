"""The interactive chat of `generate` on a terminal without a prompt.

Imports torch: the command imports this module only when it runs.
"""

import signal
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from types import FrameType
from typing import Any

from roseinfer.cli import console
from roseinfer.cli.signals import is_ctrl_c
from roseinfer.config import SamplingParams
from roseinfer.engine.engine import Engine
from roseinfer.engine.outputs import TokenEvent
from roseinfer.engine.prompt import Chat, Message
from roseinfer.errors import RoseinferError
from roseinfer.workload.prompts import parse_prompt

_HELP = "/exit or Ctrl-D ends the chat, /clear forgets the conversation, /help shows this, Ctrl-C stops an answer"


class ChatSession:
    """A conversation as a list of messages. Without a chat template, each line is completed on its own."""

    def __init__(
        self,
        engine: Engine,
        params: SamplingParams,
        *,
        system: str | None = None,
        raw: bool = False,
        template_options: Mapping[str, Any] | None = None,
        note: Callable[[str], None] = console.note,
        fail: Callable[[str], None] = console.print_error,
    ) -> None:
        self._engine = engine
        self._params = params
        self._has_turns = engine.chat_template is not None and not raw
        self._template_options = template_options or {}
        self._note = note
        self._fail = fail
        self._system: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self.messages: list[Message] = list(self._system)

    def run(self, read: Callable[[], str], write: Callable[[str], object]) -> None:
        """Answer each line that `read` returns, until it raises EOFError or returns `/exit`.

        The first KeyboardInterrupt of `read` drops the line; a second one in a row is raised.
        """
        self._note(f"[chat] {self._engine.model_name}: {_HELP}")
        if not self._has_turns:
            self._note("[chat] no chat template in use: each line is completed on its own")
        is_leaving = False  # after one Ctrl-C at the prompt
        while True:
            try:
                line = read().strip()
            except EOFError:
                write("\n")
                return
            except UnicodeDecodeError:
                self._fail("the line is not UTF-8 text: type it again")
                continue
            except KeyboardInterrupt:
                if is_leaving or not is_ctrl_c():
                    raise
                is_leaving = True
                write("\n")
                self._note("[chat] Ctrl-C again, Ctrl-D or /exit ends the chat")
                continue
            is_leaving = False
            if line == "/exit":
                return
            if line == "/help":
                self._note(f"[chat] {_HELP}")
            elif line == "/clear":
                self.messages = list(self._system)
            elif line.startswith("/"):
                self._fail(f"unknown command {line}: {_HELP}")
            elif line:
                self._answer(line, write)

    def _answer(self, line: str, write: Callable[[str], object]) -> None:
        """Answer one line. A failed answer, as with a full context, leaves the conversation unchanged."""
        pieces: list[str] = []
        reason: str | None = None
        try:
            with _interrupts() as is_interrupted, closing(self._stream(line)) as events:
                for event in events:
                    pieces.append(event.text)
                    write(event.text)
                    reason = event.finish_reason
                    if is_interrupted():
                        break
        except RoseinferError as error:
            self._fail(f"{error}; /clear forgets the conversation" if self.messages else str(error))
            return
        write("\n")
        answer = "".join(pieces)
        if pieces and reason is None:
            self._note("[chat] stopped")
        elif reason == "length":
            self._note(f"[chat] cut after {len(pieces)} tokens, by --max-new-tokens or the context length")
        if answer and self._has_turns:
            self.messages += ({"role": "user", "content": line}, {"role": "assistant", "content": answer})

    def _stream(self, line: str) -> Generator[TokenEvent, None, None]:
        if not self._has_turns:
            return self._engine.stream(parse_prompt(line), self._params)
        messages = [*self.messages, {"role": "user", "content": line}]
        return self._engine.stream(Chat(messages=messages, template_options=self._template_options), self._params)


def read_line() -> str:
    """Read a line from the terminal, with the editing keys of readline if Python has it."""
    with suppress(ImportError):
        import readline  # noqa: F401 - `input` uses readline once it is imported
    return input(">>> ")


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns True once Ctrl-C was pressed. A second Ctrl-C raises KeyboardInterrupt.

    The first one raises nothing, because an exception in the middle of a step could leak blocks of the KV cache.
    """
    seen = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        if seen:
            signal.default_int_handler(number, frame)
        seen = True

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield lambda: seen
    finally:
        signal.signal(signal.SIGINT, before)
