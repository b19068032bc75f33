"""Tests of compiling, finding and loading the CPU kernels' library."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from native_builds import COMPILER

from roseinfer.cache_folder import write_cached
from roseinfer.errors import UsageError
from roseinfer.kernels.cpu import compiler, native_library

pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")


@pytest.fixture
def forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start without loaded kernels, with an empty cache folder and without CXX; unload the kernels at the end."""
    monkeypatch.setenv("ROSEINFER_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    native_library.unload()
    yield
    native_library.unload()


@pytest.fixture
def small_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the kernels' source by one with the same functions, which do nothing: it compiles in a second."""
    (tmp_path / "cpp").mkdir()
    functions = [f"void {name}_SUFFIX() {{}}\n" for name in native_library._ARGUMENTS]
    for suffix in compiler.DTYPE_NAMES:
        text = "".join(functions).replace("SUFFIX", suffix)
        with (tmp_path / "cpp" / "native.cpp").open("a") as file:
            file.write(f'#ifdef {suffix.upper()}\nextern "C" {{\n{text}}}\n#endif\n')
    monkeypatch.setattr(compiler, "_SOURCES", tmp_path / "cpp")


def named_compiler(path: Path, script: str) -> str:
    """Write an executable script to use as the compiler, and return its path."""
    path.write_text(script)
    path.chmod(0o755)
    return str(path)


@pytest.mark.usefixtures("forgotten", "small_sources")
def test_a_second_process_finds_the_library_and_runs_no_changed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert native_library.load(), "compiled"
    native_library.unload()
    assert not native_library.load(), "found"
    assert not native_library.load(), "there already"
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".so"], "nothing else is left behind"
    native_library.unload()
    path = compiler.library_path()
    whole = path.read_bytes()
    middle = len(whole) // 2
    garbled = whole[:middle] + bytes(64) + whole[middle + 64 :]
    for content in (b"", whole[:1000], whole[:middle], whole[:-1], garbled):
        path.unlink()  # the loaded library stays mapped
        path.write_bytes(content)
        path.chmod(0o600)
        native_library._warn.cache_clear()
        caplog.clear()
        assert not native_library.load_if_compiled()
        assert [record.getMessage() for record in caplog.records] == [
            f"[compile] the compiled CPU kernels are left out, so this runs slower: {path} is damaged: delete it"
        ]
    path.unlink()
    path.write_bytes(whole)
    path.chmod(0o666)
    native_library._warn.cache_clear()
    assert not native_library.load_if_compiled()
    assert "can be written by other users" in caplog.text
    monkeypatch.setattr(native_library, "compile_library", lambda path: path.chmod(0o600))
    assert native_library.load(), "compiled again"


@pytest.mark.usefixtures("forgotten")
def test_a_library_without_the_functions_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "empty.c").write_text("int nothing;")
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", "empty.so", "empty.c"], cwd=tmp_path, check=True)
    write_cached(compiler.library_path(), (tmp_path / "empty.so").read_bytes())
    assert not native_library.load_if_compiled()
    assert "lacks the function" in caplog.text


@pytest.mark.usefixtures("forgotten")
def test_a_cache_folder_that_others_may_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    with pytest.raises(UsageError, match=r"--compile: .*cache can be written by other users: run `chmod go-w"):
        native_library.load()


@pytest.mark.usefixtures("forgotten")
def test_without_a_compiler_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"needs a C\+\+ compiler, and none is installed"):
        native_library.load()


@pytest.mark.usefixtures("forgotten")
def test_a_library_that_cannot_be_loaded_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes_nothing = '#!/bin/sh\nfor last; do :; done\n: > "$last"\n'
    monkeypatch.setenv("CXX", named_compiler(tmp_path / "writes-nothing", writes_nothing))
    with pytest.raises(UsageError, match=r"native-.*\.so cannot be loaded"):
        native_library.load()
    assert not native_library.load_if_compiled()


@pytest.mark.usefixtures("forgotten", "small_sources")
def test_cxx_may_be_a_command_and_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match=r"CXX names .*nowhere, which is not installed"):
        native_library.load()
    monkeypatch.setenv("CXX", named_compiler(tmp_path / "text", "no program"))
    with pytest.raises(UsageError, match="cannot start it"):
        native_library.load()
    monkeypatch.setenv("CXX", f"{COMPILER} -DUNUSED")
    assert native_library.load()


@pytest.mark.usefixtures("forgotten")
def test_a_compiler_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "#!/bin/sh\necho 'no such architecture' >&2\nexit 1\n"
    monkeypatch.setenv("CXX", named_compiler(tmp_path / "broken-c++", script))
    with pytest.raises(UsageError, match=r"broken-c\+\+ failed \(no such architecture\)"):
        native_library.load()
