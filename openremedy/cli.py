"""The command line: `flask …` from the repository root. With `--json` only the answer goes to standard output."""

import json
import signal
import sys
import threading
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import click
from flask import Flask
from flask.cli import AppGroup, with_appcontext

from openremedy import audit, cookbook, deliveries, maintenance, people, registry, sources, tenants
from openremedy import doctor as doctor_checks
from openremedy import replay as replays
from openremedy.alerts import shown
from openremedy.audit import COMMAND_LINE
from openremedy.cli_outgoing import outgoing
from openremedy.commands import answering, real, value_of
from openremedy.errors import Invalid, NotFound, Problem
from openremedy.extensions import db
from openremedy.ids import parse_id
from openremedy.incidents import stamp
from openremedy.models import Role, User
from openremedy.recipes import RecipeFileError, dump, parse
from openremedy.services import services

SWEEP_SECONDS = 30
STRONG_SECRET = 24  # characters
ROLES = click.Choice([str(role) for role in Role])


def register(app: Flask) -> None:
    """Give the application its commands."""
    for command in (tenant, source, outgoing, user, token, recipe, classify):
        app.cli.add_command(command)
    for single in (worker, scheduler, sweep, prune, replay, doctor, demo):
        app.cli.add_command(single)


# ---------------------------------------------------------------- tenants

tenant = AppGroup("tenant", help="Tenants and their webhook secrets.")


@tenant.command("create")
@click.argument("slug")
@click.option("--name", default="", help="The name people see; the slug when left out.")
@click.option("--secret", help="A webhook secret of your own (- reads it from standard input); made when left out.")
@answering
def tenant_create(slug: str, name: str, secret: str | None) -> tuple[dict[str, Any], str]:
    """Create a tenant and print its webhook secret."""
    value = tenants.create_tenant(db.session(), services().vault, slug, name, value_of(secret))
    if len(value) < STRONG_SECRET:
        click.echo(f"Note: a secret of fewer than {STRONG_SECRET} characters can be guessed.", err=True)
    click.echo(f"Note: {slug} has no recipes yet: flask recipe import {slug} config/recipes.yaml", err=True)
    text = f"Tenant {slug} created. Its webhook secret (keep it, it is not shown again here):\n{value}"
    return {"slug": slug, "webhook_secret": value}, text


@tenant.command("rotate-secret")
@click.argument("slug")
@click.option(
    "--grace",
    type=click.FloatRange(0, 24 * 365),
    default=24,
    callback=real,
    help="Hours the previous secrets live on.",
)
@answering
def tenant_rotate_secret(slug: str, grace: float) -> tuple[dict[str, Any], str]:
    """Give a tenant a new webhook secret; the previous one works during the grace time (0 ends it now)."""
    value, until = tenants.rotate_secret(db.session(), services().vault, slug, timedelta(hours=grace))
    answer = {"slug": slug, "webhook_secret": value, "previous_valid_until": stamp(until)}
    return answer, f"New webhook secret of {slug}:\n{value}\nThe previous one is valid until {stamp(until)}."


# ---------------------------------------------------------------- sources

source = AppGroup("source", help="The monitoring tools that send to a tenant.")


def _url(one: Any, slug: str) -> str:
    return sources.url_of(services().settings.public_url, slug, one.adapter)


def _source_json(one: Any, slug: str) -> dict[str, Any]:
    return {"id": str(one.id), "adapter": one.adapter, "url": _url(one, slug)}


@source.command("add")
@click.argument("tenant_slug", metavar="TENANT")
@click.argument("adapter")
@click.option("--name", default="", help="The name people see; the adapter's when left out.")
@click.option("--signing-secret", help="The secret with which the tool itself signs (- reads it from standard input).")
@answering
def source_add(tenant_slug: str, adapter: str, name: str, signing_secret: str | None) -> tuple[dict[str, Any], str]:
    """Add a source and print its URL and its token, once."""
    if adapter not in registry.adapters():
        raise Invalid(f"There is no adapter {adapter!r}; there are {', '.join(sorted(registry.adapters()))}.")
    registry.check_credentials(adapter, {"add_signing_secret": signing_secret})
    one, value = sources.add_source(
        db.session(), services().vault, tenant_slug, adapter, name, value_of(signing_secret), actor=COMMAND_LINE
    )
    answer = _source_json(one, tenant_slug) | {"token": value}
    return answer, f"Source {one.name} (id {one.id}) added.\nURL:   {answer['url']}\nToken: {value}"


