"""`policy=module:Class`: somebody's own policy, in Python."""

import os
import re
import sys
from importlib import import_module
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
    of the class itself pass through.
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
    policy: Any = found()
    missing = [method for method in ("begin", "act") if not callable(getattr(policy, method, None))]
    if missing:
        raise UserError(
            f"policy={text}: the class has no method {' and '.join(missing)}; see "
            "selfflow_robotics/policies/base.py"
        )
    for attribute, default in (("name", name), ("privileged", False)):
        if not hasattr(policy, attribute):
            setattr(policy, attribute, default)
    if not re.fullmatch(r"[\w.-]{1,60}", str(policy.name)):  # it becomes a part of file names
        raise UserError(f"policy={text}: its name must be letters, digits, '.', '_' and '-'")
    return policy
