"""Packages that only some deployments need, which an installation leaves out until an operator asks for them."""

from __future__ import annotations

from importlib.util import find_spec

from precipiq_contracts.errors import DeploymentError


def require_extra(wanted_by: str, package: str, distribution: str, extra: str) -> None:
    """Nothing when the import package is there. ``wanted_by``: the setting or table that asks for it.

    ``distribution``: what brings it, with an extra where it needs one; ``extra``: of `scripts/bootstrap`. Raises
    ``DeploymentError``, which names them.
    """
    if find_spec(package) is None:
        raise DeploymentError(
            [
                f"{wanted_by}: needs the package {package}, which is not installed: "
                f"run `scripts/bootstrap --extra {extra}` (it comes with {distribution})"
            ]
        )