@source.command("list")
@click.argument("tenant_slug", metavar="TENANT")
@answering
def source_list(tenant_slug: str) -> tuple[dict[str, Any], str]:
    """List the sources of a tenant: last seen, what came of it, what was refused last."""
    found = sources.list_sources(db.session(), tenants.find_tenant(db.session(), tenant_slug).id)
    items = [sources.as_json(one, _url(one, tenant_slug)) for one in found]
    none = f"{tenant_slug} has no source: flask source add {tenant_slug} ADAPTER"
    return {"items": items}, "\n".join(map(_source_line, items)) or none


def _source_line(item: dict[str, Any]) -> str:
    parts = [f"{item['id']}  {item['adapter']}  {item['name']}  last seen {item['last_seen'] or 'never'}"]
    if item["disabled"]:
        parts.append("disabled")
    if item["silent"]:
        parts.append("SILENT: its heartbeat has stopped")
    if counts := ", ".join(f"{count} {outcome}" for outcome, count in item["outcomes"].items() if count):
        parts.append(counts)
    if refusal := item["last_refusal"]:
        parts.append(f"last refused {refusal['at']}: {refusal['reason']}")
    return "; ".join(parts)


def _note(one: Any, action: str, **detail: Any) -> None:
    """For the audit log, in the transaction of the change."""
    db.session.add(audit.line(COMMAND_LINE, one.tenant_id, action, one.name, **detail))


@source.command("rotate")
@click.argument("tenant_slug", metavar="TENANT")
@click.argument("source_id", metavar="SOURCE")
@click.option(
    "--grace", type=click.FloatRange(0, 24 * 365), default=24, callback=real, help="Hours the previous token lives on."
)
@answering
def source_rotate(tenant_slug: str, source_id: str, grace: float) -> tuple[dict[str, Any], str]:
    """Give a source (its id or name) a new token; the previous one works during the grace time."""
    one = sources.find_source(db.session(), tenant_slug, source_id)
    _note(one, "source.rotated", grace_hours=grace)
    value, until = sources.rotate_source(db.session(), one, timedelta(hours=grace))
    answer = _source_json(one, tenant_slug) | {"token": value, "previous_valid_until": stamp(until)}
    return answer, f"New token of {one.name}:\n{value}\nThe previous one is valid until {stamp(until)}."


@source.command("disable")
@click.argument("tenant_slug", metavar="TENANT")
@click.argument("source_id", metavar="SOURCE")
@answering
def source_disable(tenant_slug: str, source_id: str) -> tuple[dict[str, Any], str]:
    """Refuse whatever a source (its id or name) sends from now on."""
    one = sources.find_source(db.session(), tenant_slug, source_id)
    _edit(one, disabled=True)
    return _source_json(one, tenant_slug) | {"disabled": True}, f"Source {one.name} is disabled."


class OrWord(click.ParamType[Any]):
    """A whole number, or one word that stands for none."""

    def __init__(self, word: str) -> None:
        self.word = word
        self.name = f"number|{word}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, or the word as it is."""
        return value if value == self.word else click.INT.convert(value, param, ctx)


@source.command("edit")
@click.argument("tenant_slug", metavar="TENANT")
@click.argument("source_id", metavar="SOURCE")
@click.option("--name", help="The name people see.")
@click.option("--stale-after", type=OrWord("off"), help="Seconds without news that close an incident of it, or off.")
@click.option("--rate-limit", type=OrWord("default"), help="Requests a minute (0 = no limit), or default.")
@click.option("--option", "options", multiple=True, help="NAME=VALUE of the adapter's own; empty takes it back.")
@click.option("--add-signing-secret", help="One more secret with which the tool signs (- reads standard input).")
@click.option("--remove-signing-secret", help="The id of a signing secret that ends now.")
@click.option("--api-token", help="Read-only token for the tool's own API (- reads standard input; empty ends it).")
@click.option("--enable", is_flag=True, help="Take again what a disabled source sends.")
@answering
def source_edit(tenant_slug: str, source_id: str, **given: Any) -> tuple[dict[str, Any], str]:
    """Change a source (its id or name); what is not named stays."""
    one = sources.find_source(db.session(), tenant_slug, source_id)
    _edit(one, **_changes(given))
    answer = sources.as_json(one, _url(one, tenant_slug))
    return answer, f"Source {one.name} is changed.\n{_source_line(answer)}"


def _edit(one: Any, **changes: Any) -> None:
    registry.check_credentials(one.adapter, changes)
    _note(one, "source.changed", changed=sources.told(changes))
    sources.edit_source(db.session(), services().vault, one, registry.options_of(one.adapter), **changes)


