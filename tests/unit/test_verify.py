"""`eval/verify.py` finds every single edit of a run's ledger, report and checkpoint."""

import json
import re
import runpy
import shutil
from pathlib import Path

import pytest
import torch

from selfflow_robotics.envs.tasks.catalog import TASKS
from selfflow_robotics.evaluation.ledger import EpisodeRecord, Ledger
from selfflow_robotics.evaluation.pages import template
from selfflow_robotics.evaluation.protocol import evaluation_episodes
from selfflow_robotics.evaluation.verifying.checksums import CHECKSUMS
from selfflow_robotics.evaluation.verifying.verify import find_results, verify
from selfflow_robotics.training.checkpoint import save_checkpoint
from tests.evaluations import NUM_EPISODES, STEP, write_results, write_summary

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs") / "rt1"
    tensors = {"w": torch.arange(64.0), "b": torch.ones(3)}
    save_checkpoint(root / "checkpoints", 5, {"model": tensors, "teacher": tensors}, {"roles": []})
    with pytest.MonkeyPatch.context() as patch:  # its 5 MB would be copied for each edit
        patch.setattr(template, "get_plotlyjs", lambda: "")
        results = [write_results(root, "pick_coke_can"), write_results(root, "move_near")]
        write_summary(root, results)
    return root


@pytest.fixture
def root(evaluated, tmp_path):
    shutil.copytree(evaluated, tmp_path / "rt1")
    return tmp_path / "rt1"


def _differences(root):
    return [
        line
        for folder in find_results(root)
        for check in verify(folder)
        for line in check.differences
    ]


PICK = "eval/tabletop-pick_coke_can-grid-*/"
NEAR = "eval/tabletop-move_near-grid-*/"
SUMMARY = "eval/summary-*/"
LEDGER, SETTINGS = PICK + "episodes.jsonl", PICK + "evaluation.json"
JSON, PAGE = PICK + "report.json", PICK + "report.md"
RATES, TABLE = PICK + "report.csv", PICK + "episodes.csv"


def _line(number, old, new):
    """Replace text in a line (from 1) of a file."""

    def edit(path):
        lines = path.read_text().split("\n")
        assert re.search(old, lines[number - 1]), lines[number - 1]
        lines[number - 1] = re.sub(old, new, lines[number - 1], count=1)
        path.write_text("\n".join(lines))

    return edit


def _flip(path):
    line = 4
    was, now = (
        ("true", "false") if '"success": true' in _lines(path)[line - 1] else ("false", "true")
    )
    _line(line, f'"success": {was}', f'"success": {now}')(path)


def _lines(path):
    return path.read_text().splitlines()


def _change_lines(change):
    def edit(path):
        path.write_text("".join(f"{line}\n" for line in change(_lines(path))))

    return edit


def _swap_seeds(lines):
    first, second = (re.search(r'"seed": (\d+)', line)[0] for line in lines[:2])
    return [lines[0].replace(first, second), lines[1].replace(second, first), *lines[2:]]


def _text(old, new, which=0):
    """Replace the `which`-th match in a file."""

    def edit(path):
        text = path.read_text()
        match = list(re.finditer(old, text))[which]
        path.write_text(text[: match.start()] + match.expand(new) + text[match.end() :])

    return edit


def _byte(where):
    def edit(path):
        content = bytearray(path.read_bytes())
        content[where] ^= 1
        path.write_bytes(content)

    return edit


def _delete(path):
    path.unlink()


def _again(lines):
    """A line that lets an episode end otherwise."""
    flipped = lines[3].replace('"success": true', '"success": X')
    flipped = flipped.replace('"success": false', '"success": true').replace("X", "false")
    return [*lines, flipped]


