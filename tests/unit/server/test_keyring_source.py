"""Where the keyring comes from, and that nothing of it is shown on the way."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from petsem import limits
from petsem.crypto.keyring import Keyring
from petsem.crypto.keys import Purpose, generate_kek
from petsem.errors import Code, PetsemError
from petsem.server.config import KeyringConfig
from petsem.server.datadir import DataDir
from petsem.server.keyring_source import KeyringSource, load_keyring, warn_if_inside

NOTHING = KeyringConfig(None, None)
CANARY = "canary-Zq93"


def ring() -> Keyring:
    return Keyring().with_key(Purpose.SECRETS, generate_kek())


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


@pytest.fixture
def datadir(tmp_path: Path) -> DataDir:
    made = DataDir(tmp_path / "node")
    made.create()
    return made


def put(path: Path, keyring: Keyring, mode: int = 0o600) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(keyring.encode())
    path.chmod(mode)
    return path


def refused(source: KeyringSource, code: Code, timeout_s: float = 10.0) -> str:
    with pytest.raises(PetsemError) as caught:
        load_keyring(source, timeout_s=timeout_s)
    assert caught.value.code is code
    assert CANARY not in caught.value.message
    return caught.value.message


def test_the_first_source_that_is_there_is_used(datadir: DataDir, tmp_path: Path) -> None:
    """Environment, credential, configured file, default file: in this order."""
    environment, credential, configured, default = (ring() for _ in range(4))
    put(tmp_path / "credentials" / "petsem.keyring", credential)
    config = KeyringConfig(put(tmp_path / "configured.json", configured), None)
    put(datadir.default_keyring, default)
    environ = {
        "PETSEM_KEYRING": environment.encode().decode(),
        "CREDENTIALS_DIRECTORY": str(tmp_path / "credentials"),
    }

    def found() -> tuple[Keyring, str]:
        source = KeyringSource.of(datadir, config, environ)
        assert source.file is None or str(source.file) == str(source)
        return load_keyring(source), str(source)

    assert found() == (environment, "PETSEM_KEYRING")
    assert KeyringSource.of(datadir, config, environ).file is None
    del environ["PETSEM_KEYRING"]
    assert found() == (credential, str(tmp_path / "credentials" / "petsem.keyring"))
    (tmp_path / "credentials" / "petsem.keyring").unlink()
    assert found() == (configured, str(tmp_path / "configured.json"))
    config = NOTHING
    assert found() == (default, str(tmp_path / "node.keyring.json"))
    datadir.default_keyring.unlink()
    assert found()[0] == Keyring()


def test_a_command_gives_the_keyring(datadir: DataDir) -> None:
    """It runs in the data directory, without standard input, and without Petsem's variables."""
    keyring = ring()
    put(datadir.path / "here.json", keyring)
    code = (
        "import os, sys; assert sys.stdin.read() == ''; "
        "assert os.environ['KEPT'] == '1' and 'PETSEM_TOKEN' not in os.environ; "
        "sys.stdout.write(open('here.json').read())"
    )
    environ = {"KEPT": "1", "PETSEM_TOKEN": "x", "PATH": os.environ["PATH"]}
    source = KeyringSource.of(datadir, KeyringConfig(None, python(code)), environ)
    assert load_keyring(source) == keyring
    assert str(source) == "the output of [keyring] command"
    assert source.file is None


def test_a_configured_file_that_is_missing_is_an_error(datadir: DataDir, tmp_path: Path) -> None:
    """A node that was told where its keys are does not start without them in silence."""
    source = KeyringSource.of(datadir, KeyringConfig(tmp_path / "gone.json", None), {})
    assert "No such file" in refused(source, Code.INVALID)


@pytest.mark.parametrize("configured", [True, False])
def test_a_keyring_file_that_others_can_read_is_refused(
    datadir: DataDir, tmp_path: Path, configured: bool
) -> None:
    """With the command that fixes it, for the configured file and for the default one."""
    path = tmp_path / "k.json" if configured else datadir.default_keyring
    put(path, ring(), 0o640)
    config = KeyringConfig(path, None) if configured else NOTHING
    message = refused(KeyringSource.of(datadir, config, {}), Code.INVALID)
    assert message.endswith(f"run: chmod 600 {path}")


def test_a_credential_is_read_whatever_its_mode_shows(datadir: DataDir, tmp_path: Path) -> None:
    """The service manager guards that directory, and its access list shows as group rights."""
    keyring = ring()
    put(tmp_path / "c" / "petsem.keyring", keyring, 0o440)
    source = KeyringSource.of(datadir, NOTHING, {"CREDENTIALS_DIRECTORY": str(tmp_path / "c")})
    assert load_keyring(source) == keyring


