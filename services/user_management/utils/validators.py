"""Rules for text that comes from outside: what is accepted, and the one form in which it is stored; and the forms in
which e-mail addresses are compared and names searched.

Each rule is a plain function, which returns the text in its stored form or raises PydanticCustomError (a ValueError),
and a type for schemas. A rule removes only what its docstring names; applying it to its own result changes nothing.
Messages say what to do and never repeat the text."""

import html
import importlib.resources
import ipaddress
import re
import unicodedata
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Final

from email_validator import EmailNotValidError, validate_email
from pydantic import AfterValidator, GetCoreSchemaHandler, GetJsonSchemaHandler, StringConstraints, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

MAX_NAME_CHARACTERS: Final = 100
MAX_EMAIL_CHARACTERS: Final = 254
"""RFC 5321 section 4.5.3.1.3: a path of 256 octets with its angle brackets."""
MAX_URL_CHARACTERS: Final = 2048

# Insides of character classes, in the escapes that Python and ECMAScript share, so that OpenAPI can say them too.
# Controls; line and paragraph separator; bidi embeddings, overrides and isolates; noncharacters.
_FORBIDDEN: Final = r"\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufdd0-\ufdef\ufffe\uffff"
# Whitespace, Default_Ignorable_Code_Point (UAX 44), interlinear annotation, the braille blank.
_INVISIBLE: Final = (
    r"\s\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2060-\u206f\u2800\u3164"
    r"\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
)
_FORBIDDEN_BEYOND: Final = r"\ud800-\udfff" + "".join(rf"\U{plane:04x}fffe\U{plane:04x}ffff" for plane in range(1, 17))
_INVISIBLE_BEYOND: Final = r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
_MARKUP: Final = r"<>\u226e\u226f\ufe64\ufe65\uff1c\uff1e"

_FORBIDDEN_CHARACTER: Final = re.compile(f"[{_FORBIDDEN}{_FORBIDDEN_BEYOND}]")
_NOTHING_VISIBLE: Final = re.compile(f"[{_INVISIBLE}{_INVISIBLE_BEYOND}]*")
# The longest canonical decomposition of one character: longer text cannot come down to the limit.
_LONGEST_DECOMPOSITION: Final = 4

# A DNS name does not end in a number: a browser takes that for IPv4, in octal, hexadecimal or fewer parts as well.
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS_NAME: Final = rf"(?:{_LABEL}\.)*[A-Za-z](?:[A-Za-z0-9-]{{0,61}}[A-Za-z0-9])?"
_OCTET: Final = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4: Final = rf"(?:{_OCTET}\.){{3}}{_OCTET}"
_PORT: Final = r"(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_SCHEME: Final = "[Hh][Tt][Tt][Pp][Ss]?://"
# Not in a path, query or fragment by RFC 3986, but for `%` and `#`; what is not ASCII may be typed as it is.
_NOT_IN_URL: Final = rf'"#%<>\\^`{{|}}{_INVISIBLE}'


def _url_tail(forbidden: str) -> str:
    character = f"(?:[^{forbidden}]|%[0-9A-Fa-f]{{2}})*"
    return f"(?::{_PORT})?(?:[/?]{character})?(?:#{character})?"


_URL: Final = re.compile(
    rf"{_SCHEME}(?:(?P<name>{_DNS_NAME})|{_IPV4}|\[(?P<ipv6>[0-9A-Fa-f:.]+)\])"
    + _url_tail(_NOT_IN_URL + _INVISIBLE_BEYOND)
)
# This leaves IPv6 out, since no readable pattern tells valid IPv6 addresses from invalid ones.
_URL_PATTERN: Final = f"^{_SCHEME}(?:{_DNS_NAME}|{_IPV4}){_url_tail(_NOT_IN_URL + _FORBIDDEN)}$"