EDITS = {
    "a success is flipped": (LEDGER, _flip),
    "a success at any step is flipped": (LEDGER, _text('any_step": true', 'any_step": false')),
    "a seed": (LEDGER, _line(5, r'"seed": \d', '"seed": 8')),
    "swapped seeds": (LEDGER, _change_lines(_swap_seeds)),
    "swapped lines": (LEDGER, _change_lines(lambda x: [x[1], x[0], *x[2:]])),
    "another policy": (LEDGER, _line(2, '"network"', '"random"')),
    "another task": (LEDGER, _line(2, "pick_coke_can", "move_near")),
    "another variant": (LEDGER, _line(3, r'"variant": "\w+"', '"variant": "lying"')),
    "another number of steps": (LEDGER, _line(6, '"steps": 80', '"steps": 81')),
    "another time": (LEDGER, _line(6, "1.25", "1.26")),
    "an option": (LEDGER, _line(7, r'"object_xy": \[-0', '"object_xy": [-1')),
    "an error": (LEDGER, _line(8, '"error": null', '"error": "crash"')),
    "another initial state": (LEDGER, _line(9, r'"start": "0', '"start": "1')),
    "another video": (LEDGER, _line(1, "videos/", "films/")),
    "the first line is deleted": (LEDGER, _change_lines(lambda x: x[1:])),
    "a line is deleted": (LEDGER, _change_lines(lambda x: [*x[:7], *x[8:]])),
    "the last line is deleted": (LEDGER, _change_lines(lambda x: x[:-1])),
    "a line twice": (LEDGER, _change_lines(lambda x: [*x, x[3]])),
    "an episode again": (LEDGER, _change_lines(_again)),
    "an episode of no protocol": (
        LEDGER,
        _change_lines(lambda x: [*x, re.sub(r'"seed": \d+', '"seed": 100001', x[0])]),
    ),
    "a torn line": (LEDGER, lambda path: path.write_bytes(path.read_bytes()[:-9])),
    "damage": (LEDGER, _line(4, "{", "(")),
    "a space": (LEDGER, _line(4, ": ", ":  ")),
    "no ledger": (LEDGER, _delete),
    "another checkpoint in the settings": (SETTINGS, _text(r'checkpoint": "\w', 'checkpoint": "g')),
    "other settings": (SETTINGS, _text('replan_steps": 6', 'replan_steps": 5')),
    "another seed in the settings": (SETTINGS, _text('"seed": 3', '"seed": 4')),
    "another protocol in the settings": (SETTINGS, _text('"grid"', '"random"')),
    "no settings": (SETTINGS, _delete),
    "successes": (JSON, _text(r'"successes": \d+', '"successes": 11')),
    "successes at any step": (JSON, _text(r'any_step": \d+', 'any_step": 12')),
    "count": (JSON, _text('"count": 12', '"count": 13', which=1)),
    "errors": (JSON, _text('"errors": 0', '"errors": 1', which=2)),
    "rate": (JSON, _text(r'"rate": 0.\d', '"rate": 0.9')),
    "the last digit of an interval": (JSON, _text(r"(\[\s+0\.\d+)\d,", r"\g<1>,", which=1)),
    "a p-value": (JSON, _text(r'"random": 0\.(\d)', '"random": 0.9')),
    "different states": (JSON, _text('"different": 12', '"different": 11')),
    "the protocol of the report": (JSON, _text('"grid"', '"quick"')),
    "a remark": (JSON, _text("1000 demonstrations", "9000 demonstrations")),
    "a version": (JSON, _text('"4.0"', '"4.1"')),
    "the checkpoint's path": (JSON, _text("step_0000005", "step_0000004")),
    "the number of episodes": (JSON, _text('num_episodes": 12', 'num_episodes": 11')),
    "no report.json": (JSON, _delete),
    "torn report.json": (JSON, lambda path: path.write_bytes(path.read_bytes()[:-30])),
    "a rate on the page": (PAGE, _text(r"\| \d+ %", "| 99 %", which=1)),
    "the level of the intervals on the page": (PAGE, _text("95 % interval", "99 % interval")),
    "an interval on the page": (PAGE, _text(r"\| \d+-", "| 1-", which=2)),
    "n on the page": (PAGE, _text(r"\| 12 \|", "| 21 |")),
    "errors on the page": (PAGE, _text(r"\| 0 \|", "| 1 |", which=1)),
    "p on the page": (PAGE, _text(r"p = 0\.\d", "p = 0.7")),
    "states on the page": (PAGE, _text("12 of 12 initial", "13 of 13 initial")),
    "the title": (PAGE, _text("seed 3", "seed 2")),
    "a row is deleted": (PAGE, _change_lines(lambda x: [*x[:5], *x[6:]])),
    "no page": (PAGE, _delete),
    "kinds of failure": (JSON, _text(r'"never moved": \d+', '"never moved": 1')),
    "another kind of failure": (LEDGER, _text("never moved", "fell off")),
    "a rate in the spreadsheet": (RATES, _line(2, r"0\.\d", "0.9")),
    "an interval in the spreadsheet": (RATES, _line(3, r",0\.\d{6},", ",0.777777,")),
    "a row of the spreadsheet": (RATES, _change_lines(lambda x: [*x[:2], *x[3:]])),
    "an episode in the spreadsheet": (TABLE, _line(4, r",(\d),(\d),", r",\2,0,")),
    "a position in the spreadsheet": (TABLE, _line(5, r",-0\.\d", ",-0.9")),
    "no spreadsheet": (TABLE, _delete),
    "a rate on the web page": (PICK + "report.html", _text(r"<b>\d+ %", "<b>99 %")),
    "no web page": (PICK + "report.html", _delete),
    "a rate in the summary's spreadsheet": (SUMMARY + "summary.csv", _line(2, r"0\.\d", "0.9")),
    "no web page of the summary": (SUMMARY + "summary.html", _delete),
    "a byte of a video": (PICK + "videos/network-*", _byte(100)),
    "a shorter video": (PICK + "videos/random-*", lambda p: p.write_bytes(p.read_bytes()[:-1])),
    "no video": (PICK + "videos/random-*", _delete),
    "no checksums": (PICK + CHECKSUMS, _delete),
    "another checksum": (PICK + CHECKSUMS, _text(r'report.md": "\w', 'report.md": "x')),
    "a byte of the weights": (STEP + "/teacher.safetensors", _byte(-3)),
    "a byte of the other weights": (STEP + "/model.safetensors", _byte(200)),
    "shorter weights": (
        STEP + "/teacher.safetensors",
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
    ),
    "no weights": (STEP + "/teacher.safetensors", _delete),
    "the manifest's step": (STEP + "/manifest.json", _text('"step": 5', '"step": 6')),
    "the manifest's record": (STEP + "/manifest.json", _text('"roles": ', '"rules": ')),
    "no manifest": (STEP + "/manifest.json", _delete),
    "a rate in the summary": (SUMMARY + "summary.json", _text(r'"rate": 0.\d', '"rate": 0.9')),
    "successes in the summary": (
        SUMMARY + "summary.json",
        _text(r'"successes": \d', '"successes": 2'),
    ),
    "a task in the summary": (SUMMARY + "summary.json", _text('"move_near"', '"move_far"')),
    "no summary.json": (SUMMARY + "summary.json", _delete),
    "a rate on the summary's page": (SUMMARY + "summary.md", _text(r"\| \d+ %", "| 99 %", which=1)),
    "n on the summary's page": (SUMMARY + "summary.md", _text(r"\| 12 \|", "| 21 |")),
    "the ledger of another task": (NEAR + "episodes.jsonl", _flip),
}


