"""The report's page in a real browser: Debian's Chromium, from disk, without a network."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from fim_eval.postprocess import POLICIES
from fim_eval.report import join_browsed, read_scored
from fim_eval.report.browser import Answer, Answerer, Browsed, BrowsedTask, Filling
from fim_eval.report.page import write_page, write_report_page
from tests.browser import AXE, CHROMIUM, NO_AXE, NO_CHROMIUM
from tests.integration.test_report import make_run
from tests.made_report import CODE_LLAMA, answered, made_browsed, made_findings

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)


def read_browsed(paths: Sequence[Path], *, workers: int = 1) -> Browsed:
    runs = read_scored(paths, workers=workers, browse=True)
    return join_browsed([run.browsed for run in runs if run.browsed is not None])


HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    "\x1b[2J\x1b]0;title\x07 \u202egnp.exe\u2066 \u200b\x00 &lt;b&gt; ${alert(3)} $made\n"
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Its own sandbox needs rights that a container seldom gives; the pages are ours.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """A page from disk, and everything that went wrong in it."""

    def __init__(
        self,
        browser: Browser,
        path: Path,
        *,
        width: int = 1280,
        scheme: Literal["light", "dark"] = "light",
    ) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
        )
        self.page: Page = self.context.new_page()
        self.wrong: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.wrong.append(message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", self._dialog)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        if self.page.locator("#browser:not([hidden])").count():
            self.page.wait_for_selector(".task h3", timeout=60_000)

    def _dialog(self, dialog: Any) -> None:
        self.wrong.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def count(self) -> str:
        return self.page.locator(".count").inner_text()

    def choose(self, **choices: str) -> None:
        for name, words in choices.items():
            self.page.locator(f".filters [name={name}]").select_option(label=words)

    def wait_until_shown(self, task_id: str) -> None:
        # Not wait_for_function: the page's own policy forbids what that does.
        self.page.locator(".task h3").get_by_text(task_id, exact=True).wait_for()

    def shown(self) -> str:
        """The id of the task that is shown."""
        return self.page.locator(".task h3").inner_text()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four models, four kinds, three strategies, 400 tasks."""
    return write_page(made_findings(), made_browsed(400), tmp_path_factory.mktemp("small"))


def only(*answers: Answer, reference: str = "    return a\n", count: int = 1) -> Browsed:
    """Tasks with the same answers."""
    task = BrowsedTask(
        task_id="Made/0/single-line/L1",
        kind="single-line",
        context=None,
        prefix="def f(a):\n",
        middle=reference,
        suffix="",
        sensitive=True,
        answers=answers,
    )
    tasks = tuple(replace(task, task_id=f"Made/{number}/single-line/L1") for number in range(count))
    return Browsed(tuple(Answerer(f"model-{n}", "lr") for n, _ in enumerate(answers)), tasks)


def test_it_opens_from_disk_without_a_network_and_asks_for_nothing(
    chromium: Browser, small: Path
) -> None:
    with Opened(chromium, small) as opened:
        assert opened.count() == "400 tasks"
        assert opened.wrong == []
        assert opened.requests == [small.as_uri()]
        assert opened.page.locator("section h2").count() > 10
        # Policies in the page itself: even a script that got in could not run or speak.
        opened.page.evaluate(
            "() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
            " document.body.append(s); const i = new Image(); i.src = 'https://example.org/x'; }"
        )
        assert opened.page.evaluate("window.ran") is None
        assert any("Content Security Policy" in line for line in opened.wrong)


def test_everything_but_the_browser_of_tasks_is_read_without_a_script(
    chromium: Browser, small: Path
) -> None:
    context = chromium.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(small.as_uri())
    assert "Each doubling of parameters adds 4.5" in page.locator(".answer").inner_text()
    assert page.locator("#table tbody tr").count() > 40
    assert page.locator("figure .wide svg").first.is_visible()
    assert page.locator("form.filters").is_hidden()
    context.close()


