"""The command line: what is listed, how flags are read, how errors end."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.cli import COMMANDS, build_parser, main, summary_of


def test_the_overview_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    listed = capsys.readouterr().out
    assert all(" ".join(name) in listed for name in COMMANDS)


def test_an_unknown_command_ends_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["trian", "configs/quickstart.yaml"])
    assert stop.value.code == 2
    assert "no command 'trian" in capsys.readouterr().err


@pytest.mark.parametrize("name", [n for n, (c, _) in COMMANDS.items() if not c.parses_itself], ids=" ".join)
def test_every_flag_of_every_command_is_explained(name: tuple[str, ...]) -> None:
    command, _ = COMMANDS[name]
    function = command.load()
    explained = build_parser(name, command, function).format_help()
    assert summary_of(function).split()[0] in explained
    for argument in function.__annotations__:
        assert argument == "return" or argument in explained


def test_data_is_collected_and_described_with_either_dash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    words = ["data", "collect", "--env=Pendulum-v1", "--policy", "random", "--episodes", "2", "--out", str(store)]
    main([*words, "--max-steps", "30"])
    capsys.readouterr()
    main(["data", "info", str(store)])
    assert "60 in 2 episodes" in capsys.readouterr().out


def test_an_error_is_one_message_with_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["data", "info", str(tmp_path / "nothing")])
    assert stop.value.code == 1
    message = capsys.readouterr().err
    assert str(tmp_path / "nothing") in message
    assert "Traceback" not in message
