"""Members, invitations, API tokens and the audit log of a tenant, as its admins meet them."""

import csv
import io
import re
from typing import Any

import pytest
from flask import Flask

from browser_client import PASSWORD, Person
from cast import Tenant
from openremedy import audit, people, tenants
from openremedy.audit import Actor, Filters
from openremedy.extensions import db
from openremedy.models import Role

ON_ONE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{7*191919}}",
    "</textarea><svg onload=alert(1)>",
]


@pytest.fixture
def ann(app: Flask, alice: Tenant) -> Person:
    """An admin of Alice's tenant."""
    return Person(app, "ann@example.com", "alice")


def lines(app: Flask, action: str) -> list[Any]:
    with app.app_context():
        return [dict(one) for one in audit.every(db.engine, None, Filters(action=action))]


def user_id(app: Flask, email: str) -> int:
    with app.app_context():
        user = people.find_user(db.session(), email)
        assert user
        return user.id


def roles(app: Flask, slug: str = "alice") -> dict[str, str]:
    with app.app_context():
        found = people.members(db.session(), tenants.find_tenant(db.session(), slug).id)
        return {user.email: str(role) for user, role in found}


def invite(ann: Person, **fields: Any) -> str:
    """The path of the link that the page shows once."""
    answer = ann.post("members/invite", form_id=ann.form_id("members"), **fields)
    assert answer.status_code == 200, answer.text
    found = re.search(r"http://127\.0\.0\.1:8000(/link/[\w-]+)", answer.text)
    assert found
    return found[1]


# ---------------------------------------------------------------- invitations


def test_an_invitation_leads_somebody_in(app: Flask, ann: Person) -> None:
    path = invite(ann, email="Carol@example.com", role="responder")
    assert path not in ann.get("members").text
    assert "carol@example.com" in ann.get("members").text
    carol = app.test_client()
    token = carol.get(path).text.split('name="csrf_token" value="')[1].split('"')[0]
    done = carol.post(path, data={"csrf_token": token, "email": "x@example.com", "password": PASSWORD})
    assert done.status_code == 303
    assert carol.get("/t/alice/").status_code == 200
    assert roles(app)["carol@example.com"] == "responder"
    assert carol.get(path).status_code == 404
    assert path.rpartition("/")[2] not in repr(lines(app, "link."))


def test_an_invitation_that_is_sent_twice_makes_one_link(app: Flask, ann: Person) -> None:
    fields = {"form_id": ann.form_id("members"), "email": "carol@example.com", "role": "viewer"}
    assert [ann.post("members/invite", **fields).status_code for _ in range(2)] == [200, 409]
    assert len(lines(app, "link.invite")) == 1


@ON_ONE
def test_an_invitation_is_taken_back(app: Flask, ann: Person, charlie: Tenant) -> None:
    path = invite(ann, email="carol@example.com", role="viewer")
    with app.app_context():
        (link,) = people.open_invitations(db.session(), tenants.find_tenant(db.session(), "alice").id)
        link_id = link.id
    mallory = Person(app, "mallory@example.com", "charlie")
    assert mallory.post(f"members/invitations/{link_id}/revoke").status_code == 404
    assert mallory.post(f"/t/alice/members/invitations/{link_id}/revoke").status_code == 404
    assert app.test_client().get(path).status_code == 200
    assert ann.post(f"members/invitations/{link_id}/revoke").status_code == 303
    assert app.test_client().get(path).status_code == 404


@ON_ONE
@pytest.mark.parametrize(("field", "value"), [("email", "nobody"), ("email", "a@b\0"), ("role", "owner"), ("role", "")])
def test_an_invitation_that_makes_no_sense_is_said_at_its_field(ann: Person, field: str, value: str) -> None:
    fields = {"email": "carol@example.com", "role": "viewer"} | {field: value}
    answer = ann.post("members/invite", form_id=ann.form_id("members"), **fields)
    assert answer.status_code == 422
    assert f'id="e-{field}"' in answer.text
    assert "/link/" not in answer.text


# ---------------------------------------------------------------- members


def test_a_role_is_changed_and_counts_with_the_next_request(app: Flask, ann: Person) -> None:
    bob = Person(app, "bob@example.com", "alice", Role.VIEWER)
    assert bob.get("members").status_code == 403
    assert ann.post(f"members/{user_id(app, bob.email)}/role", role="admin").status_code == 303
    assert bob.get("members").status_code == 200
    (line,) = lines(app, "member.role")
    assert line["detail"] == {"before": "viewer", "after": "admin"}


