"""The invalid places of a document, so that its valid rest can still be checked and all problems be reported at once."""

from stratmaster_router.policy.problems import Loc


class Removed:
    """Places taken out of a document. Places of the rest are translated: items of a list have moved up in it."""

    def __init__(self) -> None:
        self._locs: set[Loc] = set()

    def add(self, loc: Loc) -> None:
        """Take out `loc`, given as in the file."""
        self._locs.add(loc)

    def rest_of(self, plain: object, loc: Loc = ()) -> object:
        """The document `plain` without what was taken out."""
        if isinstance(plain, dict):
            entries = ((key, value, (*loc, key)) for key, value in plain.items())
            return {key: self.rest_of(value, inner) for key, value, inner in entries if inner not in self._locs}
        if isinstance(plain, list):
            items = ((value, (*loc, index)) for index, value in enumerate(plain))
            return [self.rest_of(value, inner) for value, inner in items if inner not in self._locs]
        return plain

    def in_file(self, loc: Loc) -> Loc:
        """Where `loc` of the rest stands in the file."""
        result: Loc = ()
        for part in loc:
            if isinstance(part, int):
                index = -1
                for _ in range(part + 1):
                    index += 1
                    while (*result, index) in self._locs:
                        index += 1
                part = index
            result = (*result, part)
        return result

    def everything(self) -> bool:
        """Whether there is no rest."""
        return () in self._locs

    def within(self, *loc: str | int) -> bool:
        """Whether a part of `loc`, a place of the rest, was taken out."""
        place = self.in_file(loc)
        return any(removed[: len(place)] == place for removed in self._locs)

    def section(self, name: str) -> bool:
        """Whether a top-level section was taken out whole."""
        return (name,) in self._locs

    def names(self, section: str) -> set[str]:
        """The keys of a top-level section that were taken out whole."""
        return {str(loc[1]) for loc in self._locs if len(loc) == 2 and loc[0] == section}