def test_the_untouched_run_verifies(root):
    assert _differences(root) == []


@pytest.mark.parametrize("name", EDITS)
def test_every_single_edit_is_found(root, name):
    pattern, edit = EDITS[name]
    path = sorted(root.glob(pattern))[0]
    before = path.read_bytes()
    edit(path)
    assert not path.exists() or path.read_bytes() != before
    found = _differences(root)
    assert any(path.name in line for line in found), found


def _without_checksums(root):
    """The run as earlier versions wrote it."""
    for path in root.rglob(CHECKSUMS):
        path.unlink()
    for path in root.glob("eval/*/report.json"):
        report = json.loads(path.read_text())
        del report["num_episodes"], report["shard"]
        path.write_text(json.dumps(report))
    for path in root.glob("eval/*/summary.json"):
        summary = json.loads(path.read_text())
        for report in summary["tasks"].values():
            del report["num_episodes"], report["shard"]
        path.write_text(json.dumps(summary))


NUMBERS = [
    *("a success is flipped", "a success at any step is flipped", "a seed", "swapped seeds"),
    *("a line is deleted", "an option", "successes", "count", "rate", "different states"),
    *("the level of the intervals on the page", "a rate on the summary's page"),
    *("a rate on the page", "n on the page", "p on the page", "a rate in the summary"),
    *("n on the summary's page", "other settings", "a byte of the weights", "no video"),
    *("a rate in the spreadsheet", "an interval in the spreadsheet", "a row of the spreadsheet"),
    *("a position in the spreadsheet", "a rate in the summary's spreadsheet", "kinds of failure"),
]


@pytest.mark.parametrize("name", NUMBERS)
def test_without_checksums_the_numbers_are_still_computed_again(root, name):
    _without_checksums(root)
    assert _differences(root) == []
    pattern, edit = EDITS[name]
    edit(sorted(root.glob(pattern))[0])
    assert _differences(root) != []