def test_a_member_is_removed_and_out_with_the_next_request(app: Flask, ann: Person) -> None:
    bob = Person(app, "bob@example.com", "alice", Role.RESPONDER)
    assert ann.post(f"members/{user_id(app, bob.email)}/remove").status_code == 303
    assert bob.get().status_code == 401
    assert bob.client.post("/t/alice/members/invite").status_code in (400, 401)
    assert roles(app) == {"ann@example.com": "admin"}


@ON_ONE
def test_an_older_invitation_does_not_bring_a_removed_member_back(app: Flask, ann: Person) -> None:
    path = invite(ann, email="bob@example.com", role="admin")
    bob = Person(app, "bob@example.com", "alice", Role.VIEWER)  # came in by another way meanwhile
    assert ann.post(f"members/{user_id(app, bob.email)}/remove").status_code == 303
    assert bob.client.get(path).status_code == 404


def test_the_last_admin_is_told_so(app: Flask, ann: Person) -> None:
    mine = user_id(app, ann.email)
    for answer in (ann.post(f"members/{mine}/role", role="viewer"), ann.post(f"members/{mine}/remove")):
        assert answer.status_code == 409
        assert "is the last admin" in answer.text
    assert roles(app) == {"ann@example.com": "admin"}


@ON_ONE
def test_members_of_another_tenant_are_not_there(app: Flask, ann: Person, charlie: Tenant) -> None:
    his = user_id(app, Person(app, "his@example.com", "charlie", Role.VIEWER).email)
    for path in (f"members/{his}/role", f"members/{his}/remove", f"/t/charlie/members/{his}/remove"):
        assert ann.post(path, role="admin").status_code == 404
    for nonsense in ("0", "x", "9" * 30, "-1", "%00"):
        assert ann.post(f"members/{nonsense}/remove").status_code == 404
    assert roles(app, "charlie") == {"his@example.com": "viewer"}
    assert "his@example.com" not in ann.get("members").text


@ON_ONE
@pytest.mark.parametrize("role", [Role.VIEWER, Role.RESPONDER])
def test_who_is_no_admin_changes_no_member_and_no_token(app: Flask, alice: Tenant, role: Role) -> None:
    bob = Person(app, "bob@example.com", "alice", role)
    mine = user_id(app, bob.email)
    for page in ("members", "tokens", "audit", "audit.csv"):
        assert bob.get(page).status_code == 403
    for path in ("members/invite", f"members/{mine}/role", f"members/{mine}/remove", "tokens", "tokens/1/revoke"):
        assert bob.post(path, role="admin", email="x@example.com", name="x").status_code == 403
    assert roles(app) == {"bob@example.com": str(role)}


@ON_ONE
def test_the_page_says_what_each_role_may_do(ann: Person) -> None:
    page = ann.get("members").text
    for role in Role:
        assert f"<dt>{role}</dt><dd>" in page


# ---------------------------------------------------------------- tokens


def create(ann: Person, **fields: Any) -> str:
    """The token that the page shows once."""
    answer = ann.post("tokens", form_id=ann.form_id("tokens"), **fields)
    assert answer.status_code == 200, answer.text
    (token,) = re.findall(r"ort_[\w-]{40,}", answer.text)
    return str(token)


def may(app: Flask, token: str) -> int:
    return app.test_client().get("/api/v1/incidents", headers={"Authorization": f"Bearer {token}"}).status_code


def test_a_token_is_shown_once_works_and_is_revoked(app: Flask, ann: Person) -> None:
    token = create(ann, name="deploy script", role="viewer")
    assert may(app, token) == 200
    page = ann.get("tokens").text
    assert token not in page
    assert "deploy script" in page
    found = re.search(r"tokens/(\d+)/revoke", page)  # the newest comes first
    assert found
    assert ann.post(f"tokens/{found[1]}/revoke").status_code == 303
    assert may(app, token) == 401
    assert ann.post(f"tokens/{found[1]}/revoke").status_code == 404
    assert "deploy script" not in ann.get("tokens").text
    assert [line["target"] for line in lines(app, "token.revoked")] == ["deploy script"]


def test_a_token_that_is_asked_for_twice_is_made_once(app: Flask, ann: Person) -> None:
    fields = {"form_id": ann.form_id("tokens"), "name": "twice", "role": "viewer"}
    first, again = (ann.post("tokens", **fields) for _ in range(2))
    assert (first.status_code, again.status_code) == (200, 409)
    assert "ort_" not in again.text
    assert ann.get("tokens").text.count("twice") == 1


@ON_ONE
def test_a_token_needs_a_name_and_a_role(ann: Person) -> None:
    answer = ann.post("tokens", form_id=ann.form_id("tokens"), name=" ", role="root")
    assert answer.status_code == 422
    assert 'id="e-name"' in answer.text
    assert 'id="e-role"' in answer.text
    assert "ort_" not in answer.text