def _changes(given: dict[str, Any]) -> dict[str, Any]:
    """The command's own options as sources.edit_source() takes them; those that are not named are left out."""
    # Identity and not equality: 0 is a limit of its own.
    changes = {name: value for name, value in given.items() if not (value is None or value is False or value == ())}
    for name, none in (("stale_after", "off"), ("rate_limit", "default")):
        if changes.get(name) == none:
            changes[name] = None
    for name in ("add_signing_secret", "api_token"):
        if name in changes:
            changes[name] = value_of(changes[name])
    if "options" in changes:
        changes["options"] = dict(map(_option, changes["options"]))
    if changes.pop("enable", False):
        changes["disabled"] = False
    return changes


def _option(text: str) -> tuple[str, str | None]:
    name, sign, value = text.partition("=")
    if not sign:
        raise click.UsageError(f"--option takes NAME=VALUE, not {text!r}.")
    return name, value or None


# ---------------------------------------------------------------- people and programs

user = AppGroup("user", help="People who sign in.")


@user.command("create")
@click.argument("email")
@click.option("--superadmin", is_flag=True, help="May see and do everything in every tenant.")
@click.option("--tenant", "slug", help="The tenant the user belongs to.")
@click.option("--role", type=ROLES, help="What the user may do there; viewer when left out.")
@answering
def user_create(email: str, superadmin: bool, slug: str | None, role: str | None) -> tuple[dict[str, Any], str]:
    """Create a user; the password comes from a prompt or from standard input."""
    if superadmin == bool(slug):
        raise click.UsageError("Say either --superadmin or --tenant SLUG.")
    if superadmin and role:
        raise click.UsageError("--role goes with --tenant; a superadmin may do everything.")
    known = people.user_exists(db.session(), email)
    name = people.create_user(db.session(), email, _password(), slug, Role(role) if role else None)
    if known:
        click.echo(f"Note: {email} existed already and keeps the password it has.", err=True)
    return {"email": email.strip().lower(), "role": name}, f"User {email} created as {name}."


@user.command("unlink")
@click.argument("email")
@answering
def user_unlink(email: str) -> tuple[dict[str, Any], str]:
    """Forget which account of the identity provider is a user's."""
    people.unlink(db.session(), email, COMMAND_LINE)
    return {"email": email.strip().lower()}, f"{email} is linked to no account of the identity provider."


@user.command("link")
@click.argument("email")
@answering
def user_link(email: str) -> tuple[dict[str, Any], str]:
    """Print a link with which a user chooses a new password, once."""
    found = people.find_user(db.session(), email)
    if found is None:
        raise NotFound(f"There is no user {email!r}; flask user list shows who there is.")
    token = people.reset_link(db.session(), found, COMMAND_LINE)
    url = people.link_url(services().settings.public_url, token)
    text = f"{found.email} chooses a new password here (works once, for {people.LINK_HOURS} hours):\n{url}"
    return {"email": found.email, "url": url}, text


@user.command("list")
@answering
def user_list() -> tuple[dict[str, Any], str]:
    """List who may sign in, and where as what."""
    found = people.users(db.session())
    belongs = people.memberships(db.session(), found)
    items = [_user_json(one, belongs.get(one.id, ())) for one in found]
    return {"items": items}, "\n".join(map(_user_line, items)) or "Nobody: flask user create EMAIL --superadmin"


def _user_json(one: User, belongs: Sequence[tuple[str, Role]]) -> dict[str, Any]:
    return {
        "email": one.email,
        "superadmin": one.superadmin,
        "disabled": one.disabled_at is not None,
        "last_signed_in": stamp(one.last_sign_in_at),
        "tenants": {slug: str(role) for slug, role in belongs},
    }


def _user_line(item: dict[str, Any]) -> str:
    parts = [item["email"], *(["superadmin"] if item["superadmin"] else [])]
    parts += [f"{role} of {slug}" for slug, role in item["tenants"].items()]
    parts += ["disabled"] if item["disabled"] else []
    return "; ".join([*parts, f"last signed in {item['last_signed_in'] or 'never'}"])


def _password() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    return str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))


token = AppGroup("token", help="API tokens of a tenant.")


@token.command("create")
@click.argument("tenant_slug", metavar="TENANT")
@click.option("--role", type=ROLES, default=str(Role.VIEWER), show_default=True)
@click.option("--name", default="", help="What the token is for.")
@answering
def token_create(tenant_slug: str, role: str, name: str) -> tuple[dict[str, Any], str]:
    """Create an API token and print it, once."""
    value = tenants.create_token(db.session(), tenant_slug, Role(role), name)
    return {"token": value}, f"API token of {tenant_slug}, role {role} (it is not shown again):\n{value}"


