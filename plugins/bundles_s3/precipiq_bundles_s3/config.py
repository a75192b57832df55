"""``[plugins.bundles_s3]``: the bundles' bucket, and the timeouts of its calls. No credentials: see ``bucket``."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from precipiq_core.plugin import PluginConfig

_NAME = "[A-Za-z0-9][A-Za-z0-9._-]*"


class BundlesS3Config(PluginConfig):
    """Settings of the bundle store in S3."""

    bucket: str = Field(description="bucket, which must exist")
    prefix: str = Field(
        "",
        max_length=500,
        description="folder of the bundles in the bucket, such as `precipiq/bundles`; its root by default",
    )
    region: str = Field(
        min_length=1, max_length=64, description="AWS region of the bucket; most other stores take `us-east-1`"
    )
    endpoint_url: str | None = Field(
        None, description="address of the store when it is not AWS; over http, bundles pass in plain"
    )
    path_style: bool = Field(
        False, description="name the bucket in the path, not in the host: many other stores need it"
    )
    sse: Literal["AES256", "aws:kms"] | None = Field(
        None, description="encryption that the store is told to use; without it, what the bucket is set to"
    )
    sse_kms_key_id: str | None = Field(
        None, min_length=1, description="KMS key for `aws:kms`; the account's own by default"
    )
    timeout_s: float = Field(
        10.0, gt=0, le=120, description="time for the store to take a connection, and to answer, seconds"
    )
    attempts_max: int = Field(
        3, ge=1, le=10, description="attempts at a call that fails for a moment, the first included"
    )
    calls_max: int = Field(
        8, ge=1, le=64, description="calls of one process at the same time, and as many parts of bundles being stored"
    )

    @field_validator("bucket")
    @classmethod
    def _check_bucket(cls, name: str) -> str:
        if not re.fullmatch(_NAME, name) or not 3 <= len(name) <= 63:
            raise ValueError("write a bucket's name: 3 to 63 letters, digits, dots, underscores and hyphens")
        return name

    @field_validator("prefix")
    @classmethod
    def _check_prefix(cls, path: str) -> str:
        if not re.fullmatch(f"({_NAME}(/{_NAME})*)?", path):
            raise ValueError("write names of folders with / between them, such as precipiq/bundles")
        return path

    @field_validator("endpoint_url")
    @classmethod
    def _check_endpoint(cls, url: str | None) -> str | None:
        if url is not None:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
                raise ValueError("must be https://HOST[:PORT] or http://HOST[:PORT]")
        return url

    @model_validator(mode="after")
    def _check_key(self) -> BundlesS3Config:
        if self.sse_kms_key_id is not None and self.sse != "aws:kms":
            raise ValueError('sse_kms_key_id is set, but sse is not "aws:kms"')
        return self
