"""The parts of configuration: strict models, and references to secrets."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationInfo, model_validator

from precipiq_contracts.errors import DeploymentError
from precipiq_contracts.secret_location import SecretLocation

BASE_DIR = "base_dir"
"""Key of the validation context that holds the folder where relative paths start: the data directory."""


class Settings(BaseModel):
    """Base of a table's model: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SecretReference(BaseModel):
    """The location of a secret: ``{ env = "NAME" }`` or ``{ file = "path" }``; never the value itself.

    A relative path starts at the deployment's data directory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    env: str | None = None
    file: Path | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_values(cls, value: object) -> object:
        if isinstance(value, str):
            raise ValueError('write { env = "NAME" } or { file = "path" }, never the secret itself')
        return value

    @model_validator(mode="after")
    def _anchor(self, info: ValidationInfo) -> SecretReference:
        if (self.env is None) == (self.file is None):
            raise ValueError('needs exactly one of { env = "NAME" } and { file = "path" }')
        base = (info.context or {}).get(BASE_DIR)
        if self.file is not None and base is not None:
            object.__setattr__(self, "file", Path(base) / self.file)
        return self

    @property
    def location(self) -> SecretLocation:
        """The same without pydantic, for other processes."""
        return SecretLocation(self.env, self.file)

    def reveal(self, where: str) -> str:
        """See :meth:`SecretLocation.reveal`. ``where``: this setting's path; error messages begin with it."""
        try:
            return self.location.reveal()
        except DeploymentError as error:
            raise DeploymentError([f"{where}: {problem}" for problem in error.problems]) from error
