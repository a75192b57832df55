#!/usr/bin/env python3
"""Checks an evidence bundle with nothing but Python's standard library (3.8 or newer), and no contact to anybody.

usage: python3 -I -S verify.py [FOLDER_OR_ZIP] [--fingerprint HEX] [--json]

Without an argument it checks the folder that it lies in. Exit code: 0 verified, 1 failed, 2 could not check.
``--fingerprint``: of the key that must have signed, as the organisation published it.
"""

import base64
import csv
import hashlib
import io
import json
import os
import re
import sys
import zipfile

FORMAT = "precipiq-evidence"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.sig"
PUBLIC_KEY = "public_key.pem"
ENTRIES = "entries.jsonl"
CONTEXT = "context.jsonl"
VERIFICATION = "chain_verification.json"
GENESIS = "0" * 64
STATEMENT_KEYS = {
    "v", "org_id", "environment", "seq", "id", "kind", "timestamp", "actor", "body", "payload_hash", "prev_hash",
}  # fmt: skip
KEY_KINDS = ("signing_key_created", "signing_key_rotated")
PROBLEMS_MAX = 20
PIECE_BYTES = 1 << 20
MANIFEST_BYTES_MAX = 16 << 20
LINE_BYTES_MAX = 64 << 20
SHA256_DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")  # RFC 8017, section 9.2
RSA_ENCRYPTION = bytes.fromhex("06092a864886f70d010101")
HEX = re.compile(r"[0-9a-f]{64}")


class NotABundle(Exception):
    """There is nothing to check."""


class Malformed(Exception):
    """A file is not what it must be; the text says why."""


class Report:
    """What was found: problems, and sentences about what holds and what cannot be told."""

    def __init__(self):
        self.problems = []
        self.problems_count = 0
        self.held = []
        self.unchecked = []
        self.about = {}

    def problem(self, where, text):
        self.problems_count += 1
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append("%s: %s" % (where, text))


class Folder:
    """A bundle that was unpacked."""

    def __init__(self, path):
        self.path = path

    def names(self):
        found = []
        for folder, _, files in os.walk(self.path):
            for name in files:
                found.append(os.path.relpath(os.path.join(folder, name), self.path).replace(os.sep, "/"))
        return found

    def open(self, name):
        return open(os.path.join(self.path, *name.split("/")), "rb")


class Archive:
    """A bundle as it was sent."""

    def __init__(self, path):
        try:
            self.archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise NotABundle("%s is no ZIP file: %s" % (path, error))

    def names(self):
        return [member.filename for member in self.archive.infolist()]

    def open(self, name):
        return self.archive.open(name)


def check(path, fingerprint=None):
    """The report on the bundle at that path, a folder or a ZIP file. Raises NotABundle."""
    source = Folder(path) if os.path.isdir(path) else Archive(path)
    report = Report()
    names = source.names()
    if MANIFEST not in names:
        raise NotABundle("there is no %s in %s" % (MANIFEST, path))
    try:
        raw = read_all(source, MANIFEST, MANIFEST_BYTES_MAX)
        manifest = parse(raw)
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise Malformed("it is not the manifest of a %s bundle" % FORMAT)
        if manifest.get("format_version") != FORMAT_VERSION:
            raise Malformed("its format version is not %d: take the verify.py of that version" % FORMAT_VERSION)
        sizes = listed_files(manifest)
    except Malformed as error:
        report.problem(MANIFEST, str(error))
        return report
    report.about = {name: manifest.get(name) for name in ("export_id", "org_id", "environment", "created_at")}
    check_names(names, sizes, report)
    check_signature(source, names, raw, manifest, fingerprint, report)
    check_files(source, names, sizes, report)
    if report.problems_count == 0:
        # Only what is known to be the signed bytes is looked into: there is no use in explaining what was altered.
        check_contents(source, manifest, report)
    return report


def pieces_of(source, name, size=PIECE_BYTES):
    """The content of a file, piece by piece. Raises Malformed, whatever an altered archive makes of it."""
    try:
        with source.open(name) as stream:
            for piece in iter(lambda: stream.read(size), b""):
                yield piece
    except Exception as error:  # zipfile and zlib promise no bound to what they raise
        raise Malformed("it cannot be unpacked: %s" % error)


def read_all(source, name, limit):
    content = b""
    for piece in pieces_of(source, name):
        content += piece
        if len(content) > limit:
            raise Malformed("it is larger than %d bytes" % limit)
    return content