# ---------------------------------------------------------------- recipes

recipe = AppGroup("recipe", help="The recipes of a tenant.")


@recipe.command("import")
@click.argument("tenant_slug", metavar="TENANT")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@answering
def recipe_import(tenant_slug: str, file: str) -> tuple[dict[str, Any], str]:
    """Add or replace recipes from a YAML file (- reads standard input); all of it or nothing."""
    try:
        specs = parse(sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes())
    except RecipeFileError as error:
        raise click.ClickException("Nothing was imported.\n" + "\n".join(error.problems)) from error
    tenant = tenants.find_tenant(db.session(), tenant_slug)
    added, changed = cookbook.import_recipes(db.session(), tenant.id, specs)
    same = len(specs) - added - changed
    answer = {"added": added, "changed": changed, "unchanged": same}
    return answer, f"{added} recipes added, {changed} changed, {same} as they were."


@recipe.command("export")
@click.argument("tenant_slug", metavar="TENANT")
@answering
def recipe_export(tenant_slug: str) -> tuple[dict[str, Any], str]:
    """Print the recipes of a tenant as YAML that import takes."""
    specs = cookbook.export_recipes(db.session(), tenants.find_tenant(db.session(), tenant_slug).id)
    text = dump(specs)
    return {"count": len(specs), "yaml": text}, text.rstrip("\n")


# ---------------------------------------------------------------- classification and upkeep

classify = AppGroup("classify", help="The classifier.")


FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@classify.command("eval")
@click.argument("folder", type=FOLDER, required=False)
@click.option("--tenant", "slug", help="Instead of a folder: a tenant's incidents that people have answered.")
@click.option("--recipes", type=FILE, help="Recipes of a benchmark (.jsonl) or a catalogue (.yaml).")
@click.option("--variant", type=click.Choice(["named", "hidden", "blind"]), default="named", show_default=True)
@click.option("--tier", type=click.Choice(["lexical", "model"]), default="lexical", show_default=True)
@click.option("--threshold", type=click.FloatRange(0, 1), callback=real, help="Another answer threshold.")
@click.option("--predictions", type=click.Path(dir_okay=False, path_type=Path), help="Write them to this file.")
@click.option("--price-per-million", type=click.FloatRange(0), callback=real, help="Money for a million tokens.")
@answering
def classify_eval(folder: Path | None, slug: str | None, **wanted: Any) -> tuple[dict[str, Any], str]:
    """Measure a tier on a folder of alerts, without any running service, or on a tenant's answered incidents."""
    from openremedy import measuring  # the matcher is for workers and these commands; the web process imports cli too
    from openremedy.evaluation import report

    if (folder is None) == (slug is None):
        raise click.UsageError("Say either a FOLDER or --tenant SLUG.")
    if folder:
        figures = measuring.folder(services().settings, folder, **wanted)
    else:
        figures = measuring.tenant(services().settings, _tenant_id(slug), **wanted)
    return figures, report.figures(figures)


@classify.command("compare")
@click.argument("first", metavar="A", type=FILE)
@click.argument("second", metavar="B", type=FILE)
@click.option("--truth", type=FILE, help="alerts_truth.jsonl of the folder that both are of.")
@click.option("--tenant", "slug", help="Instead of a truth: the tenant whose incidents both are of.")
@answering
def classify_compare(first: Path, second: Path, truth: Path | None, slug: str | None) -> tuple[dict[str, Any], str]:
    """Compare two files of predictions on the same alerts; the difference is B - A."""
    from openremedy import measuring
    from openremedy.evaluation import report

    if (truth is None) == (slug is None):
        raise click.UsageError("Say either --truth FILE or --tenant SLUG.")
    found = measuring.compared(first, second, truth, None if truth else _tenant_id(slug))
    return found, report.comparison(found)


def _tenant_id(slug: str | None) -> int:
    return tenants.find_tenant(db.session(), slug or "").id


@click.command()
@click.option("--json", is_flag=True, expose_value=False, help="Changes nothing: it writes to standard error only.")
@click.option("--burst", is_flag=True, help="End when the queue is empty.")
@with_appcontext
def worker(burst: bool) -> None:
    """Classify incidents until stopped."""
    from openremedy import workers  # the model client takes a second to import; only a worker pays for it

    workers.run(services().settings, burst=burst)


