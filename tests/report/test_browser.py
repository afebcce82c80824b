"""The page of a run in a browser, where there is one: widths, dark mode, text that can be read."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from html import escape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedsim.report.page import write_report
from tests.report.conftest import round_row, write_predictions
from tests.report.test_page import change_run

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
TOP = 900  # pixels of the page that a screenshot shows


@pytest.fixture(scope="module")
def browser() -> str:
    """The path of a browser."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser to look at pages with: none of {', '.join(BROWSERS)}")
    return found


@pytest.fixture
def page(make_run: Callable[..., Path]) -> Path:
    """A page with all that may be too wide: many classes, long names, figures, bars."""
    folder = make_run([round_row(n, epsilon=1.0 * n) for n in (1, 2, 3)], command=["x" * 300])
    names = [f"a_long_name_of_a_class_{k}" for k in range(6)]
    counts = {"north": [5] * 6, "south": [9] * 6}
    change_run(folder, classes=names, classes_by_client=counts, fingerprint="ab" * 32)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(6), (1, 60)).astype(np.float32)
    write_predictions(folder, np.arange(60) % 6, probabilities)
    return write_report(folder)


def call(browser: str, profile: Path, *words: str) -> str:
    """Run the browser without a window, and return what it prints."""
    done = subprocess.run(
        [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         f"--user-data-dir={profile}", "--no-first-run", "--disable-extensions", *words],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout


def shot(browser: str, folder: Path, page: Path, width: int, *, dark: bool) -> np.ndarray:
    """What the first `TOP` pixels of a page look like: uint8 [TOP, width, 3]."""
    picture = folder / f"{width}{dark}.png"
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    words = (scheme, f"--screenshot={picture}", f"--window-size={width},{TOP}", page.as_uri())
    call(browser, folder / "profile", *words)
    return np.asarray(Image.open(picture).convert("RGB"))


def test_no_width_from_360_to_1600_scrolls_sideways(
    browser: str, page: Path, tmp_path: Path
) -> None:
    """Frames of several widths hold the page, and say how wide their content is."""
    widths = (360, 390, 820, 1400, 1600)
    # Only in this test may the page run a script: that which measures it.
    text = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text())
    frames = "".join(
        f'<iframe style="width:{width}px;height:600px;border:0" srcdoc="{escape(text)}"></iframe>'
        for width in widths
    )
    script = (
        "onload = () => { document.title = [...document.querySelectorAll('iframe')].map(one => {"
        "const page = one.contentDocument, body = page.documentElement;"
        "const small = [...page.querySelectorAll('td, th, p, li, span')].filter(e =>"
        " e.textContent.trim() && parseFloat(page.defaultView.getComputedStyle(e).fontSize) < 12);"
        "return body.scrollWidth + ' ' + body.clientWidth + ' ' + small.length}).join(';') }"
    )
    holder = tmp_path / "holder.html"
    holder.write_text(f"<!DOCTYPE html><body>{frames}<script>{script}</script></body>")
    title = call(browser, tmp_path / "profile", "--dump-dom", holder.as_uri())
    found = re.search(r"<title>([\d ;]+)</title>", title)
    assert found is not None
    measured = [tuple(map(int, one.split())) for one in found[1].split(";")]
    assert measured == [(width, width, 0) for width in widths]


def test_dark_and_light_follow_the_reader(browser: str, page: Path, tmp_path: Path) -> None:
    for dark in (False, True):
        seen = shot(browser, tmp_path, page, 1000, dark=dark).mean(axis=2)
        # Most is background; what is not is text, which must stand out against it.
        background = np.bincount(seen.astype(int).ravel()).argmax()
        assert background < 40 if dark else background > 240
        far = np.abs(seen - background) > 150
        assert 0.005 < far.mean() < 0.4
        corners = seen[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert np.allclose(corners, background, atol=1)