def parse(text):
    """JSON without repeated keys. Raises Malformed."""
    try:
        return json.loads(text, object_pairs_hook=without_repeats)
    except (ValueError, RecursionError) as error:
        raise Malformed("it is not JSON: %s" % error)


def without_repeats(pairs):
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def listed_files(manifest):
    """Path -> (sha256, bytes), as the manifest says. Raises Malformed."""
    sizes = {}
    files = manifest.get("files")
    if not isinstance(files, list):
        raise Malformed("it lists no files")
    for item in files:
        if not isinstance(item, dict) or not isinstance(item.get("path"), str) or "/" in item["path"]:
            raise Malformed("its list of files is damaged")
        if item["path"] in sizes or item["path"] in (MANIFEST, SIGNATURE):
            raise Malformed("its list of files names %s wrongly" % item["path"])
        sizes[item["path"]] = (item.get("sha256"), item.get("bytes"))
    for name in (ENTRIES, CONTEXT, VERIFICATION, PUBLIC_KEY):
        if name not in sizes:
            raise Malformed("its list of files lacks %s" % name)
    return sizes


def check_names(names, sizes, report):
    expected = set(sizes) | {MANIFEST, SIGNATURE}
    for name in sorted(expected - set(names)):
        report.problem(name, "the file is missing")
    for name in sorted(set(names) - expected):
        report.problem(name, "the file does not belong to the bundle: the manifest does not list it")
    for name in sorted(set(names)):
        if names.count(name) > 1:
            report.problem(name, "the file stands more than once in the archive")


def check_files(source, names, sizes, report):
    count = 0
    for name in sorted(set(names) & set(sizes)):
        digest, size = hashlib.sha256(), 0
        try:
            for piece in pieces_of(source, name):
                digest.update(piece)
                size += len(piece)
        except Malformed as error:
            report.problem(name, str(error))
            continue
        if (digest.hexdigest(), size) != sizes[name]:
            report.problem(name, "it is not the file that was signed: its SHA-256 is %s" % digest.hexdigest())
        count += 1
    report.held.append("%d files are the ones that the manifest lists, by SHA-256" % count)


# The signature, by hand: RFC 8017 (RSASSA-PKCS1-v1_5) over a key in RFC 5280's form.


def check_signature(source, names, raw, manifest, fingerprint, report):
    if PUBLIC_KEY not in names or SIGNATURE not in names:
        return
    try:
        der = pem_content(read_all(source, PUBLIC_KEY, 1 << 16))
        modulus, exponent = public_numbers(der)
    except Malformed as error:
        report.problem(PUBLIC_KEY, str(error))
        return
    try:
        signature = read_all(source, SIGNATURE, 1 << 16)
    except Malformed as error:
        report.problem(SIGNATURE, str(error))
        return
    if not signature_holds(modulus, exponent, signature, raw):
        report.problem(SIGNATURE, "the signature does not belong to manifest.json and public_key.pem")
    else:
        report.held.append("the signature of the manifest holds")
    found = hashlib.sha256(der).hexdigest()
    stated = manifest.get("signing_key")
    stated = stated.get("fingerprint") if isinstance(stated, dict) else None
    if found != stated:
        report.problem(PUBLIC_KEY, "its fingerprint is %s, the manifest says %s" % (found, stated))
    if fingerprint is not None and found != fingerprint.lower().replace(":", ""):
        report.problem(PUBLIC_KEY, "its fingerprint is %s, not the one that you expect" % found)
    report.about["fingerprint"] = found
    if fingerprint is None:
        report.unchecked.append(
            "whose key signed: compare its fingerprint %s with the one that the organisation published, "
            "or give it as --fingerprint" % found
        )
    else:
        report.held.append("the key that signed has the fingerprint that you expect")


def pem_content(text):
    lines = text.decode("ascii", "replace").strip().splitlines()
    if len(lines) < 3 or lines[0] != "-----BEGIN PUBLIC KEY-----" or lines[-1] != "-----END PUBLIC KEY-----":
        raise Malformed("it is not one public key in PEM form")
    try:
        return base64.b64decode("".join(lines[1:-1]), validate=True)
    except ValueError:
        raise Malformed("it is not one public key in PEM form")


