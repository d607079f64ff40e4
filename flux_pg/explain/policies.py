"""Which row-level security policies hold for a role, as Postgres decides it.

Source: Postgres 18, backend/rewrite/rowsecurity.c and utils/misc/rls.c.

Laws:
- Superusers, roles with BYPASSRLS and a table's owner (unless forced) are exempt.
- At least one permissive policy must let a row pass; every restrictive one must as well. Where no
  permissive policy applies, no row passes.
- A policy without an expression for what is asked says nothing: it neither lets pass nor forbids.
"""

from __future__ import annotations

from dataclasses import dataclass

from flux_pg.explain.catalog import PUBLIC, Catalog, Policy, Relation
from flux_pg.explain.text import one_line

USING = "USING"
CHECK = "WITH CHECK"


@dataclass(frozen=True)
class Applied:
    """A policy that holds for a place in a statement.

    Attributes:
        policy: None for the rule that without a permissive policy no row passes.
        command: What it was looked up for, such as SELECT.
        clause: `USING` if it hides rows, `WITH CHECK` if it refuses them.
    """

    relation: Relation
    policy: Policy | None
    command: str
    clause: str
    expression: str
    because: str


@dataclass(frozen=True)
class Rules:
    """All that holds for one command on one table: permissive expressions and restrictive ones."""

    permissive: tuple[Applied, ...]
    restrictive: tuple[Applied, ...]

    @property
    def all(self) -> tuple[Applied, ...]:
        """Every rule, permissive ones first."""
        return self.permissive + self.restrictive


def exemption(catalog: Catalog, relation: Relation, role: str) -> str | None:
    """Why row-level security does not touch `role` on a table; None if it does."""
    if not relation.rls:
        return f"row-level security is off for {relation.qualified}"
    known = catalog.role(role)
    if known is not None and known.superuser:
        return f"{role} is a superuser"
    if known is not None and known.bypass_rls:
        return f"{role} has BYPASSRLS"
    if relation.owner in catalog.rights_of(role) and not relation.forced:
        return f"{role} owns {relation.qualified}, and row-level security is not forced"
    return None


def rules(
    catalog: Catalog, relation: Relation, role: str, command: str, clause: str = USING,
    *, force_using: bool = False,
) -> Rules:  # fmt: skip
    """The policies that hold for `role` and one command.

    Args:
        catalog: What is there.
        relation: A table on which row-level security touches the role.
        role: Who asks.
        command: SELECT, INSERT, UPDATE or DELETE.
        clause: Rows that are there (USING) or rows that come to be (WITH CHECK).
        force_using: Judge rows that come to be by USING: so it is done with policies for SELECT.
    """
    rights = catalog.rights_of(role)
    found: dict[bool, list[Applied]] = {True: [], False: []}
    for policy in relation.policies:
        if policy.command not in ("ALL", command):
            continue
        member = next((name for name in policy.roles if name in rights), None)
        if member is None:
            continue
        expression = policy.using
        if clause == CHECK and not force_using and policy.check is not None:
            expression = policy.check
        if expression is None:
            continue
        because = _because(policy, role, member)
        expression = one_line(expression)
        found[policy.permissive].append(
            Applied(relation, policy, command, clause, expression, because)
        )
    if not found[True]:
        because = (
            f"row-level security is on for {relation.qualified}, and no permissive policy for"
            f" {command} applies to {role}"
        )
        # Then restrictive ones are not even looked at.
        return Rules((Applied(relation, None, command, clause, "false", because),), ())
    return Rules(tuple(found[True]), tuple(found[False]))


def _because(policy: Policy, role: str, member: str) -> str:
    who = "everybody"
    if member != PUBLIC:
        who = role if member == role else f"{member}, of which {role} is one"
    what = "every command" if policy.command == "ALL" else policy.command
    kind = "permissive" if policy.permissive else "restrictive"
    return f"{kind}, for {what}, to {who}"
