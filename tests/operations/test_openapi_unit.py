"""The OpenAPI document follows from the routes, whoever contributes them."""

from __future__ import annotations

import json
from typing import ClassVar

from pydantic import BaseModel
from starlette.routing import Mount, Route

from precipiq_contracts.contribution import Contribution
from precipiq_contracts.errors import Gone
from precipiq_core.http.answers import OwnAnswer
from precipiq_core.http.endpoint import Endpoint, RawBody
from precipiq_operations.openapi import openapi_document
from tests.http_site import PAGES, NoteOut, Site


def test_openapi_follows_from_the_endpoints() -> None:
    document = openapi_document(Site().routes, title="t", version="1")
    post = document["paths"]["/api/v1/notes"]["post"]
    get = document["paths"]["/api/v1/notes"]["get"]

    assert document["openapi"] == "3.1.0"
    assert (post["summary"], post["tags"], post["operationId"]) == ("Write a note", ["notes"], "notes_write")
    assert "scope `write`" in post["description"]
    assert "It stays." in post["description"]
    assert set(post["responses"]) == {"201", "401", "403", "408", "409", "413", "415", "422", "429", "500", "503"}
    assert post["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/NoteIn")
    assert [item["name"] for item in get["parameters"]] == ["limit", "agent", "metadata.KEY"]
    assert document["paths"]["/api/v1/notes/{id}"]["get"]["parameters"][0]["description"] == "a note's id"
    assert document["paths"]["/page"]["get"]["security"] == []
    json.dumps(document)


class OwnGone(Gone):
    code = "own_gone"


class Zip(OwnAnswer):
    media_type: ClassVar[str] = "a/zip"
    has_ranges: ClassVar[bool] = True


class Lines(OwnAnswer):
    media_type: ClassVar[str] = "text/event-stream"
    model: ClassVar[type[BaseModel]] = NoteOut
    key_in_query: ClassVar[bool] = True


def test_openapi_tells_of_downloads_and_of_a_plugins_own_errors() -> None:
    endpoint = Endpoint("GET", "/x", Site().read, "read", Zip, errors=("own_gone",))
    document = openapi_document([Contribution("notes", endpoint)], title="t", version="1")
    get = document["paths"]["/api/v1/x"]["get"]

    content = {"a/zip": {"schema": {"type": "string", "format": "binary"}}}
    assert [get["responses"][status].get("content") for status in ("200", "206", "304")] == [content, content, None]
    assert {"416", "410", "429"} <= set(get["responses"])
    assert "`own_gone`" in get["responses"]["410"]["description"]
    assert "Content-Range" in get["responses"]["206"]["headers"]
    assert [item["name"] for item in get["parameters"]] == ["Range", "If-Range", "If-None-Match"]


def test_openapi_tells_of_pages_with_path_parameters() -> None:
    document = openapi_document(PAGES, title="t", version="1")
    get = document["paths"]["/.well-known/{org_id}/keys"]["get"]

    assert [(item["name"], item["description"]) for item in get["parameters"]] == [("org_id", "an organisation's id")]
    assert set(get["responses"]) == {"200", "404", "422", "429"}
    page = document["paths"]["/page"]["get"]
    assert page == {
        "operationId": "core_page",
        "tags": ["core"],
        "summary": "A page",
        "security": [],
        "parameters": [],
        "responses": {"200": {"description": "success", "content": {"text/plain": {"schema": {"type": "string"}}}}},
    }


def test_openapi_tells_of_raw_bodies_and_of_the_headers_that_they_need() -> None:
    def post(body: RawBody) -> dict:
        endpoint = Endpoint("POST", "/x", Site().read, "read", NoteOut, body=body)
        return openapi_document([Contribution("notes", endpoint)], title="t", version="1")["paths"]["/api/v1/x"]["post"]

    assert post(RawBody(5))["parameters"] == []
    [header] = post(RawBody(5, {"signed": "what it was signed with"}))["parameters"]
    assert (header["name"], header["in"], header["required"]) == ("signed", "header", True)
    assert {"408", "413", "415"} <= set(post(RawBody(5))["responses"])
    assert "409" not in post(RawBody(5))["responses"]


def test_openapi_tells_of_streams_and_where_their_key_may_stand() -> None:
    endpoint = Endpoint("GET", "/x", Site().read, "read", Lines)
    document = openapi_document([Contribution("notes", endpoint)], title="t", version="1")
    get = document["paths"]["/api/v1/x"]["get"]

    assert get["security"] == [{"key": []}, {"bearer": []}, {"query": []}]
    assert [item["name"] for item in get["parameters"]] == ["Last-Event-ID"]
    assert get["responses"]["200"]["content"] == {"text/event-stream": {"schema": {"type": "string"}}}
    assert "NoteOut" in document["components"]["schemas"]


def test_openapi_leaves_starlettes_routes_out() -> None:
    routes = [Route("/x", endpoint=print), Mount("/y", routes=[])]

    assert openapi_document([Contribution("notes", route) for route in routes], title="t", version="1")["paths"] == {}