@pytest.mark.parametrize("width", [375, 1280])
def test_it_is_never_wider_than_the_screen(chromium: Browser, small: Path, width: int) -> None:
    with Opened(chromium, small, width=width) as opened:
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        narrow, wide = ("figure .narrow", "figure .wide")
        visible = opened.page.locator(narrow if width < 500 else wide).first
        assert visible.is_visible()
        assert opened.page.locator(wide if width < 500 else narrow).first.is_hidden()


def test_filters_find_what_they_say(chromium: Browser, small: Path) -> None:
    browsed = made_browsed(400)
    told_under = made_findings().headline_policy

    def outcome(task: BrowsedTask, who: int) -> str:
        answer = task.answers[who]
        assert answer is not None
        for filling in answer.fillings:
            if told_under[task.kind] in filling.policies:
                return filling.verdict or "not judged"
        return "no answer"

    def number(found: Sequence[BrowsedTask]) -> str:
        return f"{len(found)} of 400 tasks"

    small_model, large_model = (
        f"{list(CODE_LLAMA)[place].rpartition('/')[2]}, lr" for place in (0, 3)
    )
    with Opened(chromium, small) as opened:
        opened.choose(right=small_model, wrong=large_model)
        split = [
            task
            for task in browsed.tasks
            if outcome(task, 0) == "passed" and outcome(task, 3) not in {"passed", "no answer"}
        ]
        assert opened.count() == number(split)
        assert opened.shown() == split[0].task_id or opened.page.locator(".row").count() > 0

        opened.choose(kind="block")
        assert opened.count() == number([task for task in split if task.kind == "block"])

        opened.page.get_by_role("button", name="Clear filters").click()
        opened.page.get_by_text("400 tasks", exact=True).wait_for()
        opened.choose(who=large_model, outcome="timeout")
        late = [task for task in browsed.tasks if outcome(task, 3) == "timeout"]
        assert opened.count() == number(late)

        opened.choose(who="any", outcome="no answer")
        lost = [
            task for task in browsed.tasks if any(outcome(task, n) == "no answer" for n in range(4))
        ]
        assert lost
        assert opened.count() == number(lost)

        opened.choose(outcome="any")
        opened.page.locator("[name=id]").fill("made/17/")
        assert opened.count() == "8 of 400 tasks"
        opened.page.locator("[name=id]").fill("nowhere")
        assert opened.count() == "0 of 400 tasks"
        assert opened.page.locator(".row").count() == 0
        assert opened.wrong == []


def test_right_may_mean_exact_match_under_another_policy(chromium: Browser, tmp_path: Path) -> None:
    whole = Filling(("raw",), "    return a\n    x\n", False, 6, "error", "NameError: x")
    cut = Filling(POLICIES[1:], "    return a\n", True, 0, "passed", "")
    browsed = only(Answer((whole, cut), None, met_limit=True))
    findings = made_findings({"one": (None, "unknown")}, kinds=("single-line",))
    with Opened(chromium, write_page(findings, browsed, tmp_path, drawn=())) as opened:
        opened.choose(outcome="right")
        assert opened.count() == "1 task"
        opened.choose(policy="raw")
        assert opened.count() == "0 of 1 task"
        opened.choose(outcome="error")
        assert opened.count() == "1 task"
        opened.choose(measure="exact match", outcome="right", policy="syntax")
        assert opened.count() == "1 task"
        opened.page.locator(".row").click()
        said = opened.page.locator(".said").all_inner_texts()
        assert len(said) == 2
        assert "exact match" in said[0]
        assert "suffix-overlap" in said[0]
        assert "NameError: x" in said[1]
        assert "met the token limit" in said[1]


