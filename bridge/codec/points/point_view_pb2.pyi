from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Points(_message.Message):
    __slots__ = ("arr",)
    ARR_FIELD_NUMBER: _ClassVar[int]
    arr: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, arr: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Point(_message.Message):
    __slots__ = ("name", "fields", "time")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    name: bytes
    fields: _containers.RepeatedScalarFieldContainer[bytes]
    time: int
    def __init__(self, name: _Optional[bytes] = ..., fields: _Optional[_Iterable[bytes]] = ..., time: _Optional[int] = ...) -> None: ...
