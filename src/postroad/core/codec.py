"""Codecs: payload objects to bytes and back. JSON here; the protocol is the seam for others."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from postroad.core.fields import formless, unknown_fields
from postroad.errors import (
    DeclarationError,
    DecodeError,
    EncodeError,
    UnknownFieldError,
    WrongTypeError,
)

T = TypeVar("T")

_QUOTED = re.compile(r"^(Invalid (?:enum )?value) .*?(?=$| - at `\$[^`]*`$)", re.DOTALL)
"""What msgspec says of a value that is none of an enum, a literal or a union's tags."""


class Codec(Protocol[T]):
    """Turns payloads of one type into bytes and back.

    Both functions are pure and thread-safe, and raise `PayloadError` and nothing else.
    """

    content_type: str

    def encode(self, payload: T) -> bytes:
        """The bytes of a payload.

        Raises:
            EncodeError: the payload is not of the codec's type.
        """
        ...

    def decode(self, data: bytes) -> T:
        """The payload of bytes.

        Raises:
            DecodeError: not of this encoding.
            WrongTypeError: of this encoding, not of this type.
            UnknownFieldError: has fields that the type lacks, where the codec minds.
        """
        ...


class JsonCodec(Generic[T]):
    """JSON by msgspec: for Struct, dataclass, TypedDict, attrs and builtin types; by pydantic
    itself for pydantic models.

    Args:
        payload_type: the type of every payload.
        reject_unknown: whether a field that the type lacks is an error; else it is ignored.

    Raises:
        DeclarationError: no JSON form of the type is known.
    """

    content_type = "application/json"

    def __init__(self, payload_type: Any, *, reject_unknown: bool = False) -> None:
        self._type = payload_type
        self._reject_unknown = reject_unknown
        self._pydantic = hasattr(payload_type, "model_validate_json")
        if self._pydantic:
            self._decode: Callable[[bytes], T] = payload_type.model_validate_json
            self._encode: Callable[[T], bytes] = _pydantic_encode
        else:
            self._decode = _decoder(payload_type)
            self._encode = msgspec.json.Encoder().encode
        self._accepted = _accepted(payload_type)

    def encode(self, payload: T) -> bytes:
        if not isinstance(payload, self._accepted):
            raise EncodeError(
                f"the topic carries {self._type.__name__}, not {type(payload).__name__}"
            )
        try:
            return self._encode(payload)
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            # msgspec names types only; texts of other origin may quote the payload.
            why = type(error).__name__ if self._pydantic else _without_values(error)
            raise EncodeError(f"cannot encode {type(payload).__name__}: {why}") from None

    def decode(self, data: bytes) -> T:
        try:
            payload = self._decode(data)
        except msgspec.ValidationError as error:
            raise _type_error(error) from None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise DecodeError(f"not JSON: {error}") from None
        except ValueError as error:
            raise _pydantic_error(error) from None
        except Exception as error:  # noqa: BLE001 - a type's own check may raise anything
            raise WrongTypeError(f"the type's own check raised {type(error).__name__}") from None
        if self._reject_unknown:
            self._check_unknown(data)
        return payload

    def _check_unknown(self, data: bytes) -> None:
        try:
            value = msgspec.json.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise DecodeError(f"not JSON: {error}") from None
        unknown = unknown_fields(value, self._type)
        if unknown:
            raise UnknownFieldError(f"fields unknown to the topic's type: {', '.join(unknown)}")


def _decoder(payload_type: Any) -> Callable[[bytes], Any]:
    try:
        strange = formless(payload_type)
        if strange:
            raise TypeError(f"{', '.join(strange)} has no JSON form")
        return msgspec.json.Decoder(payload_type).decode
    except (TypeError, NameError) as error:
        raise DeclarationError(
            f"no JSON codec for payload type {payload_type!r}: {error}"
        ) from None


def _accepted(payload_type: Any) -> type | tuple[type, ...]:
    """What `isinstance` takes for a payload of this type."""
    if not isinstance(payload_type, type) or payload_type is Any:
        return object
    if _is_typed_dict(payload_type):
        return dict
    return (float, int) if payload_type is float else payload_type


def _is_typed_dict(payload_type: Any) -> bool:
    return isinstance(payload_type, type) and hasattr(payload_type, "__total__")


def _type_error(error: msgspec.ValidationError) -> WrongTypeError | UnknownFieldError:
    """What does not fit and where, without the value itself."""
    if error.__cause__ is not None:  # raised by the type's own code, in its own words
        return WrongTypeError(f"the type's own check raised {type(error.__cause__).__name__}")
    text = _QUOTED.sub(r"\1", str(error))
    return UnknownFieldError(text) if "unknown field" in text else WrongTypeError(text)


def _without_values(error: Exception) -> str:
    return type(error).__name__ if isinstance(error, UnicodeError) else str(error)


def _pydantic_encode(payload: Any) -> bytes:
    if not hasattr(payload, "model_dump_json"):
        raise TypeError("not a pydantic model")
    # A warning would quote the value that does not fit; and it is no payload of the topic.
    text: str = payload.model_dump_json(by_alias=True, warnings="error")
    return text.encode()


def _pydantic_error(error: ValueError) -> DecodeError | WrongTypeError:
    """Pydantic's own text quotes the input; ours names the places only."""
    details = getattr(error, "errors", None)
    if details is None:
        return DecodeError("not JSON")
    found = details(include_url=False, include_input=False, include_context=False)
    if any(item["type"] == "json_invalid" for item in found):
        return DecodeError("not JSON")
    places = ", ".join(".".join(map(str, item["loc"])) or "(root)" for item in found)
    return WrongTypeError(f"does not fit the topic's type at: {places}")