def test_what_is_unresolved_is_neither_right_nor_wrong(chromium: Browser, tmp_path: Path) -> None:
    browsed = only(
        answered("    return b\n", "    return a\n", "sandbox-error", "no memory"),
        answered("    return c\n", "    return a\n", None),
        Answer((), "not asked", met_limit=False),
    )
    with Opened(chromium, write_page(made_findings(), browsed, tmp_path, drawn=())) as opened:
        assert opened.page.locator(".signs").inner_text().split() == ["?", "?", "?"]
        for word in ("right", "wrong"):
            opened.choose(outcome=word)
            assert opened.count() == "0 of 1 task"
        opened.choose(outcome="sandbox-error")
        assert opened.count() == "1 task"
        # Exact match needs no verdict.
        opened.choose(measure="exact match", outcome="wrong", who="model-1, lr")
        assert opened.count() == "1 task"
        opened.choose(who="model-2, lr")
        assert opened.count() == "0 of 1 task"


def test_an_answer_is_shown_as_what_differs_from_the_reference(
    chromium: Browser, tmp_path: Path
) -> None:
    browsed = only(
        answered("    return b\n", "    return a\n", "wrong-answer", "test 1: 2, not 1"),
        Answer((), "timeout: <b>600 s</b>", met_limit=False),
    )
    with Opened(chromium, write_page(made_findings(), browsed, tmp_path, drawn=())) as opened:
        filling = opened.page.locator(".filling")
        assert filling.count() == 1
        assert filling.locator("del").all_inner_texts() == ["a"]
        assert filling.locator("ins").all_inner_texts() == ["b"]
        assert "test 1: 2, not 1" in filling.inner_text()
        assert "wrong-answer" in filling.inner_text()
        assert "no answer: timeout: <b>600 s</b>" in opened.page.locator(".task").inner_text()
        assert opened.page.locator("mark").inner_text() == "    return a\n"


def test_the_list_is_used_by_keys(chromium: Browser, small: Path) -> None:
    with Opened(chromium, small) as opened:
        page = opened.page
        page.locator("[role=listbox]").focus()
        for _ in range(3):
            page.keyboard.press("ArrowDown")
        opened.wait_until_shown("Made/0/single-line/L4")
        page.keyboard.press("End")
        opened.wait_until_shown("Made/49/multi-line/L8")
        active = page.locator("[role=listbox]").get_attribute("aria-activedescendant")
        assert active == "row-399"
        assert page.locator(f"#{active}").get_attribute("aria-selected") == "true"
        assert "right" in (page.locator(f"#{active}").get_attribute("aria-label") or "")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.className") == "task"
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")  # Previous
        opened.wait_until_shown("Made/49/multi-line/L7")
        # Only what comes into view is in the document.
        assert page.locator(".row").count() < 60


def test_colours_follow_the_system_and_a_switch(chromium: Browser, small: Path) -> None:
    def paper(page: Page) -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    with Opened(chromium, small, scheme="dark") as opened:
        page = opened.page
        assert paper(page) == "rgb(21, 23, 26)"
        line = "getComputedStyle(document.querySelector('figure .wide path[stroke]')).stroke"
        dark = page.evaluate(line)
        page.get_by_role("button", name="Light").click()
        assert paper(page) == "rgb(255, 255, 255)"
        assert page.evaluate(line) != dark
        page.reload()
        page.wait_for_selector(".task h3")
        assert paper(page) == "rgb(255, 255, 255)"
        page.get_by_role("button", name="Auto").click()
        assert paper(page) == "rgb(21, 23, 26)"


