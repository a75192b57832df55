"""``precipiq bundle``: runs the bundle's own verify.py, and checks the signature once more with `cryptography`."""

from __future__ import annotations

import json
from pathlib import Path

import click
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from precipiq_core.cli.context import json_option
from precipiq_exports.bundle import verify

EXIT_COULD_NOT_CHECK = 2


@click.group("bundle")
def bundle_group() -> None:
    """Check evidence bundles."""


@bundle_group.command("verify")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--fingerprint", metavar="HEX", help="of the key that must have signed, as you got it from elsewhere")
@json_option
@click.pass_context
def verify_bundle(ctx: click.Context, file: Path, fingerprint: str | None, as_json: bool) -> None:
    """Check a bundle: a ZIP file, or the folder where it was unpacked. Nothing is written.

    Exit code: 0 verified, 1 failed, 2 could not check, also for a bundle without an entry.
    """
    try:
        expected = None if fingerprint is None else verify.plain_fingerprint(fingerprint)
        report = verify.check(str(file), expected)
        with verify.Source(str(file)) as source:
            _check_signature(source, report)
    except (verify.NotABundle, OSError, ValueError) as error:
        reason = verify.printable(str(error))
        if as_json:
            click.echo(json.dumps({"verdict": "could_not_check", "reason": reason}))
        click.echo(f"error: could not check: {reason}", err=True)
        ctx.exit(EXIT_COULD_NOT_CHECK)
    if as_json:
        click.echo(json.dumps(report.document()))
    else:
        click.echo("\n".join(report.lines()))
    ctx.exit(report.exit_code)


def _check_signature(source: verify.Source, report: verify.Report) -> None:
    """Check the signature with an implementation that shares nothing with that of verify.py."""
    try:
        key = load_pem_public_key(source.read(verify.PUBLIC_KEY))
        if not isinstance(key, RSAPublicKey):
            raise verify.Malformed("it is not an RSA key")
        key.verify(source.read(verify.SIGNATURE), source.read(verify.MANIFEST), PKCS1v15(), SHA256())
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        report.fail(verify.SIGNATURE, "the signature does not hold by a second implementation (cryptography)")
    else:
        report.held.append("the signature holds by a second implementation (cryptography) too")
