"""A browser for tests of pages: it is found, and it tells what a page says and loads."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """Return the path of a browser; None where there is none."""
    return next(filter(None, map(shutil.which, CHROMIUM)), None)


@contextmanager
def chromium() -> Iterator[Any]:
    """Start Chromium, or skip the test where there is none."""
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium is here to show the report in")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # As root, in a container, there is no sandbox to be had.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, path: Path, **settings: Any) -> Iterator[Any]:
    """Show a page; fail on any message, error, dialog or request but for the file itself."""
    page = browser.new_page(**settings)
    said: list[str] = []

    def answer(dialog: Any) -> None:
        said.append(dialog.message)
        dialog.dismiss()

    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", answer)
    # Playwright calls functions of Python only.
    page.expose_function("policyBroken", lambda directive: said.append(str(directive)))
    page.add_init_script(
        "document.addEventListener('securitypolicyviolation', event =>"
        " policyBroken(`${event.violatedDirective}: ${event.sample}`));"
    )
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    yield page
    page.close()
    assert not said, said
    assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
