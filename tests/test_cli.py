"""The command line: with --json one JSON object and nothing else on standard output, clear errors, safe secrets."""

import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result
from flask import Flask
from redis import Redis
from sqlalchemy import select, update

from cast import DISK_FULL, Tenant
from openremedy import clock, doctor, maintenance, tenants
from openremedy.app import create_app
from openremedy.crypto import Vault, hashed
from openremedy.extensions import db
from openremedy.models import (
    AlertRecord,
    ApiToken,
    AuditLine,
    Incident,
    Membership,
    Recipe,
    Role,
    Source,
    SourceSecret,
    SourceToken,
    User,
    WebhookSecret,
    now,
)
from openremedy.services import services
from services import RedisServer, until

ROOT = Path(__file__).parent.parent
ON_ONE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ON_POSTGRES = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


class Shell:
    """Runs `flask …` inside the test."""

    def __init__(self, app: Flask) -> None:
        self.app = app

    def run(self, *words: str, text: str | bytes = "") -> Result:
        return self.app.test_cli_runner().invoke(args=list(words), input=text)

    def json(self, *words: str, text: str | bytes = "") -> Any:
        """The answer of a command that must succeed; also as text for people it must say something."""
        done = self.run(*words, "--json", text=text)
        assert done.exit_code == 0, done.output
        assert done.stdout.count("\n") == 1
        return json.loads(done.stdout)

    def refused(self, *words: str, text: str | bytes = "", code: int = 1) -> str:
        """What is said on standard error by a command that must fail, and print nothing else."""
        for more in ((), ("--json",)):
            done = self.run(*words, *more, text=text)
            assert done.exit_code == code, done.output
            assert done.stdout == ""
            assert "Traceback" not in done.stderr
            assert done.stderr.strip()
        return done.stderr


@pytest.fixture
def shell(app: Flask) -> Shell:
    return Shell(app)


def rows(app: Flask, statement: Any) -> list[Any]:
    with app.app_context():
        return list(db.session.scalars(statement))


# ---------------------------------------------------------------- tenants


def test_a_created_tenant_takes_alerts_signed_with_the_printed_secret(shell: Shell, app: Flask) -> None:
    answer = shell.json("tenant", "create", "acme", "--name", "Acme & Söhne")
    assert set(answer) == {"slug", "webhook_secret"}
    assert answer["slug"] == "acme"
    assert Tenant(app, "acme", answer["webhook_secret"], "").alert()["outcome"] == "created"
    (kept,) = rows(app, select(WebhookSecret.locked))
    assert answer["webhook_secret"] not in kept


@ON_ONE
@pytest.mark.parametrize("words", [("--secret", "It's a Secret to Everybody"), ("--secret", "-")])
def test_a_secret_of_ones_own_comes_as_a_value_or_from_standard_input(
    shell: Shell, app: Flask, words: tuple[str, str]
) -> None:
    answer = shell.json("tenant", "create", "acme", *words, text="It's a Secret to Everybody\n")
    assert answer == {"slug": "acme", "webhook_secret": "It's a Secret to Everybody"}
    assert Tenant(app, "acme", "It's a Secret to Everybody", "").alert()["outcome"] == "created"


@ON_ONE
def test_for_people_the_secret_is_printed_with_words(shell: Shell) -> None:
    done = shell.run("tenant", "create", "acme", "--secret", "s3cret-of-acme")
    assert done.exit_code == 0
    assert "s3cret-of-acme" in done.stdout


def test_a_tenant_cannot_be_created_twice(shell: Shell) -> None:
    shell.json("tenant", "create", "acme")
    assert "There is a tenant 'acme' already." in shell.refused("tenant", "create", "acme")


@ON_ONE
def test_a_tenant_that_cannot_be_is_refused_in_words(shell: Shell, app: Flask) -> None:
    for slug in ("", "A", "a_b", "a-", "a" * 64, "a b", "é", "a\n", "a/b"):
        assert "is no slug" in shell.refused("tenant", "create", slug)
    assert "empty" in shell.refused("tenant", "create", "acme", "--secret", "")
    assert "empty" in shell.refused("tenant", "create", "acme", "--secret", "-", text="")
    assert "at most 200 characters" in shell.refused("tenant", "create", "acme", "--name", "x" * 201)
    assert "printable" in shell.refused("tenant", "create", "acme", "--name", "a\0b")
    assert rows(app, select(WebhookSecret.id)) == []


def secrets_that_work(app: Flask, slug: str, secrets: list[str]) -> list[bool]:
    services_of = app.extensions["openremedy"]
    services_of.door.directory._known._read_at = float("-inf")  # the cache of a second is not what this is about
    return [Tenant(app, slug, secret, "").send(json.dumps(DISK_FULL).encode()).status_code == 202 for secret in secrets]


