"""``precipiq bundle verify``: what the bundle's own verify.py does, and its signature once more with `cryptography`."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import click
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from precipiq_exports.bundle import verify

EXIT_FAILED = 1
EXIT_COULD_NOT_CHECK = 2


@click.group("bundle")
def bundle_group() -> None:
    """Check evidence bundles."""


@bundle_group.command("verify")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--fingerprint", metavar="HEX", help="of the key that must have signed, as it was published")
@click.option("--json", "as_json", is_flag=True, help="one JSON document on standard output")
@click.pass_context
def verify_bundle(ctx: click.Context, file: Path, fingerprint: str | None, as_json: bool) -> None:
    """Check a bundle, a ZIP file. Exit code: 0 verified, 1 failed, 2 could not check."""
    try:
        report = verify.check(str(file), fingerprint)
        _check_signature(file, report)
    except (verify.NotABundle, OSError) as error:
        click.echo(f"could not check: {error}", err=True)
        ctx.exit(EXIT_COULD_NOT_CHECK)
    if as_json:
        click.echo(json.dumps(verify.as_document(report)))
    else:
        verify.show(report)
    ctx.exit(EXIT_FAILED if report.problems_count else 0)


def _check_signature(file: Path, report: verify.Report) -> None:
    """By an implementation that has nothing in common with that of verify.py."""
    source = verify.Folder(file) if file.is_dir() else verify.Archive(file)
    limit = verify.MANIFEST_BYTES_MAX
    try:
        manifest, signature, pem = (
            verify.read_all(source, name, limit) for name in (verify.MANIFEST, verify.SIGNATURE, verify.PUBLIC_KEY)
        )
        key = load_pem_public_key(pem)
        if not isinstance(key, RSAPublicKey):
            raise ValueError("it is not an RSA key")
        key.verify(signature, manifest, PKCS1v15(), SHA256())
    except (verify.Malformed, InvalidSignature, UnsupportedAlgorithm, ValueError, zipfile.BadZipFile):
        report.problem(verify.SIGNATURE, "the signature does not hold (cryptography)")
    else:
        report.held.append("the signature holds by a second implementation (cryptography)")