def test_an_extended_evaluation_still_verifies(root):
    folder, _ = write_results(root, "pick_coke_can", NUM_EPISODES + 8)
    assert _differences(root) == []  # the summary is on the first twelve
    text = (folder / "episodes.jsonl").read_text()
    (folder / "episodes.jsonl").write_text(text.replace('"steps": 80', '"steps": 79', 1))
    assert any("line 1" in line for line in _differences(root))


def test_an_interrupted_extension_verifies(root):
    [folder] = root.glob(PICK)
    ledger = Ledger.open(folder, json.loads((folder / "evaluation.json").read_text()))
    [*_, new] = evaluation_episodes(TASKS["pick_coke_can"], "tabletop", "grid", 20, 3)
    ledger.add(
        EpisodeRecord("network", "pick_coke_can", new.variant, new.seed, new.options, start="new")
    )
    assert _differences(root) == []
    [line] = [check.what for check in verify(folder) if check.what.startswith("episodes.jsonl")]
    assert "24 lines" in line
    assert "1 added" in line


def test_an_error_that_was_played_again_verifies(root, tmp_path):
    first = evaluation_episodes(TASKS["open_drawer"], "tabletop", "grid", 12, 3)[0].seed
    folder, report = write_results(root, "open_drawer", errors=(first,))
    assert report.rate("network").errors == 1
    assert _differences(root) == []
    ledger = Ledger.open(folder, json.loads((folder / "evaluation.json").read_text()))
    episodes = evaluation_episodes(TASKS["open_drawer"], "tabletop", "grid", 12, 3)
    [again] = ledger.missing("network", episodes)
    ledger.add(
        EpisodeRecord("network", "open_drawer", again.variant, again.seed, again.options, True)
    )
    assert _differences(root) == []


def test_a_moved_run_is_compared_with_the_checkpoint_that_moved_with_it(root, evaluated):
    path = root / STEP / "teacher.safetensors"
    _byte(-1)(path)
    assert any(str(path) in line for line in _differences(root))
    shutil.rmtree(root / "checkpoints")  # the recorded path is that of `evaluated`
    assert _differences(root) == []


@pytest.fixture
def main():
    return runpy.run_path(str(ROOT / "eval" / "verify.py"), run_name="imported")["main"]


def _exit_code(main, *arguments):
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code
    return 0


def test_exit_codes_and_the_verdict(main, root, tmp_path, capsys):
    assert _exit_code(main, root) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("VERIFIED")
    [path] = root.glob(JSON)
    content = path.read_bytes()
    _text(r'"successes": \d+', '"successes": 11')(path)
    assert _exit_code(main, path.parent) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("DIFFERS")
    assert any("policies.network.all.successes: expected 9, found 11" in line for line in lines)
    path.write_bytes(content)
    assert _exit_code(main, path.parent, "--checkpoint", root / STEP) == 0
    assert _exit_code(main, path.parent, "--checkpoint", root / "nowhere") == 1


def test_what_cannot_be_verified_is_one_line(main, root, tmp_path, capsys):
    [folder] = root.glob(PICK)
    empty = tmp_path / "empty"
    empty.mkdir()
    begun = Ledger.open(root / "eval" / "begun", {"policy": "network"}).folder
    for arguments in ((), (tmp_path / "nowhere",), (empty,), (begun,), (folder / "report.md",)):
        assert _exit_code(main, *arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
    assert _exit_code(main, root) == 2  # all verify, but one is not finished
    assert "not finished" in capsys.readouterr().out


def test_what_an_evaluation_writes_verifies(main, tmp_path, monkeypatch):
    """Shards, the whole of them, and a longer evaluation later."""
    monkeypatch.chdir(tmp_path)
    evaluate = runpy.run_path(str(ROOT / "eval" / "simpler.py"), run_name="imported")["main"]
    arguments = ["policy=random", "baselines=[]", "videos=1", "processes=1", "protocol=grid"]
    for more in (["shard=1/2"], ["shard=2/2"], []):
        evaluate([*arguments, "num_episodes=2", *more])
    assert _exit_code(main, "runs") == 0
    assert len(list(Path("runs").rglob(CHECKSUMS))) == 3
    evaluate([*arguments, "num_episodes=3"])
    assert _exit_code(main, "runs") == 0
    [ledger] = Path("runs").glob("eval/random/*/shard_1_of_2/episodes.jsonl")
    ledger.write_text(ledger.read_text().replace('"steps": ', '"steps": 1'))
    assert _exit_code(main, "runs") == 1
    # Nor does a longer evaluation give the edited line a new checksum.
    assert _exit_code(evaluate, *arguments, "num_episodes=4") == 2
