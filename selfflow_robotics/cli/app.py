"""Turn a script's `main(config)` into a command line: hydra composes a frozen dataclass.

    @dataclass(frozen=True)
    class EvalConfig:
        task: str = "pick_coke_can"
        checkpoint: str | None = None
        num_episodes: int = 100

    @hydra_app("simpler", EvalConfig, flags=(Flag("--task"), Flag("--checkpoint", literal=True)))
    def main(config: EvalConfig) -> None:
        ...

    if __name__ == "__main__":
        main()

`configs/simpler.yaml` has the defaults, `configs/experiment/simpler/` the experiments:

    defaults:
      - simpler_schema              # the dataclass, registered by hydra_app
      - _self_
      - experiment/simpler@_global_: default

On the command line, `--task V` and `--task=V` mean `task=V`, and `experiment=debug` selects
`configs/experiment/simpler/debug.yaml` (part of the same config; `--help` shows its first comment
line). Use a `literal` flag for paths: it quotes the value, so that hydra does not interpret `=` and
`,`. With `positional="runs"`, words without `=` are the items of the list `runs`. Everything else
is plain hydra: `key=value`, `--cfg job`, `-m`.

The dataclass may nest others and use str, int, float, bool, Literal, tuple, list, dict, Path and `|
None` (add an entry to a dict with `+names.key=value`). Its `__post_init__` checks ranges and raises
ValueError or UserError. A user error prints one line on stderr and exits with 2; Ctrl-C exits with
130, SIGTERM 143, SIGHUP 129 (`cli.process`). Programming errors keep their traceback. `main` runs
after hydra has finished: hydra creates no `outputs/` folder, changes no directory and sets up no
logging (except with `hydra/launcher=...`, for clusters). If `main` returns a non-zero int, that is
the exit code.

Tests call `main(["--task", "x"])`.
"""

import functools
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from selfflow_robotics.cli.arguments import Flag, to_overrides
from selfflow_robotics.cli.help import groups, help_text
from selfflow_robotics.cli.process import exit_code, own_process, refusal
from selfflow_robotics.cli.submit import split_launch, submit
from selfflow_robotics.cli.typed import (
    build,
    complaint,
    explain,
    keys_of,
    mirror,
    modules_of,
    takes_list,
)
from selfflow_robotics.errors import UserError, unknown

__all__ = ["Flag", "config_dir", "hydra_app"]

PACKAGE_DIR = Path(__file__).resolve().parent.parent


def config_dir() -> Path:
    """The folder of the YAML files: in an installed wheel, else `configs/` of the checkout."""
    bundled = PACKAGE_DIR / "_configs"
    return bundled if bundled.is_dir() else PACKAGE_DIR.parent / "configs"


def hydra_app(
    config_name: str,
    schema: type,
    flags: Sequence[Flag] = (),
    positional: str | None = None,
) -> Callable[[Callable[[Any], int | None]], Callable[..., None]]:
    """Decorate `main(config)`; see the module's docstring. The result takes an optional argv."""

    def decorate(main: Callable[[Any], int | None]) -> Callable[..., None]:
        @functools.wraps(main)
        def entry(argv: Sequence[str] | None = None) -> None:
            try:
                if argv is not None:  # called by another program
                    code = run(list(argv))
                else:
                    with own_process():
                        code = run(sys.argv[1:])
            except UserError as error:
                if error.advice:
                    print(error.advice, file=sys.stderr)
                print(f"error: {error}", file=sys.stderr)
                code = 2
            except (OSError, MemoryError) as error:
                print(f"error: {refusal(error)}", file=sys.stderr)
                code = 2
            except KeyboardInterrupt as interrupt:
                print("interrupted; repeat the command to resume", file=sys.stderr)
                code = exit_code(interrupt)
            if code:
                sys.exit(code)

        def run(arguments: list[str]) -> int:
            if {"--help", "-h"} & set(arguments):
                doc = main.__globals__.get("__doc__")
                print(help_text(config_dir(), config_name, doc or "", flags, modules_of(schema)))
                return 0
            launch, arguments = split_launch(arguments)
            keys = [*keys_of(schema), "experiment", *groups(config_dir(), config_name)]
            overrides = to_overrides(arguments, flags, config_name, keys, positional)
            if any(word.startswith("hydra/launcher=") for word in overrides):
                # Launchers run `main` elsewhere: hydra calls it and uses its own folders.
                _run_hydra(config_name, schema, overrides, lambda c: main(build(schema, c)))
                return 0
            configs = compose(config_name, schema, overrides)
            if launch is not None:
                script = str(Path(main.__globals__["__file__"]).resolve())
                name = getattr(configs[0], "name", config_name) if configs else config_name
                return submit(launch, name, [script, *arguments])
            codes = [main(config) for config in configs]
            return max((code or 0 for code in codes), default=0)

        entry.config_name, entry.schema = config_name, schema  # type: ignore[attr-defined]
        return entry

    return decorate


