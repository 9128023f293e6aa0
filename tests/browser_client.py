"""A person with a browser, without the browser: keeps cookies, reads the token of the page and posts it back."""

import re
from typing import Any

from flask import Flask
from werkzeug.test import TestResponse

from openremedy import people
from openremedy.extensions import db
from openremedy.models import Role

PASSWORD = "a long and good password"
_TOKEN = re.compile(r'name="csrf_token" value="([^"]+)"')
_FORM_ID = re.compile(r'name="form_id" value="([^"]+)"')


class Person:
    """Somebody who signs in; `slug` None makes a superadmin."""

    def __init__(
        self, app: Flask, email: str, slug: str | None = None, role: Role = Role.ADMIN, *, signed_in: bool = True
    ) -> None:
        self.app = app
        self.email = email
        self.slug = slug
        self.client = app.test_client()
        with app.app_context():
            people.create_user(db.session(), email, PASSWORD, slug, role if slug else None)
        if signed_in:
            answer = self.sign_in()
            assert answer.status_code == 303, answer.text

    @classmethod
    def known(cls, app: Flask, email: str) -> "Person":
        """Somebody who has an account already; not signed in yet."""
        person = cls.__new__(cls)
        person.app, person.email, person.slug, person.client = app, email, None, app.test_client()
        return person

    def sign_in(self, password: str = PASSWORD, **fields: Any) -> TestResponse:
        """Fill in the form."""
        return self.post("/sign-in", page="/sign-in", email=self.email, password=password, **fields)

    def path(self, path: str) -> str:
        """A path of the tenant, but for those that begin with a slash."""
        return path if path.startswith("/") else f"/t/{self.slug}/{path}"

    def get(self, path: str = "", **query: Any) -> TestResponse:
        """Open a page."""
        return self.client.get(self.path(path), query_string=query or None, headers={"Accept": "text/html"})

    def token(self, page: str = "/account") -> str:
        """The token that the forms of a page carry."""
        found = _TOKEN.search(self.client.get(page).text)
        assert found, f"{page} has no form"
        return found[1]

    def post(self, path: str, page: str = "/account", **fields: Any) -> TestResponse:
        """Send a form. `page` is one with a form, to read the token from."""
        data = {"csrf_token": self.token(page)} | fields
        return self.client.post(self.path(path), data=data, headers={"Accept": "text/html"})

    def form_id(self, page: str) -> str:
        """The number of the form on a page that must not work twice."""
        found = _FORM_ID.search(self.get(page).text)
        assert found, f"{page} has no form with a number"
        return found[1]
