"""Who plays in a haystack: the codes and things of needles, of distractors, and of nobody.

A needle's code differs from a distractor's in one letter where there are distractors; its thing
shows at no other time. The same seed gives the same cast, pass by pass, whatever else is asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from pipeline.grid import Pass
from pipeline.lettering import near_code, random_code
from pipeline.needles import MOST_COMPANIONS
from pipeline.scenes import COLOURS, SHAPES


@dataclass(frozen=True, slots=True)
class Role:
    """What one needle shows."""

    code: str
    thing: str
    """`red star`, say."""


@dataclass(frozen=True, slots=True)
class Cast:
    """The roles of one haystack."""

    seed: int
    haystack: int
    distractors: tuple[str, ...]
    companions: tuple[str, ...]
    """Things that needles alone may bring."""
    others: tuple[str, ...]
    """Things that come and go in a drawn haystack."""

    @staticmethod
    def draw(seed: int, haystack: int, num_distractors: int) -> Cast:
        rng = _rng(seed, haystack, "cast")
        names = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
        shuffled = [str(name) for name in rng.permutation(names)]
        codes: list[str] = []
        while len(codes) < num_distractors:
            code = random_code(rng)
            if code not in codes:
                codes.append(code)
        return Cast(
            seed,
            haystack,
            tuple(codes),
            tuple(shuffled[:MOST_COMPANIONS]),
            tuple(shuffled[MOST_COMPANIONS:]),
        )

    def roles(self, own: Pass) -> tuple[Role, ...]:
        """What the needles of a pass show, in order; all different."""
        rng = _rng(self.seed, self.haystack, own.name)
        things = [str(name) for name in rng.permutation(list(self.companions))]
        roles: list[Role] = []
        for number in range(len(own.starts)):
            taken = {*self.distractors, *(role.code for role in roles)}
            roles.append(Role(self._new_code(rng, taken), things[number % len(things)]))
        return tuple(roles)

    def understudy(self, own: Pass, number: int) -> Role:
        """A role that nobody plays in a pass: its code is one letter off needle `number`'s."""
        roles = self.roles(own)
        rng = _rng(self.seed, self.haystack, f"{own.name}/{number}")
        taken = {*self.distractors, *(role.code for role in roles)}
        code = near_code(rng, roles[number].code)
        while code in taken:
            code = near_code(rng, roles[number].code)
        played = {role.thing for role in roles}
        free = [thing for thing in self.companions if thing not in played]
        return Role(code, str(rng.choice(free)) if free else "")

    def scrambled(self, own: Pass, number: int) -> str:
        """The letters of a needle's code in another order, or of a code that nobody shows where
        they have none."""
        roles = self.roles(own)
        code = roles[number].code
        taken = {*self.distractors, *(role.code for role in roles)}
        turned = [code[k:] + code[:k] for k in range(1, len(code))] + [code[::-1]]
        return next((one for one in turned if one not in taken), self.understudy(own, number).code)

    def _new_code(self, rng: np.random.Generator, taken: Collection[str]) -> str:
        while True:
            if self.distractors:
                code = near_code(rng, str(rng.choice(list(self.distractors))))
            else:
                code = random_code(rng)
            if code not in taken:
                return code


def _rng(seed: int, haystack: int, what: str) -> np.random.Generator:
    """A generator of its own for each purpose."""
    name = hashlib.sha256(f"{seed}/{haystack}/{what}".encode()).digest()
    return np.random.default_rng(int.from_bytes(name[:8], "little"))
