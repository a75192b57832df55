"""Packages that only some deployments need, which an installation omits until the operator adds them."""

from __future__ import annotations

from importlib.util import find_spec

from precipiq_contracts.errors import DeploymentError


def require_extra(wanted_by: str, package: str, distribution: str, extra: str) -> None:
    """Check that the import package is installed. ``wanted_by``: the setting or table that needs it.

    ``distribution``: the one that requires it, with its extra if any; ``extra``: of `scripts/bootstrap`. Raises
    ``DeploymentError``, which names them.
    """
    if find_spec(package) is None:
        raise DeploymentError(
            [
                f"{wanted_by}: needs the package {package}, which is not installed: "
                f"run `scripts/bootstrap --extra {extra}` (it comes with {distribution})"
            ]
        )
