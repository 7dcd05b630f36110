"""Settings: where they come from, what is refused, and that their documentation is true."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentflow.errors import InvalidRequest, NotYet
from agentflow.settings import Settings, load_settings, reference, unknown_variables

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no file of the machine that runs the tests."""
    import os

    for name in [name for name in os.environ if name.startswith("AGENTFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_defaults_listen_on_the_loopback_and_isolate_tools() -> None:
    settings = load_settings()

    assert (settings.host, settings.port, settings.dashboard_port) == ("127.0.0.1", 8000, 8265)
    assert settings.unsafe_subprocess_tools is False
    assert settings.mount_roots == ()
    assert settings.database_url is None


def test_arguments_win_over_the_environment_and_that_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "agentflow.toml").write_text("port = 1001\nhttp_replicas = 3\nwarm_agents = 4\n")
    monkeypatch.setenv("AGENTFLOW_PORT", "1002")
    monkeypatch.setenv("AGENTFLOW_HTTP_REPLICAS", "5")

    settings = load_settings(port=1003, host=None)

    assert (settings.port, settings.http_replicas, settings.warm_agents) == (1003, 5, 4)


def test_mount_roots_are_a_path_list_in_the_environment_and_an_array_in_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AGENTFLOW_MOUNT_ROOTS", f"/srv/code:{tmp_path}")
    assert load_settings().mount_roots == (Path("/srv/code"), tmp_path)

    monkeypatch.delenv("AGENTFLOW_MOUNT_ROOTS")
    (tmp_path / "agentflow.toml").write_text('mount_roots = ["/srv/a", "~/b"]\n')
    assert load_settings().mount_roots == (Path("/srv/a"), Path.home() / "b")


def test_folders_are_absolute_and_know_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AGENTFLOW_HOME", "state")
    settings = load_settings(app_dir="~/app")

    assert settings.home == tmp_path / "state"
    assert settings.app_dir == Path.home() / "app"


def test_all_errors_come_at_once_and_name_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTFLOW_PORT", "99999")
    monkeypatch.setenv("AGENTFLOW_LOG_LEVEL", "LOUD")

    with pytest.raises(InvalidRequest, match=r"AGENTFLOW_PORT.*AGENTFLOW_LOG_LEVEL"):
        load_settings()


def test_a_misspelt_key_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "agentflow.toml").write_text("prot = 1\n")

    with pytest.raises(InvalidRequest, match="PROT"):
        load_settings()


def test_a_file_that_is_no_toml_is_refused_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "agentflow.toml").write_text("port = = 1\n")

    with pytest.raises(InvalidRequest, match="line 1"):
        load_settings()


def test_more_than_one_supervisor_is_not_yet() -> None:
    with pytest.raises(NotYet, match="AGENTFLOW_SUPERVISORS"):
        load_settings(supervisors=2)


def test_the_database_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTFLOW_DATABASE_URL", "postgresql://a:geheim@db/x")
    settings = load_settings()

    assert "geheim" not in repr(settings) + str(settings.model_dump()) + settings.model_dump_json()
    assert settings.database_url is not None and settings.database_url.get_secret_value().endswith("geheim@db/x")


def test_misspelt_variables_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTFLOW_PRT", "1")
    monkeypatch.setenv("AGENTFLOW_URL", "http://x")

    assert unknown_variables() == ["AGENTFLOW_PRT"]


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().port = 1


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented(name: str) -> None:
    assert Settings.model_fields[name].description


def test_the_page_of_settings_is_true() -> None:
    assert (ROOT / "docs/settings.md").read_text() == reference(), "run: .venv/bin/python -m agentflow.settings > docs/settings.md"