def public_numbers(der):
    """Modulus and exponent of a SubjectPublicKeyInfo."""
    outer, rest = take(der, 0x30)
    algorithm, bits = take(outer, 0x30)
    key, more = take(bits, 0x03)
    if rest or more or not algorithm.startswith(RSA_ENCRYPTION) or key[:1] != b"\0":
        raise Malformed("it is not an RSA key")
    numbers, rest = take(key[1:], 0x30)
    modulus, numbers = take(numbers, 0x02)
    exponent, more = take(numbers, 0x02)
    if rest or more:
        raise Malformed("it is not an RSA key")
    return int.from_bytes(modulus, "big"), int.from_bytes(exponent, "big")


def take(der, tag):
    """The content of the first element, which must have that tag, and what comes after it."""
    if len(der) < 2 or der[0] != tag:
        raise Malformed("it is not an RSA key")
    length, start = der[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(der[2:start], "big")
    if len(der) < start + length:
        raise Malformed("it is not an RSA key")
    return der[start : start + length], der[start + length :]


def signature_holds(modulus, exponent, signature, message):
    size = (modulus.bit_length() + 7) // 8
    if size < 256 or len(signature) != size or exponent < 3:
        return False
    opened = pow(int.from_bytes(signature, "big"), exponent, modulus).to_bytes(size, "big")
    info = SHA256_DIGEST_INFO + hashlib.sha256(message).digest()
    return opened == b"\0\1" + b"\xff" * (size - len(info) - 3) + b"\0" + info


# What the files say: entries, context, lists.


class Entry:
    """One line of raw entries, sliced into exactly the texts that were hashed."""

    __slots__ = ("fields", "has_payload", "hash", "payload", "payload_text", "statement_text")

    def __init__(self, line):
        self.hash, _, position = value_after('{"hash":', line, 0)
        self.payload, payload_text, position = value_after(',"payload":', line, position)
        salt, _, position = value_after(',"salt":', line, position)
        self.fields, self.statement_text, position = value_after(',"statement":', line, position)
        if line[position:] != "}\n" or not isinstance(self.fields, dict) or not isinstance(self.hash, str):
            raise Malformed("the line is no raw entry")
        self.has_payload = self.payload is not None
        if self.has_payload != (salt is not None):
            raise Malformed("payload and salt do not go together")
        self.payload_text = '{"payload":%s,"salt":"%s"}' % (payload_text, salt) if self.has_payload else None


DECODER = json.JSONDecoder(object_pairs_hook=without_repeats)


def value_after(text, line, position):
    """The JSON value that comes after that text at that position, its own text, and where it ends."""
    if not line.startswith(text, position):
        raise Malformed("the line is no raw entry")
    start = position + len(text)
    try:
        value, end = DECODER.raw_decode(line, start)
    except (ValueError, RecursionError) as error:
        raise Malformed("it is not JSON: %s" % error)
    return value, line[start:end], end


def lines_of(source, name):
    """The lines of a file with their numbers. Raises Malformed."""
    with source.open(name) as stream:
        number = 0
        while True:
            line = stream.readline(LINE_BYTES_MAX)
            if not line:
                return
            number += 1
            if not line.endswith(b"\n"):
                raise Malformed("line %d does not end" % number)
            try:
                yield number, line.decode("utf-8")
            except UnicodeDecodeError:
                raise Malformed("line %d is not UTF-8" % number)


class Chain:
    """Follows the entries in their order."""

    def __init__(self, manifest, context, report):
        self.manifest = manifest
        self.context = context
        self.report = report
        self.may_have_gaps = any(
            (manifest.get("filters") or {}).get(name) is not None for name in ("agent_id", "action_type")
        )
        self.seq = None
        self.hash = None
        self.timestamp = ""
        self.first = None
        self.count = 0
        self.links = 0
        self.gaps = 0
        self.redacted = 0
        self.by_kind = {}
        self.waiting = {}

    def add(self, number, entry):
        where = "%s line %d" % (ENTRIES, number)
        fields = entry.fields
        problem = entry_problem(entry, self.manifest)
        if problem is not None:
            self.report.problem(where, problem)
            return
        seq = fields["seq"]
        where = "%s line %d (entry %d)" % (ENTRIES, number, seq)
        if self.seq is not None and seq <= self.seq:
            self.report.problem(where, "it stands after entry %d: the order was changed" % self.seq)
        elif self.seq is not None and seq != self.seq + 1:
            self.gaps += 1
            if not self.may_have_gaps:
                self.report.problem(where, "entries %d to %d are missing" % (self.seq + 1, seq - 1))
        elif self.seq is not None:
            self.links += 1
            if fields["prev_hash"] != self.hash:
                self.report.problem(where, "its prev_hash is not the hash of entry %d" % self.seq)
        if fields["timestamp"] <= self.timestamp:
            self.report.problem(where, "its time is not after that of the entry before it")
        if self.first is None:
            self.first = {"seq": seq, "prev_hash": fields["prev_hash"]}
            if seq == 1 and fields["prev_hash"] != GENESIS:
                self.report.problem(where, "it is the first of its chain and follows something")
        if not entry.has_payload and fields["payload_hash"] is not None:
            self.redacted += 1
            if self.context.erased.get(seq) != entry.hash:
                self.waiting[seq] = (number, entry.hash)
        note_evidence(entry, self.context)
        if fields["kind"] == "redaction" and isinstance(fields["body"], dict):
            found = self.waiting.get(fields["body"].get("target_seq"))
            if found is not None and found[1] == fields["body"].get("target_hash"):
                del self.waiting[fields["body"]["target_seq"]]
        self.seq, self.hash, self.timestamp = seq, entry.hash, fields["timestamp"]
        self.count += 1
        self.by_kind[fields["kind"]] = self.by_kind.get(fields["kind"], 0) + 1

    def finish(self):
        for seq, (number, _) in sorted(self.waiting.items()):
            where = "%s line %d (entry %d)" % (ENTRIES, number, seq)
            self.report.problem(where, "its payload is gone, and no redaction entry says so")
        chain = self.manifest.get("chain") or {}
        last = None if self.seq is None else {"seq": self.seq, "hash": self.hash}
        if chain.get("first") != self.first:
            self.report.problem(ENTRIES, "the first entry is not the one that the manifest names")
        if chain.get("last") != last:
            self.report.problem(ENTRIES, "the last entry is not the one that the manifest names")
        counts = self.manifest.get("counts") or {}
        if counts.get("entries") != self.count or counts.get("by_kind") != self.by_kind:
            self.report.problem(ENTRIES, "it holds %d entries, not those that the manifest counts" % self.count)
        if counts.get("redacted") != self.redacted:
            self.report.problem(ENTRIES, "the manifest counts another number of erased payloads")
        self.check_completeness(self.manifest.get("completeness") or {})

    def check_completeness(self, stated):
        first, last = stated.get("first_seq"), stated.get("last_seq")
        if not isinstance(first, int) or not isinstance(last, int):
            self.report.problem(MANIFEST, "it does not say which range it covers")
            return
        in_range = max(0, last - first + 1)
        numbers = (in_range, self.count, in_range - self.count, in_range == self.count, first == 1)
        names = ("entries_in_range", "entries_included", "entries_left_out", "is_complete", "covers_from_genesis")
        if tuple(stated.get(name) for name in names) != numbers:
            self.report.problem(MANIFEST, "what it says of its completeness does not fit the entries")
        if self.first is not None and not first <= self.first["seq"] <= self.seq <= last:
            self.report.problem(ENTRIES, "there are entries outside of the range that the manifest names")
        if not self.may_have_gaps and in_range != self.count:
            self.report.problem(ENTRIES, "%d entries of the range are missing" % (in_range - self.count))


def entry_problem(entry, manifest):
    """What is wrong with an entry by itself; None when nothing is."""
    fields = entry.fields
    if hashlib.sha256(entry.statement_text.encode("utf-8", "surrogatepass")).hexdigest() != entry.hash:
        return "its hash is not that of its statement"
    if set(fields) != STATEMENT_KEYS or fields["v"] != 1:
        return "its statement is not one of chain version 1"
    if not isinstance(fields["seq"], int) or not isinstance(fields["timestamp"], str) or fields["seq"] < 1:
        return "its statement is damaged"
    if not isinstance(fields["kind"], str) or not isinstance(fields["prev_hash"], str):
        return "its statement is damaged"
    if (fields["org_id"], fields["environment"]) != (manifest.get("org_id"), manifest.get("environment")):
        return "it belongs to another chain"
    if entry.has_payload:
        if fields["payload_hash"] is None:
            return "it has a payload where its statement says that there is none"
        if hashlib.sha256(entry.payload_text.encode("utf-8", "surrogatepass")).hexdigest() != fields["payload_hash"]:
            return "its payload is not the one that was hashed"
    return None


class Context:
    """What entries say about others: which payloads were erased, which keys sign."""

    def __init__(self):
        self.erased = {}
        self.fingerprints = set()
        self.count = 0


def note_evidence(entry, context):
    body = entry.fields["body"]
    if not isinstance(body, dict):
        return
    if entry.fields["kind"] in KEY_KINDS:
        context.fingerprints.add(body.get("fingerprint"))
    elif entry.fields["kind"] == "redaction" and isinstance(body.get("target_seq"), int):
        if len(context.erased) < 10_000_000:
            context.erased[body["target_seq"]] = body.get("target_hash")


def check_contents(source, manifest, report):
    context = Context()
    try:
        read_context(source, manifest, context, report)
        chain = Chain(manifest, context, report)
        for number, line in lines_of(source, ENTRIES):
            try:
                chain.add(number, Entry(line))
            except Malformed as error:
                report.problem("%s line %d" % (ENTRIES, number), damage(line) or str(error))
        chain.finish()
    except Malformed as error:
        report.problem(ENTRIES, str(error))
        return
    check_key(manifest, context, report)
    check_verdict(source, manifest, report)
    if report.problems_count == 0:
        for name in sorted((manifest.get("counts") or {}).get("tables") or {}):
            check_table(source, name, manifest, report)
    if report.problems_count == 0:
        say_what_holds(manifest, chain, report)


def damage(line):
    """What a line says that stands for an entry whose stored form was damaged when the bundle was made."""
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    if isinstance(fields, dict) and fields.get("damaged") is True:
        return "entry %s was already damaged in the store when the bundle was made" % fields.get("seq")
    return None


def read_context(source, manifest, context, report):
    for number, line in lines_of(source, CONTEXT):
        where = "%s line %d" % (CONTEXT, number)
        try:
            entry = Entry(line)
        except Malformed as error:
            report.problem(where, damage(line) or str(error))
            continue
        problem = entry_problem(entry, manifest)
        if problem is not None:
            report.problem(where, problem)
            continue
        note_evidence(entry, context)
        context.count += 1
    if (manifest.get("counts") or {}).get("context") != context.count:
        report.problem(CONTEXT, "it holds %d entries, not as many as the manifest counts" % context.count)


def check_key(manifest, context, report):
    fingerprint = (manifest.get("signing_key") or {}).get("fingerprint")
    if fingerprint in context.fingerprints:
        report.held.append("an entry of the chain names the key that signed")
    elif context.fingerprints:
        report.problem(PUBLIC_KEY, "the chain names other keys than the one that signed")
    else:
        report.unchecked.append("whether the chain names the key that signed: no such entry is in this bundle")


def check_verdict(source, manifest, report):
    try:
        verdict = parse(read_all(source, VERIFICATION, MANIFEST_BYTES_MAX))
    except Malformed as error:
        report.problem(VERIFICATION, str(error))
        return
    stated = (manifest.get("chain") or {}).get("is_valid")
    if not isinstance(verdict, dict) or verdict.get("is_valid") is not stated:
        report.problem(VERIFICATION, "it does not say what the manifest says")
    elif stated is not True:
        report.problem(VERIFICATION, "the chain did not hold when the bundle was made: %s" % verdict.get("first_break"))


def check_table(source, name, manifest, report):
    """Each row of a list is one of the raw entries, in their order, and none of its kind is left out."""
    count = manifest["counts"]["tables"][name]
    try:
        found = (check_rows if name.endswith(".csv") else check_records)(source, name, report)
    except Malformed as error:
        report.problem(name, str(error))
        return
    if found != count:
        report.problem(name, "it has %s rows, the manifest counts %s" % (found, count))


class InOrder:
    """Finds entries by their hashes, each after the one before."""

    def __init__(self, source):
        self.lines = lines_of(source, ENTRIES)

    def find(self, wanted):
        """The line of that entry; None when there is none after the last one found."""
        head = '{"hash":"%s",' % wanted
        return next((line for _, line in self.lines if line.startswith(head)), None)


def check_records(source, name, report):
    entries = InOrder(source)
    count = 0
    for number, line in lines_of(source, name):
        try:
            record = json.loads(line, object_pairs_hook=without_repeats)
        except (ValueError, RecursionError) as error:
            raise Malformed("line %d is not JSON: %s" % (number, error))
        count += 1
        found = entries.find(record.get("hash")) if isinstance(record, dict) else None
        if found is None:
            report.problem("%s line %d" % (name, number), "it is none of the raw entries, or out of their order")
            return count
        entry = Entry(found)
        problem = record_problem(record, entry)
        if problem is not None:
            report.problem("%s line %d (entry %s)" % (name, number, entry.fields["seq"]), problem)
    return count


def record_problem(record, entry):
    statement = dict(entry.fields)
    body = statement.pop("body")
    members = dict(body)
    if entry.has_payload:
        members.update(entry.payload)
    for field, value in members.items():
        if field not in record or record[field] != value or type(record[field]) is not type(value):
            return "its %s is not that of the raw entry" % field
    for field, value in statement.items():
        if field != "kind" and field not in members and record.get(field) != value:
            return "its %s is not that of the raw entry" % field
    is_erased = not entry.has_payload and statement["payload_hash"] is not None
    if bool(record.get("redacted")) != is_erased:
        return "it does not say rightly whether its payload was erased"
    return None


def check_rows(source, name, report):
    csv.field_size_limit(LINE_BYTES_MAX)
    entries = InOrder(source)
    count = 0
    with source.open(name) as stream:
        try:
            for row in csv.DictReader(io.TextIOWrapper(stream, encoding="utf-8", newline=""), strict=True):
                count += 1
                found = entries.find(row.get("hash"))
                if found is None or '"seq":%s,' % row.get("seq") not in found:
                    report.problem("%s row %d" % (name, count), "it is none of the raw entries, or out of their order")
                    return count
        except (csv.Error, UnicodeDecodeError) as error:
            raise Malformed("it is no CSV: %s" % error)
    return count


def say_what_holds(manifest, chain, report):
    counts = manifest["counts"]
    report.held.append(
        "%d entries: each hash is that of its text, each payload is the one that was hashed" % chain.count
    )
    report.held.append("%d links between neighbouring entries hold" % chain.links)
    if chain.redacted:
        report.held.append("%d payloads were erased; a redaction entry says so for each" % chain.redacted)
    for name in sorted(counts.get("tables") or {}):
        report.held.append("%s lists %d of the raw entries" % (name, counts["tables"][name]))
    report.held.append("completeness: %s" % manifest["completeness"].get("statement"))
    if chain.gaps:
        report.unchecked.append("%d links across entries that the filter left out" % chain.gaps)
    if chain.first is not None and chain.first["seq"] > 1:
        report.unchecked.append("what stands before entry %d, whose prev_hash is taken as given" % chain.first["seq"])
    report.unchecked.append(
        "whether the chain is still the same, and what came after it: compare entry %s and its hash %s with a receipt, "
        "a checkpoint, or the server" % (chain.seq, chain.hash)
    )


def show(report):
    for name in ("export_id", "org_id", "environment", "created_at"):
        if name in report.about:
            print("%s: %s" % (name, report.about[name]))
    if report.problems_count:
        for text in report.problems:
            print("FAILED: %s" % text)
        if report.problems_count > len(report.problems):
            print("and %d more" % (report.problems_count - len(report.problems)))
        print("This bundle is NOT what was signed, or not evidence of a chain that holds.")
        return
    for text in report.held:
        print("ok: %s" % text)
    for text in report.unchecked:
        print("not checked: %s" % text)
    print("VERIFIED")


def as_document(report):
    return {
        "verdict": "failed" if report.problems_count else "verified",
        "about": report.about,
        "problems": report.problems,
        "problems_count": report.problems_count,
        "held": report.held,
        "not_checked": report.unchecked,
    }


def main(arguments):
    path, fingerprint, as_json = None, None, False
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if argument == "--json":
            as_json = True
        elif argument == "--fingerprint" and waiting:
            fingerprint = waiting.pop(0)
        elif path is None and not argument.startswith("-"):
            path = argument
        else:
            print(__doc__.strip(), file=sys.stderr)
            return 2
    try:
        report = check(path or os.path.dirname(os.path.abspath(__file__)), fingerprint)
    except (NotABundle, OSError) as error:
        print("could not check: %s" % error, file=sys.stderr)
        return 2
    if as_json:
        print(json.dumps(as_document(report)))
    else:
        show(report)
    return 1 if report.problems_count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