def test_hostile_text_is_text(chromium: Browser, tmp_path: Path) -> None:
    browsed = only(
        answered(HOSTILE, "    return a\n", "error", HOSTILE),
        Answer((), HOSTILE, met_limit=False),
    )
    browsed = Browsed(
        (Answerer("m" + HOSTILE, "lr"), Answerer("other", "lr", HOSTILE)),
        tuple(
            replace(task, task_id="T" + HOSTILE, context=HOSTILE, prefix=HOSTILE, suffix=HOSTILE)
            for task in browsed.tasks
        ),
    )
    path = write_page(made_findings(said=HOSTILE), browsed, tmp_path)
    with Opened(chromium, path) as opened:
        assert opened.wrong == []
        page = opened.page
        assert page.locator("img, iframe, object").count() == 0
        scripts = page.locator("script:not([type='text/plain'])")
        assert scripts.count() == 1
        answer = page.locator(".filling .code").inner_text()
        for shown in ("alert(1)", "\\x1b", "\\x07", "\\u202e", "\\u2066", "\\u200b", "\\x00"):
            assert shown in answer
        for place in (".answer", ".task h3", "#runs summary", "#table tbody th[scope=row]"):
            assert page.locator(place).first.inner_text() != ""
        everything = page.locator("body").inner_text()
        assert not re.search("[\x00\x07\x1b\u202a-\u202e\u2066-\u2069]", everything)
        page.locator(".filters [name=right]").select_option(index=1)
        page.locator(".filters [name=right]").select_option(index=0)
        assert opened.wrong == []