def compose(config_name: str, schema: type, arguments: Sequence[str]) -> list[Any]:
    """The configurations that hydra composes from `arguments`: one, several with `-m`, none if it
    only printed (`--cfg`). Raises UserError for all user errors."""
    composed: list[DictConfig] = []
    with tempfile.TemporaryDirectory() as scratch:
        quiet = _quiet(config_name, scratch)
        _run_hydra(config_name, schema, [*arguments, *quiet], composed.append)
    return [build(schema, config) for config in composed]


def _run_hydra(
    config_name: str, schema: type, arguments: Sequence[str], task: Callable[[DictConfig], Any]
) -> None:
    ConfigStore.instance().store(name=f"{config_name}_schema", node=mirror(schema))
    run = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=config_name)
    saved_argv, saved_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    # Without this, hydra prints errors and exits instead of raising them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = [saved_argv[0], *arguments]
    try:
        run(task)()
    except MissingConfigException as error:
        raise _missing(config_name, error) from None
    except HydraException as error:
        raise _explain_hydra(schema, error) from None
    except OmegaConfBaseException as error:
        raise explain(schema, error) from None
    except ValueError as error:
        if "Config group override" not in str(error):
            raise
        names = " or ".join(["experiment", *groups(config_dir(), config_name)])
        raise UserError(f"a number or null is not a choice for {names}; give a file name") from None
    except RecursionError:
        raise UserError(
            "a value or a YAML file nests too deeply or refers to itself; flatten it"
        ) from None
    except yaml.YAMLError as error:
        raise UserError("not YAML: " + " ".join(str(error).split())) from None
    finally:
        sys.argv = saved_argv
        os.environ.pop("HYDRA_FULL_ERROR")
        if saved_error is not None:
            os.environ["HYDRA_FULL_ERROR"] = saved_error


def _quiet(config_name: str, scratch: str) -> list[str]:
    """Overrides that stop hydra from writing files. `scratch` is removed after composing."""
    return [
        "hydra/job_logging=none",
        "hydra/hydra_logging=none",
        "hydra.output_subdir=null",
        f"hydra.run.dir='{scratch}'",
        f"hydra.sweep.dir='{scratch}'",
        "hydra.sweep.subdir=.",
        f"hydra.job.name={config_name}",
    ]


def _missing(config_name: str, error: MissingConfigException) -> UserError:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    name = name.removesuffix(".yaml")
    if error.options is None:
        return UserError(" ".join(str(error).split()))
    kind = "experiment" if group == f"experiment/{config_name}" else group
    return unknown(kind, name, error.options)


def _explain_hydra(schema: type, error: HydraException) -> UserError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error.__cause__, OmegaConfBaseException):
        typed = lines[0].partition("=")[2] if lines[0].startswith("Error merging") else ""
        return explain(schema, error.__cause__, typed)
    if isinstance(error, OverrideParseException):
        key, _, value = error.override.partition("=")
        if not error.override.isprintable():
            return UserError(f"cannot read {error.override!r}: leave out its control characters")
        if key and value and value[0] not in "[{'\"" and '"' not in value:
            return UserError(f"cannot read '{error.override}'; write {key}='\"{value}\"'")
        return UserError(f"cannot read '{error.override}': {lines[0]}")
    if sweep := re.match("Ambiguous value for argument '(.+?)=(.+)'$", lines[0]):
        key, value = sweep.groups()
        as_list = f", or as a list {key}=[{value}]" if takes_list(schema, key.lstrip("+")) else ""
        return UserError(f"cannot read '{key}={value}'; write {key}='\"{value}\"'{as_list}")
    if group := re.match(r"Could not override '(.+?)'\. No match in the defaults list", lines[0]):
        return complaint(schema, group[1], lines[0])
    keys = [line.removeprefix("full_key: ") for line in lines if line.startswith("full_key: ")]
    if keys:  # a value or key in a YAML file: "In 'file': ...", then OmegaConf's own lines
        where = lines[0].partition(":")[0]
        return UserError(f"{where}: {complaint(schema, keys[0], lines[1])}")
    return UserError(" ".join(lines[:2]))