@ON_ONE
def test_another_tenants_token_is_not_there(app: Flask, ann: Person, charlie: Tenant) -> None:
    with app.app_context():
        (his,) = tenants.list_tokens(db.session(), tenants.find_tenant(db.session(), "charlie").id)
        his_id = his.id
    assert ann.post(f"tokens/{his_id}/revoke").status_code == 404
    assert may(app, charlie.token) == 200


@ON_ONE
@pytest.mark.parametrize("text", HOSTILE)
def test_names_are_only_text(app: Flask, ann: Person, text: str) -> None:
    create(ann, name=text, role="viewer")
    ann.post("settings", name=text)
    for page in ("tokens", "members", "settings", "audit"):
        found = ann.get(page).text
        assert text not in found or text == "{{7*191919}}"
        assert "1343433" not in found


# ---------------------------------------------------------------- the audit log


def test_the_log_shows_who_did_what_newest_first(app: Flask, ann: Person, charlie: Tenant) -> None:
    create(ann, name="first one", role="viewer")
    create(ann, name="second one", role="admin")
    page = ann.get("audit").text
    assert page.index("second one") < page.index("first one")
    assert "ann@example.com" in page
    assert "127.0.0.1" in page
    assert "charlie" not in page


def test_the_log_is_narrowed_by_its_address(ann: Person, app: Flask) -> None:
    create(ann, name="deploy script", role="viewer")
    ann.post("settings", name="Renamed")
    page = ann.get("audit", action="token.", who="ann@").text
    assert "deploy script" in page
    assert 'class="mono">tenant.changed<' not in page
    assert 'value="token."' in page
    assert "Nothing fits" in ann.get("audit", to="2001-01-01").text
    assert "deploy script" in ann.get("audit", **{"from": "2001-01-01", "to": "9999-12-31"}).text


@ON_ONE
def test_a_long_log_has_pages(app: Flask, ann: Person) -> None:
    with app.app_context():
        tenant = tenants.find_tenant(db.session(), "alice")
        for number in range(120):
            db.session.add(audit.line(Actor("robot"), tenant.id, "thing.done", f"thing-{number:03}"))
        db.session.commit()
    seen: list[str] = []
    path = "audit?who=robot"
    while True:
        page = ann.client.get(ann.path(path)).text
        seen += re.findall(r">(thing-\d+)<", page)
        older = re.search(r'href="([^"]+)" rel="next"', page)
        if not older:
            break
        path = older[1].replace("&amp;", "&")
    assert seen == [f"thing-{number:03}" for number in range(119, -1, -1)]
    assert "Newest" in page


@ON_ONE
@pytest.mark.parametrize(
    "query",
    [
        "before=x", "before=-1", "before=" + "9" * 30, "before=%00", "before=1&before=2", "before=%D9%A1",
        "from=yesterday", "from=0001-01-01", "to=9999-12-31", "from=%00", "from=2026-02-30", "to=" + "9" * 500,
        "who=%00", "who=%ED%A0%80", "who=" + "x" * 5000, "action=%25", "action[]=a", "tenant=charlie",
        "who=%27%22%3Cb%3E",
    ],
)  # fmt: skip
def test_nonsense_in_the_address_is_ignored(ann: Person, charlie: Tenant, query: str) -> None:
    for page in ("audit", "audit.csv"):
        answer = ann.client.get(ann.path(f"{page}?{query}"))
        assert answer.status_code == 200
        assert "<b>" not in answer.text.replace("'", "") or page == "audit.csv"
        assert "charlie" not in answer.text.replace('value="charlie"', "").replace("tenant=charlie", "")


def test_the_export_holds_the_same_lines_and_no_formula(app: Flask, ann: Person, charlie: Tenant) -> None:
    create(ann, name='=HYPERLINK("http://evil.example")', role="viewer")
    ann.post("settings", name="Not a token")
    answer = ann.get("audit.csv", action="token.created", who="ann@")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert re.fullmatch(r'attachment; filename="audit-alice-[\d-]+\.csv"', answer.headers["Content-Disposition"])
    head, row = csv.reader(io.StringIO(answer.text, newline=""))
    assert head == ["time", "tenant", "who", "action", "target", "detail", "address", "request_id"]
    assert row[1:5] == ["alice", "ann@example.com", "token.created", '\'=HYPERLINK("http://evil.example")']
    assert row[5] == '{"role": "viewer"}'


def test_the_export_is_sent_as_it_is_read(app: Flask, ann: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "BATCH", 1)
    answer = ann.client.get(ann.path("audit.csv"), buffered=False)
    assert answer.is_streamed
    assert len(list(answer.iter_encoded())) > 2
