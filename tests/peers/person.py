"""A person with a browser: follows links, logs in, and presses the buttons of the real pages."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Self
from urllib.parse import urljoin, urlsplit

import httpx2

from processlab import PATIENCE

MAX_STEPS = 20


@dataclass
class Form:
    """A form as the page has it: where it goes, its hidden and filled fields, the names of all, and its buttons."""

    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)
    inputs: set[str] = field(default_factory=set)
    buttons: list[tuple[str, str]] = field(default_factory=list)


class Forms(HTMLParser):
    """The forms of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self._open: Form | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._open = Form(found.get("action", ""), found.get("method", "get"))
            self.forms.append(self._open)
        elif self._open is None or not found.get("name"):
            return
        elif tag == "button" or (tag == "input" and found.get("type") == "submit"):
            self._open.buttons.append((found["name"], found.get("value", "")))
        elif tag == "input":
            self._open.inputs.add(found["name"])
            if found.get("type") != "checkbox" or "checked" in found:
                self._open.fields[found["name"]] = found.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._open = None


class Person:
    """Somebody with a name and a password, at a browser of their own."""

    def __init__(self, url: str, name: str, password: str, transport: httpx2.BaseTransport) -> None:
        self._url = url
        self._name = name
        self._password = password
        self.http = httpx2.Client(base_url=url, transport=transport, trust_env=False, timeout=PATIENCE)
        self.seen: list[str] = []
        """The text of every page so far."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def open(self, url: str, choice: str = "allow") -> str:
        """Open a link, log in and decide where pages ask for it; where the server at last sends the browser to."""
        response = self.http.get(url)
        for _ in range(MAX_STEPS):
            if response.is_redirect:
                target = urljoin(str(response.request.url), response.headers["location"])
                if not target.startswith(f"{self._url}/"):
                    return target
                response = self.http.get(target)
                continue
            assert response.status_code == 200, response.text
            self.seen.append(response.text)
            moved_on = self._moved_on(response)
            if moved_on is not None:
                return moved_on
            response = self._act(response, choice)
        raise AssertionError(f"no end after {MAX_STEPS} steps")

    def let_in(self, verification_uri: str, user_code: str, choice: str = "allow") -> str:
        """Enter a device's code, log in, compare, decide; the last page."""
        page = self.http.get(verification_uri)
        (form,) = (form for form in Forms(page.text).forms if "user_code" in form.inputs)
        response = self._send(page, form, user_code=user_code)
        for _ in range(MAX_STEPS):
            if response.is_redirect:
                response = self.http.get(urljoin(str(response.request.url), response.headers["location"]))
                continue
            assert response.status_code == 200, response.text
            self.seen.append(response.text)
            if not Forms(response.text).forms:
                return response.text
            if urlsplit(str(response.request.url)).path == "/device":
                assert user_code in response.text
            response = self._act(response, choice)
        raise AssertionError(f"no end after {MAX_STEPS} steps")

    def _moved_on(self, page: httpx2.Response) -> str | None:
        """Where a page sends the browser by itself; None if it does not."""
        refresh = page.headers.get("refresh")
        return None if refresh is None else refresh.removeprefix("0; url=")

    def _act(self, page: httpx2.Response, choice: str) -> httpx2.Response:
        forms = Forms(page.text).forms
        for form in forms:
            if "password" in form.inputs:
                return self._send(page, form, name=self._name, password=self._password)
        for form in forms:
            for name, value in form.buttons:
                if value == choice:
                    return self._send(page, form, **{name: value})
        raise AssertionError(f"nothing to press on {page.request.url}: {page.text}")

    def _send(self, page: httpx2.Response, form: Form, **filled: str) -> httpx2.Response:
        assert form.method.lower() == "post"
        target = urljoin(str(page.request.url), form.action or str(page.request.url))
        headers = {"Origin": self._url, "Sec-Fetch-Site": "same-origin"}
        return self.http.post(target, data={**form.fields, **filled}, headers=headers)