def test_rotation_keeps_the_previous_secret_for_the_grace_time(shell: Shell, app: Flask) -> None:
    first = shell.json("tenant", "create", "acme")["webhook_secret"]
    answer = shell.json("tenant", "rotate-secret", "acme")
    assert set(answer) == {"slug", "webhook_secret", "previous_valid_until"}
    assert answer["webhook_secret"] != first
    until_then = datetime.fromisoformat(answer["previous_valid_until"]) - now()
    assert timedelta(hours=23, minutes=59) < until_then <= timedelta(hours=24)
    assert secrets_that_work(app, "acme", [first, answer["webhook_secret"]]) == [True, True]

    third = shell.json("tenant", "rotate-secret", "acme", "--grace", "0")["webhook_secret"]
    assert secrets_that_work(app, "acme", [first, answer["webhook_secret"], third]) == [False, False, True]


def test_a_longer_grace_never_prolongs_an_older_secret(shell: Shell, app: Flask) -> None:
    shell.json("tenant", "create", "acme")
    shell.json("tenant", "rotate-secret", "acme", "--grace", "1")
    (soon, _none) = rows(app, select(WebhookSecret.expires_at).order_by(WebhookSecret.id))
    shell.json("tenant", "rotate-secret", "acme", "--grace", "100")
    kept = rows(app, select(WebhookSecret.expires_at).order_by(WebhookSecret.id))
    assert kept[0] == soon
    assert kept[1] > soon
    assert kept[2] is None


@ON_ONE
def test_a_shorter_grace_does_not_shorten_what_an_older_secret_was_promised(shell: Shell, app: Flask) -> None:
    shell.json("tenant", "create", "acme")
    shell.json("tenant", "rotate-secret", "acme", "--grace", "24")
    (promised, _none) = rows(app, select(WebhookSecret.expires_at).order_by(WebhookSecret.id))
    shell.json("tenant", "rotate-secret", "acme", "--grace", "1")
    kept = rows(app, select(WebhookSecret.expires_at).order_by(WebhookSecret.id))
    assert kept[0] == promised
    assert kept[1] < promised


@ON_ONE
def test_ten_secrets_live_at_most_and_grace_zero_ends_them(shell: Shell) -> None:
    shell.json("tenant", "create", "acme")
    for _ in range(tenants.MAX_LIVE_SECRETS - 1):
        shell.json("tenant", "rotate-secret", "acme")
    assert "10 secrets of 'acme' live already" in shell.refused("tenant", "rotate-secret", "acme")
    shell.json("tenant", "rotate-secret", "acme", "--grace", "0")
    shell.json("tenant", "rotate-secret", "acme")


