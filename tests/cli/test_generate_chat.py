"""The interactive chat, with a scripted user and on a pseudo-terminal."""

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command import ENVIRONMENT, command
from tiny import copied_with

from roseinfer import Engine, EngineConfig, SamplingParams, build_engine
from roseinfer.cli.generate.chat_session import ChatSession

TEMPLATE = "{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }}\n{% endfor %}a:"
PARAMS = SamplingParams(max_new_tokens=6, stop_on_eos=False)


@pytest.fixture(scope="module")
def chatty(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied_with(tiny_llama, tmp_path_factory.mktemp("chatty") / "model", {"chat_template.jinja": TEMPLATE})


@pytest.fixture(scope="module")
def engine(chatty: Path) -> Engine:
    return build_engine(EngineConfig(model=str(chatty), dtype="float64"))


class Talk:
    """A chat with a user who types these lines and then presses Ctrl-D."""

    def __init__(
        self, engine: Engine, *lines: str, params: SamplingParams = PARAMS, system: str | None = None, raw: bool = False
    ) -> None:
        self.shown = ""
        self.notes: list[str] = []
        self.errors: list[str] = []
        self.on_write: Callable[[], None] = lambda: None
        self._lines = list(lines)
        self.chat = ChatSession(engine, params, system=system, raw=raw, note=self.notes.append, fail=self.errors.append)

    def run(self) -> "Talk":
        self.chat.run(self._read, self._write)
        return self

    def _read(self) -> str:
        if not self._lines:
            raise EOFError
        if self._lines[0] == "^C":
            del self._lines[0]
            raise KeyboardInterrupt
        return self._lines.pop(0)

    def _write(self, text: str) -> None:
        self.shown += text
        self.on_write()


def answer_to(engine: Engine, *turns: tuple[str, str]) -> str:
    messages = [{"role": role, "content": content} for role, content in turns]
    return engine.generate(messages, PARAMS)[0].text


def test_each_answer_follows_from_the_whole_conversation(engine: Engine) -> None:
    talk = Talk(engine, "hi", "", "more", system="Be kind").run()
    first = answer_to(engine, ("system", "Be kind"), ("user", "hi"))
    second = answer_to(engine, ("system", "Be kind"), ("user", "hi"), ("assistant", first), ("user", "more"))
    assert talk.shown == f"{first}\n{second}\n\n"
    assert [turn["role"] for turn in talk.chat.messages] == ["system", "user", "assistant", "user", "assistant"]


def test_exit_ends_it_and_clear_forgets(engine: Engine) -> None:
    talk = Talk(engine, "hi", "/clear", "hi", "/what", "/exit", "never read").run()
    answer = answer_to(engine, ("user", "hi"))
    assert talk.shown == f"{answer}\n{answer}\n"
    assert len(talk.errors) == 1
    assert "unknown command /what" in talk.errors[0]


def test_a_full_context_is_an_error_line_and_the_chat_goes_on(engine: Engine) -> None:
    talk = Talk(engine, "hi", "x" * 200, "/clear", "hi").run()
    answer = answer_to(engine, ("user", "hi"))
    assert talk.shown == f"{answer}\n{answer}\n\n"
    assert len(talk.errors) == 1
    assert "context is 128 tokens" in talk.errors[0]
    assert "/clear" in talk.errors[0]


def test_a_cut_answer_says_so(engine: Engine) -> None:
    notes = Talk(engine, "hi").run().notes
    assert "--max-new-tokens" in notes[-1]


def test_without_a_template_each_line_is_completed_on_its_own(engine: Engine) -> None:
    talk = Talk(engine, "hi", "hi", raw=True).run()
    answer = engine.generate("hi", PARAMS)[0].text
    assert talk.shown == f"{answer}\n{answer}\n\n"
    assert talk.chat.messages == []
    assert any("on its own" in note for note in talk.notes)


def test_ctrl_c_at_the_prompt_ends_the_chat_only_when_it_is_pressed_twice(engine: Engine) -> None:
    talk = Talk(engine, "^C", "hi", "^C", "/exit").run()
    assert talk.notes.count("[chat] Ctrl-C again, Ctrl-D or /exit ends the chat") == 2
    assert len(talk.chat.messages) == 2
    with pytest.raises(KeyboardInterrupt):
        Talk(engine, "^C", "^C", "hi").run()


def test_help_lists_the_commands(engine: Engine) -> None:
    talk = Talk(engine, "/help").run()
    assert talk.notes[-1] == talk.notes[0].replace(f"{engine.model_name}: ", "")
    assert not talk.errors
    assert talk.chat.messages == []


def test_ctrl_c_stops_the_answer_keeps_what_was_shown_and_frees_its_blocks(engine: Engine) -> None:
    free = engine.pool.num_free
    talk = Talk(engine, "hi", "again", params=SamplingParams(max_new_tokens=100, stop_on_eos=False))
    presses = [3]

    def press_once() -> None:
        presses[0] -= 1
        if presses[0] == 0:
            os.kill(os.getpid(), signal.SIGINT)

    talk.on_write = press_once
    before = signal.getsignal(signal.SIGINT)
    talk.run()
    assert signal.getsignal(signal.SIGINT) is before
    assert "[chat] stopped" in talk.notes
    partial = talk.chat.messages[1]["content"]
    assert talk.shown.startswith(partial + "\n")
    assert len(partial.encode()) <= 12
    assert engine.pool.num_free == free


class Terminal:
    """A process on a pseudo-terminal."""

    def __init__(self, *arguments: object) -> None:
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            command(*arguments),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**ENVIRONMENT, "TERM": "dumb"},
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(slave)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait_for(self, text: str, timeout_s: float = 120) -> str:
        """Return the output since the last call, up to and including `text`."""
        deadline = time.monotonic() + timeout_s
        while text not in self.seen:
            ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no {text!r} in {self.seen!r}"
            try:
                self.seen += os.read(self._master, 4096).decode(errors="replace")
            except OSError as error:  # the process has closed the terminal
                raise AssertionError(f"no {text!r} in {self.seen!r}") from error
        shown, found, self.seen = self.seen.partition(text)
        return shown + found

    def end(self) -> int:
        try:
            while select.select([self._master], [], [], 60)[0] and os.read(self._master, 4096):
                pass
        except OSError:
            pass
        code = self._process.wait(timeout=60)
        os.close(self._master)
        return code


def _take_terminal() -> None:
    """Make stdin the controlling terminal, so that a typed Ctrl-C becomes a signal."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_on_a_terminal_without_a_prompt_it_talks(chatty: Path, engine: Engine) -> None:
    settings = ["--dtype", "float64", "--max-new-tokens", 90, "--no-stop-on-eos"]
    terminal = Terminal("generate", "--model", chatty, *settings)
    assert "/exit" in terminal.wait_for(">>> ")
    terminal.type("hi\r")
    shown = terminal.wait_for(">>> ")
    assert shown.startswith("hi\r\n")
    terminal.type("\x04")
    assert terminal.end() == 0


def test_ctrl_c_on_a_terminal_stops_only_the_answer() -> None:
    model = ["--model", "gpt2", "--load-format", "dummy", "--max-new-tokens", 900, "--no-stop-on-eos"]
    terminal = Terminal("generate", *model)
    terminal.wait_for(">>> ")
    terminal.type("hi\r")
    terminal.wait_for("hi\r\n")
    time.sleep(1.5)
    terminal.type("\x03")
    assert "stopped" in terminal.wait_for(">>> ")
    terminal.type("/exit\r")
    assert terminal.end() == 0