def test_a_keyring_that_does_not_parse_names_its_source_only(
    datadir: DataDir, tmp_path: Path
) -> None:
    """Neither the JSON nor what is wrong in it is repeated."""
    text = f'{{"keys": "{CANARY}"}}'
    source = KeyringSource.of(datadir, NOTHING, {"PETSEM_KEYRING": text})
    assert refused(source, Code.INVALID).startswith("PETSEM_KEYRING: the keyring must be")
    path = tmp_path / "k.json"
    path.write_text(text)
    path.chmod(0o600)
    source = KeyringSource.of(datadir, KeyringConfig(path, None), {})
    assert refused(source, Code.INVALID).startswith(f"{path}: the keyring must be")


def test_a_keyring_that_is_too_large_is_refused(datadir: DataDir, tmp_path: Path) -> None:
    """Before it is parsed, from a file as from a command."""
    path = tmp_path / "k.json"
    path.write_bytes(b" " * (limits.KEYRING_MAX_BYTES + 1))
    path.chmod(0o600)
    assert "is larger than" in refused(
        KeyringSource.of(datadir, KeyringConfig(path, None), {}), Code.INVALID
    )
    endless = python("while True: print('x' * 65536)")
    source = KeyringSource.of(datadir, KeyringConfig(None, endless), {})
    assert "printed over 262,144 bytes" in refused(source, Code.INVALID)


def test_a_command_that_fails_is_told_by_its_status_alone(
    datadir: DataDir, capfd: pytest.CaptureFixture[str]
) -> None:
    """What it wrote to standard error may hold what it was given, so it is shown nowhere."""
    code = f"import sys; sys.stderr.write('{CANARY}'); print('{CANARY}'); sys.exit(3)"
    source = KeyringSource.of(datadir, KeyringConfig(None, python(code)), {})
    message = refused(source, Code.UNAVAILABLE)
    assert message == "[keyring] command failed with status 3; run it by hand to see why"
    assert CANARY not in "".join(capfd.readouterr())


def test_a_command_that_cannot_be_run_says_so(datadir: DataDir) -> None:
    """Its name and arguments are not repeated."""
    source = KeyringSource.of(datadir, KeyringConfig(None, (f"/no/{CANARY}",)), {})
    assert refused(source, Code.INVALID) == (
        "[keyring] command cannot be run: No such file or directory"
    )


@pytest.mark.parametrize("then", ["sleep 600", "exit 0"])
def test_a_command_that_hangs_is_ended_with_all_it_started(
    datadir: DataDir, tmp_path: Path, then: str
) -> None:
    """Also when it ended and a child of it holds its output open."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    # The background process holds the FIFO open for writing until it is killed.
    script = f"(echo up; sleep 600) 3>&1 >'{fifo}' & {then}"
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        config = KeyringConfig(None, ("/bin/sh", "-c", script))
        message = refused(KeyringSource.of(datadir, config, {}), Code.UNAVAILABLE, timeout_s=0.5)
        assert message == "[keyring] command did not finish within 0.5 seconds"
        os.set_blocking(reader, True)
        # Ends only once no writer is left.
        while os.read(reader, 16):
            pass
    finally:
        os.close(reader)


def test_a_command_that_closes_its_output_and_stays_is_ended(datadir: DataDir) -> None:
    """The deadline holds for its exit too."""
    code = "import os, time; os.close(1); time.sleep(600)"
    source = KeyringSource.of(datadir, KeyringConfig(None, python(code)), {})
    assert "did not finish" in refused(source, Code.UNAVAILABLE, timeout_s=0.5)


def test_no_shell_reads_the_command(datadir: DataDir) -> None:
    """Arguments are passed as they are written."""
    code = "import sys; sys.exit(0 if sys.argv[1:] == ['$HOME; true', '*'] else 9)"
    command = (*python(code), "$HOME; true", "*")
    source = KeyringSource.of(datadir, KeyringConfig(None, command), {})
    assert "not valid JSON" in refused(source, Code.INVALID)


def test_a_source_does_not_show_what_it_holds(datadir: DataDir) -> None:
    """Neither the keyring of the environment nor the environment itself."""
    environ = {"PETSEM_KEYRING": CANARY, "OTHER": CANARY}
    source = KeyringSource.of(datadir, NOTHING, environ)
    assert CANARY not in repr(source) + str(source)


def test_empty_variables_count_as_absent(datadir: DataDir) -> None:
    """As shells and unit files leave them."""
    environ = {"PETSEM_KEYRING": "", "CREDENTIALS_DIRECTORY": ""}
    assert load_keyring(KeyringSource.of(datadir, NOTHING, environ)) == Keyring()


def test_a_keyring_inside_the_data_directory_is_warned_of(datadir: DataDir, tmp_path: Path) -> None:
    """By where it really is, whatever the name looks like."""
    inside = datadir.path / "keyring.json"
    (tmp_path / "link").symlink_to(datadir.path)
    for path in (inside, tmp_path / "link" / "k", datadir.path / ".." / "node" / "k"):
        warning = warn_if_inside(datadir, path)
        assert warning is not None
        assert str(path) in warning
    for path in (datadir.default_keyring, tmp_path / "k", datadir.path / ".." / "k"):
        assert warn_if_inside(datadir, path) is None
