# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Input profiles: bridge.codec.profiles.resolve in C, by the same names."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from cpython.bytes cimport PyBytes_AS_STRING

from bridge.codec._espan cimport DIRECTION, Espan, Form, Value, has_value, integer_value, is_word

cdef enum:  # bridge.spans.profiles
    MAX_ATTRIBUTES = 64
    MAX_RULES = 128
    MAX_VALUES = 256

cdef enum:  # bridge.spans.Direction
    INCOMING = 1
    OUTGOING = 2

cdef struct Aliased:  # attributes that profiles name, of a span or of a resource
    Value[MAX_ATTRIBUTES] values  # those of `present`
    uint64_t present

cdef struct Meaning:
    const uint8_t* text
    int64_t n
    bint is_number  # `text` is how `number` is written
    uint64_t number
    Value becomes

cdef struct Rule:
    int key, attribute, side, first, values, profile

cdef struct Default:
    int key, profile
    Value value

cdef struct Profiles:
    Rule[MAX_RULES] rules
    Meaning[MAX_VALUES] meanings
    Default[MAX_RULES] defaults
    int n_rules, n_defaults, n_attributes
    uint64_t headers  # attributes that hold headers
    uint32_t markers


cdef inline Value value_of(value):
    """A text, which its caller keeps alive, or a number."""
    cdef Value found
    memset(&found, 0, sizeof(Value))
    if isinstance(value, bytes):
        found.form, found.text, found.n = Form.TEXT, <const uint8_t*> PyBytes_AS_STRING(value), len(value)
    else:
        found.form, found.number = Form.INTEGER, value & 0xFFFFFFFFFFFFFFFF
    return found


cdef inline as_bytes(value):
    return value.encode() if isinstance(value, str) else value


cdef inline Meaning meaning_from(sent, becomes):
    """What a text means; also a number, if it is written so."""
    cdef Meaning meaning
    cdef Value text = value_of(sent)
    meaning.text, meaning.n, meaning.becomes = text.text, text.n, value_of(becomes)
    meaning.is_number = integer_value(&text, &meaning.number) and str(<int64_t> meaning.number).encode() == sent
    return meaning


cdef inline list fill(Profiles* profiles, rules, uint32_t markers):
    """Take over bridge.spans.profiles.Rules; what is returned has to stay alive as long as `profiles` is used."""
    cdef int number = 0, i
    held = []
    if (
        len(rules.attributes) > MAX_ATTRIBUTES or max(len(rules.rules), len(rules.defaults)) > MAX_RULES
        or sum([len(rule.values) for rule in rules.rules]) > MAX_VALUES
    ):
        raise ValueError("more rules than the kernel has room for")
    memset(profiles, 0, sizeof(Profiles))
    for i, rule in enumerate(rules.rules):
        profiles.rules[i] = Rule(rule.key, rule.attribute, rule.side, number, len(rule.values), rule.profile)
        for sent, becomes in rule.values:
            pair = (as_bytes(sent), as_bytes(becomes))
            held.append(pair)
            profiles.meanings[number] = meaning_from(pair[0], pair[1])
            number += 1
    for i, (key, profile, default) in enumerate(rules.defaults):
        default = as_bytes(default)
        held.append(default)
        profiles.defaults[i] = Default(key, profile, value_of(default))
    profiles.n_rules, profiles.n_defaults = len(rules.rules), len(rules.defaults)
    profiles.n_attributes, profiles.headers, profiles.markers = len(rules.attributes), rules.header_mask(), markers
    return held


cdef inline void set_aliased(Aliased* aliased, int attribute, const Value* value) noexcept nogil:
    """Of a key given twice the last counts, also where it has no value."""
    aliased.present &= ~(<uint64_t> 1 << attribute)
    if has_value(value):
        aliased.present |= <uint64_t> 1 << attribute
        aliased.values[attribute] = value[0]


cdef inline int side_of(const Espan* espan) noexcept nogil:
    if not espan.present >> DIRECTION & 1:
        return 0
    if is_word(&espan.values[DIRECTION], b"incoming", 8):
        return INCOMING
    return OUTGOING if is_word(&espan.values[DIRECTION], b"outgoing", 8) else 0


cdef inline const Value* meaning_of(const Profiles* profiles, const Rule* rule, const Value* value) noexcept nogil:
    """NULL where it has none."""
    cdef int i
    cdef const Meaning* meaning
    if not rule.values:
        return value
    for i in range(rule.first, rule.first + rule.values):
        meaning = &profiles.meanings[i]
        if value.form == Form.TEXT:
            if value.n == meaning.n and memcmp(value.text, meaning.text, value.n) == 0:
                return &meaning.becomes
        elif value.form == Form.INTEGER and meaning.is_number and value.number == meaning.number:
            return &meaning.becomes
    return NULL


cdef inline void take(Espan* espan, int key, const Value* value) noexcept nogil:
    espan.values[key] = value[0]
    espan.present |= 1u << key


cdef inline bint resolve(
    const Profiles* profiles, Espan* espan, const Aliased* span, const Aliased* resource
) noexcept nogil:
    """Fill in what the attributes of a span and of its resource say. Whether that makes an eSpan of it."""
    cdef int i
    cdef uint32_t matched = 0
    cdef const Rule* rule
    cdef const Value* value
    for i in range(profiles.n_rules):
        rule = &profiles.rules[i]
        if espan.present >> rule.key & 1 or (rule.side and side_of(espan) != rule.side):
            continue
        if span.present >> rule.attribute & 1:
            value = &span.values[rule.attribute]
        elif resource.present >> rule.attribute & 1:
            value = &resource.values[rule.attribute]
        else:
            continue
        value = meaning_of(profiles, rule, value)
        if value == NULL:
            continue
        take(espan, rule.key, value)
        if profiles.markers >> rule.key & 1:
            matched |= 1u << rule.profile
    for i in range(profiles.n_defaults):
        if matched >> profiles.defaults[i].profile & 1 and not espan.present >> profiles.defaults[i].key & 1:
            take(espan, profiles.defaults[i].key, &profiles.defaults[i].value)
    return matched != 0