@pytest.mark.parametrize("character", ["x", "\x1b", "\u05d0", "\n", "\U0001f642", "a "], ids=ascii)
def test_ten_megabytes_of_answer_are_cut_and_shown_when_asked(
    chromium: Browser, tmp_path: Path, character: str
) -> None:
    text = character * (10_000_000 // len(character))
    browsed = only(answered(text, "    return a\n", "error", "NameError: " + text))
    path = write_page(made_findings(), browsed, tmp_path, drawn=())
    begun = time.monotonic()
    with Opened(chromium, path) as opened:
        page = opened.page
        button = page.get_by_role("button", name="Show all")
        # JavaScript counts in UTF-16, and says so of characters beyond it twice.
        units = len(text.encode("utf-16-le")) // 2
        assert button.inner_text() == f"Show all {units:,} characters"
        assert f"of {units:,} characters" in page.locator(".more").inner_text()
        assert len(page.locator(".task").inner_text()) < 40_000
        opened_s = time.monotonic() - begun
        begun = time.monotonic()
        button.click()
        page.wait_for_selector(".block", state="attached")
        page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
        shown_s = time.monotonic() - begun
        assert "not compared" in page.locator(".more").inner_text()
        assert opened.wrong == []
        assert opened_s < 20
        assert shown_s < 20


@pytest.mark.skipif(AXE is None, reason=NO_AXE)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_axe_finds_no_fault(
    chromium: Browser, small: Path, scheme: Literal["light", "dark"], width: int
) -> None:
    assert AXE is not None
    with Opened(chromium, small, scheme=scheme, width=width) as opened:
        page = opened.page
        page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
        page.locator(".row").nth(2).click()
        page.evaluate(AXE.read_text())
        found = page.evaluate("axe.run(document, {resultTypes: ['violations', 'incomplete']})")
        faults = [
            (fault["id"], node["target"], node["any"][:1])
            for fault in found["violations"]
            for node in fault["nodes"][:3]
        ]
        assert faults == []
        assert len(found["passes"]) > 20


@pytest.mark.parametrize("models", [1, 2, 4])
def test_it_is_sensible_with_few_models_of_unknown_size_and_without_verdicts(
    chromium: Browser, tmp_path: Path, models: int
) -> None:
    named = dict.fromkeys(list(CODE_LLAMA)[:models], (None, "unknown"))
    findings = made_findings(
        named,  # type: ignore[arg-type]
        kinds=("single-line",),
        strategies=("lr",),
        judged=False,
        unresolved=0,
    )
    path = write_page(findings, Browsed((), ()), tmp_path)
    with Opened(chromium, path) as opened:
        assert opened.wrong == []
        assert opened.page.locator("#browser").is_hidden()
        drawn = opened.page.locator("#scaling > figure").all()
        assert [each.is_visible() for each in drawn] == [True, True]
        assert opened.page.locator("#differences").count() == (models > 1)
        assert "size unknown" in opened.page.locator("#table").inner_text()


def test_thirty_thousand_tasks_of_four_models_open_and_answer_at_once(
    chromium: Browser, tmp_path: Path
) -> None:
    path = write_page(made_findings(), made_browsed(30_000), tmp_path, drawn=())
    size = path.stat().st_size
    begun = time.monotonic()
    with Opened(chromium, path) as opened:
        opened_s = time.monotonic() - begun
        assert opened.count() == "30,000 tasks"
        assert opened.wrong == []
        took = opened.page.evaluate(
            """() => {
              const field = document.querySelector('[name=wrong]');
              const begun = performance.now();
              field.value = '3';
              field.dispatchEvent(new Event('input', {bubbles: true}));
              document.querySelector('.list').offsetHeight;
              return performance.now() - begun;
            }"""
        )
        assert re.fullmatch(r"[\d,]+ of 30,000 tasks", opened.count())
        opened.page.locator("[role=listbox]").focus()
        opened.page.keyboard.press("End")
        opened.wait_until_shown("Made/3749/multi-line/L8")
    print(f"30,000 tasks: {size / 1e6:.1f} MB, opened in {opened_s:.1f} s, filter {took:.0f} ms")
    assert size < 40_000_000
    assert opened_s < 15
    assert took < 1000


def test_run_directories_are_joined_by_task(tmp_path: Path) -> None:
    answers = [{"text": "    return a\n"}, {"text": "    return z\n    more\n"}, None]
    failed = [*answers[:2], {"reason": "timeout"}, {"text": "    y = 2\n"}]
    one = make_run(tmp_path / "one", [*answers, {"text": ""}], model="small")
    two = make_run(tmp_path / "two", failed, model="large")
    again = make_run(tmp_path / "again", failed, model="large")
    browsed = read_browsed([one, two, again])
    assert browsed.answerers == (
        Answerer("large", "lr"),
        Answerer("large", "lr", str(again)),
        Answerer("small", "lr"),
    )
    assert [task.task_id for task in browsed.tasks] == [
        f"Made/{number}/single-line/L1" for number in range(4)
    ]
    first, second, third, fourth = ([*task.answers] for task in browsed.tasks)
    assert first[2] is not None
    assert [filling.exact_match for filling in first[2].fillings] == [True]
    assert first[2].fillings[0].policies == POLICIES
    assert second[2] is not None
    assert [filling.middle for filling in second[2].fillings] == [
        "    return z\n    more\n",
        "    return z\n",
    ]
    assert [filling.edit_distance for filling in second[2].fillings] == [10, 1]
    assert third[2] == Answer((), "not asked", met_limit=False)
    assert third[0] == Answer((), "timeout: 600 s", met_limit=False)
    assert fourth[2] is not None
    assert fourth[2].fillings[0].middle == ""


def test_several_processes_read_what_one_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [{"text": f"    return {place}\n"} for place in range(4)]
    runs = [make_run(tmp_path / name, answers, model=name) for name in ("one", "two", "three")]
    alone = read_browsed(runs)
    monkeypatch.setattr("fim_eval.report.scored._PARALLEL_BYTES", 0)
    assert read_browsed(runs, workers=2) == alone
    assert len(alone.tasks) == 4


def test_the_whole_report_page_is_written(chromium: Browser, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [{"text": "    return a\n"}] * 4)
    paths = write_report_page(made_findings(), read_browsed([run]), tmp_path / "out")
    names = {str(path.relative_to(tmp_path / "out")) for path in paths}
    assert {"index.html", "figures/scaling.svg", "figures/scaling-dark.png"} <= names
    assert (tmp_path / "out/figures/scaling.png").read_bytes().startswith(b"\x89PNG")
    with Opened(chromium, tmp_path / "out/index.html") as opened:
        assert opened.count() == "4 tasks"
        assert opened.wrong == []