@ON_ONE
def test_a_tenant_that_is_not_there_is_named_by_every_command(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "recipes.yaml"
    file.write_text("[]")
    for words in (
        ("tenant", "rotate-secret", "nobody"),
        ("source", "add", "nobody", "grafana"),
        ("source", "list", "nobody"),
        ("source", "rotate", "nobody", "1"),
        ("source", "disable", "nobody", "1"),
        ("token", "create", "nobody"),
        ("user", "create", "a@example.com", "--tenant", "nobody"),
        ("recipe", "import", "nobody", str(file)),
        ("recipe", "export", "nobody"),
    ):
        assert "There is no tenant 'nobody'." in shell.refused(*words, text="a long password\n"), words


@ON_ONE
def test_grace_outside_its_range_is_a_usage_error(shell: Shell) -> None:
    shell.json("tenant", "create", "acme")
    for grace in ("-1", "many", "1e9", "nan"):
        shell.refused("tenant", "rotate-secret", "acme", "--grace", grace, code=2)


# ---------------------------------------------------------------- sources


def test_a_source_shows_its_token_once(shell: Shell, app: Flask) -> None:
    shell.json("tenant", "create", "acme")
    answer = shell.json("source", "add", "acme", "alertmanager", "--name", "cluster-1")
    assert set(answer) == {"id", "adapter", "url", "token"}
    assert isinstance(answer["id"], str)
    assert answer["adapter"] == "alertmanager"
    assert answer["url"] == "http://127.0.0.1:8000/api/v1/webhooks/alertmanager/acme"
    assert rows(app, select(SourceToken.token_hash)) == [hashed(answer["token"])]

    listed = shell.json("source", "list", "acme")
    (one,) = listed["items"]
    assert set(one) == {
        *(
            "id",
            "adapter",
            "url",
            "name",
            "disabled",
            "last_seen",
            "created_at",
            "stale_after",
            "rate_limit",
            "options",
        ),
        *("outcomes", "heartbeat_at", "silent", "last_refusal", "tokens", "signing_secrets", "api_token"),
    }
    assert (one["name"], one["disabled"], one["last_seen"]) == ("cluster-1", False, None)
    assert answer["token"] not in json.dumps(listed)


def test_a_source_keeps_its_signing_secret_encrypted(shell: Shell, app: Flask) -> None:
    shell.json("tenant", "create", "acme")
    shell.json("source", "add", "acme", "pagerduty", "--signing-secret", "-", text="pd-secret\n")
    (locked,) = rows(app, select(SourceSecret.locked))
    vault: Vault = app.extensions["openremedy"].vault
    assert "pd-secret" not in locked
    assert vault.unlock(locked) == "pd-secret"
    assert "empty" in shell.refused("source", "add", "acme", "grafana", "--signing-secret", "")
    assert len(rows(app, select(Source.id))) == 1


def test_sources_of_one_adapter_are_numbered_and_a_name_is_taken_once(shell: Shell) -> None:
    shell.json("tenant", "create", "acme")
    shell.json("tenant", "create", "other")
    for _ in range(3):
        shell.json("source", "add", "acme", "grafana")
    names = [one["name"] for one in shell.json("source", "list", "acme")["items"]]
    assert names == ["grafana", "grafana-2", "grafana-3"]
    refused = shell.refused("source", "add", "acme", "grafana", "--name", "grafana-2", "--signing-secret", "x1")
    assert "There is a source 'grafana-2' already." in refused
    shell.json("source", "add", "other", "grafana", "--name", "grafana-2")


@ON_ONE
def test_a_credential_that_a_tool_has_no_use_for_is_refused(shell: Shell) -> None:
    shell.json("tenant", "create", "acme")
    refused = shell.refused("source", "add", "acme", "datadog", "--signing-secret", "x1")
    assert "Datadog has no use for a signing secret" in refused
    assert shell.json("source", "list", "acme")["items"] == []
    shell.json("source", "add", "acme", "grafana")
    assert "has no use for a token" in shell.refused("source", "edit", "acme", "grafana", "--api-token", "x1")
    assert not shell.json("source", "edit", "acme", "grafana", "--api-token", "")["api_token"]


@ON_ONE
def test_an_unknown_adapter_names_those_there_are(shell: Shell) -> None:
    shell.json("tenant", "create", "acme")
    assert "alertmanager, datadog, grafana, pagerduty" in shell.refused("source", "add", "acme", "nagios")
    assert "at most 100 characters" in shell.refused("source", "add", "acme", "grafana", "--name", "x" * 101)


def test_a_rotated_source_has_two_live_tokens_at_most(shell: Shell, app: Flask) -> None:
    shell.json("tenant", "create", "acme")
    first = shell.json("source", "add", "acme", "grafana")
    second = shell.json("source", "rotate", "acme", first["id"])
    assert set(second) == {"id", "adapter", "url", "token", "previous_valid_until"}
    shell.json("source", "rotate", "acme", "grafana", "--grace", "2")
    moment = now() + timedelta(seconds=1)
    kept = rows(app, select(SourceToken.expires_at).order_by(SourceToken.id))
    assert [one is None or one > moment for one in kept] == [False, True, True]
    shell.json("source", "rotate", "acme", "grafana", "--grace", "0")
    kept = rows(app, select(SourceToken.expires_at).order_by(SourceToken.id))
    assert [one is None or one > moment for one in kept] == [False, False, False, True]


def test_a_source_is_disabled_once_and_only_by_its_tenant(shell: Shell, app: Flask) -> None:
    shell.json("tenant", "create", "acme")
    shell.json("tenant", "create", "other")
    source_id = shell.json("source", "add", "acme", "grafana")["id"]
    for command in ("disable", "rotate"):
        assert "'other' has no source" in shell.refused("source", command, "other", source_id)
    assert shell.json("source", "disable", "acme", source_id)["disabled"] is True
    (at,) = rows(app, select(Source.disabled_at))
    shell.json("source", "disable", "acme", "grafana")
    assert rows(app, select(Source.disabled_at)) == [at]
    assert shell.json("source", "list", "acme")["items"][0]["disabled"] is True


def test_a_source_is_changed_in_what_is_named(shell: Shell) -> None:
    shell.json("tenant", "create", "acme")
    shell.json("source", "add", "acme", "pagerduty", "--signing-secret", "first")
    edited = shell.json(
        *("source", "edit", "acme", "pagerduty", "--name", "pd", "--stale-after", "600", "--rate-limit", "0"),
        *("--option", "region=eu", "--add-signing-secret", "-", "--api-token", "api-token"),
        text="second\n",
    )
    assert (edited["name"], edited["stale_after"], edited["rate_limit"]) == ("pd", 600, 0)
    assert (edited["options"], edited["api_token"]) == ({"region": "eu"}, True)
    first, second = edited["signing_secrets"]
    words = ("--stale-after", "off", "--rate-limit", "default", "--option", "region=", "--api-token", "")
    edited = shell.json("source", "edit", "acme", "pd", *words, "--remove-signing-secret", first["id"])
    assert (edited["stale_after"], edited["rate_limit"]) == (None, None)
    assert (edited["options"], edited["api_token"]) == ({}, False)
    assert edited["signing_secrets"] == [second]
    shell.json("source", "disable", "acme", "pd")
    assert shell.json("source", "edit", "acme", "pd", "--enable")["disabled"] is False


@ON_ONE
def test_every_change_of_a_source_leaves_a_line_in_the_audit_log_and_a_refused_one_none(
    shell: Shell, app: Flask
) -> None:
    shell.json("tenant", "create", "acme")
    shell.json("source", "add", "acme", "pagerduty", "--signing-secret", "first")
    shell.json("source", "edit", "acme", "pagerduty", "--add-signing-secret", "another", "--rate-limit", "0")
    shell.json("source", "rotate", "acme", "pagerduty", "--grace", "1")
    shell.json("source", "disable", "acme", "pagerduty")
    shell.refused("source", "edit", "acme", "pagerduty", "--stale-after", "0")
    named = AuditLine.action.startswith("source.")
    lines = rows(app, select(AuditLine).where(named).order_by(AuditLine.id))
    assert [(line.action, line.actor, line.detail) for line in lines] == [
        ("source.added", "command line", {"adapter": "pagerduty"}),
        ("source.changed", "command line", {"changed": {"add_signing_secret": "changed", "rate_limit": 0}}),
        ("source.rotated", "command line", {"grace_hours": 1.0}),
        ("source.changed", "command line", {"changed": {"disabled": True}}),
    ]


@ON_ONE
def test_a_new_tenant_is_told_how_to_get_recipes(shell: Shell) -> None:
    done = shell.run("tenant", "create", "acme", "--json")
    assert "flask recipe import acme config/recipes.yaml" in done.stderr
    assert set(json.loads(done.stdout)) == {"slug", "webhook_secret"}


@ON_ONE
def test_a_change_of_a_source_is_made_whole_or_not_at_all(shell: Shell) -> None:
    shell.json("tenant", "create", "acme")
    shell.json("source", "add", "acme", "pagerduty", "--signing-secret", "first")
    (before,) = shell.json("source", "list", "acme")["items"]
    secret_id = before["signing_secrets"][0]["id"]
    for words, said in (
        (("--option", "region=mars"), "region"),
        (("--option", "nothing=1"), "There is no option 'nothing'"),
        (("--add-signing-secret", ""), "empty"),
        (("--api-token", "t\u00f6ken"), "ASCII"),
        (("--remove-signing-secret", "987"), "no such signing secret"),
        (("--stale-after", "0"), "between 1 and"),
    ):
        refused = shell.refused("source", "edit", "acme", "pagerduty", "--name", "other", *words)
        assert said in refused
        shell.refused("source", "edit", "acme", "pagerduty", *words, "--rate-limit", "-5")
    shell.refused(
        "source", "edit", "acme", "pagerduty", "--remove-signing-secret", secret_id, "--option", "region=mars"
    )
    shell.refused("source", "edit", "acme", "pagerduty", "--rate-limit", "many", code=2)
    shell.refused("source", "edit", "acme", "pagerduty", "--option", "region", code=2)
    assert shell.json("source", "list", "acme")["items"] == [before]


# ---------------------------------------------------------------- users and tokens


def test_a_users_password_comes_from_standard_input_and_is_hashed(shell: Shell, app: Flask) -> None:
    answer = shell.json("user", "create", "Root@Example.com", "--superadmin", text="correct horse battery\n")
    assert answer == {"email": "root@example.com", "role": "superadmin"}
    shell.json("tenant", "create", "acme")
    answer = shell.json(
        "user", "create", "bob@example.com", "--tenant", "acme", "--role", "responder", text="correct horse\n"
    )
    assert answer == {"email": "bob@example.com", "role": "responder"}
    assert all(one.startswith("$argon2id$") for one in rows(app, select(User.password_hash)))
    assert rows(app, select(User.superadmin).order_by(User.id)) == [True, False]
    assert rows(app, select(Membership.role)) == [Role.RESPONDER]


def test_a_user_cannot_be_created_twice_but_may_join_another_tenant(shell: Shell, app: Flask) -> None:
    for slug in ("acme", "other"):
        shell.json("tenant", "create", slug)
    create = ("user", "create", "bob@example.com")
    shell.json(*create, "--tenant", "acme", text="correct horse\n")
    assert "already" in shell.refused(*create, "--tenant", "acme", text="correct horse\n")
    assert "already" in shell.refused(*create, "--superadmin", text="correct horse\n")
    assert shell.json(*create, "--tenant", "other", "--role", "admin", text="whatever\n")["role"] == "admin"
    assert rows(app, select(Membership.role).order_by(Membership.tenant_id)) == [Role.VIEWER, Role.ADMIN]
    assert len(rows(app, select(User.id))) == 1


@ON_ONE
def test_a_user_that_cannot_be_is_refused_in_words(shell: Shell, app: Flask) -> None:
    create = ("user", "create")
    assert "at least 8 characters" in shell.refused(*create, "a@example.com", "--superadmin", text="short\n")
    assert "at least 8 characters" in shell.refused(*create, "a@example.com", "--superadmin", text="")
    assert "is no e-mail address" in shell.refused(*create, "nobody", "--superadmin", text="correct horse\n")
    assert "either --superadmin or --tenant" in shell.refused(*create, "a@example.com", code=2)
    shell.refused(*create, "a@example.com", "--superadmin", "--tenant", "acme", code=2)
    shell.refused(*create, "a@example.com", "--superadmin", "--role", "admin", code=2)
    shell.refused(*create, "a@example.com", "--tenant", "acme", "--role", "owner", code=2)
    assert rows(app, select(User.id)) == []


def test_a_token_is_printed_once_and_has_the_role_it_was_made_with(shell: Shell, app: Flask) -> None:
    shell.json("tenant", "create", "acme")
    answer = shell.json("token", "create", "acme")
    assert set(answer) == {"token"}
    shell.json("token", "create", "acme", "--role", "admin", "--name", "ci")
    assert rows(app, select(ApiToken.role).order_by(ApiToken.id)) == [Role.VIEWER, Role.ADMIN]
    assert rows(app, select(ApiToken.token_hash).order_by(ApiToken.id))[0] == hashed(answer["token"])
    client = app.test_client()
    headers = {"Authorization": f"Bearer {answer['token']}"}
    assert client.get("/api/v1/incidents", headers=headers).status_code == 200
    shell.refused("token", "create", "acme", "--role", "superadmin", code=2)


# ---------------------------------------------------------------- recipes


def test_exported_recipes_come_back_the_same(shell: Shell, app: Flask, tmp_path: Path) -> None:
    for slug in ("acme", "other"):
        shell.json("tenant", "create", slug)
    imported = shell.json("recipe", "import", "acme", "config/recipes.yaml")
    assert imported == {"added": imported["added"], "changed": 0, "unchanged": 0}
    assert imported["added"] >= 20
    exported = shell.json("recipe", "export", "acme")
    assert exported["count"] == imported["added"]
    printed = shell.run("recipe", "export", "acme").stdout
    assert printed.strip() == exported["yaml"].strip()
    same = {"added": 0, "changed": 0, "unchanged": imported["added"]}
    assert shell.json("recipe", "import", "acme", "-", text=printed) == same
    assert shell.json("recipe", "import", "other", "-", text=printed)["added"] == imported["added"]
    assert shell.json("recipe", "export", "other") == exported


def test_a_mistake_in_a_recipe_file_is_named_with_its_line_and_nothing_is_imported(
    shell: Shell, app: Flask, tmp_path: Path
) -> None:
    shell.json("tenant", "create", "acme")
    file = tmp_path / "recipes.yaml"
    file.write_text(
        "- {slug: good, title: Good, when: now, risk: low, steps: none}\n"
        "- slug: bad\n  title: Bad\n  wen: now\n  risk: lo\n  steps: none\n"
    )
    said = shell.refused("recipe", "import", "acme", str(file))
    assert "Nothing was imported." in said
    assert "line 4: " in said
    assert "did you mean 'when'?" in said
    assert "line 5: " in said
    assert rows(app, select(Recipe.id)) == []
    shell.refused("recipe", "import", "acme", "-", text=b"\xff\xfe")
    shell.refused("recipe", "import", "acme", str(tmp_path / "absent.yaml"), code=2)


def test_an_import_changes_only_what_differs(shell: Shell, app: Flask) -> None:
    shell.json("tenant", "create", "acme")
    recipe = "- {slug: %s, title: %s, when: now, risk: low, steps: none}\n"
    shell.json("recipe", "import", "acme", "-", text=recipe % ("one", "One") + recipe % ("two", "Two"))
    text = recipe % ("one", "One") + recipe % ("two", "Another") + recipe % ("three", "Three")
    answer = shell.json("recipe", "import", "acme", "-", text=text)
    assert answer == {"added": 1, "changed": 1, "unchanged": 1}
    assert shell.json("recipe", "export", "acme")["count"] == 3


# ---------------------------------------------------------------- classify eval


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three alerts: two that a recipe fits, one that none does."""
    recipes = [
        {"slug": "disk-full", "title": "Disk full", "when_to_use": "A file system is full", "mitigation": "delete"},
        {"slug": "tls-expired", "title": "Certificate expired", "when_to_use": "A TLS certificate has expired"},
    ]
    alerts = [
        {"id": 1, "alert": {"labels": {"alertname": "DiskFull"}, "annotations": {"summary": "File system full"}}},
        {"id": 2, "alert": {"labels": {"alertname": "CertificateExpired"}, "annotations": {"summary": "TLS expired"}}},
        {"id": 3, "alert": {"labels": {"alertname": "Qwzx"}, "annotations": {}}},
    ]
    truth = [{"id": 1, "recipe_slug": "disk-full"}, {"id": 2, "recipe_slug": "tls-expired", "accept": ["disk-full"]}]
    truth.append({"id": 3, "recipe_slug": None})
    files = {"recipes": recipes, "alerts_named": alerts, "alerts_hidden": alerts[:1], "alerts_truth": truth}
    for name, lines in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return tmp_path


@ON_ONE
def test_classify_eval_gives_a_key_per_figure(shell: Shell, folder: Path) -> None:
    figures = shell.json("classify", "eval", str(folder))
    assert (figures["alerts"], figures["with_recipe"], figures["without_recipe"]) == (3, 2, 1)
    assert figures["top1"] == figures["mrr"] == 1.0
    assert figures["abstain_recall"] == 1.0
    assert {"variant", "tier", "top3", "answered", "precision", "ece", "cov95", "ms_p50", "ms_p99"} <= set(figures)
    assert shell.json("classify", "eval", str(folder), "--variant", "hidden")["alerts"] == 1
    people = shell.run("classify", "eval", str(folder)).stdout
    parts = {"confusion", "subsets"}  # shown only where there is something in them
    assert all(name in people for name in figures.keys() - parts if not name.endswith("_ci"))


@ON_ONE
def test_classify_eval_finds_recipes_that_several_folders_share(shell: Shell, folder: Path) -> None:
    dev = folder / "dev"
    dev.mkdir()
    for file in folder.glob("alerts_*.jsonl"):
        file.rename(dev / file.name)
    assert shell.json("classify", "eval", str(dev))["top1"] == 1.0
    assert shell.json("classify", "eval", str(dev), "--recipes", str(folder / "recipes.jsonl"))["alerts"] == 3


@ON_ONE
def test_classify_eval_says_what_is_wrong_with_a_folder(shell: Shell, folder: Path) -> None:
    truth = folder / "alerts_truth.jsonl"
    for text in ('{"id": 1}', "[]", "5", "{", '{"id": 9, "recipe_slug": null}'):
        truth.write_text(text)
        assert str(folder) in shell.refused("classify", "eval", str(folder))
    truth.unlink()
    assert "top1" not in shell.json("classify", "eval", str(folder))
    (folder / "alerts_named.jsonl").unlink()
    assert "There is no file" in shell.refused("classify", "eval", str(folder))
    shell.refused("classify", "eval", str(folder / "absent"), code=2)


@ON_ONE
def test_a_link_for_a_new_password_is_printed_and_works(shell: Shell, app: Flask) -> None:
    shell.json("user", "create", "root@example.com", "--superadmin", text="correct horse\n")
    answer = shell.json("user", "link", "Root@example.com")
    assert answer["email"] == "root@example.com"
    path = answer["url"].removeprefix("http://127.0.0.1:8000")
    assert app.test_client().get(path).status_code == 200
    assert "nobody" in shell.refused("user", "link", "nobody@example.com")


@ON_ONE
def test_users_are_listed_with_what_they_may(shell: Shell, alice: Tenant) -> None:
    assert shell.json("user", "list") == {"items": []}
    shell.json("user", "create", "root@example.com", "--superadmin", text="correct horse\n")
    shell.json("user", "create", "bob@example.com", "--tenant", "alice", "--role", "responder", text="correct horse\n")
    bob, root = shell.json("user", "list")["items"]
    assert (bob["email"], bob["tenants"], bob["superadmin"]) == ("bob@example.com", {"alice": "responder"}, False)
    assert (root["email"], root["tenants"], root["superadmin"]) == ("root@example.com", {}, True)
    assert "correct horse" not in shell.run("user", "list").output
    assert "bob@example.com; responder of alice; last signed in never" in shell.run("user", "list").stdout


# ---------------------------------------------------------------- doctor


def checks(shell: Shell) -> dict[str, dict[str, str]]:
    """What `doctor --json` found, by name; its exit code must fit."""
    done = shell.run("doctor", "--json")
    answer = json.loads(done.stdout)
    assert set(answer) == {"ok", "checks"}
    assert answer["ok"] == (done.exit_code == 0) == all(one["status"] != "fail" for one in answer["checks"])
    assert all(set(one) == {"name", "status", "detail", "advice"} for one in answer["checks"])
    assert all(one["advice"] for one in answer["checks"] if one["status"] != "ok")
    people = shell.run("doctor").stdout
    assert all(one["name"] in people for one in answer["checks"])
    return {one["name"]: one for one in answer["checks"]}


def register_worker(url: str) -> None:
    """What a live worker leaves in Redis."""
    with Redis.from_url(url) as redis:
        redis.sadd("rq:workers:classify", "rq:worker:one")
        redis.sadd("rq:workers", "rq:worker:one")
        redis.hset("rq:worker:one", mapping={"birth": "2026-01-01T00:00:00.000000Z", "state": "idle"})


@pytest.fixture
def with_redis(make_app: Any, settings: Any, redis_url: str) -> Shell:
    return Shell(make_app(dataclasses.replace(settings, redis_url=redis_url)))


def test_doctor_finds_nothing_where_all_is_well(with_redis: Shell, redis_url: str) -> None:
    with_redis.json("tenant", "create", "acme")
    register_worker(redis_url)
    found = checks(with_redis)
    assert {name: one["status"] for name, one in found.items()} == dict.fromkeys(found, "ok")
    assert {"database", "secrets", "clock", "oldest pending", "redis", "redis eviction", "redis persistence"} <= set(
        found
    )
    assert {"workers", "model"} <= set(found)


@ON_ONE
def test_doctor_says_what_redis_lacks(with_redis: Shell, redis_url: str) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.config_set("maxmemory-policy", "allkeys-lru")
        redis.config_set("appendonly", "no")
        try:
            found = checks(with_redis)
        finally:
            redis.config_set("maxmemory-policy", "noeviction")
            redis.config_set("appendonly", "yes")
    assert found["redis eviction"]["status"] == "fail"
    assert "noeviction" in found["redis eviction"]["advice"]
    assert found["redis persistence"]["status"] == "warn"
    assert found["workers"]["status"] == "fail"
    assert "flask worker" in found["workers"]["advice"]


@ON_ONE
def test_doctor_gives_up_on_an_absent_and_on_a_hung_redis(
    shell: Shell, with_redis: Shell, redis_server: RedisServer
) -> None:
    found = checks(shell)
    assert found["redis"]["status"] == "fail"
    assert "redis eviction" not in found
    assert found["database"]["status"] == "ok"
    with redis_server.paused():
        started = time.monotonic()
        assert checks(with_redis)["redis"]["status"] == "fail"
        assert time.monotonic() - started < 10


def test_doctor_sees_secrets_that_no_key_opens(shell: Shell, app: Flask) -> None:
    shell.json("tenant", "create", "acme")
    shell.json("source", "add", "acme", "pagerduty", "--signing-secret", "pd-secret")
    assert checks(shell)["secrets"]["detail"].startswith("2 ")
    with app.app_context():
        db.session.execute(update(SourceSecret).values(locked="of another key"))
        db.session.commit()
    found = checks(shell)["secrets"]
    assert found["status"] == "fail"
    assert "1 of 2" in found["detail"]
    assert "ENCRYPTION_KEYS" in found["advice"]


def test_doctor_sees_a_schema_that_is_behind(shell: Shell, app: Flask) -> None:
    with app.app_context():
        db.session.execute(db.text("UPDATE alembic_version SET version_num = '0000'"))
        db.session.execute(db.text("DELETE FROM alembic_version"))
        db.session.commit()
    found = checks(shell)
    assert found["database"]["status"] == "fail"
    assert "flask db upgrade" in found["database"]["advice"]
    assert "secrets" not in found


def test_doctor_shows_the_age_of_what_waits(shell: Shell, app: Flask, alice: Tenant) -> None:
    alice.alert()
    assert checks(shell)["oldest pending"]["status"] == "ok"
    with app.app_context():
        db.session.execute(update(Incident).values(triage_since=now() - timedelta(minutes=10)))
        db.session.commit()
    found = checks(shell)["oldest pending"]
    assert found["status"] == "warn"
    assert "600 s" in found["detail"]


@ON_ONE
def test_doctor_waits_for_a_model_only_so_long(make_app: Any, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MODEL_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def drip() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                for _ in range(100):  # each byte comes soon enough, the answer never
                    if stop.wait(0.05):
                        return
                    connection.sendall(b"H")

        dripping = threading.Thread(target=drip, daemon=True)
        dripping.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        app = make_app(dataclasses.replace(settings, openai_base_url=url))
        with app.app_context():
            (model,) = [one for one in doctor.examine(services(), db.engine) if one.name == "model"]
        stop.set()
        dripping.join(timeout=5)
    assert (model.status, "does not answer within" in model.detail) == (doctor.FAIL, True)
    assert model.advice


@ON_ONE
def test_doctor_looks_at_the_model_endpoint(make_app: Any, settings: Any) -> None:
    away = dataclasses.replace(settings, openai_base_url="http://127.0.0.1:1/v1", openai_api_key="sk-not-to-be-shown")
    shell = Shell(make_app(away))
    found = checks(shell)["model"]
    assert found["status"] == "fail"
    assert "http://127.0.0.1:1/v1" in found["detail"]
    assert "sk-not-to-be-shown" not in shell.run("doctor").output


@ON_ONE
def test_doctor_asks_a_model_endpoint_with_a_query_for_its_models(
    make_app: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def stream(_method: str, url: Any, **_more: Any) -> Any:
        asked.append(str(url))
        return contextlib.nullcontext(SimpleNamespace(status_code=200))

    monkeypatch.setattr(doctor.httpx2, "stream", stream)
    with_query = dataclasses.replace(settings, openai_base_url="https://models.example.com/v1/?api-version=preview")
    assert checks(Shell(make_app(with_query)))["model"]["status"] == "ok"
    assert set(asked) == {"https://models.example.com/v1/models?api-version=preview"}


# ---------------------------------------------------------------- sweep and prune


def test_sweep_counts_what_it_found(shell: Shell, app: Flask, alice: Tenant) -> None:
    alice.alert()
    assert shell.json("sweep") == {"requeued": 0, "given_up": 0, "stale": 0, "redone": 0, "indexed": 0}
    with app.app_context():
        db.session.execute(
            update(Incident).values(triage="classifying", attempts=1, lease_until=now() - timedelta(seconds=1))
        )
        db.session.commit()
    assert shell.json("sweep")["requeued"] == 1
    assert alice.incidents()[0]["classification"] == "pending"


def test_prune_deletes_the_old_in_batches_and_keeps_what_is_open(
    shell: Shell, app: Flask, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "BATCH", 2)
    with clock.as_if_at(now() - timedelta(days=91)):
        burning = alice.alert(hostname="burning")["incident_id"]
        for number in range(5):
            incident_id = alice.alert(hostname=f"over-{number}")["incident_id"]
            alice.post(f"/incidents/{incident_id}/resolve")
    fresh = alice.alert(hostname="fresh")["incident_id"]
    alice.post(f"/incidents/{fresh}/resolve")
    answer = shell.json("prune")
    assert (answer["deliveries"], answer["incidents"]) == (6, 5)
    assert {one["id"] for one in alice.incidents()} == {burning, fresh}
    assert alice.incident(burning)["timeline"], "what happened to an open incident stays"
    assert len(rows(app, select(AlertRecord.id))) == 1
    assert shell.json("prune") == dict.fromkeys(answer, 0)


# ---------------------------------------------------------------- real processes


def environment(settings: Any, **changes: str) -> dict[str, str]:
    ours = {
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "SECRET_KEY": settings.secret_key,
        "ENCRYPTION_KEYS": ",".join(settings.encryption_keys),
        "OPENREMEDY_DATA_DIR": str(settings.data_dir),
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI", "OPENREMEDY"))}
    return kept | ours | changes


def flask(settings: Any, *words: str, text: str = "", **changes: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "flask", *words],
        cwd=ROOT,
        env=environment(settings, **changes),
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@ON_ONE
def test_with_json_nothing_else_reaches_standard_output(settings: Any) -> None:
    done = flask(settings, "tenant", "create", "acme", "--json", OPENREMEDY_LOG_FORMAT="text")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == {"slug", "webhook_secret"}
    # A warning for people (no endpoint of that adapter yet) goes to standard error, if there is one.
    done = flask(settings, "source", "add", "acme", "grafana", "--json")
    assert set(json.loads(done.stdout)) == {"id", "adapter", "url", "token"}
    # Redis is away, which the sweep logs.
    done = flask(settings, "sweep", "--json")
    assert set(json.loads(done.stdout)) == {"requeued", "given_up", "stale", "redone", "indexed"}


@ON_ONE
def test_a_database_that_is_away_is_one_line(settings: Any, tmp_path: Path) -> None:
    away = "postgresql://user:hidden-password@127.0.0.1:1/none"
    absent = f"sqlite:///{tmp_path}/absent/none.db"
    for url, words in ((away, ["sweep"]), (absent, ["tenant", "create", "acme", "--json"])):
        done = flask(settings, *words, DATABASE_URL=url)
        assert done.returncode == 1, done.stderr
        assert done.stdout == ""
        assert "Error: The database cannot be used" in done.stderr
        assert "Traceback" not in done.stderr
        assert "hidden-password" not in done.stderr
    doctor = flask(settings, "doctor", "--json", DATABASE_URL=away)
    assert doctor.returncode == 1
    assert json.loads(doctor.stdout)["checks"][0]["status"] == "fail"
    assert "hidden-password" not in doctor.stdout + doctor.stderr


@ON_ONE
def test_scheduler_and_worker_end_with_zero_when_told(settings: Any, redis_url: str) -> None:
    for command in ("scheduler", "worker"):
        process = subprocess.Popen(
            [sys.executable, "-m", "flask", command],
            cwd=ROOT,
            env=environment(settings, REDIS_URL=redis_url),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            if command == "worker":
                with Redis.from_url(redis_url) as redis:
                    until(lambda: redis.smembers("rq:workers:classify"), "a worker")
            until(lambda: _installed(process.pid, command), "its signal handlers")  # noqa: B023
            process.terminate()
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
        assert process.returncode == 0, err
        assert out == ""


def _installed(pid: int, command: str) -> bool:
    """Whether the process catches SIGTERM (bit 15 of SigCgt); only Linux tells."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return True
    if command.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes():
        return False  # still a copy of this process, with the handlers it may have
    caught = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> 14 & 1)


@ON_ONE
def test_a_worker_in_burst_classifies_what_waits_and_ends(settings: Any, redis_url: str) -> None:
    secret = json.loads(flask(settings, "tenant", "create", "acme", "--json").stdout)["webhook_secret"]
    assert flask(settings, "recipe", "import", "acme", "config/recipes.yaml").returncode == 0
    app = create_app(dataclasses.replace(settings, redis_url=redis_url))
    Tenant(app, "acme", secret, "").alert()
    done = flask(settings, "worker", "--burst", REDIS_URL=redis_url)
    assert done.returncode == 0, done.stderr
    assert [str(one) for one in rows(app, select(Incident.triage))] == ["done"]
    with app.app_context():
        services().tally.stop()
        db.session.remove()
        db.engine.dispose()
