"""The page of eval/play.py in a browser."""

import re
import shutil

import numpy as np
import pytest

pytest.importorskip("playwright", reason="playwright is not installed")

from playwright import sync_api

from selfflow_robotics.data.rlds.index import RldsIndex
from tests.playing import game, recording_in

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
WAIT_MS = 60_000


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox"],  # it refuses root without it
        )
        yield browser
        browser.close()


def opened(browser, port, **options):
    page = browser.new_page(**options)
    page.complaints = []
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("console", lambda said: said.type == "error" and page.complaints.append(said.text))
    page.goto(f"http://127.0.0.1:{port}")
    shows(page, "step", "0")
    return page


def shows(page, name, text):
    sync_api.expect(page.locator(f"#{name}")).to_have_text(text, timeout=WAIT_MS)


def pixels(page, name):
    """The canvas's bytes."""
    get = "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    return np.array(page.locator(f"#{name}").evaluate(get))


def test_keys_act_frames_change_and_the_session_is_recorded(browser, tmp_path):
    with recording_in(tmp_path) as recording, game(recording) as port:
        page = opened(browser, port)
        first = pixels(page, "truth")
        assert (pixels(page, "imagined") == first).all()
        page.keyboard.down("ArrowUp")
        shows(page, "since", re.compile("^[3-9] steps since"))  # goes on while held
        page.keyboard.up("ArrowUp")
        page.keyboard.press("Space")
        shows(page, "gripper", "closed")
        assert (pixels(page, "truth") != first).any()
        assert (pixels(page, "imagined") != pixels(page, "truth")).any()
        shows(page, "ahead", re.compile("of 3 frames ahead, from step"))
        page.keyboard.press("r")
        shows(page, "since", "this is the real frame")
        assert (pixels(page, "imagined") == pixels(page, "truth")).all()
        steps = int(page.inner_text("#step"))
        page.keyboard.press("n")
        shows(page, "step", "0")
        shows(page, "recording", re.compile("; 1 episode recorded"))
        assert page.input_value("#seed") == "1000001"
        page.select_option("#task", "pick_standing_coke_can")
        shows(page, "step", "0")
        other = opened(browser, port)  # a second tab at once
        other.locator("[data-key=w]").click()  # the button of a key
        shows(other, "step", "1")
        shows(page, "step", "0")
        assert page.complaints == other.complaints == []
        page.close()
        other.close()
    index = RldsIndex.open(recording.path)
    assert (index.num_episodes, index.num_frames) == (1, steps)


def test_a_lost_connection_is_said_and_mended(browser, tmp_path):
    with game() as port:
        page = opened(browser, port)
        page.keyboard.press("w")
        shows(page, "step", "1")
    shows(page, "status", re.compile("trying again"))
    with game(port=port):
        shows(page, "step", "0")  # the same episode, from its start
        page.keyboard.press("w")
        shows(page, "step", "1")
    page.close()


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_window(browser, width):
    with game() as port:
        page = opened(browser, port, viewport={"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.close()


def test_a_browser_sends_the_password_for_the_websocket_too(browser):
    token = "a-secret-of-some-length"
    with game(token=token) as port:
        context = browser.new_context(http_credentials={"username": "me", "password": token})
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{port}")
        shows(page, "step", "0")
        context.close()
