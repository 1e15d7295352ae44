"""`policy=module:Class`: somebody's own policy, in Python."""

import hashlib
import os
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from selfflow_robotics.errors import UserError
from selfflow_robotics.policies.base import Policy

_FORM = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_custom(text: str) -> bool:
    """Whether the text has the form module:Class."""
    return _FORM.fullmatch(text) is not None


def custom_policy(text: str) -> Policy:
    """An instance of the class "module:Class", called without arguments.

    The module is found as Python does, or in the current folder. Raises UserError if it or the
    class cannot be imported, or if the instance is no policy (`policies.base.Policy`). Exceptions
    of the class itself pass through. `fingerprint` is added to the instance: the class, and a hash
    of its module's source, so that results of other versions are told apart.
    """
    module, _, name = text.partition(":")
    if (folder := os.getcwd()) not in sys.path:
        sys.path.append(folder)
    try:
        found = getattr(import_module(module), name, None)
    except ImportError as error:
        raise UserError(f"policy={text}: cannot import {module} ({error})") from None
    if not callable(found):
        raise UserError(f"policy={text}: {module} has no class {name}")
    policy: Any = completed(found(), f"policy={text}")
    policy.fingerprint = {"class": {"name": text, "source": _source_hash(module)}}
    return policy


def completed(policy: Any, who: str) -> Policy:
    """The policy; one that has no name gets its class's, and it is not `privileged` unless it says
    so. Raises UserError, which begins with `who`, if it lacks a method or has another name than
    files can have."""
    missing = [method for method in ("begin", "act") if not callable(getattr(policy, method, None))]
    if missing:
        raise UserError(
            f"{who}: it has no method {' and '.join(missing)}; see "
            "selfflow_robotics/policies/base.py"
        )
    for attribute, default in (("name", type(policy).__name__), ("privileged", False)):
        if not hasattr(policy, attribute):
            setattr(policy, attribute, default)
    if not re.fullmatch(r"[\w.-]{1,60}", str(policy.name)):  # it becomes a part of file names
        raise UserError(f"{who}: its name must be letters, digits, '.', '_' and '-'")
    return policy


def _source_hash(module: str) -> str | None:
    """SHA-256 of the module's file; None if it has none that can be read."""
    try:
        return hashlib.sha256(Path(sys.modules[module].__file__ or "").read_bytes()).hexdigest()
    except OSError:
        return None
