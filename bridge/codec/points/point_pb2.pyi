from google.protobuf import any_pb2 as _any_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MetricType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UNSPECIFIED: _ClassVar[MetricType]
    COUNT: _ClassVar[MetricType]
    RATE: _ClassVar[MetricType]
    GAUGE: _ClassVar[MetricType]
    SUM_DELTA: _ClassVar[MetricType]
    SUM_CUMULATIVE: _ClassVar[MetricType]
UNSPECIFIED: MetricType
COUNT: MetricType
RATE: MetricType
GAUGE: MetricType
SUM_DELTA: MetricType
SUM_CUMULATIVE: MetricType

class PBPoints(_message.Message):
    __slots__ = ("arr",)
    ARR_FIELD_NUMBER: _ClassVar[int]
    arr: _containers.RepeatedCompositeFieldContainer[PBPoint]
    def __init__(self, arr: _Optional[_Iterable[_Union[PBPoint, _Mapping]]] = ...) -> None: ...

class PBPoint(_message.Message):
    __slots__ = ("name", "fields", "time", "warns", "debugs")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    WARNS_FIELD_NUMBER: _ClassVar[int]
    DEBUGS_FIELD_NUMBER: _ClassVar[int]
    name: str
    fields: _containers.RepeatedCompositeFieldContainer[Field]
    time: int
    warns: _containers.RepeatedCompositeFieldContainer[Warn]
    debugs: _containers.RepeatedCompositeFieldContainer[Debug]
    def __init__(self, name: _Optional[str] = ..., fields: _Optional[_Iterable[_Union[Field, _Mapping]]] = ..., time: _Optional[int] = ..., warns: _Optional[_Iterable[_Union[Warn, _Mapping]]] = ..., debugs: _Optional[_Iterable[_Union[Debug, _Mapping]]] = ...) -> None: ...

class Field(_message.Message):
    __slots__ = ("key", "i", "u", "f", "b", "d", "a", "s", "is_tag", "type", "unit")
    KEY_FIELD_NUMBER: _ClassVar[int]
    I_FIELD_NUMBER: _ClassVar[int]
    U_FIELD_NUMBER: _ClassVar[int]
    F_FIELD_NUMBER: _ClassVar[int]
    B_FIELD_NUMBER: _ClassVar[int]
    D_FIELD_NUMBER: _ClassVar[int]
    A_FIELD_NUMBER: _ClassVar[int]
    S_FIELD_NUMBER: _ClassVar[int]
    IS_TAG_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    key: str
    i: int
    u: int
    f: float
    b: bool
    d: bytes
    a: _any_pb2.Any
    s: str
    is_tag: bool
    type: MetricType
    unit: str
    def __init__(self, key: _Optional[str] = ..., i: _Optional[int] = ..., u: _Optional[int] = ..., f: _Optional[float] = ..., b: _Optional[bool] = ..., d: _Optional[bytes] = ..., a: _Optional[_Union[_any_pb2.Any, _Mapping]] = ..., s: _Optional[str] = ..., is_tag: _Optional[bool] = ..., type: _Optional[_Union[MetricType, str]] = ..., unit: _Optional[str] = ...) -> None: ...

class Warn(_message.Message):
    __slots__ = ("type", "msg")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MSG_FIELD_NUMBER: _ClassVar[int]
    type: str
    msg: str
    def __init__(self, type: _Optional[str] = ..., msg: _Optional[str] = ...) -> None: ...

class Debug(_message.Message):
    __slots__ = ("info",)
    INFO_FIELD_NUMBER: _ClassVar[int]
    info: str
    def __init__(self, info: _Optional[str] = ...) -> None: ...

class BasicTypes(_message.Message):
    __slots__ = ("i", "u", "f", "b", "d", "s")
    I_FIELD_NUMBER: _ClassVar[int]
    U_FIELD_NUMBER: _ClassVar[int]
    F_FIELD_NUMBER: _ClassVar[int]
    B_FIELD_NUMBER: _ClassVar[int]
    D_FIELD_NUMBER: _ClassVar[int]
    S_FIELD_NUMBER: _ClassVar[int]
    i: int
    u: int
    f: float
    b: bool
    d: bytes
    s: str
    def __init__(self, i: _Optional[int] = ..., u: _Optional[int] = ..., f: _Optional[float] = ..., b: _Optional[bool] = ..., d: _Optional[bytes] = ..., s: _Optional[str] = ...) -> None: ...

class Array(_message.Message):
    __slots__ = ("arr",)
    ARR_FIELD_NUMBER: _ClassVar[int]
    arr: _containers.RepeatedCompositeFieldContainer[BasicTypes]
    def __init__(self, arr: _Optional[_Iterable[_Union[BasicTypes, _Mapping]]] = ...) -> None: ...

class Map(_message.Message):
    __slots__ = ("map",)
    class MapEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: BasicTypes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[BasicTypes, _Mapping]] = ...) -> None: ...
    MAP_FIELD_NUMBER: _ClassVar[int]
    map: _containers.MessageMap[str, BasicTypes]
    def __init__(self, map: _Optional[_Mapping[str, BasicTypes]] = ...) -> None: ...