_LOCALE_PATTERN: Final = r"([A-Za-z]{2,3})(-[A-Za-z]{4})?(-(?:[A-Za-z]{2}|[0-9]{3}))?"
_LOCALE: Final = re.compile(_LOCALE_PATTERN)
_PHONE_PATTERN: Final = r"[ ().-]*\+[ ().-]*[1-9](?:[ ().-]*[0-9]){6,14}[ ().-]*"
_PHONE: Final = re.compile(_PHONE_PATTERN)
_WITHOUT_SEPARATORS: Final = str.maketrans("", "", " ().-")


def _zone_names() -> frozenset[str]:
    """Return the time zones that the pinned package `tzdata` lists, without its names that are no zones.
    `zoneinfo.available_timezones()` adds those of this machine (`localtime`), which other machines need not have."""
    names = importlib.resources.files("tzdata").joinpath("zones").read_text(encoding="ascii").split()
    return frozenset(names) - {"Factory", "localtime", "posixrules"}


TIME_ZONES: Final = _zone_names()


def plain_line(text: str, *, max_length: int) -> str:
    """One line of text: NFC, without whitespace at its ends, 1 to `max_length` characters of which at least one can be
    seen.

    Refuses controls (also at the ends), line separators, bidi overrides and isolates, surrogates and noncharacters.
    Joiners are accepted, since they are part of names in Indic scripts and of emoji.
    """
    if _FORBIDDEN_CHARACTER.search(text):
        raise PydanticCustomError(
            "text_forbidden_character", "must be one line without control or text direction characters: remove them"
        )
    text = text.strip()
    # The length is checked before NFC, whose time grows with the square of a run of combining marks.
    if len(text) <= max_length * _LONGEST_DECOMPOSITION:
        text = unicodedata.normalize("NFC", text)
    if len(text) > max_length:
        raise PydanticCustomError(
            "text_too_long", "must have at most {max_length} characters: shorten it", {"max_length": max_length}
        )
    if _NOTHING_VISIBLE.fullmatch(text):
        raise PydanticCustomError("text_blank", "must not be blank: give at least one visible character")
    return text


def person_name(text: str, *, max_length: int = MAX_NAME_CHARACTERS) -> str:
    """A `plain_line` that no browser reads as markup: neither `<` nor `>`, and no HTML character reference.

    A reference is what HTML's own algorithm takes for one, with or without its semicolon: `&lt;`, `&lt`, `&#60;`, not
    `Smith & Sons` or `AT&T`. The text is judged in NFKD, so that software that folds wide letters later makes no markup
    of it.
    """
    text = plain_line(text, max_length=max_length)
    folded = unicodedata.normalize("NFKD", text)
    if "<" in folded or ">" in folded or html.unescape(folded) != folded:
        raise PydanticCustomError("name_markup", "must not contain markup: remove <, > and codes like &amp;")
    return text


def email_address(text: str) -> str:
    """An e-mail address as RFC 5321 and 6531 write it, at most 254 characters: NFC, trimmed, its domain in lower case.

    The local part stays as typed, and the domain in the form (Unicode or `xn--`) it was typed in. Refused are a domain
    that IDNA would map to another spelling, quoted local parts, address literals and reserved domains (.test).
    """
    text = plain_line(text, max_length=MAX_EMAIL_CHARACTERS)
    local, _, domain = text.rpartition("@")
    domain = domain.lower()
    try:
        parts = validate_email(f"{local}@{domain}", check_deliverability=False, strict=True)
    except EmailNotValidError:
        parts = None
    if parts is None or domain not in (parts.domain, parts.ascii_domain):
        raise PydanticCustomError("email_address", "must be an e-mail address like name@example.com")
    return f"{local}@{domain}"


def normalize_email(email: str) -> str:
    """Return the form in which addresses are compared: NFC and lower case. It is computed here, since lower() in SQL
    depends on the cluster's locale."""
    return unicodedata.normalize("NFC", email).lower()


