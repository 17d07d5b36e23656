from bridge.linker.groups import PlainGroups

class Groups(PlainGroups):
    nbytes: int