@click.command()
@click.option("--json", is_flag=True, expose_value=False, help="Changes nothing: it writes to standard error only.")
@with_appcontext
def scheduler() -> None:
    """Sweep every 30 seconds, close what is stale, delete what is old, post outgoing messages; several may run."""
    # What it posts with takes a tenth of a second to import, and no web process needs it.
    from openremedy import dispatch
    from openremedy.outgoing_client import OutgoingClient

    stopped = threading.Event()
    asked_to_stop = []

    def stop(signal_number: int, _frame: FrameType | None) -> None:
        asked_to_stop.append(signal_number)
        stopped.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    own = services()
    client = OutgoingClient(allow_private=own.settings.outgoing_allow_private)
    dispatcher = dispatch.Dispatcher(db.engine, own.vault, own.settings.public_url, client)
    sending = dispatch.start(dispatcher, stopped)
    try:
        maintenance.run(own, db.engine, stopped, SWEEP_SECONDS)
    finally:  # one without the other is no scheduler
        stopped.set()
        sending.join()
    if not asked_to_stop:
        raise SystemExit(1)


@click.command()
@with_appcontext
@answering
def sweep() -> tuple[dict[str, Any], str]:
    """Find work that got lost, once; the scheduler does it every 30 seconds."""
    found = maintenance.sweep(services(), db.engine)
    return found, ", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in found.items())


@click.command()
@with_appcontext
@answering
def prune() -> tuple[dict[str, Any], str]:
    """Delete deliveries and closed incidents older than the retention time."""
    found = maintenance.prune(db.engine, services().settings.retention_days)
    return found, ", ".join(f"{name}: {count} deleted" for name, count in found.items())


@click.command()
@click.argument("delivery_id", metavar="DELIVERY_ID")
@click.option("--dry-run", is_flag=True, help="Only show what today's code makes of it; nothing is stored.")
@with_appcontext
@answering
def replay(delivery_id: str, dry_run: bool) -> tuple[dict[str, Any], str]:
    """Run a stored delivery again through today's code."""
    found = parse_id(delivery_id)
    if found is None:
        raise NotFound("There is no such delivery.")
    tenant_id = deliveries.tenant_of(db.session(), found)
    if dry_run:
        answer = replays.preview(db.session(), tenant_id, found)
        return answer, _previewed(answer)
    answer = replays.as_json(found, replays.replay(db.session(), tenant_id, found, audit.COMMAND_LINE))
    became = "\n".join(map(_became, answer["alerts"])) or "It holds no alert."
    return answer, f"Delivery {answer['delivery_id']} is the replay.\n{became}"


def _previewed(answer: dict[str, Any]) -> str:
    if error := answer["error"]:
        return f"It would be refused: {error['code']}. {Problem(error['message'], fields=error['fields']).sentence()}"
    notes = [answer["remark"], *answer["warnings"]]
    return "\n".join([*filter(None, notes), *map(_preview_line, answer["alerts"])]) or "It holds no alert."


def _preview_line(alert: dict[str, Any]) -> str:
    for word in ("ignored", "rejected"):
        if word in alert:
            return f"{word}: {shown(alert[word], 500)}"
    return f"{alert['status']}: {alert['incident_type']} ({alert['severity']}) on {shown(alert['hostname'])}"


def _became(alert: dict[str, Any]) -> str:
    return " ".join(filter(None, (alert["outcome"], alert["incident_id"], alert["reason"])))


@click.command()
@with_appcontext
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Check everything the service needs and say what to do; exit code 1 when something is broken."""
    checks = doctor_checks.examine(services(), db.engine)
    ok = all(check.status != "fail" for check in checks)
    if as_json:
        click.echo(json.dumps({"ok": ok, "checks": [check.as_json() for check in checks]}))
    else:
        click.echo("\n".join(check.line() for check in checks))
    context.exit(0 if ok else 1)


@click.command()
@click.option("--tenant", "slug", default="demo", show_default=True, help="The slug of the tenant that is made.")
@click.option("--seed", type=int, help="Another week; the same number gives the same one.")
@click.option("--yes", is_flag=True, help="Also where DATABASE_URL is set.")
@with_appcontext
@answering
def demo(slug: str, seed: int | None, yes: bool) -> tuple[dict[str, Any], str]:
    """Make a tenant and fill it with a week of believable alerts, to look around in."""
    from openremedy import demo as stage  # the matcher again: the web process imports cli too

    if services().settings.production and not yes:
        raise Invalid("DATABASE_URL is set: this is no place to play. With --yes it is done all the same.")
    filled = stage.fill(db.session(), db.engine, slug, stage.SEED if seed is None else seed)
    return filled.as_json(), stage.welcome(filled, services().settings.public_url)