def search_key(text: str) -> str:
    """Return the form in which names are searched: NFKD without marks, case-folded, with single spaces. The caller has
    to bound the length of `text`."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return " ".join(plain.casefold().split())


def http_url(text: str) -> str:
    """An absolute http(s) URL (RFC 3986), NFC and trimmed, otherwise as typed, at most 2048 characters.

    The host is a DNS name in ASCII (`xn--` if need be), IPv4 or `[IPv6]`, since parsers disagree on all others. Refused
    are a user or password, `\\`, `^`, backtick, quotes, braces, `|`, `<`, `>`, incomplete escapes and invisible
    characters."""
    text = plain_line(text, max_length=MAX_URL_CHARACTERS)
    match = _URL.fullmatch(text)
    if match is None or len(match["name"] or "") > 253 or not _is_ipv6(match["ipv6"] or "::"):
        raise PydanticCustomError(
            "url", "must be an absolute http or https URL without user, spaces or backslashes: percent-encode the rest"
        )
    return text


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def time_zone(text: str) -> str:
    """A time zone: a name of the pinned IANA database, in exactly its upper and lower case."""
    if text not in TIME_ZONES:
        raise PydanticCustomError("time_zone", "must be an IANA time zone like Europe/Zurich, spelled exactly so")
    return text


def locale_tag(text: str) -> str:
    """A language tag, language[-Script][-REGION] of BCP 47, put into the case of RFC 5646 section 2.1.1: `zh-hant-tw`
    becomes `zh-Hant-TW`."""
    match = _LOCALE.fullmatch(text)
    if match is None:
        raise PydanticCustomError("locale", "must be a language tag like en, en-US or zh-Hant-TW")
    language, script, region = match.groups("")
    return language.lower() + script[:2].upper() + script[2:].lower() + region.upper()


def phone_number(text: str) -> str:
    """A phone number of E.164: `+`, then 7 to 15 digits, the first not 0. Spaces, hyphens, parentheses and dots are
    removed."""
    if _PHONE.fullmatch(text) is None:
        raise PydanticCustomError("phone_number", "must be an international number like +41 44 668 18 00")
    return text.translate(_WITHOUT_SEPARATORS)


def _line_schema(max_length: int, *, forbidden: str = _FORBIDDEN) -> dict[str, Any]:
    """Return the JSON Schema of a line, as far as a pattern can say it: characters beyond U+FFFF are left out, since no
    escape for them is known to all readers of OpenAPI."""
    pattern = f"^[^{forbidden}]*[^{forbidden}{_INVISIBLE}][^{forbidden}]*$"
    return {"type": "string", "minLength": 1, "maxLength": max_length, "pattern": pattern}


@dataclass(frozen=True, slots=True)
class PlainLine:
    """The type of a `plain_line`: `Annotated[str, PlainLine(200)]` has at most 200 characters, counted in the stored
    form."""

    max_length: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        validate = partial(plain_line, max_length=self.max_length)
        return core_schema.no_info_after_validator_function(validate, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(schema) | _line_schema(self.max_length)


PersonName = Annotated[
    str,
    AfterValidator(person_name),
    WithJsonSchema(_line_schema(MAX_NAME_CHARACTERS, forbidden=_MARKUP + _FORBIDDEN)),
]
EmailAddress = Annotated[
    str,
    AfterValidator(email_address),
    WithJsonSchema({"type": "string", "format": "email", "maxLength": MAX_EMAIL_CHARACTERS}),
]
HttpUrl = Annotated[
    str,
    AfterValidator(http_url),
    WithJsonSchema({"type": "string", "pattern": _URL_PATTERN, "maxLength": MAX_URL_CHARACTERS}),
]
TimeZoneName = Annotated[
    str, AfterValidator(time_zone), WithJsonSchema({"type": "string", "examples": ["Europe/Zurich"]})
]
LocaleTag = Annotated[
    str, AfterValidator(locale_tag), WithJsonSchema({"type": "string", "pattern": f"^{_LOCALE_PATTERN}$"})
]
PhoneNumber = Annotated[
    str, AfterValidator(phone_number), WithJsonSchema({"type": "string", "pattern": f"^{_PHONE_PATTERN}$"})
]
ProviderName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
Scope = Annotated[str, StringConstraints(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]{1,256}$")]
"""A scope: a scope-token of RFC 6749 section 3.3, of at most 256 characters."""
